/**
 * Named prepared statements over a pooler that changes the server between two transactions: Debian 12's
 * pgbouncer (1.18) knows nothing of them. Each use of a name is preceded by its text, as the unnamed
 * statement and within the same batch, so it does not matter which server gets it.
 *
 * @see https://www.postgresql.org/docs/current/protocol-message-formats.html
 */

/** What one client may keep prepared; beyond it the session ends. */
const mostStatements = 1000;
const mostTextBytes = 16 * 1024 * 1024;
/** Names of a statement and a portal together, bytes. */
const mostNameBytes = 2048;

export class TooManyStatementsError extends Error {}

/** Follows one client's session in both directions. */
export class Statements {
  readonly #texts = new Map<string, Buffer>();
  #textBytes = 0;
  /** Whose text the server's unnamed statement has now, as far as this batch goes. */
  #unnamed: string | null = null;
  /** Answers still to come: of a statement that the client made, or that was slipped in; `ready` ends a batch. */
  readonly #awaited: ("made" | "slipped-in" | "ready")[] = ["ready"];
  readonly #toServer = new Messages(
    (type) => "PBDCSQF".includes(type),
    (type, body, rest) => this.#fromClient(type, body, rest),
  );
  readonly #toClient = new Messages(
    (type) => type === "1" || type === "Z",
    (type, body) => this.#fromServer(type, body),
  );

  /** @throws TooManyStatementsError */
  toServer(chunk: Buffer): Buffer[] {
    return this.#toServer.push(chunk);
  }

  toClient(chunk: Buffer): Buffer[] {
    return this.#toClient.push(chunk);
  }

  #fromClient(type: string, body: Buffer, rest: number): Buffer[] {
    switch (type) {
      case "P": {
        const [name, after] = readText(body, 0);
        this.#keep(name, body.subarray(after));
        this.#awaited.push("made");
        this.#unnamed = name;
        return [message("P", Buffer.concat([empty, body.subarray(after)]))];
      }
      case "B": {
        const [, after] = readText(body, 0);
        const [name, behind] = readText(body, after);
        if (!this.#texts.has(name)) return [message("B", body, rest)];
        const head = Buffer.concat([body.subarray(0, after), empty, body.subarray(behind)]);
        return [...this.#slipIn(name), message("B", head, rest)];
      }
      case "D": {
        const name = body.toString("latin1", 1, body.length - 1);
        if (body[0] !== 0x53 || !this.#texts.has(name)) return [message("D", body)];
        return [...this.#slipIn(name), message("D", Buffer.from("S\0"))];
      }
      case "C": {
        if (body[0] === 0x53) this.#forget(body.toString("latin1", 1, body.length - 1));
        return [message("C", body)];
      }
      default:
        // A simple query overwrites the unnamed statement; after either, another server may be next.
        if (type === "Q") this.#forget("");
        this.#unnamed = null;
        this.#awaited.push("ready");
        return [message(type, body, rest)];
    }
  }

  #fromServer(type: string, body: Buffer): Buffer[] {
    if (type === "Z") {
      // What was asked for after an error is never answered.
      while (this.#awaited.length > 0 && this.#awaited.shift() !== "ready");
      return [message("Z", body)];
    }
    return this.#awaited.shift() === "slipped-in" ? [] : [message("1", body)];
  }

  #slipIn(name: string): Buffer[] {
    if (this.#unnamed === name) return [];
    this.#unnamed = name;
    this.#awaited.push("slipped-in");
    return [message("P", Buffer.concat([empty, this.#texts.get(name)!]))];
  }

  #keep(name: string, text: Buffer): void {
    this.#forget(name);
    this.#texts.set(name, Buffer.from(text));
    this.#textBytes += text.length;
    if (this.#texts.size > mostStatements || this.#textBytes > mostTextBytes)
      throw new TooManyStatementsError(
        `More than ${mostStatements} statements or ${mostTextBytes / 1024 / 1024} MiB of them are prepared. Close some.`,
      );
  }

  #forget(name: string): void {
    this.#textBytes -= this.#texts.get(name)?.length ?? 0;
    this.#texts.delete(name);
  }
}

const empty = Buffer.from([0]);

function readText(body: Buffer, from: number): [text: string, after: number] {
  const end = body.indexOf(0, from);
  if (end < 0) throw new TooManyStatementsError("A message has no end of its name.");
  return [body.toString("latin1", from, end), end + 1];
}

/** @param rest bytes of the message that follow by themselves */
function message(type: string, body: Buffer, rest = 0): Buffer {
  const head = Buffer.alloc(5);
  head.write(type, 0, "latin1");
  head.writeUInt32BE(body.length + rest + 4, 1);
  return Buffer.concat([head, body]);
}

/**
 * Cuts a stream into messages. Those that are looked at are given whole, but of a `B`, which carries
 * values of any size, only its beginning; everything else passes through as it comes.
 */
class Messages {
  readonly #isWanted: (type: string) => boolean;
  readonly #change: (type: string, body: Buffer, rest: number) => Buffer[];
  #kept: Buffer[] = [];
  #keptBytes = 0;
  #passing = 0;

  constructor(
    isWanted: (type: string) => boolean,
    change: (type: string, body: Buffer, rest: number) => Buffer[],
  ) {
    this.#isWanted = isWanted;
    this.#change = change;
  }

  push(chunk: Buffer): Buffer[] {
    const out: Buffer[] = [];
    if (this.#passing >= chunk.length) {
      this.#passing -= chunk.length;
      return [chunk];
    }
    this.#kept.push(chunk);
    this.#keptBytes += chunk.length;
    // A long message is put together once, not with each piece of it.
    if (this.#keptBytes < this.#needed) return [];
    let data = this.#kept.length === 1 ? chunk : Buffer.concat(this.#kept);
    this.#needed = 0;
    while (data.length > 0) {
      if (this.#passing > 0) {
        const part = data.subarray(0, this.#passing);
        out.push(part);
        this.#passing -= part.length;
        data = data.subarray(part.length);
        continue;
      }
      if (data.length < 5) break;
      const type = String.fromCharCode(data[0]!);
      const length = data.readUInt32BE(1) + 1;
      if (length < 5) throw new TooManyStatementsError("A message is shorter than its own length.");
      if (!this.#isWanted(type)) {
        this.#passing = length;
        continue;
      }
      const isQuery = type === "Q" || type === "F";
      const least = isQuery ? 5 : type === "B" ? Math.min(length, 5 + mostNameBytes) : length;
      if (type === "P" && length > mostTextBytes)
        throw new TooManyStatementsError("A statement is too long.");
      if (data.length < least) {
        this.#needed = least;
        break;
      }
      const end = isQuery ? 5 : least;
      out.push(...this.#change(type, data.subarray(5, end), length - end));
      this.#passing = length - end;
      data = data.subarray(end);
    }
    this.#kept = data.length > 0 ? [data] : [];
    this.#keptBytes = data.length;
    return out;
  }

  #needed = 0;
}
