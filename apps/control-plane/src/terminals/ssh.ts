import { PlatformError, sandboxAccessRoutes as r } from "@platform/contract";
import type { GuestClient } from "@platform/guest-protocol";
import { handler, serveTunnel, type Call, type Handler } from "../http/index.ts";
import type { Platform } from "../platform.ts";
import { guestProblem, liveSandbox, ownSandbox } from "../sandboxes/index.ts";
import { dial } from "./tunnel.ts";

const sshPort = 22;
const user = "user";

const unavailable = (why: string, reason: string, cause?: unknown) =>
  new PlatformError(
    "SSH_UNAVAILABLE",
    `${why} Use a terminal (POST …/terminal) or the interactive exec instead.`,
    {
      details: { reason },
      cause,
    },
  );

const certificatesUnavailable = () =>
  unavailable("No certificate authority is trusted by SSH servers in sandboxes.", "no_certificate_authority");

/**
 * SSH as far as there is a server in the sandbox: the platform brings none, an app or a template may. The
 * tunnel and keys then work; certificates would need a server that trusts an authority of ours.
 */
export function sshHandlers(platform: Platform): Handler[] {
  const live = (call: Pick<Call, "caller" | "params">) =>
    liveSandbox(platform, call.caller, call.params["id"]!);
  const listens = async (guest: GuestClient) =>
    (
      await guest.ports().catch((error: unknown) => {
        throw guestProblem(error, "The list of ports");
      })
    ).some((one) => one.port === sshPort && !one.loopbackOnly);
  const tunnelUrl = (call: Call) =>
    `${call.request.protocol === "https" ? "wss" : "ws"}://${call.request.host}/api/v1/sandboxes/${call.params["id"]}/ssh-tunnel`;
  return [
    handler(r.sshTunnel, async (call) => {
      const { row } = await live(call);
      const target = await dial(platform, row.box_key, sshPort, call.signal).catch((error: unknown) => {
        if (!(error instanceof PlatformError)) throw error;
        throw unavailable("No SSH server listens on port 22 in this sandbox.", "not_listening", error);
      });
      await serveTunnel(call as unknown as Call, target);
    }),
    handler(r.sshInfo, async (call) => {
      const sandbox = await ownSandbox(platform.pool, call.caller, call.params["id"]!);
      // Asking must not wake it: a sandbox that sleeps has no server that answers.
      const available = sandbox.state === "running" && (await listens((await live(call)).guest));
      return {
        available,
        reason: available ? null : sandbox.state === "running" ? "not_listening" : "not_running",
        host: null,
        port: sshPort,
        user,
        guest_ip: null,
        transport: "websocket",
        tunnel_url: tunnelUrl(call as unknown as Call),
        proxy_jump: null,
        command: null,
        certificates: {
          available: false,
          method: null,
          endpoint: null,
          principal: `sandbox-${sandbox.id}`,
          principal_format: "sandbox-<id>",
          default_ttl_seconds: 900,
          max_ttl_seconds: 3600,
        },
      };
    }),
    handler(r.sshKeys, async (call) => {
      const { guest } = await live(call);
      if (call.body.certificate) throw certificatesUnavailable();
      if (!(await listens(guest)))
        throw unavailable("No SSH server listens on port 22 in this sandbox.", "not_listening");
      const options =
        call.body.ttl_seconds === undefined
          ? ""
          : `expiry-time="${new Date(Date.now() + call.body.ttl_seconds * 1000).toISOString().slice(0, 19).replace(/[-:T]/g, "")}Z" `;
      // The key comes by standard input, so that no shell reads it.
      const result = await guest
        .exec(
          'umask 077; mkdir -p "$HOME/.ssh" && key=$(cat) && { grep -qxF -- "$key" "$HOME/.ssh/authorized_keys" 2>/dev/null || printf "%s\\n" "$key" >> "$HOME/.ssh/authorized_keys"; }',
          { stdin: options + call.body.public_key, timeoutMs: 10_000 },
        )
        .catch((error: unknown) => {
          throw guestProblem(error, "The key");
        });
      if (result.exitCode !== 0)
        throw new PlatformError(
          "CONFLICT",
          "The key could not be stored in the sandbox's home. Check its disk, then retry.",
          {
            details: { stderr: result.stderr.slice(-500) },
          },
        );
      await call.reply.status(204).send();
      return undefined;
    }),
    handler(r.sshCertificates, async (call) => {
      await live(call);
      throw certificatesUnavailable();
    }),
  ];
}
