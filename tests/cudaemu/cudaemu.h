/* cudaemu.h -- the emulation's inner wall: what its three files share. cudaemu.cpp runs kernels, memory.cpp has devices,
 * memory and copies, stream.cpp the order in which a stream's work happens.
 *
 *     static cudaError_t do_something(cudaStream_t s)
 *     {
 *         EMU_LOCK;
 *         return emu_put(s, [=](int device) { ... });           now, later, or recorded into a graph
 *     }
 *
 * All state is under the one lock, which a kernel holds while it runs.
 */
#ifndef TESTS_CUDAEMU_CUDAEMU_H
#define TESTS_CUDAEMU_CUDAEMU_H

#include "cuda_runtime.h"

#include <functional>
#include <mutex>

#define EMU_DEVICES_MAX 16
#define EMU_SHARED_PLAIN ((size_t)48 << 10)
#define EMU_SHARED_OPTIN ((size_t)99 << 10) /* of sm_86, sm_89 and sm_120: the least of all */
#define EMU_CANARY 0xa7
#define EMU_PAGE ((size_t)4096)

extern std::recursive_mutex emu_lock;
#define EMU_LOCK std::lock_guard<std::recursive_mutex> locked(emu_lock)

enum emu_order { EMU_AT_ONCE, EMU_LATE, EMU_EARLY, EMU_RANDOM };

struct emu_settings { /* from the environment; README.md has their names */
    uint64_t seed, fail_at, break_at;
    size_t memory;
    int n_devices;
    bool hides;
    emu_order order;
};
extern struct emu_settings emu;
extern __thread int emu_device; /* this thread's. (gcc: ubsan takes a thread_local of another file for a null pointer) */
extern cudaError_t emu_lost[EMU_DEVICES_MAX];        /* the error that stays, per device */

void emu_set_up(void);
[[noreturn]] void emu_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* What went wrong in this thread last, for cudaGetLastError; returns it. */
cudaError_t emu_failed(cudaError_t error);
/* A number that repeats: another one for each n. */
uint64_t emu_random(uint64_t n);

/* ---- memory.cpp ---- */

/* While this lives, a kernel on `device` can touch that one's memory, or a copy the blocks of a and b, wherever they are. */
struct emu_visible {
    const char *a, *b;
    int device;
    explicit emu_visible(int device);
    explicit emu_visible(const void *a, const void *b = NULL);
    ~emu_visible();
    void protect(bool on);
};

/* Which allocation at is in or beside: a sentence's end, or NULL. */
const char *emu_where(const void *at);

/* ---- stream.cpp ---- */

typedef std::function<void(int device)> emu_task; /* device: the stream's */

int emu_device_of(cudaStream_t s);
/* Behind what s has: done now, or later, or recorded where s is captured (then the error is the capture's). */
cudaError_t emu_put(cudaStream_t s, emu_task task);
/* Finishes what s has. Not while it is captured. */
cudaError_t emu_finish(cudaStream_t s);
/* Finishes all work of a device, or of all of them (-1). */
void emu_finish_all(int device);
/* An error that is no task's own: whatever s is being captured into is void. Returns error. */
cudaError_t emu_break(cudaStream_t s, cudaError_t error);
/* Success, or the error of a call that waits or allocates while this thread captures (which ends the capture). */
cudaError_t emu_unsafe(void);

#endif
