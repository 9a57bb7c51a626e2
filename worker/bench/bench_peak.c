#include "worker/bench/bench_peak.h"

#include <string.h>

#include "kernels/ops.h"
#include "worker/bench/bench_time.h"

enum { SIDE_MAX = 8192 };
#define LONG_ENOUGH 0.02

/* TFLOP/s dense: f32 of the CUDA cores, bf16 and fp8 of the tensor cores with f32 sums; GB/s. The words must all be in the
 * driver's name; the first row that fits counts. Figures with sparsity are halved.
 * Sources: NVIDIA's datasheets "A100", "A10", "H100", "H200", "HGX B200", "L4", "L40S", "RTX A6000", "RTX 6000 Ada"; white
 * papers "Ampere GA102", "Ada", "RTX Blackwell" for GeForce. */
static const struct {
    const char *words[3];
    double f32, bf16, fp8, gbytes;
    const char *source;
} table[] = {
    {{"A100", "PCIE", "40GB"}, 19.5, 312, 0, 1555, "NVIDIA's datasheet: A100 40 GB PCIe"},
    {{"A100", "40GB"}, 19.5, 312, 0, 1555, "NVIDIA's datasheet: A100 40 GB"},
    {{"A100", "PCIe"}, 19.5, 312, 0, 1935, "NVIDIA's datasheet: A100 80 GB PCIe"},
    {{"A100"}, 19.5, 312, 0, 2039, "NVIDIA's datasheet: A100 80 GB SXM"},
    {{"H100", "NVL"}, 60, 835.5, 1670.5, 3900, "NVIDIA's datasheet: H100 NVL"},
    {{"H100", "PCIe"}, 51, 756, 1513, 2000, "NVIDIA's datasheet: H100 PCIe"},
    {{"H100"}, 67, 989.5, 1979, 3350, "NVIDIA's datasheet: H100 SXM"},
    {{"H200", "NVL"}, 60, 835.5, 1670.5, 4800, "NVIDIA's datasheet: H200 NVL"},
    {{"H200"}, 67, 989.5, 1979, 4800, "NVIDIA's datasheet: H200 SXM"},
    {{"B200"}, 75, 2250, 4500, 7700, "NVIDIA's datasheet: HGX B200"},
    {{"L40S"}, 91.6, 362, 733, 864, "NVIDIA's datasheet: L40S"},
    {{"NVIDIA L4"}, 30.3, 121, 242.5, 300, "NVIDIA's datasheet: L4"},
    {{"NVIDIA A10"}, 31.2, 125, 0, 600, "NVIDIA's datasheet: A10"},
    {{"RTX A6000"}, 38.7, 154.8, 0, 768, "NVIDIA's datasheet: RTX A6000"},
    {{"RTX 6000 Ada"}, 91.1, 364.2, 728.5, 960, "NVIDIA's datasheet: RTX 6000 Ada"},
    {{"RTX 3090 Ti"}, 40, 80, 0, 1008, "NVIDIA's white paper: RTX 3090 Ti"},
    {{"RTX 3090"}, 35.6, 71, 0, 936, "NVIDIA's white paper: RTX 3090"},
    {{"RTX 4090"}, 82.6, 165.2, 330.3, 1008, "NVIDIA's white paper: RTX 4090"},
    {{"RTX 5090"}, 104.8, 209.5, 419, 1792, "NVIDIA's white paper: RTX 5090"},
};

static bool is_part(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* word in name, whole: "A10" is not in "A100" and "H200" not in "GH200". */
static bool has_word(const char *name, const char *word)
{
    for (const char *p = name; (p = strstr(p, word)); p++)
        if (!is_part(p[strlen(word)]) && (p == name || !is_part(p[-1])))
            return true;
    return false;
}

bool bench_peak_find(const char *name, struct bench_peak *ret)
{
    if (has_word(name, "Laptop") || strstr(name, "Max-Q") || strstr(name, "MIG") || strstr(name, "4090 D") ||
        strstr(name, "5090 D"))
        return false; /* other chips, clocks or shares of the name */
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        bool fits = true;
        for (int k = 0; k < 3 && table[i].words[k]; k++)
            fits = fits && has_word(name, table[i].words[k]);
        if (!fits)
            continue;
        *ret = (struct bench_peak){.flops = {table[i].f32 * 1e12, table[i].bf16 * 1e12, table[i].fp8 * 1e12},
                                   .bytes = table[i].gbytes * 1e9,
                                   .source = table[i].source};
        return true;
    }
    return false;
}

struct probe {
    struct tensor x, w, y;
};

static void call_linear(struct run *r, void *arg)
{
    const struct probe *p = arg;
    op_linear(r, p->x, p->w, TENSOR_NONE, ACT_NONE);
}

static void call_copy(struct run *r, void *arg)
{
    const struct probe *p = arg;
    op_copy_into(r, p->y, p->x);
}

/* A square layer, or a square copied: rates a second. */
static int probe(struct run *r, int64_t side, bool is_linear, double *ret_seconds, double *ret_rate)
{
    size_t mark = run_mark(r);
    struct probe p = {.x = op_randn(r, 1, 0, 2, SHAPE(side, side))};
    struct bench_time t = {0};
    if (is_linear)
        p.w = op_copy(r, p.x, DTYPE_BF16);
    else
        p.y = run_new(r, DTYPE_F32, 2, SHAPE(side, side));
    int rc = bench_time_calls(r, &(struct bench_work){is_linear ? call_linear : call_copy, NULL, &p},
                              &(struct bench_limits){.samples = 3, .seconds = 0.05}, &t);
    if (is_linear)
        device_forget(r->device, p.w.data, tensor_bytes(p.w));
    run_rewind(r, mark);
    if (rc < 0)
        return rc;
    *ret_seconds = t.seconds;
    *ret_rate = (is_linear ? t.flops : t.bytes) / t.seconds;
    return 0;
}

int bench_peak_measure(struct run *r, struct bench_peak *p)
{
    double seconds = 0, rate = 0;
    int rc = 0;
    p->rate_flops = p->rate_bytes = 0;
    for (int64_t side = 64; rc == 0 && side <= SIDE_MAX && seconds < LONG_ENOUGH; side *= 2) {
        rc = probe(r, side, true, &seconds, &rate);
        p->rate_flops = rate > p->rate_flops ? rate : p->rate_flops;
    }
    seconds = rate = 0;
    for (int64_t side = 64; rc == 0 && side <= SIDE_MAX && seconds < LONG_ENOUGH; side *= 2) {
        rc = probe(r, side, false, &seconds, &rate);
        p->rate_bytes = rate; /* the largest: smaller ones are in a cache */
    }
    if (rc == 0 && !p->source) {
        p->is_measured = true;
        p->source = "measured: the fastest linear layer, a large copy";
        for (int i = 0; i < BENCH_PEAK_PRECISIONS; i++)
            p->flops[i] = p->rate_flops;
        p->bytes = p->rate_bytes;
    }
    return rc;
}
