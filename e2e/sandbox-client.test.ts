import { after, before, test } from "node:test";
import { startOwnPlatform, type OwnPlatform } from "./full/own-platform.ts";
import { runSession } from "./sandbox-client/run-session.ts";

let platform: OwnPlatform;
before(async () => {
  platform = await startOwnPlatform();
});
after(() => platform?.stop());

test("the published client of the sandbox protocol works with a domain and a key", (t) =>
  runSession(t, platform, "lean"));
