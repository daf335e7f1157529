import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http";
import { pipeline } from "node:stream/promises";
import { HostError } from "@platform/host-api";
import type { LiveBox } from "../boxes/index.ts";

/** Headers that belong to one connection, and the host's own credential. */
const dropped = new Set(
  "authorization connection keep-alive proxy-connection te trailer transfer-encoding upgrade host".split(" "),
);

const kept = (headers: NodeJS.Dict<string[]>): OutgoingHttpHeaders =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => !dropped.has(name)));

/**
 * Streams a request to the box's agent and its answer back, neither held back nor bounded.
 *
 * @param path what follows `/guest`, with its query
 * @throws HostError while nothing was answered yet
 */
export async function proxyToGuest(
  box: LiveBox,
  path: string,
  incoming: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  box.assertRunning();
  const call = box.guest.send({ method: incoming.method, path, headers: kept(incoming.headersDistinct) });
  const gone = () => call.destroy();
  response.once("close", gone);
  const hasBody = incoming.headers["content-length"] !== undefined || "transfer-encoding" in incoming.headers;
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    call.once("response", resolve);
    call.on("error", reject);
    // An agent that answers 101, or nothing, ends the call without an error.
    call.once("close", () => reject(new Error("the agent closed the call without an answer")));
  });
  if (hasBody) {
    incoming.pipe(call);
    incoming.once("error", gone);
    // An agent that refuses early reads no further; what is left of the body must not be taken for the
    // caller's next request, nor keep it waiting.
    call.once("close", () => incoming.unpipe(call).resume());
  } else call.end();
  call.setNoDelay(true);
  let answer: IncomingMessage;
  try {
    answer = await answered;
  } catch (cause) {
    box.assertRunning();
    const message = `The agent of box ${box.record.key} does not answer.`;
    throw new HostError("BOX_FAILED", 502, message, {}, { cause });
  }
  response.writeHead(answer.statusCode ?? 502, kept(answer.headersDistinct));
  response.flushHeaders();
  await pipeline(answer, response).catch(() => response.destroy()); // One side left; the other learns it.
}
