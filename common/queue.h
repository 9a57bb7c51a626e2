/* queue.h -- the queue's protocol without I/O: builds the commands, reads the replies. PROTOCOL.md tells the
 * story; the transitions themselves are the Redis Functions in queue.lua (and queue_people.lua), embedded here.
 *
 * Who sends is the caller's affair: redis_sync.h (worker, cli, tests; blocking) or the dispatcher's own
 * asynchronous connection. Every function command answers with ONE bulk string (msgpack) that goes to the
 * queue_read_* of the same name; an error reply (RESP '-...') goes to queue_error.
 *
 *     struct queue q;
 *     struct queue_cmd c = {0};
 *     if ((rc = queue_init(&q, "avatar", &err)) < 0 || (rc = queue_cmd_cancel(&c, &q, id, "client", &err)) <
 * 0) goto out; redisAsyncCommandArgv(ac, on_reply, arg, c.argc, c.argv, c.argv_len);
 *     ... in on_reply: rc = queue_read_cancel(reply->str, reply->len, &cancelled, &err);
 * out:
 *     queue_cmd_done(&c);
 *
 * Codes that the readers return, with a sentence: ERR_NOTFOUND (no such job), ERR_CONFLICT, ERR_LIMIT (queue
 * full), ERR_LOST (another attempt owns the job), ERR_FORMAT (a reply that is not ours).
 */
#ifndef COMMON_QUEUE_H
#define COMMON_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/job.h"

#define QUEUE_LIBRARY "troupe"
#define QUEUE_ARGV_MAX 10

struct queue {
    char name[48];
    char base[56]; /* "{name}": the hash tag with which every key begins */
};
/* name: 1..40 of [A-Za-z0-9_-]. ERR_INVALID. */
int queue_init(struct queue *q, const char *name, struct err *err);

/* One command, ready for hiredis. argv points into the struct itself: do not copy it, done when it is sent.
 */
struct queue_cmd {
    int argc;
    const char *argv[QUEUE_ARGV_MAX];
    size_t argv_len[QUEUE_ARGV_MAX];
    char text[4][80]; /* numbers and keys that argv points to */
    struct buf body;  /* owned: the packed argument */
};
void queue_cmd_done(struct queue_cmd *c); /* zeroed or done already: fine. A builder calls it itself first */

/* ---- at start ---- */

/* 1. INFO -> queue_check_info; 2. the version function -> queue_read_version (an error reply means: not
 * loaded);
 * 3. when *ret_load: the load command; its reply is ignored but for errors. redis_sync_setup does the three.
 */
int queue_cmd_info(struct queue_cmd *c);
/* Redis >= 7.0 and maxmemory-policy noeviction, or ERR_REDIS with what to change. */
int queue_check_info(const char *text, size_t len, struct err *err);
int queue_cmd_version(struct queue_cmd *c);
/* bytes NULL: the command answered with an error. ERR_UNSUPPORTED when a newer major version is loaded. */
int queue_read_version(const char *bytes, size_t len, bool *ret_load, struct err *err);
int queue_cmd_load(struct queue_cmd *c); /* FUNCTION LOAD REPLACE with the embedded library */
int queue_version(void);                 /* ours: major * 1000 + minor */

/* An error reply to a code and a sentence. ERR_NOTFOUND: the library is not loaded (load it and send again);
 * ERR_REDIS: loading, read-only, wrong password, busy; ERR_NOMEM: Redis is at its maxmemory. */
int queue_error(const char *text, size_t len, struct err *err);

/* ---- clients ---- */

/* max_queue: refuse (ERR_LIMIT) when so many wait already. The job's idem_key and fingerprint make it
 * idempotent for 24 hours: the same key and fingerprint answer the first job (again = true); another
 * fingerprint is ERR_CONFLICT. */
int queue_cmd_submit(struct queue_cmd *c, const struct queue *q, const struct job *job, int64_t max_queue,
                     struct err *err);
struct queue_submitted {
    char id[JOB_ID];
    bool again;       /* the first answer, given again */
    bool cached;            /* an earlier DONE job answers this very request; id is that one's */
    enum job_state state;
    int64_t position;       /* jobs before it; -1 when it does not wait */
    int64_t fitting;        /* registered workers that could run it; 0: none at the moment */
    int64_t retry_after_s;  /* with ERR_LIMIT: from the backlog or the tenant's rate, >= 1 (filled in that case only) */
};
int queue_read_submit(const void *bytes, size_t len, struct queue_submitted *ret, struct err *err);

/* The whole job. history: with its event log. */
int queue_cmd_get(struct queue_cmd *c, const struct queue *q, const char *id, bool history, struct err *err);
/* Whose job: the answer is the tenant's name as it is, "" also when there is no such job. Cheap: asked before anything that
 * somebody wants to know or do who may not see every job. */
int queue_cmd_owner(struct queue_cmd *c, const struct queue *q, const char *id, struct err *err);
int queue_read_get(const void *bytes, size_t len, struct job_view *ret, struct err *err);

/* Which jobs: "" and negative members choose nothing. */
struct queue_filter {
    int state;             /* enum job_state; < 0: any */
    const char *tenant;    /* NULL: any ("" is a tenant) */
    const char *generator; /* NULL: any */
    const char *code;      /* err_name of the last failure; NULL: any */
    const char *worker;    /* of the last attempt; NULL: any */
};
/* Newest first (FAILED: by when it failed). filter NULL: all. cursor "": from the newest; otherwise ret_cursor of the page
 * before. limit 1..100. */
int queue_cmd_list(struct queue_cmd *c, const struct queue *q, const struct queue_filter *filter, const char *cursor,
                   int limit, struct err *err);
/* The dead list put back: every FAILED job that the filter chooses (its state is ignored), up to 1,000 a call, as by
 * retry. -> queue_read_count. */
int queue_cmd_redrive(struct queue_cmd *c, const struct queue *q, const struct queue_filter *filter, struct err *err);
/* *ret: owned array of limit objects {id, state, tenant, submitted_ms, started_ms, finished_ms, attempt, fails, deaths,
 * priority, generator, worker, stage, step, total, eta_s, error_code, error}; ret_cursor "" at the end. */
int queue_read_list(const void *bytes, size_t len, json_t **ret, char ret_cursor[64], struct err *err);

/* QUEUED and DELAYED are CANCELLED at once; RUNNING is asked to stop (stopping = true) and CANCELLED when its
 * worker settles, or by expire 30 s later; CANCELLED again answers the same. ERR_CONFLICT when it ended
 * otherwise. */
int queue_cmd_cancel(struct queue_cmd *c, const struct queue *q, const char *id, const char *who,
                     struct err *err);
struct queue_cancelled {
    enum job_state state;
    bool stopping;
};
int queue_read_cancel(const void *bytes, size_t len, struct queue_cancelled *ret, struct err *err);

/* FAILED, CANCELLED, TIMED_OUT back to QUEUED with counts at zero. Waiting or running already: 0. DONE:
 * ERR_CONFLICT. */
int queue_cmd_retry(struct queue_cmd *c, const struct queue *q, const char *id, struct err *err);
/* Removes the record of an ended job; then its files go (blob_delete_results), and then queue_cmd_forgot says so: until it
 * was said, expire names the job among those whose files are to go. ERR_CONFLICT while it waits or runs. */
int queue_cmd_delete(struct queue_cmd *c, const struct queue *q, const char *id, struct err *err);
int queue_cmd_forgot(struct queue_cmd *c, const struct queue *q, const char *id, struct err *err);
/* For retry, delete, forgot, pause, quiet, hello, bye: 0 or a code. */
int queue_read_ok(const void *bytes, size_t len, struct err *err);

/* Cancels everything that waits (up to 1,000 a call: ret_n = 1000 means call again). */
int queue_cmd_purge(struct queue_cmd *c, const struct queue *q, struct err *err);
/* Stops and resumes the handing out of jobs: of all, of one generator, of one tenant. name NULL with QUEUE_ALL. */
enum queue_scope { QUEUE_ALL, QUEUE_GENERATOR, QUEUE_TENANT };
int queue_cmd_pause(struct queue_cmd *c, const struct queue *q, enum queue_scope scope, const char *name, bool paused,
                    struct err *err);
int queue_read_count(const void *bytes, size_t len, int64_t *ret_n, struct err *err); /* purge */

/* Objects for people and metrics (owned by the caller); members are listed in PROTOCOL.md part 4. */
int queue_cmd_why(struct queue_cmd *c, const struct queue *q, const char *id, struct err *err);
int queue_cmd_stats(struct queue_cmd *c, const struct queue *q, struct err *err);
int queue_cmd_workers(struct queue_cmd *c, const struct queue *q, struct err *err);
int queue_cmd_quiet(struct queue_cmd *c, const struct queue *q, const char *worker, bool quiet,
                    struct err *err);
/* {list: [{name, weight, max_running, max_queued, gpu_s_day, rate, burst, waiting, running, waiting_s, used_s_day, paused,
 * held}]}: at most 1,000, the last seen first. */
int queue_cmd_tenants(struct queue_cmd *c, const struct queue *q, struct err *err);
/* {models: {generator: cost model as JSON text}, weights: {generator: digest}, memory: {generator: largest device memory
 * that a registered worker offers for it; 0: no limit}}. */
int queue_cmd_models(struct queue_cmd *c, const struct queue *q, struct err *err);
int queue_read_object(const void *bytes, size_t len, json_t **ret, struct err *err); /* these, why, stats, workers */

/* What a tenant may; kept in Redis until it is said again. 0: no limit (weight: 1). */
struct queue_tenant {
    const char *name;     /* "" or as tenant_ok */
    double weight;        /* share inside a level */
    int64_t max_running;
    int64_t max_queued;
    double gpu_s_day;     /* device seconds a day (UTC); then its jobs wait for the next day */
    double rate_per_min;  /* submits: a token bucket that fills so fast */
    int64_t burst;        /* and holds so many */
};
int queue_cmd_tenant(struct queue_cmd *c, const struct queue *q, const struct queue_tenant *t, struct err *err);
bool queue_tenant_ok(const char *name); /* "" or 1..48 of [A-Za-z0-9_.-] */

/* ---- webhooks ---- */

/* Deliveries that are due: takes up to n (1..50) for hold_ms; who does not report by then has lost them, and they are due
 * again: at least once, with the same id. */
int queue_cmd_hook_take(struct queue_cmd *c, const struct queue *q, int n, int64_t hold_ms, struct err *err);
struct queue_hook {
    char id[64];          /* of the delivery: the same at every try ("webhook-id") */
    char job[JOB_ID];
    char event[16];       /* queued, start, progress, end */
    int64_t tries;        /* before this one */
    int64_t created_ms;   /* when it happened */
    int64_t hold;         /* fence of queue_cmd_hook_done */
};
/* *ret: owned array (mem_free) of *ret_n; *ret_next_ms: until the next one is due, -1: none waits. */
int queue_read_hook_take(const void *bytes, size_t len, struct queue_hook **ret, size_t *ret_n, int64_t *ret_next_ms,
                         struct err *err);
/* The end of a try. status: HTTP's, or 0 with why. verdict: delivered; again (the wait doubles from 5 s to 6 h, +-20 %,
 * until a day and a half after it happened); or drop: the receiver wants no more of this job (410), or nobody can send it. */
enum queue_hook_verdict { QUEUE_HOOK_OK, QUEUE_HOOK_AGAIN, QUEUE_HOOK_DROP };
int queue_cmd_hook_done(struct queue_cmd *c, const struct queue *q, const struct queue_hook *hook,
                        enum queue_hook_verdict verdict, int status, double seconds, const char *why, struct err *err);
/* {log: [{id, event, time_ms, try, status, seconds, why, verdict}], waiting: [{id, event, due_ms, tries}]} of a job. */
int queue_cmd_hooks(struct queue_cmd *c, const struct queue *q, const char *job, struct err *err);

/* ---- the event stream ---- */

/* XREAD BLOCK: entries after last_id ("$": from now), nil after block_ms (0 is not allowed: every wait has an
 * end). XRANGE: entries after from ("-": oldest), for replays. Both: each entry has one field "e" whose value
 * is for queue_read_event; the entry's stream id is the SSE event id. */
int queue_cmd_events(struct queue_cmd *c, const struct queue *q, const char *last_id, int64_t block_ms,
                     int count);
int queue_cmd_replay(struct queue_cmd *c, const struct queue *q, const char *from, int count);

struct queue_event {
    char id[JOB_ID];
    char what[16];        /* submit, claim, progress, settle, release, cancel, expire, retry, delete */
    enum job_state state; /* after it */
    int64_t attempt;
    int64_t time_ms;
    char stage[24]; /* progress; "" otherwise */
    int64_t step, total;
    double eta_s; /* < 0: not known */
    char worker[64];
    char code[16]; /* err_name, "" for none */
    char why[256]; /* sentence, "" for none */
};
int queue_read_event(const void *bytes, size_t len, struct queue_event *ret, struct err *err);

/* ---- workers ---- */

/* BLPOP on the wake key for timeout_ms: any non-nil reply means "claim now"; nil: nothing came. */
int queue_cmd_wake(struct queue_cmd *c, const struct queue *q, int64_t timeout_ms);

/* Registers, and refreshes, the worker's entry; gone ttl_ms after the last one. info: an object of flat
 * values. */
int queue_cmd_hello(struct queue_cmd *c, const struct queue *q, const char *worker, int64_t ttl_ms,
                    const json_t *info, struct err *err);
int queue_cmd_bye(struct queue_cmd *c, const struct queue *q, const char *worker, struct err *err);

struct queue_offer {
    const char *worker;
    const char *generators; /* "avatar" or "avatar,tryon" */
    int64_t bytes;          /* device memory; 0: any job fits */
    int64_t lease_ms;
    const char *token;  /* of this claim, "process:n" with n growing: sent again, its answer lost, it gets the same job;
                           older ones that come late get nothing. NULL: none */
    const char *labels; /* "h100,eu" ; NULL: none */
    const char *warm;   /* generators that are loaded, as generators; NULL: none */
    const char *host;   /* whose devices can work together; NULL: this worker takes part in no gang */
    const char *device; /* kind for the calibration: "NVIDIA H100 80GB HBM3" */
};
/* The same fields are in hello's info (generators, memory_bytes, labels, host, gang, device), from which fitting workers
 * are counted. */
int queue_cmd_claim(struct queue_cmd *c, const struct queue *q, const struct queue_offer *offer,
                    struct err *err);
struct queue_claimed {
    bool got;              /* false: nothing for this worker now; the rest is then empty */
    bool quiet;            /* told to take nothing: drain and wait */
    int64_t attempt;       /* the fence of every later call */
    int64_t fails, deaths; /* so far */
    int64_t run_left_ms;   /* until the run deadline; 0: none */
    int rank, size;        /* 0, 1; of a gang: this worker's rank and the number of devices */
    json_t *ranks;         /* owned: names of the gang's workers by rank; NULL alone */
    char gang[JOB_ID];     /* not got, but held for this job until enough devices are there; "" otherwise */
    struct job job;        /* owned: job_done */
};
int queue_read_claim(const void *bytes, size_t len, struct queue_claimed *ret, struct err *err);

/* rank: of a gang; 0 alone. */
int queue_cmd_renew(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt, int rank,
                    int64_t lease_ms, struct err *err);
struct queue_progress {
    const char *stage;
    int64_t step, total;
    double eta_s; /* < 0: not known */
};
int queue_cmd_progress(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt,
                       const struct queue_progress *p, struct err *err);
struct queue_heard {
    enum job_stop stop;
    bool quiet;
};
/* Of renew and progress. ERR_LOST: stop, the job is another's. */
int queue_read_heard(const void *bytes, size_t len, struct queue_heard *ret, struct err *err);

struct queue_limits {
    int max_fails;      /* attempts with a retryable error: 3 */
    int64_t backoff_ms; /* the first wait; doubles, +-20 % */
};
/* What an attempt took, for calibration, budgets and metrics. */
struct queue_used {
    double gflop;          /* of the plan for what was really asked; 0: not known */
    const json_t *stages;  /* {"denoise": seconds, ...} or NULL */
    const char *weights;   /* digest, "" or NULL: not known */
    bool unfit;            /* this worker cannot run this generator any more (broken weights): the job goes to another one
                              that can, if there is one, and counts as no failure */
};
/* The end of an attempt. used may be NULL. code 0: done, result (an object, <= 16 KiB as JSON text) is what the job becomes.
 * Otherwise the ERR_* and its sentence: err_then decides FAILED, DELAYED (or FAILED when the fails are
 * spent), CANCELLED or TIMED_OUT (whichever stop was asked for). Twice the same is harmless. ERR_LOST: the
 * result is kept as late. ERR_NOTFOUND: the job was deleted, its files are nobody's. */
int queue_cmd_settle(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt, int code,
                     const char *text, const json_t *result, const struct queue_limits *limits,
                     const struct queue_used *used, struct err *err);
int queue_read_settle(const void *bytes, size_t len, enum job_state *ret_state, struct err *err);

/* Gives the job back: front of its line, nothing counted. */
int queue_cmd_release(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt,
                      const char *why, struct err *err);
int queue_read_release(const void *bytes, size_t len, enum job_state *ret_state, struct err *err);

/* ---- the timer ---- */

/* Everything that time does, up to 100 jobs a call: leases that ran out, retries that are due, deadlines,
 * stops that were not obeyed, records to forget. Run by every worker and dispatcher about once a second; any
 * number may. */
int queue_cmd_expire(struct queue_cmd *c, const struct queue *q, struct err *err);
struct queue_expired {
    int64_t n_leases, n_retries, n_deadlines;
    int64_t n_waiting;
    json_t *forget; /* owned: ids of jobs that are deleted: blob_delete_results each, then queue_cmd_forgot it */
};
int queue_read_expire(const void *bytes, size_t len, struct queue_expired *ret, struct err *err);

#endif
