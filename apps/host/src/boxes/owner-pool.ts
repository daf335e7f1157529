import { HostError } from "@platform/host-api";

const firstUid = 200_000;
const lastUid = 265_535;

/** Unprivileged uids, one a box, so that boxes cannot touch each other's files or processes. */
export class OwnerPool {
  readonly #taken = new Set<number>();
  #next: number;

  /** @param offset where to start, so that two daemons on one machine rarely meet */
  constructor(offset: number) {
    this.#next = firstUid + (offset % (lastUid - firstUid + 1));
  }

  reserve(uid: number): void {
    this.#taken.add(uid);
  }

  /** The uid free for longest, so that what a former box might have left is not owned by the next one. */
  take(): { uid: number; gid: number } {
    for (let tried = firstUid; tried <= lastUid; tried++) {
      const uid = this.#next;
      this.#next = uid === lastUid ? firstUid : uid + 1;
      if (this.#taken.has(uid)) continue;
      this.#taken.add(uid);
      return { uid, gid: uid };
    }
    throw new HostError("INTERNAL", 503, "Every uid for boxes is in use. Delete boxes or add a host.");
  }

  release(uid: number): void {
    this.#taken.delete(uid);
  }
}
