/* queues.cu -- the hooks that kernels/pool.h needs: copies on a stream of their own beside the ops, and each waiting for the
 * other by events. A ticket is the number of a mark. Its event serves again every CUDA_MARKS marks; what waits for an old
 * ticket waits for a later point of the same queue then, which is right, if late.
 */
#include "kernels/cuda/memory.h"
#include "kernels/cuda/queues.h"

static struct cuda_impl *impl(const struct device *d)
{
    return (struct cuda_impl *)d->impl;
}

static cudaStream_t stream_of(const struct cuda_impl *c, enum device_queue q)
{
    return q == DEVICE_OPS ? c->compute : c->copy;
}

static int copy(struct device *d, void *dst, const void *host, size_t bytes, bool is_pinned)
{
    struct cuda_impl *c = impl(d);
    struct cuda_slot *last = NULL;
    cudaError_t e = cuda_here(c);
    if (e == cudaSuccess && is_pinned)
        e = cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, c->copy);
    else if (e == cudaSuccess)
        e = memory_send(c, c->copy, (char *)dst, (const char *)host, bytes, &last);
    return cuda_err(NULL, e, "a copy");
}

static int mark(struct device *d, enum device_queue q, uint64_t *ret)
{
    struct cuda_impl *c = impl(d);
    struct cuda_marks *m = &c->marks[q];
    cudaError_t e = cuda_here(c);
    if (e == cudaSuccess)
        e = cudaEventRecord(m->events[m->n % CUDA_MARKS], stream_of(c, q));
    if (e == cudaSuccess)
        *ret = ++m->n;
    return cuda_err(NULL, e, "a mark");
}

static int wait(struct device *d, enum device_queue q, enum device_queue of, uint64_t ticket)
{
    struct cuda_impl *c = impl(d);
    const struct cuda_marks *m = &c->marks[of];
    if (ticket == 0 || ticket > m->n)
        return ERR_INTERNAL;
    cudaError_t e = cuda_here(c);
    if (e == cudaSuccess)
        e = cudaStreamWaitEvent(stream_of(c, q), m->events[(ticket - 1) % CUDA_MARKS], 0);
    return cuda_err(NULL, e, "a wait");
}

static void *pin(struct device *d, size_t bytes)
{
    char *p = NULL;
    if (cuda_here(impl(d)) == cudaSuccess && cudaMallocHost(&p, bytes) == cudaSuccess)
        return p;
    cudaGetLastError(); /* no memory: the next launch must not find it */
    return NULL;
}

static void unpin(struct device *d, void *p)
{
    cuda_here(impl(d));
    cudaFreeHost(p);
}

int queues_open(struct device *d, struct err *err)
{
    struct cuda_impl *c = impl(d);
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < 2 * CUDA_MARKS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&c->marks[i / CUDA_MARKS].events[i % CUDA_MARKS], cudaEventDisableTiming);
    return cuda_err(err, e, "events");
}

void queues_close(struct device *d)
{
    struct cuda_impl *c = impl(d);
    for (int i = 0; i < 2 * CUDA_MARKS; i++) {
        if (c->marks[i / CUDA_MARKS].events[i % CUDA_MARKS])
            cudaEventDestroy(c->marks[i / CUDA_MARKS].events[i % CUDA_MARKS]);
    }
}

void queues_hooks(struct device_hooks *h)
{
    h->copy = copy;
    h->mark = mark;
    h->wait = wait;
    h->pin = pin;
    h->unpin = unpin;
}
