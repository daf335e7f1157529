import { after, before, test } from "node:test";
import { holdAgainstDescription } from "../sandbox-client/control-api.ts";
import { runInterpreterSession, runSession } from "../sandbox-client/run-session.ts";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

let platform: OwnPlatform;
before(async () => {
  platform = await startOwnPlatform();
});
after(() => platform?.stop());

test("the published client of the sandbox protocol does all that it can with a domain and a key", (t) =>
  runSession(t, platform, "full"));

test("the published code interpreter runs cells in contexts that last", (t) =>
  runInterpreterSession(t, platform));

test("every answer of its control API is as its maker describes it", () => holdAgainstDescription(platform));
