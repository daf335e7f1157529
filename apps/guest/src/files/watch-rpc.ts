import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import {
  EventType,
  FilesystemEventSchema,
  type Filesystem,
  type FilesystemEvent,
} from "@platform/guest-protocol";
import { readEntry } from "./entry.ts";
import { guarded } from "./guarded.ts";
import type { FileMetadata } from "./metadata.ts";
import { kernelRandom } from "../random.ts";
import { watchTree, type Change, type TreeWatch } from "./watch.ts";

const DEFAULT_KEEPALIVE_SECONDS = 90;
/** Events that wait for a client; past it the oldest are dropped, and the client reads the tree anew. */
const MAX_WAITING = 10_000;
const MAX_WATCHERS = 100;

interface WatchRequest {
  readonly path: string;
  readonly recursive: boolean;
  readonly includeEntry: boolean;
}

type Methods = "watchDir" | "createWatcher" | "getWatcherEvents" | "removeWatcher";

/** @param at absolute path for what a client wrote */
export function createWatchMethods(
  at: (path: string) => string,
  notes: FileMetadata,
): Pick<ServiceImpl<typeof Filesystem>, Methods> {
  const watchers = new Map<string, { watch: TreeWatch; events: FilesystemEvent[] }>();
  const find = (id: string) => {
    const found = watchers.get(id);
    if (!found) throw new ConnectError(`watcher with id ${id} not found`, Code.NotFound);
    return found;
  };
  const open = (request: WatchRequest, events: FilesystemEvent[], wake: () => void) =>
    guarded(at(request.path), (path) =>
      watchTree(path, request.recursive, async (change) => {
        events.push(await toEvent(change, request.includeEntry ? notes : null));
        if (events.length > MAX_WAITING) events.shift();
        wake();
      }),
    );
  return {
    async *watchDir(request, context) {
      const events: FilesystemEvent[] = [];
      let wake: () => void = () => undefined;
      const watch = await open(request, events, () => wake());
      context.signal.addEventListener("abort", () => wake(), { once: true });
      const seconds =
        Number(context.requestHeader.get("keepalive-ping-interval")) || DEFAULT_KEEPALIVE_SECONDS;
      try {
        yield { event: { case: "start" as const, value: {} } };
        while (!context.signal.aborted) {
          for (const event of events.splice(0))
            yield { event: { case: "filesystem" as const, value: event } };
          if (events.length > 0 || context.signal.aborted) continue;
          const isIdle = await new Promise<boolean>((resolve) => {
            const timer = setTimeout(() => resolve(true), seconds * 1000);
            wake = () => {
              clearTimeout(timer);
              resolve(false);
            };
          });
          if (isIdle) yield { event: { case: "keepalive" as const, value: {} } };
        }
      } finally {
        watch.close();
      }
    },
    async createWatcher(request) {
      if (watchers.size >= MAX_WATCHERS) {
        throw new ConnectError(`more than ${MAX_WATCHERS} watchers: remove one`, Code.ResourceExhausted);
      }
      const events: FilesystemEvent[] = [];
      const watch = await open(request, events, () => undefined);
      const watcherId = kernelRandom(16).toString("hex");
      watchers.set(watcherId, { watch, events });
      return { watcherId };
    },
    getWatcherEvents: ({ watcherId }) => ({ events: find(watcherId).events.splice(0) }),
    removeWatcher({ watcherId }) {
      find(watcherId).watch.close();
      watchers.delete(watcherId);
      return {};
    },
  };
}

async function toEvent(change: Change, notes: FileMetadata | null): Promise<FilesystemEvent> {
  const gone = change.type === EventType.REMOVE || change.type === EventType.RENAME;
  const entry = notes && !gone ? await readEntry(change.path, notes).catch(() => undefined) : undefined;
  return create(FilesystemEventSchema, { name: change.name, type: change.type, entry });
}
