/* linear_tile.h -- products of a block of 256 threads: a tile of 64 rows x 64 columns in registers, 4 x 4 a thread, operands
 * through shared memory in steps of 16 of k. Linear layers and convolutions share it; they differ in where elements lie.
 *
 *     __shared__ struct linear_tile tile;
 *     float sum[LINEAR_TILE_EACH][LINEAR_TILE_EACH] = {};
 *     linear_tile_sum(tile, a, b, n_k, sum);
 *     sum[i][j] belongs to row linear_tile_row() + i and column linear_tile_column() + j
 *
 * a and b: structs with `void load(int64_t k, float v[4])`, which gives element k of the rows (columns, for b)
 * linear_tile_loaded(i), i < 4: zero where there is none. Sums are f32; every 256 of k a new partial sum is begun, so that
 * an error grows with the root of 256 and the root of their number, not with that of n_k. The order is fixed.
 */
#ifndef KERNELS_CUDA_LINEAR_TILE_H
#define KERNELS_CUDA_LINEAR_TILE_H

#include "kernels/cuda/cuda.h"

#define LINEAR_TILE 64
#define LINEAR_TILE_K 16
#define LINEAR_TILE_EACH 4
#define LINEAR_TILE_THREADS 256
#define LINEAR_TILE_PART 16 /* steps of a partial sum */

struct __align__(16) linear_tile { /* read four at a time */
    float a[LINEAR_TILE_K][LINEAR_TILE + 4], b[LINEAR_TILE_K][LINEAR_TILE + 4];
};

static __device__ __forceinline__ int linear_tile_row(void)
{
    return (int)threadIdx.x / 16 * LINEAR_TILE_EACH;
}

static __device__ __forceinline__ int linear_tile_column(void)
{
    return (int)threadIdx.x % 16 * LINEAR_TILE_EACH;
}

static __device__ __forceinline__ int linear_tile_loaded(int i)
{
    return (int)threadIdx.x / 16 + 16 * i;
}

static __device__ __forceinline__ void linear_tile_step(const struct linear_tile &tile, float part[4][4])
{
#pragma unroll
    for (int k = 0; k < LINEAR_TILE_K; k++) {
        float4 a = *(const float4 *)&tile.a[k][linear_tile_row()], b = *(const float4 *)&tile.b[k][linear_tile_column()];
        const float av[4] = {a.x, a.y, a.z, a.w}, bv[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++)
                part[i][j] += av[i] * bv[j];
        }
    }
}

static __device__ __forceinline__ void linear_tile_flush(float part[4][4], float sum[4][4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            sum[i][j] += part[i][j];
            part[i][j] = 0;
        }
    }
}

template <typename A, typename B>
static __device__ __forceinline__ void linear_tile_sum(struct linear_tile &tile, A &a, B &b, int64_t n_k, float sum[4][4])
{
    float va[4], vb[4], part[4][4] = {};
    int at = (int)threadIdx.x % 16, steps = 0;
    a.load(at, va);
    b.load(at, vb);
    for (int64_t k = 0; k < n_k; k += LINEAR_TILE_K) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            tile.a[at][linear_tile_loaded(i)] = va[i];
            tile.b[at][linear_tile_loaded(i)] = vb[i];
        }
        __syncthreads();
        if (k + LINEAR_TILE_K < n_k) { /* on their way while this step is computed */
            a.load(k + LINEAR_TILE_K + at, va);
            b.load(k + LINEAR_TILE_K + at, vb);
        }
        linear_tile_step(tile, part);
        if (++steps % LINEAR_TILE_PART == 0)
            linear_tile_flush(part, sum);
    }
    linear_tile_flush(part, sum);
}

#endif
