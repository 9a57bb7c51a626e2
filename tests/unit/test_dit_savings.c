/* test_dit_savings.c -- the work that the transformer does not do: each saving against the unsaved way, built
 * here from ops and the same weights, on the miniature checkpoint. Where the same operations run on the same
 * numbers the results must be equal bit by bit; where sums run in another order they may differ by f32
 * rounding: 2e-5 of the largest value.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/model/dit_block.h"
#include "worker/model/dit_denoise.h"

enum { T = 3, LH = 8, LW = 12, S = 24, FRAMES = 4 * T - 3 };
static const double ROUNDING = 2e-5;

struct fixture {
    struct device *device;
    struct ckpt *ckpt;
    struct dit *dit;
    struct run run;
    uint32_t stream; /* of the next random tensor */
};

static int setup_on(void **state, const char *table, int n_threads)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    const char *root = getenv("TEST_GOLDEN");
    const struct device_options o = {.n_threads = n_threads};
    struct err err = {0};
    char path[1024];
    if (!f || !root)
        return -1;
    str_path(path, sizeof(path), root,
             "tiny/ckpts/hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states.pt");
    if (device_open(&f->device, table, &o, &err) < 0 || ckpt_open(&f->ckpt, path, &err) < 0 ||
        dit_open(&f->dit, f->ckpt, f->device, &err) < 0 || run_init(&f->run, f->device, 0, &err) < 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_on(state, "cpu_ref", 1);
}

static int setup_cpu(void **state)
{
    return setup_on(state, "cpu", 2);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    run_done(&f->run);
    device_forget(f->device, NULL, SIZE_MAX);
    dit_close(f->dit);
    ckpt_close(f->ckpt);
    device_close(f->device);
    mem_free(f);
    return 0;
}

/* ---- helpers ---- */

static struct tensor random_of(struct fixture *f, int n_dims, const int64_t *shape)
{
    return op_randn(&f->run, 1, f->stream++, n_dims, shape);
}

static float *host_of(struct fixture *f, struct tensor t)
{
    float *p = mem_aligned(64, tensor_bytes(t) + 64);
    assert_non_null(p);
    if (run_read(&f->run, t, p) < 0)
        fail_msg("%s", f->run.err.text);
    return p;
}

/* bound 0: bit by bit. Otherwise the largest difference against the largest value. */
static void assert_close(struct fixture *f, struct tensor a, struct tensor b, double bound)
{
    assert_int_equal(tensor_count(a), tensor_count(b));
    float *x = host_of(f, a), *y = host_of(f, b);
    double worst = 0, most = 0;
    for (int64_t i = 0; i < tensor_count(a); i++) {
        assert_true(isfinite(x[i]) && isfinite(y[i]));
        worst = fmax(worst, fabs((double)x[i] - y[i]));
        most = fmax(most, fabs(y[i]));
    }
    mem_free(x);
    mem_free(y);
    assert_true(most > 0.01);
    if (worst > bound * most)
        fail_msg("they differ by %.3g, the largest value is %.3g, allowed is a share of %.3g", worst, most,
                 bound);
}

static struct tensor part(struct tensor mod, int i)
{
    const int64_t H = 64;
    return tensor_slice(mod, 0, i * H, H);
}

/* A mask with a hole, as the text's is: ones, padding, ones. */
static void fill_mask(uint8_t *mask, int front, int back)
{
    for (int i = 0; i < S; i++)
        mask[i] = i < front || i >= S - back;
}

static void text_of(struct fixture *f, int front, int back, struct dit_text *ret)
{
    uint8_t mask[S];
    const struct dit_dims *s = &f->dit->dims;
    fill_mask(mask, front, back);
    dit_cond_text(&f->run, f->dit, random_of(f, 2, SHAPE(S, s->text)), random_of(f, 1, SHAPE(s->text2)), mask,
                  0, ret);
}

struct scene {
    struct dit_scene s;
    struct dit_text text;
    struct dit_rows times;
    struct tensor audio, gates, latents, idx, face;
    float t[1];
};

static void set_scene(struct fixture *f, struct scene *c)
{
    struct run *r = &f->run;
    int32_t idx[4 * T];
    *c = (struct scene){.t = {937.5f}};
    c->s.dit = f->dit;
    text_of(f, 9, 4, &c->text);
    c->times = (struct dit_rows){.t = c->t, .n = 1, .n_a = 0, .b = &c->text};
    struct tensor ref = random_of(f, 4, SHAPE(16, T, LH, LW));
    c->face = random_of(f, 2, SHAPE(LH, LW));
    op_fill(r, tensor_slice(c->face, 1, 0, 5), 0); /* of 6 token columns 3 hear nothing */
    c->latents = random_of(f, 4, SHAPE(16, T, LH, LW));
    c->audio = random_of(f, 4, SHAPE(FRAMES, 10, 5, f->dit->dims.audio / 50));
    dit_cond_picture(r, f->dit, ref, c->face, &c->s.picture);
    assert_int_equal(c->s.picture.n_face, LH / 2 * 3);
    c->s.kv = dit_cond_audio(r, f->dit, c->audio, FRAMES);
    dit_cond_mods(r, f->dit, dit_cond_vec(r, f->dit, &c->times, 25), 1, &c->s.mods);
    c->gates = dit_cond_gates(r, f->dit, &c->times, 1);
    for (int i = 0; i < 4 * T; i++)
        idx[i] = i < 3 ? 0 : i - 3;
    c->idx = run_write(r, idx, DTYPE_I32, 1, SHAPE(4 * T));
}

static struct dit_row row_of(struct fixture *f, const struct scene *c, bool sound)
{
    return (struct dit_row){
        .text = dit_cond_refine(&f->run, f->dit, &c->text, tensor_at(c->gates, 0, 0), c->text.n_valid),
        .mask = c->s.picture.mask,
        .sound = sound ? c->idx : TENSOR_NONE,
    };
}

static struct tensor new_x(struct fixture *f, const struct scene *c, int64_t n_text)
{
    return run_new(&f->run, DTYPE_F32, 2, SHAPE(c->s.picture.N + n_text, f->dit->dims.hidden));
}

static struct tensor predict(struct fixture *f, const struct scene *c, const struct dit_row *row)
{
    struct tensor x = new_x(f, c, row->text.shape[0]);
    dit_forward_head(&f->run, &c->s, row, c->latents, x);
    dit_forward_rest(&f->run, &c->s, row, x);
    return dit_forward_last(&f->run, &c->s, row, x);
}

/* ---- the unsaved way: all text tokens, two segments by a mask ---- */

struct plain {
    struct fixture *f;
    const struct scene *c;
    struct tensor mask; /* u8 [N + S, N + S] */
    int64_t N, M;
};

static void set_plain(struct fixture *f, const struct scene *c, struct plain *p)
{
    *p = (struct plain){.f = f, .c = c, .N = c->s.picture.N, .M = c->s.picture.N + S};
    const int64_t n = p->N + c->text.n_valid;
    uint8_t *mask = mem_alloc((size_t)(p->M * p->M));
    assert_non_null(mask);
    for (int64_t i = 0; i < p->M; i++) {
        for (int64_t j = 0; j < p->M; j++)
            mask[i * p->M + j] = (i < n) == (j < n);
    }
    p->mask = run_write(&f->run, mask, DTYPE_U8, 2, SHAPE(p->M, p->M));
    mem_free(mask);
}

static struct tensor plain_attention(const struct plain *p, struct tensor q, struct tensor k, struct tensor v)
{
    const struct dit_dims *s = &p->f->dit->dims;
    const int64_t *shape = SHAPE(1, q.shape[0], s->heads, s->head);
    struct attn a = {.kind = ATTN_MASK, .scale = 1 / sqrtf((float)s->head), .mask = p->mask};
    struct tensor o = op_attention(&p->f->run, tensor_view(q, 4, shape), tensor_view(k, 4, shape),
                                   tensor_view(v, 4, shape), a);
    return tensor_view(o, 2, SHAPE(q.shape[0], s->hidden));
}

/* Part i of [rows, 3H] as [rows, heads, D], contiguous; normed and turned if w is given. */
static struct tensor plain_head(const struct plain *p, struct tensor qkv, int i, struct tensor w, bool turn)
{
    const struct dit_dims *s = &p->f->dit->dims;
    struct run *r = &p->f->run;
    struct tensor y = op_copy(r, tensor_slice(qkv, 1, i * s->hidden, s->hidden), DTYPE_F32);
    y = tensor_view(y, 3, SHAPE(y.shape[0], s->heads, s->head));
    if (!tensor_is_none(w))
        op_norm_rope(r, y, w, 1e-6f, turn ? p->c->s.picture.cos : TENSOR_NONE,
                     turn ? p->c->s.picture.sin : TENSOR_NONE);
    return y;
}

static struct tensor plain_qkv(const struct plain *p, const struct dit_stream *w, struct tensor x,
                               struct tensor mod)
{
    struct run *r = &p->f->run;
    return op_linear(r, op_layer_norm_mod(r, x, part(mod, 0), part(mod, 1), 1e-6f), w->qkv.w, w->qkv.b,
                     ACT_NONE);
}

static void plain_end(const struct plain *p, const struct dit_stream *w, struct tensor x, struct tensor o,
                      struct tensor mod)
{
    struct run *r = &p->f->run;
    op_add_gated(r, x, op_linear(r, o, w->proj.w, w->proj.b, ACT_NONE), part(mod, 2));
    struct tensor a = op_layer_norm_mod(r, x, part(mod, 3), part(mod, 4), 1e-6f);
    a = op_linear(r, a, w->fc1.w, w->fc1.b, ACT_GELU_TANH);
    op_add_gated(r, x, op_linear(r, a, w->fc2.w, w->fc2.b, ACT_NONE), part(mod, 5));
}

static struct tensor both(const struct plain *p, struct tensor a, struct tensor b)
{
    return op_concat(&p->f->run, (const struct tensor[]){a, b}, 2, 0);
}

static void plain_double(const struct plain *p, int i, struct tensor img, struct tensor txt)
{
    const struct dit_double *w = &p->f->dit->doubles[i];
    struct tensor mi = dit_cond_mod_image(p->f->dit, &p->c->s.mods, 0, i);
    struct tensor mt = dit_cond_mod_text(p->f->dit, &p->c->s.mods, 0, i);
    struct tensor a = plain_qkv(p, &w->img, img, mi), b = plain_qkv(p, &w->txt, txt, mt);
    struct tensor q =
        both(p, plain_head(p, a, 0, w->img.q_norm, true), plain_head(p, b, 0, w->txt.q_norm, false));
    struct tensor k =
        both(p, plain_head(p, a, 1, w->img.k_norm, true), plain_head(p, b, 1, w->txt.k_norm, false));
    struct tensor v =
        both(p, plain_head(p, a, 2, TENSOR_NONE, false), plain_head(p, b, 2, TENSOR_NONE, false));
    struct tensor o = plain_attention(p, q, k, v);
    plain_end(p, &w->img, img, tensor_slice(o, 0, 0, p->N), mi);
    plain_end(p, &w->txt, txt, tensor_slice(o, 0, p->N, S), mt);
}

/* All 16 audio tokens of each latent frame, projected for this window. row_audio [FRAMES, ...]. */
static void plain_adapter(const struct plain *p, int a, struct tensor audio, struct tensor img)
{
    struct run *r = &p->f->run;
    const struct dit_picture *pic = &p->c->s.picture;
    struct tensor tokens = dit_cond_audio_tokens(r, p->f->dit, audio);
    tokens = op_gather(r, tokens, 0, p->c->idx);
    tokens = tensor_view(tokens, 3, SHAPE(T, 16, p->f->dit->dims.hidden));
    struct tensor kv = dit_cond_audio_kv(r, p->f->dit, a, tokens),
                  video = tensor_slice(img, 0, pic->P, T * pic->P);
    struct tensor y = dit_block_adapter(r, p->f->dit, a, kv, video);
    const int64_t *shape = SHAPE(T, pic->P, p->f->dit->dims.hidden);
    op_add_masked(r, tensor_view(video, 3, shape), tensor_view(y, 3, shape), dit_cond_face(r, p->c->face));
}

static void plain_single(const struct plain *p, int i, struct tensor x, struct tensor mod)
{
    struct run *r = &p->f->run;
    const struct dit_single *w = &p->f->dit->singles[i];
    const int64_t H = p->f->dit->dims.hidden, F = p->f->dit->dims.mlp;
    struct tensor all = op_linear(r, op_layer_norm_mod(r, x, part(mod, 0), part(mod, 1), 1e-6f), w->linear1.w,
                                  w->linear1.b, ACT_NONE);
    struct tensor o =
        plain_attention(p, plain_head(p, all, 0, w->q_norm, true), plain_head(p, all, 1, w->k_norm, true),
                        plain_head(p, all, 2, TENSOR_NONE, false));
    struct tensor mlp = op_copy(r, tensor_slice(all, 1, 3 * H, F), DTYPE_F32);
    op_act(r, mlp, ACT_GELU_TANH);
    struct tensor cat = op_concat(r, (const struct tensor[]){o, mlp}, 2, 1);
    op_add_gated(r, x, op_linear(r, cat, w->linear2.w, w->linear2.b, ACT_NONE), part(mod, 2));
}

/* The refiner as written: both blocks on all tokens, at the step's time. */
static struct tensor plain_refiner(const struct plain *p)
{
    struct run *r = &p->f->run;
    const struct dit *d = p->f->dit;
    const struct dit_dims *s = &d->dims;
    struct tensor x = op_copy(r, p->c->text.embedded, DTYPE_F32);
    struct tensor c = dit_cond_time(r, &d->text_time, p->c->t, 1);
    op_add(r, c, p->c->text.context);
    op_act(r, c, ACT_SILU);
    for (int i = 0; i < DIT_REFINER_BLOCKS; i++) {
        const struct dit_refiner *w = &d->refiner[i];
        struct tensor gates = tensor_at(op_linear(r, c, w->gates.w, w->gates.b, ACT_NONE), 0, 0);
        struct tensor qkv =
            op_linear(r, op_layer_norm(r, x, w->norm1.w, w->norm1.b, 1e-6f), w->qkv.w, w->qkv.b, ACT_NONE);
        qkv = tensor_view(qkv, 5, SHAPE(1, S, 3, s->heads, s->head));
        struct attn a = {.kind = ATTN_MASK, .scale = 1 / sqrtf((float)s->head), .mask = p->c->text.mask};
        struct tensor o =
            op_attention(r, tensor_at(qkv, 2, 0), tensor_at(qkv, 2, 1), tensor_at(qkv, 2, 2), a);
        o = tensor_view(o, 2, SHAPE(S, s->hidden));
        op_add_gated(r, x, op_linear(r, o, w->proj.w, w->proj.b, ACT_NONE), part(gates, 0));
        struct tensor m = op_layer_norm(r, x, w->norm2.w, w->norm2.b, 1e-6f);
        m = op_linear(r, m, w->fc1.w, w->fc1.b, ACT_SILU);
        op_add_gated(r, x, op_linear(r, m, w->fc2.w, w->fc2.b, ACT_NONE), part(gates, 1));
    }
    return x;
}

static struct tensor plain_predict(const struct plain *p, struct tensor audio)
{
    struct run *r = &p->f->run;
    const struct dit *d = p->f->dit;
    const struct dit_picture *pic = &p->c->s.picture;
    const struct dit_dims *s = &d->dims;
    struct tensor x = run_new(r, DTYPE_F32, 2, SHAPE(p->M, s->hidden));
    struct tensor img = tensor_slice(x, 0, 0, p->N), txt = tensor_slice(x, 0, p->N, S);
    dit_block_embed(r, d, pic->front, pic->ref, p->c->latents, img, NULL);
    op_copy_into(r, txt, plain_refiner(p));
    for (int i = 0; i < s->n_double; i++) {
        plain_double(p, i, img, txt);
        if (i % 2)
            plain_adapter(p, i / 2, audio, img);
    }
    struct tensor last = dit_cond_mod_last(&p->c->s.mods, 0);
    for (int i = 0; i < s->n_single; i++)
        plain_single(p, i, x, i + 1 < s->n_single ? dit_cond_mod_single(d, &p->c->s.mods, 0, i) : last);
    struct tensor tokens = run_new(r, DTYPE_F32, 2, SHAPE(T * pic->P, 64));
    dit_block_final(r, d, tensor_slice(last, 0, 3 * s->hidden, 2 * s->hidden),
                    tensor_slice(x, 0, pic->P, T * pic->P), tokens);
    return op_unpatchify(r, tokens, T, LH, LW);
}

/* ---- the savings ---- */

/* Text tokens after the first n, the last block's q, mlp and linear2 of front and text tokens, the refiner's
 * first attention and its last tokens, the sound projected once, the adapter where the face mask is 0: all at
 * once against a prediction that does all that work. */
static void test_whole(void **state)
{
    struct fixture *f = *state;
    struct scene c;
    struct plain p;
    set_scene(f, &c);
    set_plain(f, &c, &p);
    const struct dit_row row = row_of(f, &c, true);
    assert_int_equal(row.text.shape[0], 13);
    assert_close(f, predict(f, &c, &row), plain_predict(&p, c.audio), ROUNDING);
}

/* The silent row: 4 keys, against 16 of frames of zeros. */
static void test_whole_silent(void **state)
{
    struct fixture *f = *state;
    struct scene c;
    struct plain p;
    set_scene(f, &c);
    set_plain(f, &c, &p);
    const struct dit_row row = row_of(f, &c, false);
    struct tensor zeros = run_new(&f->run, DTYPE_F32, 4, c.audio.shape);
    op_fill(&f->run, zeros, 0);
    assert_close(f, predict(f, &c, &row), plain_predict(&p, zeros), ROUNDING);
}

/* Valid text tokens do not feel the others: exact, not only small. */
static void test_dropped_tokens(void **state)
{
    struct fixture *f = *state;
    struct scene c;
    struct plain p;
    set_scene(f, &c);
    set_plain(f, &c, &p);
    const int64_t H = f->dit->dims.hidden, n = p.N + c.text.n_valid;
    struct tensor x = random_of(f, 2, SHAPE(p.M, H)),
                  y = op_copy(&f->run, tensor_slice(x, 0, 0, n), DTYPE_F32);
    plain_double(&p, 0, tensor_slice(x, 0, 0, p.N), tensor_slice(x, 0, p.N, S));
    dit_block_double(&f->run, f->dit, 0, dit_cond_mod_image(f->dit, &c.s.mods, 0, 0),
                     dit_cond_mod_text(f->dit, &c.s.mods, 0, 0), y, p.N, c.s.picture.cos, c.s.picture.sin, NULL);
    assert_close(f, y, tensor_slice(x, 0, 0, n), ROUNDING);
}

/* Tokens that hear nothing are left out of the adapter, all of them or some: the sums are the same bit by
 * bit. */
static void test_face(void **state)
{
    struct fixture *f = *state;
    struct run *r = &f->run;
    struct scene c;
    set_scene(f, &c);
    struct tensor none = run_new(r, DTYPE_F32, 2, SHAPE(LH, LW)), mask = dit_cond_face(r, c.face);
    const struct dit_row some = row_of(f, &c, true);
    struct dit_row all = some;
    struct scene whole = c;
    whole.s.picture.face = TENSOR_NONE;
    whole.s.picture.n_face = c.s.picture.P;
    all.mask = mask;
    assert_close(f, predict(f, &c, &some), predict(f, &whole, &all), 0);
    op_fill(r, none, 0);
    struct dit_picture deaf;
    dit_cond_picture(r, f->dit, random_of(f, 4, SHAPE(16, T, LH, LW)), none, &deaf);
    assert_int_equal(deaf.n_face, 0);
    whole.s.picture.n_face = 0;
    op_fill(r, mask, 0);
    struct tensor without = predict(f, &whole, &all);
    whole.s.picture.n_face = c.s.picture.P;
    assert_close(f, without, predict(f, &whole, &all), 0);
}

static void test_last_block(void **state)
{
    struct fixture *f = *state;
    struct scene c;
    set_scene(f, &c);
    struct run *r = &f->run;
    const struct dit_picture *pic = &c.s.picture;
    const struct dit_dims *s = &f->dit->dims;
    const struct dit_row row = {0};
    struct tensor x = random_of(f, 2, SHAPE(pic->N + 13, s->hidden)), mod = dit_cond_mod_last(&c.s.mods, 0);
    struct tensor v = dit_forward_last(r, &c.s, &row, x),
                  tokens = run_new(r, DTYPE_F32, 2, SHAPE(T * pic->P, 64));
    dit_block_single(r, f->dit, s->n_single - 1, tensor_slice(mod, 0, 0, 3 * s->hidden), x, pic->cos,
                     pic->sin, NULL);
    dit_block_final(r, f->dit, tensor_slice(mod, 0, 3 * s->hidden, 2 * s->hidden),
                    tensor_slice(x, 0, pic->P, T * pic->P), tokens);
    assert_close(f, v, op_unpatchify(r, tokens, T, LH, LW), 0);
}

static void test_pair(void **state)
{
    struct fixture *f = *state;
    struct scene c;
    set_scene(f, &c);
    const struct dit_row rows[DIT_ROWS] = {row_of(f, &c, false), row_of(f, &c, true)};
    const struct tensor x[DIT_ROWS] = {new_x(f, &c, 13), new_x(f, &c, 13)};
    struct tensor v[DIT_ROWS];
    const int64_t before = f->run.n_ops;
    dit_forward_pair(&f->run, &c.s, rows, c.latents, x, v);
    const int64_t shared = f->run.n_ops - before;
    for (int i = 0; i < DIT_ROWS; i++)
        assert_close(f, v[i], predict(f, &c, &rows[i]), 0);
    assert_true(shared < f->run.n_ops - before - shared);
    assert_true(rows[0].mod == rows[1].mod);
}

/* Modulation, gates and refined text of a step do not depend on the other steps in the table. */
static void test_all_steps_at_once(void **state)
{
    struct fixture *f = *state;
    struct run *r = &f->run;
    struct dit_text text[2];
    struct dit_mods all, one;
    static const float t[5] = {1000, 900, 937.5f, 500, 3};
    text_of(f, 9, 4, &text[0]);
    text_of(f, 5, 8, &text[1]);
    const struct dit_rows rows = {.t = t, .n = 5, .n_a = 2, .a = &text[0], .b = &text[1]};
    dit_cond_mods(r, f->dit, dit_cond_vec(r, f->dit, &rows, 12.5), 3, &all);
    struct tensor gates = dit_cond_gates(r, f->dit, &rows, 3);
    for (int i = 0; i < 5; i++) {
        const struct dit_rows row = {.t = t + i, .n = 1, .n_a = 0, .b = &text[i >= 2]};
        dit_cond_mods(r, f->dit, dit_cond_vec(r, f->dit, &row, 12.5), 1, &one);
        assert_close(f, dit_cond_mod_last(&all, i), dit_cond_mod_last(&one, 0), 0);
        if (i >= 3)
            continue;
        assert_close(f, tensor_at(all.blocks, 0, i), tensor_at(one.blocks, 0, 0), 0);
        assert_close(f, tensor_at(gates, 0, i), tensor_at(dit_cond_gates(r, f->dit, &row, 1), 0, 0), 0);
    }
}

static void test_refiner(void **state)
{
    struct fixture *f = *state;
    struct scene c;
    struct plain p;
    set_scene(f, &c);
    set_plain(f, &c, &p);
    struct tensor some = dit_cond_refine(&f->run, f->dit, &c.text, tensor_at(c.gates, 0, 0), c.text.n_valid);
    assert_close(f, some, tensor_slice(plain_refiner(&p), 0, 0, c.text.n_valid), ROUNDING);
}

/* Keys and values of a window from the table of the whole video, against projecting the window's own frames.
 */
static void test_sound_once(void **state)
{
    struct fixture *f = *state;
    struct run *r = &f->run;
    const int32_t list[8] = {5, 5, 5, 5, 6, 7, 0, 9}; /* frame 9 is silence */
    struct tensor audio = random_of(f, 4, SHAPE(9, 10, 5, f->dit->dims.audio / 50));
    struct tensor kv = dit_cond_audio(r, f->dit, audio, 9),
                  own = run_new(r, DTYPE_F32, 2, SHAPE(8, f->dit->dims.audio));
    struct tensor idx = run_write(r, list, DTYPE_I32, 1, SHAPE(8));
    for (int i = 0; i < 8; i++) {
        struct tensor to = tensor_slice(own, 0, i, 1);
        if (list[i] < 9)
            op_copy_into(r, to,
                         tensor_view(tensor_slice(audio, 0, list[i], 1), 2, SHAPE(1, f->dit->dims.audio)));
        else
            op_fill(r, to, 0);
    }
    for (int a = 0; a < f->dit->dims.n_adapters; a++) {
        struct tensor tokens = dit_cond_audio_tokens(r, f->dit, own);
        assert_close(f, dit_cond_audio_window(r, f->dit, kv, a, idx), dit_cond_audio_kv(r, f->dit, a, tokens),
                     0);
    }
}

/* Heads in groups, the reference's tokens made anew, the adapter frame by frame: the same bits. */
static void check_compact(struct fixture *f, bool sound)
{
    struct scene roomy, compact;
    const uint32_t stream = f->stream;
    set_scene(f, &roomy);
    const struct dit_row row = row_of(f, &roomy, sound);
    struct tensor want = predict(f, &roomy, &row);
    dit_set_compact(f->dit, true);
    f->stream = stream;
    set_scene(f, &compact);
    assert_int_equal(compact.s.picture.ref.shape[1], 4 * f->dit->dims.channels);
    assert_close(f, predict(f, &compact, &row), want, 0);
    dit_set_compact(f->dit, false);
}

/* More tokens than are made at once. */
static void test_compact_embedding(void **state)
{
    struct fixture *f = *state;
    struct run *r = &f->run;
    const int64_t h = 128, w = 96, P = h / 2 * (w / 2);
    struct tensor ref = random_of(f, 4, SHAPE(16, 2, h, w)), latents = random_of(f, 4, SHAPE(16, 2, h, w)), image[2];
    struct tensor face = run_new(r, DTYPE_F32, 2, SHAPE(h, w));
    op_fill(r, face, 1);
    for (int i = 0; i < 2; i++) {
        struct dit_picture p;
        dit_set_compact(f->dit, i > 0);
        dit_cond_picture(r, f->dit, ref, face, &p);
        image[i] = run_new(r, DTYPE_F32, 2, SHAPE(3 * P, f->dit->dims.hidden));
        dit_block_embed(r, f->dit, p.front, p.ref, latents, image[i], NULL);
    }
    dit_set_compact(f->dit, false);
    assert_close(f, image[1], image[0], 0);
}

static void test_compact(void **state)
{
    check_compact(*state, true);
    check_compact(*state, false);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_whole),          TEST(test_whole_silent),
        TEST(test_dropped_tokens), TEST(test_last_block),
        TEST(test_face),           TEST(test_pair),
        TEST(test_refiner),        TEST(test_all_steps_at_once),
        TEST(test_sound_once),     TEST(test_compact),
        TEST(test_compact_embedding),
        cmocka_unit_test_setup_teardown(test_compact, setup_cpu, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
