import {
  clearInheritedPostgresSettings,
  createLog,
  onShutdown,
  readConfig,
  runUntilSignal,
} from "@platform/daemon";
import { HostConfig } from "./config.ts";
import { startHost } from "./host.ts";

const config = readConfig(HostConfig);
clearInheritedPostgresSettings();
const log = createLog("host", config.LOG_LEVEL);
const host = await startHost({ config, log });
// A supervisor that was killed starts again and finds its boxes running; one that stops in order decides.
let isAbandoned = false;
process.on("disconnect", () => (isAbandoned = true));
onShutdown(() => host.close({ mustKeepBoxes: isAbandoned }));
runUntilSignal({ parent: true });
process.stdout.write(`${JSON.stringify({ ready: true, port: host.port })}\n`);
