import { Readable } from "node:stream";
import { Client, Pool, type Dispatcher } from "undici";

/** One answer or failure, with the wall clock of its beginning and end, milliseconds. */
export interface Sample {
  readonly from: number;
  readonly to: number;
  readonly target: string;
  readonly kind: RequestKind;
  /** What the body says, for an answer of 200. */
  readonly release: string | null;
  readonly failure: string | null;
}

type RequestKind = "kept-alive" | "fresh" | "slow-body";

export interface Target {
  readonly name: string;
  /** Host name and port as in the URL. */
  readonly host: string;
  readonly path: string;
  readonly takesBodies: boolean;
  readonly releaseOf: (text: string) => string;
}

export interface LoadOptions {
  readonly edgePort: number;
  readonly targets: readonly Target[];
  readonly total: number;
  readonly perSecond: number;
}

const answerMs = 60_000;
const slowBodyParts = 6;
const slowBodyPauseMs = 300;

async function* slowBody(): AsyncGenerator<Buffer> {
  for (let part = 0; part < slowBodyParts; part++) {
    await new Promise((resolve) => setTimeout(resolve, slowBodyPauseMs));
    yield Buffer.alloc(1024);
  }
}

/**
 * Sends requests at a steady rate whatever the answers do (an open loop: a slow answer delays no
 * other request). Every 21st comes on a new connection, every 200th is a POST whose body takes 1.8 s.
 * Nothing is repeated.
 */
export async function runSteadyLoad(options: LoadOptions): Promise<Sample[]> {
  const { edgePort, targets, total, perSecond } = options;
  const origin = `http://127.0.0.1:${edgePort}`;
  const pool = new Pool(origin, { connections: 128, pipelining: 1, headersTimeout: answerMs });
  const samples: Sample[] = [];
  const open = new Set<Promise<void>>();
  const startedAt = performance.now();
  const send = (index: number) => {
    const target = targets[index % targets.length]!;
    const kind: RequestKind =
      index % 200 === 0 && target.takesBodies ? "slow-body" : index % 21 === 1 ? "fresh" : "kept-alive";
    const one = sendOne(origin, pool, target, kind).then((sample) => {
      samples.push(sample);
      open.delete(one);
    });
    open.add(one);
  };
  for (let sent = 0; sent < total;) {
    const due = Math.min(total, Math.ceil(((performance.now() - startedAt) / 1000) * perSecond));
    while (sent < due) send(sent++);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  await Promise.all(open);
  await pool.close();
  return samples;
}

async function sendOne(origin: string, pool: Pool, target: Target, kind: RequestKind): Promise<Sample> {
  const from = Date.now();
  const own = kind === "fresh" ? new Client(origin, { headersTimeout: answerMs }) : null;
  const part = { from, target: target.name, kind };
  try {
    const isBody = kind === "slow-body";
    const dispatcher: Dispatcher = own ?? pool;
    const response = await dispatcher.request({
      path: target.path,
      method: isBody ? "POST" : "GET",
      headers: { host: target.host },
      body: isBody ? Readable.from(slowBody()) : null,
    });
    const text = await response.body.text();
    const isRight = response.statusCode === 200;
    return {
      ...part,
      to: Date.now(),
      release: isRight ? target.releaseOf(text) : null,
      failure: isRight ? null : `status ${response.statusCode}: ${text.slice(0, 120)}`,
    };
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    return { ...part, to: Date.now(), release: null, failure: `${code ?? "error"}: ${message}` };
  } finally {
    await own?.close();
  }
}
