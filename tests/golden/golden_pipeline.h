/* golden_pipeline.h -- a run of the generator for a case: shared by the kinds pipeline and conditioning. */
#ifndef TESTS_GOLDEN_GOLDEN_PIPELINE_H
#define TESTS_GOLDEN_GOLDEN_PIPELINE_H

#include <stdatomic.h>

#include "tests/golden/golden.h"
#include "worker/model/avatar.h"

/* One case: the request, what came out. */
struct golden_pipeline {
    struct avatar_request q;
    struct image image; /* owned */
    struct wave wave;   /* owned */
    bool fp8;
    bool stop; /* at the first step */
    atomic_int cancel;
    char noise[2200], dump[64];
    uint8_t *rgb; /* owned: [frames, height, width, 3] */
    int64_t frames, n_silent; /* made; what the reference makes behind them and ours does not */
    int width, height;
    struct ckpt *made; /* the dump */
};

/* The face that the reference would take: not always the largest, which is ours (MODEL.md), so it is asked
 * for by its box. The miniature detector fires at dozens of places. */
bool golden_pipeline_face(struct golden *g, struct golden_pipeline *p);
/* How many frames to ask for, true. The reference's driver cuts the sound only to fewer frames than it makes of it,
 * at most 400; at 12.5 fps it makes all that it counts at 25; behind the 400 it makes five over silence, ours does
 * not. */
bool golden_pipeline_count(struct golden *g, struct golden_pipeline *p);
/* A temporary file for the dump; hands image and wave to the request. */
bool golden_pipeline_dump(struct golden *g, struct golden_pipeline *p);
/* Runs and opens the dump. */
bool golden_pipeline_run(struct golden *g, struct golden_pipeline *p);
void golden_pipeline_done(struct golden_pipeline *p);
/* The dumped tensor as f32, or NULL with a failure; *ret_t: its shape. The caller frees it. */
float *golden_pipeline_made(struct golden *g, struct golden_pipeline *p, const char *name,
                            struct tensor *ret_t);

void golden_conditioning_case(struct golden *g); /* golden_conditioning.c */

#endif
