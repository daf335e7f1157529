import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { faultPoint } from "@platform/daemon";
import type { Dispatcher } from "undici";
import type { Exchange } from "../exchange.ts";
import { clientHeaders, clientUpgradeHeaders } from "./headers.ts";

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

  constructor(exchange: Exchange, gone: AbortSignal, refusesErrors = false) {
    this.#exchange = exchange;
    this.#gone = gone;
    this.#refusesErrors = refusesErrors;
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
    res.writeHead(statusCode, statusMessage ?? "", clientHeaders(this.#exchange, rawOf(controller)));
    res.on("drain", this.#resume);
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
    if (!this.#exchange.res.write(chunk)) controller.pause();
  }

  onResponseEnd(_controller: Dispatcher.DispatchController, trailers: unknown): void {
    if (this.#isRefused) return;
    const { res } = this.#exchange;
    if (trailers && typeof trailers === "object" && Object.keys(trailers).length > 0) {
      res.addTrailers(trailers as Record<string, string>);
    }
    res.end();
    this.#finish({ type: "done" });
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
    const { res, req } = this.#exchange;
    if (this.#gone.aborted) this.#finish({ type: "client-gone" });
    else if (res.headersSent) {
      // A client of HTTP/1.0 reads until the end, which only a reset tells apart from a cut.
      // Under TLS a cut shows anyway: its own closing message is missing.
      if (req.httpVersionMinor === 0 && !("encrypted" in req.socket))
        (req.socket as Socket).resetAndDestroy();
      res.destroy();
      this.#finish({ type: "cut", error });
    } else this.#finish({ type: this.#sent ? "unanswered" : "unsent", error });
  }

  readonly #resume = () => this.#controller?.resume();

  readonly #abandon = () => {
    this.#controller?.abort(new Error("the client went away"));
    this.#finish({ type: "client-gone" });
  };

  #finish(outcome: Outcome): void {
    this.#gone.removeEventListener("abort", this.#abandon);
    this.#exchange.res.off("drain", this.#resume);
    this.#settle(outcome);
  }
}

function rawOf(controller: Dispatcher.DispatchController): (Buffer | string)[] {
  return (controller as { rawHeaders?: (Buffer | string)[] }).rawHeaders ?? [];
}
