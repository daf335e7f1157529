import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { connect, type Socket } from "node:net";

const pathOnly = 0x200000; // O_PATH, which Node does not name.

/**
 * Connects to a socket in a folder that belongs to a box, which could put a link there that leads to a
 * socket of this machine. So the file is opened first, without following links, and dialled by that
 * handle; that also lifts the limit of 107 characters on a socket's path.
 */
export async function dialSocket(path: string): Promise<Socket> {
  const handle = await open(path, pathOnly | constants.O_NOFOLLOW);
  try {
    if (!(await handle.stat()).isSocket()) throw new Error("the agent's socket is not a socket");
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
