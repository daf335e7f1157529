import { after, before, test } from "node:test";
import { runTemplateSession } from "../sandbox-client/run-session.ts";
import { startOwnPlatform, type OwnPlatform } from "./own-platform.ts";

let platform: OwnPlatform;
before(async () => {
  const images = process.env["IMAGES_DIR"];
  platform = await startOwnPlatform(images === undefined ? {} : { IMAGES_DIR: images });
});
after(() => platform?.stop());

test("the published client builds templates", async (t) => {
  const row = await platform.must("GET", "/sandbox-templates/miosa-sandbox");
  const { digest } = row["image"] as { digest: string | null };
  if (digest === null) return t.skip("no image to start from is built: miosa images build standard");
  await runTemplateSession(t, platform, "miosa-sandbox");
});
