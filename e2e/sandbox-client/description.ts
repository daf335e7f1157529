import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv, type ValidateFunction } from "ajv";
import formats from "ajv-formats";
import { parse } from "yaml";

type Node = Record<string, unknown>;
type Paths = Record<string, Record<string, { responses: Record<string, Node> }>>;

const source = join(import.meta.dirname, "description", "openapi.yml");

/** OpenAPI 3.0 says `nullable` where JSON Schema has a type. */
function toJsonSchema(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(toJsonSchema);
  if (typeof node !== "object" || node === null) return node;
  const { nullable, ...rest } = Object.fromEntries(
    Object.entries(node).map(([name, value]) => [name, toJsonSchema(value)]),
  ) as Node & { nullable?: unknown };
  if (nullable !== true) return rest;
  return typeof rest["type"] === "string"
    ? { ...rest, type: [rest["type"], "null"] }
    : { anyOf: [rest, { type: "null" }] };
}

/** The maker's own description of the control API, against which answers are held. */
export class Description {
  readonly #paths: Paths;
  readonly #responses: Record<string, Node>;
  readonly #ajv: Ajv;
  readonly #compiled = new Map<string, ValidateFunction>();

  constructor() {
    const document = toJsonSchema(parse(readFileSync(source, "utf8"))) as Node;
    this.#paths = document["paths"] as Paths;
    this.#responses = (document["components"] as { responses: Record<string, Node> }).responses;
    this.#ajv = new Ajv({ strict: false, allErrors: true });
    formats.default(this.#ajv);
    this.#ajv.addSchema(document, "description");
  }

  /** @param path as in the description, such as `/sandboxes/{sandboxID}` */
  assertAnswer(method: string, path: string, status: number, body: string): void {
    const operation = this.#paths[path]?.[method.toLowerCase()];
    assert.ok(operation, `${method} ${path} is not described`);
    let response = operation.responses[String(status)];
    assert.ok(response, `${method} ${path} must not answer ${status}: ${body}`);
    let pointer = `/paths/${escape(path)}/${method.toLowerCase()}/responses/${status}`;
    const reference = response["$ref"];
    if (typeof reference === "string") {
      const name = reference.split("/").at(-1)!;
      response = this.#responses[name]!;
      pointer = `/components/responses/${name}`;
    }
    if (!response["content"]) {
      assert.equal(body, "", `${method} ${path} answers ${status} without a body`);
      return;
    }
    const validate = this.#compile(`description#${pointer}/content/application~1json/schema`);
    assert.ok(
      validate(JSON.parse(body)),
      `${method} ${path} ${status}: ${this.#ajv.errorsText(validate.errors)} in ${body}`,
    );
  }

  #compile(reference: string): ValidateFunction {
    let validate = this.#compiled.get(reference);
    if (!validate) this.#compiled.set(reference, (validate = this.#ajv.compile({ $ref: reference })));
    return validate;
  }
}

const escape = (path: string) =>
  path.replaceAll("~", "~0").replaceAll("/", "~1").replaceAll("{", "%7B").replaceAll("}", "%7D");
