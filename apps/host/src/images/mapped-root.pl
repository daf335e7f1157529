#!/usr/bin/perl
# Runs a command as the root of a user namespace over a writable copy of a read-only tree.
#
#   unshare --mount --propagation private perl mapped-root.pl FIRST_ID LOWER LAYER MERGED -- COMMAND ...
#
# The tree's owner 0 is FIRST_ID to the machine, an id without rights, and so on for 65536 ids; on disk,
# changes are stored with the tree's own ids. It takes calls of the kernel (5.19 or later) that neither
# Node nor this release's mount(8) has; every machine that can build images has Perl.
# What is mounted here ends with the command: the caller gives it a mount namespace of its own.
use strict;
use warnings;

my ($first, $lower, $layer, $merged) = splice(@ARGV, 0, 4);
die "no command\n" unless defined $merged && shift(@ARGV) eq '--' && @ARGV;

# Numbers that x86_64 and aarch64 share, except where told apart.
my $machine = (split ' ', `uname -m`)[0];
my ($sys_open_tree, $sys_move_mount, $sys_mount_setattr) = (428, 429, 442);
my ($sys_unshare, $sys_setns, $sys_setgroups) =
  $machine eq 'x86_64' ? (272, 308, 116) : $machine eq 'aarch64' ? (97, 268, 159) : die "unknown machine\n";
my ($new_user, $here, $clone_tree, $empty_path, $from_empty) = (0x10000000, -100, 1, 0x1000, 4);
my ($map_ids, $new_mounts) = (0x00100000, 0x00020000);

# A process that holds the user namespace until ours is inside.
pipe(my $born, my $tell) or die "pipe: $!\n";
pipe(my $hold, my $release) or die "pipe: $!\n";
my $holder = fork() // die "fork: $!\n";
if ($holder == 0) {
  close $release;
  syscall($sys_unshare, $new_user) == 0 or die "no user namespace: $!\n";
  syswrite $tell, '.';
  sysread $hold, my $end, 1;
  exit 0;
}
close $tell;
sysread($born, my $ok, 1) or die "no user namespace\n";
for my $kind ('uid', 'gid') {
  open(my $map, '>', "/proc/$holder/${kind}_map") or die "${kind}_map: $!\n";
  syswrite($map, "0 $first 65536") or die "${kind}_map: $!\n";
}
open(my $namespace, '<', "/proc/$holder/ns/user") or die "user namespace: $!\n";

# Shows `source` at `target` with its owners moved by the namespace's map.
sub mount_mapped {
  my ($source, $target) = @_;
  my $tree = syscall($sys_open_tree, $here, $source, $clone_tree);
  $tree >= 0 or die "open_tree $source: $!\n";
  my $attributes = pack('QQQQ', $map_ids, 0, 0, fileno($namespace));
  my $none = '';
  syscall($sys_mount_setattr, $tree, $none, $empty_path, $attributes, 32) == 0
    or die "this kernel or file system cannot map owners: $!\n";
  syscall($sys_move_mount, $tree, $none, $here, $target, $from_empty) == 0 or die "move_mount: $!\n";
}
mkdir "$layer.$_" for ('lower', 'mapped');
mount_mapped($lower, "$layer.lower");
mount_mapped($layer, "$layer.mapped");
syscall($sys_setns, fileno($namespace), $new_user) == 0 or die "setns: $!\n";
my $no_groups = '';
syscall($sys_setgroups, 0, $no_groups) == 0 or die "setgroups: $!\n";
$( = 0; $) = '0 0'; $< = 0; $> = 0;
($< == 0 && $> == 0 && $( == 0) or die "not root of the namespace\n";

# By the namespace's own root: the machine's has no place in the map, and could store nothing.
syscall($sys_unshare, $new_mounts) == 0 or die "no mount namespace: $!\n";
my $options = "userxattr,lowerdir=$layer.lower,upperdir=$layer.mapped/upper,workdir=$layer.mapped/work";
system('mount', '-t', 'overlay', '-o', $options, 'overlay', $merged) == 0 or die "overlay: it cannot be mounted\n";
exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!\n";
