import { PlatformError } from "@platform/contract";
import { parse as parseToml } from "smol-toml";
import { z } from "zod";
import { nothingDetected, type Detected } from "./detected.ts";
import { frameworkOf } from "./framework-of.ts";
import type { Tree } from "./tree.ts";

const versions = { uv: "0.13.9", poetry: "2.5.1", "poetry-plugin-export": "1.10.1" } as const;
const slugs = new Set(["fastapi", "flask", "fasthtml", "django", "python"]);

/**
 * Packages go into a plain folder of the app: a virtual environment names the Python that made it by
 * absolute links, which no release may hold. Compiled files would carry times, and change the digest.
 */
const folder = ".python";
const pip = `python3 -m pip install --disable-pip-version-check --no-compile --no-warn-script-location --target ${folder}`;
const startPrefix = `export PYTHONPATH="$PWD/${folder}" PATH="$PWD/${folder}/bin:$PATH" PYTHONUNBUFFERED=1; `;
const tool = (name: "uv" | "poetry", ...more: string[]) =>
  `python3 -m pip install --quiet --disable-pip-version-check --target /tmp/${name} ${[`${name}==${versions[name]}`, ...more].join(" ")}`;

interface Install {
  readonly name: string;
  readonly command: string;
  readonly decidedBy: readonly string[];
  readonly because: string;
}

const Project = z.looseObject({
  project: z.looseObject({ dependencies: z.array(z.string()).default([]) }).optional(),
});

const quote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

async function installOf(tree: Tree): Promise<Install | null> {
  const has = (name: string) => tree.paths.has(name);
  if (has("uv.lock") && has("pyproject.toml"))
    return {
      name: "uv",
      command: `${tool("uv")} && /tmp/uv/bin/uv export --quiet --frozen --offline --no-dev --no-emit-project --output-file /tmp/requirements.txt && ${pip} -r /tmp/requirements.txt`,
      decidedBy: ["uv.lock", "pyproject.toml"],
      because: "uv: there is a uv.lock",
    };
  if (has("poetry.lock") && has("pyproject.toml"))
    return {
      name: "poetry",
      command: `${tool("poetry", `poetry-plugin-export==${versions["poetry-plugin-export"]}`)} && PYTHONPATH=/tmp/poetry python3 -m poetry export --output /tmp/requirements.txt && ${pip} -r /tmp/requirements.txt`,
      decidedBy: ["poetry.lock", "pyproject.toml"],
      because: "poetry: there is a poetry.lock",
    };
  if (has("requirements.txt")) {
    const text = (await tree.read("requirements.txt")) ?? "";
    const lines = text.split("\n").map((line) => line.replace(/#.*/, "").trim());
    // Only a full list of exact versions decides what is installed.
    const isExact = lines.every((line) => line === "" || /^[\w.[\]-]+==[\w.]+/.test(line));
    return {
      name: "pip",
      command: `${pip} -r requirements.txt`,
      decidedBy: isExact ? ["requirements.txt"] : [],
      because: "pip: there is a requirements.txt",
    };
  }
  if (has("Pipfile")) throw pipenv();
  return has("pyproject.toml") ? fromPyproject((await tree.read("pyproject.toml")) ?? "") : null;
}

function fromPyproject(text: string): Install | null {
  let parsed: unknown;
  try {
    parsed = parseToml(text);
  } catch (cause) {
    const { line = 1, message } = cause as { line?: number; message: string };
    throw new PlatformError(
      "PYPROJECT_INVALID",
      `pyproject.toml cannot be read at line ${line}: ${message.split("\n")[0]}. Correct it and publish again.`,
      {
        details: {
          ...{ step: "plan", file: "pyproject.toml", pointer: "" },
          evidence: [`pyproject.toml:${line}: ${(text.split("\n")[line - 1] ?? "").trim().slice(0, 200)}`],
        },
        cause,
      },
    );
  }
  const dependencies = Project.safeParse(parsed).data?.project?.dependencies ?? [];
  if (dependencies.length === 0) return null;
  return {
    name: "pip",
    command: `${pip} ${dependencies.map(quote).join(" ")}`,
    decidedBy: [],
    because: "pip: pyproject.toml lists dependencies, without a lockfile",
  };
}

const pipenv = () =>
  new PlatformError(
    "PACKAGE_MANAGER_UNAVAILABLE",
    "Pipenv is not offered. Write a requirements.txt (pipenv requirements > requirements.txt), or use uv or poetry, and publish again.",
    {
      details: {
        step: "plan",
        file: "Pipfile",
        pointer: "",
        evidence: ["there is a Pipfile and no requirements.txt"],
      },
    },
  );

const entries = [
  "main.py",
  "app.py",
  "server.py",
  "wsgi.py",
  "api.py",
  "src/main.py",
  "src/app.py",
  "app/main.py",
];
const runsItself = /\.run\s*\(|serve_forever|\.listen\s*\(|make_server|waitress|run_app|web\.run/;

async function startOf(tree: Tree, slug: string | null, isInstalled: (name: string) => boolean) {
  if (slug === "django" && tree.paths.has("manage.py")) {
    const wsgi = [...tree.paths].find((path) => /^[\w]+\/wsgi\.py$/.test(path));
    return isInstalled("gunicorn") && wsgi
      ? `exec gunicorn --bind "0.0.0.0:$PORT" ${wsgi.split("/")[0]}.wsgi:application`
      : 'exec python3 manage.py runserver --noreload "0.0.0.0:$PORT"';
  }
  for (const path of entries) {
    if (!tree.paths.has(path)) continue;
    const text = (await tree.read(path)) ?? "";
    const module = path.replace(/\.py$/, "").replaceAll("/", ".");
    const asgi = /^(\w+)\s*(?::\s*\w+)?=\s*(FastAPI|Starlette|Litestar|Quart)\(/m.exec(text)?.[1];
    const wsgi = /^(\w+)\s*(?::\s*\w+)?=\s*(flask\.)?Flask\(/m.exec(text)?.[1];
    if (asgi && isInstalled("uvicorn") && !runsItself.test(text))
      return `exec uvicorn --host 0.0.0.0 --port "$PORT" ${module}:${asgi}`;
    if (wsgi && isInstalled("gunicorn")) return `exec gunicorn --bind "0.0.0.0:$PORT" ${module}:${wsgi}`;
    if (wsgi && !runsItself.test(text))
      return `exec python3 -m flask --app ${module} run --host 0.0.0.0 --port "$PORT"`;
    return `exec python3 ${path}`;
  }
  return null;
}

/** @returns null where nothing is of Python */
export async function detectPython(tree: Tree): Promise<Detected | null> {
  const install = await installOf(tree);
  const lists = (
    await Promise.all(["requirements.txt", "pyproject.toml"].map((name) => tree.read(name)))
  ).join("\n");
  const slug = await frameworkOf(tree, (name) => slugs.has(name));
  const isInstalled = (name: string) => new RegExp(`(^|[^\\w-])${name}([^\\w-]|$)`, "im").test(lists);
  const start = await startOf(tree, slug, isInstalled);
  if (!install && start === null) return null;
  return {
    ...nothingDetected,
    framework: slug,
    packageManager: install?.name ?? null,
    install: install?.command ?? null,
    installs: install && install.decidedBy.length > 0 ? { folder, decidedBy: install.decidedBy } : null,
    kind: start === null ? null : "dynamic",
    start,
    startPrefix,
    because: [...(slug ? [`framework ${slug}`] : []), ...(install ? [install.because] : [])],
  };
}
