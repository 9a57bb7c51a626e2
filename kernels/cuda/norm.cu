/* norm.cu -- norms: statistics in double, each sum in one fixed order. A row of up to 1024 belongs to a warp, a longer one
 * to a block; rows are read once from memory and again from the cache.
 */
#include "kernels/cuda/cuda.h"

#define THREADS 256
#define WARP_ROW 1024 /* longest row of a warp */

struct norm_vector { /* an optional [C] parameter, of any float type */
    const void *p;
    int dtype;
    float otherwise;
    __device__ float at(int64_t i) const
    {
        return p ? cuda_load(p, dtype, i) : otherwise;
    }
};

static struct norm_vector vector_of(struct tensor t, float otherwise)
{
    struct norm_vector v = {t.data, t.dtype, otherwise};
    return v;
}

/* ---- rows ---- */

struct norm_rows {
    struct cuda_rows y, x;
    struct norm_vector mul, add;
    float plus; /* to mul */
    double eps;
    bool centred; /* minus the mean; otherwise root mean square */
};

/* The threads of a row: a warp or the block. */
template <bool BLOCK> static __device__ __forceinline__ double row_sum(double v, double *part)
{
    return BLOCK ? cuda_block_sum(v, part) : cuda_warp_sum(v);
}

template <bool BLOCK> static __global__ void norm_rows_kernel(struct norm_rows f)
{
    __shared__ double part[32];
    int width = BLOCK ? (int)blockDim.x : 32, at = BLOCK ? (int)threadIdx.x : (int)threadIdx.x % 32;
    int64_t row = BLOCK ? (int64_t)blockIdx.x : (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int64_t n = f.x.n;
    if (row >= f.x.n_rows)
        return; /* whole warps, or no thread at all */
    const float *x = cuda_row_f32(f.x, row);
    float *y = cuda_row_f32(f.y, row);
    double mean = 0, var = 0;
    if (f.centred) {
        for (int64_t k = at; k < n; k += width)
            mean += (double)x[k];
        mean = row_sum<BLOCK>(mean, part) / (double)n;
    }
    for (int64_t k = at; k < n; k += width) {
        double d = (double)x[k] - mean;
        var += d * d;
    }
    double inv = 1 / sqrt(row_sum<BLOCK>(var, part) / (double)n + f.eps);
    for (int64_t k = at; k < n; k += width) {
        float z = (float)(((double)x[k] - mean) * inv);
        y[k] = z * (f.plus + f.mul.at(k)) + f.add.at(k);
    }
}

static int norm_rows(struct run *r, const struct norm_rows &f)
{
    cudaStream_t stream = cuda_of(r)->compute;
    if (f.x.n_rows < 1 || f.x.n < 1)
        return 0;
    if (f.x.n <= WARP_ROW)
        CUDA_LAUNCH((norm_rows_kernel<false>), (unsigned)((f.x.n_rows + 7) / 8), THREADS, 0, stream, f);
    else
        CUDA_LAUNCH((norm_rows_kernel<true>), (unsigned)f.x.n_rows, THREADS, 0, stream, f);
    return cuda_launched(r);
}

int cuda_layer_norm(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, float eps)
{
    struct norm_rows f = {cuda_rows_of(y), cuda_rows_of(x), vector_of(w, 1), vector_of(b, 0), 0, (double)eps, true};
    return norm_rows(r, f);
}

int cuda_layer_norm_mod(struct run *r, struct tensor y, struct tensor x, struct tensor shift, struct tensor scale, float eps)
{
    struct norm_rows f = {cuda_rows_of(y), cuda_rows_of(x), vector_of(scale, 0), vector_of(shift, 0), 1, (double)eps, true};
    return norm_rows(r, f);
}

int cuda_rms_norm(struct run *r, struct tensor y, struct tensor x, struct tensor w, float eps)
{
    struct norm_rows f = {
        cuda_rows_of(y), cuda_rows_of(x), vector_of(w, 1), vector_of(cuda_none(), 0), 0, (double)eps, false};
    return norm_rows(r, f);
}

/* ---- heads: norm, then positions, in place; a warp a head of a token ---- */

struct norm_turn {
    struct cuda_rows x, cos_, sin_;
    struct norm_vector w;
    double eps;
    int64_t n_heads, n_turned;
};

static __global__ void norm_turn_kernel(struct norm_turn f)
{
    int lane = (int)threadIdx.x % 32;
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, d = f.x.n;
    if (row >= f.x.n_rows)
        return;
    float *x = cuda_row_f32(f.x, row);
    double inv = 1;
    if (f.w.p) {
        double sum = 0;
        for (int64_t k = lane; k < d; k += 32)
            sum += (double)x[k] * (double)x[k];
        inv = 1 / sqrt(cuda_warp_sum(sum) / (double)d + f.eps);
    }
    int64_t token = row / f.n_heads;
    bool turns = token < f.n_turned;
    const float *c = turns ? cuda_row_f32(f.cos_, token) : NULL, *s = turns ? cuda_row_f32(f.sin_, token) : NULL;
    for (int64_t k = lane; 2 * k < d;
         k += 32) { /* each lane its pairs; an odd width has half a one, which is never turned */
        bool whole = 2 * k + 1 < d;
        float a = x[2 * k], b = whole ? x[2 * k + 1] : 0;
        if (f.w.p) {
            a = (float)((double)a * inv) * f.w.at(2 * k);
            b = whole ? (float)((double)b * inv) * f.w.at(2 * k + 1) : 0;
        }
        x[2 * k] = turns ? a * c[k] - b * s[k] : a;
        if (whole)
            x[2 * k + 1] = turns ? b * c[k] + a * s[k] : b;
    }
}

int cuda_norm_rope(struct run *r, struct tensor x, struct tensor w, float eps, struct tensor cos_, struct tensor sin_)
{
    struct norm_turn f = {cuda_rows_of(x),
                          cuda_rows_of(cos_),
                          cuda_rows_of(sin_),
                          vector_of(w, 1),
                          (double)eps,
                          x.shape[1],
                          tensor_is_none(cos_) ? 0 : cos_.shape[0]};
    if (f.x.n_rows < 1 || f.x.n < 1 || (!f.w.p && f.n_turned == 0))
        return 0;
    CUDA_LAUNCH(norm_turn_kernel, (unsigned)((f.x.n_rows + 7) / 8), THREADS, 0, cuda_of(r)->compute, f);
    return cuda_launched(r);
}

/* ---- groups of channels, over all pixels ---- */

/* Sums are of x minus the group's first element: that is one of them, so (it - mean)^2 <= n var, and what cancels in
 * E(d^2) - E(d)^2 costs n 2^-53 of var at worst. One reading of x suffices for both. */
struct norm_sums {
    double d, d2;
};

struct norm_stats {
    double mean, var, inv; /* inv: 1 / sqrt(var + eps) */
};

#define CHUNKS 1024 /* blocks that share the rows of a slice: some for each multiprocessor of any GPU */
#define AHEAD 4     /* rows that a thread asks for before it needs the first: a latency for four */

struct norm_group {
    struct cuda_rows x;
    struct norm_sums *sums;        /* [chunks, groups] */
    struct norm_stats *stats;      /* [groups] */
    int64_t n_chunks, n_groups, n; /* channels of a group */
    int64_t slice;                 /* groups that a block reads together: next to each other in memory */
    double eps;
};

/* Block (chunk, slice): threads lie along the slice's channels, and over them again along rows. */
static __global__ void group_sums(struct norm_group f)
{
    __shared__ struct norm_sums part[THREADS];
    int64_t group = (int64_t)blockIdx.y * f.slice, n_here = min(f.slice, f.n_groups - group), wide = n_here * f.n;
    int64_t across = min(wide, (int64_t)THREADS), lane = threadIdx.x % across, down = threadIdx.x / across;
    int64_t n_down = THREADS / across, per = (f.x.n_rows + f.n_chunks - 1) / f.n_chunks;
    int64_t end = min(f.x.n_rows, (blockIdx.x + 1) * per);
    struct norm_sums mine = {0, 0};
    float first = cuda_row_f32(f.x, 0)[(group + lane / f.n) * f.n];
    for (int64_t k = lane; k < wide; k += across) { /* more than one only where the slice is one group */
        for (int64_t row = blockIdx.x * per + down; row < end && down < n_down; row += AHEAD * n_down) {
            float x[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                x[i] = row + i * n_down < end ? cuda_row_f32(f.x, row + i * n_down)[group * f.n + k] : first;
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                double d = (double)x[i] - (double)first;
                mine.d += d;
                mine.d2 += d * d;
            }
        }
    }
    part[threadIdx.x] = mine;
    __syncthreads();
    int64_t each = min(f.n, across); /* threads of a group in a row */
    if (threadIdx.x >= n_here)
        return;
    struct norm_sums all = {0, 0};
    for (int64_t i = 0; i < n_down; i++) {
        for (int64_t k = 0; k < each; k++) {
            const struct norm_sums &s = part[i * across + threadIdx.x * each + k];
            all.d += s.d;
            all.d2 += s.d2;
        }
    }
    f.sums[blockIdx.x * f.n_groups + group + threadIdx.x] = all;
}

/* A block a group. */
static __global__ void group_stats(struct norm_group f)
{
    __shared__ double part[32];
    int64_t group = blockIdx.x;
    double d = 0, d2 = 0, count = (double)f.x.n_rows * (double)f.n;
    for (int64_t i = threadIdx.x; i < f.n_chunks; i += THREADS) {
        d += f.sums[i * f.n_groups + group].d;
        d2 += f.sums[i * f.n_groups + group].d2;
    }
    d = cuda_block_sum(d, part) / count;
    d2 = cuda_block_sum(d2, part) / count;
    if (threadIdx.x > 0)
        return;
    double var = d2 - d * d;
    var = var > 0 || var != var ? var : 0;
    f.stats[group] = {(double)cuda_row_f32(f.x, 0)[group * f.n] + d, var, 1 / sqrt(var + f.eps)};
}

/* Statistics of x by group, in the device's work memory; NULL after a failure. */
static struct norm_stats *group_stats_of(struct run *r, struct tensor x, int groups, float eps)
{
    struct norm_group f = {cuda_rows_of(x), NULL, NULL, 0, groups, x.shape[3] / groups, 1, (double)eps};
    f.slice = f.n < THREADS ? THREADS / f.n : 1;
    f.slice = f.slice < groups ? f.slice : groups;
    int64_t slices = (groups + f.slice - 1) / f.slice;
    f.n_chunks = f.x.n_rows < CHUNKS ? f.x.n_rows : CHUNKS;
    size_t bytes = ((size_t)f.n_chunks * (size_t)groups * sizeof *f.sums + 255) / 256 * 256;
    f.sums = (struct norm_sums *)cuda_work(r, 0, bytes);
    f.stats = (struct norm_stats *)cuda_work(r, bytes, (size_t)groups * sizeof *f.stats);
    if (!f.sums || !f.stats)
        return NULL;
    cudaStream_t stream = cuda_of(r)->compute;
    CUDA_LAUNCH(group_sums, dim3((unsigned)f.n_chunks, (unsigned)slices), THREADS, 0, stream, f);
    CUDA_LAUNCH(group_stats, (unsigned)groups, THREADS, 0, stream, f);
    return f.stats;
}

struct group_norm_each {
    struct cuda_rows y, x;
    struct norm_vector w, b;
    const struct norm_stats *stats;
    int n, act;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        struct norm_stats s = stats[(int)k / n];
        float z = (float)(((double)cuda_row_f32(x, row)[k] - s.mean) * s.inv);
        cuda_row_f32(y, row)[k] = cuda_act_f32(act, z * w.at(k) + b.at(k));
    }
};

int cuda_group_norm(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, int groups, float eps,
                    enum act act)
{
    int n = (int)(x.shape[3] / groups);
    if (tensor_rows(x) < 1 || n < 1)
        return 0;
    const struct norm_stats *stats = group_stats_of(r, x, groups, eps);
    if (!stats)
        return r->err.code;
    struct group_norm_each g = {cuda_rows_of(y), cuda_rows_of(x), vector_of(w, 1), vector_of(b, 0), stats, n, act};
    return cuda_each(r, g, g.x.n_rows, g.x.n);
}

/* y [groups, 3] from stats. */
struct group_stats_each {
    struct cuda_rows y;
    const struct norm_stats *stats;
    float count;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        cuda_row_f32(y, row)[k] = k == 0 ? count : (float)(k == 1 ? stats[row].mean : stats[row].var);
    }
};

int cuda_group_stats(struct run *r, struct tensor y, struct tensor x, int groups)
{
    if (tensor_rows(x) < 1 || x.shape[3] < groups)
        return 0;
    const struct norm_stats *stats = group_stats_of(r, x, groups, 0);
    if (!stats)
        return r->err.code;
    struct group_stats_each f = {cuda_rows_of(y), stats, (float)tensor_rows(x)};
    return cuda_each(r, f, f.y.n_rows, f.y.n);
}

/* Row g: the pieces of group g as of one tensor. The variance is that within them and that of their means. */
struct group_join_each {
    struct norm_stats *to;
    const float *stats; /* [n, groups, 3] */
    int64_t n, groups;
    double eps;
    __device__ void operator()(int64_t g, int64_t) const
    {
        double count = 0, mean = 0, var = 0;
        for (int64_t i = 0; i < n; i++) {
            const float *p = stats + (i * groups + g) * 3;
            count += (double)p[0];
            mean += (double)p[0] * (double)p[1];
        }
        mean /= count;
        for (int64_t i = 0; i < n; i++) {
            const float *p = stats + (i * groups + g) * 3;
            var += (double)p[0] * ((double)p[2] + ((double)p[1] - mean) * ((double)p[1] - mean));
        }
        var /= count;
        to[g] = {mean, var, 1 / sqrt(var + eps)};
    }
};

int cuda_group_apply(struct run *r, struct tensor y, struct tensor x, struct tensor stats, struct tensor w, struct tensor b,
                     float eps, enum act act)
{
    int64_t groups = tensor_dim(stats, -2);
    struct group_join_each join = {(struct norm_stats *)cuda_work(r, 0, (size_t)groups * sizeof(struct norm_stats)),
                                   (const float *)stats.data, tensor_rows(stats) / groups, groups, (double)eps};
    if (!join.to)
        return r->err.code;
    int rc = cuda_each(r, join, groups, 1);
    struct group_norm_each g = {cuda_rows_of(y), cuda_rows_of(x), vector_of(w, 1), vector_of(b, 0), join.to,
                                (int)(x.shape[3] / groups), act};
    return rc < 0 ? rc : cuda_each(r, g, g.x.n_rows, g.x.n);
}

/* ---- channels with given statistics ---- */

struct batch_norm_each {
    struct cuda_rows y, x;
    struct norm_vector w, b, mean, var;
    float eps;
    int act;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        float z = (cuda_row_f32(x, row)[k] - mean.at(k)) / sqrtf(var.at(k) + eps);
        cuda_row_f32(y, row)[k] = cuda_act_f32(act, z * w.at(k) + b.at(k));
    }
};

int cuda_batch_norm(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, struct tensor mean,
                    struct tensor var, float eps, enum act act)
{
    struct batch_norm_each f = {
        cuda_rows_of(y), cuda_rows_of(x), vector_of(w, 1), vector_of(b, 0), vector_of(mean, 0), vector_of(var, 1), eps, act};
    return cuda_each(r, f, f.x.n_rows, f.x.n);
}
