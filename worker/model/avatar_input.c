#include "worker/model/avatar_input.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/media/resize.h"
#include "worker/media/size.h"

static const char PREFIX[] = "Authentic, Realistic, Natural, High-quality, Lens-Fixed, ";
static const char NEGATIVE[] = "Aerial view, aerial view, overexposed, low quality, deformation, a poor "
                               "composition, bad hands, bad teeth, bad eyes, "
                               "bad limbs, distortion, blurring, Lens changes";

enum { PROMPT_MAX = 1 << 16 }; /* bytes; the tokenizers cut at 249 tokens */

void avatar_input_warn(const struct avatar_hooks *hooks, const char *fmt, ...)
{
    char text[400];
    va_list args;

    if (hooks == NULL || hooks->warn == NULL)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    hooks->warn(hooks->arg, text);
}

/* ---- frames ---- */

int avatar_input_frames(int64_t n_samples, double fps, int64_t asked, struct avatar_frames *ret,
                        struct err *err)
{
    int64_t at_25 = n_samples / AVATAR_INPUT_FRAME, at_12 = n_samples / (2 * AVATAR_INPUT_FRAME);
    /* The reference counts frames at 25 a second whatever the rate; at 12.5 it reaches the end of its sound
     * at 374. */
    bool half = fps == 12.5, longer = half && at_25 > 374;
    struct avatar_frames f;

    if (at_25 < 1)
        return err_set(err, ERR_INVALID,
                       "audio: %lld samples are shorter than one frame (%d samples, 0.04 s)",
                       (long long)n_samples, AVATAR_INPUT_FRAME);
    if (asked < 0 || asked > WINDOW_MAX_FRAMES)
        return err_set(err, ERR_INVALID,
                       "num_frames: %lld is not allowed; 1 to %d is, or none: as long as the sound",
                       (long long)asked, WINDOW_MAX_FRAMES);
    f.sound = longer ? at_12 : at_25;
    f.model = asked > 0 ? asked : f.sound;
    f.video = asked > 0 ? asked : half ? (at_12 > 0 ? at_12 : 1) : at_25;
    if (f.model > WINDOW_MAX_FRAMES)
        return err_set(err, ERR_INVALID,
                       "audio: %.1f s are longer than the %d frames that are allowed: cut the sound or "
                       "set num_frames",
                       (double)n_samples / AVATAR_INPUT_RATE, WINDOW_MAX_FRAMES);
    *ret = f;
    return 0;
}

/* ---- checks ---- */

static int avatar_input_check_size(const struct avatar_request *q, struct err *err)
{
    if (q->image.pixels == NULL || q->image.width < 1 || q->image.height < 1)
        return err_set(err, ERR_INVALID, "image: no picture");
    if (q->width == 0 && q->height == 0) {
        if (q->size < AVATAR_INPUT_MIN_SIDE || q->size > AVATAR_INPUT_MAX_SIDE)
            return err_set(err, ERR_INVALID, "size: %d is not allowed; %d to %d is", q->size,
                           AVATAR_INPUT_MIN_SIDE, AVATAR_INPUT_MAX_SIDE);
        return 0;
    }
    if (q->width < AVATAR_INPUT_MIN_SIDE || q->width > AVATAR_INPUT_MAX_SIDE || q->width % 16 != 0 ||
        q->height < AVATAR_INPUT_MIN_SIDE || q->height > AVATAR_INPUT_MAX_SIDE || q->height % 16 != 0)
        return err_set(err, ERR_INVALID, "size: %dx%d is not allowed; multiples of 16 from %d to %d are",
                       q->width, q->height, AVATAR_INPUT_MIN_SIDE, AVATAR_INPUT_MAX_SIDE);
    return 0;
}

static int avatar_input_check_face(const struct avatar_request *q, struct err *err)
{
    if (q->face == AVATAR_FACE_BOX) {
        for (int i = 0; i < 4; i++)
            if (!isfinite(q->box[i]) || fabs(q->box[i]) > 1e6 || (i >= 2 && q->box[i] <= 0))
                return err_set(err, ERR_INVALID,
                               "face: a box is x,y,w,h in pixels of the image, w and h above 0");
        if (q->box[0] >= q->image.width || q->box[1] >= q->image.height || q->box[0] + q->box[2] <= 0 ||
            q->box[1] + q->box[3] <= 0)
            return err_set(err, ERR_INVALID,
                           "face: the box %g,%g,%g,%g lies outside the picture of %d x %d pixels: x,y is its "
                           "upper left corner, w,h its size",
                           q->box[0], q->box[1], q->box[2], q->box[3], q->image.width, q->image.height);
    }
    if (q->face == AVATAR_FACE_INDEX && q->face_index < 0)
        return err_set(err, ERR_INVALID, "face_index: %d given, 0 (the largest face) or more is allowed",
                       q->face_index);
    return 0;
}

static int avatar_input_check(const struct avatar_request *q, struct err *err)
{
    int rc;

    if (q->fps != 25.0 && q->fps != 12.5)
        return err_set(err, ERR_INVALID, "fps: %g given, 25 and 12.5 are allowed", q->fps);
    if (q->wave.samples == NULL || q->wave.rate != AVATAR_INPUT_RATE)
        return err_set(err, ERR_INVALID, "audio: mono samples at %d Hz expected, %d Hz given",
                       AVATAR_INPUT_RATE, q->wave.rate);
    if ((q->prompt != NULL && strlen(q->prompt) > PROMPT_MAX) ||
        (q->negative_prompt != NULL && strlen(q->negative_prompt) > PROMPT_MAX))
        return err_set(err, ERR_TOOBIG, "prompt: more than %d bytes", PROMPT_MAX);
    if ((rc = avatar_input_check_size(q, err)) < 0)
        return rc;
    return avatar_input_check_face(q, err);
}

/* ---- picture ---- */

static int avatar_input_sides(struct avatar_input *in, const struct avatar_hooks *hooks, struct err *err)
{
    const struct avatar_request *q = in->q;
    int w, h;

    in->width = q->width;
    in->height = q->height;
    if (q->width > 0)
        return 0;
    if (avatar_size(q->image.width, q->image.height, q->size, &in->width, &in->height) < 0)
        return err_set(err, ERR_INVALID, "size: no video size for a picture of %d x %d", q->image.width,
                       q->image.height);
    size_rule(q->image.width, q->image.height, q->size, &w, &h);
    if (w != in->width || h != in->height)
        avatar_input_warn(hooks,
                          "image: %d x %d is so long that a side rounds to 0: the video is %d x %d and the "
                          "picture is squeezed",
                          q->image.width, q->image.height, in->width, in->height);
    return 0;
}

static int avatar_input_picture(struct avatar_input *in, struct err *err)
{
    int rc = resize_image(&in->q->image, in->width, in->height, RESIZE_LANCZOS, &in->sized, err);

    if (rc == 0)
        rc = resize_image(&in->sized, AVATAR_INPUT_SQUASHED, AVATAR_INPUT_SQUASHED, RESIZE_BILINEAR,
                          &in->squashed, err);
    return rc;
}

static int avatar_input_prompt(struct avatar_input *in, struct err *err)
{
    const char *text = in->q->prompt != NULL ? in->q->prompt : "";
    size_t size = sizeof(PREFIX) + strlen(text);

    in->negative = in->q->negative_prompt != NULL ? in->q->negative_prompt : NEGATIVE;
    in->prompt = mem_alloc(size);
    if (in->prompt == NULL)
        return err_set(err, ERR_NOMEM, "prompt: no memory");
    return str_format(in->prompt, size, "%s%s", PREFIX, text);
}

int avatar_input_open(struct avatar_input *in, const struct avatar_request *q,
                      const struct avatar_hooks *hooks, struct err *err)
{
    struct sampler_inputs s = {.steps = q->steps,
                               .guidance = q->guidance,
                               .shift = q->shift,
                               .fps = q->fps,
                               .round_bf16 = q->round_bf16};
    int rc = avatar_input_check(q, err);

    *in = (struct avatar_input){.q = q};
    if (rc < 0 || (rc = avatar_input_frames(q->wave.n, q->fps, q->n_frames, &in->frames, err)) < 0)
        return rc;
    s.n_frames = in->frames.model;
    if ((rc = sampler_plan_init(&in->plan, &s, err)) < 0)
        return rc;
    if ((rc = avatar_input_sides(in, hooks, err)) < 0 || (rc = avatar_input_picture(in, err)) < 0 ||
        (rc = avatar_input_prompt(in, err)) < 0)
        avatar_input_done(in);
    return rc;
}

void avatar_input_done(struct avatar_input *in)
{
    image_done(&in->sized);
    image_done(&in->squashed);
    mem_free(in->prompt);
    *in = (struct avatar_input){0};
}
