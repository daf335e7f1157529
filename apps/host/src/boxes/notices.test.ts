import assert from "node:assert/strict";
import { test } from "node:test";
import type { BoxStats } from "@platform/host-api";
import { Notices, programOf } from "./notices.ts";

const calm: BoxStats = {
  ...{ memoryBytes: 1, memoryPeakBytes: 900, memoryLimitBytes: 1000, cpuMicros: 1, processes: 1 },
  ...{ oomKills: 0, diskBytes: 10, diskLimitBytes: 1000, files: 10, filesLimit: 1000 },
};

test("a kill for want of memory is noticed once, by the kernel's counter alone", () => {
  const notices = new Notices(0);
  notices.look("box-none", calm);
  notices.look("box-none", { ...calm, oomKills: 2 });
  notices.look("box-none", { ...calm, oomKills: 2 });
  assert.deepEqual(
    notices.list.map(({ type, evidence }) => [type, evidence["kills"], evidence["memoryLimitBytes"]]),
    [["oom", 2, 1000]],
  );
});

test("a counter whose start nobody saw tells of later kills only", () => {
  const notices = new Notices(null);
  notices.look("box-none", { ...calm, oomKills: 5 });
  assert.deepEqual(notices.list, []);
});

test("a full disk is noticed once until there is room again, for bytes and for files", () => {
  const notices = new Notices(0);
  for (const diskBytes of [995, 999, 992, 500, 999]) notices.look("box-none", { ...calm, diskBytes });
  notices.look("box-none", calm);
  notices.look("box-none", { ...calm, files: 1000 });
  assert.equal(notices.list.length, 3);
});

test("the kernel's record names the program of this box and of no other", () => {
  const record =
    "6,9982,14883327708,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0," +
    "oom_memcg=/boxes-7/box-hog,task_memcg=/boxes-7/box-hog,task=a,b (x),pid=18456,uid=230856\n";
  assert.equal(programOf(record, "box-hog"), "a,b (x)");
  assert.equal(programOf(record, "hog"), null);
  assert.equal(programOf("6,1,1,-;something else", "box-hog"), null);
});
