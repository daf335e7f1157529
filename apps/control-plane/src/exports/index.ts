import { posix } from "node:path";
import { PassThrough } from "node:stream";
import { once } from "node:events";
import { PlatformError, sandboxAccessRoutes as r } from "@platform/contract";
import { FileType, type GuestClient } from "@platform/guest-protocol";
import { query, queryOne } from "@platform/postgres";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { guestProblem, liveSandbox, ownSandbox, sandboxPath } from "../sandboxes/index.ts";
import { streamTar } from "./tar.ts";

interface ExportRow {
  readonly id: string;
  readonly sandbox_id: string;
  readonly label: string | null;
  readonly filename: string;
  readonly paths: string[];
  readonly created_at: Date;
}

/** Where a sandbox's own files are; what the system brought is no part of an export. */
const roots = ["/workspace", "/home/user", "/tmp"];

/** @throws PlatformError INVALID_PATH for what is outside of the sandbox's own folders, however it is written */
export function exportPath(path: string): string {
  const clean = sandboxPath(path).replace(/(.)\/$/, "$1");
  if (roots.some((root) => clean === root || clean.startsWith(`${root}/`))) return clean;
  throw new PlatformError(
    "INVALID_PATH",
    `${path.slice(0, 200)} is outside of ${roots.join(", ")}. Export what is in them.`,
    { errors: { path: [`is outside of ${roots.join(", ")}`] } },
  );
}

/** Each must be there; a link at its end is exported as a link, one on the way is not followed. */
async function assertThere(guest: GuestClient, paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    for (let part = path; part !== "/"; part = posix.dirname(part)) {
      const { entry } = await guest.filesystem.stat({ path: part }).catch((error: unknown) => {
        throw guestProblem(error, path);
      });
      const isLinkOnTheWay = part !== path && entry?.symlinkTarget !== undefined;
      if (isLinkOnTheWay && !roots.includes(part))
        throw new PlatformError(
          "INVALID_PATH",
          `${path} leads through the link ${part}. Export the place it leads to.`,
          {
            errors: { path: ["leads through a link"] },
          },
        );
      if (part !== path && entry && entry.type !== FileType.DIRECTORY && entry.symlinkTarget === undefined)
        throw new PlatformError("INVALID_PATH", `${part} is no folder.`);
    }
  }
}

export function exportHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const base = (call: Call) =>
    `${call.request.protocol}://${call.request.host}/api/v1/sandboxes/${call.params["id"]}`;
  const archiveUrl = (call: Call, row: ExportRow) =>
    `${base(call)}/exports/download?${new URLSearchParams([...row.paths.map((path): [string, string] => ["paths[]", path]), ["filename", row.filename]])}`;
  return [
    handler(r.exportCreate, async (call) => {
      const paths = [call.body.path ?? call.body.paths!].flat().map(exportPath);
      const { row: sandbox, guest } = await liveSandbox(platform, call.caller, call.params["id"]!);
      await assertThere(guest, paths);
      const name =
        posix
          .basename(paths[0]!)
          .replace(/[^\w.-]/g, "_")
          .replace(/^\W+/, "") || "export";
      const row = (await queryOne<ExportRow>(
        pool,
        `insert into exports (id, sandbox_id, label, filename, paths) values ($1, $2, $3, $4, $5)
         on conflict (id) do update set label = excluded.label returning *`,
        [
          call.idFor("export"),
          sandbox.id,
          call.body.label ?? null,
          call.body.filename ?? `${name}.tar.gz`,
          JSON.stringify(paths),
        ],
      ))!;
      return {
        id: row.id,
        sandbox_id: sandbox.id,
        status: "ready",
        label: row.label,
        filename: row.filename,
        files: row.paths.map((path) => ({
          path,
          filename: posix.basename(path),
          download_url: `${base(call)}/exports/download?${new URLSearchParams({ path, filename: row.filename })}`,
        })),
        archive_download_url: archiveUrl(call, row),
        created_at: row.created_at.toISOString(),
      };
    }),
    handler(r.exportDownload, async (call) => {
      const { query: asked } = call;
      const wanted = asked["paths[]"] ?? asked.paths ?? (asked.path === undefined ? [] : [asked.path]);
      const { guest } = await liveSandbox(platform, call.caller, call.params["id"]!);
      if (wanted.length === 0)
        throw new PlatformError("VALIDATION_FAILED", "path is missing. Send ?path= or ?paths[]=.", {
          errors: { path: ["is missing"] },
        });
      const paths = wanted.map(exportPath);
      await assertThere(guest, paths);
      const filename = asked.filename ?? "export.tar.gz";
      const isCompressed = !filename.endsWith(".tar");
      const { bytes, done } = await streamTar(guest, paths, { isCompressed, signal: call.signal });
      const body = new PassThrough();
      call.reply
        .header("content-type", isCompressed ? "application/gzip" : "application/x-tar")
        .header("content-disposition", `attachment; filename="${filename}"`)
        .header("cache-control", "no-store")
        .send(body);
      try {
        for await (const chunk of bytes)
          if (!body.write(chunk)) await once(body, "drain", { signal: call.signal });
        await done;
        body.end();
      } catch (error) {
        // Bytes are on their way: only a connection that breaks says that they are not all.
        body.destroy(error as Error);
        platform.log.warn({ err: error, requestId: call.requestId }, "an export was cut off");
      }
    }),
    handler(r.artifacts, async (call) => {
      const sandbox = await ownSandbox(pool, call.caller, call.params["id"]!);
      const exports = await query<ExportRow>(
        pool,
        "select * from exports where sandbox_id = $1 order by created_at desc limit 200",
        [sandbox.id],
      );
      const others = await query<{
        id: string;
        type: "snapshot" | "release";
        label: string | null;
        size: string | null;
        created_at: Date;
      }>(
        pool,
        `select id, 'snapshot' as type, comment as label, size_bytes::text as size, created_at from snapshots where sandbox_id = $1 and status = 'ready'
         union all select id, 'release', artifact_sha256, size_bytes::text, created_at from releases where source_sandbox_id = $1 and state = 'ready'
         order by created_at desc limit 200`,
        [sandbox.id],
      );
      return [
        ...exports.map((row) => ({
          id: row.id,
          type: "export",
          label: row.label ?? row.filename,
          // Made while it is downloaded: how large it will be is not known before.
          size_bytes: null,
          download_url: archiveUrl(call, row),
          created_at: row.created_at.toISOString(),
        })),
        ...others.map((row) => ({
          id: row.id,
          type: row.type,
          label: row.label,
          size_bytes: row.size === null ? null : Number(row.size),
          download_url: null,
          created_at: row.created_at.toISOString(),
        })),
      ];
    }),
  ];
}
