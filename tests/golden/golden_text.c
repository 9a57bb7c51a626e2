/* golden_text.c -- tokenizer.*, llava.*, clip.*: ids, vision tower and projector, merged Llama states, pooled
 * text. */
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/ops.h"
#include "tests/golden/golden.h"
#include "worker/model/bpe.h"
#include "worker/model/clip_text.h"
#include "worker/model/llava.h"
#include "worker/model/tokenizer_clip.h"
#include "worker/model/tokenizer_llama.h"

/* ---- tokenizers ---- */

/* Integers that grow, as golden_check_exact takes them. */
struct list {
    struct buf b;
};

static void list_init(struct list *l)
{
    buf_init(&l->b, 1u << 30);
}

static void list_add(struct golden *g, struct list *l, int64_t v)
{
    if (buf_add(&l->b, &v, sizeof v) < 0)
        golden_fail(g, "out of memory");
}

/* Checks and frees; tensors that the case does not have are passed over. */
static void list_check(struct golden *g, const char *name, struct list *l)
{
    if (golden_has(g, name))
        golden_check_exact(g, name, (const int64_t *)(const void *)l->b.data,
                           (int64_t)(l->b.len / sizeof(int64_t)));
    buf_done(&l->b);
}

static json_t *strings_of(struct golden *g, size_t i, const char **ret, size_t *ret_len)
{
    json_t *s = json_array_get(golden_param_json(g, "strings"), i);
    *ret = json_string_value(s);
    *ret_len = json_string_length(s);
    if (s && !*ret)
        golden_fail(g, "strings[%zu] is no text", i);
    return *ret ? s : NULL;
}

static void case_llama(struct golden *g)
{
    char dir[2048];
    const char *s;
    size_t len, n = 0;
    struct tokenizer_llama *t = NULL;
    struct list ids, offsets;
    struct buf flat;
    str_path(dir, sizeof dir, g->ckpts, "llava_llama_image");
    if (tokenizer_llama_open(&t, dir, &g->err) < 0)
        return;
    list_init(&ids);
    list_init(&offsets);
    buf_init(&flat, 1u << 28);
    for (size_t i = 0; strings_of(g, i, &s, &len) && !g->err.code; i++) {
        list_add(g, &offsets, (int64_t)bpe_n_ids(&flat));
        tokenizer_llama_ids(t, s, len, &flat, &g->err);
    }
    n = bpe_n_ids(&flat);
    list_add(g, &offsets, (int64_t)n);
    for (size_t i = 0; i < n; i++)
        list_add(g, &ids, bpe_id(&flat, i));
    list_check(g, "out.offsets", &offsets);
    list_check(g, "out.ids", &ids);
    buf_done(&flat);
    tokenizer_llama_close(t);
}

static void case_llama_template(struct golden *g)
{
    char dir[2048];
    const char *s;
    size_t len;
    struct tokenizer_llama *t = NULL;
    struct list ids, lengths, whole;
    str_path(dir, sizeof dir, g->ckpts, "llava_llama_image");
    if (tokenizer_llama_open(&t, dir, &g->err) < 0)
        return;
    list_init(&ids);
    list_init(&lengths);
    list_init(&whole);
    for (size_t i = 0; strings_of(g, i, &s, &len) && !g->err.code; i++) {
        struct tokenizer_llama_prompt p = {0};
        tokenizer_llama_prompt(t, s, len, false, &p, &g->err);
        for (int k = 0; k < TOKENIZER_LLAMA_MAX; k++)
            list_add(g, &ids, p.ids[k]);
        list_add(g, &lengths, p.n);
        list_add(g, &whole, p.n + p.n_dropped);
    }
    list_check(g, "out.length", &lengths);
    list_check(g, "out.untruncated", &whole);
    list_check(g, "out.ids", &ids);
    tokenizer_llama_close(t);
}

static void case_clip_tokens(struct golden *g)
{
    char dir[2048];
    const char *s;
    size_t len;
    struct tokenizer_clip *t = NULL;
    struct list ids, offsets, padded, lengths;
    struct buf flat;
    str_path(dir, sizeof dir, g->ckpts, "text_encoder_2");
    if (tokenizer_clip_open(&t, dir, &g->err) < 0)
        return;
    list_init(&ids);
    list_init(&offsets);
    list_init(&padded);
    list_init(&lengths);
    buf_init(&flat, 1u << 28);
    for (size_t i = 0; strings_of(g, i, &s, &len) && !g->err.code; i++) {
        struct tokenizer_clip_prompt p = {0};
        size_t from = bpe_n_ids(&flat);
        list_add(g, &offsets, (int64_t)from);
        tokenizer_clip_ids(t, s, len, &flat, &g->err);
        tokenizer_clip_prompt(t, s, len, &p, &g->err);
        for (int k = 0; k < TOKENIZER_CLIP_MAX; k++)
            list_add(g, &padded, p.ids[k]);
        list_add(g, &lengths,
                 (int64_t)(bpe_n_ids(&flat) - from) - p.n_dropped); /* a typed end token ends nothing here */
    }
    list_add(g, &offsets, (int64_t)bpe_n_ids(&flat));
    for (size_t i = 0; i < bpe_n_ids(&flat); i++)
        list_add(g, &ids, bpe_id(&flat, i));
    list_check(g, "out.offsets", &offsets);
    list_check(g, "out.ids", &ids);
    list_check(g, "out.length", &lengths);
    list_check(g, "out.padded", &padded);
    buf_done(&flat);
    tokenizer_clip_close(t);
}

/* ---- LLaVA ---- */

struct text_model {
    struct ckpt *ckpt;
    struct llava_config config;
    struct llava *llava;
};

static void bind_llava(struct golden *g, struct ckpt *c, const void *arg)
{
    struct llava *l = NULL;
    llava_open(&l, arg, c, NULL, &g->err);
    llava_close(l);
}

static bool llava_begin(struct golden *g, struct text_model *m)
{
    char dir[2048], path[2200];
    *m = (struct text_model){0};
    str_path(dir, sizeof dir, g->ckpts, "llava_llama_image");
    str_path(path, sizeof path, dir, "config.json");
    return llava_config_read(&m->config, path, &g->err) == 0 && ckpt_open(&m->ckpt, dir, &g->err) == 0 &&
           golden_pool(g, m->ckpt, bind_llava, &m->config) == 0 &&
           llava_open(&m->llava, &m->config, m->ckpt, g->device, &g->err) == 0;
}

static void llava_end(struct golden *g, struct text_model *m)
{
    llava_close(m->llava);
    golden_pool_free(g);
    ckpt_close(m->ckpt);
}

/* Stored [3, H, W] -> u8 [H, W, 3] in the run. */
static struct tensor pixels_of(struct golden *g, struct tensor stored)
{
    if (stored.n_dims != 3 || stored.dtype != DTYPE_U8) {
        golden_fail(g, "the picture must be u8 [3, H, W]");
        return TENSOR_NONE;
    }
    struct tensor x = run_write(g->run, stored.data, DTYPE_U8, 3, stored.shape);
    return op_copy(g->run, tensor_permute(x, (const int[]){1, 2, 0}), DTYPE_U8);
}

static void tap_embeddings(void *arg, struct run *r, const char *name, struct tensor t)
{
    struct golden *g = arg;
    (void)r;
    if (strcmp(name, "mid.embeddings") == 0 && golden_has(g, name))
        golden_check(g, name, tensor_slice(t, 0, 0, tensor_dim(golden_host(g, name), -2)));
}

static void case_vision(struct golden *g)
{
    struct text_model m;
    if (llava_begin(g, &m)) {
        struct tensor vision = TENSOR_NONE, pixels = pixels_of(g, golden_host(g, "in.pixels_u8"));
        g->run->tap = tap_embeddings;
        g->run->tap_arg = g;
        struct tensor projected = llava_vision(g->run, m.llava, pixels, &vision);
        golden_check(g, "out.vision", vision);
        golden_check(g, "out.projected", projected);
    }
    llava_end(g, &m);
}

struct hidden_tap {
    struct golden *g;
    int64_t n_real; /* rows that are no padding */
    int n_layers;   /* that are computed; the last one's state has no first rows */
};

/* mid.hiddenN has the rows mid.rows of the padded prompt. */
static void tap_hidden(void *arg, struct run *r, const char *name, struct tensor t)
{
    const struct hidden_tap *h = arg;
    int64_t layer = 0;
    if (!str_starts(name, "mid.hidden") || str_parse_i64(name + 10, 0, 1000, &layer) < 0 ||
        layer >= h->n_layers || !golden_has(h->g, name))
        return;
    size_t mark = run_mark(r);
    struct tensor rows = golden_host(h->g, "mid.rows");
    const int32_t *at = rows.data;
    int64_t n = tensor_count(rows);
    int32_t *idx = rows.dtype == DTYPE_I32 ? mem_calloc((size_t)n, sizeof *idx) : NULL;
    if (!idx) {
        golden_fail(h->g, "mid.rows must be i32");
        return;
    }
    for (int64_t i = 0; i < n; i++)
        idx[i] = at[i] < h->n_real ? at[i] : (int32_t)h->n_real;
    golden_check(h->g, name, op_gather(r, t, 0, run_write(r, idx, DTYPE_I32, 1, SHAPE(n))));
    mem_free(idx);
    run_rewind(r, mark);
}

/* The picture of another case of the folder: "vision.safetensors in.pixels". */
static struct tensor other_picture(struct golden *g)
{
    char stem[512];
    const char *said = json_string_value(golden_param_json(g, "image")), *folder = strrchr(g->dir, '/');
    int n = said ? (int)strcspn(said, ". ") : 0;
    if (n == 0 || str_format(stem, sizeof stem, "%s/%.*s", folder ? folder + 1 : g->dir, n, said) < 0) {
        golden_fail(g, "the twin names no image");
        return TENSOR_NONE;
    }
    struct ckpt *c = golden_other(g, stem);
    return c ? pixels_of(g, ckpt_find(c, "in.pixels_u8")) : TENSOR_NONE;
}

static void encode(struct golden *g, const struct text_model *m)
{
    struct tensor ids = golden_host(g, "in.ids"), valid = golden_host(g, "in.token_mask");
    const int64_t rows = llava_rows(m->llava);
    int64_t mask[2048];
    uint8_t bits[2048];
    int n = 0;
    if (ids.dtype != DTYPE_I32 || valid.dtype != DTYPE_I32 || tensor_count(ids) != TOKENIZER_LLAMA_MAX ||
        tensor_count(valid) != TOKENIZER_LLAMA_MAX || rows > 2048) {
        golden_fail(g, "in.ids and in.token_mask must be i32 [1, %d]", TOKENIZER_LLAMA_MAX);
        return;
    }
    for (int i = 0; i < TOKENIZER_LLAMA_MAX; i++)
        n += ((const int32_t *)valid.data)[i];
    struct tensor pixels =
        golden_has(g, "in.pixels_u8") ? pixels_of(g, golden_host(g, "in.pixels_u8")) : other_picture(g);
    struct tensor image = llava_vision(g->run, m->llava, pixels, NULL);
    struct hidden_tap tap = {g, n - 1 + tensor_dim(image, 0), (int)m->config.text.layers - 2};
    g->run->tap = tap_hidden;
    g->run->tap_arg = &tap;
    struct tensor states = llava_text(g->run, m->llava, ids.data, n, image);
    g->run->tap = NULL;
    golden_check(g, "out.states", states);
    llava_mask(m->llava, n, bits);
    for (int64_t i = 0; i < rows; i++)
        mask[i] = bits[i];
    golden_check_exact(g, "out.mask", mask, rows);
}

static void case_llava(struct golden *g)
{
    struct text_model m;
    if (llava_begin(g, &m))
        encode(g, &m);
    llava_end(g, &m);
}

/* ---- CLIP ---- */

static void case_clip(struct golden *g)
{
    char dir[2048], path[2200];
    struct clip_text_config config;
    struct ckpt *ckpt = NULL;
    struct clip_text *m = NULL;
    str_path(dir, sizeof dir, g->ckpts, "text_encoder_2");
    str_path(path, sizeof path, dir, "config.json");
    if (clip_text_config_read(&config, path, &g->err) == 0 && ckpt_open(&ckpt, dir, &g->err) == 0 &&
        clip_text_open(&m, &config, ckpt, g->device, &g->err) == 0) {
        struct tensor ids = golden_host(g, "in.ids");
        if (ids.dtype == DTYPE_I32)
            golden_check(g, "out.pooled", clip_text_pooled(g->run, m, ids.data, (int)tensor_count(ids)));
        else
            golden_fail(g, "in.ids must be i32");
    }
    clip_text_close(m);
    ckpt_close(ckpt);
}

const struct golden_kind golden_text_kinds[] = {
    {"tokenizer.llama", case_llama},
    {"tokenizer.llama_template", case_llama_template},
    {"tokenizer.clip", case_clip_tokens},
    {"llava.vision", case_vision},
    {"llava.encode", case_llava},
    {"clip.encode", case_clip},
    {NULL, NULL},
};
