import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Findings, read } from "@platform/brand-scan";
import { brand } from "../testing/control-plane.ts";
import { galleryBrands, galleryKinds } from "../testing/gallery.ts";
import { boxes, Rig } from "../testing/rig.ts";
import { renderPage, type PageKind } from "./index.ts";
import type { Form } from "./negotiate.ts";
import { languages, type Language } from "./texts/index.ts";

let rig: Rig;
before(async () => {
  rig = await Rig.start();
});
after(() => rig.stop());

const forms: Form[] = [
  { type: "html" },
  { type: "problem", contentType: "application/problem+json" },
  { type: "event" },
  { type: "image" },
  { type: "empty", contentType: "text/css" },
];

test("no page in any language or form shows another name than its tenant's", () => {
  const findings = new Findings([{ owner: "neighbour", text: galleryBrands.bay.name }]);
  let pages = 0;
  for (const kind of galleryKinds)
    for (const language of Object.keys(languages) as Language[])
      for (const form of forms) {
        const facts = { kind, brand: galleryBrands.clinic, detail: null, requestId: "r-1", language };
        const { status, headers, body } = renderPage(form, facts);
        const answer = {
          ...{ url: "http://app.cliniciq.example/", status, statusText: "", headers },
          ...{ rawHeaders: Object.entries(headers).flat(), body: Buffer.from(body) },
        };
        read(answer, `${kind} ${language} ${form.type}`, findings);
        pages++;
      }
  assert.deepEqual(findings.all, []);
  assert.equal(pages, galleryKinds.length * 4 * forms.length);
});

test("nor does an edge that serves them, in its headers, refusals and broken connections", async () => {
  const kinds = [
    "starting",
    "stopped",
    "error",
    "maintenance",
    "build_failed",
    "start_failed",
    "over_quota",
    "certificate_pending",
  ] as const satisfies PageKind[];
  const down = await rig.app((_req, res) => res.end());
  await down.stop();
  await rig.publish({
    ...Object.fromEntries(
      kinds.map((page) => [
        `${page.replaceAll("_", "-")}.clinic.test`,
        { type: "page" as const, page, detail: null },
      ]),
    ),
    "down.clinic.test": boxes(down.upstream),
  });
  const findings = new Findings();
  const hosts = [...kinds.map((page) => page.replaceAll("_", "-")), "down", "nobody"].map(
    (name) => `${name}.${brand.domain}`,
  );
  const accepts = ["text/html", "application/json", "text/event-stream", "image/*", "*/*"];
  for (const host of [...hosts, "nobody.example"])
    for (const accept of accepts)
      for (const path of host.startsWith("down.") ? ["/"] : ["/", "/a.js", "/favicon.ico", "/robots.txt"]) {
        const answer = await rig.fetch(host, path, { headers: { accept, "accept-language": "fr" } });
        const where = `${host}${path} ${accept}`;
        for (let i = 0; i < answer.rawHeaders.length; i += 2)
          findings.header(where, answer.rawHeaders[i]!, answer.rawHeaders[i + 1]!);
        findings.text(where, "body", answer.body);
      }
  const broken = ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"];
  for (const bytes of broken) findings.text(bytes, "answer", await rig.raw(bytes));
  assert.deepEqual(findings.all, []);
});
