/* linear.cu -- linear layers: the way through cuBLASLt where it is allowed (lib_blas.h), and plain kernels for every card,
 * weight type and stride: tiles of 64 x 64 (linear_tile.h), and for few rows a warp an output, which reads the stored
 * weights once. Both widen weights as they load them and add in f32.
 */
#include "kernels/cuda/lib_blas.h"
#include "kernels/cuda/linear_tile.h"

#define FEW 16     /* rows up to which a warp an output is used: the weights' bytes are the cost then */
#define FEW_EACH 4 /* rows that share a reading of the weights */

/* What becomes of a sum. */
struct linear_out {
    struct cuda_rows y;
    const void *b, *gate; /* NULL: none */
    int b_dtype, gate_dtype, act;
    bool adds;
    __device__ void put(float *row, int64_t n, float v) const
    {
        v += b ? cuda_load(b, b_dtype, n) : 0;
        if (adds)
            row[n] += gate ? cuda_load(gate, gate_dtype, n) * v : v;
        else
            row[n] = cuda_act_f32(act, v);
    }
};

struct linear_weights {
    const void *w; /* [N, K] */
    float scale;   /* of F8E4M3 */
    int64_t n, k;
};

template <int D> static __device__ __forceinline__ float weight_at(const struct linear_weights &w, int64_t i)
{
    float v = cuda_as<D>::load(w.w, i);
    return D == DTYPE_F8E4M3 ? __fmul_rn(v, w.scale) : v;
}

struct rows_loader {
    const float *row[4]; /* NULL: beyond the last */
    int64_t n_k;
    __device__ rows_loader(const struct cuda_rows &x, int64_t first, int64_t n_k_) : n_k(n_k_)
    {
        for (int i = 0; i < 4; i++) {
            int64_t at = first + linear_tile_loaded(i);
            row[i] = at < x.n_rows ? cuda_row_f32(x, at) : NULL;
        }
    }
    __device__ void load(int64_t k, float v[4]) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = row[i] && k < n_k ? row[i][k] : 0;
    }
};

template <int D> struct weights_loader {
    const struct linear_weights &w;
    int64_t first;
    __device__ weights_loader(const struct linear_weights &w_, int64_t first_) : w(w_), first(first_)
    {
    }
    __device__ void load(int64_t k, float v[4]) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int64_t n = first + linear_tile_loaded(i);
            v[i] = n < w.n && k < w.k ? weight_at<D>(w, n * w.k + k) : 0;
        }
    }
};

template <int D>
static __global__ void __launch_bounds__(LINEAR_TILE_THREADS)
    linear_tiles(struct linear_out out, struct cuda_rows x, struct linear_weights w)
{
    __shared__ struct linear_tile tile;
    float sum[4][4] = {};
    int64_t row = (int64_t)blockIdx.x * LINEAR_TILE, n = (int64_t)blockIdx.y * LINEAR_TILE;
    struct rows_loader a(x, row, w.k);
    struct weights_loader<D> b(w, n);
    linear_tile_sum(tile, a, b, w.k, sum);
    row += linear_tile_row();
    n += linear_tile_column();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float *y = cuda_row_f32(out.y, row + i < x.n_rows ? row + i : 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (row + i < x.n_rows && n + j < w.n)
                out.put(y, n + j, sum[i][j]);
        }
    }
}

/* A warp: one output of FEW_EACH rows. */
template <int D> static __global__ void linear_few(struct linear_out out, struct cuda_rows x, struct linear_weights w)
{
    int lane = (int)threadIdx.x % 32;
    int64_t n = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, first = (int64_t)blockIdx.y * FEW_EACH;
    const float *row[FEW_EACH];
    float sum[FEW_EACH] = {};
    if (n >= w.n)
        return;
#pragma unroll
    for (int i = 0; i < FEW_EACH; i++)
        row[i] = cuda_row_f32(x, first + i < x.n_rows ? first + i : x.n_rows - 1);
    for (int64_t k = lane; k < w.k; k += 32) {
        float v = weight_at<D>(w, n * w.k + k);
#pragma unroll
        for (int i = 0; i < FEW_EACH; i++)
            sum[i] += row[i][k] * v;
    }
#pragma unroll
    for (int i = 0; i < FEW_EACH; i++) {
        float v = cuda_warp_sum(sum[i]);
        if (lane == 0 && first + i < x.n_rows)
            out.put(cuda_row_f32(out.y, first + i), n, v);
    }
}

template <int D>
static int linear_own(struct run *r, const struct linear_out &out, const struct cuda_rows &x, const struct linear_weights &w)
{
    cudaStream_t stream = cuda_of(r)->compute;
    if (x.n_rows <= FEW) {
        dim3 grid((unsigned)((w.n + 7) / 8), (unsigned)((x.n_rows + FEW_EACH - 1) / FEW_EACH));
        CUDA_LAUNCH((linear_few<D>), grid, 256, 0, stream, out, x, w);
        return cuda_launched(r);
    }
    int64_t columns = (w.n + LINEAR_TILE - 1) / LINEAR_TILE;
    if (columns > 65535)
        return run_fail(r, ERR_UNSUPPORTED, "%lld out features: the CUDA kernels end at 4194240", (long long)w.n);
    dim3 grid((unsigned)((x.n_rows + LINEAR_TILE - 1) / LINEAR_TILE), (unsigned)columns);
    CUDA_LAUNCH((linear_tiles<D>), grid, LINEAR_TILE_THREADS, 0, stream, out, x, w);
    return cuda_launched(r);
}

static int linear(struct run *r, const struct linear_out &out, struct tensor x, struct tensor w)
{
    struct cuda_rows rows = cuda_rows_of(x);
    struct linear_weights weights = {w.data, w.dtype == DTYPE_F8E4M3 && w.scale ? w.scale[0] : 1, w.shape[0], w.shape[1]};
    if (rows.n_rows < 1 || weights.n < 1)
        return 0;
    switch (w.dtype) {
    case DTYPE_BF16:
        return linear_own<DTYPE_BF16>(r, out, rows, weights);
    case DTYPE_F16:
        return linear_own<DTYPE_F16>(r, out, rows, weights);
    case DTYPE_F8E4M3:
        return linear_own<DTYPE_F8E4M3>(r, out, rows, weights);
    default:
        return linear_own<DTYPE_F32>(r, out, rows, weights);
    }
}

#ifdef TROUPE_CUBLASLT
/* ---- what lib_blas.c needs ---- */

struct f16_each {
    const float *x;
    uint16_t *y;
    int64_t stride, n;
    __device__ void operator()(int64_t row, int64_t k) const
    {
        y[row * n + k] = cuda_f16_clamped(x[row * stride + k]);
    }
};

int lib_blas_f16(struct run *r, struct tensor dst, struct tensor x)
{
    struct f16_each f = {(const float *)x.data, (uint16_t *)dst.data, x.stride[0], x.shape[1]};
    return cuda_each(r, f, x.shape[0], x.shape[1]);
}

struct finish_rows {
    float *y;
    const void *b; /* NULL: none */
    int b_dtype, act;
    int64_t stride;
    __device__ void operator()(int64_t row, int64_t n) const
    {
        float *v = y + row * stride + n;
        *v = cuda_act_f32(act, *v + (b ? cuda_load(b, b_dtype, n) : 0));
    }
};

int lib_blas_finish(struct run *r, struct tensor y, struct tensor b, enum act act)
{
    struct finish_rows f = {(float *)y.data, b.data, b.dtype, act, y.stride[0]};
    return !b.data && act == ACT_NONE ? 0 : cuda_each(r, f, y.shape[0], y.shape[1]);
}
#endif

int cuda_linear(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, enum act act)
{
    struct linear_out out = {cuda_rows_of(y), b.data, NULL, b.dtype, 0, act, false};
    int rc = tensor_rows(x) > FEW ? lib_blas_linear(r, y, x, w, b, act) : LIB_BLAS_OWN;
    return rc == LIB_BLAS_OWN ? linear(r, out, x, w) : rc;
}

int cuda_linear_add(struct run *r, struct tensor x, struct tensor h, struct tensor w, struct tensor b, struct tensor gate)
{
    struct linear_out out = {cuda_rows_of(x), b.data, gate.data, b.dtype, gate.dtype, ACT_NONE, true};
    int rc = tensor_rows(x) > FEW ? lib_blas_linear_add(r, x, h, w, b, gate) : LIB_BLAS_OWN;
    return rc == LIB_BLAS_OWN ? linear(r, out, h, w) : rc;
}
