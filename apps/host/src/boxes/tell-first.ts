import { guestConfig } from "./folders.ts";
import type { LiveBox } from "./live-box.ts";

/** Settings and services of a box whose agent ran before it had a caller. */
export async function tellFirst({ guest, record: { spec } }: LiveBox, timeoutMs: number): Promise<void> {
  await guest.json("PUT", "/config", { ...guestConfig(spec), isFirstUse: true }, timeoutMs);
  for (const { name, ...service } of spec.services) {
    await guest.json("PUT", `/services/${name}`, service, timeoutMs);
  }
}
