import assert from "node:assert/strict";
import { test } from "node:test";
import { isLanguage } from "./texts/index.ts";
import { pickLanguage } from "./accept.ts";
import { contrast, inkOn, readable } from "./colours.ts";
import { negotiate } from "./negotiate.ts";
import { GIVE_UP_MS, Waits } from "./waits.ts";

const chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";
const image = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";

const cases: [name: string, headers: Record<string, string>, url: string, wanted: string][] = [
  ["a browser that opens a page", { accept: chrome, "sec-fetch-dest": "document" }, "/", "html"],
  ["a page in a frame", { accept: chrome, "sec-fetch-dest": "iframe" }, "/a.js", "html"],
  ["an older browser", { accept: chrome }, "/shop", "html"],
  ["an older browser's script with its page's Accept", { accept: chrome }, "/app.js?v=1", "text/javascript"],
  ["a script", { accept: "*/*", "sec-fetch-dest": "script" }, "/x", "text/javascript"],
  ["a worker", { accept: "*/*", "sec-fetch-dest": "worker" }, "/x", "text/javascript"],
  ["a module of a dev server", { accept: "*/*" }, "/src/main.tsx", "text/javascript"],
  ["a style", { accept: "text/css,*/*;q=0.1" }, "/x", "text/css"],
  ["a style by its ending", { accept: "*/*" }, "/x.css", "text/css"],
  ["a font", { accept: "*/*", "sec-fetch-dest": "font" }, "/x", "font/woff2"],
  ["a font by its ending", { accept: "*/*" }, "/x.woff2", "font/woff2"],
  ["a picture", { accept: image, "sec-fetch-dest": "image" }, "/x", "image"],
  ["a picture by its Accept", { accept: image }, "/x", "image"],
  ["a picture by its ending", { accept: "*/*" }, "/logo.png", "image"],
  ["an API client", { accept: "application/json" }, "/", "application/json"],
  ["a client without Accept", {}, "/", "application/problem+json"],
  ["a client of problems", { accept: "application/problem+json" }, "/", "application/problem+json"],
  ["who accepts anything", { accept: "*/*" }, "/api", "application/problem+json"],
  ["JSON before HTML by quality", { accept: "text/html;q=0.5, application/json" }, "/", "application/json"],
  ["HTML before JSON by quality", { accept: "application/json;q=0.5, text/html" }, "/", "html"],
  ["who refuses HTML", { accept: "text/html;q=0, */*" }, "/", "application/problem+json"],
  ["a stream of events", { accept: "text/event-stream" }, "/x", "event"],
  ["a WebSocket", { accept: chrome, "sec-websocket-key": "x" }, "/", "application/json"],
  ["fetch() in a page", { accept: "*/*", "sec-fetch-dest": "empty" }, "/data", "application/problem+json"],
];
for (const [name, headers, url, wanted] of cases) {
  test(`${name} gets ${wanted}`, () => {
    const form = negotiate({ headers, url });
    assert.equal("contentType" in form ? form.contentType.split(";")[0] : form.type, wanted);
  });
}

test("the language is the one that is asked for most, down to its base, else the tenant's", () => {
  const pick = (header: string | undefined, standard: "en" | "de" = "en") =>
    pickLanguage(header, isLanguage, standard);
  assert.equal(pick("es-MX,es;q=0.9,en;q=0.8"), "es");
  assert.equal(pick("en;q=0.3, fr-CA;q=0.9"), "fr");
  assert.equal(pick("zh-Hant-TW, de-AT;q=0.1"), "de");
  assert.equal(pick("ja"), "en");
  assert.equal(pick("ja", "de"), "de");
  assert.equal(pick("*", "de"), "de");
  assert.equal(pick("de;q=0, *", "de"), "en");
  assert.equal(pick("de;q=0"), "en");
  assert.equal(pick(undefined, "de"), "de");
  assert.equal(pick("fr;q=nonsense, es;q=0.9"), "fr");
});

test("whatever colours a brand has, its text can be read", () => {
  for (const ground of ["#ffffff", "#000000", "#777777", "#0f172a", "#ffee00"])
    for (const brand of ["#ffffff", "#000000", "#ffff00", "#1a73e8", "#808080"]) {
      assert.ok(contrast(readable(brand, ground, 4.5), ground) >= 4.5, `${brand} on ${ground}`);
      assert.ok(contrast(inkOn(ground), ground) >= 4.5);
    }
  assert.equal(readable("#000000", "#ffffff", 4.5), "#000000", "what can be read stays as it is");
});

test("a wait is over after its time, and begins anew for who comes back", () => {
  const waits = new Waits();
  assert.deepEqual(waits.look("a", 1_000), { waitedSec: 0, limitSec: GIVE_UP_MS / 1000, isOver: false });
  for (let now = 3_000; now < 1_000 + GIVE_UP_MS; now += 2_000)
    assert.equal(waits.look("a", now).isOver, false);
  assert.equal(waits.look("a", 1_000 + GIVE_UP_MS).isOver, true);
  assert.equal(waits.look("a", 3_000 + GIVE_UP_MS).waitedSec, 0, "tried once more");
  assert.equal(waits.look("b", GIVE_UP_MS + 10_000, 10_000).isOver, true, "it began before anybody looked");
  assert.equal(waits.look("a", 3_000 + GIVE_UP_MS + 31_000).waitedSec, 0, "was away");
});
