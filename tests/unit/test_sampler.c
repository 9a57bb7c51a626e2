/* test_sampler.c -- windows, schedule and solver, against closed forms: fields whose Euler solution is a
 * product. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "worker/model/sampler.h"

enum { CHANNELS = 2, HEIGHT = 2, WIDTH = 4 };

/* ---- windows ---- */

static void check_cover(const struct window_plan *p, int step)
{
    int32_t list[WINDOW_LATENTS];
    unsigned char *seen = mem_zalloc((size_t)p->n_latents);
    assert_non_null(seen);
    for (int k = 0; k < p->n_windows; k++) {
        window_latents(p, window_start(p, step, k), list);
        for (int j = 0; j < WINDOW_LATENTS; j++) {
            assert_in_range(list[j], 0, p->n_latents - 1);
            seen[list[j]]++;
        }
    }
    for (int64_t f = 0; f < p->n_latents; f++) {
        assert_int_equal(seen[f], window_count(p, step, f));
        assert_in_range(seen[f], 1, 2);
    }
    mem_free(seen);
}

static void test_windows_cover(void **state)
{
    (void)state;
    struct window_plan p;
    for (int64_t n = 1; n <= 1200; n += n < 140 ? 1 : 53) {
        assert_int_equal(window_plan_init(&p, n, NULL), 0);
        assert_true(p.n_decoded <= p.n_latents && p.n_latents <= p.n_noise &&
                    p.n_latents <= WINDOW_MAX_LATENTS);
        assert_true(4 * (p.n_audio / 4) + 1 >= n);
        for (int step = 0; step < 7; step++)
            check_cover(&p, step);
    }
}

static void test_windows_audio(void **state)
{
    (void)state;
    struct window_plan p;
    int32_t a[WINDOW_AUDIO];
    assert_int_equal(window_plan_init(&p, 130, NULL), 0);
    window_audio(&p, 64, 130, a); /* the last latent, then 0, 1, ... */
    for (int i = 0; i < 4; i++)
        assert_int_equal(a[i], 130); /* frame 256 of 260: silence */
    assert_int_equal(a[4], 130);     /* 257 .. 259 */
    assert_int_equal(a[7], 0);       /* 260 wraps to 0 */
    assert_int_equal(a[8], 1);
    window_audio(&p, 0, 130, a);
    for (int i = 0; i < 4; i++)
        assert_int_equal(a[i], 0); /* the first frame four times */
    assert_int_equal(a[4], 1);
    assert_int_equal(a[WINDOW_AUDIO - 1], 128);
}

static void test_windows_refuse(void **state)
{
    (void)state;
    struct window_plan p;
    struct err err = {0};
    assert_int_equal(window_plan_init(&p, 0, &err), ERR_INVALID);
    assert_string_equal(err.text, "a video of 0 frames: 1 to 15000 are possible");
    assert_int_equal(window_plan_init(&p, WINDOW_MAX_FRAMES + 1, NULL), ERR_INVALID);
    assert_int_equal(window_plan_init(&p, WINDOW_MAX_FRAMES, NULL), 0);
    assert_true(p.n_latents <= WINDOW_MAX_LATENTS);
}

/* ---- schedule ---- */

static void test_sigmas(void **state)
{
    (void)state;
    float s[SAMPLER_MAX_STEPS + 1];
    for (int n = 1; n <= SAMPLER_MAX_STEPS; n = 2 * n + 1) {
        sampler_sigmas(n, 5.0, s);
        assert_true(s[0] == 1.0f && s[n] == 0.0f);
        for (int i = 0; i < n; i++) {
            const double u = 1 - (double)i / n;
            assert_true(fabs(s[i] - 5 * u / (1 + 4 * u)) < 1e-6);
            assert_true(s[i + 1] < s[i]);
        }
    }
}

static void test_phases(void **state)
{
    (void)state;
    static const int full_after_15[] = {20, 25, 30, 35, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49};
    bool full[60] = {false};
    for (int i = 0; i <= 15; i++)
        full[i] = true;
    for (size_t i = 0; i < sizeof(full_after_15) / sizeof(*full_after_15); i++)
        full[full_after_15[i]] = true;
    for (int i = 0; i < 60; i++)
        assert_int_equal(sampler_is_cached(i), !full[i]);
    assert_false(sampler_is_late(9));
    assert_true(sampler_is_late(10));
    assert_true(fabs(sampler_guidance(50, 7.5, 0) - 7.5) < 1e-12);
    assert_true(fabs(sampler_guidance(50, 7.5, 9) - 6.51) < 1e-12);
    assert_true(fabs(sampler_guidance(50, 7.5, 10) - 5.9) < 1e-12);
    assert_true(fabs(sampler_guidance(50, 7.5, 49) - 3.56) < 1e-12);
}

/* ---- solver ---- */

struct field {
    float a0, a1; /* velocities of the rows: a0 x and a1 x */
    int begun, predicted;
    int cancel_at;
    atomic_int cancel;
};

static void field_begin(void *arg, struct run *r, int step)
{
    struct field *f = arg;
    (void)r;
    f->begun++;
    if (step == f->cancel_at)
        f->cancel = 1;
}

static void field_predict(void *arg, struct run *r, int step, int k, struct tensor x,
                          struct tensor ret_v[SAMPLER_ROWS])
{
    struct field *f = arg;
    (void)step;
    (void)k;
    f->predicted++;
    for (int i = 0; i < SAMPLER_ROWS; i++) {
        ret_v[i] = op_copy(r, x, DTYPE_F32);
        op_scale(r, ret_v[i], i ? f->a1 : f->a0, 0);
    }
}

static void count_progress(void *arg, int done, int total)
{
    int *last = arg;
    assert_int_equal(done, *last + 1);
    assert_true(done <= total);
    *last = done;
}

struct solved {
    struct sampler_plan plan;
    float *noise, *out; /* [CHANNELS, L, HEIGHT, WIDTH] */
    int64_t n;
    int progress;
};

static int solve(struct solved *s, struct field *f, int64_t n_frames, int steps, double guidance, bool round)
{
    const struct sampler_inputs in = {
        .n_frames = n_frames, .steps = steps, .guidance = guidance, .shift = 5, .round_bf16 = round};
    struct device *device;
    struct device_options o = {.n_threads = 1};
    struct run r;
    assert_int_equal(sampler_plan_init(&s->plan, &in, NULL), 0);
    assert_int_equal(device_open(&device, "cpu_ref", &o, NULL), 0);
    assert_int_equal(run_init(&r, device, 0, NULL), 0);
    s->progress = 0;
    s->n = CHANNELS * s->plan.window.n_latents * HEIGHT * WIDTH;
    s->noise = mem_calloc((size_t)s->n, sizeof(float));
    s->out = mem_calloc((size_t)s->n, sizeof(float));
    assert_true(s->noise && s->out);
    for (int64_t i = 0; i < s->n; i++)
        s->noise[i] = (float)((i * 7919 % 1009) - 504) / 256;
    struct tensor x =
        run_write(&r, s->noise, DTYPE_F32, 4, SHAPE(CHANNELS, s->plan.window.n_latents, HEIGHT, WIDTH));
    const struct sampler_denoiser d = {f, field_begin, field_predict};
    const struct sampler_hooks hooks = {&s->progress, count_progress};
    r.cancel = &f->cancel;
    const size_t mark = run_mark(&r);
    int rc = sampler_solve(&r, &s->plan, &d, x, &hooks);
    assert_int_equal(run_mark(&r), mark);
    if (rc == 0)
        rc = run_read(&r, x, s->out);
    run_done(&r);
    device_close(device);
    return rc;
}

static void solved_done(struct solved *s)
{
    mem_free(s->noise);
    mem_free(s->out);
}

/* x_N = x_0 prod (1 + dt_i (a0 + g_i (a1 - a0))), whatever windows it went through. */
static double factor(const struct sampler_plan *p, const struct field *f)
{
    double y = 1;
    for (int i = 0; i < p->steps; i++) {
        const double v = f->a0 + sampler_guidance(p->steps, p->guidance, i) * ((double)f->a1 - f->a0);
        y *= 1 + ((double)p->sigma[i + 1] - p->sigma[i]) * v;
    }
    return y;
}

static void check_field(int64_t n_frames, int steps, double guidance)
{
    struct field f = {.a0 = 0.25f, .a1 = 0.375f, .cancel_at = -1};
    struct solved s;
    assert_int_equal(solve(&s, &f, n_frames, steps, guidance, false), 0);
    assert_int_equal(f.begun, steps);
    assert_int_equal(f.predicted, steps * s.plan.window.n_windows);
    assert_int_equal(s.progress, steps);
    const double y = factor(&s.plan, &f);
    for (int64_t i = 0; i < s.n; i++)
        assert_true(fabs(s.out[i] - y * s.noise[i]) <= 2e-6 * fabs(y * s.noise[i]) + 1e-9);
    solved_done(&s);
}

static void test_field(void **state)
{
    (void)state;
    check_field(1, 1, 7.5); /* one window */
    check_field(129, 12, 7.5);
    check_field(130, 12, 1.0); /* two windows that rotate; one latent is averaged */
    check_field(400, 5, 4.0);  /* four; three latents are */
}

static void test_round(void **state)
{
    (void)state;
    struct field f = {.a0 = 0.25f, .a1 = 0.375f, .cancel_at = -1};
    struct solved s;
    assert_int_equal(solve(&s, &f, 24, 6, 7.5, true), 0);
    const double y = factor(&s.plan, &f);
    for (int64_t i = 0; i < s.n; i++) {
        assert_true(s.out[i] == dtype_bf16_to_f32(dtype_bf16_from_f32(s.out[i])));
        assert_true(fabs(s.out[i] - y * s.noise[i]) <= 6 * 0x1p-8 * fabs(y * s.noise[i]));
    }
    solved_done(&s);
}

static void test_cancel(void **state)
{
    (void)state;
    struct field f = {.a0 = 0.25f, .a1 = 0.375f, .cancel_at = 3};
    struct solved s;
    assert_int_equal(solve(&s, &f, 130, 12, 7.5, false), ERR_CANCEL);
    assert_int_equal(s.progress, 3);
    assert_int_equal(f.begun, 4);
    solved_done(&s);
}

static void test_refuse(void **state)
{
    (void)state;
    static const struct {
        struct sampler_inputs in;
        const char *text;
    } cases[] = {
        {{.n_frames = 129, .steps = 0, .guidance = 7.5, .shift = 5}, "0 steps: 1 to 1000 are possible"},
        {{.n_frames = 129, .steps = 1001, .guidance = 7.5, .shift = 5}, "1001 steps: 1 to 1000 are possible"},
        {{.n_frames = 129, .steps = 50, .guidance = 7.5, .shift = 0},
         "a shift of 0: above 0, at most 100, is possible"},
        {{.n_frames = 129, .steps = 50, .guidance = 7.5, .shift = NAN},
         "a shift of nan: above 0, at most 100, is possible"},
        {{.n_frames = 129, .steps = 50, .guidance = -1, .shift = 5},
         "a guidance of -1: 0 to 100 is possible"},
        {{.n_frames = 129, .steps = 50, .guidance = NAN, .shift = 5},
         "a guidance of nan: 0 to 100 is possible"},
        {{.n_frames = -5, .steps = 50, .guidance = 7.5, .shift = 5},
         "a video of -5 frames: 1 to 15000 are possible"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct sampler_plan p;
        struct err err = {0};
        assert_int_equal(sampler_plan_init(&p, &cases[i].in, &err), ERR_INVALID);
        assert_string_equal(err.text, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows_cover),  cmocka_unit_test(test_windows_audio),
        cmocka_unit_test(test_windows_refuse), cmocka_unit_test(test_sigmas),
        cmocka_unit_test(test_phases),         cmocka_unit_test(test_field),
        cmocka_unit_test(test_round),          cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_refuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
