/* elem.cu -- element by element, in f32. */
#include "kernels/cuda/cuda.h"

/* x = f(x, a, b, row) in place, for rows x n. a and b have x's rows, or fewer that repeat (one: the same to all); data NULL
 * where there is none. V is 4 where everything lies on 16 bytes. */
template <int V> static __device__ __forceinline__ void load(float *v, const struct cuda_rows &t, int64_t row, int64_t k)
{
    if (!t.data)
        return;
    const float *p = cuda_row_f32(t, t.n_rows > row ? row : row % t.n_rows) + k * V;
    if (V == 4) {
        float4 q = *(const float4 *)p;
        v[0] = q.x, v[V / 4] = q.y, v[V / 2] = q.z, v[V - 1] = q.w; /* 0, 1, 2, 3 */
    } else {
        v[0] = p[0];
    }
}

template <int V, typename F>
static __global__ void map_kernel(F f, struct cuda_rows x, struct cuda_rows a, struct cuda_rows b, int64_t n)
{
    for (int64_t i = cuda_first(); i < x.n_rows * n; i += cuda_step()) {
        int64_t row = cuda_div(i, n), k = i - row * n;
        float xs[V] = {}, as[V] = {}, bs[V] = {};
        load<V>(xs, x, row, k);
        load<V>(as, a, row, k);
        load<V>(bs, b, row, k);
        for (int j = 0; j < V; j++)
            xs[j] = f(xs[j], as[j], bs[j], row);
        float *p = cuda_row_f32(x, row) + k * V;
        if (V == 4)
            *(float4 *)p = make_float4(xs[0], xs[V / 4], xs[V / 2], xs[V - 1]);
        else
            p[0] = xs[0];
    }
}

static bool on_16_bytes(const struct cuda_rows *t)
{
    bool fits = ((uintptr_t)t->data & 15) == 0 && (t->n & 3) == 0;
    for (int d = 0; d < t->n_dims; d++)
        fits = fits && (t->stride[d] & 3) == 0;
    return fits || !t->data;
}

/* Rows without gaps are one row, so that their ends need not be multiples of 4. */
static void flatten(struct cuda_rows *x, struct cuda_rows *a, struct cuda_rows *b)
{
    struct cuda_rows *all[] = {x, a, b};
    for (int i = 0; i < 3; i++) {
        struct cuda_rows *t = all[i];
        bool flat = t->n_rows == 1 || (t->n_dims == 1 && t->stride[0] == t->n);
        if (t->data && (!flat || t->n_rows != x->n_rows))
            return;
    }
    int64_t n = x->n_rows * x->n;
    for (int i = 0; i < 3; i++) {
        all[i]->n = n;
        all[i]->n_rows = 1;
        all[i]->n_dims = 0;
    }
}

/* by_row: f looks at its row. */
template <typename F> static int map(struct run *r, F f, struct tensor x, struct tensor a, struct tensor b, bool by_row)
{
    struct cuda_rows xs = cuda_rows_of(x), as = cuda_rows_of(a), bs = cuda_rows_of(b);
    if (xs.n_rows < 1 || xs.n < 1)
        return 0;
    if (!by_row)
        flatten(&xs, &as, &bs);
    int64_t n = xs.n_rows * xs.n;
    if (on_16_bytes(&xs) && on_16_bytes(&as) && on_16_bytes(&bs))
        CUDA_LAUNCH((map_kernel<4, F>), cuda_blocks(n / 4, 256), 256, 0, cuda_of(r)->compute, f, xs, as, bs, xs.n / 4);
    else
        CUDA_LAUNCH((map_kernel<1, F>), cuda_blocks(n, 256), 256, 0, cuda_of(r)->compute, f, xs, as, bs, xs.n);
    return cuda_launched(r);
}

struct act_map {
    int act;
    __device__ float operator()(float x, float, float, int64_t) const { return cuda_act_f32(act, x); }
};

int cuda_act(struct run *r, struct tensor x, enum act act)
{
    struct act_map f = {act};
    return act == ACT_NONE ? 0 : map(r, f, x, cuda_none(), cuda_none(), false);
}

struct act_mul_map {
    int act;
    __device__ float operator()(float x, float a, float, int64_t) const { return cuda_act_f32(act, x) * a; }
};

int cuda_act_mul(struct run *r, struct tensor a, struct tensor b, enum act act)
{
    struct act_mul_map f = {act};
    return map(r, f, a, b, cuda_none(), false);
}

struct add_map {
    __device__ float operator()(float x, float a, float, int64_t) const { return x + a; }
};

int cuda_add(struct run *r, struct tensor x, struct tensor y)
{
    return map(r, add_map(), x, y, cuda_none(), false);
}

struct add_gated_map {
    __device__ float operator()(float x, float a, float b, int64_t) const { return x + b * a; }
};

int cuda_add_gated(struct run *r, struct tensor x, struct tensor y, struct tensor gate)
{
    struct tensor row = gate; /* [C] in any shape */
    row.n_dims = 1;
    row.shape[0] = tensor_count(gate);
    row.stride[0] = 1;
    return map(r, add_gated_map(), x, y, row, false);
}

struct add_masked_map {
    const float *mask;
    int64_t n_mask;
    __device__ float operator()(float x, float a, float, int64_t row) const { return x + mask[row % n_mask] * a; }
};

int cuda_add_masked(struct run *r, struct tensor x, struct tensor y, struct tensor mask)
{
    struct add_masked_map f = {(const float *)mask.data, x.shape[1]};
    return map(r, f, x, y, cuda_none(), true);
}

struct scale_map {
    float mul, add;
    __device__ float operator()(float x, float, float, int64_t) const { return mul * x + add; }
};

int cuda_scale(struct run *r, struct tensor x, float mul, float add)
{
    struct scale_map f = {mul, add};
    return map(r, f, x, cuda_none(), cuda_none(), false);
}

struct fill_map {
    float value;
    __device__ float operator()(float, float, float, int64_t) const { return value; }
};

int cuda_fill(struct run *r, struct tensor x, float value)
{
    struct fill_map f = {value};
    return map(r, f, x, cuda_none(), cuda_none(), false);
}

struct round_map {
    bool bf16;
    __device__ float operator()(float x, float, float, int64_t) const
    {
        return bf16 ? cuda_bf16_to_f32(cuda_bf16_from_f32(x)) : cuda_f16_to_f32(cuda_f16_from_f32(x));
    }
};

int cuda_round(struct run *r, struct tensor x, enum dtype dtype)
{
    struct round_map f = {dtype == DTYPE_BF16};
    return map(r, f, x, cuda_none(), cuda_none(), false);
}

struct euler_map {
    float g, dt;
    bool two;
    __device__ float operator()(float x, float a, float b, int64_t) const
    {
        float v = two ? a + g * (b - a) : a;
        return x + dt * v;
    }
};

int cuda_euler(struct run *r, struct tensor x, struct tensor v0, struct tensor v1, float g, float dt)
{
    struct euler_map f = {g, dt, !tensor_is_none(v1)};
    return map(r, f, x, v0, v1, false);
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
