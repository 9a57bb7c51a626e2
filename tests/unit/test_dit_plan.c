/* test_dit_plan.c -- the real transformer without its weights: names and shapes bind without a gap, and a
 * planned video costs what the formulas say, with the savings and without.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/buf.h"
#include "common/str.h"
#include "worker/model/dit_forward.h"
#include "worker/model/sampler.h"

/* 1216 x 704 pixels: 640 valid text tokens of 831. */
enum { LATENT_H = 88, LATENT_W = 152, TOKENS = 831, VALID = 640 };

static struct ckpt *open_list(const char *name)
{
    char path[1024], piece[4096];
    const char *root = getenv("TEST_GOLDEN");
    struct ckpt *c = NULL;
    struct buf b;
    assert_non_null(root);
    str_path(path, sizeof(path), root, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    buf_init(&b, 16u << 20);
    for (size_t n = fread(piece, 1, sizeof(piece), f); n > 0; n = fread(piece, 1, sizeof(piece), f))
        assert_int_equal(buf_add(&b, piece, n), 0);
    fclose(f);
    struct err err = {0};
    if (ckpt_open_list(&c, b.data, b.len, &err) < 0)
        fail_msg("%s", err.text);
    buf_done(&b);
    return c;
}

static struct dit *open_full(struct ckpt **c)
{
    struct err err = {0};
    struct dit *d = NULL;
    *c = open_list("full/dit.tsv");
    if (dit_open(&d, *c, NULL, &err) < 0)
        fail_msg("%s", err.text);
    return d;
}

static void test_binds(void **state)
{
    (void)state;
    struct ckpt *c;
    struct dit *d = open_full(&c);
    const struct dit_dims *s = &d->dims;
    assert_int_equal(ckpt_count(c), 946);
    assert_int_equal(s->hidden, 3072);
    assert_int_equal(s->heads, 24);
    assert_int_equal(s->head, 128);
    assert_int_equal(s->mlp, 12288);
    assert_int_equal(s->rope[0], 16);
    assert_int_equal(s->rope[1], 56);
    assert_int_equal(s->rope[2], 56);
    assert_int_equal(s->n_double, 20);
    assert_int_equal(s->n_single, 40);
    assert_int_equal(s->n_adapters, 10);
    assert_int_equal(s->text, 4096);
    assert_int_equal(s->text2, 768);
    assert_int_equal(s->audio, 10 * 5 * 384);
    assert_int_equal(s->audio_tokens, 4);
    assert_int_equal(s->inner, 1024);
    dit_close(d);
    ckpt_close(c);
}

/* Another network's list: each name that is missing or left over is named. */
static void test_refuses(void **state)
{
    (void)state;
    struct ckpt *c = open_list("full/vae.tsv");
    struct err err = {0};
    struct dit *d = NULL;
    assert_int_equal(dit_open(&d, c, NULL, &err), ERR_WEIGHTS);
    assert_non_null(strstr(err.text, "img_in.proj.weight"));
    assert_null(d);
    ckpt_close(c);
}

static struct tensor shape_only(int n_dims, const int64_t *shape)
{
    return tensor_of(NULL, DTYPE_F32, n_dims, shape);
}

/* One block over M tokens in one segment. */
static double block_flops(double H, double M)
{
    return 24 * H * H * M + 4 * H * M * M;
}

/* What the last block does not do: q, mlp, linear2 of front and text tokens, their queries. */
static double last_saving(double H, double M, double V)
{
    return 20 * H * H * (M - V) + 4 * H * M * (M - V);
}

static double adapter_flops(double H, double D, double V, double keys)
{
    return V * (4 * H * D + 4 * keys * D);
}

static double plan_row(const struct dit *d, bool sound)
{
    struct run r;
    assert_int_equal(run_init(&r, NULL, 0, NULL), 0);
    struct dit_scene scene = {.dit = d};
    struct tensor latents = shape_only(4, SHAPE(16, 33, LATENT_H, LATENT_W));
    dit_cond_picture(&r, d, latents, shape_only(2, SHAPE(LATENT_H, LATENT_W)), &scene.picture);
    scene.kv = dit_cond_audio(&r, d, shape_only(4, SHAPE(129, 10, 5, 384)), 129);
    dit_cond_mods(&r, d, shape_only(2, SHAPE(1, d->dims.hidden)), 1, &scene.mods);
    struct tensor idx = run_new(&r, DTYPE_I32, 1, SHAPE(WINDOW_AUDIO));
    const struct dit_row row = {.text = shape_only(2, SHAPE(VALID, d->dims.hidden)),
                                .mask = scene.picture.mask,
                                .sound = sound ? idx : TENSOR_NONE};
    struct tensor x = run_new(&r, DTYPE_F32, 2, SHAPE(scene.picture.N + VALID, d->dims.hidden));
    const double before = r.flops;
    dit_forward_head(&r, &scene, &row, latents, x);
    dit_forward_rest(&r, &scene, &row, x);
    struct tensor v = dit_forward_last(&r, &scene, &row, x);
    const double flops = r.flops - before;
    if (run_failed(&r))
        fail_msg("%s", r.err.text);
    assert_true(tensor_same_shape(v, latents));
    run_done(&r);
    return flops;
}

static void near(const char *what, double got, double want, double bound)
{
    if (!(fabs(got / want - 1) <= bound))
        fail_msg("%s: %.6g planned, %.6g by the formulas, %.3g allowed", what, got, want, bound);
}

static void test_forward(void **state)
{
    (void)state;
    struct ckpt *c;
    struct dit *d = open_full(&c);
    const double H = 3072, D = 1024, V = 33.0 * (LATENT_H / 2) * (LATENT_W / 2), M = V * 34 / 33 + VALID;
    const double unsaved = 60 * block_flops(H, M) + 10 * adapter_flops(H, D, V, 16) + 128 * H * V;
    const double saved = unsaved - last_saving(H, M, V);
    const double with_sound = plan_row(d, true), silent = plan_row(d, false);
    near("a row's forward against the published figure", with_sound, 1.12e16, 0.01);
    near("a row's forward, last block on video tokens", with_sound, saved, 3e-4);
    near("the saving of the last block", unsaved - with_sound, last_saving(H, M, V), 0.5);
    near("the saving of 12 silent keys", with_sound - silent, 10 * 48 * D * V, 0.01);
    dit_close(d);
    ckpt_close(c);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void plan_video(const struct dit *d, int64_t h, int64_t w, int64_t n_frames, int steps, struct run *r)
{
    struct window_plan p;
    assert_int_equal(window_plan_init(&p, n_frames, NULL), 0);
    const struct sampler_text text = {
        .states = shape_only(2, SHAPE(TOKENS, 4096)), .text2 = shape_only(1, SHAPE(768)), .n_valid = VALID};
    const struct sampler_inputs in = {
        .negative = text,
        .positive = text,
        .audio = shape_only(4, SHAPE(n_frames, 10, 5, 384)),
        .face = shape_only(2, SHAPE(h, w)),
        .ref = shape_only(4, SHAPE(16, 33, h, w)),
        .noise = shape_only(4, SHAPE(16, p.n_noise, h, w)),
        .fps = 25,
        .n_frames = n_frames,
        .steps = steps,
        .guidance = 7.5,
        .shift = 5,
    };
    struct tensor latents;
    assert_int_equal(run_init(r, NULL, 0, NULL), 0);
    const double start = seconds();
    if (sampler_run(r, d, &in, NULL, &latents) < 0)
        fail_msg("%s", r->err.text);
    const double t = seconds() - start;
    print_message("%d steps, %lld frames: %.4g flops, arena %.3g GB, planned in %.1f ms\n", steps,
                  (long long)n_frames, r->flops, (double)r->arena_peak / 1e9, 1e3 * t);
    assert_true(t < 1);
    assert_int_equal(latents.shape[1], p.n_decoded);
}

static void test_video(void **state)
{
    (void)state;
    struct ckpt *c;
    struct dit *d = open_full(&c);
    struct run r;
    const double H = 3072, V = 33.0 * (LATENT_H / 2) * (LATENT_W / 2), M = V * 34 / 33 + VALID;
    const double full = 60 * block_flops(H, M), cached = block_flops(H, M), less = last_saving(H, M, V);
    const double unsaved = 2 * (30 * full + 20 * cached);
    plan_video(d, LATENT_H, LATENT_W, 129, 50, &r);
    /* Every forward saves in the last block; the 20 full late steps run two double blocks for both rows at
     * once. */
    near("a video without the savings", r.flops + 2 * 50 * less + 20 * 2 * block_flops(H, M), unsaved, 0.01);
    near("a video", r.flops, unsaved - 2 * 50 * less - 20 * 2 * block_flops(H, M), 0.01);
    near("a video against the published figure", unsaved, 6.8e17, 0.01);
    const double one = r.flops;
    run_done(&r);
    plan_video(d, LATENT_H, LATENT_W, 400, 50, &r);
    near("four windows", r.flops, 4 * one, 0.01);
    run_done(&r);
    dit_close(d);
    ckpt_close(c);
}

/* What the compact mode is for: 704 x 768 pixels on a card of 6 GiB, at the same work but for the reference's tokens and the
 * repeated norms. */
static void test_compact(void **state)
{
    (void)state;
    struct ckpt *c;
    struct dit *d = open_full(&c);
    struct run roomy, compact;
    plan_video(d, 88, 96, 129, 50, &roomy);
    dit_set_compact(d, true);
    plan_video(d, 88, 96, 129, 50, &compact);
    assert_true((double)compact.arena_peak < 3.5 * 1024 * 1024 * 1024);
    assert_true((double)compact.arena_peak < 0.6 * (double)roomy.arena_peak);
    near("work of the compact mode", compact.flops, roomy.flops, 2e-3);
    run_done(&roomy);
    run_done(&compact);
    dit_close(d);
    ckpt_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_binds),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_video),
        cmocka_unit_test(test_compact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
