/* test_cuda_denoise.c -- the transformer's predictions on the emulated device, recorded and launched again, against the same
 * without recordings, bit by bit: the miniature checkpoint, steps of all kinds, two windows.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/model/dit_denoise.h"
#include "tests/cudaemu/check.h"

enum { FRAMES = 140, WINDOWS = 2, SOUND = 20, TEXT = 9, LH = 2, LW = 2, COUNT = 16 * WINDOW_LATENTS * LH * LW };

static const int steps[] = {0, 1, 2, 10, 11, 12, 16, 17, 18, 20};
enum { STEPS = sizeof steps / sizeof *steps };

struct made {
    float v[STEPS][WINDOWS][DIT_ROWS][COUNT];
    double flops, bytes;
    size_t peak;
    int n_played, n_begun;
};

static struct made *counted; /* whose launches are counted */
static struct device_hooks real;

static int count_play(struct device *d, void *recording)
{
    counted->n_played++;
    return real.repeat_play(d, recording);
}

static int count_begin(struct device *d)
{
    counted->n_begun++;
    return real.repeat_begin(d);
}

static struct sampler_inputs inputs_of(struct run *r, const struct dit *d, const uint8_t *mask)
{
    struct sampler_inputs in = {.n_frames = FRAMES, .fps = 25, .steps = 25, .guidance = 7.5, .shift = 5};
    struct sampler_text *texts[] = {&in.negative, &in.positive};
    for (int i = 0; i < 2; i++) {
        texts[i]->states = op_randn(r, 1, 100 + (uint32_t)i, 2, SHAPE(TEXT, d->dims.text));
        texts[i]->text2 = op_randn(r, 1, 110 + (uint32_t)i, 1, SHAPE(d->dims.text2));
        texts[i]->mask = mask + 1 - i; /* one text is shorter */
    }
    in.audio = op_randn(r, 1, 120, 4, SHAPE(SOUND, 10, 5, d->dims.audio / 50));
    in.ref = op_randn(r, 1, 121, 4, SHAPE(16, WINDOW_LATENTS, LH, LW));
    in.face = run_new(r, DTYPE_F32, 2, SHAPE(LH, LW));
    op_fill(r, in.face, 0.7f);
    return in;
}

static void walk(struct run *r, const struct dit *d, struct made *ret)
{
    uint8_t mask[TEXT + 1];
    struct sampler_plan plan;
    struct dit_denoise *n = NULL;
    struct err err = {0};
    for (int i = 0; i <= TEXT; i++)
        mask[i] = i < TEXT - 3;
    struct sampler_inputs in = inputs_of(r, d, mask);
    check(sampler_plan_init(&plan, &in, &err) == 0 && plan.window.n_windows == WINDOWS, "plan", err.text);
    check(dit_denoise_new(&n, r, d, &plan, &in) == 0, "prepare", r->err.text);
    for (int i = 0; i < STEPS && n; i++) {
        const size_t mark = run_mark(r);
        dit_denoise_begin(n, r, steps[i]);
        for (int k = 0; k < WINDOWS; k++) {
            const size_t inner = run_mark(r);
            struct tensor v[DIT_ROWS];
            struct tensor x = op_randn(r, 2, (uint32_t)(i * WINDOWS + k), 4, SHAPE(16, WINDOW_LATENTS, LH, LW));
            dit_denoise_predict(n, r, steps[i], k, x, v);
            for (int row = 0; row < DIT_ROWS; row++)
                run_read(r, v[row], ret->v[i][k][row]);
            run_rewind(r, inner);
        }
        run_rewind(r, mark);
    }
    check(!run_failed(r), "predictions", r->err.text);
    dit_denoise_free(n);
    ret->flops = r->flops;
    ret->bytes = r->bytes;
    ret->peak = r->arena_peak;
}

static void on_device(struct device *d, const struct dit *dit, bool records, struct made *ret)
{
    struct run r;
    struct err err = {0};
    struct device_hooks hooks = *d->hooks;
    struct device with = *d;
    real = *d->hooks;
    hooks.repeat_begin = records ? count_begin : NULL;
    hooks.repeat_play = count_play;
    with.hooks = &hooks;
    counted = ret;
    int rc = run_init(&r, &with, (size_t)64 << 20, &err);
    check(rc == 0, "arena", err.text);
    if (rc == 0) {
        walk(&r, dit, ret);
        run_done(&r);
    }
}

/* Two windows: early, late and cached steps each once plainly, then recorded, then launched. */
static void compare(struct device *d, const struct dit *dit)
{
    struct made *a = mem_zalloc(sizeof *a), *b = mem_zalloc(sizeof *b);
    char text[80];
    if (!a || !b)
        abort();
    on_device(d, dit, true, a);
    on_device(d, dit, false, b);
    snprintf(text, sizeof text, "%d recorded, %d launches", a->n_begun, a->n_played);
    check(a->n_begun == 3 * WINDOWS && a->n_played == (STEPS - 3) * WINDOWS && b->n_played == 0, "recordings", text);
    for (int i = 0; i < STEPS; i++) {
        snprintf(text, sizeof text, "of step %d", steps[i]);
        check(memcmp(a->v[i], b->v[i], sizeof a->v[i]) == 0, "bits of a prediction", text);
        check(i == 0 || memcmp(a->v[i], a->v[i - 1], sizeof a->v[i]) != 0, "each step has a prediction of its own", text);
    }
    check(a->v[0][0][1][0] == a->v[0][0][1][0] && a->v[0][0][1][0] != 0, "a prediction", "is empty");
    snprintf(text, sizeof text, "%.9g and %.9g flops, %zu and %zu bytes of arena", a->flops, b->flops, a->peak, b->peak);
    check(a->flops == b->flops && a->peak == b->peak, "counters", text);
    mem_free(a);
    mem_free(b);
}

int main(void)
{
    struct device *device = NULL;
    struct ckpt *ckpt = NULL;
    struct dit *dit = NULL;
    struct err err = {0};
    char path[1024];
    setenv("CUDAEMU_MEMORY", "1073741824", 1);
    str_path(path, sizeof path, getenv("TEST_GOLDEN"),
             "tiny/ckpts/hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states.pt");
    int rc = device_open(&device, "cuda", NULL, &err);
    if (rc == 0)
        rc = ckpt_open(&ckpt, path, &err);
    if (rc == 0)
        rc = dit_open(&dit, ckpt, device, &err);
    check(rc == 0, "open", err.text);
    if (rc == 0)
        compare(device, dit);
    if (device)
        device_forget(device, NULL, SIZE_MAX);
    dit_close(dit);
    ckpt_close(ckpt);
    device_close(device);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
