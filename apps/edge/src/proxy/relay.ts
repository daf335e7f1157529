import type { Socket } from "node:net";
import type { Duplex, Readable, Writable } from "node:stream";
import { faultPoint } from "@platform/daemon";
import type { Dispatcher } from "undici";
import type { Exchange } from "../exchange.ts";
import { clientHeaders, clientUpgradeHeaders, isFronted } from "./headers.ts";

/**
 * What became of one attempt. `unsent`: no byte of the request left, so any method may go elsewhere.
 * `unanswered`: it may have arrived. `cut`: the response broke off, and so did the client's
 * connection. `upgraded`: both sides talk through a tunnel now. `refused`: an answer with 5xx that
 * the client did not get to see.
 */
export type Outcome =
  | { type: "done" }
  | { type: "upgraded"; socket: Duplex; origin?: string }
  | { type: "refused"; error: Error }
  | { type: "unsent"; error: Error }
  | { type: "unanswered"; error: Error }
  | { type: "cut"; error: Error }
  | { type: "client-gone" };

/** An answer that takes a way through the edge's own hands: what is written into `input` comes out of `output`. */
export interface Rewritten {
  /** Flat name-value pairs. */
  readonly headers: string[];
  readonly input: Writable;
  readonly output: Readable;
}

/** Null: the answer goes to the client as it is. */
export type Rewrite = (statusCode: number, headers: readonly string[]) => Rewritten | null;

/** Streams one response to the client, as it comes, no faster than the client reads. */
export class Relay implements Dispatcher.DispatchHandler {
  readonly outcome: Promise<Outcome>;
  readonly #exchange: Exchange;
  readonly #gone: AbortSignal;
  #settle!: (outcome: Outcome) => void;
  #sent = false;
  #controller: Dispatcher.DispatchController | null = null;
  #bodyStarted = false;
  readonly #refusesErrors: boolean;
  #isRefused = false;
  readonly #rewrite: Rewrite | null;
  #rewritten: Rewritten | null = null;
  #trailers: Record<string, string> | null = null;
  #isFinished = false;

  constructor(
    exchange: Exchange,
    gone: AbortSignal,
    { refusesErrors = false, rewrite = null }: { refusesErrors?: boolean; rewrite?: Rewrite | null } = {},
  ) {
    this.#exchange = exchange;
    this.#gone = gone;
    this.#refusesErrors = refusesErrors;
    this.#rewrite = rewrite;
    this.outcome = new Promise((resolve) => (this.#settle = resolve));
    gone.addEventListener("abort", this.#abandon, { once: true });
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#sent = true;
    this.#controller = controller;
    if (this.#gone.aborted) this.#abandon();
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    statusCode: number,
    _headers: unknown,
    statusMessage?: string,
  ): void {
    if (statusCode < 200) return;
    if (this.#refusesErrors && statusCode >= 500) {
      this.#isRefused = true;
      // Its body is of no use, and may have no end.
      controller.abort(new Error("another release answers"));
      this.#finish({ type: "refused", error: new Error(`answered with ${statusCode}`) });
      return;
    }
    const { res } = this.#exchange;
    const headers = clientHeaders(this.#exchange, rawOf(controller));
    this.#rewritten = this.#rewrite?.(statusCode, headers) ?? null;
    res.writeHead(statusCode, statusMessage ?? "", this.#rewritten?.headers ?? headers);
    if (this.#rewritten) this.#join(this.#rewritten, controller);
    else res.on("drain", this.#resume);
    // The head usually leaves together with the first bytes of the body; one that comes alone
    // (an event stream without events yet) must not wait for them.
    setImmediate(() => {
      if (!this.#bodyStarted && !res.destroyed && !res.writableEnded) res.flushHeaders();
    });
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#isRefused) return;
    this.#bodyStarted = true;
    faultPoint("edge.proxy.mid-body");
    if (!(this.#rewritten?.input ?? this.#exchange.res).write(chunk)) controller.pause();
  }

  onResponseEnd(_controller: Dispatcher.DispatchController, trailers: unknown): void {
    if (this.#isRefused) return;
    if (trailers && typeof trailers === "object" && Object.keys(trailers).length > 0)
      this.#trailers = trailers as Record<string, string>;
    if (this.#rewritten) this.#rewritten.input.end();
    else this.#end();
  }

  #end(): void {
    const { res } = this.#exchange;
    if (this.#trailers) res.addTrailers(this.#trailers);
    res.end();
    this.#finish({ type: "done" });
  }

  #join({ input, output }: Rewritten, controller: Dispatcher.DispatchController): void {
    input.on("drain", this.#resume);
    // What cannot be read as it says it is breaks off, as it would in the browser.
    const fail = (error: Error) => {
      if (this.#isFinished) return;
      controller.abort(error);
      this.#cut(error);
    };
    input.on("error", fail);
    if ((output as unknown) !== input) output.on("error", fail);
    output.on("end", () => this.#end());
    output.pipe(this.#exchange.res, { end: false });
  }

  onRequestUpgrade(
    controller: Dispatcher.DispatchController,
    statusCode: number,
    _headers: unknown,
    socket: Duplex,
  ): void {
    faultPoint("edge.upgrade.after-dial");
    const raw = clientUpgradeHeaders(this.#exchange, rawOf(controller));
    let head = `HTTP/1.1 ${statusCode} Switching Protocols\r\n`;
    for (let i = 0; i < raw.length; i += 2) head += `${raw[i]}: ${raw[i + 1]}\r\n`;
    this.#exchange.req.socket.write(`${head}\r\n`, "latin1");
    this.#finish({ type: "upgraded", socket });
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (this.#isRefused) return;
    if (this.#isFinished) return;
    if (this.#gone.aborted) this.#finish({ type: "client-gone" });
    else if (this.#exchange.res.headersSent) this.#cut(error);
    else this.#finish({ type: this.#sent ? "unanswered" : "unsent", error });
  }

  #cut(error: Error): void {
    const { res, req } = this.#exchange;
    // A client of HTTP/1.0 reads until the end, which only a reset tells apart from a cut.
    // Under TLS a cut shows anyway: its own closing message is missing.
    if (req.httpVersionMinor === 0 && !("encrypted" in req.socket) && !isFronted(req))
      (req.socket as Socket).resetAndDestroy();
    res.destroy();
    this.#finish({ type: "cut", error });
  }

  readonly #resume = () => this.#controller?.resume();

  readonly #abandon = () => {
    this.#controller?.abort(new Error("the client went away"));
    this.#finish({ type: "client-gone" });
  };

  #finish(outcome: Outcome): void {
    this.#isFinished = true;
    if (outcome.type !== "done") {
      this.#rewritten?.input.destroy();
      this.#rewritten?.output.destroy();
    }
    this.#gone.removeEventListener("abort", this.#abandon);
    this.#exchange.res.off("drain", this.#resume);
    this.#settle(outcome);
  }
}

function rawOf(controller: Dispatcher.DispatchController): (Buffer | string)[] {
  return (controller as { rawHeaders?: (Buffer | string)[] }).rawHeaders ?? [];
}
