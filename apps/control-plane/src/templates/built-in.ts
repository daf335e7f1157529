/** A template that the platform itself offers: a preset over one of the images that hosts build. */
export interface BuiltInTemplate {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly aliases: readonly string[];
  /** Name of the image; `null`: none, the machine's own system, read-only. */
  readonly image: string | null;
  /** Whether the machine's own system may serve until the image is there: it has all that this template needs. */
  readonly hostMayServe: boolean;
  readonly runtimes: readonly string[];
  readonly port: number | null;
  readonly install: string | null;
  readonly start: string | null;
  readonly categories: readonly string[];
}

const node = { runtimes: ["node"], install: "npm install", start: "npm run dev" };
const none = { install: null, start: null };
const web = (id: string, name: string, port: number, aliases: string[] = []): BuiltInTemplate => ({
  ...{
    id,
    name,
    description: `A ${name} app`,
    aliases,
    image: "standard",
    hostMayServe: true,
    ...node,
    port,
  },
  categories: ["web"],
});
const onImage = (
  id: string,
  name: string,
  description: string,
  image: string,
  rest: Partial<BuiltInTemplate>,
): BuiltInTemplate => ({
  ...{ id, name, description, aliases: [], image, hostMayServe: false, runtimes: [], port: null, ...none },
  ...{ categories: [], ...rest },
});

export const builtInTemplates: readonly BuiltInTemplate[] = [
  onImage("miosa-sandbox", "Standard", "Node, Python, git and build tools", "standard", {
    ...{
      aliases: ["default", "base", "code-interpreter-v1"],
      hostMayServe: true,
      runtimes: ["node", "python"],
      port: 3000,
    },
    categories: ["general"],
  }),
  onImage("blank", "Blank", "An empty workspace", "standard", {
    hostMayServe: true,
    categories: ["general"],
  }),
  onImage("node", "Node.js", "A Node.js app on a small system", "node", {
    ...{ hostMayServe: true, ...node, port: 3000, categories: ["web", "api"] },
  }),
  onImage("python", "Python", "A Python app", "python", {
    ...{ hostMayServe: true, runtimes: ["python"], port: 8000, categories: ["web", "api"] },
    start: "python3 -m http.server 8000 --bind 0.0.0.0",
  }),
  onImage("static", "Static files", "A folder of files", "node", {
    ...{ hostMayServe: true, port: 8080, categories: ["web"] },
  }),
  web("nextjs", "Next.js", 3000, ["next"]),
  web("vite-react", "Vite and React", 5173, ["vite", "react"]),
  web("sveltekit", "SvelteKit", 5173, ["svelte"]),
  web("astro", "Astro", 4321),
  web("remix", "Remix", 5173),
  web("nuxt", "Nuxt", 3000),
  web("hono-auth", "Hono", 3000, ["hono"]),
  web("express-api", "Express", 3000, ["express"]),
  web("vitest", "Vitest", 51204),
  onImage("fastapi", "FastAPI", "A FastAPI service", "python", {
    ...{ hostMayServe: true, runtimes: ["python"], port: 8000, categories: ["api"] },
    install: "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
    start: ".venv/bin/uvicorn main:app --host 0.0.0.0 --port 8000",
  }),
  onImage("go-api", "Go", "A Go service", "go", { runtimes: ["go"], port: 8080, start: "go run ." }),
  onImage("rails", "Rails", "A Ruby on Rails app", "ruby", {
    ...{ runtimes: ["ruby"], port: 3000, install: "bundle install", start: "bin/rails server -b 0.0.0.0" },
  }),
  onImage("phoenix", "Phoenix", "An Elixir and Phoenix app", "elixir", {
    ...{ runtimes: ["elixir"], port: 4000, install: "mix deps.get", start: "mix phx.server" },
  }),
  onImage("python-data", "Python for data", "pandas, scikit-learn and matplotlib", "python-data", {
    ...{ runtimes: ["python"], categories: ["data"] },
  }),
  onImage("jupyter", "Jupyter", "Notebooks with pandas and matplotlib", "python-data", {
    ...{ runtimes: ["python"], port: 8888, categories: ["data"] },
    start: "jupyter notebook --ip=0.0.0.0 --port=8888 --no-browser",
  }),
  onImage("playwright", "Browser", "Chromium for tests and pages that need a browser", "browser", {
    ...{ runtimes: ["node", "python"], categories: ["test"] },
  }),
  onImage("host", "The machine's own system", "What this machine has installed, read-only", "host", {
    ...{ image: null, hostMayServe: true, runtimes: ["node"], categories: ["general"] },
  }),
];

export const findBuiltIn = (id: string): BuiltInTemplate | undefined =>
  builtInTemplates.find((template) => template.id === id || template.aliases.includes(id));
