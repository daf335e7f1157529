// `npm run problem-pages`: writes docs/problems from the catalogue of refusals. A test says when they differ.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { refusalCodes, refusalPage } from "../packages/contract/src/index.ts";

for (const code of refusalCodes)
  writeFileSync(join(import.meta.dirname, "..", "docs", "problems", `${code}.md`), refusalPage(code));
