/* graph.cu -- recordings of kernels/run_repeat.h: what the compute stream gets is captured into a CUDA graph.
 *
 * The capture is this thread's alone (cudaStreamCaptureModeThreadLocal): other ranks of the process may allocate and wait
 * meanwhile. TROUPE_CUDA_GRAPHS=0 switches recordings off. Source: CUDA C++ Programming Guide 13.0, "CUDA Graphs".
 */
#include "kernels/cuda/graph.h"

#include <stdlib.h>

static struct cuda_impl *impl(const struct device *d)
{
    return (struct cuda_impl *)d->impl;
}

/* What broke a recording is no error of the device: those that stay are found by the next op. */
static int no_recording(void)
{
    cudaGetLastError();
    return ERR_UNSUPPORTED;
}

static int begin(struct device *d)
{
    cudaError_t e = cuda_here(impl(d));
    if (e == cudaSuccess)
        e = cudaStreamBeginCapture(impl(d)->compute, cudaStreamCaptureModeThreadLocal);
    return e == cudaSuccess ? 0 : no_recording();
}

static int end(struct device *d, void **ret)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cudaError_t e = cudaStreamEndCapture(impl(d)->compute, &graph);
    if (e == cudaSuccess && ret)
        e = cudaGraphInstantiate(&exec, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    if (e != cudaSuccess || !ret)
        return no_recording();
    *ret = exec;
    return 0;
}

static int play(struct device *d, void *recording)
{
    cudaError_t e = cuda_here(impl(d));
    if (e == cudaSuccess)
        e = cudaGraphLaunch((cudaGraphExec_t)recording, impl(d)->compute);
    return e == cudaSuccess ? 0 : no_recording();
}

static void free_recording(struct device *d, void *recording)
{
    cuda_here(impl(d));
    cudaGraphExecDestroy((cudaGraphExec_t)recording); /* CUDA waits for launches under way */
}

void graph_hooks(struct device_hooks *h)
{
    const char *on = getenv("TROUPE_CUDA_GRAPHS");
    const bool off = on && on[0] == '0' && on[1] == 0;
    h->repeat_begin = off ? NULL : begin;
    h->repeat_end = end;
    h->repeat_play = play;
    h->repeat_free = free_recording;
}
