/* worker: real troupe-worker processes on a redis-server of the test's own, with the demo model: a video
 * comes out; a killed worker's job is finished by another one; cancel, stop signals, bad inputs, Redis
 * restarting in between. */
#include <fcntl.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/blob.h"
#include "common/clock.h"
#include "common/redis_sync.h"
#include "common/schema.h"
#include "common/str.h"
#include "tests/unit/redis_private.h"

static struct redis_private server;
static bool have_server;
static struct redis_sync *redis;
static struct queue queue;
static struct queue_cmd cmd;
static struct buf reply;
static struct err err;
static char volume[96], demo[512], program[512], log_path[128];
static int n_jobs, n_workers;
static pid_t workers[8];

static int start(void **state)
{
    (void)state;
    const char *d = getenv("TEST_DEMO"), *w = getenv("TEST_WORKER");
    have_server = d && w && redis_private_start(&server, true);
    if (!have_server)
        return 0;
    str_copy(demo, sizeof(demo), d);
    str_copy(program, sizeof(program), w);
    str_path(volume, sizeof(volume), server.folder, "volume");
    str_path(log_path, sizeof(log_path), server.folder, "worker.log");
    buf_init(&reply, 1 << 20);
    return blob_init(volume, &err) < 0 || redis_sync_open(&redis, server.url, &err) < 0 ||
           redis_sync_setup(redis, &err) < 0;
}

static int stop(void **state)
{
    (void)state;
    queue_cmd_done(&cmd);
    buf_done(&reply);
    redis_sync_close(redis);
    if (have_server)
        redis_private_stop(&server, getenv("TEST_KEEP") != NULL);
    return 0;
}

#define NEED_SERVER()                                                                                        \
    if (!have_server)                                                                                        \
    skip()

/* ---- processes ---- */

static void child(const char *name, const char *drain, const char *extra)
{
    int fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0644);
    char ckpts[600];
    str_path(ckpts, sizeof(ckpts), demo, "ckpts");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(126);
    execl(program, program, "--redis", server.url, "--queue", queue.name, "--volume", volume, "--ckpts",
          ckpts, "--worker-name", name, "--lease-s", "1", "--renew-s", "0.2", "--drain-s", drain,
          "--backoff-s", "0.05", extra, (char *)NULL);
    _exit(127);
}

static pid_t spawn(const char *name, const char *drain, const char *extra)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        child(name, drain, extra);
    workers[n_workers++ % 8] = pid;
    return pid;
}

/* A queue of its own for each test. */
static int begin(void **state)
{
    static int n;
    char name[32];
    (void)state;
    str_format(name, sizeof(name), "q%d", n++);
    return queue_init(&queue, name, &err);
}

/* What a test that failed has left running would take the next one's jobs. */
static int end_strays(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++)
        if (workers[i] && kill(workers[i], SIGKILL) == 0)
            waitpid(workers[i], NULL, 0);
    memset(workers, 0, sizeof(workers));
    return 0;
}

/* The exit code, -1 when it does not end in time (it is then killed), -2 when a signal ended it. */
static int wait_exit(pid_t pid, double seconds)
{
    int64_t deadline = clock_us() + (int64_t)(seconds * 1e6);
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (clock_us() > deadline) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return -1;
        }
        clock_sleep_us(5 * CLOCK_MS);
    }
    for (int i = 0; i < 8; i++)
        if (workers[i] == pid)
            workers[i] = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -2;
}

static void end_worker(pid_t pid)
{
    kill(pid, SIGTERM);
    assert_int_equal(wait_exit(pid, 30), 0);
}

/* ---- the queue ---- */

static void send(void)
{
    err_clear(&err);
    if (redis_sync_call(redis, &cmd, 5000, &reply, &err) < 0)
        fail_msg("%s", err.text);
}

static void put_sample(json_t *body, const char *field, const char *name)
{
    char path[600], key[BLOB_KEY];
    str_format(path, sizeof(path), "%s/samples/%s", demo, name);
    if (blob_put_file(volume, path, 1 << 28, key, &err) < 0)
        fail_msg("%s", err.text);
    json_object_set_new(body, field, json_string(key));
}

static void put_text(json_t *body, const char *field, const char *text)
{
    char key[BLOB_KEY];
    assert_int_equal(blob_put_bytes(volume, text, strlen(text), key, &err), 0);
    json_object_set_new(body, field, json_string(key));
}

/* Submits; takes over body. Returns the id. */
static const char *submit(json_t *body)
{
    static char id[8][JOB_ID];
    struct job job;
    struct queue_submitted s;
    char *mine = id[n_jobs++ % 8];
    job_init(&job);
    assert_int_equal(job_make_id(job.id), 0);
    if (schema_apply(schema_find("avatar"), body, NULL, &job, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(queue_cmd_submit(&cmd, &queue, &job, 100, &err), 0);
    send();
    assert_int_equal(queue_read_submit(reply.data, reply.len, &s, &err), 0);
    str_copy(mine, JOB_ID, s.id);
    job_done(&job);
    json_decref(body);
    return mine;
}

static json_t *request(int steps)
{
    json_t *body = json_pack("{s:i,s:i,s:i,s:i,s:s}", "size", 64, "num_inference_steps", steps, "num_frames",
                             9, "seed", 128, "prompt", "A person talks to the camera.");
    put_sample(body, "image", "face0.png");
    put_sample(body, "audio", "speech0.wav");
    return body;
}

static void get(const char *id, struct job_view *v)
{
    assert_int_equal(queue_cmd_get(&cmd, &queue, id, true, &err), 0);
    send();
    if (queue_read_get(reply.data, reply.len, v, &err) < 0)
        fail_msg("%s", err.text);
}

static bool is_there(const struct job_view *v, enum job_state want, const char *stage)
{
    if (stage && strcmp(stage, "eta") == 0)
        return v->status.state == want && v->status.eta_s >= 0;
    return v->status.state == want && (!stage || strcmp(v->status.stage, stage) == 0);
}

/* Waits until the job is in that state (and in the stage, when given; "eta": its end is predicted); fails
 * when it ends otherwise or takes too long. */
static void wait_for(const char *id, enum job_state want, const char *stage, double seconds)
{
    int64_t deadline = clock_us() + (int64_t)(seconds * 1e6);
    for (;;) {
        struct job_view v;
        get(id, &v);
        bool there = is_there(&v, want, stage);
        if (!there && (job_state_final(v.status.state) || clock_us() > deadline))
            fail_msg("job is %s (stage %s, attempt %lld, %s), not %s", job_state_text(v.status.state),
                     v.status.stage, (long long)v.status.attempt, v.status.error, job_state_text(want));
        job_view_done(&v);
        if (there)
            return;
        clock_sleep_us(5 * CLOCK_MS);
    }
}

static void cancel(const char *id)
{
    struct queue_cancelled c;
    assert_int_equal(queue_cmd_cancel(&cmd, &queue, id, "test", &err), 0);
    send();
    assert_int_equal(queue_read_cancel(reply.data, reply.len, &c, &err), 0);
}

/* The file of an attempt, whatever the mark in its name is. */
static bool result_find(const char *id, int64_t attempt, const char *name, char path[BLOB_PATH])
{
    char marked[80];
    glob_t found;
    struct stat st;
    str_format(marked, sizeof(marked), "*-%s", name);
    assert_int_equal(blob_result_path(volume, id, attempt, marked, false, path, BLOB_PATH, &err), 0);
    bool there = glob(path, 0, NULL, &found) == 0;
    if (there)
        str_copy(path, BLOB_PATH, found.gl_pathv[0]);
    globfree(&found);
    return there && stat(path, &st) == 0 && st.st_size > 0;
}

static bool result_there(const char *id, int64_t attempt, const char *name)
{
    char path[BLOB_PATH];
    return result_find(id, attempt, name, path);
}

static void assert_video_of(const json_t *result, const char *attempt)
{
    const char *name = json_string_value(json_object_get(result, "video"));
    assert_true(str_starts(name, attempt) && str_ends(name, "-video.mp4"));
}

/* ---- tests ---- */

static void test_video(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job_view v;
    int64_t began = clock_us();
    pid_t w = spawn("w1", "5", NULL);
    const char *id = submit(request(3));
    wait_for(id, JOB_DONE, NULL, 120);
    fprintf(stderr, "  a video of 3 steps after %.1f s\n", (double)(clock_us() - began) / 1e6);
    get(id, &v);
    assert_int_equal(v.status.attempt, 1);
    const json_t *r = v.status.result;
    assert_video_of(r, "1-");
    assert_int_equal(json_integer_value(json_object_get(r, "width")), 64);
    assert_int_equal(json_integer_value(json_object_get(r, "seed")), 128);
    assert_true(json_integer_value(json_object_get(r, "frames")) == 9);
    assert_int_equal(strlen(json_string_value(json_object_get(r, "video_sha256"))), 64);
    job_view_done(&v);
    static const char *const names[] = {"video.mp4", "thumbnail.png", "report.json"};
    for (int i = 0; i < 3; i++)
        assert_true(result_there(id, 1, names[i]));
    assert_false(result_there(id, 1, "video.mp4.part"));
    const char *again = submit(request(3)); /* same seed: same bytes */
    char first[65], path[BLOB_PATH];
    get(id, &v);
    str_copy(first, sizeof(first), json_string_value(json_object_get(v.status.result, "video_sha256")));
    job_view_done(&v);
    wait_for(again, JOB_DONE, NULL, 120);
    get(again, &v);
    assert_string_equal(first, json_string_value(json_object_get(v.status.result, "video_sha256")));
    job_view_done(&v);
    json_t *report = NULL;
    assert_true(result_find(id, 1, "report.json", path));
    assert_int_equal(json_read_file(path, 1 << 20, &report, &err), 0);
    assert_true(json_number_value(json_object_get(json_object_get(report, "stage_seconds"), "denoise")) > 0);
    assert_int_equal(strlen(json_string_value(json_object_get(report, "weights_sha256"))), 64);
    json_decref(report);
    end_worker(w);
}

static void test_killed(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job_view v;
    pid_t a = spawn("a", "5", NULL);
    const char *id = submit(request(6));
    wait_for(id, JOB_RUNNING, "denoise", 60);
    kill(a, SIGKILL);
    wait_exit(a, 5);
    int64_t dead = clock_us();
    pid_t b = spawn("b", "5", NULL);
    for (;;) {
        get(id, &v);
        bool second = v.status.attempt == 2;
        job_view_done(&v);
        if (second)
            break;
        assert_true(clock_us() - dead < 10 * CLOCK_S);
        clock_sleep_us(10 * CLOCK_MS);
    }
    fprintf(stderr, "  taken over %.1f s after the kill (lease 1 s)\n", (double)(clock_us() - dead) / 1e6);
    wait_for(id, JOB_DONE, NULL, 120);
    get(id, &v);
    assert_int_equal(v.status.deaths, 1);
    assert_string_equal(v.status.worker, "b");
    assert_video_of(v.status.result, "2-");
    job_view_done(&v);
    assert_false(result_there(id, 1, "video.mp4"));
    end_worker(b);
}

static void test_stopped_beyond_the_lease(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job_view v;
    pid_t a = spawn("a", "5", NULL);
    const char *id = submit(request(6));
    wait_for(id, JOB_RUNNING, "denoise", 60);
    kill(a, SIGSTOP);
    pid_t b = spawn("b", "5", NULL);
    clock_sleep_us(2500 * CLOCK_MS); /* the lease is 1 s */
    kill(a, SIGCONT);
    wait_for(id, JOB_DONE, NULL, 120);
    get(id, &v);
    assert_int_equal(v.status.attempt, 2);
    assert_string_equal(v.status.worker, "b");
    job_view_done(&v);
    end_worker(a);
    end_worker(b);
}

static void test_cancel(void **state)
{
    (void)state;
    NEED_SERVER();
    pid_t w = spawn("w", "5", NULL);
    const char *id = submit(request(100));
    wait_for(id, JOB_RUNNING, "denoise", 60);
    const char *next = submit(request(2));
    int64_t began = clock_us();
    cancel(id);
    wait_for(id, JOB_CANCELLED, NULL, 10);
    fprintf(stderr, "  cancelled after %.2f s\n", (double)(clock_us() - began) / 1e6);
    assert_false(result_there(id, 1, "video.mp4"));
    assert_false(result_there(id, 1, "video.mp4.part"));
    wait_for(next, JOB_DONE, NULL, 60); /* the worker is free for it */
    end_worker(w);
}

static void test_drain(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job_view v;
    pid_t a = spawn("a", "0", NULL);
    const char *id = submit(request(6));
    wait_for(id, JOB_RUNNING, "denoise", 60);
    kill(a, SIGTERM);
    int64_t began = clock_us();
    wait_for(id, JOB_QUEUED, NULL, 10);
    fprintf(stderr, "  given back after %.2f s\n", (double)(clock_us() - began) / 1e6);
    assert_int_equal(wait_exit(a, 10), 0);
    get(id, &v);
    assert_int_equal(v.status.fails + v.status.deaths, 0);
    job_view_done(&v);
    pid_t b = spawn("b", "600", NULL);
    wait_for(id, JOB_RUNNING, "eta", 60);
    kill(b, SIGTERM); /* it may end its job */
    assert_int_equal(wait_exit(b, 120), 0);
    wait_for(id, JOB_DONE, NULL, 1);
}

static void fails_with(const char *id, const char *code, const char *sentence)
{
    struct job_view v;
    wait_for(id, JOB_FAILED, NULL, 60);
    get(id, &v);
    assert_string_equal(v.status.error_code, code);
    if (!strstr(v.status.error, sentence))
        fail_msg("%s", v.status.error);
    assert_int_equal(v.status.attempt, 1); /* not tried again */
    job_view_done(&v);
}

static void test_bad_jobs(void **state)
{
    (void)state;
    NEED_SERVER();
    pid_t w = spawn("w", "5", "--max-memory-mib=800");
    json_t *body = request(2);
    put_text(body, "image", "this is no picture at all");
    const char *image = submit(body);
    body = request(2);
    put_text(body, "audio", "this is no sound at all");
    const char *audio = submit(body);
    body = request(2);
    json_object_set_new(
        body, "image",
        json_string("sha256:0000000000000000000000000000000000000000000000000000000000000000"));
    const char *gone = submit(body);
    body = request(2);
    json_object_set_new(body, "face", json_string("required"));
    const char *face = submit(body);
    body = request(2);
    json_object_set_new(body, "size", json_integer(512));
    const char *large = submit(body);
    const char *good = submit(request(2));
    fails_with(image, "MEDIA", "image");
    fails_with(audio, "MEDIA", "audio");
    fails_with(gone, "MEDIA",
               "image: sha256:0000000000000000000000000000000000000000000000000000000000000000 is not on the "
               "volume");
    fails_with(face, "INVALID", "face");
    fails_with(large, "NOFIT", "size: 512 x 512 with 9 frames needs ");
    fails_with(large, "NOFIT", " on this device (resident), 800.0 MiB free: use size 256, or shorter audio");
    wait_for(good, JOB_DONE, NULL, 60); /* the process is still there */
    end_worker(w);
}

static void test_redis_restarts(void **state)
{
    (void)state;
    NEED_SERVER();
    struct job_view v;
    pid_t w = spawn("w", "5", NULL);
    const char *id = submit(request(6));
    const char *next = submit(request(2));
    wait_for(id, JOB_RUNNING, "denoise", 60);
    redis_private_kill(&server);
    clock_sleep_us(500 * CLOCK_MS);
    redis_private_again(&server, true);
    wait_for(id, JOB_DONE, NULL, 120);
    wait_for(next, JOB_DONE, NULL, 60);
    get(next, &v);
    assert_int_equal(v.status.attempt, 1);
    job_view_done(&v);
    end_worker(w);
}

static void test_starts(void **state)
{
    (void)state;
    NEED_SERVER();
    assert_int_equal(wait_exit(spawn("w", "5", "--lease-s=no"), 5), 2);
    assert_int_equal(wait_exit(spawn("w", "5", "--device=abacus"), 5), 2);
    assert_int_equal(wait_exit(spawn("w", "5", "--ckpts=/nowhere"), 5), 1);
    assert_int_equal(wait_exit(spawn("w", "5", "--volume=/proc/nowhere"), 5), 1);
    assert_int_equal(wait_exit(spawn("w", "5", "--version"), 5), 0);
    assert_int_equal(wait_exit(spawn("w", "5", "--help"), 5), 0);
    assert_int_equal(wait_exit(spawn("w", "5", "--renew-s=0.9"), 5), 2); /* too long for a lease of 1 s */
    int64_t began = clock_us();
    assert_int_equal(wait_exit(spawn("w", "5", "--redis=unix:///nowhere/redis.sock"), 20), 1);
    assert_true(clock_us() - began >= 4 * CLOCK_S); /* Redis gets a moment */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end_strays)
    const struct CMUnitTest tests[] = {
        T(test_video), T(test_killed),   T(test_stopped_beyond_the_lease), T(test_cancel),
        T(test_drain), T(test_bad_jobs), T(test_redis_restarts),           T(test_starts)};
    if (getenv("TEST_ONLY"))
        cmocka_set_test_filter(getenv("TEST_ONLY"));
    return cmocka_run_group_tests(tests, start, stop);
}
