import {
  BoxKey,
  BoxPatch,
  BoxSpec,
  CopySpec,
  DatabaseUserSpec,
  QueryRequest,
  DoorRequest,
  FenceRequest,
  ForgottenLog,
  HostError,
  ImageBuildSpec,
  MigrationsSpec,
  UpgradeSpec,
  StandingQuery,
  type Doctor,
} from "@platform/host-api";
import { z } from "zod";
import type { Artifacts } from "../artifacts/index.ts";
import type { Boxes } from "../boxes/index.ts";
import { isOwnBox, type Images } from "../images/index.ts";
import type { EngineRegistry } from "../engines/registry.ts";
import type { Doors } from "./doors.ts";
import type { Fences } from "./fences.ts";

export interface Services {
  readonly boxes: Boxes;
  readonly artifacts: Artifacts;
  readonly engines: EngineRegistry;
  readonly images: Images;
  readonly fences: Fences;
  readonly doors: Doors;
  readonly doctor: () => Promise<Doctor>;
}

export interface Call {
  readonly key: string;
  readonly query: URLSearchParams;
  /** Parsed JSON; `undefined` without a body. */
  readonly body: unknown;
  /** Aborts when the daemon stops, not when the caller leaves: others may wait for the same work. */
  readonly signal: AbortSignal;
}

type Handler = (call: Call) => unknown;

const SnapshotRequest = z.object({ boxKey: BoxKey });
const lineNumber = z.coerce.number().int().min(0);
const lineCount = z.coerce.number().int().min(1).max(10_000).default(100);

const orNotFound = async <T>(found: Promise<T | null> | T | null, what: string): Promise<T> => {
  const value = await found;
  if (value === null) throw new HostError("NOT_FOUND", 404, `There is no ${what} on this host.`);
  return value;
};

function boxRoutes({ boxes, artifacts, engines }: Services): Record<string, Handler> {
  return {
    "GET /boxes": () => boxes.list().filter(({ key }) => !isOwnBox(key)),
    "GET /pool": () => ({ ...boxes.pool, databases: engines.spares() }),
    "PUT /boxes/:key": ({ key, body }) => boxes.put(key, BoxSpec.parse(body)),
    "GET /boxes/:key": ({ key }) => orNotFound(boxes.find(key), `box ${key}`),
    "DELETE /boxes/:key": ({ key }) => boxes.delete(key),
    "PATCH /boxes/:key": ({ key, body }) => boxes.patch(key, BoxPatch.parse(body)),
    "POST /boxes/:key/pause": ({ key }) => boxes.pause(key),
    "POST /boxes/:key/resume": ({ key }) => boxes.resume(key),
    "GET /boxes/:key/stats": ({ key }) => boxes.stats(key),
    "GET /boxes/:key/oom": ({ key }) => boxes.oom(key),
    "GET /boxes/:key/egress": ({ key }) => boxes.get(key).outbound?.attempts ?? [],
    "POST /boxes/:key/freeze": ({ key, body }) => artifacts.freeze(boxes, key, body ?? {}),
    "POST /boxes/:key/bundle": ({ key, body }) => artifacts.bundle(boxes, key, body),
    "POST /boxes/:key/fill": ({ key, body }) => artifacts.fillFolder(boxes, key, body),
    "POST /chunks": ({ body }) => artifacts.putChunk(body),
    "POST /assembled-chunks": ({ body }) => artifacts.assembleChunks(body),
    "POST /removed-chunks": ({ body }) => artifacts.removeChunks(body),
    "POST /collected-artifacts": ({ body }) => artifacts.collect(boxes, body),
    "POST /bundle-check": ({ body }) => artifacts.checkBundle(body),
    "POST /bundle-diff": ({ body }) => artifacts.diffBundles(body),
    "POST /bundle-sbom": ({ body }) => artifacts.bundleSbom(body),
    "GET /snapshots": () => artifacts.snapshots(),
    "PUT /snapshots/:key": ({ key, body }) =>
      artifacts.snapshot(boxes, key, SnapshotRequest.parse(body).boxKey),
    "DELETE /snapshots/:key": ({ key }) => artifacts.deleteSnapshot(key),
  };
}

function imageRoutes({ images }: Services): Record<string, Handler> {
  return {
    "GET /images": () => images.report(),
    "DELETE /images/:key": ({ key }) => images.removeByPrefix(key.replace("-", ":")),
    "GET /image-builds": () => images.builds(),
    "PUT /image-builds/:key": ({ key, body }) => images.put(key, ImageBuildSpec.parse(body)),
    "GET /image-builds/:key": ({ key }) => orNotFound(images.build(key), `image build ${key}`),
    "GET /image-builds/:key/logs": async ({ key, query }) => ({
      lines: await images.logs(
        key,
        lineNumber.parse(query.get("after") ?? 0),
        lineCount.parse(query.get("limit") ?? 1000),
      ),
    }),
    "POST /image-builds/:key/cancel": ({ key }) => images.cancel(key),
    "DELETE /image-builds/:key": ({ key }) => images.deleteBuild(key),
    "DELETE /image-uploads/:key": ({ key }) => images.uploads.remove(key),
  };
}

function databaseRoutes({ engines }: Services): Record<string, Handler> {
  return {
    "GET /databases": () => engines.list(),
    "PUT /databases/:key": ({ key, body, signal }) => engines.create(key, body, signal),
    "GET /databases/:key": async ({ key }) =>
      (await orNotFound(engines.find(key), `database ${key}`)).database,
    "DELETE /databases/:key": ({ key }) => engines.destroy(key),
    "POST /databases/:key/start": async ({ key }) => (await engines.engineOf(key)).start(key),
    "POST /databases/:key/stop": async ({ key }) => (await engines.engineOf(key)).stop(key),
    "POST /databases/:key/restart": async ({ key }) => {
      const engine = await engines.engineOf(key);
      await engine.stop(key);
      return engine.start(key);
    },
    "POST /databases/:key/rotate": async ({ key }) => (await engines.engineOf(key)).rotate(key),
    "POST /databases/:key/end-rotation": async ({ key }) => (await engines.engineOf(key)).endRotation(key),
    "GET /databases/:key/users": async ({ key }) => (await engines.engineOf(key)).users(key),
    "PUT /databases/:key/users": async ({ key, body }) => {
      const { name, access } = DatabaseUserSpec.parse(body);
      return (await engines.engineOf(key)).putUser(key, name, access);
    },
    "POST /databases/:key/removed-users": async ({ key, body }) =>
      (await engines.engineOf(key)).dropUser(key, DatabaseUserSpec.pick({ name: true }).parse(body).name),
    "POST /databases/:key/copies": ({ key, body, signal }) => {
      const { from, spec } = CopySpec.parse(body);
      return engines.copy(key, from, spec, signal);
    },
    "POST /databases/:key/migrations": async ({ key, body }) =>
      (await engines.engineOf(key)).migrate(key, MigrationsSpec.parse(body)),
    "POST /databases/:key/upgrade": async ({ key, body, signal }) =>
      (await engines.engineOf(key)).upgrade(key, UpgradeSpec.parse(body).version, signal),
    "POST /databases/:key/back": async ({ key }) => (await engines.engineOf(key)).goBack(key),
    "DELETE /databases/:key/before": async ({ key }) => (await engines.engineOf(key)).forgetBefore(key),
    "POST /databases/:key/log-stock": async ({ key }) => (await engines.log(key)).take(),
    "DELETE /databases/:key/log-stock": async ({ key }) => (await engines.log(key)).stop(),
    "POST /databases/:key/forgotten-log": async ({ key, body }) =>
      (await engines.log(key)).forget(ForgottenLog.parse(body).names),
    "POST /databases/:key/probe": ({ key }) => engines.probe(key),
    "GET /databases/:key/credentials": async ({ key }) => (await engines.engineOf(key)).credentials(key),
    "POST /databases/:key/query": async ({ key, body }) =>
      (await engines.engineOf(key)).query(key, QueryRequest.parse(body)),
    "GET /databases/:key/stats": async ({ key }) => (await engines.engineOf(key)).stats(key),
    "GET /databases/:key/logs": async ({ key, query }) => ({
      lines: await (await engines.engineOf(key)).logs(key, lineCount.parse(query.get("lines") ?? undefined)),
    }),
  };
}

function edgeRoutes({ fences, doors }: Services): Record<string, Handler> {
  return {
    "POST /doors": ({ body }) => {
      const { boxKey, port } = DoorRequest.parse(body);
      return doors.at(boxKey, port);
    },
    "POST /fences": ({ body }) => fences.put(FenceRequest.parse(body)),
    "GET /fences": ({ query }) => {
      const { edge, applied } = StandingQuery.parse(Object.fromEntries(query));
      return fences.ask(edge, applied);
    },
  };
}

export type Routes = Readonly<Record<string, Handler>>;

export function createRoutes(services: Services): Routes {
  return {
    "GET /doctor": () => services.doctor(),
    ...boxRoutes(services),
    ...imageRoutes(services),
    ...databaseRoutes(services),
    ...edgeRoutes(services),
  };
}

/**
 * Paths are `/collection`, `/collection/key` or `/collection/key/action`.
 *
 * @throws HostError `NOT_FOUND` for an unknown route, `INVALID` for a malformed key
 */
export function findRoute(routes: Routes, method: string, path: string): { handler: Handler; key: string } {
  const [collection, key, action, ...more] = path.split("/").filter(Boolean);
  const pattern = `${method} /${[collection, key && ":key", action].filter(Boolean).join("/")}`;
  const handler = more.length === 0 ? routes[pattern] : undefined;
  if (!handler) throw new HostError("NOT_FOUND", 404, `There is no ${method} ${path}.`);
  if (key !== undefined && !BoxKey.safeParse(key).success) {
    throw new HostError("INVALID", 400, "A key has 7 to 63 lower-case letters, digits and hyphens.");
  }
  return { handler, key: key ?? "" };
}
