import { z } from "zod";
import { problems } from "./problems.ts";
import type { RouteDefinition } from "./route.ts";

interface OpenApiOptions {
  readonly title: string;
  /** Base URL including /api/v1. */
  readonly serverUrl: string;
  readonly description: string;
}

const schemaOf = (shape: z.ZodType, io: "input" | "output") => {
  const { $schema: _, ...schema } = z.toJSONSchema(shape, {
    io,
    unrepresentable: "any",
    reused: "inline",
  }) as Record<string, unknown>;
  return schema;
};

const errorSchema = {
  type: "object",
  required: ["error"],
  properties: {
    error: {
      type: "object",
      required: ["code", "message"],
      properties: {
        code: { type: "string", enum: Object.keys(problems) },
        message: { type: "string" },
        details: { type: "object" },
        retryable: { type: "boolean" },
        retry_after_ms: { type: "integer" },
      },
    },
    errors: { type: "object", additionalProperties: { type: "array", items: { type: "string" } } },
    type: { type: "string" },
    title: { type: "string" },
    status: { type: "integer" },
    detail: { type: "string" },
    instance: { type: "string" },
  },
};

function parametersOf(route: RouteDefinition): unknown[] {
  const inPath = [...route.path.matchAll(/:(\w+)/g)].map(([, name]) => ({
    name,
    in: "path",
    required: true,
    schema: { type: "string" },
  }));
  if (route.path.endsWith("/*"))
    inPath.push({ name: "path", in: "path", required: true, schema: { type: "string" } });
  const query = route.query
    ? (schemaOf(route.query, "input") as { properties?: Record<string, { description?: string }> }).properties
    : undefined;
  const inQuery = Object.entries(query ?? {}).map(([name, schema]) => ({
    name,
    in: "query",
    required: false,
    schema,
  }));
  const headers = route.idempotent
    ? [{ name: "Idempotency-Key", in: "header", required: false, schema: { type: "string", maxLength: 255 } }]
    : [];
  return [...inPath, ...inQuery, ...headers];
}

function answerOf(route: RouteDefinition): Record<string, unknown> {
  if (route.envelope === "raw") return { description: "A stream or raw bytes" };
  const inner = route.response ? schemaOf(route.response, "output") : {};
  const schema =
    route.envelope === "data" ? { type: "object", required: ["data"], properties: { data: inner } } : inner;
  return { description: "Success", content: { "application/json": { schema } } };
}

/** An OpenAPI 3.1 document of the given routes. */
export function toOpenApi(
  routes: readonly RouteDefinition[],
  options: OpenApiOptions,
): Record<string, unknown> {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const route of routes) {
    const path = route.path.replace(/:(\w+)/g, "{$1}").replace(/\*$/, "{path}");
    const codes = ["UNAUTHENTICATED", "VALIDATION_FAILED", ...(route.problems ?? [])];
    const errors = {
      description: `One of: ${codes.join(", ")}`,
      content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } },
    };
    (paths[path] ??= {})[route.method.toLowerCase()] = {
      operationId: route.id,
      summary: route.summary,
      tags: [route.tag],
      parameters: parametersOf(route),
      ...(route.body && route.method !== "GET"
        ? { requestBody: { content: { "application/json": { schema: schemaOf(route.body, "input") } } } }
        : {}),
      responses: { [String(route.status ?? 200)]: answerOf(route), default: errors },
      ...(route.scope ? { "x-required-scope": route.scope } : {}),
    };
  }
  return {
    openapi: "3.1.0",
    info: { title: options.title, version: "1.0.0", description: options.description },
    servers: [{ url: options.serverUrl }],
    security: [{ key: [] }],
    paths,
    components: {
      securitySchemes: { key: { type: "http", scheme: "bearer" } },
      schemas: { Error: errorSchema },
    },
  };
}
