/* up.h -- what `up` and `run` share around a cluster. */
#ifndef CLI_UP_H
#define CLI_UP_H

#include "cli/cluster.h"

/* ERR_NOTFOUND, with the way out, when --ckpts names no folder. */
int up_check_ckpts(const struct cli *c, struct err *err);
void up_say_where(const struct cli *c, const struct cluster *k);
/* Until a signal; tells on stderr when a program was started again. */
void up_wait(struct cluster *k);

#endif
