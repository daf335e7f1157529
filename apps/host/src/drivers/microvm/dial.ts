import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";

const pathOnly = 0x200000; // O_PATH, which Node does not name.

/**
 * Dials a unix socket that a less trusted process made. It could put a link there that leads to a socket
 * of this machine, so the file is opened first, without following links, and dialled by that handle; that
 * also lifts the limit of 107 characters on a socket's path.
 */
export async function dialSocket(path: string): Promise<Socket> {
  const handle = await open(path, pathOnly | constants.O_NOFOLLOW);
  try {
    if (!(await handle.stat()).isSocket()) throw new Error(`${path} is not a socket`);
    return await new Promise<Socket>((resolve, reject) => {
      const socket = connect({ path: `/proc/self/fd/${handle.fd}`, allowHalfOpen: true });
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        resolve(socket);
      });
    });
  } finally {
    await handle.close();
  }
}

/** A unix socket in `folder` that others may dial; `close` also removes it. */
export async function listenIn(
  folder: string,
  name: string,
  onSocket: (socket: Socket) => void,
): Promise<() => Promise<void>> {
  const handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  const server: Server = createServer({ allowHalfOpen: true }, onSocket);
  const before = process.umask(0);
  try {
    const listening = new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ path: join(`/proc/self/fd/${handle.fd}`, name) }, resolve);
    });
    process.umask(before);
    await listening;
  } catch (error) {
    await handle.close();
    throw error;
  } finally {
    process.umask(before);
  }
  return async () => {
    await new Promise<void>((resolve) => server.close(() => resolve()));
    await handle.close();
  };
}
