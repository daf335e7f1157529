import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { waitFor } from "@platform/daemon";
import { request } from "undici";
import { freePort } from "./peers.ts";

/** An app that costs next to nothing, so that what is in front of it is measured: nginx with fixed answers. */
export async function startOrigin(parent: string): Promise<{ port: number; stop(): Promise<void> }> {
  const folder = join(parent, "origin");
  await mkdir(folder);
  await writeFile(join(folder, "megabyte"), Buffer.alloc(1_000_000, "x"));
  const port = await freePort();
  const config = join(folder, "nginx.conf");
  await writeFile(
    config,
    `daemon off;
pid ${join(folder, "nginx.pid")};
error_log stderr crit;
worker_processes 1;
events { worker_connections 8000; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  default_type application/json;
  client_body_temp_path ${join(folder, "b")};
  proxy_temp_path ${join(folder, "p")};
  fastcgi_temp_path ${join(folder, "f")};
  uwsgi_temp_path ${join(folder, "u")};
  scgi_temp_path ${join(folder, "s")};
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location = /json { return 200 '{"status":"ok","items":[1,2,3,4,5,6,7,8,9],"text":"an answer of usual length for an interface"}'; }
    location / { root ${folder}; }
  }
}
`,
  );
  const child = spawn("/usr/sbin/nginx", ["-c", config, "-p", folder], { stdio: "ignore" });
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    await once(child, "exit");
  };
  await waitFor(
    "the origin",
    async () => {
      const answer = await request(`http://127.0.0.1:${port}/json`);
      await answer.body.dump();
      return answer.statusCode === 200;
    },
    30_000,
  );
  return { port, stop };
}
