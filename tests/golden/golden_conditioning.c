/* golden_conditioning.c -- conditioning: what the transformer is given, for a picture, a sound and a prompt.
 *
 * Inputs: an u8 picture tensor in.* [h, w, 3] or a file; an i16 sound tensor in.* (16 kHz unless the twin has
 * a `rate`) or a file; prompt, size, fps, negative prompt from the twin. Files are named by the twin (image,
 * audio, beside the twin, or below one of the folders above) or are called as the case. Results are told
 * apart by their names; a stored tensor may hold all rows, the rows that an integer tensor of the case lists,
 * or their mean.
 */
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"
#include "tests/golden/golden_pipeline.h"
#include "worker/media/audio_in.h"
#include "worker/media/image_in.h"
#include "worker/media/resample.h"
#include "worker/media/resize.h"

static const char PREFIX[] = "Authentic, Realistic, Natural, High-quality, Lens-Fixed, ";

/* ---- inputs ---- */

static json_t *golden_conditioning_value(struct golden *g, const char *a, const char *b, const char *c)
{
    const char *keys[3] = {a, b, c};

    for (int i = 0; i < 3; i++) {
        json_t *v = json_object_get(g->twin, keys[i]);
        v = v != NULL ? v : golden_param_json(g, keys[i]);
        if (v != NULL)
            return v;
    }
    return NULL;
}

/* The file that the twin names: beside the twin or up to three folders above it; otherwise the case's name
 * with ext. */
static void golden_conditioning_file(struct golden *g, json_t *named, const char *ext, char path[2200])
{
    const char *name = json_string_value(named);
    const char *const up[] = {"", "../", "../../", "../../../"};

    for (size_t i = 0; name != NULL && i < 4; i++) {
        str_format(path, 2200, "%s/%s%s", g->dir, up[i], name);
        if (access(path, R_OK) == 0)
            return;
    }
    str_format(path, 2200, "%s/%s%s", g->dir, g->name, ext);
}

/* The first in.* tensor of that type, none if there is none. */
static struct tensor golden_conditioning_in(struct golden *g, enum dtype dtype)
{
    for (size_t i = 0; g->file != NULL && i < ckpt_count(g->file); i++)
        if (str_starts(ckpt_name(g->file, i), "in.") && ckpt_tensor(g->file, i).dtype == dtype)
            return ckpt_tensor(g->file, i);
    return TENSOR_NONE;
}

static bool golden_conditioning_picture(struct golden *g, struct golden_pipeline *p)
{
    struct tensor t = golden_conditioning_in(g, DTYPE_U8);
    char path[2200];

    if (t.n_dims == 3 && t.shape[2] == 3) {
        p->image = (struct image){mem_dup(t.data, tensor_bytes(t)), (int)t.shape[1], (int)t.shape[0]};
        return p->image.pixels != NULL;
    }
    golden_conditioning_file(g, golden_conditioning_value(g, "image", "picture", "portrait"), ".png", path);
    return image_in_open(path, false, &p->image, &g->err) == 0;
}

static bool golden_conditioning_sound(struct golden *g, struct golden_pipeline *p)
{
    struct tensor t = golden_conditioning_in(g, DTYPE_I16);
    json_t *rate = golden_conditioning_value(g, "rate", "sample_rate", "sampling_rate");
    struct sound s = {.channels = t.n_dims == 2 ? (int)t.shape[1] : 1};
    char path[2200];
    bool ok;

    if (tensor_is_none(t)) {
        golden_conditioning_file(g, golden_conditioning_value(g, "audio", "sound", "wav"), ".wav", path);
        return audio_in_read(path, &p->wave, &g->err) == 0;
    }
    s.rate = json_is_number(rate) ? (int)json_number_value(rate) : 16000;
    s.n = t.shape[0];
    s.samples = mem_calloc((size_t)tensor_count(t), sizeof(float));
    for (int64_t i = 0; s.samples != NULL && i < tensor_count(t); i++)
        s.samples[i] = (float)((const int16_t *)t.data)[i] / 32768.0f;
    ok = s.samples != NULL && audio_in_wave(&s, &p->wave, &g->err) == 0;
    sound_done(&s);
    return ok;
}

static void golden_conditioning_request(struct golden *g, struct golden_pipeline *p)
{
    json_t *prompt = golden_conditioning_value(g, "prompt", "text", "full_prompt");
    json_t *negative = golden_conditioning_value(g, "negative", "negative_prompt", "neg_prompt");
    json_t *size = golden_conditioning_value(g, "size", "image_size", "target");
    json_t *fps = golden_conditioning_value(g, "fps", "frame_rate", "rate_of_frames");

    avatar_request_init(&p->q);
    p->stop = true;
    p->q.steps = 1;
    p->q.size = json_is_number(size) ? (int)json_number_value(size) : 64;
    p->q.fps = json_is_number(fps) ? json_number_value(fps) : 25;
    p->q.negative_prompt = json_string_value(negative);
    p->q.prompt = json_is_string(prompt) ? json_string_value(prompt) : "";
    if (str_starts(p->q.prompt, PREFIX))
        p->q.prompt += sizeof(PREFIX) - 1;
}

/* ---- results ---- */

/* One thing that was made: rows of width values. */
struct golden_conditioning_made {
    float *x; /* owned */
    int64_t rows, width;
};

/* An integer list of the case with that many entries. */
static struct tensor golden_conditioning_list(struct golden *g, int64_t n)
{
    for (size_t i = 0; i < ckpt_count(g->file); i++) {
        struct tensor t = ckpt_tensor(g->file, i);
        if ((t.dtype == DTYPE_I32 || t.dtype == DTYPE_I64) && t.n_dims == 1 && t.shape[0] == n)
            return t;
    }
    return TENSOR_NONE;
}

static void golden_conditioning_compare(struct golden *g, const char *name,
                                        const struct golden_conditioning_made *m)
{
    int64_t want = tensor_count(golden_host(g, name)), n = m->width > 0 ? want / m->width : 0;
    struct tensor list = golden_conditioning_list(g, n);
    float *y;

    if (want == m->rows * m->width) {
        golden_check_host(g, name, m->x, want);
        return;
    }
    y = mem_calloc((size_t)want + 1, sizeof(float));
    for (int64_t k = 0; k < n && !tensor_is_none(list); k++) {
        int64_t row =
            list.dtype == DTYPE_I32 ? ((const int32_t *)list.data)[k] : ((const int64_t *)list.data)[k];
        if (row >= 0 && row < m->rows)
            memcpy(y + k * m->width, m->x + row * m->width, (size_t)m->width * sizeof(float));
    }
    for (int64_t i = 0; want == m->width && i < want; i++) {
        double sum = 0;
        for (int64_t k = 0; k < m->rows; k++)
            sum += (double)m->x[k * m->width + i];
        y[i] = (float)(sum / (double)m->rows);
    }
    if (tensor_is_none(list) && want != m->width)
        golden_fail(g, "%s: %lld values stored, %lld rows of %lld made", name, (long long)want,
                    (long long)m->rows, (long long)m->width);
    else
        golden_check_host(g, name, y, want);
    mem_free(y);
}

/* A tensor of the dump whose dimension 0 is [negative, positive]: one of the two, or both where that many are
 * stored. */
static void golden_conditioning_text(struct golden *g, struct golden_pipeline *p, const char *name,
                                     const char *made, bool negative, bool vector)
{
    struct tensor t;
    float *x = golden_pipeline_made(g, p, made, &t);
    int64_t half = x != NULL ? tensor_count(t) / 2 : 0, width = vector          ? half
                                                                : t.n_dims == 3 ? t.shape[2]
                                                                                : 1;
    struct golden_conditioning_made m = {x, x != NULL ? half / width : 0, width};

    if (x != NULL && tensor_count(golden_host(g, name)) == 2 * half)
        m.rows *= 2;
    else if (x != NULL && !negative)
        m.x = x + half;
    if (x != NULL)
        golden_conditioning_compare(g, name, &m);
    mem_free(x);
}

/* Sums or squares per frame, selected frames, or all of the windows. */
static void golden_conditioning_audio(struct golden *g, struct golden_pipeline *p, const char *name)
{
    struct tensor t;
    float *x = golden_pipeline_made(g, p, "mid.audio", &t);
    struct golden_conditioning_made m = {x, x != NULL ? t.shape[1] : 0,
                                         x != NULL ? tensor_count(t) / t.shape[1] : 0};
    bool square = strstr(name, "square") != NULL, mean = strstr(name, "mean") != NULL;

    if (x != NULL && tensor_count(golden_host(g, name)) == m.rows) {
        for (int64_t f = 0; f < m.rows; f++) {
            double sum = 0;
            for (int64_t i = 0; i < m.width; i++)
                sum += (double)x[f * m.width + i] * (square ? (double)x[f * m.width + i] : 1);
            x[f] = (float)(mean ? sum / (double)m.width : sum);
        }
        m.width = 1;
    }
    if (x != NULL)
        golden_conditioning_compare(g, name, &m);
    mem_free(x);
}

/* At latent size, or nearest at the token grid. */
static void golden_conditioning_face(struct golden *g, struct golden_pipeline *p, const char *name)
{
    struct tensor t;
    float *x = golden_pipeline_made(g, p, "mid.face", &t);
    int64_t h = x != NULL ? t.shape[3] : 0, w = x != NULL ? t.shape[4] : 0,
            want = tensor_count(golden_host(g, name));
    struct golden_conditioning_made m = {x, h, w};

    if (x != NULL && want != h * w && want == (h / 2) * (w / 2)) {
        for (int64_t y = 0; y < h / 2; y++)
            for (int64_t i = 0; i < w / 2; i++)
                x[y * (w / 2) + i] = x[2 * y * w + 2 * i];
        m = (struct golden_conditioning_made){x, h / 2, w / 2};
    }
    if (x != NULL)
        golden_conditioning_compare(g, name, &m);
    mem_free(x);
}

/* The sized picture, or the one of the vision tower, [h, w, 3] or [3, h, w], as bytes. */
static void golden_conditioning_pixels(struct golden *g, struct golden_pipeline *p, const char *name,
                                       bool squashed)
{
    struct tensor want = golden_host(g, name);
    bool planes = want.n_dims >= 3 && want.shape[want.n_dims - 1] != 3;
    struct image sized = {0}, small = {0}, *im = squashed ? &small : &sized;
    int64_t n = 0;
    float *x;
    int w, h;

    if (avatar_size(p->image.width, p->image.height, p->q.size, &w, &h) < 0 ||
        resize_image(&p->image, w, h, RESIZE_LANCZOS, &sized, &g->err) < 0 ||
        resize_image(&sized, 336, 336, RESIZE_BILINEAR, &small, &g->err) < 0)
        return;
    x = mem_calloc((size_t)im->width * (size_t)im->height * 3, sizeof(float));
    for (int64_t i = 0; x != NULL && i < (int64_t)im->width * im->height; i++)
        for (int64_t c = 0; c < 3; c++, n++)
            x[planes ? c * im->width * im->height + i : n] = im->pixels[i * 3 + c];
    if (x != NULL)
        golden_check_host(g, name, x, n);
    mem_free(x);
    image_done(&sized);
    image_done(&small);
}

static void golden_conditioning_numbers(struct golden *g, struct golden_pipeline *p, const char *name,
                                        bool size)
{
    int w = 0, h = 0;
    int64_t frames = p->wave.n / 640, sides[2];

    avatar_size(p->image.width, p->image.height, p->q.size, &w, &h);
    sides[0] = w;
    sides[1] = h;
    if (size)
        golden_check_exact(g, name, sides, 2);
    else
        golden_check_exact(g, name, &frames, 1);
}

static bool golden_conditioning_is_negative(const char *name)
{
    return strstr(name, "neg") != NULL || strstr(name, "uncond") != NULL;
}

typedef void golden_conditioning_fn(struct golden *g, struct golden_pipeline *p, const char *name);

static void golden_conditioning_squashed(struct golden *g, struct golden_pipeline *p, const char *name)
{
    golden_conditioning_pixels(g, p, name, true);
}

static void golden_conditioning_sized(struct golden *g, struct golden_pipeline *p, const char *name)
{
    golden_conditioning_pixels(g, p, name, false);
}

static void golden_conditioning_pooled(struct golden *g, struct golden_pipeline *p, const char *name)
{
    golden_conditioning_text(g, p, name, "mid.text2", golden_conditioning_is_negative(name), true);
}

static void golden_conditioning_mask(struct golden *g, struct golden_pipeline *p, const char *name)
{
    golden_conditioning_text(g, p, name, "mid.text_mask", golden_conditioning_is_negative(name), false);
}

static void golden_conditioning_states(struct golden *g, struct golden_pipeline *p, const char *name)
{
    golden_conditioning_text(g, p, name, "mid.text", golden_conditioning_is_negative(name), false);
}

static void golden_conditioning_size(struct golden *g, struct golden_pipeline *p, const char *name)
{
    golden_conditioning_numbers(g, p, name, true);
}

static void golden_conditioning_frames(struct golden *g, struct golden_pipeline *p, const char *name)
{
    golden_conditioning_numbers(g, p, name, false);
}

/* The first part of a name that fits says what it is. */
static const struct {
    const char *part;
    golden_conditioning_fn *fn;
} golden_conditioning_rules[] = {
    {"face", golden_conditioning_face},         {"latent_mask", golden_conditioning_face},
    {"token_mask", golden_conditioning_face},   {"audio", golden_conditioning_audio},
    {"window", golden_conditioning_audio},      {"frame_s", golden_conditioning_audio},
    {"llava_u8", golden_conditioning_squashed}, {"llava_pixels", golden_conditioning_squashed},
    {"u8", golden_conditioning_sized},          {"pixels", golden_conditioning_sized},
    {"rgb", golden_conditioning_sized},         {"states_2", golden_conditioning_pooled},
    {"text2", golden_conditioning_pooled},      {"pooled", golden_conditioning_pooled},
    {"clip", golden_conditioning_pooled},       {"mask", golden_conditioning_mask},
    {"states", golden_conditioning_states},     {"text", golden_conditioning_states},
    {"llava", golden_conditioning_states},      {"size", golden_conditioning_size},
    {"frames", golden_conditioning_frames},
};

static void golden_conditioning_one(struct golden *g, struct golden_pipeline *p, const char *name)
{
    for (size_t i = 0; i < sizeof(golden_conditioning_rules) / sizeof(golden_conditioning_rules[0]); i++) {
        if (strstr(name, golden_conditioning_rules[i].part) != NULL) {
            golden_conditioning_rules[i].fn(g, p, name);
            return;
        }
    }
}

void golden_conditioning_case(struct golden *g)
{
    struct golden_pipeline p = {0};

    golden_conditioning_request(g, &p);
    if (g->file != NULL && golden_conditioning_picture(g, &p) && golden_conditioning_sound(g, &p) &&
        golden_pipeline_count(g, &p) && golden_pipeline_dump(g, &p) && golden_pipeline_face(g, &p) && golden_pipeline_run(g, &p)) {
        for (size_t i = 0; i < ckpt_count(g->file); i++)
            if (str_starts(ckpt_name(g->file, i), "out."))
                golden_conditioning_one(g, &p, ckpt_name(g->file, i));
    } else {
        golden_fail(g, "the case has no picture or no sound that can be read");
    }
    golden_pipeline_done(&p);
}
