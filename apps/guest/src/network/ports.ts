import { readdir, readFile, readlink } from "node:fs/promises";
import type { ListeningPort } from "@platform/guest-protocol";

/** State number of a listening socket in /proc/net/tcp. */
const LISTEN = "0A";

interface ListeningSocket {
  readonly port: number;
  readonly address: string;
  readonly family: "ipv4" | "ipv6";
  readonly inode: string;
}

/** One entry per listening socket in the box, the agent's own left out. */
export async function listeningPorts(): Promise<ListeningPort[]> {
  const sockets = await listeningSockets();
  if (sockets.length === 0) return [];
  const owners = await ownersOf(new Set(sockets.map((socket) => socket.inode)));
  const foreign = sockets.filter((socket) => owners.get(socket.inode)?.pid !== process.pid);
  return foreign.map(({ port, address, family, inode }) => ({
    port,
    address,
    family,
    loopbackOnly: foreign.every((other) => other.port !== port || isLoopback(other.address)),
    pid: owners.get(inode)?.pid ?? null,
    process: owners.get(inode)?.name ?? null,
  }));
}

/** Whether anything listens on `port`, without looking up whose it is: cheap enough to poll. */
export async function listensOn(port: number): Promise<"everywhere" | "loopback" | "no"> {
  const sockets = (await listeningSockets()).filter((socket) => socket.port === port);
  if (sockets.length === 0) return "no";
  return sockets.every((socket) => isLoopback(socket.address)) ? "loopback" : "everywhere";
}

async function listeningSockets(): Promise<ListeningSocket[]> {
  const [ipv4, ipv6] = await Promise.all([readTable("/proc/net/tcp"), readTable("/proc/net/tcp6")]);
  return [...parseTable(ipv4, "ipv4"), ...parseTable(ipv6, "ipv6")];
}

/** A kernel without IPv6 has no such table. */
async function readTable(path: string): Promise<string> {
  try {
    return await readFile(path, "latin1");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

export function parseTable(table: string, family: "ipv4" | "ipv6"): ListeningSocket[] {
  const sockets: ListeningSocket[] = [];
  for (const line of table.split("\n").slice(1)) {
    const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
    if (state !== LISTEN || !local || !inode) continue;
    const [address = "", port = ""] = local.split(":");
    sockets.push({ port: Number.parseInt(port, 16), address: parseAddress(address), family, inode });
  }
  return sockets;
}

/** The kernel prints an address as 32-bit words in the machine's (little-endian) byte order. */
function parseAddress(hex: string): string {
  const bytes = (hex.match(/.{8}/g) ?? []).flatMap((word) => [...Buffer.from(word, "hex").reverse()]);
  if (bytes.length === 4) return bytes.join(".");
  const isMapped = bytes.slice(0, 10).every((byte) => byte === 0) && bytes[10] === 255 && bytes[11] === 255;
  if (isMapped) return `::ffff:${bytes.slice(12).join(".")}`;
  const groups = Array.from({ length: 8 }, (_, at) =>
    (bytes[at * 2]! * 256 + bytes[at * 2 + 1]!).toString(16),
  );
  return new URL(`http://[${groups.join(":")}]`).hostname.slice(1, -1);
}

export function isLoopback(address: string): boolean {
  return address === "::1" || /^(::ffff:)?127\./.test(address);
}

async function ownersOf(inodes: ReadonlySet<string>): Promise<Map<string, { pid: number; name: string }>> {
  const owners = new Map<string, { pid: number; name: string }>();
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  await Promise.all(
    pids.map(async (pid) => {
      try {
        for (const inode of await socketsOf(pid)) {
          if (!inodes.has(inode) || owners.has(inode)) continue;
          const name = (await readFile(`/proc/${pid}/comm`, "utf8")).trim();
          owners.set(inode, { pid: Number(pid), name });
        }
      } catch {
        // The process ended meanwhile, or belongs to another user: its sockets stay without a name.
      }
    }),
  );
  return owners;
}

async function socketsOf(pid: string): Promise<string[]> {
  const folder = `/proc/${pid}/fd`;
  const links = await Promise.all(
    (await readdir(folder)).map((fd) => readlink(`${folder}/${fd}`).catch(() => "")),
  );
  return links.flatMap((link) => /^socket:\[(\d+)\]$/.exec(link)?.[1] ?? []);
}
