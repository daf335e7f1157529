import { join } from "node:path";
import { diskPath, ownerOnDisk } from "../microvm/disk.ts";
import type { MachinePlan } from "../microvm/vmm.ts";

const mib = 1024 * 1024;

export type Accelerator = "kvm" | "tcg";

/** Translated code that QEMU keeps, in MiB; its default of 1 GiB would count as the box's. */
const translationMib = 96;

const commandLine: Record<Accelerator, string> = {
  // Emulation needs no defence against the processor's own leaks, and pays dearly for it.
  tcg: "no_timer_check tsc=reliable mitigations=off nokaslr",
  kvm: "tsc=reliable",
};

/** Paths inside the jail. */
export const inJail = {
  sockets: "/vm",
  kit: "/kit",
  root: "/disks/root",
  tools: "/disks/tools",
  box: "/disks/box",
};

/** What the jail shows QEMU of the machine's files. */
export function jailMounts(plan: MachinePlan, accelerator: Accelerator): string[] {
  const { folders, kit, shape } = plan;
  return [
    ...["--ro-bind", kit.folder, inJail.kit, "--bind", join(folders.root, "vm"), inJail.sockets],
    ...(shape ? ["--ro-bind", shape.rootDisk, inJail.root, "--ro-bind", shape.toolsDisk, inJail.tools] : []),
    ...(shape ? ["--bind", diskPath(folders), inJail.box] : []),
    ...(accelerator === "kvm" ? ["--dev-bind", "/dev/kvm", "/dev/kvm"] : []),
  ];
}

const drive = (id: string, path: string, isReadOnly: boolean) => [
  "-drive",
  `if=none,id=${id},file=${path},format=raw,discard=unmap,readonly=${isReadOnly ? "on" : "off"}`,
  "-device",
  `virtio-blk-pci,drive=${id}`,
];

/** QEMU's command line: a machine without network, sound, display or USB. Nothing on it is secret. */
export function qemuArguments(plan: MachinePlan, accelerator: Accelerator): string[] {
  const { shape, memoryBytes, cores } = plan;
  const kernel = [
    "console=ttyS0 loglevel=4 panic=-1 8250.nr_uarts=1 box.port=virtio",
    commandLine[accelerator],
  ];
  kernel.push(shape ? `box.owner=${ownerOnDisk(plan.folders)}` : "box.probe");
  return [
    ...["-accel", accelerator === "kvm" ? "kvm" : `tcg,thread=multi,tb-size=${translationMib}`],
    ...[
      "-cpu",
      accelerator === "kvm" ? "host" : "max",
      "-smp",
      String(cores),
      "-m",
      String(memoryBytes / mib),
    ],
    // A file without a name: the host reads it for a snapshot and fills it for a copy, and it ends with the machine.
    ...["-object", `memory-backend-memfd,id=memory,size=${memoryBytes / mib}M,share=on`],
    ...[
      "-M",
      "pc,usb=off,vmport=off,memory-backend=memory",
      "-nodefaults",
      "-no-user-config",
      "-display",
      "none",
      "-no-reboot",
    ],
    ...["-kernel", `${inJail.kit}/kernel`, "-initrd", `${inJail.kit}/initrd`, "-append", kernel.join(" ")],
    ...["-serial", "stdio", "-qmp", `unix:${inJail.sockets}/qmp.sock,server=on,wait=off`],
    ...["-chardev", `socket,id=port,path=${inJail.sockets}/port.sock,server=on,wait=off`],
    ...["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=port"],
    ...(shape ? drive("root", inJail.root, true) : []),
    ...(shape ? drive("tools", inJail.tools, true) : []),
    ...(shape ? drive("box", inJail.box, false) : []),
    ...["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"],
    ...["-device", "virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on"],
    ...["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    ...(plan.from === null ? [] : ["-incoming", "defer"]),
  ];
}
