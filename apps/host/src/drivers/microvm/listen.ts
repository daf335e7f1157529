import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";

/** A unix socket in `folder` that others may dial; the function returned ends its connections and removes it. */
export async function listenIn(
  folder: string,
  name: string,
  onSocket: (socket: Socket) => void,
): Promise<() => Promise<void>> {
  const handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  const sockets = new Set<Socket>();
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    onSocket(socket);
  });
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
    for (const socket of sockets) socket.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
    await handle.close();
  };
}
