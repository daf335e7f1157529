export interface SystemPackage {
  readonly name: string;
  readonly program: string;
  readonly required: boolean;
  readonly brought?: boolean;
  readonly unwanted?: string;
  readonly why: string;
}
export const systemPackages: readonly SystemPackage[];
export function findProgram(program: string, path?: string): string | null;
export function missingPackages(path?: string): SystemPackage[];
export function installLine(names: readonly string[]): string;
export function ensureSystemPackages(options: {
  path?: string;
  isRoot: boolean;
  say: (text: string) => void;
  forSlowTests?: boolean | "ci";
}): string[];
