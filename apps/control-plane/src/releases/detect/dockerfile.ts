import { DockerfileParser, type Instruction, Keyword } from "dockerfile-ast";
import { z } from "zod";

/** What of a Dockerfile can be followed without an image: the rest is named. */
export interface Docker {
  readonly run: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly start: string | null;
  readonly port: number | null;
  /** Folder below the app that the last stage copies into a web server. */
  readonly output: string | null;
  readonly because: readonly string[];
}

const quote = (word: string) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
const webServer = /\b(nginx|httpd|caddy|apache)\b/;

function commandOf(instruction: Instruction): string {
  const text = (instruction.getArgumentsContent() ?? "").replace(/\\\r?\n/g, " ").trim();
  try {
    const words = z.array(z.string()).parse(JSON.parse(text));
    return words.map(quote).join(" ");
  } catch {
    return text.replace(/\s+/g, " "); // The other form of an instruction is a line for the shell.
  }
}

/** Installing system packages needs root, which a build has not. */
const needsRoot = /\b(apt(-get)?|apk|yum|dnf|useradd|adduser|groupadd|addgroup|chown|corepack enable)\b/;

export function readDockerfile(text: string): Docker {
  const file = DockerfileParser.parse(text);
  const because: string[] = [];
  const run: string[] = [];
  const env: Record<string, string> = {};
  let folder = "/";
  let base = "";
  let port: number | null = null;
  let output: string | null = null;
  let cmd: string | null = null;
  let entrypoint: string | null = null;
  for (const instruction of file.getInstructions()) {
    const content = instruction.getArgumentsContent() ?? "";
    switch (instruction.getKeyword()) {
      case Keyword.FROM:
        because.push(`Dockerfile line ${instruction.getRange().start.line + 1}: FROM ${content} is not used`);
        [base, folder, cmd, entrypoint] = [content, "/", null, null];
        break;
      case Keyword.WORKDIR:
        folder = content;
        break;
      case Keyword.RUN: {
        const command = commandOf(instruction).replace(/^(--\S+\s+)+/, "");
        if (needsRoot.test(command))
          because.push(`Dockerfile: left out, as it needs root: ${command.slice(0, 120)}`);
        else if (!run.includes(command)) run.push(command);
        break;
      }
      case Keyword.ENV:
        for (const property of file
          .getENVs()
          .find((one) => one.getRange().start.line === instruction.getRange().start.line)
          ?.getProperties() ?? [])
          env[property.getName()] = property.getValue() ?? "";
        break;
      case Keyword.EXPOSE:
        port = Number(/\d+/.exec(content)?.[0]) || port;
        break;
      case Keyword.COPY: {
        const [, from] = /--from=\S+\s+(\S+)\s+\S+/.exec(content) ?? [];
        if (from && webServer.test(base))
          output = from.replace(/\/+$/, "").split("/").slice(2).join("/") || null;
        break;
      }
      case Keyword.CMD:
        cmd = commandOf(instruction);
        break;
      case Keyword.ENTRYPOINT:
        entrypoint = commandOf(instruction);
        break;
      default:
    }
  }
  const isWebServer = webServer.test(base);
  const words = [entrypoint, cmd].filter((part) => part !== null).join(" ");
  const start =
    words === "" || isWebServer
      ? null
      : words.replaceAll(`${folder.replace(/\/$/, "")}/`, folder === "/" ? "/" : "./");
  return { run, env, start, port: isWebServer ? null : port, output: isWebServer ? output : null, because };
}
