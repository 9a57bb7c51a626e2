/* queue_share: who is next and who is not: tenants and weights, caps, budgets, rates, schedules, classes, warm workers, gangs,
 * the cache, unfit workers, the dead list, webhooks; on a real Redis. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/redis_sync.h"
#include "common/str.h"
#include "tests/unit/redis_private.h"

static struct redis_private server;
static bool have_server;
static struct redis_sync *redis;
static struct queue queue;
static struct queue_cmd cmd;
static struct buf reply;
static struct err err;
static int n_queues;

static const struct queue_limits limits = {.max_fails = 1, .backoff_ms = 20};

static int begin(void **state)
{
    char name[32];
    (void)state;
    err_clear(&err);
    str_format(name, sizeof(name), "s%d", n_queues++);
    return queue_init(&queue, name, &err);
}

static int start(void **state)
{
    (void)state;
    have_server = redis_private_start(&server, false);
    if (!have_server)
        return 0;
    buf_init(&reply, 1 << 20);
    return redis_sync_open(&redis, server.url, &err) < 0 || redis_sync_setup(redis, &err) < 0 ? -1 : 0;
}

static int stop(void **state)
{
    (void)state;
    queue_cmd_done(&cmd);
    buf_done(&reply);
    redis_sync_close(redis);
    if (have_server)
        redis_private_stop(&server, false);
    return 0;
}

#define NEED_SERVER()                                                                                        \
    if (!have_server)                                                                                        \
    skip()

static void send(int built)
{
    assert_int_equal(built, 0);
    err_clear(&err);
    if (redis_sync_call(redis, &cmd, 2000, &reply, &err) < 0)
        fail_msg("%s", err.text);
}

static void send_ok(int built)
{
    send(built);
    if (queue_read_ok(reply.data, reply.len, &err) < 0)
        fail_msg("%s", err.text);
}

static json_t *object(int built)
{
    json_t *o = NULL;
    send(built);
    if (queue_read_object(reply.data, reply.len, &o, &err) < 0)
        fail_msg("%s", err.text);
    return o;
}

/* A job to be changed before put. */
static struct job *job_new(const char *id, const char *tenant)
{
    static struct job job;
    job_init(&job);
    str_copy(job.id, sizeof(job.id), id);
    str_copy(job.generator, sizeof(job.generator), "avatar");
    str_copy(job.tenant, sizeof(job.tenant), tenant);
    job.params = json_object();
    return &job;
}

static struct queue_submitted got;

static int put(struct job *job)
{
    send(queue_cmd_submit(&cmd, &queue, job, 100000, &err));
    job_done(job);
    return queue_read_submit(reply.data, reply.len, &got, &err);
}

static void submit(const char *id, const char *tenant)
{
    if (put(job_new(id, tenant)) < 0)
        fail_msg("%s", err.text);
}

static struct queue_offer offer = {.worker = "w1", .generators = "avatar", .lease_ms = 15000};

/* The id of what the offer is given, "" for nothing. The claim's rank, size and gang stay in `claimed`. */
static struct queue_claimed claimed;
static char claimed_id[JOB_ID];

static const char *claim(void)
{
    send(queue_cmd_claim(&cmd, &queue, &offer, &err));
    claimed = (struct queue_claimed){0};
    if (queue_read_claim(reply.data, reply.len, &claimed, &err) < 0)
        fail_msg("%s", err.text);
    str_copy(claimed_id, sizeof(claimed_id), claimed.job.id);
    job_done(&claimed.job);
    json_decref(claimed.ranks);
    return claimed_id;
}

static const char *claim_by(const char *worker)
{
    offer.worker = worker;
    const char *id = claim();
    offer.worker = "w1";
    return id;
}

static enum job_state settle(const char *id, int64_t attempt, int code, const struct queue_used *used)
{
    enum job_state s = JOB_QUEUED;
    json_t *result = json_pack("{s:s}", "video", "v.mp4");
    send(queue_cmd_settle(&cmd, &queue, id, attempt, code, "because", result, &limits, used, &err));
    json_decref(result);
    if (queue_read_settle(reply.data, reply.len, &s, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

static void hello(const char *worker, const char *labels, const char *host, int64_t memory)
{
    json_t *info = json_pack("{s:s s:I s:s s:s s:i s:i s:s}", "generators", "avatar", "memory_bytes", (json_int_t)memory,
                             "labels", labels, "host", host, "gang", host[0] != 0, "ver", JOB_VERSION, "device", "card");
    send_ok(queue_cmd_hello(&cmd, &queue, worker, 60000, info, &err));
    json_decref(info);
}

static void expire(void)
{
    struct queue_expired e = {0};
    send(queue_cmd_expire(&cmd, &queue, &err));
    assert_int_equal(queue_read_expire(reply.data, reply.len, &e, &err), 0);
    json_decref(e.forget);
}

static const char *reason(const char *id)
{
    static char text[64];
    json_t *o = object(queue_cmd_why(&cmd, &queue, id, &err));
    str_copy(text, sizeof(text), json_string_value(json_object_get(o, "reason")));
    json_decref(o);
    return text;
}

static void limit(const char *name, const struct queue_tenant *t)
{
    struct queue_tenant one = *t;
    one.name = name;
    send_ok(queue_cmd_tenant(&cmd, &queue, &one, &err));
}

static double stat_of(const char *name)
{
    json_t *o = object(queue_cmd_stats(&cmd, &queue, &err));
    double v = json_number_value(json_object_get(o, name));
    json_decref(o);
    return v;
}

/* ---- fair shares ---- */

static void many(const char *tenant, int n)
{
    char id[JOB_ID];
    for (int i = 0; i < n; i++) {
        str_format(id, sizeof(id), "%s-%d", tenant, i);
        submit(id, tenant);
    }
}

/* Of the next n jobs, how many are of the tenant. All have the predicted length at settle, so nothing is put right. */
static int share(const char *tenant, int n)
{
    int hits = 0;
    size_t len = strlen(tenant);
    for (int i = 0; i < n; i++)
        hits += strncmp(claim(), tenant, len) == 0;
    return hits;
}

static void test_fair(void **state)
{
    (void)state;
    NEED_SERVER();
    many("a", 40); /* a was first with all of its jobs */
    many("b", 40);
    many("c", 40);
    assert_int_equal(share("b", 30), 10);
}

static void test_weight(void **state)
{
    (void)state;
    NEED_SERVER();
    limit("a", &(struct queue_tenant){.weight = 3});
    many("b", 40);
    many("a", 40);
    assert_int_equal(share("a", 40), 30);
}

/* One that was away does not save up for it, and is not punished. */
static void test_idle_tenant(void **state)
{
    (void)state;
    NEED_SERVER();
    many("a", 30);
    assert_int_equal(share("a", 20), 20);
    many("b", 10);
    assert_int_equal(share("b", 10), 5);
}

static void test_levels_before_shares(void **state)
{
    (void)state;
    NEED_SERVER();
    many("a", 3);
    many("b", 3);
    struct job *job = job_new("urgent", "b");
    job->priority = 6;
    assert_int_equal(put(job), 0);
    assert_string_equal(claim(), "urgent");
}

/* What an attempt really took is what counts: tenant a's jobs take 0 s instead of 10, so it gets nearly all. */
static void test_put_right(void **state)
{
    (void)state;
    NEED_SERVER();
    many("a", 20);
    many("b", 20);
    int a = 0;
    for (int i = 0; i < 20; i++) {
        const char *id = claim();
        a += id[0] == 'a';
        if (id[0] == 'a')
            settle(id, claimed.attempt, ERR_INVALID, NULL);
    }
    assert_true(a >= 18);
}

/* ---- caps ---- */

static void test_max_running(void **state)
{
    (void)state;
    NEED_SERVER();
    limit("a", &(struct queue_tenant){.max_running = 2});
    hello("w1", "", "", 0);
    many("a", 3);
    many("b", 1);
    assert_int_equal(share("a", 3), 2);
    assert_string_equal(claim(), "");
    assert_string_equal(reason("a-2"), "tenant_running");
    settle("a-0", 1, 0, NULL);
    assert_string_equal(claim(), "a-2");
}

static void test_max_queued_and_rate(void **state)
{
    (void)state;
    NEED_SERVER();
    limit("a", &(struct queue_tenant){.max_queued = 2});
    many("a", 2);
    assert_int_equal(put(job_new("a-2", "a")), ERR_LIMIT);
    assert_true(got.retry_after_s >= 1);
    assert_non_null(strstr(err.text, "tenant"));
    submit("b", "b");
    limit("r", &(struct queue_tenant){.rate_per_min = 60, .burst = 2});
    many("r", 2);
    assert_int_equal(put(job_new("r-2", "r")), ERR_LIMIT);
    assert_int_equal(got.retry_after_s, 1);
    clock_sleep_us(1100 * CLOCK_MS); /* as was said */
    submit("r-2", "r");
    assert_true(stat_of("n_refused") == 2);
}

static void test_budget(void **state)
{
    (void)state;
    NEED_SERVER();
    limit("a", &(struct queue_tenant){.gpu_s_day = 0.01});
    hello("w1", "", "", 0);
    many("a", 2);
    assert_string_equal(claim(), "a-0");
    clock_sleep_us(20 * CLOCK_MS);
    settle("a-0", 1, 0, NULL);
    assert_string_equal(claim(), "");
    assert_string_equal(reason("a-1"), "tenant_budget");
    limit("a", &(struct queue_tenant){.gpu_s_day = 100});
    assert_string_equal(claim(), "a-1");
}

static void test_pauses(void **state)
{
    (void)state;
    NEED_SERVER();
    hello("w1", "", "", 0);
    submit("a", "a");
    send_ok(queue_cmd_pause(&cmd, &queue, QUEUE_TENANT, "a", true, &err));
    assert_string_equal(claim(), "");
    assert_string_equal(reason("a"), "paused");
    submit("b", "b");
    assert_string_equal(claim(), "b");
    send_ok(queue_cmd_pause(&cmd, &queue, QUEUE_TENANT, "a", false, &err));
    send_ok(queue_cmd_pause(&cmd, &queue, QUEUE_GENERATOR, "avatar", true, &err));
    assert_string_equal(claim(), "");
    send_ok(queue_cmd_pause(&cmd, &queue, QUEUE_GENERATOR, "avatar", false, &err));
    assert_string_equal(claim(), "a");
}

/* ---- when ---- */

static void test_scheduled(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job *job = job_new("later", "");
    job->delay_ms = 600;
    assert_int_equal(put(job), 0);
    assert_int_equal(got.state, JOB_DELAYED);
    assert_string_equal(reason("later"), "delayed");
    submit("now", "");
    expire();
    assert_string_equal(claim(), "now");
    assert_string_equal(claim(), "");
    clock_sleep_us(650 * CLOCK_MS);
    submit("last", "");
    expire();
    assert_string_equal(claim(), "last"); /* it stands behind those who came before its time */
    assert_string_equal(claim(), "later");
}

/* ---- which worker ---- */

static void test_labels(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job *job = job_new("eu", "");
    str_copy(job->labels, sizeof(job->labels), "eu,h100");
    hello("w1", "", "", 0);
    assert_int_equal(put(job), 0);
    assert_int_equal(got.fitting, 0);
    assert_string_equal(reason("eu"), "no_fit");
    hello("w2", "h100,x,eu", "", 0);
    submit("any", "");
    assert_string_equal(claim(), "any"); /* not stopped by a head it cannot run */
    offer.labels = "h100,x,eu";
    assert_string_equal(claim_by("w2"), "eu");
    offer.labels = NULL;
}

static void test_warm(void **state)
{
    (void)state;
    NEED_SERVER();
    hello("cold", "", "", 0);
    hello("warm", "", "", 0);
    offer.warm = "avatar";
    assert_string_equal(claim_by("warm"), ""); /* idle from now on */
    offer.warm = NULL;
    submit("a", "");
    assert_string_equal(claim_by("cold"), ""); /* left to the other */
    offer.warm = "avatar";
    assert_string_equal(claim_by("warm"), "a");
    offer.warm = NULL;
    submit("b", "");
    assert_string_equal(claim_by("cold"), "b"); /* the warm one is not idle */
    offer.warm = "avatar";
    claim_by("warm");
    offer.warm = NULL;
    submit("c", "");
    clock_sleep_us(550 * CLOCK_MS);
    assert_string_equal(claim_by("cold"), "c"); /* waited long enough */
}

static void test_gang(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job *job = job_new("two", "");
    struct queue_heard h;
    job->group_min = job->group_max = 2;
    offer.host = "h";
    hello("w1", "", "h", 0);
    hello("w2", "", "h", 0);
    hello("w3", "", "h", 0);
    assert_int_equal(put(job), 0);
    submit("one", "");
    assert_string_equal(claim_by("w2"), "");
    assert_string_equal(claimed.gang, "two"); /* held */
    assert_string_equal(reason("two"), "gang");
    assert_string_equal(claim_by("w1"), "two");
    assert_int_equal(claimed.rank, 0); /* by name */
    assert_int_equal(claimed.size, 2);
    assert_string_equal(claim_by("w3"), "one");
    assert_string_equal(claim_by("w2"), "two");
    assert_int_equal(claimed.rank, 1);
    assert_int_equal(claimed.attempt, 1);
    for (int rank = 0; rank < 3; rank++) {
        send(queue_cmd_renew(&cmd, &queue, "two", 1, rank, 15000, &err));
        assert_int_equal(queue_read_heard(reply.data, reply.len, &h, &err), rank < 2 ? 0 : ERR_LOST);
    }
    /* one rank falls silent: the attempt is over for both */
    send(queue_cmd_renew(&cmd, &queue, "two", 1, 1, 1, &err));
    clock_sleep_us(5 * CLOCK_MS);
    expire();
    send(queue_cmd_renew(&cmd, &queue, "two", 1, 0, 15000, &err));
    assert_int_equal(queue_read_heard(reply.data, reply.len, &h, &err), ERR_LOST);
    assert_string_equal(claim_by("w1"), "");
    assert_string_equal(claim_by("w2"), "two");
    assert_int_equal(claimed.attempt, 2);
    assert_int_equal(settle("two", 2, 0, NULL), JOB_DONE);
    assert_true(stat_of("running") == 1); /* "one" */
    offer.host = NULL;
}

static void test_unfit(void **state)
{
    (void)state;
    NEED_SERVER();
    const struct queue_used used = {.unfit = true};
    hello("w1", "", "", 0);
    hello("w2", "", "", 0);
    submit("a", "");
    assert_string_equal(claim(), "a");
    assert_int_equal(settle("a", 1, ERR_WEIGHTS, &used), JOB_QUEUED);
    assert_string_equal(claim(), ""); /* not to this worker again */
    assert_string_equal(claim_by("w2"), "a");
    assert_int_equal(claimed.fails, 0);
    assert_int_equal(settle("a", 2, ERR_WEIGHTS, &used), JOB_FAILED); /* nobody is left */
    submit("b", "");
    assert_string_equal(claim_by("w2"), "b"); /* and it may go on saying why */
}

/* ---- the cache ---- */

static void submit_cached(const char *id, const char *key)
{
    struct job *job = job_new(id, "");
    str_copy(job->cache_key, sizeof(job->cache_key), key);
    assert_int_equal(put(job), 0);
}

static void test_cache(void **state)
{
    (void)state;
    NEED_SERVER();
    const struct queue_used used = {.weights = "w-old", .gflop = 100};
    submit_cached("a", "key");
    submit_cached("b", "key"); /* a is not DONE yet */
    assert_false(got.cached);
    claim();
    settle("a", 1, 0, &used);
    submit_cached("c", "key");
    assert_true(got.cached);
    assert_string_equal(got.id, "a");
    submit_cached("d", "other");
    assert_false(got.cached);
    json_t *info = json_pack("{s:s s:s}", "generators", "avatar", "weights:avatar", "w-new");
    send_ok(queue_cmd_hello(&cmd, &queue, "w9", 60000, info, &err));
    json_decref(info);
    submit_cached("e", "key"); /* other weights would make another video */
    assert_false(got.cached);
    assert_true(stat_of("n_cached") == 1);
}

/* ---- the dead ---- */

static void test_redrive(void **state)
{
    (void)state;
    NEED_SERVER();
    char cursor[64];
    int64_t n = 0;
    json_t *jobs = NULL;
    many("a", 3);
    many("b", 2);
    for (int i = 0; i < 5; i++) {
        char id[JOB_ID];
        str_copy(id, sizeof(id), claim());
        settle(id, 1, id[0] == 'a' ? ERR_MEDIA : ERR_INTERNAL, NULL);
    }
    const struct queue_filter dead = {.state = JOB_FAILED, .code = "MEDIA"}, b = {.state = -1, .tenant = "b"};
    send(queue_cmd_list(&cmd, &queue, &dead, "", 10, &err));
    assert_int_equal(queue_read_list(reply.data, reply.len, &jobs, cursor, &err), 0);
    assert_int_equal(json_array_size(jobs), 3);
    json_decref(jobs);
    send(queue_cmd_redrive(&cmd, &queue, &b, &err));
    assert_int_equal(queue_read_count(reply.data, reply.len, &n, &err), 0);
    assert_int_equal(n, 2);
    assert_true(stat_of("dead") == 3);
    assert_string_equal(claim(), "b-0");
    assert_string_equal(claim(), "b-1");
}

/* A small tenant behind a busy one sees its own jobs on the first page. */
static void test_own_list(void **state)
{
    (void)state;
    NEED_SERVER();
    char cursor[64] = "";
    json_t *jobs = NULL;
    submit("mine", "small");
    many("busy", 1100);
    send(queue_cmd_list(&cmd, &queue, &(struct queue_filter){.state = -1, .tenant = "small"}, "", 5, &err));
    assert_int_equal(queue_read_list(reply.data, reply.len, &jobs, cursor, &err), 0);
    assert_int_equal(json_array_size(jobs), 1);
    assert_string_equal(cursor, "");
    json_decref(jobs);
}

/* ---- webhooks ---- */

static struct queue_hook hook;

static bool take(int64_t hold_ms)
{
    struct queue_hook *list = NULL;
    size_t n = 0;
    int64_t next;
    send(queue_cmd_hook_take(&cmd, &queue, 10, hold_ms, &err));
    assert_int_equal(queue_read_hook_take(reply.data, reply.len, &list, &n, &next, &err), 0);
    if (n)
        hook = list[0];
    mem_free(list);
    assert_true(n <= 1);
    return n > 0;
}

static int hook_done(enum queue_hook_verdict v, int status)
{
    send(queue_cmd_hook_done(&cmd, &queue, &hook, v, status, 0.1, "why", &err));
    return queue_read_ok(reply.data, reply.len, &err);
}

static void test_hooks(void **state)
{
    (void)state;
    NEED_SERVER();
    char id[64];
    struct job *job = job_new("a", "");
    str_copy(job->webhook, sizeof(job->webhook), "https://example.org/");
    str_copy(job->webhook_events, sizeof(job->webhook_events), "end,start");
    assert_int_equal(put(job), 0);
    assert_false(take(1000));
    claim();
    assert_true(take(500));
    assert_string_equal(hook.event, "start");
    assert_false(take(500)); /* held */
    str_copy(id, sizeof(id), hook.id);
    struct queue_hook first = hook;
    clock_sleep_us(550 * CLOCK_MS);
    assert_true(take(1000)); /* the first taker died */
    assert_string_equal(hook.id, id);
    struct queue_hook second = hook;
    hook = first;
    assert_int_equal(hook_done(QUEUE_HOOK_OK, 200), ERR_LOST);
    err_clear(&err);
    hook = second;
    assert_int_equal(hook_done(QUEUE_HOOK_AGAIN, 500), 0);
    assert_int_equal(hook_done(QUEUE_HOOK_AGAIN, 500), 0); /* said twice */
    assert_false(take(1000));                              /* in five seconds */
    settle("a", 1, 0, NULL);
    assert_true(take(1000));
    assert_string_equal(hook.event, "end");
    assert_int_equal(hook_done(QUEUE_HOOK_DROP, 410), 0);
    json_t *o = object(queue_cmd_hooks(&cmd, &queue, "a", &err));
    assert_int_equal(json_array_size(json_object_get(o, "log")), 2);
    assert_int_equal(json_array_size(json_object_get(o, "waiting")), 0); /* gone: nobody wants it */
    json_decref(o);
    assert_true(stat_of("n_hooks_failed") == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_fair, begin),          cmocka_unit_test_setup(test_weight, begin),
        cmocka_unit_test_setup(test_idle_tenant, begin),   cmocka_unit_test_setup(test_levels_before_shares, begin),
        cmocka_unit_test_setup(test_put_right, begin),     cmocka_unit_test_setup(test_max_running, begin),
        cmocka_unit_test_setup(test_max_queued_and_rate, begin), cmocka_unit_test_setup(test_budget, begin),
        cmocka_unit_test_setup(test_pauses, begin),        cmocka_unit_test_setup(test_scheduled, begin),
        cmocka_unit_test_setup(test_labels, begin),        cmocka_unit_test_setup(test_warm, begin),
        cmocka_unit_test_setup(test_gang, begin),          cmocka_unit_test_setup(test_unfit, begin),
        cmocka_unit_test_setup(test_cache, begin),         cmocka_unit_test_setup(test_redrive, begin),
        cmocka_unit_test_setup(test_own_list, begin),      cmocka_unit_test_setup(test_hooks, begin),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
