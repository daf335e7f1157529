import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { SoftQuota } from "../dedicated/kind.ts";
import { administratorLogin, infoOf, withLogin } from "./login.ts";
import { maxMemory, ownerRights } from "./settings.ts";

const mib = 1024 * 1024;

/**
 * A server whose log cannot be written refuses each command that writes, also those that delete: its owner could
 * never mend it. So the disk has room for one more copy of all that memory holds, and the log is written anew there.
 */
export const quota: SoftQuota = {
  reserveBytes: ({ memoryBytes }) => maxMemory(memoryBytes) + 128 * mib,
  restrict: async (entry, authority, isRestricted) => {
    const { username, oldAccounts, users } = entry.state;
    const owners = users.filter(({ access }) => access === "owner");
    await withLogin(administratorLogin(entry, authority), async (client) => {
      // One command: open sessions follow at once, and none is without its rights in between.
      for (const account of [{ username }, ...oldAccounts, ...owners])
        await client.call("ACL", "SETUSER", account.username, "nocommands", ...ownerRights(isRestricted));
      await client.call("ACL", "SAVE");
    });
  },
  passingBytes: ({ folders }) =>
    readdirSync(folders.data)
      .filter((name) => name.startsWith("temp-"))
      .map((name) => statSync(join(folders.data, name), { throwIfNoEntry: false })?.blocks ?? 0)
      .reduce((sum, blocks) => sum + blocks * 512, 0),
  reclaim: async (entry, authority) => {
    await withLogin(administratorLogin(entry, authority), async (client) => {
      const seen = await infoOf(client, "persistence");
      const number = (name: string) => Number(seen.get(name) ?? 0);
      if (number("aof_rewrite_in_progress") + number("aof_rewrite_scheduled") > 0) return;
      // Nothing was written since the log was last made anew: it is as small as its content.
      if (number("aof_current_size") <= number("aof_base_size")) return;
      await client.call("BGREWRITEAOF");
    });
  },
};
