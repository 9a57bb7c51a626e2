/* test_shadow.c -- a device that computes right is left in peace, with views, in-place ops and data that are hard on a
 * bound; one whose table has a mistake is stopped at the op that made it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/shadow.h"

struct fixture {
    struct device *device;
    struct op_table table; /* the cpu's, and what a test puts there */
    struct shadow *shadow;
    struct run run;
    struct shadow_report report;
};

static void open_fixture(struct fixture *f, enum device_precision precision, size_t max_bytes)
{
    struct err err = {0};
    const struct device_options o = {.n_threads = 2, .precision = precision};
    *f = (struct fixture){0};
    assert_int_equal(device_open(&f->device, "cpu", &o, &err), 0);
    f->table = *f->device->table;
    f->device->table = &f->table;
    assert_int_equal(shadow_open(&f->shadow, f->device, max_bytes, &err), 0);
    assert_int_equal(run_init(&f->run, f->device, (size_t)1 << 30, &err), 0);
}

static void close_fixture(struct fixture *f)
{
    run_done(&f->run);
    shadow_close(f->shadow);
    device_close(f->device);
}

/* Seeded normal numbers. */
static struct tensor random_of(struct fixture *f, int n_dims, const int64_t *shape)
{
    static uint32_t stream;
    return op_randn(&f->run, 11, stream++, n_dims, shape);
}
#define RANDOM(...) random_of(f, (int)(sizeof SHAPE(__VA_ARGS__) / sizeof(int64_t)), SHAPE(__VA_ARGS__))

/* ---- the rows ---- */

static int count(const char *list)
{
    int n = 1;
    for (; *list; list++)
        n += *list == ',';
    return n;
}

/* Each argument of each op has its letter. */
static void test_rows(void **state)
{
    (void)state;
    int n = 0;
#define X(member, ...)                                                                                               \
    assert_string_equal(tolerance_of[TOLERANCE_##member].op, #member);                                                 \
    assert_int_equal(strlen(tolerance_of[TOLERANCE_##member].args), count(#__VA_ARGS__));                              \
    assert_true(strspn(tolerance_of[TOLERANCE_##member].args, "yx|-=02") == strlen(tolerance_of[TOLERANCE_##member].args)); \
    n++;
    OP_TABLE(X)
#undef X
    assert_int_equal(n, TOLERANCE_OPS);
}

/* ---- what is right passes ---- */

static void right_in_place(struct fixture *f)
{
    struct run *r = &f->run;
    struct tensor wide = RANDOM(7, 50), x = tensor_slice(wide, 1, 3, 40), y = RANDOM(7, 40), row = RANDOM(40);
    op_add(r, x, y);
    op_add(r, x, row);
    op_add(r, y, y); /* the same tensor twice */
    op_add_gated(r, x, y, row);
    op_scale(r, x, -0.7f, 0.2f);
    op_act(r, x, ACT_GELU_TANH);
    op_act_mul(r, x, y, ACT_SILU);
    op_linear_add(r, x, RANDOM(7, 30), RANDOM(40, 30), row, RANDOM(40));
    op_linear_into(r, tensor_slice(wide, 1, 0, 11), y, RANDOM(11, 40), TENSOR_NONE, ACT_RELU);
    op_blend(r, x, y, 1, 8);
    op_euler(r, x, y, RANDOM(7, 40), 5, -0.03f);
    op_euler(r, x, y, TENSOR_NONE, 1, -0.03f);
    op_round(r, x, DTYPE_BF16);
    struct tensor heads = tensor_view(RANDOM(7, 40), 3, SHAPE(7, 5, 8)), pos = op_copy(r, RANDOM(7), DTYPE_I32);
    op_norm_rope(r, heads, RANDOM(8), 1e-6f, RANDOM(4, 4), RANDOM(4, 4));
    op_rope_halves(r, heads, pos, 10000);
    op_fill(r, tensor_slice(wide, 0, 2, 3), 2);
    op_scatter_add(r, x, 0, run_write(r, (int32_t[]){1, 5, 1}, DTYPE_I32, 1, SHAPE(3)), RANDOM(3, 40));
}

static void right_new(struct fixture *f)
{
    struct run *r = &f->run;
    struct tensor frames = RANDOM(2, 8, 6, 4), w = RANDOM(4), b = RANDOM(4);
    op_group_norm(r, frames, w, b, 2, 1e-6f, ACT_SILU);
    op_group_stats(r, frames, 2);
    op_batch_norm(r, frames, w, b, RANDOM(4), op_copy(r, tensor_view(op_to_u8(r, w), 1, SHAPE(4)), DTYPE_F32), 1, ACT_RELU);
    op_conv(r, frames, RANDOM(5, 4, 2, 3, 3), TENSOR_NONE,
            &(struct conv){.act = ACT_SILU, .replicate = true, .pad_after = {0, 1, 1}});
    op_max_pool(r, frames, 3, 2, 1, true);
    op_upsample(r, frames, 2, 1, 2, true);
    op_to_yuv420(r, tensor_slice(frames, 3, 1, 3));
    op_copy(r, tensor_permute(frames, (int[]){3, 1, 0, 2}), DTYPE_F16);
    op_unpatchify(r, op_patchify(r, frames), 8, 6, 4);
    op_rms_norm(r, frames, w, 1e-6f);
    op_gauss(r, frames, RANDOM(2, 8, 6, 4), RANDOM(2, 8, 6, 4), 0.5f);
    op_timestep(r, (float[]){3, 500}, 2, 16);
    op_mean_rows(r, RANDOM(9, 4), RANDOM(9));
    struct tensor cos, sin;
    op_rope_table(r, 2, 3, 4, (int[]){2, 4, 4}, 256, 1, &cos, &sin);
    op_mask_down(r, RANDOM(16, 24));
    op_concat(r, (struct tensor[]){frames, frames}, 2, 1);
    op_gather(r, frames, 1, run_write(r, (int32_t[]){7, 0}, DTYPE_I32, 1, SHAPE(2)));
}

static void test_right(void **state)
{
    (void)state;
    struct fixture fixture, *f = &fixture;
    open_fixture(f, DEVICE_F32, SHADOW_BYTES);
    right_in_place(f);
    right_new(f);
    assert_string_equal(f->run.err.text, "");
    shadow_report(f->shadow, &f->report);
    assert_int_equal(f->report.n_checked, f->run.n_ops);
    assert_int_equal(f->report.n_skipped, 0);
    assert_true(f->report.share > 0 && f->report.share < 1);
    assert_true(strncmp(f->report.op, "op_", 3) == 0);
    shadow_report(f->shadow, &f->report); /* since then */
    assert_int_equal(f->report.n_checked, 0);
    close_fixture(f);
}

/* Outliers, means far from zero, large scores, long sums: what networks make and tests do not. */
static void test_hard_data(void **state)
{
    (void)state;
    struct fixture fixture, *f = &fixture;
    open_fixture(f, DEVICE_F32, SHADOW_BYTES);
    struct run *r = &f->run;
    struct tensor x = RANDOM(20, 2, 2, 64), w = RANDOM(64), b = RANDOM(64), q;
    op_scale(r, tensor_slice(x, 3, 5, 1), 3000, 0);
    op_scale(r, x, 1, 500);
    op_layer_norm(r, x, w, b, 1e-6f);
    op_layer_norm_mod(r, x, w, b, 1e-6f);
    op_group_norm(r, x, w, b, 4, 1e-6f, ACT_SILU);
    op_scale(r, x, 0.01f, 0);
    q = tensor_view(x, 4, SHAPE(1, 40, 2, 64));
    op_attention(r, q, q, q, (struct attn){.scale = 0.5f});
    struct tensor mask = op_to_u8(r, tensor_slice(RANDOM(40, 41), 1, 1, 40));
    op_scale(r, q, 0.01f, 0);
    op_attention(r, q, q, q, (struct attn){.kind = ATTN_MASK, .scale = 1, .mask = mask});
    op_linear(r, RANDOM(3, 9000), RANDOM(5, 9000), TENSOR_NONE, ACT_NONE);
    assert_string_equal(f->run.err.text, "");
    close_fixture(f);
}

static void test_bf16(void **state)
{
    (void)state;
    struct fixture fixture, *f = &fixture;
    open_fixture(f, DEVICE_BF16, SHADOW_BYTES);
    op_linear(&f->run, RANDOM(30, 200), RANDOM(50, 200), RANDOM(50), ACT_GELU_TANH);
    op_linear_add(&f->run, RANDOM(30, 50), RANDOM(30, 200), RANDOM(50, 200), TENSOR_NONE, RANDOM(50));
    assert_string_equal(f->run.err.text, "");
    shadow_report(f->shadow, &f->report);
    assert_true(f->report.share > 0.001 || f->device->precision == DEVICE_F32);
    close_fixture(f);
}

/* What is too large is computed all the same. */
static void test_too_large(void **state)
{
    (void)state;
    struct fixture fixture, *f = &fixture;
    open_fixture(f, DEVICE_F32, 10000);
    struct tensor x = RANDOM(1000), y = RANDOM(2000);
    op_scale(&f->run, x, 2, 0); /* x three times: before, absolute, after */
    assert_string_equal(f->run.err.text, "");
    shadow_report(f->shadow, &f->report);
    assert_int_equal(f->report.n_checked, 1); /* the first randn: 4000 bytes, twice */
    assert_int_equal(f->report.n_skipped, 2);
    assert_true(((float *)x.data)[0] != 0 && ((float *)y.data)[1999] != 0);
    close_fixture(f);
}

static void test_not_of_the_reference(void **state)
{
    (void)state;
    struct device *d;
    struct shadow *s = NULL;
    struct err err = {0};
    assert_int_equal(device_open(&d, "cpu_ref", NULL, &err), 0);
    assert_int_equal(shadow_open(&s, d, SHADOW_BYTES, &err), ERR_INVALID);
    assert_null(s);
    assert_null(d->shadow);
    device_close(d);
}

/* ---- what is wrong is found ---- */

static const struct op_table *right_table(const struct run *r)
{
    (void)r;
    return cpu_table();
}

static int add_off(struct run *r, struct tensor x, struct tensor y)
{
    int rc = right_table(r)->add(r, x, y);
    ((float *)x.data)[2 * x.stride[0] + 5] *= 1.001f;
    return rc;
}

static int add_nan(struct run *r, struct tensor x, struct tensor y)
{
    int rc = right_table(r)->add(r, x, y);
    ((float *)x.data)[0] = NAN;
    return rc;
}

/* As if rows were packed: right for contiguous tensors alone. */
static int scale_packed(struct run *r, struct tensor x, float mul, float add)
{
    return right_table(r)->scale(r, tensor_of(x.data, x.dtype, x.n_dims, x.shape), mul, add);
}

/* The right numbers, and one more behind the first row. */
static int linear_beside(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, enum act act)
{
    int rc = right_table(r)->linear(r, y, x, w, b, act);
    ((float *)y.data)[y.shape[1]] = 3;
    return rc;
}

static int linear_without_bias(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                               enum act act)
{
    (void)b;
    return right_table(r)->linear(r, y, x, w, TENSOR_NONE, act);
}

static int to_u8_one_more(struct run *r, struct tensor y, struct tensor x)
{
    int rc = right_table(r)->to_u8(r, y, x);
    ((uint8_t *)y.data)[3]++;
    return rc;
}

static int rope_table_sin(struct run *r, struct tensor cos, struct tensor sin, int64_t n, int64_t h, int64_t w,
                          const int *dims, float theta, int64_t t_first)
{
    int rc = right_table(r)->rope_table(r, cos, sin, n, h, w, dims, theta, t_first);
    ((float *)sin.data)[1] = nextafterf(((float *)sin.data)[1], 2);
    return rc;
}

/* Ignores the mask. */
static int attention_full(struct run *r, struct tensor y, struct tensor q, struct tensor k, struct tensor v, struct attn a)
{
    a.kind = ATTN_FULL;
    return right_table(r)->attention(r, y, q, k, v, a);
}

static void use_add(struct fixture *f)
{
    op_add(&f->run, tensor_slice(RANDOM(4, 12), 1, 2, 9), RANDOM(9));
}

static void use_scale(struct fixture *f)
{
    struct tensor x = RANDOM(4, 12);
    op_scale(&f->run, x, 2, 0); /* right */
    op_scale(&f->run, tensor_slice(x, 1, 2, 9), 2, 0);
}

static void use_linear(struct fixture *f)
{
    struct tensor y = tensor_slice(RANDOM(4, 12), 1, 0, 9);
    op_linear_into(&f->run, y, RANDOM(4, 20), RANDOM(9, 20), RANDOM(9), ACT_SILU);
}

static void use_to_u8(struct fixture *f)
{
    op_to_u8(&f->run, RANDOM(4, 12));
}

static void use_rope_table(struct fixture *f)
{
    struct tensor cos, sin;
    op_rope_table(&f->run, 2, 2, 2, (int[]){2, 2, 2}, 256, 0, &cos, &sin);
}

static void use_attention(struct fixture *f)
{
    struct tensor q = RANDOM(1, 6, 2, 8), x = RANDOM(6, 6);
    op_fill(&f->run, x, 1);
    op_fill(&f->run, tensor_slice(x, 1, 4, 2), -1);
    struct tensor mask = op_to_u8(&f->run, x);
    op_attention(&f->run, q, q, q, (struct attn){.kind = ATTN_MASK, .scale = 0.3f, .mask = mask});
}

/* use fails with a sentence that has all of these words (NULL at the end), and what follows does not run. */
static void wrong(struct fixture *f, void (*use)(struct fixture *f), const char *const *words)
{
    run_push(&f->run, "dit");
    run_push(&f->run, "double %d", 3);
    use(f);
    run_pop(&f->run);
    run_pop(&f->run);
    assert_int_equal(f->run.err.code, ERR_INTERNAL);
    for (int i = 0; words[i]; i++) {
        if (!strstr(f->run.err.text, words[i]))
            fail_msg("'%s' is not in '%s'", words[i], f->run.err.text);
    }
    close_fixture(f);
}
#define WRONG(member, bad, use, ...)                                                                                 \
    do {                                                                                                             \
        struct fixture fixture;                                                                                      \
        open_fixture(&fixture, DEVICE_F32, SHADOW_BYTES);                                                            \
        fixture.table.member = bad;                                                                                  \
        wrong(&fixture, use, (const char *const[]){__VA_ARGS__, NULL});                                              \
    } while (0)

static void test_wrong(void **state)
{
    (void)state;
    WRONG(add, add_off, use_add, "op_add (dit/double 3): shadow: [2, 5] is ", "on cpu (f32)", "on cpu_ref", "off by ",
          "allowed ", "f32 [4, 9], f32 [9]");
    WRONG(add, add_nan, use_add, "op_add (dit/double 3): shadow: [0, 0] is nan on cpu");
    WRONG(scale, scale_packed, use_scale, "op_scale (dit/double 3): shadow: [3, 0] is ", "f32 [4, 9]");
    WRONG(linear, linear_beside, use_linear,
          "op_linear_into (dit/double 3): shadow: wrote beside its result on cpu, 36 bytes");
    WRONG(linear, linear_without_bias, use_linear, "op_linear_into (dit/double 3): shadow: [0, 0] is ");
    WRONG(to_u8, to_u8_one_more, use_to_u8, "op_to_u8 (dit/double 3): shadow: [0, 3] is ", "allowed 0;");
    WRONG(rope_table, rope_table_sin, use_rope_table, "op_rope_table (dit/double 3): shadow: [0, 1] is ");
    WRONG(attention, attention_full, use_attention, "op_attention (dit/double 3): shadow: [0, 0, 0, 0] is ", "u8 [6, 6]");
}

/* ---- how much is allowed ---- */

static int euler_100(struct run *r, struct tensor x, struct tensor v0, struct tensor v1, float g, float dt)
{
    (void)v0, (void)v1, (void)g, (void)dt;
    return right_table(r)->fill(r, x, 100);
}

static int act_100(struct run *r, struct tensor x, enum act act)
{
    (void)act;
    return right_table(r)->fill(r, x, 100);
}

static int conv_100(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, const struct conv *c)
{
    (void)x, (void)w, (void)b, (void)c;
    return right_table(r)->fill(r, y, 100);
}

static int norm_100(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, struct tensor mean,
                    struct tensor var, float eps, enum act act)
{
    (void)x, (void)w, (void)b, (void)mean, (void)var, (void)eps, (void)act;
    return right_table(r)->fill(r, y, 100);
}

static struct tensor one(struct fixture *f, float v)
{
    return run_write(&f->run, &v, DTYPE_F32, 1, SHAPE(1));
}

/* In the sentence that the run failed with, within what "%.3g" shows. Then forgotten. */
static void allowed(struct fixture *f, double units)
{
    const char *text = strstr(f->run.err.text, "allowed ");
    assert_non_null(text);
    assert_true(fabs(strtod(text + 8, NULL) / (units * 0x1p-24) - 1) < 0.006);
    run_reset(&f->run);
}

/* Magnitudes worked out by hand: signs gone, activations too, and what is subtracted added. */
static void test_allowed(void **state)
{
    (void)state;
    struct fixture fixture, *f = &fixture;
    open_fixture(f, DEVICE_F32, SHADOW_BYTES);
    f->table.euler = euler_100;
    f->table.act = act_100;
    f->table.conv = conv_100;
    f->table.batch_norm = norm_100;
    op_euler(&f->run, one(f, 1), one(f, -2), one(f, 3), 5, -0.5f);
    allowed(f, 4 * (fabs(1 - 0.5 * (-2 + 5 * 5)) + 1 + 0.5 * (2 + 5 * (3 + 2))));
    op_act(&f->run, one(f, -3), ACT_SILU);
    allowed(f, 6 * (3 / (1 + exp(3.0)) + 3));
    struct tensor x = tensor_view(one(f, -0.5f), 4, SHAPE(1, 1, 1, 1)), w = tensor_view(one(f, 2), 5, SHAPE(1, 1, 1, 1, 1));
    op_conv(&f->run, x, w, TENSOR_NONE, &(struct conv){.act = ACT_SILU});
    allowed(f, (10 + 1.26) * (1 / (1 + exp(1.0)) + 1));
    op_batch_norm(&f->run, one(f, 1), one(f, 2), one(f, -3), one(f, 4), one(f, 1), 0, ACT_RELU);
    allowed(f, 8 * ((1 + 4) * 2 + 3));
    close_fixture(f);
}

/* cpu_ref has a say about its own failures. */
static int gather_any(struct run *r, struct tensor y, struct tensor x, int dim, struct tensor idx)
{
    (void)x;
    (void)dim;
    (void)idx;
    return right_table(r)->fill(r, y, 0);
}

static void use_gather(struct fixture *f)
{
    op_gather(&f->run, RANDOM(4, 12), 0, run_write(&f->run, (int32_t[]){9}, DTYPE_I32, 1, SHAPE(1)));
}

static void test_refused(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, DEVICE_F32, SHADOW_BYTES);
    f.table.gather = gather_any;
    use_gather(&f);
    assert_int_equal(f.run.err.code, ERR_SHAPE);
    assert_non_null(strstr(f.run.err.text, "op_gather: shadow: cpu_ref refused: "));
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),      cmocka_unit_test(test_right),     cmocka_unit_test(test_hard_data),
        cmocka_unit_test(test_bf16),      cmocka_unit_test(test_too_large), cmocka_unit_test(test_not_of_the_reference),
        cmocka_unit_test(test_wrong),     cmocka_unit_test(test_allowed),   cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
