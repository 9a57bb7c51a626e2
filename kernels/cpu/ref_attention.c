/* ref_attention.c -- attention query by query: scores, softmax and the weighted sum in double. */
#include <math.h>

#include "common/mem.h"
#include "kernels/cpu/ref.h"

static bool seen(const struct attn *a, int64_t i, int64_t j, int64_t sq, int64_t sk)
{
    switch (a->kind) {
    case ATTN_CAUSAL:
        return j <= i + (sk - sq);
    case ATTN_BLOCK_CAUSAL:
        return j / a->block <= i / a->block;
    case ATTN_MASK:
        return ((const uint8_t *)a->mask.data)[i * a->mask.stride[0] + j * a->mask.stride[1]] != 0;
    default:
        return true;
    }
}

/* y[D] of one query over the keys of one head; p holds sk weights, sum D sums. k and v are [sk, D] with row
 * strides. */
static void attend(float *y, const float *q, struct tensor k, struct tensor v, const struct attn *a,
                   int64_t i, int64_t sq, double *p, double *sum)
{
    int64_t sk = k.shape[0], d = k.shape[1];
    double top = -INFINITY, total = 0;
    for (int64_t j = 0; j < sk; j++) {
        p[j] = -INFINITY;
        if (seen(a, i, j, sq, sk))
            p[j] = (double)a->scale * ref_dot(q, ref_row(k, j), d);
        top = p[j] > top ? p[j] : top;
    }
    for (int64_t c = 0; c < d; c++)
        sum[c] = 0;
    for (int64_t j = 0; j < sk; j++) {
        if (p[j] == -INFINITY)
            continue;
        double e = exp(p[j] - top);
        const float *row = ref_row(v, j);
        total += e;
        for (int64_t c = 0; c < d; c++)
            sum[c] += e * (double)row[c];
    }
    for (int64_t c = 0; c < d; c++)
        y[c] = (float)(sum[c] / total);
}

int cpu_ref_attention(struct run *r, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                      struct attn a)
{
    int64_t sq = q.shape[1], sk = k.shape[1], share = q.shape[2] / k.shape[2];
    double *p = mem_alloc((size_t)(sk + q.shape[3]) * sizeof *p);
    if (!p)
        return run_fail(r, ERR_NOMEM, "no memory for %lld scores", (long long)sk);
    for (int64_t b = 0; b < q.shape[0]; b++) {
        for (int64_t h = 0; h < q.shape[2]; h++) {
            struct tensor kh = tensor_at(tensor_at(k, 2, h / share), 0, b),
                          vh = tensor_at(tensor_at(v, 2, h / share), 0, b);
            for (int64_t i = 0; i < sq; i++)
                attend(ref_at4(y, b, i, h, 0), ref_at4(q, b, i, h, 0), kh, vh, &a, i, sq, p, p + sk);
        }
    }
    mem_free(p);
    return 0;
}
