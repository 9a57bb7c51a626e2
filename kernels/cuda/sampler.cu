/* sampler.cu -- the VAE's samples and tiles, and normal random numbers (the sampler's step is in elem.cu). Their formula is in
 * kernels/cpu/ref_random.c: counters and keys are the same to the bit. */
#include "kernels/cuda/cuda.h"

struct gauss_each {
    float *y;
    struct cuda_view mean, logvar, noise;
    float scale;
    __device__ void operator()(int64_t, int64_t i) const
    {
        double m = (double)((const float *)mean.data)[cuda_element(mean, i)];
        double l = (double)((const float *)logvar.data)[cuda_element(logvar, i)];
        double n = (double)((const float *)noise.data)[cuda_element(noise, i)];
        l = l < -30 ? -30 : l > 20 ? 20 : l;
        y[i] = (float)((double)scale * (m + exp(l / 2) * n));
    }
};

int cuda_gauss(struct run *r, struct tensor y, struct tensor mean, struct tensor logvar, struct tensor noise, float scale)
{
    struct gauss_each f = {(float *)y.data, cuda_view_of(mean), cuda_view_of(logvar), cuda_view_of(noise), scale};
    return cuda_each(r, f, 1, tensor_count(y));
}

/* Rows are the dimensions before and the blended one, columns those after it. */
struct blend_each {
    struct cuda_split b, a;
    __device__ void operator()(int64_t row, int64_t at) const
    {
        int64_t before = row / b.n, k = row - before * b.n;
        float *p = (float *)b.data + cuda_split_at(b, before, k, at);
        float q = ((const float *)a.data)[cuda_split_at(a, before, k, at)];
        float share = (float)((double)k / (double)b.n), rest = (float)(1 - (double)k / (double)b.n);
        *p = q * rest + *p * share;
    }
};

int cuda_blend(struct run *r, struct tensor b, struct tensor a, int dim, int64_t n)
{
    if (n < 1)
        return 0;
    struct blend_each f = {cuda_split_of(tensor_slice(b, dim, 0, n), dim),
                           cuda_split_of(tensor_slice(a, dim, a.shape[dim] - n, n), dim)};
    return cuda_each(r, f, f.b.n_before * n, f.b.n_after);
}

static __device__ void philox(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    for (int i = 0; i < 10; i++) {
        uint64_t a = (uint64_t)0xd2511f53u * c[0], b = (uint64_t)0xcd9e8d57u * c[2];
        c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)a;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

/* Elements 4 block .. 4 block + 3. */
struct randn_each {
    float *y;
    int64_t n;
    uint64_t seed;
    uint32_t stream;
    __device__ void operator()(int64_t, int64_t block) const
    {
        uint32_t x[4] = {(uint32_t)block, (uint32_t)((uint64_t)block >> 32), stream, 0};
        philox(x, (uint32_t)seed, (uint32_t)(seed >> 32));
        for (int i = 0; i < 4; i += 2) {
            double radius = sqrt(-2 * log(((double)x[i] + 0.5) * 2.3283064365386962890625e-10)); /* 2^-32 */
            double angle = 6.283185307179586476925 * (((double)x[i + 1] + 0.5) * 2.3283064365386962890625e-10);
            if (4 * block + i < n)
                y[4 * block + i] = (float)(radius * cos(angle));
            if (4 * block + i + 1 < n)
                y[4 * block + i + 1] = (float)(radius * sin(angle));
        }
    }
};

int cuda_randn(struct run *r, struct tensor y, uint64_t seed, uint32_t stream)
{
    struct randn_each f = {(float *)y.data, tensor_count(y), seed, stream};
    return cuda_each(r, f, 1, (f.n + 3) / 4);
}
