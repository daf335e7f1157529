import { randomBytes } from "node:crypto";
import { platformRoutes as r } from "@platform/contract";
import { handler, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { hashSecret } from "./secret.ts";

export function ticketHandlers({ pool }: Platform): Handler[] {
  return [
    handler(r.ticket, async ({ caller }) => {
      const ticket = `tkt_${randomBytes(24).toString("base64url")}`;
      await pool.query("delete from stream_tickets where expires_at < now()");
      await pool.query(
        "insert into stream_tickets (hash, key_id, expires_at) values ($1, $2, now() + interval '1 hour')",
        [hashSecret(ticket), caller.keyId],
      );
      return { ticket, expires_in: 3600 };
    }),
  ];
}
