import { CreateSandbox, PlatformError, sandboxGroupRoutes as r } from "@platform/contract";
import { guestOf } from "../guests.ts";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { tenantById } from "../tenants/index.ts";
import { guestProblem, settledSandbox } from "./access.ts";
import { createSandbox } from "./create.ts";
import { execResultView } from "./exec.ts";
import { sandboxView } from "./store.ts";

/** Longest wait for the sandbox before its command, milliseconds. */
const readyMs = 60_000;

export function runHandlers(platform: Platform): Handler[] {
  return [
    handler(r.run, async (call) => {
      const { command, env, timeout, template_id, image, size, name, timeout_sec } = call.body;
      const startedAt = performance.now();
      const input = CreateSandbox.parse({ template_id: image ?? template_id, size, name, timeout_sec, env });
      const stored = await createSandbox(platform, call as unknown as Call, input);
      const row = await settledSandbox(
        platform,
        stored.id,
        readyMs,
        (now) => now.ready && now.state === "running",
        call.signal,
      );
      if (!row)
        throw new PlatformError(
          "SANDBOX_READY_TIMEOUT",
          `The sandbox ${stored.id} was not ready within 60 seconds. It goes on starting: run the command in it with exec.`,
          { details: { sandbox_id: stored.id }, retryAfterMs: 2000 },
        );
      const readyAt = performance.now();
      const result = await guestOf(platform.host, row.box_key)
        .exec(command, {
          cwd: "/workspace",
          timeoutMs: timeout * 1000,
          maxOutputBytes: 4 * 1024 * 1024,
          signal: call.signal,
        })
        .catch((error: unknown) => {
          throw guestProblem(error, "The command");
        });
      const endedAt = performance.now();
      return {
        data: sandboxView(platform, (await tenantById(platform.pool, row.tenant_id))!, row),
        exec: execResultView(result),
        timings: {
          ready_ms: Math.round(readyAt - startedAt),
          exec_ms: Math.round(endedAt - readyAt),
          total_ms: Math.round(endedAt - startedAt),
        },
      };
    }),
  ];
}
