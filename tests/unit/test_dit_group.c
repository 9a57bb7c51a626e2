/* test_dit_group.c -- a prediction shared by two ranks on the miniature checkpoint: processes over sockets against threads, bit by
 * bit, and both against one rank, within what another order of the keys does to the softmax's sums. Then what a plan counts
 * against what a run counts.
 */
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"
#include "worker/model/dit_denoise.h"

enum { T = 3, LH = 6, LW = 10, S = 21, VALID = 11, FRAMES = 4 * T - 3, RANKS = 2, COUNT = 16 * T * LH * LW };

/* What a rank made: both velocities, of a full and of a cached step. */
struct made {
    float v[2][DIT_ROWS][COUNT];
    double traffic;
    char error[200];
};

/* ---- one rank ---- */

static struct tensor random_of(struct run *r, uint32_t *stream, int n_dims, const int64_t *shape)
{
    return op_randn(r, 1, (*stream)++, n_dims, shape);
}

static void set_scene(struct run *r, const struct dit *d, struct dit_scene *s, struct dit_row rows[DIT_ROWS],
                      struct tensor *latents)
{
    static const float t[1] = {937.5f};
    uint8_t mask[S];
    int32_t idx[4 * T];
    uint32_t k = 0;
    struct dit_text text;
    for (int i = 0; i < S; i++)
        mask[i] = i < VALID - 2 || i >= S - 2;
    for (int i = 0; i < 4 * T; i++)
        idx[i] = i < 3 ? 0 : i - 3;
    dit_cond_text(r, d, random_of(r, &k, 2, SHAPE(S, d->dims.text)), random_of(r, &k, 1, SHAPE(d->dims.text2)),
                  r->table ? mask : NULL, VALID, &text);
    const struct dit_rows times = {.t = t, .n = 1, .n_a = 0, .b = &text};
    struct tensor ref = random_of(r, &k, 4, SHAPE(16, T, LH, LW)), face = random_of(r, &k, 2, SHAPE(LH, LW));
    op_fill(r, tensor_slice(face, 1, 0, 5), 0);
    *latents = random_of(r, &k, 4, SHAPE(16, T, LH, LW));
    struct tensor audio = random_of(r, &k, 4, SHAPE(FRAMES, 10, 5, d->dims.audio / 50));
    s->dit = d;
    dit_cond_picture(r, d, ref, face, &s->picture);
    s->kv = dit_cond_audio(r, d, audio, FRAMES);
    dit_cond_mods(r, d, dit_cond_vec(r, d, &times, 25), 1, &s->mods);
    struct tensor gates = dit_cond_gates(r, d, &times, 1);
    struct tensor refined = dit_cond_refine(r, d, &text, tensor_at(gates, 0, 0), VALID);
    for (int i = 0; i < DIT_ROWS; i++)
        rows[i] = (struct dit_row){.text = refined, .mask = s->picture.mask};
    rows[1].sound = run_write(r, idx, DTYPE_I32, 1, SHAPE(4 * T));
}

static void predict(struct run *r, const struct dit *d, struct made *ret)
{
    struct dit_scene s = {0};
    struct dit_row rows[DIT_ROWS];
    struct dit_share share;
    struct tensor latents, x[DIT_ROWS], v[DIT_ROWS];
    set_scene(r, d, &s, rows, &latents);
    dit_forward_share(r, &s.picture, VALID, &share);
    for (int i = 0; i < DIT_ROWS; i++)
        x[i] = run_new(r, DTYPE_F32, 2, SHAPE(s.picture.N + share.n_text, d->dims.hidden));
    const double before = r->traffic;
    dit_forward_pair(r, &s, rows, latents, x, v);
    for (int i = 0; i < DIT_ROWS; i++)
        run_read(r, v[i], ret->v[0][i]);
    for (int i = 0; i < DIT_ROWS; i++)
        if (dit_forward_has_row(r, i))
            v[i] = dit_forward_last(r, &s, &(struct dit_row){.n_text = VALID}, x[i]);
    dit_forward_swap(r, v);
    for (int i = 0; i < DIT_ROWS; i++)
        run_read(r, v[i], ret->v[1][i]);
    ret->traffic = r->traffic - before;
    str_copy(ret->error, sizeof ret->error, r->err.text);
}

/* comm NULL: alone, or as the plan of that rank. */
static void rank_main(struct comm *comm, int rank, const struct comm_degrees *degrees, bool plan, struct made *ret)
{
    struct device *device = NULL;
    struct ckpt *ckpt = NULL;
    struct dit *dit = NULL;
    struct run run = {0};
    struct comm_group group;
    struct err err = {0};
    char path[1024];
    str_path(path, sizeof path, getenv("TEST_GOLDEN"),
             "tiny/ckpts/hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states.pt");
    if ((plan || device_open(&device, "cpu", &(struct device_options){.n_threads = 1}, &err) == 0) &&
        ckpt_open(&ckpt, path, &err) == 0 && dit_open(&dit, ckpt, device, &err) == 0 && run_init(&run, device, 0, &err) == 0 &&
        comm_group_init(&group, comm, rank, degrees, &err) == 0) {
        run.group = group.size > 1 ? &group : NULL;
        predict(&run, dit, ret);
    } else {
        str_copy(ret->error, sizeof ret->error, err.text);
    }
    run_done(&run);
    if (device)
        device_forget(device, NULL, SIZE_MAX);
    dit_close(dit);
    ckpt_close(ckpt);
    device_close(device);
}

/* ---- carriers ---- */

struct job {
    struct comm *comm;
    struct comm_degrees degrees;
    struct made *made;
    pthread_t thread;
};

static void *thread_main(void *arg)
{
    struct job *j = arg;
    rank_main(j->comm, j->comm->rank, &j->degrees, false, j->made);
    comm_close(j->comm);
    return NULL;
}

static void on_threads(struct comm_degrees degrees, struct made made[RANKS])
{
    struct comm *ends[RANKS];
    struct job jobs[RANKS];
    struct err err = {0};
    assert_int_equal(comm_threads_open(ends, RANKS, 60 * CLOCK_S, &err), 0);
    for (int i = 0; i < RANKS; i++) {
        jobs[i] = (struct job){ends[i], degrees, &made[i], 0};
        assert_int_equal(pthread_create(&jobs[i].thread, NULL, thread_main, &jobs[i]), 0);
    }
    for (int i = 0; i < RANKS; i++)
        pthread_join(jobs[i].thread, NULL);
}

static void on_processes(struct comm_degrees degrees, struct made made[RANKS])
{
    char dir[] = "/tmp/test-dit-group-XXXXXX", text[RANKS][96];
    const char *address[RANKS];
    pid_t pid[RANKS];
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i < RANKS; i++) {
        str_format(text[i], sizeof text[i], "unix:%s/%d", dir, i);
        address[i] = text[i];
    }
    for (int i = 0; i < RANKS; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            struct comm *comm = NULL;
            struct err err = {0};
            if (comm_sockets_open(&comm, i, RANKS, address, 1, 60 * CLOCK_S, &err) == 0)
                rank_main(comm, i, &degrees, false, &made[i]);
            else
                str_copy(made[i].error, sizeof made[i].error, err.text);
            comm_close(comm);
            _exit(0);
        }
    }
    for (int i = 0; i < RANKS; i++) {
        int status = -1;
        waitpid(pid[i], &status, 0);
        assert_int_equal(status, 0);
        unlink(text[i] + 5);
    }
    rmdir(dir);
}

/* ---- tests ---- */

struct all {
    struct made alone, processes[2][RANKS], threads[2][RANKS];
};
static const struct comm_degrees splits[2] = {{.tokens = 2}, {.pair = 2}};

static double apart(const struct made *a, const struct made *b)
{
    double worst = 0;
    for (int step = 0; step < 2; step++)
        for (int row = 0; row < DIT_ROWS; row++)
            for (int i = 0; i < COUNT; i++)
                worst = fmax(worst, fabs((double)a->v[step][row][i] - b->v[step][row][i]));
    return worst;
}

static int set_up(void **state)
{
    struct all *all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *state = all;
    return all == MAP_FAILED || !getenv("TEST_GOLDEN");
}

static int tear_down(void **state)
{
    return munmap(*state, sizeof(struct all));
}

/* First: it forks, before anything starts threads. */
static void test_carriers(void **state)
{
    struct all *all = *state;
    for (int i = 0; i < 2; i++)
        on_processes(splits[i], all->processes[i]);
    rank_main(NULL, 0, &(struct comm_degrees){1, 1, 1}, false, &all->alone);
    assert_string_equal(all->alone.error, "");
    for (int i = 0; i < 2; i++) {
        on_threads(splits[i], all->threads[i]);
        for (int rank = 0; rank < RANKS; rank++) {
            assert_string_equal(all->threads[i][rank].error, "");
            assert_string_equal(all->processes[i][rank].error, "");
            assert_memory_equal(all->threads[i][rank].v, all->processes[i][rank].v, sizeof all->alone.v);
            assert_memory_equal(all->threads[i][rank].v, all->threads[i][0].v, sizeof all->alone.v);
        }
    }
    /* Guidance rows on two ranks are the same sums. Tokens come in another order: the bound of the golden predictions. */
    assert_true(apart(&all->alone, &all->threads[1][0]) == 0);
    const double tokens = apart(&all->alone, &all->threads[0][0]);
    print_message("two ranks of tokens are %.2g from one\n", tokens);
    assert_true(tokens > 0 && tokens < 1e-4);
}

static void test_traffic(void **state)
{
    struct all *all = *state;
    struct made *plan = mem_zalloc(sizeof *plan);
    assert_non_null(plan);
    for (int i = 0; i < 2; i++)
        for (int rank = 0; rank < RANKS; rank++) {
            rank_main(NULL, rank, &splits[i], true, plan);
            assert_string_equal(plan->error, "");
            assert_true(plan->traffic > 0);
            assert_true(plan->traffic == all->threads[i][rank].traffic);
            assert_true(plan->traffic == all->processes[i][rank].traffic);
        }
    mem_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_carriers),
        cmocka_unit_test(test_traffic),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
