/* queue: every transition on a real Redis, twice in a row; lost leases, cancels, drains, deadlines, the event
 * stream. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/pack.h"
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

static const struct queue_limits limits = {.max_fails = 3, .backoff_ms = 20};

/* A queue of its own for each test. */
static int begin(void **state)
{
    char name[32];
    (void)state;
    err_clear(&err);
    str_format(name, sizeof(name), "q%d", n_queues++);
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

static void send(void)
{
    err_clear(&err);
    int rc = redis_sync_call(redis, &cmd, 2000, &reply, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
}

static void words(const char *a, const char *b, const char *c, const char *d)
{
    const char *const list[] = {a, b, c, d};
    int n = 4;
    while (n && !list[n - 1])
        n--;
    assert_int_equal(redis_sync_words(redis, list, n, 2000, &reply, &err), 0);
}

static void make_job(struct job *job, const char *id, int priority)
{
    job_init(job);
    str_copy(job->id, sizeof(job->id), id);
    str_copy(job->generator, sizeof(job->generator), "avatar");
    job->priority = priority;
    job->params = json_pack("{s:s s:I}", "prompt", "hällo", "seed", (json_int_t)INT64_MAX);
}

static int submit_job(struct job *job, struct queue_submitted *ret)
{
    assert_int_equal(queue_cmd_submit(&cmd, &queue, job, 5, &err), 0);
    send();
    return queue_read_submit(reply.data, reply.len, ret, &err);
}

static void submit(const char *id, int priority)
{
    struct job job;
    struct queue_submitted s;
    make_job(&job, id, priority);
    assert_int_equal(submit_job(&job, &s), 0);
    assert_string_equal(s.id, id);
    assert_false(s.again);
    job_done(&job);
}

static bool claim_as(const char *worker, int64_t lease_ms, struct queue_claimed *c)
{
    struct queue_offer offer = {
        .worker = worker, .generators = "tryon,avatar", .bytes = 1000, .lease_ms = lease_ms};
    assert_int_equal(queue_cmd_claim(&cmd, &queue, &offer, &err), 0);
    send();
    *c = (struct queue_claimed){0};
    if (queue_read_claim(reply.data, reply.len, c, &err) < 0)
        fail_msg("%s", err.text);
    return c->got;
}

/* Claims what is next; returns the attempt, 0 for nothing. */
static int64_t claim(const char *want_id)
{
    struct queue_claimed c;
    bool got = claim_as("w1", 15000, &c);
    if (want_id) {
        assert_true(got);
        assert_string_equal(c.job.id, want_id);
    } else {
        assert_false(got);
    }
    job_done(&c.job);
    return c.attempt;
}

static int settle(const char *id, int64_t attempt, int code, enum job_state *ret)
{
    json_t *result = json_pack("{s:s s:I}", "video", "v.mp4", "seed", (json_int_t)INT64_MAX);
    assert_int_equal(queue_cmd_settle(&cmd, &queue, id, attempt, code, "because", result, &limits, NULL, &err), 0);
    json_decref(result);
    send();
    return queue_read_settle(reply.data, reply.len, ret, &err);
}

static int renew(const char *id, int64_t attempt, int64_t lease_ms, struct queue_heard *h)
{
    assert_int_equal(queue_cmd_renew(&cmd, &queue, id, attempt, 0, lease_ms, &err), 0);
    send();
    return queue_read_heard(reply.data, reply.len, h, &err);
}

static int progress(const char *id, int64_t attempt, struct queue_heard *h)
{
    struct queue_progress p = {"denoise", 3, 10, 4.5};
    assert_int_equal(queue_cmd_progress(&cmd, &queue, id, attempt, &p, &err), 0);
    send();
    return queue_read_heard(reply.data, reply.len, h, &err);
}

static int release(const char *id, int64_t attempt, enum job_state *ret)
{
    assert_int_equal(queue_cmd_release(&cmd, &queue, id, attempt, "drain", &err), 0);
    send();
    return queue_read_release(reply.data, reply.len, ret, &err);
}

static int cancel(const char *id, struct queue_cancelled *ret)
{
    assert_int_equal(queue_cmd_cancel(&cmd, &queue, id, "client", &err), 0);
    send();
    return queue_read_cancel(reply.data, reply.len, ret, &err);
}

static void expire(struct queue_expired *ret)
{
    struct queue_expired e = {0};
    assert_int_equal(queue_cmd_expire(&cmd, &queue, &err), 0);
    send();
    assert_int_equal(queue_read_expire(reply.data, reply.len, &e, &err), 0);
    json_decref(e.forget);
    e.forget = NULL;
    *ret = e;
}

static int get(const char *id, struct job_view *v)
{
    assert_int_equal(queue_cmd_get(&cmd, &queue, id, true, &err), 0);
    send();
    return queue_read_get(reply.data, reply.len, v, &err);
}

static void state_is(const char *id, enum job_state want)
{
    struct job_view v;
    assert_int_equal(get(id, &v), 0);
    if (v.status.state != want)
        fail_msg("%s is %s, not %s", id, job_state_text(v.status.state), job_state_text(want));
    job_view_done(&v);
}

static int64_t stat_of(const char *name)
{
    json_t *o = NULL;
    assert_int_equal(queue_cmd_stats(&cmd, &queue, &err), 0);
    send();
    assert_int_equal(queue_read_object(reply.data, reply.len, &o, &err), 0);
    json_t *v = json_object_get(o, name);
    assert_non_null(v);
    int64_t n = (int64_t)json_number_value(v);
    json_decref(o);
    return n;
}

static void test_submit(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job job;
    struct queue_submitted s = {0};
    submit("a", 5);
    make_job(&job, "a", 5);
    assert_int_equal(submit_job(&job, &s), 0); /* the reply was lost and the dispatcher says it again */
    assert_true(s.again);
    assert_int_equal(s.position, 0);
    json_object_set_new(job.params, "prompt", json_string("other"));
    assert_int_equal(submit_job(&job, &s), ERR_CONFLICT);
    job_done(&job);
    for (int i = 0; i < 4; i++)
        submit((const char *const[]){"b", "c", "d", "e"}[i], 5);
    make_job(&job, "f", 5);
    assert_int_equal(submit_job(&job, &s), ERR_LIMIT); /* five may wait */
    assert_true(s.retry_after_s >= 1);
    assert_string_equal(err.text, "the queue is full: 5 jobs wait, which is its limit; try again in 10 s");
    job_done(&job);
    assert_int_equal(stat_of("n_submitted"), 5);
    assert_int_equal(stat_of("waiting"), 5);
}

static void test_idempotency(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job job;
    struct queue_submitted s;
    make_job(&job, "a", 5);
    str_copy(job.idem_key, sizeof(job.idem_key), "order 7 with spaces");
    str_copy(job.fingerprint, sizeof(job.fingerprint), "abc");
    assert_int_equal(submit_job(&job, &s), 0);
    str_copy(job.id, sizeof(job.id), "b");
    assert_int_equal(submit_job(&job, &s), 0);
    assert_true(s.again);
    assert_string_equal(s.id, "a");
    str_copy(job.fingerprint, sizeof(job.fingerprint), "xyz");
    assert_int_equal(submit_job(&job, &s), ERR_CONFLICT);
    assert_string_equal(err.text, "Idempotency-Key: it was used before with another request; use a new key");
    job_done(&job);
    assert_int_equal(stat_of("waiting"), 1);
}

static void test_order(void **state)
{
    (void)state;
    NEED_SERVER();
    submit("a", 5);
    submit("b", 5);
    submit("low", 0);
    submit("high", 9);
    claim("high");
    claim("a");
    claim("b");
    claim("low");
    claim(NULL);
    claim(NULL);
}

static void test_fit(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job job;
    struct queue_submitted s;
    make_job(&job, "big", 9);
    job.plan_bytes = 1001; /* the worker of these tests has 1,000 */
    assert_int_equal(submit_job(&job, &s), 0);
    job_done(&job);
    make_job(&job, "other", 9);
    str_copy(job.generator, sizeof(job.generator), "avat"); /* not a part of "avatar" */
    assert_int_equal(submit_job(&job, &s), 0);
    job_done(&job);
    make_job(&job, "newer", 9);
    job.version = JOB_VERSION + 1;
    assert_int_equal(submit_job(&job, &s), 0);
    job_done(&job);
    submit("fits", 1);
    claim("fits");
    claim(NULL);
}

static void test_record(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job job;
    struct queue_submitted s;
    struct job_view v;
    make_job(&job, "a", 7);
    job.deadline_run_ms = 90000;
    job.tags = json_pack("[ss]", "x", "y");
    job.extra = json_pack("{s:{s:i}}", "of a newer program", "k", 1);
    assert_int_equal(submit_job(&job, &s), 0);
    assert_int_equal(get("a", &v), 0);
    assert_int_equal(v.job.priority, 7);
    assert_int_equal(v.job.deadline_run_ms, 90000);
    assert_true(json_equal(v.job.params, job.params)); /* seed 2^63 - 1 stays exact */
    assert_true(json_equal(v.job.tags, job.tags));
    assert_true(json_equal(v.job.extra, job.extra));
    assert_int_equal(v.status.position, 0);
    assert_true(v.status.submitted_ms > 0 && v.status.now_ms >= v.status.submitted_ms);
    assert_int_equal(json_array_size(v.status.history), 1);
    job_view_done(&v);
    job_done(&job);
    assert_int_equal(get("nobody", &v), ERR_NOTFOUND);
    assert_int_equal(queue_cmd_get(&cmd, &queue, "no{such", false, &err), ERR_NOTFOUND);
}

static void test_done(void **state)
{
    (void)state;
    NEED_SERVER();
    struct queue_heard h;
    struct job_view v;
    enum job_state s;
    submit("a", 5);
    int64_t at = claim("a");
    assert_int_equal(at, 1);
    for (int i = 0; i < 2; i++)
        assert_int_equal(renew("a", at, 15000, &h), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(progress("a", at, &h), 0);
    assert_int_equal(h.stop, JOB_STOP_NONE);
    assert_int_equal(get("a", &v), 0);
    assert_string_equal(v.status.stage, "denoise");
    assert_int_equal(v.status.step, 3);
    assert_true(v.status.eta_s == 4.5);
    assert_string_equal(v.status.worker, "w1");
    job_view_done(&v);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(settle("a", at, 0, &s), 0);
        assert_int_equal(s, JOB_DONE);
    }
    assert_int_equal(get("a", &v), 0);
    assert_int_equal(json_integer_value(json_object_get(v.status.result, "seed")), INT64_MAX);
    assert_null(v.status.late);
    assert_true(v.status.expires_ms > v.status.finished_ms);
    job_view_done(&v);
    assert_int_equal(renew("a", at, 15000, &h), ERR_LOST);
    assert_int_equal(stat_of("n_done"), 1);
    assert_int_equal(stat_of("n_lost"), 1);
    assert_int_equal(stat_of("running"), 0);
}

static void test_lost_lease(void **state)
{
    (void)state;
    NEED_SERVER();
    struct queue_claimed c;
    struct queue_expired e;
    struct queue_heard h;
    struct job_view v;
    enum job_state s;
    submit("a", 5);
    submit("b", 5);
    assert_true(claim_as("slow", 20, &c));
    job_done(&c.job);
    clock_sleep_us(30 * CLOCK_MS);
    expire(&e);
    assert_int_equal(e.n_leases, 1);
    expire(&e);
    assert_int_equal(e.n_leases, 0);
    int64_t second = claim("a"); /* in front of b */
    assert_int_equal(second, 2);
    assert_int_equal(renew("a", 1, 15000, &h), ERR_LOST);
    assert_int_equal(progress("a", 1, &h), ERR_LOST);
    assert_int_equal(release("a", 1, &s), ERR_LOST);
    for (int i = 0; i < 2; i++)
        assert_int_equal(settle("a", 1, 0, &s),
                         ERR_LOST); /* the late result is kept, once, and changes nothing */
    state_is("a", JOB_RUNNING);
    assert_int_equal(settle("a", 1, ERR_MEDIA, &s), ERR_LOST);
    assert_int_equal(settle("a", second, 0, &s), 0);
    assert_int_equal(get("a", &v), 0);
    assert_int_equal(v.status.deaths, 1);
    assert_int_equal(v.status.fails, 0);
    assert_int_equal(json_array_size(v.status.late), 1);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(v.status.late, 0), "attempt")), 1);
    job_view_done(&v);
    assert_int_equal(stat_of("n_done"), 1);
}

static void test_poison(void **state)
{
    (void)state;
    NEED_SERVER();
    struct queue_claimed c;
    struct queue_expired e;
    struct job_view v;
    submit("a", 5);
    for (int i = 0; i < 3; i++) {
        assert_true(claim_as("mortal", 1, &c));
        job_done(&c.job);
        clock_sleep_us(5 * CLOCK_MS);
        expire(&e);
        assert_int_equal(e.n_leases, 1);
    }
    assert_int_equal(get("a", &v), 0);
    assert_int_equal(v.status.state, JOB_FAILED);
    assert_string_equal(
        v.status.error,
        "worker mortal was not heard of any more; 3 workers died with this job, so it is not tried again");
    job_view_done(&v);
    claim(NULL);
}

static void test_failures(void **state)
{
    (void)state;
    NEED_SERVER();
    struct queue_expired e;
    struct job_view v;
    enum job_state s;
    submit("final", 5);
    assert_int_equal(settle("final", claim("final"), ERR_MEDIA, &s), 0);
    assert_int_equal(s, JOB_FAILED);
    submit("again", 5);
    for (int i = 1; i <= 3; i++) {
        int64_t at = claim("again");
        assert_int_equal(at, i);
        for (int twice = 0; twice < 2; twice++) {
            assert_int_equal(settle("again", at, ERR_IO, &s), 0);
            assert_int_equal(s, i < 3 ? JOB_DELAYED : JOB_FAILED);
        }
        claim(NULL);
        clock_sleep_us((i < 3 ? 20 * i + 20 : 0) * CLOCK_MS);
        expire(&e);
        assert_int_equal(e.n_retries, i < 3);
    }
    assert_int_equal(get("again", &v), 0);
    assert_int_equal(v.status.fails, 3);
    assert_int_equal(v.status.deaths, 0);
    assert_string_equal(v.status.error_code, "IO");
    assert_string_equal(v.status.error, "because");
    job_view_done(&v);
}

static void test_cancel(void **state)
{
    (void)state;
    NEED_SERVER();
    struct queue_cancelled c;
    struct queue_heard h;
    struct job_view v;
    enum job_state s;
    assert_int_equal(cancel("nobody", &c), ERR_NOTFOUND);
    submit("waits", 5);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cancel("waits", &c), 0);
        assert_int_equal(c.state, JOB_CANCELLED);
        assert_false(c.stopping);
    }
    claim(NULL);
    submit("runs", 5);
    int64_t at = claim("runs");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cancel("runs", &c), 0);
        assert_int_equal(c.state, JOB_RUNNING);
        assert_true(c.stopping);
    }
    assert_int_equal(renew("runs", at, 15000, &h), 0);
    assert_int_equal(h.stop, JOB_STOP_CANCEL);
    assert_int_equal(progress("runs", at, &h), 0);
    assert_int_equal(h.stop, JOB_STOP_CANCEL);
    assert_int_equal(settle("runs", at, 0, &s), 0); /* too late: cancel is final */
    assert_int_equal(s, JOB_CANCELLED);
    assert_int_equal(get("runs", &v), 0);
    assert_null(v.status.result);
    assert_int_equal(json_array_size(v.status.late), 1);
    job_view_done(&v);
    submit("ended", 5);
    assert_int_equal(settle("ended", claim("ended"), 0, &s), 0);
    assert_int_equal(cancel("ended", &c), ERR_CONFLICT);
    assert_string_equal(err.text, "the job is done: that cannot be done with it");
}

static void test_cancel_not_obeyed(void **state)
{
    (void)state;
    NEED_SERVER();
    struct queue_cancelled c;
    struct queue_expired e;
    struct queue_heard h;
    char key[64];
    submit("a", 5);
    int64_t at = claim("a");
    assert_int_equal(cancel("a", &c), 0);
    expire(&e);
    assert_int_equal(e.n_deadlines, 0);
    state_is("a", JOB_RUNNING);
    str_format(key, sizeof(key), "%s:clock", queue.base);
    words("ZADD", key, "1", "a"); /* as if 30 s had passed */
    expire(&e);
    assert_int_equal(e.n_deadlines, 1);
    state_is("a", JOB_CANCELLED);
    assert_int_equal(renew("a", at, 15000, &h), ERR_LOST);
    submit("b", 5);
    at = claim("b");
    assert_int_equal(cancel("b", &c), 0);
    enum job_state s;
    assert_int_equal(release("b", at, &s),
                     0); /* a drain of a job that was cancelled does not bring it back */
    assert_int_equal(s, JOB_CANCELLED);
}

static void test_release(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job_view v;
    enum job_state s;
    submit("a", 5);
    submit("b", 5);
    int64_t at = claim("a");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(release("a", at, &s), 0);
        assert_int_equal(s, JOB_QUEUED);
    }
    assert_int_equal(settle("a", at, 0, &s), ERR_LOST); /* it gave the job away */
    assert_int_equal(claim("a"), 2);
    assert_int_equal(get("a", &v), 0);
    assert_int_equal(v.status.fails + v.status.deaths, 0);
    job_view_done(&v);
    assert_int_equal(stat_of("n_released"), 1);
}

static void test_deadlines(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job job;
    struct queue_submitted s;
    struct queue_expired e;
    struct queue_heard h;
    enum job_state st;
    make_job(&job, "start", 5);
    job.deadline_start_ms = 10;
    assert_int_equal(submit_job(&job, &s), 0);
    job_done(&job);
    clock_sleep_us(20 * CLOCK_MS);
    expire(&e);
    expire(&e);
    state_is("start", JOB_TIMED_OUT);
    make_job(&job, "run", 5);
    job.deadline_start_ms = 10; /* started in time: plays no part any more */
    job.deadline_run_ms = 20;
    assert_int_equal(submit_job(&job, &s), 0);
    job_done(&job);
    int64_t at = claim("run");
    clock_sleep_us(30 * CLOCK_MS);
    expire(&e);
    assert_int_equal(e.n_deadlines, 1);
    assert_int_equal(renew("run", at, 15000, &h), 0);
    assert_int_equal(h.stop, JOB_STOP_TIMEOUT);
    assert_int_equal(settle("run", at, ERR_CANCEL, &st), 0);
    assert_int_equal(st, JOB_TIMED_OUT);
}

static int call_id(int (*build)(struct queue_cmd *, const struct queue *, const char *, struct err *),
                   const char *id)
{
    assert_int_equal(build(&cmd, &queue, id, &err), 0);
    send();
    return queue_read_ok(reply.data, reply.len, &err);
}

static void test_retry_and_delete(void **state)
{
    (void)state;
    NEED_SERVER();
    enum job_state s;
    struct job_view v;
    submit("a", 5);
    assert_int_equal(call_id(queue_cmd_delete, "a"), ERR_CONFLICT);
    assert_int_equal(settle("a", claim("a"), ERR_MEDIA, &s), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(call_id(queue_cmd_retry, "a"), 0);
    assert_int_equal(settle("a", claim("a"), 0, &s), 0);
    assert_int_equal(call_id(queue_cmd_retry, "a"), ERR_CONFLICT);
    for (int i = 0; i < 2; i++)
        assert_int_equal(call_id(queue_cmd_delete, "a"), 0);
    assert_int_equal(get("a", &v), ERR_NOTFOUND);
    assert_int_equal(call_id(queue_cmd_retry, "a"), ERR_NOTFOUND);
    char trash[64];
    str_format(trash, sizeof(trash), "%s:trash", queue.base);
    words("ZCARD", trash, NULL, NULL);
    assert_string_equal(reply.data, "1"); /* its files are somebody's task until they are gone */
    assert_int_equal(call_id(queue_cmd_forgot, "a"), 0);
    words("ZCARD", trash, NULL, NULL);
    assert_string_equal(reply.data, "0");
    words("KEYS", "{*}:*:a", NULL, NULL);
    char own[64];
    str_format(own, sizeof(own), "%s:", queue.base);
    assert_null(reply.data ? strstr(reply.data, own) : NULL);
}

static void test_forget(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job job;
    struct queue_submitted sub;
    struct queue_expired e = {0};
    enum job_state s;
    make_job(&job, "a", 5);
    job.ttl_ms = 5;
    assert_int_equal(submit_job(&job, &sub), 0);
    job_done(&job);
    assert_int_equal(settle("a", claim("a"), 0, &s), 0);
    clock_sleep_us(10 * CLOCK_MS);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(queue_cmd_expire(&cmd, &queue, &err), 0);
        send();
        assert_int_equal(queue_read_expire(reply.data, reply.len, &e, &err), 0);
        assert_int_equal(json_array_size(e.forget), i == 0); /* one may see to the files, another one in a minute */
        if (i == 0)
            assert_string_equal(json_string_value(json_array_get(e.forget, 0)), "a");
        json_decref(e.forget);
        struct job_view v;
        assert_int_equal(get("a", &v), ERR_NOTFOUND); /* the record is gone before the files */
        err_clear(&err);
    }
    assert_int_equal(stat_of("ended"), 0);
    char trash[64];
    str_format(trash, sizeof(trash), "%s:trash", queue.base);
    for (int i = 0; i < 2; i++) {
        words("ZCARD", trash, NULL, NULL);
        assert_string_equal(reply.data, i == 0 ? "1" : "0");
        assert_int_equal(call_id(queue_cmd_forgot, "a"), 0);
    }
}

static void test_pause_and_purge(void **state)
{
    (void)state;
    NEED_SERVER();
    int64_t n = 0;
    submit("a", 5);
    submit("b", 5);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(queue_cmd_pause(&cmd, &queue, QUEUE_ALL, NULL, true, &err), 0);
        send();
        assert_int_equal(queue_read_ok(reply.data, reply.len, &err), 0);
    }
    claim(NULL);
    assert_int_equal(queue_cmd_pause(&cmd, &queue, QUEUE_ALL, NULL, false, &err), 0);
    send();
    claim("a");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(queue_cmd_purge(&cmd, &queue, &err), 0);
        send();
        assert_int_equal(queue_read_count(reply.data, reply.len, &n, &err), 0);
        assert_int_equal(n, i == 0);
    }
    state_is("a", JOB_RUNNING);
    state_is("b", JOB_CANCELLED);
}

static void hello(const char *worker, int64_t ttl_ms)
{
    json_t *info = json_pack("{s:s s:i s:s}", "generators", "avatar", "memory_bytes", 1000, "host", "here");
    assert_int_equal(queue_cmd_hello(&cmd, &queue, worker, ttl_ms, info, &err), 0);
    json_decref(info);
    send();
    assert_int_equal(queue_read_ok(reply.data, reply.len, &err), 0);
}

static json_t *object(int (*build)(struct queue_cmd *, const struct queue *, struct err *))
{
    json_t *o = NULL;
    assert_int_equal(build(&cmd, &queue, &err), 0);
    send();
    assert_int_equal(queue_read_object(reply.data, reply.len, &o, &err), 0);
    return o;
}

static const char *why(const char *id)
{
    static char text[256];
    json_t *o = NULL;
    assert_int_equal(queue_cmd_why(&cmd, &queue, id, &err), 0);
    send();
    assert_int_equal(queue_read_object(reply.data, reply.len, &o, &err), 0);
    str_copy(text, sizeof(text), json_string_value(json_object_get(o, "why")));
    json_decref(o);
    return text;
}

static void test_workers(void **state)
{
    (void)state;
    NEED_SERVER();
    struct queue_claimed c;
    struct queue_heard h;
    submit("a", 5);
    assert_string_equal(why("a"), "no worker is running: start a troupe-worker on this queue");
    hello("w1", 10000);
    hello("w1", 10000);
    hello("short", 5);
    clock_sleep_us(10 * CLOCK_MS);
    json_t *o = object(queue_cmd_workers);
    json_t *list = json_object_get(o, "list");
    assert_int_equal(json_array_size(list), 1); /* the other one has not been heard of */
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "host")), "here");
    json_decref(o);
    struct queue_expired e;
    expire(&e);
    json_decref(e.forget);
    assert_string_equal(why("a"), "it is next: the 1 fitting workers are busy");
    int64_t at = claim("a");
    assert_string_equal(why("a"), "worker w1 runs it");
    assert_int_equal(queue_cmd_quiet(&cmd, &queue, "w1", true, &err), 0);
    send();
    assert_int_equal(queue_read_ok(reply.data, reply.len, &err), 0);
    assert_int_equal(renew("a", at, 15000, &h), 0);
    assert_true(h.quiet);
    submit("b", 5);
    assert_false(claim_as("w1", 15000, &c));
    assert_true(c.quiet);
    assert_int_equal(queue_cmd_quiet(&cmd, &queue, "nobody", true, &err), 0);
    send();
    assert_int_equal(queue_read_ok(reply.data, reply.len, &err), ERR_NOTFOUND);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(queue_cmd_bye(&cmd, &queue, "w1", &err), 0);
        send();
        assert_int_equal(queue_read_ok(reply.data, reply.len, &err), 0);
    }
    assert_int_equal(stat_of("workers"), 0);
}

/* The answer to a claim was lost: the same claim again gets the same job, another one the next. */
static void test_claim_again(void **state)
{
    (void)state;
    NEED_SERVER();
    json_t *info = json_pack("{s:s}", "generators", "avatar");
    struct queue_claimed c;
    enum job_state s;
    submit("a", 5);
    submit("b", 5);
    assert_int_equal(queue_cmd_hello(&cmd, &queue, "w7", 1000, info, &err), 0);
    send();
    json_decref(info);
    static const char *const tokens[] = {"t1", "t1", "t2"};
    struct queue_offer offer = {.worker = "w7", .generators = "avatar", .bytes = 1000, .lease_ms = 15000};
    for (int i = 0; i < 3; i++) {
        offer.token = tokens[i];
        assert_int_equal(queue_cmd_claim(&cmd, &queue, &offer, &err), 0);
        send();
        assert_int_equal(queue_read_claim(reply.data, reply.len, &c, &err), 0);
        assert_true(c.got);
        assert_string_equal(c.job.id, i < 2 ? "a" : "b");
        assert_int_equal(c.attempt, 1);
        assert_int_equal(c.deaths, 0);
        job_done(&c.job);
    }
    /* a copy of an old claim that comes late takes nothing, and the last one is still known by its token */
    static const char *const numbered[] = {"p:1", "p:9", "p:2", "p:9", "p:10"};
    static const char *const jobs[] = {"c", "d", NULL, "d", "e"};
    submit("c", 5);
    submit("d", 5);
    submit("e", 5);
    for (int i = 0; i < 5; i++) {
        offer.token = numbered[i];
        assert_int_equal(queue_cmd_claim(&cmd, &queue, &offer, &err), 0);
        send();
        assert_int_equal(queue_read_claim(reply.data, reply.len, &c, &err), 0);
        assert_int_equal(c.got, jobs[i] != NULL);
        if (c.got)
            assert_string_equal(c.job.id, jobs[i]);
        job_done(&c.job);
    }
    assert_int_equal(settle("a", 1, 0, &s), 0);
    assert_int_equal(settle("gone", 1, 0, &s), ERR_NOTFOUND);
    err_clear(&err);
    assert_int_equal(release("gone", 1, &s), ERR_NOTFOUND);
    err_clear(&err);
}

/* Redis was away for longer than the leases: who lives keeps its job, who does not loses it a little later. */
static void test_grace(void **state)
{
    (void)state;
    NEED_SERVER();
    struct queue_claimed c;
    struct queue_expired e;
    struct queue_heard h;
    struct job_view v;
    static const char *const ids[] = {"lives", "dead"};
    char key[80];
    str_format(key, sizeof(key), "%s:meta", queue.base);
    for (int i = 0; i < 2; i++) {
        submit(ids[i], 5);
        assert_true(claim_as(ids[i], 5, &c));
        assert_string_equal(c.job.id, ids[i]);
        job_done(&c.job);
    }
    clock_sleep_us(10 * CLOCK_MS);
    words("HSET", key, "ticked", "1"); /* nobody was there since 1970 */
    for (int i = 0; i < 2; i++) {
        expire(&e);
        assert_int_equal(e.n_leases, 0);
    }
    assert_int_equal(renew("lives", 1, 15000, &h), 0);
    words("HSET", key, "grace", "1"); /* as if it was over */
    expire(&e);
    assert_int_equal(e.n_leases, 1);
    assert_int_equal(get("lives", &v), 0);
    assert_int_equal(v.status.state, JOB_RUNNING);
    assert_int_equal(v.status.deaths, 0);
    job_view_done(&v);
    assert_int_equal(get("dead", &v), 0);
    assert_int_equal(v.status.state, JOB_QUEUED);
    assert_int_equal(v.status.deaths, 1);
    job_view_done(&v);
}

/* A job asked for again has its whole time to start again. */
static void test_retry_starts_the_clock(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job job;
    struct queue_submitted s;
    struct queue_expired e;
    make_job(&job, "late", 5);
    job.deadline_start_ms = 20;
    assert_int_equal(submit_job(&job, &s), 0);
    job_done(&job);
    for (int i = 0; i < 2; i++) {
        clock_sleep_us(30 * CLOCK_MS);
        expire(&e);
        assert_int_equal(e.n_deadlines, 1);
        assert_int_equal(queue_cmd_retry(&cmd, &queue, "late", &err), 0);
        send();
        assert_int_equal(queue_read_ok(reply.data, reply.len, &err), 0);
    }
}

static void test_list(void **state)
{
    (void)state;
    NEED_SERVER();
    char cursor[64] = "";
    int n = 0, pages = 0;
    char seen[8][JOB_ID];
    for (int i = 0; i < 5; i++)
        submit((const char *const[]){"a", "b", "c", "d", "e"}[i], 5);
    do {
        json_t *jobs = NULL;
        assert_int_equal(queue_cmd_list(&cmd, &queue, JOB_QUEUED, cursor, 2, &err), 0);
        send();
        assert_int_equal(queue_read_list(reply.data, reply.len, &jobs, cursor, &err), 0);
        for (size_t i = 0; i < json_array_size(jobs); i++, n++)
            str_copy(seen[n], JOB_ID, json_string_value(json_object_get(json_array_get(jobs, i), "id")));
        json_decref(jobs);
        pages++;
    } while (cursor[0]);
    assert_int_equal(n, 5);
    assert_int_equal(pages, 3);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            assert_string_not_equal(seen[i], seen[k]);
    json_t *jobs = NULL;
    assert_int_equal(queue_cmd_list(&cmd, &queue, &(struct queue_filter){.state = JOB_DONE}, "", 2, &err), 0);
    send();
    assert_int_equal(queue_read_list(reply.data, reply.len, &jobs, cursor, &err), 0);
    assert_int_equal(json_array_size(jobs), 0);
    json_decref(jobs);
}

struct seen {
    char what[16][16];
    enum job_state state[16];
    int n;
};

static int see(void *arg, const char *id, const char *bytes, size_t len)
{
    struct seen *s = arg;
    struct queue_event e;
    assert_non_null(strchr(id, '-'));
    assert_int_equal(queue_read_event(bytes, len, &e, &err), 0);
    assert_string_equal(e.id, "a");
    assert_true(s->n < 16);
    str_copy(s->what[s->n], 16, e.what);
    s->state[s->n++] = e.state;
    return 0;
}

static void test_events(void **state)
{
    (void)state;
    NEED_SERVER();
    struct seen s = {0}, again = {0};
    struct queue_heard h;
    enum job_state st;
    char last[64] = "0";
    submit("a", 5);
    int64_t at = claim("a");
    progress("a", at, &h);
    settle("a", at, 0, &st);
    queue_cmd_events(&cmd, &queue, "0", 100, 100);
    assert_int_equal(redis_sync_events(redis, &cmd, 100, see, &s, last, &err), 0);
    static const char *const what[] = {"submit", "claim", "progress", "settle"};
    static const enum job_state states[] = {JOB_QUEUED, JOB_RUNNING, JOB_RUNNING, JOB_DONE};
    assert_int_equal(s.n, 4);
    for (int i = 0; i < 4; i++) {
        assert_string_equal(s.what[i], what[i]);
        assert_int_equal(s.state[i], states[i]);
    }
    queue_cmd_replay(&cmd, &queue, "-", 100);
    assert_int_equal(redis_sync_events(redis, &cmd, 0, see, &again, last, &err), 0);
    assert_int_equal(again.n, 4);
    queue_cmd_replay(&cmd, &queue, last, 100); /* after the last: nothing */
    assert_int_equal(redis_sync_events(redis, &cmd, 0, see, &again, last, &err), 0);
    assert_int_equal(again.n, 4);
}

static void test_wake(void **state)
{
    (void)state;
    NEED_SERVER();
    bool woken = true;
    queue_cmd_wake(&cmd, &queue, 30);
    int64_t t = clock_us();
    assert_int_equal(redis_sync_wait(redis, &cmd, 30, &woken, &err), 0);
    assert_false(woken);
    assert_true(clock_us() - t < CLOCK_S);
    submit("a", 5);
    submit("b", 5);
    for (int i = 0; i < 2; i++) {
        queue_cmd_wake(&cmd, &queue, 1000);
        assert_int_equal(redis_sync_wait(redis, &cmd, 1000, &woken, &err), 0);
        assert_true(woken);
    }
    struct queue_expired e;
    expire(&e); /* both tokens were taken and nobody claimed: the timer says it again */
    queue_cmd_wake(&cmd, &queue, 1000);
    assert_int_equal(redis_sync_wait(redis, &cmd, 1000, &woken, &err), 0);
    assert_true(woken);
    claim("a"); /* b still waits: the claim wakes the next worker */
    queue_cmd_wake(&cmd, &queue, 1000);
    assert_int_equal(redis_sync_wait(redis, &cmd, 1000, &woken, &err), 0);
    assert_true(woken);
}

static void test_library_comes_back(void **state)
{
    (void)state;
    NEED_SERVER();
    words("FUNCTION", "FLUSH", NULL, NULL);
    submit("a", 5);
    bool load = true;
    words("FCALL_RO", "troupe_version", "0", NULL);
    assert_int_equal(queue_read_version(reply.data, reply.len, &load, &err), 0);
    assert_false(load);
    assert_int_equal(queue_read_version("999", 3, &load, &err), 0);
    assert_true(load);
    assert_int_equal(queue_read_version("999000", 6, &load, &err), ERR_UNSUPPORTED);
}

static void test_server_checks(void **state)
{
    (void)state;
    NEED_SERVER();
    words("CONFIG", "SET", "maxmemory-policy", "allkeys-lru");
    assert_int_equal(redis_sync_setup(redis, &err), ERR_REDIS);
    assert_non_null(strstr(err.text, "maxmemory-policy is allkeys-lru"));
    err_clear(&err);
    words("CONFIG", "SET", "maxmemory-policy", "noeviction");
    assert_int_equal(redis_sync_setup(redis, &err), 0);
    static const char old[] = "redis_version:6.2.1\r\nmaxmemory_policy:noeviction\r\n";
    assert_int_equal(queue_check_info(old, sizeof(old) - 1, &err), ERR_REDIS);
    assert_string_equal(err.text,
                        "Redis 6.2.1 is too old: version 7.0 or newer is needed (it has functions)");
    err_clear(&err);
    words("CONFIG", "SET", "requirepass", "secret");
    redis_sync_close(redis);
    char url[160];
    str_format(url, sizeof(url), "%s?password=wrong", server.url);
    assert_int_equal(redis_sync_open(&redis, url, &err), 0);
    assert_int_equal(redis_sync_setup(redis, &err), ERR_REDIS);
    assert_string_equal(err.text, "Redis refuses the password of the setting redis: correct it (redis://:PASSWORD@host:port/0)");
    redis_sync_close(redis);
    err_clear(&err);
    assert_int_equal(redis_sync_open(&redis, server.url, &err), 0);
    assert_int_equal(redis_sync_setup(redis, &err), ERR_REDIS);
    assert_string_equal(
        err.text, "Redis wants a password: put it into the setting redis (redis://:PASSWORD@host:port/0)");
    redis_sync_close(redis);
    err_clear(&err);
    str_format(url, sizeof(url), "%s?db=0&password=secret", server.url);
    assert_int_equal(redis_sync_open(&redis, url, &err), 0);
    assert_int_equal(redis_sync_setup(redis, &err), 0);
    words("CONFIG", "SET", "requirepass", "");
}

static void test_restart(void **state)
{
    (void)state;
    NEED_SERVER();
    struct redis_private own;
    struct redis_sync *saved = redis;
    struct queue_heard h;
    enum job_state s;
    assert_true(redis_private_start(&own, true));
    assert_int_equal(redis_sync_open(&redis, own.url, &err), 0);
    assert_int_equal(redis_sync_setup(redis, &err), 0);
    submit("a", 5);
    submit("b", 5);
    int64_t at = claim("a");
    redis_private_kill(&own);
    struct err e = {0};
    queue_cmd_renew(&cmd, &queue, "a", at, 0, 1000, &err);
    assert_int_equal(redis_sync_call(redis, &cmd, 500, &reply, &e), ERR_REDIS);
    redis_private_again(&own, true);
    assert_int_equal(renew("a", at, 15000, &h), 0); /* the lease and the fence are still there */
    assert_int_equal(settle("a", at, 0, &s), 0);
    claim("b");
    redis_sync_close(redis);
    redis_private_stop(&own, false);
    redis = saved;
}

static void test_bad_answers(void **state)
{
    (void)state;
    struct queue_submitted s;
    struct queue_claimed c;
    struct queue_event e;
    struct job_view v;
    static const char *const bad[] = {"", "x", "\x80", "\x81\xa1r\xa2OK", "\xff", "\xdf\xff\xff\xff\xff"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        size_t n = strlen(bad[i]);
        if (i != 3) {
            assert_int_equal(queue_read_submit(bad[i], n, &s, NULL), ERR_FORMAT);
            assert_int_equal(queue_read_claim(bad[i], n, &c, NULL), ERR_FORMAT);
        }
        assert_int_equal(queue_read_get(bad[i], n, &v, NULL), ERR_FORMAT);
        assert_int_equal(queue_read_event(bad[i], n, &e, NULL), ERR_FORMAT);
    }
    assert_int_equal(queue_read_ok(NULL, 0, NULL), ERR_FORMAT);
    assert_int_equal(queue_init(&queue, "", NULL), ERR_INVALID);
    assert_int_equal(queue_init(&queue, "a{b", NULL), ERR_INVALID);
    assert_int_equal(queue_init(&queue, "a-name-of-more-than-forty-characters-is-not", NULL), ERR_INVALID);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, begin)
    const struct CMUnitTest tests[] = {
        T(test_submit),
        T(test_idempotency),
        T(test_order),
        T(test_fit),
        T(test_record),
        T(test_done),
        T(test_lost_lease),
        T(test_poison),
        T(test_failures),
        T(test_cancel),
        T(test_cancel_not_obeyed),
        T(test_release),
        T(test_deadlines),
        T(test_retry_and_delete),
        T(test_forget),
        T(test_pause_and_purge),
        T(test_workers),
        T(test_claim_again),
        T(test_retry_starts_the_clock),
        T(test_grace),
        T(test_list),
        T(test_events),
        T(test_wake),
        T(test_library_comes_back),
        T(test_server_checks),
        T(test_restart),
        T(test_bad_answers),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
