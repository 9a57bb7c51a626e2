/* queue_load.c -- load for tests/bench/queue.py: empty jobs through the queue's functions, as fast as one pipelining
 * connection asks. A line of JSON on stdout.
 *
 *     queue_load through SOCKET JOBS DEPTH     submit -> claim -> settle, DEPTH of each in one go; jobs a second
 *     queue_load drain SOCKET JOBS DEPTH       claim -> settle of what others submit, until JOBS are settled
 *     queue_load pickup SOCKET JOBS            a worker blocks, a client submits: microseconds until the worker has it
 *     queue_load http HOST:PORT PATH BODY_FILE REQUESTS CONNECTIONS     POSTs, kept alive; answers a second
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/queue.h"
#include "common/redis_sync.h"
#include "common/str.h"

#define WORKERS 16
#define DEPTH_MAX 512
#define CONNECTIONS_MAX 1024

static struct queue queue;
static struct err err;

static void die(const char *what)
{
    fprintf(stderr, "queue_load: %s: %s\n", what, err.text[0] ? err.text : strerror(errno));
    exit(1);
}

static void check(int rc, const char *what)
{
    if (rc < 0)
        die(what);
}

static int64_t number(const char *text, int64_t max)
{
    int64_t n = 0;
    if (str_parse_i64(text, 1, max, &n) < 0)
        die(text);
    return n;
}

/* ---- a pipelining connection ---- */

struct pipe_line {
    int fd;
    struct buf out, in;
    size_t at; /* of the next reply in `in` */
};

static void line_open(struct pipe_line *p, const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    buf_init(&p->out, 64 << 20);
    buf_init(&p->in, 64 << 20);
    p->at = 0;
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (str_copy(a.sun_path, sizeof(a.sun_path), path) < 0 || connect(p->fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        die(path);
}

static void line_close(struct pipe_line *p)
{
    close(p->fd);
    buf_done(&p->out);
    buf_done(&p->in);
}

static void line_put(struct pipe_line *p, const struct queue_cmd *c)
{
    check(buf_printf(&p->out, "*%d\r\n", c->argc), "memory");
    for (int i = 0; i < c->argc; i++) {
        check(buf_printf(&p->out, "$%zu\r\n", c->argv_len[i]), "memory");
        check(buf_add(&p->out, c->argv[i], c->argv_len[i]), "memory");
        check(buf_puts(&p->out, "\r\n"), "memory");
    }
}

static void line_send(struct pipe_line *p)
{
    for (size_t done = 0; done < p->out.len;) {
        ssize_t n = send(p->fd, p->out.data + done, p->out.len - done, MSG_NOSIGNAL);
        if (n <= 0)
            die("send");
        done += (size_t)n;
    }
    buf_clear(&p->out);
    buf_clear(&p->in);
    p->at = 0;
}

static void line_more(struct pipe_line *p)
{
    check(buf_reserve(&p->in, 65536), "memory");
    ssize_t n = recv(p->fd, p->in.data + p->in.len, 65536, 0);
    if (n <= 0)
        die("recv");
    p->in.len += (size_t)n;
    p->in.data[p->in.len] = 0;
}

/* The next reply, a bulk string. */
static const char *line_read(struct pipe_line *p, size_t *ret_len)
{
    const char *end;
    while (!(end = p->in.len > p->at ? memchr(p->in.data + p->at, '\n', p->in.len - p->at) : NULL))
        line_more(p);
    if (p->in.data[p->at] != '$') {
        str_format(err.text, sizeof(err.text), "%.*s", (int)(end - p->in.data - (ptrdiff_t)p->at), p->in.data + p->at);
        die("Redis answered");
    }
    size_t n = strtoul(p->in.data + p->at + 1, NULL, 10), head = (size_t)(end - p->in.data) + 1;
    while (p->in.len < head + n + 2)
        line_more(p);
    p->at = head + n + 2;
    *ret_len = n;
    return p->in.data + head;
}

/* ---- commands ---- */

static void put_submit(struct pipe_line *p, struct queue_cmd *c, const char *id)
{
    struct job job;
    job_init(&job);
    check(str_copy(job.id, sizeof(job.id), id), "id");
    check(str_copy(job.generator, sizeof(job.generator), "avatar"), "generator");
    job.params = json_object();
    check(queue_cmd_submit(c, &queue, &job, INT64_C(100000000), &err), "submit");
    line_put(p, c);
    job_done(&job);
}

static void put_claim(struct pipe_line *p, struct queue_cmd *c, int64_t serial)
{
    char worker[16], token[24];
    str_format(worker, sizeof(worker), "w%d", (int)(serial % WORKERS));
    str_format(token, sizeof(token), "%lld", (long long)serial);
    struct queue_offer o = {.worker = worker, .generators = "avatar", .lease_ms = 60000, .token = token, .warm = "avatar"};
    check(queue_cmd_claim(c, &queue, &o, &err), "claim");
    line_put(p, c);
}

static void put_settle(struct pipe_line *p, struct queue_cmd *c, const char *id, int64_t attempt)
{
    json_t *result = json_object();
    struct queue_limits limits = {.max_fails = 3, .backoff_ms = 1000};
    check(queue_cmd_settle(c, &queue, id, attempt, 0, "", result, &limits, NULL, &err), "settle");
    line_put(p, c);
    json_decref(result);
}

static void put_hello(struct pipe_line *p, struct queue_cmd *c, int worker)
{
    char name[16];
    str_format(name, sizeof(name), "w%d", worker);
    json_t *info = json_pack("{s:s s:i s:i s:s s:i}", "generators", "avatar", "memory_bytes", 0, "pid", 1, "device", "load",
                             "ver", JOB_VERSION);
    check(queue_cmd_hello(c, &queue, name, 3600000, info, &err), "hello");
    line_put(p, c);
    json_decref(info);
}

static void start_workers(struct pipe_line *p)
{
    struct queue_cmd c = {0};
    size_t len;
    for (int i = 0; i < WORKERS; i++)
        put_hello(p, &c, i);
    line_send(p);
    for (int i = 0; i < WORKERS; i++)
        line_read(p, &len);
    queue_cmd_done(&c);
}

/* ---- submit, claim, settle ---- */

struct held {
    char id[JOB_ID];
    int64_t attempt;
};

/* One round trip: n_submit submits and n_claim claims, and the settles of what the last one gave. Fills held, returns how
 * many. */
static int round_trip(struct pipe_line *p, int n_submit, int n_claim, struct held *held, int n_held, int64_t *serial)
{
    static struct queue_cmd c;
    struct queue_claimed got;
    size_t len;
    int n = 0;
    char id[JOB_ID];
    for (int i = 0; i < n_held; i++)
        put_settle(p, &c, held[i].id, held[i].attempt);
    for (int i = 0; i < n_submit; i++) {
        str_format(id, sizeof(id), "%d-%lld", (int)getpid(), (long long)(*serial + i));
        put_submit(p, &c, id);
    }
    for (int i = 0; i < n_claim; i++)
        put_claim(p, &c, *serial + i);
    *serial += n_submit > n_claim ? n_submit : n_claim;
    line_send(p);
    for (int i = 0; i < n_held + n_submit; i++) {
        const char *bytes = line_read(p, &len);
        check(queue_read_ok(bytes, len, &err), "submit or settle");
    }
    for (int i = 0; i < n_claim; i++) {
        const char *bytes = line_read(p, &len);
        check(queue_read_claim(bytes, len, &got, &err), "claim");
        if (!got.got)
            continue;
        str_copy(held[n].id, sizeof(held[n].id), got.job.id);
        held[n++].attempt = got.attempt;
        job_done(&got.job);
    }
    return n;
}

static void through(const char *path, int64_t jobs, int depth, bool submits)
{
    static struct held held[DEPTH_MAX];
    struct pipe_line p;
    int64_t serial = 0, settled = 0, sent = 0;
    int n = 0;
    line_open(&p, path);
    start_workers(&p);
    int64_t began = clock_us();
    while (settled < jobs) {
        int64_t left = jobs - sent;
        int more = submits ? (int)(left < depth ? left : depth) : 0;
        settled += n;
        n = round_trip(&p, more, depth, held, n, &serial);
        sent += more;
        if (!submits && n == 0)
            clock_sleep_us(5 * CLOCK_MS); /* not a hot loop of claims that find nothing */
        if (submits && n == 0 && sent == jobs && settled < jobs)
            die("jobs are missing");
    }
    double s = (double)(clock_us() - began) / 1e6;
    printf("{\"jobs\": %lld, \"seconds\": %.3f, \"per_s\": %.0f}\n", (long long)jobs, s, (double)jobs / s);
    line_close(&p);
}

/* ---- pickup ---- */

struct pickup {
    char url[256];
    int64_t jobs;
    int64_t *submitted, *claimed; /* us, by job */
};

static struct queue_claimed claim_one(struct redis_sync *r, struct queue_cmd *c, struct buf *reply, int64_t serial)
{
    char token[24];
    struct queue_claimed got = {0};
    str_format(token, sizeof(token), "p%lld", (long long)serial);
    struct queue_offer o = {.worker = "w0", .generators = "avatar", .lease_ms = 60000, .token = token, .warm = "avatar"};
    check(queue_cmd_claim(c, &queue, &o, &err), "claim");
    check(redis_sync_call(r, c, 5000, reply, &err), "claim");
    check(queue_read_claim(reply->data, reply->len, &got, &err), "claim");
    return got;
}

/* Blocks, claims, settles: what a worker's loop is. */
static void *pickup_worker(void *arg)
{
    struct pickup *k = arg;
    struct redis_sync *r = NULL;
    struct queue_cmd c = {0};
    struct queue_limits limits = {.max_fails = 3, .backoff_ms = 1000};
    struct buf reply;
    json_t *result = json_object();
    buf_init(&reply, 1 << 20);
    check(redis_sync_open(&r, k->url, &err), "open");
    for (int64_t done = 0, serial = 0; done < k->jobs; serial++) {
        bool woken;
        check(queue_cmd_wake(&c, &queue, 1000), "wake");
        check(redis_sync_wait(r, &c, 1000, &woken, &err), "wake");
        struct queue_claimed got = claim_one(r, &c, &reply, serial);
        if (!got.got)
            continue;
        int64_t now = clock_us(), i = number(got.job.id + 1, k->jobs) - 1;
        k->claimed[i] = now;
        check(queue_cmd_settle(&c, &queue, got.job.id, got.attempt, 0, "", result, &limits, NULL, &err), "settle");
        check(redis_sync_call(r, &c, 5000, &reply, &err), "settle");
        job_done(&got.job);
        done++;
    }
    json_decref(result);
    queue_cmd_done(&c);
    buf_done(&reply);
    redis_sync_close(r);
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void submit_all(struct pickup *k)
{
    struct redis_sync *r = NULL;
    struct queue_cmd c = {0};
    struct queue_submitted s;
    struct buf reply;
    buf_init(&reply, 1 << 20);
    check(redis_sync_open(&r, k->url, &err), "open");
    for (int64_t i = 0; i < k->jobs; i++) {
        struct job job;
        job_init(&job);
        str_format(job.id, sizeof(job.id), "p%lld", (long long)(i + 1));
        str_copy(job.generator, sizeof(job.generator), "avatar");
        job.params = json_object();
        check(queue_cmd_submit(&c, &queue, &job, INT64_C(100000000), &err), "submit");
        k->submitted[i] = clock_us();
        check(redis_sync_call(r, &c, 5000, &reply, &err), "submit");
        check(queue_read_submit(reply.data, reply.len, &s, &err), "submit");
        job_done(&job);
        clock_sleep_us(1500);
    }
    queue_cmd_done(&c);
    buf_done(&reply);
    redis_sync_close(r);
}

static void pickup(const char *path, int64_t jobs)
{
    struct pickup k = {.jobs = jobs, .submitted = calloc((size_t)jobs, 8), .claimed = calloc((size_t)jobs, 8)};
    struct pipe_line p;
    pthread_t worker;
    str_format(k.url, sizeof(k.url), "unix://%s", path);
    line_open(&p, path);
    start_workers(&p);
    line_close(&p);
    if (!k.submitted || !k.claimed || pthread_create(&worker, NULL, pickup_worker, &k) != 0)
        die("thread");
    clock_sleep_us(100 * CLOCK_MS);
    submit_all(&k);
    pthread_join(worker, NULL);
    for (int64_t i = 0; i < jobs; i++)
        k.claimed[i] -= k.submitted[i];
    qsort(k.claimed, (size_t)jobs, sizeof(int64_t), by_size);
    printf("{\"jobs\": %lld, \"p50_us\": %lld, \"p99_us\": %lld, \"max_us\": %lld}\n", (long long)jobs,
           (long long)k.claimed[jobs / 2], (long long)k.claimed[jobs * 99 / 100], (long long)k.claimed[jobs - 1]);
    free(k.submitted);
    free(k.claimed);
}

/* ---- http ---- */

struct conversation {
    int fd;
    size_t sent, got, want; /* want: the whole answer's length once known */
    char in[16384];
};

static void http_open(struct conversation *v, const char *host, int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;
    v->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1 || connect(v->fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        die(host);
    setsockopt(v->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* Reads what is there; true when the answer is whole. */
static bool http_read(struct conversation *v)
{
    ssize_t n = recv(v->fd, v->in + v->got, sizeof(v->in) - 1 - v->got, 0);
    if (n <= 0)
        die("the dispatcher closed the connection");
    v->got += (size_t)n;
    v->in[v->got] = 0;
    const char *body = strstr(v->in, "\r\n\r\n"), *length = strcasestr(v->in, "content-length:");
    if (!v->want && body && length)
        v->want = (size_t)(body - v->in) + 4 + strtoul(length + 15, NULL, 10);
    if (!v->want || v->got < v->want)
        return false;
    if (strncmp(v->in, "HTTP/1.1 20", 11) != 0) {
        str_format(err.text, sizeof(err.text), "%.300s", v->in);
        die("answer");
    }
    v->got = v->want = v->sent = 0;
    return true;
}

static void http_send(const struct conversation *v, const struct buf *request)
{
    for (size_t done = 0; done < request->len;) {
        ssize_t n = send(v->fd, request->data + done, request->len - done, MSG_NOSIGNAL);
        if (n <= 0)
            die("send");
        done += (size_t)n;
    }
}

static void read_file(const char *path, struct buf *b)
{
    char chunk[4096];
    FILE *f = fopen(path, "rb");
    if (!f)
        die(path);
    for (size_t n; (n = fread(chunk, 1, sizeof(chunk), f)) > 0;)
        check(buf_add(b, chunk, n), "memory");
    fclose(f);
}

static void http(const char *address, const char *path, const char *body_file, int64_t requests, int n)
{
    static struct conversation all[CONNECTIONS_MAX];
    static struct pollfd fds[CONNECTIONS_MAX];
    struct buf body, request;
    char host[64];
    buf_init(&body, 1 << 20);
    buf_init(&request, 1 << 20);
    read_file(body_file, &body);
    check(buf_printf(&request, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                     path, body.len), "memory");
    check(buf_add(&request, body.data, body.len), "memory");
    const char *colon = strrchr(address, ':');
    str_format(host, sizeof(host), "%.*s", colon ? (int)(colon - address) : 0, address);
    int64_t began = clock_us(), sent = 0, done = 0;
    for (int i = 0; i < n; i++, sent++) {
        http_open(&all[i], host, (int)number(colon ? colon + 1 : "", 65535));
        http_send(&all[i], &request);
        fds[i] = (struct pollfd){.fd = all[i].fd, .events = POLLIN};
    }
    while (done < requests && poll(fds, (nfds_t)n, 10000) > 0)
        for (int i = 0; i < n; i++) {
            if (!(fds[i].revents & (POLLIN | POLLHUP)) || !http_read(&all[i]))
                continue;
            done++;
            if (sent < requests) {
                http_send(&all[i], &request);
                sent++;
            }
        }
    double s = (double)(clock_us() - began) / 1e6;
    printf("{\"jobs\": %lld, \"seconds\": %.3f, \"per_s\": %.0f}\n", (long long)done, s, (double)done / s);
    buf_done(&body);
    buf_done(&request);
}

int main(int argc, char **argv)
{
    check(queue_init(&queue, "avatar", &err), "queue");
    if (argc == 5 && (strcmp(argv[1], "through") == 0 || strcmp(argv[1], "drain") == 0))
        through(argv[2], number(argv[3], INT64_C(100000000)), (int)number(argv[4], DEPTH_MAX), argv[1][0] == 't');
    else if (argc == 4 && strcmp(argv[1], "pickup") == 0)
        pickup(argv[2], number(argv[3], 1000000));
    else if (argc == 7 && strcmp(argv[1], "http") == 0)
        http(argv[2], argv[3], argv[4], number(argv[5], INT64_C(100000000)), (int)number(argv[6], CONNECTIONS_MAX));
    else {
        fprintf(stderr, "usage: see the first lines of queue_load.c\n");
        return 2;
    }
    return 0;
}
