#include "kernels/threads.h"

#include <stdlib.h>
#include <unistd.h>

#define SPINS "3000" /* some 30 microseconds: covers the gaps between ops, not a stage */

void threads_settle(char **argv)
{
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY") || setenv("GOMP_SPINCOUNT", SPINS, 1) != 0)
        return;
    execv("/proc/self/exe", argv);
}
