import type { Failure } from "./store.ts";

const errorType = /^urn:ietf:params:acme:error:([A-Za-z]+)$/;

/** An answer of the authority that is a refusal, classified by status and type, never by its words. */
export class AcmeRefusal extends Error {
  readonly status: number;
  /** RFC 8555 section 6.7, without the prefix; empty if the answer had none. */
  readonly kind: string;
  readonly retryAfterMs: number | null;

  constructor(status: number, type: unknown, detail: unknown, retryAfterMs: number | null) {
    super(typeof detail === "string" ? detail.slice(0, 500) : `the authority answered ${status}`);
    this.name = "AcmeRefusal";
    this.status = status;
    this.kind = errorType.exec(typeof type === "string" ? type : "")?.[1] ?? "";
    this.retryAfterMs = retryAfterMs;
  }
}

/** The authority looked for the challenge and did not find what it wanted. */
export class ValidationFailed extends Error {
  readonly kind: string;

  constructor(hostname: string, type: unknown, detail: unknown) {
    super(`${hostname}: ${typeof detail === "string" ? detail.slice(0, 500) : "the challenge was not met"}`);
    this.name = "ValidationFailed";
    this.kind = errorType.exec(typeof type === "string" ? type : "")?.[1] ?? "";
  }
}

/** Time was over before the authority had decided; the order goes on at the next look. */
export class StillPending extends Error {
  constructor(what: string) {
    super(`the authority has not finished: ${what}`);
    this.name = "StillPending";
  }
}

/** @param header Retry-After as seconds or date; null when it says nothing */
export function parseRetryAfter(header: unknown, now = Date.now()): number | null {
  if (typeof header !== "string" || header === "") return null;
  const seconds = Number(header);
  const ms = Number.isFinite(seconds) ? seconds * 1_000 : Date.parse(header) - now;
  return Number.isFinite(ms) && ms > 0 ? Math.min(ms, 7 * 86_400_000) : null;
}

const validationHints: Record<string, string> = {
  dns: "Check that the name's DNS leads here and that its name servers answer.",
  connection:
    "The authority could not connect to the name on ports 80 and 443. Check that its DNS leads here.",
  unauthorized: "Something else answered under the name. Check that its DNS leads here, and nowhere else.",
  incorrectResponse:
    "Something else answered under the name. Check that its DNS leads here, and nowhere else.",
  tls: "Something in front of us ends TLS. Let the name lead here directly.",
  caa: "The domain's CAA record forbids this authority. Add it there, or remove the record.",
};

/** Reason, words and remedy for the name's owner; the authority's own words as far as they help. */
export function failureOf(error: unknown): Omit<Failure, "at"> {
  if (error instanceof ValidationFailed)
    return {
      reason: error.kind === "caa" ? "caa_forbids" : "validation_failed",
      message: error.message,
      next_step:
        validationHints[error.kind] ?? "Check that the name's DNS leads here; it is tried again by itself.",
    };
  if (error instanceof StillPending)
    return {
      reason: "authority_slow",
      message: error.message,
      next_step: "Nothing: the order goes on by itself.",
    };
  if (!(error instanceof AcmeRefusal))
    return {
      reason: "authority_unreachable",
      message: "The certificate authority cannot be reached.",
      next_step: "Nothing: it is tried again by itself.",
    };
  if (error.status === 429 || error.kind === "rateLimited")
    return {
      reason: "rate_limited",
      message: `The certificate authority takes no further order now: ${error.message}`,
      next_step: "Nothing: it is tried again when the authority allows.",
    };
  if (error.status >= 500)
    return {
      reason: "authority_failing",
      message: `The certificate authority answered ${error.status}.`,
      next_step: "Nothing: it is tried again by itself.",
    };
  if (error.kind === "rejectedIdentifier")
    return {
      reason: "name_rejected",
      message: `The certificate authority issues none for this name: ${error.message}`,
      next_step: "Use another name, or bring a certificate of your own.",
    };
  if (error.kind === "caa")
    return { reason: "caa_forbids", message: error.message, next_step: validationHints["caa"]! };
  if (["externalAccountRequired", "accountDoesNotExist", "unauthorized"].includes(error.kind))
    return {
      reason: "account_refused",
      message: "The certificate authority refuses the platform's account.",
      next_step: "Ask the platform's operator.",
    };
  return {
    reason: "order_refused",
    message: `The certificate authority refused the order: ${error.message}`,
    next_step: "It is tried again by itself. If it stays so, ask the platform's operator.",
  };
}
