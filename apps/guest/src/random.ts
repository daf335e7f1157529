import { closeSync, openSync, readSync } from "node:fs";

/**
 * Fresh bytes of the kernel's own generator. Node's generator keeps a state in this process's memory, so
 * that two copies of one saved machine would draw the same from it; the kernel's is made anew in each copy.
 */
export function kernelRandom(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const source = openSync("/dev/urandom", "r");
  try {
    let have = 0;
    while (have < length) have += readSync(source, bytes, have, length - have, null);
  } finally {
    closeSync(source);
  }
  return bytes;
}
