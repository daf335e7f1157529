import dns, { type Answer, type DecodedPacket, type OptAnswer, type Question } from "dns-packet";

/** The zone that `_acme-challenge` names are delegated to. */
export interface Zone {
  /** Lower case, without trailing dot. */
  readonly name: string;
  /** Names of its name servers, as the parent zone has them. */
  readonly nameservers: readonly string[];
  /** Mailbox of who runs it, in the form of a name. */
  readonly contact: string;
  /** TXT records at a name below it. */
  readonly texts: (name: string) => readonly string[];
}

const ttlSeconds = 1;
const nameserverTtl = 3_600;
/** Largest answer by UDP: what passes every network in one piece (DNS flag day 2020). */
export const udpBytes = 1_232;
const plainUdpBytes = 512;

const rcode = {
  noError: 0,
  formatError: 1,
  nameError: 3,
  notImplemented: 4,
  refused: 5,
  badVersion: 16,
} as const;
const authoritative = 1 << 10;
const truncated = 1 << 9;
const recursionDesired = 1 << 8;

const bare = (name: string) => name.toLowerCase().replace(/\.$/, "");

const soa = (zone: Zone): Answer => ({
  type: "SOA",
  name: zone.name,
  ttl: ttlSeconds,
  data: {
    mname: zone.nameservers[0] ?? zone.name,
    rname: zone.contact,
    serial: 1,
    refresh: 3_600,
    retry: 600,
    expire: 604_800,
    minimum: ttlSeconds,
  },
});

interface Found {
  readonly code: number;
  readonly answers: Answer[];
}

/** Only labels of the form that we hand out exist; nobody learns by asking which of them are in use. */
const isLabel = (label: string) => /^[0-9a-f]{32}$/.test(label);

function find(zone: Zone, question: Question): Found {
  const name = bare(question.name);
  const none: Found = { code: rcode.noError, answers: [] };
  if (name === zone.name) {
    if (question.type === "SOA")
      return { ...none, answers: [{ ...soa(zone), name: question.name } as Answer] };
    if (question.type === "NS")
      return {
        ...none,
        answers: zone.nameservers.map((data) => ({
          type: "NS" as const,
          name: question.name,
          ttl: nameserverTtl,
          data,
        })),
      };
    return none;
  }
  const label = name.slice(0, -zone.name.length - 1);
  if (!isLabel(label)) return { code: rcode.nameError, answers: [] };
  if (question.type !== "TXT") return none;
  return {
    ...none,
    answers: zone.texts(name).map((text) => ({
      type: "TXT" as const,
      // As it was asked, capital letters included: resolvers compare them.
      name: question.name,
      ttl: ttlSeconds,
      data: [text],
    })),
  };
}

function optionOf(query: DecodedPacket): OptAnswer | null {
  return (query.additionals?.find((one) => one.type === "OPT") as OptAnswer | undefined) ?? null;
}

/** The twelve bytes that every message begins with, for one that cannot be read any further. */
function bareAnswer(message: Buffer, code: number): Buffer | null {
  if (message.length < 12) return null;
  const answer = Buffer.alloc(12);
  message.copy(answer, 0, 0, 2);
  answer.writeUInt16BE(0x8000 | (message.readUInt16BE(2) & 0x7900) | code, 2);
  return answer;
}

/**
 * The answer to one message. Authoritative for the zone and nothing else: no recursion, no zone transfer.
 *
 * @param mostBytes a longer answer is cut and marked, so that it is asked for again by TCP
 * @returns null for what deserves none: a reply, or bytes that are no message
 */
export function answerQuery(zone: Zone, message: Buffer, mostBytes: number | "tcp"): Buffer | null {
  if (message.length < 12 || (message[2]! & 0x80) !== 0) return null;
  const opcode = (message[2]! >> 3) & 15;
  if (opcode !== 0) return bareAnswer(message, rcode.notImplemented);
  let query: DecodedPacket;
  try {
    query = dns.decode(message);
  } catch {
    // Bytes of a stranger: whatever is wrong with them, the answer is the same.
    return bareAnswer(message, rcode.formatError);
  }
  const question = query.questions?.[0];
  if (!question || query.questions!.length !== 1) return bareAnswer(message, rcode.formatError);
  const option = optionOf(query);
  const name = bare(question.name);
  const isOurs = name === zone.name || name.endsWith(`.${zone.name}`);
  const isData = question.class === "IN" && !["AXFR", "IXFR", "ANY"].includes(question.type);
  const badVersion = option !== null && option.ednsVersion !== 0;
  const found: Found =
    badVersion || !isOurs || !isData ? { code: rcode.refused, answers: [] } : find(zone, question);
  const isAuthoritative = isOurs && isData && !badVersion;
  const code = badVersion ? rcode.badVersion : found.code;
  const build = (answers: Answer[], flags: number) =>
    dns.encode({
      type: "response",
      id: query.id ?? 0,
      flags:
        (isAuthoritative ? authoritative : 0) | ((query.flags ?? 0) & recursionDesired) | flags | (code & 15),
      questions: [question],
      answers,
      authorities: isAuthoritative && found.answers.length === 0 ? [soa(zone)] : [],
      additionals: option
        ? [
            {
              type: "OPT",
              name: ".",
              udpPayloadSize: udpBytes,
              extendedRcode: code >> 4,
              ednsVersion: 0,
              flags: 0,
              flag_do: false,
              options: [],
            } as OptAnswer,
          ]
        : [],
    });
  const whole = build(found.answers, 0);
  if (mostBytes === "tcp") return whole;
  const most = Math.min(mostBytes, option ? Math.max(plainUdpBytes, option.udpPayloadSize) : plainUdpBytes);
  return whole.length <= most ? whole : build([], truncated);
}

/** Tells the asker to come again by TCP, where nobody can pretend to be another. */
export function truncatedAnswer(message: Buffer): Buffer | null {
  const answer = bareAnswer(message, rcode.noError);
  if (!answer || (message[2]! & 0x80) !== 0) return null;
  answer.writeUInt16BE(answer.readUInt16BE(2) | truncated, 2);
  return answer;
}
