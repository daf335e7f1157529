import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError, createClient, parseEvents, type ExecEvent, type ServerEvent } from "./index.ts";
import { json, serve } from "./testing.ts";

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

async function parse(chunks: Uint8Array[]): Promise<ServerEvent[]> {
  async function* body() {
    for (const chunk of chunks) yield await Promise.resolve(chunk);
  }
  return collect(parseEvents(body()));
}

const text =
  ': heartbeat\n\nevent: stdout\nid: 7\ndata: {"line":"größe 😀"}\n\nevent: log\r\ndata: a\r\ndata: b\r\n\r\ndata: [DONE]\n\ndata:c\n\n';
const wanted = [
  { event: "stdout", id: "7", data: '{"line":"größe 😀"}' },
  { event: "log", id: "7", data: "a\nb" },
  { event: "message", id: "7", data: "c" },
];

test("a stream reads the same wherever it is cut, also within a character or a line end", async () => {
  const bytes = new TextEncoder().encode(text);
  for (let size = 1; size <= bytes.length; size++) {
    const chunks: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.subarray(at, at + size));
    assert.deepEqual(await parse(chunks), wanted, `pieces of ${size} bytes`);
  }
});

test("an event without its blank line is incomplete and left out", async () => {
  assert.deepEqual(await parse([new TextEncoder().encode("data: cut")]), []);
});

test("an endless event ends the stream instead of filling the memory", async () => {
  const piece = new TextEncoder().encode(`data: ${"x".repeat(1024 * 1024)}\n`);
  await assert.rejects(parse(Array.from({ length: 6 }, () => piece)), ConnectionError);
});

test("output comes in order and ends with the exit", async (t) => {
  const { origin, received } = await serve(t, (_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write('event: stdout\ndata: {"type":"stdout","li');
    response.write('ne":"one"}\n\nevent: stderr\ndata: {"line":"two"}\n\n');
    response.end('event: exit\ndata: {"type":"exit","exit_code":3}\n\n');
  });
  const client = createClient({ baseUrl: `${origin}/api/v1`, apiKey: "msk_u_test" });
  t.after(() => client.close());
  const events = await collect(client.sandboxes.execStream("s", { command: "x" }));
  assert.deepEqual(events, [
    { type: "stdout", line: "one" },
    { type: "stderr", line: "two" },
    { type: "exit", exit_code: 3 },
  ]);
  assert.equal(received[0]?.headers.accept, "text/event-stream");
});

test("a stream that breaks before the exit says that the outcome is unknown", async (t) => {
  const { origin } = await serve(t, (_request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write('event: stdout\ndata: {"line":"one"}\n\n', () => response.destroy());
  });
  const client = createClient({ baseUrl: `${origin}/api/v1`, apiKey: "msk_u_test" });
  t.after(() => client.close());
  const events: ExecEvent[] = await collect(client.sandboxes.execStream("s", { command: "x" }));
  const last = events.at(-1);
  assert.ok(last?.type === "exit");
  assert.equal(last.exit_code, -2);
});

test("a readiness stream that a restart cuts is opened again", async (t) => {
  let streams = 0;
  const { origin } = await serve(t, (request, response) => {
    if (!request.path.endsWith("/stream"))
      return json(response, 200, { id: "s", state: "running", ready: streams > 1 });
    streams++;
    response.writeHead(200, { "content-type": "text/event-stream" });
    if (streams === 1) response.write(": heartbeat\n\n", () => response.destroy());
    else response.end('event: ready\ndata: {"type":"ready","ready":true}\n\n');
  });
  const client = createClient({ baseUrl: `${origin}/api/v1`, apiKey: "msk_u_test" });
  t.after(() => client.close());
  assert.equal((await client.sandboxes.waitUntilReady("s", { timeoutMs: 10_000 })).ready, true);
  assert.equal(streams, 2);
});
