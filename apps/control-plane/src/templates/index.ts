import { notFound, platformRoutes as r, sandboxSizes } from "@platform/contract";
import { handler, type Handler } from "../http/index.ts";

interface Template {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly port: number | null;
  readonly install: string | null;
  readonly start: string | null;
  readonly aliases: readonly string[];
}

const node = { install: "npm install", start: "npm run dev" };

/** All run on the machine's own system, read-only, with Node and Python: the list names presets, not images. */
const templates: readonly Template[] = [
  {
    id: "miosa-sandbox",
    name: "Standard",
    description: "Node, Python, git and build tools",
    port: 3000,
    install: null,
    start: null,
    aliases: ["default", "base"],
  },
  {
    id: "blank",
    name: "Blank",
    description: "An empty workspace",
    port: null,
    install: null,
    start: null,
    aliases: [],
  },
  { id: "node", name: "Node.js", description: "A Node.js app", port: 3000, ...node, aliases: [] },
  { id: "nextjs", name: "Next.js", description: "A Next.js app", port: 3000, ...node, aliases: ["next"] },
  {
    id: "vite-react",
    name: "Vite and React",
    description: "A Vite app",
    port: 5173,
    ...node,
    aliases: ["vite", "react"],
  },
  {
    id: "express-api",
    name: "Express API",
    description: "An Express server",
    port: 3000,
    ...node,
    aliases: ["express"],
  },
  {
    id: "python",
    name: "Python",
    description: "A Python app",
    port: 8000,
    install: null,
    start: "python3 -m http.server 8000 --bind 0.0.0.0",
    aliases: [],
  },
  {
    id: "static",
    name: "Static files",
    description: "A folder of files",
    port: 8080,
    install: null,
    start: null,
    aliases: [],
  },
];

export const findTemplate = (id: string): Template | undefined =>
  templates.find((template) => template.id === id || template.aliases.includes(id));

export const allTemplates = (): readonly Template[] => templates;

const contract = (size: keyof typeof sandboxSizes) => {
  const { vcpus, memory_mb, disk_size_mb } = sandboxSizes[size];
  return {
    id: `sandbox/${size}@v1`,
    product: "sandbox",
    size,
    version: "v1",
    vcpus,
    memory_mb,
    disk_size_mb,
  };
};
const sizes = Object.keys(sandboxSizes) as (keyof typeof sandboxSizes)[];

const row = (template: Template) => ({
  id: template.id,
  slug: template.id,
  name: template.name,
  description: template.description,
  image_id: template.id,
  default: template.id === "miosa-sandbox",
  built_in: true,
  status: "ready",
  disk_mb: sandboxSizes.small.disk_size_mb,
  workdir: "/workspace",
  preview_port: template.port,
  install_command: template.install,
  start_command: template.start,
  readiness_probe: template.port === null ? null : { path: "/", port: template.port },
  runtimes: ["node", "python"],
  artifact_paths: [],
  tags: [],
  categories: [],
  aliases: template.aliases,
  default_cpu: sandboxSizes.small.vcpus,
  default_memory_mb: sandboxSizes.small.memory_mb,
});

const catalogueRow = (template: Template) => ({
  id: template.id,
  name: template.name,
  product: "sandbox",
  default_size: "small",
  primitive: "sandbox",
  sdk_name: template.id,
  cli_name: template.id,
  installed_tools: ["node", "npm", "python3", "git", "tar"],
  aliases: template.aliases,
  sizes: sizes.map((size) => ({ size, state: "cold_boot_only", resource_contract: contract(size) })),
  readiness: "cold_boot_only",
  readiness_contract: "eight components, each seen to work",
  benchmark_lane: null,
});

export function templateHandlers(): Handler[] {
  const catalogue = templates.map(catalogueRow);
  return [
    handler(r.templates, async () => ({
      data: catalogue,
      templates: catalogue,
      products: ["sandbox"],
      shape_contracts: { sandbox: sizes.map(contract), computer: [] },
      readiness_states: ["fast_ready", "cold_boot_only", "missing"],
    })),
    handler(r.sandboxTemplates, async () => ({ data: templates.map(row) })),
    handler(r.sandboxTemplate, async ({ params }) => {
      const template = findTemplate(params["id"]!);
      if (!template) throw notFound(`Template ${params["id"]}`);
      return row(template);
    }),
  ];
}
