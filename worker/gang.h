/* gang.h -- the workers of one host that were given a job together: how they meet, and what they share.
 *
 * The ranks of a claim meet at Unix sockets in {volume}/tmp, named by the job, the attempt and the rank; workers
 * of one host have the volume in common. Each connection is over when its worker is: whoever waits for it knows at
 * once.
 *
 *     struct gang *g = NULL;
 *     if ((rc = gang_form(&g, device, volume, id, attempt, rank, size, &err)) < 0) ...
 *     rc = gang_share(g, &seed, sizeof(seed), &err);               rank 0's, at all
 *     rc = gang_split(g, avatar, width, height, frames, steps, &plan, &err);
 *     hooks.group = gang_group(g);
 *     ...
 *     gang_wait(g);                                                 ranks behind 0: until rank 0 has settled
 *     gang_leave(g, rc, err.text);
 */
#ifndef WORKER_GANG_H
#define WORKER_GANG_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct avatar;
struct avatar_plan;
struct comm_group;
struct device;
struct gang;

/* ERR_TIMEOUT when one of them does not come within half a minute. GPUs talk over NCCL if all ranks can, and otherwise through
 * host memory, as everything else does. */
int gang_form(struct gang **ret, struct device *device, const char *volume, const char *job, int64_t attempt, int rank,
              int size, struct err *err);
int gang_rank(const struct gang *g); /* 0 for NULL */
const char *gang_carrier(const struct gang *g); /* what tensors go over: "nccl", or "sockets" through host memory */
int gang_share(struct gang *g, void *data, size_t bytes, struct err *err);
/* Chooses how the work is split, the same at every rank; *ret is what rank 0 needs, who has most. */
int gang_split(struct gang *g, struct avatar *a, int width, int height, int64_t n_frames, int steps, const char *device_kind,
               struct avatar_plan *ret, struct err *err);
const struct comm_group *gang_group(const struct gang *g); /* after gang_split; NULL for NULL */
void gang_wait(struct gang *g);
/* code < 0: the others' work ends with that code and sentence. NULL is fine. */
void gang_leave(struct gang *g, int code, const char *why);

#endif
