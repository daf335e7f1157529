import type { Socket } from "node:net";

/** Opens the way that a client's connection takes. */
export type Dial = (hostname: string, port: number) => Promise<Socket>;

/** Everything that a client needs to log in to one server. */
export interface Login {
  readonly hostname: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly database: string;
  /** PEM; the server's certificate is verified against it, by name. */
  readonly caCertificate: string;
  /** Opens the connection; by default straight to 127.0.0.1. */
  readonly dial?: Dial;
}

export interface Account {
  readonly username: string;
  readonly password: string;
}
