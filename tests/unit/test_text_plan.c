/* test_text_plan.c -- the published sizes of LLaVA, CLIP and Whisper: their lists of names, types and shapes
 * bind with nothing missing and nothing left over, without what is said to be unneeded too, and plan without
 * weights.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"
#include "common/str.h"
#include "kernels/ops.h"
#include "worker/model/clip_text.h"
#include "worker/model/llava.h"
#include "worker/model/tokenizer_clip.h"
#include "worker/model/tokenizer_llama.h"
#include "worker/model/whisper.h"

/* The three models as one shape of function. */
static int open_llava(struct ckpt *c, void **ret, struct err *err)
{
    static const char config[] =
        "{\"text_config\": {\"num_key_value_heads\": 8, \"rms_norm_eps\": 1e-5, \"rope_theta\": 5e5}}";
    struct llava_config k;
    int rc = llava_config_parse(&k, config, sizeof config - 1, err);
    return rc < 0 ? rc : llava_open((struct llava **)ret, &k, c, NULL, err);
}

static void close_llava(void *m)
{
    llava_close(m);
}

static int open_clip(struct ckpt *c, void **ret, struct err *err)
{
    static const char config[] = "{\"text_config\": {\"num_attention_heads\": 12, \"eos_token_id\": 2}}";
    struct clip_text_config k;
    int rc = clip_text_config_parse(&k, config, sizeof config - 1, err);
    return rc < 0 ? rc : clip_text_open((struct clip_text **)ret, &k, c, NULL, err);
}

static void close_clip(void *m)
{
    clip_text_close(m);
}

static int open_whisper(struct ckpt *c, void **ret, struct err *err)
{
    struct whisper_config k;
    int rc = whisper_config_parse(&k, "{}", 2, err);
    return rc < 0 ? rc : whisper_open((struct whisper **)ret, &k, c, NULL, err);
}

static void close_whisper(void *m)
{
    whisper_close(m);
}

static const struct model {
    const char *name;
    int (*open)(struct ckpt *c, void **ret, struct err *err);
    void (*close)(void *m);
} models[] = {
    {"llava", open_llava, close_llava},
    {"clip", open_clip, close_clip},
    {"whisper", open_whisper, close_whisper},
};

/* Lines of the published list; skip_unused leaves out what the list calls unneeded, skip_line one line (1 =
 * the first tensor). */
static void read_list(struct buf *b, const char *name, bool skip_unused, int skip_line)
{
    char path[1024], line[1024];
    const char *root = getenv("TEST_GOLDEN");
    assert_non_null(root);
    assert_int_equal(str_format(path, sizeof path, "%s/full/%s.tsv", root, name), 0);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    buf_init(b, 1 << 20);
    for (int i = 0; fgets(line, sizeof line, f); i++) {
        if (i == 0 || i != skip_line) {
            if (!skip_unused || !strstr(line, "\tunused"))
                assert_int_equal(buf_puts(b, line), 0);
        }
    }
    fclose(f);
}

static int bind_text(const struct model *m, const struct buf *b, struct err *err)
{
    struct ckpt *c = NULL;
    void *model = NULL;
    if (ckpt_open_list(&c, b->data, b->len, err) < 0)
        fail_msg("%s", err->text);
    int rc = m->open(c, &model, err);
    if (rc == 0)
        m->close(model);
    ckpt_close(c);
    return rc;
}

static void test_lists(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        for (int skip_unused = 0; skip_unused < 2; skip_unused++) {
            struct buf b;
            struct err err = {0};
            read_list(&b, models[i].name, skip_unused, 0);
            if (bind_text(&models[i], &b, &err) < 0)
                fail_msg("%s: %s", models[i].name, err.text);
            buf_done(&b);
        }
    }
}

static void test_extra_and_missing(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct buf b;
        struct err err = {0};
        read_list(&b, models[i].name, true, 0);
        assert_int_equal(buf_puts(&b, "something.else\tF32\t3x4\tused\n"), 0);
        assert_int_equal(bind_text(&models[i], &b, &err), ERR_WEIGHTS);
        assert_non_null(strstr(err.text, "something.else"));
        buf_done(&b);
        err_clear(&err);
        read_list(&b, models[i].name, true, 12);
        assert_int_equal(bind_text(&models[i], &b, &err), ERR_WEIGHTS);
        buf_done(&b);
    }
}

/* What published files hold beside the weights that are used is passed over. */
static void test_side_names(void **state)
{
    static const char *const side[] = {
        "vision_tower.vision_model.embeddings.position_ids\tI64\t1x577\tunused\n"
        "language_model.model.rotary_emb.inv_freq\tF32\t64\tunused\n"
        "language_model.model.layers.3.self_attn.rotary_emb.inv_freq\tF32\t64\tunused\n",
        "text_model.embeddings.position_ids\tI64\t1x77\tunused\n"
        "logit_scale\tF32\t1\tunused\n"
        "visual_projection.weight\tF32\t768x1024\tunused\n"
        "text_projection.weight\tF32\t768x768\tunused\n"
        "vision_model.embeddings.position_ids\tI64\t1x257\tunused\n",
        "model.decoder.embed_tokens.weight\tF32\t51865x384\tunused\n"
        "proj_out.weight\tF32\t51865x384\tunused\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct buf b;
        struct err err = {0};
        read_list(&b, models[i].name, false, 0);
        assert_int_equal(buf_puts(&b, side[i]), 0);
        if (bind_text(&models[i], &b, &err) < 0)
            fail_msg("%s: %s", models[i].name, err.text);
        buf_done(&b);
    }
}

static struct ckpt *list_of(const char *name)
{
    struct buf b;
    struct err err = {0};
    struct ckpt *c = NULL;
    read_list(&b, name, false, 0);
    assert_int_equal(ckpt_open_list(&c, b.data, b.len, &err), 0);
    buf_done(&b);
    return c;
}

/* Multiply-adds that a plan must count at least: rows times the weights they pass. */
static void test_plan_llava(void **state)
{
    (void)state;
    struct ckpt *c = list_of("llava");
    struct err err = {0};
    struct run r;
    void *m = NULL;
    assert_int_equal(open_llava(c, &m, &err), 0);
    assert_int_equal(run_init(&r, NULL, 0, &err), 0);
    struct llava *l = m;
    assert_int_equal(llava_rows(l), 831);
    assert_int_equal(llava_width(l), 4096);
    struct tensor image = llava_vision(&r, l, run_new(&r, DTYPE_U8, 3, SHAPE(336, 336, 3)), NULL);
    double vision = r.flops;
    struct tensor y = llava_text(&r, l, NULL, TOKENIZER_LLAMA_MAX, image);
    if (run_failed(&r))
        fail_msg("%s", r.err.text);
    assert_int_equal(tensor_dim(y, 0), 831);
    assert_int_equal(tensor_dim(y, 1), 4096);
    assert_true(vision > 2.0 * 576 * 23 * 12 * 1024 * 1024 && vision < 1e12);
    assert_true(r.flops - vision > 2.0 * 926 * 29 * 218e6 && r.flops < 20e12);
    assert_true(r.arena_peak > 926 * 4096 * 4 && r.arena_peak < (size_t)1 << 30);
    run_done(&r);
    llava_close(l);
    ckpt_close(c);
}

static void test_plan_others(void **state)
{
    (void)state;
    struct ckpt *clip_file = list_of("clip"), *whisper_file = list_of("whisper");
    struct err err = {0};
    struct run r;
    void *clip = NULL, *whisper = NULL;
    assert_int_equal(open_clip(clip_file, &clip, &err), 0);
    assert_int_equal(open_whisper(whisper_file, &whisper, &err), 0);
    assert_int_equal(run_init(&r, NULL, 0, &err), 0);
    struct tensor pooled = clip_text_pooled(&r, clip, NULL, TOKENIZER_CLIP_MAX);
    assert_int_equal(tensor_count(pooled), 768);
    struct tensor states = whisper_encode(&r, whisper, NULL, WHISPER_PIECE + 1);
    assert_int_equal(tensor_dim(states, 0), 3000);
    assert_int_equal(tensor_dim(states, 1), 5);
    assert_int_equal(tensor_dim(states, 2), 384);
    struct tensor windows = whisper_windows(&r, states, 100, 25, 129);
    assert_int_equal(tensor_count(windows), 129 * 10 * 5 * 384);
    if (run_failed(&r))
        fail_msg("%s", r.err.text);
    assert_true(r.flops > 2.0 * 3000 * 4 * 12 * 384 * 384);
    run_done(&r);
    clip_text_close(clip);
    whisper_close(whisper);
    ckpt_close(clip_file);
    ckpt_close(whisper_file);
}

static void test_config(void **state)
{
    (void)state;
    static const char *const wrong[] = {"[]",
                                        "{",
                                        "{\"text_config\": {\"num_attention_heads\": 0}}",
                                        "{\"text_config\": {\"rms_norm_eps\": \"x\"}}",
                                        "{\"vision_config\": {\"image_size\": 224}}",
                                        "{\"projector_hidden_act\": \"tanh\"}"};
    struct llava_config k;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct err err = {0};
        assert_true(llava_config_parse(&k, wrong[i], strlen(wrong[i]), &err) < 0);
        assert_true(err.text[0] != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists),       cmocka_unit_test(test_extra_and_missing),
        cmocka_unit_test(test_side_names),  cmocka_unit_test(test_plan_llava),
        cmocka_unit_test(test_plan_others), cmocka_unit_test(test_config),
    };
    return cmocka_run_group_tests_name("text plan", tests, NULL, NULL);
}
