# Bounds how many terminals a box may open: the kernel's table of them is one for the whole machine.
# Arguments: process 1 of the box, number of terminals, numbers of setns and mount on this machine.
# Nothing is started after the box's namespace was entered, so no program of the box can run here.
use strict;
use warnings;

my ($pid, $most, $setns, $mount) = @ARGV;
my ($folder, $kind) = ("/dev/pts", "devpts");
my $options = "ptmxmode=0666,mode=620,max=$most";
my ($new_mounts, $remount_nosuid_noexec) = (0x20000, 0x2a);
my $machines = (stat $folder)[0] // -1;
open(my $namespace, "<", "/proc/$pid/ns/mnt") or die "the box is gone: $!\n";
# Until its mounts are made, the box's folder is the machine's, or none.
for (1 .. 5000) {
  syscall($setns, fileno $namespace, $new_mounts) == 0 or die "setns: $!\n";
  my $boxes = (stat $folder)[0] // -1;
  my $above = (stat "/dev")[0] // -1;
  if ($boxes != -1 && $boxes != $machines && $boxes != $above) {
    syscall($mount, $kind, $folder, $kind, $remount_nosuid_noexec, $options) == 0 or die "mount: $!\n";
    exit 0;
  }
  select undef, undef, undef, 0.002;
}
die "the box got no terminals\n";
