/* ops_check.h -- what all ops share: the start, the checks with their sentences, the counting, the call.
 * Private to kernels/ops*.c.
 *
 * An op is five steps in this order:
 *
 *     struct tensor op_scaled(struct run *r, struct tensor x, float mul)
 *     {
 *         op_begin(r, "op_scaled");                                  1 name; a cancelled run fails here
 *         if (!op_check_f32(r, "x", x))                              2 checks, each with a sentence
 *             return TENSOR_NONE;
 *         struct tensor y = run_new(r, DTYPE_F32, x.n_dims, x.shape); 3 result
 *         op_count(r, tensor_count(x), 2, x, y);                     4 flops and bytes
 *         OP_CALL(r, scaled, y, x, mul);                             5 the table, unless failed or planning
 *         return y;
 *     }
 *
 * Checks run in a failed run too (they can record nothing any more): so the result of a stopped op has its
 * true shape and data NULL, and views of it in the model stay right. Only where the arguments do not fit is
 * the result none, and a view of none is none.
 */
#ifndef KERNELS_OPS_CHECK_H
#define KERNELS_OPS_CHECK_H

#include "kernels/ops.h"
#include "kernels/shadow.h"
#include "kernels/table.h"

void op_begin(struct run *r, const char *op);
/* flops, and n tensors of which all elements are read or written. Nothing in a failed run. */
void op_count(struct run *r, double flops, int n, ...);
/* Ends the op: rc from the table, with a general sentence where the table gave none. */
void op_end(struct run *r, int rc);

/* With a shadow (shadow.h) the table's member, then cpu_ref's on copies. */
#define OP_CALL(r, member, ...)                                                                              \
    do {                                                                                                     \
        struct shadow *op_shadow = (r)->shadow;                                                              \
        if (!op_shadow || run_failed(r)) {                                                                   \
            op_end(r, (r)->table && !run_failed(r) ? (r)->table->member((r), __VA_ARGS__) : 0);              \
            break;                                                                                           \
        }                                                                                                    \
        const struct shadow_arg op_args[] = {SHADOW_EACH(SHADOW_NOTE, __VA_ARGS__)};                         \
        shadow_begin(op_shadow, r, TOLERANCE_##member, op_args);                                             \
        while (shadow_next(op_shadow))                                                                       \
            shadow_take(op_shadow, shadow_table(op_shadow)->member(shadow_run(op_shadow),                    \
                                                                   SHADOW_EACH(SHADOW_PASS, __VA_ARGS__)));  \
        op_end(r, shadow_end(op_shadow));                                                                    \
    } while (0)

/* Each check returns false after run_fail(ERR_SHAPE) with a sentence that names what. */
bool op_check_some(struct run *r, const char *what, struct tensor t);    /* not none */
bool op_check_f32(struct run *r, const char *what, struct tensor t);     /* f32, last dimension contiguous */
bool op_check_f32_any(struct run *r, const char *what, struct tensor t); /* f32, any strides */
bool op_check_dims(struct run *r, const char *what, struct tensor t, int n_dims);
bool op_check_weight(struct run *r, const char *what, struct tensor t,
                     bool fp8); /* f32, bf16, f16; contiguous */
/* Contiguous floats, n of them in any shape; none is fine where optional. */
bool op_check_vector(struct run *r, const char *what, struct tensor t, int64_t n, bool optional);
bool op_check_f32_vector(struct run *r, const char *what, struct tensor t, int64_t n);
bool op_check_indices(struct run *r, const char *what, struct tensor t, int64_t n); /* i32 [n]; n < 0: any */
bool op_check_same(struct run *r, const char *what_a, struct tensor a, const char *what_b, struct tensor b);
bool op_check_dim(struct run *r, struct tensor t, int dim); /* dim is one of t's */
bool op_check_act(struct run *r, enum act act);
/* "what is f32 [2, 3]: why"; returns false. */
bool op_refuse(struct run *r, const char *what, struct tensor t, const char *why);
/* "a f32 [2, 3] does not fit b f32 [4]: why"; returns false. */
bool op_misfit(struct run *r, const char *what_a, struct tensor a, const char *what_b, struct tensor b,
               const char *why);

#endif
