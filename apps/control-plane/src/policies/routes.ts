import { policiesRoutes as r, type Policy, type QuotaLimits } from "@platform/contract";
import { queryOne } from "@platform/postgres";
import { handler, type Call, type Caller, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { assertWholeTenant, Conditions, ownWorkspace } from "../tenants/index.ts";
import { effectivePolicy, usedBy, type PolicyScope } from "./policies.ts";

interface Place {
  readonly scope: PolicyScope;
  readonly subject: string;
}

/** A policy limits whoever is bound by it: only keys of the whole tenant see and change it. */
export function policyHandlers(platform: Platform): Handler[] {
  const { pool } = platform;
  const read = async ({ tenantId }: Caller, { scope, subject }: Place): Promise<Policy> =>
    (
      await queryOne<{ policy: Policy }>(
        pool,
        "select policy from policies where tenant_id = $1 and scope = $2 and subject = $3",
        [tenantId, scope, subject],
      )
    )?.policy ?? {};
  const write = async ({ tenantId }: Caller, { scope, subject }: Place, policy: Policy): Promise<Policy> => {
    await pool.query(
      `insert into policies (tenant_id, scope, subject, policy) values ($1, $2, $3, $4)
       on conflict (tenant_id, scope, subject) do update set policy = excluded.policy, updated_at = now()`,
      [tenantId, scope, subject, JSON.stringify(policy)],
    );
    return policy;
  };
  const remove = async ({ tenantId }: Caller, { scope, subject }: Place) => {
    await pool.query("delete from policies where tenant_id = $1 and scope = $2 and subject = $3", [
      tenantId,
      scope,
      subject,
    ]);
    return { deleted: true };
  };
  const three = (routes: (typeof r)["tenant"], placeOf: (call: Call) => Promise<Place>): Handler[] => {
    const checked = async (call: Call) => {
      assertWholeTenant(call.caller, "A policy");
      return placeOf(call);
    };
    return [
      handler(routes.get, async (call) => read(call.caller, await checked(call as Call))),
      handler(routes.put, async (call) =>
        write(call.caller, await checked(call as unknown as Call), call.body),
      ),
      handler(routes.remove, async (call) => remove(call.caller, await checked(call as Call))),
    ];
  };
  const userOf = ({ params }: Call): Place => ({ scope: "user", subject: params["id"]! });

  const effective = async (caller: Caller, workspace: string | undefined, user: string | undefined) => {
    const workspaceId = workspace ? (await ownWorkspace(pool, caller, workspace)).id : caller.workspaceId;
    const externalUserId = caller.externalUserId ?? user ?? null;
    return effectivePolicy(pool, { tenantId: caller.tenantId, workspaceId, externalUserId });
  };
  const quotaView = async ({ tenantId }: Caller, externalUserId: string) => {
    const { quotas } = await effectivePolicy(pool, { tenantId, workspaceId: null, externalUserId });
    const conditions = new Conditions()
      .add("tenant_id = $?", tenantId)
      .add("external_user_id = $?", externalUserId);
    return {
      external_user_id: externalUserId,
      limits: Object.fromEntries(Object.entries(quotas).map(([name, { value }]) => [name, value])),
      usage: await usedBy(pool, conditions),
    };
  };
  const changeQuotas = async (caller: Caller, user: string, limits: QuotaLimits | null) => {
    assertWholeTenant(caller, "A quota");
    const place: Place = { scope: "user", subject: user };
    const { quotas, ...policy } = await read(caller, place);
    await write(caller, place, limits === null ? policy : { ...policy, quotas: { ...quotas, ...limits } });
  };
  return [
    ...three(r.tenant, () => Promise.resolve({ scope: "tenant", subject: "" })),
    ...three(r.workspace, async ({ caller, params }) => ({
      scope: "workspace",
      subject: (await ownWorkspace(pool, caller, params["id"]!)).id,
    })),
    ...three(r.user, (call) => Promise.resolve(userOf(call))),
    handler(r.effective, ({ caller, query }) =>
      effective(caller, query.workspace_id, query.external_user_id),
    ),
    handler(r.effectiveOfUser, ({ caller, params, query }) => {
      if (caller.externalUserId !== params["id"]) assertWholeTenant(caller, "The policy of another user");
      return effective(caller, query.workspace_id, params["id"]);
    }),
    handler(r.quota.get, ({ caller, params }) => {
      if (caller.externalUserId !== params["id"]) assertWholeTenant(caller, "The quota of another user");
      return quotaView(caller, params["id"]!);
    }),
    handler(r.quota.put, async ({ caller, params, body }) => {
      await changeQuotas(caller, params["id"]!, body);
      return quotaView(caller, params["id"]!);
    }),
    handler(r.quota.remove, async ({ caller, params }) => {
      await changeQuotas(caller, params["id"]!, null);
      return quotaView(caller, params["id"]!);
    }),
  ];
}
