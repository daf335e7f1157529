import type { Command } from "commander";
import { addBrand } from "../commands/brand.ts";
import { addImages } from "../commands/images.ts";
import { addUp } from "../commands/up.ts";
import type { Context } from "../context.ts";

/** What only the platform's operator does. A tenant's own command line is built without this folder. */
export function addOperatorCommands(program: Command, context: () => Context): void {
  for (const add of [addUp, addImages, addBrand]) add(program, context);
}
