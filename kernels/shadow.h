/* shadow.h -- every op twice: on the device, and by cpu_ref on copies of the same inputs. The first that differs by more
 * than kernels/tolerance.h allows fails the run with a sentence that names op, label, element, both values, the bound and
 * the shapes.
 *
 *     struct shadow *s;
 *     if ((rc = shadow_open(&s, device, SHADOW_BYTES, &err)) < 0) ...
 *     ... every run of the device is shadowed ...
 *     shadow_report(s, &report);            what was checked since the report before
 *     shadow_close(s);                      before the device
 *
 * For any device, used like it by one thread. Slow by nature: cpu_ref is one thread of plain loops, computes most ops twice
 * (the second time for the bound), and every tensor and weight is read back at every op. On the CPU the demo model takes 30
 * (decoder) to 100 times (transformer) as long; a transformer of the real size is out of reach, a layer of it is not. An op
 * whose copies exceed max_bytes is computed on the device alone and counted as skipped. Tensors are read as they lie, with
 * the gaps of their strides, so that what an op writes between the rows of its result is seen too.
 *
 * No op knows of it: OP_CALL (ops_check.h) asks shadow_tensor and the like for each argument, and calls first the device's,
 * then the reference's member.
 */
#ifndef KERNELS_SHADOW_H
#define KERNELS_SHADOW_H

#include "kernels/table.h"
#include "kernels/tolerance.h"

#define SHADOW_BYTES ((size_t)4 << 30)

struct shadow;

struct shadow_report {
    int64_t n_checked, n_skipped;
    double share; /* largest part of a bound that was used; below 1 */
    char op[32];  /* by which */
    char label[160];
};

/* Hangs itself at the device, borrowed. ERR_NOMEM; ERR_INVALID for cpu_ref. */
int shadow_open(struct shadow **ret, struct device *d, size_t max_bytes, struct err *err);
void shadow_close(struct shadow *s);
/* Since the last report. */
void shadow_report(struct shadow *s, struct shadow_report *ret);

/* ---- for OP_CALL ---- */

enum shadow_kind { SHADOW_OTHER, SHADOW_TENSOR, SHADOW_ATTN };

/* An argument of the op at work; value points to a copy of it. */
struct shadow_arg {
    const void *value;
    enum shadow_kind kind;
};

void shadow_begin(struct shadow *s, struct run *r, enum tolerance_op op, const struct shadow_arg *args);
/* The table and run of the next call; false: there is none. */
bool shadow_next(struct shadow *s);
const struct op_table *shadow_table(const struct shadow *s);
struct run *shadow_run(struct shadow *s);
void shadow_take(struct shadow *s, int rc); /* what the call returned */
int shadow_end(struct shadow *s);           /* the op's rc */

/* Argument i as that call is to see it. */
struct tensor shadow_tensor(const struct shadow *s, int i);
struct attn shadow_attn(const struct shadow *s, int i);
const struct conv *shadow_conv(struct shadow *s, int i);
enum act shadow_act(const struct shadow *s, int i);
float shadow_float(const struct shadow *s, int i);

/* The op's arguments, noted and passed on, by their types. op_shadow is OP_CALL's. */
#define SHADOW_NOTE(i, a)                                                                                            \
    {(__typeof__(a)[]){a}, _Generic((a), struct tensor: SHADOW_TENSOR, struct attn: SHADOW_ATTN, default: SHADOW_OTHER)}
#define SHADOW_PASS(i, a)                                                                                            \
    _Generic((a),                                                                                                    \
        struct tensor: shadow_tensor(op_shadow, i),                                                                  \
        struct attn: shadow_attn(op_shadow, i),                                                                      \
        struct conv *: shadow_conv(op_shadow, i),                                                                    \
        const struct conv *: shadow_conv(op_shadow, i),                                                              \
        enum act: shadow_act(op_shadow, i), /* and unsigned numbers, which pass as they are */                       \
        float: shadow_float(op_shadow, i),                                                                           \
        default: (a))

/* F(0, a), F(1, b), ... of up to 9 arguments. */
#define SHADOW_EACH(F, ...)                                                                                          \
    SHADOW_COUNT(__VA_ARGS__, SHADOW_9, SHADOW_8, SHADOW_7, SHADOW_6, SHADOW_5, SHADOW_4, SHADOW_3, SHADOW_2, SHADOW_1, 0) \
    (F, __VA_ARGS__)
#define SHADOW_COUNT(a, b, c, d, e, f, g, h, i, name, ...) name
#define SHADOW_1(F, a) F(0, a)
#define SHADOW_2(F, a, b) SHADOW_1(F, a), F(1, b)
#define SHADOW_3(F, a, b, c) SHADOW_2(F, a, b), F(2, c)
#define SHADOW_4(F, a, b, c, d) SHADOW_3(F, a, b, c), F(3, d)
#define SHADOW_5(F, a, b, c, d, e) SHADOW_4(F, a, b, c, d), F(4, e)
#define SHADOW_6(F, a, b, c, d, e, f) SHADOW_5(F, a, b, c, d, e), F(5, f)
#define SHADOW_7(F, a, b, c, d, e, f, g) SHADOW_6(F, a, b, c, d, e, f), F(6, g)
#define SHADOW_8(F, a, b, c, d, e, f, g, h) SHADOW_7(F, a, b, c, d, e, f, g), F(7, h)
#define SHADOW_9(F, a, b, c, d, e, f, g, h, i) SHADOW_8(F, a, b, c, d, e, f, g, h), F(8, i)

#endif
