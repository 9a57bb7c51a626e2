/* run_repeat.h -- a stretch of a forward that is enqueued alike again and again, recorded once and then launched as one:
 * the same ops on the same addresses with the same numbers. What changes from time to time lies at fixed addresses.
 *
 *     struct run_repeat p = {0};                                      (run_repeat_done frees)
 *     for each step:
 *         op_copy_into(r, x, ...);                                    what changes: before the stretch
 *         while (run_repeat(r, &p, inputs, n))                        not at all, once, or again when a recording fails
 *             y = op_linear(r, x, w, b, ACT_NONE);                    enqueues only: no run_write, no run_read
 *         op_add(r, z, y);                                            y is where it was
 *
 * The first time the stretch runs as ever (libraries choose their algorithms then, so that a recording allocates nothing), the
 * second time it is recorded and launched, from the third on launched without the body. Counters, arena and results are as
 * if it had run. inputs are the tensors that it reads from the arena (weights and what stays for a whole forward need not be
 * told): where one of them, or the arena's end, is not where it was, the stretch runs as ever.
 *
 * It always runs as ever on devices that cannot record (kernels/device.h: repeat_begin), while planning, with a tap, in a
 * group, when the stretch wrote, read or brought up weights (run.unrepeatable), when it is long (launches hide behind its
 * ops then, and a cancel, which is only seen before a launch, would wait for all of it), and for good once a recording
 * failed: that is no error of the run (p.why has the reason). A run that failed stays failed.
 */
#ifndef KERNELS_RUN_REPEAT_H
#define KERNELS_RUN_REPEAT_H

#include "kernels/run.h"

enum { RUN_REPEAT_INPUTS = 8 };
#define RUN_REPEAT_FLOPS 2e14 /* of the longest stretch that is recorded: half a second of an H100 */

struct run_repeat { /* zeroed by the caller; nothing in it is anybody else's but why and n_played */
    enum { RUN_REPEAT_NEW, RUN_REPEAT_KNOWN, RUN_REPEAT_KEPT, RUN_REPEAT_OFF } state;
    enum { RUN_REPEAT_IDLE, RUN_REPEAT_PLAIN, RUN_REPEAT_FIRST, RUN_REPEAT_RECORDING } pass;
    void *recording;
    struct device *device;
    const char *arena;
    size_t at, end, peak; /* the arena before and behind the stretch, and its highest in it */
    double flops, bytes;  /* of the stretch */
    int64_t n_ops;
    const void *inputs[RUN_REPEAT_INPUTS];
    int n_inputs;
    struct { /* when this pass began */
        size_t at, peak;
        double flops, bytes;
        int64_t n_ops;
    } before;
    struct err why;   /* of OFF */
    int64_t n_played; /* launches of the recording */
};

/* Whether this run's device and state allow recordings at all. Where not, run_repeat only runs. */
bool run_repeat_can(const struct run *r);
/* n inputs, at most RUN_REPEAT_INPUTS. True: the stretch is to be enqueued, and this called again. */
bool run_repeat(struct run *r, struct run_repeat *p, const struct tensor *inputs, int n);
void run_repeat_done(struct run_repeat *p); /* back to zero */

#endif
