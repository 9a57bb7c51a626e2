/* test_avatar.c -- the generator as a whole on the miniature checkpoint: what a request can get wrong, where
 * ours does what the reference cannot (MODEL.md, last section), cancel, noise and dump, determinism.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/device.h"
#include "worker/media/media.h"
#include "worker/model/avatar.h"
#include "worker/model/avatar_input.h"
#include "worker/model/ckpt.h"

struct fixture {
    struct device *device;
    struct avatar *avatar;
    uint8_t pixels[96 * 80 * 3];
    float samples[16000];
};

static const char *golden_root(void)
{
    const char *root = getenv("TEST_GOLDEN");

    assert_non_null(root);
    return root;
}

static void open_avatar(struct fixture *f, int n_threads)
{
    struct device_options o = {.n_threads = n_threads};
    struct err err = {0};
    char path[1024];

    str_path(path, sizeof(path), golden_root(), "tiny/ckpts");
    if (device_open(&f->device, "cpu", &o, &err) < 0 ||
        avatar_open(&f->avatar, f->device, path, false, &err) < 0)
        fail_msg("%s", err.text);
}

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));

    open_avatar(f, 2);
    for (int i = 0; i < 96 * 80 * 3; i++)
        f->pixels[i] = (uint8_t)(127 + 90 * sin(i / 700.0 + i % 3));
    for (int i = 0; i < 16000; i++)
        f->samples[i] = (float)(0.3 * sin(i * 0.05) * sin(i * 0.0007));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    avatar_close(f->avatar);
    device_close(f->device);
    mem_free(f);
    return 0;
}

/* The smallest useful job: 5 frames, one step, 64 px. */
static struct avatar_request small_request(struct fixture *f)
{
    struct avatar_request q;

    avatar_request_init(&q);
    q.image = (struct image){f->pixels, 80, 96};
    q.wave = (struct wave){f->samples, 16000, 16000};
    q.size = 64;
    q.steps = 1;
    q.n_frames = 5;
    q.seed = 7;
    q.face = AVATAR_FACE_NONE;
    return q;
}

/* What a job told. */
struct heard {
    char warning[400];
    int n_warnings;
    uint8_t *rgb; /* owned */
    size_t bytes;
    int64_t n_frames;
    int stages[AVATAR_STAGE_COUNT]; /* reports */
    atomic_int cancel;
    int cancel_at; /* step; -1: never */
};

static void hear_warning(void *arg, const char *text)
{
    struct heard *h = arg;

    h->n_warnings++;
    str_copy(h->warning, sizeof(h->warning), text);
}

static void hear_progress(void *arg, enum avatar_stage stage, int done, int total)
{
    struct heard *h = arg;

    assert_true(done >= 0 && done <= total);
    h->stages[stage]++;
    if (stage == AVATAR_DENOISE && done == h->cancel_at)
        atomic_store(&h->cancel, 1);
}

static int hear_pictures(void *arg, const uint8_t *rgb, int64_t n, int width, int height)
{
    struct heard *h = arg;
    size_t bytes = (size_t)n * (size_t)width * (size_t)height * 3;

    h->rgb = mem_realloc(h->rgb, h->bytes + bytes);
    assert_non_null(h->rgb);
    memcpy(h->rgb + h->bytes, rgb, bytes);
    h->bytes += bytes;
    return 0;
}

/* The same frames, half the bytes, a picture's before its frame. */
static int hear_frames(void *arg, const uint8_t *yuv, int64_t n, int width, int height)
{
    struct heard *h = arg;
    int64_t size = (int64_t)width * height;

    h->n_frames += n;
    assert_int_equal(h->bytes, h->n_frames * size * 3);
    for (int64_t i = 0; i < n * size * 3 / 2; i++)
        assert_true(yuv[i] >= 16 && yuv[i] <= 240);
    return 0;
}

static int run_with(struct fixture *f, const struct avatar_request *q, struct heard *h,
                    struct avatar_result *ret, struct err *err)
{
    struct avatar_hooks hooks = {.arg = h,
                                 .cancel = &h->cancel,
                                 .progress = hear_progress,
                                 .warn = hear_warning,
                                 .frames = hear_frames,
                                 .pictures = hear_pictures,
                                 .n_pictures = INT64_MAX};

    err_clear(err);
    return avatar_run(f->avatar, q, &hooks, ret, err);
}

static void run_well(struct fixture *f, const struct avatar_request *q, struct heard *h,
                     struct avatar_result *ret)
{
    struct err err = {0};

    h->cancel_at = -1;
    if (run_with(f, q, h, ret, &err) < 0)
        fail_msg("%s", err.text);
}

/* ---- refusals ---- */

static void refused(struct fixture *f, const struct avatar_request *q, int code, const char *part)
{
    struct heard h = {.cancel_at = -1};
    struct avatar_result result;
    struct err err = {0};

    assert_int_equal(run_with(f, q, &h, &result, &err), code);
    if (strstr(err.text, part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, part);
    assert_int_equal(h.stages[AVATAR_LOAD], 0); /* before anything is loaded */
}

#define REFUSED(change, code, part)                                                                          \
    do {                                                                                                     \
        struct avatar_request q = small_request(f);                                                          \
        change;                                                                                              \
        refused(f, &q, code, part);                                                                          \
    } while (0)

static void test_refusals(void **state)
{
    struct fixture *f = *state;

    REFUSED(q.fps = 24, ERR_INVALID, "25 and 12.5");
    REFUSED(q.fps = NAN, ERR_INVALID, "25 and 12.5");
    REFUSED(q.steps = 0, ERR_INVALID, "0 steps");
    REFUSED(q.steps = 1001, ERR_INVALID, "1001 steps");
    REFUSED(q.guidance = NAN, ERR_INVALID, "guidance");
    REFUSED(q.guidance = -1, ERR_INVALID, "guidance");
    REFUSED(q.shift = 0, ERR_INVALID, "shift");
    REFUSED(q.size = 63, ERR_INVALID, "64 to 4096");
    REFUSED(q.size = 5000, ERR_INVALID, "64 to 4096");
    REFUSED((q.width = 64, q.height = 70), ERR_INVALID, "multiples of 16");
    REFUSED((q.width = 64, q.height = 0), ERR_INVALID, "multiples of 16");
    REFUSED(q.n_frames = -1, ERR_INVALID, "num_frames");
    REFUSED(q.n_frames = 15001, ERR_INVALID, "15000");
    REFUSED(q.wave.n = 639, ERR_INVALID, "0.04 s");
    REFUSED(q.wave.rate = 44100, ERR_INVALID, "16000 Hz");
    REFUSED((q.wave.n = 16000LL * 60 * 60, q.n_frames = 0), ERR_INVALID, "cut the sound");
    REFUSED(q.image.pixels = NULL, ERR_INVALID, "no picture");
    REFUSED((q.face = AVATAR_FACE_BOX), ERR_INVALID, "w and h above 0");
    REFUSED((q.face = AVATAR_FACE_BOX, q.box[0] = 80, q.box[2] = q.box[3] = 9), ERR_INVALID,
            "outside the picture");
    REFUSED((q.face = AVATAR_FACE_BOX, q.box[2] = NAN, q.box[3] = 9), ERR_INVALID, "box");
    REFUSED((q.face = AVATAR_FACE_INDEX, q.face_index = -1), ERR_INVALID, "face_index");
    REFUSED(q.noise_path = "/nonexistent/noise", ERR_NOTFOUND, "/nonexistent/noise");
}

static void test_missing_files_are_listed(void **state)
{
    struct avatar *a = NULL;
    struct err err = {0};
    char dir[] = "/tmp/avatar-XXXXXX";

    (void)state;
    assert_int_equal(avatar_open(&a, NULL, "/nonexistent/ckpts", false, &err), ERR_WEIGHTS);
    assert_non_null(strstr(err.text, "llava_llama_image"));
    assert_non_null(mkdtemp(dir));
    err_clear(&err);
    assert_int_equal(avatar_open(&a, NULL, dir, false, &err), ERR_WEIGHTS);
    assert_non_null(strstr(err.text, "9 files are missing"));
    assert_non_null(strstr(err.text, "text_encoder_2/merges.txt"));
    assert_non_null(strstr(err.text, "mp_rank_00_model_states.pt"));
    err_clear(&err);
    assert_int_equal(avatar_open(&a, NULL, dir, true, &err), ERR_WEIGHTS);
    assert_non_null(strstr(err.text, "mp_rank_00_model_states_fp8_map.pt"));
    assert_null(a);
    rmdir(dir);
}

/* ---- frames ---- */

static void test_frames(void **state)
{
    static const struct {
        int64_t samples;
        double fps;
        int64_t asked, sound, model, video;
    } row[] = {
        {640, 25, 0, 1, 1, 1},
        {16000, 25, 0, 25, 25, 25},
        {16639, 25, 0, 25, 25, 25},
        {16000, 25, 10, 25, 10, 10},
        {16000, 25, 40, 25, 40, 40},        /* silence behind the sound */
        {16000 * 20, 25, 0, 500, 500, 500}, /* no cut at 400 */
        {16000, 12.5, 0, 25, 25,
         12}, /* the reference's count in the model, the sound's length in the video */
        {16000, 12.5, 25, 25, 25, 25},
        {640, 12.5, 0, 1, 1, 1},
        {640 * 374, 12.5, 0, 374, 374, 187},
        {640 * 376, 12.5, 0, 188, 188, 188}, /* the reference crashes from here on */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        struct avatar_frames got = {0};
        struct err err = {0};
        assert_int_equal(avatar_input_frames(row[i].samples, row[i].fps, row[i].asked, &got, &err), 0);
        assert_int_equal(got.sound, row[i].sound);
        assert_int_equal(got.model, row[i].model);
        assert_int_equal(got.video, row[i].video);
    }
}

/* ---- jobs ---- */

static void test_small_job(void **state)
{
    struct heard h = {0};
    struct avatar_result r;
    struct avatar_request q = small_request(*state);

    run_well(*state, &q, &h, &r);
    assert_int_equal(r.n_frames, 5);
    assert_int_equal(h.bytes, (size_t)(5 * r.width * r.height * 3));
    assert_int_equal(strlen(r.digest), 64);
    assert_int_equal(h.stages[AVATAR_DENOISE], 2);
    assert_int_equal(r.face[0], -1);
    assert_true(r.flops > 0 && r.arena_peak > 0);
    for (int s = 0; s < AVATAR_STAGE_COUNT; s++)
        assert_true(h.stages[s] > 0);
    mem_free(h.rgb);
}

static void test_long_prompt_is_cut(void **state)
{
    struct heard h = {0};
    struct avatar_result r;
    struct avatar_request q = small_request(*state);
    char prompt[4096] = "";

    for (int i = 0; i < 400; i++)
        strcat(prompt, "word ");
    q.prompt = prompt;
    run_well(*state, &q, &h, &r);
    assert_int_equal(h.n_warnings, 1);
    assert_non_null(strstr(h.warning, "prompt: too long, its last "));
    mem_free(h.rgb);
}

static void test_typed_tokens_do_no_harm(void **state)
{
    struct heard h = {0};
    struct avatar_result r;
    struct avatar_request q = small_request(*state);

    q.prompt = "x<image>y <|eot_id|> <|endoftext|>";
    run_well(*state, &q, &h, &r);
    assert_int_equal(h.n_warnings, 0);
    mem_free(h.rgb);
}

static void test_long_picture(void **state)
{
    struct heard h = {0};
    struct avatar_result r;
    struct avatar_request q = small_request(*state);
    uint8_t line[3 * 600] = {0};
    int w, h_;

    q.image = (struct image){line, 600, 1};
    assert_int_equal(avatar_size(600, 1, 64, &w, &h_), 0);
    assert_int_equal(w, 64);
    assert_int_equal(h_, 64);
    assert_int_equal(avatar_size(1, 30000, 704, &w, &h_), 0);
    assert_int_equal(w, 64);
    assert_int_equal(h_, 4096);
    assert_int_equal(avatar_size(600, 1, 64, &w, &h_), 0);
    run_well(*state, &q, &h, &r);
    assert_int_equal(r.width, w);
    assert_int_equal(r.height, h_);
    assert_int_equal(h.n_warnings, 1);
    assert_non_null(strstr(h.warning, "600 x 1"));
    mem_free(h.rgb);
}

static void test_box_over_the_border(void **state)
{
    struct heard h = {0};
    struct avatar_result r;
    struct avatar_request q = small_request(*state);

    q.face = AVATAR_FACE_BOX;
    q.box[0] = q.box[1] = -20;
    q.box[2] = q.box[3] = 30;
    run_well(*state, &q, &h, &r);
    assert_int_equal(r.face[0], 0);
    assert_int_equal(r.face[1], 0);
    assert_true(r.face[2] > 0 && r.face[2] < r.width / 2);
    mem_free(h.rgb);
}

static void test_face_that_is_not_there(void **state)
{
    struct fixture *f = *state;
    struct heard h = {.cancel_at = -1};
    struct avatar_result r;
    struct avatar_request q = small_request(f);
    struct err err = {0};

    q.face = AVATAR_FACE_INDEX;
    q.face_index = 1000;
    assert_int_equal(run_with(f, &q, &h, &r, &err), ERR_INVALID);
    assert_non_null(strstr(err.text, "face 1000 is asked for"));
    mem_free(h.rgb);
}

static void test_cancel_stops_within_a_step(void **state)
{
    struct fixture *f = *state;
    struct heard h = {.cancel_at = 2}, next = {0};
    struct avatar_result r;
    struct avatar_request q = small_request(f);
    struct err err = {0};

    q.steps = 8;
    assert_int_equal(run_with(f, &q, &h, &r, &err), ERR_CANCEL);
    assert_int_equal(h.stages[AVATAR_DENOISE], 3); /* 0, 1 and 2 steps */
    assert_int_equal(h.bytes, 0);
    run_well(f, &q, &next, &r); /* and the next job runs */
    mem_free(next.rgb);
}

static void test_frames_not_taken(void **state)
{
    struct fixture *f = *state;
    struct avatar_request q = small_request(f);
    struct avatar_result r;
    struct err err = {0};
    struct heard h = {.cancel_at = -1};

    q.noise_path = NULL;
    q.dump_path = "/nonexistent/dump.safetensors";
    assert_int_not_equal(run_with(f, &q, &h, &r, &err), 0);
    assert_non_null(strstr(err.text, "/nonexistent/dump.safetensors"));
    mem_free(h.rgb);
}

/* ---- noise, dump, determinism ---- */

static void test_dump_and_noise(void **state)
{
    struct fixture *f = *state;
    struct heard one = {0}, two = {0};
    struct avatar_result r;
    struct avatar_request q = small_request(f);
    struct ckpt *c = NULL;
    struct err err = {0};
    char path[64] = "/tmp/avatar-dump-XXXXXX", again[64] = "/tmp/avatar-dump-XXXXXX";
    struct tensor noise, ref, x;

    close(mkstemp(path));
    close(mkstemp(again));
    q.steps = 2;
    q.dump_path = path;
    run_well(f, &q, &one, &r);
    assert_int_equal(ckpt_open(&c, path, &err), 0);
    noise = ckpt_find(c, "in.noise");
    ref = ckpt_find(c, "mid.ref");
    assert_int_equal(noise.shape[2], 65);
    assert_int_equal(ref.shape[2], 33);
    x = ckpt_find(c, "mid.step01");
    assert_int_equal(x.n_dims, 5);
    x = ckpt_find(c, "mid.text_mask");
    assert_int_equal(x.shape[1], 831);
    x = ckpt_find(c, "mid.audio");
    assert_int_equal(x.shape[1], 129);
    assert_false(tensor_is_none(ckpt_find(c, "out.latents")));
    assert_false(tensor_is_none(ckpt_find(c, "mid.face")));
    assert_false(tensor_is_none(ckpt_find(c, "mid.text2")));
    assert_false(tensor_is_none(ckpt_find(c, "mid.text")));
    ckpt_close(c);
    /* the dump has no vae_noise and names its noise in.noise: a file without the names leaves the seed's in
     * place */
    q.noise_path = path;
    q.dump_path = again;
    run_well(f, &q, &two, &r);
    assert_int_equal(one.bytes, two.bytes);
    assert_memory_equal(one.rgb, two.rgb, one.bytes);
    mem_free(one.rgb);
    mem_free(two.rgb);
    unlink(path);
    unlink(again);
}

static void test_noise_of_another_size(void **state)
{
    struct fixture *f = *state;
    struct heard h = {.cancel_at = -1};
    struct avatar_result r;
    struct avatar_request q = small_request(f);
    struct err err = {0};
    char path[1024];

    str_path(path, sizeof(path), golden_root(), "pipeline/bf16_noise.safetensors"); /* 16 x 8 latents */
    q.image = (struct image){f->pixels, 80, 80};
    q.noise_path = path;
    assert_int_equal(run_with(f, &q, &h, &r, &err), ERR_INVALID);
    assert_non_null(strstr(err.text, "vae_noise must be [1, 16, 33 or more, 8, 8]"));
    mem_free(h.rgb);
}

static void test_threads_and_seeds(void **state)
{
    struct fixture *f = *state, *single = mem_zalloc(sizeof(*single));
    struct heard one = {0}, two = {0}, other = {0};
    struct avatar_result r;
    struct avatar_request q = small_request(f);

    open_avatar(single, 1);
    run_well(f, &q, &two, &r);
    run_well(single, &q, &one, &r);
    assert_memory_equal(one.rgb, two.rgb, one.bytes);
    q.seed = 8;
    run_well(f, &q, &other, &r);
    assert_memory_not_equal(other.rgb, two.rgb, two.bytes);
    mem_free(one.rgb);
    mem_free(two.rgb);
    mem_free(other.rgb);
    avatar_close(single->avatar);
    device_close(single->device);
    mem_free(single);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_missing_files_are_listed),
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_small_job),
        cmocka_unit_test(test_long_prompt_is_cut),
        cmocka_unit_test(test_typed_tokens_do_no_harm),
        cmocka_unit_test(test_long_picture),
        cmocka_unit_test(test_box_over_the_border),
        cmocka_unit_test(test_face_that_is_not_there),
        cmocka_unit_test(test_cancel_stops_within_a_step),
        cmocka_unit_test(test_frames_not_taken),
        cmocka_unit_test(test_dump_and_noise),
        cmocka_unit_test(test_noise_of_another_size),
        cmocka_unit_test(test_threads_and_seeds),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
