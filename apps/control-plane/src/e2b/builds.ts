import { parseBuildSpec, type TemplateBuildSpec } from "@platform/contract";
import { unguessableId } from "@platform/daemon";
import { z } from "zod";
import {
  findOwnTemplate,
  findTemplate,
  linesAfter,
  loadTemplateBuild,
  openSpec,
  saveBuild,
  saveTemplate,
  type TemplateBuildRow,
  type TemplateRow,
} from "../templates/index.ts";
import { copyCommand, filesIdOf, uploadLink } from "./copied-files.ts";
import { ClientProblem, notSupported, parseBody } from "./problem.ts";
import type { ClientCall, ClientRoute } from "./route.ts";

const defaultTag = "default";
const NewTemplate = z.looseObject({
  name: z.string().min(1).max(128).optional(),
  alias: z.string().min(1).max(128).optional(),
  tags: z.array(z.string()).max(20).default([]),
  cpuCount: z.int().min(1).max(32).optional(),
  memoryMB: z.int().min(128).max(65_536).optional(),
});

const Step = z.looseObject({
  type: z.string(),
  args: z.array(z.string()).default([]),
  filesHash: z.string().optional(),
});
const StartBuild = z.looseObject({
  fromImage: z.string().min(1).max(500).optional(),
  fromTemplate: z.string().min(1).max(200).optional(),
  fromImageRegistry: z.unknown().optional(),
  steps: z.array(Step).max(200).default([]),
  startCmd: z.string().optional(),
  readyCmd: z.string().optional(),
});
type StartBuild = z.output<typeof StartBuild>;

/** What clients start from when nothing is said: an image that only its maker has, with what ours has. */
const clientBase = /^(?:docker\.io\/)?e2bdev\/(?:base|code-interpreter)(?::.*)?$/;
const standardFolder = "/home/user";

/** Without tag and namespace. @throws ClientProblem 400 */
function slugOf(text: string, tags: readonly string[]): string {
  const [path = "", tag] = text.split(":");
  const others = [...tags, ...(tag === undefined ? [] : [tag])].filter((one) => one !== defaultTag);
  if (others.length > 0)
    throw notSupported(`The tag "${others[0]}"`, "Leave tags out: the newest build is used.");
  const slug = path.slice(path.lastIndexOf("/") + 1).toLowerCase();
  if (!/^[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?$/.test(slug))
    throw new ClientProblem(400, "name: has letters, digits, hyphens and underscores, at most 63.");
  if (findTemplate(slug))
    throw new ClientProblem(403, `Template '${slug}' comes with the platform. Choose another name.`);
  return slug;
}

const quote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

/** One shell command a step. Steps run as root: homes of a template are not kept, its system is. */
function stepsOf(input: StartBuild, tenantId: string): Pick<TemplateBuildSpec, "steps" | "env" | "workdir"> {
  const env: Record<string, string> = {};
  const steps: { run: string; files?: string }[] = [];
  let folder = standardFolder;
  for (const { type, args, filesHash } of input.steps) {
    if (type === "ENV") for (let at = 0; at + 1 < args.length; at += 2) env[args[at]!] = args[at + 1]!;
    else if (type === "WORKDIR" && args[0]) {
      folder = args[0].startsWith("/") ? args[0] : `${folder}/${args[0]}`;
      steps.push({ run: `mkdir -p ${quote(folder)}` });
    } else if (type === "RUN" && args[0]) steps.push({ run: `cd ${quote(folder)} && ${args[0]}` });
    else if (type === "COPY")
      steps.push({ run: copyCommand(args, folder), files: filesIdOf(tenantId, filesHash) });
    else if (type !== "USER") throw notSupported(`The step ${type}`);
  }
  return { steps, env, workdir: folder };
}

function specOf(
  input: StartBuild,
  tenantId: string,
  size: { vcpu?: number | undefined; memoryMib?: number | undefined },
) {
  if (input.fromImageRegistry !== undefined && input.fromImageRegistry !== null)
    throw notSupported("fromImageRegistry", "Ask the operator to configure the registry.");
  const isOwnBase = input.fromImage === undefined || clientBase.test(input.fromImage);
  const start = isOwnBase ? { from: input.fromTemplate ?? "miosa-sandbox" } : { image: input.fromImage };
  return parseBuildSpec({
    ...{ ...start, ...stepsOf(input, tenantId) },
    ...(size.vcpu === undefined ? {} : { vcpu: size.vcpu }),
    ...(size.memoryMib === undefined ? {} : { memoryMib: size.memoryMib }),
    ...(input.startCmd ? { startCmd: input.startCmd } : {}),
    // Without a start command there is nothing whose readiness could be waited for.
    ...(input.readyCmd && (input.startCmd || !isOwnBase) ? { readyCmd: input.readyCmd } : {}),
  });
}

/** By name with or without tag, or id. @throws ClientProblem 404 */
export async function ownTemplateOf(call: ClientCall, wanted: string): Promise<TemplateRow> {
  const name = wanted.split(":")[0]!;
  const row = await findOwnTemplate(
    call.platform.pool,
    call.caller.tenantId,
    name.slice(name.lastIndexOf("/") + 1),
  );
  if (!row) throw new ClientProblem(404, `Template '${wanted}' not found`);
  return row;
}

/** The id of the build is given out now; the build begins with the call that says what it is made of. */
async function request(call: ClientCall) {
  const input = parseBody(NewTemplate, call.body);
  const named = input.name ?? input.alias;
  if (named === undefined) throw new ClientProblem(400, "name: is missing.");
  const slug = slugOf(named, input.tags);
  const { platform, caller } = call;
  const spec = parseBuildSpec({
    ...(input.cpuCount === undefined ? {} : { vcpu: input.cpuCount }),
    ...(input.memoryMB === undefined ? {} : { memoryMib: input.memoryMB }),
  });
  const known = await findOwnTemplate(platform.pool, caller.tenantId, slug);
  const id = known?.id ?? unguessableId();
  if (!known)
    await saveTemplate(
      platform,
      platform.pool,
      { id, tenant_id: caller.tenantId, slug, name: named, description: null, metadata: {} },
      spec,
    );
  const tags = [defaultTag];
  return { templateID: id, buildID: unguessableId(), public: false, aliases: [slug], names: [slug], tags };
}

async function start(call: ClientCall) {
  const { platform } = call;
  const row = await ownTemplateOf(call, call.params["templateID"]!);
  const buildId = z.uuid().safeParse(call.params["buildID"]);
  if (!buildId.success) throw new ClientProblem(400, "buildID: is not an id that this API gave out.");
  if (await loadTemplateBuild(platform.pool, buildId.data))
    throw new ClientProblem(400, "This build has begun.");
  const { vcpu, memoryMib } = openSpec(platform, row);
  await saveBuild(
    platform,
    buildId.data,
    row,
    specOf(parseBody(StartBuild, call.body), call.caller.tenantId, { vcpu, memoryMib }),
    true,
  );
  call.reply.status(202);
  return {};
}

export const statusOf = (build: TemplateBuildRow | null): "waiting" | "building" | "ready" | "error" => {
  if (!build || build.state === "queued") return "waiting";
  if (build.state === "ready") return "ready";
  return build.state === "failed" || build.state === "cancelled" ? "error" : "building";
};

const longestLog = 100;

async function linesOf(call: ClientCall, buildId: string, offset: number) {
  const lines = await linesAfter(call.platform.pool, buildId, 0, 1_000_000);
  return lines.slice(offset, offset + longestLog).map(({ line, stream, at }) => ({
    timestamp: at.toISOString(),
    message: line,
    level: stream === "stderr" ? ("warn" as const) : ("info" as const),
  }));
}

async function ownBuildOf(call: ClientCall): Promise<TemplateBuildRow | null> {
  const row = await ownTemplateOf(call, call.params["templateID"]!);
  const id = z.uuid().safeParse(call.params["buildID"]);
  if (!id.success) throw new ClientProblem(404, "There is no such build.");
  const build = await loadTemplateBuild(call.platform.pool, id.data);
  if (build && build.template_id !== row.id) throw new ClientProblem(404, "There is no such build.");
  return build;
}

async function status(call: ClientCall) {
  const build = await ownBuildOf(call);
  const offset = Math.max(0, Number(call.query["logsOffset"] ?? 0) || 0);
  const logEntries = build ? await linesOf(call, build.id, offset) : [];
  return {
    ...{ templateID: call.params["templateID"]!, buildID: call.params["buildID"]!, status: statusOf(build) },
    ...{ logs: logEntries.map(({ message }) => message), logEntries },
    ...(statusOf(build) === "error"
      ? { reason: { message: build?.failure?.detail ?? "The build was cancelled.", logEntries: [] } }
      : {}),
  };
}

async function logs(call: ClientCall) {
  const build = await ownBuildOf(call);
  return { logs: build ? await linesOf(call, build.id, 0) : [] };
}

const read = "sandboxes:read";
const write = "sandboxes:write";
const build = "/templates/{templateID}/builds/{buildID}";

export const buildRoutes: readonly ClientRoute[] = [
  { method: "POST", path: "/v3/templates", scope: write, status: 202, handle: request },
  { method: "POST", path: `/v2${build}`, scope: write, status: 202, handle: start },
  { method: "GET", path: `${build}/status`, scope: read, handle: status },
  { method: "GET", path: `${build}/logs`, scope: read, handle: logs },
  {
    ...{ method: "GET", path: "/templates/{templateID}/files/{hash}", scope: write, status: 201 },
    handle: async (call) => {
      await ownTemplateOf(call, call.params["templateID"]!);
      return uploadLink(call);
    },
  },
];
