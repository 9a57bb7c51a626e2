#include "kernels/cuda/e4m3.h"

struct e4m3_job {
    const void *x;
    const float *less; /* [n], NULL: zeros */
    uint8_t *y;
    float *scale; /* [rows] or [1] */
    int64_t stride, n;
    template <int D> __device__ __forceinline__ float at(int64_t k) const
    {
        float v = cuda_as<D>::load(x, blockIdx.x * stride + k);
        return less ? v - less[k] : v;
    }
};

/* What the block's row is to be divided by. */
template <int D> static __device__ float scale_of_row(const struct e4m3_job &f)
{
    __shared__ float part[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float most = 0;
    for (int64_t k = threadIdx.x; k < f.n; k += blockDim.x) {
        float v = fabsf(f.at<D>(k));
        most = v > most ? v : most;
    }
    most = cuda_warp_max(most);
    if (lane == 0)
        part[warp] = most;
    __syncthreads();
    most = cuda_warp_max(lane < (int)blockDim.x / 32 ? part[lane] : 0);
    uint32_t power = (cuda_f32_to_bits(most / 448) + 0x7fffffu) & 0xff800000u; /* the power of two above; infinity stays */
    return fmaxf(cuda_bits_to_f32(power), 7.8886090522101181e-31f);
}

/* The scale of all rows: the largest of theirs, as whole numbers, which order the same as they are not negative. */
template <int D> static __global__ void find_scale(struct e4m3_job f)
{
    float v = scale_of_row<D>(f);
    if (threadIdx.x == 0)
        atomicMax((int *)f.scale, (int)cuda_f32_to_bits(v));
}

/* A block a row, four elements a thread at a time. */
template <int D, bool EACH> static __global__ void convert(struct e4m3_job f)
{
    float scale = EACH ? scale_of_row<D>(f) : f.scale[0], by = 1 / scale;
    if (EACH && threadIdx.x == 0)
        f.scale[blockIdx.x] = scale;
    for (int64_t k = 4 * threadIdx.x; k < f.n; k += 4 * blockDim.x) {
        uint32_t four = 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
            four |= (uint32_t)cuda_e4m3_from_f32(f.at<D>(k + i) * by) << 8 * i;
        *(uint32_t *)(f.y + blockIdx.x * f.n + k) = four;
    }
}

template <int D> static int launch(struct run *r, const struct e4m3_job &f, int64_t rows, bool each_row)
{
    cudaStream_t stream = cuda_of(r)->compute;
    if (each_row) {
        CUDA_LAUNCH((convert<D, true>), (unsigned)rows, 256, 0, stream, f);
        return cuda_launched(r);
    }
    cudaError_t e = cudaMemsetAsync(f.scale, 0, sizeof *f.scale, stream);
    if (e != cudaSuccess)
        return cuda_fail(r, e, "a scale");
    CUDA_LAUNCH((find_scale<D>), (unsigned)rows, 256, 0, stream, f);
    CUDA_LAUNCH((convert<D, false>), (unsigned)rows, 256, 0, stream, f);
    return cuda_launched(r);
}

int e4m3_rows(struct run *r, struct tensor dst, struct tensor x, struct tensor less, struct tensor scale, bool each_row)
{
    struct e4m3_job f = {x.data,      (const float *)less.data, (uint8_t *)dst.data, (float *)scale.data,
                         x.stride[0], x.shape[1]};
    switch (x.dtype) {
    case DTYPE_BF16:
        return launch<DTYPE_BF16>(r, f, x.shape[0], each_row);
    case DTYPE_F16:
        return launch<DTYPE_F16>(r, f, x.shape[0], each_row);
    default:
        return launch<DTYPE_F32>(r, f, x.shape[0], each_row);
    }
}

#define MEAN_PARTS 32

/* A block has 32 columns, and each of its warps a part of the rows. */
static __global__ void __launch_bounds__(32 * MEAN_PARTS)
    mean_rows(float *y, const float *x, int64_t stride, int64_t rows, int64_t n)
{
    __shared__ float part[MEAN_PARTS][32];
    int64_t k = (int64_t)blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    for (int64_t i = threadIdx.y; i < rows && k < n; i += MEAN_PARTS)
        sum += x[i * stride + k];
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || k >= n)
        return;
    for (int i = 1; i < MEAN_PARTS; i++)
        sum += part[i][threadIdx.x];
    y[k] = sum / (float)rows;
}

int e4m3_mean(struct run *r, struct tensor dst, struct tensor x)
{
    int64_t m = x.shape[0], step = (m + E4M3_MEAN_ROWS - 1) / E4M3_MEAN_ROWS;
    CUDA_LAUNCH(mean_rows, (unsigned)((x.shape[1] + 31) / 32), dim3(32, MEAN_PARTS), 0, cuda_of(r)->compute,
                (float *)dst.data, (const float *)x.data, step * x.stride[0], (m + step - 1) / step, x.shape[1]);
    return cuda_launched(r);
}
