/**
 * System-call filter of a box, as classic BPF. It denies what an app never needs and a kernel bug
 * often does: mounts, namespaces, keyrings, modules, kexec, raw performance counters.
 *
 * @see https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html
 */
export type Architecture = "x64" | "arm64";

interface Numbers {
  readonly audit: number;
  readonly clone: number;
  readonly clone3: number;
  readonly ioctl: number;
  readonly socket: number;
  readonly denied: readonly number[];
}

/** From asm/unistd_64.h and asm-generic/unistd.h; order: see `deniedNames`. */
const numbers: Record<Architecture, Numbers> = {
  x64: {
    audit: 0xc000003e,
    clone: 56,
    clone3: 435,
    ioctl: 16,
    socket: 41,
    denied: [
      165, 166, 155, 250, 248, 249, 321, 298, 323, 246, 320, 175, 313, 176, 304, 303, 272, 308, 172, 173, 167,
      168, 169, 179, 443, 442, 430, 431, 432, 433, 428, 429, 163, 103, 164, 227, 180, 212, 153, 154, 425, 426,
      427, 300,
    ],
  },
  arm64: {
    audit: 0xc00000b7,
    clone: 220,
    clone3: 435,
    ioctl: 29,
    socket: 198,
    denied: [
      40, 39, 41, 219, 217, 218, 280, 241, 282, 104, 294, 105, 273, 106, 265, 264, 97, 268, 224, 225, 142, 60,
      443, 442, 430, 431, 432, 433, 428, 429, 89, 116, 170, 112, 42, 18, 58, 425, 426, 427, 262,
    ],
  },
};

/** What `denied` holds, in its order; x64 alone also has iopl, ioperm (after setns) and modify_ldt (after vhangup). */
export const deniedNames =
  "mount umount2 pivot_root keyctl add_key request_key bpf perf_event_open userfaultfd kexec_load kexec_file_load init_module finit_module delete_module open_by_handle_at name_to_handle_at unshare setns swapon swapoff reboot quotactl quotactl_fd mount_setattr fsopen fsconfig fsmount fspick open_tree move_mount acct syslog settimeofday clock_settime nfsservctl lookup_dcookie vhangup io_uring_setup io_uring_enter io_uring_register fanotify_init".split(
    " ",
  );

const loadWord = 0x20;
const jumpEqual = 0x15;
const jumpSet = 0x45;
const jumpAtLeast = 0x35;
const answer = 0x06;
const allow = 0x7fff0000;
const errno = (code: number) => 0x00050000 | code;
const notPermitted = errno(1);
const notImplemented = errno(38);
const noSuchFamily = errno(97);
/**
 * Unix, IPv4, IPv6, netlink. Of the others, some know no network namespace (vsock reaches whoever runs
 * the machine as a virtual one), some have had more holes than uses.
 */
const socketFamilies = [1, 2, 10, 16];
/** Offsets in `struct seccomp_data`; arguments are 64 bits, low word first on both machines. */
const at = { number: 0, audit: 4, firstArgument: 16, secondArgument: 24 };
const newUserNamespace = 0x10000000;
const pushIntoTerminal = 0x5412;
const consoleControl = 0x541c;
const x32Bit = 0x40000000;

type Instruction = readonly [code: number, yes: number, no: number, value: number];

function program(architecture: Architecture): Instruction[] {
  const machine = numbers[architecture];
  const list: Instruction[] = [
    [loadWord, 0, 0, at.audit],
    [jumpEqual, 1, 0, machine.audit],
    // Another machine's numbers (32-bit calls) would slip past every rule below.
    [answer, 0, 0, notPermitted],
    [loadWord, 0, 0, at.number],
  ];
  if (architecture === "x64") list.push([jumpAtLeast, 0, 1, x32Bit], [answer, 0, 0, notImplemented]);
  for (const number of machine.denied) {
    list.push([jumpEqual, 0, 1, number], [answer, 0, 0, notPermitted]);
  }
  // Its flags lie behind a pointer that a filter cannot read; libc falls back to clone.
  list.push([jumpEqual, 0, 1, machine.clone3], [answer, 0, 0, notImplemented]);
  list.push([jumpEqual, 0, 4, machine.clone], [loadWord, 0, 0, at.firstArgument]);
  list.push([jumpSet, 0, 1, newUserNamespace], [answer, 0, 0, notPermitted], [answer, 0, 0, allow]);
  list.push([jumpEqual, 0, 5, machine.ioctl], [loadWord, 0, 0, at.secondArgument]);
  list.push([jumpEqual, 1, 0, pushIntoTerminal], [jumpEqual, 0, 1, consoleControl]);
  list.push([answer, 0, 0, notPermitted], [answer, 0, 0, allow]);
  list.push([jumpEqual, 0, socketFamilies.length + 2, machine.socket], [loadWord, 0, 0, at.firstArgument]);
  socketFamilies.forEach((family, index) => {
    list.push([jumpEqual, socketFamilies.length - index, 0, family]);
  });
  list.push([answer, 0, 0, noSuchFamily], [answer, 0, 0, allow]);
  return list;
}

/** @returns an array of `struct sock_filter`, or `null` for a machine whose numbers are not known here */
export function seccompFilter(architecture: string): Buffer | null {
  if (architecture !== "x64" && architecture !== "arm64") return null;
  const instructions = program(architecture);
  const bytes = Buffer.alloc(instructions.length * 8);
  instructions.forEach(([code, yes, no, value], index) => {
    bytes.writeUInt16LE(code, index * 8);
    bytes.writeUInt8(yes, index * 8 + 2);
    bytes.writeUInt8(no, index * 8 + 3);
    bytes.writeUInt32LE(value >>> 0, index * 8 + 4);
  });
  return bytes;
}
