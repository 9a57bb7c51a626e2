/* pipeline.h -- one job through its stages: fetch, probe, (the generator's own: load, condition, denoise,
 * decode), encode, publish. The pipeline reads the inputs from the volume, takes frames as they come, and
 * publishes video, thumbnail and report; what is between is the generator's.
 *
 *     struct pipeline_hooks hooks = {arg, cancel, progress};
 *     rc = pipeline_run(generator, state, &env, &job, attempt, &hooks, &result, &err);
 *
 * Everything is written under names that hold the attempt and a random mark, with ".part" behind them until it is
 * whole, so attempts never meet. After a failure nothing of the attempt stays.
 */
#ifndef WORKER_PIPELINE_H
#define WORKER_PIPELINE_H

#include <stdatomic.h>
#include <stdint.h>

#include "common/err.h"
#include "common/job.h"
#include "common/json.h"
#include "worker/gang.h"
#include "worker/generator.h"
#include "worker/media/audio_in.h"
#include "worker/media/media.h"

struct pipeline_hooks {
    void *arg;
    const atomic_int *cancel; /* non-zero: stop with ERR_CANCEL */
    void (*progress)(void *arg, const char *stage, int64_t step, int64_t total, double eta_s);
    struct gang *gang; /* borrowed: the workers that share the job; NULL: alone */
};

/* Of a gang rank 0 alone has frames, publishes, and returns a result (the others NULL).
 *
 * *ret_result: the result object of common/PROTOCOL.md, *ret_report: what the report file holds; owned by the
 * caller. Errors carry the stage in their sentence only where it helps; the code decides what becomes of the job
 * (err_then). worker: for the report.
 */
int pipeline_run(const struct generator *g, void *state, const struct generator_env *env, const char *worker,
                 const struct job *job, int64_t attempt, const struct pipeline_hooks *hooks,
                 json_t **ret_result, json_t **ret_report, struct err *err);

/* ---- for generators ---- */

const json_t *pipeline_params(const struct pipeline *p);
struct gang *pipeline_gang(const struct pipeline *p); /* NULL: alone */
const atomic_int *pipeline_cancel(const struct pipeline *p);
/* Enters a stage, or goes on within it. eta_s < 0: not known. */
void pipeline_progress(struct pipeline *p, const char *stage, int64_t step, int64_t total, double eta_s);
void pipeline_warn(struct pipeline *p, const char *text); /* into the result; at most 16 */
/* Into the report. Takes over value; NULL (no memory) is left out. */
void pipeline_note(struct pipeline *p, const char *key, json_t *value);

/* Inputs by the blob key in params. ERR_INVALID naming the field when the blob is gone; media errors as they
 * are. */
int pipeline_image(struct pipeline *p, const char *field, struct image *ret, struct err *err);
int pipeline_sound(struct pipeline *p, const char *field, const struct audio_limit *limit, struct sound *ret,
                   struct err *err);

/* The video: opened at the first frames (I420, see mp4.h), whose size it takes. sound is borrowed until the job's end. The
 * picture is the first frame as RGB, for the thumbnail; given before it. */
void pipeline_video(struct pipeline *p, double fps, const struct sound *sound);
int pipeline_picture(struct pipeline *p, const uint8_t *rgb, int width, int height, struct err *err);
int pipeline_frames(struct pipeline *p, const uint8_t *yuv, int64_t n, int width, int height,
                    struct err *err);
void pipeline_seed(struct pipeline *p, uint64_t seed);

#endif
