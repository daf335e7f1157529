import { open, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { armCommand, type ArmedHostName } from "../linux/host-name.ts";
import type { Runsc } from "./runsc.ts";

/**
 * Machine code, as images need not have a program that sets a host name: reads at most 64 bytes, gives
 * all but the line's end to sethostname(2), writes what it read and ends. Without input it ends.
 */
const code: Partial<Record<NodeJS.Architecture, string>> = {
  x64: [
    "4883ec40", // sub rsp, 64
    "31c031ff4889e6ba400000000f05", // read(0, rsp, 64)
    "4883f8017e2c4889c3", // fail if it is 1 or less; rbx = rax
    "4889e7488d70ffb8aa0000000f05", // sethostname(rsp, rax - 1)
    "4885c07516", // fail unless it is 0
    "b801000000bf010000004889e64889da0f05", // write(1, rsp, rbx)
    "31ffeb05", // status 0
    "bf01000000", // fail: status 1
    "b83c0000000f05", // exit
  ].join(""),
};

const baseAddress = 0x400000;
const headerBytes = 64 + 56;

/** One segment, loaded as a whole. @see https://man7.org/linux/man-pages/man5/elf.5.html */
function executable(text: Buffer): Buffer {
  const file = Buffer.alloc(headerBytes + text.length);
  file.write("7f454c46020101", "hex");
  file.writeUInt16LE(2, 16); // An executable,
  file.writeUInt16LE(62, 18); // for x86-64,
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(BigInt(baseAddress + headerBytes), 24); // that begins here.
  file.writeBigUInt64LE(64n, 32); // Its one program header follows.
  file.writeUInt16LE(64, 52);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  file.writeUInt32LE(1, 64); // To be loaded,
  file.writeUInt32LE(5, 68); // read and run,
  file.writeBigUInt64LE(BigInt(baseAddress), 80);
  file.writeBigUInt64LE(BigInt(baseAddress), 88);
  file.writeBigUInt64LE(BigInt(file.length), 96);
  file.writeBigUInt64LE(BigInt(file.length), 104);
  file.writeBigUInt64LE(4096n, 112);
  text.copy(file, headerBytes);
  return file;
}

/** Whether a running box can be given a host name on this kind of machine. */
export const canSetHostName = code[process.arch] !== undefined;

/** @returns path of the program that sets a host name */
export async function writeHostNameProgram(folder: string): Promise<string> {
  const path = join(folder, "host-name");
  const text = Buffer.from(code[process.arch] ?? "", "hex");
  await writeFile(`${path}.new`, executable(text), { mode: 0o500 });
  await rename(`${path}.new`, path);
  return path;
}

/**
 * Runs the program in the box, from this machine's file: no file of the box leads to it. It alone has
 * the right to set a name, and is gone before the box is anybody's.
 */
export async function armHostNameIn(runsc: Runsc, id: string, program: string): Promise<ArmedHostName> {
  const file = await open(program, "r");
  try {
    const rights = ["--user=0:0", "--cap=CAP_SYS_ADMIN", "--cwd=/"];
    const args = [`--root=${runsc.stateFolder}`, "exec", ...rights, "--exec-fd=3", id, "host-name"];
    return armCommand(runsc.program, args, file.fd);
  } finally {
    await file.close();
  }
}
