/* predict.h -- what a submit can tell about its job before any worker sees it: how much work and memory it will be, whether
 * it fits any worker there is, and whether an earlier video may answer it.
 *
 *     audio_s = predict_audio_s(volume, job.params);            in a pool thread: reads the file's head
 *     rc = predict_cache_key(&job, &err);                       there too
 *     rc = predict_fit(app->models, &job, audio_s, &err);       on the loop; ERR_NOFIT
 */
#ifndef DISPATCHER_PREDICT_H
#define DISPATCHER_PREDICT_H

#include "common/err.h"
#include "common/job.h"
#include "dispatcher/models.h"

/* Seconds of the recording, 0 when it cannot be read: the worker will judge the file. */
double predict_audio_s(const char *volume, const json_t *params);

/* SHA-256 over tenant, generator and parameters (defaults applied, members in order; media are there by their content):
 * everything that decides the video. Only with a seed of the caller's own, and unless cache=off; otherwise "". */
int predict_cache_key(struct job *job, struct err *err);

/* Sets gflop and plan_bytes where a cost model is known. ERR_NOFIT when the largest device that is offered is smaller than
 * the prediction by more than a tenth; within that tenth the largest device may try. A job of several devices is not
 * refused: how they divide it is the worker's to say. */
int predict_fit(const struct models *m, struct job *job, double audio_s, struct err *err);

#endif
