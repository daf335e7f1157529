import { dirname } from "node:path";
import { mkdirSync } from "node:fs";
import { Agent } from "./agent.ts";
import { readGuestConfig } from "./config.ts";
import { listen } from "./listener.ts";
import { createHandler } from "./routes.ts";

/*
 * Orphans of programs in the box are not ours to reap: Node collects only its own children, and
 * process 1 of the box is the driver's small init, which collects the rest.
 */

const config = readGuestConfig(process.argv[2] ?? "/run/agent/config.json");
// What the host gave to start Node is not for the programs in the box, nor for libraries in here.
for (const name of Object.keys(process.env)) delete process.env[name];

const agent = new Agent(config);
mkdirSync(dirname(config.socketPath), { recursive: true });
await listen(config.socketPath, createHandler(agent));

// The host that read it may be gone, and a later one does not: nothing of that is for the box to end over.
process.stderr.on("error", () => undefined);
// One request's failure never takes the box's programs down with the agent.
process.on("uncaughtException", (error) => {
  process.stderr.write(`unexpected failure: ${error.stack ?? String(error)}\n`);
});
const stop = () => {
  void agent.supervisor.stopAll().then(() => process.exit(0));
};
process.on("SIGTERM", stop);
process.on("SIGINT", stop);

for (const { port, error } of (await agent.openOutbound()).listeners) {
  if (error) process.stderr.write(`${error} (${port})\n`);
}
await Promise.all(config.services.map((spec) => agent.supervisor.put(spec)));
