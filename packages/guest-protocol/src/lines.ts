import type { Readable } from "node:stream";
import { GuestError } from "./http.ts";

/** @throws GuestError `INVALID_ANSWER` for a line of more than `maxBytes`: it would be held in memory */
export async function* linesOf(stream: Readable, maxBytes: number): AsyncGenerator<string> {
  let open: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    let from = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      open.push(chunk.subarray(from, end));
      yield Buffer.concat(open).toString("utf8").replace(/\r$/, "");
      [open, size, from] = [[], 0, end + 1];
    }
    open.push(chunk.subarray(from));
    size += chunk.length - from;
    if (size > maxBytes) {
      throw new GuestError(
        "INVALID_ANSWER",
        0,
        `The box's agent sent a line of more than ${maxBytes} bytes.`,
      );
    }
  }
  if (size > 0) yield Buffer.concat(open).toString("utf8");
}
