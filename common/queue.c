/* queue.c -- commands and replies of the queue, without I/O. Two kinds of functions, in the header's order:
 * queue_cmd_* fill a queue_cmd, queue_read_* read what Redis answered. The argument of a function is a
 * msgpack map; `call` makes it from a json value; the answer's head is read by `open_answer`, which turns
 * result words into codes. */
#include "common/queue.h"

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/pack.h"
#include "common/str.h"

#define TTL_DEFAULT_MS (INT64_C(7) * 24 * 3600 * 1000)
#define RESULT_MAX (16 * 1024)
#define ARGS_MAX (JOB_RECORD_MAX + RESULT_MAX)
#define EXPIRE_MAX 100
#define PURGE_MAX 1000

extern const unsigned char queue_lua[]; /* queue.lua, embedded by the build */
extern const size_t queue_lua_len;

int queue_init(struct queue *q, const char *name, struct err *err)
{
    size_t n = strlen(name);
    if (n == 0 || n > 40 || !job_id_ok(name))
        return err_set(err, ERR_INVALID, "queue: '%s' is not a name of 1 to 40 characters of A-Z a-z 0-9 _ -",
                       name);
    str_copy(q->name, sizeof(q->name), name);
    return str_format(q->base, sizeof(q->base), "{%s}", name);
}

void queue_cmd_done(struct queue_cmd *c)
{
    buf_done(&c->body);
    *c = (struct queue_cmd){0};
}

static void word_n(struct queue_cmd *c, const char *s, size_t len)
{
    c->argv[c->argc] = s;
    c->argv_len[c->argc++] = len;
}

static void word(struct queue_cmd *c, const char *s)
{
    word_n(c, s, strlen(s));
}

static void words(struct queue_cmd *c, int n, const char *const *list)
{
    queue_cmd_done(c);
    for (int i = 0; i < n; i++)
        word(c, list[i]);
}

/* FCALL name 1 {q} args [record]. Takes over args (NULL: json_pack had no memory, or text that is not UTF-8).
 */
static int call_with(struct queue_cmd *c, const struct queue *q, const char *name, json_t *args,
                     const struct job *job, struct err *err)
{
    words(c, 1, (const char *const[]){"FCALL"});
    buf_init(&c->body, ARGS_MAX);
    int rc = args ? pack_write(&c->body, args, err) : ERR_INVALID;
    size_t args_len = c->body.len;
    json_decref(args);
    if (rc == 0 && job)
        rc = job_pack(job, &c->body, err);
    if (rc < 0) {
        queue_cmd_done(c);
        return err_set(err, rc, "%s: an argument is not valid UTF-8 text, or there is no memory", name);
    }
    str_copy(c->text[0], sizeof(c->text[0]), name);
    str_copy(c->text[1], sizeof(c->text[1]), q->base);
    word(c, c->text[0]);
    word(c, "1");
    word(c, c->text[1]);
    word_n(c, c->body.data, args_len);
    if (job)
        word_n(c, c->body.data + args_len, c->body.len - args_len);
    return 0;
}

static int call(struct queue_cmd *c, const struct queue *q, const char *name, json_t *args, struct err *err)
{
    return call_with(c, q, name, args, NULL, err);
}

static int check_id(const char *id, struct err *err)
{
    if (job_id_ok(id))
        return 0;
    return err_set(err, ERR_NOTFOUND, "no job has an id of that form");
}

/* ---- at start ---- */

int queue_cmd_info(struct queue_cmd *c)
{
    words(c, 1, (const char *const[]){"INFO"});
    return 0;
}

/* The value of "name:value\r\n", "" if it is not there. */
static void info_value(const char *text, const char *name, char *ret, size_t size)
{
    size_t n = strlen(name);
    str_copy(ret, size, "");
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, n) != 0 || line[n] != ':')
            continue;
        size_t len = strcspn(line + n + 1, "\r\n");
        if (len < size) {
            memcpy(ret, line + n + 1, len);
            ret[len] = 0;
        }
        return;
    }
}

int queue_check_info(const char *text, size_t len, struct err *err)
{
    char version[32], policy[32], maxmemory[32], major[32];
    int64_t n = 0;
    (void)len;
    info_value(text, "redis_version", version, sizeof(version));
    info_value(text, "maxmemory_policy", policy, sizeof(policy));
    info_value(text, "maxmemory", maxmemory, sizeof(maxmemory));
    str_copy(major, sizeof(major), version);
    major[strcspn(major, ".")] = 0;
    if (str_parse_i64(major, 0, 1000, &n) < 0 || n < 7)
        return err_set(err, ERR_REDIS,
                       "Redis %s is too old: version 7.0 or newer is needed (it has functions)",
                       version[0] ? version : "of an unknown version");
    if (policy[0] && strcmp(policy, "noeviction") != 0)
        return err_set(
            err, ERR_REDIS,
            "Redis may throw jobs away: its maxmemory-policy is %s; set it to noeviction (CONFIG SET "
            "maxmemory-policy noeviction, and the same in redis.conf)",
            policy);
    return 0;
}

int queue_cmd_version(struct queue_cmd *c)
{
    words(c, 3, (const char *const[]){"FCALL_RO", "troupe_version", "0"});
    return 0;
}

int queue_version(void)
{
    static const char mark[] = "VERSION = ";
    const char *at = memmem(queue_lua, queue_lua_len, mark, sizeof(mark) - 1);
    int v = 0;
    for (at = at ? at + sizeof(mark) - 1 : ""; *at >= '0' && *at <= '9' && v < 100000000; at++)
        v = v * 10 + (*at - '0');
    return v;
}

int queue_read_version(const char *bytes, size_t len, bool *ret_load, struct err *err)
{
    char text[24];
    int64_t theirs = 0;
    if (bytes && len < sizeof(text)) {
        memcpy(text, bytes, len);
        text[len] = 0;
        if (str_parse_i64(text, 0, 1000000000, &theirs) < 0)
            theirs = 0;
    }
    if (theirs / 1000 > queue_version() / 1000)
        return err_set(err, ERR_UNSUPPORTED,
                       "the queue in Redis is of version %d, this program knows %d: update it", (int)theirs,
                       queue_version());
    *ret_load = theirs < queue_version();
    return 0;
}

int queue_cmd_load(struct queue_cmd *c)
{
    words(c, 3, (const char *const[]){"FUNCTION", "LOAD", "REPLACE"});
    word_n(c, (const char *)queue_lua, queue_lua_len);
    return 0;
}

/* How Redis' error replies begin, and what each means to us. */
static const struct {
    const char *begin;
    int code;
    const char *sentence;
} redis_errors[] = {
    {"ERR Function not found", ERR_NOTFOUND, "the queue's functions are not loaded"},
    {"NOAUTH", ERR_REDIS,
     "Redis wants a password: put it into the setting redis (redis://:PASSWORD@host:port/0)"},
    {"WRONGPASS", ERR_REDIS,
     "Redis refuses the password of the setting redis: correct it (redis://:PASSWORD@host:port/0)"},
    {"ERR AUTH", ERR_REDIS, "Redis has no password set, but the setting redis names one"},
    {"ERR invalid password", ERR_REDIS,
     "Redis refuses the password of the setting redis: correct it (redis://:PASSWORD@host:port/0)"},
    {"NOPERM", ERR_REDIS,
     "the Redis user may not run the queue's commands (FCALL, FUNCTION, INFO, BLPOP, XREAD)"},
    {"OOM", ERR_NOMEM, "Redis is at its maxmemory: raise it, or let jobs end"},
    {"LOADING", ERR_REDIS, "Redis is still loading its data"},
    {"READONLY", ERR_REDIS, "this Redis is a read-only replica: name the master in the setting redis"},
    {"MISCONF", ERR_REDIS, "Redis cannot write to its disk and takes no changes"},
    {"BUSY", ERR_REDIS, "Redis is busy with a script"},
    {"ERR unknown command", ERR_REDIS,
     "this Redis is too old: version 7.0 or newer is needed (it has functions)"},
    {"ERR DB index", ERR_REDIS, "Redis has no database of the number in the setting redis"},
};

int queue_error(const char *text, size_t len, struct err *err)
{
    for (size_t i = 0; i < sizeof(redis_errors) / sizeof(redis_errors[0]); i++) {
        size_t n = strlen(redis_errors[i].begin);
        if (len >= n && strncmp(text, redis_errors[i].begin, n) == 0)
            return err_set(err, redis_errors[i].code, "%s", redis_errors[i].sentence);
    }
    return err_set(err, ERR_REDIS, "Redis answered: %.*s", (int)(len < 300 ? len : 300), text);
}

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
        rc = err_set(err, ERR_LIMIT,
                     "the queue is full: %lld jobs wait, which is its limit; try again in %lld s",
                     (long long)int_of(o, "max", 0), (long long)int_of(o, "wait_s", 1));
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

/* ---- clients ---- */

int queue_cmd_submit(struct queue_cmd *c, const struct queue *q, const struct job *job, int64_t max_queue,
                     struct err *err)
{
    json_t *args = json_pack(
        "{s:s s:s s:i s:i s:I s:s s:I s:I s:I s:s s:s s:I}", "id", job->id, "gen", job->generator, "ver",
        job->version, "prio", job->priority, "bytes", (json_int_t)job->plan_bytes, "tenant", job->tenant,
        "ds", (json_int_t)job->deadline_start_ms, "dr", (json_int_t)job->deadline_run_ms, "ttl",
        (json_int_t)(job->ttl_ms > 0 ? job->ttl_ms : TTL_DEFAULT_MS), "idem", job->idem_key, "fp",
        job->fingerprint[0] ? job->fingerprint : "-", "max", (json_int_t)max_queue);
    return call_with(c, q, "troupe_submit", args, job, err);
}

int queue_read_submit(const void *bytes, size_t len, struct queue_submitted *ret, struct err *err)
{
    json_t *o = NULL;
    int rc = open_answer(bytes, len, NULL, &o, err);
    if (rc == ERR_LIMIT)
        ret->retry_after_s = int_of(o, "wait_s", 1);
    if (rc == 0) {
        *ret = (struct queue_submitted){.again = json_is_true(json_object_get(o, "again")),
                                        .position = int_of(o, "pos", -1)};
        copy_text(o, "id", ret->id, sizeof(ret->id));
    }
    json_decref(o);
    return rc;
}

int queue_cmd_get(struct queue_cmd *c, const struct queue *q, const char *id, bool history, struct err *err)
{
    int rc = check_id(id, err);
    return rc < 0 ? rc : call(c, q, "troupe_get", json_pack("{s:s s:b}", "id", id, "history", history), err);
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

int queue_cmd_list(struct queue_cmd *c, const struct queue *q, int state, const char *cursor, int limit,
                   struct err *err)
{
    if (limit < 1 || limit > 100)
        return err_set(err, ERR_INVALID, "limit: %d is not allowed; 1 to 100 is", limit);
    return call(c, q, "troupe_list",
                json_pack("{s:s s:s s:i}", "state", state < 0 ? "" : job_state_text((enum job_state)state),
                          "cursor", cursor, "limit", limit),
                err);
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

int queue_cmd_cancel(struct queue_cmd *c, const struct queue *q, const char *id, const char *who,
                     struct err *err)
{
    int rc = check_id(id, err);
    return rc < 0 ? rc : call(c, q, "troupe_cancel", json_pack("{s:s s:s}", "id", id, "who", who), err);
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

static int call_id(struct queue_cmd *c, const struct queue *q, const char *name, const char *id,
                   struct err *err)
{
    int rc = check_id(id, err);
    return rc < 0 ? rc : call(c, q, name, json_pack("{s:s}", "id", id), err);
}

int queue_cmd_retry(struct queue_cmd *c, const struct queue *q, const char *id, struct err *err)
{
    return call_id(c, q, "troupe_retry", id, err);
}

int queue_cmd_delete(struct queue_cmd *c, const struct queue *q, const char *id, struct err *err)
{
    return call_id(c, q, "troupe_delete", id, err);
}

int queue_cmd_why(struct queue_cmd *c, const struct queue *q, const char *id, struct err *err)
{
    return call_id(c, q, "troupe_why", id, err);
}

int queue_cmd_purge(struct queue_cmd *c, const struct queue *q, struct err *err)
{
    return call(c, q, "troupe_purge", json_pack("{s:i}", "max", PURGE_MAX), err);
}

int queue_cmd_pause(struct queue_cmd *c, const struct queue *q, bool paused, struct err *err)
{
    return call(c, q, "troupe_pause", json_pack("{s:b}", "on", paused), err);
}

int queue_cmd_stats(struct queue_cmd *c, const struct queue *q, struct err *err)
{
    return call(c, q, "troupe_stats", json_object(), err);
}

int queue_cmd_workers(struct queue_cmd *c, const struct queue *q, struct err *err)
{
    return call(c, q, "troupe_workers", json_object(), err);
}

int queue_cmd_quiet(struct queue_cmd *c, const struct queue *q, const char *worker, bool quiet,
                    struct err *err)
{
    return call(c, q, "troupe_quiet", json_pack("{s:s s:b}", "worker", worker, "on", quiet), err);
}

/* ---- the event stream ---- */

static void key(struct queue_cmd *c, int slot, const struct queue *q, const char *name)
{
    str_format(c->text[slot], sizeof(c->text[slot]), "%s:%s", q->base, name);
}

int queue_cmd_events(struct queue_cmd *c, const struct queue *q, const char *last_id, int64_t block_ms,
                     int count)
{
    queue_cmd_done(c);
    key(c, 0, q, "events");
    str_format(c->text[1], sizeof(c->text[1]), "%lld", (long long)(block_ms > 0 ? block_ms : 1));
    str_format(c->text[2], sizeof(c->text[2]), "%d", count);
    int rc = str_copy(c->text[3], sizeof(c->text[3]), last_id);
    const char *const list[] = {"XREAD",    "COUNT",   c->text[2], "BLOCK",
                                c->text[1], "STREAMS", c->text[0], c->text[3]};
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        word(c, list[i]);
    return rc;
}

int queue_cmd_replay(struct queue_cmd *c, const struct queue *q, const char *from, int count)
{
    queue_cmd_done(c);
    key(c, 0, q, "events");
    str_format(c->text[2], sizeof(c->text[2]), "%d", count);
    int rc = str_format(c->text[3], sizeof(c->text[3]), "%s%s", strcmp(from, "-") == 0 ? "" : "(", from);
    const char *const list[] = {"XRANGE", c->text[0], c->text[3], "+", "COUNT", c->text[2]};
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        word(c, list[i]);
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

/* ---- workers ---- */

int queue_cmd_wake(struct queue_cmd *c, const struct queue *q, int64_t timeout_ms)
{
    queue_cmd_done(c);
    key(c, 0, q, "wake");
    str_format(c->text[1], sizeof(c->text[1]), "%.3f", (double)(timeout_ms > 0 ? timeout_ms : 1) / 1000);
    word(c, "BLPOP");
    word(c, c->text[0]);
    word(c, c->text[1]);
    return 0;
}

int queue_cmd_hello(struct queue_cmd *c, const struct queue *q, const char *worker, int64_t ttl_ms,
                    const json_t *info, struct err *err)
{
    return call(c, q, "troupe_hello",
                json_pack("{s:s s:I s:O}", "worker", worker, "ttl", (json_int_t)ttl_ms, "info", info), err);
}

int queue_cmd_bye(struct queue_cmd *c, const struct queue *q, const char *worker, struct err *err)
{
    return call(c, q, "troupe_bye", json_pack("{s:s}", "worker", worker), err);
}

int queue_cmd_claim(struct queue_cmd *c, const struct queue *q, const struct queue_offer *offer,
                    struct err *err)
{
    return call(c, q, "troupe_claim",
                json_pack("{s:s s:s s:I s:i s:I s:s}", "worker", offer->worker, "gens", offer->generators,
                          "bytes", (json_int_t)offer->bytes, "ver", JOB_VERSION, "lease",
                          (json_int_t)offer->lease_ms, "token", offer->token ? offer->token : ""),
                err);
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
                                  .run_left_ms = int_of(o, "run", 0)};
        if (v.got)
            rc = job_unpack((const char *)bytes + used, len - used, &v.job, err);
        if (rc == 0)
            *ret = v;
    }
    json_decref(o);
    return rc;
}

int queue_cmd_renew(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt,
                    int64_t lease_ms, struct err *err)
{
    return call(
        c, q, "troupe_renew",
        json_pack("{s:s s:I s:I}", "id", id, "attempt", (json_int_t)attempt, "lease", (json_int_t)lease_ms),
        err);
}

int queue_cmd_progress(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt,
                       const struct queue_progress *p, struct err *err)
{
    double eta = isfinite(p->eta_s) && p->eta_s >= 0 ? p->eta_s : -1;
    return call(c, q, "troupe_progress",
                json_pack("{s:s s:I s:s s:I s:I s:f}", "id", id, "attempt", (json_int_t)attempt, "stage",
                          p->stage, "step", (json_int_t)p->step, "total", (json_int_t)p->total, "eta", eta),
                err);
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

int queue_cmd_settle(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt, int code,
                     const char *text, const json_t *result, const struct queue_limits *limits,
                     struct err *err)
{
    static const char *const verdicts[] = {
        [ERR_THEN_FAIL] = "fail", [ERR_THEN_RETRY] = "retry", [ERR_THEN_CANCEL] = "stop"};
    char *json = code == 0 ? json_dumps(result, JSON_COMPACT) : NULL;
    const char *verdict = code == 0 ? "ok" : verdicts[err_then(code)];
    size_t n = text ? strlen(text) : 0;
    int rc;
    if (code == 0 && !json)
        rc = err_set(err, ERR_NOMEM, "no memory for the result");
    else if (json && strlen(json) > RESULT_MAX)
        rc = err_set(err, ERR_TOOBIG, "the result has %zu bytes, %d are allowed", strlen(json), RESULT_MAX);
    else
        rc = call(c, q, "troupe_settle",
                  json_pack("{s:s s:I s:s s:s s:s s:s s:i s:I}", "id", id, "attempt", (json_int_t)attempt,
                            "verdict", verdict, "code", err_name(code), "error",
                            n && str_utf8_ok(text, n) ? text : err_text(code), "result", json ? json : "",
                            "max_fails", limits->max_fails, "backoff", (json_int_t)limits->backoff_ms),
                  err);
    mem_free(json);
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

int queue_cmd_release(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt,
                      const char *why, struct err *err)
{
    return call(c, q, "troupe_release",
                json_pack("{s:s s:I s:s}", "id", id, "attempt", (json_int_t)attempt, "why", why), err);
}

int queue_read_release(const void *bytes, size_t len, enum job_state *ret_state, struct err *err)
{
    return read_state(bytes, len, ret_state, err);
}

/* ---- the timer ---- */

int queue_cmd_expire(struct queue_cmd *c, const struct queue *q, struct err *err)
{
    return call(c, q, "troupe_expire", json_pack("{s:i}", "max", EXPIRE_MAX), err);
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
