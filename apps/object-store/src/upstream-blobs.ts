import { randomUUID } from "node:crypto";
import { Readable } from "node:stream";
import {
  AbortMultipartUploadCommand,
  CopyObjectCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  S3ServiceException,
} from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { Holds, type Blobs, type Segment } from "./blobs.ts";
import { S3Error } from "./s3-error.ts";

export interface UpstreamSettings {
  /** Such as https://s3.eu-central-1.amazonaws.com */
  readonly endpoint: string;
  readonly region: string;
  readonly bucket: string;
  /** In front of every name; empty, or it ends with a slash. */
  readonly prefix: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly pathStyle: boolean;
}

/** Of a stream of unknown length, bytes; four are in memory at most. */
const partBytes = 8 * 1024 * 1024;
const partsAtOnce = 2;
const connectMs = 10_000;
/** Without a byte or an answer. */
const silentMs = 60_000;
const removedAtOnce = 16;

/** At the start; its message is one line for the operator. */
export class UpstreamUnusableError extends Error {}

const statusOf = (error: unknown): number =>
  error instanceof S3ServiceException ? (error.$metadata.httpStatusCode ?? 0) : 0;

/** What a client is told: nothing of whose store it is, and that the same call may succeed later. */
const unavailable = (cause: unknown) =>
  new S3Error("ServiceUnavailable", undefined, { cause: cause as Error });

/**
 * In a bucket of another object store. It is taken for stored once that store has acknowledged it with the checksum
 * that was sent along.
 */
export class UpstreamBlobs implements Blobs {
  readonly #settings: UpstreamSettings;
  readonly #client: S3Client;
  readonly #holds = new Holds();

  private constructor(settings: UpstreamSettings) {
    this.#settings = settings;
    const { endpoint, region, accessKeyId, secretAccessKey, pathStyle } = settings;
    this.#client = new S3Client({
      ...{ endpoint, region, forcePathStyle: pathStyle, maxAttempts: 3 },
      credentials: { accessKeyId, secretAccessKey },
      requestHandler: {
        ...{ connectionTimeout: connectMs, requestTimeout: silentMs, socketTimeout: silentMs },
        // Without it a silent store is only warned of.
        throwOnRequestTimeout: true,
      },
    });
  }

  /** @throws UpstreamUnusableError with one line that says why nothing can be kept there: written, read back and removed */
  static async open(settings: UpstreamSettings): Promise<UpstreamBlobs> {
    const blobs = new UpstreamBlobs(settings);
    const key = `${settings.prefix}proof-${randomUUID()}`;
    const object = { Bucket: settings.bucket, Key: key };
    const content = randomUUID();
    try {
      await blobs.#client.send(new PutObjectCommand({ ...object, Body: content }));
      const { Body } = await blobs.#client.send(new GetObjectCommand(object));
      if ((await Body?.transformToString()) !== content)
        throw new Error("what was written came back changed");
      await blobs.#client.send(new DeleteObjectCommand(object));
    } catch (error) {
      blobs.#client.destroy();
      const { name, message } = error as Error;
      const why = [settings.secretAccessKey, settings.accessKeyId]
        .reduce((text, secret) => text.replaceAll(secret, "***"), `${name}: ${message}`)
        .slice(0, 300);
      throw new UpstreamUnusableError(
        `The upstream bucket ${settings.bucket} at ${settings.endpoint} cannot be used (${why}). Check OBJECT_STORE_UPSTREAM_*: address, region, bucket and keys.`,
        { cause: error },
      );
    }
    return blobs;
  }

  #object(blob: string) {
    if (!/^[0-9a-f]{32}$/.test(blob)) throw new Error("a blob's name is 32 hexadecimal digits");
    const { bucket: Bucket, prefix } = this.#settings;
    return { Bucket, Key: `${prefix}${blob.slice(0, 2)}/${blob}` };
  }

  async write(source: AsyncIterable<Buffer>, check: (sizeBytes: number) => void): Promise<Segment> {
    const blob = randomUUID().replaceAll("-", "");
    let sizeBytes = 0;
    let refusal: unknown;
    const counted = async function* () {
      try {
        for await (const chunk of source) {
          sizeBytes += chunk.length;
          yield chunk;
        }
        // The last bytes are not sent before: a refusal ends the upload while it is incomplete.
        check(sizeBytes);
      } catch (error) {
        refusal = error;
        throw error;
      }
    };
    const upload = new Upload({
      client: this.#client,
      params: { ...this.#object(blob), Body: Readable.from(counted(), { objectMode: false }) },
      ...{ partSize: partBytes, queueSize: partsAtOnce },
    });
    try {
      await upload.done();
    } catch (error) {
      await upload.abort().catch(() => undefined); // The sweep ends what stays unfinished.
      if (refusal instanceof Error) throw refusal;
      throw unavailable(error);
    }
    return { blob, sizeBytes };
  }

  async copy(segment: Segment): Promise<Segment> {
    const blob = randomUUID().replaceAll("-", "");
    const { Bucket, Key } = this.#object(segment.blob);
    const CopySource = `${Bucket}/${Key.split("/").map(encodeURIComponent).join("/")}`;
    await this.#send(() => this.#client.send(new CopyObjectCommand({ ...this.#object(blob), CopySource })));
    return { blob, sizeBytes: segment.sizeBytes };
  }

  hold = (segments: readonly Segment[]) => this.#holds.hold(segments, (blob) => this.remove([blob]));

  async exists(segment: Segment): Promise<boolean> {
    try {
      await this.#client.send(new HeadObjectCommand(this.#object(segment.blob)));
      return true;
    } catch (error) {
      if (statusOf(error) === 404) return false;
      throw unavailable(error);
    }
  }

  async *read(segments: readonly Segment[], first: number, last: number): AsyncGenerator<Buffer> {
    let at = 0;
    for (const { blob, sizeBytes } of segments) {
      const [start, end] = [Math.max(first - at, 0), Math.min(last - at, sizeBytes - 1)];
      at += sizeBytes;
      if (start > end) continue;
      const Range = `bytes=${start}-${end}`;
      const { Body } = await this.#send(() =>
        this.#client.send(new GetObjectCommand({ ...this.#object(blob), Range })),
      );
      let got = 0;
      for await (const chunk of Body as Readable as AsyncIterable<Buffer>) {
        got += chunk.length;
        yield chunk;
      }
      if (got !== end - start + 1) throw unavailable(new Error(`${got} bytes came of ${end - start + 1}`));
    }
  }

  /** What cannot be removed now is in nobody's way: the sweep of a later start finds it. */
  async remove(blobs: readonly string[]): Promise<void> {
    const free = blobs.filter((blob) => !this.#holds.isRead(blob));
    for (let at = 0; at < free.length; at += removedAtOnce)
      await Promise.allSettled(free.slice(at, at + removedAtOnce).map((blob) => this.#delete(blob)));
  }

  async sweep(before: number, findKnown: (blobs: string[]) => Promise<Set<string>>): Promise<number> {
    const { bucket: Bucket, prefix: Prefix } = this.#settings;
    let removed = 0;
    let ContinuationToken: string | undefined;
    do {
      const page = await this.#client.send(new ListObjectsV2Command({ Bucket, Prefix, ContinuationToken }));
      const old = (page.Contents ?? []).filter(
        ({ LastModified }) => (LastModified?.getTime() ?? before) < before,
      );
      // Whatever else lies in the bucket is not ours.
      const names = old.flatMap(({ Key = "" }) => /\/([0-9a-f]{32})$/.exec(`/${Key}`)?.[1] ?? []);
      const known = names.length > 0 ? await findKnown(names) : new Set<string>();
      const left = names.filter((name) => !known.has(name));
      await this.remove(left);
      removed += left.length;
      ContinuationToken = page.IsTruncated ? page.NextContinuationToken : undefined;
    } while (ContinuationToken !== undefined);
    let KeyMarker: string | undefined;
    let UploadIdMarker: string | undefined;
    do {
      const marks = { KeyMarker, UploadIdMarker };
      const page = await this.#client.send(new ListMultipartUploadsCommand({ Bucket, Prefix, ...marks }));
      for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
        if ((Initiated?.getTime() ?? before) >= before) continue;
        await this.#client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }));
        removed++;
      }
      KeyMarker = page.IsTruncated ? page.NextKeyMarker : undefined;
      UploadIdMarker = page.IsTruncated ? page.NextUploadIdMarker : undefined;
    } while (KeyMarker !== undefined);
    return removed;
  }

  close(): void {
    this.#client.destroy();
  }

  /** One that is gone already is removed. */
  async #delete(blob: string): Promise<void> {
    await this.#send(() => this.#client.send(new DeleteObjectCommand(this.#object(blob))));
  }

  async #send<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw unavailable(error);
    }
  }
}
