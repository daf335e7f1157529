import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { Redis } from "ioredis";
import { waitFor } from "@platform/daemon";
import { HostError, type DatabaseCredentials } from "@platform/host-api";
import { identify } from "@platform/postgres";
import { findServer } from "../dedicated/running.ts";
import { framesOf, hasDisk, never, restoreFrom, startTestEngine } from "../dedicated/testing.ts";
import type { EngineSpec } from "../engine.ts";
import { createRedisEngine } from "./index.ts";
import { report } from "./programs.ts";

const run = promisify(execFile);
const mib = 1024 * 1024;
const { usable, why } = await report();
const spec = (overrides: Partial<EngineSpec> = {}): EngineSpec => ({
  ...{ engine: "redis", version: "7", cpuMillis: 2000, hostname: "localhost" },
  ...{ memoryBytes: 64 * mib, storageBytes: 64 * mib },
  ...overrides,
});

/** As an application would: ioredis with the very URL, the authority trusted. */
async function asUser<T>(
  { url, caCertificate }: Pick<DatabaseCredentials, "url" | "caCertificate">,
  work: (client: Redis) => Promise<T>,
): Promise<T> {
  let failure: Error | null = null;
  const client = new Redis(url, {
    ...{ lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0 },
    tls: { ca: caCertificate! },
  });
  client.on("error", (error: Error) => (failure ??= error));
  try {
    await client.connect();
    return await work(client);
  } catch (error) {
    throw failure ?? error;
  } finally {
    client.disconnect();
  }
}

const serverPid = (dataDir: string, key: string) => {
  const server = findServer(["redis-server"], join(dataDir, "databases", key, "settings/server.conf"));
  return server?.pid ?? 0;
};

test(
  "Redis databases are proved by login, isolated, kept to their size, and leave nothing behind",
  {
    skip: usable ? false : (why ?? true),
  },
  async (t) => {
    const { dataDir, open, engine } = startTestEngine(t, createRedisEngine);
    const isRunning = async () => (await engine.find("database-1"))?.state === "running";

    await t.test("concurrent creations of one key make one server, proved over TLS", async () => {
      const [first, again, other] = await Promise.all([
        engine.create("database-1", spec({ storageBytes: 24 * mib }), never),
        engine.create("database-1", spec({ storageBytes: 24 * mib }), never),
        engine.create("database-2", spec({ hostname: "db.tenant.test" }), never),
      ]);
      assert.equal(first.state, "running");
      assert.match(first.product, /^Redis 7\./);
      assert.equal(first.proof?.tls, "TLSv1.3");
      assert.equal(again.port, first.port);
      assert.notEqual(other.port, first.port);
      const { password } = await engine.credentials("database-1");
      assert.ok(
        !readFileSync(`/proc/${serverPid(dataDir, "database-1")}/cmdline`, "utf8").includes(password),
      );
      assert.ok(
        !readFileSync(join(dataDir, "databases/database-1/settings/accounts.acl"), "utf8").includes(password),
      );
    });

    await t.test("an account has all of its data and nothing of the server", async () => {
      const one = await engine.credentials("database-1");
      const two = await engine.credentials("database-2");
      await asUser(one, async (client) => {
        await client.set("kept", "7");
        assert.equal(await client.eval("return redis.call('get', KEYS[1])", 1, "kept"), "7");
        assert.match(await client.info(), /redis_version/);
        assert.deepEqual(await client.keys("*"), ["kept"]);
        const denied = [
          "CONFIG GET *",
          "CONFIG SET dir /tmp",
          "CONFIG SET maxmemory 0",
          "CONFIG REWRITE",
          "ACL LIST",
          "ACL SETUSER other on nopass ~* +@all",
          "ACL GETUSER administrator",
          "SAVE",
          "BGSAVE",
          "BGREWRITEAOF",
          "SHUTDOWN NOSAVE",
          "DEBUG SLEEP 0",
          "MODULE LIST",
          "MODULE LOAD /tmp/x.so",
          "REPLICAOF 127.0.0.1 6379",
          "SLAVEOF 127.0.0.1 6379",
          "MIGRATE 127.0.0.1 6379 kept 0 1000",
          "MONITOR",
          "CLIENT KILL TYPE normal",
          "CLIENT LIST",
          "CLIENT NO-EVICT on",
          "CLUSTER RESET",
          "FAILOVER",
          "PSYNC ? -1",
          "SYNC",
          "SWAPDB 0 1",
          "LATENCY RESET",
          "SLOWLOG GET",
          "RESTORE copy 0 x",
        ];
        for (const words of denied) {
          const [command, ...parts] = words.split(" ");
          await assert.rejects(
            client.call(command!, ...parts),
            /^ReplyError: (NOPERM|ERR (DEBUG|MODULE) command not allowed)/,
            words,
          );
        }
        // A script has no more rights than who sends it.
        await assert.rejects(
          client.eval("return redis.call('CONFIG', 'GET', '*')", 0),
          /ACL|permission|NOPERM|not allowed/i,
        );
        await assert.rejects(
          client.eval("return redis.call('ACL', 'LIST')", 0),
          /ACL|permission|NOPERM|not allowed/i,
        );
        await assert.rejects(client.eval("return dofile('/etc/passwd')", 0), /nonexistent|nil value|global/i);
        await assert.rejects(
          client.eval("return io.open('/etc/passwd')", 0),
          /nonexistent|nil value|global/i,
        );
      });
      const withName = (name: string, password: string) => ({
        ...one,
        url: `rediss://${name}:${password}@localhost:${one.port}/0`,
      });
      for (const [name, password] of [
        [two.username, two.password],
        [one.username, "wrong"],
        ["administrator", one.password],
        ["default", ""],
      ])
        await assert.rejects(
          asUser(withName(name!, password!), (client) => client.ping()),
          /WRONGPASS|NOAUTH/,
          name,
        );
      const plain = connect(one.port, "127.0.0.1", () => plain.write("PING\r\n"));
      const answer = await new Promise<string>((resolve) => {
        plain.on("data", (chunk) => resolve(chunk.toString("latin1")));
        plain.on("close", () => resolve(""));
        plain.on("error", () => resolve(""));
      });
      plain.destroy();
      assert.ok(!answer.startsWith("+PONG"));
    });

    await t.test("redis-cli logs in with the very URL", async () => {
      const one = await engine.credentials("database-1");
      const caFile = join(dataDir, "ca.pem");
      writeFileSync(caFile, one.caCertificate!);
      const env = { PATH: "/usr/bin", REDISCLI_AUTH: one.password };
      const { stdout } = await run("redis-cli", ["-u", one.url, "--cacert", caFile, "get", "kept"], { env });
      assert.equal(stdout.trim(), "7");
    });

    await t.test(
      "a killed server comes back with every acknowledged write, and a new engine adopts it",
      async () => {
        const one = await engine.credentials("database-1");
        await asUser(one, async (client) => {
          for (let n = 0; n < 1000; n++) await client.rpush("list", n);
        });
        const before = serverPid(dataDir, "database-1");
        process.kill(before, "SIGKILL");
        await waitFor("the crash to be seen", () => identify(before) === null, 10_000);
        await waitFor("the database to run again", isRunning, 30_000);
        assert.equal(await asUser(one, (client) => client.llen("list")), 1000);
        const pid = serverPid(dataDir, "database-1");
        const next = open();
        await next.recover();
        assert.equal((await next.find("database-1"))?.state, "running");
        assert.equal(serverPid(dataDir, "database-1"), pid);
        await next.close();
      },
    );

    await t.test("both accounts hold while a rotation goes on; then the old one's sessions end", async () => {
      const old = await engine.credentials("database-1");
      await asUser(old, async (session) => {
        const ended = new Promise((resolve) => session.once("end", resolve));
        const fresh = await engine.rotate("database-1");
        assert.equal(await session.get("kept"), "7");
        assert.equal(await asUser(fresh, (client) => client.get("kept")), "7");
        await engine.endRotation("database-1");
        await ended;
      });
      await assert.rejects(
        asUser(old, (client) => client.ping()),
        /WRONGPASS/,
      );
      const reader = await engine.putUser("database-1", "report", "read");
      await asUser(reader, async (client) => {
        assert.equal(await client.get("kept"), "7");
        await assert.rejects(client.set("kept", "8"), /NOPERM/);
        await assert.rejects(client.flushall(), /NOPERM/);
      });
      await engine.stop("database-1");
      await engine.start("database-1");
      assert.equal(await asUser(reader, (client) => client.get("kept")), "7");
      await engine.dropUser("database-1", "report");
      await assert.rejects(
        asUser(reader, (client) => client.ping()),
        /WRONGPASS/,
      );
    });

    await t.test(
      "a backup becomes a database of its own that keeps everything, also after a crash",
      async () => {
        const one = await engine.credentials("database-1");
        const bytes = await framesOf(engine, "database-1");
        await asUser(one, (client) => client.set("later", "1"));
        const copy = await restoreFrom(engine, bytes, "database-9", spec());
        assert.equal(copy.state, "running");
        const two = await engine.credentials("database-9");
        await asUser(two, async (client) => {
          assert.deepEqual(
            [await client.get("kept"), await client.llen("list"), await client.get("later")],
            ["7", 1000, null],
          );
          await client.set("own", "1");
        });
        process.kill(serverPid(dataDir, "database-9"), "SIGKILL");
        const answer = () => asUser(two, (client) => client.mget("kept", "own")).catch(() => []);
        await waitFor("the copy to be back", async () => (await answer())[1] === "1", 30_000);
        assert.deepEqual(await answer(), ["7", "1"]);
        await assert.rejects(
          asUser({ ...two, url: one.url.replace(`:${one.port}/`, `:${two.port}/`) }, (client) =>
            client.ping(),
          ),
          /WRONGPASS/,
        );
        await engine.destroy("database-9");
        await asUser(one, (client) => client.del("later"));
      },
    );

    await t.test("a backup that is cut off makes no database", async () => {
      const bytes = await framesOf(engine, "database-1");
      await assert.rejects(restoreFrom(engine, bytes.subarray(0, bytes.length - 5), "database-9", spec()), {
        details: { reason: "restore_failed" },
      });
      assert.equal(await engine.find("database-9"), null);
    });

    await t.test(
      "a script that passes maxmemory is ended with its server, and the data is as before",
      async (t) => {
        const { isolation } = (await engine.find("database-1"))!;
        if (!isolation.memoryLimit) return t.skip("memory cannot be limited here");
        const one = await engine.credentials("database-1");
        const before = serverPid(dataDir, "database-1");
        const greedy = "for i = 1, 100000 do redis.call('set', 'greedy' .. i, string.rep('x', 100000)) end";
        await assert.rejects(asUser(one, (client) => client.eval(greedy, 0)));
        await waitFor("the server to be ended", () => identify(before) === null, 30_000);
        await waitFor("the database to run again", isRunning, 30_000);
        assert.equal(await asUser(one, (client) => client.get("kept")), "7");
        assert.equal(await asUser(one, (client) => client.exists("greedy1")), 0);
      },
    );

    await t.test("over its disk quota a database refuses writes and still answers reads", async (t) => {
      if (!hasDisk(dataDir, "database-1")) return t.skip("disks of limited size cannot be mounted here");
      const one = await engine.credentials("database-1");
      const fill = () =>
        asUser(one, async (client) => {
          for (let count = 0; count < 4; count++) await client.set("big", randomBytes(1_000_000));
        });
      // The same key again and again: what is kept is small, the log of it is made small again by itself.
      for (let count = 0; count < 15; count++) await fill().catch(() => undefined);
      await waitFor(
        "writes to be let through",
        () =>
          fill().then(
            () => true,
            () => false,
          ),
        30_000,
      );

      let last = 0;
      const more = () => asUser(one, (client) => client.set(`big${++last}`, randomBytes(1_000_000)));
      const isRefused = () =>
        more().then(
          () => false,
          (error: Error) => /NOPERM/.test(error.message),
        );
      const isOver = async () => (await engine.probe("database-1")).reason === "disk_full";
      // They are also refused for a moment while the log is made smaller, after which there is room again.
      const isFull = async () => (await isRefused()) && (await isOver());
      await waitFor("writes to be refused for good", isFull, 60_000, 1);
      await asUser(one, async (client) => {
        assert.equal(await client.get("kept"), "7");
        for (const attempt of [
          ["set", "more", "1"],
          ["append", "kept", "1"],
          ["expire", "kept", "100"],
          ["eval", "return redis.call('set', 'more', '1')", "0"],
          ["eval", "return redis.call('sort', 'kept', 'store', 'more')", "0"],
          ["function", "load", "#!lua name=more\nredis.register_function('more', function() end)"],
          ["xadd", "more", "*", "a", "b"],
          ["copy", "kept", "more"],
        ])
          await assert.rejects(
            client.call(...(attempt as [string])),
            /NOPERM|can't run this command/,
            attempt.join(" "),
          );
        for (; last > 0; last--) await client.del(`big${last}`);
      });
      await waitFor("room to be seen", async () => (await engine.probe("database-1")).ok, 30_000);
      await waitFor(
        "writes to be let through",
        () =>
          fill().then(
            () => true,
            () => false,
          ),
        30_000,
      );
    });

    await t.test("what cannot be is refused with a reason", async () => {
      await assert.rejects(
        engine.create("database-3", spec({ version: "6" }), never),
        (error) => error instanceof HostError && error.code === "INVALID" && /Redis 7/.test(error.message),
      );
    });

    await t.test("destroy leaves no process, mount or file", async () => {
      const pids = ["database-1", "database-2"].map((key) => serverPid(dataDir, key));
      for (const key of ["database-1", "database-2", "database-1"]) await engine.destroy(key);
      assert.deepEqual(pids.map(identify), [null, null]);
      assert.deepEqual(readdirSync(join(dataDir, "databases")), []);
      assert.ok(!readFileSync("/proc/self/mountinfo", "utf8").includes(dataDir));
      assert.ok(!existsSync(join(dataDir, "databases/database-1")));
    });
  },
);
