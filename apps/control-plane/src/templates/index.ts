import { builtInTemplates, findBuiltIn, type BuiltInTemplate } from "./built-in.ts";

export { templateHandlers } from "./routes.ts";
export { createTemplateBuildStep } from "./reconciler.ts";
export { resolveTemplate, type ResolvedTemplate, type SandboxImage } from "./resolve.ts";
export { findOwnTemplate } from "./store.ts";

/** Of those that come with the platform, by id or alias. */
export const findTemplate = (id: string): BuiltInTemplate | undefined => findBuiltIn(id);
export const allTemplates = (): readonly BuiltInTemplate[] => builtInTemplates;
