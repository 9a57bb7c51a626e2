/* cudaemu.cpp -- runs the kernels of kernels/cuda on the CPU, thread by thread. What it is for: README.md.
 *
 * A thread of a block is a fiber that runs until it ends or waits at a barrier; a thread without barriers costs a call.
 * Mistakes end the program with a sentence that names kernel, block and thread.
 */
#include "cuda_runtime.h"

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define ASAN 1
#else
#define ASAN 0
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define STACK (ASAN ? (size_t)256 << 10 : (size_t)64 << 10)
#define PAGE ((size_t)4096)
#define ALIGN ((size_t)256)
#define CANARY 0xa7
#define THREADS_MAX 1024
#define SHARED_PLAIN ((size_t)48 << 10)
#define DEVICES_MAX 16
#define SHARED_OPTIN ((size_t)99 << 10) /* of sm_86, sm_89 and sm_120: the least of all */

extern "C" {
extern unsigned char __start_cudaemu_shared[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_cudaemu_shared[] __attribute__((weak, visibility("hidden")));
cudaemu_thread *cudaemu_now;
uint3 cudaemu_block;
dim3 cudaemu_block_dim, cudaemu_grid_dim;
}

enum state { FRESH, READY, AT_SYNC, AT_WARP, ENDED };

struct fiber {
    char *stack;
#if defined(__x86_64__)
    void *at;
#else
    ucontext_t at;
#endif
    void *fake; /* ASan's */
};

struct thread {
    cudaemu_thread id; /* first: cudaemu_now points here */
    state is;
    struct fiber *fiber;
    int what, src, line;
    unsigned mask;
    uint64_t value;
    const char *file;
};

static struct {
    struct thread threads[THREADS_MAX];
    struct thread *turns[THREADS_MAX]; /* the threads in this launch's order */
    uint32_t alive[THREADS_MAX / 32], waiting[THREADS_MAX / 32]; /* lanes of each warp: not ended; at a warp's barrier */
    struct fiber fibers[THREADS_MAX], *idle[THREADS_MAX];
    int n_fibers, n_idle;
    struct fiber main;
    const void *main_stack;
    size_t main_size;
    int n;
    void (*call)(void *arg);
    void *arg;
    const char *kernel, *types; /* types: g++'s name of the launch, "... [with P = {its arguments}; ..." */
    unsigned char *shared; /* end of the dynamic shared memory; a guard page follows */
    size_t n_shared;
    uint64_t launches, seed, fail_at;
    bool is_set_up, hides;
} e;

static std::recursive_mutex lock_all; /* devices of several threads: one call at a time */
#define LOCK std::lock_guard<std::recursive_mutex> locked(lock_all)

[[noreturn]] __attribute__((format(printf, 1, 2))) static void die(const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fprintf(stderr, "cudaemu: kernel %s", e.kernel ? e.kernel : "(none)");
    const char *types = e.kernel ? strstr(e.types, "[with P = {") : NULL;
    if (types)
        fprintf(stderr, "(%.*s)", (int)strcspn(types + 11, "}"), types + 11);
    if (e.kernel)
        fprintf(stderr, ", block (%u, %u, %u)", cudaemu_block.x, cudaemu_block.y, cudaemu_block.z);
    if (cudaemu_now)
        fprintf(stderr, ", thread (%u, %u, %u)", cudaemu_now->thread.x, cudaemu_now->thread.y, cudaemu_now->thread.z);
    fprintf(stderr, ": %s\n", text);
    fflush(NULL);
    abort();
}

/* ---- memory ---- */

struct block {
    char *map, *data;
    size_t map_bytes, bytes;
    bool pinned;
    int device;
};

static std::vector<struct block> blocks;
static size_t memory_all = (size_t)64 << 30, memory_used[DEVICES_MAX]; /* of each device */
static int n_devices = 1, shown; /* shown: the device whose memory can be touched, where there are several */
static thread_local int current; /* device of this thread */

static void report_fault(int, siginfo_t *info, void *)
{
    const char *at = (const char *)info->si_addr;
    signal(SIGSEGV, SIG_DFL);
    if (!e.kernel)
        return; /* not ours: happens again, with the usual end */
    for (const struct block &b : blocks) {
        if (!b.pinned && b.device != shown && at >= b.map && at < b.map + b.map_bytes)
            die("on device %d touches %p, memory of device %d", shown, (const void *)at, b.device);
        if (at >= b.map - PAGE && at < b.map + b.map_bytes + PAGE)
            die("touches %p: %lld bytes from the start of %zu allocated ones at %p", (const void *)at,
                (long long)(at - b.data), b.bytes, (void *)b.data);
    }
    die("touches %p, which nobody allocated", (const void *)at);
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && text[0] ? strtoull(text, NULL, 10) : otherwise;
}

static void set_up(void)
{
    if (e.is_set_up)
        return;
    e.is_set_up = true;
    e.seed = number("CUDAEMU_SEED", 0);
    e.fail_at = number("CUDAEMU_FAIL", 0);
    e.hides = number("CUDAEMU_HIDE", 0) != 0;
    memory_all = number("CUDAEMU_MEMORY", memory_all);
    n_devices = (int)number("CUDAEMU_DEVICES", 1);
    if (n_devices < 1 || n_devices > DEVICES_MAX)
        die("CUDAEMU_DEVICES is 1 to %d", DEVICES_MAX);
    size_t room = SHARED_OPTIN + 2 * PAGE;
    char *p = (char *)mmap(NULL, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + room / PAGE * PAGE, PAGE, PROT_NONE) != 0)
        die("no memory for shared memory");
    e.shared = (unsigned char *)p + room / PAGE * PAGE;
    if (!ASAN) {
        struct sigaction a = {};
        a.sa_sigaction = report_fault;
        a.sa_flags = SA_SIGINFO;
        sigaction(SIGSEGV, &a, NULL);
    }
}

/* Where there are several devices, the memory of one can be touched at a time. */
static void show(int device)
{
    if (device == shown)
        return;
    for (const struct block &k : blocks) {
        if (!k.pinned && !e.hides && (k.device == shown || k.device == device))
            mprotect(k.map, k.map_bytes, k.device == device ? PROT_READ | PROT_WRITE : PROT_NONE);
    }
    shown = device;
}

/* While this lives, a kernel on `device` can touch that one's memory, or a copy the blocks of a and b, wherever they are. */
struct visible {
    const char *a, *b;
    int device;
    void protect(bool on)
    {
        for (const struct block &k : blocks) {
            bool has = (a >= k.map && a < k.map + k.map_bytes) || (b >= k.map && b < k.map + k.map_bytes);
            bool stays = !e.hides && k.device == shown;
            if (!k.pinned && (has || k.device == device))
                mprotect(k.map, k.map_bytes, on || stays ? PROT_READ | PROT_WRITE : PROT_NONE);
        }
    }
    explicit visible(int device_) : a(NULL), b(NULL), device(device_)
    {
        show(device);
        if (e.hides)
            protect(true);
    }
    explicit visible(const void *a_, const void *b_ = NULL) : a((const char *)a_), b((const char *)b_), device(-1)
    {
        if (e.hides || n_devices > 1)
            protect(true);
    }
    ~visible()
    {
        if (e.hides || (n_devices > 1 && device < 0))
            protect(false);
    }
};

static thread_local cudaError_t last_error;
static cudaError_t sticky_error;

static cudaError_t failed(cudaError_t error)
{
    last_error = error;
    return error;
}

/* The end of the data as near to the guard page behind it as its alignment allows, known bytes in between. */
static cudaError_t allocate(void **ret, size_t bytes, bool pinned)
{
    LOCK;
    set_up();
    if (sticky_error)
        return sticky_error;
    size_t whole = (bytes + ALIGN - 1) / ALIGN * ALIGN, map = (whole + PAGE - 1) / PAGE * PAGE;
    if (bytes == 0) {
        *ret = NULL;
        return cudaSuccess;
    }
    if (!pinned && map > memory_all - memory_used[current])
        return failed(cudaErrorMemoryAllocation);
    char *p = (char *)mmap(NULL, map + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p + PAGE, map, PROT_READ | PROT_WRITE) != 0)
        return failed(cudaErrorMemoryAllocation);
    struct block b = {p + PAGE, p + PAGE + map - whole, map, bytes, pinned, current};
    if (bytes <= (size_t)16 << 20)
        memset(b.map, 0xff, map); /* NaN in every type: nobody may count on zeros */
    memset(b.data + bytes, CANARY, whole - bytes);
    blocks.push_back(b);
    if (!pinned)
        memory_used[current] += map;
    if (!pinned && (e.hides || current != shown))
        mprotect(b.map, map, PROT_NONE);
    *ret = b.data;
    return cudaSuccess;
}

static void check_canary(const struct block &b)
{
    size_t whole = (b.bytes + ALIGN - 1) / ALIGN * ALIGN;
    for (size_t i = b.bytes; i < whole; i++) {
        if ((unsigned char)b.data[i] != CANARY)
            die("wrote %zu bytes behind the %zu allocated ones at %p", i - b.bytes, b.bytes, (void *)b.data);
    }
}

static cudaError_t release(void *p, bool pinned)
{
    LOCK;
    for (size_t i = 0; p && i < blocks.size(); i++) {
        struct block b = blocks[i];
        if (b.data != p || b.pinned != pinned)
            continue;
        {
            struct visible v(b.map);
            check_canary(b);
        }
        munmap(b.map - PAGE, b.map_bytes + 2 * PAGE);
        blocks.erase(blocks.begin() + (long)i);
        if (!pinned)
            memory_used[b.device] -= b.map_bytes;
        return cudaSuccess;
    }
    return p ? failed(cudaErrorInvalidValue) : cudaSuccess;
}

static bool inside(const void *p, size_t bytes, bool pinned)
{
    for (const struct block &b : blocks) {
        if (b.pinned == pinned && (const char *)p >= b.data && (const char *)p + bytes <= b.data + b.bytes)
            return true;
    }
    return false;
}

/* ---- fibers ---- */

#if defined(__x86_64__)
extern "C" void cudaemu_switch(void **from, void *to);
asm(".text\n.p2align 4\n.globl cudaemu_switch\n.hidden cudaemu_switch\n.type cudaemu_switch, @function\n"
    "cudaemu_switch:\n"
    "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp, (%rdi)\n    mov %rsi, %rsp\n"
    "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n    ret\n"
    ".size cudaemu_switch, . - cudaemu_switch\n");
#endif

static void go(struct fiber *from, struct fiber *to)
{
#if ASAN
    bool home = to == &e.main;
    __sanitizer_start_switch_fiber(&from->fake, home ? e.main_stack : to->stack, home ? e.main_size : STACK);
#endif
#if defined(__x86_64__)
    cudaemu_switch(&from->at, to->at);
#else
    swapcontext(&from->at, &to->at);
#endif
#if ASAN
    __sanitizer_finish_switch_fiber(from->fake, from == &e.main ? NULL : &e.main_stack, from == &e.main ? NULL : &e.main_size);
#endif
}

static struct thread *self(void)
{
    return (struct thread *)cudaemu_now;
}

/* A fiber's life: one thread after the other. */
static void fiber_main(void)
{
#if ASAN
    __sanitizer_finish_switch_fiber(NULL, &e.main_stack, &e.main_size);
#endif
    for (;;) {
        e.call(e.arg);
        struct thread *t = self();
        t->is = ENDED;
        go(t->fiber, &e.main);
    }
}

/* At most as many as a block has threads; kept for the next. */
static struct fiber *fiber_new(void)
{
    struct fiber *f = &e.fibers[e.n_fibers++];
    char *p = (char *)mmap(NULL, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, PAGE, PROT_NONE) != 0)
        die("no memory for a thread's stack");
    f->stack = p + PAGE;
#if defined(__x86_64__)
    void **top = (void **)(f->stack + STACK);
    *--top = NULL;
    *--top = (void *)fiber_main; /* where the first switch returns to */
    for (int i = 0; i < 6; i++)
        *--top = NULL;
    f->at = top;
#else
    getcontext(&f->at);
    f->at.uc_stack.ss_sp = f->stack;
    f->at.uc_stack.ss_size = STACK;
    makecontext(&f->at, fiber_main, 0);
#endif
    return f;
}

/* ---- barriers ---- */

/* Where all of a group have come, each has its result and goes on. */
static bool warp_done(struct thread *any)
{
    int warp = any->id.number / 32, first = warp * 32;
    uint32_t group = any->mask & e.alive[warp];
    uint64_t got[32], ballot = 0;
    if ((group & e.waiting[warp]) != group)
        return false;
    for (uint32_t left = group; left; left &= left - 1) {
        struct thread *t = &e.threads[first + __builtin_ctz(left)];
        if (t->mask != any->mask)
            return false;
        if (t->what != any->what || t->line != any->line || t->file != any->file)
            die("threads of a warp meet at %s:%d and %s:%d", any->file, any->line, t->file, t->line);
        ballot |= t->value ? (uint64_t)1 << __builtin_ctz(left) : 0;
    }
    for (uint32_t left = group; left; left &= left - 1) {
        int lane = __builtin_ctz(left), src = e.threads[first + lane].src;
        bool here = src >= 0 && src < 32 && (group >> src & 1);
        got[lane] = any->what == CUDAEMU_BALLOT ? ballot : here ? e.threads[first + src].value : ~(uint64_t)0; /* NaN */
    }
    for (uint32_t left = group; left; left &= left - 1) {
        struct thread *t = &e.threads[first + __builtin_ctz(left)];
        t->value = got[__builtin_ctz(left)];
        t->is = READY;
    }
    e.waiting[warp] &= ~group;
    return true;
}

uint64_t cudaemu_warp(int what, unsigned mask, uint64_t value, int src, const char *file, int line)
{
    struct thread *t = self();
    if (!(mask >> t->id.number % 32 & 1))
        die("%s:%d: the thread is not in its own mask %08x", file, line, mask);
    t->what = what;
    t->mask = mask;
    t->value = value;
    t->src = src;
    t->file = file;
    t->line = line;
    t->is = AT_WARP;
    e.waiting[t->id.number / 32] |= (uint32_t)1 << t->id.number % 32;
    if (!warp_done(t))
        go(t->fiber, &e.main);
    return t->value;
}

int cudaemu_sync(int predicate, const char *file, int line)
{
    struct thread *t = self();
    t->value = (uint64_t)predicate;
    t->file = file;
    t->line = line;
    t->is = AT_SYNC;
    go(t->fiber, &e.main);
    return (int)t->value;
}

void *cudaemu_dynamic_shared(void)
{
    return e.shared - (e.n_shared + 127) / 128 * 128;
}

/* All wait: at one __syncthreads, or for ever. */
static void sync_done(void)
{
    const struct thread *first = NULL;
    int n_ended = 0;
    uint64_t count = 0;
    for (int i = 0; i < e.n; i++) {
        const struct thread *t = &e.threads[i];
        n_ended += t->is == ENDED;
        if (t->is == ENDED)
            continue;
        cudaemu_now = &e.threads[i].id;
        if (!first)
            first = t;
        if (t->is == AT_WARP)
            die("waits at %s:%d for threads of its warp (mask %08x) that do not come", t->file, t->line, t->mask);
        if (t->line != first->line || t->file != first->file)
            die("divergent __syncthreads: this thread waits at %s:%d, another at %s:%d", t->file, t->line, first->file,
                first->line);
        count += t->value;
    }
    if (n_ended > 0)
        die("divergent __syncthreads: waits at %s:%d while %d threads of the block have ended", first->file, first->line,
            n_ended);
    for (int i = 0; i < e.n; i++) {
        e.threads[i].value = count;
        e.threads[i].is = READY;
    }
}

static void resume(struct thread *t)
{
    if (t->is == FRESH) {
        t->fiber = e.n_idle ? e.idle[--e.n_idle] : fiber_new();
        t->is = READY;
    }
    cudaemu_now = &t->id;
    go(&e.main, t->fiber);
    if (t->is != ENDED)
        return;
    e.idle[e.n_idle++] = t->fiber;
    e.alive[t->id.number / 32] &= ~((uint32_t)1 << t->id.number % 32);
    for (int i = t->id.number / 32 * 32, lane = 0; lane < 32 && i < e.n; lane++, i++) { /* it may have been waited for */
        if (e.threads[i].is == AT_WARP)
            warp_done(&e.threads[i]);
    }
}

/* ---- launches ---- */

struct cudaemu_stream {
    int device;
};
struct cudaemu_event {
    int device;
    struct timespec at;
};

static int device_of(cudaStream_t s)
{
    return s ? s->device : current;
}

/* A permutation of n: i -> (factor i + start) mod n. */
struct order {
    uint64_t n, factor, start;
    order(uint64_t n_, uint64_t random) : n(n_), factor(1), start(0)
    {
        if (random % 4 == 1)
            factor = n - 1, start = n - 1; /* backwards */
        if (random % 4 < 2 || n < 3)
            return;
        start = (random >> 8) % n;
        for (factor = 1 + (random >> 32) % (n - 1); gcd(factor, n) != 1;)
            factor = factor % (n - 1) + 1;
    }
    static uint64_t gcd(uint64_t a, uint64_t b) { return b ? gcd(b, a % b) : a; }
    uint64_t at(uint64_t i) const { return (uint64_t)(((__uint128_t)i * factor + start) % n); }
};

static uint64_t scramble(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u; /* splitmix64 */
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void run_block(void)
{
    if (__start_cudaemu_shared)
        memset(__start_cudaemu_shared, 0xff, (size_t)(__stop_cudaemu_shared - __start_cudaemu_shared));
    unsigned char *dynamic = (unsigned char *)cudaemu_dynamic_shared();
    memset(dynamic - 128, CANARY, 128);
    memset(dynamic, 0xff, e.n_shared);
    memset(dynamic + e.n_shared, CANARY, (size_t)(e.shared - dynamic) - e.n_shared);
    for (int i = 0; i < e.n; i++) {
        e.threads[i].is = FRESH;
        e.waiting[i / 32] = 0;
        e.alive[i / 32] |= (uint32_t)1 << i % 32;
    }
    for (bool left = true; left;) {
        bool moved = false;
        left = false;
        for (int i = 0; i < e.n; i++) {
            struct thread *t = e.turns[i];
            if (t->is == FRESH || t->is == READY) {
                resume(t);
                moved = true;
            }
            left |= t->is != ENDED;
        }
        if (left && !moved)
            sync_done();
    }
    cudaemu_now = NULL;
    for (unsigned char *p = dynamic - 128; p < e.shared; p = p == dynamic - 1 ? dynamic + e.n_shared : p + 1) {
        if (*p != CANARY)
            die("wrote outside its %zu bytes of dynamic shared memory, at %lld", e.n_shared, (long long)(p - dynamic));
    }
}

static std::vector<const void *> large_shared;

static cudaError_t check_launch(const void *function, dim3 g, dim3 b, size_t smem)
{
    if (sticky_error)
        return sticky_error;
    if (e.fail_at && e.launches >= e.fail_at)
        return sticky_error = cudaErrorIllegalAddress;
    uint64_t n = (uint64_t)b.x * b.y * b.z;
    if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535 || n < 1 || n > THREADS_MAX || b.z > 64)
        return cudaErrorInvalidConfiguration;
    size_t max = SHARED_PLAIN;
    for (const void *f : large_shared)
        max = f == function ? SHARED_OPTIN : max;
    return smem > max ? cudaErrorInvalidValue : cudaSuccess;
}

void cudaemu_run(const char *types, const char *kernel, const void *function, dim3 grid, dim3 block, size_t smem,
                 cudaStream_t stream, void (*call)(void *arg), void *arg)
{
    LOCK;
    set_up();
    e.launches++;
    cudaError_t error = device_of(stream) != current ? cudaErrorInvalidResourceHandle
                                                     : check_launch(function, grid, block, smem);
    if (error) {
        failed(error);
        return;
    }
    struct visible v(current);
    e.kernel = kernel;
    e.types = types;
    e.call = call;
    e.arg = arg;
    e.n = (int)(block.x * block.y * block.z);
    e.n_shared = smem;
    cudaemu_block_dim = block;
    cudaemu_grid_dim = grid;
    for (int i = 0; i < e.n; i++) {
        unsigned n = (unsigned)i;
        e.threads[i].id = {{n % block.x, n / block.x % block.y, n / block.x / block.y}, i};
    }
    uint64_t random = scramble(e.seed * 0x9e3779b97f4a7c15u + e.launches * 0xd1342543de82ef95u);
    struct order order(((uint64_t)grid.x * grid.y) * grid.z, random), inner((uint64_t)e.n, scramble(random + 1));
    for (int i = 0; i < e.n; i++)
        e.turns[i] = &e.threads[inner.at((uint64_t)i)];
    memset(e.alive, 0, sizeof e.alive);
    for (uint64_t i = 0; i < order.n; i++) {
        uint64_t at = order.at(i);
        cudaemu_block = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y)};
        run_block();
    }
    e.kernel = NULL;
}

/* ---- the host's calls ---- */

cudaError_t cudaemu_malloc(void **p, size_t bytes) { return allocate(p, bytes, false); }
cudaError_t cudaemu_malloc_host(void **p, size_t bytes) { return allocate(p, bytes, true); }
cudaError_t cudaFree(void *p) { return sticky_error ? sticky_error : release(p, false); }
cudaError_t cudaFreeHost(void *p) { return release(p, true); }

cudaError_t cudaemu_shared_max(const void *kernel, int bytes)
{
    LOCK;
    if (bytes < 0 || (size_t)bytes > SHARED_OPTIN)
        return failed(cudaErrorInvalidValue);
    large_shared.push_back(kernel);
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    LOCK;
    set_up();
    *n = n_devices;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    LOCK;
    set_up();
    if (device < 0 || device >= n_devices)
        return failed(cudaErrorInvalidDevice);
    *p = cudaDeviceProp();
    snprintf(p->name, sizeof p->name, "emulated on the CPU");
    p->totalGlobalMem = memory_all;
    p->major = (int)number("CUDAEMU_SM", 86) / 10;
    p->minor = (int)number("CUDAEMU_SM", 86) % 10;
    p->multiProcessorCount = 2;
    p->sharedMemPerBlock = SHARED_PLAIN;
    p->sharedMemPerBlockOptin = SHARED_OPTIN;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int)
{
    *value = attr == cudaDevAttrMultiProcessorCount ? 2 : (int)SHARED_OPTIN;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    LOCK;
    set_up();
    if (device < 0 || device >= n_devices)
        return failed(cudaErrorInvalidDevice);
    current = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) { return sticky_error; }
cudaError_t cudaPeekAtLastError(void) { return last_error; }

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = sticky_error;
    return error;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {{cudaSuccess, "cudaSuccess", "no error"},
              {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
              {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
              {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
              {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
              {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
              {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"}};

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &row : errors) {
        if (row.error == error)
            return row.text;
    }
    return "unknown error";
}

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &row : errors) {
        if (row.error == error)
            return row.name;
    }
    return "cudaErrorUnknown";
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all)
{
    LOCK;
    set_up();
    *free_bytes = memory_all - memory_used[current];
    *all = memory_all;
    return sticky_error;
}

static cudaError_t copy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, bool async)
{
    LOCK;
    if (sticky_error)
        return sticky_error;
    bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    if ((from && !inside(src, bytes, false)) || (to && !inside(dst, bytes, false)))
        return failed(cudaErrorInvalidValue);
    /* CUDA takes pageable memory too, and waits then: this project never wants that */
    if (async && ((!from && !inside(src, bytes, true)) || (!to && !inside(dst, bytes, true))))
        return failed(cudaErrorInvalidValue);
    struct visible v(dst, src);
    memmove(dst, src, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    return copy(dst, src, bytes, kind, false);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t)
{
    return copy(dst, src, bytes, kind, true);
}

cudaError_t cudaMemcpyPeerAsync(void *dst, int to, const void *src, int from, size_t bytes, cudaStream_t)
{
    LOCK;
    for (const struct block &b : blocks) {
        if (!b.pinned && ((dst >= b.map && dst < b.map + b.map_bytes && b.device != to) ||
                          (src >= b.map && src < b.map + b.map_bytes && b.device != from)))
            return failed(cudaErrorInvalidValue);
    }
    return copy(dst, src, bytes, cudaMemcpyDeviceToDevice, true);
}

cudaError_t cudaMemset(void *dst, int value, size_t bytes)
{
    LOCK;
    if (sticky_error)
        return sticky_error;
    if (!inside(dst, bytes, false))
        return failed(cudaErrorInvalidValue);
    struct visible v(dst);
    memset(dst, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t) { return cudaMemset(dst, value, bytes); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new cudaemu_stream{current};
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return sticky_error; }
cudaError_t cudaStreamQuery(cudaStream_t) { return sticky_error; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return sticky_error; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new cudaemu_event{current, {}};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s)
{
    LOCK;
    if (event->device != device_of(s))
        return failed(cudaErrorInvalidResourceHandle);
    clock_gettime(CLOCK_MONOTONIC, &event->at);
    return sticky_error;
}

cudaError_t cudaEventSynchronize(cudaEvent_t) { return sticky_error; }
cudaError_t cudaEventQuery(cudaEvent_t) { return sticky_error; }

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = (float)((double)(to->at.tv_sec - from->at.tv_sec) * 1e3 + (double)(to->at.tv_nsec - from->at.tv_nsec) * 1e-6);
    return sticky_error;
}
