import { createHash } from "node:crypto";
import { faultPoint, type Log } from "@platform/daemon";
import {
  Digest,
  HostError,
  hostTemplate,
  ImageBuildSpec,
  type ImageBuild,
  type ImageInfo,
  type ImageLogLine,
  type ImageReport,
} from "@platform/host-api";
import type { Boxes } from "../boxes/index.ts";
import type { RootImage } from "../drivers/driver.ts";
import { findCgroups } from "../drivers/linux/cgroup-layout.ts";
import { Cgroups } from "../drivers/linux/cgroups.ts";
import type { OutboundFactory } from "../outbound/index.ts";
import { BuildLog } from "./build-log.ts";
import { BuildRecords, type BuildRecord } from "./build-record.ts";
import { certify } from "./certify.ts";
import { findDefinition, imageDefinitions, type ImageDefinition } from "./definitions.ts";
import { ImageError } from "./image-error.ts";
import { ImageStore, type StoredImage } from "./image-store.ts";
import { definitionHash, makeBuiltin, readToolchainVersions, type MakeContext } from "./make-builtin.ts";
import { failureOf, infoOf, tookTooLong, withConfig } from "./build-outcome.ts";
import { makeFromSteps } from "./make-from-steps.ts";
import { makeFromOci } from "./oci/make-from-oci.ts";
import { type Registry } from "./oci/registry.ts";
import { ImageUploads } from "./oci/uploads.ts";
import { whyNoBuilds } from "./requirements.ts";

export interface ImagesOptions {
  /** Where images lie; other daemons may use it too. */
  readonly folder: string;
  /** Where this daemon keeps its builds. */
  readonly buildsFolder: string;
  /** Where uploaded images wait. */
  readonly uploadsFolder: string;
  /** Those that images may be taken from. */
  readonly registries: readonly Registry[];
  /** Distinguishes this daemon from others, equal at every start. */
  readonly tag: string;
  readonly toolchain: string;
  /** Folder of the agent, as boxes mount it. */
  readonly guestFolder: string;
  readonly runsAsRoot: boolean;
  readonly outbound: OutboundFactory;
  readonly log: Log;
  /** Known only once the boxes know their images. */
  readonly boxes: () => Boxes;
}

/** Boxes that this host starts for itself have keys of this form, and are nobody else's to remove. */
const ownBoxes = "image-check-";
export const isOwnBox = (key: string): boolean => key.startsWith(ownBoxes);

const ended = (build: ImageBuild) =>
  build.state === "ready" || build.state === "failed" || build.state === "cancelled";
const maxKeptBuilds = 500;

/** Images of this host and the builds that make them, one at a time. Every call is idempotent by key. */
export class Images {
  readonly #options: ImagesOptions;
  readonly #store: ImageStore;
  readonly uploads: ImageUploads;
  readonly #records: BuildRecords;
  readonly #builds = new Map<string, BuildRecord>();
  readonly #logs = new Map<string, BuildLog>();
  readonly #stop = new AbortController();
  #running: { key: string; cancel: AbortController } | null = null;
  #loop: Promise<void> = Promise.resolve();
  #cgroups: Cgroups | null = null;

  constructor(options: ImagesOptions) {
    this.#options = options;
    this.#store = new ImageStore(options.folder);
    this.uploads = new ImageUploads(options.uploadsFolder);
    this.#records = new BuildRecords(options.buildsFolder);
  }

  /** Call once, first. Builds that a crash cut off begin again at `start`. */
  async open(): Promise<void> {
    await this.#store.open();
    await this.uploads.open();
    for (const record of await this.#records.load()) {
      this.#builds.set(record.build.key, record);
      const log = new BuildLog(this.#records.logPath(record.build.key));
      await log.open();
      this.#logs.set(record.build.key, log);
    }
  }

  /** Begins to build what waits. Call once boxes can be started. */
  async start(options: { readonly mustBuildDefaults: boolean }): Promise<void> {
    if (options.mustBuildDefaults) await this.#queueDefaults();
    this.#wake();
  }

  /** Those that most templates use, where they are missing, older than their definition, or damaged. */
  async #queueDefaults(): Promise<void> {
    const { images, whyNoBuilds: why } = await this.report();
    if (why !== null) {
      this.#options.log.info({ why }, "images are not built here; templates use the machine's own system");
      return;
    }
    for (const { name, digest, isOutdated, certificate } of images) {
      if (name === null || !findDefinition(name)?.isDefault) continue;
      if (digest !== null && certificate !== null && !isOutdated) continue;
      if (this.builds().some((build) => build.name === name && !ended(build))) continue;
      await this.put(`builtin-${name}-${Date.now()}`, { source: { type: "builtin", name } });
    }
  }

  /** Ends a running build, which begins again with the next daemon. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }

  /**
   * @param reference `host`, the name of a built-in image, or a digest
   * @returns `null` for the machine's own system
   * @throws HostError `NOT_FOUND`
   */
  async resolve(reference: string): Promise<RootImage | null> {
    if (reference === hostTemplate) return null;
    const digest = Digest.safeParse(reference).success
      ? reference
      : findDefinition(reference)
        ? (await this.#store.named(reference))?.digest
        : undefined;
    if (digest !== undefined && (await this.#store.find(digest))) return this.#store.root(digest);
    throw new HostError(
      "NOT_FOUND",
      404,
      `There is no image "${reference}" on this host. Build it, or use "${hostTemplate}".`,
      { reason: "image_missing", reference },
    );
  }

  async report(): Promise<ImageReport> {
    const stored = new Map((await this.#store.list()).map((image) => [image.digest, image]));
    const images: ImageInfo[] = [];
    for (const definition of imageDefinitions) {
      const named = await this.#store.named(definition.name);
      const image = named ? stored.get(named.digest) : undefined;
      if (image) stored.delete(image.digest);
      images.push({
        ...infoOf(image ?? null),
        name: definition.name,
        isOutdated: named !== null && named.definitionHash !== (await this.#hashOf(definition)),
        certificate: image ? (named?.certificate ?? null) : null,
        build: this.#newest((build) => build.name === definition.name),
        tools: [...definition.tools],
      });
    }
    for (const image of stored.values()) {
      const build = this.#newest(({ digest, state }) => digest === image.digest && state === "ready");
      images.push({ ...infoOf(image), build, certificate: build?.certificate ?? null });
    }
    return { whyNoBuilds: await whyNoBuilds(this.#options.runsAsRoot), images };
  }

  builds(): ImageBuild[] {
    return [...this.#builds.values()].map(({ build }) => build);
  }

  build(key: string): ImageBuild | null {
    return this.#builds.get(key)?.build ?? null;
  }

  /**
   * Queues a build; the same key again returns the same build.
   *
   * @throws HostError `NOT_FOUND` for an unknown built-in image
   */
  async put(key: string, input: ImageBuildSpec): Promise<ImageBuild> {
    const spec = ImageBuildSpec.parse(input);
    const known = this.#builds.get(key);
    if (known) return known.build;
    const name = spec.source.type === "builtin" ? spec.source.name : null;
    if (name !== null && !findDefinition(name)) {
      const names = imageDefinitions.map((definition) => definition.name).join(", ");
      throw new HostError("NOT_FOUND", 404, `There is no built-in image "${name}". There are: ${names}.`);
    }
    await this.#forgetOldest();
    const build: ImageBuild = {
      ...{ key, state: "queued", source: spec.source.type, name, digest: null, failure: null },
      createdAt: new Date().toISOString(),
      ...{ startedAt: null, finishedAt: null, sizeBytes: null, certificate: null, config: null },
    };
    await this.#records.save({ build, spec });
    this.#builds.set(key, { build, spec });
    this.#logs.set(key, new BuildLog(this.#records.logPath(key)));
    this.#wake();
    return build;
  }

  /** @throws HostError `NOT_FOUND` */
  async logs(key: string, after: number, limit: number): Promise<ImageLogLine[]> {
    const log = this.#logs.get(key);
    if (!log) throw noSuchBuild(key);
    return log.read(after, limit);
  }

  /** Resolves once nothing of the build runs, also if it had ended. @throws HostError `NOT_FOUND` */
  async cancel(key: string): Promise<ImageBuild> {
    const record = this.#builds.get(key);
    if (!record) throw noSuchBuild(key);
    if (this.#running?.key === key) {
      this.#running.cancel.abort();
      await this.#loop;
    } else if (!ended(record.build)) {
      await this.#change(key, { state: "cancelled", finishedAt: new Date().toISOString() });
    }
    return this.#builds.get(key)?.build ?? record.build;
  }

  /** Forgets a build and its log; the image stays. Resolves also if there is none. */
  async deleteBuild(key: string): Promise<void> {
    if (!this.#builds.has(key)) return;
    await this.cancel(key);
    this.#builds.delete(key);
    this.#logs.delete(key);
    await this.#records.remove(key);
  }

  /**
   * Resolves once the tree is gone, also if it already was.
   *
   * @throws HostError `CONFLICT` while a box has it as its root
   */
  async remove(digest: string): Promise<void> {
    if (this.#options.boxes().usedImages().has(digest)) {
      const message = `Boxes run from image ${digest}. Delete them first.`;
      throw new HostError("CONFLICT", 409, message, { reason: "image_in_use" });
    }
    for (const { name } of imageDefinitions)
      if ((await this.#store.named(name))?.digest === digest) await this.#store.forgetName(name);
    await this.#store.remove(digest);
  }

  /** As `remove`; a path of the host's API has no room for a whole digest. */
  async removeByPrefix(prefix: string): Promise<void> {
    const found = (await this.#store.list()).filter(({ digest }) => digest.startsWith(prefix));
    if (prefix.length < "sha256:".length + 32 || found.length > 1)
      throw new HostError("INVALID", 400, "Give at least 32 digits of the image's digest.");
    if (found[0]) await this.remove(found[0].digest);
  }

  #newest(matches: (build: ImageBuild) => boolean): ImageBuild | null {
    return this.builds().findLast(matches) ?? null;
  }

  async #hashOf(definition: ImageDefinition): Promise<string> {
    return definitionHash(definition, await readToolchainVersions(this.#options.toolchain));
  }

  async #forgetOldest(): Promise<void> {
    const old = this.builds().filter(ended);
    for (const { key } of old.slice(0, Math.max(0, old.length - maxKeptBuilds))) await this.deleteBuild(key);
  }

  async #change(key: string, change: Partial<ImageBuild>): Promise<void> {
    const record = this.#builds.get(key);
    if (!record) return;
    const next = { ...record, build: { ...record.build, ...change } };
    await this.#records.save(next);
    this.#builds.set(key, next);
  }

  #wake(): void {
    if (this.#running || this.#stop.signal.aborted) return;
    const next = [...this.#builds.values()].find(({ build }) => !ended(build));
    if (!next) return;
    const { key } = next.build;
    const cancel = new AbortController();
    this.#running = { key, cancel };
    this.#loop = this.#run(next, cancel.signal)
      .catch((error: unknown) => this.#options.log.error({ err: error, build: key }, "an image build broke"))
      .then(() => {
        this.#running = null;
        this.#wake();
      });
  }

  async #run({ build: { key }, spec }: BuildRecord, cancelled: AbortSignal): Promise<void> {
    const { log } = this.#options;
    const lines = this.#logs.get(key) ?? new BuildLog(this.#records.logPath(key));
    const timeout = AbortSignal.timeout(spec.limits.timeoutMs);
    const signal = AbortSignal.any([cancelled, this.#stop.signal, timeout]);
    const label = `${this.#options.tag}-${key}`;
    try {
      await this.#change(key, { state: "building", startedAt: new Date().toISOString() });
      await this.#store.clearWork(label);
      await this.#make(key, spec, label, lines, signal);
      lines.add("system", "ready");
      log.info({ build: key, digest: this.build(key)?.digest }, "an image is ready");
    } catch (error) {
      // The next daemon begins this build again.
      if (this.#stop.signal.aborted) return;
      if (cancelled.aborted) {
        lines.add("system", "cancelled");
        await this.#change(key, { state: "cancelled", finishedAt: new Date().toISOString() });
        return;
      }
      const failure = timeout.aborted ? tookTooLong(spec.limits.timeoutMs) : failureOf(error);
      if (failure.reason === "internal") log.error({ err: error, build: key }, "an image build failed");
      lines.add("system", `failed: ${failure.reason}: ${failure.detail}`);
      await this.#change(key, { state: "failed", failure, finishedAt: new Date().toISOString() });
    } finally {
      await lines.flush();
      await this.#store.clearWork(label);
    }
  }

  async #make(
    key: string,
    spec: BuildRecord["spec"],
    label: string,
    lines: BuildLog,
    signal: AbortSignal,
  ): Promise<void> {
    const why = await whyNoBuilds(this.#options.runsAsRoot, spec.source.type !== "builtin");
    if (why) throw new ImageError(this.#options.runsAsRoot ? "tool_missing" : "not_root", why);
    const onLine = (stream: ImageLogLine["stream"], line: string) => lines.add(stream, line);
    const work = await this.#store.makeWork(label);
    const definition = spec.source.type === "builtin" ? findDefinition(spec.source.name) : undefined;
    const context = { store: this.#store, toolchain: this.#options.toolchain, signal, onLine };
    const stored = definition
      ? await makeBuiltin(definition, work, context)
      : await this.#makeCustom(key, spec, work, context);
    faultPoint("host.image.after-store");
    await this.#change(key, { state: "certifying", digest: stored.digest, sizeBytes: stored.sizeBytes });
    const certificate = await certify({
      ...{ boxes: this.#options.boxes(), boxKey: `${ownBoxes}${shortHash(key)}`, digest: stored.digest },
      spec: withConfig(spec, this.build(key)?.config ?? null),
      ...{ signal, onLine, versions: definition?.versions ?? {} },
    });
    faultPoint("host.image.before-ready");
    if (definition)
      await this.#store.name({
        ...{ name: definition.name, digest: stored.digest, certificate },
        definitionHash: await this.#hashOf(definition),
      });
    await this.#change(key, { state: "ready", certificate, finishedAt: new Date().toISOString() });
  }

  async #makeCustom(
    key: string,
    spec: BuildRecord["spec"],
    work: string,
    context: MakeContext,
  ): Promise<StoredImage> {
    const { source, limits, minimumIsolation } = spec;
    if (source.type === "builtin")
      throw new ImageError("base_missing", `There is no built-in image "${source.name}".`);
    const hasSteps = source.type === "steps" || source.steps.length > 0;
    if (hasSteps && minimumIsolation !== "namespaces" && minimumIsolation !== "none")
      throw new ImageError(
        "isolation_unavailable",
        `Steps run isolated by namespaces, and "${minimumIsolation}" is asked for. Use a template that comes with the platform.`,
      );
    if (source.type === "steps")
      return this.#runSteps(key, source, limits, await this.#baseOf(source.from), work, context);
    const { registries } = this.#options;
    const made = await makeFromOci(work, {
      ...{ ...context, image: source.image, limits, registries, upload: (name) => this.uploads.find(name) },
    });
    await this.#change(key, { config: made.config });
    if (!hasSteps) return made.stored;
    const { steps } = source;
    const env = { ...made.config.env, ...source.env };
    const onTop = { type: "steps" as const, from: made.stored.digest, steps, env, workdir: "/" };
    const next = await this.#store.makeWork(`${this.#options.tag}-${key}`);
    return this.#runSteps(key, onTop, limits, made.stored, next, context);
  }

  async #runSteps(
    key: string,
    source: Extract<BuildRecord["spec"]["source"], { type: "steps" }>,
    limits: BuildRecord["spec"]["limits"],
    base: StoredImage,
    work: string,
    context: MakeContext,
  ): Promise<StoredImage> {
    const { tag, guestFolder, outbound } = this.#options;
    this.#cgroups ??= new Cgroups(await findCgroups(`boxes-${tag}`));
    const boxKey = `image-steps-${shortHash(key)}`;
    return makeFromSteps(work, {
      ...context,
      ...{ source, limits, base, key: boxKey, marker: `box.${tag}.${boxKey}`, tag, guestFolder, outbound },
      cgroups: this.#cgroups,
      upload: (name) => this.uploads.find(name),
      onFreeze: () => this.#change(key, { state: "snapshotting" }),
    });
  }

  /** @throws ImageError `base_missing` */
  async #baseOf(reference: string): Promise<StoredImage> {
    const named = Digest.safeParse(reference).success ? null : await this.#store.named(reference);
    const digest = named?.digest ?? (Digest.safeParse(reference).success ? reference : null);
    const base = digest === null ? null : await this.#store.find(digest);
    if (base) return base;
    throw new ImageError(
      "base_missing",
      `The base "${reference}" is not built on this machine. Build it first.`,
    );
  }
}

const shortHash = (text: string) => createHash("sha256").update(text).digest("hex").slice(0, 16);

const noSuchBuild = (key: string) =>
  new HostError("NOT_FOUND", 404, `There is no image build ${key} on this host.`);
