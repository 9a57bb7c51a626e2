/* ref_conv.c -- convolution: for every output pixel its patch of the input, then one dot product an output
 * channel. */
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/cpu/ref.h"
#include "kernels/yuv.h"

/* [Co, Cg, kt, kh, kw] to [Co, kt, kh, kw, Cg]: a patch of the channels-last input then lies like a kernel.
 */
static float *channels_last(struct tensor w)
{
    int64_t taps = w.shape[2] * w.shape[3] * w.shape[4], cg = w.shape[1];
    float *wide = cpu_ref_widened(w), *p = mem_alloc((size_t)tensor_count(w) * sizeof *p);
    for (int64_t o = 0; wide && p && o < w.shape[0]; o++) {
        for (int64_t c = 0; c < cg; c++) {
            for (int64_t t = 0; t < taps; t++)
                p[(o * taps + t) * cg + c] = wide[(o * cg + c) * taps + t];
        }
    }
    if (!wide) {
        mem_free(p);
        p = NULL;
    }
    mem_free(wide);
    return p;
}

/* Where coordinate i of a dimension of n is read; -1: a zero. */
static int64_t source(int64_t i, int64_t n, bool replicate)
{
    if (i >= 0 && i < n)
        return i;
    if (!replicate)
        return -1;
    return i < 0 ? 0 : n - 1;
}

/* Channels [first, first + cg) under the kernel placed at (t, y, x). */
static void patch(float *dst, struct tensor x, struct tensor w, const struct conv *c, const int64_t at[3],
                  int64_t first)
{
    int64_t cg = w.shape[1];
    for (int64_t i = 0; i < w.shape[2]; i++) {
        int64_t t = source(at[0] + i, x.shape[0], c->replicate);
        for (int64_t j = 0; j < w.shape[3]; j++) {
            int64_t y = source(at[1] + j, x.shape[1], c->replicate);
            for (int64_t k = 0; k < w.shape[4]; k++, dst += cg) {
                int64_t z = source(at[2] + k, x.shape[2], c->replicate);
                if (t < 0 || y < 0 || z < 0)
                    memset(dst, 0, (size_t)cg * sizeof *dst);
                else
                    memcpy(dst, ref_at4(x, t, y, z, first), (size_t)cg * sizeof *dst);
            }
        }
    }
}

int cpu_ref_conv(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                 const struct conv *c)
{
    int64_t cg = w.shape[1], co = w.shape[0], per = co / c->groups, len = tensor_count(w) / co;
    float *kernels = channels_last(w), *bias = cpu_ref_widened(b), *p = mem_alloc((size_t)len * sizeof *p);
    if (!kernels || !p || (!bias && !tensor_is_none(b)))
        run_fail(r, ERR_NOMEM, "no memory for the kernels");
    for (int64_t i = 0; !run_failed(r) && i < tensor_rows(y); i++) {
        int64_t out[3] = {i / (y.shape[1] * y.shape[2]), i / y.shape[2] % y.shape[1], i % y.shape[2]}, at[3];
        float *q = ref_row(y, i);
        for (int d = 0; d < 3; d++)
            at[d] = out[d] * c->stride[d] - c->pad_before[d];
        for (int64_t o = 0; o < co; o++) {
            if (o % per == 0)
                patch(p, x, w, c, at, o / per * cg);
            q[o] = (float)(ref_dot(p, kernels + o * len, len) + (bias ? (double)bias[o] : 0));
        }
    }
    mem_free(kernels);
    mem_free(bias);
    mem_free(p);
    return run_failed(r) ? r->err.code : cpu_ref_act(r, y, c->act);
}

int cpu_ref_max_pool(struct run *r, struct tensor y, struct tensor x, int k, int stride, int pad)
{
    (void)r;
    for (int64_t i = 0; i < tensor_rows(y); i++) {
        int64_t t = i / (y.shape[1] * y.shape[2]), y0 = i / y.shape[2] % y.shape[1] * stride - pad;
        int64_t x0 = i % y.shape[2] * stride - pad;
        float *q = ref_row(y, i);
        for (int64_t c = 0; c < y.shape[3]; c++) {
            float top = -INFINITY;
            for (int64_t a = y0 < 0 ? 0 : y0; a < y0 + k && a < x.shape[1]; a++) {
                for (int64_t b = x0 < 0 ? 0 : x0; b < x0 + k && b < x.shape[2]; b++) {
                    float v = *ref_at4(x, t, a, b, c);
                    top = v > top || v != v ? v : top;
                }
            }
            q[c] = top;
        }
    }
    return 0;
}

int cpu_ref_upsample(struct run *r, struct tensor y, struct tensor x, int ft, int fh, int fw, bool first_once)
{
    (void)r;
    for (int64_t i = 0; i < tensor_rows(y); i++) {
        int64_t t = i / (y.shape[1] * y.shape[2]), a = i / y.shape[2] % y.shape[1], b = i % y.shape[2];
        int64_t from = first_once ? (t + ft - 1) / ft : t / ft;
        memcpy(ref_row(y, i), ref_at4(x, from, a / fh, b / fw, 0), (size_t)x.shape[3] * sizeof(float));
    }
    return 0;
}

int cpu_ref_normalize(struct run *r, struct tensor y, struct tensor x, float div, const float *mean,
                      const float *std)
{
    (void)r;
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        const uint8_t *p = (const uint8_t *)x.data + ref_offset(x, i);
        float *q = ref_row(y, i);
        for (int64_t c = 0; c < tensor_dim(x, -1); c++)
            q[c] = ((float)p[c] / div - mean[c]) / std[c];
    }
    return 0;
}

int cpu_ref_to_u8(struct run *r, struct tensor y, struct tensor x)
{
    (void)r;
    for (int64_t i = 0; i < tensor_rows(x); i++) {
        const float *p = ref_row(x, i);
        uint8_t *q = (uint8_t *)y.data + ref_offset(y, i);
        for (int64_t k = 0; k < tensor_dim(x, -1); k++) {
            float v = p[k] / 2 + 0.5f;
            v = v > 0 ? v : 0; /* NaN gives 0 */
            q[k] = (uint8_t)(255.0f * (v < 1 ? v : 1));
        }
    }
    return 0;
}

/* 2 x 2 pixels from row 2i, column 2j of frame t. */
static void yuv_quad(struct tensor y, struct tensor x, int64_t t, int64_t i, int64_t j)
{
    int64_t h = x.shape[1], w = x.shape[2];
    uint8_t *luma = (uint8_t *)y.data + t * y.stride[0], *u = luma + h * w, *v = u + h / 2 * (w / 2);
    int32_t sum[3] = {0};
    for (int k = 0; k < 4; k++) {
        int64_t row = 2 * i + k / 2, column = 2 * j + k % 2;
        const float *p = ref_at4(x, t, row, column, 0);
        int32_t q[3];
        for (int c = 0; c < 3; c++) {
            float f = p[c] / 2 + 0.5f;
            f = f > 0 ? f : 0; /* NaN gives 0 */
            q[c] = (int32_t)(YUV_ONE * (f < 1 ? f : 1) + 0.5f);
            sum[c] += q[c];
        }
        luma[row * w + column] = YUV_Y(q[0], q[1], q[2]);
    }
    u[i * (w / 2) + j] = YUV_U(sum[0], sum[1], sum[2]);
    v[i * (w / 2) + j] = YUV_V(sum[0], sum[1], sum[2]);
}

int cpu_ref_to_yuv420(struct run *r, struct tensor y, struct tensor x)
{
    (void)r;
    int64_t rows = x.shape[1] / 2, columns = x.shape[2] / 2;
    for (int64_t i = 0; i < x.shape[0] * rows * columns; i++)
        yuv_quad(y, x, i / (rows * columns), i / columns % rows, i % columns);
    return 0;
}

int cpu_ref_mask_down(struct run *r, struct tensor y, struct tensor mask)
{
    (void)r;
    for (int64_t i = 0; i < y.shape[0]; i++) {
        const float *a = ref_row(mask, 8 * i + 3), *b = ref_row(mask, 8 * i + 4);
        for (int64_t j = 0; j < y.shape[1]; j++) {
            double sum =
                (double)a[8 * j + 3] + (double)a[8 * j + 4] + (double)b[8 * j + 3] + (double)b[8 * j + 4];
            ref_row(y, i)[j] = (float)(sum / 4);
        }
    }
    return 0;
}
