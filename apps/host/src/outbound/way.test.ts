import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import type { OutboundFactory } from "./proxy.ts";
import { dialAsBox } from "./way.ts";

test("the greeting of a server that speaks first is not lost when it comes with the proxy's answer", async () => {
  // In place of the proxy, as only so the two are surely one packet.
  const factory = {
    open: async (_box: string, _spec: unknown, { run }: { run: string }) => {
      const server: Server = createServer((client) =>
        client.once("data", () => client.end("HTTP/1.1 200 Connection established\r\n\r\nhello")),
      );
      server.listen(join(run, "outbound.sock"));
      await once(server, "listening");
      return { close: () => new Promise<void>((resolve) => server.close(() => resolve())) };
    },
  } as unknown as OutboundFactory;
  const socket = await dialAsBox(factory, { databaseKey: "one", hostname: "db.test", port: 3306 });
  const [greeting] = (await once(socket, "data")) as [Buffer];
  assert.equal(greeting.toString(), "hello");
  socket.destroy();
});
