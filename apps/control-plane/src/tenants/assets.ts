import type { Readable } from "node:stream";
import busboy from "busboy";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { PlatformError, brandingRoutes as r, notFound } from "@platform/contract";
import { queryOne, transaction } from "@platform/postgres";
import { handler, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { isUuid } from "./placement.ts";
import { apiHostname, publicUrl, tenantById } from "./tenant.ts";
import { assertWholeTenant } from "./workspaces.ts";

const mostBytes = 2 * 1024 * 1024;
/** Images of a tenant that are kept besides those in use. */
const mostAssets = 50;

const refused = (message: string) =>
  new PlatformError("VALIDATION_FAILED", `file: ${message}.`, { errors: { file: [message] } });
const tooLarge = () => new PlatformError("PAYLOAD_TOO_LARGE", "The image is over 2 MiB. Send a smaller one.");

/** What the bytes are, whatever their name or declared type says; null: no image or font that pages can hold. */
function sniffAsset(bytes: Buffer): string | null {
  const starts = (text: string, at = 0) => bytes.subarray(at, at + text.length).toString("latin1") === text;
  if (starts("\x89PNG\r\n\x1a\n")) return "image/png";
  if (starts("\xff\xd8\xff")) return "image/jpeg";
  if (starts("GIF87a") || starts("GIF89a")) return "image/gif";
  if (starts("RIFF") && starts("WEBP", 8)) return "image/webp";
  if (starts("\0\0\x01\0")) return "image/x-icon";
  if (starts("ftypavif", 4)) return "image/avif";
  if (starts("wOF2")) return "font/woff2";
  const head = bytes
    .subarray(0, 1024)
    .toString("utf8")
    .replace(/^\uFEFF/, "")
    .trimStart();
  const isSvg = /^(?:<\?xml[^>]*>\s*)?(?:<!--[\s\S]*?-->\s*)*(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]/i.test(
    head,
  );
  return isSvg ? "image/svg+xml" : null;
}

/** The bytes of the multipart field `file`. */
function readUpload(request: FastifyRequest): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const body = request.body as Readable | undefined;
    let parser: busboy.Busboy;
    try {
      parser = busboy({
        headers: request.headers,
        limits: { files: 1, fields: 10, parts: 12, fileSize: mostBytes },
      });
    } catch {
      reject(refused("is missing. Send the image as multipart/form-data, in a field named file"));
      return;
    }
    let found: Buffer | null = null;
    parser.on("file", (name, stream) => {
      const parts: Buffer[] = [];
      stream.on("data", (part: Buffer) => parts.push(part));
      stream.on("limit", () => reject(tooLarge()));
      stream.on("close", () => {
        if (name === "file") found = Buffer.concat(parts);
      });
    });
    parser.on("error", () => reject(refused("could not be read. Send it as multipart/form-data")));
    parser.on("close", () =>
      found ? resolve(found) : reject(refused("is missing. Send the image in a field named file")),
    );
    if (!body || typeof body.pipe !== "function") {
      reject(refused("is missing. Send the image as multipart/form-data, in a field named file"));
      return;
    }
    body.on("error", reject);
    body.pipe(parser);
  });
}

async function store(
  platform: Platform,
  tenantId: string,
  asset: { id: string; kind: string; type: string; bytes: Buffer },
) {
  await transaction(platform.pool, async (db) => {
    await db.query(
      "insert into branding_assets (id, tenant_id, kind, content_type, bytes) values ($1, $2, $3, $4, $5)",
      [asset.id, tenantId, asset.kind, asset.type, asset.bytes],
    );
    await db.query(
      `delete from branding_assets a using tenants t where a.tenant_id = $1 and t.id = $1 and position(a.id::text in t.branding::text) = 0
         and a.id not in (select id from branding_assets where tenant_id = $1 order by created_at desc limit ${mostAssets})`,
      [tenantId],
    );
  });
}

export function assetHandlers(platform: Platform): Handler[] {
  return [
    handler(r.uploadAsset, async ({ caller, params, request, reply, idFor }) => {
      assertWholeTenant(caller, "The brand");
      const kind = params["kind"]!;
      if (!/^[a-z][a-z0-9_-]{0,40}$/.test(kind)) {
        throw new PlatformError("VALIDATION_FAILED", "kind: is not a name such as logo or favicon.", {
          errors: { kind: ["is not a name such as logo or favicon"] },
        });
      }
      const bytes = await readUpload(request);
      const type = sniffAsset(bytes);
      if (!type)
        throw refused("is not an image. Send PNG, JPEG, WebP, AVIF, GIF, ICO or SVG; a font as WOFF2");
      const id = idFor(`asset:${kind}`);
      if (type.startsWith("font/") !== (kind === "font"))
        throw refused(
          kind === "font" ? "is not a font. Send WOFF2" : "is a font. Upload it under the kind font",
        );
      const known = await queryOne(platform.pool, "select 1 as one from branding_assets where id = $1", [id]);
      if (!known) await store(platform, caller.tenantId, { id, kind, type, bytes });
      const tenant = (await tenantById(platform.pool, caller.tenantId))!;
      const url = `${publicUrl(platform.settings, apiHostname(tenant))}/branding/assets/${id}`;
      return reply.status(201).send({ url, id, kind, content_type: type, size_bytes: bytes.length });
    }),
  ];
}

/**
 * Serves brand images to everybody, at /branding/assets/:id on the API host. A vector image may hold
 * scripts: the policy keeps them from running when the image is opened as a page.
 */
export function registerAssets(app: FastifyInstance, platform: Platform): void {
  app.get<{ Params: { id: string } }>("/api/v1/branding/assets/:id", async (request, reply) => {
    const { id } = request.params;
    const row = isUuid(id)
      ? await queryOne<{ content_type: string; bytes: Buffer }>(
          platform.pool,
          "select content_type, bytes from branding_assets where id = $1",
          [id],
        )
      : null;
    if (!row) throw notFound("The image");
    return reply
      .header("content-type", row.content_type)
      .header("x-content-type-options", "nosniff")
      .header(
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox",
      )
      .header("cross-origin-resource-policy", "cross-origin")
      .header("cache-control", "public, max-age=31536000, immutable")
      .send(row.bytes);
  });
}
