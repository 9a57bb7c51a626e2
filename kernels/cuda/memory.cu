/* memory.cu -- what lies on the device and the ways up and down. Errors of the module get their text here.
 *
 * Nothing here is called inside a forward but write (small pieces: pinned, in the order of the ops, without waiting as long
 * as 64 of them are not under way) and read (which is there to wait).
 */
#include "kernels/cuda/memory.h"

#include <stdio.h>
#include <string.h>

extern "C" {
#include "common/mem.h"
#include "common/str.h"
#include "kernels/cuda/nvml.h"
}

/* What this process has of the device without having asked for it. The driver's context, where NVML does not say; and what
 * comes later: code of kernels at their first use, cuBLASLt's, cuDNN's and NCCL's own allocations. Estimates. */
#define CONTEXT ((size_t)512 << 20)
#define LIBRARIES ((size_t)256 << 20)

/* The driver gives whole pages to large allocations; small ones share pages. */
#define PAGE ((size_t)2 << 20)
#define SMALL ((size_t)1 << 20)
#define SMALL_ALIGN ((size_t)512)

struct cuda_weight {
    const char *host;
    size_t bytes;
    char *device;
};

static struct cuda_impl *impl(const struct device *d)
{
    return (struct cuda_impl *)d->impl;
}

cudaError_t cuda_here(const struct cuda_impl *c)
{
    static thread_local int here = -1; /* every call of cudaSetDevice is this one */
    if (here == c->index)
        return cudaSuccess;
    cudaError_t e = cudaSetDevice(c->index);
    if (e == cudaSuccess)
        here = c->index;
    return e;
}

/* ---- errors ---- */

static int code_of(cudaError_t e)
{
    switch (e) {
    case cudaErrorMemoryAllocation:
        return ERR_NOMEM;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDevicePointer:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorNotSupported:
        return ERR_INTERNAL; /* the call was wrong; the context lives on */
    default:
        return ERR_DEVICE;
    }
}

int cuda_fail(struct run *r, cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return 0;
    int code = code_of(e);
    return run_fail(r, code, "%s: %s (%s)%s", what, cudaGetErrorString(e), cudaGetErrorName(e),
                    code == ERR_DEVICE ? "; it may come from an op before, CUDA_LAUNCH_BLOCKING=1 tells" : "");
}

int cuda_err(struct err *err, cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return 0;
    return err_set(err, code_of(e), "device cuda: %s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
}

int cuda_launched(struct run *r)
{
    return cuda_fail(r, cudaGetLastError(), "launch");
}

void *cuda_work(struct run *r, size_t from, size_t bytes)
{
    size_t all = cuda_of(r)->work_bytes;
    if (from <= all && bytes <= all - from && from % 256 == 0)
        return cuda_of(r)->work + from;
    run_fail(r, ERR_INTERNAL, "%zu bytes from %zu on are wanted of a work buffer of %zu", bytes, from, all);
    return NULL;
}

/* ---- what is taken ---- */

static size_t counted(size_t bytes)
{
    size_t unit = bytes > SMALL ? PAGE : SMALL_ALIGN;
    return (bytes + unit - 1) / unit * unit;
}

/* Of the memory_limit. */
static size_t left(const struct device *d)
{
    size_t limit = impl(d)->memory_limit, taken = impl(d)->driver_bytes + d->taken_bytes;
    return limit == 0 ? SIZE_MAX : limit > taken ? limit - taken : 0;
}

/* All device memory of this module comes from here and goes there. */
static cudaError_t take(struct device *d, char **ret, size_t bytes)
{
    cudaError_t e = counted(bytes) <= left(d) ? cudaMalloc(ret, bytes) : cudaErrorMemoryAllocation;
    if (e != cudaSuccess) {
        cudaGetLastError(); /* no memory does not stick */
        return e;
    }
    d->taken_bytes += counted(bytes);
    d->peak_bytes = d->taken_bytes > d->peak_bytes ? d->taken_bytes : d->peak_bytes;
    return cudaSuccess;
}

static void give(struct device *d, void *p, size_t bytes)
{
    if (!p)
        return;
    cudaFree(p);
    d->taken_bytes -= counted(bytes);
}

static size_t free_bytes(const struct device *d)
{
    size_t n = 0, all = 0, limit = left(d) / PAGE * PAGE;
    cuda_here(impl(d));
    if (cudaMemGetInfo(&n, &all) != cudaSuccess)
        return 0;
    n = n > LIBRARIES ? n - LIBRARIES : 0; /* not ours: whoever takes all of it must be able to run */
    return n < limit ? n : limit;
}

static size_t used_bytes(const struct device *d, bool *by_nvml)
{
    size_t least = d->taken_bytes + (impl(d)->nvml ? 0 : impl(d)->driver_bytes), n = nvml_used(impl(d)->nvml, by_nvml);
    return *by_nvml || n > least ? n : least;
}

/* "1.2 GiB that are free": what something does not fit. */
static const char *room_text(const struct device *d, char *dst, size_t size)
{
    char room[32], limit[32];
    str_bytes(room, sizeof room, free_bytes(d));
    if (impl(d)->memory_limit)
        str_format(dst, size, "%s that are left of the %s that --max-memory-mib allows", room,
                   str_bytes(limit, sizeof limit, impl(d)->memory_limit));
    else
        str_format(dst, size, "%s that are free", room);
    return dst;
}

/* ---- for life ---- */

static cudaError_t slots_new(struct cuda_slot *slots, int n, size_t bytes)
{
    char *all;
    cudaError_t e = cudaMallocHost(&all, (size_t)n * bytes);
    if (e != cudaSuccess)
        return e;
    for (int i = 0; i < n && e == cudaSuccess; i++) {
        slots[i].pinned = all + (size_t)i * bytes;
        e = cudaEventCreateWithFlags(&slots[i].event, cudaEventDisableTiming);
    }
    return e;
}

static void slots_free(struct cuda_slot *slots, int n)
{
    for (int i = 0; i < n; i++) {
        if (slots[i].event)
            cudaEventDestroy(slots[i].event);
    }
    if (slots[0].pinned)
        cudaFreeHost(slots[0].pinned);
}

static void count_driver(struct device *d, size_t memory_limit)
{
    bool is_own;
    size_t context = nvml_used(impl(d)->nvml, &is_own);
    impl(d)->driver_bytes = (is_own ? context : CONTEXT) + LIBRARIES;
    impl(d)->memory_limit = memory_limit;
}

int memory_open(struct device *d, size_t memory_limit, struct err *err)
{
    struct cuda_impl *c = impl(d);
    size_t of = memory_limit && memory_limit < d->memory_bytes ? memory_limit : d->memory_bytes, share = of / 40 / 256 * 256;
    char want[32], have[128];
    count_driver(d, memory_limit);
    c->work_bytes = share > CUDA_WORK_BYTES ? share : CUDA_WORK_BYTES;
    cudaError_t e = take(d, &c->work, c->work_bytes);
    if (e != cudaSuccess)
        return err_set(err, code_of(e), "device cuda: the work buffer of %s does not fit the %s: %s",
                       str_bytes(want, sizeof want, c->work_bytes), room_text(d, have, sizeof have), cudaGetErrorString(e));
    d->fixed_bytes = d->taken_bytes + c->driver_bytes;
    int rc = cuda_err(err, slots_new(c->small, CUDA_STAGE_N_SMALL, CUDA_STAGE_SMALL), "pinned memory");
    if (rc == 0)
        rc = cuda_err(err, slots_new(c->large, CUDA_STAGE_N_LARGE, CUDA_STAGE_LARGE), "pinned memory");
    return rc;
}

void memory_close(struct device *d)
{
    struct cuda_impl *c = impl(d);
    for (size_t i = 0; i < c->n_weights; i++)
        give(d, c->weights[i].device, c->weights[i].bytes);
    mem_free(c->weights);
    slots_free(c->small, CUDA_STAGE_N_SMALL);
    slots_free(c->large, CUDA_STAGE_N_LARGE);
    give(d, c->work, c->work_bytes);
}

/* ---- the arena ---- */

/* Where the size is left to us a quarter stays free, for weights and other processes. */
static int arena_new(struct device *d, size_t *bytes, void **ret, struct err *err)
{
    size_t room = free_bytes(d), n = *bytes ? *bytes : (room - room / 4) / PAGE * PAGE;
    char *p = NULL, want[32], have[128];
    cudaError_t e = n ? take(d, &p, n) : cudaErrorMemoryAllocation;
    if (e != cudaSuccess)
        return err_set(err, code_of(e), "device cuda: %s in one piece do not fit the %s: %s",
                       str_bytes(want, sizeof want, n), room_text(d, have, sizeof have), cudaGetErrorString(e));
    *bytes = n;
    *ret = p;
    return 0;
}

static void arena_free(struct device *d, void *arena, size_t bytes)
{
    cuda_here(impl(d));
    cudaStreamSynchronize(impl(d)->compute);
    give(d, arena, bytes);
}

/* ---- up and down ---- */

/* The next slot, once the copy that used it last is over. */
static cudaError_t slot_take(struct cuda_slot *slots, int n, int *next, struct cuda_slot **ret)
{
    *ret = &slots[*next];
    *next = (*next + 1) % n;
    return cudaEventSynchronize((*ret)->event);
}

cudaError_t memory_send(struct cuda_impl *c, cudaStream_t s, char *dst, const char *host, size_t bytes,
                        struct cuda_slot **last)
{
    cudaError_t e = cudaSuccess;
    bool is_small = bytes <= CUDA_STAGE_SMALL;
    while (bytes > 0 && e == cudaSuccess) {
        struct cuda_slot *slot;
        size_t n = bytes < CUDA_STAGE_LARGE ? bytes : CUDA_STAGE_LARGE;
        e = is_small ? slot_take(c->small, CUDA_STAGE_N_SMALL, &c->next_small, &slot)
                     : slot_take(c->large, CUDA_STAGE_N_LARGE, &c->next_large, &slot);
        if (e != cudaSuccess)
            break;
        memcpy(slot->pinned, host, n);
        e = cudaMemcpyAsync(dst, slot->pinned, n, cudaMemcpyHostToDevice, s);
        if (e == cudaSuccess)
            e = cudaEventRecord(slot->event, s);
        *last = slot;
        host += n;
        dst += n;
        bytes -= n;
    }
    return e;
}

static int write_bytes(struct device *d, void *dst, const void *host, size_t bytes)
{
    struct cuda_slot *last = NULL;
    cudaError_t e = cuda_here(impl(d));
    if (e == cudaSuccess)
        e = memory_send(impl(d), impl(d)->compute, (char *)dst, (const char *)host, bytes, &last);
    return e == cudaSuccess ? 0 : code_of(e);
}

/* A piece on its way down. */
struct piece {
    struct cuda_slot *slot;
    char *host;
    size_t bytes;
};

static cudaError_t piece_end(struct piece *p)
{
    if (!p->slot)
        return cudaSuccess;
    cudaError_t e = cudaEventSynchronize(p->slot->event);
    if (e == cudaSuccess)
        memcpy(p->host, p->slot->pinned, p->bytes);
    p->slot = NULL;
    return e;
}

int memory_read(struct device *d, void *host, const void *src, size_t bytes)
{
    struct cuda_impl *c = impl(d);
    struct piece before = {};
    cudaError_t e = cuda_here(c);
    for (size_t at = 0; at < bytes && e == cudaSuccess;) {
        struct piece p = {};
        p.bytes = bytes - at < CUDA_STAGE_LARGE ? bytes - at : CUDA_STAGE_LARGE;
        p.host = (char *)host + at;
        e = slot_take(c->large, CUDA_STAGE_N_LARGE, &c->next_large, &p.slot);
        if (e == cudaSuccess)
            e = cudaMemcpyAsync(p.slot->pinned, (const char *)src + at, p.bytes, cudaMemcpyDeviceToHost, c->compute);
        if (e == cudaSuccess)
            e = cudaEventRecord(p.slot->event, c->compute);
        if (e == cudaSuccess)
            e = piece_end(&before); /* copied out while the next piece comes down */
        before = p;
        at += p.bytes;
    }
    if (e == cudaSuccess)
        e = piece_end(&before);
    return e == cudaSuccess ? 0 : code_of(e);
}

/* ---- weights ---- */

/* The first weight of c that is not before (host, bytes). */
static size_t weight_at(const struct cuda_impl *c, const char *host, size_t bytes)
{
    size_t low = 0, high = c->n_weights;
    while (low < high) {
        size_t mid = (low + high) / 2;
        const struct cuda_weight *w = &c->weights[mid];
        if (w->host < host || (w->host == host && w->bytes < bytes))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int weight_room(struct cuda_impl *c, struct err *err)
{
    if (c->n_weights < c->max_weights)
        return 0;
    size_t max = c->max_weights ? 2 * c->max_weights : 256;
    struct cuda_weight *p = (struct cuda_weight *)mem_realloc(c->weights, max * sizeof *p);
    if (!p)
        return err_set(err, ERR_NOMEM, "device cuda: no memory for the list of weights");
    c->weights = p;
    c->max_weights = max;
    return 0;
}

static int weight_send(struct device *d, struct cuda_weight *w, struct err *err)
{
    struct cuda_impl *c = impl(d);
    struct cuda_slot *last = NULL;
    cudaError_t e = take(d, &w->device, w->bytes);
    if (e != cudaSuccess) {
        char want[32], others[32], have[128];
        return err_set(err, code_of(e), "device cuda: no room for a weight of %s beside %s of others in the %s: %s",
                       str_bytes(want, sizeof want, w->bytes), str_bytes(others, sizeof others, c->weight_bytes),
                       room_text(d, have, sizeof have), cudaGetErrorString(e));
    }
    e = memory_send(c, c->copy, w->device, w->host, w->bytes, &last);
    if (e == cudaSuccess)
        e = cudaStreamWaitEvent(c->compute, last->event, 0); /* ops from here on see it */
    if (e != cudaSuccess)
        give(d, w->device, w->bytes);
    return cuda_err(err, e, "copying a weight");
}

/* Kept as it is: bf16, f16 and fp8 are widened where they are used. The scale of fp8 stays host memory. */
static int upload(struct device *d, struct tensor host, struct tensor *ret, struct err *err)
{
    struct cuda_impl *c = impl(d);
    struct cuda_weight w = {(const char *)host.data, tensor_bytes(host), NULL};
    struct tensor t = host;
    if (!host.data || w.bytes == 0) {
        *ret = host;
        return 0;
    }
    if (!tensor_is_contiguous(host))
        return err_set(err, ERR_INTERNAL, "device cuda: a weight must be contiguous to be copied up");
    size_t at = weight_at(c, w.host, w.bytes);
    if (at == c->n_weights || c->weights[at].host != w.host || c->weights[at].bytes != w.bytes) {
        cuda_here(c);
        int rc = weight_room(c, err);
        if (rc == 0)
            rc = weight_send(d, &w, err);
        if (rc < 0)
            return rc;
        memmove(c->weights + at + 1, c->weights + at, (c->n_weights - at) * sizeof *c->weights);
        c->weights[at] = w;
        c->n_weights++;
        c->weight_bytes += w.bytes;
    }
    t.data = c->weights[at].device;
    *ret = t;
    return 0;
}

static void forget(struct device *d, const void *base, size_t bytes)
{
    struct cuda_impl *c = impl(d);
    size_t kept = 0;
    cuda_here(c);
    cudaStreamSynchronize(c->compute); /* ops that read them; that cudaFree waits nobody promises */
    for (size_t i = 0; i < c->n_weights; i++) {
        struct cuda_weight w = c->weights[i];
        if (w.host >= (const char *)base && (size_t)(w.host - (const char *)base) < bytes) {
            give(d, w.device, w.bytes);
            c->weight_bytes -= w.bytes;
        } else {
            c->weights[kept++] = w;
        }
    }
    c->n_weights = kept;
}

void memory_hooks(struct device_hooks *h)
{
    h->forget = forget;
    h->free_bytes = free_bytes;
    h->used_bytes = used_bytes;
    h->upload = upload;
    h->arena_new = arena_new;
    h->arena_free = arena_free;
    h->write = write_bytes;
    h->read = memory_read;
}
