#define _GNU_SOURCE
#include "bridge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_STREAMS 512
/** Waiting for the host, in bytes. Above it no socket is read, so that one slow host stops all senders. */
#define OUTPUT_SOFT_MAX (512 * 1024)
#define INPUT_MAX (2 * (FRAME_HEADER + FRAME_PAYLOAD_MAX))
#define CREDIT_STEP (STREAM_WINDOW / 4)
#define TICK_MS 500

struct buffer {
  uint8_t *bytes;
  size_t start, end, room;
};

struct stream {
  uint32_t id; /* 0: free */
  int fd;
  uint32_t interest;
  uint32_t credit;   /* bytes that may still be sent to the host */
  uint32_t consumed; /* bytes taken by the socket and not yet credited */
  int ended_here;    /* the socket sends nothing more; the host knows */
  int ended_there;   /* the host sends nothing more */
  struct buffer pending;
};

struct watched {
  int fd;
  void (*on_ready)(int fd);
};

static struct stream streams[MAX_STREAMS];
static struct watched watches[8];
static struct buffer input, output;
static int poller = -1, port = -1, port_closes, outbound = -1, is_synced, has_stalled;
static uint32_t next_id = 2;
static char guest_path[108], outbound_path[108];
static uint32_t owner_id;
static const struct bridge_handlers *handlers;

/* What epoll hands back: kind in the upper half, index in the lower. */
enum kind { KIND_PORT = 1, KIND_OUTBOUND, KIND_STREAM, KIND_WATCH };
#define TAG(kind, index) ((uint64_t)(kind) << 32 | (uint32_t)(index))

static void put(struct buffer *buffer, const void *bytes, size_t length) {
  if (buffer->start == buffer->end) buffer->start = buffer->end = 0;
  if (buffer->end + length > buffer->room && buffer->start > 0) {
    memmove(buffer->bytes, buffer->bytes + buffer->start, buffer->end - buffer->start);
    buffer->end -= buffer->start;
    buffer->start = 0;
  }
  if (buffer->end + length > buffer->room) {
    size_t room = buffer->room ? buffer->room : 4096;
    while (room < buffer->end + length) room *= 2;
    uint8_t *bigger = realloc(buffer->bytes, room);
    if (!bigger) abort();
    buffer->bytes = bigger;
    buffer->room = room;
  }
  memcpy(buffer->bytes + buffer->end, bytes, length);
  buffer->end += length;
}

static size_t filled(const struct buffer *buffer) { return buffer->end - buffer->start; }

static void drop(struct buffer *buffer) {
  free(buffer->bytes);
  *buffer = (struct buffer){0};
}

static void add(int fd, uint32_t events, uint64_t tag) {
  struct epoll_event event = {.events = events, .data.u64 = tag};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) abort();
}

void bridge_prepare(const char *guest, const char *out, uint32_t owner, const struct bridge_handlers *given) {
  handlers = given;
  poller = epoll_create1(EPOLL_CLOEXEC);
  snprintf(guest_path, sizeof guest_path, "%s", guest);
  snprintf(outbound_path, sizeof outbound_path, "%s", out);
  owner_id = owner;
}

void bridge_watch(int fd, void (*on_ready)(int fd)) {
  for (int at = 0; at < 8; at++) {
    if (watches[at].on_ready) continue;
    watches[at] = (struct watched){fd, on_ready};
    add(fd, EPOLLIN, TAG(KIND_WATCH, at));
    return;
  }
  abort();
}

static struct sockaddr_un address_of(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  return address;
}

int bridge_listen_outbound(void) {
  struct sockaddr_un address = address_of(outbound_path);
  unlink(outbound_path);
  outbound = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (outbound < 0 || bind(outbound, (struct sockaddr *)&address, sizeof address) < 0) return -1;
  if (chown(outbound_path, owner_id, owner_id) < 0 || chmod(outbound_path, 0600) < 0) return -1;
  if (listen(outbound, 256) < 0) return -1;
  add(outbound, EPOLLIN, TAG(KIND_OUTBOUND, 0));
  return 0;
}

/* ---- output to the host ---- */

static int output_is_full(void) { return filled(&output) > OUTPUT_SOFT_MAX; }

static void flush_output(void) {
  while (port >= 0 && filled(&output) > 0) {
    size_t length = filled(&output);
    if (length > 32768) length = 32768;
    ssize_t count = write(port, output.bytes + output.start, length);
    if (count <= 0) return; /* Full, or nobody listens: the port's next event tries again. */
    output.start += (size_t)count;
  }
}

static void queue_frame(uint8_t type, uint32_t id, const void *payload, uint32_t length) {
  uint8_t frame[FRAME_HEADER + FRAME_PAYLOAD_MAX];
  if (length > FRAME_PAYLOAD_MAX) length = FRAME_PAYLOAD_MAX;
  encode_frame(frame, type, id, payload, length);
  put(&output, frame, FRAME_HEADER + length);
}

void bridge_send(uint8_t type, uint32_t id, const void *payload, uint32_t length) {
  if (!is_synced) return;
  queue_frame(type, id, payload, length);
  flush_output();
}

/* ---- streams ---- */

static struct stream *find_stream(uint32_t id) {
  for (int at = 0; at < MAX_STREAMS; at++)
    if (streams[at].id == id) return &streams[at];
  return NULL;
}

static void forget(struct stream *stream) {
  close(stream->fd);
  drop(&stream->pending);
  *stream = (struct stream){0};
}

static void reset(struct stream *stream) {
  bridge_send(FRAME_RESET, stream->id, NULL, 0);
  forget(stream);
}

static void set_interest(struct stream *stream) {
  uint32_t wanted = 0;
  if (!stream->ended_here && stream->credit > 0) {
    if (output_is_full()) has_stalled = 1;
    else wanted |= EPOLLIN;
  }
  if (filled(&stream->pending) > 0) wanted |= EPOLLOUT;
  if (wanted == stream->interest) return;
  struct epoll_event event = {.events = wanted, .data.u64 = TAG(KIND_STREAM, stream - streams)};
  /* A closed socket reports that all the time, so one that nothing is wanted of is taken out. */
  int change = wanted == 0 ? EPOLL_CTL_DEL : stream->interest == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  epoll_ctl(poller, change, stream->fd, &event);
  stream->interest = wanted;
}

/** Once the host has taken enough, sockets are read again. */
static void resume_stalled(void) {
  if (!has_stalled || output_is_full()) return;
  has_stalled = 0;
  for (int at = 0; at < MAX_STREAMS; at++)
    if (streams[at].id) set_interest(&streams[at]);
}

static struct stream *begin(uint32_t id, int fd) {
  struct stream *stream = find_stream(0);
  if (!stream) return NULL;
  *stream = (struct stream){.id = id, .fd = fd, .interest = EPOLLIN, .credit = STREAM_WINDOW};
  add(fd, EPOLLIN, TAG(KIND_STREAM, stream - streams));
  return stream;
}

static int finished(struct stream *stream) {
  if (!stream->ended_here || !stream->ended_there || filled(&stream->pending) > 0) return 0;
  forget(stream);
  return 1;
}

/** To the socket. Returns 0 when the stream is over. */
static int write_pending(struct stream *stream) {
  while (filled(&stream->pending) > 0) {
    ssize_t count = send(stream->fd, stream->pending.bytes + stream->pending.start, filled(&stream->pending),
                         MSG_NOSIGNAL);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (count < 0) {
      reset(stream);
      return 0;
    }
    stream->pending.start += (size_t)count;
    stream->consumed += (uint32_t)count;
  }
  if (stream->consumed >= CREDIT_STEP) {
    uint8_t bytes[4];
    write_u32(bytes, stream->consumed);
    stream->consumed = 0;
    bridge_send(FRAME_CREDIT, stream->id, bytes, sizeof bytes);
  }
  if (filled(&stream->pending) == 0 && stream->ended_there) shutdown(stream->fd, SHUT_WR);
  if (finished(stream)) return 0;
  set_interest(stream);
  return 1;
}

/** From the socket to the host. */
static void read_socket(struct stream *stream) {
  uint8_t bytes[FRAME_PAYLOAD_MAX];
  while (!stream->ended_here && stream->credit > 0 && !output_is_full()) {
    size_t most = stream->credit < sizeof bytes ? stream->credit : sizeof bytes;
    ssize_t count = recv(stream->fd, bytes, most, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (count < 0) {
      reset(stream);
      return;
    }
    if (count == 0) {
      stream->ended_here = 1;
      bridge_send(FRAME_END, stream->id, NULL, 0);
      break;
    }
    stream->credit -= (uint32_t)count;
    bridge_send(FRAME_DATA, stream->id, bytes, (uint32_t)count);
  }
  if (!finished(stream)) set_interest(stream);
}

static void open_from_host(uint32_t id) {
  struct sockaddr_un address = address_of(guest_path);
  int fd = find_stream(id) || id == 0 ? -1 : socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0 || !begin(id, fd)) {
    if (fd >= 0) close(fd);
    bridge_send(FRAME_RESET, id, NULL, 0);
  }
}

static void accept_outbound(void) {
  for (;;) {
    int fd = accept4(outbound, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    uint32_t id = next_id;
    if (!is_synced || !begin(id, fd)) {
      close(fd);
      continue;
    }
    next_id = next_id >= 0xfffffff0u ? 2 : next_id + 2;
    bridge_send(FRAME_OPEN, id, NULL, 0);
  }
}

/* ---- session ---- */

static void end_session(void) {
  for (int at = 0; at < MAX_STREAMS; at++)
    if (streams[at].id) forget(&streams[at]);
  output.start = output.end = 0;
  is_synced = 0;
}

static void handle_stream(const struct frame *frame) {
  struct stream *stream = find_stream(frame->id);
  if (frame->type == FRAME_OPEN) {
    open_from_host(frame->id);
    return;
  }
  if (!stream || frame->id == 0) return; /* Closed here while the frame was on its way. */
  if (frame->type == FRAME_RESET) {
    forget(stream);
  } else if (frame->type == FRAME_CREDIT && frame->length == 4) {
    stream->credit += read_u32(frame->payload);
    set_interest(stream);
  } else if (frame->type == FRAME_END) {
    stream->ended_there = 1;
    write_pending(stream);
  } else if (frame->type == FRAME_DATA) {
    if (filled(&stream->pending) + frame->length > STREAM_WINDOW) {
      reset(stream);
      return;
    }
    put(&stream->pending, frame->payload, frame->length);
    write_pending(stream);
  }
}

static void handle(const struct frame *frame) {
  if (frame->type == FRAME_HELLO) {
    end_session();
    is_synced = 1;
    bridge_send(FRAME_HELLO, 0, frame->payload, frame->length);
  } else if (frame->type >= FRAME_OPEN && frame->type <= FRAME_CREDIT) {
    handle_stream(frame);
  } else {
    handlers->control(frame);
  }
}

/** A broken frame ends the session; what follows is skipped up to the host's next HELLO. */
static void parse_input(void) {
  while (filled(&input) > 0) {
    struct frame frame;
    long length = decode_frame(input.bytes + input.start, filled(&input), &frame);
    if (length == 0) return;
    if (length > 0 && (is_synced || frame.type == FRAME_HELLO)) {
      handle(&frame);
      input.start += (size_t)length;
      continue;
    }
    if (is_synced) end_session();
    input.start += 1;
  }
}

static void port_lost(void) {
  end_session();
  input.start = input.end = 0;
  if (!port_closes) return;
  close(port);
  port = -1;
}

static void port_ready(void) {
  uint8_t bytes[FRAME_PAYLOAD_MAX];
  for (;;) {
    if (port < 0) return;
    ssize_t count = read(port, bytes, sizeof bytes);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (count <= 0) {
      if (is_synced || port_closes) port_lost();
      return;
    }
    put(&input, bytes, (size_t)count);
    parse_input();
  }
  flush_output();
  resume_stalled();
}

void bridge_set_port_closes(int closes) { port_closes = closes; }

void bridge_set_port(int fd) {
  if (port >= 0) port_lost();
  port = fd;
  /* Edge-triggered: a device without a listener reports a hang-up all the time. */
  add(fd, EPOLLIN | EPOLLOUT | EPOLLET, TAG(KIND_PORT, 0));
  port_ready();
}

static void stream_ready(struct stream *stream, uint32_t events) {
  if (!stream->id) return;
  if (events & EPOLLOUT && !write_pending(stream)) return;
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
    if (events & (EPOLLHUP | EPOLLERR) && stream->ended_here) {
      reset(stream);
      return;
    }
    read_socket(stream);
  }
}

void bridge_run(void) {
  for (;;) {
    struct epoll_event events[64];
    int count = epoll_wait(poller, events, 64, TICK_MS);
    for (int at = 0; at < count; at++) {
      uint32_t index = (uint32_t)events[at].data.u64;
      switch (events[at].data.u64 >> 32) {
      case KIND_PORT: port_ready(); break;
      case KIND_OUTBOUND: accept_outbound(); break;
      case KIND_STREAM: stream_ready(&streams[index], events[at].events); break;
      case KIND_WATCH: watches[index].on_ready(watches[index].fd); break;
      }
    }
    if (count == 0) port_ready();
    resume_stalled();
    handlers->tick();
  }
}
