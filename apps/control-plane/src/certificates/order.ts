import { setTimeout as delay } from "node:timers/promises";
import acme from "acme-client";
import type { Authorization, Client, Order } from "acme-client";
import { inspectCertificate } from "@platform/certificates";
import type { AcmeChallenge } from "@platform/edge-api";
import { queryOne } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import { acmeClient } from "./acme-client.ts";
import { AcmeRefusal, StillPending, ValidationFailed } from "./acme-errors.ts";
import { publishChallenges, withdrawChallenges } from "./challenges.ts";
import { registeredDomain } from "./names.ts";
import type { AcmeSettings, ChallengeType } from "./settings.ts";
import { storeIssued, type CertificateRow, type Issued } from "./store.ts";

const pollMs = [200, 300, 500, 1_000, 2_000, 3_000];
/** Most time for the authority to come, and most time to sign. */
const decideMs = 90_000;

interface Work {
  readonly platform: Platform;
  readonly settings: AcmeSettings;
  readonly row: CertificateRow;
  readonly challenge: ChallengeType;
  readonly signal: AbortSignal;
}

/** Asks again, ever slower, until `look` has an answer. @throws StillPending */
async function poll<T>(what: string, signal: AbortSignal, look: () => Promise<T | null>): Promise<T> {
  const endsAt = Date.now() + decideMs;
  for (let turn = 0; Date.now() < endsAt; turn++) {
    const found = await look();
    if (found !== null) return found;
    await delay(pollMs[Math.min(turn, pollMs.length - 1)], undefined, { signal });
  }
  throw new StillPending(what);
}

/** The order that an earlier look began, if the authority still has it; else a new one, written down first. */
async function openOrder({ platform, settings, row, challenge, signal }: Work, client: Client) {
  if (row.order_url && row.order_key_sealed) {
    const known = await client.getOrder({ url: row.order_url } as Order).catch((error: unknown) => {
      if (error instanceof AcmeRefusal && error.status < 500 && error.status !== 429) return null;
      throw error;
    });
    if (known && known.status !== "invalid")
      return { order: known, key: platform.seal.open(row.order_key_sealed), isNew: false };
  }
  signal.throwIfAborted();
  const order = await client.createOrder({
    identifiers: row.names.map((value) => ({ type: "dns", value })),
  });
  const key = (await acme.crypto.createPrivateEcdsaKey()).toString();
  await platform.pool.query("update certificates set order_url = $2, order_key_sealed = $3 where id = $1", [
    row.id,
    order.url,
    platform.seal.close(key),
  ]);
  await platform.pool.query(
    `insert into acme_orders (certificate_id, name, registered_domain, directory, is_renewal, challenge) values ($1, $2, $3, $4, $5, $6)`,
    [row.id, row.name, registeredDomain(row.name), settings.directoryUrl, row.chain !== null, challenge],
  );
  return { order, key, isNew: true };
}

async function dnsName(platform: Platform, settings: AcmeSettings, hostname: string): Promise<string> {
  const row = await queryOne<{ label: string }>(
    platform.pool,
    "select label from acme_delegations where name = $1",
    [hostname],
  );
  if (!row || !settings.dnsZone)
    throw new ValidationFailed(hostname, "urn:ietf:params:acme:error:dns", "its challenge is not delegated");
  return `${row.label}.${settings.dnsZone}`;
}

async function answerTo(work: Work, client: Client, authorization: Authorization) {
  const { platform, settings, challenge: type } = work;
  const hostname = authorization.identifier.value;
  // A wildcard can be proved by DNS alone, whatever comes first in the settings.
  const wanted: ChallengeType = authorization.wildcard ? "dns-01" : type;
  const challenge = authorization.challenges.find((one) => one.type === (wanted as string));
  if (!challenge)
    throw new ValidationFailed(hostname, null, `the authority offers no ${wanted} challenge for it`);
  const value = await client.getChallengeKeyAuthorization(challenge);
  const published: AcmeChallenge =
    wanted === "http-01"
      ? { type: wanted, hostname, token: challenge.token, keyAuthorization: value }
      : wanted === "tls-alpn-01"
        ? { type: wanted, hostname, keyAuthorization: value }
        : { type: wanted, name: await dnsName(platform, settings, hostname), value };
  return { authorization, challenge, published };
}

/** @throws ValidationFailed with what the authority saw */
async function prove(work: Work, client: Client, order: Order): Promise<void> {
  const { platform, row, signal } = work;
  const all = await client.getAuthorizations(order);
  const open = all.filter((one) => one.status === "pending");
  const answers = await Promise.all(open.map((one) => answerTo(work, client, one)));
  if (answers.length > 0) {
    await publishChallenges(
      platform,
      row.id,
      answers.map((one) => one.published),
      signal,
    );
    for (const { challenge } of answers)
      if (challenge.status === "pending") await client.completeChallenge(challenge);
  }
  await poll("validation", signal, async () => {
    const now = await client.getAuthorizations(order);
    const bad = now.find((one) => !["pending", "valid"].includes(one.status));
    if (bad) {
      const seen = bad.challenges.map((one) => (one as { error?: { type?: string; detail?: string } }).error);
      const error = seen.find((one) => one !== undefined);
      throw new ValidationFailed(bad.identifier.value, error?.type, error?.detail ?? bad.status);
    }
    return now.every((one) => one.status === "valid") ? true : null;
  });
}

async function fetchCertificate(
  { row, signal }: Work,
  client: Client,
  order: Order,
  key: string,
): Promise<Issued> {
  let current = await client.getOrder(order);
  if (current.status === "ready") {
    const [, csr] = await acme.crypto.createCsr({ altNames: row.names }, key);
    current = await client.finalizeOrder(current, csr);
  }
  const done = await poll("signature", signal, async () => {
    current = await client.getOrder(order);
    if (current.status === "invalid") {
      const error = (current as { error?: { type?: string; detail?: string } }).error;
      throw new AcmeRefusal(403, error?.type, error?.detail ?? "the order became invalid", null);
    }
    return current.status === "valid" ? current : null;
  });
  const chain = await client.getCertificate(done);
  // What is served must be what was asked for: key, names and time are checked like a certificate from outside.
  const found = inspectCertificate(chain, key);
  const missing = row.names.find((name) => !found.names.includes(name));
  if (missing) throw new AcmeRefusal(500, null, `the certificate lacks ${missing}`, null);
  return {
    chain: found.certificate,
    key: found.key,
    notBefore: found.notBefore,
    notAfter: found.notAfter,
    fingerprint: found.fingerprint,
    issuer: found.issuer,
  };
}

/**
 * One order from begin to end; a crash anywhere continues it at the next look.
 *
 * @throws AcmeRefusal, ValidationFailed, StillPending, or what the connection failed with
 */
export async function placeOrder(work: Work): Promise<void> {
  const { platform, settings, row } = work;
  const client = await acmeClient(platform, settings);
  const finish = (outcome: string, failedValidation = false) =>
    platform.pool.query(
      `update acme_orders set finished_at = now(), outcome = $2, failed_validation = $3
       where id = (select max(id) from acme_orders where certificate_id = $1) and finished_at is null`,
      [row.id, outcome, failedValidation],
    );
  try {
    const { order, key } = await openOrder(work, client);
    if (order.status === "pending") await prove(work, client, order);
    await storeIssued(platform, row.id, await fetchCertificate(work, client, order, key));
    await finish("issued");
  } catch (error) {
    if (!(error instanceof StillPending))
      await finish((error as Error).name, error instanceof ValidationFailed);
    throw error;
  } finally {
    await withdrawChallenges(platform, row.id);
  }
}
