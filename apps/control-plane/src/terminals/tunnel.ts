import type { Socket } from "node:net";
import { PlatformError } from "@platform/contract";
import { HostError } from "@platform/host-api";
import { guestOf } from "../guests.ts";
import type { Platform } from "../platform.ts";

const refusals = new Set(["PORT_REFUSED", "BOUND_TO_LOOPBACK"]);

/** @throws PlatformError PORT_NOT_REACHABLE with the reason */
export async function dial(
  platform: Platform,
  boxKey: string,
  port: number,
  signal: AbortSignal,
): Promise<Socket> {
  return platform.host.dialPort(boxKey, port, signal).catch(async (error: unknown) => {
    if (!(error instanceof HostError) || !refusals.has(error.code)) throw error;
    const ports = await guestOf(platform.host, boxKey)
      .ports(signal)
      .catch(() => []);
    const isLoopback = ports.some((one) => one.port === port && one.loopbackOnly);
    throw new PlatformError(
      "PORT_NOT_REACHABLE",
      isLoopback
        ? `The server on port ${port} is bound to 127.0.0.1. Bind it to 0.0.0.0.`
        : `Nothing listens on port ${port}. Start the server, then connect again.`,
      { details: { reason: isLoopback ? "bound_to_loopback" : "not_listening", port }, cause: error },
    );
  });
}
