import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type AddressInfo, type Server } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { waitFor } from "@platform/daemon";
import { OutboundFactory } from "./proxy.ts";
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

test("previews together have so many direct connections to a database, and production has others", async (t) => {
  const server = createServer((client) => client.on("error", () => client.destroy()));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const factory = new OutboundFactory({
    name: async () => [],
    database: async (_key, _port, share) => ({
      ...{ host: "127.0.0.1", port },
      most: share === "previews" ? 2 : null,
    }),
  });
  // Each comes by a proxy of its own, as boxes do.
  const dial = (share: "previews" | "production") =>
    dialAsBox(factory, { databaseKey: "database-one", hostname: "db.test", port: 5432, share });
  const open = [await dial("previews"), await dial("previews")];
  await assert.rejects(dial("previews"), /503/);
  for (let count = 0; count < 5; count++) open.push(await dial("production"));
  open[0]!.destroy();
  open.push(await waitFor("a place to be free", () => dial("previews").catch(() => false as const), 5000));
  for (const socket of open) socket.destroy();
});
