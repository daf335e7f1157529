import { ask, type Answer, type Asked, type Connection } from "./ask.ts";
import { decodeContent } from "./decode.ts";
import type { Findings } from "./findings.ts";

export interface Crawl {
  /** Where to begin. Links within these origins are followed; one to any other is only read. */
  readonly urls: readonly string[];
  readonly connection: Connection;
  /** Most pages, so that a site without end has one here. */
  readonly mostPages: number;
}

export interface Crawled {
  readonly pages: number;
  /** What did not answer, with the reason. */
  readonly unreached: readonly string[];
}

/** What browsers, crawlers and curious people ask every host for. */
const wellKnown = [
  ...["/", "/robots.txt", "/sitemap.xml", "/favicon.ico", "/manifest.webmanifest", "/apple-touch-icon.png"],
  ...["/.well-known/security.txt", "/openapi.json", "/docs", "/problems", "/humans.txt"],
];

/** What a visitor can send so that some other page, or another form of it, answers. */
const browser = "text/html,application/xhtml+xml,*/*;q=0.8";
const variations: readonly Asked[] = [
  ...["en", "es", "fr", "de", "xx"].map((language) => ({
    headers: { accept: browser, "accept-language": language },
  })),
  ...["application/json", "application/problem+json", "text/event-stream", "text/css", "image/*"].map(
    (accept) => ({
      headers: { accept },
    }),
  ),
  { headers: { accept: "*/*", "sec-fetch-dest": "script" } },
  { headers: { accept: browser, "user-agent": "curl/8.0" } },
  { method: "HEAD", headers: { accept: browser } },
  { method: "OPTIONS", headers: { origin: "https://other.example", "access-control-request-method": "PUT" } },
  { method: "POST", headers: { "content-type": "application/json", accept: browser }, body: "{" },
  { method: "DELETE", headers: { accept: "application/json" } },
  {
    headers: {
      ...{ connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13" },
      "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    },
  },
  // Larger than what servers take: another part of them answers.
  { headers: { accept: browser, "x-large": "x".repeat(70_000) } },
  { headers: { accept: browser, host: "a b" } },
];

/** Reads every page that leads on from the first ones, each host's errors, and all that comes with them. */
export async function crawl({ urls, connection, mostPages }: Crawl, findings: Findings): Promise<Crawled> {
  const unreached: string[] = [];
  const queue: string[] = [];
  const origins = new Set(urls.map((url) => new URL(url).origin));
  const known = new Set<string>();
  const add = (url: string) => {
    const plain = url.split("#", 1)[0]!;
    if (known.size >= mostPages || known.has(plain) || !origins.has(new URL(plain).origin)) return;
    known.add(plain);
    queue.push(plain);
  };
  for (const url of urls) add(url);
  for (const origin of origins) for (const path of wellKnown) add(origin + path);
  const look = async (url: string, asked: Asked) => {
    try {
      const answer = await ask(url, asked, connection);
      for (const link of read(answer, placeOf(url, asked), findings)) add(link);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      if (unreached.length < 200) unreached.push(`${placeOf(url, asked)}: ${reason}`);
    }
  };
  for (const origin of origins)
    for (const asked of variations)
      for (const path of ["/", "/no-such-page-of-this-host", "/no/such.js"]) await look(origin + path, asked);
  while (queue.length > 0)
    await Promise.all(
      queue.splice(0, 8).map((url) => look(url, { headers: { accept: browser, "accept-language": "en" } })),
    );
  return { pages: known.size, unreached };
}

function placeOf(url: string, { method = "GET", headers = {} }: Asked): string {
  const said = Object.entries(headers)
    .filter(([name, value]) => name !== "x-large" && !(name === "accept" && value === browser))
    .map(([name, value]) => `${name}: ${value.slice(0, 60)}`);
  return `${method} ${url}${said.length > 0 ? ` (${said.join(", ")})` : ""}`;
}

/** Looks at everything in an answer. @returns where it leads */
export function read(answer: Answer, where: string, findings: Findings): string[] {
  findings.text(where, "status line", answer.statusText);
  for (let i = 0; i < answer.rawHeaders.length; i += 2)
    findings.header(where, answer.rawHeaders[i]!, answer.rawHeaders[i + 1]!);
  const body = plainBody(answer);
  findings.bytes(where, "body", body);
  return linksIn(answer, body.toString("utf8"));
}

function plainBody({ body, headers }: Answer): Buffer {
  try {
    return decodeContent(body, headers["content-encoding"] ?? "");
  } catch {
    return body; // A body that is not what its header says is looked at as it came.
  }
}

function linksIn({ url, headers }: Answer, text: string): string[] {
  const found = [
    ...(headers.location ? [headers.location] : []),
    ...[...String(headers["link"] ?? "").matchAll(/<([^>]+)>/g)].map(([, link]) => link!),
    ...[...text.matchAll(/(?:href|src|action|poster|content)\s*=\s*["']?([^"'\s>]+)/gi)].map(
      ([, link]) => link!,
    ),
    ...[...text.matchAll(/url\(\s*["']?([^"')\s]+)/gi)].map(([, link]) => link!),
    ...[...text.matchAll(/sourceMappingURL=([^\s*]+)/g)].map(([, link]) => link!),
    ...[...text.matchAll(/<loc>\s*([^<\s]+)/gi)].map(([, link]) => link!),
    ...[...text.matchAll(/^(?:sitemap|allow|disallow):\s*(\S+)/gim)].map(([, link]) => link!),
    ...[...text.matchAll(/"(?:src|url|start_url)"\s*:\s*"([^"\s]+)"/g)].map(([, link]) => link!),
  ];
  return found.flatMap((link) => {
    const plain = link.replaceAll("&amp;", "&");
    if (!URL.canParse(plain, url)) return [];
    const target = new URL(plain, url);
    return target.protocol === "http:" || target.protocol === "https:" ? [target.href] : [];
  });
}
