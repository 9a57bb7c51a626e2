/* cudaemu_memory.cpp -- the emulation's devices, what is allocated on them, and copies. */
#include "cudaemu.h"

#include <stdlib.h>
#include <cstdio>
#include <sys/mman.h>
#include <vector>

#define PAGE EMU_PAGE
#define ALIGN ((size_t)256)

struct block {
    char *map, *data;
    size_t map_bytes, bytes;
    bool pinned;
    int device;
};

static std::vector<struct block> blocks;
static size_t used[EMU_DEVICES_MAX];
static int shown; /* the device whose memory can be touched, where there are several */

static bool holds(const struct block &b, const void *p)
{
    return (const char *)p >= b.map && (const char *)p < b.map + b.map_bytes;
}

const char *emu_where(const void *p)
{
    static char text[160];
    const char *at = (const char *)p;
    for (const struct block &b : blocks) {
        if (at < b.map - PAGE || at >= b.map + b.map_bytes + PAGE)
            continue;
        if (!b.pinned && b.device != shown && holds(b, p))
            snprintf(text, sizeof text, ", memory of device %d, from device %d", b.device, shown);
        else
            snprintf(text, sizeof text, ": %lld bytes from the start of %zu allocated ones at %p", (long long)(at - b.data),
                     b.bytes, (void *)b.data);
        return text;
    }
    return NULL;
}

/* ---- what can be touched ---- */

static void show(int device)
{
    if (device == shown)
        return;
    for (const struct block &k : blocks) {
        if (!k.pinned && !emu.hides && (k.device == shown || k.device == device))
            mprotect(k.map, k.map_bytes, k.device == device ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
    shown = device;
}

void emu_visible::protect(bool on)
{
    for (const struct block &k : blocks) {
        bool stays = !emu.hides && k.device == shown;
        if (!k.pinned && (k.device == device || holds(k, a) || holds(k, b)))
            mprotect(k.map, k.map_bytes, on || stays ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
}

emu_visible::emu_visible(int device_) : a(NULL), b(NULL), device(device_)
{
    show(device);
    if (emu.hides)
        protect(true);
}

emu_visible::emu_visible(const void *a_, const void *b_) : a((const char *)a_), b((const char *)b_), device(-1)
{
    if (emu.hides || emu.n_devices > 1)
        protect(true);
}

emu_visible::~emu_visible()
{
    if (emu.hides || (emu.n_devices > 1 && device < 0))
        protect(false);
}

/* ---- allocations ---- */

/* The end of the data as near to the guard page behind it as its alignment allows, known bytes in between. */
static cudaError_t allocate(void **ret, size_t bytes, bool pinned)
{
    EMU_LOCK;
    emu_set_up();
    if (emu_lost[emu_device])
        return emu_failed(emu_lost[emu_device]);
    if (cudaError_t error = emu_unsafe())
        return error;
    size_t whole = (bytes + ALIGN - 1) / ALIGN * ALIGN, map = (whole + PAGE - 1) / PAGE * PAGE;
    if (bytes == 0) {
        *ret = NULL;
        return cudaSuccess;
    }
    if (!pinned && map > emu.memory - used[emu_device])
        return emu_failed(cudaErrorMemoryAllocation);
    char *p = (char *)mmap(NULL, map + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p + PAGE, map, PROT_READ | PROT_WRITE) != 0)
        return emu_failed(cudaErrorMemoryAllocation);
    struct block b = {p + PAGE, p + PAGE + map - whole, map, bytes, pinned, emu_device};
    if (bytes <= (size_t)16 << 20)
        memset(b.map, 0xff, map); /* NaN in every type: nobody may count on zeros */
    memset(b.data + bytes, EMU_CANARY, whole - bytes);
    blocks.push_back(b);
    if (!pinned)
        used[emu_device] += map;
    if (!pinned && (emu.hides || emu_device != shown))
        mprotect(b.map, map, PROT_NONE);
    *ret = b.data;
    return cudaSuccess;
}

static void check_canary(const struct block &b)
{
    size_t whole = (b.bytes + ALIGN - 1) / ALIGN * ALIGN;
    for (size_t i = b.bytes; i < whole; i++) {
        if ((unsigned char)b.data[i] != EMU_CANARY)
            emu_die("wrote %zu bytes behind the %zu allocated ones at %p", i - b.bytes, b.bytes, (void *)b.data);
    }
}

static cudaError_t release(void *p, bool pinned)
{
    EMU_LOCK;
    if (!p)
        return cudaSuccess;
    if (cudaError_t error = emu_unsafe())
        return error;
    for (size_t i = 0; i < blocks.size(); i++) {
        struct block b = blocks[i];
        if (b.data != p || b.pinned != pinned)
            continue;
        emu_finish_all(pinned ? -1 : b.device); /* the driver waits too */
        {
            struct emu_visible v(b.map);
            check_canary(b);
        }
        munmap(b.map - PAGE, b.map_bytes + 2 * PAGE);
        blocks.erase(blocks.begin() + (long)i);
        if (!pinned)
            used[b.device] -= b.map_bytes;
        return cudaSuccess;
    }
    return emu_failed(cudaErrorInvalidValue);
}

cudaError_t cudaemu_malloc(void **p, size_t bytes) { return allocate(p, bytes, false); }
cudaError_t cudaemu_malloc_host(void **p, size_t bytes) { return allocate(p, bytes, true); }
cudaError_t cudaFree(void *p) { return emu_lost[emu_device] ? emu_lost[emu_device] : release(p, false); }
cudaError_t cudaFreeHost(void *p) { return release(p, true); }

/* ---- devices ---- */

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    EMU_LOCK;
    emu_set_up();
    *n = emu.n_devices;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    EMU_LOCK;
    emu_set_up();
    if (device < 0 || device >= emu.n_devices)
        return emu_failed(cudaErrorInvalidDevice);
    *p = cudaDeviceProp();
    snprintf(p->name, sizeof p->name, "emulated on the CPU");
    p->totalGlobalMem = emu.memory;
    const char *sm = getenv("CUDAEMU_SM"); /* a test may open one card after the other */
    p->major = (sm ? atoi(sm) : 86) / 10;
    p->minor = (sm ? atoi(sm) : 86) % 10;
    p->multiProcessorCount = 2;
    p->sharedMemPerBlock = EMU_SHARED_PLAIN;
    p->sharedMemPerBlockOptin = EMU_SHARED_OPTIN;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int)
{
    *value = attr == cudaDevAttrMultiProcessorCount ? 2 : (int)EMU_SHARED_OPTIN;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    EMU_LOCK;
    emu_set_up();
    if (device < 0 || device >= emu.n_devices)
        return emu_failed(cudaErrorInvalidDevice);
    emu_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = emu_device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *ret, int size, int device)
{
    snprintf(ret, (size_t)size, "0000:%02x:00.0", device);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all)
{
    EMU_LOCK;
    emu_set_up();
    *free_bytes = emu.memory - used[emu_device];
    *all = emu.memory;
    return emu_lost[emu_device];
}

/* ---- copies ---- */

static const struct block *find(const void *p, size_t bytes, bool pinned)
{
    for (const struct block &b : blocks) {
        if (b.pinned == pinned && (const char *)p >= b.data && (const char *)p + bytes <= b.data + b.bytes)
            return &b;
    }
    return NULL;
}

/* One end of a copy: device memory, or the host's, which must be pinned where the copy happens later. (CUDA takes pageable
 * memory too, and waits then: this project never wants that.) */
static bool is_end(const void *p, size_t bytes, bool device, bool async)
{
    return find(p, bytes, !device) || (!device && !async);
}

/* Pinned memory is read and written when the copy's turn comes. */
static cudaError_t copy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s, bool async)
{
    if (emu_lost[emu_device])
        return emu_lost[emu_device];
    bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    if (!is_end(src, bytes, from, async) || !is_end(dst, bytes, to, async))
        return emu_failed(emu_break(s, cudaErrorInvalidValue));
    return emu_put(s, [=](int device) {
        if (emu_lost[device])
            return;
        if (!is_end(src, bytes, from, async) || !is_end(dst, bytes, to, async))
            emu_die("a copy of %zu bytes from %p to %p: the memory was freed", bytes, src, dst);
        struct emu_visible v(dst, src);
        memmove(dst, src, bytes);
    });
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    EMU_LOCK;
    cudaError_t error = emu_unsafe();
    if (!error)
        error = copy(dst, src, bytes, kind, NULL, false);
    return error ? error : emu_finish(NULL);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
    EMU_LOCK;
    return copy(dst, src, bytes, kind, s, true);
}

cudaError_t cudaMemcpyPeerAsync(void *dst, int to, const void *src, int from, size_t bytes, cudaStream_t s)
{
    EMU_LOCK;
    const struct block *a = find(dst, bytes, false), *b = find(src, bytes, false);
    if (!a || !b || a->device != to || b->device != from)
        return emu_failed(emu_break(s, cudaErrorInvalidValue));
    return copy(dst, src, bytes, cudaMemcpyDeviceToDevice, s, true);
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t s)
{
    EMU_LOCK;
    if (emu_lost[emu_device])
        return emu_lost[emu_device];
    if (!find(dst, bytes, false))
        return emu_failed(emu_break(s, cudaErrorInvalidValue));
    return emu_put(s, [=](int device) {
        struct emu_visible v(dst);
        if (!emu_lost[device])
            memset(dst, value, bytes);
    });
}

cudaError_t cudaMemset(void *dst, int value, size_t bytes)
{
    EMU_LOCK;
    cudaError_t error = emu_unsafe();
    return error ? error : cudaMemsetAsync(dst, value, bytes, NULL);
}
