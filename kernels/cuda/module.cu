/* module.cu -- the CUDA device's way in: troupe_cuda_open, the one symbol that this module exports (kernels/device.h).
 *
 * It finds the GPU and says what it is. There are no operations here yet, so opening ends in ERR_UNSUPPORTED with that
 * sentence, whatever the machine has. They will stand beside this file, one .cu for each file of kernels/cpu/.
 */
#include <cuda_runtime.h>

extern "C" {
#include "kernels/device.h"
}

extern "C" __attribute__((visibility("default"))) device_module_fn troupe_cuda_open;

/* What the runtime says about GPU `index`. */
static int find_gpu(int index, struct cudaDeviceProp *ret, struct err *err)
{
    int n = 0, driver = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
        return err_set(err, ERR_UNSUPPORTED, "device cuda: no NVIDIA driver is loaded here: use --device cpu");
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess)
        return err_set(err, ERR_UNSUPPORTED, "device cuda: no GPU can be used here (%s): use --device cpu",
                       cudaGetErrorString(e));
    if (index < 0 || index >= n)
        return err_set(err, ERR_INVALID, "device cuda:%d: this machine has %d GPUs, numbered from 0", index, n);
    e = cudaGetDeviceProperties(ret, index);
    if (e != cudaSuccess)
        return err_set(err, ERR_DEVICE, "device cuda:%d: %s", index, cudaGetErrorString(e));
    return 0;
}

int troupe_cuda_open(struct device *d, const struct device_options *o, struct err *err)
{
    (void)d; /* nothing to set: it does not open */
    struct cudaDeviceProp gpu;
    int rc = find_gpu(o->index, &gpu, err);
    if (rc < 0)
        return rc;
    return err_set(err, ERR_UNSUPPORTED,
                   "device cuda:%d (%s, %.1f GiB, sm_%d%d): this build's CUDA module holds no operations yet: "
                   "use --device cpu",
                   o->index, gpu.name, (double)gpu.totalGlobalMem / (1 << 30), gpu.major, gpu.minor);
}
