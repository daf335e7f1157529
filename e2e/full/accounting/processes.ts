import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { arch, tmpdir } from "node:os";
import { join } from "node:path";

/** Numbers of acct(2), from the kernel's tables. */
const syscallNumbers: Readonly<Record<string, number>> = { x64: 163, arm64: 89 };
const recordBytes = 64;
const nameOffset = 48;

const acct = (path: string | null) => {
  const number = syscallNumbers[arch()];
  if (number === undefined) throw new Error(`acct(2) has no known number on ${arch()}`);
  // perl-base is essential in Debian, and the call is one that Node.js does not have.
  const script = `exit(syscall(${number}, @ARGV ? $ARGV[0] : 0) == 0 ? 0 : 1)`;
  execFileSync("perl", ["-e", script, ...(path === null ? [] : [path])], { stdio: "ignore" });
};

/**
 * The kernel's process accounting of the whole machine, every namespace and box included: a record for each
 * process that ends while it is on (acct(5), version 3). Nothing that ran and ended can be missing from it.
 */
export class ProcessAccounting {
  readonly #folder = mkdtempSync(join(tmpdir(), "accounting-"));
  readonly #path = join(this.#folder, "acct");

  /** @throws Error where the kernel refuses: no root, or built without it */
  begin(): void {
    writeFileSync(this.#path, "");
    acct(this.#path);
  }

  /** @returns the names, at most 15 bytes each, of all that ended since `begin` */
  end(): string[] {
    acct(null);
    const records = readFileSync(this.#path);
    const names: string[] = [];
    for (let at = 0; at + recordBytes <= records.length; at += recordBytes) {
      const name = records.subarray(at + nameOffset, at + recordBytes);
      names.push(name.subarray(0, name.indexOf(0)).toString());
    }
    return names;
  }

  remove(): void {
    acct(null);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Why this machine keeps no accounts, or null. */
export function whyNoAccounting(): string | null {
  const trial = new ProcessAccounting();
  try {
    trial.begin();
    execFileSync("true");
    return trial.end().includes("true") ? null : "the kernel's process accounting records nothing here";
  } catch {
    return "the kernel's process accounting, acct(2), is for root only";
  } finally {
    try {
      trial.remove();
    } catch {
      // Never begun, where it is refused.
    }
  }
}
