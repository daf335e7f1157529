import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { appOf, type Program } from "./edges/programs.ts";
import { join } from "node:path";
import { makeFolders, removeFolders, Server } from "./kill/server.ts";
import { seededRandom } from "./kill/random.ts";
import { waitFor } from "./kill/wait.ts";

/** Ten is what the product promises; fewer show the same of fewer occurrences. */
const minutes = Number(process.env["CRON_MINUTES"] ?? 3);
const seed = Number(process.env["SEED"] ?? 20261126);
const minuteMs = 60_000;
/** The kill comes this long after the full minute at most, as the runs of that minute go on. */
const mostIntoMinuteMs = 4_000;
const commandSeconds = 2;
/** Of each overlap policy one that is quick, and one that is running when the kill comes. */
const jobs = ["skip", "queue", "replace", "allow"].flatMap((overlap) => [
  { name: `quick-${overlap}`, overlap, seconds: 0 },
  { name: `slow-${overlap}`, overlap, seconds: commandSeconds },
]);

interface Execution {
  readonly id: string;
  readonly state: string;
  readonly reason: string | null;
  readonly trigger: string;
  readonly scheduled_for: string | null;
}

describe("schedules of each minute on three control planes", { timeout: (minutes + 10) * minuteMs }, () => {
  const folders = makeFolders();
  let server: Server;
  let like: Program;
  const others: ChildProcess[] = [];
  before(async () => {
    server = await Server.start(folders);
    like = appOf(folders.data, "control-plane");
  });
  after(async () => {
    for (const child of others) child.kill("SIGKILL");
    await removeFolders(folders, server ?? null);
  });

  /** One more control plane on the same database, in place of one that ended or beside the others. */
  function startOther(at: number): void {
    const program = join(import.meta.dirname, "..", "..", "apps/control-plane/src/main.ts");
    const child = spawn(process.execPath, [program], {
      env: { ...like.environment, CONTROL_PLANE_PORT: "0" },
      stdio: "ignore",
    });
    others[at] = child;
  }

  test(`one of them killed every minute, ${minutes} times: one execution for each occurrence`, async (t) => {
    const random = seededRandom(seed);
    const { id: sandbox } = await server.api.post<{ id: string }>(
      "/sandboxes?wait=60",
      { size: "small" },
      "box",
    );
    // The supervisor's own is the third. They are told apart by their processes.
    startOther(0);
    startOther(1);
    const made: { id: string; name: string }[] = [];
    for (const { name, overlap, seconds } of jobs) {
      const command = `echo $EXECUTION_ID >> begun-${name} && sleep ${seconds} && echo $EXECUTION_ID >> done-${name}`;
      const fields = { name, command, schedule: "* * * * *", sandbox_id: sandbox, overlap_policy: overlap };
      made.push(await server.api.post<{ id: string; name: string }>("/cron-jobs", fields, name));
    }
    // The next full minute, unless it is too near for all jobs to be made in time.
    const first = (Math.floor(Date.now() / minuteMs) + 1) * minuteMs;
    for (let minute = 0; minute < minutes; minute++) {
      await delay(Math.max(0, first + minute * minuteMs + random() * mostIntoMinuteMs - Date.now()));
      const victim = minute % 3;
      if (victim === 2) {
        const own = await waitFor("the supervisor's own", () => server.program("control-plane"), minuteMs);
        process.kill(own.pid, "SIGKILL");
        await waitFor(
          "its successor",
          () => (server.program("control-plane")?.pid ?? own.pid) !== own.pid,
          minuteMs,
        );
      } else {
        const ended = once(others[victim]!, "exit");
        others[victim]!.kill("SIGKILL");
        await ended;
        startOther(victim);
      }
    }
    const last = first + (minutes - 1) * minuteMs;
    const counts = { occurrences: 0, succeeded: 0, lost: 0, other: 0 };
    for (const { id, name } of made) {
      const all = await waitFor(
        `the executions of ${name} to end`,
        async () => {
          const list = await server.api.get<Execution[]>(`/cron-jobs/${id}/executions?limit=200`);
          const wanted = list.filter(({ scheduled_for: at }) => Date.parse(at!) <= last);
          const areOver = wanted.every(({ state }) => !["pending", "running"].includes(state));
          return areOver && wanted.some(({ scheduled_for: at }) => Date.parse(at!) === last) && wanted;
        },
        minuteMs,
        500,
      );
      const due = all.filter(({ scheduled_for: at }) => Date.parse(at!) >= first);
      const occurrences = due.map(({ scheduled_for: at }) => Date.parse(at!)).sort((a, b) => a - b);
      const wanted = Array.from({ length: minutes }, (_, minute) => first + minute * minuteMs);
      assert.deepEqual(occurrences, wanted, `${name}: each minute once`);
      const begun = await linesOf(sandbox, `begun-${name}`);
      const done = await linesOf(sandbox, `done-${name}`);
      assert.equal(new Set(begun).size, begun.length, `${name}: nothing began twice`);
      for (const { id: execution, state, reason } of due) {
        counts.occurrences++;
        if (state === "succeeded") {
          counts.succeeded++;
          assert.ok(done.includes(execution), `${name}: ${execution} says that it succeeded`);
        } else if (reason === "lost") counts.lost++;
        else {
          counts.other++;
          t.diagnostic(`${name}: ${state} ${reason}`);
        }
      }
    }
    t.diagnostic(JSON.stringify({ seed, minutes, jobs: jobs.length, ...counts }));
    assert.equal(
      counts.succeeded + counts.lost,
      counts.occurrences,
      "nothing but ran or was lost with its watcher",
    );
  });

  async function linesOf(sandbox: string, file: string): Promise<string[]> {
    const command = `cat ${file} 2>/dev/null || true`;
    const key = `${file}-${process.hrtime.bigint()}`;
    const path = `/sandboxes/${sandbox}/exec`;
    const { stdout } = await server.api.post<{ stdout: string }>(path, { command, cwd: "/workspace" }, key);
    return stdout.split("\n").filter((line) => line !== "");
  }
});
