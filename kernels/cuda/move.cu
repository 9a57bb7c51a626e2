/* move.cu -- moving elements: copies, look-ups, patches. */
#include "kernels/cuda/cuda.h"

static __host__ __device__ bool is_whole(int t)
{
    return t == DTYPE_U8 || t == DTYPE_BOOL || t == DTYPE_I8 || t == DTYPE_I16 || t == DTYPE_I32 || t == DTYPE_I64;
}

static __device__ int64_t read_whole(const char *p, int t, int64_t i)
{
    switch (t) {
    case DTYPE_BOOL:
        return ((const uint8_t *)p)[i] != 0;
    case DTYPE_I8:
        return ((const int8_t *)p)[i];
    case DTYPE_I16:
        return ((const int16_t *)p)[i];
    case DTYPE_I32:
        return ((const int32_t *)p)[i];
    case DTYPE_I64:
        return ((const int64_t *)p)[i];
    default:
        return ((const uint8_t *)p)[i];
    }
}

/* What does not fit is cut, as in a cast. */
static __device__ void write_whole(char *p, int t, int64_t i, int64_t v)
{
    switch (t) {
    case DTYPE_BOOL:
        ((uint8_t *)p)[i] = v != 0;
        break;
    case DTYPE_I16:
        ((int16_t *)p)[i] = (int16_t)v;
        break;
    case DTYPE_I32:
        ((int32_t *)p)[i] = (int32_t)v;
        break;
    case DTYPE_I64:
        ((int64_t *)p)[i] = v;
        break;
    default:
        ((uint8_t *)p)[i] = (uint8_t)v;
        break;
    }
}

static __device__ float read_f32(const char *p, int t, int64_t i)
{
    return is_whole(t) ? (float)read_whole(p, t, i) : cuda_load(p, t, i);
}

/* Towards zero, saturating; NaN gives 0. */
static __device__ int64_t whole(float v, int t)
{
    double min = 0, max = 255, d = (double)v;
    if (t == DTYPE_I8)
        min = -128, max = 127;
    if (t == DTYPE_I16)
        min = -32768, max = 32767;
    if (t == DTYPE_I32)
        min = -2147483648.0, max = 2147483647;
    if (t == DTYPE_I64)
        min = -9223372036854775808.0, max = 9223372036854775808.0;
    if (v != v)
        return 0;
    if (d >= max)
        return t == DTYPE_I64 ? INT64_MAX : (int64_t)max;
    return d <= min ? (int64_t)min : (int64_t)v;
}

static __device__ void write_f32(char *p, int t, int64_t i, float v)
{
    switch (t) {
    case DTYPE_F32:
        ((float *)p)[i] = v;
        break;
    case DTYPE_F64:
        ((double *)p)[i] = (double)v;
        break;
    case DTYPE_BF16:
        ((uint16_t *)p)[i] = cuda_bf16_from_f32(v);
        break;
    case DTYPE_F16:
        ((uint16_t *)p)[i] = cuda_f16_from_f32(v);
        break;
    case DTYPE_F8E4M3:
        ((uint8_t *)p)[i] = cuda_e4m3_from_f32(v);
        break;
    case DTYPE_BOOL:
        ((uint8_t *)p)[i] = v != 0;
        break;
    default:
        write_whole(p, t, i, whole(v, t));
        break;
    }
}

template <typename T> struct copy_same {
    struct cuda_view y, x;
    __device__ void operator()(int64_t, int64_t i) const
    {
        ((T *)y.data)[cuda_element(y, i)] = ((const T *)x.data)[cuda_element(x, i)];
    }
};

struct copy_whole {
    struct cuda_view y, x;
    __device__ void operator()(int64_t, int64_t i) const
    {
        write_whole(y.data, y.dtype, cuda_element(y, i), read_whole(x.data, x.dtype, cuda_element(x, i)));
    }
};

struct copy_float {
    struct cuda_view y, x;
    __device__ void operator()(int64_t, int64_t i) const
    {
        write_f32(y.data, y.dtype, cuda_element(y, i), read_f32(x.data, x.dtype, cuda_element(x, i)) * x.scale);
    }
};

/* f32 to 16 bits (NARROWS) or back, in views of fours. */
template <bool NARROWS> struct copy_16_bits {
    struct cuda_view y, x;
    bool is_f16;
    __device__ __forceinline__ uint16_t narrow(float v) const
    {
        return is_f16 ? cuda_f16_from_f32(v) : cuda_bf16_from_f32(v);
    }
    __device__ __forceinline__ float wide(uint16_t v) const
    {
        return is_f16 ? cuda_f16_to_f32(v) : cuda_bf16_to_f32(v);
    }
    __device__ void operator()(int64_t, int64_t i) const
    {
        int64_t to = cuda_element(y, i), from = cuda_element(x, i);
        if (NARROWS) {
            float4 v = ((const float4 *)x.data)[from];
            ((ushort4 *)y.data)[to] = make_ushort4(narrow(v.x), narrow(v.y), narrow(v.z), narrow(v.w));
        } else {
            ushort4 v = ((const ushort4 *)x.data)[from];
            ((float4 *)y.data)[to] = make_float4(wide(v.x), wide(v.y), wide(v.z), wide(v.w));
        }
    }
};

/* Makes a view one of fours, if its elements lie so: together, on 4 times their size. */
static bool in_fours(struct cuda_view *v)
{
    int last = v->n_dims - 1;
    uintptr_t size = 4 * dtype_bytes((enum dtype)v->dtype);
    bool fine = v->stride[last] == 1 && v->shape[last] % 4 == 0 && (uintptr_t)v->data % size == 0;
    for (int d = 0; d < last; d++)
        fine = fine && v->stride[d] % 4 == 0;
    for (int d = 0; d < last && fine; d++)
        v->stride[d] /= 4;
    v->shape[last] /= fine ? 4 : 1;
    return fine;
}

#define TILE 32

/* y[i, j] = x[j, i] for every b, 4 bytes an element, both sides' fast dimensions with step 1: through a tile. */
struct transpose {
    float *y;
    const float *x;
    int64_t n_i, n_j, y_i, x_j, y_b, x_b; /* sizes; strides: of i in y, of j in x, of b */
};

static __global__ void transpose_tiles(struct transpose t)
{
    __shared__ float tile[TILE][TILE + 1];
    int64_t i0 = (int64_t)blockIdx.x * TILE, tx = threadIdx.x, b = blockIdx.z;
    for (int64_t j0 = (int64_t)blockIdx.y * TILE; j0 < t.n_j; j0 += (int64_t)gridDim.y * TILE) {
        for (int64_t k = threadIdx.y; k < TILE; k += blockDim.y) {
            if (j0 + k < t.n_j && i0 + tx < t.n_i)
                tile[k][tx] = t.x[b * t.x_b + (j0 + k) * t.x_j + i0 + tx];
        }
        __syncthreads();
        for (int64_t k = threadIdx.y; k < TILE; k += blockDim.y) {
            if (i0 + k < t.n_i && j0 + tx < t.n_j)
                t.y[b * t.y_b + (i0 + k) * t.y_i + j0 + tx] = tile[tx][k];
        }
        __syncthreads();
    }
}

/* Whether x's last dimension is slow where y's is fast, in at most a batch and two dimensions, is what permutes of
 * activations come to once views are merged. */
static bool as_transpose(struct tensor dst, struct tensor x, struct transpose *ret)
{
    int at[TENSOR_MAX_DIMS], n = 0;
    for (int d = 0; d < x.n_dims; d++) {
        bool joins = n > 0 && x.stride[at[n - 1]] == x.shape[d] * x.stride[d] &&
                     dst.stride[at[n - 1]] == dst.shape[d] * dst.stride[d];
        if (x.shape[d] == 1)
            continue;
        if (joins) { /* both sides merge it into the one before */
            int64_t size = x.shape[at[n - 1]] * x.shape[d];
            at[n - 1] = d;
            x.shape[d] = dst.shape[d] = size;
        } else {
            at[n++] = d;
        }
    }
    if (n < 2 || n > 3 || x.stride[at[n - 2]] != 1 || dst.stride[at[n - 1]] != 1)
        return false;
    int i = at[n - 2], j = at[n - 1];
    struct transpose t = {(float *)dst.data, (const float *)x.data, x.shape[i], x.shape[j], dst.stride[i], x.stride[j], 0, 0};
    if (n == 3) {
        t.y_b = dst.stride[at[0]];
        t.x_b = x.stride[at[0]];
    }
    *ret = t;
    return t.n_i >= 8 && t.n_j >= 8 && t.n_i < ((int64_t)TILE << 30) && (n == 2 || x.shape[at[0]] <= 65535);
}

static int copy_transposed(struct run *r, const struct transpose *t, int64_t count)
{
    int64_t n_b = count / (t->n_i * t->n_j), tiles = (t->n_j + TILE - 1) / TILE;
    dim3 grid((unsigned)((t->n_i + TILE - 1) / TILE), (unsigned)(tiles < 65535 ? tiles : 65535), (unsigned)n_b);
    CUDA_LAUNCH(transpose_tiles, grid, dim3(TILE, 8), 0, cuda_of(r)->compute, *t);
    return cuda_launched(r);
}

template <typename T> static int same(struct run *r, struct cuda_view y, struct cuda_view x, int64_t n)
{
    struct copy_same<T> f = {y, x};
    return cuda_each(r, f, 1, n);
}

static int copy_bits(struct run *r, struct tensor dst, struct tensor x)
{
    int64_t n = tensor_count(x);
    struct cuda_view y = cuda_view_of(dst), v = cuda_view_of(x);
    struct transpose t;
    if (tensor_is_contiguous(dst) && tensor_is_contiguous(x))
        return cuda_fail(r, cudaMemcpyAsync(dst.data, x.data, tensor_bytes(x), cudaMemcpyDeviceToDevice, cuda_of(r)->compute),
                         "copy");
    if (dtype_bytes(x.dtype) == 4 && in_fours(&y) && in_fours(&v))
        return same<uint4>(r, y, v, n / 4);
    y = cuda_view_of(dst);
    switch (dtype_bytes(x.dtype)) {
    case 1:
        return same<uint8_t>(r, y, v, n);
    case 2:
        return same<uint16_t>(r, y, v, n);
    case 4:
        return as_transpose(dst, x, &t) ? copy_transposed(r, &t, n) : same<uint32_t>(r, y, v, n);
    default:
        return same<uint64_t>(r, y, v, n);
    }
}

static bool is_16_bits(enum dtype t)
{
    return t == DTYPE_BF16 || t == DTYPE_F16;
}

/* What the libraries are given and give back; LEFT: it does not lie in fours. */
#define LEFT 1
static int copy_fours(struct run *r, struct tensor dst, struct tensor x)
{
    struct copy_16_bits<true> down = {cuda_view_of(dst), cuda_view_of(x), dst.dtype == DTYPE_F16};
    struct copy_16_bits<false> up = {down.y, down.x, x.dtype == DTYPE_F16};
    bool narrows = x.dtype == DTYPE_F32 && is_16_bits(dst.dtype), widens = is_16_bits(x.dtype) && dst.dtype == DTYPE_F32;
    int64_t n = tensor_count(x) / 4;
    if (narrows && in_fours(&down.y) && in_fours(&down.x))
        return cuda_each(r, down, 1, n);
    if (widens && in_fours(&up.y) && in_fours(&up.x))
        return cuda_each(r, up, 1, n);
    return LEFT;
}

int cuda_copy(struct run *r, struct tensor dst, struct tensor x)
{
    struct cuda_view y = cuda_view_of(dst), v = cuda_view_of(x);
    int64_t n = tensor_count(x);
    if (n < 1)
        return 0;
    if (dst.dtype == x.dtype && v.scale == 1)
        return copy_bits(r, dst, x);
    int rc = copy_fours(r, dst, x);
    if (rc != LEFT)
        return rc;
    if (is_whole(dst.dtype) && is_whole(x.dtype)) {
        struct copy_whole f = {y, v};
        return cuda_each(r, f, 1, n);
    }
    struct copy_float f = {y, v};
    return cuda_each(r, f, 1, n);
}

/* A row is (before, index), a column what lies after. An index outside gives NaN: the host cannot look at it here. */
struct gather_each {
    struct cuda_split y, x;
    const int32_t *idx;
    __device__ void operator()(int64_t row, int64_t a) const
    {
        int64_t b = row / y.n, i = row - b * y.n, from = idx[i];
        float v = cuda_bits_to_f32(0x7fc00000u);
        if (from >= 0 && from < x.n)
            v = cuda_load(x.data, x.dtype, cuda_split_at(x, b, from, a));
        ((float *)y.data)[cuda_split_at(y, b, i, a)] = v;
    }
};

int cuda_gather(struct run *r, struct tensor y, struct tensor x, int dim, struct tensor idx)
{
    struct gather_each f = {cuda_split_of(y, dim), cuda_split_of(x, dim), (const int32_t *)idx.data};
    return cuda_each(r, f, f.y.n_before * f.y.n, f.y.n_after);
}

/* One thread adds all indices of its place, in order: the same bits always. An index outside is left out. */
struct scatter_each {
    struct cuda_split dst, src;
    const int32_t *idx;
    __device__ void operator()(int64_t b, int64_t a) const
    {
        for (int64_t i = 0; i < src.n; i++) {
            int64_t to = idx[i];
            if (to >= 0 && to < dst.n)
                ((float *)dst.data)[cuda_split_at(dst, b, to, a)] += ((const float *)src.data)[cuda_split_at(src, b, i, a)];
        }
    }
};

int cuda_scatter_add(struct run *r, struct tensor dst, int dim, struct tensor idx, struct tensor src)
{
    struct scatter_each f = {cuda_split_of(dst, dim), cuda_split_of(src, dim), (const int32_t *)idx.data};
    return cuda_each(r, f, f.dst.n_before, f.dst.n_after);
}

/* Between latents [C, T, h, w] and tokens [T (h/2) (w/2), C*4]; a row is a token, a column a place in it. */
template <bool TO_TOKENS> struct patch_each {
    struct cuda_view4 latents;
    struct cuda_rows tokens;
    __device__ void operator()(int64_t token, int64_t j) const
    {
        int64_t h = latents.shape[2] / 2, w = latents.shape[3] / 2;
        int64_t t = token / (h * w), y = token / w % h * 2 + j % 4 / 2, x = token % w * 2 + j % 2;
        float *a = cuda_at4(latents, j / 4, t, y, x), *b = cuda_row_f32(tokens, token) + j;
        if (TO_TOKENS)
            *b = *a;
        else
            *a = *b;
    }
};

int cuda_patchify(struct run *r, struct tensor y, struct tensor x)
{
    struct patch_each<true> f = {cuda_view4_of(x), cuda_rows_of(y)};
    return cuda_each(r, f, f.tokens.n_rows, f.tokens.n);
}

int cuda_unpatchify(struct run *r, struct tensor y, struct tensor x)
{
    struct patch_each<false> f = {cuda_view4_of(y), cuda_rows_of(x)};
    return cuda_each(r, f, f.tokens.n_rows, f.tokens.n);
}
