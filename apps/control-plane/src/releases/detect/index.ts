import { nothingDetected, type Detected } from "./detected.ts";
import { readDockerfile } from "./dockerfile.ts";
import { detectNode } from "./node.ts";
import { parsePackage } from "./package-json.ts";
import { detectPython } from "./python.ts";
import type { Tree } from "./tree.ts";

export { appFolder, manifestNames, planBuild, type AppFiles, type Plan } from "./plan.ts";
export { treeOf, type Tree } from "./tree.ts";
export { toolsFolder } from "./package-managers.ts";
export { type Detected } from "./detected.ts";

/** The line of a Procfile that serves. */
const procfileStart = (text: string | undefined) => /^web:\s*(.+)$/m.exec(text ?? "")?.[1]?.trim() ?? null;

/**
 * What the app's files say. A Procfile's `web` line starts it before all else that is detected; a Dockerfile
 * fills in what nothing else says.
 *
 * @throws PlatformError PACKAGE_JSON_INVALID, PYPROJECT_INVALID, FRAMEWORK_ADAPTER_MISSING, PACKAGE_MANAGER_UNAVAILABLE
 */
export async function detect(tree: Tree): Promise<Detected> {
  const pkg = parsePackage(await tree.read("package.json"));
  const found = (pkg ? await detectNode(tree, pkg) : await detectPython(tree)) ?? nothingDetected;
  const web = procfileStart(await tree.read("Procfile"));
  const named: Detected = web
    ? { ...found, kind: "dynamic", start: web, because: [...found.because, "start: the Procfile's web line"] }
    : found;
  const dockerfile = await tree.read("Dockerfile");
  const whole = dockerfile === undefined ? named : withDockerfile(named, dockerfile);
  return whole.start === null && whole.kind !== "static"
    ? { ...whole, candidates: await serversIn(tree) }
    : whole;
}

const makesServer = /\.listen\s*\(|createServer\s*\(|serve_forever|app\.run\s*\(|uvicorn\.run/;

async function serversIn(tree: Tree): Promise<string[]> {
  const sources = [...tree.paths].filter((path) =>
    /^([\w.-]+\/)?[\w.-]+\.(js|mjs|cjs|ts|mts|py)$/.test(path),
  );
  const found = [];
  for (const path of sources.slice(0, 40))
    if (makesServer.test((await tree.read(path)) ?? "")) found.push(path);
  return found;
}

function withDockerfile(found: Detected, text: string): Detected {
  const docker = readDockerfile(text);
  const isAlone = found.packageManager === null && found.start === null;
  const start = found.start ?? (found.kind === "static" ? null : docker.start);
  return {
    ...found,
    build: isAlone && docker.run.length > 0 ? docker.run.join(" && ") : found.build,
    start,
    kind: found.kind ?? (start !== null ? "dynamic" : null),
    outputs: found.outputs.length === 0 && docker.output ? [docker.output] : found.outputs,
    port: found.port ?? (start === null ? null : docker.port),
    env: { ...docker.env, ...found.env },
    because: [...found.because, ...docker.because],
  };
}
