import { builtInTemplates, findBuiltIn, type BuiltInTemplate } from "./built-in.ts";

export { deleteTemplate, templateHandlers } from "./routes.ts";
export { createTemplateBuildStep } from "./reconciler.ts";
export { resolveTemplate, type ResolvedTemplate, type SandboxImage } from "./resolve.ts";
export { storeUpload } from "./uploads.ts";
export {
  buildsOf,
  findOwnTemplate,
  hasUpload,
  linesAfter,
  listOwnTemplates,
  loadTemplateBuild,
  openSpec,
  saveBuild,
  saveTemplate,
  type TemplateBuildRow,
  type TemplateRow,
} from "./store.ts";

/** Of those that come with the platform, by id or alias. */
export const findTemplate = (id: string): BuiltInTemplate | undefined => findBuiltIn(id);
export const allTemplates = (): readonly BuiltInTemplate[] => builtInTemplates;
