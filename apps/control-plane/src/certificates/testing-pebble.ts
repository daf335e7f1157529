import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { Agent, createServer, request as httpsRequest } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { openAuthority } from "@platform/certificates";
import { waitFor } from "@platform/daemon";
import { decode, encode, RECURSION_DESIRED, type Answer } from "dns-packet";
import { freePort } from "../testing-programs.ts";

/**
 * A resolver as an authority uses it: every name is on this machine, names in `aliases` lead on, and what
 * lies in the delegated zone is asked of our own name server, as a real resolver would.
 */
export async function startResolver(t: TestContext, zone: string) {
  const aliases = new Map<string, string>();
  const texts = new Map<string, string>();
  let nameServerPort = 0;
  const forward = async (name: string): Promise<Answer[]> => {
    const socket = createSocket("udp4");
    try {
      const question = { type: "TXT" as const, name, class: "IN" as const };
      socket.send(
        encode({ type: "query", id: 1, flags: 0, questions: [question] }),
        nameServerPort,
        "127.0.0.1",
      );
      const [message] = (await once(socket, "message", { signal: AbortSignal.timeout(3_000) })) as [Buffer];
      return decode(message).answers ?? [];
    } finally {
      socket.close();
    }
  };
  const answersTo = async (name: string, type: string): Promise<Answer[]> => {
    const alias = aliases.get(name);
    if (alias) {
      const own: Answer = { type: "CNAME", name, ttl: 1, data: alias };
      return type === "CNAME" ? [own] : [own, ...(await answersTo(alias, type))];
    }
    if (name.endsWith(`.${zone}`)) return type === "TXT" ? forward(name) : [];
    const text = texts.get(name);
    if (type === "TXT" && text) return [{ type: "TXT", name, ttl: 1, data: [text] }];
    return type === "A" ? [{ type: "A", name, ttl: 1, data: "127.0.0.1" }] : [];
  };
  const socket = createSocket("udp4");
  socket.on("message", (message, from) => {
    const query = decode(message);
    const question = query.questions![0]!;
    const reply = (answers: Answer[], code: number) =>
      socket.send(
        encode({
          type: "response",
          id: query.id!,
          flags: RECURSION_DESIRED | (1 << 7) | code,
          questions: [question],
          answers,
        }),
        from.port,
        from.address,
      );
    answersTo(question.name.toLowerCase(), question.type).then(
      (answers) => reply(answers, 0),
      () => reply([], 2), // Its name server did not answer: SERVFAIL.
    );
  });
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  t.after(() => socket.close());
  return {
    address: `127.0.0.1:${socket.address().port}`,
    aliases,
    texts,
    /** Where our own name server listens. */
    delegateTo: (port: number) => (nameServerPort = port),
  };
}

export interface Pebble {
  /** Address of its directory, by the front that `trouble` acts in. */
  readonly directoryUrl: string;
  /** PEM file that proves the front. */
  readonly caFile: string;
  /** PEM of the root that it issues under; new at each start. */
  root(): Promise<string>;
  /** Orders that it took so far. */
  orders(): number;
  start(ports: { httpPort: number; tlsPort: number }): Promise<void>;
  stop(): Promise<void>;
  /** What the front answers new orders with, in place of the authority. */
  trouble: { status: number; headers?: Record<string, string>; body: object } | null;
}

/** Let's Encrypt's own test authority (Debian package pebble) behind a front that can fail as a busy one does. */
export async function preparePebble(
  t: TestContext,
  options: { resolver: string; validitySeconds?: number },
): Promise<Pebble> {
  const folder = await mkdtemp(join(tmpdir(), "pebble-test-"));
  const authority = await openAuthority(join(folder, "authority"), "Test");
  const own = await authority.issue("localhost", ["localhost", "127.0.0.1"]);
  const [port, management, frontPort] = [await freePort(), await freePort(), await freePort()];
  await writeFile(join(folder, "server.pem"), own.certificate);
  await writeFile(join(folder, "server.key"), own.key);
  const caFile = join(folder, "ca.pem");
  await writeFile(caFile, authority.certificate);
  const agent = new Agent({ ca: authority.certificate, keepAlive: true });
  let log = "";
  let stop: () => Promise<void> = async () => undefined;

  const pebble: Pebble = {
    directoryUrl: `https://localhost:${frontPort}/dir`,
    caFile,
    trouble: null,
    orders: () => log.match(/Added order/g)?.length ?? 0,
    root: () => get(`https://localhost:${management}/roots/0`, agent),
    start: async ({ httpPort, tlsPort }) => {
      const config = join(folder, "config.json");
      const settings = {
        listenAddress: `127.0.0.1:${port}`,
        managementListenAddress: `127.0.0.1:${management}`,
        certificate: join(folder, "server.pem"),
        privateKey: join(folder, "server.key"),
        httpPort,
        tlsPort,
        ocspResponderURL: "",
        externalAccountBindingRequired: false,
        ...(options.validitySeconds ? { certificateValidityPeriod: options.validitySeconds } : {}),
      };
      await writeFile(config, JSON.stringify({ pebble: settings }));
      const child = spawn("pebble", ["-config", config, "-dnsserver", options.resolver, "-strict"], {
        stdio: ["ignore", "pipe", "pipe"],
        env: { PATH: process.env["PATH"] ?? "", PEBBLE_VA_NOSLEEP: "1", PEBBLE_WFE_NONCEREJECT: "5" },
      });
      const exited = once(child, "exit");
      for (const stream of [child.stdout, child.stderr])
        stream.setEncoding("utf8").on("data", (text: string) => (log += text));
      stop = async () => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        child.kill("SIGKILL");
        await exited;
      };
      await waitFor("pebble", () => pebble.root(), 30_000).catch((cause: unknown) => {
        throw new Error(`pebble did not start:\n${log}`, { cause });
      });
    },
    stop: () => stop(),
  };
  const front = createServer({ cert: own.certificate, key: own.key }, (req, res) => {
    const { trouble } = pebble;
    if (trouble && req.url === "/order-plz") {
      req.resume();
      res.writeHead(trouble.status, { "content-type": "application/problem+json", ...trouble.headers });
      res.end(JSON.stringify(trouble.body));
      return;
    }
    const passed = httpsRequest(
      { host: "localhost", port, path: req.url, method: req.method, headers: req.headers, agent },
      (answer) => {
        res.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(res);
      },
    );
    passed.on("error", () => req.socket.destroy());
    req.pipe(passed);
  });
  front.listen(frontPort, "127.0.0.1");
  await once(front, "listening");
  t.after(async () => {
    await pebble.stop();
    agent.destroy();
    front.closeAllConnections();
    front.close();
    await rm(folder, { recursive: true, force: true });
  });
  return pebble;
}

function get(url: string, agent: Agent): Promise<string> {
  return new Promise((resolve, reject) => {
    const sent = httpsRequest(url, { agent }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (part: string) => (text += part));
      response.on("error", reject);
      response.on("end", () =>
        response.statusCode === 200 ? resolve(text) : reject(new Error(`status ${response.statusCode}`)),
      );
    });
    sent.on("error", reject);
    sent.end();
  });
}
