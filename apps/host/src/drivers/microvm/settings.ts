import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ResolvedBoxSpec } from "@platform/host-api";
import type { BoxFolders } from "../driver.ts";
import { hostsFile } from "../linux/rootfs.ts";
import { clock } from "./session.ts";

/** Bytes of fresh randomness for a guest's kernel: twice what its generator holds. */
const randomnessBytes = 64;
/** Tasks of the box's own machinery: its first process and the agent's threads. */
const ownTasks = 24;

/**
 * All that makes one machine another than its copies: clock, randomness, names and settings. Told to every
 * guest when it begins, whether it booted or was restored; apps/guest/microvm/box.c applies it.
 */
export async function guestSettings(spec: ResolvedBoxSpec, folders: BoxFolders): Promise<Buffer> {
  const ofRun = (name: string) => readFile(join(folders.run, name));
  return encodeSettings([
    // A template's own files are links to these.
    ["r/run/etc/hosts", hostsFile(spec)],
    ["r/run/etc/hostname", `${spec.hostname}\n`],
    ["r/run/etc/resolv.conf", ""],
    ["r/etc/machine-id", `${randomBytes(16).toString("hex")}\n`],
    ["u/run/agent/config.json", await ofRun("config.json")],
    ["u/run/agent/ca.pem", await ofRun("ca.pem")],
    ["hostname", spec.hostname],
    ["processes", String(spec.limits.maxProcesses + ownTasks)],
    ["randomness", randomBytes(randomnessBytes)],
    // Last, so that little time passes before it is set.
    ["clock", clock()],
  ]);
}

/** A row of: length of the name, length of the value, name, value. */
export function encodeSettings(
  entries: readonly (readonly [name: string, value: string | Buffer])[],
): Buffer {
  const parts = entries.flatMap(([name, value]) => {
    const [key, bytes] = [Buffer.from(name), Buffer.from(value)];
    const lengths = Buffer.alloc(8);
    lengths.writeUInt32LE(key.length, 0);
    lengths.writeUInt32LE(bytes.length, 4);
    return [lengths, key, bytes];
  });
  return Buffer.concat(parts);
}
