import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { connect, createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { waitFor } from "@platform/daemon";

/** A server that the edge is compared with, configured as one would for speed on this machine. */
export interface Peer {
  readonly name: "haproxy" | "nginx" | "caddy";
  readonly port: number;
  readonly tlsPort: number;
  stop(): Promise<void>;
}

export interface Origins {
  /** Of the app that all hosts lead to. */
  readonly appPort: number;
  readonly hosts: readonly string[];
  /** Folder with the files of `static.bench.test`. */
  readonly files: string;
  /** One file with certificate and key in PEM. */
  readonly pem: string;
  readonly certificate: string;
  readonly key: string;
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

const accepts = (port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });

async function started(
  name: Peer["name"],
  words: string[],
  ports: { port: number; tlsPort: number },
  env: Record<string, string> = {},
): Promise<Peer> {
  let log = "";
  const child: ChildProcess = spawn(words[0]!, words.slice(1), {
    stdio: ["ignore", "ignore", "pipe"],
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", ...env },
  });
  child.stderr!.on("data", (part: Buffer) => (log = (log + part.toString()).slice(-4_000)));
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), 5_000);
    await once(child, "exit");
    clearTimeout(timer);
  };
  try {
    await waitFor(
      `${name} on ${ports.port}`,
      async () => {
        if (child.exitCode !== null) throw new Error(`${name} ended: ${log}`);
        return (await accepts(ports.port)) && (await accepts(ports.tlsPort));
      },
      60_000,
    );
  } catch (error) {
    await stop();
    throw error;
  }
  return { name, ...ports, stop };
}

/** Hosts in a map, one backend, connections kept, TLS sessions resumed; no access log. */
export async function startHaproxy(folder: string, origins: Origins): Promise<Peer> {
  const ports = { port: await freePort(), tlsPort: await freePort() };
  const map = join(folder, "peer-hosts.map");
  await writeFile(map, origins.hosts.map((host) => `${host} app\n`).join(""));
  const config = join(folder, "peer-haproxy.cfg");
  await writeFile(
    config,
    `global
  maxconn 7000
  nbthread 2
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  http-reuse always
  option http-no-delay
frontend in
  bind 127.0.0.1:${ports.port}
  bind 127.0.0.1:${ports.tlsPort} ssl crt ${origins.pem}
  http-request set-header x-forwarded-for %[src]
  http-request set-header x-forwarded-proto http
  http-request set-header x-forwarded-host %[req.hdr(host)]
  use_backend %[req.hdr(host),field(1,:),lower,map_str(${map})] if { req.hdr(host),field(1,:),lower,map_str(${map}) -m found }
  default_backend none
backend none
  http-request return status 404
backend app
  server app 127.0.0.1:${origins.appPort} pool-max-conn 512
`,
  );
  return started("haproxy", ["/usr/sbin/haproxy", "-db", "-f", config], ports);
}

/** Hosts in a map, upstream connections kept, open files cached, ready-made .gz files served. */
export async function startNginx(folder: string, origins: Origins): Promise<Peer> {
  const ports = { port: await freePort(), tlsPort: await freePort() };
  const map = join(folder, "nginx-hosts.map");
  await writeFile(map, origins.hosts.map((host) => `${host} app;\n`).join(""));
  const config = join(folder, "nginx.conf");
  const proxy = `location / {
      if ($target = "") { return 404; }
      proxy_pass http://$target;
      proxy_http_version 1.1;
      proxy_set_header Connection $upgraded;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $host;
    }`;
  await writeFile(
    config,
    `daemon off;
pid ${join(folder, "nginx.pid")};
error_log stderr crit;
worker_processes 2;
worker_rlimit_nofile 16000;
events { worker_connections 4000; }
http {
  include /etc/nginx/mime.types;
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  open_file_cache max=1000 inactive=60s;
  map_hash_bucket_size 128;
  map_hash_max_size 1048576;
  client_body_temp_path ${join(folder, "nginx-body")};
  proxy_temp_path ${join(folder, "nginx-proxy")};
  fastcgi_temp_path ${join(folder, "nginx-f")};
  uwsgi_temp_path ${join(folder, "nginx-u")};
  scgi_temp_path ${join(folder, "nginx-s")};
  upstream app { server 127.0.0.1:${origins.appPort}; keepalive 128; keepalive_requests 1000000; }
  map $host $target { hostnames; default ""; include ${map}; }
  map $http_upgrade $upgraded { default upgrade; "" ""; }
  ssl_session_cache shared:all:10m;
  server {
    listen 127.0.0.1:${ports.port} default_server reuseport;
    listen 127.0.0.1:${ports.tlsPort} ssl default_server reuseport;
    ssl_certificate ${origins.certificate};
    ssl_certificate_key ${origins.key};
    ${proxy}
  }
  server {
    listen 127.0.0.1:${ports.port};
    server_name static.bench.test;
    root ${origins.files};
    gzip_static on;
    etag on;
  }
}
`,
  );
  return started("nginx", ["/usr/sbin/nginx", "-c", config, "-p", folder], ports);
}

/** Its own keep-alive and HTTP/1.1 upstreams; automatic HTTPS off, as the certificate is given. */
export async function startCaddy(folder: string, origins: Origins, hosts: readonly string[]): Promise<Peer> {
  const ports = { port: await freePort(), tlsPort: await freePort() };
  const config = join(folder, "Caddyfile");
  const proxy = `reverse_proxy 127.0.0.1:${origins.appPort}`;
  await writeFile(
    config,
    `{
  admin off
  auto_https off
  log {
    level ERROR
  }
}
${hosts.map((host) => `http://${host}:${ports.port}`).join(", ")} {
  bind 127.0.0.1
  ${proxy}
}
http://static.bench.test:${ports.port} {
  bind 127.0.0.1
  root * ${origins.files}
  file_server {
    precompressed gzip
  }
}
${["localhost", ...hosts.slice(0, 10)].map((host) => `https://${host}:${ports.tlsPort}`).join(", ")} {
  bind 127.0.0.1
  tls ${origins.certificate} ${origins.key}
  ${proxy}
}
`,
  );
  const home = join(folder, "caddy-home");
  await mkdir(home, { recursive: true });
  return started("caddy", ["/usr/bin/caddy", "run", "--adapter", "caddyfile", "--config", config], ports, {
    HOME: home,
    XDG_DATA_HOME: home,
    GOMAXPROCS: "2",
  });
}
