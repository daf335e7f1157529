import { connect } from "node:net";

const ANSWER_MS = 5_000;
const MAX_ANSWER_BYTES = 8 * 1024 * 1024;

/** HAProxy said no; `answer` is its text. */
export class RuntimeRefused extends Error {
  readonly answer: string;
  constructor(command: string, answer: string) {
    super(`HAProxy refused "${command.slice(0, 80)}": ${answer.slice(0, 200)}`);
    this.name = "RuntimeRefused";
    this.answer = answer;
  }
}

/** The commands that HAProxy takes while it runs, one connection each, one after the other. */
export class Runtime {
  readonly #path: string;
  #last: Promise<unknown> = Promise.resolve();

  constructor(path: string) {
    this.#path = path;
  }

  /** @returns its whole answer */
  ask(command: string): Promise<string> {
    const answer = this.#last.catch(() => undefined).then(() => this.#ask(command));
    this.#last = answer;
    return answer;
  }

  /** @throws RuntimeRefused unless the answer is empty, or matches */
  async tell(command: string, expected: RegExp = /^$/): Promise<void> {
    const answer = (await this.ask(command)).trim();
    if (!expected.test(answer)) throw new RuntimeRefused(command, answer);
  }

  #ask(command: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.#path);
      let text = "";
      const timer = setTimeout(
        () => socket.destroy(new Error(`HAProxy did not answer within ${ANSWER_MS} ms`)),
        ANSWER_MS,
      );
      socket.setEncoding("utf8");
      socket.on("connect", () => socket.write(`${command}\n`));
      socket.on("data", (part: string) => {
        text += part;
        if (text.length > MAX_ANSWER_BYTES) socket.destroy(new Error("HAProxy's answer is too long"));
      });
      socket.on("error", (error) => {
        clearTimeout(timer);
        reject(error);
      });
      socket.on("close", () => {
        clearTimeout(timer);
        resolve(text);
      });
    });
  }
}
