import { chmod, chown, mkdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { waitFor } from "@platform/daemon";
import type { GuestClient } from "@platform/guest-protocol";
import { BoxSpec, type ImageLimits, type ResolvedBoxSpec } from "@platform/host-api";
import { GuestConnection } from "../boxes/index.ts";
import { launchBox } from "../drivers/linux/launch.ts";
import type { BoxFolders } from "../drivers/driver.ts";
import type { Cgroups } from "../drivers/linux/cgroups.ts";
import { findByArgument, isAlive, killProcess } from "../drivers/linux/processes.ts";
import { writeEtc } from "../drivers/linux/rootfs.ts";
import { seccompFilter } from "../drivers/linux/seccomp.ts";
import { dialSocket } from "../drivers/linux/socket.ts";
import type { OutboundFactory } from "../outbound/index.ts";
import type { DebianSystem } from "./debian.ts";

/** What root of an ordinary container has: enough for package managers, nothing that reaches the kernel. */
const capabilities =
  "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP SETFCAP SYS_CHROOT NET_BIND_SERVICE AUDIT_WRITE".split(
    " ",
  );
const firstId = 1_000_000;
const idsEach = 65_536;
const slots = 512;
const readyTimeoutMs = 60_000;
const mib = 1024 * 1024;

/** Ids of the machine, without rights, that the owners of a tree become in the box of a build. */
export const firstIdOf = (tag: string): number => firstId + (parseInt(tag.slice(0, 4), 16) % slots) * idsEach;

export interface StepBoxOptions {
  readonly key: string;
  /** Marks its processes; also how an abandoned one is found. */
  readonly marker: string;
  /** Of `firstIdOf`. */
  readonly firstId: number;
  /** Private folder of the build; the box's changes lie in `layer/upper` of it. */
  readonly work: string;
  /** The base's tree. */
  readonly base: string;
  readonly limits: ImageLimits;
  readonly guestFolder: string;
  readonly toolchain: string;
  readonly cgroups: Cgroups;
  readonly outbound: OutboundFactory;
  readonly system: DebianSystem;
}

export interface StepBox {
  readonly guest: GuestClient;
  /** Kills everything in it. Resolves once nothing of it runs and its mounts are gone. */
  close(): Promise<void>;
}

const specOf = (limits: ImageLimits): ResolvedBoxSpec =>
  BoxSpec.parse({
    purpose: "build",
    minimumIsolation: "namespaces",
    content: { type: "empty" },
    limits: {
      memoryBytes: limits.memoryBytes,
      ...{ cpuMillis: 2000, maxProcesses: 1024, diskBytes: limits.diskBytes },
    },
    egress: { mode: "allow-all" },
    hostname: "build",
  });

async function makeFolders(options: StepBoxOptions): Promise<BoxFolders> {
  const { work, firstId: id } = options;
  const root = join(work, "box");
  const at = (name: string) => join(root, name);
  const owner = { uid: id, gid: id };
  const folders: BoxFolders = {
    ...{ root, workspace: at("workspace"), home: at("home"), run: at("run"), log: at("log"), owner },
    ...{ disk: null, etc: at("etc"), serviceLogs: at("logs") },
  };
  await mkdir(root, { mode: 0o711 });
  await chmod(root, 0o711);
  for (const path of [folders.workspace, folders.home, folders.run, folders.serviceLogs]) {
    await mkdir(path, { mode: 0o700 });
    await chown(path, id, id);
  }
  await mkdir(folders.log, { mode: 0o711 });
  for (const name of ["layer/upper", "layer/work", "merged"])
    await mkdir(join(work, name), { recursive: true, mode: 0o755 });
  await chmod(join(work, "layer/upper"), 0o755);
  // Package managers install from where this machine does; none of it stays in the image.
  await writeFile(join(root, "sources.list"), `${options.system.sources.join("\n")}\n`, { mode: 0o644 });
  const settings = options.system.options.filter((line) => !/::Proxy /.test(line));
  await writeFile(join(root, "apt.conf"), `${settings.join("\n")}\n`, { mode: 0o644 });
  // Nothing starts services while packages are installed.
  await writeFile(join(root, "policy-rc.d"), "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  return folders;
}

/** Proxy variables are the agent's; everything else a step sees is in its own call. */
async function writeConfig(folders: BoxFolders, id: number): Promise<void> {
  const path = join(folders.run, "config.json");
  await writeFile(path, JSON.stringify({ env: {}, links: [], services: [], proxyPort: 3128 }), {
    mode: 0o600,
  });
  await chown(path, id, id);
}

function boxArguments(spec: ResolvedBoxSpec, options: StepBoxOptions, folders: BoxFolders): string[] {
  const tmp = ["--perms", "1777", "--size", String(512 * mib), "--tmpfs"];
  const bundle = "/etc/ssl/certs/ca-certificates.crt";
  return [
    ..."--unshare-pid --unshare-ipc --unshare-uts --unshare-net --unshare-cgroup-try --new-session".split(
      " ",
    ),
    ...["--hostname", spec.hostname, "--clearenv", "--cap-drop", "ALL"],
    ...capabilities.flatMap((name) => ["--cap-add", `CAP_${name}`]),
    ...["--bind", join(options.work, "merged"), "/"],
    ...["--ro-bind", options.toolchain, "/opt/node", "--ro-bind", options.guestFolder, "/opt/agent"],
    ...["--ro-bind-try", bundle, bundle],
    ...["--ro-bind", join(folders.root, "sources.list"), "/etc/apt/sources.list"],
    ...["--ro-bind", join(folders.root, "apt.conf"), "/etc/apt/apt.conf.d/90box-build"],
    ...["--ro-bind", join(folders.root, "policy-rc.d"), "/usr/sbin/policy-rc.d"],
    ...["--proc", "/proc", "--dev", "/dev", ...tmp, "/dev/shm", ...tmp, "/tmp", ...tmp, "/run"],
    ...["--ro-bind", folders.etc, "/run/etc", "--bind", folders.run, "/run/agent"],
    ...["--bind", folders.serviceLogs, "/var/log/services"],
    ...["--setenv", "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    ...["--setenv", "HOME", "/root", "--chdir", "/"],
  ];
}

/** Ends every process of a build's box, also one that an earlier daemon started. */
export async function endStepBox(options: Pick<StepBoxOptions, "key" | "marker" | "cgroups">): Promise<void> {
  const marked = await findByArgument(options.marker);
  for (const { process } of marked) await killProcess(process);
  for (const { process } of marked)
    await waitFor(`process ${process.pid} of a build to end`, async () => !(await isAlive(process)), 10_000);
  await options.cgroups.destroy(options.key);
}

/**
 * A box whose root is a writable copy of `base` and whose user is root of it: to the machine, every one
 * of its owners is an id without rights. Its only way out is the proxy of all boxes.
 *
 * @throws Error with what was said, when it does not start
 */
export async function openStepBox(options: StepBoxOptions): Promise<StepBox> {
  const spec = specOf(options.limits);
  const folders = await makeFolders(options);
  await writeEtc(folders, spec);
  await writeConfig(folders, options.firstId);
  await options.cgroups.create(options.key, spec.limits);
  const proxy = await options.outbound.open(options.key, spec, folders);
  const connection = new GuestConnection(() => dialSocket(join(folders.run, "guest.sock")));
  const close = async () => {
    connection.close();
    await proxy.close();
    await endStepBox(options);
  };
  try {
    const { exited } = await launchBox({
      bwrap: "bwrap",
      prefix: [
        ...[
          "unshare",
          "--mount",
          "--propagation",
          "private",
          "perl",
          resolve(import.meta.dirname, "mapped-root.pl"),
        ],
        ...[
          String(options.firstId),
          options.base,
          join(options.work, "layer"),
          join(options.work, "merged"),
          "--",
        ],
      ],
      args: boxArguments(spec, options, folders),
      command: ["/opt/node/bin/node", "/opt/agent/agent.mjs"],
      marker: options.marker,
      filter: seccompFilter(process.arch),
      owner: null,
      logFile: join(folders.log, "agent.log"),
      beforeExec: (pid) => options.cgroups.join(options.key, pid),
    });
    let hasEnded = false;
    void exited.then(() => (hasEnded = true));
    await waitFor(
      "the build's box to answer",
      async () => {
        if (hasEnded) throw new Error("it ended at once");
        await connection.json("GET", "/ready", undefined, 2_000);
        return true;
      },
      readyTimeoutMs,
    );
    return { guest: connection.client, close };
  } catch (cause) {
    const said = (await readFile(join(folders.log, "agent.log"), "utf8").catch(() => "")).trim().slice(-2000);
    await close();
    throw new Error(`${(cause as Error).message}${said ? `: ${said}` : ""}`, { cause });
  }
}
