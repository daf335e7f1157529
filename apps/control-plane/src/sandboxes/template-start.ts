import { sandboxRoutes as r } from "@platform/contract";
import { handler, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { liveSandbox } from "./access.ts";
import { absolute } from "./exec.ts";

/** Installs and starts an app in one call; the answer says what each of the two really did. */
export function templateStartHandlers(platform: Platform): Handler[] {
  return [
    handler(r.templateStart, async ({ caller, params, body, signal }) => {
      const { guest } = await liveSandbox(platform, caller, params["id"]!);
      const wanted = body ?? {};
      const cwd = absolute(wanted.workdir);
      const install =
        wanted.install === false
          ? null
          : (wanted.install_command ??
            (typeof wanted.install === "string" ? wanted.install : "test ! -f package.json || npm install"));
      const installed =
        install === null
          ? null
          : await guest.exec(install, { cwd, timeoutMs: (wanted.install_timeout_sec ?? 600) * 1000, signal });
      const result = {
        install:
          installed === null
            ? { status: "skipped" }
            : {
                status: installed.exitCode === 0 ? "succeeded" : "failed",
                command: install,
                exit_code: installed.exitCode,
                log_tail: (installed.stdout + installed.stderr).slice(-4000),
              },
        start: { status: "skipped" } as Record<string, unknown>,
      };
      if (installed !== null && installed.exitCode !== 0) return { ...result, status: "failed" };
      const command = wanted.start_command ?? "npm run dev";
      const port = wanted.port ?? wanted.readiness_probe?.port ?? 3000;
      await guest.services.put({ name: "app", command, cwd, env: { PORT: String(port) }, restart: "always" });
      const probe = await guest.probe(
        port,
        {
          path: wanted.readiness_probe?.path ?? "/",
          timeoutMs: (wanted.start_timeout_sec ?? 60) * 1000,
          service: "app",
        },
        signal,
      );
      result.start = {
        status: probe.ok ? "succeeded" : "failed",
        command,
        port,
        reason: probe.reason,
        http_status: probe.httpStatus,
        waited_ms: probe.waitedMs,
        evidence: probe.evidence,
      };
      return { ...result, status: probe.ok ? "succeeded" : "failed" };
    }),
  ];
}
