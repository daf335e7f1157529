import assert from "node:assert/strict";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";
import { sendJson } from "./http.ts";
import { createGuestClient, GuestError } from "./index.ts";

/** A program of a box in its agent's place. */
async function impostor(t: TestContext, answer: RequestListener) {
  const server = createServer(answer);
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const guest = createGuestClient({ baseUrl });
  t.after(() => guest.close());
  return { baseUrl, guest };
}

const piece = Buffer.alloc(256 * 1024, "x");

/** Writes without end, at the reader's pace; counts what it got rid of. */
function endless(onBytes: (count: number) => void): RequestListener {
  return (_request, response) => {
    response.writeHead(200, { "content-type": "application/json" });
    const go = () => {
      while (!response.destroyed && response.write(piece)) onBytes(piece.length);
      onBytes(piece.length);
      if (!response.destroyed) response.once("drain", go);
    };
    response.on("error", () => undefined);
    go();
  };
}

const isRefused = (code: string) => (error: unknown) => error instanceof GuestError && error.code === code;

test("an agent's endless JSON answer is given up after some mebibytes", async (t) => {
  let sent = 0;
  const { guest } = await impostor(
    t,
    endless((count) => (sent += count)),
  );
  await assert.rejects(guest.services.list(), isRefused("INVALID_ANSWER"));
  assert.ok(sent < 64 * 1024 * 1024, `${sent} bytes were taken`);
});

test("an agent's endless line of a log is given up", async (t) => {
  let sent = 0;
  const { guest } = await impostor(
    t,
    endless((count) => (sent += count)),
  );
  const follow = async () => {
    for await (const line of guest.services.follow("web")) assert.fail(JSON.stringify(line));
  };
  await assert.rejects(follow(), isRefused("INVALID_ANSWER"));
  assert.ok(sent < 16 * 1024 * 1024, `${sent} bytes were taken`);
});

test("an agent's endless message of a command's output is given up", async (t) => {
  let sent = 0;
  const { guest } = await impostor(t, (_request, response) => {
    response.writeHead(200, { "content-type": "application/connect+proto" });
    // The head of a message of 2 GiB.
    response.write(Buffer.from([0, 0x7f, 0xff, 0xff, 0xff]));
    const go = () => {
      while (!response.destroyed && response.write(piece)) sent += piece.length;
      if (!response.destroyed) response.once("drain", go);
    };
    go();
  });
  await assert.rejects(guest.exec("true"));
  assert.ok(sent < 64 * 1024 * 1024, `${sent} bytes were taken`);
});

test("an agent that falls silent in the middle of an answer holds its caller for a bounded time", async (t) => {
  const { baseUrl } = await impostor(t, (_request, response) => {
    response.writeHead(200, { "content-type": "application/json" });
    response.write('{"ok":');
  });
  const call = { method: "GET", path: "/ready", timeoutMs: 200 };
  await assert.rejects(sendJson({ baseUrl }, call), isRefused("UNREACHABLE"));
});

for (const [what, text] of [
  ["nonsense", "<html>"],
  ["nothing", ""],
] as const) {
  test(`an agent that answers ${what} in place of JSON is an error that says so`, async (t) => {
    const { guest } = await impostor(t, (_request, response) => response.end(text));
    await assert.rejects(guest.ready(), isRefused("INVALID_ANSWER"));
  });
}

test("an upload is over when its answer begins, however long the answer goes on", async (t) => {
  const { guest } = await impostor(
    t,
    endless(() => undefined),
  );
  await guest.writeFile("/workspace/file", "text");
});

test("an agent's endless refusal is cut to what explains it", async (t) => {
  const { guest } = await impostor(t, (_request, response) => {
    response.writeHead(500);
    const go = () => {
      while (!response.destroyed && response.write(piece));
      if (!response.destroyed) response.once("drain", go);
    };
    go();
  });
  await assert.rejects(
    guest.ports(),
    (error: unknown) => error instanceof GuestError && error.status === 500,
  );
});
