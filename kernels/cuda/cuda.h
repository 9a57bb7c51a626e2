/* cuda.h -- the inner wall of the CUDA module: the device's state, errors, launches, tensors inside kernels.
 *
 * Every .cu of this folder includes it first. The same sources compile twice: with nvcc for GPUs, and with a plain C++
 * compiler through tests/cudaemu (headers of the CUDA names it knows come first in the include path, CUDAEMU is defined),
 * which runs kernels thread by thread on the CPU to prove their arithmetic and indexing. So that both can read them:
 *
 *     template <typename T> static __global__ void twice(struct cuda_view y, struct cuda_view x) { ... }
 *
 *     extern "C" int cuda_twice(struct run *r, struct tensor y, struct tensor x)    (found by table.cu by its name)
 *     {
 *         CUDA_LAUNCH((twice<float>), grid, block, 0, cuda_of(r)->compute, cuda_view_of(y), cuda_view_of(x));
 *         return cuda_launched(r);
 *     }
 *
 * - launches by CUDA_LAUNCH only; dynamic shared memory by CUDA_DYNAMIC_SHARED(type, name) only;
 * - every kernel is static; no designated initialisers, no SHAPE() and no TENSOR_NONE (C only) but cuda_none();
 * - an op launches on the compute stream and returns: no allocation, no synchronisation. Temporary memory: cuda_work;
 * - a grid dimension of 0 is an error of CUDA: cuda_launched is fine without a launch, so return early for empty tensors;
 * - arguments were checked by kernels/ops*.c; what a table function cannot do it says with run_fail.
 *
 * Errors: cuda_fail turns a CUDA error into the run's ("op (label): launch: CUDA's text [shapes are the op's]"): no memory is
 * ERR_NOMEM, a launch that was wrong by itself ERR_INTERNAL, everything else ERR_DEVICE: after that the context is lost,
 * every later call fails too, and the worker process ends to be replaced.
 */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include <cuda_runtime.h>

#ifdef __cplusplus
#include <atomic>
#ifndef _STDATOMIC_H
#define _STDATOMIC_H /* gcc's C header has no C++ form; run.h wants one name of it, for a pointer */
using std::atomic_int;
#endif
extern "C" {
#endif

#include "kernels/table.h"

/* One buffer for operands in another precision, partial sums and the libraries' own needs, for the length of one op. An op
 * whose operands do not fit works through its rows in pieces. At least CUDA_WORK_BYTES; a fortieth of the memory of larger
 * cards, or of a memory_limit (work_bytes: 2 GiB of 80, which is what attention's four bf16 copies of 72,000 tokens of 3,072
 * channels take). 64 MiB are twice what cuBLASLt asks for on sm_90 (32 MiB, 4 MiB elsewhere); 128 MiB hold 21,800 rows of
 * 6,144 bytes (3,072 channels of bf16), enough rows to fill any GPU. */
#define CUDA_WORK_LIBRARY ((size_t)64 << 20)
#define CUDA_WORK_BYTES ((size_t)192 << 20)

/* Pinned host memory on the way to and from the device: many small pieces, two large ones that take turns. */
#define CUDA_STAGE_SMALL ((size_t)64 << 10)
#define CUDA_STAGE_N_SMALL 64
#define CUDA_STAGE_LARGE ((size_t)16 << 20)
#define CUDA_STAGE_N_LARGE 2

#define CUDA_MARKS 64 /* events of a queue that take turns */

struct cuda_slot {
    char *pinned;
    cudaEvent_t event; /* recorded after the copy that used pinned last */
};

struct cuda_marks {
    cudaEvent_t events[CUDA_MARKS];
    uint64_t n; /* marks so far: the last ticket */
};

struct cuda_impl {
    int index;              /* CUDA's device number */
    int sm;                 /* compute capability: 10 * major + minor, 90 for Hopper */
    int n_sm;               /* multiprocessors */
    size_t shared_max;      /* bytes of shared memory that a block may opt in to */
    cudaStream_t compute;   /* all ops, reads and writes */
    cudaStream_t copy;      /* weights on their way up */
    char *work;             /* on the device */
    size_t work_bytes;      /* CUDA_WORK_BYTES or more */
    void *blas, *dnn;       /* lib_blas.c's and lib_dnn.c's own; NULL: none */
    void (*blas_close)(void *handle);
    void (*dnn_close)(void *handle);
    struct cuda_slot small[CUDA_STAGE_N_SMALL], large[CUDA_STAGE_N_LARGE];
    int next_small, next_large;
    struct cuda_weight *weights; /* uploaded ones */
    size_t n_weights, max_weights, weight_bytes;
    struct cuda_marks marks[2];  /* of each enum device_queue */
    size_t memory_limit;         /* of the process on this device; 0: none */
    size_t driver_bytes;         /* of that what the driver and the libraries take, as far as it is known */
    struct nvml *nvml;           /* nvml.h; NULL: none */
};

static inline struct cuda_impl *cuda_of(const struct run *r)
{
    return (struct cuda_impl *)r->device->impl;
}

/* Makes the device current in this thread; free when it is. Ops need not: table.cu does it for them. */
cudaError_t cuda_here(const struct cuda_impl *c);
/* 0, or records e as the run's failure: "what: CUDA's text". Clears nothing that sticks. */
int cuda_fail(struct run *r, cudaError_t e, const char *what);
/* The same outside runs, for err. */
int cuda_err(struct err *err, cudaError_t e, const char *what);
/* After the launches of an op: 0, or the run's failure. Does not wait. */
int cuda_launched(struct run *r);
/* bytes of the work buffer from byte `from` on (multiple of 256); NULL and the run's failure where it ends before that. */
void *cuda_work(struct run *r, size_t from, size_t bytes);

/* What a kernel sees of a tensor. Neighbouring dimensions that lie without a gap are one, those of size 1 are gone. */
struct cuda_view {
    char *data;
    int dtype; /* enum dtype */
    int n_dims; /* 1..6 */
    int64_t shape[TENSOR_MAX_DIMS], stride[TENSOR_MAX_DIMS]; /* in elements */
    float scale; /* of F8E4M3, else 1 */
};

struct cuda_view cuda_view_of(struct tensor t);
/* All dimensions but the last, of which shape[last] and stride[last] stay as they are: rows of a [..., C] tensor. */
struct cuda_rows {
    char *data;
    int dtype;
    int n_dims; /* 0..5, without the last */
    int64_t shape[TENSOR_MAX_DIMS], stride[TENSOR_MAX_DIMS];
    int64_t n_rows, n, step; /* of the last dimension: size, and stride in elements */
};
struct cuda_rows cuda_rows_of(struct tensor t);

/* [before.., dim, after..]: element (b, i, a) lies at before(b) + i * stride + after(a). */
struct cuda_split {
    char *data;
    int dtype;
    int n_dims_before, n_dims_after;
    int64_t before_shape[TENSOR_MAX_DIMS], before_stride[TENSOR_MAX_DIMS];
    int64_t after_shape[TENSOR_MAX_DIMS], after_stride[TENSOR_MAX_DIMS];
    int64_t n_before, n, stride, n_after;
};
struct cuda_split cuda_split_of(struct tensor t, int dim);

/* Four dimensions as they are, f32. */
struct cuda_view4 {
    float *data;
    int64_t shape[4], stride[4];
};
struct cuda_view4 cuda_view4_of(struct tensor t);
/* Whether four neighbours of the last dimension can always go as one float4. */
int cuda_view4_fours(const struct cuda_view4 *v);

#define CUDA_OP(member, ...) int cuda_##member(struct run *r, __VA_ARGS__);
OP_TABLE(CUDA_OP)
#undef CUDA_OP

#ifdef __cplusplus
}

static inline struct tensor cuda_none(void)
{
    struct tensor t = {};
    return t;
}

/* kernel in parentheses when it is a template's: CUDA_LAUNCH((k<float>), ...). grid and block: int or dim3. */
#ifdef CUDAEMU
#define CUDA_LAUNCH(kernel, grid, block, smem, stream, ...)                                                          \
    cudaemu_launch(#kernel, (grid), (block), (smem), (stream), kernel, __VA_ARGS__)
#define CUDA_DYNAMIC_SHARED(type, name) type *name = (type *)cudaemu_dynamic_shared()
#else
#define CUDA_LAUNCH(kernel, grid, block, smem, stream, ...) kernel<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)
#define CUDA_DYNAMIC_SHARED(type, name)                                                                              \
    extern __shared__ __align__(128) unsigned char cuda_dynamic_shared_[];                                           \
    type *name = reinterpret_cast<type *>(cuda_dynamic_shared_)
#endif

/* More than 48 KiB of dynamic shared memory must be asked for, once a kernel and device. */
#define CUDA_SHARED_MAX(kernel, bytes) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes))

/* Blocks of `block` threads for n elements, at most enough to fill the machine many times: kernels walk on by the grid. */
static inline unsigned cuda_blocks(int64_t n, int block)
{
    int64_t blocks = (n + block - 1) / block;
    return (unsigned)(blocks < 65535 ? blocks : 65535);
}

/* for (int64_t i = cuda_first(); i < n; i += cuda_step()) */
static __device__ __forceinline__ int64_t cuda_first(void)
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ int64_t cuda_step(void)
{
    return (int64_t)gridDim.x * blockDim.x;
}

/* ---- elements: the bits of kernels/dtype.h, exactly ---- */

static __device__ __forceinline__ float cuda_bits_to_f32(uint32_t bits)
{
#ifdef CUDAEMU
    return cudaemu_float(bits);
#else
    return __uint_as_float(bits);
#endif
}

static __device__ __forceinline__ uint32_t cuda_f32_to_bits(float v)
{
#ifdef CUDAEMU
    return cudaemu_bits(v);
#else
    return __float_as_uint(v);
#endif
}

static __device__ __forceinline__ float cuda_bf16_to_f32(uint16_t v)
{
    return cuda_bits_to_f32((uint32_t)v << 16);
}

static __device__ __forceinline__ uint16_t cuda_bf16_from_f32(float v)
{
    uint32_t b = cuda_f32_to_bits(v);
    if ((b & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(b >> 16 | 0x40u); /* NaN stays NaN */
    return (uint16_t)((b + 0x7fffu + (b >> 16 & 1u)) >> 16);
}

static __device__ __forceinline__ float cuda_f16_to_f32(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000u) << 16, e = v >> 10 & 31u, m = v & 0x3ffu;
    if (e == 31)
        return cuda_bits_to_f32(sign | 0x7f800000u | m << 13);
    if (e == 0) { /* zero and subnormals: m 2^-24, exact */
        float f = (float)m * 5.9604644775390625e-8f;
        return cuda_bits_to_f32(sign | cuda_f32_to_bits(f));
    }
    return cuda_bits_to_f32(sign | (e + 112) << 23 | m << 13);
}

static __device__ __forceinline__ uint16_t cuda_f16_from_f32(float v)
{
    uint32_t b = cuda_f32_to_bits(v), sign = b >> 16 & 0x8000u, a = b & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x47800000u) /* 65536 and more */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) { /* below 2^-14: adding 1/2 lets the adder round to units of 2^-24 */
        uint32_t r = cuda_f32_to_bits(cuda_bits_to_f32(a) + 0.5f) - 0x3f000000u;
        return (uint16_t)(sign | r);
    }
    return (uint16_t)(sign | (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13);
}

/* The largest number in the place of an infinity. */
static __device__ __forceinline__ uint16_t cuda_f16_clamped(float v)
{
    return cuda_f16_from_f32(v > 65504 ? 65504 : v < -65504 ? -65504 : v);
}

static __device__ __forceinline__ float cuda_e4m3_to_f32(uint8_t v)
{
    uint32_t sign = (uint32_t)(v & 0x80u) << 24, e = v >> 3 & 15u, m = v & 7u;
    if ((v & 0x7fu) == 0x7fu)
        return cuda_bits_to_f32(sign | 0x7fc00000u);
    if (e == 0)
        return cuda_bits_to_f32(sign | cuda_f32_to_bits((float)m * 0.001953125f));
    return cuda_bits_to_f32(sign | (e + 120) << 23 | m << 20);
}

/* Clamped to +-448 first. */
static __device__ __forceinline__ uint8_t cuda_e4m3_from_f32(float v)
{
    uint32_t b = cuda_f32_to_bits(v), sign = b >> 24 & 0x80u, a = b & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (a > 0x43e00000u) /* 448 */
        a = 0x43e00000u;
    if (a < 0x3c800000u) { /* below 2^-6: units of 2^-9 by the adder: 16384 has that for its last place */
        uint32_t r = cuda_f32_to_bits(cuda_bits_to_f32(a) + 16384.0f) - 0x46800000u;
        return (uint8_t)(sign | r);
    }
    return (uint8_t)(sign | (a - 0x3c000000u + 0x7ffffu + (a >> 20 & 1u)) >> 20);
}

/* Element i of memory of a type, as f32, and back. Whole numbers go through f32 here: kernels that need all bits of them
 * (copy) have their own way. */
static __device__ __forceinline__ float cuda_load(const void *p, int dtype, int64_t i)
{
    switch (dtype) {
    case DTYPE_BF16:
        return cuda_bf16_to_f32(((const uint16_t *)p)[i]);
    case DTYPE_F16:
        return cuda_f16_to_f32(((const uint16_t *)p)[i]);
    case DTYPE_F8E4M3:
        return cuda_e4m3_to_f32(((const uint8_t *)p)[i]);
    case DTYPE_F64:
        return (float)((const double *)p)[i];
    case DTYPE_U8:
        return (float)((const uint8_t *)p)[i];
    case DTYPE_I32:
        return (float)((const int32_t *)p)[i];
    default:
        return ((const float *)p)[i];
    }
}

/* The same with the type known when compiling: cuda_as<DTYPE_BF16>::load(p, i). */
template <int D> struct cuda_as {
    static __device__ __forceinline__ float load(const void *p, int64_t i) { return cuda_load(p, D, i); }
};

/* a / b, both not negative: in 64 bits it costs several times what it does in 32. */
static __device__ __forceinline__ int64_t cuda_div(int64_t a, int64_t b)
{
    return ((uint64_t)a | (uint64_t)b) >> 32 ? a / b : (int64_t)((uint32_t)a / (uint32_t)b);
}

/* Offset in elements of element i, in row-major order, of a view; of row i of rows. */
static __device__ __forceinline__ int64_t cuda_offset(const int64_t *shape, const int64_t *stride, int n_dims, int64_t i)
{
    if (n_dims == 0)
        return 0;
    int64_t at = 0;
    for (int d = n_dims - 1; d > 0; d--) {
        int64_t q = cuda_div(i, shape[d]);
        at += (i - q * shape[d]) * stride[d];
        i = q;
    }
    return at + i * stride[0];
}

static __device__ __forceinline__ int64_t cuda_element(const struct cuda_view &v, int64_t i)
{
    return cuda_offset(v.shape, v.stride, v.n_dims, i);
}

static __device__ __forceinline__ int64_t cuda_row(const struct cuda_rows &v, int64_t row)
{
    return cuda_offset(v.shape, v.stride, v.n_dims, row);
}

static __device__ __forceinline__ float *cuda_row_f32(const struct cuda_rows &v, int64_t row)
{
    return (float *)v.data + cuda_row(v, row);
}

static __device__ __forceinline__ int64_t cuda_split_at(const struct cuda_split &v, int64_t b, int64_t i, int64_t a)
{
    return cuda_offset(v.before_shape, v.before_stride, v.n_dims_before, b) + i * v.stride +
           cuda_offset(v.after_shape, v.after_stride, v.n_dims_after, a);
}

static __device__ __forceinline__ float *cuda_at4(const struct cuda_view4 &v, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return v.data + a * v.stride[0] + b * v.stride[1] + c * v.stride[2] + d * v.stride[3];
}

/* Four neighbours: fours as cuda_view4_fours says. */
static __device__ __forceinline__ float4 cuda_load4(const float *p, bool fours)
{
    return fours ? *(const float4 *)p : make_float4(p[0], p[1], p[2], p[3]);
}

static __device__ __forceinline__ void cuda_store4(float *p, bool fours, float4 v)
{
    if (fours)
        *(float4 *)p = v;
    else
        p[0] = v.x, p[1] = v.y, p[2] = v.z, p[3] = v.w;
}

/* ---- activations, in f32: within some units of 2^-24 |x| of the formulas in ops.h ---- */

static __device__ __forceinline__ float cuda_act_f32(int act, float x)
{
    switch (act) {
    case ACT_RELU:
        return x > 0 || x != x ? x : 0;
    case ACT_SILU:
        return x / (1 + expf(-x));
    case ACT_GELU_TANH:
        return 0.5f * x * (1 + tanhf(0.79788456080286535588f * (x + 0.044715f * x * x * x)));
    case ACT_GELU_ERF:
        return 0.5f * x * (1 + erff(x * 0.70710678118654752440f));
    case ACT_QUICK_GELU:
        return x / (1 + expf(-1.702f * x));
    case ACT_SIGMOID:
        return 1 / (1 + expf(-x));
    default:
        return x;
    }
}

/* ---- element by element: f(row, column) for all of rows x n, neighbouring threads at neighbouring columns ---- */

template <typename F> static __global__ void cuda_each_kernel(F f, int64_t rows, int64_t n)
{
    for (int64_t i = cuda_first(); i < rows * n; i += cuda_step()) {
        int64_t row = cuda_div(i, n);
        f(row, i - row * n);
    }
}

/* f: a struct with `__device__ void operator()(int64_t row, int64_t k) const`, passed by value (4 KiB at most). */
template <typename F> static int cuda_each(struct run *r, F f, int64_t rows, int64_t n)
{
    if (rows < 1 || n < 1)
        return 0;
    CUDA_LAUNCH((cuda_each_kernel<F>), cuda_blocks(rows * n, 256), 256, 0, cuda_of(r)->compute, f, rows, n);
    return cuda_launched(r);
}

/* ---- sums over a warp and a block: the same order always ---- */

template <typename T> static __device__ __forceinline__ T cuda_warp_sum(T v)
{
    for (int k = 16; k > 0; k /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, k);
    return v;
}

template <typename T> static __device__ __forceinline__ T cuda_warp_max(T v)
{
    for (int k = 16; k > 0; k /= 2) {
        T o = __shfl_xor_sync(0xffffffffu, v, k);
        v = o > v ? o : v;
    }
    return v;
}

/* For all threads of a block of whole warps (one-dimensional, up to 1024); part: 32 of T in shared memory, free again when
 * this returns to all threads. */
template <typename T> static __device__ __forceinline__ T cuda_block_sum(T v, T *part)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n = blockDim.x / 32;
    v = cuda_warp_sum(v);
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    v = cuda_warp_sum(lane < n ? part[lane] : (T)0);
    __syncthreads();
    return v;
}
#endif /* __cplusplus */
#endif
