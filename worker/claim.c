/* claim.c -- see the header. `struct claim` is the worker; claim_serve starts its parts and `serve` loops. An
 * end of a job is told until it is heard (`settle_job`), however long Redis is away: the fence makes
 * repeating harmless. */
#include "worker/claim.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "common/blob.h"
#include "common/clock.h"
#include "common/cost.h"
#include "common/crash.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/queue.h"
#include "common/redis_sync.h"
#include "common/str.h"
#include "common/version.h"
#include "kernels/device.h"
#include "worker/gang.h"
#include "worker/generator.h"
#include "worker/lease.h"
#include "worker/pipeline.h"

#define WAKE_MS 1000
#define CALL_MS 5000
#define REPLY_MAX (1 << 20)
#define SETTLE_S 600 /* Redis may be away so long before a finished job is left to its lease */
#define STOPPING_S 3 /* the same for a worker that was told to stop */
#define QUIET_MS 500
#define HELD_MS 50 /* held for a gang: the lease begins when the last of it claims */
#define PLAN_MS 20
#define GENERATORS_MAX 8
#define WEIGHTS_TEXT 96

struct claim {
    struct generator_env env;
    struct queue queue;
    char worker[64];
    char generators[128];         /* "avatar,..." */
    void *states[GENERATORS_MAX]; /* owned, by generator_at's index */
    struct redis_sync *redis;     /* owned */
    struct queue_cmd cmd;
    struct buf reply;
    struct lease *lease; /* owned */
    pthread_mutex_t lock; /* of the next three, which the lease thread reads */
    char *cost[GENERATORS_MAX];       /* owned: cost model as JSON text; NULL: not planned yet */
    char weights[GENERATORS_MAX][WEIGHTS_TEXT]; /* as weights_of; "": not known yet */
    bool warm[GENERATORS_MAX];        /* has run a job: its weights are in memory */
    size_t planning;                  /* generator whose cost is being planned; past the last: all are */
    int part;                         /* of its model */
    struct cost_model model;
    bool away;           /* Redis did not answer last time */
    bool quiet;          /* told to take nothing */
    bool held;           /* for a job of several devices */
    char process[JOB_ID]; /* claims are numbered within it */
    int64_t n_claims;
    char host[64];  /* whose workers make gangs with this one; "" for none */
    char token[64]; /* of the claim that was not answered yet; "" for none */
};

/* ---- what the worker says of itself ---- */

static json_t *components_of(const struct claim *c)
{
    json_t *list = json_array();
    for (size_t g = 0; list && generator_at(g); g++) {
        const char *name, *status, *why;
        double seconds;
        for (int i = 0; generator_at(g)->component(c->states[g], i, &name, &status, &seconds, &why) == 0; i++)
            json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:f,s:s}", "generator", generator_at(g)->name,
                                                  "name", name, "status", status, "seconds", seconds, "error",
                                                  why));
    }
    return list;
}

/* Memory that a job may take here. */
static int64_t memory_of(const struct claim *c)
{
    int64_t all = (int64_t)c->env.device->memory_bytes, limit = c->env.conf->max_memory_mib << 20;
    return limit > 0 && limit < all ? limit : all;
}

static void warm_list(struct claim *c, char *dst, size_t size)
{
    dst[0] = 0;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; generator_at(i); i++) {
        size_t n = strlen(dst);
        if (c->warm[i])
            str_format(dst + n, size - n, "%s%s", n ? "," : "", generator_at(i)->name);
    }
    pthread_mutex_unlock(&c->lock);
}

/* Of each generator: what its jobs cost, and which weights it has. */
static void add_models(struct claim *c, json_t *info)
{
    char key[64];
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; generator_at(i); i++) {
        if (c->cost[i] && str_format(key, sizeof(key), "cost:%s", generator_at(i)->name) == 0)
            json_object_set_new(info, key, json_string(c->cost[i]));
        if (c->weights[i][0] && str_format(key, sizeof(key), "weights:%s", generator_at(i)->name) == 0)
            json_object_set_new(info, key, json_string(c->weights[i]));
    }
    pthread_mutex_unlock(&c->lock);
}

/* On the lease thread. */
static json_t *worker_info(void *arg, bool busy)
{
    struct claim *c = arg;
    const struct device *d = c->env.device;
    char host[64] = "", warm[128];
    gethostname(host, sizeof(host) - 1);
    warm_list(c, warm, sizeof(warm));
    json_t *parts = components_of(c);
    char *text = parts ? json_dumps(parts, JSON_COMPACT) : NULL;
    json_t *info = json_pack("{s:i,s:s,s:s,s:s,s:I,s:s,s:s,s:s,s:i,s:s,s:s,s:i,s:s,s:s}", "pid", (int)getpid(), "host",
                             host, "device", d->name, "kind", d->kind, "memory_bytes", (json_int_t)memory_of(c),
                             "version", version_text(), "build", version_build(), "generators", c->generators, "ver",
                             JOB_VERSION, "labels", c->env.conf->labels, "warm", warm, "gang", c->host[0] != 0, "state",
                             busy ? "busy" : "ready", "components", text ? text : "[]");
    if (info)
        add_models(c, info);
    mem_free(text);
    json_decref(parts);
    return info;
}

/* ---- talking ---- */

static int send(struct claim *c, int built, struct err *err)
{
    struct err why = {0};
    int rc = built < 0 ? built : redis_sync_call(c->redis, &c->cmd, CALL_MS, &c->reply, &why);
    if ((rc == 0) == c->away)
        LOG(WARN, rc == 0 ? "Redis is back" : "Redis does not answer; going on trying",
            log_str("redis", redis_sync_name(c->redis)), log_str("why", rc == 0 ? NULL : why.text));
    c->away = rc < 0;
    return rc < 0 ? err_set(err, rc, "%s", why.text) : 0;
}

/* What decides a video beside its request: the weights' digest, and how this worker computes. A worker that takes its noise
 * from a file, or is watched, makes videos of its own: its results answer no other job. */
static void weights_of(const struct claim *c, const json_t *report, char dst[WEIGHTS_TEXT])
{
    const struct conf *conf = c->env.conf;
    const char *digest = json_string_value(json_object_get(report, "weights_sha256"));
    str_copy(dst, WEIGHTS_TEXT, "");
    if (digest && !conf->noise[0] && !conf->dump[0])
        str_format(dst, WEIGHTS_TEXT, "%.64s/%.8s/%.8s", digest,
                   device_precision_name(c->env.device->precision), conf->round);
    else if (digest)
        str_format(dst, WEIGHTS_TEXT, "own/%s", c->process);
}

static struct queue_limits limits_of(const struct conf *conf)
{
    return (struct queue_limits){.max_fails = (int)conf->max_fails,
                                 .backoff_ms = (int64_t)(conf->backoff_s * 1000)};
}

/* May the end of an attempt, first said at `began`, be said once more? */
static bool patient(const struct claim *c, int64_t began)
{
    int64_t limit_s = lease_stopping(c->lease) ? STOPPING_S : SETTLE_S;
    return clock_us() - began < limit_s * CLOCK_S;
}

/* The job was deleted while it ran: what was published for it belongs to nobody. */
static void remove_results(const struct claim *c, const char *id)
{
    struct err err = {0};
    if (blob_delete_results(c->env.conf->volume, id, &err) < 0)
        LOG(WARN, "results cannot be removed", log_str("job", id), log_str("why", err.text));
}

/* The trace context of the submit, for the log; NULL prints nothing. */
static const char *trace_of(const struct job *job)
{
    return job->traceparent[0] ? job->traceparent : NULL;
}

/* The end of an attempt, said until it is heard. */
static void settle_job(struct claim *c, const struct queue_claimed *job, int code, const char *text,
                       const json_t *result, const json_t *report)
{
    const struct queue_limits limits = limits_of(c->env.conf);
    char weights[WEIGHTS_TEXT];
    weights_of(c, report, weights);
    const struct queue_used used = {.gflop = json_number_value(json_object_get(report, "flop")) / 1e9,
                                    .stages = json_object_get(report, "stage_seconds"),
                                    .weights = weights,
                                    .unfit = code == ERR_WEIGHTS};
    int64_t began = clock_us();
    enum job_state state = JOB_RUNNING;
    struct err err = {0};
    bool gone = false;
    int rc;
    for (;;) {
        err_clear(&err);
        CRASH_POINT(worker_settle);
        rc = send(c,
                  queue_cmd_settle(&c->cmd, &c->queue, job->job.id, job->attempt, code, text, result, &limits,
                                   &used, &err),
                  &err);
        if (rc == 0) {
            rc = queue_read_settle(c->reply.data, c->reply.len, &state, &err);
            gone = rc == ERR_NOTFOUND;
        }
        if (rc == 0 || gone || rc == ERR_LOST || rc == ERR_TOOBIG || !patient(c, began))
            break;
        clock_sleep_us(500 * CLOCK_MS);
    }
    CRASH_POINT(worker_settled);
    if (gone)
        remove_results(c, job->job.id);
    LOG(INFO, "job ended", log_str("job", job->job.id), log_int("attempt", job->attempt),
        log_str("state", rc == 0 ? job_state_text(state) : NULL), log_code(code),
        log_str("why", code ? text : NULL), log_str("settle", rc == 0 ? NULL : err.text),
        log_str("trace", trace_of(&job->job)));
}

/* The attempt is another's, and nothing is said about it: after a power cut of Redis the other one may have its very
 * number. Only when the job is gone with its record, its folder goes too. */
static void leave_job(struct claim *c, const struct queue_claimed *job)
{
    struct job_view v = {0};
    struct err err = {0};
    LOG(WARN, "job lost to another attempt", log_str("job", job->job.id), log_int("attempt", job->attempt));
    if (send(c, queue_cmd_get(&c->cmd, &c->queue, job->job.id, false, &err), &err) < 0)
        return;
    if (queue_read_get(c->reply.data, c->reply.len, &v, &err) == ERR_NOTFOUND)
        remove_results(c, job->job.id);
    job_view_done(&v);
}

static void release_job(struct claim *c, const struct queue_claimed *job)
{
    enum job_state state = JOB_RUNNING;
    struct err err = {0};
    int64_t began = clock_us();
    int rc;
    for (;;) {
        err_clear(&err);
        CRASH_POINT(worker_release);
        rc = send(
            c, queue_cmd_release(&c->cmd, &c->queue, job->job.id, job->attempt, "the worker stops", &err),
            &err);
        if (rc == 0)
            rc = queue_read_release(c->reply.data, c->reply.len, &state, &err);
        if (rc != ERR_REDIS || !patient(c, began))
            break;
        clock_sleep_us(200 * CLOCK_MS);
    }
    CRASH_POINT(worker_released);
    LOG(INFO, "job given back", log_str("job", job->job.id), log_int("attempt", job->attempt),
        log_str("state", rc == 0 ? job_state_text(state) : NULL), log_str("why", rc == 0 ? NULL : err.text),
        log_str("trace", trace_of(&job->job)));
}

/* ---- one job ---- */

static void on_progress(void *arg, const char *stage, int64_t step, int64_t total, double eta_s)
{
    const struct claim *c = arg;
    lease_progress(c->lease, stage, step, total, eta_s);
}

/* The generator is in memory now, and of which weights. */
static void note_warm(struct claim *c, size_t generator, const json_t *report)
{
    pthread_mutex_lock(&c->lock);
    c->warm[generator] = true;
    weights_of(c, report, c->weights[generator]);
    pthread_mutex_unlock(&c->lock);
}

static int run_pipeline(struct claim *c, const struct queue_claimed *job, struct gang *gang, json_t **ret_result,
                        json_t **ret_report, struct err *err)
{
    struct pipeline_hooks hooks = {
        .arg = c, .cancel = lease_cancel(c->lease), .progress = on_progress, .gang = gang};
    for (size_t i = 0; generator_at(i); i++) {
        if (strcmp(generator_at(i)->name, job->job.generator) != 0)
            continue;
        int rc = pipeline_run(generator_at(i), c->states[i], &c->env, c->worker, &job->job, job->attempt, &hooks,
                              ret_result, ret_report, err);
        if (rc == 0)
            note_warm(c, i, *ret_report);
        return rc;
    }
    return err_set(err, ERR_UNSUPPORTED, "generator: this worker has no '%s'", job->job.generator);
}

/* The same by all workers of a gang: meets them first. What goes wrong here goes wrong for all. */
static int run_shared(struct claim *c, const struct queue_claimed *job, struct gang **ret_gang, json_t **ret_result,
                      json_t **ret_report, struct err *err)
{
    if (job->size <= 1)
        return run_pipeline(c, job, NULL, ret_result, ret_report, err);
    int rc = gang_form(ret_gang, c->env.device, c->env.conf->volume, job->job.id, job->attempt, job->rank, job->size,
                       err);
    LOG(INFO, "gang", log_str("job", job->job.id), log_int("attempt", job->attempt), log_int("rank", job->rank),
        log_int("size", job->size), log_str("over", rc < 0 ? NULL : gang_carrier(*ret_gang)),
        log_str("why", rc < 0 ? err->text : NULL));
    return rc < 0 ? rc : run_pipeline(c, job, *ret_gang, ret_result, ret_report, err);
}

/* A rank behind the first says nothing of the job's end; its lease is part of the attempt until rank 0 has settled. */
static void end_rank(struct claim *c, const struct queue_claimed *job, struct gang *gang, int rc, const struct err *err)
{
    if (rc == 0)
        gang_wait(gang);
    gang_leave(gang, rc, err->text);
    lease_drop(c->lease);
    LOG(INFO, "part of a job ended", log_str("job", job->job.id), log_int("attempt", job->attempt),
        log_int("rank", job->rank), log_code(rc), log_str("why", rc < 0 ? err->text : NULL));
}

/* Returns ERR_DEVICE when the device is lost for this process. */
static int run_job(struct claim *c, const struct queue_claimed *job)
{
    struct err err = {0};
    json_t *result = NULL, *report = NULL;
    int64_t began = clock_us();
    LOG(INFO, "job claimed", log_str("job", job->job.id), log_int("attempt", job->attempt),
        log_int("fails", job->fails), log_int("deaths", job->deaths), log_str("trace", trace_of(&job->job)));
    CRASH_POINT(worker_claimed);
    lease_hold(c->lease, job->job.id, job->attempt, job->rank);
    CRASH_POINT(worker_held);
    struct gang *gang = NULL;
    int rc = run_shared(c, job, &gang, &result, &report, &err);
    CRASH_POINT_IF(rc == 0, worker_computed);
    if (job->rank > 0) {
        end_rank(c, job, gang, rc, &err);
        json_decref(report);
        return rc == ERR_DEVICE ? rc : 0;
    }
    if (rc < 0) { /* the others need not wait for what follows */
        gang_leave(gang, rc, err.text);
        gang = NULL;
    }
    enum lease_why why = lease_drop(c->lease);
    LOG(DEBUG, "job computed", log_str("job", job->job.id), log_code(rc),
        log_num("seconds", (double)(clock_us() - began) / 1e6));
    if (job->size > 1 && rc == ERR_CANCEL && why == LEASE_GO_ON)
        release_job(c, job); /* another rank stops: nobody has said that the job is to */
    else if (rc == 0 || why == LEASE_GO_ON || (why == LEASE_ASKED && rc == ERR_CANCEL))
        settle_job(c, job, rc, err.text, result, report); /* a whole result of a lost attempt is kept as late */
    else if (why == LEASE_DRAIN && rc == ERR_CANCEL)
        release_job(c, job);
    else if (why != LEASE_LOST)
        settle_job(c, job, rc, err.text, NULL, NULL);
    else
        leave_job(c, job);
    gang_leave(gang, 0, NULL);
    json_decref(result);
    json_decref(report);
    return rc == ERR_DEVICE ? rc : 0;
}

/* Claims and runs. *ret_idle: there was nothing. */
static int claim_one(struct claim *c, bool *ret_idle, struct err *err)
{
    char warm[128];
    struct queue_offer offer = {.worker = c->worker,
                                .generators = c->generators,
                                .bytes = memory_of(c),
                                .lease_ms = c->env.conf->lease_s * 1000,
                                .token = c->token,
                                .labels = c->env.conf->labels,
                                .warm = warm,
                                .device = c->env.device->name,
                                .host = c->host[0] ? c->host : NULL};
    struct queue_claimed job = {0};
    warm_list(c, warm, sizeof(warm));
    if (!c->token[0] && c->process[0])
        str_format(c->token, sizeof(c->token), "%s:%lld", c->process, (long long)++c->n_claims);
    CRASH_POINT(worker_claim);
    int rc = send(c, queue_cmd_claim(&c->cmd, &c->queue, &offer, err), err);
    *ret_idle = true;
    if (rc == 0) {
        c->token[0] = 0;
        rc = queue_read_claim(c->reply.data, c->reply.len, &job, err);
    }
    c->quiet = job.quiet;
    c->held = job.gang[0] != 0;
    if (rc < 0 || !job.got)
        return rc;
    *ret_idle = false;
    rc = run_job(c, &job);
    job_done(&job.job);
    json_decref(job.ranks);
    return rc;
}

static void keep_cost(struct claim *c, size_t generator)
{
    json_t *v = cost_json(&c->model);
    char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
    json_decref(v);
    pthread_mutex_lock(&c->lock);
    c->cost[generator] = text;
    pthread_mutex_unlock(&c->lock);
}

/* Plans a few sizes, so that the queue can tell what jobs will cost: a little whenever there is nothing to do. */
static void plan_costs(struct claim *c)
{
    int64_t until = clock_us() + PLAN_MS * CLOCK_MS;
    while (generator_at(c->planning) && clock_us() < until) {
        const struct generator *g = generator_at(c->planning);
        struct err err = {0};
        int rc = g->cost(c->states[c->planning], c->part, &c->model, &err);
        c->part++;
        if (rc == 0)
            continue;
        if (rc == ERR_NOTFOUND)
            keep_cost(c, c->planning);
        else
            LOG(WARN, "what jobs will cost cannot be planned", log_str("generator", g->name), log_str("why", err.text));
        c->planning++;
        c->part = 0;
    }
}

static int wait_for_work(struct claim *c)
{
    struct err err = {0};
    bool woken = false;
    queue_cmd_wake(&c->cmd, &c->queue, WAKE_MS);
    int64_t began = clock_us();
    int rc = redis_sync_wait(c->redis, &c->cmd, WAKE_MS, &woken, &err);
    if (rc < 0) /* Redis is away: not a hundred tries a second */
        clock_sleep_us(began + WAKE_MS / 2 * CLOCK_MS - clock_us());
    return rc;
}

static int serve(struct claim *c, struct err *err)
{
    while (!lease_stopping(c->lease)) {
        struct err why = {0};
        bool idle;
        int rc = claim_one(c, &idle, &why);
        if (rc == ERR_DEVICE)
            return err_set(err, ERR_DEVICE, "the device failed: a new process is needed");
        if (rc < 0 && rc != ERR_REDIS)
            LOG(ERROR, "a claim failed", log_code(rc), log_str("why", why.text));
        if (rc == 0 && c->quiet) /* and leaves the wake tokens to the others */
            clock_sleep_us(QUIET_MS * CLOCK_MS);
        else if (rc == 0 && c->held)
            clock_sleep_us(HELD_MS * CLOCK_MS);
        else if (rc < 0 || idle)
            wait_for_work(c);
        if (rc == 0 && idle && !c->held)
            plan_costs(c);
    }
    return 0;
}

/* ---- start and end ---- */

static void make_name(const struct conf *conf, char *dst, size_t size)
{
    char host[64] = "worker";
    gethostname(host, sizeof(host) - 1);
    if (conf->worker_name[0])
        str_format(dst, size, "%.60s", conf->worker_name);
    else
        str_format(dst, size, "%.48s-%d", host, (int)getpid());
    for (char *s = dst; *s; s++) /* a part of a key */
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.", *s))
            *s = '-';
}

static int open_generators(struct claim *c, struct err *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && generator_at(i); i++) {
        size_t n = strlen(c->generators);
        rc = generator_at(i)->open(&c->states[i], &c->env, err);
        if (rc == 0)
            rc = str_format(c->generators + n, sizeof(c->generators) - n, "%s%s", n ? "," : "",
                            generator_at(i)->name);
    }
    return rc;
}

/* At the start Redis gets a moment; what it refuses for another reason it will refuse again. */
static int connect_redis(struct claim *c, struct err *err)
{
    int64_t deadline = clock_us() + (int64_t)(c->env.conf->redis_wait_s * (double)CLOCK_S);
    for (;;) {
        struct err why = {0};
        int rc = redis_sync_setup(c->redis, &why);
        if (rc == 0)
            return 0;
        bool soon = strstr(why.text, "not reachable") || strstr(why.text, "loading") ||
                    strstr(why.text, "closed the connection") || strstr(why.text, "did not answer");
        if (!soon || clock_us() > deadline)
            return err_set(err, rc, "%s%s", why.text,
                           soon ? " (gave up waiting; start it, or name another with --redis)" : "");
        clock_sleep_us(200 * CLOCK_MS);
    }
}

static int start(struct claim *c, struct err *err)
{
    const struct conf *conf = c->env.conf;
    struct lease_options o = {
        .conf = conf, .queue = &c->queue, .worker = c->worker, .info = worker_info, .info_arg = c};
    make_name(conf, c->worker, sizeof(c->worker));
    if (conf->gang)
        gethostname(c->host, sizeof(c->host) - 1);
    if (job_make_id(c->process) < 0)
        c->process[0] = 0;
    if (conf->renew_s * 2 > (double)conf->lease_s)
        return err_set(err, ERR_INVALID,
                       "renew_s: %g is too long for lease_s %lld; at most half of it is allowed",
                       conf->renew_s, (long long)conf->lease_s);
    int rc = queue_init(&c->queue, conf->queue, err);
    if (rc == 0)
        rc = blob_init(conf->volume, err);
    if (rc == 0)
        rc = redis_sync_open(&c->redis, conf->redis, err);
    if (rc == 0)
        redis_sync_key(c->redis, c->queue.base);
    if (rc == 0)
        rc = connect_redis(c, err);
    if (rc == 0)
        rc = open_generators(c, err);
    if (rc == 0)
        rc = lease_start(&c->lease, &o, err);
    return rc;
}

int claim_serve(const struct conf *conf, struct device *device, struct err *err)
{
    struct claim *c = mem_zalloc(sizeof(*c));
    int64_t began = clock_us();
    if (!c)
        return err_set(err, ERR_NOMEM, "no memory for the worker");
    c->env = (struct generator_env){.conf = conf, .device = device};
    buf_init(&c->reply, REPLY_MAX);
    pthread_mutex_init(&c->lock, NULL);
    int rc = start(c, err);
    if (rc == 0) {
        LOG(INFO, "ready", log_str("worker", c->worker), log_str("queue", c->queue.name),
            log_str("redis", redis_sync_name(c->redis)), log_str("device", device->name),
            log_str("kind", device->kind), log_str("generators", c->generators),
            log_num("seconds", (double)(clock_us() - began) / 1e6));
        rc = serve(c, err);
    }
    lease_end(c->lease);
    for (size_t i = 0; generator_at(i); i++) {
        if (c->states[i])
            generator_at(i)->close(c->states[i]);
        mem_free(c->cost[i]);
    }
    pthread_mutex_destroy(&c->lock);
    queue_cmd_done(&c->cmd);
    buf_done(&c->reply);
    redis_sync_close(c->redis);
    mem_free(c);
    return rc;
}
