import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

export interface Received {
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

/** A webhook's receiving end on loopback. `answer` decides on each request; the standard is 200. */
export async function startReceiver(
  t: TestContext,
  answer: (response: ServerResponse, count: number, request: IncomingMessage) => void = (response) =>
    void response.writeHead(200).end("ok"),
) {
  const received: Received[] = [];
  const server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on("data", (part: Buffer) => parts.push(part));
    request.on("end", () => {
      received.push({ headers: request.headers, body: Buffer.concat(parts).toString("utf8") });
      answer(response, received.length, request);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`, received };
}
