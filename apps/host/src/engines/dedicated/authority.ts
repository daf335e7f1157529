import { openAuthority as open } from "@platform/certificates";

export interface Authority {
  /** PEM that clients verify servers with. */
  readonly certificate: string;
  /** Certificate and key for one server, valid for its host names and addresses. */
  issue(names: readonly string[]): Promise<{ certificate: string; key: string }>;
}

/** The host's private certificate authority: made at the first call, then kept in `folder` (key 0600). */
export async function openAuthority(folder: string): Promise<Authority> {
  const { certificate, issue } = await open(folder, "Database authority");
  return { certificate, issue: (names) => issue("Database server", names) };
}
