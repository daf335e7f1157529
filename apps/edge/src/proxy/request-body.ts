import type { Exchange, RequestBody } from "../exchange.ts";

/** Bodies up to this many bytes are kept, so that an idempotent request can be sent again. */
const REPLAYABLE_BYTES = 16 * 1024;
const idempotentMethods = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);

/** @throws Error if the client goes away while a small body is read */
export async function openRequestBody(exchange: Exchange): Promise<RequestBody> {
  const { req } = exchange;
  const idempotent = idempotentMethods.has(req.method ?? "");
  const length = Number(req.headers["content-length"] ?? 0);
  const chunked = req.headers["transfer-encoding"] !== undefined;
  if (!chunked && length === 0) return { body: null, replayable: idempotent };
  if (idempotent && !chunked && length <= REPLAYABLE_BYTES && !exchange.expectsContinue) {
    const chunks: Buffer[] = [];
    for await (const chunk of req) chunks.push(chunk as Buffer);
    return { body: Buffer.concat(chunks), replayable: true };
  }
  return { body: stream(exchange), replayable: false };
}

/**
 * Read only once the upstream connection stands: nothing is lost when connecting fails, and the
 * client is told to continue only when somebody will listen.
 */
async function* stream(exchange: Exchange): AsyncGenerator<Buffer> {
  const { req, res } = exchange;
  if (exchange.expectsContinue && !res.headersSent) res.writeContinue();
  // An app may answer before it read everything; the client's connection must survive that.
  for await (const chunk of req.iterator({ destroyOnReturn: false })) yield chunk as Buffer;
}
