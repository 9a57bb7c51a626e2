/* test_cudaemu.cpp -- the emulation itself: what it computes, and that it sees each kind of mistake it promises to see. */
#include "kernels/cuda/cuda.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

extern "C" {
#include "kernels/dtype.h"
}
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_fp8.h"

static int passed, failed;

static void check(bool fine, const char *what)
{
    fine ? passed++ : failed++;
    if (!fine)
        printf("FAIL %s\n", what);
}

/* Runs f in a child: it must die, and say so. */
static void check_dies(const char *what, const char *text, const std::function<void()> &f)
{
    int p[2];
    fflush(NULL);
    if (pipe(p) != 0)
        abort();
    pid_t child = fork();
    if (child == 0) {
        dup2(p[1], 2);
        close(p[0]);
        f();
        _exit(0);
    }
    close(p[1]);
    std::string said;
    char part[512];
    for (ssize_t n; (n = read(p[0], part, sizeof part)) > 0;)
        said.append(part, (size_t)n);
    close(p[0]);
    int status = 0;
    waitpid(child, &status, 0);
    bool dead = !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check(dead && said.find(text) != std::string::npos, what);
    if (!dead || said.find(text) == std::string::npos)
        printf("  it said: %s\n", said.c_str());
}

/* ---- what it computes ---- */

static __global__ void lanes(int *y)
{
    int i = (int)threadIdx.x, lane = i % 32;
    y[i * 6] = __shfl_xor_sync(0xffffffffu, i, 5);
    y[i * 6 + 1] = __shfl_down_sync(0xffffffffu, i, 3);
    y[i * 6 + 2] = __shfl_up_sync(0xffffffffu, i, 2, 8);
    y[i * 6 + 3] = __shfl_sync(0xffffffffu, i, 7, 16);
    y[i * 6 + 4] = (int)__ballot_sync(0xffffffffu, lane % 3 == 0);
    if (lane < 16) /* half a warp of its own */
        y[i * 6 + 5] = (int)__shfl_xor_sync(0xffffu, (double)i, 1);
}

static void test_lanes(void)
{
    int *y, fine = 1;
    cudaMalloc(&y, 64 * 6 * sizeof *y);
    for (int round = 0; round < 6; round++) {
        CUDA_LAUNCH(lanes, 1, 64, 0, 0, y);
        for (int i = 0; i < 64; i++) {
            int lane = i % 32, base = i - lane;
            fine &= y[i * 6] == base + (lane ^ 5);
            fine &= y[i * 6 + 1] == (lane + 3 < 32 ? i + 3 : i);
            fine &= y[i * 6 + 2] == (lane % 8 >= 2 ? i - 2 : i);
            fine &= y[i * 6 + 3] == i / 16 * 16 + 7;
            fine &= (unsigned)y[i * 6 + 4] == 0x49249249u;
            fine &= lane >= 16 || y[i * 6 + 5] == (i ^ 1);
        }
    }
    check(fine && cudaGetLastError() == cudaSuccess, "shuffles and ballots");
    cudaFree(y);
}

static __global__ void sums(double *y, int n, int *count)
{
    __shared__ double part[32];
    CUDA_DYNAMIC_SHARED(double, mine);
    int64_t i = cuda_first();
    mine[threadIdx.x] = (double)i;
    __syncthreads();
    double v = mine[blockDim.x - 1 - threadIdx.x];
    double sum = cuda_block_sum(i < n ? v : 0, part), again = cuda_block_sum(1.0, part);
    if (__syncthreads_count(threadIdx.x % 2 == 0) == (int)blockDim.x / 2 && threadIdx.x == 0) {
        y[blockIdx.x] = sum + again / 1024;
        atomicAdd(count, 1);
    }
}

static void test_sums(void)
{
    double *y;
    int *count, fine = 1;
    cudaMalloc(&y, 9 * sizeof *y);
    cudaMalloc(&count, sizeof *count);
    for (int round = 0; round < 6; round++) {
        cudaMemset(count, 0, sizeof *count);
        CUDA_LAUNCH(sums, 9, 96, 96 * sizeof(double), 0, y, 9 * 96, count);
        for (int b = 0; b < 9; b++)
            fine &= y[b] == 96.0 * 96 * b + 96 * 95 / 2 + 96.0 / 1024;
        fine &= *count == 9;
    }
    check(fine, "block sums, dynamic shared memory, barriers, atomics");
    cudaFree(y);
    cudaFree(count);
}

static __global__ void places(int *y)
{
    int t = (int)((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
    int b = (int)((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
    y[b * 24 + t] += b * 24 + t;
}

static void test_places(void)
{
    int *y, fine = 1;
    cudaMalloc(&y, 30 * 24 * sizeof *y);
    for (int round = 0; round < 8; round++) {
        cudaMemset(y, 0, 30 * 24 * sizeof *y);
        CUDA_LAUNCH(places, dim3(5, 3, 2), dim3(4, 3, 2), 0, 0, y);
        for (int i = 0; i < 30 * 24; i++)
            fine &= y[i] == i;
    }
    check(fine, "each thread of each block once, in any order");
    cudaFree(y);
}

/* The three ways to convert agree: kernels/dtype.h, cuda.h, and the emulated headers. */
static void test_types(void)
{
    int bf16 = 1, f16 = 1, fp8 = 1, wide = 1;
    uint32_t u = 1;
    for (int i = 0; i < 400000; i++) {
        u = u * 1664525u + 1013904223u;
        uint32_t bits = u;
        if (i % 3 == 0) /* ties, and what lies beside them */
            bits = (u & 0xfffff000u) | (i % 2 ? 0u : 0x1000u) | (uint32_t)(i / 3 % 3 - 1);
        if (i % 5 == 0) /* near the small types' ends */
            bits = (bits & 0x80ffffffu) | (0x38000000u + ((u >> 3) & 0xf000000u));
        float v = cudaemu_float(bits);
        bf16 &= cuda_bf16_from_f32(v) == dtype_bf16_from_f32(v) && (v != v || __float2bfloat16_rn(v).x == dtype_bf16_from_f32(v));
        f16 &= cuda_f16_from_f32(v) == dtype_f16_from_f32(v) && (v != v || __float2half_rn(v).x == dtype_f16_from_f32(v));
        fp8 &= cuda_e4m3_from_f32(v) == dtype_e4m3_from_f32(v) && (v != v || __nv_fp8_e4m3(v).__x == dtype_e4m3_from_f32(v));
    }
    for (int i = 0; i < 65536; i++) {
        float a = cuda_f16_to_f32((uint16_t)i), b = dtype_f16_to_f32((uint16_t)i), c = __half2float({(uint16_t)i});
        wide &= cudaemu_bits(a) == cudaemu_bits(b) && (b != b || cudaemu_bits(c) == cudaemu_bits(b));
        a = cuda_bf16_to_f32((uint16_t)i);
        wide &= cudaemu_bits(a) == cudaemu_bits(dtype_bf16_to_f32((uint16_t)i));
        __nv_fp8_e4m3 q;
        q.__x = (uint8_t)i;
        a = cuda_e4m3_to_f32((uint8_t)i), b = dtype_e4m3_to_f32((uint8_t)i), c = (float)q;
        wide &= cudaemu_bits(a) == cudaemu_bits(b) && (b != b || cudaemu_bits(c) == cudaemu_bits(b));
    }
    check(bf16, "bf16 rounds as kernels/dtype.h does");
    check(f16, "f16 rounds as kernels/dtype.h does");
    check(fp8, "e4m3 rounds as kernels/dtype.h does");
    check(wide, "small types widen as kernels/dtype.h does");
}

/* ---- what it finds ---- */

static __global__ void half_syncs(int *)
{
    if (threadIdx.x < 32)
        __syncthreads();
}

static __global__ void two_syncs(int *)
{
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}

static __global__ void lone_lane(int *y)
{
    if (threadIdx.x < 7)
        *y = __shfl_xor_sync(0xffffffffu, 1, 1);
    __syncthreads();
}

static __global__ void writes_at(int *y, int at)
{
    y[at] = 1;
}

static __global__ void writes_shared(int at)
{
    CUDA_DYNAMIC_SHARED(int, mine);
    mine[at] = 1;
}

static __global__ void sees_shared(float *y)
{
    __shared__ float mine[64];
    if (threadIdx.x != 5)
        mine[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = mine[threadIdx.x];
}

/* No barrier between the write and the neighbour's read. */
static __global__ void races(int *y)
{
    __shared__ int mine[64];
    mine[threadIdx.x] = (int)threadIdx.x;
    y[threadIdx.x] = mine[(threadIdx.x + 1) % 64];
}

static void test_mistakes(void)
{
    int *y;
    float *f;
    cudaMalloc(&y, 64 * sizeof *y);
    cudaMalloc(&f, 64 * sizeof *f);
    check_dies("a barrier that some threads never reach", "divergent __syncthreads", [=] { CUDA_LAUNCH(half_syncs, 1, 64, 0, 0, y); });
    check_dies("threads at two barriers", "divergent __syncthreads", [=] { CUDA_LAUNCH(two_syncs, 1, 64, 0, 0, y); });
    check_dies("a shuffle without its partners", "do not come", [=] { CUDA_LAUNCH(lone_lane, 1, 32, 0, 0, y); });
#if !defined(__SANITIZE_ADDRESS__)
    const char *fault = "bytes from the start of 256";
#else
    const char *fault = "AddressSanitizer";
#endif
    check_dies("a write far behind an allocation", fault, [=] { CUDA_LAUNCH(writes_at, 1, 1, 0, 0, y, 64); });
    check_dies("a write right behind an allocation", "wrote 0 bytes behind", [=] {
        int *z;
        cudaMalloc(&z, 60 * sizeof *z);
        CUDA_LAUNCH(writes_at, 1, 1, 0, 0, z, 60);
        cudaFree(z);
    });
    check_dies("a write behind dynamic shared memory", "dynamic shared memory", [=] { CUDA_LAUNCH(writes_shared, 1, 1, 40, 0, 10); });
    CUDA_LAUNCH(sees_shared, 2, 64, 0, 0, f);
    check(f[5] != f[5] && f[4] == 1, "shared memory that nobody wrote is NaN");
    int first[64], differs = 0;
    for (int round = 0; round < 8; round++) {
        CUDA_LAUNCH(races, 1, 64, 0, 0, y);
        differs += round && memcmp(first, y, sizeof first) != 0;
        memcpy(first, y, sizeof first);
    }
    check(differs > 0, "a race gives another result in another launch");
    check(cudaMemcpyAsync(y, first, sizeof first, cudaMemcpyHostToDevice, 0) == cudaErrorInvalidValue && cudaGetLastError(),
          "an asynchronous copy from pageable memory is refused");
    CUDA_LAUNCH(writes_at, 0, 1, 0, 0, y, 0);
    check(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess, "an empty grid is an error");
    CUDA_LAUNCH(writes_shared, 1, 1, 64 << 10, 0, 0);
    check(cudaGetLastError() == cudaErrorInvalidValue, "more than 48 KiB must be asked for");
    CUDA_SHARED_MAX(writes_shared, 64 << 10);
    CUDA_LAUNCH(writes_shared, 1, 1, 64 << 10, 0, 0);
    check(cudaGetLastError() == cudaSuccess, "and are had then");
    cudaFree(y);
    cudaFree(f);
}

/* ---- devices and threads ---- */

static __global__ void adds(int *y, int n, int v)
{
    for (int64_t i = cuda_first(); i < n; i += cuda_step())
        y[i] += v;
}

/* On a device of its own, from a thread of its own. */
static void use_device(int device, int *ret_fine)
{
    enum { N = 200 };
    cudaStream_t s;
    int *y, *host;
    bool fine = cudaSetDevice(device) == cudaSuccess && cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) == cudaSuccess;
    cudaMalloc(&y, N * sizeof *y);
    cudaMallocHost(&host, N * sizeof *host);
    cudaMemsetAsync(y, 0, N * sizeof *y, s);
    for (int i = 1; i <= 40; i++)
        CUDA_LAUNCH(adds, 3, 32, 0, s, y, N, i * (device + 1));
    cudaMemcpyAsync(host, y, N * sizeof *y, cudaMemcpyDeviceToHost, s);
    cudaStreamSynchronize(s);
    for (int i = 0; i < N; i++)
        fine &= host[i] == 820 * (device + 1);
    cudaFree(y);
    cudaFreeHost(host);
    cudaStreamDestroy(s);
    *ret_fine = fine && cudaGetLastError() == cudaSuccess;
}

/* In a child: CUDAEMU_DEVICES holds for a whole process. */
static bool devices_work(void)
{
    int fine[3] = {0}, n = 0, *a, *b, got[4];
    size_t before, after, all;
    cudaStream_t s0;
    bool ok = cudaGetDeviceCount(&n) == cudaSuccess && n == 3 && cudaSetDevice(3) == cudaErrorInvalidDevice;
    cudaGetLastError();
    std::thread one(use_device, 1, &fine[1]), two(use_device, 2, &fine[2]);
    use_device(0, &fine[0]);
    one.join();
    two.join();
    ok = ok && fine[0] && fine[1] && fine[2];
    cudaMalloc(&a, sizeof got);
    cudaStreamCreateWithFlags(&s0, cudaStreamNonBlocking);
    cudaSetDevice(1);
    cudaMemGetInfo(&before, &all);
    cudaMalloc(&b, sizeof got);
    cudaMemGetInfo(&after, &all);
    ok = ok && before == all && after < all;
    const int host[4] = {1, 2, 3, 4};
    cudaMemcpy(a, host, sizeof host, cudaMemcpyHostToDevice);
    ok = ok && cudaMemcpyPeerAsync(b, 0, a, 0, sizeof host, 0) == cudaErrorInvalidValue;
    ok = ok && cudaMemcpyPeerAsync(b, 1, a, 0, sizeof host, 0) == cudaSuccess;
    CUDA_LAUNCH(adds, 1, 32, 0, 0, b, 4, 10);
    cudaMemcpy(got, b, sizeof got, cudaMemcpyDeviceToHost);
    cudaGetLastError();
    CUDA_LAUNCH(adds, 1, 32, 0, s0, a, 4, 10);
    return ok && got[0] == 11 && got[3] == 14 && cudaGetLastError() == cudaErrorInvalidResourceHandle;
}

static void test_devices(void)
{
    setenv("CUDAEMU_DEVICES", "3", 1);
    check_dies("several devices, a thread each", "all is well", [] {
        fprintf(stderr, devices_work() ? "all is well" : "no");
        _exit(1);
    });
#if !defined(__SANITIZE_ADDRESS__)
    check_dies("a kernel on another device's memory", "memory of device 0", [] {
        int *y;
        cudaMalloc(&y, 64);
        cudaSetDevice(2);
        CUDA_LAUNCH(adds, 1, 32, 0, 0, y, 16, 1);
    });
#endif
    unsetenv("CUDAEMU_DEVICES");
}

/* ---- the order of streams ---- */

static __global__ void sets(int *y, const int *x, int v)
{
    y[0] = x[0] + v;
}

/* One stream computes x, another y from it; told by an event or not. Waits for the first or the second stream first. */
static int pair(bool event, bool first)
{
    int *x, *y, *host;
    cudaStream_t a, b;
    cudaEvent_t done;
    cudaMalloc(&x, 8);
    cudaMalloc(&y, 8);
    cudaMallocHost(&host, 8);
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&done, cudaEventDisableTiming);
    host[0] = 1;
    cudaMemcpyAsync(x, host, 8, cudaMemcpyHostToDevice, a);
    CUDA_LAUNCH(sets, 1, 1, 0, a, x, x, 40);
    cudaEventRecord(done, a);
    if (event)
        cudaStreamWaitEvent(b, done, 0);
    CUDA_LAUNCH(sets, 1, 1, 0, b, y, x, 1);
    cudaStreamSynchronize(first ? a : b);
    cudaStreamSynchronize(b);
    cudaMemcpy(host, y, 4, cudaMemcpyDeviceToHost);
    return host[0];
}

/* A pinned buffer that is used again: with or without waiting for the copy from it. */
static int reused(bool waits)
{
    int *x, *host, got = 0;
    cudaStream_t s;
    cudaEvent_t done;
    cudaMalloc(&x, 4);
    cudaMallocHost(&host, 4);
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&done, cudaEventDisableTiming);
    *host = 5;
    cudaMemcpyAsync(x, host, 4, cudaMemcpyHostToDevice, s);
    cudaEventRecord(done, s);
    if (waits)
        cudaEventSynchronize(done);
    *host = 6;
    while (cudaStreamQuery(s) == cudaErrorNotReady)
        continue;
    cudaMemcpy(&got, x, 4, cudaMemcpyDeviceToHost);
    return got;
}

static void say(int a, int b, int c, int d)
{
    fprintf(stderr, "got %d %d %d %d", a, b, c, d);
    _exit(1);
}

static void test_order(void)
{
    setenv("CUDAEMU_STREAMS", "late", 1);
    check_dies("late: an event orders", "got 42 42 5 5", [] { say(pair(true, true), pair(true, false), reused(true), 5); });
    check_dies("late: none is missed", "got 0 6", [] { say(pair(false, true), reused(false), 0, 0); });
    setenv("CUDAEMU_STREAMS", "early", 1);
    check_dies("early: an event orders", "got 42 42 5 5", [] { say(pair(true, true), pair(true, false), reused(true), 5); });
    check_dies("early: none is missed", "got 0 6", [] { say(pair(false, false), reused(false), 0, 0); });
    setenv("CUDAEMU_STREAMS", "random", 1);
    for (int i = 0; i < 4; i++) {
        const char seed[] = {(char)('0' + i), 0};
        setenv("CUDAEMU_SEED", seed, 1);
        check_dies("random: an event orders", "got 42 42 5 5", [] { say(pair(true, true), pair(true, false), reused(true), 5); });
    }
    unsetenv("CUDAEMU_SEED");
    unsetenv("CUDAEMU_STREAMS");
}

/* A stream that is held stands, until another thread lets it go; an event behind that lets a second one go. */
static int held(void)
{
    int *x, *y, got = 0;
    cudaStream_t a, b;
    cudaEvent_t done;
    cudaMalloc(&x, 4);
    cudaMalloc(&y, 4);
    cudaMemset(x, 0, 4);
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&done, cudaEventDisableTiming);
    cudaStreamSynchronize(0);
    cudaemu_hold(a);
    CUDA_LAUNCH(sets, 1, 1, 0, a, x, x, 7);
    cudaEventRecord(done, a);
    cudaStreamWaitEvent(b, done, 0);
    CUDA_LAUNCH(sets, 1, 1, 0, b, y, x, 1);
    bool waits = cudaStreamQuery(b) == cudaErrorNotReady;
    std::thread other([a] {
        usleep(1000);
        cudaemu_release(a);
    });
    cudaStreamSynchronize(b);
    other.join();
    cudaMemcpy(&got, y, 4, cudaMemcpyDeviceToHost);
    return waits ? got : -1;
}

/* ---- graphs ---- */

/* A stream and what a capture of it may use. */
struct scene {
    int *x, *host;
    cudaStream_t s;
    cudaEvent_t before;
};

static struct scene scene_new(void)
{
    struct scene c;
    cudaMalloc(&c.x, 8);
    cudaMallocHost(&c.host, 8);
    cudaStreamCreateWithFlags(&c.s, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&c.before, cudaEventDisableTiming);
    cudaEventRecord(c.before, c.s);
    c.host[0] = 10;
    cudaMemset(c.x, 0, 8);
    cudaDeviceSynchronize();
    return c;
}

static const char *launched(const struct scene &c)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec;
    size_t n = 0;
    cudaStreamBeginCapture(c.s, cudaStreamCaptureModeThreadLocal);
    CUDA_LAUNCH(sets, 1, 1, 0, c.s, c.x, c.x, 3);
    cudaMemcpyAsync(c.host, c.x, 4, cudaMemcpyDeviceToHost, c.s);
    if (cudaStreamEndCapture(c.s, &graph) != cudaSuccess || cudaGraphGetNodes(graph, NULL, &n) != cudaSuccess || n != 2)
        return "two nodes";
    if (c.host[0] != 10)
        return "nothing runs while it is captured";
    if (cudaGraphInstantiate(&exec, graph) != cudaSuccess || cudaGraphDestroy(graph) != cudaSuccess)
        return "a graph is instantiated";
    for (int i = 0; i < 3; i++)
        cudaGraphLaunch(exec, c.s);
    cudaStreamSynchronize(c.s);
    cudaGraphExecDestroy(exec);
    return c.host[0] == 9 ? "fine" : "three launches of it";
}

/* Call i of those that no capture survives. */
static cudaError_t forbidden(const struct scene &c, int i)
{
    int plain[2] = {0, 0};
    void *p;
    switch (i) {
    case 0:
        return cudaStreamSynchronize(c.s);
    case 1:
        return cudaMalloc(&p, 4);
    case 2:
        return cudaMemcpyAsync(c.x, plain, 4, cudaMemcpyHostToDevice, c.s);
    case 3:
        return cudaMemcpy(plain, c.x, 4, cudaMemcpyDeviceToHost);
    case 4:
        return cudaEventSynchronize(c.before);
    case 5:
        return cudaStreamWaitEvent(c.s, c.before, 0);
    default:
        return cudaDeviceSynchronize();
    }
}

static bool ends_capture(const struct scene &c, int i)
{
    cudaGraph_t graph = NULL;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaStreamBeginCapture(c.s, cudaStreamCaptureModeThreadLocal);
    bool fails = forbidden(c, i) != cudaSuccess;
    cudaStreamIsCapturing(c.s, &status);
    CUDA_LAUNCH(sets, 1, 1, 0, c.s, c.x, c.x, 100);
    fails = fails && cudaGetLastError() == cudaErrorStreamCaptureInvalidated;
    fails = fails && cudaStreamEndCapture(c.s, &graph) == cudaErrorStreamCaptureInvalidated && !graph;
    return fails && status == cudaStreamCaptureStatusInvalidated;
}

static const char *captured(void)
{
    struct scene c = scene_new();
    const char *said = launched(c);
    int got = 0;
    if (strcmp(said, "fine") != 0)
        return said;
    for (int i = 0; i < 7; i++) {
        if (!ends_capture(c, i))
            return "a forbidden call ends a capture";
    }
    cudaGetLastError();
    CUDA_LAUNCH(sets, 1, 1, 0, c.s, c.x, c.x, 1);
    cudaStreamSynchronize(c.s);
    cudaMemcpy(&got, c.x, 4, cudaMemcpyDeviceToHost);
    return got == 10 && cudaGetLastError() == cudaSuccess ? "fine" : "the stream is as it was after it";
}

static void test_graphs(void)
{
    static const char *const orders[] = {"", "late", "early", "random"};
    for (const char *order : orders) {
        setenv("CUDAEMU_STREAMS", order, 1);
        check_dies("a stream that is held", "got 8", [] { say(held(), 0, 0, 0); });
        check_dies("capture and launch", "fine", [] {
            fprintf(stderr, "%s", captured());
            _exit(1);
        });
    }
    unsetenv("CUDAEMU_STREAMS");
    setenv("CUDAEMU_BREAK", "2", 1);
    check_dies("a capture that breaks where it is told to", "two nodes", [] {
        fprintf(stderr, "%s", captured());
        _exit(1);
    });
    unsetenv("CUDAEMU_BREAK");
}

int main(void)
{
    unsetenv("CUDAEMU_HIDE"); /* this program looks at device memory itself */
    test_order(); /* first: their children set the emulation up anew */
    test_graphs();
    test_devices();
    test_lanes();
    test_sums();
    test_places();
    test_types();
    test_mistakes();
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
