// Starts and ends servers inside the box, and knows when each ended: POST /start, /stop, /ended on port 4000.
import { fork } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";

const children = new Map();

const actions = {
  "/start": async ({ port, fault, delayMs, waitUntilListening }) => {
    const stdio = ["ignore", "ignore", "ignore", "ipc"];
    const child = fork("/workspace/server.mjs", [port, fault, delayMs].map(String), { stdio });
    const one = { child, endedAt: null };
    child.once("exit", () => (one.endedAt = Date.now()));
    children.set(port, one);
    await once(child, waitUntilListening ? "message" : "spawn");
    return {};
  },
  // A server that is just ending may not be reaped yet; one that lives on gives null.
  "/ended": async ({ port }) => {
    const one = children.get(port);
    const patience = AbortSignal.timeout(10_000);
    if (one.endedAt === null) await once(one.child, "exit", { signal: patience }).catch(() => undefined);
    return { ended_at: one.endedAt };
  },
  "/stop": async ({ port }) => {
    const one = children.get(port);
    children.delete(port);
    if (one.endedAt === null) {
      one.child.kill("SIGKILL");
      await once(one.child, "exit");
    }
    return {};
  },
};

createServer(async (req, res) => {
  let text = "";
  for await (const chunk of req) text += chunk;
  const action = actions[req.url];
  const answer = action ? await action(JSON.parse(text)) : {};
  res.end(JSON.stringify(answer));
}).listen(4000, "0.0.0.0");
