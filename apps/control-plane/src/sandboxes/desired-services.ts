import type { ServiceInput } from "@platform/contract";
import type { GuestClient, GuestService } from "@platform/guest-protocol";
import type { z } from "zod";
import type { Platform } from "../platform.ts";
import type { DesiredService, SandboxRow } from "./store.ts";

export function toDesired(platform: Platform, input: z.output<typeof ServiceInput>): DesiredService {
  const { name, command, cwd, env, port, health_path } = input;
  return {
    name,
    command,
    cwd,
    ...(Object.keys(env).length > 0
      ? { env_sealed: platform.seal.close(JSON.stringify(env)).toString("base64") }
      : {}),
    ...(port === undefined ? {} : { port }),
    ...(health_path === undefined ? {} : { health_path }),
  };
}

/** As the guest takes it. Rows of older releases hold their variables unsealed. */
export function toGuestService(platform: Platform, one: DesiredService): GuestService {
  const env = one.env_sealed
    ? (JSON.parse(platform.seal.open(Buffer.from(one.env_sealed, "base64"))) as Record<string, string>)
    : ((one as { env?: Record<string, string> }).env ?? {});
  return { name: one.name, command: one.command, cwd: one.cwd, env, restart: "always" };
}

export const startedServices = (row: SandboxRow): DesiredService[] =>
  row.services.filter((one) => !one.stopped);

/** Adds or replaces one service in one statement: calls at the same time lose nothing. */
export async function setDesired(platform: Platform, sandboxId: string, one: DesiredService): Promise<void> {
  await platform.pool.query(
    `update sandboxes set updated_at = now(), services =
       coalesce((select jsonb_agg(s order by at) from jsonb_array_elements(services) with ordinality as e(s, at) where s->>'name' <> $2), '[]') || $3::jsonb
     where id = $1`,
    [sandboxId, one.name, JSON.stringify([one])],
  );
}

export async function forgetDesired(platform: Platform, sandboxId: string, name: string): Promise<void> {
  await platform.pool.query(
    `update sandboxes set services = coalesce((select jsonb_agg(s) from jsonb_array_elements(services) s where s->>'name' <> $2), '[]') where id = $1`,
    [sandboxId, name],
  );
}

/** Notes that a client stopped or started it. */
export async function setStopped(
  platform: Platform,
  sandboxId: string,
  name: string,
  stopped: boolean,
): Promise<void> {
  await platform.pool.query(
    `update sandboxes set services = coalesce((select jsonb_agg(case when s->>'name' = $2 then s || jsonb_build_object('stopped', $3::boolean) else s end order by at)
       from jsonb_array_elements(services) with ordinality as e(s, at)), '[]') where id = $1`,
    [sandboxId, name, stopped],
  );
}

/** Brings every service that shall run to the box; one that runs as wanted is left alone. */
export async function ensureServices(
  platform: Platform,
  row: SandboxRow,
  guest: GuestClient,
  signal?: AbortSignal,
): Promise<void> {
  for (const one of startedServices(row)) await guest.services.put(toGuestService(platform, one), signal);
}
