/* Carries many connections over one stream: unix sockets in the box on one side, frames on the other. */
#ifndef BRIDGE_H
#define BRIDGE_H

#include <stdint.h>

#include "frames.h"

struct bridge_handlers {
  /** A frame that is no stream's: FRAME_PART, SETUP, FREEZE, THAW, STATS, CLOCK. */
  void (*control)(const struct frame *frame);
  /** At least every half second. */
  void (*tick)(void);
};

/**
 * @param outbound_path where programs of the box dial out: a unix socket that is listened on
 * @param guest_path    unix socket of the agent
 * @param owner         uid and gid that the socket for programs belongs to
 */
void bridge_prepare(const char *guest_path, const char *outbound_path, uint32_t owner,
                    const struct bridge_handlers *handlers);

/** Listens for the box's way out; a socket that is there is replaced. */
int bridge_listen_outbound(void);

/** Watches `fd`; `on_ready` is called when it can be read or was closed. */
void bridge_watch(int fd, void (*on_ready)(int fd));

/** The stream to the host: a character device or socket, non-blocking. Ends the session before it. */
void bridge_set_port(int fd);

/** Whether the port is a connection that ends, in contrast to a device that is always there. */
void bridge_set_port_closes(int closes);

void bridge_send(uint8_t type, uint32_t id, const void *payload, uint32_t length);

/** Never returns. */
void bridge_run(void) __attribute__((noreturn));

#endif
