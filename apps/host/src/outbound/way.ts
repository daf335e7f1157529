import { once } from "node:events";
import { request } from "node:http";
import type { Socket } from "node:net";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EgressPolicy, type BoxLink } from "@platform/host-api";
import { OutboundRefusal } from "./target.ts";
import type { OutboundFactory } from "./proxy.ts";

const timeoutMs = 15_000;
const limits = { memoryBytes: 64 * 1024 * 1024, cpuMillis: 100, maxProcesses: 1, diskBytes: 1024 * 1024 };

/**
 * A connection to a linked database by the way that a box's connection takes: through a proxy of its own,
 * by CONNECT on a unix socket, under a policy that lets out to nothing else.
 */
export async function dialAsBox(factory: OutboundFactory, link: BoxLink): Promise<Socket> {
  // Beside other short names: a socket's path has at most 107 characters.
  const run = await mkdtemp(join(tmpdir(), "way-"));
  const spec = { limits, egress: EgressPolicy.parse({ mode: "deny-all" }), links: [link] };
  const proxy = await factory.open("canary", spec, { run });
  const close = async () => {
    await proxy.close();
    await rm(run, { recursive: true, force: true });
  };
  try {
    const path = `${link.hostname}:${link.port}`;
    const call = request({ socketPath: join(run, "outbound.sock"), method: "CONNECT", path, agent: false });
    call.end();
    const signal = AbortSignal.timeout(timeoutMs);
    const [answer, socket, head] = (await Promise.race([
      once(call, "connect", { signal }),
      once(call, "response", { signal }).then(([refusal]) => [refusal, null, null]),
    ])) as [{ statusCode?: number }, Socket | null, Buffer | null];
    if (answer.statusCode !== 200 || !socket)
      throw new OutboundRefusal("UNREACHABLE", 502, `The way out answered ${answer.statusCode}.`);
    socket.once("close", () => void close());
    // A server that speaks first may have its greeting in the same packet as the proxy's answer.
    if (head && head.length > 0) socket.unshift(head);
    return socket;
  } catch (error) {
    await close();
    throw error;
  }
}
