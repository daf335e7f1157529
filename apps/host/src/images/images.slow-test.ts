import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, readFile, readlink, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { HostError, type ImageBuild } from "@platform/host-api";
import { guestOf, spec, startTestHost, whyNoBoxes, type TestHost } from "../testing.ts";
import { readSystem } from "./debian.ts";
import { whyNoBuilds } from "./requirements.ts";

const skip = whyNoBoxes() ?? (await whyNoBuilds(process.getuid?.() === 0)) ?? false;
const buildTimeoutMs = 600_000;

async function sharedFolder(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "images-test-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

const hasEnded = (build: ImageBuild) => ["ready", "failed", "cancelled"].includes(build.state);

async function untilEnded(host: TestHost, key: string): Promise<ImageBuild> {
  const build = await waitFor(
    `image build ${key} to end`,
    async () => {
      const found = await host.client.imageBuild(key);
      return found && hasEnded(found) ? found : undefined;
    },
    buildTimeoutMs,
  );
  return build;
}

const minimal = { source: { type: "builtin" as const, name: "minimal" } };
const said = async (host: TestHost, key: string) =>
  (await host.client.imageBuildLogs(key, 0, 5000)).map(({ line }) => line).join("\n");

test(
  "an image is built of the machine's release, boots, and tells nothing of the machine",
  { skip },
  async (t) => {
    const images = await sharedFolder(t);
    const host = await startTestHost(t, { IMAGES_DIR: images });
    await assert.rejects(host.client.putBox("box-early", spec({ template: "minimal" })), {
      code: "NOT_FOUND",
    });

    // Cut off in the middle, it begins again with the next daemon.
    await host.armFault("host.image.after-store");
    await host.client.putImageBuild("build-minimal-1", minimal);
    await waitFor("the daemon to die", async () => !(await isServing(host)), buildTimeoutMs);
    await host.kill("SIGKILL");
    await host.start();
    const build = await untilEnded(host, "build-minimal-1");
    assert.equal(build.state, "ready", await said(host, build.key));
    assert.match(build.digest ?? "", /^sha256:[0-9a-f]{64}$/);
    assert.equal(build.certificate?.driver, "bubblewrap");

    const box = await host.client.putBox("box-minimal", spec({ template: "minimal" }));
    assert.equal(box.image, build.digest);
    const guest = guestOf(t, host, "box-minimal");
    const look = await guest.exec(
      "cat /etc/hostname /etc/debian_version; id -un; ls /usr/local/bin /var/log /root 2>&1; command -v git node; touch /usr/x",
    );
    const [hostname, version, user, ...rest] = look.stdout.trim().split("\n");
    assert.equal(hostname, "app");
    assert.match(version ?? "", /^\d+/);
    assert.equal(user, "user");
    assert.ok(!rest.some((line) => /\/(git|node)$/.test(line)), look.stdout);
    assert.match(look.stderr, /Read-only file system/);

    const root = join(images, "roots", build.digest!.slice("sha256:".length), "root");
    const { sources } = await readSystem(AbortSignal.timeout(30_000));
    const mirrors = [...new Set(sources.map((line) => new URL(line.split(" ")[1]!).host))];
    for (const text of [...mirrors, images]) {
      const found = execFileSync("sh", ["-c", 'grep -rlF -- "$1" etc var || true', "sh", text], {
        cwd: root,
      });
      assert.equal(found.toString(), "", `${text} is in the image`);
    }
    assert.equal(await readlink(join(root, "etc/hosts")), "/run/etc/hosts");
    assert.equal(await readFile(join(root, "etc/machine-id"), "utf8"), "");

    await assert.rejects(host.client.removeImage(build.digest!), { code: "CONFLICT" });
    await host.client.deleteBox("box-minimal");

    // Another daemon of this folder finds it; building again gives the very same bytes.
    const other = await startTestHost(t, { IMAGES_DIR: images });
    assert.equal(
      (await other.client.putBox("box-other", spec({ template: build.digest! }))).image,
      build.digest,
    );
    await other.client.deleteBox("box-other");
    await other.client.putImageBuild("build-minimal-2", minimal);
    assert.equal((await untilEnded(other, "build-minimal-2")).digest, build.digest);

    await other.client.removeImage(build.digest!);
    const report = await other.client.images();
    assert.equal(report.images.find(({ name }) => name === "minimal")?.digest, null);
  },
);

test("a build that is cancelled ends at once and leaves nothing", { skip }, async (t) => {
  const images = await sharedFolder(t);
  const host = await startTestHost(t, { IMAGES_DIR: images });
  await host.client.putImageBuild("build-cancelled", minimal);
  await waitFor(
    "packages to arrive",
    async () => (await said(host, "build-cancelled")).includes("downloading packages"),
    buildTimeoutMs,
  );
  const build = await host.client.cancelImageBuild("build-cancelled");
  assert.equal(build.state, "cancelled");
  assert.equal(
    execFileSync("ls", [join(images, "work"), join(images, "roots")])
      .toString()
      .includes("."),
    false,
  );
});

test("a build over its time says so", { skip }, async (t) => {
  const host = await startTestHost(t, { IMAGES_DIR: await sharedFolder(t) });
  await host.client.putImageBuild("build-too-long", { ...minimal, limits: { timeoutMs: 1_000 } });
  const build = await untilEnded(host, "build-too-long");
  assert.equal(build.failure?.reason, "timeout");
  await assert.rejects(
    host.client.putImageBuild("build-unknown", { source: { type: "builtin", name: "no-such" } }),
    (error: unknown) => error instanceof HostError && error.code === "NOT_FOUND",
  );
});

const steps = (commands: string[], more: object = {}) => ({
  source: { type: "steps" as const, from: "minimal", steps: commands, env: { GREETING: "hello" } },
  ...more,
});

test("steps make a template of a base, as root of it and of nothing else", { skip }, async (t) => {
  const images = await sharedFolder(t);
  const host = await startTestHost(t, { IMAGES_DIR: images });
  await host.client.putImageBuild("build-no-base", steps(["true"]));
  assert.equal((await untilEnded(host, "build-no-base")).failure?.reason, "base_missing");
  await host.client.putImageBuild("build-the-base", minimal);
  const base = await untilEnded(host, "build-the-base");
  assert.equal(base.state, "ready", await said(host, base.key));

  await host.client.putImageBuild(
    "build-greeter",
    steps(
      [
        "id -u; cat /proc/self/uid_map",
        'echo "$GREETING from the template" > /usr/share/greeting && chown 33:33 /usr/share/greeting',
        "rm /usr/bin/tac && rm -rf /usr/share/misc && mkdir /usr/share/misc",
        "! mount -t tmpfs none /mnt 2>/dev/null; ! cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern",
        "echo leftover > /tmp/x; echo leftover > /var/log/x; ln -s /etc/shadow /workspace/link",
      ],
      {
        check: {
          startCommand: "sleep 1; touch /tmp/started; sleep 600",
          readyCommand: "test -f /tmp/started",
        },
      },
    ),
  );
  const build = await untilEnded(host, "build-greeter");
  const log = await said(host, build.key);
  assert.equal(build.state, "ready", log);
  assert.match(log, /^0$/m);
  assert.doesNotMatch(log, /^[ \t]*0[ \t]+0[ \t]/m, "root of the build is not root of the machine");

  await host.client.putBox("box-greeter", spec({ template: build.digest! }));
  const guest = guestOf(t, host, "box-greeter");
  const look = await guest.exec(
    "cat /usr/share/greeting; ls -A /usr/share/misc /var/log /tmp; command -v tac",
  );
  assert.match(look.stdout, /^hello from the template$/m);
  assert.doesNotMatch(look.stdout, /tac|leftover/);
  const tree = (digest: string, path: string) =>
    stat(join(images, "roots", digest.slice("sha256:".length), "root", path));
  assert.equal((await tree(build.digest!, "usr/share/greeting")).uid, 33);
  assert.equal(
    (await tree(build.digest!, "usr/bin/perl")).ino,
    (await tree(base.digest!, "usr/bin/perl")).ino,
    "what did not change is kept once",
  );
  await host.client.deleteBox("box-greeter");

  await host.client.putImageBuild("build-failing", steps(["true", "echo why >&2; exit 3"]));
  const failed = await untilEnded(host, "build-failing");
  assert.equal(failed.failure?.reason, "step_failed");
  assert.deepEqual([failed.failure?.evidence["step"], failed.failure?.evidence["exitCode"]], [2, 3]);
  assert.match(await said(host, "build-failing"), /^why$/m);

  await host.client.putImageBuild(
    "build-greedy",
    steps(["head -c 300000000 /dev/zero > /big; sleep 60"], { limits: { diskBytes: 50_000_000 } }),
  );
  assert.equal((await untilEnded(host, "build-greedy")).failure?.reason, "disk_full");

  await host.client.putImageBuild("build-broken", steps(["rm -rf /lib64"]));
  const broken = await untilEnded(host, "build-broken");
  assert.equal(broken.failure?.reason, "boot_failed", await said(host, "build-broken"));
  assert.deepEqual(await readdir(join(images, "work")), []);
  const left = execFileSync("mount").toString();
  assert.ok(!left.includes(images), "nothing is mounted any more");
});

async function isServing(host: TestHost): Promise<boolean> {
  return host.client.images().then(
    () => true,
    () => false,
  );
}
