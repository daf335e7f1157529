import assert from "node:assert/strict";
import { test } from "node:test";
import { serviceBehind } from "./expose.ts";

const running = (name: string, command = "node server.js") => ({ name, command, status: "backoff" });
const desired = (name: string, port?: number) => ({
  name,
  command: "node server.js",
  cwd: "/workspace",
  ...(port === undefined ? {} : { port }),
});

test("a service's crash explains a silent port only if the port is the service's", () => {
  const none = { services: [] };
  assert.equal(serviceBehind(3000, none, [running("web")]), "web");
  assert.equal(serviceBehind(9999, { services: [desired("web", 3000)] }, [running("web")]), null);
  assert.equal(
    serviceBehind(3000, { services: [desired("web", 3000)] }, [running("web"), running("job")]),
    "web",
  );
  assert.equal(serviceBehind(3000, none, [running("web"), running("job")]), null);
  assert.equal(serviceBehind(9999, none, [running("web", "vite --port 5173")]), null);
  assert.equal(serviceBehind(5173, none, [running("web", "vite --port 5173"), running("job")]), "web");
  assert.equal(serviceBehind(8080, none, [running("web", "PORT=3000 node server.js")]), null);
  assert.equal(serviceBehind(3000, none, []), null);
});
