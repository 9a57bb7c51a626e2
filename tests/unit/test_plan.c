/* test_plan.c -- the published model's sizes through the planning table: every list binds, plans are fast and
 * sane. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"
#include "worker/model/avatar.h"
#include "worker/model/group_plan.h"
#include "worker/model/avatar_cost.h"
#include "worker/model/avatar_full.h"
#include "worker/model/avatar_parts.h"
#include "worker/model/ckpt.h"
#include "worker/model/dit.h"
#include "worker/model/vae.h"

/* 0 missing, 0 extra in each of the lists: binding is strict, and the counts are those of the published
 * files. */
static void test_all_lists_bind(void **state)
{
    static const struct {
        enum avatar_part part;
        size_t offset;
        size_t tensors;
    } list[] = {
        {AVATAR_PART_DIT, offsetof(struct avatar_parts, dit_ckpt), 946},
        {AVATAR_PART_VAE, offsetof(struct avatar_parts, vae_ckpt), 248},
        {AVATAR_PART_TEXT, offsetof(struct avatar_parts, llava_ckpt), 686},
        {AVATAR_PART_CLIP, offsetof(struct avatar_parts, clip_ckpt), 196},
        {AVATAR_PART_AUDIO, offsetof(struct avatar_parts, audio_ckpt), 67},
    };
    struct avatar_parts p;
    struct err err = {0};

    (void)state;
    assert_int_equal(avatar_parts_init(&p, NULL, NULL, false, &err), 0);
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        if (avatar_parts_need(&p, list[i].part, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(ckpt_count(*(struct ckpt **)((char *)&p + list[i].offset)), list[i].tensors);
        assert_string_equal(avatar_parts_status(&p, list[i].part), "ready");
    }
    assert_string_equal(avatar_parts_status(&p, AVATAR_PART_FACE), "not loaded");
    avatar_parts_done(&p);
}

/* A list with one name changed: one error that tells what is missing and what is left over. */
static void test_binding_is_strict(void **state)
{
    size_t len = avatar_full_vae_tsv_len;
    char *text = test_malloc(len);
    struct vae_config config;
    struct ckpt *c = NULL;
    struct vae *v = NULL;
    struct err err = {0};
    char *at;

    (void)state;
    memcpy(text, avatar_full_vae_tsv, len);
    at = memmem(text, len, "decoder.conv_out.conv.bias", 26);
    assert_non_null(at);
    at[0] = 'x';
    assert_int_equal(
        vae_config_parse((const char *)avatar_full_vae_json, avatar_full_vae_json_len, &config, &err), 0);
    assert_int_equal(ckpt_open_list(&c, text, len, &err), 0);
    assert_int_equal(vae_open(&v, &config, c, NULL, &err), ERR_WEIGHTS);
    assert_non_null(strstr(err.text, "decoder.conv_out.conv.bias"));
    assert_non_null(strstr(err.text, "xecoder.conv_out.conv.bias"));
    ckpt_close(c);
    test_free(text);
}

static void plan(const char *ckpts, int w, int h, int64_t frames, int steps, struct avatar_plan *ret)
{
    struct avatar *a = NULL;
    struct err err = {0};

    if (avatar_open(&a, NULL, ckpts, false, &err) < 0 ||
        avatar_make_plan(a, w, h, frames, steps, ret, &err) < 0)
        fail_msg("%s", err.text);
    avatar_close(a);
}

static void test_plan_of_the_real_model(void **state)
{
    int64_t start = clock_us();
    struct avatar_plan p;

    (void)state;
    plan(NULL, 704, 704, 129, 50, &p);
    assert_true(clock_us() - start < CLOCK_S);
    assert_int_equal(p.n_latents, 33);
    /* 13.0e9 parameters, most of them two bytes */
    assert_in_range(p.stage[AVATAR_DENOISE].weight_bytes, 25e9, 28e9);
    assert_in_range(p.stage[AVATAR_DECODE].weight_bytes, 986e6 - 1e6,
                    986e6 + 1e6); /* 246 478 803 parameters in f32 */
    /* 30 full steps of 2 rows, 60 blocks of 24 H^2 M + 4 H M^2 with M = 34 * 44 * 44 + up to 831 tokens; the
     * late phase shares some, cached steps add some */
    double m = 34.0 * 44 * 44 + 831, h = 3072, full = 60 * (24 * h * h * m + 4 * h * m * m);
    assert_true(p.stage[AVATAR_DENOISE].flops > 0.85 * 60 * full &&
                p.stage[AVATAR_DENOISE].flops < 1.1 * 60 * full);
    /* 16 tiles of 256 px, three temporal ones less the cuts: 7.3e13 for 17 latents of a whole one */
    assert_true(p.stage[AVATAR_DECODE].flops > 1.5e15 && p.stage[AVATAR_DECODE].flops < 2.8e15);
    /* [65, 256, 256, 256] of a tile's last level, the frames of a temporal tile, and some slabs */
    assert_in_range(p.stage[AVATAR_DECODE].arena_bytes, 65ull * 256 * 256 * 256 * 4, 1.3 * 65 * 256 * 256 * 256 * 4);
    assert_true(p.peak_bytes > p.stage[AVATAR_DENOISE].weight_bytes + p.stage[AVATAR_DENOISE].arena_bytes);
    assert_true(p.flops > 2e17 && p.flops < 1e18);
}

static void test_plan_grows(void **state)
{
    struct avatar_plan small, big, rotating;

    (void)state;
    plan(NULL, 256, 256, 129, 10, &small);
    plan(NULL, 704, 768, 129, 10, &big);
    plan(NULL, 256, 256, 400, 10, &rotating);
    assert_true(big.flops > 5 * small.flops);
    assert_true(big.stage[AVATAR_DENOISE].arena_bytes > small.stage[AVATAR_DENOISE].arena_bytes);
    assert_true(rotating.stage[AVATAR_DENOISE].flops > 3 * small.stage[AVATAR_DENOISE].flops);
    assert_int_equal(rotating.n_latents, 405 / 4 + 1);
}

/* With a checkpoint's own sizes; and frames that the decoder may skip are skipped. */
static void test_plan_of_a_checkpoint(void **state)
{
    const char *root = getenv("TEST_GOLDEN");
    struct avatar_plan whole, part;
    char path[1024];

    (void)state;
    assert_non_null(root);
    str_path(path, sizeof(path), root, "tiny/ckpts");
    plan(path, 64, 64, 129, 10, &whole);
    plan(path, 64, 64, 10, 10, &part);
    /* silence costs less than sound, all else of a window is the same */
    assert_true(part.stage[AVATAR_DENOISE].flops <= whole.stage[AVATAR_DENOISE].flops);
    assert_true(part.stage[AVATAR_DENOISE].flops > 0.9 * whole.stage[AVATAR_DENOISE].flops);
    assert_true(part.stage[AVATAR_DECODE].flops < 0.2 * whole.stage[AVATAR_DECODE].flops);
}

static void test_plan_refuses(void **state)
{
    static const int size[][2] = {{0, 64}, {63, 64}, {72, 64}, {64, 8192}, {-64, 64}};
    struct avatar *a = NULL;
    struct avatar_plan p;
    struct err err = {0};

    (void)state;
    assert_int_equal(avatar_open(&a, NULL, NULL, false, &err), 0);
    for (size_t i = 0; i < sizeof(size) / sizeof(size[0]); i++) {
        err_clear(&err);
        assert_int_equal(avatar_make_plan(a, size[i][0], size[i][1], 129, 10, &p, &err), ERR_INVALID);
        assert_non_null(strstr(err.text, "multiples of 16"));
    }
    err_clear(&err);
    assert_int_equal(avatar_make_plan(a, 64, 64, 0, 10, &p, &err), ERR_INVALID);
    err_clear(&err);
    assert_int_equal(avatar_make_plan(a, 64, 64, 129, 0, &p, &err), ERR_INVALID);
    avatar_close(a);
}

/* What the queue predicts of a job lies near what the worker plans for it, between the sizes and past the window. */
static void test_cost_model(void **state)
{
    static const struct {
        int width, height, frames, steps;
    } jobs[] = {{64, 64, 129, 50},   {192, 192, 100, 10}, {576, 576, 129, 50},   {704, 704, 129, 30},
                {512, 768, 200, 50}, {704, 704, 750, 50}, {1024, 1024, 129, 50}, {896, 896, 33, 4}};
    struct avatar *a = NULL;
    struct cost_model model, back;
    struct err err = {0};
    (void)state;
    assert_int_equal(avatar_open(&a, NULL, NULL, false, &err), 0);
    int part = 0, rc = 0;
    while ((rc = avatar_cost_part(a, NULL, part, &model, &err)) == 0)
        part++;
    assert_int_equal(rc, ERR_NOTFOUND);
    json_t *o = cost_json(&model);
    char *text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    assert_int_equal(cost_parse(text, &back, &err), 0);
    mem_free(text);
    for (size_t i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++) {
        struct avatar_plan plan;
        char size[32];
        str_format(size, sizeof(size), "%dx%d", jobs[i].width, jobs[i].height);
        json_t *params = json_pack("{s:s s:i s:i}", "size", size, "num_frames", jobs[i].frames, "num_inference_steps",
                                   jobs[i].steps);
        struct cost_guess g = cost_guess(&back, params, 0);
        json_decref(params);
        assert_int_equal(avatar_make_plan(a, jobs[i].width, jobs[i].height, jobs[i].frames, jobs[i].steps, &plan, &err), 0);
        double work = g.gflop * 1e9 / plan.flops, memory = (double)g.bytes / (double)plan.peak_bytes;
        if (work < 0.85 || work > 1.2 || memory < 0.95 || memory > 1.1)
            fail_msg("%s, %d frames: %.3f of the work, %.3f of the memory", size, jobs[i].frames, work, memory);
    }
    avatar_close(a);
}

/* Whatever a worker published, a submit gets a number or an error. */
static void test_cost_forms(void **state)
{
    static const char *const bad[] = {"", "[]", "{}", "{\"window\":129,\"slope\":0,\"steps\":[[1,1]],\"rows\":[]}",
                                      "{\"window\":129,\"slope\":0,\"steps\":[[1,1]],\"rows\":[[1,2,3]]}",
                                      "{\"window\":129,\"slope\":-1,\"steps\":[[1,1]],\"rows\":[[1,1,1,1,1,1]]}",
                                      "{\"window\":129,\"slope\":0,\"steps\":[[1,1]],\"rows\":[[9,1,1,1,1,1],[4,1,1,1,1,1]]}",
                                      "{\"window\":129,\"slope\":0,\"rows\":[[9,1,1,1,1,1]]}",
                                      "{\"window\":129,\"slope\":0,\"steps\":[[1,1]],\"rows\":[[9,1,\"x\",1,1,1]]}"};
    struct cost_model m;
    struct err err = {0};
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        err_clear(&err);
        assert_true(cost_parse(bad[i], &m, &err) < 0 && err.text[0]);
    }
    assert_int_equal(cost_parse("{\"window\":10,\"slope\":0.1,\"steps\":[[1,1],[20,20]],\"rows\":[[4096,2,3,1,100,0]]}", &m, &err), 0);
    json_t *params = json_pack("{s:i s:i}", "size", 64, "num_inference_steps", 10);
    struct cost_guess g = cost_guess(&m, params, 0.8); /* 20 frames: two windows */
    assert_true(g.gflop > 52.9 && g.gflop < 53.1 && g.bytes == 100 && g.frames == 20);
    json_object_set_new(params, "size", json_string("nonsense"));
    g = cost_guess(&m, params, 1);
    assert_true(g.gflop == 0 && g.bytes == 0);
    json_decref(params);
}

/* ---- groups ---- */

static int group(int64_t frames, int ranks, double link, struct group_plan *ret, struct err *err)
{
    struct avatar *a = NULL;
    const struct group_rates rates = {.flops = 4e14, .bytes = link};
    int rc = avatar_open(&a, NULL, NULL, false, err);
    if (rc == 0)
        rc = group_plan_make(a, 704, 704, frames, 50, ranks, &rates, ret, err);
    avatar_close(a);
    return rc;
}

static const struct group_way *way(const struct group_plan *g, int tokens, int pair, int windows)
{
    for (int i = 0; i < g->n_ways; i++) {
        const struct comm_degrees *d = &g->way[i].degrees;
        if (d->tokens == tokens && d->pair == pair && d->windows == windows)
            return &g->way[i];
    }
    fail_msg("%d x %d x %d was not planned", tokens, pair, windows);
    return NULL;
}

static void test_group_plan(void **state)
{
    struct group_plan g;
    struct avatar_plan alone;
    struct err err = {0};

    (void)state;
    plan(NULL, 704, 704, 129, 50, &alone);
    assert_int_equal(group(129, 2, 3e11, &g, &err), 0);
    assert_int_equal(g.n_ways, 2);
    assert_true(fabs(g.alone - alone.flops / 4e14) < 1e-6);
    /* Half of the tokens and heads: before attention q, k, v of them for the other's heads, behind it the other's tokens of the
     * own ones. M H floats a block, 2 rows of 30 full steps and the 20 cached ones' last block. */
    double m = 34.0 * 44 * 44 + 831, h = 3072, block = 4 * h * m, sent = (59 * 60 + 100) * block;
    assert_true(way(&g, 2, 1, 1)->traffic > 0.95 * sent && way(&g, 2, 1, 1)->traffic < 1.05 * sent);
    /* Guidance rows: a velocity a step, and tiles of the decoder. */
    assert_true(way(&g, 1, 2, 1)->traffic < 0.01 * sent);
    for (int i = 0; i < 2; i++)
        assert_true(g.way[i].compute > 0.5 * g.alone && g.way[i].compute < 0.54 * g.alone);
    assert_true(g.first.stage[AVATAR_DENOISE].traffic_bytes > 0 && g.first.stage[AVATAR_CONDITION].traffic_bytes == 0);

    assert_int_equal(group(129, 8, 5e9, &g, &err), 0); /* a slow link: what talks less */
    assert_true(g.way[0].degrees.pair == 2 && g.way[0].degrees.tokens == 4);
    assert_int_equal(group(400, 8, 5e9, &g, &err), 0); /* four windows: those before all */
    assert_true(g.way[0].degrees.windows == 4 && g.way[0].degrees.tokens == 1);
    assert_true(g.n_ways == 6 && group_plan_seconds(&g.way[0]) <= group_plan_seconds(&g.way[5]));
    assert_int_equal(group(129, 7, 3e11, &g, &err), 0); /* heads 4 4 4 3 3 3 3 */
    assert_true(g.n_ways == 1 && g.way[0].compute > g.alone / 7 && g.way[0].compute < g.alone / 5.8);
    assert_int_equal(group(129, 64, 3e11, &g, &err), ERR_NOFIT);
    err_clear(&err);
    assert_int_equal(group(129, 65, 3e11, &g, &err), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_lists_bind),         cmocka_unit_test(test_binding_is_strict),
        cmocka_unit_test(test_plan_of_the_real_model), cmocka_unit_test(test_plan_grows),
        cmocka_unit_test(test_plan_of_a_checkpoint),   cmocka_unit_test(test_plan_refuses),
        cmocka_unit_test(test_cost_model),             cmocka_unit_test(test_cost_forms),
        cmocka_unit_test(test_group_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
