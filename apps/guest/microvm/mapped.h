#ifndef MAPPED_H
#define MAPPED_H

#include <sys/types.h>

/**
 * Shows the mount `from` once more at `to`, where files of uid and gid `owner` belong to `shown` instead, also
 * those made there. The host knows a box's files by a uid that is the box's alone; in the box they are its user's.
 *
 * Returns 0, or -1 with errno.
 */
int mount_mapped(const char *from, const char *to, uid_t owner, uid_t shown);

#endif
