import { Sandbox, Template } from "e2b";
import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { failure, type StepResult } from "./step.ts";

/* The client's template builder, as its maker published it, starting from a template that the platform has. */
const [base = ""] = process.argv.slice(2);
const logs: string[] = [];
const options = { onBuildLogs: (entry: { message: string }) => logs.push(entry.message) };

const build = () =>
  Template.build(
    Template()
      .fromTemplate(base)
      .setEnvs({ GREETING: "hello from the builder" })
      .setWorkdir("/opt/app")
      .runCmd('echo "$GREETING" > greeting && ls -d /opt/app')
      .setStartCmd("echo started > /tmp/started; exec sleep 6000", "test -f /tmp/started"),
    "made-by-builder",
    { ...options, cpuCount: 1, memoryMB: 1024 },
  );

const steps: [string, () => Promise<void>][] = [
  [
    "a template is built by the client's builder, its log comes along, and sandboxes have what it made",
    async () => {
      assert.equal(await Template.exists("made-by-builder"), false);
      const made = await build();
      assert.equal(made.name, "made-by-builder");
      assert.ok(
        logs.some((line) => line.includes("/opt/app")),
        logs.join("\n"),
      );
      assert.equal(await Template.exists("made-by-builder"), true);
      const sandbox = await Sandbox.create("made-by-builder", { timeoutMs: 120_000 });
      const { stdout } = await sandbox.commands.run("cat /opt/app/greeting /tmp/started; echo $GREETING");
      assert.equal(stdout, "hello from the builder\nstarted\nhello from the builder\n");
      await sandbox.kill();
    },
  ],
  [
    "a step that fails is the client's build error",
    async () => {
      const broken = Template().fromTemplate(base).runCmd("echo on purpose >&2; exit 4");
      const error = await failure(Template.build(broken, "broken-by-builder", options));
      assert.match(error.message, /Step 1 ended with 4/);
      assert.ok(logs.includes("on purpose"));
    },
  ],
  [
    "files and folders are copied in, with their mode, also when the platform has them already",
    async () => {
      const context = await mkdtemp(join(tmpdir(), "context-"));
      await mkdir(join(context, "app/deep"), { recursive: true });
      await writeFile(join(context, "one.txt"), "one");
      await writeFile(join(context, "with space.txt"), "two");
      await writeFile(join(context, "app/deep/three.txt"), "three");
      const copying = (name: string) =>
        Template.build(
          Template({ fileContextPath: context })
            .fromTemplate(base)
            .copy("one.txt", "/opt/renamed.txt", { mode: 0o755, user: "user" })
            .copy("with space.txt", "/opt/texts/")
            .copy("app", "/opt/app")
            .copy("*.txt", "/opt/all/")
            .setWorkdir("/opt/relative")
            .copy("app/deep", "below"),
          name,
          options,
        );
      await copying("copied-by-builder");
      await copying("copied-again");
      const sandbox = await Sandbox.create("copied-again", { timeoutMs: 120_000 });
      const look =
        "cd /opt; stat -c %a renamed.txt; cat renamed.txt texts/* app/deep/* relative/below/*; ls all; ls -A /var/tmp";
      const { stdout } = await sandbox.commands.run(look);
      assert.equal(stdout, "755\nonetwothreethreeone.txt\nwith space.txt\n");
      await sandbox.kill();
      await rm(context, { recursive: true });
    },
  ],
  [
    "a place that no sandbox would see is refused, and said",
    async () => {
      const copying = Template({ fileContextPath: import.meta.dirname })
        .fromTemplate(base)
        .copy("step.ts", "/home/user/");
      const error = await failure(Template.build(copying, "lost-by-builder", options));
      assert.match(error.message, /Each sandbox has that folder of its own/);
    },
  ],
];

for (const [name, run] of steps) {
  let result: StepResult = { name, error: null };
  await run().catch((error: unknown) => {
    result = { name, error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  });
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
process.exit(0);
