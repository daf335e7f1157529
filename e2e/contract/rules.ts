import type { Answer, Json } from "./api.ts";

/** What the parsers of the published clients do with an answer, as rules of their own. */

/** The first of these that is present is taken for the envelope by some client. */
const envelopeKeys = [
  "data",
  "settings",
  "branding",
  "usage",
  "summary",
  "sessions",
  "events",
  "items",
  "audit_log",
  "sandboxes",
  "deployments",
  "databases",
];

/** Answers whose page asks for such a name beside or without `data`. */
const exceptions = [
  /^\/settings\/branding/,
  /^\/tenant\/branding/,
  /^\/webhooks\/events$/,
  /^\/templates$/,
  /^\/regions$/,
];

/** Bare for at least one client: a `data` key would be taken for the envelope. */
const bare = [
  /^\/whoami$/,
  /^\/platform\/tenants\/current$/,
  /^\/sse\/ticket$/,
  /^\/sandboxes$/,
  /^\/sandboxes\/(by-name\/)?(?!run$|batch$)[^/]+$/,
  /^\/bulk\//,
  /^\/sandboxes\/[^/]+\/(pause|resume|stop|extend|fork|recover|tags|expose|readiness|ports|logs|ssh-info)$/,
  /^\/sandboxes\/[^/]+\/restore\/[^/]+$/,
  /^\/sandboxes\/[^/]+\/fs(\/(read|write|mkdir))?$/,
  /^\/deployments\/[^/]+\/request-logs$/,
];

const pathOf = (answer: Answer) => answer.path.split("?")[0]!;
const isList = (answer: Answer) => answer.method === "GET" && pathOf(answer) === "/sandboxes";

function successFaults(answer: Answer): string[] {
  const faults: string[] = [];
  if (answer.method === "HEAD" || !(answer.headers["content-type"] ?? "").startsWith("application/json"))
    return [];
  if (answer.status === 204) return answer.text === "" ? [] : ["a 204 has a body"];
  if (answer.json === undefined) return ["the body is announced as JSON and is none"];
  const json = answer.json as Json;
  if (json === null || typeof json !== "object" || Array.isArray(json)) return ["the body is no object"];
  const mustBeBare = bare.some((pattern) => pattern.test(pathOf(answer))) && !isList(answer);
  if (mustBeBare && "data" in json)
    faults.push("a bare object carries data, which clients take for the envelope");
  if (!("data" in json) && !exceptions.some((pattern) => pattern.test(pathOf(answer)))) {
    const taken = envelopeKeys.filter((name) => name in json);
    if (taken.length > 0) faults.push(`${taken.join(", ")} at the top level would be taken for the envelope`);
  }
  return faults;
}

function errorFaults(answer: Answer): string[] {
  const faults: string[] = [];
  const json = answer.json as Json | undefined;
  const error = json?.["error"] as Json | undefined;
  if (!error || typeof error !== "object")
    return [`an error without the error object: ${answer.text.slice(0, 200)}`];
  if (!/^[A-Z][A-Z0-9_]+$/.test(String(error["code"]))) faults.push(`code ${JSON.stringify(error["code"])}`);
  if (typeof error["message"] !== "string" || error["message"] === "") faults.push("no message");
  if (typeof error["details"] !== "object" || error["details"] === null) faults.push("details is no object");
  if (typeof error["retryable"] !== "boolean") faults.push("retryable is no boolean");
  if ("errors" in json! && answer.status !== 422) faults.push(`errors on ${answer.status}`);
  for (const member of ["type", "title", "detail", "instance"])
    if (typeof json![member] !== "string") faults.push(`the RFC 9457 member ${member} is missing`);
  if (json!["status"] !== answer.status) faults.push("the member status is not the status");
  const after = answer.headers["retry-after"];
  if (after !== undefined && !/^\d+$/.test(after))
    faults.push(`Retry-After ${after} is no whole number of seconds`);
  if (error["retry_after_ms"] !== undefined && after === undefined) faults.push("a hint without Retry-After");
  if (answer.text.length > 1024 * 1024) faults.push("over 1 MiB: clients read no more of an error");
  return faults;
}

/** Everything in an answer that some client would stumble over. */
export function clientFaults(answer: Answer): string[] {
  const faults =
    answer.status < 400 ? successFaults(answer) : answer.method === "HEAD" ? [] : errorFaults(answer);
  if (!answer.headers["x-request-id"]) faults.push("no x-request-id");
  return faults.map((fault) => `${answer.method} ${answer.path} ${answer.status}: ${fault}`);
}

/** What clients unwrap: data if there is one, else the object. */
export const unwrapped = (answer: Answer): Json => {
  const json = answer.json as Json;
  return ("data" in json ? json["data"] : json) as Json;
};
