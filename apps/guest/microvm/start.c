#define _GNU_SOURCE
#include "start.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "box.h"

static void die(const char *what) {
  printf("the agent cannot start: %s: %s\n", what, strerror(errno));
  fflush(stdout);
  _exit(126);
}

/** The box's programs are an ordinary user who can never become more. */
static void give_up_rights(void) {
  for (int capability = 0; capability < 64; capability++)
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) break;
  if (setgroups(0, NULL) < 0 || setresgid(INSIDE_UID, INSIDE_UID, INSIDE_UID) < 0) die("groups");
  if (setresuid(INSIDE_UID, INSIDE_UID, INSIDE_UID) < 0) die("user");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) die("no new privileges");
}

static void become_agent(void) {
  static char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/home/user",
                                      "USER=user", "LANG=C.UTF-8", NULL};
  static char *const command[] = {"/opt/node/bin/node", "/opt/agent/agent.mjs", NULL};
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  give_up_rights();
  int input = open("/dev/null", O_RDONLY);
  if (input < 0 || dup2(input, 0) < 0 || chdir("/workspace") < 0) die("workspace");
  execve(command[0], command, environment);
  die(command[0]);
}

/** Process 1 of the box: collects orphans and ends with the agent. */
static void be_first_process(void) {
  /* A mount of its own shows the box its own processes only. */
  if (mount("proc", BOX_ROOT "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) die("proc");
  if (chroot(BOX_ROOT) < 0 || chdir("/") < 0) die("root");
  pid_t agent = fork();
  if (agent < 0) die("fork");
  if (agent == 0) {
    setsid();
    become_agent();
  }
  for (;;) {
    int status;
    pid_t pid = wait(&status);
    if (pid < 0 && errno != EINTR) _exit(125);
    if (pid == agent) _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
  }
}

pid_t start_agent(const char *group_procs) {
  int start[2];
  if (pipe2(start, O_CLOEXEC) < 0) return -1;
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | SIGCHLD, NULL, NULL, NULL, 0);
  if (pid == 0) {
    char byte;
    close(start[1]);
    if (read(start[0], &byte, 1) != 1) _exit(125);
    be_first_process();
  }
  close(start[0]);
  if (pid > 0) {
    FILE *group = fopen(group_procs, "we");
    int joined = group && fprintf(group, "%d", pid) > 0;
    if (group && fclose(group) != 0) joined = 0;
    if (!joined || write(start[1], "x", 1) != 1) {
      kill(pid, SIGKILL);
      pid = -1;
    }
  }
  close(start[1]);
  return pid;
}
