/* comm: what ranks say to each other, over both carriers: counts that differ, counts of zero, sums of many exchanges, ranks that
 * abort, die or do not come, agreement. A rank is a thread here, also over sockets; one test has processes. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"
#include "kernels/comm/comm.h"
#include "kernels/device.h"
#include "kernels/ops.h"

enum { MOST = 8 };

enum carrier { THREADS, SOCKETS };

struct rank {
    struct comm *comm;
    struct comm_degrees degrees;
    struct run run;
    struct comm_group group;
    void (*play)(struct rank *k);
    int value;       /* what the test gives and takes */
    int64_t seconds; /* until play was over, us */
    struct device *device;
    pthread_t thread;
};

/* Ends of a mesh of socket pairs. */
static void open_sockets(struct comm **ret, int n, int64_t deadline)
{
    int fd[MOST][MOST], pair[2];
    struct err err = {0};
    for (int i = 0; i < n; i++) {
        fd[i][i] = -1;
        for (int j = 0; j < i; j++) {
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
            fd[i][j] = pair[0];
            fd[j][i] = pair[1];
        }
    }
    for (int i = 0; i < n; i++)
        assert_int_equal(comm_sockets_adopt(&ret[i], i, n, fd[i], deadline, &err), 0);
}

static void *rank_main(void *arg)
{
    struct rank *k = arg;
    struct err err = {0};
    const int64_t since = clock_us();
    if (run_init(&k->run, k->device, (size_t)64 << 20, &err) == 0 &&
        comm_group_init(&k->group, k->comm, k->comm->rank, &k->degrees, &err) == 0) {
        k->run.group = &k->group;
        k->play(k);
    } else {
        run_fail(&k->run, err.code, "%s", err.text);
    }
    comm_close(k->comm);
    k->seconds = clock_us() - since;
    return NULL;
}

/* n ranks play; the runs stay for the test to look at, and done() ends them. */
static void play(struct rank *ranks, int n, enum carrier carrier, struct comm_degrees degrees, int64_t deadline,
                 void (*fn)(struct rank *k))
{
    struct comm *ends[MOST];
    struct err err = {0};
    if (carrier == THREADS)
        assert_int_equal(comm_threads_open(ends, n, deadline, &err), 0);
    else
        open_sockets(ends, n, deadline);
    for (int i = 0; i < n; i++) {
        ranks[i].comm = ends[i];
        ranks[i].degrees = degrees;
        ranks[i].play = fn;
        assert_int_equal(device_open(&ranks[i].device, "cpu_ref", NULL, &err), 0);
    }
    for (int i = 0; i < n; i++)
        assert_int_equal(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]), 0);
    for (int i = 0; i < n; i++)
        pthread_join(ranks[i].thread, NULL);
}

static void done(struct rank *ranks, int n)
{
    for (int i = 0; i < n; i++) {
        run_done(&ranks[i].run);
        device_close(ranks[i].device);
    }
}

static void all_well(struct rank *ranks, int n)
{
    for (int i = 0; i < n; i++)
        assert_string_equal(ranks[i].run.err.text, "");
}

/* ---- exchanges ---- */

/* What rank a sends rank b: (a + 2 b) % 4 thousand numbers, so also none, and to oneself too. */
static int64_t count(int a, int b)
{
    return (int64_t)((a + 2 * b) % 4) * 1000;
}

static float number(int a, int b, int64_t i)
{
    return (float)(a * 100 + b * 10) + (float)i / 8192;
}

static void exchange_once(struct rank *k)
{
    const int n = k->group.size, me = k->group.rank;
    int64_t out[MOST], in[MOST], n_out = 0, n_in = 0, wrong = 0, at = 0;
    const size_t mark = run_mark(&k->run);
    for (int i = 0; i < n; i++) {
        n_out += out[i] = count(me, i);
        n_in += in[i] = count(i, me);
    }
    struct tensor src = run_new(&k->run, DTYPE_F32, 1, SHAPE(n_out)), dst = run_new(&k->run, DTYPE_F32, 1, SHAPE(n_in));
    for (int i = 0; i < n; i++)
        for (int64_t e = 0; e < out[i] && src.data; e++)
            ((float *)src.data)[at++] = number(me, i, e);
    comm_all_to_all(&k->run, &k->group.all, dst, in, src, out);
    at = 0;
    for (int i = 0; i < n && !run_failed(&k->run); i++)
        for (int64_t e = 0; e < in[i]; e++)
            wrong += ((float *)dst.data)[at++] != number(i, me, e);
    k->value += (int)wrong;
    run_rewind(&k->run, mark);
}

static void play_exchange(struct rank *k)
{
    for (int i = 0; i < 50; i++)
        exchange_once(k);
}

static void test_all_to_all(void **state)
{
    (void)state;
    for (int carrier = THREADS; carrier <= SOCKETS; carrier++)
        for (int n = 1; n <= MOST; n += n < 3 ? 1 : 5) {
            struct rank ranks[MOST] = {{0}};
            play(ranks, n, carrier, (struct comm_degrees){.tokens = n}, 20 * CLOCK_S, play_exchange);
            all_well(ranks, n);
            for (int i = 0; i < n; i++) {
                double sent = 0;
                for (int j = 0; j < n; j++)
                    sent += j == i ? 0 : 50.0 * 4 * (double)count(i, j);
                assert_int_equal(ranks[i].value, 0);
                assert_true(ranks[i].run.traffic == sent);
            }
            done(ranks, n);
        }
}

/* gather at 1, all_gather of uneven pieces (rank 2 has none), broadcast from 2, on sets within the group. */
static void play_collect(struct rank *k)
{
    struct run *r = &k->run;
    const int me = k->group.rank, n = k->group.size;
    int64_t counts[MOST] = {0}, all = 0, at = 0;
    for (int i = 0; i < n; i++)
        all += counts[i] = i == 2 ? 0 : 5 + i;
    struct tensor own = run_new(r, DTYPE_F32, 1, SHAPE(counts[me])), dst = run_new(r, DTYPE_F32, 1, SHAPE(all));
    op_fill(r, own, (float)me);
    op_fill(r, dst, -1);
    comm_all_gather(r, &k->group.all, dst, counts, own);
    for (int i = 0; i < n; i++)
        for (int64_t e = 0; e < counts[i]; e++)
            k->value += ((float *)dst.data)[at++] != (float)i;
    op_fill(r, dst, -1);
    comm_gather(r, &k->group.all, 1, me == 1 ? dst : TENSOR_NONE, counts, own);
    at = 0;
    for (int i = 0; i < n && me == 1; i++)
        for (int64_t e = 0; e < counts[i]; e++)
            k->value += ((float *)dst.data)[at++] != (float)i;
    struct tensor t = run_new(r, DTYPE_F32, 2, SHAPE(3, 70000));
    op_fill(r, t, (float)me);
    comm_broadcast(r, &k->group.tokens, k->group.tokens.n - 1, t);
    for (int64_t e = 0; e < tensor_count(t); e++)
        k->value += ((float *)t.data)[e] != (float)k->group.tokens.rank[k->group.tokens.n - 1];
}

static void test_collect(void **state)
{
    (void)state;
    for (int carrier = THREADS; carrier <= SOCKETS; carrier++) {
        struct rank ranks[MOST] = {{0}};
        play(ranks, 6, carrier, (struct comm_degrees){.tokens = 3, .pair = 2}, 20 * CLOCK_S, play_collect);
        all_well(ranks, 6);
        for (int i = 0; i < 6; i++)
            assert_int_equal(ranks[i].value, 0);
        done(ranks, 6);
    }
}

/* The ranks of each axis, by hand for 2 x 2 x 2. */
static void test_sets(void **state)
{
    (void)state;
    struct comm_group g;
    struct err err = {0};
    assert_int_equal(comm_group_init(&g, NULL, 5, &(struct comm_degrees){2, 2, 2}, &err), 0);
    assert_int_equal(g.size, 8);
    assert_true(g.tokens.n == 2 && g.tokens.rank[0] == 4 && g.tokens.rank[1] == 5 && g.tokens.me == 1);
    assert_true(g.pair.n == 2 && g.pair.rank[0] == 5 && g.pair.rank[1] == 7 && g.pair.me == 0);
    assert_true(g.windows.n == 2 && g.windows.rank[0] == 1 && g.windows.rank[1] == 5 && g.windows.me == 1);
    assert_int_equal(comm_group_init(&g, NULL, 0, &(struct comm_degrees){1, 3, 1}, &err), ERR_INVALID);
    assert_int_equal(comm_group_init(&g, NULL, 4, &(struct comm_degrees){4, 1, 1}, &err), ERR_INVALID);
    assert_int_equal(comm_group_init(&g, NULL, 0, &(struct comm_degrees){40, 2, 1}, &err), ERR_INVALID);
    for (int n = 1; n < 9; n++) {
        int64_t at = 0;
        for (int i = 0; i < n; i++) {
            assert_int_equal(comm_part_at(13, n, i), at);
            at += comm_part(13, n, i);
            assert_true(comm_part(13, n, i) <= comm_part(13, n, 0));
        }
        assert_int_equal(at, 13);
    }
}

/* ---- agreement ---- */

static void play_agree(struct rank *k)
{
    static const atomic_int stop = 1;
    k->value = 0;
    for (int i = 0; i < 20; i++)
        k->value += comm_agree(&k->run, &k->group.all, k->group.rank == i % k->group.size ? i : 0) != i;
    for (int step = 0; step < 10 && !run_failed(&k->run); step++) {
        if (k->group.rank == 1 && step == 6)
            k->group.cancel = &stop;
        comm_agree_cancel(&k->run);
        exchange_once(k);
        k->value += run_failed(&k->run) ? 0 : 100;
    }
}

static void test_agree(void **state)
{
    (void)state;
    for (int carrier = THREADS; carrier <= SOCKETS; carrier++) {
        struct rank ranks[MOST] = {{0}};
        play(ranks, 3, carrier, (struct comm_degrees){.tokens = 3}, 20 * CLOCK_S, play_agree);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(ranks[i].run.err.code, ERR_CANCEL);
            assert_int_equal(ranks[i].value, 600); /* all at the same step */
        }
        done(ranks, 3);
    }
}

/* ---- failure ---- */

/* Rank 1 fails at its third exchange; the others must hear its own reason. */
static void play_fail(struct rank *k)
{
    for (int i = 0; i < 1000 && !run_failed(&k->run); i++) {
        if (k->group.rank == 1 && i == 2)
            run_fail(&k->run, ERR_NOSPACE, "no room for the third");
        exchange_once(k);
    }
}

/* Rank 1 goes without a word. */
static void play_leave(struct rank *k)
{
    for (int i = 0; i < 1000 && !run_failed(&k->run) && (k->group.rank != 1 || i < 2); i++)
        exchange_once(k);
}

/* Rank 1 sends one number more than rank 0 wants. */
static void play_misfit(struct rank *k)
{
    struct tensor t = run_new(&k->run, DTYPE_F32, 1, SHAPE(8));
    const int64_t more = k->group.rank == 1;
    int64_t out[2] = {0}, in[2] = {0};
    out[1 - k->group.rank] = 4 + more;
    in[1 - k->group.rank] = 4;
    comm_all_to_all(&k->run, &k->group.all, tensor_slice(t, 0, 0, 4), in, tensor_slice(t, 0, 0, 4 + more), out);
    exchange_once(k);
}

static void expect_failure(void (*fn)(struct rank *k), int n, int code, const char *sentence, int but)
{
    for (int carrier = THREADS; carrier <= SOCKETS; carrier++) {
        struct rank ranks[MOST] = {{0}};
        play(ranks, n, carrier, (struct comm_degrees){.tokens = n}, 20 * CLOCK_S, fn);
        for (int i = 0; i < n; i++) {
            if (i == but)
                continue;
            assert_int_equal(ranks[i].run.err.code, code);
            if (!strstr(ranks[i].run.err.text, sentence))
                fail_msg("rank %d of carrier %d says: %s", i, carrier, ranks[i].run.err.text);
            assert_true(ranks[i].seconds < CLOCK_S);
        }
        done(ranks, n);
    }
}

static void test_failure(void **state)
{
    (void)state;
    expect_failure(play_fail, 4, ERR_NOSPACE, "no room for the third", -1);
    expect_failure(play_leave, 4, ERR_IO, "is gone", 1);
    expect_failure(play_misfit, 2, ERR_SHAPE, "bytes", -1);
}

/* Rank 0 is asleep: the others give up at the deadline, not before. */
static void play_sleep(struct rank *k)
{
    if (k->group.rank == 0)
        clock_sleep_us(700 * CLOCK_MS);
    else
        exchange_once(k);
}

static void test_deadline(void **state)
{
    (void)state;
    for (int carrier = THREADS; carrier <= SOCKETS; carrier++) {
        struct rank ranks[MOST] = {{0}};
        play(ranks, 2, carrier, (struct comm_degrees){.tokens = 2}, 200 * CLOCK_MS, play_sleep);
        assert_int_equal(ranks[1].run.err.code, ERR_TIMEOUT);
        assert_non_null(strstr(ranks[1].run.err.text, "rank 0"));
        assert_true(ranks[1].seconds >= 200 * CLOCK_MS); /* and before rank 0 left, or it would be "gone" */
        done(ranks, 2);
    }
}

/* Rank 0 stays as long as rank 1 finds all there, then leaves: rank 1 sees it without asking for anything. */
static void play_check(struct rank *k)
{
    struct err err = {0};
    if (k->group.rank == 0) {
        exchange_once(k);
        return;
    }
    k->value = k->comm->carrier->check(k->comm, &err);
    exchange_once(k);
    for (int i = 0; i < 5000 && k->comm->carrier->check(k->comm, &err) == 0; i++)
        clock_sleep_us(CLOCK_MS);
    k->value += err.code == ERR_IO && strstr(err.text, "rank 0 is gone") ? 1000 : 0;
}

static void test_check(void **state)
{
    (void)state;
    for (int carrier = THREADS; carrier <= SOCKETS; carrier++) {
        struct rank ranks[MOST] = {{0}};
        play(ranks, 2, carrier, (struct comm_degrees){.tokens = 2}, 20 * CLOCK_S, play_check);
        all_well(ranks, 2);
        assert_int_equal(ranks[1].value, 1000);
        done(ranks, 2);
    }
}

/* Rank 0 gives up: who looks hears why. */
static void play_look(struct rank *k)
{
    struct err err = {0};
    exchange_once(k);
    if (k->group.rank == 0)
        comm_abort(k->comm, ERR_NOSPACE, "no room for it");
    for (int i = 0; i < 5000 && k->group.rank == 1 && k->comm->carrier->check(k->comm, &err) == 0; i++)
        clock_sleep_us(CLOCK_MS);
    k->value += err.code == ERR_NOSPACE && strcmp(err.text, "rank 0: no room for it") == 0 ? 1000 : 0;
}

/* What every rank tells all. */
static void play_tell(struct rank *k)
{
    int told[MOST] = {0};
    struct err err = {0};
    told[k->group.rank] = 100 + k->group.rank;
    assert_int_equal(comm_tell(k->comm, told, sizeof(*told), &err), 0);
    for (int i = 0; i < k->group.size; i++)
        k->value += told[i] != 100 + i;
}

/* Rank 0 comes while rank 2 still takes much from rank 1, and then nobody stirs for a while: rank 2 must have seen it. */
static void play_meanwhile(struct rank *k)
{
    enum { MUCH = 7 << 20 };
    const int me = k->group.rank;
    int64_t out[3] = {1, 1, me == 1 ? MUCH : 1}, in[3] = {1, me == 2 ? MUCH : 1, 1};
    struct tensor src = run_new(&k->run, DTYPE_F32, 1, SHAPE(out[0] + out[1] + out[2])),
                  dst = run_new(&k->run, DTYPE_F32, 1, SHAPE(in[0] + in[1] + in[2]));
    if (me == 0)
        clock_sleep_us(CLOCK_MS);
    const int64_t since = clock_us();
    comm_all_to_all(&k->run, &k->group.all, dst, in, src, out);
    k->value = (int)((clock_us() - since) / CLOCK_MS);
    if (me == 1)
        clock_sleep_us(1500 * CLOCK_MS);
}

static void test_words(void **state)
{
    (void)state;
    for (int carrier = THREADS; carrier <= SOCKETS; carrier++) {
        struct rank ranks[MOST] = {{0}};
        play(ranks, 2, carrier, (struct comm_degrees){.tokens = 2}, 20 * CLOCK_S, play_look);
        assert_int_equal(ranks[1].value, 1000);
        done(ranks, 2);
        memset(ranks, 0, sizeof(ranks));
        play(ranks, 5, carrier, (struct comm_degrees){.tokens = 5}, 20 * CLOCK_S, play_tell);
        for (int i = 0; i < 5; i++)
            assert_int_equal(ranks[i].value, 0);
        done(ranks, 5);
        memset(ranks, 0, sizeof(ranks));
        play(ranks, 3, carrier, (struct comm_degrees){.tokens = 3}, 5 * CLOCK_S, play_meanwhile);
        all_well(ranks, 3);
        assert_in_range(ranks[2].value, 0, 1000);
        done(ranks, 3);
    }
}

/* ---- processes ---- */

struct folder {
    char dir[64], text[3][128];
    const char *address[3];
};

static void make_folder(struct folder *f)
{
    str_copy(f->dir, sizeof f->dir, "/tmp/test-comm-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    for (int i = 0; i < 3; i++) {
        str_format(f->text[i], sizeof f->text[i], "unix:%s/%d", f->dir, i);
        f->address[i] = f->text[i];
    }
}

static void remove_folder(struct folder *f)
{
    for (int i = 0; i < 3; i++)
        unlink(f->text[i] + 5);
    rmdir(f->dir);
}

/* A rank in a process of its own: exchanges until something happens. Exit status: 0 all 200 went well, 1 wrong numbers, 10 the
 * others' end seen within a second, 11 later, 12 no connection. */
static int process_main(const struct folder *f, int rank, bool dies)
{
    struct rank k = {.degrees = {.tokens = 3}};
    struct err err = {0};
    if (device_open(&k.device, "cpu_ref", NULL, &err) < 0 || run_init(&k.run, k.device, (size_t)64 << 20, &err) < 0 ||
        comm_sockets_open(&k.comm, rank, 3, f->address, 42, 5 * CLOCK_S, &err) < 0 ||
        comm_group_init(&k.group, k.comm, rank, &k.degrees, &err) < 0)
        return 12;
    k.run.group = &k.group;
    int64_t before = clock_us();
    for (int i = 0; i < 200; i++) {
        before = clock_us();
        exchange_once(&k);
        if (run_failed(&k.run))
            break;
        if (dies && rank == 2 && i == 20)
            raise(SIGKILL);
    }
    const bool lost = run_failed(&k.run);
    comm_close(k.comm);
    run_done(&k.run);
    device_close(k.device);
    return k.value ? 1 : !lost ? 0 : clock_us() - before < CLOCK_S ? 10 : 11;
}

static void run_processes(bool dies, int want)
{
    struct folder f;
    pid_t pid[3];
    make_folder(&f);
    for (int i = 2; i >= 0; i--) { /* those that call before those that listen */
        pid[i] = fork();
        if (pid[i] == 0)
            _exit(process_main(&f, i, dies));
        clock_sleep_us(10 * CLOCK_MS);
    }
    for (int i = 0; i < 3; i++) {
        int status = 0;
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        if (dies && i == 2)
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        else
            assert_int_equal(WEXITSTATUS(status), want);
    }
    remove_folder(&f);
}

static void test_processes(void **state)
{
    (void)state;
    run_processes(false, 0);
    run_processes(true, 10);
}

/* Nobody answers, or with another group's token. */
static void *answer_main(void *arg)
{
    struct folder *f = arg;
    struct comm *c = NULL;
    struct err err = {0};
    if (comm_sockets_open(&c, 0, 2, f->address, 7, 300 * CLOCK_MS, &err) == 0)
        comm_close(c);
    return NULL;
}

static void test_strangers(void **state)
{
    (void)state;
    struct folder f;
    struct comm *c = NULL;
    struct err err = {0};
    pthread_t other;
    make_folder(&f);
    assert_int_equal(comm_sockets_open(&c, 1, 2, f.address, 8, 100 * CLOCK_MS, &err), ERR_TIMEOUT);
    assert_int_equal(pthread_create(&other, NULL, answer_main, &f), 0);
    assert_int_equal(comm_sockets_open(&c, 1, 2, f.address, 8, 200 * CLOCK_MS, &err), ERR_TIMEOUT);
    pthread_join(other, NULL);
    remove_folder(&f);
    err_clear(&err);
    assert_int_equal(comm_sockets_open(&c, 0, 1, (const char *const[]){"pipe:x"}, 1, CLOCK_S, &err), ERR_INVALID);
    err_clear(&err);
    assert_int_equal(comm_sockets_open(&c, 0, 1, (const char *const[]){"tcp:127.0.0.1:70000"}, 1, CLOCK_S, &err), ERR_INVALID);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_processes), /* first: it forks */
        cmocka_unit_test(test_all_to_all), cmocka_unit_test(test_collect),  cmocka_unit_test(test_sets),
        cmocka_unit_test(test_agree),      cmocka_unit_test(test_failure),  cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_strangers),  cmocka_unit_test(test_check),
        cmocka_unit_test(test_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
