import { createReadStream, createWriteStream, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { request } from "undici";
import type { OwnPlatform } from "../../../e2e/full/own-platform.ts";
import { summarise, timed, type Row } from "../timing.ts";
import { output, type BareTools } from "./bare.ts";
import { firstCommand } from "./boot.ts";

const one = (ms: number) => summarise([ms]);

/** A gigabyte in and out through the public API, beside cp of the same file. */
export async function measureFiles(
  platform: OwnPlatform,
  driver: string,
  bare: BareTools,
  mib: number,
): Promise<Row[]> {
  const file = join(bare.folder, "large");
  await output("dd", ["if=/dev/urandom", `of=${file}`, "bs=1M", `count=${mib}`, "conv=fsync"]);
  const { id } = await firstCommand(platform, {});
  const url = `${platform.boot.api_url}/sandboxes/${id}/files/workspace/large`;
  const headers = { authorization: `Bearer ${platform.boot.api_key}` };
  const copy = await timed(() => output("cp", [file, `${file}.copy`]));
  const upload = await timed(async () => {
    const sent = { ...headers, "content-type": "application/octet-stream" };
    const answer = await request(url, {
      method: "PUT",
      headers: sent,
      body: createReadStream(file, { highWaterMark: 1 << 20 }),
    });
    const text = await answer.body.text();
    if (answer.statusCode >= 300)
      throw new Error(`the upload was answered with ${answer.statusCode}: ${text}`);
  });
  const download = await timed(async () => {
    const answer = await request(url, { headers });
    await pipeline(answer.body, createWriteStream(`${file}.back`));
  });
  await output("cmp", [file, `${file}.back`]);
  await platform.must("DELETE", `/sandboxes/${id}`);
  await output("rm", [`${file}.copy`, `${file}.back`]);
  const peerName = "`cp` of the same file";
  const row = (name: string, ms: number): Row => ({
    ...{ name: `${driver}: ${mib} MiB ${name} through the API`, ours: one(ms) },
    ...{ peerName, peer: one(copy) },
  });
  return [row("in", upload), row("out", download)];
}

/** What npm needs to reach its registry; nothing else of this shell's. */
function outsideEnvironment(): Record<string, string> {
  const names = ["PATH", "HOME", "NODE_EXTRA_CA_CERTS", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"];
  return Object.fromEntries(names.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])));
}

const manifest = {
  ...{ name: "app", version: "1.0.0", private: true, type: "module" },
  dependencies: { react: "19.2.0", "react-dom": "19.2.0" },
  devDependencies: { vite: "7.1.12", "@vitejs/plugin-react": "5.0.4" },
};

/** `npm ci` of a small React app from one warm cache, so that the network decides nothing. */
export async function measureInstall(platform: OwnPlatform, driver: string, bare: BareTools): Promise<Row> {
  const app = join(bare.folder, "app");
  mkdirSync(app);
  writeFileSync(join(app, "package.json"), JSON.stringify(manifest));
  const npm = join(process.execPath, "..", "npm");
  const quiet = ["--no-audit", "--no-fund", "--cache", "cache"];
  const options = { cwd: app, env: outsideEnvironment() };
  await output(npm, ["install", ...quiet], options);
  await output("rm", ["-rf", join(app, "node_modules")]);
  // Some registries answer so that npm writes a lock file which its own `ci` refuses.
  const isSound = await output(npm, ["ci", "--offline", ...quiet], options).then(
    () => true,
    () => false,
  );
  const command = isSound ? "npm ci" : "npm install --no-package-lock";
  const install = [...command.split(" ").slice(1), "--offline", ...quiet];
  await output("rm", ["-rf", join(app, "node_modules")]);
  const outside = await timed(() => output(npm, install, options));
  const tar = join(bare.folder, "app.tar");
  await output("tar", ["-cf", tar, "-C", app, "package.json", "package-lock.json", "cache"]);
  const { id } = await firstCommand(platform, { size: "small" });
  const headers = {
    authorization: `Bearer ${platform.boot.api_key}`,
    "content-type": "application/octet-stream",
  };
  const url = `${platform.boot.api_url}/sandboxes/${id}/files/workspace/app.tar`;
  await (await request(url, { method: "PUT", headers, body: createReadStream(tar) })).body.dump();
  await platform.exec(id, "tar -xf app.tar");
  const line = `npm ${install.join(" ")} >/tmp/npm.log 2>&1 || { tail -20 /tmp/npm.log; exit 1; }`;
  const inside = await timed(() => platform.exec(id, line));
  await platform.must("DELETE", `/sandboxes/${id}`);
  return {
    ...{ name: `${driver}: \`${command}\` of a Vite React app inside`, ours: one(inside) },
    ...{ peerName: "the same outside", peer: one(outside) },
  };
}
