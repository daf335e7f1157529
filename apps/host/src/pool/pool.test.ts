import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { waitFor } from "@platform/daemon";
import { HostError } from "@platform/host-api";
import {
  groupsOf,
  guestOf,
  service,
  spec,
  startTestHost,
  whyNoBoxes,
  whyNoRuntime,
  type TestHost,
} from "../testing.ts";

const skip =
  whyNoBoxes() ?? (process.getuid?.() === 0 ? false : "only root can give a waiting box its host name");

/** Drivers whose boxes can wait. */
const drivers = ["bubblewrap", "gvisor"] as const;
type Driver = (typeof drivers)[number];
const skips: Record<Driver, string | false> = {
  bubblewrap: skip,
  gvisor: skip || (whyNoRuntime() ?? false),
};

const { limits } = spec();
const settings = (max: number, driver: Driver) => ({
  driver,
  HOST_POOL_MIN: String(max),
  HOST_POOL_MAX: String(max),
  HOST_POOL_SHAPES: JSON.stringify([{ template: "host", limits }]),
});

const readyBoxes = async (host: TestHost) => {
  const { lanes } = await host.client.pool();
  return lanes.reduce((sum, { ready }) => sum + ready, 0);
};

const filled = (host: TestHost, count = 1) =>
  waitFor("the pool to be filled", async () => (await readyBoxes(host)) >= count, 60_000);

async function startFilled(t: TestContext, driver: Driver, count = 1): Promise<TestHost> {
  const host = await startTestHost(t, settings(count, driver));
  await filled(host, count);
  return host;
}

/** Names under which the machine has boxes of this daemon: folders, groups, processes. */
async function places(host: TestHost): Promise<string[]> {
  const names = await readdir(join(host.dataDir, "boxes"));
  names.push(...(await groupsOf(host.tag)).map((folder) => folder.split("/").at(-1) ?? ""));
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const text = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    const marker = new RegExp(`(?:box\\.${host.tag}\\.|${host.dataDir}/.*/bundles/)([a-z0-9-]+)`);
    const place = marker.exec(text)?.[1];
    if (place !== undefined) names.push(place);
  }
  return [...new Set(names)].sort();
}

const told = {
  env: { GREETING: "hello" },
  hostname: "shop",
  services: [service("web", "sleep 1000", "always")],
};

for (const driver of drivers) {
  test(
    `${driver}: a waiting box becomes its caller's: environment, host name, services, way out`,
    { skip: skips[driver] },
    async (t) => {
      const host = await startFilled(t, driver);
      assert.deepEqual(await host.client.boxes(), []);
      const box = await host.client.putBox("box-claimed", spec({ ...told, env: { GREETING: "hello" } }));
      assert.equal(box.bootPath, "pool");
      assert.equal(box.key, "box-claimed");
      const guest = guestOf(t, host, "box-claimed");
      const seen = await guest.exec(
        "hostname; cat /etc/hostname; getent hosts shop | head -1; echo $GREETING; curl -s -o /dev/null -w '%{http_code}' http://203.0.113.7/",
      );
      assert.deepEqual(seen.stdout.split("\n"), [
        "shop",
        "shop",
        "127.0.0.1       localhost shop",
        "hello",
        "403",
      ]);
      assert.equal((await guest.services.get("web")).status, "running");
      assert.equal((await host.client.putBox("box-claimed", spec(told))).createdAt, box.createdAt);
    },
  );

  test(
    `${driver}: a claimed box cannot be told from one that was booted for its caller`,
    { skip: skips[driver] },
    async (t) => {
      const host = await startFilled(t, driver);
      const look = `
    env | sort
    for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f | sed -E 's/sb-[0-9a-f-]{36}/KEY/'; echo; done | grep -E '[b]wrap|[n]ode|[s]leep' | sort
    cat /proc/sys/kernel/hostname /etc/hostname /etc/hosts /run/agent/config.json
    sed -E 's#/[0-9a-f]{24}\\b#/ID#' /proc/self/cgroup
    tr '\\0' '\\n' < /proc/1/environ | sort
    find /workspace /home/user /etc /run /tmp /var/log /dev/shm -printf '%p %M %U %s\\n' | grep -v ssl/certs/ | grep -v alternatives/ | sed -E 's/pipes-[A-Za-z0-9]+/pipes-N/' | sort
    df --output=size,target | sort; id; ulimit -a; nproc`;
      const key = (end: string) => `sb-00000000-0000-4000-8000-00000000000${end}`;
      const at = Date.now();
      const pooled = await host.client.putBox(key("1"), spec(told));
      await filled(host);
      await host.client.deleteBox(key("1"));
      const again = await host.client.putBox(key("2"), spec(told));
      await host.kill("SIGKILL");
      await host.start();
      const first = await guestOf(t, host, key("2")).exec(look);
      const times = await guestOf(t, host, key("2")).exec(
        "stat -c '%Y %n' /workspace /home/user /tmp /var/tmp /dev/shm /run /run/agent /etc /etc/* /var/log/services",
      );
      await host.client.deleteBox(key("2"));
      // Content is put in place before the first process: such a box is never one of the pool.
      const bound = { ...spec(told), purpose: "instance" as const };
      const cold = await host.client.putBox(key("3"), bound);
      assert.deepEqual([pooled.bootPath, again.bootPath, cold.bootPath], ["pool", "pool", "cold"]);
      const second = await guestOf(t, host, key("3")).exec(look);
      assert.equal(first.stdout, second.stdout);
      for (const line of times.stdout.trim().split("\n")) {
        if (/ssl|alternatives|ld.so.cache/.test(line)) continue; // The machine's own, in every box.
        assert.ok(Number(line.split(" ")[0]) >= Math.floor(at / 1000), line);
      }
    },
  );

  test(
    `${driver}: a box that died while it waited costs its caller time, nothing else`,
    { skip: skips[driver] },
    async (t) => {
      const host = await startFilled(t, driver);
      const [place] = await readdir(join(host.dataDir, "boxes"));
      const text = await readFile(join(host.dataDir, "boxes", place ?? "", "state.json"), "utf8");
      const { driverState } = JSON.parse(text) as {
        driverState: Partial<Record<"init" | "sandbox", { pid: number }>>;
      };
      const first = driverState.init ?? driverState.sandbox;
      assert.ok(first);
      process.kill(first.pid, "SIGKILL");
      const box = await host.client.putBox("box-unlucky", spec());
      assert.equal(box.state, "running");
      assert.ok(!(await places(host)).includes(place ?? ""));
    },
  );

  test(`${driver}: a daemon that stops leaves no waiting box behind`, { skip: skips[driver] }, async (t) => {
    const host = await startFilled(t, driver, 2);
    assert.equal((await places(host)).length, 2);
    await host.kill("SIGTERM");
    assert.deepEqual(await places(host), []);
  });
}

test("a box is handed out once: of many that ask at the same time, one gets it", { skip }, async (t) => {
  const host = await startFilled(t, "bubblewrap");
  const keys = ["box-race-1", "box-race-2", "box-race-3"];
  const boxes = await Promise.all(keys.map((key) => host.client.putBox(key, spec())));
  assert.equal(boxes.filter(({ bootPath }) => bootPath === "pool").length, 1);
  const marks = await Promise.all(
    keys.map(async (key) => {
      const guest = guestOf(t, host, key);
      await guest.writeFile("/workspace/mark", `${key}\n`);
      return (await guest.exec("cat /workspace/mark")).stdout.split("\n")[0];
    }),
  );
  assert.deepEqual(marks, keys);
});

test("no other shape, no content and no other purpose is served from the pool", { skip }, async (t) => {
  const host = await startFilled(t, "bubblewrap");
  const other = { ...limits, memoryBytes: limits.memoryBytes * 2 };
  assert.equal((await host.client.putBox("box-larger", spec({ limits: other }))).bootPath, "cold");
  assert.equal((await host.client.putBox("box-build", spec({ purpose: "build" }))).bootPath, "cold");
});

const points = [
  ...["before-claim", "after-driver", "after-config", "after-record"].map(
    (point) => ["bubblewrap", point] as const,
  ),
  ["gvisor", "after-driver"] as const,
];

for (const [driver, point] of points) {
  test(
    `${driver}: a daemon that dies at host.pool.${point} loses, doubles and orphans no box`,
    { skip: skips[driver] },
    async (t) => {
      const host = await startFilled(t, driver);
      const [place] = await places(host);
      await host.armFault(`host.pool.${point}`);
      await assert.rejects(
        host.client.putBox("box-torn", spec(told)),
        (error) => error instanceof HostError && error.code === "UNREACHABLE",
      );
      await host.kill("SIGKILL");
      await host.start();
      const found = await host.client.box("box-torn");
      assert.equal(found?.state ?? null, point === "after-record" ? "running" : null);
      const box = await host.client.putBox("box-torn", spec(told));
      assert.equal(box.state, "running");
      assert.equal((await host.client.boxes()).length, 1);
      assert.equal((await places(host)).includes(place ?? ""), point === "after-record");
      await host.client.deleteBox("box-torn");
      await host.kill("SIGTERM");
      assert.deepEqual(await places(host), []);
    },
  );
}
