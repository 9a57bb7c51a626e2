/* nvml_fake.c -- a libnvidia-ml.so.1 that says what the environment says, for test_cuda_pool.c. The functions and structs
 * are NVML's (its API reference, r515 and later); 0 is success, 6 not found, 7 too small a list.
 *
 * FAKE_NVML_GPU    the PCI address it knows; none: nvmlInit fails
 * FAKE_NVML_OWN    bytes of this process; none: the list has only others
 * FAKE_NVML_USED   bytes of all processes
 * FAKE_NVML_OTHERS processes before this one in the list, with a byte each (2)
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId;
    unsigned int computeInstanceId;
} nvmlProcessInfo_t;

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *where, void **gpu);
int nvmlDeviceGetMemoryInfo(void *gpu, nvmlMemory_t *ret);
int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned int *n, nvmlProcessInfo_t *ret);

static int n_open, gpu_here;

static unsigned long long number(const char *name, unsigned long long otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

int nvmlInit_v2(void)
{
    if (!getenv("FAKE_NVML_GPU"))
        return 9; /* the driver is not loaded */
    n_open++;
    return 0;
}

int nvmlShutdown(void)
{
    return n_open-- > 0 ? 0 : 1;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *where, void **gpu)
{
    if (n_open == 0 || strcmp(where, getenv("FAKE_NVML_GPU")) != 0)
        return 6;
    *gpu = &gpu_here;
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *gpu, nvmlMemory_t *ret)
{
    if (gpu != &gpu_here)
        return 2;
    ret->total = 80ull << 30;
    ret->used = number("FAKE_NVML_USED", 0);
    ret->free = ret->total - ret->used;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned int *n, nvmlProcessInfo_t *ret)
{
    unsigned int others = (unsigned int)number("FAKE_NVML_OTHERS", 2), all = others + (getenv("FAKE_NVML_OWN") != NULL);
    if (gpu != &gpu_here)
        return 2;
    if (all > *n) {
        *n = all;
        return 7;
    }
    for (unsigned int i = 0; i < all; i++)
        ret[i] = (nvmlProcessInfo_t){(unsigned int)getpid() + 1 + i, 1, ~0u, ~0u};
    if (all > others) {
        ret[others].pid = (unsigned int)getpid();
        ret[others].usedGpuMemory = number("FAKE_NVML_OWN", 0);
    }
    *n = all;
    return 0;
}
