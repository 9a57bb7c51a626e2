/* checkop.h -- one op after the other: every table against cpu_ref, within bounds that come from the
 * arithmetic.
 *
 * An op is checked by a function that makes its inputs from a side and calls it. The function runs once on
 * each side (reference, cpu with two threads, cpu with one) with the same random numbers; in place ops return
 * what they wrote.
 *
 *     static struct tensor rms_norm(struct side *s, const int64_t *d)
 *     {
 *         struct tensor x = side_input(s, 1, 2, SHAPE(d[0], d[1])), w = side_weight(s, DTYPE_F32, 1, 1,
 * SHAPE(d[1])); return op_rms_norm(&s->run, x, w, 1e-6f);
 *     }
 *
 * What is checked: each element within the bound of kernels/tolerance.h (the magnitude, and what the op gives when every
 * input is its tensor's largest, are calls of the same function with other inputs); NaN nowhere; inputs unchanged; the bytes
 * around inputs and the result unchanged; the same bits a second time and with one thread.
 *
 * A device that is not the host gets its inputs by the device's own ways (write, upload) and is looked at by read alone.
 * What its table does not hold yet (ERR_UNSUPPORTED) counts as skipped.
 */
#ifndef TESTS_CHECKOP_CHECKOP_H
#define TESTS_CHECKOP_CHECKOP_H

#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/run.h"
#include "kernels/tolerance.h"

#define SIDE_INPUTS 12
#define CASE_NUMBERS 12

enum data_kind {
    DATA_NORMAL,
    DATA_EQUAL,
    DATA_MIXED,
    DATA_COUNT
}; /* seeded normal; all alike; huge beside tiny */

struct side {
    struct run run;
    struct device *device;
    uint64_t random;
    enum data_kind data;
    bool absolute; /* the magnitude is wanted: inputs by absolute value, no activation */
    bool largest;  /* beside absolute: every input as the largest of its tensor */
    struct side_tensor {
        struct tensor tensor;
        char *base; /* fence, data, fence, in host memory */
        char *device; /* where base lies on a device that is not the host; NULL for weights, which were uploaded */
        size_t bytes;
        bool written; /* in place: only the fences count */
        bool lasting; /* a weight */
        bool owned;   /* base is from mem_aligned */
    } inputs[SIDE_INPUTS];
    int n_inputs;
    int replay; /* speed: from this input on, what was made before is handed out again; -1: off */
};

/* f32, contiguous, of the deviation given (the other data kinds scale likewise). */
struct tensor side_input(struct side *s, double deviation, int n_dims, const int64_t *shape);
/* The same, for what an op writes in place. */
struct tensor side_inout(struct side *s, double deviation, int n_dims, const int64_t *shape);
/* Outside the arena, as mapped weights are, in any float type. Always normal numbers. */
struct tensor side_weight(struct side *s, enum dtype dtype, double deviation, int n_dims,
                          const int64_t *shape);
/* f32 numbers of another kind: by(s, i, v) of element i and a normal number v. */
typedef float side_by_fn(const struct side *s, int64_t i, float v);
struct tensor side_weight_by(struct side *s, double deviation, int n_dims, const int64_t *shape, side_by_fn *by);
/* i32 in [0, below). */
struct tensor side_indices(struct side *s, int64_t n, int64_t below);
/* u8, any values (mask: 0 or 1, the first of each row 1). */
struct tensor side_bytes(struct side *s, bool mask, int n_dims, const int64_t *shape);
double side_normal(struct side *s);
enum act side_act(const struct side *s, int64_t act); /* ACT_NONE while the magnitude is wanted */

typedef struct tensor check_fn(struct side *s, const int64_t *d);

struct check {
    const char *op;
    check_fn *run;
    const int64_t (*cases)[CASE_NUMBERS];
    int n_cases;
    int n_bench;    /* the last so many are too large to be compared: --bench only */
    const struct tolerance *by; /* the op's bound; those that round (TOLERANCE_ROUNDS) are all that --precision runs */
    bool keeps_f16; /* its weights are f16 and multiplied as they are in bf16, but on the CPU */
    bool normal_only; /* the op's bound is for well-scaled inputs */
};

#define CHECK_BY(member) .by = &tolerance_of[TOLERANCE_##member]
#define CHECK_CASES(list) .cases = (list), .n_cases = (int)(sizeof(list) / sizeof(list)[0])

/* Lists end with op NULL. */
extern const struct check check_linear[], check_norm[], check_attention[], check_conv[], check_elem[],
    check_move[];

#endif
