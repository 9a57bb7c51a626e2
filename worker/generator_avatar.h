/* generator_avatar.h -- the talking portrait as a row of generator.c: from a job's parameters to
 * worker/model/avatar.h. */
#ifndef WORKER_GENERATOR_AVATAR_H
#define WORKER_GENERATOR_AVATAR_H

#include "worker/generator.h"

extern const struct generator generator_avatar;

#endif
