import { closeSync, constants, openSync, readSync } from "node:fs";
import type { BoxNotice, BoxStats } from "@platform/host-api";

const mostNotices = 20;
/** A disk with less than this part free counts as full, and as not full any more with twice as much. */
const fullBelow = 0.01;

/** Troubles of one box that do not end it, the newest last. */
export class Notices {
  readonly list: BoxNotice[] = [];
  #oomKills: number | null;
  #isDiskFull = false;

  /** @param oomKills the kernel's counter when the box began; `null`: the first look tells */
  constructor(oomKills: number | null) {
    this.#oomKills = oomKills;
  }

  /** @param place name of the box's control group */
  look(place: string, stats: BoxStats): void {
    const { oomKills } = stats;
    if (oomKills !== null) {
      const before = this.#oomKills ?? oomKills;
      this.#oomKills = oomKills;
      if (oomKills > before) this.#add(oomNotice(place, stats, oomKills - before));
    }
    this.#lookAtDisk(stats);
  }

  #lookAtDisk({ diskBytes, diskLimitBytes, files, filesLimit }: BoxStats): void {
    if (diskBytes === null || !diskLimitBytes || files == null || !filesLimit) return;
    const free = Math.min(1 - diskBytes / diskLimitBytes, 1 - files / filesLimit);
    if (free > 2 * fullBelow) this.#isDiskFull = false;
    if (this.#isDiskFull || free > fullBelow) return;
    this.#isDiskFull = true;
    this.#add({
      type: "disk_full",
      at: new Date().toISOString(),
      detail: "The disk is full. Remove files, or use a larger disk.",
      evidence: { diskBytes, diskLimitBytes, files, filesLimit },
    });
  }

  #add(notice: BoxNotice): void {
    this.list.push(notice);
    if (this.list.length > mostNotices) this.list.shift();
  }
}

function oomNotice(place: string, stats: BoxStats, kills: number): BoxNotice {
  const { oomKills, memoryLimitBytes, memoryPeakBytes } = stats;
  const processes = killedPrograms(place, kills);
  const who = processes.length > 0 ? processes.join(", ") : `${kills} process${kills > 1 ? "es" : ""}`;
  return {
    type: "oom",
    at: new Date().toISOString(),
    detail: `The kernel killed ${who} for want of memory. Use less, or a larger size.`,
    evidence: { kills, totalKills: oomKills, memoryLimitBytes, memoryPeakBytes, processes },
  };
}

/**
 * Names of the last programs that the kernel says it killed in this control group; none where its log
 * cannot be read. The number of a process is the machine's and means nothing in the box.
 */
export function killedPrograms(place: string, most: number): string[] {
  let log: number;
  try {
    log = openSync("/dev/kmsg", constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return [];
  }
  const buffer = Buffer.alloc(8192);
  const found: string[] = [];
  try {
    // The log is a ring of the kernel's: one record a read, and an error at its end.
    for (;;) {
      const name = programOf(buffer.toString("utf8", 0, readSync(log, buffer)), place);
      if (name !== null) found.push(name);
    }
  } catch {
    return found.slice(-most);
  } finally {
    closeSync(log);
  }
}

/** @param record such as `…;oom-kill:constraint=…,task_memcg=/boxes-x/box-one,task=node,pid=5,uid=200000` */
export function programOf(record: string, place: string): string | null {
  const group = /;oom-kill:.*,task_memcg=([^,]*),task=/.exec(record)?.[1];
  if (!group?.endsWith(`/${place}`)) return null;
  return /,task=(.*),pid=\d+,uid=\d+/.exec(record)?.[1] ?? null;
}
