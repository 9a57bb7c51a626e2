/* module.cu -- the CUDA device's way in: troupe_cuda_open, the one symbol that this module exports (kernels/device.h).
 * It finds the GPU, proves that this build has code for it, and takes what a device needs for its whole life.
 */
#include "kernels/cuda/cuda.h"

#include <stdio.h>

extern "C" {
#include "common/mem.h"
#include "common/str.h"
#include "kernels/cuda/nvml.h"
}
#include "kernels/cuda/comm_nccl.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/lib_blas.h"
#include "kernels/cuda/lib_dnn.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/queues.h"
#include "kernels/cuda/table.h"

extern "C" __attribute__((visibility("default"))) device_module_fn troupe_cuda_open;

#define SM_LEAST 80 /* Ampere: bf16 in the tensor cores */
#define SM_FP8 89   /* Ada: e4m3 in the tensor cores */
#define PROBE 4711

/* What the runtime says about GPU `index`; whether it is fit for what is wanted. */
static int find_gpu(int index, enum device_precision precision, struct cudaDeviceProp *ret, struct err *err)
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
        return cuda_err(err, e, "device properties");
    int sm = 10 * ret->major + ret->minor;
    if (sm < SM_LEAST)
        return err_set(err, ERR_UNSUPPORTED,
                       "device cuda:%d (%s) is of compute capability %d.%d: 8.0 or more is needed (Ampere and later): "
                       "use --device cpu",
                       index, ret->name, ret->major, ret->minor);
    if (precision == DEVICE_FP8 && sm < SM_FP8)
        return err_set(err, ERR_UNSUPPORTED,
                       "device cuda:%d (%s): precision fp8 needs compute capability 8.9 or later: this is %d.%d: use bf16",
                       index, ret->name, ret->major, ret->minor);
    return 0;
}

static __global__ void probe(int *p)
{
    *p = PROBE;
}

/* One launch through and back: the driver is new enough, and the module was built for this GPU. */
static int probe_gpu(struct device *d, struct cuda_impl *c, struct err *err)
{
    int got = 0;
    CUDA_LAUNCH(probe, 1, 1, 0, c->compute, (int *)c->work);
    cudaError_t e = cudaGetLastError();
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction)
        return err_set(err, ERR_UNSUPPORTED,
                       "device cuda:%d (%s): this build holds no code for sm_%d: build with -Dgpu_arch=sm_%d or all",
                       c->index, d->name, c->sm, c->sm);
    if (e != cudaSuccess)
        return cuda_err(err, e, "the first launch");
    int rc = memory_read(d, &got, c->work, sizeof got);
    if (rc == 0 && got != PROBE)
        rc = ERR_DEVICE;
    return rc < 0 ? err_set(err, rc, "device cuda:%d (%s): the first kernel gave no result", c->index, d->name) : 0;
}

static void close_gpu(struct device *d)
{
    struct cuda_impl *c = (struct cuda_impl *)d->impl;
    if (!c)
        return;
    cuda_here(c);
    if (c->compute)
        cudaStreamSynchronize(c->compute);
    if (c->copy)
        cudaStreamSynchronize(c->copy);
    if (c->dnn && c->dnn_close)
        c->dnn_close(c->dnn);
    if (c->blas && c->blas_close)
        c->blas_close(c->blas);
    memory_close(d);
    queues_close(d);
    if (c->copy)
        cudaStreamDestroy(c->copy);
    if (c->compute)
        cudaStreamDestroy(c->compute);
    nvml_close(c->nvml);
    mem_free(c);
    d->impl = NULL;
}

static int open_gpu(struct device *d, struct cuda_impl *c, const struct cudaDeviceProp *gpu, const struct device_options *o,
                    struct err *err)
{
    c->nvml = nvml_open(gpu->pciDomainID, gpu->pciBusID, gpu->pciDeviceID); /* before there is a context */
    c->sm = 10 * gpu->major + gpu->minor;
    c->n_sm = gpu->multiProcessorCount;
    c->shared_max = gpu->sharedMemPerBlockOptin;
    cudaError_t e = cuda_here(c);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&c->compute, cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&c->copy, cudaStreamNonBlocking);
    if (e != cudaSuccess)
        return cuda_err(err, e, "streams");
    int rc = queues_open(d, err);
    if (rc == 0)
        rc = lib_blas_open(c, err);
    if (rc == 0 && o->precision != DEVICE_F32) /* which does without */
        rc = lib_dnn_open(c, err);
    if (rc == 0)
        rc = memory_open(d, o->memory_limit, err); /* counts what is taken by now */
    return rc < 0 ? rc : probe_gpu(d, c, err);
}

int troupe_cuda_open(struct device *d, const struct device_options *o, struct err *err)
{
    static struct device_hooks hooks;
    struct cudaDeviceProp gpu;
    int rc = find_gpu(o->index, o->precision, &gpu, err);
    if (rc < 0)
        return rc;
    struct cuda_impl *c = (struct cuda_impl *)mem_zalloc(sizeof *c);
    if (!c)
        return err_set(err, ERR_NOMEM, "device cuda: no memory");
    c->index = o->index;
    d->impl = c;
    str_copy(d->name, sizeof d->name, gpu.name);
    d->memory_bytes = gpu.totalGlobalMem;
    rc = open_gpu(d, c, &gpu, o, err);
    if (rc < 0) {
        close_gpu(d);
        cudaGetLastError(); /* the next one to open starts clean */
        return rc;
    }
    memory_hooks(&hooks);
    queues_hooks(&hooks);
    graph_hooks(&hooks);
    hooks.close = close_gpu;
#ifdef TROUPE_NCCL
    hooks.comm = comm_nccl_open;
#endif
    d->table = table_get();
    d->hooks = &hooks;
    d->n_threads = 1;
    d->precision = o->precision;
    d->is_host = false;
    return 0;
}
