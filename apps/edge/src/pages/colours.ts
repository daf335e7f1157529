/** Red, green and blue, 0 to 255. */
type Rgb = readonly [number, number, number];

const BLACK = "#000000";
const WHITE = "#ffffff";
/** Of the normal text of WCAG 2.2 AA, and of what is large or no text. */
export const TEXT_RATIO = 4.5;
export const SHAPE_RATIO = 3;

function parse(hex: string): Rgb {
  const digits = hex.slice(1);
  const full = digits.length < 6 ? [...digits].map((digit) => digit + digit).join("") : digits;
  return [0, 2, 4].map((at) => Number.parseInt(full.slice(at, at + 2), 16)) as unknown as Rgb;
}

const toHex = (rgb: Rgb): string =>
  `#${rgb.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("")}`;

/** Colours come from a tenant: only the hexadecimal form is let into a style sheet, without its opacity. */
export const colour = (value: string | null | undefined, standard: string): string =>
  value && /^#(?:[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})$/i.test(value) ? toHex(parse(value)) : standard;

/** Relative luminance, see WCAG 2. */
function luminance(hex: string): number {
  const [red, green, blue] = parse(hex).map((part) => {
    const value = part / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  }) as unknown as Rgb;
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** From 1 to 21. */
export function contrast(a: string, b: string): number {
  const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}

/** Black or white, whichever is read better on the ground. */
export const inkOn = (ground: string): string =>
  contrast(BLACK, ground) >= contrast(WHITE, ground) ? BLACK : WHITE;

export function mix(from: string, to: string, share: number): string {
  const [a, b] = [parse(from), parse(to)];
  return toHex(a.map((part, i) => part + (b[i]! - part) * share) as unknown as Rgb);
}

/** The colour nearest to the given one that is read on the ground. */
export function readable(hex: string, ground: string, ratio: number): string {
  const ink = inkOn(ground);
  for (let share = 0; share < 1; share += 0.05) {
    const tried = mix(hex, ink, share);
    if (contrast(tried, ground) >= ratio) return tried;
  }
  return ink;
}
