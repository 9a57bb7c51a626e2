/* conv.cu -- convolution over channels-last pictures: cuDNN where it is allowed (lib_dnn.h), and plain kernels for every
 * card. The usual one is a product of patches and kernels by linear_tile.h, whose patches are never stored: k runs over
 * (16 channels, tap, channel), so that a block reads 64 bytes a pixel and meets the same pixels again at the next tap, and
 * the checkpoint's order of the weights [Co, C, taps] in the cache. Few output channels of many (to RGB) have a warp some
 * pixels, few a group (depthwise) a thread an output.
 */
#include "kernels/cuda/lib_dnn.h"
#include "kernels/cuda/linear_tile.h"

#define FEW 4       /* output channels a group, up to which a thread an output is used */
#define CHANNELS 16 /* that are walked through all taps together */

struct conv_shape {
    struct cuda_view4 x, y;
    const void *w, *b; /* b NULL: none */
    int b_dtype, act;
    int cg, per; /* channels in and out of a group */
    int kernel[3], taps;
    int stride[3], pad[3];
    bool replicate;
    int64_t n_k, n_pixels;
    /* Coordinate `at` of an axis, as read: -1 is a zero. */
    __device__ __forceinline__ int source(int at, int axis) const
    {
        int n = (int)x.shape[axis];
        if (at >= 0 && at < n)
            return at;
        return !replicate ? -1 : at < 0 ? 0 : n - 1;
    }
    /* Output pixel i: where its patch begins (before padding: may be negative). */
    __device__ __forceinline__ void origin(int64_t i, int ret[3]) const
    {
        int64_t row = cuda_div(i, y.shape[2]), t = cuda_div(row, y.shape[1]);
        ret[2] = (int)(i - row * y.shape[2]) * stride[2] - pad[2];
        ret[1] = (int)(row - t * y.shape[1]) * stride[1] - pad[1];
        ret[0] = (int)t * stride[0] - pad[0];
    }
    __device__ __forceinline__ float *out(int64_t i) const
    {
        int64_t row = cuda_div(i, y.shape[2]), t = cuda_div(row, y.shape[1]);
        return cuda_at4(y, t, row - t * y.shape[1], i - row * y.shape[2], 0);
    }
    /* x at tap `tap` of the patch at origin, NULL: zeros. */
    __device__ __forceinline__ const float *in(const int origin_[3], int tap) const
    {
        int plane = kernel[1] * kernel[2], t = tap / plane, left = tap - t * plane, v = left / kernel[2];
        t = source(origin_[0] + t, 0);
        int u = source(origin_[2] + left - v * kernel[2], 2);
        v = source(origin_[1] + v, 1);
        return t < 0 || u < 0 || v < 0 ? NULL : cuda_at4(x, t, v, u, 0);
    }
    /* k -> channel of the group and tap. */
    __device__ __forceinline__ void place(int64_t k, int *ret_channel, int *ret_tap) const
    {
        int block = (int)cuda_div(k, CHANNELS * taps), left = (int)(k - (int64_t)block * CHANNELS * taps);
        int wide = min(CHANNELS, cg - block * CHANNELS);
        *ret_tap = left / wide;
        *ret_channel = block * CHANNELS + left - *ret_tap * wide;
    }
    __device__ __forceinline__ void put(float *row, int o, float v) const
    {
        row[o] = cuda_act_f32(act, b ? v + cuda_load(b, b_dtype, o) : v);
    }
};

struct patches_loader {
    const struct conv_shape &c;
    int origin[4][3];
    bool here[4];
    int first; /* channel of x */
    __device__ patches_loader(const struct conv_shape &c_, int64_t pixel, int first_) : c(c_), first(first_)
    {
        for (int i = 0; i < 4; i++) {
            int64_t at = pixel + linear_tile_loaded(i);
            here[i] = at < c.n_pixels;
            c.origin(here[i] ? at : 0, origin[i]);
        }
    }
    __device__ void load(int64_t k, float v[4]) const
    {
        int channel = 0, tap = 0;
        if (k < c.n_k)
            c.place(k, &channel, &tap);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *x = here[i] && k < c.n_k ? c.in(origin[i], tap) : NULL;
            v[i] = x ? x[first + channel] : 0;
        }
    }
};

template <int D> struct kernels_loader {
    const struct conv_shape &c;
    int group, first; /* output channel of the group */
    __device__ kernels_loader(const struct conv_shape &c_, int group_, int first_) : c(c_), group(group_), first(first_)
    {
    }
    __device__ void load(int64_t k, float v[4]) const
    {
        int channel = 0, tap = 0;
        if (k < c.n_k)
            c.place(k, &channel, &tap);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int o = first + linear_tile_loaded(i);
            int64_t at = ((int64_t)(group * c.per + o) * c.cg + channel) * c.taps + tap;
            v[i] = o < c.per && k < c.n_k ? cuda_as<D>::load(c.w, at) : 0;
        }
    }
};

template <int D> static __global__ void __launch_bounds__(LINEAR_TILE_THREADS) conv_tiles(struct conv_shape c)
{
    __shared__ struct linear_tile tile;
    float sum[4][4] = {};
    int64_t pixel = (int64_t)blockIdx.x * LINEAR_TILE;
    int group = (int)blockIdx.z, o = (int)blockIdx.y * LINEAR_TILE;
    struct patches_loader a(c, pixel, group * c.cg);
    struct kernels_loader<D> b(c, group, o);
    linear_tile_sum(tile, a, b, c.n_k, sum);
    pixel += linear_tile_row();
    o += linear_tile_column();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float *y = c.out(pixel + i < c.n_pixels ? pixel + i : 0);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (pixel + i < c.n_pixels && o + j < c.per)
                c.put(y, group * c.per + o + j, sum[i][j]);
        }
    }
}

#define RGB_PIXELS 4      /* of a warp at once */
#define RGB_TAPS 32       /* a lane finds the place of one of them */
#define RGB_WEIGHTS 12288 /* in shared memory as long as the block lives: 48 KiB */

/* sum[p][o] += x[p] * weights[o] of the lane's channels; NULL: zeros. */
static __device__ __forceinline__ void rgb_tap(const struct conv_shape &c, const float *const x[RGB_PIXELS],
                                               const float *weights, float sum[RGB_PIXELS][FEW])
{
    for (int k = (int)threadIdx.x % 32; k < c.cg; k += 32) {
        float v[RGB_PIXELS];
#pragma unroll
        for (int p = 0; p < RGB_PIXELS; p++)
            v[p] = x[p] ? x[p][k] : 0;
#pragma unroll
        for (int o = 0; o < FEW; o++) {
            float by = o < c.per ? weights[o * c.cg + k] : 0;
#pragma unroll
            for (int p = 0; p < RGB_PIXELS; p++)
                sum[p][o] += v[p] * by;
        }
    }
}

/* Lanes lie along the channels of a pixel, next to each other in memory, and share each reading among the outputs. */
template <int D> static __global__ void __launch_bounds__(256) conv_rgb(struct conv_shape c)
{
    __shared__ float w[RGB_WEIGHTS]; /* [tap][output][channel] */
    int lane = (int)threadIdx.x % 32;
    for (int i = (int)threadIdx.x; i < c.per * c.cg * c.taps; i += 256) {
        int from = i / c.taps, tap = i - from * c.taps, o = from / c.cg;
        w[(tap * c.per + o) * c.cg + from - o * c.cg] = cuda_as<D>::load(c.w, i);
    }
    __syncthreads();
    for (int64_t first = ((int64_t)blockIdx.x * 8 + threadIdx.x / 32) * RGB_PIXELS; first < c.n_pixels;
         first += (int64_t)gridDim.x * 8 * RGB_PIXELS) {
        float sum[RGB_PIXELS][FEW] = {};
        unsigned long long mine[RGB_PIXELS]; /* where the lane's tap lies */
#pragma unroll
        for (int p = 0; p < RGB_PIXELS; p++) {
            int origin[3];
            c.origin(min(first + p, c.n_pixels - 1), origin);
            mine[p] = lane < c.taps ? (unsigned long long)c.in(origin, lane) : 0;
        }
        for (int tap = 0; tap < c.taps; tap++) {
            const float *x[RGB_PIXELS];
#pragma unroll
            for (int p = 0; p < RGB_PIXELS; p++)
                x[p] = (const float *)__shfl_sync(0xffffffffu, mine[p], tap);
            rgb_tap(c, x, w + tap * c.per * c.cg, sum);
        }
#pragma unroll
        for (int p = 0; p < RGB_PIXELS; p++) {
#pragma unroll
            for (int o = 0; o < FEW; o++) {
                float v = cuda_warp_sum(sum[p][o]);
                if (lane == 0 && first + p < c.n_pixels && o < c.per)
                    c.put(c.out(first + p), o, v);
            }
        }
    }
}

/* A thread an output; the sum of a tap is one of its partial sums. */
template <int D> struct conv_each {
    struct conv_shape c;
    __device__ void operator()(int64_t pixel, int64_t o) const
    {
        int origin[3];
        float sum = 0;
        int first = (int)o / c.per * c.cg;
        c.origin(pixel, origin);
        for (int tap = 0; tap < c.taps; tap++) {
            const float *x = c.in(origin, tap);
            float part = 0;
            for (int k = 0; x && k < c.cg; k++)
                part += x[first + k] * cuda_as<D>::load(c.w, (o * c.cg + k) * c.taps + tap);
            sum += part;
        }
        c.put(c.out(pixel), (int)o, sum);
    }
};

template <int D> static int conv_own(struct run *r, const struct conv_shape &c, int groups)
{
    if (groups == 1 && c.per <= FEW && c.cg >= 32 && c.taps <= RGB_TAPS && c.n_k * c.per <= RGB_WEIGHTS) {
        int64_t blocks = (c.n_pixels + 8 * RGB_PIXELS - 1) / (8 * RGB_PIXELS), most = 4 * cuda_of(r)->n_sm;
        CUDA_LAUNCH((conv_rgb<D>), (unsigned)(blocks < most ? blocks : most), 256, 0, cuda_of(r)->compute, c);
        return cuda_launched(r);
    }
    if (c.per <= FEW) {
        struct conv_each<D> f = {
            c
        };
        return cuda_each(r, f, c.n_pixels, (int64_t)c.per * groups);
    }
    dim3 grid((unsigned)((c.n_pixels + LINEAR_TILE - 1) / LINEAR_TILE), (unsigned)((c.per + LINEAR_TILE - 1) / LINEAR_TILE),
              (unsigned)groups);
    CUDA_LAUNCH((conv_tiles<D>), grid, LINEAR_TILE_THREADS, 0, cuda_of(r)->compute, c);
    return cuda_launched(r);
}

static struct conv_shape shape_of(struct tensor y, struct tensor x, struct tensor w, struct tensor b, const struct conv *c)
{
    struct conv_shape f = {cuda_view4_of(x), cuda_view4_of(y), w.data, b.data, b.dtype, c->act};
    f.cg = (int)w.shape[1];
    f.per = (int)w.shape[0] / c->groups;
    f.taps = 1;
    for (int i = 0; i < 3; i++) {
        f.kernel[i] = (int)w.shape[2 + i];
        f.taps *= f.kernel[i];
        f.stride[i] = c->stride[i];
        f.pad[i] = c->pad_before[i];
    }
    f.replicate = c->replicate;
    f.n_k = (int64_t)f.cg * f.taps;
    f.n_pixels = tensor_rows(y);
    return f;
}

#if defined(TROUPE_CUDNN)
/* Rows are pixels, columns four channels each. */
struct padded_each {
    uint16_t *dst;
    struct cuda_view4 x;
    int64_t rows, columns; /* of dst */
    int64_t from[3];
    bool replicate, is_f16, fours;
    __device__ __forceinline__ uint16_t narrow(float v) const
    {
        return is_f16 ? cuda_f16_clamped(v) : cuda_bf16_from_f32(v);
    }
    __device__ void operator()(int64_t i, int64_t k) const
    {
        int64_t line = cuda_div(i, columns), t = cuda_div(line, rows);
        int64_t at[3] = {from[0] + t, from[1] + line - t * rows, from[2] + i - line * columns};
        bool here = true;
        for (int d = 0; d < 3; d++) {
            int64_t in = max((int64_t)0, min(at[d], x.shape[d] - 1));
            here &= replicate || in == at[d];
            at[d] = in;
        }
        float4 v = here ? cuda_load4(cuda_at4(x, at[0], at[1], at[2], 4 * k), fours) : make_float4(0, 0, 0, 0);
        *(ushort4 *)(dst + i * x.shape[3] + 4 * k) = make_ushort4(narrow(v.x), narrow(v.y), narrow(v.z), narrow(v.w));
    }
};

int lib_dnn_padded(struct run *r, struct tensor dst, struct tensor x, const int64_t from[3], bool replicate)
{
    struct cuda_view4 v = cuda_view4_of(x);
    struct padded_each f = {(uint16_t *)dst.data,        v,         dst.shape[1],             dst.shape[2],
                            {from[0], from[1], from[2]}, replicate, dst.dtype == DTYPE_F16, cuda_view4_fours(&v) != 0};
    return cuda_each(r, f, tensor_rows(dst), dst.shape[3] / 4);
}

struct finish_each {
    struct cuda_view4 y;
    const uint16_t *x;
    const void *b;
    int b_dtype, act;
    bool is_f16, fours;
    __device__ __forceinline__ float at(uint16_t bits, int64_t k) const
    {
        float v = is_f16 ? cuda_f16_to_f32(bits) : cuda_bf16_to_f32(bits);
        if (is_f16)
            v = v > 65504 ? 65504 : v < -65504 ? -65504 : v;
        return cuda_act_f32(act, b ? v + cuda_load(b, b_dtype, k) : v);
    }
    __device__ void operator()(int64_t i, int64_t k) const
    {
        int64_t line = cuda_div(i, y.shape[2]), t = cuda_div(line, y.shape[1]);
        ushort4 q = *(const ushort4 *)(x + i * y.shape[3] + 4 * k);
        float4 v = make_float4(at(q.x, 4 * k), at(q.y, 4 * k + 1), at(q.z, 4 * k + 2), at(q.w, 4 * k + 3));
        cuda_store4(cuda_at4(y, t, line - t * y.shape[1], i - line * y.shape[2], 4 * k), fours, v);
    }
};

int lib_dnn_finish(struct run *r, struct tensor y, struct tensor x, struct tensor b, enum act act)
{
    struct cuda_view4 v = cuda_view4_of(y);
    struct finish_each f = {v,   (const uint16_t *)x.data, b.data,                  b.dtype,
                            act, x.dtype == DTYPE_F16,     cuda_view4_fours(&v) != 0};
    return cuda_each(r, f, tensor_rows(y), y.shape[3] / 4);
}
#endif

int cuda_conv(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, const struct conv *c)
{
    struct conv_shape f = shape_of(y, x, w, b, c);
    if (f.n_pixels < 1 || w.shape[0] < 1)
        return 0;
    if (c->groups > 65535)
        return run_fail(r, ERR_UNSUPPORTED, "%d groups: the CUDA kernels end at 65535", c->groups);
    int rc = lib_dnn_conv(r, y, x, w, b, c);
    if (rc != LIB_DNN_OWN)
        return rc;
    switch (w.dtype) {
    case DTYPE_BF16:
        return conv_own<DTYPE_BF16>(r, f, c->groups);
    case DTYPE_F16:
        return conv_own<DTYPE_F16>(r, f, c->groups);
    default:
        return conv_own<DTYPE_F32>(r, f, c->groups);
    }
}
