/* golden_pipeline.c -- pipeline: whole runs (picture, sound, prompt, noise in; latents and frames out)
 * through worker/model/avatar.h. What lies between is read from the dump that avatar_run writes, so the dump
 * is tested too.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/comm/comm.h"
#include "tests/golden/golden_pipeline.h"
#include "worker/face/detector.h"
#include "worker/media/audio_in.h"
#include "worker/media/image_in.h"
#include "worker/media/resize.h"
#include "worker/model/sampler.h"

/* ---- options of the reference's driver ---- */

static int golden_pipeline_number(struct golden_pipeline *p, const char *key, double v)
{
    if (strcmp(key, "--size") == 0)
        p->q.size = (int)v;
    else if (strcmp(key, "--fps") == 0)
        p->q.fps = v;
    else if (strcmp(key, "--steps") == 0)
        p->q.steps = (int)v;
    else if (strcmp(key, "--cfg") == 0)
        p->q.guidance = v;
    else if (strcmp(key, "--shift") == 0)
        p->q.shift = v;
    else if (strcmp(key, "--seed") == 0)
        p->q.seed = (uint64_t)v;
    else if (strcmp(key, "--max-frames") == 0)
        p->q.n_frames = (int64_t)v;
    else
        return ERR_INVALID;
    return 0;
}

/* Takes list[i] and its value; returns how many entries that were, 0 for an unknown option. */
static size_t golden_pipeline_option(struct golden_pipeline *p, json_t *list, size_t i)
{
    const char *key = json_string_value(json_array_get(list, i));
    const char *value = json_string_value(json_array_get(list, i + 1));
    double number;

    if (key == NULL)
        return 0;
    if (strcmp(key, "--fp8") == 0 || strcmp(key, "--no-face") == 0 || strcmp(key, "--no-mp4") == 0) {
        p->fp8 = p->fp8 || strcmp(key, "--fp8") == 0;
        if (strcmp(key, "--no-face") == 0)
            p->q.face = AVATAR_FACE_NONE;
        return 1;
    }
    if (value == NULL)
        return 0;
    if (strcmp(key, "--prompt") == 0)
        p->q.prompt = value;
    else if (strcmp(key, "--round") == 0)
        p->q.round_bf16 = strcmp(value, "bf16") == 0;
    else if (str_parse_f64(value, -1e18, 1e18, &number) < 0 || golden_pipeline_number(p, key, number) < 0)
        return 0;
    return 2;
}

static bool golden_pipeline_options(struct golden *g, struct golden_pipeline *p)
{
    json_t *list = golden_param_json(g, "options");

    avatar_request_init(&p->q);
    p->q.size = (int)golden_param(g, "size", 64);
    p->q.seed = 128;
    p->q.prompt = "A person talks to the camera.";
    for (size_t i = 0; i < json_array_size(list);) {
        size_t n = golden_pipeline_option(p, list, i);
        if (n == 0) {
            golden_fail(g, "option %s is not known", json_string_value(json_array_get(list, i)));
            return false;
        }
        i += n;
    }
    return true;
}

bool golden_pipeline_count(struct golden *g, struct golden_pipeline *p)
{
    int64_t n = p->wave.n / 640, most = n < 400 ? n : 400;

    if (p->q.n_frames >= most)
        p->q.n_frames = 0;
    if (p->q.n_frames == 0 && n > 400) {
        p->q.n_frames = 400;
        p->n_silent = 5;
    } else if (p->q.n_frames == 0 && p->q.fps == 12.5) {
        p->q.n_frames = (int64_t)golden_param(g, "frames", 0);
    }
    return true;
}

/* ---- running ---- */

static int golden_pipeline_pictures(void *arg, const uint8_t *rgb, int64_t n, int width, int height)
{
    struct golden_pipeline *p = arg;
    size_t size = (size_t)width * (size_t)height * 3;
    uint8_t *more = mem_realloc(p->rgb, (size_t)(p->frames + n) * size);

    if (more == NULL)
        return ERR_NOMEM;
    p->rgb = more;
    memcpy(p->rgb + (size_t)p->frames * size, rgb, (size_t)n * size);
    p->frames += n;
    p->width = width;
    p->height = height;
    return 0;
}

static void golden_pipeline_progress(void *arg, enum avatar_stage stage, int done, int total)
{
    struct golden_pipeline *p = arg;

    (void)done;
    (void)total;
    if (p->stop && stage == AVATAR_DENOISE)
        atomic_store(&p->cancel, 1);
}

bool golden_pipeline_dump(struct golden *g, struct golden_pipeline *p)
{
    int fd;

    str_copy(p->dump, sizeof(p->dump), "/tmp/golden-dump-XXXXXX");
    fd = mkstemp(p->dump);
    if (fd < 0) {
        golden_fail(g, "no temporary file");
        return false;
    }
    close(fd);
    p->q.dump_path = p->dump;
    p->q.image = p->image;
    p->q.wave = p->wave;
    return true;
}

static bool golden_pipeline_files(struct golden *g, struct golden_pipeline *p)
{
    char image[2200], audio[2200];

    str_format(image, sizeof(image), "%s/%s.png", g->dir, g->name);
    str_format(audio, sizeof(audio), "%s/%s.wav", g->dir, g->name);
    if (image_in_open(image, false, &p->image, &g->err) < 0 || audio_in_read(audio, &p->wave, &g->err) < 0)
        return false;
    str_format(p->noise, sizeof(p->noise), "%s/%s_noise.safetensors", g->dir, g->name);
    p->q.noise_path = access(p->noise, R_OK) == 0 ? p->noise : NULL;
    return golden_pipeline_count(g, p) && golden_pipeline_dump(g, p);
}

bool golden_pipeline_face(struct golden *g, struct golden_pipeline *p)
{
    struct face_box *list = mem_calloc(DETECTOR_MAX, sizeof(*list));
    struct detector *d = NULL;
    struct image sized = {0};
    char path[2200];
    int w, h, n = 0;

    str_path(path, sizeof(path), g->ckpts, "det_align/detface.pt");
    if (p->q.face == AVATAR_FACE_AUTO && list != NULL && access(path, R_OK) == 0 &&
        avatar_size(p->image.width, p->image.height, p->q.size, &w, &h) == 0 &&
        resize_image(&p->image, w, h, RESIZE_LANCZOS, &sized, &g->err) == 0 &&
        detector_open(&d, path, g->device, &g->err) == 0)
        n = detector_find(d, g->run, sized.pixels, w, h, list, NULL, &g->err);
    if (n > 0) {
        const struct face_box *b = &list[pick_reference(list, (size_t)n)];
        double x = (double)p->image.width / w, y = (double)p->image.height / h;
        p->q.face = AVATAR_FACE_BOX;
        p->q.box[0] = (double)b->x * x;
        p->q.box[1] = (double)b->y * y;
        p->q.box[2] = (double)b->w * x;
        p->q.box[3] = (double)b->h * y;
    }
    detector_close(d);
    image_done(&sized);
    mem_free(list);
    return g->err.code == 0;
}

bool golden_pipeline_run(struct golden *g, struct golden_pipeline *p)
{
    struct avatar_hooks hooks = {.arg = p,
                                 .cancel = &p->cancel,
                                 .group = g->run->group,
                                 .progress = golden_pipeline_progress,
                                 .pictures = golden_pipeline_pictures,
                                 .n_pictures = INT64_MAX};
    struct avatar_result result;
    struct avatar *a = NULL;
    struct err err = {0};
    int rc = avatar_open(&a, g->device, g->ckpts, p->fp8, &g->err);

    if (rc == 0)
        avatar_set_mode(a, &(struct avatar_mode){g->weights, g->compact, false});
    if (rc == 0)
        rc = avatar_run(a, &p->q, &hooks, &result, &err);
    avatar_close(a);
    if (rc < 0 && !(p->stop && rc == ERR_CANCEL))
        golden_fail(g, "%s", err.text);
    return g->err.code == 0 && ckpt_open(&p->made, p->dump, &g->err) == 0;
}

void golden_pipeline_done(struct golden_pipeline *p)
{
    ckpt_close(p->made);
    if (p->dump[0] != 0)
        unlink(p->dump);
    image_done(&p->image);
    wave_done(&p->wave);
    mem_free(p->rgb);
}

/* ---- comparing ---- */

float *golden_pipeline_made(struct golden *g, struct golden_pipeline *p, const char *name,
                            struct tensor *ret_t)
{
    struct tensor t = ckpt_find(p->made, name);
    float *x = tensor_is_none(t) ? NULL : mem_calloc((size_t)tensor_count(t), sizeof(float));

    if (x == NULL) {
        golden_fail(g, "the dump has no %s", name);
        return NULL;
    }
    if (t.dtype == DTYPE_I32 || t.dtype == DTYPE_U8) {
        for (int64_t i = 0; i < tensor_count(t); i++)
            x[i] = t.dtype == DTYPE_I32 ? (float)((const int32_t *)t.data)[i]
                                        : (float)((const uint8_t *)t.data)[i];
    } else {
        dtype_read_f32(x, t.data, t.dtype, tensor_count(t), 1.0f);
    }
    *ret_t = t;
    return x;
}

/* made, whole, against the case's name. */
static void golden_pipeline_same(struct golden *g, struct golden_pipeline *p, const char *name,
                                 const char *made)
{
    struct tensor t;
    float *x = golden_has(g, name) ? golden_pipeline_made(g, p, made, &t) : NULL;

    if (x != NULL)
        golden_check_host(g, name, x, tensor_count(t));
    mem_free(x);
}

/* made [1, C, T, h, w]: its first n of T. */
static void golden_pipeline_first(struct golden *g, struct golden_pipeline *p, const char *name,
                                  const char *made, int64_t n)
{
    struct tensor t;
    float *x = golden_has(g, name) ? golden_pipeline_made(g, p, made, &t) : NULL;

    if (x == NULL)
        return;
    int64_t area = t.shape[3] * t.shape[4], len = n < t.shape[2] ? n : t.shape[2];
    for (int64_t c = 1; c < t.shape[1]; c++)
        memmove(x + c * len * area, x + c * t.shape[2] * area, (size_t)(len * area) * sizeof(float));
    golden_check_host(g, name, x, t.shape[1] * len * area);
    mem_free(x);
}

/* made [outer, n, inner] -> mean over n. */
static void golden_pipeline_mean(struct golden *g, const char *name, const float *x, int64_t outer, int64_t n,
                                 int64_t inner)
{
    float *y = mem_calloc((size_t)(outer * inner), sizeof(float));

    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < inner; i++) {
            double sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum += (double)x[(o * n + k) * inner + i];
            y[o * inner + i] = (float)(sum / (double)n);
        }
    }
    golden_check_host(g, name, y, outer * inner);
    mem_free(y);
}

static void golden_pipeline_sums(struct golden *g, struct golden_pipeline *p)
{
    struct tensor t;
    float *x = golden_has(g, "mid.text_sum") ? golden_pipeline_made(g, p, "mid.text", &t) : NULL;

    if (x != NULL)
        golden_pipeline_mean(g, "mid.text_sum", x, t.shape[0], t.shape[1], t.shape[2]);
    mem_free(x);
    x = golden_has(g, "mid.audio_mean") ? golden_pipeline_made(g, p, "mid.audio", &t) : NULL;
    if (x != NULL)
        golden_pipeline_mean(g, "mid.audio_mean", x, t.shape[1], tensor_count(t) / t.shape[1], 1);
    mem_free(x);
}

static void golden_pipeline_steps(struct golden *g, struct golden_pipeline *p)
{
    for (size_t i = 0; i < ckpt_count(g->file); i++) {
        const char *name = ckpt_name(g->file, i);
        if (str_starts(name, "mid.step"))
            golden_pipeline_first(g, p, name, name, WINDOW_LATENTS);
    }
}

/* One stored frame: how many bytes differ by more than near; the largest difference goes to worst. */
static int64_t golden_pipeline_frame(const uint8_t *made, const uint8_t *want, int64_t size, int64_t near,
                                     int64_t *worst)
{
    int64_t beyond = 0;

    for (int64_t i = 0; i < size; i++) {
        int64_t d = llabs((int64_t)made[i] - want[i]);
        beyond += d > near;
        *worst = d > *worst ? d : *worst;
    }
    return beyond;
}

/* The share of bytes beyond `near` against 1 %, and the largest difference against `far`. */
static void golden_pipeline_pixels(struct golden *g, struct golden_pipeline *p)
{
    struct tensor list = golden_host(g, "in.frames"), want = golden_host(g, "out.frames");
    int64_t size = (int64_t)p->width * p->height * 3, beyond = 0, worst = 0;
    int64_t near = p->q.round_bf16 ? 4 : 2, far = p->q.round_bf16 ? 16 : 8;

    if (list.dtype != DTYPE_I64 || want.dtype != DTYPE_U8 ||
        tensor_count(want) != tensor_count(list) * size) {
        golden_fail(g, "out.frames: %lld frames of %d x %d made", (long long)p->frames, p->width, p->height);
        return;
    }
    for (int64_t k = 0; k < tensor_count(list); k++) {
        int64_t f = ((const int64_t *)list.data)[k];
        if (f >= p->frames && f < p->frames + p->n_silent)
            continue;
        if (f < 0 || f >= p->frames) {
            golden_fail(g, "out.frames: frame %lld of %lld", (long long)f, (long long)p->frames);
            return;
        }
        beyond += golden_pipeline_frame(p->rgb + f * size, (const uint8_t *)want.data + k * size, size, near,
                                        &worst);
    }
    double share = (double)beyond / (double)tensor_count(want) / 0.01;
    share = fmax(share, (double)worst / (double)far);
    golden_note(g, "out.frames", share);
    if (share > 1)
        golden_fail(g, "out.frames: %lld bytes beyond %lld, worst %lld of %lld", (long long)beyond,
                    (long long)near, (long long)worst, (long long)far);
}

/* Mean of every frame and channel in 0..1; the bytes were truncated, so half a step is added. */
static void golden_pipeline_means(struct golden *g, struct golden_pipeline *p)
{
    int64_t area = (int64_t)p->width * p->height, all = p->frames + p->n_silent;
    float *y = golden_has(g, "out.mean") ? mem_calloc((size_t)(all * 3 + 1), sizeof(float)) : NULL;
    struct tensor want = y != NULL ? golden_host(g, "out.mean") : TENSOR_NONE;

    if (y != NULL && tensor_count(want) == all * 3) /* those that ours does not make stay as they are stored */
        dtype_read_f32(y, want.data, want.dtype, all * 3, 1.0f);
    for (int64_t f = 0; y != NULL && f < p->frames; f++) {
        for (int64_t c = 0; c < 3; c++) {
            double sum = 0;
            for (int64_t i = 0; i < area; i++)
                sum += p->rgb[(f * area + i) * 3 + c];
            y[f * 3 + c] = (float)((sum / (double)area + 0.5) / 255);
        }
    }
    if (y != NULL)
        golden_check_host(g, "out.mean", y, all * 3);
    mem_free(y);
}

static void golden_pipeline_check(struct golden *g, struct golden_pipeline *p)
{
    golden_pipeline_first(g, p, "mid.ref_first", "mid.ref", 1);
    golden_pipeline_same(g, p, "mid.text_mask", "mid.text_mask");
    golden_pipeline_same(g, p, "mid.text2", "mid.text2");
    golden_pipeline_same(g, p, "mid.face", "mid.face");
    golden_pipeline_sums(g, p);
    golden_pipeline_steps(g, p);
    golden_pipeline_same(g, p, "out.latents", "out.latents");
    if (g->run->group != NULL && g->run->group->rank > 0) /* no frames there */
        return;
    if (golden_has(g, "out.frames"))
        golden_pipeline_pixels(g, p);
    golden_pipeline_means(g, p);
    double want = golden_param(g, "frames", (double)(p->frames + p->n_silent));
    if (p->frames + p->n_silent != (int64_t)want)
        golden_fail(g, "%lld frames made, %g wanted", (long long)p->frames, want);
}

static void golden_pipeline_case(struct golden *g)
{
    struct golden_pipeline p = {0};

    if (golden_pipeline_options(g, &p) && golden_pipeline_files(g, &p) && golden_pipeline_face(g, &p) &&
        golden_pipeline_run(g, &p))
        golden_pipeline_check(g, &p);
    golden_pipeline_done(&p);
}

const struct golden_kind golden_pipeline_kinds[] = {
    {"pipeline", golden_pipeline_case, true},
    {"conditioning", golden_conditioning_case},
    {NULL, NULL},
};
