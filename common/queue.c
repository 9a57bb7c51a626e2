/* queue.c -- the queue's commands, without I/O, in the header's order (queue_read.c reads the answers). The argument
 * of a function is a msgpack map; `call` makes it from a json value. */
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
#define HOOKS_MAX 50

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

/* ---- clients ---- */

static int set_text(json_t *o, const char *key, const char *text)
{
    return json_object_set_new(o, key, json_string(text));
}

static int set_number(json_t *o, const char *key, int64_t v)
{
    return json_object_set_new(o, key, json_integer((json_int_t)v));
}

int queue_cmd_submit(struct queue_cmd *c, const struct queue *q, const struct job *job, int64_t max_queue,
                     struct err *err)
{
    json_t *o = json_object();
    bool hooked = job->webhook[0];
    int bad = !o;
    bad |= set_text(o, "id", job->id);
    bad |= set_text(o, "gen", job->generator);
    bad |= set_text(o, "tenant", job->tenant);
    bad |= set_text(o, "labels", job->labels);
    bad |= set_text(o, "idem", job->idem_key);
    bad |= set_text(o, "fp", job->fingerprint[0] ? job->fingerprint : "-");
    bad |= set_text(o, "cache", job->no_cache ? "" : job->cache_key);
    bad |= set_text(o, "hook", !hooked ? "" : job->webhook_events[0] ? job->webhook_events : "end");
    bad |= set_number(o, "ver", job->version);
    bad |= set_number(o, "prio", job->priority);
    bad |= set_number(o, "bytes", job->plan_bytes);
    bad |= set_number(o, "gmin", job->group_min > 1 ? job->group_min : 1);
    bad |= set_number(o, "gmax", job->group_max > 1 ? job->group_max : 1);
    bad |= set_number(o, "ds", job->deadline_start_ms);
    bad |= set_number(o, "dr", job->deadline_run_ms);
    bad |= set_number(o, "ttl", job->ttl_ms > 0 ? job->ttl_ms : TTL_DEFAULT_MS);
    bad |= set_number(o, "due", job->not_before_ms);
    bad |= set_number(o, "delay", job->delay_ms);
    bad |= set_number(o, "max", max_queue);
    bad |= json_object_set_new(o, "gflop", json_real(isfinite(job->gflop) ? job->gflop : 0));
    if (bad) {
        json_decref(o);
        o = NULL;
    }
    return call_with(c, q, "troupe_submit", o, job, err);
}

int queue_cmd_owner(struct queue_cmd *c, const struct queue *q, const char *id, struct err *err)
{
    int rc = check_id(id, err);
    if (rc < 0)
        return rc;
    words(c, 1, (const char *const[]){"HGET"});
    buf_init(&c->body, sizeof(q->base) + JOB_ID + 8);
    rc = buf_printf(&c->body, "%s:job:%s", q->base, id);
    if (rc < 0)
        return err_set(err, rc, "%s", err_text(rc));
    word_n(c, c->body.data, c->body.len);
    word(c, "tenant");
    return 0;
}

int queue_cmd_get(struct queue_cmd *c, const struct queue *q, const char *id, bool history, struct err *err)
{
    int rc = check_id(id, err);
    return rc < 0 ? rc : call(c, q, "troupe_get", json_pack("{s:s s:b}", "id", id, "history", history), err);
}

/* The filter's members that choose, as arguments. */
static json_t *filter_args(const struct queue_filter *f)
{
    json_t *o = json_object();
    if (f && f->state >= 0)
        set_text(o, "state", job_state_text((enum job_state)f->state));
    if (f && f->tenant)
        set_text(o, "tenant", f->tenant);
    if (f && f->generator)
        set_text(o, "gen", f->generator);
    if (f && f->code)
        set_text(o, "code", f->code);
    if (f && f->worker)
        set_text(o, "worker", f->worker);
    return o;
}

int queue_cmd_list(struct queue_cmd *c, const struct queue *q, const struct queue_filter *filter, const char *cursor,
                   int limit, struct err *err)
{
    if (limit < 1 || limit > 100)
        return err_set(err, ERR_INVALID, "limit: %d is not allowed; 1 to 100 is", limit);
    json_t *o = filter_args(filter);
    set_text(o, "cursor", cursor);
    set_number(o, "limit", limit);
    return call(c, q, "troupe_list", o, err);
}

int queue_cmd_redrive(struct queue_cmd *c, const struct queue *q, const struct queue_filter *filter, struct err *err)
{
    json_t *o = filter_args(filter);
    set_number(o, "max", PURGE_MAX);
    return call(c, q, "troupe_redrive", o, err);
}

int queue_cmd_cancel(struct queue_cmd *c, const struct queue *q, const char *id, const char *who,
                     struct err *err)
{
    int rc = check_id(id, err);
    return rc < 0 ? rc : call(c, q, "troupe_cancel", json_pack("{s:s s:s}", "id", id, "who", who), err);
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

int queue_cmd_forgot(struct queue_cmd *c, const struct queue *q, const char *id, struct err *err)
{
    return call_id(c, q, "troupe_forgot", id, err);
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

int queue_cmd_pause(struct queue_cmd *c, const struct queue *q, enum queue_scope scope, const char *name, bool paused,
                    struct err *err)
{
    static const char *const scopes[] = {"queue", "generator", "tenant"};
    if (scope != QUEUE_ALL && (!name || !queue_tenant_ok(name)))
        return err_set(err, ERR_INVALID, "%s: a name of letters, digits, _ . and - is expected", scopes[scope]);
    return call(c, q, "troupe_pause",
                json_pack("{s:s s:s s:b}", "scope", scopes[scope], "name", name ? name : "", "on", paused), err);
}

int queue_cmd_stats(struct queue_cmd *c, const struct queue *q, struct err *err)
{
    return call(c, q, "troupe_stats", json_object(), err);
}

int queue_cmd_workers(struct queue_cmd *c, const struct queue *q, struct err *err)
{
    return call(c, q, "troupe_workers", json_object(), err);
}

int queue_cmd_tenants(struct queue_cmd *c, const struct queue *q, struct err *err)
{
    return call(c, q, "troupe_tenants", json_object(), err);
}

int queue_cmd_models(struct queue_cmd *c, const struct queue *q, struct err *err)
{
    return call(c, q, "troupe_models", json_object(), err);
}

bool queue_tenant_ok(const char *name)
{
    size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");
    return n <= 48 && name[n] == 0;
}

int queue_cmd_tenant(struct queue_cmd *c, const struct queue *q, const struct queue_tenant *t, struct err *err)
{
    if (!queue_tenant_ok(t->name))
        return err_set(err, ERR_INVALID, "tenant: '%.60s' is not a name of at most 48 letters, digits, _ . and -", t->name);
    if (t->max_running < 0 || t->max_queued < 0 || t->gpu_s_day < 0 || t->rate_per_min < 0 || t->burst < 0 || t->weight < 0)
        return err_set(err, ERR_INVALID, "tenant %s: a limit below 0 is not allowed", t->name);
    return call(c, q, "troupe_tenant",
                json_pack("{s:s s:f s:I s:I s:f s:f s:I}", "name", t->name, "weight", t->weight > 0 ? t->weight : 1.0,
                          "max_running", (json_int_t)t->max_running, "max_queued", (json_int_t)t->max_queued,
                          "gpu_s_day", t->gpu_s_day, "rate", t->rate_per_min, "burst", (json_int_t)t->burst),
                err);
}

int queue_cmd_hook_take(struct queue_cmd *c, const struct queue *q, int n, int64_t hold_ms, struct err *err)
{
    if (n < 1 || n > HOOKS_MAX)
        return err_set(err, ERR_INVALID, "deliveries: %d at once are not allowed; 1 to %d are", n, HOOKS_MAX);
    return call(c, q, "troupe_hook_take", json_pack("{s:i s:I}", "n", n, "hold", (json_int_t)hold_ms), err);
}

int queue_cmd_hook_done(struct queue_cmd *c, const struct queue *q, const struct queue_hook *hook,
                        enum queue_hook_verdict verdict, int status, double seconds, const char *why, struct err *err)
{
    static const char *const verdicts[] = {"ok", "again", "drop"};
    return call(c, q, "troupe_hook_done",
                json_pack("{s:s s:I s:s s:i s:f s:s}", "id", hook->id, "hold", (json_int_t)hook->hold, "verdict",
                          verdicts[verdict], "status", status, "seconds", seconds, "why",
                          why && str_utf8_ok(why, strlen(why)) ? why : ""),
                err);
}

int queue_cmd_hooks(struct queue_cmd *c, const struct queue *q, const char *job, struct err *err)
{
    return call_id(c, q, "troupe_hooks", job, err);
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

static const char *or_none(const char *text)
{
    return text ? text : "";
}

int queue_cmd_claim(struct queue_cmd *c, const struct queue *q, const struct queue_offer *o, struct err *err)
{
    return call(c, q, "troupe_claim",
                json_pack("{s:s s:s s:I s:i s:I s:s s:s s:s s:s s:s}", "worker", o->worker, "gens", o->generators, "bytes",
                          (json_int_t)o->bytes, "ver", JOB_VERSION, "lease", (json_int_t)o->lease_ms, "token",
                          or_none(o->token), "labels", or_none(o->labels), "warm", or_none(o->warm), "host",
                          or_none(o->host), "device", or_none(o->device)),
                err);
}

int queue_cmd_renew(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt, int rank,
                    int64_t lease_ms, struct err *err)
{
    return call(c, q, "troupe_renew",
                json_pack("{s:s s:I s:i s:I}", "id", id, "attempt", (json_int_t)attempt, "rank", rank, "lease",
                          (json_int_t)lease_ms),
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

static json_t *settle_args(const char *id, int64_t attempt, int code, const char *text, const char *result,
                           const struct queue_limits *limits, const struct queue_used *used)
{
    static const char *const verdicts[] = {
        [ERR_THEN_FAIL] = "fail", [ERR_THEN_RETRY] = "retry", [ERR_THEN_CANCEL] = "stop"};
    static const struct queue_used none;
    bool told = text && *text && str_utf8_ok(text, strlen(text));
    if (!used)
        used = &none;
    return json_pack("{s:s s:I s:s s:s s:s s:s s:i s:I s:f s:o s:s s:b}", "id", id, "attempt", (json_int_t)attempt,
                     "verdict", code == 0 ? "ok" : verdicts[err_then(code)], "code", err_name(code), "error",
                     told ? text : err_text(code), "result", result, "max_fails", limits->max_fails, "backoff",
                     (json_int_t)limits->backoff_ms, "gflop", isfinite(used->gflop) ? used->gflop : 0.0, "stages",
                     used->stages ? json_deep_copy(used->stages) : json_object(), "weights", or_none(used->weights),
                     "unfit", used->unfit);
}

int queue_cmd_settle(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt, int code,
                     const char *text, const json_t *result, const struct queue_limits *limits,
                     const struct queue_used *used, struct err *err)
{
    char *json = code == 0 ? json_dumps(result, JSON_COMPACT) : NULL;
    int rc;
    if (code == 0 && !json)
        rc = err_set(err, ERR_NOMEM, "no memory for the result");
    else if (json && strlen(json) > RESULT_MAX)
        rc = err_set(err, ERR_TOOBIG, "the result has %zu bytes, %d are allowed", strlen(json), RESULT_MAX);
    else
        rc = call(c, q, "troupe_settle", settle_args(id, attempt, code, text, json ? json : "", limits, used), err);
    mem_free(json);
    return rc;
}

int queue_cmd_release(struct queue_cmd *c, const struct queue *q, const char *id, int64_t attempt,
                      const char *why, struct err *err)
{
    return call(c, q, "troupe_release",
                json_pack("{s:s s:I s:s}", "id", id, "attempt", (json_int_t)attempt, "why", why), err);
}

/* ---- the timer ---- */

int queue_cmd_expire(struct queue_cmd *c, const struct queue *q, struct err *err)
{
    return call(c, q, "troupe_expire", json_pack("{s:i}", "max", EXPIRE_MAX), err);
}
