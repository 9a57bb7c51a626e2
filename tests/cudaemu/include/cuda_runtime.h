/* cuda_runtime.h -- the CUDA names that kernels/cuda uses, for a plain C++17 compiler: kernels run on the CPU.
 *
 * An emulation of arithmetic, indexing and the order of streams, not of a GPU: no timing, no memory model.
 * README.md beside this folder says what is found and what is not. Written from the CUDA C++ Programming Guide (13.0).
 *
 * The threads of a block are fibers of one OS thread, the blocks of a grid follow each other; both in an order that
 * changes from launch to launch, so that a result which depends on the order does not repeat. Launches by CUDA_LAUNCH of
 * kernels/cuda/cuda.h only.
 */
#ifndef TESTS_CUDAEMU_INCLUDE_CUDA_RUNTIME_H
#define TESTS_CUDAEMU_INCLUDE_CUDA_RUNTIME_H

#define CUDAEMU 1

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <math.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
/* One copy for all blocks, as they follow each other; filled with NaNs before each. */
#define __shared__ static __attribute__((section("cudaemu_shared")))

/* ---- types ---- */

#define CUDAEMU_VECTOR(type, name, align)                                                                            \
    struct __attribute__((aligned(align <= 16 ? align : 16))) name##2 { type x, y; };                               \
    struct name##3 { type x, y, z; };                                                                                \
    struct __attribute__((aligned(align * 2 <= 16 ? align * 2 : 16))) name##4 { type x, y, z, w; };                 \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                          \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                               \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
CUDAEMU_VECTOR(float, float, 8)
CUDAEMU_VECTOR(double, double, 16)
CUDAEMU_VECTOR(int, int, 8)
CUDAEMU_VECTOR(unsigned, uint, 8)
CUDAEMU_VECTOR(unsigned short, ushort, 4)
CUDAEMU_VECTOR(unsigned char, uchar, 2)
#undef CUDAEMU_VECTOR

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/* ---- host: errors, devices, memory, streams ---- */

enum cudaError_t { /* CUDA's own numbers */
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInitializationError = 3,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevicePointer = 17,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchOutOfResources = 701,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureIsolation = 905,
    cudaErrorCapturedEvent = 907,
    cudaErrorStreamCaptureWrongThread = 908,
    cudaErrorUnknown = 999
};

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97, cudaDevAttrMultiProcessorCount = 16 };

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount, pciDomainID, pciBusID, pciDeviceID;
    size_t sharedMemPerBlock, sharedMemPerBlockOptin;
};

typedef struct cudaemu_stream *cudaStream_t;
typedef struct cudaemu_event *cudaEvent_t;
typedef struct cudaemu_graph *cudaGraph_t;
typedef struct cudaemu_graph_exec *cudaGraphExec_t;
typedef struct cudaemu_graph_node *cudaGraphNode_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone,
    cudaStreamCaptureStatusActive,
    cudaStreamCaptureStatusInvalidated
};
#define cudaStreamNonBlocking 1u
#define cudaEventDefault 0u
#define cudaEventDisableTiming 2u
#define cudaHostAllocDefault 0u

extern "C" {
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceGetPCIBusId(char *ret, int size, int device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t e);
const char *cudaGetErrorName(cudaError_t e);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemcpyPeerAsync(void *dst, int to, const void *src, int from, size_t bytes, cudaStream_t s);
cudaError_t cudaMemset(void *dst, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *ret);
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *ret);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ret, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);

/* fn with a copy of arg as work of s, for emulated libraries; 0 or a cudaError_t. */
int cudaemu_enqueue(cudaStream_t s, void (*fn)(void *arg), const void *arg, size_t bytes);
/* What s gets from here on waits, whatever the order, until another thread says release: once for each hold. */
void cudaemu_hold(cudaStream_t s);
void cudaemu_release(cudaStream_t s);
cudaError_t cudaemu_malloc(void **p, size_t bytes);
cudaError_t cudaemu_malloc_host(void **p, size_t bytes);
cudaError_t cudaemu_shared_max(const void *kernel, int bytes);

/* ---- what kernels call ---- */

struct cudaemu_thread {
    uint3 thread;
    int number; /* in the block: x fastest */
};
extern cudaemu_thread *cudaemu_now;
extern uint3 cudaemu_block;
extern dim3 cudaemu_block_dim, cudaemu_grid_dim;

enum { CUDAEMU_SHUFFLE, CUDAEMU_BALLOT, CUDAEMU_MEET };

void *cudaemu_dynamic_shared(void);
/* Returns how many threads brought a predicate. */
int cudaemu_sync(int predicate, const char *file, int line);
/* Waits for the warp's threads in mask; then lane src's value, or the ballot of the values. */
uint64_t cudaemu_warp(int what, unsigned mask, uint64_t value, int src, const char *file, int line);
}

template <typename T> static inline cudaError_t cudaMalloc(T **p, size_t bytes)
{
    return cudaemu_malloc((void **)p, bytes);
}

template <typename T> static inline cudaError_t cudaMallocHost(T **p, size_t bytes)
{
    return cudaemu_malloc_host((void **)p, bytes);
}

template <typename T> static inline cudaError_t cudaHostAlloc(T **p, size_t bytes, unsigned)
{
    return cudaemu_malloc_host((void **)p, bytes);
}

template <typename K> static inline cudaError_t cudaFuncSetAttribute(K *kernel, cudaFuncAttribute, int value)
{
    return cudaemu_shared_max((const void *)kernel, value);
}

struct cudaemu_launched {
    const char *types, *name;
    const void *function;
    dim3 grid, block;
    size_t smem;
    std::function<void()> call;
};
void cudaemu_run(cudaStream_t s, struct cudaemu_launched l);

/* Arguments are copied now, as a launch does. */
template <typename... P, typename... A>
static inline void cudaemu_launch(const char *name, dim3 grid, dim3 block, size_t smem, cudaStream_t s, void (*kernel)(P...),
                                  A... args)
{
    cudaemu_run(s, {__PRETTY_FUNCTION__, name, (const void *)kernel, grid, block, smem, [=] { kernel(args...); }});
}

#define threadIdx (cudaemu_now->thread)
#define blockIdx cudaemu_block
#define blockDim cudaemu_block_dim
#define gridDim cudaemu_grid_dim
#define warpSize 32

#define __syncthreads() ((void)cudaemu_sync(0, __FILE__, __LINE__))
#define __syncthreads_count(p) cudaemu_sync(!!(p), __FILE__, __LINE__)
#define __syncthreads_or(p) (cudaemu_sync(!!(p), __FILE__, __LINE__) > 0)
#define __syncthreads_and(p) (cudaemu_sync(!(p), __FILE__, __LINE__) == 0)
#define __syncwarp(...) cudaemu_syncwarp(__FILE__, __LINE__, ##__VA_ARGS__)
#define __shfl_sync(...) cudaemu_shfl(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) cudaemu_shfl_xor(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) cudaemu_shfl_up(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) cudaemu_shfl_down(__FILE__, __LINE__, __VA_ARGS__)
#define __ballot_sync(mask, p) ((unsigned)cudaemu_warp(CUDAEMU_BALLOT, mask, !!(p), 0, __FILE__, __LINE__))
#define __any_sync(mask, p) (__ballot_sync(mask, p) != 0)
#define __all_sync(mask, p) (__ballot_sync(mask, !(p)) == 0)
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)

static inline void cudaemu_syncwarp(const char *file, int line, unsigned mask = 0xffffffffu)
{
    cudaemu_warp(CUDAEMU_MEET, mask, 0, 0, file, line);
}

template <typename T> static inline T cudaemu_exchange(const char *file, int line, unsigned mask, T v, int src)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    uint64_t raw = 0;
    memcpy(&raw, &v, sizeof v);
    raw = cudaemu_warp(CUDAEMU_SHUFFLE, mask, raw, src, file, line);
    memcpy(&v, &raw, sizeof v);
    return v;
}

static inline int cudaemu_lane(void)
{
    return cudaemu_now->number % 32;
}

template <typename T> static inline T cudaemu_shfl(const char *file, int line, unsigned mask, T v, int src, int width = 32)
{
    return cudaemu_exchange(file, line, mask, v, (cudaemu_lane() & ~(width - 1)) | (src & (width - 1)));
}

template <typename T> static inline T cudaemu_shfl_xor(const char *file, int line, unsigned mask, T v, int x, int width = 32)
{
    int lane = cudaemu_lane(), src = lane ^ x;
    return cudaemu_exchange(file, line, mask, v, src <= (lane | (width - 1)) ? src : lane);
}

template <typename T>
static inline T cudaemu_shfl_up(const char *file, int line, unsigned mask, T v, unsigned delta, int width = 32)
{
    int lane = cudaemu_lane(), src = lane - (int)delta;
    return cudaemu_exchange(file, line, mask, v, src >= (lane & ~(width - 1)) ? src : lane);
}

template <typename T>
static inline T cudaemu_shfl_down(const char *file, int line, unsigned mask, T v, unsigned delta, int width = 32)
{
    int lane = cudaemu_lane(), src = lane + (int)delta;
    return cudaemu_exchange(file, line, mask, v, src <= (lane | (width - 1)) ? src : lane);
}

/* ---- atomics: fibers only change at barriers ---- */

template <typename T> static inline T atomicAdd(T *p, T v)
{
    T old = *p;
    *p = old + v;
    return old;
}

template <typename T> static inline T atomicMax(T *p, T v)
{
    T old = *p;
    *p = v > old ? v : old;
    return old;
}

template <typename T> static inline T atomicMin(T *p, T v)
{
    T old = *p;
    *p = v < old ? v : old;
    return old;
}

template <typename T> static inline T atomicExch(T *p, T v)
{
    T old = *p;
    *p = v;
    return old;
}

template <typename T> static inline T atomicCAS(T *p, T want, T v)
{
    T old = *p;
    if (old == want)
        *p = v;
    return old;
}

/* ---- numbers ---- */

static inline float cudaemu_float(uint32_t u)
{
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

static inline uint32_t cudaemu_bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}

static inline float __uint_as_float(unsigned u) { return cudaemu_float(u); }
static inline unsigned __float_as_uint(float v) { return cudaemu_bits(v); }
static inline float __int_as_float(int u) { return cudaemu_float((uint32_t)u); }
static inline int __float_as_int(float v) { return (int)cudaemu_bits(v); }
template <typename T> static inline T __ldg(const T *p) { return *p; }
static inline float rsqrtf(float x) { return (float)(1 / std::sqrt((double)x)); }
static inline double rsqrt(double x) { return 1 / std::sqrt(x); }
#define __expf expf /* the GPU's are less exact; glibc declares these names */
#define __logf logf
#define __sinf sinf
#define __cosf cosf
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline void sincospi(double x, double *s, double *c) { sincos(M_PI * x, s, c); }

#define CUDAEMU_MINMAX(type)                                                                                         \
    static inline type min(type a, type b) { return b < a ? b : a; }                                                 \
    static inline type max(type a, type b) { return a < b ? b : a; }
CUDAEMU_MINMAX(int)
CUDAEMU_MINMAX(unsigned)
CUDAEMU_MINMAX(long)
CUDAEMU_MINMAX(unsigned long)
CUDAEMU_MINMAX(long long)
#undef CUDAEMU_MINMAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

#endif
