/* queue_read.c -- what Redis answered to the commands of queue.c, in the header's order. An answer's head is read by
 * `open_answer`, which turns result words into codes. */
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/pack.h"
#include "common/queue.h"
#include "common/str.h"

/* ---- answers ---- */

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void copy_text(const json_t *o, const char *key, char *dst, size_t size)
{
    str_copy(dst, size, text_of(o, key));
}

static int64_t int_of(const json_t *o, const char *key, int64_t fallback)
{
    const json_t *v = json_object_get(o, key);
    if (json_is_integer(v))
        return json_integer_value(v);
    return json_is_real(v) && fabs(json_real_value(v)) < 9e18 ? (int64_t)json_real_value(v) : fallback;
}

static double num_of(const json_t *o, const char *key, double fallback)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : fallback;
}

static int conflict(const json_t *o, struct err *err)
{
    const char *what = text_of(o, "what"), *state = text_of(o, "state");
    if (strcmp(what, "idem") == 0)
        return err_set(err, ERR_CONFLICT,
                       "Idempotency-Key: it was used before with another request; use a new key");
    if (strcmp(what, "id") == 0)
        return err_set(err, ERR_CONFLICT, "another job has this id");
    return err_set(err, ERR_CONFLICT, "the job is %s: that cannot be done with it",
                   state[0] ? state : "not in that state");
}

static int limit(const json_t *o, struct err *err)
{
    static const struct {
        const char *what, *sentence;
    } limits[] = {
        {"queue", "the queue is full: %lld jobs wait, which is its limit; try again in %lld s"},
        {"tenant", "this key's tenant has %lld jobs waiting, which is its limit; try again in %lld s"},
        {"rate", "too many submits: %lld at once are allowed to this key's tenant; try again in %lld s"},
        {"classes", "jobs of %lld different needs wait, which is the limit; try again in %lld s"},
    };
    size_t i = 0;
    for (size_t k = 0; k < sizeof(limits) / sizeof(limits[0]); k++)
        if (strcmp(limits[k].what, text_of(o, "what")) == 0)
            i = k;
    char max[32], wait[32], text[160];
    str_format(max, sizeof(max), "%lld", (long long)int_of(o, "max", 0));
    str_format(wait, sizeof(wait), "%lld", (long long)int_of(o, "wait_s", 1));
    str_copy(text, sizeof(text), limits[i].sentence);
    char *one = strstr(text, "%lld"), *two = strstr(one + 4, "%lld");
    *one = *two = 0;
    return err_set(err, ERR_LIMIT, "%s%s%s%s%s", text, max, one + 4, wait, two + 4);
}

/* The map of an answer; ret_used NULL: nothing may follow it. */
static int open_answer(const void *bytes, size_t len, size_t *ret_used, json_t **ret, struct err *err)
{
    json_t *o = NULL;
    int rc = bytes ? pack_read(bytes, len, ret_used, &o, NULL) : ERR_FORMAT;
    const char *r = text_of(o, "r");
    if (rc < 0 || !r[0])
        rc = err_set(err, rc == ERR_NOMEM ? rc : ERR_FORMAT,
                     "Redis' answer is not one of the queue's functions");
    else if (strcmp(r, "NOTFOUND") == 0)
        rc = err_set(err, ERR_NOTFOUND, "there is no such job or worker");
    else if (strcmp(r, "LOST") == 0)
        rc = err_set(err, ERR_LOST, "another attempt owns the job, or it has ended");
    else if (strcmp(r, "CONFLICT") == 0)
        rc = conflict(o, err);
    else if (strcmp(r, "LIMIT") == 0)
        rc = limit(o, err);
    *ret = o; /* with LIMIT its fields are still wanted */
    return rc;
}

static int state_of(const json_t *o, enum job_state *ret, struct err *err)
{
    if (job_state_parse(text_of(o, "state"), ret) < 0)
        return err_set(err, ERR_FORMAT, "Redis' answer names the unknown state '%s'", text_of(o, "state"));
    return 0;
}

int queue_read_ok(const void *bytes, size_t len, struct err *err)
{
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    json_decref(o);
    return rc;
}

int queue_read_count(const void *bytes, size_t len, int64_t *ret_n, struct err *err)
{
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    if (rc == 0)
        *ret_n = int_of(o, "n", 0);
    json_decref(o);
    return rc;
}

int queue_read_object(const void *bytes, size_t len, json_t **ret, struct err *err)
{
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    if (rc < 0) {
        json_decref(o);
        return rc;
    }
    json_object_del(o, "r");
    *ret = o;
    return 0;
}


int queue_read_submit(const void *bytes, size_t len, struct queue_submitted *ret, struct err *err)
{
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    if (rc == ERR_LIMIT)
        ret->retry_after_s = int_of(o, "wait_s", 1);
    if (rc == 0) {
        *ret = (struct queue_submitted){.again = json_is_true(json_object_get(o, "again")),
                                        .cached = json_is_true(json_object_get(o, "cached")),
                                        .position = int_of(o, "pos", -1),
                                        .fitting = int_of(o, "fitting", 0)};
        rc = state_of(o, &ret->state, err);
        copy_text(o, "id", ret->id, sizeof(ret->id));
    }
    json_decref(o);
    return rc;
}

/* A result is stored as JSON text, so that its whole numbers stay exact. */
static json_t *result_of(const json_t *o)
{
    const json_t *text = json_object_get(o, "result");
    json_t *v = NULL;
    if (json_is_string(text) &&
        json_parse(json_string_value(text), json_string_length(text), 16, &v, NULL) == 0)
        return v;
    return NULL;
}

static json_t *late_of(const json_t *o)
{
    const json_t *list = json_object_get(o, "late");
    json_t *ret = json_array_size(list) ? json_array() : NULL;
    for (size_t i = 0; ret && i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        json_array_append_new(ret, json_pack("{s:I s:o?}", "attempt", (json_int_t)int_of(one, "attempt", 0),
                                             "result", result_of(one)));
    }
    return ret;
}

static int read_status(const json_t *o, struct job_status *s, struct err *err)
{
    *s = (struct job_status){
        .attempt = int_of(o, "attempt", 0),
        .fails = int_of(o, "fails", 0),
        .deaths = int_of(o, "deaths", 0),
        .submitted_ms = int_of(o, "sub", 0),
        .started_ms = int_of(o, "start", 0),
        .finished_ms = int_of(o, "fin", 0),
        .expires_ms = int_of(o, "exp", 0),
        .retry_ms = int_of(o, "retry", 0),
        .now_ms = int_of(o, "now", 0),
        .position = int_of(o, "pos", -1),
        .step = int_of(o, "step", 0),
        .total = int_of(o, "total", 0),
        .eta_s = num_of(o, "eta", -1),
        .start_s = num_of(o, "start_s", -1),
        .stop = (enum job_stop)int_of(o, "stop", 0),
    };
    copy_text(o, "worker", s->worker, sizeof(s->worker));
    copy_text(o, "stage", s->stage, sizeof(s->stage));
    copy_text(o, "code", s->error_code, sizeof(s->error_code));
    copy_text(o, "error", s->error, sizeof(s->error));
    return state_of(o, &s->state, err);
}

int queue_read_get(const void *bytes, size_t len, struct job_view *ret, struct err *err)
{
    struct job_view v = {0};
    json_t *o = NULL;
    size_t used = 0;
    int rc = open_answer(bytes, len, &used, &o, err);
    if (rc == 0)
        rc = read_status(o, &v.status, err);
    if (rc == 0)
        rc = job_unpack((const char *)bytes + used, len - used, &v.job, err);
    if (rc == 0) {
        v.status.result = result_of(o);
        v.status.late = late_of(o);
        v.status.history = json_incref(json_object_get(o, "history"));
        *ret = v;
    }
    json_decref(o);
    return rc;
}

int queue_read_list(const void *bytes, size_t len, json_t **ret, char ret_cursor[64], struct err *err)
{
    static const char *const names[][2] = {
        {"sub", "submitted_ms"}, {"start", "started_ms"}, {"fin", "finished_ms"}, {"prio", "priority"},
        {"gen", "generator"},    {"eta", "eta_s"},        {"code", "error_code"},
    };
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    if (rc < 0) {
        json_decref(o);
        return rc;
    }
    json_t *jobs = json_object_get(o, "jobs");
    for (size_t i = 0; i < json_array_size(jobs); i++) {
        json_t *job = json_array_get(jobs, i);
        for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
            json_object_set(job, names[k][1], json_object_get(job, names[k][0]));
            json_object_del(job, names[k][0]);
        }
    }
    copy_text(o, "cursor", ret_cursor, 64);
    *ret = jobs ? json_incref(jobs) : json_array();
    json_decref(o);
    return 0;
}

int queue_read_cancel(const void *bytes, size_t len, struct queue_cancelled *ret, struct err *err)
{
    struct queue_cancelled v = {0};
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    if (rc == 0)
        rc = state_of(o, &v.state, err);
    v.stopping = json_is_true(json_object_get(o, "stopping"));
    if (rc == 0)
        *ret = v;
    json_decref(o);
    return rc;
}

int queue_read_event(const void *bytes, size_t len, struct queue_event *ret, struct err *err)
{
    json_t *o = NULL;
    struct queue_event e;
    int rc = bytes ? pack_read(bytes, len, NULL, &o, err) : ERR_FORMAT;
    if (rc == 0)
        rc = state_of(o, &e.state, err);
    if (rc == 0) {
        enum job_state state = e.state;
        e = (struct queue_event){.state = state,
                                 .attempt = int_of(o, "attempt", 0),
                                 .time_ms = int_of(o, "t", 0),
                                 .step = int_of(o, "step", 0),
                                 .total = int_of(o, "total", 0),
                                 .eta_s = num_of(o, "eta", -1)};
        copy_text(o, "id", e.id, sizeof(e.id));
        copy_text(o, "what", e.what, sizeof(e.what));
        copy_text(o, "stage", e.stage, sizeof(e.stage));
        copy_text(o, "worker", e.worker, sizeof(e.worker));
        copy_text(o, "code", e.code, sizeof(e.code));
        copy_text(o, "why", e.why, sizeof(e.why));
        *ret = e;
    }
    json_decref(o);
    return rc < 0 ? err_set(err, rc, "an event is not of the expected form") : 0;
}

int queue_read_claim(const void *bytes, size_t len, struct queue_claimed *ret, struct err *err)
{
    json_t *o = NULL;
    size_t used = 0;
    int rc = open_answer(bytes, len, &used, &o, err);
    if (rc == 0) {
        struct queue_claimed v = {.got = json_is_true(json_object_get(o, "got")),
                                  .quiet = json_is_true(json_object_get(o, "quiet")),
                                  .attempt = int_of(o, "attempt", 0),
                                  .fails = int_of(o, "fails", 0),
                                  .deaths = int_of(o, "deaths", 0),
                                  .run_left_ms = int_of(o, "run", 0),
                                  .rank = (int)int_of(o, "rank", 0),
                                  .size = (int)int_of(o, "size", 1),
                                  .ranks = json_incref(json_object_get(o, "ranks"))};
        copy_text(o, "gang", v.gang, sizeof(v.gang));
        if (v.got)
            rc = job_unpack((const char *)bytes + used, len - used, &v.job, err);
        if (rc == 0)
            *ret = v;
        else
            json_decref(v.ranks);
    }
    json_decref(o);
    return rc;
}

int queue_read_heard(const void *bytes, size_t len, struct queue_heard *ret, struct err *err)
{
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    if (rc == 0)
        *ret = (struct queue_heard){.stop = (enum job_stop)int_of(o, "stop", 0),
                                    .quiet = json_is_true(json_object_get(o, "quiet"))};
    json_decref(o);
    return rc;
}

static int read_state(const void *bytes, size_t len, enum job_state *ret, struct err *err)
{
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    if (rc == 0)
        rc = state_of(o, ret, err);
    json_decref(o);
    return rc;
}

int queue_read_settle(const void *bytes, size_t len, enum job_state *ret_state, struct err *err)
{
    return read_state(bytes, len, ret_state, err);
}

int queue_read_release(const void *bytes, size_t len, enum job_state *ret_state, struct err *err)
{
    return read_state(bytes, len, ret_state, err);
}

int queue_read_hook_take(const void *bytes, size_t len, struct queue_hook **ret, size_t *ret_n, int64_t *ret_next_ms,
                         struct err *err)
{
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    const json_t *list = json_object_get(o, "list");
    size_t n = json_array_size(list);
    struct queue_hook *hooks = rc == 0 ? mem_zalloc((n + 1) * sizeof(*hooks)) : NULL;
    if (rc == 0 && !hooks)
        rc = err_set(err, ERR_NOMEM, "no memory for deliveries");
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const json_t *one = json_array_get(list, i);
        hooks[i] = (struct queue_hook){.tries = int_of(one, "tries", 0),
                                       .created_ms = int_of(one, "t", 0),
                                       .hold = int_of(one, "hold", 0)};
        copy_text(one, "id", hooks[i].id, sizeof(hooks[i].id));
        copy_text(one, "job", hooks[i].job, sizeof(hooks[i].job));
        copy_text(one, "event", hooks[i].event, sizeof(hooks[i].event));
    }
    if (rc == 0) {
        *ret = hooks;
        *ret_n = n;
        *ret_next_ms = int_of(o, "next", -1);
    }
    json_decref(o);
    return rc;
}

int queue_read_expire(const void *bytes, size_t len, struct queue_expired *ret, struct err *err)
{
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    if (rc == 0)
        *ret = (struct queue_expired){.n_leases = int_of(o, "leases", 0),
                                      .n_retries = int_of(o, "retries", 0),
                                      .n_deadlines = int_of(o, "deadlines", 0),
                                      .n_waiting = int_of(o, "waiting", 0),
                                      .forget = json_incref(json_object_get(o, "forget"))};
    json_decref(o);
    return rc;
}
