/* Flow (real sizes at 704 x 704; h = H/8, w = W/8):
 *
 *     1. picture 336 x 336 -> vision tower, projector                      [576, 4096], once for both prompts
 *     2. prompts -> Llama                                                  2 x [831, 4096]
 *     3. prompts -> CLIP                                                   2 x [768]
 *     4. sound -> Whisper -> windows                                       [frames, 10, 5, 384]
 *     5. face mask                                                         [h, w]
 *     6. picture -> VAE, one frame -> 33 samples                           [16, 33, h, w]
 *     7. noise                                                             [16, L0, h, w]
 *     8. sampler                                                           [16, A/4 + 1, h, w]
 *     9. VAE decode, clamp, u8, in pieces                                  [n, H, W, 3]
 */
#include "worker/model/avatar_stage.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/ops.h"
#include "worker/face/mask.h"
#include "worker/model/avatar_input.h"
#include "worker/model/clip_text.h"
#include "worker/model/llava.h"
#include "worker/model/whisper.h"

enum { STREAM_LATENTS, STREAM_VAE }; /* of the seed's noise */

/* t moved into room, which was allocated at mark; everything behind mark is free again. */
static void avatar_stage_keep(struct run *r, size_t mark, struct tensor room, struct tensor t)
{
    if (!run_failed(r))
        op_copy_into(r, room, tensor_view(t, room.n_dims, room.shape));
    run_rewind(r, mark);
}

/* ---- text ---- */

static void avatar_stage_llava(struct avatar_parts *p, struct run *r, struct avatar_job *j)
{
    struct sampler_text *text[AVATAR_TEXTS] = {&j->inputs.negative, &j->inputs.positive};
    int64_t rows = llava_rows(p->llava), width = llava_width(p->llava);
    struct tensor image, pixels;
    size_t mark, inner;

    for (int i = 0; i < AVATAR_TEXTS; i++)
        text[i]->states = run_new(r, DTYPE_F32, 2, SHAPE(rows, width));
    mark = run_mark(r);
    run_push(r, "vision");
    pixels = run_write(r, j->squashed, DTYPE_U8, 3, SHAPE(AVATAR_INPUT_SQUASHED, AVATAR_INPUT_SQUASHED, 3));
    image = llava_vision(r, p->llava, pixels, NULL);
    run_pop(r);
    inner = run_mark(r);
    for (int i = 0; i < AVATAR_TEXTS; i++) {
        int n = j->llama[i].n > 0 ? j->llama[i].n : TOKENIZER_LLAMA_MAX;
        run_push(r, "text %d", i);
        avatar_stage_keep(r, inner, text[i]->states,
                          llava_text(r, p->llava, j->llama[i].n > 0 ? j->llama[i].ids : NULL, n, image));
        run_pop(r);
        text[i]->n_valid = n - TOKENIZER_LLAMA_CROP + rows - (TOKENIZER_LLAMA_MAX - TOKENIZER_LLAMA_CROP);
        if (j->llama[i].n == 0)
            continue;
        j->masks[i] = mem_alloc((size_t)rows);
        if (j->masks[i] == NULL)
            run_fail(r, ERR_NOMEM, "no memory for a mask of %lld bytes", (long long)rows);
        else
            llava_mask(p->llava, n, j->masks[i]);
        text[i]->mask = j->masks[i];
    }
    run_rewind(r, mark);
}

static void avatar_stage_clip(struct avatar_parts *p, struct run *r, struct avatar_job *j)
{
    struct sampler_text *text[AVATAR_TEXTS] = {&j->inputs.negative, &j->inputs.positive};

    run_push(r, "clip");
    avatar_parts_take(p, r, AVATAR_PART_CLIP);
    for (int i = 0; i < AVATAR_TEXTS; i++) {
        size_t mark;
        text[i]->text2 = run_new(r, DTYPE_F32, 1, SHAPE(clip_text_width(p->clip)));
        mark = run_mark(r);
        avatar_stage_keep(r, mark, text[i]->text2,
                          clip_text_pooled(r, p->clip, j->clip[i].ids, TOKENIZER_CLIP_MAX));
    }
    avatar_parts_leave(p, r, AVATAR_PART_CLIP);
    run_pop(r);
}

static void avatar_stage_dump_text(struct avatar_parts *p, struct run *r, struct avatar_job *j)
{
    const struct sampler_text *text[AVATAR_TEXTS] = {&j->inputs.negative, &j->inputs.positive};
    int64_t rows = llava_rows(p->llava), width = llava_width(p->llava), width2 = clip_text_width(p->clip);
    size_t mark = run_mark(r);
    struct tensor both;
    uint8_t *masks;

    if (j->dump == NULL || !avatar_dump_is_on(j->dump) || run_failed(r))
        return;
    both = op_concat(r, (const struct tensor[]){text[0]->states, text[1]->states}, 2, 0);
    avatar_dump_tensor(j->dump, r, "mid.text", both, 3, SHAPE(2, rows, width));
    both = op_concat(r, (const struct tensor[]){text[0]->text2, text[1]->text2}, 2, 0);
    avatar_dump_tensor(j->dump, r, "mid.text2", both, 2, SHAPE(2, width2));
    masks = mem_alloc((size_t)(2 * rows));
    if (masks != NULL) {
        memcpy(masks, j->masks[0], (size_t)rows);
        memcpy(masks + rows, j->masks[1], (size_t)rows);
        avatar_dump_host(j->dump, "mid.text_mask", DTYPE_U8, 2, SHAPE(2, rows), masks);
    }
    mem_free(masks);
    run_rewind(r, mark);
}

/* ---- sound, face ---- */

static void avatar_stage_sound(struct avatar_parts *p, struct run *r, struct avatar_job *j)
{
    int64_t n = j->n_sound < j->n_model ? j->n_sound : j->n_model, step = j->fps == 12.5 ? 4 : 2;
    int64_t pieces = (step * n + WHISPER_WINDOW) / (WHISPER_PIECE / 320) + 1,
            samples = pieces * WHISPER_PIECE;
    int64_t states = whisper_states(p->whisper), width = whisper_width(p->whisper);
    struct tensor room = run_new(r, DTYPE_F32, 4, SHAPE(n, WHISPER_WINDOW, states, width)), t;
    size_t mark = run_mark(r);

    run_push(r, "sound");
    avatar_parts_take(p, r, AVATAR_PART_AUDIO);
    /* pieces of 30 s do not see each other: those behind the last window are not encoded */
    t = whisper_encode(r, p->whisper, j->samples, samples < j->n_samples ? samples : j->n_samples);
    avatar_stage_keep(r, mark, room, whisper_windows(r, t, n, j->fps, n));
    avatar_parts_leave(p, r, AVATAR_PART_AUDIO);
    run_pop(r);
    j->inputs.audio = room;
}

/* With the silence behind it, as the reference pads it. */
static void avatar_stage_dump_sound(struct run *r, struct avatar_job *j)
{
    struct tensor a = j->inputs.audio;
    struct window_plan w;
    size_t mark = run_mark(r);
    struct tensor all;

    if (j->dump == NULL || !avatar_dump_is_on(j->dump) || run_failed(r) ||
        window_plan_init(&w, j->n_model, &r->err) < 0)
        return;
    all = run_new(r, DTYPE_F32, 4, SHAPE(w.n_audio, a.shape[1], a.shape[2], a.shape[3]));
    op_fill(r, all, 0.0f);
    op_copy_into(r, tensor_slice(all, 0, 0, a.shape[0]), a);
    avatar_dump_tensor(j->dump, r, "mid.audio", all, 5,
                       SHAPE(1, w.n_audio, a.shape[1], a.shape[2], a.shape[3]));
    run_rewind(r, mark);
}

static void avatar_stage_face(struct run *r, struct avatar_job *j)
{
    int64_t h = j->height / 8, w = j->width / 8;
    struct tensor room = run_new(r, DTYPE_F32, 2, SHAPE(h, w));
    size_t mark = run_mark(r);

    avatar_stage_keep(r, mark, room, mask_latent(r, j->face, j->width, j->height));
    j->inputs.face = room;
    if (j->dump != NULL)
        avatar_dump_tensor(j->dump, r, "mid.face", room, 5, SHAPE(1, 1, 1, h, w));
}

/* ---- noise, picture ---- */

/* The file's tensor [1, C, n, h, w] (or without the 1), or the seed's stream. */
static struct tensor avatar_stage_noise(struct run *r, const struct avatar_job *j, const char *name,
                                        uint32_t stream, const int64_t shape[4], int64_t n_min)
{
    struct tensor t = j->noise != NULL ? ckpt_find(j->noise, name) : TENSOR_NONE, y;
    float *host;

    if (tensor_is_none(t))
        return op_randn(r, j->seed, stream, 4, shape);
    if (t.n_dims == 5 && t.shape[0] == 1)
        t = tensor_at(t, 0, 0);
    if (t.n_dims != 4 || t.shape[0] != shape[0] || t.shape[1] < n_min || t.shape[2] != shape[2] ||
        t.shape[3] != shape[3]) {
        run_fail(r, ERR_INVALID, "noise: %s must be [1, %lld, %lld or more, %lld, %lld]", name,
                 (long long)shape[0], (long long)n_min, (long long)shape[2], (long long)shape[3]);
        return run_new(r, DTYPE_F32, 4, shape);
    }
    host = mem_alloc((size_t)tensor_count(t) * sizeof(float));
    if (host == NULL) {
        run_fail(r, ERR_NOMEM, "no memory for the noise");
        return run_new(r, DTYPE_F32, 4, shape);
    }
    dtype_read_f32(host, t.data, t.dtype, tensor_count(t), 1.0f);
    y = run_write(r, host, DTYPE_F32, 4, t.shape);
    mem_free(host);
    return y;
}

static void avatar_stage_picture(struct avatar_parts *p, struct run *r, struct avatar_job *j)
{
    static const float one[3] = {1, 1, 1};
    int64_t c = vae_get_net(p->vae)->config.latent_channels, h = j->height / 8, w = j->width / 8,
            n = WINDOW_LATENTS;
    struct tensor room = run_new(r, DTYPE_F32, 4, SHAPE(c, n, h, w)), x, m, noise;
    size_t mark = run_mark(r);

    run_push(r, "picture");
    x = run_write(r, j->sized, DTYPE_U8, 4, SHAPE(1, j->height, j->width, 3));
    m = vae_encode(r, p->vae, op_normalize(r, x, 127.5f, one, one), true);
    noise = avatar_stage_noise(r, j, "vae_noise", STREAM_VAE, room.shape, n);
    if (!run_failed(r))
        noise = tensor_slice(noise, 1, 0, n);
    avatar_stage_keep(r, mark, room, vae_sample(r, p->vae, m, noise, vae_scaling(p->vae)));
    run_pop(r);
    j->inputs.ref = room;
    if (j->dump != NULL)
        avatar_dump_tensor(j->dump, r, "mid.ref", room, 5, SHAPE(1, c, n, h, w));
}

int avatar_stage_condition(struct avatar_parts *p, struct run *r, struct avatar_job *j)
{
    int64_t c = vae_get_net(p->vae)->config.latent_channels;
    struct window_plan w;
    struct tensor n;

    if (window_plan_init(&w, j->n_model, &r->err) < 0)
        return r->err.code;
    j->inputs.n_frames = j->n_model;
    j->inputs.fps = j->fps;
    j->inputs.steps = j->steps;
    j->inputs.guidance = j->guidance;
    j->inputs.shift = j->shift;
    j->inputs.round_bf16 = j->round_bf16;
    avatar_stage_llava(p, r, j);
    avatar_stage_clip(p, r, j);
    avatar_stage_dump_text(p, r, j);
    avatar_stage_sound(p, r, j);
    avatar_stage_dump_sound(r, j);
    avatar_stage_face(r, j);
    avatar_stage_picture(p, r, j);
    n = avatar_stage_noise(r, j, "noise", STREAM_LATENTS, SHAPE(c, w.n_noise, j->height / 8, j->width / 8),
                           w.n_latents);
    j->inputs.noise = n;
    if (j->dump != NULL)
        avatar_dump_tensor(j->dump, r, "in.noise", n, 5,
                           SHAPE(1, n.shape[0], n.shape[1], n.shape[2], n.shape[3]));
    return run_failed(r) ? r->err.code : 0;
}

/* ---- denoise, decode ---- */

int avatar_stage_denoise(struct avatar_parts *p, struct run *r, struct avatar_job *j,
                         const struct sampler_hooks *hooks)
{
    int rc = sampler_run(r, p->dit, &j->inputs, hooks, &j->latents);
    struct tensor t = j->latents;

    if (rc == 0 && j->dump != NULL)
        avatar_dump_tensor(j->dump, r, "out.latents", t, 5,
                           SHAPE(1, t.shape[0], t.shape[1], t.shape[2], t.shape[3]));
    return run_failed(r) ? r->err.code : rc;
}

int avatar_stage_turn(struct run *r, struct avatar_job *j, struct pool *pool, int room)
{
    struct tensor t = j->latents;
    void *host = mem_alloc(tensor_bytes(t) + 1);

    if (host == NULL)
        return run_fail(r, ERR_NOMEM, "no memory for latents of %zu bytes", tensor_bytes(t));
    if (run_read(r, t, host) == 0) {
        pool_take(r, pool, room);
        run_move(r, pool != NULL ? pool_memory(pool, room) : r->arena, pool != NULL ? pool_size(pool, room) : r->arena_max);
        j->latents = run_write(r, host, t.dtype, t.n_dims, t.shape);
    }
    mem_free(host);
    return run_failed(r) ? r->err.code : 0;
}

struct avatar_stage_bytes {
    avatar_stage_take_fn *take;
    void *arg;
    struct avatar_dump *dump;
    struct tensor all; /* out.frames in the dump, u8 [n, h, w, 3]; none until the first frames come */
    int64_t n, n_all;  /* frames in it, and its length */
};

/* The frames as they are before any video encoder, for whoever compares. */
static void avatar_stage_frames(struct avatar_stage_bytes *b, struct run *r, struct tensor y)
{
    size_t mark = run_mark(r);
    if (run_failed(r) || !y.data || !avatar_dump_is_on(b->dump)) /* planning has no data, and no dump */
        return;
    struct tensor u8 = op_to_u8(r, y);
    size_t frame = tensor_bytes(u8) / (size_t)tensor_dim(u8, 0);
    if (tensor_is_none(b->all))
        b->all = avatar_dump_room(b->dump, "out.frames", DTYPE_U8, 4,
                                  SHAPE(b->n_all, tensor_dim(u8, 1), tensor_dim(u8, 2), tensor_dim(u8, 3)));
    if (b->all.data && b->n + tensor_dim(u8, 0) <= b->n_all)
        run_read(r, u8, (char *)b->all.data + (size_t)b->n * frame);
    b->n += tensor_dim(u8, 0);
    run_rewind(r, mark);
}

static int avatar_stage_take(void *arg, struct run *r, struct tensor y)
{
    struct avatar_stage_bytes *b = arg;

    avatar_stage_frames(b, r, y);
    return b->take(b->arg, r, y, op_to_yuv420(r, y));
}

int avatar_stage_decode(struct avatar_parts *p, struct run *r, struct avatar_job *j, avatar_stage_take_fn *take,
                        void *arg)
{
    struct avatar_stage_bytes b = {.take = take, .arg = arg, .dump = j->dump, .n_all = j->n_video};
    size_t mark = run_mark(r);
    int rc;

    run_push(r, "decode");
    rc = vae_decode(r, p->vae, vae_unscale(r, p->vae, j->latents), true, j->n_video, avatar_stage_take, &b);
    run_pop(r);
    run_rewind(r, mark);
    return rc;
}

void avatar_stage_done(struct avatar_job *j)
{
    for (int i = 0; i < AVATAR_TEXTS; i++) {
        mem_free(j->masks[i]);
        j->masks[i] = NULL;
    }
}
