import { createLog } from "@platform/daemon";
import { HostClient } from "@platform/host-api";
import { createPool } from "@platform/postgres";
import { createSeal } from "../seal.ts";
import { Signals } from "../signals.ts";
import { WebhookWorker } from "./worker.ts";

/** A control plane's webhook worker as a process of its own, for tests that kill it. */
process.once("message", (settings: { databaseUrl: string; sealKey: string }) => {
  const pool = createPool(settings.databaseUrl, { max: 4 });
  const worker = new WebhookWorker(
    {
      log: createLog("worker", "silent"),
      pool,
      host: new HostClient({ url: "http://127.0.0.1:9", token: "none" }),
      seal: createSeal(settings.sealKey),
      signals: new Signals(pool),
      holder: "worker",
      settings: {
        publicScheme: "https",
        publicPort: null,
        databaseHostname: "127.0.0.1",
        instanceMemoryBytes: 1,
        edgeUrl: "",
        objectStore: null,
      },
    },
    { allowPrivate: true, leaseMs: 1_500 },
  );
  worker.start();
  process.send?.("started");
});
process.once("disconnect", () => process.exit(1));
