/* rope.cu -- rotary positions. Angles are made in f32, as the networks were trained with; their sines in double. */
#include "kernels/cuda/cuda.h"

/* theta^(-2k/d) in the steps the original takes: each rounded to f32. */
static __device__ float frequency(float theta, int64_t k, int64_t d)
{
    float e = __fdiv_rn((float)(2 * k), (float)d);
    return __fdiv_rn(1.0f, (float)pow((double)theta, (double)e));
}

/* A row is a token, a column a pair. */
struct rope_table_each {
    struct cuda_rows cos_, sin_;
    int64_t h, w, t_first;
    int dims[3];
    float theta;
    __device__ void operator()(int64_t i, int64_t at) const
    {
        int axis = 0;
        int64_t k = at;
        while (axis < 2 && k >= dims[axis] / 2)
            k -= dims[axis++] / 2;
        int64_t pos = axis == 0 ? i / (h * w) + t_first : axis == 1 ? i / w % h : i % w;
        float angle = __fmul_rn((float)pos, frequency(theta, k, dims[axis]));
        cuda_row_f32(cos_, i)[at] = (float)cos((double)angle);
        cuda_row_f32(sin_, i)[at] = (float)sin((double)angle);
    }
};

int cuda_rope_table(struct run *r, struct tensor cos_, struct tensor sin_, int64_t n_frames, int64_t h, int64_t w,
                    const int *dims, float theta, int64_t t_first)
{
    struct rope_table_each f = {cuda_rows_of(cos_), cuda_rows_of(sin_), h, w, t_first, {dims[0], dims[1], dims[2]}, theta};
    return cuda_each(r, f, n_frames * h * w, f.cos_.n);
}

/* A row is a token, a column a pair: one sine for all heads. */
struct rope_halves_each {
    float *x;
    const int32_t *pos;
    int64_t row, head; /* strides */
    int64_t n_heads, d;
    float theta;
    __device__ void operator()(int64_t s, int64_t k) const
    {
        float angle = __fmul_rn((float)pos[s], frequency(theta, k, d));
        float c = (float)cos((double)angle), sn = (float)sin((double)angle);
        for (int64_t h = 0; h < n_heads; h++) {
            float *p = x + s * row + h * head + k, a = p[0], b = p[d / 2];
            p[0] = a * c - b * sn;
            p[d / 2] = b * c + a * sn;
        }
    }
};

int cuda_rope_halves(struct run *r, struct tensor x, struct tensor pos, float theta)
{
    struct rope_halves_each f = {(float *)x.data, (const int32_t *)pos.data, x.stride[0], x.stride[1],
                                 x.shape[1],      x.shape[2],                theta};
    return cuda_each(r, f, x.shape[0], f.d / 2);
}
