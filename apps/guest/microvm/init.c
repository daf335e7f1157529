/*
 * Process 1 of a microVM. It mounts the disks, waits for the host on the one stream there is, and then
 * makes the box as the host says. Its parts: frames.c, bridge.c (the stream), box.c, start.c (the box).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "box.h"
#include "bridge.h"
#include "mapped.h"

#define VSOCK_PORT 1024
#define DEVICE_TRIES 1000

static void fail(const char *what) {
  printf("@end {\"boot\":\"%s: %s\"}\n", what, strerror(errno));
  fflush(stdout);
  power_off();
}

static void mount_or_fail(const char *from, const char *to, const char *type, unsigned long flags, const char *options) {
  if (mount(from, to, type, flags, options) < 0) fail(to);
}

static int has_word(const char *text, const char *word) {
  size_t length = strlen(word);
  for (const char *at = text; (at = strstr(at, word)); at += length)
    if ((at == text || at[-1] == ' ') && (at[length] == 0 || at[length] == ' ' || at[length] == '\n')) return 1;
  return 0;
}

/** Modules of the list, in its order. One that finds no device is no failure. */
static void load_modules(const char *list) {
  FILE *file = fopen(list, "re");
  if (!file) fail(list);
  char name[128], path[160];
  while (fscanf(file, "%127s", name) == 1) {
    snprintf(path, sizeof path, "/modules/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)) printf("module %s: %s\n", name, strerror(errno));
    if (fd >= 0) close(fd);
  }
  fclose(file);
}

static void wait_for(const char *path) {
  for (int tries = 0; access(path, F_OK) < 0; tries++) {
    if (tries == DEVICE_TRIES) fail(path);
    usleep(5000);
  }
}

static void make_folder(const char *path, mode_t mode, uid_t owner) {
  if (mkdir(path, mode) < 0 && errno != EEXIST) fail(path);
  if (chmod(path, mode) < 0 || chown(path, owner, owner) < 0) fail(path);
}

static void bind_to(const char *from, const char *to, unsigned long flags) {
  mount_or_fail(from, to, NULL, MS_BIND, NULL);
  mount_or_fail(NULL, to, NULL, MS_REMOUNT | MS_BIND | MS_NODEV | MS_NOSUID | flags, NULL);
}

/** The template below, what the host says about this box above it; only root writes there. */
static void mount_root(void) {
  const unsigned long quiet = MS_NOSUID | MS_NODEV;
  for (const char *const *path = (const char *const[]){"/template", "/tools", BOX_DISK, "/layer", BOX_ROOT, NULL}; *path; path++)
    mkdir(*path, 0755);
  mount_or_fail("/dev/vda", "/template", "ext4", MS_RDONLY, NULL);
  mount_or_fail("/dev/vdb", "/tools", "ext4", MS_RDONLY | quiet, NULL);
  mount_or_fail("/dev/vdc", BOX_DISK, "ext4", MS_NOATIME | quiet, "discard");
  mount_or_fail("layer", "/layer", "tmpfs", 0, "size=16m,mode=0755");
  make_folder("/layer/upper", 0755, 0);
  make_folder("/layer/work", 0755, 0);
  mount_or_fail("root", BOX_ROOT, "overlay", MS_NODEV, "lowerdir=/template,upperdir=/layer/upper,workdir=/layer/work");
}

static void mount_devices(void) {
  mount_or_fail("dev", BOX_ROOT "/dev", "tmpfs", MS_NOSUID, "size=64k,mode=0755");
  static const struct {
    const char *name;
    int major, minor;
  } devices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
  char path[64];
  for (size_t at = 0; at < sizeof devices / sizeof *devices; at++) {
    snprintf(path, sizeof path, BOX_ROOT "/dev/%s", devices[at].name);
    if (mknod(path, S_IFCHR | 0666, makedev(devices[at].major, devices[at].minor)) < 0 || chmod(path, 0666) < 0) fail(path);
  }
  make_folder(BOX_ROOT "/dev/pts", 0755, 0);
  make_folder(BOX_ROOT "/dev/shm", 01777, 0);
  mount_or_fail("pts", BOX_ROOT "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620");
  mount_or_fail("shm", BOX_ROOT "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "size=50%");
  if (symlink("pts/ptmx", BOX_ROOT "/dev/ptmx") < 0) fail("ptmx");
  if (symlink("/proc/self/fd", BOX_ROOT "/dev/fd") < 0) fail("fd");
  if (symlink("/proc/self/fd/0", BOX_ROOT "/dev/stdin") < 0) fail("stdin");
  if (symlink("/proc/self/fd/1", BOX_ROOT "/dev/stdout") < 0) fail("stdout");
  if (symlink("/proc/self/fd/2", BOX_ROOT "/dev/stderr") < 0) fail("stderr");
}

/** @param owner uid of the box's files on its disk */
static void furnish(uid_t owner) {
  static const char *const folders[] = {"/proc", "/dev", "/tmp", "/run", "/opt", "/opt/agent", "/home", "/home/user",
                                        "/workspace", "/var/log/services", "/var/tmp", "/opt/node", "/root", NULL};
  char path[64];
  for (int at = 0; folders[at]; at++) {
    snprintf(path, sizeof path, BOX_ROOT "%s", folders[at]);
    mkdir(path, 0755);
  }
  mount_devices();
  bind_to("/tools/node", BOX_ROOT "/opt/node", MS_RDONLY);
  bind_to("/tools/agent", BOX_ROOT "/opt/agent", MS_RDONLY);
  mkdir("/mapped", 0755);
  if (mount_mapped(BOX_DISK, "/mapped", owner, INSIDE_UID) < 0) fail("/mapped");
  bind_to("/mapped/workspace", BOX_ROOT "/workspace", MS_NOATIME);
  bind_to("/mapped/home", BOX_ROOT "/home/user", MS_NOATIME);
  bind_to("/mapped/logs", BOX_ROOT "/var/log/services", MS_NOATIME);
  mount_or_fail("tmp", BOX_ROOT "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=50%,mode=1777");
  mount_or_fail("tmp", BOX_ROOT "/var/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=1777");
  mount_or_fail("run", BOX_ROOT "/run", "tmpfs", MS_NOSUID | MS_NODEV, "size=16m,mode=0755");
  make_folder(BOX_ROOT "/run/etc", 0755, 0);
  make_folder(BOX_ROOT "/run/agent", 0700, INSIDE_UID);
}

static void raise_loopback(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ifreq request = {.ifr_name = "lo"};
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0) fail("loopback");
  close(fd);
}

static void accept_host(int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) bridge_set_port(fd);
}

/** Its name begins with the number of its controller among all virtio devices. */
static const char *port_device(void) {
  static glob_t found;
  for (int tries = 0; glob("/dev/vport*p1", 0, NULL, &found) != 0; tries++) {
    if (tries == DEVICE_TRIES) fail("/dev/vport*p1");
    usleep(5000);
  }
  return found.gl_pathv[0];
}

static void open_port(int over_vsock) {
  if (!over_vsock) {
    int fd = open(port_device(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) fail("the port to the host");
    bridge_set_port(fd);
    return;
  }
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_port = VSOCK_PORT, .svm_cid = VMADDR_CID_ANY};
  int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4) < 0)
    fail("the port to the host");
  bridge_set_port_closes(1);
  bridge_watch(listener, accept_host);
}

static void reply(uint32_t id, const char *failure, const char *text) {
  char line[1024];
  int length = snprintf(line, sizeof line, "%s %s", failure ? "error" : "ok", failure ? failure : text);
  bridge_send(FRAME_REPLY, id, line, (uint32_t)length);
}

static void control(const struct frame *frame) {
  char text[768] = "";
  struct utsname kernel;
  switch (frame->type) {
  case FRAME_PART:
    if (box_add_settings(frame->payload, frame->length) < 0) reply(frame->id, "the settings are too long", NULL);
    break;
  case FRAME_SETUP:
    uname(&kernel);
    snprintf(text, sizeof text, "%s %s", kernel.sysname, kernel.release);
    reply(frame->id, box_setup(), text);
    break;
  case FRAME_FREEZE: reply(frame->id, box_freeze(), ""); break;
  case FRAME_THAW: reply(frame->id, frame->length == 8 ? box_thaw(read_u64(frame->payload)) : "no time was given", ""); break;
  case FRAME_CLOCK:
    if (frame->length == 8) box_set_clock(read_u64(frame->payload));
    break;
  case FRAME_STATS:
    box_stats(text, sizeof text);
    reply(frame->id, NULL, text);
    break;
  }
}

int main(void) {
  static const struct bridge_handlers handlers = {control, box_tick};
  char line[2048] = "";
  mount("dev", "/dev", "devtmpfs", 0, NULL);
  mount("proc", "/proc", "proc", 0, NULL);
  mount("sys", "/sys", "sysfs", 0, NULL);
  mount("group", "/sys/fs/cgroup", "cgroup2", 0, NULL);
  signal(SIGPIPE, SIG_IGN);
  int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, line, sizeof line - 1) < 0) fail("/proc/cmdline");
  close(fd);
  int over_vsock = has_word(line, "box.port=vsock");
  load_modules(over_vsock ? "/modules/firecracker" : "/modules/qemu");
  raise_loopback();
  bridge_prepare(BOX_ROOT "/run/agent/guest.sock", BOX_ROOT "/run/agent/outbound.sock", INSIDE_UID, &handlers);
  if (!has_word(line, "box.probe")) {
    wait_for("/dev/vdc");
    const char *owner = strstr(line, "box.owner=");
    mount_root();
    furnish(owner ? (uid_t)strtoul(owner + strlen("box.owner="), NULL, 10) : INSIDE_UID);
  }
  open_port(over_vsock);
  bridge_run();
}
