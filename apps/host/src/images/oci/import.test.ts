import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import type { ImageBuild, ImageBuildSpec } from "@platform/host-api";
import { guestOf, spec, startTestHost, whyNoBoxes, type TestHost } from "../../testing.ts";
import { whyNoBuilds } from "../requirements.ts";
import { imageOf, layoutOf, tarOf, tinySystem, type TestImage } from "@platform/host-api/testing";
import { startRegistry } from "./testing/registry.ts";

const skip = whyNoBoxes() ?? (await whyNoBuilds(process.getuid?.() === 0, true)) ?? false;
const buildTimeoutMs = 300_000;

async function built(host: TestHost, key: string, build: ImageBuildSpec): Promise<ImageBuild> {
  await host.client.putImageBuild(key, build);
  return waitFor(
    `image build ${key} to end`,
    async () => {
      const found = await host.client.imageBuild(key);
      return found && ["ready", "failed", "cancelled"].includes(found.state) ? found : undefined;
    },
    buildTimeoutMs,
  );
}

const said = async (host: TestHost, key: string) =>
  (await host.client.imageBuildLogs(key, 0, 5000)).map(({ line }) => line).join("\n");

async function startHost(t: TestContext) {
  const folder = await mkdtemp(join(tmpdir(), "oci-import-"));
  const registry = await startRegistry(t, { login: { username: "host", password: "a-password" } });
  const list = [{ name: "registry.test", url: registry.url, username: "host", password: "a-password" }];
  await writeFile(join(folder, "registries.json"), JSON.stringify(list), { mode: 0o600 });
  const images = await mkdtemp(join(tmpdir(), "oci-images-"));
  const host = await startTestHost(t, {
    IMAGES_DIR: images,
    IMAGE_REGISTRIES: join(folder, "registries.json"),
  });
  // After the host's own end, which reads it once more.
  t.after(() => Promise.all([folder, images].map((path) => rm(path, { recursive: true, force: true }))));
  return { host, registry, images };
}

const upload = async (host: TestHost, key: string, image: TestImage) =>
  host.client.putImageUpload(key, Readable.from([await layoutOf(image)]));
const fromRegistry = (
  reference: string,
  more: Partial<ImageBuildSpec> = {},
  steps: string[] = [],
): ImageBuildSpec => ({
  source: { type: "oci", image: { type: "registry", reference }, steps },
  ...more,
});
const fromUpload = (key: string): ImageBuildSpec => ({
  source: { type: "oci", image: { type: "upload", key } },
});

test("images of engines become templates that boot, or say what they lack", { skip }, async (t) => {
  const { host, registry, images } = await startHost(t);
  const app = [
    { name: "srv/", type: "directory" as const, uid: 77, gid: 77, mode: 0o700 },
    { name: "srv/greeting", content: "hello from the image\n", uid: 77, gid: 77, mode: 0o600 },
    { name: "srv/doomed", content: "x" },
  ];
  const config = {
    ...{ User: "app", WorkingDir: "/srv", Env: ["GREETING=hi there", "PATH=/bin:/srv/bin"] },
    ...{
      Entrypoint: ["sh", "-c"],
      Cmd: ['echo "$GREETING" > /tmp/started; exec sleep 600'],
      ExposedPorts: { "8080/tcp": {} },
    },
  };
  const image = imageOf(
    [{ bytes: await tinySystem([], app) }, { bytes: await tarOf([{ name: "srv/.wh.doomed" }]) }],
    config,
  );
  registry.images.set("team/app:1", image);

  await t.test("from a registry, with its user, folder, variables and command", async () => {
    const build = await built(
      host,
      "oci-registry",
      fromRegistry("registry.test/team/app:1", { check: { readyCommand: "test -f /tmp/started" } }),
    );
    const log = await said(host, build.key);
    assert.equal(build.state, "ready", log);
    assert.match(log, /layer 2 of 2/);
    assert.doesNotMatch(log, /a-password/);
    assert.deepEqual(
      [build.config?.workdir, build.config?.ports, build.config?.user],
      ["/srv", [8080], "app"],
    );
    await host.client.putBox("box-of-image", spec({ template: build.digest! }));
    const guest = guestOf(t, host, "box-of-image");
    const look = await guest.exec(
      "id -un; cat /srv/greeting; ls /srv; cat /etc/os-release; touch /srv/new 2>&1; ls -d /workspace",
    );
    assert.match(look.stdout, /^user\nhello from the image\ngreeting\nPRETTY_NAME="Tiny 1"$/m);
    assert.match(look.stdout, /Read-only file system[^]*\/workspace/);
    await host.client.deleteBox("box-of-image");
  });

  await t.test("from an upload, the very same tree, and with steps on top of it", async () => {
    const first = await host.client.imageBuild("oci-registry");
    await upload(host, "iu-upload-1", image);
    const build = await built(host, "oci-upload", fromUpload("iu-upload-1"));
    assert.equal(build.digest, first?.digest, await said(host, "oci-upload"));
    const steps = ['mkdir /opt/made && echo "$GREETING" > /opt/made/greeting'];
    const more = await built(host, "oci-steps", fromRegistry("registry.test/team/app:1", {}, steps));
    assert.equal(more.state, "ready", await said(host, "oci-steps"));
    await host.client.putBox("box-of-steps", spec({ template: more.digest! }));
    assert.equal(
      (await guestOf(t, host, "box-of-steps").exec("cat /opt/made/greeting /srv/greeting")).stdout,
      "hi there\nhello from the image\n",
    );
    await host.client.deleteBox("box-of-steps");
  });

  await t.test("one that cannot boot is refused before a box is tried, with what it lacks", async () => {
    await upload(host, "iu-upload-2", imageOf([{ bytes: await tinySystem(["libstdc++.so.6"]) }]));
    const build = await built(host, "oci-lacking", fromUpload("iu-upload-2"));
    assert.equal(build.failure?.reason, "requirements_missing");
    assert.match(build.failure?.detail ?? "", /libstdc\+\+\.so\.6: add it to the image/);
    const failing = imageOf([{ bytes: await tinySystem() }], {
      Entrypoint: ["sh", "-c"],
      Cmd: ["echo no luck >&2; exit 7"],
    });
    await upload(host, "iu-upload-3", failing);
    const silent = await built(host, "oci-silent", {
      ...fromUpload("iu-upload-3"),
      check: { readyCommand: "test -f /tmp/never", timeoutMs: 2_000 },
    });
    assert.equal(silent.failure?.reason, "not_ready");
    assert.match(JSON.stringify(silent.failure?.evidence), /no luck/);
    const gone = await built(host, "oci-gone", fromUpload("iu-upload-9"));
    assert.equal(gone.failure?.reason, "image_not_found");
  });

  await t.test("nothing of the builds stays", async () => {
    assert.deepEqual(await readdir(join(images, "work")), []);
    assert.ok(!execFileSync("mount").toString().includes(images));
  });
});
