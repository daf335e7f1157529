/* Starts the agent in namespaces of its own. */
#ifndef START_H
#define START_H

#include <sys/types.h>

/**
 * @param group_procs file of the control group that the agent joins
 * @return process whose end is the end of the agent and of everything it started; -1 on failure
 */
pid_t start_agent(const char *group_procs);

#endif
