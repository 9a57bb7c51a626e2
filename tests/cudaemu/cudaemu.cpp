/* cudaemu.cpp -- runs the kernels of kernels/cuda on the CPU, thread by thread. What it is for: README.md.
 *
 * A thread of a block is a fiber that runs until it ends or waits at a barrier; a thread without barriers costs a call.
 * Mistakes end the program with a sentence that names kernel, block and thread.
 */
#include "cudaemu.h"

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
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
#define PAGE EMU_PAGE
#define CANARY EMU_CANARY
#define THREADS_MAX 1024

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
    const std::function<void()> *call;
    const char *kernel, *types; /* types: g++'s name of the launch, "... [with P = {its arguments}; ..." */
    unsigned char *shared; /* end of the dynamic shared memory; a guard page follows */
    size_t n_shared;
    uint64_t launches;
    bool is_set_up;
} e;

std::recursive_mutex emu_lock;
struct emu_settings emu;
__thread int emu_device;
cudaError_t emu_lost[EMU_DEVICES_MAX];

static thread_local cudaError_t last_error;

cudaError_t emu_failed(cudaError_t error)
{
    last_error = error;
    return error;
}

void emu_die(const char *fmt, ...)
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

/* ---- settings ---- */

static void report_fault(int, siginfo_t *info, void *)
{
    signal(SIGSEGV, SIG_DFL);
    if (!e.kernel)
        return; /* not ours: happens again, with the usual end */
    const char *where = emu_where(info->si_addr);
    emu_die("touches %p%s", info->si_addr, where ? where : ", which nobody allocated");
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && text[0] ? strtoull(text, NULL, 10) : otherwise;
}

static emu_order order_named(const char *name)
{
    static const char *const names[] = {"", "late", "early", "random"};
    for (int i = 0; i < 4; i++) {
        if (!name || strcmp(name, names[i]) == 0)
            return (emu_order)i;
    }
    emu_die("CUDAEMU_STREAMS is late, early or random, not '%s'", name);
}

void emu_set_up(void)
{
    if (e.is_set_up)
        return;
    e.is_set_up = true;
    emu.seed = number("CUDAEMU_SEED", 0);
    emu.fail_at = number("CUDAEMU_FAIL", 0);
    emu.break_at = number("CUDAEMU_BREAK", 0);
    emu.hides = number("CUDAEMU_HIDE", 0) != 0;
    emu.memory = number("CUDAEMU_MEMORY", (uint64_t)64 << 30);
    emu.order = order_named(getenv("CUDAEMU_STREAMS"));
    emu.n_devices = (int)number("CUDAEMU_DEVICES", 1);
    if (emu.n_devices < 1 || emu.n_devices > EMU_DEVICES_MAX)
        emu_die("CUDAEMU_DEVICES is 1 to %d", EMU_DEVICES_MAX);
    size_t room = EMU_SHARED_OPTIN + 2 * PAGE;
    char *p = (char *)mmap(NULL, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + room / PAGE * PAGE, PAGE, PROT_NONE) != 0)
        emu_die("no memory for shared memory");
    e.shared = (unsigned char *)p + room / PAGE * PAGE;
    if (!ASAN) {
        struct sigaction a = {};
        a.sa_sigaction = report_fault;
        a.sa_flags = SA_SIGINFO;
        sigaction(SIGSEGV, &a, NULL);
    }
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
        (*e.call)();
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
        emu_die("no memory for a thread's stack");
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
            emu_die("threads of a warp meet at %s:%d and %s:%d", any->file, any->line, t->file, t->line);
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
        emu_die("%s:%d: the thread is not in its own mask %08x", file, line, mask);
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
            emu_die("waits at %s:%d for threads of its warp (mask %08x) that do not come", t->file, t->line, t->mask);
        if (t->line != first->line || t->file != first->file)
            emu_die("divergent __syncthreads: this thread waits at %s:%d, another at %s:%d", t->file, t->line, first->file,
                first->line);
        count += t->value;
    }
    if (n_ended > 0)
        emu_die("divergent __syncthreads: waits at %s:%d while %d threads of the block have ended", first->file, first->line,
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

uint64_t emu_random(uint64_t n)
{
    return scramble(emu.seed * 0x9e3779b97f4a7c15u + n * 0xd1342543de82ef95u);
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
            emu_die("wrote outside its %zu bytes of dynamic shared memory, at %lld", e.n_shared, (long long)(p - dynamic));
    }
}

static std::vector<const void *> large_shared;

cudaError_t cudaemu_shared_max(const void *kernel, int bytes)
{
    EMU_LOCK;
    if (bytes < 0 || (size_t)bytes > EMU_SHARED_OPTIN)
        return emu_failed(cudaErrorInvalidValue);
    large_shared.push_back(kernel);
    return cudaSuccess;
}

static cudaError_t check_launch(const struct cudaemu_launched &l, cudaStream_t s)
{
    const dim3 g = l.grid, b = l.block;
    if (emu_device_of(s) != emu_device)
        return cudaErrorInvalidResourceHandle;
    uint64_t n = (uint64_t)b.x * b.y * b.z;
    if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535 || n < 1 || n > THREADS_MAX || b.z > 64)
        return cudaErrorInvalidConfiguration;
    size_t max = EMU_SHARED_PLAIN;
    for (const void *f : large_shared)
        max = f == l.function ? EMU_SHARED_OPTIN : max;
    return l.smem > max ? cudaErrorInvalidValue : cudaSuccess;
}

static void run_grid(const struct cudaemu_launched &l, int device)
{
    const dim3 grid = l.grid, block = l.block;
    e.launches++;
    if (emu.fail_at && e.launches >= emu.fail_at)
        emu_lost[device] = cudaErrorIllegalAddress;
    if (emu_lost[device])
        return;
    struct emu_visible v(device);
    e.kernel = l.name;
    e.types = l.types;
    e.call = &l.call;
    e.n = (int)(block.x * block.y * block.z);
    e.n_shared = l.smem;
    cudaemu_block_dim = block;
    cudaemu_grid_dim = grid;
    for (int i = 0; i < e.n; i++) {
        unsigned n = (unsigned)i;
        e.threads[i].id = {{n % block.x, n / block.x % block.y, n / block.x / block.y}, i};
    }
    uint64_t random = emu_random(e.launches);
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

void cudaemu_run(cudaStream_t s, struct cudaemu_launched l)
{
    EMU_LOCK;
    emu_set_up();
    cudaError_t error = emu_lost[emu_device];
    if (!error && (error = check_launch(l, s)))
        emu_break(s, error);
    if (!error)
        error = emu_put(s, [l](int device) { run_grid(l, device); });
    if (error)
        emu_failed(error);
}

/* ---- errors ---- */

cudaError_t cudaPeekAtLastError(void)
{
    EMU_LOCK;
    return emu_lost[emu_device] ? emu_lost[emu_device] : last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return error;
}

#define ERROR(name, text) {name, #name, text}
static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR(cudaErrorNotReady, "device not ready"),
    ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ERROR(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    ERROR(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream"),
    ERROR(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence from another thread"),
};

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
