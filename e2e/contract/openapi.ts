import { Ajv2020 } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { Validator } from "@seriousme/openapi-schema-validator";
import type { Answer, Json } from "./api.ts";

interface Operation {
  readonly responses: Record<string, { content?: Record<string, { schema?: Json }> }>;
  readonly parameters: readonly { name: string; in: string; required?: boolean }[];
}
export type Document = { paths: Record<string, Record<string, Operation>> } & Json;

/** What is wrong with the document itself. */
export async function documentFaults(document: Document): Promise<unknown> {
  const { valid, errors } = await new Validator().validate(structuredClone(document));
  return valid ? null : errors;
}

interface Route {
  readonly method: string;
  readonly pattern: RegExp;
  readonly path: string;
  readonly operation: Operation;
}

export function routesOf(document: Document): Route[] {
  return Object.entries(document.paths)
    .flatMap(([path, operations]) =>
      Object.entries(operations).map(([method, operation]) => ({
        method: method.toUpperCase(),
        path,
        operation,
        pattern: new RegExp(
          `^${path
            .replace(/[.+?^$()|[\]\\]/g, "\\$&")
            .replace(/\{path\}$/, ".+")
            .replace(/\{\w+\}/g, "[^/]+")}$`,
        ),
      })),
    )
    .sort((a, b) => a.path.split("{").length - b.path.split("{").length);
}

/** Answers that differ from what the document declares for them. */
export function answerFaults(document: Document, answers: readonly Answer[]): string[] {
  const ajv = new Ajv2020({ strict: false, allErrors: true });
  addFormats.default(ajv);
  const components = { components: document["components"] };
  const routes = routesOf(document);
  const checks = new Map<object, ReturnType<typeof ajv.compile>>();
  return answers.flatMap((answer) => {
    const path = answer.path.split("?")[0]!;
    const route = routes.find((one) => one.method === answer.method && one.pattern.test(path));
    if (!route || answer.json === undefined) return [];
    const { responses } = route.operation;
    const isError = answer.status >= 400;
    const declared = isError
      ? responses["default"]
      : (responses[String(answer.status)] ?? Object.values(responses)[0]);
    const schema = declared?.content?.["application/json"]?.schema;
    if (!schema || Object.keys(schema).length === 0) return [];
    const check = checks.get(schema) ?? ajv.compile({ ...schema, ...components });
    checks.set(schema, check);
    return check(answer.json)
      ? []
      : [`${answer.method} ${answer.path} ${answer.status}: ${ajv.errorsText(check.errors)}`];
  });
}
