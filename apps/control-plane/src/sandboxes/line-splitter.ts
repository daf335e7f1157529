/** Longest line sent in one piece, in characters; a longer one arrives as several. */
export const maxLineLength = 64 * 1024;

/** Splits text into lines over chunk borders. What a command prints without a line break stays bounded. */
export function lineSplitter(send: (line: string) => void): { push(text: string): void; end(): void } {
  let rest = "";
  return {
    push(text) {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) send(line.endsWith("\r") ? line.slice(0, -1) : line);
      while (rest.length > maxLineLength) {
        send(rest.slice(0, maxLineLength));
        rest = rest.slice(maxLineLength);
      }
    },
    end() {
      if (rest !== "") send(rest);
    },
  };
}
