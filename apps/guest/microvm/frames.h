/*
 * Frames on the one byte stream between a microVM's first process and its host. The other end is
 * apps/host/src/drivers/microvm/frames.ts; docs/decisions/0011-microvms.md says why.
 *
 * A frame is a header of 16 bytes, little-endian, and at most FRAME_PAYLOAD_MAX bytes:
 *   magic u16, type u8, zero u8, id u32, length u32, crc u32 (CRC-32 of the 12 bytes before it and the payload)
 */
#ifndef FRAMES_H
#define FRAMES_H

#include <stddef.h>
#include <stdint.h>

#define FRAME_MAGIC 0xb0c5u
#define FRAME_HEADER 16
#define FRAME_PAYLOAD_MAX 16384
/** Bytes that one side may send in a stream before the other has taken any. */
#define STREAM_WINDOW (256 * 1024)

enum frame_type {
  FRAME_HELLO = 1, /* nonce of 16 bytes; the host begins a session, the guest answers with the same */
  FRAME_OPEN = 2,  /* a new stream; odd ids are the host's (to the agent), even ones the guest's (outbound) */
  FRAME_DATA = 3,
  FRAME_END = 4,    /* nothing more will be sent in this direction */
  FRAME_RESET = 5,  /* the stream is over in both directions */
  FRAME_CREDIT = 6, /* u32: so many bytes more may be sent */
  FRAME_PART = 7,   /* a piece of the settings that the next FRAME_SETUP applies */
  FRAME_SETUP = 8,  /* apply the settings; starts the box, or lets a restored one go on */
  FRAME_FREEZE = 9,
  FRAME_THAW = 10, /* u64: microseconds since the epoch */
  FRAME_STATS = 11,
  FRAME_REPLY = 12, /* to SETUP, FREEZE, THAW, STATS of the same id: "ok TEXT" or "error TEXT" */
  FRAME_CLOCK = 13  /* u64: microseconds since the epoch; no reply */
};

struct frame {
  uint8_t type;
  uint32_t id;
  uint32_t length;
  const uint8_t *payload;
};

uint32_t read_u32(const uint8_t *at);
uint64_t read_u64(const uint8_t *at);
void write_u32(uint8_t *at, uint32_t value);

/** Writes header and payload to `out`, which has room for FRAME_HEADER + length. */
void encode_frame(uint8_t *out, uint8_t type, uint32_t id, const uint8_t *payload, uint32_t length);

/**
 * Looks at the start of `bytes`.
 *
 * Returns the length of the frame there, 0 when more bytes are needed, -1 when no frame starts there.
 */
long decode_frame(const uint8_t *bytes, size_t length, struct frame *frame);

#endif
