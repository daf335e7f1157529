import { connectNodeAdapter } from "@connectrpc/connect-node";
import { Filesystem, Process } from "@platform/guest-protocol";
import type { Environment } from "./environment.ts";
import { createFilesystemService } from "./files/rpc.ts";
import type { Request, Response } from "./http.ts";
import { createProcessService } from "./processes/rpc.ts";

/** Both Connect services; they also answer gRPC and gRPC-web on HTTP/2. */
export function createRpcHandler(environment: Environment): (request: Request, response: Response) => void {
  return connectNodeAdapter({
    routes: (router) => {
      router.service(Process, createProcessService(environment));
      router.service(Filesystem, createFilesystemService(environment));
    },
    // Output is streamed over a local socket: compressing it costs more than it saves.
    acceptCompression: [],
  });
}
