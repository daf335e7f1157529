import { posix } from "node:path";
import { derivedId } from "../http/index.ts";
import { hasUpload, storeUpload } from "../templates/index.ts";
import type { FastifyInstance } from "fastify";
import { z } from "zod";
import type { Platform } from "../platform.ts";
import { ClientProblem, notSupported } from "./problem.ts";
import type { ClientCall } from "./route.ts";

const path = "/template-files";
const linkMs = 3_600_000;
/** Of the machine's memory and disk: a context of files, not an image. */
const mostBytes = 2 * 1024 ** 3;

const Hash = z.string().regex(/^[0-9a-f]{16,128}$/);
const Link = z.object({ tenantId: z.string(), id: z.uuid(), until: z.number() });

/** The same files of the same tenant have the same name: a second build need not send them again. */
export function filesIdOf(tenantId: string, hash: unknown): string {
  const known = Hash.safeParse(hash);
  if (!known.success) throw new ClientProblem(400, "filesHash: is no hash of files.");
  return derivedId("files of a template", tenantId, known.data);
}

/** Where the files go. The link is as good as a key for this one upload, for an hour. */
export async function uploadLink(call: ClientCall) {
  const { platform, caller, request } = call;
  const id = filesIdOf(caller.tenantId, call.params["hash"]);
  if (await hasUpload(platform.pool, caller.tenantId, id)) return { present: true };
  const link = { tenantId: caller.tenantId, id, until: Date.now() + linkMs };
  const token = platform.seal.close(JSON.stringify(link)).toString("base64url");
  return { present: false, url: `${request.protocol}://${request.host}${path}?token=${token}` };
}

/** A tar as the client packs it; who has the link needs no key. */
export function registerFileUploads(scope: FastifyInstance, platform: Platform): void {
  void scope.register(async (raw) => {
    raw.removeAllContentTypeParsers();
    raw.addContentTypeParser("*", (_request, payload, done) => done(null, payload));
    raw.put<{ Querystring: { token?: string } }>(path, async (request, reply) => {
      const { tenantId, id } = readLink(platform, request.query.token ?? "");
      if (!(Number(request.headers["content-length"]) <= mostBytes))
        throw new ClientProblem(413, "The files have no length or over 2 GiB. Copy fewer of them.");
      const gone = new AbortController();
      reply.raw.on("close", () => gone.abort());
      await storeUpload(platform, tenantId, id, request.body, gone.signal);
      return reply.status(200).send();
    });
  });
}

function readLink(platform: Platform, token: string): z.output<typeof Link> {
  try {
    const link = Link.parse(JSON.parse(platform.seal.open(Buffer.from(token, "base64url"))));
    if (link.until > Date.now()) return link;
  } catch {
    // Nothing that was given out here.
  }
  throw new ClientProblem(403, "The link is not valid any more. Ask for another one.");
}

const quote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A pattern stays one for the shell; everything else in it is text. */
const pattern = (text: string) => text.replaceAll(/[^A-Za-z0-9_./*?[\]-]/g, (sign) => `\\${sign}`);

/** Folders that each sandbox has of its own: what a template holds there is not seen. */
const own = /^\/(?:home\/user|root|workspace|tmp|run|var\/tmp)(?:\/|$)/;

/**
 * As the client's own server copies: a file to the name or into the folder, a folder's content into the folder.
 *
 * @param args what, where to, owner, mode
 * @throws ClientProblem for a place that no sandbox would see
 */
export function copyCommand(args: readonly string[], folder: string): string {
  const [from = "", to = "", user = "", mode = ""] = args;
  if (from === "" || from.startsWith("/") || from.split("/").includes(".."))
    throw new ClientProblem(400, `COPY: "${from}" is not below the context.`);
  if (/\p{Cc}/u.test(from + to)) throw new ClientProblem(400, "COPY: names have no control characters here.");
  const target = posix.normalize(to.startsWith("/") ? to : `${folder}/${to}`);
  if (own.test(target))
    throw notSupported(
      `Copying to ${target}`,
      "Each sandbox has that folder of its own. Copy to another one, such as /opt/app.",
    );
  if (user !== "" && !/^[a-z_][a-z0-9_-]*(?::[a-z_][a-z0-9_-]*)?$/.test(user))
    throw new ClientProblem(400, `COPY: "${user}" is no user.`);
  if (mode !== "" && !/^[0-7]{3,4}$/.test(mode)) throw new ClientProblem(400, `COPY: "${mode}" is no mode.`);
  const change = (what: string) =>
    [user === "" ? null : `chown -R ${user} ${what}`, mode === "" ? null : `chmod -R ${mode} ${what}`].filter(
      (line) => line !== null,
    );
  const into = `if [ -d "$from" ]; then cp -a "$from"/. "$stage"/; else cp -a "$from" "$stage"/; fi`;
  // By way of a folder of its own, so that owner and mode are those of the copied alone.
  return [
    `# COPY ${from} ${target}`,
    `set -e; to=${quote(target)}; stage="$FILES.stage"; rm -rf "$stage"; mkdir "$stage"; cd "$FILES"`,
    `set -- ./${pattern(from)}; [ -e "$1" ] || { echo "there is no such file in the context" >&2; exit 1; }`,
    `if [ $# = 1 ] && [ -f "$1" ] && [ ! -d "$to" ] && [ "\${to%/}" = "$to" ]; then`,
    `mkdir -p "$(dirname "$to")"; cp -a "$1" "$to"`,
    ...change('"$to"'),
    `rm -rf "$stage"; exit 0; fi`,
    `for from in "$@"; do ${into}; done`,
    ...change('"$stage"'),
    `mkdir -p "$to"; cp -a "$stage"/. "$to"/; rm -rf "$stage"`,
  ].join("\n");
}
