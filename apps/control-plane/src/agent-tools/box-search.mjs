// Runs in the sandbox, as a process of its own: a pattern that never ends costs its time-out, not the agent.
// Reads one JSON request from standard input and writes one JSON answer.
import {
  lstatSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
  chmodSync,
} from "node:fs";
import { basename, dirname, join, relative } from "node:path";

const maxFileBytes = 4 * 1024 * 1024;
const maxFiles = 100_000;
const maxLineLength = 1_000;
const madeByTools = new Set([
  ".git",
  "node_modules",
  ".next",
  ".nuxt",
  "dist",
  "build",
  "coverage",
  ".venv",
  "__pycache__",
  ".cache",
  "target",
]);

/** `*` and `?` within a name, `**` across folders, `{a,b}`. Without a slash it is about the name alone. */
function globToRegExp(glob) {
  let text = "";
  let depth = 0;
  for (let at = 0; at < glob.length; at++) {
    const sign = glob[at];
    if (sign === "*" && glob[at + 1] === "*") {
      at += glob[at + 2] === "/" ? 2 : 1;
      text += glob[at] === "/" ? "(?:.*/)?" : ".*";
    } else if (sign === "*") text += "[^/]*";
    else if (sign === "?") text += "[^/]";
    else if (sign === "{") {
      depth++;
      text += "(?:";
    } else if (sign === "}" && depth > 0) {
      depth--;
      text += ")";
    } else if (sign === "," && depth > 0) text += "|";
    else text += sign.replace(/[.+^$()|[\]\\{}]/g, "\\$&");
  }
  return new RegExp(`^${text}${")".repeat(depth)}$`);
}

const matcher = (globs) => {
  const all = globs.map((glob) => ({
    hasFolder: glob.includes("/"),
    pattern: globToRegExp(glob.replace(/^\.?\//, "")),
  }));
  return (path) => all.some(({ hasFolder, pattern }) => pattern.test(hasFolder ? path : basename(path)));
};

function* filesBelow(root, request) {
  const included = matcher(request.include);
  const excluded = matcher(request.exclude);
  const first = lstatSync(root);
  if (first.isFile()) {
    yield root;
    return;
  }
  const folders = [root];
  let seen = 0;
  while (folders.length > 0) {
    const folder = folders.pop();
    let entries;
    try {
      entries = readdirSync(folder, { withFileTypes: true });
    } catch {
      continue; // Not readable by the sandbox's user.
    }
    entries.sort((a, b) => (a.name < b.name ? 1 : -1));
    const files = [];
    for (const entry of entries) {
      const path = join(folder, entry.name);
      const name = relative(root, path);
      if (excluded(name)) continue;
      // Links are not followed: they could lead in circles, or out.
      if (entry.isDirectory()) {
        if (request.hidden || !madeByTools.has(entry.name)) folders.push(path);
      } else if (entry.isFile() && (request.include.length === 0 || included(name))) files.push(path);
    }
    for (const path of files.reverse()) {
      if (++seen > maxFiles) return;
      yield path;
    }
  }
}

/** null: binary, too large or not readable. */
function textOf(path) {
  try {
    if (statSync(path).size > maxFileBytes) return null;
    const bytes = readFileSync(path);
    if (bytes.subarray(0, 8192).includes(0)) return null;
    const text = bytes.toString("utf8");
    // Bytes that are no text would be lost by writing it back.
    return Buffer.byteLength(text) === bytes.length && !text.includes("\ufffd") ? text : null;
  } catch {
    return null;
  }
}

const cut = (line) => (line.length > maxLineLength ? `${line.slice(0, maxLineLength)}…` : line);

function search(request, pattern) {
  const answer = { matches: [], count: 0, files_searched: 0, files_skipped: 0, truncated: false };
  for (const path of filesBelow(request.path, request)) {
    const text = textOf(path);
    if (text === null) {
      answer.files_skipped++;
      continue;
    }
    answer.files_searched++;
    pattern.lastIndex = 0;
    const first = pattern.exec(text);
    if (!first) continue;
    const lines = text.split("\n");
    const starts = [0];
    for (const line of lines) starts.push(starts.at(-1) + line.length + 1);
    let at = 0;
    for (let found = first; found; found = pattern.exec(text)) {
      if (answer.count >= request.max_results) return { ...answer, truncated: true };
      while (starts[at + 1] <= found.index) at++;
      answer.count++;
      answer.matches.push({
        path,
        line: at + 1,
        column: found.index - starts[at] + 1,
        text: cut(lines[at]),
        before: lines.slice(Math.max(0, at - request.context), at).map(cut),
        after: lines.slice(at + 1, at + 1 + request.context).map(cut),
      });
      if (found[0] === "") pattern.lastIndex++;
    }
  }
  return answer;
}

function replace(request, pattern) {
  const changes = [];
  let count = 0;
  for (const path of filesBelow(request.path, request)) {
    const text = textOf(path);
    if (text === null) continue;
    const found = text.match(pattern)?.length ?? 0;
    if (found === 0) continue;
    // A replacement for plain text is plain text as well: `$&` in it stands for itself.
    const after = request.regex
      ? text.replace(pattern, request.replacement)
      : text.replace(pattern, () => request.replacement);
    count += found;
    changes.push({ path, count: found, after });
  }
  const files = changes.map(({ path, count: here }) => ({ path, count: here }));
  if (request.expected_count !== undefined && request.expected_count !== count)
    return { error: "COUNT_MISMATCH", count, files };
  if (!request.dry_run) {
    for (const { path, after } of changes) {
      const temporary = join(dirname(path), `.${basename(path)}.replace-${process.pid}`);
      try {
        writeFileSync(temporary, after);
        chmodSync(temporary, statSync(path).mode & 0o7777);
        renameSync(temporary, path);
      } catch (error) {
        try {
          unlinkSync(temporary);
        } catch {
          // It was never made.
        }
        throw error;
      }
    }
  }
  return { files, count, dry_run: request.dry_run };
}

const request = JSON.parse(readFileSync(0, "utf8"));
const escaped = request.regex ? request.pattern : request.pattern.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
let answer;
try {
  const pattern = new RegExp(escaped, `gm${request.case_sensitive ? "" : "i"}`);
  answer = request.operation === "search" ? search(request, pattern) : replace(request, pattern);
} catch (error) {
  answer = {
    error: error instanceof SyntaxError ? "PATTERN" : error.code === "ENOENT" ? "NOT_FOUND" : "FAILED",
    message: error.message,
  };
}
process.stdout.write(JSON.stringify(answer));
