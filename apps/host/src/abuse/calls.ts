/** System calls of x64 that a box tries, as words of Perl: number and arguments. */
export interface ForbiddenCall {
  /** What a box cannot do: the end of the test's name. */
  readonly what: string;
  readonly call: string;
  /** Errors that mean refused. */
  readonly refusals: readonly number[];
}

const notPermitted = 1;
const noSuchNumber = 22;
const notImplemented = 38;
const noSuchFamily = 97;

const refused = (what: string, call: string): ForbiddenCall => ({ what, call, refusals: [notPermitted] });
const family = (what: string, call: string): ForbiddenCall => ({
  ...{ what, call, refusals: [noSuchFamily] },
});
/** A `struct timex` that wishes for a tick of no length. */
const noTick = "pack(q(Ix204),0x4000)";
const adminCapability = "pack(q(II),0x20080522,0),pack(q(I6),0x200000,0x200000,0,0,0,0)";

/** The arguments are such that a call that is let through does no harm, and answers with another error than its refusal. */
export const forbiddenCalls: readonly ForbiddenCall[] = [
  refused("mount a file system", "165,q(none),q(/tmp),q(tmpfs),0,0"),
  refused("unmount one", "166,q(/proc),2"),
  refused("change its root", "155,q(/tmp),q(/tmp)"),
  refused("use the new calls for mounts", "430,q(tmpfs),0"),
  refused("configure a file system", "431,-1,0,0,0,0"),
  refused("attach a file system", "429,-1,q(),-1,q(),0"),
  refused("pick a mounted file system to change it", "433,-100,q(/),0"),
  refused("clone a tree of mounts", "428,-100,q(/usr),1"),
  refused("change the flags of its mounts", "442,-100,q(/tmp),0,pack(q(x32)),32"),
  refused("make a user namespace by unshare", "272,0x10000000"),
  refused("make a mount namespace", "272,0x20000"),
  refused("make a network namespace", "272,0x40000000"),
  refused("make a process namespace", "272,0x20000000"),
  refused("make a control-group namespace", "272,0x2000000"),
  refused("make a time namespace", "272,0x80"),
  refused("make a user namespace by clone", "56,0x10000011,0,0,0,0"),
  {
    ...refused("make one by clone3, whose flags no filter sees", "435,0,0"),
    refusals: [notImplemented],
  },
  refused("enter a namespace", "308,0,0x40000000"),
  refused("load a BPF program", "321,0,0,0"),
  refused("use keyrings", "250,0,-3,0"),
  refused("add a key", "248,q(user),q(name),q(x),1,-3"),
  refused("catch page faults of the kernel", "323,0"),
  refused("set up io_uring", "425,1,0"),
  refused("enter io_uring", "426,-1,0,0,0,0,0"),
  refused("measure the machine's performance counters", "298,0,0,-1,-1,0"),
  refused("load a module", "175,0,0,q()"),
  refused("load a module from a file", "313,-1,q(),0"),
  refused("unload a module", "176,q(none),0"),
  refused("start another kernel", "246,0,17,0,0"),
  refused("start another kernel from a file", "320,-1,-1,0,q(),0xff"),
  refused("restart the machine", "169,0xfee1dead,672274793,0x7777,0"),
  refused("set the clock", "227,0,q(aaaaaaaaaaaaaaaa)"),
  refused("set the time of day", "164,q(aaaaaaaaaaaaaaaa),0"),
  refused("bend the clock", `159,${noTick}`),
  refused("bend a clock by its number", `305,0,${noTick}`),
  refused("read the kernel's log", "103,3,0,0"),
  refused("switch on swap", "167,q(/tmp/none),0"),
  refused("switch off swap", "168,q(/tmp/none)"),
  refused("open a file by its handle, past every folder", "304,-100,pack(q(Ii),0,0),0"),
  refused("watch the whole file system", "300,0,0"),
  refused("push input into a terminal", "16,0,0x5412,q()"),
  refused("steer the machine's console", "16,0,0x541c,q()"),
  refused("hang up the machine's terminal", "153"),
  refused("get raw ports", "172,3"),
  refused("get one raw port", "173,0x80,1,1"),
  refused("account every process", "163,0"),
  refused("change its root folder without a namespace", "161,q(/tmp)"),
  refused("make a device node", "133,q(disk),0x6180,0xfe00"),
  { ...refused("become root", "117,0,0,0"), refusals: [notPermitted, noSuchNumber] },
  refused("join the groups of root", "116,1,pack(q(I),0)"),
  refused("give itself a capability", `126,${adminCapability}`),
  refused("rename the machine", "170,q(owned),5"),
  refused("rename the machine's domain", "171,q(owned),5"),
  refused("put its reads and writes before all others'", "251,1,0,0x2000"),
  family("talk to whoever runs the machine as a virtual one", "41,40,1,0"),
  family("use the kernel's ciphers", "41,38,5,0"),
  family("capture packets", "41,17,3,768"),
  family("use the key interface of IPsec", "41,15,3,2"),
  family("send frames past the network's layers", "41,44,3,0"),
  family("use the bus of cars", "41,29,3,1"),
  family("use cluster sockets", "41,30,1,0"),
  refused("open a raw socket", "41,2,3,255"),
  refused("open a raw socket of IPv6", "41,10,3,255"),
];

/** Prints the error that the call ends with; 0 for none. */
export const perlOf = ({ call }: ForbiddenCall): string =>
  `perl -e 'my @a = (${call}); my $n = shift @a; $!=0; syscall($n, @a); print 0+$!' 2>&1`;
