/* test_ckpt_random.c -- random weights: at the published sizes quick and small, as large as layers want them, the same by
 * seed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/str.h"
#include "worker/model/avatar_full.h"
#include "worker/model/ckpt_random.h"

static int64_t resident_kib(void)
{
    char line[256];
    int64_t kib = -1;
    FILE *f = fopen("/proc/self/status", "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (!str_starts(line, "VmRSS:"))
            continue;
        char *n = line + 6 + strspn(line + 6, " \t");
        n[strcspn(n, " ")] = 0;
        assert_int_equal(str_parse_i64(n, 0, INT64_MAX, &kib), 0);
    }
    fclose(f);
    return kib;
}

static void measure(struct tensor t, int64_t n, double *mean, double *deviation)
{
    double sum = 0, squares = 0;
    static float v[1 << 16];
    assert_true(n <= 1 << 16);
    dtype_read_f32(v, t.data, t.dtype, n, 1);
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(v[i]));
        sum += (double)v[i];
        squares += (double)v[i] * (double)v[i];
    }
    *mean = sum / (double)n;
    *deviation = sqrt(squares / (double)n - *mean * *mean);
}

static void the_published_transformer(void **state)
{
    (void)state;
    struct ckpt *c = NULL;
    struct err err = {0};
    clock_t start = clock(); /* of this process: others may have the cores */
    assert_int_equal(ckpt_open_random(&c, (const char *)avatar_full_dit_tsv, avatar_full_dit_tsv_len, 1, &err), 0);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    int64_t kib = resident_kib();
    printf("opened in %.3f s, %lld MiB resident, %.1f GB of weights\n", seconds, (long long)kib / 1024,
           (double)ckpt_bytes(c) / 1e9);
    assert_true(ckpt_bytes(c) > (size_t)20 << 30);
    assert_true(kib < 400 * 1024);
    /* sanitized builds are slower; the promise is the release build's */
#if !defined(__SANITIZE_ADDRESS__)
    assert_true(seconds < 1);
#endif
    ckpt_close(c);
}

static void sizes_of_numbers(void **state)
{
    (void)state;
    static const char list[] = "name\tdtype\tshape\nfc.weight\tbfloat16\t4096x3072\nfc.bias\tbfloat16\t4096\n"
                               "norm.weight\tfloat32\t9000\nconv.weight\tfloat16\t64x64x3x3x3\nids\tint64\t1x77\n";
    struct ckpt *c = NULL;
    struct err err = {0};
    double mean, deviation;
    assert_int_equal(ckpt_open_random(&c, list, strlen(list), 7, &err), 0);
    assert_true(ckpt_has_data(c));
    /* deviation of a deviation from n draws: 1/sqrt(2n) of it, 0.3 %; 65,536 drawn ones add as much */
    measure(ckpt_find(c, "fc.weight"), 1 << 16, &mean, &deviation);
    assert_true(fabs(deviation * sqrt(3072) - 1) < 0.03 && fabs(mean) < 1e-3);
    measure(ckpt_find(c, "conv.weight"), 1 << 16, &mean, &deviation);
    assert_true(fabs(deviation * sqrt(64 * 27) - 1) < 0.03 && fabs(mean) < 1e-3);
    measure(ckpt_find(c, "fc.bias"), 4096, &mean, &deviation);
    assert_true(fabs(deviation - 0.02) < 0.002 && fabs(mean) < 0.002);
    measure(ckpt_find(c, "norm.weight"), 9000, &mean, &deviation);
    assert_true(fabs(deviation - 0.1) < 0.01 && fabs(mean - 1) < 0.01);
    assert_int_equal(((const int64_t *)ckpt_find(c, "ids").data)[76], 0);
    ckpt_close(c);
}

static void same_seed_same_numbers(void **state)
{
    (void)state;
    static const char list[] = "a.weight\tbfloat16\t4096x3072\nb.weight\tbfloat16\t4096x3072\nc.bias\tfloat32\t100\n";
    struct ckpt *c[3] = {NULL};
    struct err err = {0};
    char hex[3][65];
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ckpt_open_random(&c[i], list, strlen(list), i == 2 ? 6 : 5, &err), 0);
        assert_int_equal(ckpt_digest(c[i], hex[i], &err), 0);
    }
    assert_string_equal(hex[0], hex[1]);
    assert_string_not_equal(hex[0], hex[2]);
    struct tensor a = ckpt_find(c[0], "a.weight"), b = ckpt_find(c[0], "b.weight");
    assert_true((char *)a.data + tensor_bytes(a) <= (char *)b.data); /* addresses of its own */
    assert_memory_not_equal(a.data, b.data, 4096);
    for (int i = 0; i < 3; i++)
        ckpt_close(c[i]);
}

static void a_bad_list(void **state)
{
    (void)state;
    struct ckpt *c = NULL;
    struct err err = {0};
    assert_int_equal(ckpt_open_random(&c, "x\tbfloat17\t4\n", 13, 1, &err), ERR_FORMAT);
    assert_null(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_transformer),
        cmocka_unit_test(sizes_of_numbers),
        cmocka_unit_test(same_seed_same_numbers),
        cmocka_unit_test(a_bad_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
