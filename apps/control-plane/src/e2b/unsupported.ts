import { ClientProblem } from "./problem.ts";
import type { ClientRoute } from "./route.ts";

const missing = (method: ClientRoute["method"], path: string, what: string): ClientRoute => ({
  method,
  path,
  scope: null,
  handle: async () => {
    throw new ClientProblem(501, `${what} are not supported here.`);
  },
});

/** Parts of the protocol that the platform does not have. They are refused as such and not as unknown. */
export const unsupportedRoutes: readonly ClientRoute[] = [
  missing("GET", "/volumes", "Volumes"),
  missing("POST", "/volumes", "Volumes"),
  missing("GET", "/volumes/{volumeID}", "Volumes"),
  missing("DELETE", "/volumes/{volumeID}", "Volumes"),
  missing("GET", "/secrets", "Secrets"),
  missing("POST", "/secrets", "Secrets"),
  missing("GET", "/secrets/{secretID}", "Secrets"),
  missing("PATCH", "/secrets/{secretID}", "Secrets"),
  missing("DELETE", "/secrets/{secretID}", "Secrets"),
  missing("POST", "/v2/templates", "Template builds by Docker's registry"),
  missing("POST", "/templates", "Template builds by Docker's registry"),
  missing("POST", "/templates/tags", "Tags of templates"),
  missing("DELETE", "/templates/tags", "Tags of templates"),
];
