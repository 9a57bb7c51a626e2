/* lease.c -- see the header. One loop (`lease_thread`) that sleeps in sigtimedwait for a tenth of a second at
 * most and then does what is due; `held` is all that it shares with the compute thread, under the mutex. */
#include "worker/lease.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/blob.h"
#include "common/clock.h"
#include "common/crash.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/redis_sync.h"
#include "common/str.h"

#define TICK_MS 100
#define PROGRESS_US (250 * CLOCK_MS)
#define TIMER_US (1000 * CLOCK_MS)
#define SWEEP_US (3600 * CLOCK_S)
#define SWEEP_AGE_S 86400 /* what a writer that died left on the volume */
#define CALL_MS 2000
#define FORGET_US (500 * CLOCK_MS) /* a turn; a slow volume must not cost the lease */
#define REPLY_MAX (64 * 1024)
#define STUCK_US (120 * CLOCK_S) /* a job that does not stop although told: the process ends */
#define EXIT_RECYCLE 75

struct held {
    char id[JOB_ID]; /* "" for no job */
    int64_t attempt;
    int rank;   /* of a gang */
    bool fresh; /* progress that was not sent yet */
    char stage[24];
    int64_t step, total;
    double eta_s;
    int64_t told_us; /* when it was told to stop; 0: not */
};

struct lease {
    struct lease_options o;
    pthread_t thread;
    pthread_mutex_t lock;
    struct held held;   /* under lock */
    enum lease_why why; /* under lock */
    atomic_int cancel, signals, ending;
    struct redis_sync *redis; /* owned; the thread's alone */
    struct queue_cmd cmd;
    struct buf reply;
    int64_t renewed_us; /* under lock */
    int64_t progressed_us, said_us, timed_us, swept_us, stopping_us;
    bool redis_ok;
};

/* Sends the command. A failure is told once, until it works again. */
static int send(struct lease *l, int built)
{
    struct err err = {0};
    int rc = built < 0 ? built : redis_sync_call(l->redis, &l->cmd, CALL_MS, &l->reply, &err);
    if ((rc == 0) != l->redis_ok)
        LOG(WARN, rc == 0 ? "Redis is back" : "Redis does not answer the lease thread",
            log_str("why", rc == 0 ? NULL : err.text));
    l->redis_ok = rc == 0;
    return rc;
}

static void tell(struct lease *l, const struct held *h, enum lease_why why)
{
    pthread_mutex_lock(&l->lock);
    /* the answer may be about a job that has ended meanwhile */
    if (strcmp(l->held.id, h->id) == 0 && l->held.attempt == h->attempt && l->why == LEASE_GO_ON) {
        l->why = why;
        l->held.told_us = clock_us();
        atomic_store(&l->cancel, 1);
    }
    pthread_mutex_unlock(&l->lock);
}

static void hear(struct lease *l, const struct held *h)
{
    struct queue_heard heard;
    struct err err = {0};
    int rc = queue_read_heard(l->reply.data, l->reply.len, &heard, &err);
    if (rc == ERR_LOST)
        tell(l, h, LEASE_LOST);
    else if (rc < 0)
        LOG(ERROR, "an answer of the queue is not understood", log_str("why", err.text));
    else if (heard.stop != JOB_STOP_NONE)
        tell(l, h, LEASE_ASKED);
}

static void renew(struct lease *l, const struct held *h)
{
    const struct conf *c = l->o.conf;
    if (send(l, queue_cmd_renew(&l->cmd, l->o.queue, h->id, h->attempt, h->rank, c->lease_s * 1000, NULL)) == 0)
        hear(l, h);
    CRASH_POINT(worker_renewed);
}

static void report(struct lease *l, const struct held *h, int64_t now)
{
    struct queue_progress p = {h->stage, h->step, h->total, h->eta_s};
    l->progressed_us = now;
    if (send(l, queue_cmd_progress(&l->cmd, l->o.queue, h->id, h->attempt, &p, NULL)) == 0)
        hear(l, h);
    CRASH_POINT(worker_reported);
}

static int64_t entry_ttl_ms(const struct conf *c)
{
    int64_t three = (int64_t)(3000 * c->renew_s);
    return three > c->lease_s * 1000 ? three : c->lease_s * 1000;
}

static void say_hello(struct lease *l, bool busy, int64_t now)
{
    struct err err = {0};
    json_t *info = l->o.info(l->o.info_arg, busy);
    l->said_us = now;
    CRASH_POINT(worker_hello);
    if (info &&
        send(l, queue_cmd_hello(&l->cmd, l->o.queue, l->o.worker, entry_ttl_ms(l->o.conf), info, NULL)) ==
            0 &&
        queue_read_ok(l->reply.data, l->reply.len, &err) < 0)
        LOG(ERROR, "the worker's entry was refused", log_str("why", err.text));
    json_decref(info);
}

/* The files of a job that is deleted. */
static void forget(struct lease *l, const char *id)
{
    struct err err = {0};
    if (blob_delete_results(l->o.conf->volume, id, &err) < 0) {
        LOG(WARN, "results cannot be removed", log_str("job", id), log_str("why", err.text));
        return;
    }
    CRASH_POINT(worker_forget);
    if (send(l, queue_cmd_forgot(&l->cmd, l->o.queue, id, NULL)) == 0)
        queue_read_ok(l->reply.data, l->reply.len, NULL);
}

static void run_timer(struct lease *l, int64_t now)
{
    struct queue_expired e = {0};
    l->timed_us = now;
    if (send(l, queue_cmd_expire(&l->cmd, l->o.queue, NULL)) < 0 ||
        queue_read_expire(l->reply.data, l->reply.len, &e, NULL) < 0)
        return;
    if (e.n_leases)
        LOG(WARN, "leases ran out", log_int("jobs", e.n_leases));
    CRASH_POINT(worker_expired);
    int64_t until = clock_us() + FORGET_US;
    for (size_t i = 0; i < json_array_size(e.forget) && clock_us() < until; i++)
        forget(l, json_string_value(json_array_get(e.forget, i)));
    json_decref(e.forget);
}

/* After a stop signal: may the job in work go on? */
static void drain(struct lease *l, const struct held *h, int64_t now)
{
    int64_t limit_us = (int64_t)(l->o.conf->drain_s * (double)CLOCK_S);
    bool soon = h->eta_s >= 0 && h->eta_s * (double)CLOCK_S <= (double)limit_us;
    if (l->stopping_us == 0)
        l->stopping_us = now;
    if (!h->id[0])
        return;
    if (atomic_load(&l->signals) > 1 || now - l->stopping_us > limit_us || !soon)
        tell(l, h, LEASE_DRAIN);
}

static void take_signal(struct lease *l, const sigset_t *set)
{
    struct timespec wait = {0, TICK_MS * 1000000};
    int sig = sigtimedwait(set, NULL, &wait);
    if (sig > 0) {
        atomic_fetch_add(&l->signals, 1);
        LOG(INFO, "stop signal", log_str("signal", sig == SIGTERM ? "TERM" : "INT"));
    }
}

/* A stop that the compute thread does not follow: nothing but the end of the process frees the device. */
static void watch_stuck(const struct held *h, int64_t now)
{
    if (h->id[0] && h->told_us && now - h->told_us > STUCK_US) {
        LOG(ERROR, "the job does not stop: the process ends", log_str("job", h->id),
            log_int("attempt", h->attempt));
        _exit(EXIT_RECYCLE);
    }
}

static void tick(struct lease *l)
{
    int64_t now = clock_us(), renew_us = (int64_t)(l->o.conf->renew_s * (double)CLOCK_S);
    pthread_mutex_lock(&l->lock);
    struct held h = l->held;
    bool mine = h.id[0] && l->why != LEASE_LOST;
    bool report_due = mine && h.fresh && now - l->progressed_us >= PROGRESS_US;
    bool renew_due = mine && now - l->renewed_us >= renew_us;
    if (report_due)
        l->held.fresh = false;
    if (renew_due)
        l->renewed_us = now;
    pthread_mutex_unlock(&l->lock);
    if (report_due)
        report(l, &h, now);
    if (renew_due)
        renew(l, &h);
    if (now - l->said_us >= renew_us)
        say_hello(l, h.id[0] != 0, now);
    if (now - l->timed_us >= TIMER_US)
        run_timer(l, now);
    if (now - l->swept_us >= SWEEP_US) {
        l->swept_us = now;
        blob_sweep(l->o.conf->volume, SWEEP_AGE_S);
    }
    if (atomic_load(&l->signals))
        drain(l, &h, now);
    watch_stuck(&h, now);
}

static void *lease_thread(void *arg)
{
    struct lease *l = arg;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    while (!atomic_load(&l->ending)) {
        tick(l);
        take_signal(l, &set);
    }
    CRASH_POINT(worker_bye);
    send(l, queue_cmd_bye(&l->cmd, l->o.queue, l->o.worker, NULL));
    return NULL;
}

static void lease_free(struct lease *l)
{
    queue_cmd_done(&l->cmd);
    buf_done(&l->reply);
    redis_sync_close(l->redis);
    mem_free(l);
}

int lease_start(struct lease **ret, const struct lease_options *o, struct err *err)
{
    struct lease *l = mem_zalloc(sizeof(*l));
    if (!l)
        return err_set(err, ERR_NOMEM, "no memory for the lease thread");
    l->o = *o;
    l->redis_ok = true;
    l->said_us = l->timed_us = l->swept_us = -SWEEP_US; /* all at once */
    buf_init(&l->reply, REPLY_MAX);
    int rc = redis_sync_open(&l->redis, o->conf->redis, err);
    if (rc == 0)
        redis_sync_key(l->redis, o->queue->base);
    if (rc == 0) /* before the first claim: whose answer is lost is known by its entry */
        say_hello(l, false, clock_us());
    if (rc == 0 && pthread_mutex_init(&l->lock, NULL) != 0)
        rc = err_set(err, ERR_NOMEM, "no lock for the lease thread");
    if (rc == 0 && pthread_create(&l->thread, NULL, lease_thread, l) != 0)
        rc = err_set(err, ERR_NOMEM, "the lease thread cannot be started");
    if (rc < 0)
        lease_free(l);
    else
        *ret = l;
    return rc;
}

void lease_end(struct lease *l)
{
    if (!l)
        return;
    atomic_store(&l->ending, 1);
    pthread_join(l->thread, NULL);
    pthread_mutex_destroy(&l->lock);
    lease_free(l);
}

void lease_hold(struct lease *l, const char *id, int64_t attempt, int rank)
{
    pthread_mutex_lock(&l->lock);
    l->held = (struct held){.attempt = attempt, .rank = rank, .eta_s = -1};
    str_copy(l->held.id, sizeof(l->held.id), id);
    l->why = LEASE_GO_ON;
    l->renewed_us = clock_us(); /* the claim was a renewal */
    atomic_store(&l->cancel, 0);
    pthread_mutex_unlock(&l->lock);
}

enum lease_why lease_drop(struct lease *l)
{
    pthread_mutex_lock(&l->lock);
    enum lease_why why = l->why;
    l->held.id[0] = 0;
    pthread_mutex_unlock(&l->lock);
    return why;
}

void lease_progress(struct lease *l, const char *stage, int64_t step, int64_t total, double eta_s)
{
    pthread_mutex_lock(&l->lock);
    str_copy(l->held.stage, sizeof(l->held.stage), stage);
    l->held.step = step;
    l->held.total = total;
    l->held.eta_s = eta_s;
    l->held.fresh = l->held.rank == 0; /* who speaks for all of a gang; the others want to know how long it takes */
    pthread_mutex_unlock(&l->lock);
}

const atomic_int *lease_cancel(const struct lease *l)
{
    return &l->cancel;
}

bool lease_stopping(const struct lease *l)
{
    return atomic_load(&l->signals) > 0;
}
