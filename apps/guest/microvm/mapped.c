#define _GNU_SOURCE
#include "mapped.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int write_map(pid_t pid, const char *name, const char *text) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t count = write(fd, text, strlen(text));
  close(fd);
  return count < 0 ? -1 : 0;
}

/** A user namespace lives as long as a process in it, or a handle on it: a process is needed for a moment only. */
static int map_handle(uid_t owner, uid_t shown) {
  char text[64], path[64];
  /* The first number is the one on the disk. Root stays root. */
  snprintf(text, sizeof text, "0 0 1\n%u %u 1\n", owner, shown);
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, 0);
  if (pid == 0)
    for (;;) pause();
  if (pid < 0) return -1;
  int fd = -1;
  if (write_map(pid, "uid_map", text) == 0 && write_map(pid, "gid_map", text) == 0) {
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
  }
  int reason = errno;
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  errno = reason;
  return fd;
}

int mount_mapped(const char *from, const char *to, uid_t owner, uid_t shown) {
  int tree = open_tree(AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  int map = tree < 0 ? -1 : map_handle(owner, shown);
  struct mount_attr change = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)map};
  int failed = map < 0 || mount_setattr(tree, "", AT_EMPTY_PATH, &change, sizeof change) < 0 ||
               move_mount(tree, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH) < 0;
  int reason = errno;
  if (map >= 0) close(map);
  if (tree >= 0) close(tree);
  errno = reason;
  return failed ? -1 : 0;
}
