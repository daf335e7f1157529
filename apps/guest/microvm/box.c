#define _GNU_SOURCE
#include "box.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/random.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bridge.h"
#include "start.h"

#define GROUP "/sys/fs/cgroup/box"
#define SETTINGS_MAX (4 * 1024 * 1024)
/** Memory that programs of the box cannot take, so that the kernel and process 1 go on when they are out of it. */
#define OWN_MEMORY_BYTES (24L * 1024 * 1024)
#define FREEZE_TRIES 1000
#define OOM_WINDOW_MS 1500

static uint8_t *settings;
static size_t settings_length;
static pid_t agent = -1;
static int is_frozen, disk_frozen;
static long oom_before, oom_now;
static uint64_t oom_looked_at;

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static long read_number(const char *path, const char *name) {
  FILE *file = fopen(path, "re");
  if (!file) return -1;
  char line[256];
  long value = -1;
  size_t length = name ? strlen(name) : 0;
  while (fgets(line, sizeof line, file)) {
    if (name && (strncmp(line, name, length) != 0 || (line[length] != ' ' && line[length] != ':'))) continue;
    value = strncmp(line, "max", 3) == 0 ? -1 : strtol(line + (name ? length + 1 : 0), NULL, 10);
    break;
  }
  fclose(file);
  return value;
}

static int write_text(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t count = write(fd, text, strlen(text));
  close(fd);
  return count < 0 ? -1 : 0;
}

int box_add_settings(const uint8_t *bytes, size_t length) {
  if (settings_length + length > SETTINGS_MAX) return -1;
  uint8_t *bigger = realloc(settings, settings_length + length);
  if (!bigger) return -1;
  settings = bigger;
  memcpy(settings + settings_length, bytes, length);
  settings_length += length;
  return 0;
}

void box_set_clock(uint64_t micros) {
  struct timeval now = {.tv_sec = (time_t)(micros / 1000000), .tv_usec = (suseconds_t)(micros % 1000000)};
  settimeofday(&now, NULL);
}

/** Fresh bytes go into the kernel's pool, and every generator of the kernel begins anew with them. */
static const char *add_randomness(const uint8_t *bytes, size_t length) {
  struct {
    struct rand_pool_info info;
    uint8_t bytes[512];
  } pool;
  if (length < 32 || length > sizeof pool.bytes) return "the randomness given is too short or too long";
  pool.info.entropy_count = (int)length * 8;
  pool.info.buf_size = (int)length;
  memcpy(pool.info.buf, bytes, length);
  int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
  if (fd < 0) return "the kernel's generator cannot be opened";
  int failed = ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0;
  close(fd);
  memset(&pool, 0, sizeof pool);
  return failed ? "the kernel's generator did not take fresh randomness" : NULL;
}

/** @param name "r" (root's, read-only to the box) or "u" (the box's own), then the path in the box */
static const char *write_file(const char *name, const uint8_t *bytes, size_t length) {
  char path[512], fresh[520];
  snprintf(path, sizeof path, BOX_ROOT "%s", name + 1);
  snprintf(fresh, sizeof fresh, "%s.new", path);
  int is_own = name[0] == 'u';
  unlink(fresh);
  int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, is_own ? 0600 : 0644);
  if (fd < 0) return "a file of the settings cannot be written";
  int failed = write(fd, bytes, length) != (ssize_t)length || (is_own && fchown(fd, INSIDE_UID, INSIDE_UID) < 0);
  close(fd);
  return failed || rename(fresh, path) < 0 ? "a file of the settings cannot be written" : NULL;
}

/** Settings are a row of: length of the name u32, length of the value u32, name, value. */
static const char *apply(void) {
  static char limit[32];
  limit[0] = 0;
  for (size_t at = 0; at + 8 <= settings_length;) {
    uint32_t name_length = read_u32(settings + at), length = read_u32(settings + at + 4);
    char name[256];
    if (name_length >= sizeof name || settings_length - at - 8 < (size_t)name_length + length)
      return "the settings are not whole";
    memcpy(name, settings + at + 8, name_length);
    name[name_length] = 0;
    const uint8_t *value = settings + at + 8 + name_length;
    at += 8 + (size_t)name_length + length;
    const char *failure = NULL;
    if (strcmp(name, "clock") == 0 && length == 8) box_set_clock(read_u64(value));
    else if (strcmp(name, "randomness") == 0) failure = add_randomness(value, length);
    else if (strcmp(name, "hostname") == 0) sethostname((const char *)value, length);
    else if (strcmp(name, "processes") == 0) snprintf(limit, sizeof limit, "%.*s", (int)length, value);
    else if ((name[0] == 'r' || name[0] == 'u') && name[1] == '/') failure = write_file(name, value, length);
    else failure = "a setting is not known to this guest image";
    if (failure) return failure;
  }
  if (limit[0] && write_text(GROUP "/pids.max", limit) < 0) return "the process limit cannot be set";
  return NULL;
}

static const char *make_group(void) {
  mkdir("/sys/fs/cgroup", 0755);
  if (write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids") < 0) return "memory and processes cannot be limited";
  if (mkdir(GROUP, 0755) < 0 && errno != EEXIST) return "the control group cannot be made";
  struct sysinfo info;
  sysinfo(&info);
  char text[32];
  snprintf(text, sizeof text, "%ld", (long)info.totalram * (long)info.mem_unit - OWN_MEMORY_BYTES);
  if (write_text(GROUP "/memory.max", text) < 0) return "the memory limit cannot be set";
  return NULL;
}

const char *box_setup(void) {
  int is_running = agent > 0;
  const char *failure = is_running ? NULL : make_group();
  if (!failure) failure = apply();
  memset(settings, 0, settings_length);
  free(settings);
  settings = NULL;
  settings_length = 0;
  if (failure) return failure;
  if (is_running) return is_frozen ? box_thaw(0) : NULL;
  if (bridge_listen_outbound() < 0) return "the box's way out cannot be opened";
  oom_before = oom_now = read_number(GROUP "/memory.events", "oom_kill");
  agent = start_agent(GROUP "/cgroup.procs");
  return agent < 0 ? "the agent cannot be started" : NULL;
}

static const char *freeze_programs(int wanted) {
  if (write_text(GROUP "/cgroup.freeze", wanted ? "1" : "0") < 0) return "the programs cannot be frozen";
  for (int tries = 0; tries < FREEZE_TRIES; tries++) {
    if (read_number(GROUP "/cgroup.events", "frozen") == wanted) return NULL;
    usleep(5000);
  }
  return wanted ? "the programs did not stop" : "the programs did not go on";
}

static int freeze_disk(unsigned long request) {
  int fd = open(BOX_DISK, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int result = fd < 0 ? -1 : ioctl(fd, request, 0);
  if (fd >= 0) close(fd);
  return result;
}

const char *box_freeze(void) {
  const char *failure = is_frozen ? NULL : freeze_programs(1);
  if (failure) {
    freeze_programs(0);
    return failure;
  }
  is_frozen = 1;
  if (!disk_frozen && freeze_disk(FIFREEZE) < 0 && errno != EBUSY) {
    freeze_programs(0);
    is_frozen = 0;
    return "the disk could not be brought to rest";
  }
  disk_frozen = 1;
  return NULL;
}

const char *box_thaw(uint64_t micros) {
  if (micros > 0) box_set_clock(micros);
  if (disk_frozen && freeze_disk(FITHAW) < 0 && errno != EINVAL) return "the disk does not go on";
  disk_frozen = 0;
  const char *failure = is_frozen ? freeze_programs(0) : NULL;
  if (!failure) is_frozen = 0;
  return failure;
}

void box_stats(char *text, size_t room) {
  struct statvfs disk = {0};
  statvfs(BOX_DISK, &disk);
  struct timeval now;
  gettimeofday(&now, NULL);
  snprintf(text, room,
           "memoryBytes=%ld memoryPeakBytes=%ld memoryLimitBytes=%ld processes=%ld oomKills=%ld diskBytes=%llu "
           "clockMicros=%lld freeMemoryBytes=%ld",
           read_number(GROUP "/memory.current", NULL), read_number(GROUP "/memory.peak", NULL),
           read_number(GROUP "/memory.max", NULL), read_number(GROUP "/pids.current", NULL),
           read_number(GROUP "/memory.events", "oom_kill"),
           (unsigned long long)(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
           (long long)now.tv_sec * 1000000 + now.tv_usec, read_number("/proc/meminfo", "MemAvailable") * 1024);
}

void power_off(void) {
  sync();
  /* A reset ends either kind of machine: both are told not to start again. */
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}

/** Says on the console, which outlives this machine, why it ends; the host reads the line that begins with @end. */
static void report_end(int status, int by_kernel) {
  int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  printf("@end {\"exit\":%d,\"signal\":%d,\"outOfMemory\":%s,\"oomKills\":%ld}\n",
         WIFEXITED(status) ? WEXITSTATUS(status) : -1, signal, by_kernel ? "true" : "false", oom_now);
  fflush(stdout);
}

void box_tick(void) {
  if (agent > 0 && now_ms() - oom_looked_at > OOM_WINDOW_MS) {
    oom_before = oom_now;
    oom_now = read_number(GROUP "/memory.events", "oom_kill");
    oom_looked_at = now_ms();
  }
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid != agent) continue;
    oom_now = read_number(GROUP "/memory.events", "oom_kill");
    int killed = WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGKILL);
    report_end(status, killed && oom_now > oom_before);
    power_off();
  }
}
