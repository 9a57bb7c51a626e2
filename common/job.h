/* job.h -- a job: the record (what was asked; never changes) and the status (what became of it; lives in
 * Redis).
 *
 * The record is msgpack with a version. Version policy: a new field needs no new version (old programs keep
 * fields they do not know: `extra`); JOB_VERSION grows only when an old worker must not run the job. claim
 * hands no job of a version above the worker's own to it, so the job waits for a newer worker.
 *
 *     struct job job;
 *     job_init(&job);
 *     job_make_id(job.id);
 *     rc = schema_apply(schema_avatar(), body, defaults, &job, &err);
 *     rc = queue_cmd_submit(&cmd, &queue, &job, max_queue, &err);
 *     job_done(&job);
 */
#ifndef COMMON_JOB_H
#define COMMON_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"

#define JOB_VERSION 1
#define JOB_ID 40                  /* UUID version 7 (RFC 9562): 36 characters and the NUL; sorts by time */
#define JOB_RECORD_MAX (64 * 1024) /* packed bytes: 4 KiB prompts and tags fit; media never enter */
#define JOB_PRIORITY_DEFAULT 5

/* name, text (as the native API spells it), is it final */
#define JOB_STATES(X)                                                                                        \
    X(QUEUED, "queued", false)                                                                               \
    X(DELAYED, "delayed", false)                                                                             \
    X(RUNNING, "running", false)                                                                             \
    X(DONE, "done", true)                                                                                    \
    X(FAILED, "failed", true)                                                                                \
    X(CANCELLED, "cancelled", true)                                                                          \
    X(TIMED_OUT, "timed_out", true)

enum job_state {
#define X(name, text, final) JOB_##name,
    JOB_STATES(X)
#undef X
        JOB_STATE_COUNT
};

const char *job_state_text(enum job_state s);
int job_state_parse(const char *text, enum job_state *ret); /* ERR_INVALID */
bool job_state_final(enum job_state s);

struct job {
    int version;
    char id[JOB_ID];
    char generator[32];        /* "avatar" */
    char tenant[64];           /* "" for the only one */
    int priority;              /* 0..9, 9 goes first */
    int64_t deadline_start_ms; /* from submit to the first claim; 0: none */
    int64_t deadline_run_ms;   /* from a claim to its end; 0: none */
    int64_t ttl_ms;            /* kept after the end; 0: the queue's default (7 days) */
    int64_t plan_bytes;        /* device memory it needs; 0: not known */
    int64_t delay_ms;          /* DELAYED for so long */
    int64_t not_before_ms;     /* DELAYED until then (Redis' clock, ms since 1970); 0: at once */
    bool no_cache;             /* an earlier job is no answer */
    double gflop;              /* predicted work (cost.h); 0: not known */
    int64_t group_min, group_max; /* devices of one host that it takes together; 1, 1 */
    char labels[128];          /* words a worker must have, sorted, separated by commas; "" for none */
    char cache_key[65];        /* of everything that decides the video; "": never answered by an earlier job */
    char webhook[1024];        /* URL told of the job's life, "" for none */
    char webhook_events[64];   /* of "queued,start,progress,end", separated by commas; "": end */
    char traceparent[64];      /* W3C trace context of the submit, "" for none */
    char idem_key[256];        /* Idempotency-Key, "" for none */
    char fingerprint[65];      /* of the submit's body, with idem_key */
    json_t *params;            /* owned: the generator's normalised parameters (schema.h), an object */
    json_t *tags;              /* owned: array of text, or NULL */
    json_t *extra;             /* owned: fields of a newer record, kept for the round trip; or NULL */
};

void job_init(struct job *j);
void job_done(struct job *j);     /* zeroed or done already: fine */
int job_make_id(char id[JOB_ID]); /* ERR_IO when there is no randomness */
bool job_id_ok(const char *id);   /* 1..39 of [A-Za-z0-9_-], not starting with '-': safe in keys and paths */

/* Appends the packed record. ERR_TOOBIG above JOB_RECORD_MAX, ERR_INVALID for a bad id. */
int job_pack(const struct job *j, struct buf *b, struct err *err);
/* j is initialised by this. ERR_FORMAT; ERR_UNSUPPORTED for a version above JOB_VERSION. */
int job_unpack(const void *bytes, size_t len, struct job *ret, struct err *err);

/* Why a running job should stop (renew's and progress' answer, and status.cancel). */
enum job_stop { JOB_STOP_NONE, JOB_STOP_CANCEL, JOB_STOP_TIMEOUT };

struct job_status {
    enum job_state state;
    int64_t attempt; /* the fence: +1 at every claim. 0: never claimed */
    int64_t fails;   /* attempts that ended with a retryable error */
    int64_t deaths;  /* attempts whose lease ran out */
    int64_t submitted_ms, started_ms, finished_ms, expires_ms, retry_ms; /* Redis' clock; 0: not yet */
    int64_t now_ms;                                                      /* Redis' clock at the answer */
    int64_t position; /* 0 = next to be claimed; -1 when not QUEUED */
    char worker[64];  /* of the current or last attempt */
    char stage[24];   /* "denoise" */
    int64_t step, total;
    double eta_s; /* < 0: not known */
    double start_s; /* QUEUED: seconds until it probably starts; < 0: not known, or nobody can run it */
    enum job_stop stop;
    char error_code[16]; /* err_name of the last failure, "" for none */
    char error[480];
    json_t *result;  /* owned: what the worker's settle said (PROTOCOL.md part 5), or NULL */
    json_t *late;    /* owned: array of {attempt, result} that lost, or NULL */
    json_t *history; /* owned: array of events, oldest first, when asked for; or NULL */
};

/* A whole answer of `get`. */
struct job_view {
    struct job job;
    struct job_status status;
};
void job_view_done(struct job_view *v);

#endif
