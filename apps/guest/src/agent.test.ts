import assert from "node:assert/strict";
import { createServer, request } from "node:http";
import { test } from "node:test";
import { createGuestClient, GuestError } from "@platform/guest-protocol";
import { freePort, startAgent } from "./test-agent.ts";

test("a client whose base URL has a path reaches the agent through a host with all its calls", async (t) => {
  const agent = await startAgent(t);
  const prefix = "/boxes/box-0001/guest";
  const host = createServer((incoming, outgoing) => {
    if (incoming.headers.authorization !== "Bearer secret" || !incoming.url?.startsWith(`${prefix}/`)) {
      outgoing.writeHead(404).end(JSON.stringify({ error: { code: "NOT_FOUND", message: "no such box" } }));
      return;
    }
    const { method, headers } = incoming;
    const path = incoming.url.slice(prefix.length);
    const inner = request({ socketPath: agent.socketPath, method, headers, path }, (response) => {
      outgoing.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(outgoing);
    });
    incoming.pipe(inner);
  });
  const port = await freePort();
  await new Promise<void>((resolve) => host.listen(port, "127.0.0.1", resolve));
  t.after(() => host.close());
  const baseUrl = `http://127.0.0.1:${port}${prefix}`;
  const client = createGuestClient({ baseUrl, headers: { authorization: "Bearer secret" } });
  t.after(() => client.close());

  assert.equal((await client.ready()).pid, agent.pid);
  assert.equal((await client.exec("cat", { stdin: "through" })).stdout, "through");
  await client.writeFile("file", "content");
  assert.equal((await client.filesystem.stat({ path: "file" })).entry?.size, 7n);
  const stranger = createGuestClient({ baseUrl });
  t.after(() => stranger.close());
  await assert.rejects(
    stranger.ready(),
    (error) => error instanceof GuestError && error.code === "NOT_FOUND",
  );
});

test("a client says that nobody answered", async (t) => {
  const client = createGuestClient({ baseUrl: "http://box", socketPath: "/no/such/socket" });
  t.after(() => client.close());
  await assert.rejects(
    client.ready(),
    (error) => error instanceof GuestError && error.code === "UNREACHABLE" && error.status === 0,
  );
});

test("the variables and the token of the first call hold for the calls after it", async (t) => {
  const agent = await startAgent(t, { env: { A: "1" } });
  const call = (method: string, path: string, headers: Record<string, string> = {}, body = "") =>
    new Promise<number>((resolve, reject) => {
      const sent = request({ socketPath: agent.socketPath, method, path, headers }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
      sent.on("error", reject).end(body);
    });
  assert.equal(await call("GET", "/health"), 204);
  assert.equal(await call("GET", "/metrics"), 200);
  const body = JSON.stringify({ envVars: { B: "2" }, defaultWorkdir: agent.home, defaultUser: "user" });
  assert.equal(await call("POST", "/init", {}, body), 204);
  assert.equal((await agent.client.exec("echo $A$B; pwd")).stdout, `12\n${agent.home}\n`);
  assert.equal(await call("POST", "/init", {}, JSON.stringify({ defaultUser: "nobody" })), 401);
  assert.equal(await call("POST", "/init", {}, JSON.stringify({ accessToken: "word" })), 204);
  assert.equal(await call("GET", "/envs"), 401);
  assert.equal(await call("GET", "/envs", { "x-access-token": "word" }), 200);
  assert.equal(await call("GET", "/nowhere"), 404);
});

test("clients from outside get the protocol's endpoints only, and start in their home folder", async (t) => {
  const agent = await startAgent(t);
  const outside = { "x-public-door": "1" };
  const call = (method: string, path: string, body = "", headers: Record<string, string> = outside) =>
    new Promise<{ status: number; text: string }>((resolve, reject) => {
      const sent = request({ socketPath: agent.socketPath, method, path, headers }, (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (part: string) => (text += part));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
      });
      sent.on("error", reject).end(body);
    });
  for (const [method, path] of [
    ["GET", "/ready"],
    ["GET", "/ports"],
    ["PUT", "/config"],
    ["POST", "/probe"],
    ["GET", "/services"],
    ["PUT", "/services/web"],
    ["POST", "/init"],
  ] as const)
    assert.equal((await call(method, path, method === "GET" ? "" : "{}")).status, 404, `${method} ${path}`);
  assert.equal((await call("GET", "/health")).status, 204);
  assert.equal((await call("GET", "/metrics")).status, 200);
  const client = createGuestClient({ baseUrl: "http://box", socketPath: agent.socketPath, headers: outside });
  t.after(() => client.close());
  assert.equal((await client.exec("pwd")).stdout, `${agent.home}\n`);
});
