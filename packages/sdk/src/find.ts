import { ApiError } from "./error.ts";

export const isUuid = (text: string): boolean =>
  /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i.test(text);

/** The one of this slug, else the one of this name: a name need not be the only one of its kind. */
export function named<T extends { readonly id: string; readonly name: string; readonly slug?: string }>(
  what: string,
  wanted: string,
  all: readonly T[],
): T {
  const bySlug = all.filter((one) => one.slug === wanted);
  const found = bySlug.length > 0 ? bySlug : all.filter((one) => one.name === wanted);
  if (found.length === 1) return found[0]!;
  if (found.length === 0)
    throw new ApiError({
      status: 404,
      code: "NOT_FOUND",
      message: `There is no ${what} named "${wanted}". List them, and use a name or an id.`,
    });
  throw new ApiError({
    status: 409,
    code: "AMBIGUOUS_NAME",
    message: `${found.length} ${what}s are named "${wanted}": ${found.map(({ id }) => id).join(", ")}. Use an id.`,
  });
}
