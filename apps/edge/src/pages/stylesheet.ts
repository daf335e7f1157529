import type { Brand } from "@platform/edge-api";
import { colour, contrast, inkOn, mix, readable, SHAPE_RATIO, TEXT_RATIO } from "./colours.ts";

const DARK_GROUND = "#0f172a";
/** Below this luminance contrast with white a ground is a dark one. */
const isDark = (ground: string): boolean => contrast(ground, "#ffffff") > contrast(ground, "#000000");

/** What is drawn on one ground, everything on it readable whatever the brand's colours are. */
function palette(primary: string, accent: string, ground: string): string {
  const ink = inkOn(ground);
  const text = readable(mix(ground, ink, 0.85), ground, 7);
  const quiet = readable(mix(ground, ink, 0.6), ground, TEXT_RATIO);
  const line = mix(ground, ink, 0.15);
  const shape = readable(primary, ground, SHAPE_RATIO);
  return [
    `--ground:${ground}`,
    `--text:${text}`,
    `--quiet:${quiet}`,
    `--line:${line}`,
    `--bar:${shape}`,
    `--on-bar:${inkOn(shape)}`,
    `--link:${readable(accent, ground, TEXT_RATIO)}`,
  ].join(";");
}

const family = (name: string | null | undefined): string =>
  name && /^[A-Za-z0-9 ,'"-]{1,200}$/.test(name) ? `${name},` : "";

/** Nothing is loaded: a font or a logo of the brand is part of the page. */
export function stylesheet(brand: Brand | null): string {
  const primary = colour(brand?.colorPrimary, "#475569");
  const accent = colour(brand?.colorAccent, primary);
  const ground = colour(brand?.colorBackground, "#ffffff");
  const font = brand?.font
    ? `@font-face{font-family:"Brand font";src:url(${brand.font}) format("woff2");font-display:swap}`
    : "";
  const families = `${font ? '"Brand font",' : ""}${family(brand?.fontFamily)}system-ui,sans-serif`;
  return `${font}:root{color-scheme:light dark;${palette(primary, accent, ground)}}
@media (prefers-color-scheme:dark){:root{${palette(primary, accent, isDark(ground) ? ground : DARK_GROUND)}}.light{display:none}}
@media (prefers-color-scheme:light){.dark{display:none}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:flex;flex-direction:column;background:var(--ground);color:var(--text);font:1rem/1.6 ${families};border-top:6px solid var(--bar)}
header,main,footer{width:100%;max-width:42rem;margin:0 auto;padding:1.5rem}
header{display:flex;gap:.75rem;align-items:center;font-weight:600}
header img{height:2rem;width:auto;max-width:12rem}
main{flex:1;display:flex;flex-direction:column;justify-content:center;padding-bottom:4rem;overflow-wrap:break-word}
h1{font-size:clamp(1.5rem,5vw,2.25rem);line-height:1.2;margin:0 0 1rem}
p{margin:0 0 1rem}
a{color:var(--link);text-underline-offset:.2em}
:focus-visible{outline:3px solid var(--link);outline-offset:3px}
.again{display:inline-block;padding:.6rem 1.25rem;border-radius:.5rem;background:var(--bar);color:var(--on-bar);text-decoration:none;font-weight:600}
.status{color:var(--quiet);font-variant-numeric:tabular-nums;margin:0}
.small,footer{font-size:.875rem;color:var(--quiet)}
footer{border-top:1px solid var(--line)}
footer ul{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin:0;padding:0}
footer a{display:inline-block;padding:.25rem 0}
code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}
progress{width:100%;height:.5rem;accent-color:var(--bar)}
.dots{display:inline-flex;gap:.4rem;margin-bottom:1rem}
.dots i{width:.7rem;height:.7rem;border-radius:50%;background:var(--bar);animation:beat 1.2s infinite ease-in-out}
.dots i:nth-child(2){animation-delay:.2s}.dots i:nth-child(3){animation-delay:.4s}
@keyframes beat{50%{opacity:.2}}
@media (prefers-reduced-motion:reduce){.dots i{animation:none}}`;
}
