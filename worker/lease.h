/* lease.h -- the thread that never computes: renews the lease of the job in work, sends its progress, hears
 * cancels, takes signals, keeps the worker's entry in Redis fresh, and runs the queue's timer. It has a Redis
 * connection of its own.
 *
 *     rc = lease_start(&l, &options, &err);          SIGTERM and SIGINT must be blocked in the whole process
 * before lease_hold(l, job.id, attempt, rank);              from now on renewed
 *     ... compute; lease_progress(l, "denoise", 3, 10, 4.5); *lease_cancel(l) becomes non-zero: stop
 *     switch (lease_drop(l)) ...                     why, if so
 *     lease_end(l);
 *
 * Cancels are heard with the answer of a progress report (sent at most four times a second) or a renewal. A
 * stop signal lets the job go on while it is expected to end within drain_s; a second one gives it back at
 * once.
 */
#ifndef WORKER_LEASE_H
#define WORKER_LEASE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/conf.h"
#include "common/err.h"
#include "common/json.h"
#include "common/queue.h"

struct lease;

enum lease_why {
    LEASE_GO_ON,
    LEASE_ASKED, /* cancelled, or over its run deadline: settle with ERR_CANCEL */
    LEASE_LOST,  /* another attempt's: say nothing */
    LEASE_DRAIN, /* the worker stops: release */
};

struct lease_options {
    const struct conf *conf;   /* borrowed for as long as the thread runs */
    const struct queue *queue; /* likewise */
    const char *worker;        /* likewise */
    json_t *(*info)(
        void *arg,
        bool busy); /* what the worker says of itself: an object of flat values, owned by the caller */
    void *info_arg;
};

int lease_start(struct lease **ret, const struct lease_options *o, struct err *err);
void lease_end(struct lease *l); /* takes the worker's entry out of Redis; NULL: fine */

/* rank: of a gang; 0 alone. */
void lease_hold(struct lease *l, const char *id, int64_t attempt, int rank);
enum lease_why lease_drop(struct lease *l);
void lease_progress(struct lease *l, const char *stage, int64_t step, int64_t total, double eta_s);
const atomic_int *lease_cancel(const struct lease *l); /* non-zero: stop */
bool lease_stopping(const struct lease *l);            /* a stop signal came: take no new job */

#endif
