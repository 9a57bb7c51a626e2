/* device.h -- one device: its op table, its memory, its weights.
 *
 * Kinds: "cpu_ref" (the specification: plain loops, one thread), "cpu" (the backend people run), "cuda" (opened from
 * the module troupe-cuda.so at run time; ERR_UNSUPPORTED with the reason where it is missing). Opened once a process,
 * used by one compute thread.
 */
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

#include <stdbool.h>

#include "common/err.h"
#include "kernels/tensor.h"

struct comm;
struct op_table;
struct shadow;
struct device;

/* What the heavy ops (linear layers, attention, convolutions) multiply; sums are f32. CPU: F32 and BF16, of linear layers
 * alone. CUDA: kernels/SPEED.md, "which way a heavy op takes"; FP8 multiplies e4m3 where that pays and is BF16 elsewhere. */
enum device_precision { DEVICE_F32, DEVICE_BF16, DEVICE_FP8 };

struct device_options {
    int index;                       /* CUDA device number */
    int n_threads;                   /* CPU; 0: all cores this process may use */
    enum device_precision precision; /* CPU: BF16 keeps linear weights bf16 (half the memory, rounded activations). FP8 is
                                      * ERR_UNSUPPORTED there and before compute capability 8.9 */
    size_t memory_limit;             /* CUDA: bytes that this process may take of the device; 0: all that is free */
};

/* What a device works through in order: its ops, and the copies of weights beside them. */
enum device_queue { DEVICE_OPS, DEVICE_COPIES };

/* What a device does beyond its ops. A member left NULL is what plain host memory needs. */
struct device_hooks {
    void (*close)(struct device *d);
    void (*forget)(struct device *d, const void *base, size_t bytes);
    size_t (*free_bytes)(const struct device *d);
    int (*upload)(struct device *d, struct tensor host, struct tensor *ret, struct err *err);
    int (*arena_new)(struct device *d, size_t *bytes, void **ret, struct err *err); /* *bytes 0: as much as is wise */
    void (*arena_free)(struct device *d, void *arena, size_t bytes); /* waits for the ops before it */
    /* What this process has of the device's memory, the driver's share included. *by_nvml: NVML counted this process; else
     * it is what the device has less of than before opening (others count too), or taken_bytes + what is guessed. */
    size_t (*used_bytes)(const struct device *d, bool *by_nvml);
    int (*write)(struct device *d, void *dst, const void *host, size_t bytes); /* in order with the ops */
    int (*read)(struct device *d, void *host, const void *src, size_t bytes);  /* waits for the ops before it */
    /* A carrier of the device's own between the ranks that control connects (comm/comm.h), which it borrows; all ranks call it.
     * ERR_UNSUPPORTED: none of them can, control serves instead. NULL: what ranks say goes through host memory. */
    int (*comm)(struct device *d, struct comm *control, int64_t deadline_us, struct comm **ret, struct err *err);

    /* Copies of weights beside the ops, for kernels/pool.h. copy enqueues host -> dst behind the copies before it; host is
     * free again on return unless it is pinned (from pin). mark gives a ticket of all that was enqueued so far; what is
     * enqueued in a queue after wait begins when that is done. All NULL: the device has none. 0 or an ERR_*. */
    int (*copy)(struct device *d, void *dst, const void *host, size_t bytes, bool is_pinned);
    int (*mark)(struct device *d, enum device_queue q, uint64_t *ret);
    int (*wait)(struct device *d, enum device_queue q, enum device_queue of, uint64_t ticket);
    void *(*pin)(struct device *d, size_t bytes); /* NULL: no memory */
    void (*unpin)(struct device *d, void *p);

    /* Recordings of what is enqueued, for kernels/run_repeat.h. Between begin and end ops are not run but kept in *ret; ret
     * NULL: they are dropped. play enqueues them all. repeat_begin NULL: the device cannot. 0 or an ERR_*; a recording that
     * fails leaves the device as it was. */
    int (*repeat_begin)(struct device *d);
    int (*repeat_end)(struct device *d, void **ret);
    int (*repeat_play)(struct device *d, void *recording);
    void (*repeat_free)(struct device *d, void *recording);
};

struct device {
    const struct op_table *table;
    const struct device_hooks *hooks; /* never NULL; its members may be */
    char kind[16];         /* "cpu_ref", "cpu", "cuda" */
    char name[64];         /* for people: CPU model or GPU name */
    size_t memory_bytes;   /* all of it */
    size_t fixed_bytes;    /* CUDA: taken of it for life beside arenas and weights: the work buffer, the driver's context,
                            * the libraries' own. With a memory_limit, the limit less this is free when it was opened */
    size_t taken_bytes;    /* CUDA: what the module has allocated now: work buffer, arenas, weights. Not the driver's */
    size_t peak_bytes;     /* the most that taken_bytes was; whoever measures a part sets it to taken_bytes before */
    int n_threads;
    enum device_precision precision;
    bool is_host;          /* tensors' data can be read by the CPU */
    struct shadow *shadow; /* borrowed: repeats every op (shadow.h); NULL: off */
    void *impl;            /* the table's own: packed weights, primitives, streams. Owned */
};

/* The module (TROUPE_CUDA_MODULE or troupe-cuda.so) exports this: sets table, hooks, name, memory_bytes and impl. */
typedef int device_module_fn(struct device *d, const struct device_options *o, struct err *err);
#define DEVICE_MODULE_SYMBOL "troupe_cuda_open"

/* o may be NULL. An unknown kind is ERR_INVALID. */
int device_open(struct device **ret, const char *kind, const struct device_options *o, struct err *err);
void device_close(struct device *d);

/* "f32", "bf16", "fp8", and "auto", which is bf16 on "cuda" and f32 elsewhere. ERR_INVALID for another word. */
int device_precision_parse(const char *name, const char *kind, enum device_precision *ret, struct err *err);
const char *device_precision_name(enum device_precision p);

size_t device_free_bytes(const struct device *d); /* memory that can be allocated now */

/* The hook used_bytes; 0 where there is none. */
size_t device_used_bytes(const struct device *d, bool *by_nvml);

/* Weights: host tensor (mapped file) to a tensor the table can use for ever. On the CPU the same tensor: the table
 * packs what it needs on first use, keyed by the data pointer; the mapping must stay until device_forget. */
int device_upload(struct device *d, struct tensor host, struct tensor *ret, struct err *err);
/* Drops what was packed or uploaded for weights whose data lies in [base, base + bytes). */
void device_forget(struct device *d, const void *base, size_t bytes);

#endif
