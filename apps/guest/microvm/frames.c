#include "frames.h"

#include <string.h>

static uint32_t crc_table[256];

static uint32_t crc32_add(uint32_t crc, const uint8_t *bytes, size_t length) {
  if (crc_table[1] == 0) {
    for (uint32_t n = 0; n < 256; n++) {
      uint32_t c = n;
      for (int bit = 0; bit < 8; bit++) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
      crc_table[n] = c;
    }
  }
  for (size_t at = 0; at < length; at++) crc = crc_table[(crc ^ bytes[at]) & 0xff] ^ (crc >> 8);
  return crc;
}

static uint32_t checksum(const uint8_t *header, const uint8_t *payload, uint32_t length) {
  uint32_t crc = crc32_add(0xffffffffu, header, FRAME_HEADER - 4);
  return crc32_add(crc, payload, length) ^ 0xffffffffu;
}

uint32_t read_u32(const uint8_t *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint64_t read_u64(const uint8_t *at) { return (uint64_t)read_u32(at) | (uint64_t)read_u32(at + 4) << 32; }

void write_u32(uint8_t *at, uint32_t value) {
  for (int byte = 0; byte < 4; byte++) at[byte] = (uint8_t)(value >> (8 * byte));
}

void encode_frame(uint8_t *out, uint8_t type, uint32_t id, const uint8_t *payload, uint32_t length) {
  out[0] = FRAME_MAGIC & 0xff;
  out[1] = FRAME_MAGIC >> 8;
  out[2] = type;
  out[3] = 0;
  write_u32(out + 4, id);
  write_u32(out + 8, length);
  if (length > 0) memcpy(out + FRAME_HEADER, payload, length);
  write_u32(out + 12, checksum(out, payload, length));
}

long decode_frame(const uint8_t *bytes, size_t length, struct frame *frame) {
  if (length < FRAME_HEADER) return 0;
  if ((bytes[0] | bytes[1] << 8) != FRAME_MAGIC || bytes[3] != 0) return -1;
  uint32_t size = read_u32(bytes + 8);
  if (size > FRAME_PAYLOAD_MAX) return -1;
  if (length < FRAME_HEADER + size) return 0;
  if (checksum(bytes, bytes + FRAME_HEADER, size) != read_u32(bytes + 12)) return -1;
  *frame = (struct frame){bytes[2], read_u32(bytes + 4), size, bytes + FRAME_HEADER};
  return (long)(FRAME_HEADER + size);
}
