/* tensor: shapes, strides and views; element addresses are compared with indices worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/tensor.h"

static float data[120];

static int64_t where(struct tensor t)
{
    return (float *)t.data - data;
}

static void test_counts(void **state)
{
    (void)state;
    struct tensor t = tensor_of(data, DTYPE_F32, 3, SHAPE(4, 5, 6)), none = TENSOR_NONE;
    assert_int_equal(tensor_count(t), 120);
    assert_int_equal(tensor_bytes(t), 480);
    assert_int_equal(tensor_rows(t), 20);
    assert_int_equal(tensor_dim(t, -1), 6);
    assert_int_equal(tensor_dim(t, 0), 4);
    assert_int_equal(tensor_dim(t, 3), 1);
    assert_int_equal(tensor_dim(t, -4), 1);
    assert_true(tensor_is_contiguous(t));
    assert_true(tensor_is_none(none));
    assert_int_equal(tensor_count(none), 0);
    assert_int_equal(tensor_rows(none), 0);
    assert_true(tensor_is_none(tensor_view(none, 1, SHAPE(7))));
    assert_true(tensor_is_none(tensor_slice(none, 2, 0, 7)));
    assert_true(tensor_is_none(tensor_at(none, 0, 3)));
}

static void test_slices(void **state)
{
    (void)state;
    struct tensor t = tensor_of(data, DTYPE_F32, 3, SHAPE(4, 5, 6));
    struct tensor s = tensor_slice(t, 1, 2, 3);
    assert_int_equal(where(s), 12);
    assert_int_equal(s.shape[1], 3);
    assert_false(tensor_is_contiguous(s));
    assert_true(tensor_is_contiguous(tensor_slice(t, 0, 1, 2)));
    struct tensor a = tensor_at(s, 0, 3);
    assert_int_equal(a.n_dims, 2);
    assert_int_equal(where(a), 3 * 30 + 12);
    assert_true(tensor_is_contiguous(a));
    struct tensor one = tensor_at(tensor_at(a, 1, 4), 0, 1);
    assert_int_equal(one.n_dims, 1);
    assert_int_equal(one.shape[0], 1);
    assert_int_equal(where(one), 3 * 30 + 12 + 6 + 4);
    struct tensor e = tensor_every(t, 2, 1, 2);
    assert_int_equal(e.shape[2], 3);
    assert_int_equal(e.stride[2], 2);
    assert_int_equal(where(e), 1);
    assert_int_equal(tensor_every(t, 1, 0, 4).shape[1], 2);
    struct tensor p = tensor_permute(t, (int[]){2, 0, 1});
    assert_int_equal(p.shape[0], 6);
    assert_int_equal(p.stride[0], 1);
    assert_int_equal(p.stride[1], 30);
    assert_false(tensor_is_contiguous(p));
}

static void test_views(void **state)
{
    (void)state;
    struct tensor t = tensor_of(data, DTYPE_F32, 3, SHAPE(4, 5, 6));
    struct tensor v = tensor_view(t, 2, SHAPE(8, -1));
    assert_int_equal(v.shape[1], 15);
    assert_int_equal(v.stride[0], 15);

    /* Columns 2..5 of rows of 6, split in two heads of 2: q of a fused [q; k] row. */
    struct tensor q = tensor_slice(t, 2, 2, 4), h = tensor_view(q, 4, SHAPE(4, 5, 2, 2));
    assert_int_equal(where(h), 2);
    assert_int_equal(h.stride[0], 30);
    assert_int_equal(h.stride[1], 6);
    assert_int_equal(h.stride[2], 2);
    assert_int_equal(h.stride[3], 1);

    /* The two outer dimensions still lie in one stretch and may be merged; dimensions of length 1 come and
     * go. */
    struct tensor m = tensor_view(q, 3, SHAPE(1, 20, 4));
    assert_int_equal(m.shape[1], 20);
    assert_int_equal(m.stride[1], 6);
    m = tensor_view(tensor_slice(t, 1, 3, 1), 3, SHAPE(4, 6, 1));
    assert_int_equal(m.stride[0], 30);
    assert_int_equal(m.stride[1], 1);
    m = tensor_view(tensor_slice(t, 1, 0, 2), 2, SHAPE(4, 12));
    assert_int_equal(m.stride[0], 30);
    assert_int_equal(m.stride[1], 1);
    m = tensor_view(tensor_of(data, DTYPE_F32, 2, SHAPE(0, 6)), 3, SHAPE(0, 2, 3));
    assert_int_equal(tensor_count(m), 0);
}

/* Planning: no data, and views must not make an address out of nothing. */
static void test_planning(void **state)
{
    (void)state;
    struct tensor t = tensor_of(NULL, DTYPE_F32, 2, SHAPE(4, 5));
    assert_null(tensor_slice(t, 0, 2, 1).data);
    assert_null(tensor_at(t, 1, 3).data);
    assert_null(tensor_every(t, 1, 1, 2).data);
}

static void test_format(void **state)
{
    (void)state;
    char text[64], tiny[8];
    struct tensor t = tensor_of(data, DTYPE_BF16, 2, SHAPE(3, 64));
    assert_string_equal(tensor_format(t, text, sizeof text), "bf16 [3, 64]");
    assert_string_equal(tensor_format(t, tiny, sizeof tiny), "bf16 [3");
    assert_string_equal(tensor_format(TENSOR_NONE, text, sizeof text), "none");
    assert_true(tensor_same_shape(t, tensor_of(NULL, DTYPE_F32, 2, SHAPE(3, 64))));
    assert_false(tensor_same_shape(t, tensor_of(NULL, DTYPE_F32, 3, SHAPE(1, 3, 64))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),   cmocka_unit_test(test_slices), cmocka_unit_test(test_views),
        cmocka_unit_test(test_planning), cmocka_unit_test(test_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
