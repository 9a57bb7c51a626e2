/* test_bench.c -- the bench's own parts: peaks by the name that drivers give, and what is timed and counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "kernels/ops.h"
#include "worker/bench/bench_peak.h"
#include "worker/bench/bench_time.h"

static void peaks_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double bf16, gbytes; /* 0: not in the table */
    } cases[] = {{"NVIDIA A100-SXM4-80GB", 312, 2039},
                 {"NVIDIA A100-SXM4-40GB", 312, 1555},
                 {"NVIDIA A100 80GB PCIe", 312, 1935},
                 {"NVIDIA A100-PCIE-40GB", 312, 1555},
                 {"NVIDIA H100 80GB HBM3", 989.5, 3350},
                 {"NVIDIA H100 PCIe", 756, 2000},
                 {"NVIDIA H100 NVL", 835.5, 3900},
                 {"NVIDIA H200", 989.5, 4800},
                 {"NVIDIA L40S", 362, 864},
                 {"NVIDIA L4", 121, 300},
                 {"NVIDIA A10", 125, 600},
                 {"NVIDIA GeForce RTX 3090", 71, 936},
                 {"NVIDIA GeForce RTX 4090", 165.2, 1008},
                 {"NVIDIA GeForce RTX 5090", 209.5, 1792},
                 {"NVIDIA GH200 480GB", 0, 0},
                 {"NVIDIA A10G", 0, 0},
                 {"NVIDIA GeForce RTX 4090 Laptop GPU", 0, 0},
                 {"NVIDIA GeForce RTX 4090 D", 0, 0},
                 {"NVIDIA H100 80GB HBM3 MIG 1g.10gb", 0, 0},
                 {"AMD EPYC", 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bench_peak p = {0};
        bool found = bench_peak_find(cases[i].name, &p);
        if (found != (cases[i].bf16 > 0) || p.flops[DEVICE_BF16] != cases[i].bf16 * 1e12 || p.bytes != cases[i].gbytes * 1e9)
            fail_msg("%s: %g TFLOP/s, %g GB/s", cases[i].name, p.flops[DEVICE_BF16] / 1e12, p.bytes / 1e9);
    }
}

struct slow {
    struct tensor x, w;
    int calls, refreshed;
};

static void call(struct run *r, void *arg)
{
    struct slow *s = arg;
    s->calls++;
    clock_sleep_us(12000);
    op_linear(r, s->x, s->w, TENSOR_NONE, ACT_NONE);
}

static void refresh(struct run *r, void *arg)
{
    (void)r;
    ((struct slow *)arg)->refreshed++;
}

static void times_and_counts(void **state)
{
    (void)state;
    struct device *d = NULL;
    struct err err = {0};
    struct run r;
    struct bench_time t;
    assert_int_equal(device_open(&d, "cpu_ref", NULL, &err), 0);
    assert_int_equal(run_init(&r, d, 0, &err), 0);
    struct slow s = {.x = op_randn(&r, 1, 0, 2, SHAPE(3, 8)), .w = op_randn(&r, 1, 1, 2, SHAPE(5, 8))};
    size_t mark = run_mark(&r);
    assert_int_equal(bench_time_calls(&r, &(struct bench_work){call, refresh, &s},
                                      &(struct bench_limits){.samples = 5, .seconds = 10}, &t),
                     0);
    assert_true(t.seconds >= 0.012 && t.seconds < 1);
    assert_int_equal(t.samples, 5);
    assert_int_equal(s.calls, 6); /* the first is not counted */
    assert_int_equal(s.refreshed, 6);
    assert_true(t.flops == 2 * 3 * 5 * 8);
    assert_true(t.bytes == 4 * (3 * 8 + 5 * 8 + 3 * 5));
    assert_int_equal(run_mark(&r), mark);
    s.x.shape[1] = 7; /* does not fit: the run's error */
    assert_int_equal(
        bench_time_calls(&r, &(struct bench_work){call, NULL, &s}, &(struct bench_limits){.samples = 5, .seconds = 10}, &t),
        ERR_SHAPE);
    run_done(&r);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(peaks_by_name), cmocka_unit_test(times_and_counts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
