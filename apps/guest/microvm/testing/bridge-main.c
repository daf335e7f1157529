/* The bridge as an ordinary process: usage: bridge PORT_SOCKET GUEST_SOCKET OUTBOUND_SOCKET. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../bridge.h"

static void accept_host(int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) bridge_set_port(fd);
}

static void control(const struct frame *frame) {
  if (frame->type == FRAME_STATS) bridge_send(FRAME_REPLY, frame->id, "ok figures", 10);
  if (frame->type == FRAME_FREEZE) bridge_send(FRAME_REPLY, frame->id, "error cannot", 12);
}

static void tick(void) {
  if (getppid() == 1) _exit(0);
}

int main(int count, char **values) {
  static const struct bridge_handlers handlers = {control, tick};
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (count != 4) return 2;
  signal(SIGPIPE, SIG_IGN);
  snprintf(address.sun_path, sizeof address.sun_path, "%s", values[1]);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bridge_prepare(values[2], values[3], getuid(), &handlers);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4) < 0) return 3;
  if (bridge_listen_outbound() < 0) return 4;
  bridge_set_port_closes(1);
  bridge_watch(listener, accept_host);
  puts("ready");
  fflush(stdout);
  bridge_run();
}
