/* elem.cu -- element by element, in f32. */
#include "kernels/cuda/cuda.h"

struct act_each {
    struct cuda_rows x;
    int act;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        float *p = cuda_row_f32(x, row) + k;
        *p = cuda_act_f32(act, *p);
    }
};

int cuda_act(struct run *r, struct tensor x, enum act act)
{
    struct act_each f = {cuda_rows_of(x), act};
    return act == ACT_NONE ? 0 : cuda_each(r, f, f.x.n_rows, f.x.n);
}

struct act_mul_each {
    struct cuda_rows a, b;
    int act;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        float *p = cuda_row_f32(a, row) + k;
        *p = cuda_act_f32(act, *p) * cuda_row_f32(b, row)[k];
    }
};

int cuda_act_mul(struct run *r, struct tensor a, struct tensor b, enum act act)
{
    struct act_mul_each f = {cuda_rows_of(a), cuda_rows_of(b), act};
    return cuda_each(r, f, f.a.n_rows, f.a.n);
}

struct add_each {
    struct cuda_rows x, y;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        cuda_row_f32(x, row)[k] += cuda_row_f32(y, y.n_rows == x.n_rows ? row : row % y.n_rows)[k];
    }
};

int cuda_add(struct run *r, struct tensor x, struct tensor y)
{
    struct add_each f = {cuda_rows_of(x), cuda_rows_of(y)};
    return cuda_each(r, f, f.x.n_rows, f.x.n);
}

struct add_gated_each {
    struct cuda_rows x, y;
    const float *gate;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        cuda_row_f32(x, row)[k] += gate[k] * cuda_row_f32(y, row)[k];
    }
};

int cuda_add_gated(struct run *r, struct tensor x, struct tensor y, struct tensor gate)
{
    struct add_gated_each f = {cuda_rows_of(x), cuda_rows_of(y), (const float *)gate.data};
    return cuda_each(r, f, f.x.n_rows, f.x.n);
}

struct add_masked_each {
    struct cuda_rows x, y;
    const float *mask;
    int64_t n_mask;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        cuda_row_f32(x, row)[k] += mask[row % n_mask] * cuda_row_f32(y, row)[k];
    }
};

int cuda_add_masked(struct run *r, struct tensor x, struct tensor y, struct tensor mask)
{
    struct add_masked_each f = {cuda_rows_of(x), cuda_rows_of(y), (const float *)mask.data, x.shape[1]};
    return cuda_each(r, f, f.x.n_rows, f.x.n);
}

struct scale_each {
    struct cuda_rows x;
    float mul, add;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        float *p = cuda_row_f32(x, row) + k;
        *p = mul * *p + add;
    }
};

int cuda_scale(struct run *r, struct tensor x, float mul, float add)
{
    struct scale_each f = {cuda_rows_of(x), mul, add};
    return cuda_each(r, f, f.x.n_rows, f.x.n);
}

struct fill_each {
    struct cuda_rows x;
    float value;
    __device__ void operator()(int64_t row, int64_t k) const { cuda_row_f32(x, row)[k] = value; }
};

int cuda_fill(struct run *r, struct tensor x, float value)
{
    struct fill_each f = {cuda_rows_of(x), value};
    return cuda_each(r, f, f.x.n_rows, f.x.n);
}

struct round_each {
    struct cuda_rows x;
    bool bf16;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        float *p = cuda_row_f32(x, row) + k;
        *p = bf16 ? cuda_bf16_to_f32(cuda_bf16_from_f32(*p)) : cuda_f16_to_f32(cuda_f16_from_f32(*p));
    }
};

int cuda_round(struct run *r, struct tensor x, enum dtype dtype)
{
    struct round_each f = {cuda_rows_of(x), dtype == DTYPE_BF16};
    return cuda_each(r, f, f.x.n_rows, f.x.n);
}

#define TIMES 64 /* passed by value: nothing to copy, nothing to wait for */

/* The frequencies are f32 at every step, as in the original: with t near 1000 their rounding shows. */
struct timestep_each {
    float t[TIMES];
    float *y;
    int half;
    __device__ void operator()(int64_t i, int64_t k) const
    {
        float e = __fdiv_rn(__fmul_rn((float)-9.210340371976184, (float)k), (float)half); /* -ln 10000 */
        float angle = __fmul_rn(t[i], (float)exp((double)e));
        y[2 * half * i + k] = (float)cos((double)angle);
        y[2 * half * i + half + k] = (float)sin((double)angle);
    }
};

int cuda_timestep(struct run *r, struct tensor y, const float *t, int n, int dim)
{
    int rc = 0;
    for (int at = 0; at < n && rc == 0; at += TIMES) {
        struct timestep_each f = {};
        int here = n - at < TIMES ? n - at : TIMES;
        for (int i = 0; i < here; i++)
            f.t[i] = t[at + i];
        f.y = (float *)y.data + (int64_t)at * dim;
        f.half = dim / 2;
        rc = cuda_each(r, f, here, f.half);
    }
    return rc;
}

#define MEAN_ROWS 8

/* A block has 32 columns and 8 rows at a time; sums in double. */
static __global__ void mean_rows(float *y, struct cuda_rows x, const float *mask)
{
    __shared__ double sums[MEAN_ROWS][33], counts[MEAN_ROWS];
    int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x;
    double sum = 0, count = 0;
    for (int64_t i = threadIdx.y; i < x.n_rows; i += MEAN_ROWS) {
        double m = (double)mask[i];
        count += m;
        if (c < x.n)
            sum += m * (double)cuda_row_f32(x, i)[c];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    if (threadIdx.x == 0)
        counts[threadIdx.y] = count;
    __syncthreads();
    if (threadIdx.y > 0 || c >= x.n)
        return;
    sum = count = 0;
    for (int i = 0; i < MEAN_ROWS; i++) {
        sum += sums[i][threadIdx.x];
        count += counts[i];
    }
    y[c] = (float)(sum / count);
}

int cuda_mean_rows(struct run *r, struct tensor y, struct tensor x, struct tensor mask)
{
    struct cuda_rows rows = cuda_rows_of(x);
    if (rows.n < 1)
        return 0;
    CUDA_LAUNCH(mean_rows, (unsigned)((rows.n + 31) / 32), dim3(32, MEAN_ROWS), 0, cuda_of(r)->compute, (float *)y.data, rows,
                (const float *)mask.data);
    return cuda_launched(r);
}
