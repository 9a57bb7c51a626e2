/* run and the ops' common steps: sticky errors and their sentences, labels, the arena, cancelling, planning,
 * taps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "kernels/device.h"
#include "kernels/ops.h"

struct both {
    struct device *device;
    struct run run;
};

static int set_up(void **state)
{
    struct err err = {0};
    struct both *b = mem_zalloc(sizeof *b);
    *state = b;
    return device_open(&b->device, "cpu_ref", NULL, &err) < 0 || run_init(&b->run, b->device, 0, &err) < 0;
}

static int tear_down(void **state)
{
    struct both *b = *state;
    run_done(&b->run);
    run_done(&b->run); /* twice is fine */
    device_close(b->device);
    mem_free(b);
    return 0;
}

static void test_sentence(void **state)
{
    struct run *r = &((struct both *)*state)->run;
    run_push(r, "dit");
    run_push(r, "double %d", 3);
    struct tensor x = run_new(r, DTYPE_F32, 2, SHAPE(5, 64)), w = run_new(r, DTYPE_F32, 2, SHAPE(128, 32));
    struct tensor y = op_linear(r, x, w, TENSOR_NONE, ACT_NONE);
    assert_true(tensor_is_none(y));
    assert_int_equal(r->err.code, ERR_SHAPE);
    assert_string_equal(r->err.text, "op_linear (dit/double 3): x f32 [5, 64] does not fit w f32 [128, 32]: "
                                     "the last dimensions must be equal");
    /* The first failure stays, later ops do nothing but keep shapes. */
    size_t used = r->arena_used;
    int64_t n_ops = r->n_ops;
    w = tensor_of(NULL, DTYPE_F32, 2, SHAPE(128, 64));
    y = op_linear(r, x, w, TENSOR_NONE, ACT_NONE);
    assert_int_equal(y.shape[1], 128);
    assert_null(y.data);
    assert_int_equal(run_fail(r, ERR_IO, "another"), ERR_IO);
    assert_int_equal(r->err.code, ERR_SHAPE);
    assert_int_equal(r->arena_used, used);
    assert_int_equal(r->n_ops, n_ops);
    assert_int_equal(run_read(r, x, NULL), ERR_SHAPE);
    run_reset(r);
    assert_false(run_failed(r));
    assert_string_equal(r->label, "");
}

static void test_labels(void **state)
{
    struct run *r = &((struct both *)*state)->run;
    for (int i = 0; i < 40; i++)
        run_push(r, "a/rather long label %d", i);
    assert_true(strlen(r->label) < sizeof r->label);
    for (int i = 0; i < 39; i++)
        run_pop(r);
    assert_string_equal(r->label, "a/rather long label 0");
    run_pop(r);
    run_pop(r); /* one too many */
    assert_string_equal(r->label, "");
}

static void test_arena(void **state)
{
    struct both *b = *state;
    struct run r;
    struct err err = {0};
    assert_int_equal(run_init(&r, b->device, 4096, &err), 0);
    struct tensor a = run_new(&r, DTYPE_U8, 1, SHAPE(1)), c = run_new(&r, DTYPE_F32, 1, SHAPE(16));
    assert_int_equal((uintptr_t)c.data % 64, 0);
    assert_int_equal((char *)c.data - (char *)a.data, 64);
    size_t mark = run_mark(&r);
    run_new(&r, DTYPE_F32, 1, SHAPE(512));
    run_rewind(&r, mark);
    assert_int_equal(r.arena_used, mark);
    assert_int_equal(r.arena_peak, mark + 2048);
    struct tensor all = run_new(&r, DTYPE_U8, 1, SHAPE(4096 - 128));
    assert_non_null(all.data);
    assert_false(run_failed(&r));
    struct tensor more = run_new(&r, DTYPE_F32, 2, SHAPE(1, 1));
    assert_null(more.data);
    assert_int_equal(more.shape[1], 1);
    assert_int_equal(r.err.code, ERR_NOMEM);
    assert_non_null(strstr(r.err.text, "f32 [1, 1]"));
    assert_non_null(strstr(r.err.text, "4.0 KiB"));
    run_reset(&r);
    run_new(&r, DTYPE_F64, 4, SHAPE(1LL << 40, 1LL << 40, 1LL << 40, 4));
    assert_int_equal(r.err.code, ERR_SHAPE);
    run_done(&r);
}

static void test_read_write(void **state)
{
    struct run *r = &((struct both *)*state)->run;
    float v[6] = {0, 1, 2, 3, 4, 5}, got[6] = {0};
    struct tensor t = run_write(r, v, DTYPE_F32, 2, SHAPE(2, 3));
    size_t used = r->arena_used;
    assert_int_equal(run_read(r, tensor_permute(t, (int[]){1, 0}), got), 0);
    assert_memory_equal(got, ((float[]){0, 3, 1, 4, 2, 5}), sizeof got);
    assert_int_equal(r->arena_used, used);
}

static void test_cancel(void **state)
{
    struct run *r = &((struct both *)*state)->run;
    atomic_int flag = 0;
    r->cancel = &flag;
    struct tensor x = op_randn(r, 1, 0, 1, SHAPE(8));
    assert_false(run_failed(r));
    atomic_store(&flag, 1);
    op_fill(r, x, 1);
    assert_int_equal(r->err.code, ERR_CANCEL);
    assert_true(((float *)x.data)[0] != 1);
}

/* The same calls with and without a device: the same shapes, flops and arena. */
static struct tensor network(struct run *r, struct tensor w)
{
    struct tensor x = op_randn(r, 7, 1, 3, SHAPE(2, 9, 32));
    size_t mark = run_mark(r);
    struct tensor h =
        op_layer_norm(r, op_linear(r, x, w, TENSOR_NONE, ACT_SILU), TENSOR_NONE, TENSOR_NONE, 1e-6f);
    struct tensor q = tensor_view(h, 4, SHAPE(2, 9, 4, 8));
    struct tensor y = op_attention(r, q, q, q, (struct attn){.kind = ATTN_CAUSAL, .scale = 0.3f});
    op_add(r, x, tensor_view(y, 3, SHAPE(2, 9, 32)));
    run_rewind(r, mark);
    return op_copy(r, x, DTYPE_BF16);
}

static void test_planning(void **state)
{
    struct run *r = &((struct both *)*state)->run, plan;
    struct err err = {0};
    struct tensor w = op_randn(r, 3, 0, 2, SHAPE(32, 32)), y = network(r, w), z;
    assert_int_equal(run_init(&plan, NULL, 0, &err), 0);
    z = network(&plan, op_randn(&plan, 3, 0, 2, SHAPE(32, 32)));
    assert_false(run_failed(r));
    assert_false(run_failed(&plan));
    assert_null(z.data);
    assert_true(tensor_same_shape(y, z));
    assert_true(plan.flops == r->flops && plan.flops > 2.0 * 18 * 32 * 32 + 0.5 * 4 * 2 * 4 * 9 * 9 * 8);
    assert_true(plan.bytes == r->bytes);
    assert_int_equal(plan.n_ops, r->n_ops);
    assert_int_equal(plan.arena_peak, r->arena_peak);
    float untouched = 5;
    assert_int_equal(run_read(&plan, z, &untouched), 0);
    assert_true(untouched == 5);
    run_done(&plan);
}

/* The real feed-forward layer on the tokens of a 704 px clip: no memory is needed to learn that it takes 6
 * GB. */
static void test_planning_large(void **state)
{
    (void)state;
    struct run plan;
    struct err err = {0};
    assert_int_equal(run_init(&plan, NULL, 0, &err), 0);
    struct tensor x = run_new(&plan, DTYPE_F32, 2, SHAPE(120000, 3072));
    struct tensor w = tensor_of(NULL, DTYPE_BF16, 2, SHAPE(12288, 3072));
    op_linear(&plan, x, w, TENSOR_NONE, ACT_GELU_TANH);
    assert_int_equal(plan.err.code, 0);
    assert_int_equal(plan.arena_peak, (size_t)120000 * (3072 + 12288) * 4);
    assert_true(plan.flops == 2.0 * 120000 * 3072 * 12288);
    run_done(&plan);
    assert_int_equal(run_init(&plan, NULL, 1 << 20, &err), 0);
    run_new(&plan, DTYPE_F32, 2, SHAPE(120000, 3072));
    assert_int_equal(plan.err.code, ERR_NOMEM);
    run_done(&plan);
}

static void see(void *arg, struct run *r, const char *name, struct tensor t)
{
    (void)r;
    strcat(arg, name);
    assert_int_equal(t.shape[0], 4);
}

static void test_tap(void **state)
{
    struct run *r = &((struct both *)*state)->run;
    char names[64] = "";
    struct tensor t = run_new(r, DTYPE_F32, 1, SHAPE(4));
    run_tap(r, t, "off");
    r->tap = see;
    r->tap_arg = names;
    run_tap(r, t, "mid.double%d.img", 0);
    run_fail(r, ERR_IO, "over");
    run_tap(r, t, "late");
    assert_string_equal(names, "mid.double0.img");
}

static void test_open(void **state)
{
    (void)state;
    struct device *d = NULL;
    struct err err = {0};
    assert_int_equal(device_open(&d, "tpu", NULL, &err), ERR_INVALID);
    assert_null(d);
    err_clear(&err);
    assert_int_equal(setenv("TROUPE_CUDA_MODULE", "/nowhere/troupe-cuda.so", 1), 0);
    assert_int_equal(device_open(&d, "cuda", NULL, &err), ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "/nowhere/troupe-cuda.so"));
    assert_null(d);
    err_clear(&err);
    assert_int_equal(device_open(&d, "cpu", &(struct device_options){.n_threads = 1}, &err), 0);
    assert_true(d->is_host && d->n_threads == 1 && d->memory_bytes > 0 && d->name[0]);
    assert_true(device_free_bytes(d) > 0 && device_free_bytes(d) <= d->memory_bytes);
    device_close(d);
    mem_fail_at(1);
    assert_int_equal(device_open(&d, "cpu_ref", NULL, &err), ERR_NOMEM);
    mem_fail_at(0);
    device_close(NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_sentence), T(test_labels),         T(test_arena), T(test_read_write), T(test_cancel),
        T(test_planning), T(test_planning_large), T(test_tap),   T(test_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
