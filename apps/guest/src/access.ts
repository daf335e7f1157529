import { createHash, timingSafeEqual } from "node:crypto";
import { EnvdError, type Request } from "./http.ts";

/** Header that the gateway puts on requests of clients from outside: they get envd's endpoints only. */
export const PUBLIC_DOOR = "x-public-door";

const knownUsers = new Set(["user", "root"]);

/** Who may use envd's endpoints. The socket's border is the host's; this is envd's own custom. */
export class Access {
  #token: Buffer | null = null;

  /** From now on requests have to carry it. */
  setToken(token: string): void {
    this.#token = token === "" ? null : digest(token);
  }

  /**
   * Both known names mean the one user that the box has.
   *
   * @throws EnvdError 401
   */
  check(request: Request, query: URLSearchParams): void {
    if (this.#token) {
      const given = request.headers["x-access-token"];
      if (typeof given !== "string" || !timingSafeEqual(digest(given), this.#token)) {
        throw new EnvdError(401, "unauthorized access: X-Access-Token is missing or wrong");
      }
    }
    const name = query.get("username") || basicUser(request.headers.authorization);
    if (name && !knownUsers.has(name)) {
      throw new EnvdError(401, `error looking up user '${name}': user: unknown user ${name}`);
    }
  }
}

/** Of equal length whatever the token, for the comparison in constant time. */
const digest = (token: string) => createHash("sha256").update(token).digest();

function basicUser(authorization: string | undefined): string | null {
  const encoded = /^basic (\S+)$/i.exec(authorization ?? "")?.[1];
  if (!encoded) return null;
  return Buffer.from(encoded, "base64").toString("utf8").split(":", 1)[0] ?? null;
}
