/* cpu.h -- the CPU backend's own side: what a device of kind "cpu" keeps, and what its ops share.
 *
 * device.c calls the first three functions; ops reach the state with cpu_begin:
 *
 *     d->n_threads = 2; d->precision = DEVICE_F32;
 *     if ((rc = cpu_open(d)) < 0) ...
 *     ... op_linear(&r, x, w, ...)         packs w on first use
 *     cpu_forget(d, base, bytes);          before the mapping that holds w goes
 *     cpu_close(d);
 *
 * Packed weights and primitives live in one cache keyed by the weight's address and up to eight numbers;
 * weights that lie in the run's own arena are packed anew each time (cpu_is_lasting), because their address
 * says nothing.
 */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/table.h"

/* Fills d->impl; d->n_threads and d->precision must be set. A precision that this machine cannot compute is
 * put back to DEVICE_F32. ERR_NOMEM. */
int cpu_open(struct device *d);
/* Frees all of it; a device that was never opened is fine. */
void cpu_close(struct device *d);
/* Drops what was packed for weights whose data lies in [base, base + bytes). */
void cpu_forget(struct device *d, const void *base, size_t bytes);

/* ---- for the ops ---- */

#define CPU_THREAD_BYTES ((size_t)1 << 20) /* scratch of one thread */
#define CPU_KEY_NUMBERS 8

struct cpu_key {
    const void *data; /* of the weight; NULL: belongs to no weight */
    int64_t kind;     /* enum cpu_kind, so that two users' numbers never meet */
    int64_t number[CPU_KEY_NUMBERS];
};

enum cpu_kind { CPU_PACKED_LINEAR, CPU_PACKED_CONV, CPU_PLAN_CONV };

typedef void cpu_free_fn(void *value);

/* Buffers that grow to what was asked for once and stay; each slot has one user at a time. */
enum cpu_slot {
    CPU_BIAS,
    CPU_GATE,
    CPU_MEAN,
    CPU_VAR,
    CPU_PACK,
    CPU_PADDED,
    CPU_STATS,
    CPU_ORDER,
    CPU_SLOT_COUNT
};

struct cpu {
    int n_threads;
    bool bf16;                 /* weights of linear layers are kept in bf16 */
    char *scratch;             /* n_threads * CPU_THREAD_BYTES. Owned */
    struct cpu_entry *entries; /* owned, with their values */
    int n_entries, cap_entries;
    struct {
        void *data; /* owned */
        size_t bytes;
    } slot[CPU_SLOT_COUNT];
    void *dnnl; /* conv.c's engine and stream. Owned */
    cpu_free_fn *dnnl_free;
};

/* The state of the run's device, with this thread's team set to its number of threads. */
struct cpu *cpu_begin(struct run *r);
/* Scratch of thread i, 64-byte aligned. */
void *cpu_scratch(const struct cpu *s, int i);
/* At least `bytes`, 64-byte aligned, contents undefined; NULL (and the run failed) without memory. */
void *cpu_slot(struct run *r, enum cpu_slot slot, size_t bytes);
/* An optional parameter of n floats: where it lies when f32, else widened into the slot; `otherwise` for all
 * when it is none. NULL (and the run failed) without memory. */
const float *cpu_vector(struct run *r, enum cpu_slot slot, struct tensor v, int64_t n, float otherwise);

/* What was kept under key, or NULL. */
void *cpu_find(const struct cpu *s, const struct cpu_key *key);
/* Keeps value (owned from now on, also when this fails). ERR_NOMEM. */
int cpu_keep(struct cpu *s, const struct cpu_key *key, void *value, cpu_free_fn *free_value);
/* False for a tensor in the run's arena. */
bool cpu_is_lasting(const struct run *r, struct tensor w);

/* By oneDNN, the same for every instruction set. */
int cpu_conv(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
             const struct conv *c);

/* Whether linear layers can be computed in bf16 here. */
bool cpu_has_bf16(void);

/* linear.c for AVX-512 with bf16 products: the same f32 code, and DEVICE_BF16. */
int cpu_linear_v4bf16(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
                      enum act act);
int cpu_linear_add_v4bf16(struct run *r, struct tensor x, struct tensor h, struct tensor w, struct tensor b,
                          struct tensor gate);

/* Each fills in the ops of one instruction set (isa.h); the best that the machine has is taken. */
void cpu_isa_base(struct op_table *table);
void cpu_isa_v3(struct op_table *table);
void cpu_isa_v4(struct op_table *table);

#endif
