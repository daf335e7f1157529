import type { Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { codeHandlers } from "./code.ts";
import { gitHandlers } from "./git.ts";
import { patchHandlers } from "./patch.ts";
import { searchHandlers } from "./search.ts";

/** What an agent does with files all day: find, change, patch, commit, run. */
export const agentToolHandlers = (platform: Platform): Handler[] => [
  ...searchHandlers(platform),
  ...patchHandlers(platform),
  ...gitHandlers(platform),
  ...codeHandlers(platform),
];
