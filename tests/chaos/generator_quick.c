/* generator_quick.c -- stands for the avatar generator in the programs of tests/chaos/: the same inputs, stages, frames and
 * files through the real pipeline, but the picture is only moved and a step is a sleep. So a run has many jobs on two
 * cores, and the time between two steps is there to die in. The seed and the inputs decide every byte. */
#include "worker/generator_avatar.h"

#include <stdatomic.h>
#include <string.h>

#include "common/clock.h"
#include "common/cost.h"
#include "common/mem.h"
#include "common/schema.h"
#include "kernels/yuv.h"
#include "worker/pipeline.h"

enum { SIDE = 64, STEP_MS = 40, CHUNK = 3 };

static int open_quick(void **ret, const struct generator_env *env, struct err *err)
{
    static int state;
    (void)env;
    (void)err;
    *ret = &state;
    return 0;
}

static void close_quick(void *state)
{
    (void)state;
}

static int component(const void *state, int i, const char **ret_name, const char **ret_status, double *ret_seconds,
                     const char **ret_error)
{
    (void)state;
    if (i > 0)
        return ERR_NOTFOUND;
    *ret_name = "quick";
    *ret_status = "ready";
    *ret_seconds = 0;
    *ret_error = "";
    return 0;
}

/* What a job costs: its steps. */
static int cost(void *state, int i, struct cost_model *ret, struct err *err)
{
    (void)state;
    (void)err;
    if (i > 0)
        return ERR_NOTFOUND;
    *ret = (struct cost_model){.window = 129, .slope = 0.0155, .n_steps = 1, .steps = {{1, 1}}, .n = 1};
    ret->row[0] = (struct cost_row){.pixels = SIDE * SIDE, .step = 1, .once = 1, .bytes = 1 << 20};
    return 0;
}

static int cancelled(struct pipeline *p, struct err *err)
{
    return atomic_load(pipeline_cancel(p)) ? err_set(err, ERR_CANCEL, "the job was cancelled") : 0;
}

static void draw(uint8_t *rgb, const struct image *picture, int64_t frame, uint64_t seed)
{
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            int64_t from_x = (x + frame * 3 + (int64_t)(seed % 17)) % picture->width, from_y = y % picture->height;
            memcpy(rgb + (y * SIDE + x) * 3, picture->pixels + (from_y * picture->width + from_x) * 3, 3);
        }
    }
}

/* I420 of an RGB frame, in grey. */
static void to_grey(uint8_t *yuv, const uint8_t *rgb)
{
    for (int i = 0; i < SIDE * SIDE; i++)
        yuv[i] = YUV_Y(64 * rgb[3 * i], 64 * rgb[3 * i + 1], 64 * rgb[3 * i + 2]);
    memset(yuv + SIDE * SIDE, 128, SIDE * SIDE / 2);
}

static int steps(struct pipeline *p, int64_t n, struct err *err)
{
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        pipeline_progress(p, "denoise", i, n, (double)((n - i) * STEP_MS) / 1000);
        clock_sleep_us(STEP_MS * CLOCK_MS);
        rc = cancelled(p, err);
    }
    return rc;
}

static int frames(struct pipeline *p, const struct image *picture, int64_t n, uint64_t seed, struct err *err)
{
    enum { BYTES = SIDE * SIDE * 3 / 2 };
    uint8_t rgb[2 * BYTES];
    uint8_t *yuv = mem_alloc((size_t)CHUNK * BYTES);
    int rc = yuv ? 0 : err_set(err, ERR_NOMEM, "no memory for frames");
    for (int64_t done = 0, k; rc == 0 && done < n; done += k) {
        k = n - done < CHUNK ? n - done : CHUNK;
        for (int64_t i = 0; i < k && rc == 0; i++) {
            draw(rgb, picture, done + i, seed);
            to_grey(yuv + i * BYTES, rgb);
            if (done + i == 0)
                rc = pipeline_picture(p, rgb, SIDE, SIDE, err);
        }
        if (rc == 0)
            rc = pipeline_frames(p, yuv, k, SIDE, SIDE, err);
        pipeline_progress(p, "decode", done + k, n, 0);
    }
    mem_free(yuv);
    return rc;
}

static int run_quick(void *state, struct pipeline *p, struct err *err)
{
    const struct audio_limit limit = {.max_s = 60};
    const json_t *params = pipeline_params(p);
    uint64_t seed = (uint64_t)schema_int(params, "seed", 0);
    int64_t n_frames = schema_int(params, "num_frames", 9);
    struct image picture = {0};
    struct sound sound = {0};
    (void)state;
    int rc = pipeline_image(p, "image", &picture, err);
    if (rc == 0)
        rc = pipeline_sound(p, "audio", &limit, &sound, err);
    if (rc == 0) {
        pipeline_seed(p, seed);
        pipeline_video(p, 25, &sound);
        pipeline_progress(p, "load", 0, 0, -1);
        pipeline_progress(p, "condition", 0, 0, -1);
        rc = steps(p, schema_int(params, "num_inference_steps", 10), err);
    }
    if (rc == 0)
        rc = frames(p, &picture, n_frames, seed, err);
    pipeline_note(p, "flop", json_real(1e9));
    pipeline_note(p, "weights_sha256", json_string("quick"));
    pipeline_video(p, 25, NULL);
    image_done(&picture);
    sound_done(&sound);
    return rc;
}

const struct generator generator_avatar = {
    .name = "avatar", .open = open_quick, .close = close_quick, .component = component, .cost = cost, .run = run_quick};
