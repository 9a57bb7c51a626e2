/* test_cudnn_plans.c -- the real cuDNN, without a GPU: given the description of a device that is not here (cuDNN 9.8 and
 * later), does it take what kernels/cuda/lib_dnn.c asks for? Convolutions of the VAE must come to a plan; of attention, an
 * engine must know the graph and get as far as asking for the driver, which its complaints tell. Nothing is computed. Where
 * the library does not take the description the test is skipped.
 *
 * The file is included, not linked: its plans are static.
 */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/lib_dnn.c"

/* An H100 (SXM), by NVIDIA's published figures, but for its compute capability; the names are those the library asks for. */
static const char device[] =
    "{\"deviceName\": \"H100\", \"cudaDeviceId\": 0, \"deviceVer\": %d, \"driverVer\": 13000, \"multiProcessorCount\": 132,"
    " \"totalGlobalMem\": 85000000000, \"maxGridSize\": [2147483647, 65535, 65535], \"maxBlockSize\": [1024, 1024, 64],"
    " \"regsPerBlock\": 65536, \"smClockRateKHz\": 1980000, \"memClockRateKHz\": 2619000, \"l2CacheSize\": 52428800,"
    " \"warpSize\": 32, \"maxSharedMemoryPerBlock\": 49152, \"maxSharedMemoryPerBlockOptin\": 232448,"
    " \"reservedSharedMemoryPerBlock\": 1024, \"maxSharedMemoryPerSM\": 233472, \"maxRegistersPerSM\": 65536,"
    " \"pciDeviceId\": 0, \"maxCtasPerSM\": 32, \"maxThreadsPerBlock\": 1024, \"maxThreadsPerSM\": 2048,"
    " \"isTccDriver\": 0, \"supportCoopLaunch\": 1}";

static int passed, failed;

/* What the file calls when it computes. */
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    (void)s;
    return cudaErrorNotSupported;
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

int cuda_copy(struct run *r, struct tensor dst, struct tensor x)
{
    (void)dst, (void)x;
    return run_fail(r, ERR_INTERNAL, "nothing is computed here");
}

int cuda_fill(struct run *r, struct tensor x, float value)
{
    (void)value;
    return cuda_copy(r, x, x);
}

int e4m3_rows(struct run *r, struct tensor dst, struct tensor x, struct tensor less, struct tensor scale, bool each_row)
{
    (void)less, (void)scale, (void)each_row;
    return cuda_copy(r, dst, x);
}

int e4m3_mean(struct run *r, struct tensor dst, struct tensor x)
{
    return cuda_copy(r, dst, x);
}

int lib_dnn_padded(struct run *r, struct tensor dst, struct tensor x, const int64_t from[3], bool replicate)
{
    (void)from, (void)replicate;
    return cuda_copy(r, dst, x);
}

int lib_dnn_finish(struct run *r, struct tensor y, struct tensor x, struct tensor b, enum act act)
{
    (void)b, (void)act;
    return cuda_copy(r, y, x);
}

static void check(struct dnn_plan *p, bool fine, const char *what)
{
    fine ? passed++ : failed++;
    if (!fine) {
        char why[1000] = "";
        cudnnGetLastErrorString(why, sizeof why);
        printf("FAIL %s: %s; %s\n", what, cudnnGetErrorString(p->status), why);
    }
    forget(p);
}

/* y [T, H, W, Co], channels in, kernel, strides */
static void check_conv(struct dnn *d, const char *what, const int64_t y[4], int64_t ci, const int64_t kernel[3],
                       const int stride[3])
{
    int64_t x[4] = {0, 0, 0, ci}, w[5] = {y[3], ci, kernel[0], kernel[1], kernel[2]};
    for (int i = 0; i < 3; i++)
        x[i] = (y[i] - 1) * stride[i] + kernel[i];
    for (int f16 = 0; f16 < 2; f16++) {
        struct dnn_plan p = {0};
        conv_plan(d, &p, x, y, w, stride, f16 ? CUDNN_DATA_HALF : CUDNN_DATA_BFLOAT16);
        check(&p, p.plan != NULL, what);
    }
}

/* The library keeps its last complaints until they are read: an engine that took the graph misses the driver then. */
static bool asked_for_driver(void)
{
    static char text[65536];
    text[0] = 0;
    cudnnGetLastErrorString(text, sizeof text);
    return strstr(text, "PREREQUISITE_MISSING") != NULL;
}

static void check_attention(struct dnn *d, const char *what, bool e4m3, int64_t sq, int64_t sk, int64_t hq, int64_t hk,
                            int64_t width)
{
    struct dnn_plan p = {0};
    asked_for_driver();
    if (e4m3)
        e4m3_plan(d, &p, sq, sk, hq, width);
    else
        attention_plan(d, &p, sq, sk, hq, hk, width);
    check(&p, p.status == CUDNN_STATUS_SUCCESS && (p.plan || asked_for_driver()), what);
}

static bool describe(struct dnn *d, int version)
{
    char text[sizeof device + 16];
    int n = snprintf(text, sizeof text, device, version);
    return cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &d->described) == CUDNN_STATUS_SUCCESS &&
           cudnnBackendSetAttribute(d->described, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, n, text) ==
               CUDNN_STATUS_SUCCESS &&
           cudnnBackendFinalize(d->described) == CUDNN_STATUS_SUCCESS;
}

int main(void)
{
    static const int capable[] = {900, 1000, 1030, 1200}; /* of attention in e4m3 */
    struct dnn d = {0};
    if (!describe(&d, 900)) {
        printf("0 passed, 0 failed, 1 skipped\n");
        return 0;
    }
    check_conv(&d, "128 channels", (int64_t[]){17, 64, 64, 128}, 128, (int64_t[]){3, 3, 3}, (int[]){1, 1, 1});
    check_conv(&d, "512 channels", (int64_t[]){9, 32, 32, 512}, 512, (int64_t[]){3, 3, 3}, (int[]){1, 1, 1});
    check_conv(&d, "the way down", (int64_t[]){9, 64, 64, 128}, 128, (int64_t[]){3, 3, 3}, (int[]){2, 2, 2});
    check_conv(&d, "a shortcut", (int64_t[]){17, 64, 64, 128}, 256, (int64_t[]){1, 1, 1}, (int[]){1, 1, 1});
    check_attention(&d, "attention of the DiT", false, 72639, 72639, 2, 2, 128);
    check_attention(&d, "attention with groups", false, 2000, 3001, 4, 2, 128);
    for (int i = 0; i < (int)(sizeof capable / sizeof capable[0]); i++) {
        cudnnBackendDestroyDescriptor(d.described);
        if (!describe(&d, capable[i]))
            continue;
        check_attention(&d, "attention of the DiT in e4m3", true, 72639, 72639, 24, 24, 128);
        check_attention(&d, "attention in e4m3 with narrow heads", true, 2000, 3001, 2, 2, 64);
    }
    cudnnBackendDestroyDescriptor(d.described);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
