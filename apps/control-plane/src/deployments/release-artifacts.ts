import { notFound, releaseRoutes as r } from "@platform/contract";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { diffReleases, loadRelease, releaseSbom, verifyRelease, type ReleaseRow } from "../releases/index.ts";
import { isUuid } from "../tenants/index.ts";
import { ownDeployment } from "./store.ts";

/** What a release is made of, and whether that still is so. */
export function releaseArtifactHandlers(platform: Platform): Handler[] {
  /** @throws PlatformError NOT_FOUND, also for a release of another deployment */
  async function release(call: Call, parameter: "rid" | "other"): Promise<ReleaseRow> {
    const deployment = await ownDeployment(platform.pool, call.caller, call.params["id"]!);
    const id = call.params[parameter]!;
    const row = isUuid(id) ? await loadRelease(platform.pool, id) : null;
    if (!row || row.deployment_id !== deployment.id) throw notFound(`Release ${id}`);
    return row;
  }
  return [
    handler(r.verify, async (call) =>
      verifyRelease(platform, await release(call as Call, "rid"), call.signal),
    ),
    handler(r.sbom, async (call) => releaseSbom(platform, await release(call as Call, "rid"), call.signal)),
    handler(r.diff, async (call) => {
      const [from, to] = [await release(call as Call, "rid"), await release(call as Call, "other")];
      return diffReleases(platform, from, to, call.signal);
    }),
  ];
}
