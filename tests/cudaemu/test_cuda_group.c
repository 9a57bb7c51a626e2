/* test_cuda_group.c -- groups of emulated GPUs over NCCL's emulation: what is exchanged, ranks that fail, die, do not come,
 * NCCL that is not there or refuses. Ranks are threads, each with a device of its own; control between them are threads'
 * mailboxes or sockets.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"
#include "kernels/comm/comm.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "tests/cudaemu/check.h"

enum { MOST = 3 };

static struct device *devices[MOST]; /* one a GPU */
static bool over_sockets;            /* control of the next groups */
static int fds[MOST][MOST];          /* its sockets, [whose][to] */

struct rank {
    struct comm *control, *comm; /* comm: control where NCCL is not used */
    struct device *device;
    struct run run;
    struct comm_group group;
    int64_t deadline;
    bool host;        /* does not try NCCL */
    void (*play)(struct rank *k);
    struct err opened; /* of NCCL's carrier */
    int value;
    float *result;    /* owned */
    int64_t n_result;
    int64_t began, took; /* us: at play's own choice; until the end */
    pthread_t thread;
};

static void *rank_main(void *arg)
{
    struct rank *k = arg;
    struct err err = {0};
    const struct comm_degrees degrees = {.tokens = k->control->size};
    k->comm = k->control;
    k->began = clock_us();
    if (!k->host && k->device->hooks->comm(k->device, k->control, k->deadline, &k->comm, &k->opened) < 0)
        k->comm = k->control;
    k->group.rank = k->control->rank;
    if ((!k->opened.code || k->opened.code == ERR_UNSUPPORTED) &&
        run_init(&k->run, k->device, (size_t)16 << 20, &err) == 0) {
        if (comm_group_init(&k->group, k->comm, k->control->rank, &degrees, &err) == 0)
            k->run.group = &k->group;
        k->play(k);
    } else {
        run_fail(&k->run, k->opened.code ? k->opened.code : err.code, "%s", k->opened.code ? k->opened.text : err.text);
    }
    k->took = clock_us() - k->began;
    if (k->run.err.code)
        comm_abort(k->comm, k->run.err.code, k->run.err.text);
    if (k->comm != k->control)
        comm_close(k->comm);
    comm_close(k->control);
    return NULL;
}

static void open_control(struct comm **ret, int n, int64_t deadline)
{
    struct err err = {0};
    int pair[2];
    if (!over_sockets && comm_threads_open(ret, n, deadline, &err) < 0)
        abort();
    for (int i = 0; i < n && over_sockets; i++)
        for (int j = 0; j < i; j++) {
            if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                abort();
            fds[i][j] = pair[0];
            fds[j][i] = pair[1];
        }
    for (int i = 0; i < n && over_sockets; i++)
        if (comm_sockets_adopt(&ret[i], i, n, fds[i], deadline, &err) < 0)
            abort();
}

/* n ranks, each on its own device where none is named; fault: CUDAEMU_NCCL; deadline: NCCL's. */
static void play(struct rank *ranks, int n, const char *fault, int64_t deadline, void (*fn)(struct rank *k))
{
    struct comm *ends[MOST];
    setenv("CUDAEMU_NCCL", fault, 1);
    open_control(ends, n, 20 * CLOCK_S);
    for (int i = 0; i < n; i++) {
        ranks[i].control = ends[i];
        ranks[i].deadline = deadline;
        ranks[i].play = fn;
        if (!ranks[i].device)
            ranks[i].device = devices[i];
    }
    for (int i = 0; i < n; i++)
        if (pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]) != 0)
            abort();
    for (int i = 0; i < n; i++)
        pthread_join(ranks[i].thread, NULL);
}

static void done(struct rank *ranks, int n)
{
    for (int i = 0; i < n; i++) {
        run_done(&ranks[i].run);
        mem_free(ranks[i].result);
    }
    memset(ranks, 0, (size_t)n * sizeof(*ranks));
}

/* ---- exchanges ---- */

/* Every operation, on numbers that ops made just before and that ops take just after. The result is all that came. */
static void play_all(struct rank *k)
{
    struct run *r = &k->run;
    const int n = k->group.size, me = k->group.rank;
    int64_t out[MOST], in[MOST], n_out = 0, n_in = 0, all = 0, counts[MOST];
    for (int i = 0; i < n; i++) {
        n_out += out[i] = (me + 2 * i) % 4 * 1000; /* none, too, and to oneself */
        n_in += in[i] = (i + 2 * me) % 4 * 1000;
        all += counts[i] = i == 2 ? 0 : 5 + i;
    }
    float *host = mem_calloc(16384, sizeof(*host));
    for (int64_t i = 0; i < 16384; i++)
        host[i] = (float)(me * 100000 + i);
    struct tensor src = run_write(r, host, DTYPE_F32, 1, SHAPE(n_out)),
                  own = run_write(r, host, DTYPE_F32, 1, SHAPE(counts[me]));
    struct tensor whole = run_new(r, DTYPE_F32, 1, SHAPE(n_in + 2 * all + 6000));
    struct tensor a = tensor_slice(whole, 0, 0, n_in), b = tensor_slice(whole, 0, n_in, all),
                  c = tensor_slice(whole, 0, n_in + all, all), d = tensor_slice(whole, 0, n_in + 2 * all, 6000);
    op_fill(r, whole, -1);
    for (int round = 0; round < 5; round++) {
        op_scale(r, src, 0.5f, (float)round);
        comm_all_to_all(r, &k->group.all, a, in, src, out);
        comm_all_gather(r, &k->group.all, b, counts, own);
        comm_gather(r, &k->group.all, 1, me == 1 ? c : TENSOR_NONE, counts, own);
        op_fill(r, d, me == n - 1 ? 7.0f + (float)round : -2.0f);
        comm_broadcast(r, &k->group.all, n - 1, d);
        op_scale(r, whole, 3, 0.25f);
        k->value += comm_agree(r, &k->group.all, me == round % n ? round : 0);
    }
    k->n_result = n_in + 2 * all + 6000;
    k->result = mem_calloc((size_t)k->n_result, sizeof(*k->result));
    run_read(r, whole, k->result);
    comm_agree(r, &k->group.all, 0); /* all have read theirs */
    mem_free(host);
}

static void test_exchanges(int n)
{
    struct rank ranks[MOST] = {{0}}, plain[MOST] = {{0}};
    char what[64];
    play(ranks, n, "", 20 * CLOCK_S, play_all);
    for (int i = 0; i < n; i++)
        plain[i].host = true;
    play(plain, n, "", 20 * CLOCK_S, play_all);
    for (int i = 0; i < n; i++) {
        const struct rank *a = &ranks[i], *b = &plain[i];
        str_format(what, sizeof(what), "%d ranks, rank %d: all exchanges", n, i);
        check(!a->run.err.code && !a->opened.code, what, a->run.err.code ? a->run.err.text : a->opened.text);
        check(!b->run.err.code, "the same through host memory", b->run.err.text);
        check(a->comm != a->control && a->value == 10 && b->value == 10, "over NCCL, agreed", what);
        check(a->n_result == b->n_result && memcmp(a->result, b->result, (size_t)a->n_result * sizeof(float)) == 0 &&
                  a->run.traffic == b->run.traffic && a->run.traffic > 0,
              "bit by bit what host memory gives", what);
        /* d: 7 + round, scaled four times more */
        check(a->result[a->n_result - 1] == 3 * 11 + 0.25f, "what the broadcast left", what);
    }
    done(ranks, n);
    done(plain, n);
}

/* ---- failure ---- */

static void exchange(struct rank *k)
{
    int64_t n[MOST], all = 0;
    for (int i = 0; i < k->group.size; i++)
        all += n[i] = 100;
    const size_t mark = run_mark(&k->run);
    struct tensor t = run_new(&k->run, DTYPE_F32, 1, SHAPE(all)), u = run_new(&k->run, DTYPE_F32, 1, SHAPE(all));
    op_fill(&k->run, t, (float)k->group.rank);
    comm_all_to_all(&k->run, &k->group.all, u, n, t, n);
    float v[300];
    run_read(&k->run, u, v); /* waits for the stream */
    for (int64_t i = 0; i < all && !run_failed(&k->run); i++)
        k->value += v[i] != (float)(i / 100);
    run_rewind(&k->run, mark);
}

/* Rank 1 fails at its third. */
static void play_fail(struct rank *k)
{
    for (int i = 0; i < 100 && !run_failed(&k->run); i++) {
        if (k->group.rank == 1 && i == 2) {
            clock_sleep_us(300 * CLOCK_MS); /* the others lie in their reads */
            run_fail(&k->run, ERR_NOSPACE, "no room for the third");
        }
        exchange(k);
    }
}

/* Rank 1 goes without a word, as the sockets of a process do that is killed. */
static void play_die(struct rank *k)
{
    for (int i = 0; i < 100 && !run_failed(&k->run) && (k->group.rank != 1 || i < 2); i++)
        exchange(k);
    if (k->group.rank != 1)
        return;
    clock_sleep_us(300 * CLOCK_MS); /* the others lie in their reads */
    shutdown(fds[1][0], SHUT_RDWR);
    shutdown(fds[1][2], SHUT_RDWR);
}

/* Rank 1 is there and does not come. */
static void play_sleep(struct rank *k)
{
    exchange(k);
    if (k->group.rank == 1)
        clock_sleep_us(4 * CLOCK_S);
    else
        exchange(k);
}

static void play_some(struct rank *k)
{
    for (int i = 0; i < 5 && !run_failed(&k->run); i++)
        exchange(k);
    comm_agree(&k->run, &k->group.all, 0);
}

static void play_cancel(struct rank *k)
{
    static const atomic_int stop = 1;
    for (int step = 0; step < 10 && !run_failed(&k->run); step++) {
        if (k->group.rank == 1 && step == 6)
            k->group.cancel = &stop;
        comm_agree_cancel(&k->run);
        exchange(k);
        k->value += run_failed(&k->run) ? 0 : 100;
    }
}

/* All ranks but one end with that code and sentence within a time; then the same devices form a new group. */
static void expect(const char *what, const char *fault, int64_t deadline, void (*fn)(struct rank *k), int code,
                   const char *sentence, int64_t least, int64_t most, int but)
{
    struct rank ranks[MOST] = {{0}};
    char text[700];
    play(ranks, MOST, fault, deadline, fn);
    for (int i = 0; i < MOST; i++) {
        const struct rank *k = &ranks[i];
        const struct err *e = &k->run.err;
        str_format(text, sizeof(text), "rank %d after %.2f s: %d %s", i, (double)k->took / 1e6, e->code, e->text);
        check(i == but || (e->code == code && has(e->text, sentence) && k->took >= least && k->took < most), what, text);
    }
    done(ranks, MOST);
    play(ranks, MOST, "", 20 * CLOCK_S, play_some);
    for (int i = 0; i < MOST; i++)
        check(!ranks[i].run.err.code && ranks[i].comm != ranks[i].control && ranks[i].value == 0, "a new group after it",
              ranks[i].run.err.text);
    done(ranks, MOST);
}

static void test_failures(void)
{
    const int64_t soon = 3 * CLOCK_S; /* 0.4 s on a quiet machine */
    for (int i = 0; i < 2; i++) {
        over_sockets = i == 1;
        expect("a rank fails", "", 20 * CLOCK_S, play_fail, ERR_NOSPACE, "no room for the third", 0, soon, -1);
        expect("NCCL fails", "error:2:3", 20 * CLOCK_S, play_some, ERR_IO, "NCCL: remote process", 0, soon, -1);
        expect("one wants to stop", "", 20 * CLOCK_S, play_cancel, ERR_CANCEL, "cancelled", 0, 2 * soon, -1);
    }
    expect("a rank dies", "", 20 * CLOCK_S, play_die, ERR_IO, "rank 1 is gone", 0, soon, 1);
    over_sockets = false;
    expect("a rank does not come", "", CLOCK_S, play_sleep, ERR_TIMEOUT, "deadline", CLOCK_S, CLOCK_S + soon, 1);
    expect("an exchange that never ends", "stuck:0:3", CLOCK_S, play_some, ERR_TIMEOUT, "deadline", CLOCK_S, CLOCK_S + soon,
           -1);
}

/* ---- without NCCL ---- */

/* All ranks say the same sentence, and go on through host memory. */
static void expect_without(const char *what, const char *fault, int64_t deadline, const char *sentence)
{
    struct rank ranks[MOST] = {{0}};
    char text[700];
    play(ranks, MOST, fault, deadline, play_some);
    for (int i = 0; i < MOST; i++) {
        const struct rank *k = &ranks[i];
        str_format(text, sizeof(text), "rank %d: %s / %s", i, k->opened.text, k->run.err.text);
        check(k->opened.code == ERR_UNSUPPORTED && has(k->opened.text, sentence) && !k->run.err.code && k->value == 0, what,
              text);
    }
    done(ranks, MOST);
}

static void test_without(void)
{
    struct rank ranks[MOST] = {{0}};
    expect_without("one has no NCCL", "absent:1", 20 * CLOCK_S, "rank 1: NCCL 0 is too old");
    expect_without("NCCL refuses", "refuse:2", CLOCK_S, "NCCL: unhandled system error");
    expect_without("NCCL never gets ready", "late:0", CLOCK_S, "rank 0: NCCL did not go on before the deadline");
    for (int i = 0; i < MOST; i++)
        ranks[i].device = devices[0];
    play(ranks, 1, "", 20 * CLOCK_S, play_some);
    check(!ranks[0].run.err.code && ranks[0].comm != ranks[0].control, "a group of one", ranks[0].run.err.text);
    done(ranks, MOST);
}

/* Several ranks on one GPU: devices of one index, threads' mailboxes, host memory. */
static void test_one_gpu(void)
{
    struct rank ranks[MOST] = {{0}};
    struct err err = {0};
    for (int i = 0; i < MOST; i++)
        if (device_open(&ranks[i].device, "cuda", NULL, &err) < 0)
            check(false, "the first GPU once more", err.text);
    struct device *mine[MOST] = {ranks[0].device, ranks[1].device, ranks[2].device};
    play(ranks, MOST, "", 20 * CLOCK_S, play_all);
    for (int i = 0; i < MOST; i++) {
        check(ranks[i].opened.code == ERR_UNSUPPORTED && has(ranks[i].opened.text, "ranks 0 and 1 have one GPU"),
              "one GPU for all", ranks[i].opened.text);
        check(!ranks[i].run.err.code && ranks[i].value == 10 && ranks[i].result[ranks[i].n_result - 1] == 3 * 11 + 0.25f,
              "exchanges of one GPU's ranks", ranks[i].run.err.text);
    }
    done(ranks, MOST);
    for (int i = 0; i < MOST; i++)
        device_close(mine[i]);
}

int main(void)
{
    struct err err = {0};
    setenv("CUDAEMU_DEVICES", "3", 1);
    for (int i = 0; i < MOST; i++) {
        const struct device_options o = {.index = i};
        check(device_open(&devices[i], "cuda", &o, &err) == 0 && devices[i]->hooks->comm, "open", err.text);
    }
    if (!failed) {
        test_exchanges(2);
        test_exchanges(3);
        test_failures();
        test_without();
        test_one_gpu();
    }
    for (int i = 0; i < MOST; i++)
        device_close(devices[i]);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
