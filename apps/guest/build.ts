import { cp, mkdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const terminalPackage = "@lydell/node-pty";

/**
 * Bundles the agent into `folder`: `agent.mjs`, and beside it the programs that run cells of code, and the terminal
 * library with its native part, which a bundle cannot hold. Without a native part for this system the agent works but for terminals.
 */
export async function buildGuest(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  await build({
    entryPoints: [fileURLToPath(new URL("src/main.ts", import.meta.url))],
    outfile: join(folder, "agent.mjs"),
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node24",
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: "none",
    external: [terminalPackage],
    // busboy is CommonJS and asks for Node's own modules.
    banner: { js: 'import{createRequire as R}from"node:module";const require=R(import.meta.url);' },
    logLevel: "warning",
  });
  await cp(fileURLToPath(new URL("kernels", import.meta.url)), join(folder, "kernels"), { recursive: true });
  const require = createRequire(import.meta.url);
  for (const name of [terminalPackage, `${terminalPackage}-${process.platform}-${process.arch}`]) {
    let source: string;
    try {
      source = dirname(require.resolve(`${name}/package.json`));
    } catch {
      process.stderr.write(`no terminals in this bundle: ${name} is not installed\n`);
      return;
    }
    await cp(source, join(folder, "node_modules", name), { recursive: true, dereference: true });
  }
}

if (import.meta.main) {
  const folder = process.argv[2];
  if (!folder) throw new Error("usage: node apps/guest/build.ts FOLDER");
  await buildGuest(folder);
}
