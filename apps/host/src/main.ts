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
onShutdown(() => host.close());
runUntilSignal({ parent: true });
process.stdout.write(`${JSON.stringify({ ready: true, port: host.port })}\n`);
