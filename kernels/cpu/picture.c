/* picture.c -- what pictures and latents need besides convolution. */
#include "kernels/cpu/isa_rows.h"
#include "kernels/yuv.h"

int ISA_FN(max_pool)(struct run *r, struct tensor y, struct tensor x, int k, int stride, int pad)
{
    cpu_begin(r);
    int64_t n_rows = tensor_rows(y), n = y.shape[3];
#pragma omp parallel for schedule(static) if (n_rows * n >= 4096)
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t t = i / (y.shape[1] * y.shape[2]), y0 = i / y.shape[2] % y.shape[1] * stride - pad;
        int64_t x0 = i % y.shape[2] * stride - pad;
        float *q = (float *)y.data + i * n;
        for (int64_t c = 0; c < n; c++)
            q[c] = -__builtin_inff();
        for (int64_t a = y0 < 0 ? 0 : y0; a < y0 + k && a < x.shape[1]; a++) {
            for (int64_t b = x0 < 0 ? 0 : x0; b < x0 + k && b < x.shape[2]; b++) {
                const float *p = ref_at4(x, t, a, b, 0);
#pragma omp simd
                for (int64_t c = 0; c < n; c++)
                    q[c] = q[c] >= p[c] || q[c] != q[c] ? q[c] : p[c]; /* NaN stays */
            }
        }
    }
    return 0;
}

int ISA_FN(upsample)(struct run *r, struct tensor y, struct tensor x, int ft, int fh, int fw, bool first_once)
{
    cpu_begin(r);
    int64_t n = x.shape[3], w = x.shape[2], n_rows = y.shape[0] * y.shape[1];
#pragma omp parallel for schedule(static) if (tensor_count(y) >= ROWS_MANY)
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t t = i / y.shape[1], from = first_once ? (t + ft - 1) / ft : t / ft;
        const float *p = ref_at4(x, from, i % y.shape[1] / fh, 0, 0);
        float *q = (float *)y.data + i * y.shape[2] * n;
        for (int64_t b = 0; b < w; b++, p += x.stride[2]) {
            for (int k = 0; k < fw; k++, q += n)
                memcpy(q, p, (size_t)n * sizeof *q);
        }
    }
    return 0;
}

/* Two rows of pixels, one of chroma. */
static void yuv_rows(uint8_t *luma, uint8_t *u, uint8_t *v, const float *x, int64_t step, int64_t pitch, int64_t w)
{
#pragma omp simd
    for (int64_t j = 0; j < w / 2; j++) {
        int32_t sum[3] = {0, 0, 0};
        for (int k = 0; k < 4; k++) {
            const float *p = x + k / 2 * pitch + (2 * j + k % 2) * step;
            int32_t q[3];
            for (int c = 0; c < 3; c++) {
                float f = p[c] * 0.5f + 0.5f;
                f = f > 0 ? f : 0; /* NaN gives 0 */
                q[c] = (int32_t)(YUV_ONE * (f < 1 ? f : 1) + 0.5f);
                sum[c] += q[c];
            }
            luma[k / 2 * w + 2 * j + k % 2] = YUV_Y(q[0], q[1], q[2]);
        }
        u[j] = YUV_U(sum[0], sum[1], sum[2]);
        v[j] = YUV_V(sum[0], sum[1], sum[2]);
    }
}

int ISA_FN(to_yuv420)(struct run *r, struct tensor y, struct tensor x)
{
    cpu_begin(r);
    int64_t h = x.shape[1] / 2, w = x.shape[2];
#pragma omp parallel for schedule(static) if (tensor_count(x) >= ROWS_MANY)
    for (int64_t i = 0; i < x.shape[0] * h; i++) {
        int64_t t = i / h, row = i % h;
        uint8_t *luma = (uint8_t *)y.data + t * y.stride[0], *u = luma + 2 * h * w, *v = u + h * (w / 2);
        yuv_rows(luma + 2 * row * w, u + row * (w / 2), v + row * (w / 2), ref_at4(x, t, 2 * row, 0, 0), x.stride[2],
                 x.stride[1], w);
    }
    return 0;
}

int ISA_FN(gauss)(struct run *r, struct tensor y, struct tensor mean, struct tensor logvar,
                  struct tensor noise, float scale)
{
    cpu_begin(r);
    int last = y.n_dims - 1;
    if (y.shape[last] > 1 && (noise.stride[last] != 1 || mean.stride[last] > 1 || logvar.stride[last] > 1))
        return cpu_ref_gauss(r, y, mean, logvar, noise, scale);
    struct rows c = rows_of(y);
    int64_t m_step = mean.stride[last], l_step = logvar.stride[last];
#pragma omp parallel for if (c.many)
    for (int64_t i = 0; i < c.n_pieces; i++) {
        struct piece p = rows_piece(&c, i);
        const float *m = ref_row(mean, p.row) + p.first * m_step,
                    *l = ref_row(logvar, p.row) + p.first * l_step;
        const float *z = rows_at(noise, p);
        float *q = rows_at(y, p);
#pragma omp simd
        for (int64_t k = 0; k < p.n; k++) {
            float v = l[k * l_step];
            v = v < -30 ? -30 : v;
            v = v > 20 ? 20 : v;
            q[k] = scale * (m[k * m_step] + isa_exp(v * 0.5f) * z[k]);
        }
    }
    return 0;
}

int ISA_FN(blend)(struct run *r, struct tensor b, struct tensor a, int dim, int64_t n)
{
    cpu_begin(r);
    for (int64_t k = 0; k < n; k++) {
        struct tensor to = tensor_slice(b, dim, k, 1), from = tensor_slice(a, dim, a.shape[dim] - n + k, 1);
        float share = (float)((double)k / (double)n), rest = (float)(1 - (double)k / (double)n);
        struct rows c = rows_of(to);
#pragma omp parallel for if (c.many)
        for (int64_t i = 0; i < c.n_pieces; i++) {
            struct piece p = rows_piece(&c, i);
            float *d = rows_at(to, p);
            const float *s = rows_at(from, p);
#pragma omp simd
            for (int64_t e = 0; e < p.n; e++)
                d[e] = s[e] * rest + d[e] * share;
        }
    }
    return 0;
}
