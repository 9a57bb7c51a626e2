/* claim.h -- the worker's loop: claim a job, run it through the pipeline, settle it under its fence, again.
 * One job at a time, on the calling thread; the lease thread (lease.h) does everything that must not wait for
 * the compute.
 *
 *     rc = claim_serve(&conf, device, &err);
 *
 * Returns 0 after a stop signal (the job in work was finished or given back), ERR_DEVICE when the device has
 * failed in a way that only a new process repairs, and ERR_REDIS, ERR_WEIGHTS, ... when it could not start at
 * all.
 */
#ifndef WORKER_CLAIM_H
#define WORKER_CLAIM_H

#include "common/conf.h"
#include "common/err.h"

struct device;

int claim_serve(const struct conf *conf, struct device *device, struct err *err);

#endif
