import { connect, type Socket } from "node:net";
import type { Login } from "./login.ts";

class LoginTimeoutError extends Error {}

/**
 * The whole of a session takes at most `timeoutMs` milliseconds: a server that accepts and then says
 * nothing ends in a timeout too.
 *
 * @param close ends the connection, whatever happened
 */
export async function within<T>(timeoutMs: number, session: () => Promise<T>, close: () => void): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new LoginTimeoutError(`no answer within ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([session(), timeout]);
  } finally {
    clearTimeout(timer);
    close();
  }
}

/**
 * A connection to the server, by the login's way if it names one. The name is verified, not looked up:
 * it need not resolve on this machine, and a slow resolver must not look like a slow database.
 */
export async function openConnection({ dial, hostname, port }: Login): Promise<Socket> {
  if (dial) return dial(hostname, port);
  const socket = connect({ host: "127.0.0.1", port, noDelay: true });
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", reject);
  });
  return socket;
}

const unreachableCodes = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EPIPE",
  "PROTOCOL_CONNECTION_LOST",
  // Of the way that connections of apps take, when nobody answers at its end.
  "UNREACHABLE",
]);

/** Of an error that no server sent: by errno, never by message text. */
export function connectionFailure(error: unknown): { reason: string; detail: string } {
  const { code, message } = error as NodeJS.ErrnoException;
  if (error instanceof LoginTimeoutError || code === "ETIMEDOUT")
    return { reason: "timeout", detail: message };
  if (code === undefined) return { reason: "unreachable", detail: message };
  if (unreachableCodes.has(code)) return { reason: "unreachable", detail: code };
  // What remains of Node's codes on this path comes from the handshake: CERT_…, ERR_TLS_…, ERR_SSL_…, SELF_SIGNED_….
  return { reason: "tls_failed", detail: code };
}
