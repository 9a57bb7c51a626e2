/* picture.cu -- pooling, enlarging, pictures in and out. */
#include "kernels/cuda/cuda.h"
#include "kernels/yuv.h"

/* A row is a pixel of y, a column a channel. */
struct max_pool_each {
    float *y;
    struct cuda_view4 x;
    int64_t h, w; /* of y */
    int k, stride, pad;
    __device__ void operator()(int64_t row, int64_t c) const
    {
        int64_t line = cuda_div(row, w), t = cuda_div(line, h);
        int64_t y0 = (line - t * h) * stride - pad, x0 = (row - line * w) * stride - pad;
        float top = cuda_bits_to_f32(0xff800000u); /* -inf */
        for (int64_t a = y0 < 0 ? 0 : y0; a < y0 + k && a < x.shape[1]; a++) {
            for (int64_t b = x0 < 0 ? 0 : x0; b < x0 + k && b < x.shape[2]; b++) {
                float v = *cuda_at4(x, t, a, b, c);
                top = v > top || v != v ? v : top;
            }
        }
        y[row * x.shape[3] + c] = top;
    }
};

int cuda_max_pool(struct run *r, struct tensor y, struct tensor x, int k, int stride, int pad)
{
    struct max_pool_each f = {(float *)y.data, cuda_view4_of(x), y.shape[1], y.shape[2], k, stride, pad};
    return cuda_each(r, f, tensor_rows(y), y.shape[3]);
}

/* V channels at a time: 4, or 1. */
template <int V> struct upsample_each {
    float *y;
    struct cuda_view4 x;
    int64_t h, w;
    int ft, fh, fw;
    bool first_once;
    __device__ void operator()(int64_t row, int64_t c) const
    {
        int64_t line = cuda_div(row, w), t = cuda_div(line, h), from = cuda_div(first_once ? t + ft - 1 : t, ft);
        const float *p = cuda_at4(x, from, cuda_div(line - t * h, fh), cuda_div(row - line * w, fw), V * c);
        float *to = y + row * x.shape[3] + V * c;
        if (V == 4)
            *(float4 *)to = *(const float4 *)p;
        else
            *to = *p;
    }
};

int cuda_upsample(struct run *r, struct tensor y, struct tensor x, int ft, int fh, int fw, bool first_once)
{
    struct upsample_each<4> fours = {(float *)y.data, cuda_view4_of(x), y.shape[1], y.shape[2], ft, fh, fw, first_once};
    struct upsample_each<1> ones = {(float *)y.data, fours.x, y.shape[1], y.shape[2], ft, fh, fw, first_once};
    bool by_fours = cuda_view4_fours(&fours.x) && ((uintptr_t)y.data & 15) == 0;
    return by_fours ? cuda_each(r, fours, tensor_rows(y), y.shape[3] / 4) : cuda_each(r, ones, tensor_rows(y), y.shape[3]);
}

#define CHANNELS 16 /* mean and std go up by value */

struct normalize_each {
    struct cuda_rows y, x;
    float div, mean[CHANNELS], std[CHANNELS];
    int64_t first; /* channel of mean[0] */
    __device__ void operator()(int64_t row, int64_t k) const
    {
        float v = (float)((const uint8_t *)x.data)[cuda_row(x, row) + first + k];
        cuda_row_f32(y, row)[first + k] = __fdiv_rn(__fsub_rn(__fdiv_rn(v, div), mean[k]), std[k]);
    }
};

int cuda_normalize(struct run *r, struct tensor y, struct tensor x, float div, const float *mean, const float *std)
{
    struct normalize_each f = {cuda_rows_of(y), cuda_rows_of(x), div, {}, {}, 0};
    int rc = 0;
    for (; f.first < f.x.n && rc == 0; f.first += CHANNELS) {
        int64_t n = f.x.n - f.first < CHANNELS ? f.x.n - f.first : CHANNELS;
        for (int64_t i = 0; i < n; i++) {
            f.mean[i] = mean[f.first + i];
            f.std[i] = std[f.first + i];
        }
        rc = cuda_each(r, f, f.x.n_rows, n);
    }
    return rc;
}

struct to_u8_each {
    struct cuda_rows y, x;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        float v = __fadd_rn(cuda_row_f32(x, row)[k] / 2, 0.5f);
        v = v > 0 ? v : 0; /* NaN gives 0 */
        ((uint8_t *)y.data)[cuda_row(y, row) + k] = (uint8_t)__fmul_rn(255.0f, v < 1 ? v : 1);
    }
};

int cuda_to_u8(struct run *r, struct tensor y, struct tensor x)
{
    struct to_u8_each f = {cuda_rows_of(y), cuda_rows_of(x)};
    return cuda_each(r, f, f.x.n_rows, f.x.n);
}

/* A row is a row of chroma, a column its sample: 2 x 2 pixels. */
struct to_yuv420_each {
    uint8_t *y;
    struct cuda_view4 x;
    int64_t h, w; /* of chroma */
    __device__ void operator()(int64_t row, int64_t j) const
    {
        int64_t t = row / h, i = row % h;
        uint8_t *luma = y + t * 6 * h * w, *u = luma + 4 * h * w, *v = u + h * w;
        int32_t sum[3] = {0, 0, 0};
        for (int k = 0; k < 4; k++) {
            const float *p = cuda_at4(x, t, 2 * i + k / 2, 2 * j + k % 2, 0);
            int32_t q[3];
            for (int c = 0; c < 3; c++) {
                float f = __fadd_rn(p[c] / 2, 0.5f);
                f = f > 0 ? f : 0; /* NaN gives 0 */
                q[c] = (int32_t)__fadd_rn(YUV_ONE * (f < 1 ? f : 1), 0.5f);
                sum[c] += q[c];
            }
            luma[(2 * i + k / 2) * 2 * w + 2 * j + k % 2] = YUV_Y(q[0], q[1], q[2]);
        }
        u[i * w + j] = YUV_U(sum[0], sum[1], sum[2]);
        v[i * w + j] = YUV_V(sum[0], sum[1], sum[2]);
    }
};

int cuda_to_yuv420(struct run *r, struct tensor y, struct tensor x)
{
    struct to_yuv420_each f = {(uint8_t *)y.data, cuda_view4_of(x), x.shape[1] / 2, x.shape[2] / 2};
    return cuda_each(r, f, x.shape[0] * f.h, f.w);
}

struct mask_down_each {
    struct cuda_rows y, mask;
    __device__ void operator()(int64_t i, int64_t j) const
    {
        const float *a = cuda_row_f32(mask, 8 * i + 3) + 8 * j, *b = cuda_row_f32(mask, 8 * i + 4) + 8 * j;
        double sum = (double)a[3] + (double)a[4] + (double)b[3] + (double)b[4];
        cuda_row_f32(y, i)[j] = (float)(sum / 4);
    }
};

int cuda_mask_down(struct run *r, struct tensor y, struct tensor mask)
{
    struct mask_down_each f = {cuda_rows_of(y), cuda_rows_of(mask)};
    return cuda_each(r, f, y.shape[0], y.shape[1]);
}
