import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { waitFor } from "./kill/wait.ts";
import { Walk, type Step } from "./kill/path.ts";
import { makeFolders, removeFolders, Server } from "./kill/server.ts";

/** A walk along the path and the point at which the program dies in each step. */
interface Plan {
  readonly upTo: Step;
  readonly points: Partial<Record<Step, string>>;
  readonly isStatic?: boolean;
}

const controlPlane: Plan[] = [
  {
    upTo: "delete",
    points: {
      database: "control-plane.database.claimed",
      sandbox: "control-plane.sandbox.claimed",
      expose: "control-plane.preview.after-guest-probe",
      publish: "control-plane.build.claimed",
      republish: "control-plane.deployment.instance-healthy",
      rollback: "control-plane.deployment.claimed",
      delete: "control-plane.deployment.before-deleted",
    },
  },
  {
    upTo: "delete",
    points: {
      database: "control-plane.database.before-probe",
      sandbox: "control-plane.sandbox.box-started",
      publish: "control-plane.build.after-freeze",
      republish: "control-plane.instance.after-row",
      rollback: "control-plane.deployment.before-active",
      delete: "control-plane.sandbox.before-delete",
    },
  },
  {
    upTo: "delete",
    points: {
      sandbox: "control-plane.sandbox.before-running",
      publish: "control-plane.build.before-build",
      republish: "control-plane.instance.after-box",
      rollback: "control-plane.deployment.after-route",
      delete: "control-plane.sandbox.before-destroyed",
    },
  },
  {
    upTo: "delete",
    points: {
      publish: "control-plane.build.after-bundle",
      republish: "control-plane.build.before-ready",
      rollback: "control-plane.rollback.before-answer",
      delete: "control-plane.database.before-deleted",
    },
  },
  {
    upTo: "delete",
    points: {
      publish: "control-plane.promotion.begun",
      republish: "control-plane.deployment.after-route",
      rollback: "control-plane.promotion.begun",
    },
  },
];

const host: Plan[] = [
  {
    upTo: "delete",
    points: {
      database: "host.postgresql.after-clone",
      sandbox: "host.box.before-state",
      publish: "host.freeze.after-copy",
      republish: "host.bundle.before-answer",
      delete: "host.box.delete-after-kill",
    },
  },
  {
    upTo: "delete",
    points: {
      database: "host.postgresql.after-start",
      sandbox: "host.box.after-state",
      publish: "host.box.after-start",
      republish: "host.box.before-ready",
      delete: "host.box.delete-before-forget",
    },
  },
  { upTo: "files", points: { database: "host.postgresql.after-role", sandbox: "host.box.after-ready" } },
  { upTo: "files", points: { database: "host.postgresql.before-state", sandbox: "host.box.after-start" } },
  { upTo: "files", points: { database: "host.database.before-answer", sandbox: "host.box.before-ready" } },
];

const edge: Plan[] = [
  {
    upTo: "delete",
    points: {
      expose: "edge.proxy.before-dial",
      visit: "edge.proxy.mid-body",
      publish: "edge.routes.received",
      republish: "edge.routes.before-persist",
      rollback: "edge.routes.before-ack",
      delete: "edge.boot.before-listen",
    },
  },
  {
    upTo: "publish",
    isStatic: true,
    points: {
      expose: "edge.proxy.after-dial",
      publish: "edge.static.before-send",
      delete: "edge.routes.after-persist",
    },
  },
  { upTo: "visit", points: { expose: "edge.upgrade.after-dial" } },
];

const programs = { "control-plane": controlPlane, host, edge };

for (const [program, plans] of Object.entries(programs)) {
  describe(`a ${program} that is killed in the middle of its work`, () => {
    let server: Server;
    before(async () => {
      server = await Server.start(makeFolders());
    });
    after(() => removeFolders(server.folders, server));

    for (const plan of plans) {
      const names = Object.values(plan.points).map((point) => point.slice(program.length + 1));
      test(`doubles and orphans nothing: ${names.join(", ")}`, async (t) => {
        const walk = new Walk(server, { isStatic: plan.isStatic ?? false });
        let armed: { point: string; pid: number; kills: number } | null = null;
        const hasFired = async () => {
          if (!armed) return;
          const { point, pid, kills } = armed;
          armed = null;
          await waitFor(`${point} to be passed`, () => !server.isArmed(point), 20_000);
          const now = await waitFor(`${program} to run again`, () => server.program(program)?.pid, 20_000);
          assert.notEqual(now, pid, `${program} still has the process that was to die at ${point}`);
          await waitFor("the supervisor to tell of it", () => server.kills(program) > kills, 5_000);
        };
        let since = performance.now();
        await walk.run(plan.upTo, async (step) => {
          await hasFired();
          t.diagnostic(`until ${step}: ${Math.round(performance.now() - since)} ms`);
          since = performance.now();
          const point = plan.points[step];
          if (!point) return;
          const pid = await waitFor(`${program} to run`, () => server.program(program)?.pid, 20_000);
          armed = { point, pid, kills: server.kills(program) };
          server.arm(point);
          // It is passed only by a program that starts.
          if (point.includes(".boot.")) process.kill(pid, "SIGKILL");
        });
        await hasFired();
        await walk.gone();
        assert.deepEqual(server.armed, []);
      });
    }
  });
}
