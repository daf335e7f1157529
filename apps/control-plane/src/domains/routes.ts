import { domainRoutes as r, notFound, type ClaimDomain, type ListQuery } from "@platform/contract";
import type { z } from "zod";
import { ownDeployment } from "../deployments/index.ts";
import { record } from "../events/index.ts";
import { handler, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { ownedBy, page } from "../tenants/index.ts";
import { assertNoLoop, claimDomain } from "./claim.ts";
import { routeDomain } from "./routing.ts";
import { domainById, domainView, ownDomain, type DomainRow } from "./store.ts";
import { orderCertificate, verifyDomain } from "./verify.ts";

async function removeDomain(platform: Platform, row: DomainRow) {
  const removed = await platform.pool.query(
    "update domains set state = 'removed', removed_at = now(), updated_at = now() where id = $1 and state <> 'removed'",
    [row.id],
  );
  await routeDomain(platform, row.id);
  if (removed.rowCount === 1)
    await record(platform, {
      tenantId: row.tenant_id,
      workspaceId: row.workspace_id,
      type: "domain.removed",
      resourceType: "domain",
      resourceId: row.id,
      data: { id: row.id, hostname: row.hostname },
    });
  return { id: row.id, hostname: row.hostname, deleted: true };
}

export function domainHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const view = (row: DomainRow) => domainView(pool, row);
  const own = (call: Call) => ownDomain(pool, call.caller, call.params["hostname"]!);
  const ofDeployment = async (call: Call): Promise<DomainRow> => {
    const deployment = await ownDeployment(pool, call.caller, call.params["id"]!);
    const row = await ownDomain(pool, call.caller, call.params["did"]!);
    if (row.deployment_id !== deployment.id) throw notFound(`Domain ${call.params["did"]}`);
    return row;
  };
  const list = async (call: Call, query: ListQuery, deploymentId?: string) => {
    const conditions = ownedBy(call.caller, query).raw("state <> 'removed'");
    if (deploymentId) conditions.add("deployment_id = $?", deploymentId);
    if (query.state === "active") conditions.raw("state = 'verified'");
    else if (query.state) conditions.add("state = $?", query.state);
    const { rows, next_cursor } = await page<DomainRow>(pool, "domains", conditions, query);
    return { data: await Promise.all(rows.map(view)), ...(next_cursor ? { next_cursor } : {}) };
  };
  const claim = async (call: Call, input: z.output<typeof ClaimDomain>) =>
    view(await claimDomain(platform, call, input));
  return [
    handler(r.list, async (call) => list(call as Call, call.query)),
    handler(r.claim, async (call) => claim(call as unknown as Call, call.body)),
    handler(r.get, async (call) => view(await own(call as Call))),
    handler(r.remove, async (call) => removeDomain(platform, await own(call as Call))),
    handler(r.verify, async (call) => view(await verifyDomain(platform, await own(call as Call)))),
    handler(r.assign, async (call) => {
      const row = await own(call as unknown as Call);
      const deployment = await ownDeployment(pool, call.caller, call.body.deployment_id);
      const policy = call.body.redirect_policy ?? row.redirect_policy;
      await assertNoLoop(platform, row.tenant_id, row.hostname, policy);
      await pool.query(
        "update domains set deployment_id = $2, redirect_policy = $3, generation = generation + 1, updated_at = now() where id = $1",
        [row.id, deployment.id, policy],
      );
      await routeDomain(platform, row.id);
      if (row.verified_at) await orderCertificate(platform, row.hostname);
      return view((await domainById(pool, row.id))!);
    }),
    handler(r.detach, async (call) => {
      const row = await own(call as Call);
      await pool.query(
        "update domains set deployment_id = null, generation = generation + 1, updated_at = now() where id = $1",
        [row.id],
      );
      await routeDomain(platform, row.id);
      return view((await domainById(pool, row.id))!);
    }),
    handler(r.listOfDeployment, async (call) => {
      const deployment = await ownDeployment(pool, call.caller, call.params["id"]!);
      return list(call as Call, call.query, deployment.id);
    }),
    handler(r.claimForDeployment, async (call) =>
      claim(call as unknown as Call, {
        ...call.body,
        resource_type: "deployment",
        deployment_id: call.params["id"]!,
      }),
    ),
    handler(r.getOfDeployment, async (call) => view(await ofDeployment(call as Call))),
    handler(r.verifyOfDeployment, async (call) =>
      view(await verifyDomain(platform, await ofDeployment(call as Call))),
    ),
    handler(r.removeOfDeployment, async (call) => removeDomain(platform, await ofDeployment(call as Call))),
    handler(r.listCustom, async (call) => list(call as Call, call.query)),
    handler(r.claimCustom, async (call) => claim(call as unknown as Call, call.body)),
    handler(r.removeCustom, async (call) => removeDomain(platform, await own(call as Call))),
  ];
}
