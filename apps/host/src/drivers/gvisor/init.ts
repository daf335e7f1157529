import { insideUid } from "../linux/rootfs.ts";

/** Folder in the box where process 1 notes how the agent ended; closed to the box's user. */
export const noteFolder = "/run/init";
export const noteFile = "exit";

/**
 * Process 1: collects orphans, and notes how the agent ended, as nothing outside the box learns it.
 * It is the box's root user, so that no program of the box can end it or write its note.
 */
const collect = `"$@" & wait $!; code=$?; echo $code > ${noteFolder}/${noteFile}; exit $code`;

export interface BoxMeasure {
  /** Processes and threads of the box, the agent's own included. */
  readonly maxTasks: number;
  /** Only told: the machine's kernel holds the box to it, and runtimes in the box size their heaps by it. */
  readonly memoryBytes: number;
}

/**
 * The machine's kernel does not know the box's processes, so the box's own kernel counts them: in a
 * group below its first one, which has no limit. Node then gives up being root, for good.
 */
const enter = ({ maxTasks, memoryBytes }: BoxMeasure) => `
const fs = require("node:fs");
fs.writeFileSync("/sys/fs/cgroup/memory/memory.limit_in_bytes", "${memoryBytes}");
const group = "/sys/fs/cgroup/pids/box";
fs.mkdirSync(group);
fs.writeFileSync(group + "/pids.max", "${maxTasks}");
fs.writeFileSync(group + "/cgroup.procs", String(process.pid));
process.setgroups([]);
process.setgid(${insideUid});
process.setuid(${insideUid});
`;

const asFirst = (script: string, node: string) => [
  ...["/bin/sh", "-c", collect, "init", node, "--eval", script],
];

/** @param node path in the box */
export const agentAsFirst = (measure: BoxMeasure, node: string): string[] =>
  asFirst(`${enter(measure)} import("/opt/agent/agent.mjs");`, node);

/** Goes the agent's whole way, and then only prints what kernel it sees. */
export const trialAsFirst = (measure: BoxMeasure, node: string): string[] =>
  asFirst(`${enter(measure)} process.stdout.write(fs.readFileSync("/proc/version"));`, node);

/** What it takes to become another user, and to write where only that user may. */
export const firstCapabilities = ["CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"];
