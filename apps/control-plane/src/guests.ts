import { Agent } from "node:http";
import { createGuestClient, type GuestClient } from "@platform/guest-protocol";
import type { HostClient } from "@platform/host-api";

const agent = new Agent({ keepAlive: true, maxFreeSockets: 64 });

/** The guest agent of a box, reached through the box's host. */
export function guestOf(host: HostClient, boxKey: string): GuestClient {
  return createGuestClient({
    baseUrl: `${host.address.url}/boxes/${boxKey}/guest`,
    headers: { authorization: `Bearer ${host.address.token}` },
    agent,
  });
}
