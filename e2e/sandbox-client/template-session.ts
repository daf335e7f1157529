import { Sandbox, Template } from "e2b";
import assert from "node:assert/strict";
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
    "files cannot be copied in, and that is said",
    async () => {
      const copying = Template({ fileContextPath: import.meta.dirname })
        .fromTemplate(base)
        .copy("step.ts", "/opt/");
      const error = await failure(Template.build(copying, "copied-by-builder", options));
      assert.match(error.message, /Copying files into a template is not supported here/);
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
