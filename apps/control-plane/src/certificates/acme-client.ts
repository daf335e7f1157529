import { Agent } from "node:https";
import acme from "acme-client";
import type { Client } from "acme-client";
import { queryOne } from "@platform/postgres";
import type { Platform } from "../platform.ts";
import { AcmeRefusal, parseRetryAfter } from "./acme-errors.ts";
import type { AcmeSettings } from "./settings.ts";

const requestMs = 20_000;
const badNonce = "urn:ietf:params:acme:error:badNonce";

let isPrepared = false;

/**
 * The library shares one HTTP client in a process. It would retry by itself for minutes and then throw the
 * answer away, status and Retry-After with it: here every refusal is thrown as it is, and the schedule
 * decides when to try again.
 */
function prepare(settings: AcmeSettings): void {
  if (isPrepared) return;
  isPrepared = true;
  const { axios } = acme;
  Object.assign(axios.defaults, { timeout: requestMs, acmeSettings: { retryMaxAttempts: 0 } });
  axios.defaults.headers.common["User-Agent"] = "acme/1.0";
  axios.defaults.maxRedirects = 3;
  axios.defaults.maxContentLength = 1024 * 1024;
  axios.defaults.proxy = false;
  if (settings.ca) axios.defaults.httpsAgent = new Agent({ ca: settings.ca, keepAlive: true });
  axios.interceptors.response.use((response) => {
    const body = (typeof response.data === "object" ? response.data : {}) as {
      type?: unknown;
      detail?: unknown;
    };
    // A used-up nonce is repeated by the library at once, as the protocol wants it.
    if (response.status < 400 || body.type === badNonce) return response;
    const retryAfterMs = parseRetryAfter(response.headers["retry-after"]);
    throw new AcmeRefusal(response.status, body.type, body.detail, retryAfterMs);
  });
}

interface AccountRow {
  readonly key_sealed: Buffer;
  readonly url: string | null;
}

const clients = new WeakMap<Platform, Promise<Client>>();

/** The account is made once for a directory, whichever control plane comes first; its key lies sealed in Postgres. */
async function open(platform: Platform, settings: AcmeSettings): Promise<Client> {
  prepare(settings);
  const { pool, seal } = platform;
  const load = () =>
    queryOne<AccountRow>(pool, "select key_sealed, url from acme_accounts where directory = $1", [
      settings.directoryUrl,
    ]);
  if (!(await load())) {
    const key = await acme.crypto.createPrivateEcdsaKey();
    await pool.query(
      "insert into acme_accounts (directory, key_sealed) values ($1, $2) on conflict do nothing",
      [settings.directoryUrl, seal.close(key.toString())],
    );
  }
  const account = (await load())!;
  const client = new acme.Client({
    directoryUrl: settings.directoryUrl,
    accountKey: seal.open(account.key_sealed),
    ...(account.url ? { accountUrl: account.url } : {}),
    ...(settings.eab
      ? { externalAccountBinding: { kid: settings.eab.keyId, hmacKey: settings.eab.hmacKey } }
      : {}),
  });
  if (account.url) return client;
  // With the same key the authority gives back the same account, so that two control planes make one.
  await client.createAccount({
    termsOfServiceAgreed: true,
    ...(settings.contact ? { contact: [`mailto:${settings.contact}`] } : {}),
  });
  await pool.query("update acme_accounts set url = $2 where directory = $1", [
    settings.directoryUrl,
    client.getAccountUrl(),
  ]);
  return client;
}

export function acmeClient(platform: Platform, settings: AcmeSettings): Promise<Client> {
  const known = clients.get(platform);
  if (known) return known;
  const opening = open(platform, settings);
  clients.set(platform, opening);
  opening.catch(() => clients.delete(platform));
  return opening;
}

/** The account is not there any more, as after a test authority's restart: a new one is made at the next try. */
export async function forgetAccount(platform: Platform, settings: AcmeSettings): Promise<void> {
  clients.delete(platform);
  await platform.pool.query("update acme_accounts set url = null where directory = $1", [
    settings.directoryUrl,
  ]);
}
