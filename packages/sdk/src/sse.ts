import { ConnectionError } from "./error.ts";

export interface ServerEvent {
  /** Name from `event:`, else `message`. */
  readonly event: string;
  /** Last `id:` seen, which also later events without one carry. */
  readonly id: string | null;
  readonly data: string;
}

/** No event of the API comes near this; more means that the peer does not speak the protocol. */
const maxEventCharacters = 4 * 1024 * 1024;

/**
 * Parses server-sent events. Comments and `data: [DONE]` are left out; an event may be cut
 * anywhere, also within a character.
 *
 * @throws ConnectionError STREAM_LOST when the connection breaks or an event exceeds the limit
 * @see https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
 */
export async function* parseEvents(body: AsyncIterable<Uint8Array>): AsyncGenerator<ServerEvent> {
  const decoder = new TextDecoder();
  let rest = "";
  let name = "";
  let id: string | null = null;
  let data: string[] = [];
  let size = 0;
  try {
    for await (const chunk of body) {
      rest += decoder.decode(chunk, { stream: true });
      const { lines, tail } = takeLines(rest);
      rest = tail;
      for (const line of lines) {
        if (line === "") {
          const text = data.join("\n");
          if (data.length > 0 && text !== "[DONE]") yield { event: name || "message", id, data: text };
          name = "";
          data = [];
          size = 0;
          continue;
        }
        const field = parseField(line);
        if (field.name === "event") name = field.value;
        else if (field.name === "id") id = field.value;
        else if (field.name === "data") data.push(field.value);
        size += line.length;
      }
      if (size + rest.length > maxEventCharacters) {
        throw new ConnectionError("STREAM_LOST", "The stream sent an event larger than 4 MiB.");
      }
    }
  } catch (error) {
    if (error instanceof ConnectionError) throw error;
    throw new ConnectionError("STREAM_LOST", "The stream broke off.", { cause: error });
  }
}

/** A line ends in LF, CR or CRLF; a CR at the very end may still become a CRLF, so it stays. */
function takeLines(text: string): { lines: string[]; tail: string } {
  const heldBack = text.endsWith("\r") ? 1 : 0;
  const usable = text.slice(0, text.length - heldBack);
  const lines = usable.split(/\r\n|\n|\r/);
  const tail = (lines.pop() ?? "") + text.slice(usable.length);
  return { lines, tail };
}

function parseField(line: string): { name: string; value: string } {
  const colon = line.indexOf(":");
  if (colon < 0) return { name: line, value: "" };
  const value = line.slice(colon + 1);
  return { name: line.slice(0, colon), value: value.startsWith(" ") ? value.slice(1) : value };
}
