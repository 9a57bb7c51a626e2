/* run.h -- one forward pass in flight: op table, arena, first error (sticky), cancel flag, labels, counters, taps.
 *
 * Errors stick: ops after the first error do nothing, so a model calls op after op and the caller looks once, at the
 * end. With table == NULL the run is a *plan*: shapes are checked, arena bytes and flops are counted, nothing is
 * computed and no weights are needed.
 *
 *     struct run r;
 *     if ((rc = run_init(&r, device, 0, &err)) < 0) ...     (device NULL: planning)
 *     size_t mark = run_mark(&r);
 *     struct tensor y = op_linear(&r, x, w, b, ACT_NONE);
 *     rc = run_read(&r, y, host);                            (waits for the device; returns the run's error)
 *     run_rewind(&r, mark);
 *     run_done(&r);
 *
 * One thread uses a run; only the cancel flag may be set from elsewhere. Not thread-safe otherwise.
 */
#ifndef KERNELS_RUN_H
#define KERNELS_RUN_H

#include <stdatomic.h>
#include <stdbool.h>

#include "common/err.h"
#include "kernels/tensor.h"

struct comm_group;
struct device;
struct op_table;
struct shadow;
struct run;

/* Sees a named intermediate tensor (names as in the golden cases: "mid.double0.img"). t is only valid in the call. */
typedef void run_tap_fn(void *arg, struct run *r, const char *name, struct tensor t);

struct run {
    const struct op_table *table; /* NULL: planning */
    struct device *device;        /* borrowed; NULL: planning */
    struct err err;               /* the first failure, with op, label and shapes */
    const atomic_int *cancel;     /* borrowed, may be NULL; non-zero makes the next op fail with ERR_CANCEL */

    char *arena;       /* reserved address space (CPU: pages are committed on touch) or one device allocation */
    size_t arena_max;  /* ceiling in bytes */
    size_t arena_used;
    size_t arena_peak;
    bool is_lent;      /* the arena is the caller's */

    const char *op;  /* the op at work, for messages; NULL between ops */
    char label[160]; /* "dit/double 3/attn" */
    short label_len[24]; /* label's length before each push */
    int label_depth;

    double flops;    /* multiply and add = 2 */
    double bytes;    /* read and written by ops, from shapes */
    int64_t n_ops;

    struct shadow *shadow; /* the device's (shadow.h); NULL: ops are computed once */
    run_tap_fn *tap; /* NULL: off */
    void *tap_arg;

    const struct comm_group *group; /* borrowed; the ranks that share this forward (comm/comm.h). NULL: alone */
    double traffic;                 /* bytes sent to them */
    double brought;                 /* bytes of weights brought up for it (pool.h) */
    bool unrepeatable; /* data went to or from the device, or weights came up: no recording would do it again (run_repeat.h) */
};

/* arena_max 0: the device's default ceiling (CPU: 1 TiB of reserved, untouched address space at most). */
int run_init(struct run *r, struct device *device, size_t arena_max, struct err *err);
/* With the caller's memory as its arena, which run_done leaves alone. */
void run_init_in(struct run *r, struct device *device, void *arena, size_t bytes);
/* Goes on in another piece of it; all that was allocated is void. While planning arena is NULL. */
void run_move(struct run *r, void *arena, size_t bytes);
void run_done(struct run *r);
/* Back to an empty arena, no error, counters zero. */
void run_reset(struct run *r);

bool run_failed(const struct run *r);
/* Records the first failure "op (label): sentence" (outside ops "label: sentence"); returns code. */
int run_fail(struct run *r, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

size_t run_mark(const struct run *r);
void run_rewind(struct run *r, size_t mark); /* everything allocated after mark is void */
/* New contiguous tensor in the arena, 64-byte aligned, contents undefined. On failure (sticky) a tensor with the
 * shape and data NULL. */
struct tensor run_new(struct run *r, enum dtype dtype, int n_dims, const int64_t *shape);

/* Copies host memory (contiguous) into a new arena tensor, and a tensor (any strides) out to contiguous host memory.
 * While planning run_write only allocates and run_read leaves host alone. */
struct tensor run_write(struct run *r, const void *host, enum dtype dtype, int n_dims, const int64_t *shape);
int run_read(struct run *r, struct tensor t, void *host);

/* Labels nest: run_push(r, "double %d", i) ... run_pop(r). Cut, never overflowing. */
void run_push(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void run_pop(struct run *r);
/* Shows t to the tap, if there is one. Free otherwise. */
void run_tap(struct run *r, struct tensor t, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
