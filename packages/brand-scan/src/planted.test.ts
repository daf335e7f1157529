import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:tls";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from "node:zlib";
import { openAuthority } from "@platform/certificates";
import { decode, encode, RECURSION_DESIRED } from "dns-packet";
import { crawl, Findings, readCertificate, readDns } from "./index.ts";

const name = "miosa";
const html = { "content-type": "text/html; charset=utf-8" };
const base64 = (text: string) => Buffer.from(text).toString("base64");
const escaped = (prefix: string) =>
  [...name]
    .map(
      (sign) =>
        prefix +
        sign
          .charCodeAt(0)
          .toString(16)
          .padStart(prefix === "\\u" ? 4 : 2, "0"),
    )
    .join("");
const utf16 = (text: string) => Buffer.from(text, "utf16le");
const chunk = (kind: string, data: Buffer) =>
  Buffer.concat([Buffer.from([0, 0, 0, data.length]), Buffer.from(kind), data, Buffer.alloc(4)]);
const png = (...chunks: Buffer[]) => Buffer.concat([Buffer.from("89504e470d0a1a0a", "hex"), ...chunks]);

type Plant = (req: IncomingMessage, res: ServerResponse) => void;
const page = (body: string | Buffer, headers: Record<string, string | string[]> = {}): Plant => {
  return (_req, res) => res.writeHead(200, { ...html, ...headers }).end(body);
};

/** One leak each, by the path at which it waits. The first page leads to all of them. */
const plants: Record<string, Plant> = {
  "/text": page(`<p>Powered by ${name}</p>`),
  "/comment": page(`<!-- built by ${name} -->`),
  "/meta": page('<meta name="generator" content="Vercel">'),
  "/title": page(`<title>${name.toUpperCase()} apps</title>`),
  "/link-host": page('<a href="https://status.netlify.com">Status</a>'),
  "/image-host": page('<img src="https://app-1234.fly.dev/logo.png" alt="">'),
  "/inline-script": page('<script>const api = "https://x.up.railway.app"</script>'),
  "/script-hex": page(`<script>const a = "${escaped("\\x")}"</script>`),
  "/script-unicode": page(`<script>const a = "${escaped("\\u")}"</script>`),
  "/script-joined": page('<script>const a = "mio" + "sa"</script>'),
  "/style-escape": page("<style>p::after{content:'\\6d iosa'}</style>"),
  "/entities": page("<p>&#109;i&#x6f;sa</p>"),
  "/soft-hyphen": page("<p>mio&shy;sa</p>"),
  "/percent": page('<a href="/go?to=%6d%69%6f%73%61">Go</a>'),
  "/base64-attribute": page(`<div data-state="${base64(`{"from":"${name}"}`)}">`),
  "/data-url": page(`<img src="data:image/svg+xml;base64,${base64(`<svg><!-- ${name} --></svg>`)}" alt="">`),
  "/token": page(`token ey.${Buffer.from(`{"iss":"${name}-cloud"}`).toString("base64url")}.sig`),
  "/hex": page(`<p id="${Buffer.from(`from ${name}`).toString("hex")}">`),
  "/base64-of-gzip": page(`<p id="${gzipSync(`made by ${name} in a hurry`).toString("base64")}">`),
  "/base64-twice": page(`<p id="${base64(base64(`made by ${name}`))}">`),
  "/utf-16": page(utf16(`<p>${name}</p>`)),
  "/gzip": page(gzipSync(`<p>${name}</p>`), { "content-encoding": "gzip" }),
  "/brotli": page(brotliCompressSync(`<p>${name}</p>`), { "content-encoding": "br" }),
  "/deflate": page(deflateSync(`<p>${name}</p>`), { "content-encoding": "deflate" }),
  "/zstd": page(zstdCompressSync(`<p>${name}</p>`), { "content-encoding": "zstd" }),
  "/server-header": page("", { server: "railway-edge" }),
  "/header-name": page("", { "x-vercel-id": "fra1::1" }),
  "/own-header-name": page("", { "x-miosa-host": "h1" }),
  "/powered-by": page("", { "x-powered-by": "Fastify" }),
  "/via": page("", { via: "1.1 fly.io" }),
  "/cookie-name": page("", { "set-cookie": "__cf_bm=1; Path=/" }),
  "/cookie-value": page("", { "set-cookie": `s=${base64(`{"by":"${name}"}`)}` }),
  "/cookie-domain": page("", { "set-cookie": "s=1; Domain=onrender.com" }),
  "/etag": page("", { etag: `"${name}-5"` }),
  "/etag-base64": page("", { etag: `W/"${base64(`${name}:5`)}"` }),
  "/redirect": (_req, res) => res.writeHead(302, { location: "https://x.herokuapp.com/" }).end(),
  "/refresh": page("", { refresh: "5; url=https://shop.netlify.app/" }),
  "/link-header": page("", { link: "<https://cdn.vercel.app/a.css>; rel=preload" }),
  "/policy": page("", { "content-security-policy": "connect-src https://*.e2b.dev" }),
  "/cors": page("", { "access-control-allow-headers": "x-miosa-key" }),
  "/challenge": page("", { "www-authenticate": `Bearer realm="${name}"` }),
  "/reports": page("", { "report-to": '{"endpoints":[{"url":"https://a.nel.cloudflare.com"}]}' }),
  "/status-line": (_req, res) => res.writeHead(200, "OK from Firecracker", html).end(),
  "/trailer": (_req, res) => {
    res.writeHead(200, { ...html, trailer: "x-box" }).write(" ");
    res.addTrailers({ "x-box": "runsc" });
    res.end();
  },
  "/source-map": page("//# sourceMappingURL=/app.js.map", { "content-type": "text/javascript" }),
  "/source-map-inside": page(
    `//# sourceMappingURL=data:application/json;base64,${base64(`{"sources":["/srv/${name}/a.ts"]}`)}`,
    { "content-type": "text/javascript" },
  ),
  "/error.json": page('{"error":{"message":"bwrap: no such file"}}', { "content-type": "application/json" }),
  "/picture-text": page(png(chunk("tEXt", Buffer.from(`Software\0${name}`))), {
    "content-type": "image/png",
  }),
  "/picture-packed": page(
    png(chunk("zTXt", Buffer.concat([Buffer.from("Software\0\0"), deflateSync(`by ${name}`)]))),
    {
      "content-type": "image/png",
    },
  ),
  "/events": (_req, res) => {
    res.writeHead(200, { "content-type": "text/event-stream" }).write(`: ${name}\n\n`);
  },
};

/** What nobody is led to: the scanner must ask for it by itself. */
const unlinked: Record<string, (req: IncomingMessage, res: ServerResponse) => boolean> = {
  "robots.txt": (req, res) => {
    if (req.url !== "/robots.txt") return false;
    res.end("User-agent: *\nSitemap: /sitemap.xml\n# docker image\n");
    return true;
  },
  "sitemap.xml": (req, res) => {
    if (req.url !== "/sitemap.xml") return false;
    res.end("<urlset><url><loc>https://shop.vercel.app/</loc></url></urlset>");
    return true;
  },
  "favicon.ico": (req, res) => {
    if (req.url !== "/favicon.ico") return false;
    res.end(`<svg><desc>${name}</desc></svg>`);
    return true;
  },
  "openapi.json": (req, res) => {
    if (req.url !== "/openapi.json") return false;
    res.end('{"servers":[{"url":"https://api.modal.run"}]}');
    return true;
  },
  "/problems": (req, res) => {
    if (req.url !== "/problems") return false;
    res.end("<p>QEMU did not start</p>");
    return true;
  },
  "in German": (req, res) => {
    if (req.url !== "/" || req.headers["accept-language"] !== "de") return false;
    res.end(`<p>Betrieben mit ${name}</p>`);
    return true;
  },
  "as JSON": (req, res) => {
    if (req.url !== "/no-such-page-of-this-host" || req.headers.accept !== "application/json") return false;
    res.writeHead(404).end('{"type":"https://netlify.com/problems/404"}');
    return true;
  },
  "in place of a script": (req, res) => {
    if (req.headers["sec-fetch-dest"] !== "script" || req.url !== "/no/such.js") return false;
    res.writeHead(404).end("/* gvisor */");
    return true;
  },
  "to a DELETE": (req, res) => {
    if (req.method !== "DELETE") return false;
    res.writeHead(405).end("undici");
    return true;
  },
};

async function plantServer(t: TestContext): Promise<number> {
  const server = createServer({ maxHeaderSize: 128 * 1024 }, (req, res) => {
    res.sendDate = false;
    for (const answer of Object.values(unlinked)) if (answer(req, res)) return;
    if (req.url === "/") {
      res.writeHead(200, html).end(
        Object.keys(plants)
          .map((path) => `<a href="${path}">x</a>`)
          .join("\n"),
      );
      return;
    }
    if (req.url === "/app.js.map") {
      res.end(`{"sourcesContent":["import '@${name}/edge'"]}`);
      return;
    }
    const plant = plants[req.url ?? ""];
    if (plant && req.method === "GET") plant(req, res);
    else res.writeHead(404, html).end("<p>Nothing here</p>");
  });
  server.on("upgrade", (_req, socket) => socket.end("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

test("a planted set of leaks is found completely", async (t) => {
  const port = await plantServer(t);
  const findings = new Findings();
  const done = await crawl(
    {
      urls: ["http://shop.clinic.test/"],
      connection: { connectTo: `127.0.0.1:${port}`, timeoutMs: 20_000 },
      mostPages: 500,
    },
    findings,
  );
  assert.deepEqual(done.unreached, []);
  const places = findings.all.map(
    ({ where, part, name: found, encoding }) => `${where} ${part} ${found} ${encoding}`,
  );
  const at = (path: string) =>
    places.filter((place) => place.startsWith(`GET http://shop.clinic.test${path} `));
  const missed = Object.keys(plants)
    .filter((path) => path !== "/source-map")
    .filter((path) => at(path).length === 0);
  assert.deepEqual(missed, []);
  assert.ok(at("/app.js.map").length > 0, "a source map that a script leads to");
  const asked: Record<string, RegExp> = {
    "robots.txt": /\/robots\.txt .*docker/,
    "sitemap.xml": /\/sitemap\.xml .*vercel/i,
    "favicon.ico": /\/favicon\.ico .*miosa/,
    "openapi.json": /\/openapi\.json .*modal\.run/,
    "/problems": /\/problems .*QEMU/,
    "in German": /accept-language: de\).*miosa/,
    "as JSON": /no-such-page.*application\/json.*netlify/,
    "in place of a script": /sec-fetch-dest: script.*gvisor/,
    "to a DELETE": /^DELETE .*undici/,
  };
  for (const [what, pattern] of Object.entries(asked))
    assert.ok(
      places.some((place) => pattern.test(place)),
      `the leak ${what}`,
    );
  assert.deepEqual(Object.keys(asked), Object.keys(unlinked));
  // With those that are no page, below.
  assert.ok(Object.keys(plants).length + Object.keys(unlinked).length >= 50);
});

test("leaks in certificates and in what name servers say are found", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "brand-scan-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const authority = await openAuthority(folder, "miosa development");
  const issued = await authority.issue("shop.clinic.test", ["shop.clinic.test"]);
  const server = createTlsServer({ key: issued.key, cert: issued.certificate }, (socket) => socket.end());
  server.on("tlsClientError", () => undefined); // The scanner closes when it has seen enough.
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const dns = createSocket("udp4");
  t.after(() => dns.close());
  dns.on("message", (message, from) => {
    const query = decode(message);
    const [question] = query.questions ?? [];
    const answers =
      question?.type === "CNAME"
        ? [{ type: "CNAME" as const, name: question.name, data: "cname.vercel-dns.com" }]
        : question?.type === "TXT"
          ? [{ type: "TXT" as const, name: question.name, data: "miosa-verify=1" }]
          : [];
    const reply = {
      type: "response" as const,
      id: query.id ?? 0,
      flags: RECURSION_DESIRED,
      questions: query.questions ?? [],
      answers,
    };
    dns.send(encode(reply), from.port, from.address);
  });
  dns.bind(0, "127.0.0.1");
  await once(dns, "listening");
  const findings = new Findings();
  const { port } = server.address() as AddressInfo;
  await readCertificate(
    "shop.clinic.test",
    443,
    { connectTo: `127.0.0.1:${port}`, timeoutMs: 20_000 },
    findings,
  );
  await readDns("shop.clinic.test", [`127.0.0.1:${dns.address().port}`], findings);
  const places = findings.all.map(({ where, name: found }) => `${where} ${found}`);
  assert.ok(places.includes("certificate shop.clinic.test miosa"), places.join("\n"));
  assert.ok(places.includes("dns shop.clinic.test CNAME vercel"));
  assert.ok(places.includes("dns shop.clinic.test TXT miosa"));
});

test("leaks in texts that are no page are found: environments, addresses, letters, calls of hooks", () => {
  const findings = new Findings([{ owner: "machine", text: "/srv/boxes/data" }]);
  findings.variables("env", {
    RAILWAY_SERVICE: "1",
    DATABASE_URL: "postgres://a:b@db.miosa.internal/x",
    OK: "1",
  });
  findings.text("presigned", "url", "https://bucket.s3.amazonaws.com/k?X-Amz-Signature=1");
  findings.text(
    "letter",
    "body",
    "Subject: =?utf-8?B?" + base64("Welcome to miosa") + "?=\r\n\r\nPowered by =6D=69=6F=73=61",
  );
  findings.header("hook", "user-agent", "miosa-hooks/1");
  findings.text("cli", "output", "Usage: miosa [options]");
  findings.text("log", "line", "cannot open /srv/boxes/data/a.json");
  const found = findings.all.map(({ where, part }) => `${where} ${part}`);
  assert.deepEqual(
    [...new Set(found)].sort(),
    [
      "cli output",
      "env variable DATABASE_URL",
      "env variable name",
      "hook header user-agent",
      "letter body",
      "log line",
      "presigned url",
    ].sort(),
  );
});

test("what published clients fix, and words that only look alike, are no leak", () => {
  const findings = new Findings();
  findings.header("a", "x-miosa-wait", "ready");
  findings.header("a", "cf", "x");
  for (const text of [
    'read miosa.app.yml and .miosa.json, header "x-miosa-tenant"',
    '{"isolation":{"class":"namespaces","driver":"bubblewrap","notes":["a"]}}',
    "render the modal, then fly away by train; 0e2b4f; renderer.community; the dock; vous avez envoyé",
    "https://www.flyer.iota.example and https://my-render.company",
  ])
    findings.text("a", "body", text);
  assert.deepEqual(findings.all, []);
});
