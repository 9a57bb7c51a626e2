/* test_text_savings.c -- the work that the text, vision and sound encoders do not do: each saving against the
 * unsaved way on the miniature checkpoint. On the reference table, where a row's sums do not depend on its
 * neighbours, both must be equal bit by bit; on the fast one they may differ by rounding.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "worker/model/clip_text.h"
#include "worker/model/llava.h"
#include "worker/model/tokenizer_llama.h"
#include "worker/model/whisper.h"

/* Sums of a few hundred terms of size 1 and four layers: far above rounding, far below any mistake. */
#define BOUND 2e-5

struct fixture {
    struct device *device;
    struct run run;
    struct ckpt *llava_file, *clip_file, *whisper_file;
    struct llava_config config;
    struct llava *llava;
    struct llama all; /* every layer */
    struct clip_text_config clip_config;
    struct clip_text *clip;
    struct whisper *whisper;
    bool exact;
};

static bool open_llava(struct fixture *f, const char *dir, struct err *err)
{
    char path[1200];
    struct binder b;
    str_path(path, sizeof path, dir, "config.json");
    if (llava_config_read(&f->config, path, err) < 0 || ckpt_open(&f->llava_file, dir, err) < 0 ||
        llava_open(&f->llava, &f->config, f->llava_file, f->device, err) < 0)
        return false;
    binder_init(&b, f->llava_file, f->device, "all layers");
    int rc = llama_bind(&f->all, &b, &f->config.text, "language_model.model", 0, err);
    return binder_finish(&b, false, err) == 0 && rc == 0;
}

static bool open_others(struct fixture *f, const char *ckpts, struct err *err)
{
    char dir[1024], path[1200];
    struct whisper_config config;
    str_path(dir, sizeof dir, ckpts, "text_encoder_2");
    str_path(path, sizeof path, dir, "config.json");
    if (clip_text_config_read(&f->clip_config, path, err) < 0 || ckpt_open(&f->clip_file, dir, err) < 0 ||
        clip_text_open(&f->clip, &f->clip_config, f->clip_file, f->device, err) < 0)
        return false;
    str_path(dir, sizeof dir, ckpts, "whisper-tiny");
    str_path(path, sizeof path, dir, "config.json");
    return whisper_config_read(&config, path, err) == 0 && ckpt_open(&f->whisper_file, dir, err) == 0 &&
           whisper_open(&f->whisper, &config, f->whisper_file, f->device, err) == 0;
}

static int setup(void **state, const char *kind)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    const char *root = getenv("TEST_GOLDEN");
    const struct device_options o = {.n_threads = 2};
    struct err err = {0};
    char ckpts[900], dir[1024];
    assert_non_null(f);
    assert_non_null(root);
    f->exact = strcmp(kind, "cpu_ref") == 0;
    str_path(ckpts, sizeof ckpts, root, "tiny/ckpts");
    str_path(dir, sizeof dir, ckpts, "llava_llama_image");
    if (device_open(&f->device, kind, &o, &err) < 0 || run_init(&f->run, f->device, 0, &err) < 0 ||
        !open_llava(f, dir, &err) || !open_others(f, ckpts, &err))
        fail_msg("%s", err.text);
    *state = f;
    return 0;
}

static int setup_ref(void **state)
{
    return setup(state, "cpu_ref");
}

static int setup_cpu(void **state)
{
    return setup(state, "cpu");
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    run_done(&f->run);
    llava_close(f->llava);
    llama_done(&f->all);
    clip_text_close(f->clip);
    whisper_close(f->whisper);
    device_forget(f->device, NULL, SIZE_MAX);
    ckpt_close(f->llava_file);
    ckpt_close(f->clip_file);
    ckpt_close(f->whisper_file);
    device_close(f->device);
    mem_free(f);
    return 0;
}

static void assert_alike(struct fixture *f, struct tensor a, struct tensor b)
{
    int64_t n = tensor_count(a);
    assert_int_equal(n, tensor_count(b));
    float *x = mem_calloc((size_t)n, sizeof *x), *y = mem_calloc((size_t)n, sizeof *y);
    double worst = 0, largest = 0;
    assert_true(x && y);
    if (run_read(&f->run, a, x) < 0 || run_read(&f->run, b, y) < 0)
        fail_msg("%s", f->run.err.text);
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(x[i]));
        worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
        largest = fmax(largest, fabs((double)x[i]));
    }
    assert_true(largest > 0.1); /* something was computed */
    if (worst > (f->exact ? 0 : BOUND))
        fail_msg("differs by %g, largest value %g", worst, largest);
    mem_free(x);
    mem_free(y);
}

/* ---- LLaVA: pads, last layers, first rows ---- */

struct plain {
    struct tensor pos, mask;
    int64_t S;
};

static struct tensor heads(struct tensor x, int64_t n)
{
    return tensor_view(x, 3, SHAPE(tensor_dim(x, 0), n, tensor_dim(x, 1) / n));
}

static struct tensor one_batch(struct tensor x)
{
    return tensor_view(x, 4, SHAPE(1, tensor_dim(x, 0), tensor_dim(x, 1), tensor_dim(x, 2)));
}

/* Every row through every projection, keys of pads masked out. */
static void plain_layer(struct run *r, const struct llama *m, const struct llama_layer *w, struct tensor x,
                        struct plain p)
{
    const struct llama_config *c = &m->config;
    struct attn a = {.kind = ATTN_MASK, .scale = 1 / sqrtf((float)m->D), .mask = p.mask};
    struct tensor h = op_rms_norm(r, x, w->norm1, c->eps);
    struct tensor q = heads(op_linear(r, h, w->q, TENSOR_NONE, ACT_NONE), c->heads);
    struct tensor k = heads(op_linear(r, h, w->k, TENSOR_NONE, ACT_NONE), c->key_heads);
    struct tensor v = heads(op_linear(r, h, w->v, TENSOR_NONE, ACT_NONE), c->key_heads);
    op_rope_halves(r, q, p.pos, c->theta);
    op_rope_halves(r, k, p.pos, c->theta);
    struct tensor y = op_attention(r, one_batch(q), one_batch(k), one_batch(v), a);
    op_linear_add(r, x, tensor_view(y, 2, SHAPE(p.S, c->heads * m->D)), w->o, TENSOR_NONE, TENSOR_NONE);
    h = op_rms_norm(r, x, w->norm2, c->eps);
    struct tensor gate = op_linear(r, h, w->gate, TENSOR_NONE, ACT_NONE);
    op_act_mul(r, gate, op_linear(r, h, w->up, TENSOR_NONE, ACT_NONE), ACT_SILU);
    op_linear_add(r, x, gate, w->down, TENSOR_NONE, TENSOR_NONE);
}

static struct plain plain_setup(struct run *r, int64_t S, int64_t n)
{
    int32_t *pos = mem_calloc((size_t)S, sizeof *pos);
    uint8_t *mask = mem_calloc((size_t)(S * S), 1);
    assert_true(pos && mask);
    for (int64_t i = 0; i < S; i++) {
        pos[i] = i < n ? (int32_t)i : 1;
        for (int64_t j = 0; j < n && j <= i; j++)
            mask[i * S + j] = 1;
    }
    struct plain p = {run_write(r, pos, DTYPE_I32, 1, SHAPE(S)), run_write(r, mask, DTYPE_U8, 2, SHAPE(S, S)),
                      S};
    mem_free(pos);
    mem_free(mask);
    return p;
}

/* All 351 + 575 rows, all layers; the state before the last two is kept, its rows from 95 on are the answer.
 */
static struct tensor plain_text(struct fixture *f, const int32_t *ids, int n, struct tensor image)
{
    struct run *r = &f->run;
    const int64_t H = f->all.H, n_image = tensor_dim(image, 0), real = n - 1 + n_image,
                  pads = TOKENIZER_LLAMA_MAX - n;
    struct tensor zeros = run_new(r, DTYPE_F32, 2, SHAPE(pads, H));
    op_fill(r, zeros, 0);
    struct tensor part[3] = {op_gather(r, f->all.token, 0, run_write(r, ids, DTYPE_I32, 1, SHAPE(n - 1))),
                             image, zeros};
    struct tensor x = op_concat(r, part, pads > 0 ? 3 : 2, 0), kept = TENSOR_NONE;
    struct plain p = plain_setup(r, real + pads, real);
    for (int i = 0; i < f->all.n_layers; i++) {
        if (i == f->all.n_layers - 2)
            kept = op_copy(r, x, DTYPE_F32);
        plain_layer(r, &f->all, &f->all.layer[i], x, p);
    }
    return tensor_slice(kept, 0, TOKENIZER_LLAMA_CROP, real + pads - TOKENIZER_LLAMA_CROP);
}

static void check_text(struct fixture *f, int n)
{
    int32_t ids[TOKENIZER_LLAMA_MAX];
    run_reset(&f->run);
    for (int i = 0; i < n; i++)
        ids[i] = i + 1 == n ? (int32_t)f->config.image_id : (i * 37 + n) % 1000;
    struct tensor image = op_randn(&f->run, 7, 0, 2, SHAPE(576, f->all.H));
    struct tensor plain = plain_text(f, ids, n, image);
    struct tensor ours = llava_text(&f->run, f->llava, ids, n, image);
    assert_int_equal(tensor_dim(ours, 0), llava_rows(f->llava));
    assert_alike(f, plain, ours);
}

static void test_text(void **state)
{
    check_text(*state, 117);
}

static void test_text_one_pad(void **state)
{
    check_text(*state, TOKENIZER_LLAMA_MAX - 1);
}

static void test_text_no_pad(void **state)
{
    check_text(*state, TOKENIZER_LLAMA_MAX);
}

static void test_text_shortest(void **state)
{
    check_text(*state, TOKENIZER_LLAMA_CROP + 1);
}

static void test_mask(void **state)
{
    struct fixture *f = *state;
    uint8_t mask[831];
    int sum = 0;
    assert_int_equal(llava_rows(f->llava), 831);
    llava_mask(f->llava, 117, mask);
    for (int i = 0; i < 831; i++) {
        sum += mask[i];
        assert_int_equal(mask[i], i < 117 - 95 || i >= 256);
    }
    assert_int_equal(sum, 117 + 480);
}

/* A picture is looked at once for two prompts: looking twice gives the same rows. */
static void test_vision_once(void **state)
{
    struct fixture *f = *state;
    static uint8_t pixels[336 * 336 * 3];
    run_reset(&f->run);
    for (size_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(i * i % 251);
    struct tensor x = run_write(&f->run, pixels, DTYPE_U8, 3, SHAPE(336, 336, 3));
    struct tensor a = llava_vision(&f->run, f->llava, x, NULL), b = llava_vision(&f->run, f->llava, x, NULL);
    bool exact = f->exact;
    f->exact = true;
    assert_alike(f, a, b);
    f->exact = exact;
}

static void test_wrong_ids(void **state)
{
    struct fixture *f = *state;
    int32_t ids[TOKENIZER_LLAMA_MAX] = {0};
    const int image = (int)f->config.image_id;
    const struct {
        int n, first, last;
    } wrong[] = {{95, 0, image}, {352, 0, image}, {120, 0, 0}, {120, image, image}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        run_reset(&f->run);
        struct tensor rows = op_randn(&f->run, 7, 0, 2, SHAPE(576, f->all.H));
        ids[0] = wrong[i].first;
        ids[119] = wrong[i].last;
        llava_text(&f->run, f->llava, ids, wrong[i].n, rows);
        assert_true(run_failed(&f->run));
    }
    run_reset(&f->run);
}

/* ---- CLIP: rows behind the end token ---- */

static struct tensor find(struct fixture *f, const char *name)
{
    struct tensor t = ckpt_find(f->clip_file, name);
    assert_false(tensor_is_none(t));
    return t;
}

/* All 77 rows, causal, keys of padding masked out; the row of the end token. */
static struct tensor plain_clip(struct fixture *f, const int32_t *ids, int n)
{
    struct run *r = &f->run;
    const struct clip_text_config *c = &f->clip_config;
    const int64_t C = clip_text_width(f->clip), D = C / c->heads;
    uint8_t mask[77 * 77] = {0};
    for (int i = 0; i < 77; i++)
        for (int j = 0; j <= i && j < n; j++)
            mask[i * 77 + j] = 1;
    struct attn a = {ATTN_MASK, 1 / sqrtf((float)D), 0, run_write(r, mask, DTYPE_U8, 2, SHAPE(77, 77))};
    struct tensor x = op_gather(r, find(f, "text_model.embeddings.token_embedding.weight"), 0,
                                run_write(r, ids, DTYPE_I32, 1, SHAPE(77)));
    op_add(r, x, op_copy(r, find(f, "text_model.embeddings.position_embedding.weight"), DTYPE_F32));
    struct binder b;
    struct err err = {0};
    binder_init(&b, f->clip_file, f->device, "plain");
    for (int i = 0; i < (int)c->layers; i++) {
        struct encoder_layer w;
        encoder_layer_bind(&b, &w, ENCODER_LAYER_CLIP, C,
                           ckpt_dim(f->clip_file, "text_model.encoder.layers.0.mlp.fc1.weight", 0),
                           "text_model.encoder", i);
        struct tensor h = op_layer_norm(r, x, w.norm1_w, w.norm1_b, c->eps);
        struct tensor q = one_batch(heads(op_linear(r, h, w.q_w, w.q_b, ACT_NONE), c->heads));
        struct tensor k = one_batch(heads(op_linear(r, h, w.k_w, w.k_b, ACT_NONE), c->heads));
        struct tensor v = one_batch(heads(op_linear(r, h, w.v_w, w.v_b, ACT_NONE), c->heads));
        h = tensor_view(op_attention(r, q, k, v, a), 2, SHAPE(77, C));
        op_linear_add(r, x, h, w.out_w, w.out_b, TENSOR_NONE);
        h = op_linear(r, op_layer_norm(r, x, w.norm2_w, w.norm2_b, c->eps), w.fc1_w, w.fc1_b, ACT_QUICK_GELU);
        op_linear_add(r, x, h, w.fc2_w, w.fc2_b, TENSOR_NONE);
    }
    assert_int_equal(binder_finish(&b, false, &err), 0);
    x = op_layer_norm(r, x, find(f, "text_model.final_layer_norm.weight"),
                      find(f, "text_model.final_layer_norm.bias"), c->eps);
    return tensor_slice(x, 0, n - 1, 1);
}

static void test_clip(void **state)
{
    struct fixture *f = *state;
    const int lengths[] = {2, 20, 77};
    for (int k = 0; k < 3; k++) {
        int32_t ids[77];
        run_reset(&f->run);
        for (int i = 0; i < 77; i++)
            ids[i] = i == 0 ? 698 : i < lengths[k] - 1 ? (i * 31 + k) % 600 : 699;
        assert_int_equal(clip_text_rows(f->clip, ids, 77), lengths[k]);
        assert_alike(f, plain_clip(f, ids, lengths[k]), clip_text_pooled(&f->run, f->clip, ids, 77));
    }
}

/* ---- Whisper: later pieces, windows ---- */

static void test_pieces(void **state)
{
    struct fixture *f = *state;
    const int64_t n = WHISPER_PIECE + 50000;
    if (f->exact) /* the reference table takes seconds for a piece; the other one has the same code in front
                     of it */
        return;
    float *samples = mem_calloc((size_t)n, sizeof *samples);
    assert_non_null(samples);
    for (int64_t i = 0; i < n; i++)
        samples[i] = (float)sin((double)i * (double)i * 1e-5) / 4;
    run_reset(&f->run);
    struct tensor both = whisper_encode(&f->run, f->whisper, samples, n);
    struct tensor first = whisper_encode(&f->run, f->whisper, samples, WHISPER_PIECE);
    struct tensor second = whisper_encode(&f->run, f->whisper, samples + WHISPER_PIECE, n - WHISPER_PIECE);
    assert_int_equal(tensor_dim(both, 0), 3000);
    assert_alike(f, tensor_slice(both, 0, 0, 1500), first);
    assert_alike(f, tensor_slice(both, 0, 1500, 1500), second);
    mem_free(samples);
}

static void test_windows(void **state)
{
    struct fixture *f = *state;
    enum { ROWS = 1500, N = 400, TOTAL = 405, EACH = 10 * 2 * 3 };
    run_reset(&f->run);
    struct tensor states = op_randn(&f->run, 3, 0, 3, SHAPE(ROWS, 2, 3));
    float *x = mem_calloc(ROWS * 6, sizeof *x), *y = mem_calloc(TOTAL * EACH, sizeof *y);
    assert_true(x && y);
    for (int slow = 0; slow < 2; slow++) {
        struct tensor w = whisper_windows(&f->run, states, N, slow ? 12.5 : 25, TOTAL);
        assert_int_equal(run_read(&f->run, states, x), 0);
        assert_int_equal(run_read(&f->run, w, y), 0);
        for (int i = 0; i < TOTAL * EACH; i++) {
            int frame = i / EACH, row = (slow ? 4 : 2) * frame + i % EACH / 6 - 4;
            bool there = frame < N && row >= 0 && row < ROWS;
            assert_true(y[i] == (there ? x[row * 6 + i % 6] : 0));
        }
    }
    whisper_windows(&f->run, states, N, 30, TOTAL);
    assert_int_equal(f->run.err.code, ERR_UNSUPPORTED);
    run_reset(&f->run);
    mem_free(x);
    mem_free(y);
}

static void test_frames(void **state)
{
    (void)state;
    const int64_t want[][4] = {{639, 0, 0, 129},
                               {640, 1, 1, 129},
                               {129 * 640, 129, 129, 129},
                               {130 * 640, 130, 130, 135},
                               {528000, 825, 400, 405}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        int64_t n = whisper_frames(want[i][0]), windows, total;
        whisper_reference_frames(n, &windows, &total);
        assert_int_equal(n, want[i][1]);
        assert_int_equal(windows, want[i][2]);
        assert_int_equal(total, want[i][3]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),        cmocka_unit_test(test_text_one_pad),
        cmocka_unit_test(test_text_no_pad), cmocka_unit_test(test_text_shortest),
        cmocka_unit_test(test_mask),        cmocka_unit_test(test_vision_once),
        cmocka_unit_test(test_wrong_ids),   cmocka_unit_test(test_clip),
        cmocka_unit_test(test_pieces),      cmocka_unit_test(test_windows),
        cmocka_unit_test(test_frames),
    };
    int failed = cmocka_run_group_tests_name("text savings, reference", tests, setup_ref, teardown);
    return failed + cmocka_run_group_tests_name("text savings, cpu", tests, setup_cpu, teardown);
}
