/* sound.cu -- Whisper's log mel: a plain discrete Fourier transform of 400 samples in double, a block a frame. */
#include "kernels/cuda/cuda.h"

#define FRAME 400
#define HOP 160
#define BINS (FRAME / 2 + 1)
#define THREADS 256

/* Sample i of the wave as if it went on mirrored at both ends (the end sample itself once). */
static __device__ double sample(const float *wave, int64_t n, int64_t i)
{
    if (i < 0)
        i = -i;
    if (i >= n)
        i = 2 * (n - 1) - i;
    return (double)wave[i];
}

/* log10 of the mel powers of frame blockIdx.x. */
static __global__ void log_powers(struct cuda_rows y, const float *wave, int64_t n_wave, struct cuda_rows filters)
{
    __shared__ double cos_[FRAME], sin_[FRAME], frame[FRAME], power[BINS];
    for (int i = (int)threadIdx.x; i < FRAME; i += THREADS) {
        sincospi(2.0 * i / FRAME, &sin_[i], &cos_[i]);
        double window = 0.5 - 0.5 * cos_[i]; /* Hann, periodic */
        frame[i] = window * sample(wave, n_wave, (int64_t)blockIdx.x * HOP - FRAME / 2 + i);
    }
    __syncthreads();
    int k = (int)threadIdx.x;
    if (k < BINS) {
        double re = 0, im = 0;
        for (int i = 0, at = 0; i < FRAME; i++) {
            re += frame[i] * cos_[at];
            im += frame[i] * sin_[at];
            at += k;
            at -= at >= FRAME ? FRAME : 0;
        }
        power[k] = re * re + im * im;
    }
    __syncthreads();
    for (int64_t j = threadIdx.x; j < y.n; j += THREADS) {
        const float *w = cuda_row_f32(filters, j);
        double sum = 0;
        for (int i = 0; i < BINS; i++)
            sum += (double)w[i] * power[i];
        cuda_row_f32(y, blockIdx.x)[j] = (float)log10(sum > 1e-10 ? sum : 1e-10);
    }
}

/* The largest of n, by one block; a max has no order. */
static __global__ void largest(float *ret, const float *p, int64_t n)
{
    __shared__ float part[32];
    float top = p[0];
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        top = p[i] > top ? p[i] : top;
    top = cuda_warp_max(top);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = top;
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    for (unsigned i = 0; i < blockDim.x / 32; i++)
        top = part[i] > top ? part[i] : top;
    *ret = top;
}

struct log_mel_each {
    float *y;
    const float *top;
    __device__ void operator()(int64_t, int64_t i) const { y[i] = (fmaxf(y[i], *top - 8) + 4) / 4; }
};

int cuda_log_mel(struct run *r, struct tensor y, struct tensor wave, struct tensor filters)
{
    int64_t n = tensor_count(y);
    float *top = (float *)cuda_work(r, 0, sizeof *top);
    if (!top)
        return r->err.code;
    if (n < 1)
        return 0;
    CUDA_LAUNCH(log_powers, (unsigned)y.shape[0], THREADS, 0, cuda_of(r)->compute, cuda_rows_of(y), (const float *)wave.data,
                wave.shape[0], cuda_rows_of(filters));
    CUDA_LAUNCH(largest, 1, 1024, 0, cuda_of(r)->compute, top, (const float *)y.data, n);
    struct log_mel_each f = {(float *)y.data, top};
    return cuda_each(r, f, 1, n);
}
