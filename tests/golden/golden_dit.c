/* golden_dit.c -- dit.*, fp8.*: each part of the transformer alone, whole predictions, the fp8 file. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/ops.h"
#include "tests/golden/golden.h"
#include "worker/model/dit_block.h"
#include "worker/model/dit_forward.h"

#define TRANSFORMERS "hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states"

enum { MAX_BLOCKS = 128 };

/* ---- the network of a case ---- */

struct net {
    struct ckpt *ckpt;
    struct dit *dit;
};

static int open_ckpt(struct golden *g, bool fp8, struct ckpt **ret)
{
    char path[1200], map[1200];
    str_path(path, sizeof(path), g->ckpts, fp8 ? TRANSFORMERS "_fp8.pt" : TRANSFORMERS ".pt");
    str_path(map, sizeof(map), g->ckpts, TRANSFORMERS "_fp8_map.pt");
    return fp8 ? ckpt_open_fp8(ret, path, map, &g->err) : ckpt_open(ret, path, &g->err);
}

typedef void net_fn(struct golden *g, const struct dit *d);

static void bind_net(struct golden *g, struct ckpt *c, const void *arg)
{
    struct dit *d = NULL;
    (void)arg;
    dit_open(&d, c, NULL, &g->err);
    dit_close(d);
}

static void with_net(struct golden *g, bool fp8, net_fn *fn)
{
    struct net n = {0};
    if (open_ckpt(g, fp8, &n.ckpt) == 0 && golden_pool(g, n.ckpt, bind_net, NULL) == 0 &&
        dit_open(&n.dit, n.ckpt, g->device, &g->err) == 0) {
        dit_set_compact(n.dit, g->compact);
        fn(g, n.dit);
    }
    device_forget(g->device, NULL, SIZE_MAX);
    dit_close(n.dit);
    golden_pool_free(g);
    ckpt_close(n.ckpt);
}

#define WITH_NET(name)                                                                                       \
    static void case_##name(struct golden *g)                                                                \
    {                                                                                                        \
        with_net(g, false, fn_##name);                                                                       \
    }

/* ---- helpers ---- */

/* Stored row i of a [rows, ...] tensor. */
static struct tensor in_row(struct golden *g, const char *name, int i)
{
    return tensor_at(golden_in(g, name), 0, i);
}

static float host_f32(struct golden *g, const char *name, int64_t i)
{
    float v[1] = {0};
    struct tensor t = golden_host(g, name);
    if (!tensor_is_none(t))
        dtype_read_f32(v, (const char *)t.data + (size_t)i * dtype_bytes(t.dtype), t.dtype, 1, 1);
    return v[0];
}

/* A tensor like the stored one, to be filled row by row. */
static struct tensor new_like(struct golden *g, const char *name)
{
    struct tensor t = golden_host(g, name);
    return run_new(g->run, DTYPE_F32, t.n_dims, t.shape);
}

/* Row of the stored text mask as bytes; caller frees. */
static uint8_t *mask_row(struct golden *g, int row, int64_t *ret_n)
{
    struct tensor t = golden_host(g, "in.mask");
    const int64_t S = tensor_dim(t, 1);
    uint8_t *m = mem_alloc((size_t)S + 1);
    for (int64_t i = 0; m && i < S; i++)
        m[i] = host_f32(g, "in.mask", row * S + i) != 0;
    if (!m)
        golden_fail(g, "out of memory");
    *ret_n = S;
    return m;
}

/* Cosines are stored twice a pair: [rows, D/2] -> [rows, D]. */
static struct tensor doubled(struct golden *g, struct tensor t)
{
    const int64_t n = t.shape[0], half = t.shape[1];
    struct tensor y = run_new(g->run, DTYPE_F32, 3, SHAPE(n, half, 2));
    for (int i = 0; i < 2; i++)
        op_copy_into(g->run, tensor_slice(y, 2, i, 1), tensor_view(t, 3, SHAPE(n, half, 1)));
    return tensor_view(y, 2, SHAPE(n, 2 * half));
}

static void grid_of(struct golden *g, int64_t grid[3])
{
    json_t *list = golden_param_json(g, "grid");
    for (size_t i = 0; i < 3; i++)
        grid[i] = json_integer_value(json_array_get(list, i));
}

static void rope_of(struct golden *g, const struct dit *d, struct tensor *cos, struct tensor *sin)
{
    int64_t grid[3];
    grid_of(g, grid);
    op_rope_table(g->run, grid[0] + 1, grid[1], grid[2], d->dims.rope, 256, -1, cos, sin);
}

/* ---- vectors ---- */

static void fn_time_embed(struct golden *g, const struct dit *d)
{
    float t[64];
    const int n = (int)tensor_count(golden_host(g, "in.t"));
    for (int i = 0; i < n && i < 64; i++)
        t[i] = host_f32(g, "in.t", i);
    golden_check(g, "mid.sinusoid", op_timestep(g->run, t, n, DIT_FREQS));
    golden_check(g, "out.vec", dit_cond_time(g->run, &d->time, t, n));
}

static void check_motion(struct golden *g, const char *in, const char *mid, const struct dit_embedder *e)
{
    float t[64];
    const int n = (int)tensor_count(golden_host(g, in));
    for (int i = 0; i < n && i < 64; i++)
        t[i] = host_f32(g, in, i);
    golden_check(g, mid, dit_cond_time(g->run, e, t, n));
}

static void fn_vec(struct golden *g, const struct dit *d)
{
    struct run *r = g->run;
    const float t[2] = {host_f32(g, "in.t", 0), host_f32(g, "in.t", 1)};
    struct tensor pooled = dit_cond_embed(r, &d->vector, golden_in(g, "in.text2"));
    golden_check(g, "mid.text2", pooled);
    golden_check(g, "mid.time", dit_cond_time(r, &d->time, t, 2));
    check_motion(g, "in.motion_exp", "mid.exp", &d->motion_exp);
    check_motion(g, "in.motion_pose", "mid.pose", &d->motion_pose);
    check_motion(g, "in.fps", "mid.fps", &d->fps);
    const struct dit_text a = {.vector = tensor_slice(pooled, 0, 0, 1)},
                          b = {.vector = tensor_slice(pooled, 0, 1, 1)};
    const struct dit_rows rows = {.t = t, .n = 2, .n_a = 1, .a = &a, .b = &b};
    golden_check(g, "out.vec", dit_cond_vec(r, d, &rows, host_f32(g, "in.fps", 0)));
}

static void fn_modulation(struct golden *g, const struct dit *d)
{
    static const char *const names[6] = {"mid.shift1", "mid.scale1", "mid.gate1",
                                         "mid.shift2", "mid.scale2", "mid.gate2"};
    const int64_t H = d->dims.hidden;
    struct run *r = g->run;
    struct dit_mods m;
    struct tensor x = golden_in(g, "in.x"), y = new_like(g, "out.modulated"), list[6];
    dit_cond_mods(r, d, golden_in(g, "in.vec"), 2, &m);
    for (int k = 0; k < 6; k++)
        list[k] = new_like(g, names[k]);
    for (int row = 0; row < 2; row++) {
        struct tensor mod = dit_cond_mod_image(d, &m, row, 0);
        for (int k = 0; k < 6; k++)
            op_copy_into(r, tensor_at(list[k], 0, row), tensor_slice(mod, 0, k * H, H));
        op_copy_into(r, tensor_at(y, 0, row),
                     op_layer_norm_mod(r, tensor_at(x, 0, row), tensor_slice(mod, 0, 0, H),
                                       tensor_slice(mod, 0, H, H), 1e-6f));
    }
    for (int k = 0; k < 6; k++)
        golden_check(g, names[k], list[k]);
    golden_check(g, "out.modulated", y);
}

/* ---- positions ---- */

static void fn_qknorm_rope(struct golden *g, const struct dit *d)
{
    struct run *r = g->run;
    const struct dit_stream *w = &d->doubles[0].img;
    struct tensor cos, sin, q = in_row(g, "in.q", 0), k = in_row(g, "in.k", 0);
    rope_of(g, d, &cos, &sin);
    golden_check(g, "mid.cos", doubled(g, cos));
    golden_check(g, "mid.sin", doubled(g, sin));
    struct tensor qn = op_copy(r, q, DTYPE_F32), kn = op_copy(r, k, DTYPE_F32);
    op_norm_rope(r, qn, w->q_norm, 1e-6f, TENSOR_NONE, TENSOR_NONE);
    op_norm_rope(r, kn, w->k_norm, 1e-6f, TENSOR_NONE, TENSOR_NONE);
    golden_check(g, "mid.q_norm", qn);
    golden_check(g, "mid.k_norm", kn);
    op_norm_rope(r, q, w->q_norm, 1e-6f, cos, sin);
    op_norm_rope(r, k, w->k_norm, 1e-6f, cos, sin);
    golden_check(g, "out.q", q);
    golden_check(g, "out.k", k);
}

/* The case's note gives its geometry: 33 frames of 44 x 76 behind the reference frame, widths 16, 56, 56. */
static void case_rope_real(struct golden *g)
{
    struct tensor cos, sin, idx = golden_in(g, "in.rows");
    op_rope_table(g->run, 34, 44, 76, (const int[]){16, 56, 56}, 256, -1, &cos, &sin);
    golden_check(g, "out.cos", doubled(g, op_gather(g->run, cos, 0, idx)));
    golden_check(g, "out.sin", doubled(g, op_gather(g->run, sin, 0, idx)));
}

/* ---- conditions ---- */

static void text_of_row(struct golden *g, const struct dit *d, const char *states, const char *text2, int row,
                        struct dit_text *ret)
{
    int64_t S;
    uint8_t *mask = mask_row(g, row, &S);
    struct tensor pooled =
        text2 ? in_row(g, text2, row) : run_new(g->run, DTYPE_F32, 1, SHAPE(d->dims.text2));
    if (!text2)
        op_fill(g->run, pooled, 0);
    dit_cond_text(g->run, d, in_row(g, states, row), pooled, mask, 0, ret);
    mem_free(mask);
}

static void fn_refiner(struct golden *g, const struct dit *d)
{
    struct run *r = g->run;
    struct dit_text text[2];
    const float t[2] = {host_f32(g, "in.t", 0), host_f32(g, "in.t", 1)};
    struct tensor out = new_like(g, "out.text");
    for (int row = 0; row < 2; row++)
        text_of_row(g, d, "in.text", NULL, row, &text[row]);
    const struct dit_rows rows = {.t = t, .n = 2, .n_a = 1, .a = &text[0], .b = &text[1]};
    struct tensor gates = dit_cond_gates(r, d, &rows, 2);
    for (int row = 0; row < 2; row++) {
        struct tensor y = dit_cond_refine(r, d, &text[row], tensor_at(gates, 0, row), text[row].n_tokens);
        op_copy_into(r, tensor_at(out, 0, row), y);
    }
    golden_check(g, "out.text", out);
}

static void fn_audio_proj(struct golden *g, const struct dit *d)
{
    struct tensor a = golden_in(g, "in.audio");
    const int64_t *s = a.shape;
    a = tensor_view(a, 4, SHAPE(s[0] * s[1], s[2], s[3], s[4]));
    golden_check(g, "out.tokens", dit_cond_audio_tokens(g->run, d, a));
}

static void fn_adapter(struct golden *g, const struct dit *d)
{
    struct run *r = g->run;
    struct tensor out = new_like(g, "out.y");
    const int a = d->dims.n_adapters > 1 ? 1 : 0;
    for (int row = 0; row < out.shape[0]; row++) {
        struct tensor img = in_row(g, "in.img", row),
                      kv = dit_cond_audio_kv(r, d, a, in_row(g, "in.audio", row));
        img = tensor_view(img, 2, SHAPE(img.shape[0] * img.shape[1], img.shape[2]));
        struct tensor y = tensor_view(tensor_at(out, 0, row), 2, img.shape);
        op_copy_into(r, y, dit_block_adapter(r, d, a, kv, img));
    }
    golden_check(g, "out.y", out);
}

static void fn_face_mask(struct golden *g, const struct dit *d)
{
    (void)d;
    struct tensor face = golden_in(g, "in.face"), out = new_like(g, "out.mask");
    for (int row = 0; row < out.shape[0]; row++) {
        struct tensor m = dit_cond_face(
            g->run, tensor_view(tensor_at(face, 0, row), 2, SHAPE(face.shape[3], face.shape[4])));
        const int64_t P = m.shape[0];
        for (int64_t f = 0; f < out.shape[1] / P; f++)
            op_copy_into(g->run, tensor_slice(tensor_at(out, 0, row), 0, f * P, P), m);
    }
    golden_check(g, "out.mask", out);
}

static void fn_patchify(struct golden *g, const struct dit *d)
{
    struct run *r = g->run;
    struct tensor x = in_row(g, "in.x", 0), ref = in_row(g, "in.ref", 0), out = new_like(g, "out.img");
    struct tensor face = run_new(r, DTYPE_F32, 2, SHAPE(x.shape[2], x.shape[3]));
    struct dit_picture p;
    op_fill(r, face, 0);
    dit_cond_picture(r, d, ref, face, &p);
    golden_check(g, "mid.img_in", op_linear(r, op_patchify(r, x), d->img_in.w, d->img_in.b, ACT_NONE));
    golden_check(g, "mid.ref_in", op_linear(r, op_patchify(r, ref), d->ref_in.w, d->ref_in.b, ACT_NONE));
    golden_check(g, "mid.ref_first", p.front);
    dit_block_embed(r, d, p.front, p.ref, x, tensor_at(out, 0, 0), NULL);
    golden_check(g, "out.img", out);
}

/* ---- blocks ---- */

/* Image and valid text tokens of a row: the first attention segment. */
static int64_t first_segment(struct golden *g, int row)
{
    return (int64_t)(host_f32(g, "in.cu_seqlens", 2 * row + 1) - host_f32(g, "in.cu_seqlens", 2 * row));
}

/* [img, txt] of a row in one buffer. */
static struct tensor joined(struct golden *g, int row)
{
    const struct tensor list[2] = {in_row(g, "in.img", row), in_row(g, "in.txt", row)};
    return op_concat(g->run, list, 2, 0);
}

static void fn_double_block(struct golden *g, const struct dit *d)
{
    struct run *r = g->run;
    struct dit_mods m;
    struct tensor cos, sin, img = new_like(g, "out.img"), txt = new_like(g, "out.txt");
    const int64_t N = img.shape[1], S = txt.shape[1];
    rope_of(g, d, &cos, &sin);
    dit_cond_mods(r, d, golden_in(g, "in.vec"), 2, &m);
    for (int row = 0; row < 2; row++) {
        struct tensor x = joined(g, row), mi = dit_cond_mod_image(d, &m, row, 0),
                      mt = dit_cond_mod_text(d, &m, row, 0);
        const int64_t n = first_segment(g, row);
        dit_block_double(r, d, 0, mi, mt, tensor_slice(x, 0, 0, n), N, cos, sin, NULL);
        if (n < N + S) /* the text tokens that are not valid see each other only: a sequence without image */
            dit_block_double(r, d, 0, mi, mt, tensor_slice(x, 0, n, N + S - n), 0, cos, sin, NULL);
        op_copy_into(r, tensor_at(img, 0, row), tensor_slice(x, 0, 0, N));
        op_copy_into(r, tensor_at(txt, 0, row), tensor_slice(x, 0, N, S));
    }
    golden_check(g, "out.img", img);
    golden_check(g, "out.txt", txt);
}

static void fn_single_block(struct golden *g, const struct dit *d)
{
    struct run *r = g->run;
    struct dit_mods m;
    struct tensor cos, sin, out = new_like(g, "out.x");
    rope_of(g, d, &cos, &sin);
    if (d->dims.n_single < 3) {
        golden_fail(g, "block 2 of %d", d->dims.n_single);
        return;
    }
    dit_cond_mods(r, d, golden_in(g, "in.vec"), 2, &m);
    for (int row = 0; row < 2; row++) {
        struct tensor x = joined(g, row),
                      mod = d->dims.n_single > 3 /* the last block's are kept apart */
                                ? dit_cond_mod_single(d, &m, row, 2)
                                : tensor_slice(dit_cond_mod_last(&m, row), 0, 0, 3 * d->dims.hidden);
        const int64_t n = first_segment(g, row), all = x.shape[0];
        dit_block_single(r, d, 2, mod, tensor_slice(x, 0, 0, n), cos, sin, NULL);
        if (n < all)
            dit_block_single(r, d, 2, mod, tensor_slice(x, 0, n, all - n), TENSOR_NONE, TENSOR_NONE, NULL);
        op_copy_into(r, tensor_at(out, 0, row), x);
    }
    golden_check(g, "out.x", out);
}

static void fn_final(struct golden *g, const struct dit *d)
{
    struct run *r = g->run;
    struct dit_mods m;
    struct tensor tokens = new_like(g, "mid.tokens"), out = new_like(g, "out.x");
    dit_cond_mods(r, d, golden_in(g, "in.vec"), 0, &m);
    for (int row = 0; row < 2; row++) {
        struct tensor y = tensor_at(tokens, 0, row), mod = dit_cond_mod_last(&m, row);
        dit_block_final(r, d, tensor_slice(mod, 0, 3 * d->dims.hidden, 2 * d->dims.hidden),
                        in_row(g, "in.img", row), y);
        op_copy_into(r, tensor_at(out, 0, row),
                     op_unpatchify(r, y, out.shape[2], out.shape[3], out.shape[4]));
    }
    golden_check(g, "mid.tokens", tokens);
    golden_check(g, "out.x", out);
}

/* ---- whole predictions ---- */

/* Tokens after each block, both rows, gathered by the tap. The text tokens that are not valid are not
 * computed by us: the stored ones stay in their place. */
struct watch {
    struct golden *g;
    struct dit_share share[2]; /* of each row; set NULL: all tokens are here */
    struct tensor image[MAX_BLOCKS], single[MAX_BLOCKS];
    int seen[2][MAX_BLOCKS];
};

/* t, this rank's rows, to where they belong in all [tokens, H]. */
static void place(struct run *r, const struct dit_share *share, struct tensor all, struct tensor t)
{
    const int64_t frames = share->T + 1, N = frames * share->P, mine = frames * share->n, H = t.shape[1];
    if (!share->set) {
        op_copy_into(r, tensor_slice(all, 0, 0, t.shape[0]), t);
        return;
    }
    struct tensor image = tensor_view(tensor_slice(all, 0, 0, N), 3, SHAPE(frames, share->P, H));
    op_copy_into(r, tensor_slice(image, 1, share->at, share->n),
                 tensor_view(tensor_slice(t, 0, 0, mine), 3, SHAPE(frames, share->n, H)));
    if (t.shape[0] > mine)
        op_copy_into(r, tensor_slice(all, 0, N + share->text_at, share->n_text), tensor_slice(t, 0, mine, share->n_text));
}

/* The way back: this rank's rows of all, new. */
static struct tensor own_rows(struct run *r, const struct dit_share *share, struct tensor all)
{
    const int64_t N = (share->T + 1) * share->P;
    const struct tensor list[2] = {dit_share_rows(r, share, tensor_slice(all, 0, 0, N)),
                                   tensor_slice(all, 0, N + share->text_at, share->n_text)};
    return op_concat(r, list, 2, 0);
}

/* The row that this rank computes first. */
static int first_row(const struct run *r)
{
    return dit_forward_has_row(r, 0) ? 0 : 1;
}

static void watch_tap(void *arg, struct run *r, const char *name, struct tensor t)
{
    struct watch *w = arg;
    int i = 0;
    const bool image = sscanf(name, "dit.double%d.img", &i) == 1;
    if ((!image && sscanf(name, "dit.single%d", &i) != 1) || i >= MAX_BLOCKS)
        return;
    struct tensor all = image ? w->image[i] : w->single[i];
    const int row = first_row(r) + w->seen[!image][i]++;
    if (!tensor_is_none(all) && row < 2)
        place(r, &w->share[row], tensor_at(all, 0, row), t);
}

static void watch_name(char *name, size_t size, bool image, int i)
{
    str_format(name, size, image ? "mid.double%d.img" : "mid.single%d.img", i);
}

static void watch_start(struct golden *g, struct watch *w, const struct dit *d)
{
    char name[64];
    for (int i = 0; i < d->dims.n_double + d->dims.n_single && i < MAX_BLOCKS; i++) {
        watch_name(name, sizeof(name), true, i);
        if (golden_has(g, name))
            w->image[i] = g->run->group ? golden_in(g, name) : new_like(g, name);
        watch_name(name, sizeof(name), false, i);
        if (golden_has(g, name))
            w->single[i] = golden_in(g, name);
    }
    g->run->tap = watch_tap;
    g->run->tap_arg = w;
}

/* Blocks that ran once ran for both rows. */
static void watch_check(struct golden *g, struct watch *w)
{
    char name[64];
    g->run->tap = NULL;
    for (int i = 0; i < MAX_BLOCKS; i++) {
        for (int kind = 0; kind < 2; kind++) {
            struct tensor t = kind ? w->single[i] : w->image[i];
            if (tensor_is_none(t) || w->seen[kind][i] == 0)
                continue;
            if (w->seen[kind][i] == 1 && dit_forward_has_row(g->run, 0) && dit_forward_has_row(g->run, 1))
                op_copy_into(g->run, tensor_at(t, 0, 1), tensor_at(t, 0, 0));
            watch_name(name, sizeof(name), !kind, i);
            golden_check(g, name, t);
        }
    }
}

/* Whether both rows of a stored input are the same. */
static bool equal_rows(struct golden *g, const char *name)
{
    struct tensor t = golden_host(g, name);
    const size_t half = tensor_bytes(t) / 2;
    return !tensor_is_none(t) && memcmp(t.data, (const char *)t.data + half, half) == 0;
}

static void check_silence(struct golden *g)
{
    struct tensor t = golden_host(g, "in.audio");
    for (int64_t i = 0; i < tensor_count(t) / 2; i++) {
        if (host_f32(g, "in.audio", i) != 0) {
            golden_fail(g, "row 0 of in.audio is not silence");
            return;
        }
    }
}

/* Everything a prediction needs, from a case's inputs. */
static void set_scene(struct golden *g, const struct dit *d, struct dit_scene *scene, struct dit_row rows[2])
{
    struct run *r = g->run;
    struct dit_text text[2];
    const bool late = equal_rows(g, "in.txt") && equal_rows(g, "in.mask") && equal_rows(g, "in.txt2");
    const float t[2] = {host_f32(g, "in.t", 0), host_f32(g, "in.t", 1)};
    struct tensor face = in_row(g, "in.face", 0), audio = in_row(g, "in.audio", 1), idx;
    int32_t slots[1024];
    const int64_t F = audio.shape[0];
    check_silence(g);
    for (int row = 0; row < 2; row++)
        text_of_row(g, d, "in.txt", "in.txt2", row, &text[row]);
    const struct dit_rows times = {.t = t, .n = late ? 1 : 2, .n_a = 1, .a = &text[0], .b = &text[1]};
    face = tensor_view(face, 2, SHAPE(tensor_dim(face, -2), tensor_dim(face, -1)));
    dit_cond_picture(r, d, in_row(g, "in.ref", 0), face, &scene->picture);
    scene->dit = d;
    scene->kv = dit_cond_audio(r, d, audio, F);
    dit_cond_mods(r, d, dit_cond_vec(r, d, &times, host_f32(g, "in.fps", 0)), times.n, &scene->mods);
    struct tensor gates = dit_cond_gates(r, d, &times, times.n);
    for (int64_t s = 0; s < F + 3 && s < 1024; s++)
        slots[s] = (int32_t)(s < 3 ? 0 : s - 3);
    idx = run_write(r, slots, DTYPE_I32, 1, SHAPE(F + 3));
    for (int row = 0; row < 2; row++) {
        const int mod = late ? 0 : row;
        struct tensor refined =
            dit_cond_refine(r, d, &text[mod], tensor_at(gates, 0, mod), text[mod].n_valid);
        rows[row] = (struct dit_row){
            .text = refined, .mask = scene->picture.mask, .sound = row ? idx : TENSOR_NONE, .mod = mod};
    }
}

static void predict(struct golden *g, const struct dit *d, struct golden *inputs)
{
    struct run *r = g->run;
    struct dit_scene scene = {0};
    struct dit_row rows[2];
    struct watch *watch = mem_zalloc(sizeof(*watch));
    set_scene(inputs, d, &scene, rows);
    if (inputs->err.code || !watch) {
        err_set(&g->err, inputs->err.code ? inputs->err.code : ERR_NOMEM, "%s", inputs->err.text);
        mem_free(watch);
        return;
    }
    watch->g = g;
    struct tensor cache = golden_in(g, "mid.cache"), out = new_like(g, "out.x"), x[2], v[2];
    for (int row = 0; row < 2; row++) {
        struct dit_share *share = &watch->share[row];
        x[row] = tensor_slice(tensor_at(cache, 0, row), 0, 0, scene.picture.N + rows[row].text.shape[0]);
        if (dit_forward_share(r, &scene.picture, rows[row].text.shape[0], share))
            x[row] = run_new(r, DTYPE_F32, 2, SHAPE(scene.picture.N + share->n_text, d->dims.hidden));
    }
    watch_start(g, watch, d);
    dit_forward_pair(r, &scene, rows, in_row(inputs, "in.x", 0), x, v);
    watch_check(g, watch);
    for (int row = 0; row < 2; row++) {
        if (watch->share[row].set && dit_forward_has_row(r, row))
            place(r, &watch->share[row], tensor_at(cache, 0, row), x[row]);
        op_copy_into(r, tensor_at(out, 0, row), v[row]);
    }
    golden_check(g, "mid.cache", cache);
    golden_check(g, "out.x", out);
    mem_free(watch);
}

static void fn_forward(struct golden *g, const struct dit *d)
{
    predict(g, d, g);
}
WITH_NET(forward)

/* The inputs of dit/forward_early are those of fp8/forward_early_fp8. */
static void fn_forward_fp8(struct golden *g, const struct dit *d)
{
    char stem[256];
    if (golden_has(g, "in.x")) {
        predict(g, d, g);
        return;
    }
    const size_t len = strlen(g->name);
    const bool ends = str_ends(g->name, "_fp8");
    str_format(stem, sizeof(stem), "dit/%.*s", (int)(ends ? len - 4 : len), g->name);
    struct golden inputs = *g;
    inputs.file = golden_other(g, stem);
    if (inputs.file)
        predict(g, d, &inputs);
}

static void case_forward_fp8(struct golden *g)
{
    with_net(g, true, fn_forward_fp8);
}

static int64_t valid_text(struct golden *g, int row)
{
    int64_t S, n = 0;
    uint8_t *mask = mask_row(g, row, &S);
    for (int64_t i = 0; mask && i < S; i++)
        n += mask[i];
    mem_free(mask);
    return n;
}

/* The positions of a prediction, and how tokens are spread. */
static void set_grid(struct golden *g, struct dit_scene *scene, struct dit_share *share)
{
    struct run *r = g->run;
    struct dit_picture *p = &scene->picture;
    op_rope_table(r, p->T + 1, p->h / 2, p->w / 2, scene->dit->dims.rope, 256, -1, &p->cos, &p->sin);
    if (!dit_forward_share(r, p, 0, share))
        return;
    p->P = share->n;
    p->N = (p->T + 1) * p->P;
    p->cos = dit_share_rows(r, share, p->cos);
    p->sin = dit_share_rows(r, share, p->sin);
}

static void fn_cached(struct golden *g, const struct dit *d)
{
    struct run *r = g->run;
    pool_take(r, d->pool, d->place.prepare);
    struct tensor out = new_like(g, "out.x"), pooled = dit_cond_embed(r, &d->vector, golden_in(g, "in.txt2")), v[2];
    const int64_t T = out.shape[2], h = out.shape[3], w = out.shape[4], P = (h / 2) * (w / 2), N = (T + 1) * P;
    const float t[2] = {host_f32(g, "in.t", 0), host_f32(g, "in.t", 1)};
    const struct dit_text a = {.vector = tensor_slice(pooled, 0, 0, 1)},
                          b = {.vector = tensor_slice(pooled, 0, 1, 1)};
    const struct dit_rows rows = {.t = t, .n = 2, .n_a = 1, .a = &a, .b = &b};
    struct dit_scene scene = {.dit = d, .picture = {.T = T, .h = h, .w = w, .P = P, .N = N, .P_all = P}};
    struct dit_share share;
    set_grid(g, &scene, &share);
    dit_cond_mods(r, d, dit_cond_vec(r, d, &rows, host_f32(g, "in.fps", 0)), 0, &scene.mods);
    for (int row = 0; row < 2; row++) {
        const struct dit_row it = {.n_text = valid_text(g, row), .mod = row};
        struct tensor x = tensor_slice(in_row(g, "in.cache", row), 0, 0, N + it.n_text);
        if (dit_forward_share(r, &scene.picture, it.n_text, &share))
            x = own_rows(r, &share, x);
        if (dit_forward_has_row(r, row))
            v[row] = dit_forward_last(r, &scene, &it, x);
    }
    dit_forward_swap(r, v);
    for (int row = 0; row < 2; row++)
        op_copy_into(r, tensor_at(out, 0, row), v[row]);
    golden_check(g, "out.x", out);
}
WITH_NET(cached)

WITH_NET(time_embed)
WITH_NET(vec)
WITH_NET(modulation)
WITH_NET(qknorm_rope)
WITH_NET(refiner)
WITH_NET(audio_proj)
WITH_NET(adapter)
WITH_NET(face_mask)
WITH_NET(patchify)
WITH_NET(double_block)
WITH_NET(single_block)
WITH_NET(final)

/* ---- fp8 ---- */

/* names.tsv beside the case: name, shape, scale of every fp8 weight of the checkpoint. */
static void check_names(struct golden *g)
{
    char path[1200], line[512], name[300], key[320];
    struct ckpt *c = NULL;
    double scale;
    int n = 0;
    str_path(path, sizeof(path), g->dir, "names.tsv");
    FILE *f = fopen(path, "r");
    if (!f)
        return;
    if (open_ckpt(g, true, &c) == 0) {
        while (fgets(line, sizeof(line), f) && sscanf(line, "%299[^\t]\t%*[^\t]\t%lf", name, &scale) == 2) {
            str_format(key, sizeof(key), "%s.weight", name);
            struct tensor t = ckpt_find(c, key);
            if (tensor_is_none(t) || t.dtype != DTYPE_F8E4M3 || !t.scale ||
                fabs(t.scale[0] / scale - 1) > 1e-6)
                golden_fail(g, "%s has no fp8 weight with a scale of %g", name, scale);
            n++;
        }
        if (n == 0)
            golden_fail(g, "names.tsv holds no name");
    }
    fclose(f);
    ckpt_close(c);
}

/* The reference's way on a GPU: scale and product rounded to bf16. */
static void round_weight(uint16_t *dst, struct tensor w, float scale)
{
    const float s = dtype_bf16_to_f32(dtype_bf16_from_f32(scale));
    for (int64_t i = 0; i < tensor_count(w); i++)
        dst[i] = dtype_bf16_from_f32(dtype_e4m3_to_f32(((const uint8_t *)w.data)[i]) * s);
}

static void case_fp8_linear(struct golden *g)
{
    struct tensor x = golden_in(g, "in.x"), b = golden_in(g, "in.bias"), w = golden_host(g, "in.weight"),
                  on_device;
    const float scale = host_f32(g, "in.scale", 0);
    const int64_t n = tensor_count(w);
    float *wide = mem_aligned(64, (size_t)n * sizeof(*wide));
    uint16_t *half = mem_aligned(64, (size_t)n * sizeof(*half));
    if (!wide || !half || tensor_is_none(w)) {
        golden_fail(g, "no weight or no memory");
        goto out;
    }
    dtype_read_f32(wide, w.data, w.dtype, n, scale);
    golden_check_host(g, "mid.weight", wide, n);
    round_weight(half, w, scale);
    dtype_read_f32(wide, half, DTYPE_BF16, n, 1);
    golden_check_host(g, "mid.weight_bf16", wide, n);
    w.scale = &scale;
    if (device_upload(g->device, w, &on_device, &g->err) < 0)
        goto out;
    golden_check(g, "out.y", op_linear(g->run, x, on_device, b, ACT_NONE));
    w = tensor_of(half, DTYPE_BF16, 2, w.shape);
    if (device_upload(g->device, w, &on_device, &g->err) < 0)
        goto out;
    golden_check(g, "out.y_bf16_weight", op_linear(g->run, x, on_device, b, ACT_NONE));
    check_names(g);
out:
    device_forget(g->device, NULL, SIZE_MAX);
    mem_free(wide);
    mem_free(half);
}

static void case_e4m3_table(struct golden *g)
{
    float value[256];
    for (int i = 0; i < 256; i++) {
        value[i] = dtype_e4m3_to_f32((uint8_t)host_f32(g, "in.code", i));
        if (isnan(value[i]))
            value[i] = 0;
    }
    golden_check_host(g, "out.value", value, 256);
}

static void case_quantize(struct golden *g)
{
    struct tensor x = golden_host(g, "in.x");
    const int64_t n = tensor_count(x);
    float *value = mem_calloc((size_t)n + 1, sizeof(*value));
    for (int64_t i = 0; value && i < n; i++)
        value[i] = dtype_e4m3_to_f32(dtype_e4m3_from_f32(host_f32(g, "in.x", i)));
    if (value) {
        golden_check_host(g, "out.q", value, n);
        golden_check_host(g, "out.x", value, n);
    } else {
        golden_fail(g, "out of memory");
    }
    mem_free(value);
}

const struct golden_kind golden_dit_kinds[] = {
    {"dit.time_embed", case_time_embed},
    {"dit.vec", case_vec},
    {"dit.modulation", case_modulation},
    {"dit.qknorm_rope", case_qknorm_rope},
    {"dit.rope_real", case_rope_real},
    {"dit.refiner", case_refiner},
    {"dit.audio_proj", case_audio_proj},
    {"dit.adapter", case_adapter},
    {"dit.face_mask", case_face_mask},
    {"dit.patchify", case_patchify},
    {"dit.double_block", case_double_block},
    {"dit.single_block", case_single_block},
    {"dit.final", case_final},
    {"dit.forward", case_forward, true},
    {"dit.forward_fp8", case_forward_fp8, true},
    {"dit.cached", case_cached, true},
    {"fp8.linear", case_fp8_linear},
    {"fp8.e4m3_table", case_e4m3_table},
    {"fp8.quantize", case_quantize},
    {NULL, NULL},
};
