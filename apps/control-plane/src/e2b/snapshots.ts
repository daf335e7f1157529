import { query } from "@platform/postgres";
import { z } from "zod";
import { removeSnapshot } from "../snapshots/index.ts";
import { deleteTemplate, findTemplate } from "../templates/index.ts";
import { ownTemplateOf } from "./builds.ts";
import { ClientProblem, parseBody } from "./problem.ts";
import type { ClientCall, ClientRoute } from "./route.ts";
import { decodeToken, encodeToken, limitOf } from "./sandboxes.ts";
import { assertName, findSnapshot, makeSnapshot, withTag } from "./snapshot-names.ts";
import { clientSandbox } from "./store.ts";

const view = (id: string, name: string | null) => ({
  snapshotID: withTag(id),
  names: name === null ? [] : [withTag(name)],
});

async function create(call: ClientCall) {
  const { name } = parseBody(z.looseObject({ name: z.string().optional() }), call.body);
  const wanted = name === undefined ? {} : { name: assertName(name) };
  const row = await clientSandbox(call);
  const made = await makeSnapshot(call, row, { ...wanted, keep: true });
  return view(made.id, wanted.name ?? null);
}

interface Listed {
  readonly id: string;
  readonly at: string;
  readonly name: string | null;
}

/** What forks were made from is not listed: it goes with them. */
async function list(call: ClientCall) {
  const { query: filter, caller } = call;
  const from = decodeToken(filter["nextToken"]);
  const limit = limitOf(filter["limit"]);
  const rows = await query<Listed>(
    call.platform.pool,
    `select s.id, s.created_at::text as at, n.name from snapshots s
       left join sandboxes b on b.id = s.sandbox_id left join e2b_snapshot_names n on n.snapshot_id = s.id
     where s.tenant_id = $1 and s.status = 'ready' and s.comment is distinct from 'fork'
       and ($2::uuid is null or b.workspace_id = $2) and ($3::text is null or b.external_user_id = $3)
       and ($4::text is null or s.sandbox_id::text = $4) and ($5::text is null or n.name = $5)
       and ($6::timestamptz is null or (s.created_at, s.id) < ($6, $7::uuid))
     order by s.created_at desc, s.id desc limit $8`,
    [
      caller.tenantId,
      caller.workspaceId,
      caller.externalUserId,
      filter["sandboxID"] ?? null,
      filter["name"] ? assertName(filter["name"]) : null,
      from?.at ?? null,
      from?.id ?? null,
      limit + 1,
    ],
  );
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  if (rows.length > limit && last) call.reply.header("x-next-token", encodeToken(last));
  return page.map((row) => view(row.id, row.name));
}

export const snapshotRoutes: readonly ClientRoute[] = [
  {
    method: "POST",
    path: "/sandboxes/{sandboxID}/snapshots",
    scope: "sandboxes:write",
    status: 201,
    handle: create,
  },
  { method: "GET", path: "/snapshots", scope: "sandboxes:read", handle: list },
  {
    method: "DELETE",
    path: "/templates/{templateID}",
    scope: "sandboxes:write",
    status: 204,
    handle: async (call) => {
      const id = call.params["templateID"]!;
      const snapshot = await findSnapshot(call, id);
      if (snapshot) await removeSnapshot(call.platform, snapshot);
      else if (findTemplate(id)) throw new ClientProblem(403, `Template '${id}' is everybody's and stays.`);
      else await deleteTemplate(call.platform, await ownTemplateOf(call, id));
      return null;
    },
  },
];
