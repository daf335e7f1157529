import assert from "node:assert/strict";
import { test } from "node:test";
import { visit } from "./api.ts";
import { answerFaults, documentFaults, type Document } from "./openapi.ts";
import { repository } from "./platform.ts";
import { clientFaults } from "./rules.ts";
import { answerBrandFaults, brandFaults } from "./white-label.ts";
import type { Scene } from "./scene.ts";

export function wholeRun(scene: Scene): void {
  const { api, pages, seen } = scene;
  test("can be parsed by every published client", () => {
    assert.deepEqual(api.answers.flatMap(clientFaults), []);
  });

  test("is what the OpenAPI document declares, and the document is valid", async () => {
    const { origin } = new URL(scene.platform.apiUrl);
    const document = (await (await fetch(`${origin}/openapi.json`)).json()) as Document;
    assert.equal(await documentFaults(document), null);
    assert.deepEqual(answerFaults(document, api.answers), []);
  });

  test("shows no name but the tenant's: answers, pages, environments and certificates", async () => {
    const { origin } = new URL(scene.platform.apiUrl);
    for (const path of ["/docs", "/problems", "/problems/NOT_FOUND", "/openapi.json", "/health", "/nothing"])
      pages.push(await visit(scene.platform.port, origin, path));
    pages.push(await visit(scene.platform.port, "http://unknown.example"));
    const paths = [repository, scene.platform.dataFolder];
    assert.deepEqual(
      [
        ...[...api.answers, ...pages].flatMap((answer) => answerBrandFaults(answer, paths)),
        ...seen.flatMap(({ where, text }) => brandFaults(where, text)),
      ],
      [],
    );
    assert.equal(seen.length, 3);
  });
}
