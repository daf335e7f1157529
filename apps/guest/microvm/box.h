/* The box inside a microVM: the agent with everything it starts, held by one control group. */
#ifndef BOX_H
#define BOX_H

#include <stddef.h>
#include <stdint.h>

/** Uid and gid of every program in the box. */
#define INSIDE_UID 1000
/** The root file system as the box sees it, and the box's own disk, as process 1 sees them. */
#define BOX_ROOT "/new"
#define BOX_DISK "/box"

/** Adds a piece of the settings. Returns 0, or -1 when they are too long. */
int box_add_settings(const uint8_t *bytes, size_t length);

/**
 * Applies the settings: clock, randomness, host name, files. Starts the agent unless it runs already, and
 * lets a frozen box go on. Returns NULL or what went wrong.
 */
const char *box_setup(void);

/** Stops every program and brings the disk to a state that can be copied. Returns NULL or what went wrong. */
const char *box_freeze(void);

/** @param micros since the epoch */
const char *box_thaw(uint64_t micros);

void box_set_clock(uint64_t micros);

/** The kernel's own figures as "name=value" words. */
void box_stats(char *text, size_t room);

/** Call often: notices the kernel's kills for want of memory and the end of the agent. */
void box_tick(void);

/** Ends the machine. */
void power_off(void) __attribute__((noreturn));

#endif
