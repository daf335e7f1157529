import { posix } from "node:path";
import { PassThrough, pipeline, Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { PlatformError, fileRoutes as r } from "@platform/contract";
import { EventType, FileType, type EntryInfo as Entry, type GuestClient } from "@platform/guest-protocol";
import { handler, openEventStream, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { guestProblem, liveSandbox } from "./access.ts";

const textLimitBytes = 32 * 1024 * 1024;

/** Absolute path in the sandbox; relative ones are below /workspace. The sandbox itself is the border. */
export function sandboxPath(path: string): string {
  if (path.includes("\0"))
    throw new PlatformError("INVALID_PATH", "The path holds a null character. Remove it.", {
      errors: { path: ["holds a null character"] },
    });
  return posix.normalize(path.startsWith("/") ? path : `/workspace/${path}`);
}

function decodeBase64(content: string, path: string): Buffer {
  const clean = content.replace(/\s/g, "");
  if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(clean))
    throw new PlatformError("VALIDATION_FAILED", `The content of ${path} is not base64.`, {
      errors: { content: ["is not base64"] },
    });
  return Buffer.from(clean, "base64");
}

const isDir = (entry: Entry) => entry.type === FileType.DIRECTORY;
const modifiedAt = (entry: Entry) =>
  entry.modifiedTime
    ? new Date(Number(entry.modifiedTime.seconds) * 1000 + entry.modifiedTime.nanos / 1e6).toISOString()
    : null;
const entryView = (entry: Entry) => ({
  name: entry.name,
  path: entry.path,
  size: Number(entry.size),
  size_bytes: Number(entry.size),
  is_dir: isDir(entry),
  type: isDir(entry) ? "dir" : "file",
  mode: entry.mode,
  modified_at: modifiedAt(entry),
});

interface Node {
  path: string;
  name: string;
  type: "file" | "dir";
  size: number;
  modified_at: string | null;
  children?: Node[];
}

function toTree(root: Entry, entries: readonly Entry[]): Node {
  const node = (entry: Entry): Node => ({
    path: entry.path,
    name: entry.name,
    type: isDir(entry) ? "dir" : "file",
    size: Number(entry.size),
    modified_at: modifiedAt(entry),
    ...(isDir(entry) ? { children: [] } : {}),
  });
  const top = node(root);
  const known = new Map([[top.path, top]]);
  for (const entry of [...entries].sort((a, b) => a.path.localeCompare(b.path))) {
    const one = node(entry);
    known.set(one.path, one);
    known.get(posix.dirname(one.path))?.children?.push(one);
  }
  return top;
}

export function fileHandlers(platform: Platform): Handler[] {
  /** Runs `work` against the sandbox's guest, with refusals that name the path. */
  const at = async <T>(
    call: Call,
    path: string,
    work: (guest: GuestClient, path: string) => Promise<T>,
  ): Promise<T> => {
    const absolute = sandboxPath(path);
    const { guest } = await liveSandbox(platform, call.caller, call.params["id"]!);
    return work(guest, absolute).catch((error: unknown) => {
      throw guestProblem(error, absolute);
    });
  };
  const write = async (guest: GuestClient, path: string, bytes: Buffer) => {
    await guest.writeFile(path, bytes);
    return { path, size_bytes: bytes.length };
  };
  const readText = async (guest: GuestClient, path: string) => {
    const stream = await guest.readFile(path);
    return text(limited(stream, path));
  };
  const list = async (guest: GuestClient, path: string, depth: number) =>
    (await guest.filesystem.listDir({ path, depth })).entries;
  const writeMany = async (call: Call, files: { path: string; content: string }[]) => {
    const { guest } = await liveSandbox(platform, call.caller, call.params["id"]!);
    const written: { path: string; size_bytes: number }[] = [];
    const failed: { path: string; error: string }[] = [];
    for (const file of files) {
      try {
        const path = sandboxPath(file.path);
        written.push(await write(guest, path, decodeBase64(file.content, path)));
      } catch (error) {
        const problem = guestProblem(error, file.path);
        failed.push({
          path: file.path,
          error: problem instanceof PlatformError ? problem.message : "could not be written",
        });
      }
    }
    return { written, failed };
  };
  const fromBase64 = (files: { path: string; content_base64: string }[]) =>
    files.map((file) => ({ path: file.path, content: file.content_base64 }));
  const stat = (call: Call, wanted: string) =>
    at(call, wanted, async (guest, path) => entryView((await guest.filesystem.stat({ path })).entry!));
  const download = (call: Call, wanted: string) =>
    at(call, wanted, async (guest, path) => {
      const stream = await guest.readFile(path);
      const length = (stream as { headers?: Record<string, string> }).headers?.["content-length"];
      if (length !== undefined) call.reply.header("content-length", length);
      call.reply.header("content-type", "application/octet-stream").send(stream);
    });
  const tail = (call: Call) => {
    const raw = call.params["*"] ?? "";
    return `/${raw.replace(/^\/+/, "")}`;
  };
  return [
    handler(r.write, async (call) =>
      at(call as Call, call.body.path, (guest, path) =>
        write(guest, path, decodeBase64(call.body.content, path)),
      ),
    ),
    handler(r.list, async (call) =>
      at(call as Call, call.query.path, async (guest, path) => ({
        path,
        entries: (await list(guest, path, call.query.depth)).map(entryView),
      })),
    ),
    handler(r.read, async (call) =>
      at(call as Call, call.query.path, async (guest, path) => ({
        path,
        content: await readText(guest, path),
      })),
    ),
    handler(r.stat, async (call) => stat(call as Call, call.body.path)),
    handler(r.tree, async (call) =>
      at(call as Call, call.query.path, async (guest, path) => {
        const { entry } = await guest.filesystem.stat({ path });
        return toTree(entry!, isDir(entry!) ? await list(guest, path, call.query.depth) : []);
      }),
    ),
    handler(r.writeMany, async (call) => writeMany(call as Call, fromBase64(call.body.files))),
    handler(r.batch, async (call) => writeMany(call as Call, call.body.files)),
    handler(r.watch, async (call) => watch(platform, call as Call, sandboxPath(call.query.path))),
    handler(r.download, async (call) => download(call as Call, tail(call as Call))),
    handler(r.upload, async (call) =>
      at(call as Call, tail(call as Call), async (guest, path) => {
        const counted = new ByteCounter();
        await guest.writeFile(path, counted.of(call.request.body as Readable | undefined));
        return { path, size_bytes: counted.bytes };
      }),
    ),
    handler(r.fsDownload, async (call) => download(call as Call, call.query.path)),
    handler(r.fsStat, async (call) => stat(call as Call, call.body.path)),
    handler(r.fsWriteMany, async (call) => writeMany(call as Call, fromBase64(call.body.files))),
    handler(r.remove, async (call) =>
      at(call as Call, tail(call as Call), async (guest, path) => {
        await guest.filesystem.remove({ path });
        return { path, deleted: true };
      }),
    ),
    handler(r.fsRead, async (call) =>
      at(call as Call, call.query.path, async (guest, path) => ({
        path,
        content: await readText(guest, path),
      })),
    ),
    handler(r.fsWrite, async (call) =>
      at(call as Call, call.body.path, async (guest, path) => {
        const { content, content_base64 } = call.body;
        const bytes =
          content_base64 === undefined
            ? Buffer.from(content ?? "", "utf8")
            : decodeBase64(content_base64, path);
        return { success: true, ...(await write(guest, path, bytes)) };
      }),
    ),
    handler(r.fsMkdir, async (call) =>
      at(call as Call, call.body.path, async (guest, path) => {
        await guest.filesystem.makeDir({ path }).catch((error: unknown) => {
          // The folder is there already: what was asked for holds.
          if ((error as { code?: unknown }).code !== 6) throw error;
        });
        return { success: true, path };
      }),
    ),
    handler(r.fsList, async (call) =>
      at(call as Call, call.query.path, async (guest, path) => ({
        path,
        files: (await list(guest, path, 1)).map((entry) => ({
          name: entry.name,
          type: isDir(entry) ? "directory" : "file",
          size_bytes: Number(entry.size),
          modified_at: modifiedAt(entry),
        })),
      })),
    ),
    handler(r.fsRemove, async (call) => {
      const path = call.query.path ?? call.body?.path;
      if (!path)
        throw new PlatformError("VALIDATION_FAILED", "path is missing. Send it as ?path=.", {
          errors: { path: ["is missing"] },
        });
      return at(call as Call, path, async (guest, absolute) => {
        await guest.filesystem.remove({ path: absolute });
        return { success: true, path: absolute };
      });
    }),
  ];
}

/** Counts what passes, so that a body of any length is never held. */
class ByteCounter {
  bytes = 0;

  of(body: Readable | undefined): Readable {
    const counted = new PassThrough({
      highWaterMark: 1024 * 1024,
      transform: (chunk: Buffer, _encoding, done) => {
        this.bytes += chunk.length;
        done(null, chunk);
      },
    });
    // The reader learns of a sender that left by the error, and then keeps the old file.
    pipeline(body ?? Readable.from([]), counted, () => undefined);
    return counted;
  }
}

async function* limited(stream: Readable, path: string): AsyncGenerator<Buffer> {
  let size = 0;
  for await (const chunk of stream) {
    size += (chunk as Buffer).length;
    if (size > textLimitBytes)
      throw new PlatformError(
        "PAYLOAD_TOO_LARGE",
        `${path} is over 32 MiB. Download it with GET /files/<path>.`,
      );
    yield chunk as Buffer;
  }
}

/** A file that is being written has a name of its own until it is whole. */
const uploadPart = /(^|\/)\.[\w-]+\.upload$/;

const eventNames: Partial<Record<EventType, string>> = {
  [EventType.CREATE]: "created",
  [EventType.WRITE]: "modified",
  [EventType.CHMOD]: "modified",
  [EventType.REMOVE]: "deleted",
  [EventType.RENAME]: "renamed",
};

async function watch(platform: Platform, call: Call, path: string): Promise<void> {
  const { guest } = await liveSandbox(platform, call.caller, call.params["id"]!);
  await guest.filesystem.stat({ path }).catch((error: unknown) => {
    throw guestProblem(error, path);
  });
  const stream = openEventStream(call.reply);
  try {
    for await (const { event } of guest.filesystem.watchDir(
      { path, recursive: true, includeEntry: true },
      { signal: stream.signal },
    )) {
      if (event.case !== "filesystem") continue;
      const name = eventNames[event.value.type];
      if (!name || uploadPart.test(event.value.name)) continue;
      const { entry } = event.value;
      stream.send(name, {
        event: name,
        path: posix.join(path, event.value.name),
        is_dir: entry ? isDir(entry) : false,
        ...(entry ? { size_bytes: Number(entry.size) } : {}),
      });
    }
  } catch (error) {
    if (!stream.signal.aborted)
      stream.send("error", {
        error: { code: "SANDBOX_AGENT_UNAVAILABLE", message: "Watching ended. Connect again." },
      });
    platform.log.debug({ err: error }, "a watch ended");
  }
  stream.close();
}
