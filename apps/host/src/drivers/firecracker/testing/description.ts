import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv, type ValidateFunction } from "ajv";
import { parse } from "yaml";

interface Schema {
  readonly $ref?: string;
  readonly properties?: Record<string, unknown>;
}
interface Operation {
  readonly parameters?: readonly { readonly in: string; readonly schema?: Schema }[];
  readonly responses: Record<string, { readonly schema?: Schema }>;
}
interface Description {
  readonly paths: Record<string, Record<string, Operation>>;
  readonly definitions: Record<string, Schema>;
}

/** Firecracker's own description of its interface, as checks of requests and answers. */
export class ApiDescription {
  readonly #document = parse(
    readFileSync(join(import.meta.dirname, "firecracker.yaml"), "utf8"),
  ) as Description;
  readonly #ajv = new Ajv({ strict: false, validateFormats: false });
  readonly #checks = new Map<string, ValidateFunction>();

  constructor() {
    this.#ajv.addSchema(this.#document, "firecracker");
  }

  /** @returns why the request is not one that is described, or `null` */
  whyNotRequest(method: string, path: string, body: unknown): string | null {
    const operation = this.#operation(method, path);
    if (!operation) return `${method} ${path} is not described`;
    const schema = operation.parameters?.find((parameter) => parameter.in === "body")?.schema;
    if (!schema?.$ref) return body === undefined ? null : `${method} ${path} takes no body`;
    const name = schema.$ref.split("/").at(-1) ?? "";
    const known = Object.keys(this.#document.definitions[name]?.properties ?? {});
    const unknown = Object.keys((body ?? {}) as object).filter((key) => !known.includes(key));
    if (unknown.length > 0) return `unknown field ${unknown.join(", ")}`;
    return this.#why(name, body);
  }

  whyNotAnswer(method: string, path: string, status: number, body: unknown): string | null {
    const responses = this.#operation(method, path)?.responses;
    const response = responses?.[status] ?? responses?.["default"];
    if (!response) return `${status} is no answer to ${method} ${path}`;
    if (!response.schema?.$ref) return body === undefined ? null : "the answer has no body";
    return this.#why(response.schema.$ref.split("/").at(-1) ?? "", body);
  }

  #operation(method: string, path: string): Operation | undefined {
    const pattern = Object.keys(this.#document.paths).find((entry) => {
      return new RegExp(`^${entry.replace(/\{[^}]+\}/g, "[A-Za-z0-9_]+")}$`).test(path);
    });
    return pattern === undefined ? undefined : this.#document.paths[pattern]?.[method.toLowerCase()];
  }

  #why(name: string, value: unknown): string | null {
    const check = this.#checks.get(name) ?? this.#ajv.compile({ $ref: `firecracker#/definitions/${name}` });
    this.#checks.set(name, check);
    return check(value) ? null : this.#ajv.errorsText(check.errors);
  }
}
