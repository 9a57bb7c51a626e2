/* test_lean.c -- less of a device's memory: what the modes need at the published sizes, and that a device with no more memory
 * than the plan says makes the same frames in all of them.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/preset.h"
#include "common/str.h"
#include "kernels/device.h"
#include "worker/model/avatar.h"

static const struct avatar_ask published = {.width = 704, .height = 768, .n_frames = 129, .steps = 50};

/* ---- the ladder ---- */

static void test_ladder(void **state)
{
    struct avatar_mode m[AVATAR_MODES];
    struct err err = {0};

    (void)state;
    assert_int_equal(avatar_mode_ladder("auto", false, false, m, &err), 5);
    assert_string_equal(avatar_mode_text(&m[0]), "resident");
    assert_string_equal(avatar_mode_text(&m[2]), "staged, compact");
    assert_string_equal(avatar_mode_text(&m[4]), "streamed, compact");
    assert_int_equal(avatar_mode_ladder("streamed", false, true, m, &err), 2);
    assert_true(m[0].weights == AVATAR_STREAMED && !m[0].compact && m[1].compact && m[1].pin);
    assert_int_equal(avatar_mode_ladder("auto", true, true, m, &err), 1);
    assert_true(m[0].weights == AVATAR_RESIDENT && !m[0].pin);
    assert_int_equal(avatar_mode_ladder("staged", true, false, m, &err), ERR_INVALID);
    err_clear(&err);
    assert_int_equal(avatar_mode_ladder("all", false, false, m, &err), ERR_INVALID);
    assert_non_null(strstr(err.text, "weights: all"));
}

static void test_presets(void **state)
{
    char list[200] = "";

    (void)state;
    for (size_t i = 0; preset_at(i); i++) {
        size_t n = strlen(list);
        str_format(list + n, sizeof(list) - n, "%s%s", i ? "|" : "", preset_at(i)->name);
    }
    assert_string_equal(list, PRESET_CHOICES);
    assert_null(preset_find("huge"));
    assert_int_equal(preset_bytes(preset_find("ultra_minimal")), (size_t)8 << 30);
    assert_int_equal(preset_bytes(preset_find("max")), SIZE_MAX);
    assert_true(preset_is_cpu(preset_find("cpu")) && !preset_is_cpu(preset_find("auto")));
}

/* ---- the published model ---- */

static void test_published(void **state)
{
    struct avatar *a = NULL;
    struct avatar_mode m[AVATAR_MODES];
    struct avatar_plan p[AVATAR_MODES], first;
    struct err err = {0};

    (void)state;
    assert_int_equal(avatar_mode_ladder("auto", false, false, m, &err), AVATAR_MODES);
    assert_int_equal(avatar_open(&a, NULL, NULL, false, &err), 0);
    for (int i = 0; i < AVATAR_MODES; i++) {
        assert_int_equal(avatar_make_mode_plan(a, &m[i], &published, &p[i], &err), 0);
        assert_true(i == 0 || p[i].peak_bytes <= p[i - 1].peak_bytes);
    }
    /* the transformer without its modulation layers; 30 of 50 steps run it whole, twice */
    const double blocks = (double)p[1].stage[AVATAR_DENOISE].weight_bytes, all = p[1].stage[AVATAR_DENOISE].brought_bytes;
    assert_in_range(p[1].stage[AVATAR_DENOISE].weight_bytes, 17e9, 20e9);
    assert_true(all > 25e9 && all < 28e9);
    double passes = p[3].stage[AVATAR_DENOISE].brought_bytes / blocks;
    if (passes < 54 || passes > 62)
        fail_msg("%g times the blocks are brought up", passes);
    assert_true(p[0].brought_bytes == 0 && p[0].peak_bytes > 38e9);
    for (int s = AVATAR_CONDITION; s <= AVATAR_DECODE; s++)
        assert_true(p[3].stage[s].weight_bytes < 1000000000);
    /* cards: 24 GB staged, 8 GB streamed */
    assert_true(p[2].peak_bytes < (size_t)23 << 30);
    assert_true(p[4].peak_bytes < 8000000000);
    assert_int_equal(avatar_first_plan(a, m, AVATAR_MODES, &published, p[2].peak_bytes, &first, &err), 2);
    assert_int_equal(first.peak_bytes, p[2].peak_bytes);
    assert_int_equal(avatar_first_plan(a, m, AVATAR_MODES, &published, 1 << 30, &first, &err), AVATAR_MODES);
    assert_int_equal(first.peak_bytes, p[4].peak_bytes);
    avatar_close(a);
}

/* ---- a device with a memory of its own: the reference's ops, and no more bytes than the plan says ---- */

enum { UPLOADS_MAX = 4096 };

struct upload {
    const void *host;
    void *copy; /* owned */
    size_t bytes;
};

struct fake {
    struct device *device;
    struct device_hooks hooks;
    size_t limit;
    struct upload uploads[UPLOADS_MAX];
    int n_uploads;
    uint64_t ticket;
};

static struct fake fake; /* cpu_ref has no impl to keep it in, and gives none away */

static void *take_memory(size_t bytes)
{
    struct device *d = fake.device;
    void *p = bytes <= fake.limit - d->taken_bytes ? mem_aligned(256, bytes) : NULL;

    if (p == NULL)
        return NULL;
    memset(p, 0xff, bytes); /* NaN: nobody wrote it yet */
    d->taken_bytes += bytes;
    d->peak_bytes = d->taken_bytes > d->peak_bytes ? d->taken_bytes : d->peak_bytes;
    return p;
}

static size_t fake_free_bytes(const struct device *d)
{
    return fake.limit - d->taken_bytes;
}

static int fake_arena_new(struct device *d, size_t *bytes, void **ret, struct err *err)
{
    (void)d;
    assert_true(*bytes > 0); /* what was planned, never what is free */
    *ret = take_memory(*bytes);
    return *ret != NULL ? 0 : err_set(err, ERR_NOMEM, "device fake: no %zu bytes", *bytes);
}

static void fake_arena_free(struct device *d, void *arena, size_t bytes)
{
    mem_free(arena);
    d->taken_bytes -= bytes;
}

static int fake_upload(struct device *d, struct tensor host, struct tensor *ret, struct err *err)
{
    struct upload *u = &fake.uploads[fake.n_uploads];

    (void)d;
    assert_true(fake.n_uploads < UPLOADS_MAX);
    *u = (struct upload){host.data, take_memory(tensor_bytes(host)), tensor_bytes(host)};
    if (u->copy == NULL)
        return err_set(err, ERR_NOMEM, "device fake: no %zu bytes", u->bytes);
    memcpy(u->copy, host.data, u->bytes);
    fake.n_uploads++;
    *ret = host;
    ret->data = u->copy;
    return 0;
}

static void fake_forget(struct device *d, const void *base, size_t bytes)
{
    int kept = 0;

    for (int i = 0; i < fake.n_uploads; i++) {
        struct upload u = fake.uploads[i];
        if ((const char *)u.host >= (const char *)base && (size_t)((const char *)u.host - (const char *)base) < bytes)
            fake_arena_free(d, u.copy, u.bytes);
        else
            fake.uploads[kept++] = u;
    }
    fake.n_uploads = kept;
}

static int fake_write(struct device *d, void *dst, const void *host, size_t bytes)
{
    (void)d;
    memcpy(dst, host, bytes);
    return 0;
}

static int fake_read(struct device *d, void *host, const void *src, size_t bytes)
{
    return fake_write(d, host, src, bytes);
}

static int fake_copy(struct device *d, void *dst, const void *host, size_t bytes, bool is_pinned)
{
    (void)is_pinned;
    return fake_write(d, dst, host, bytes);
}

static int fake_mark(struct device *d, enum device_queue q, uint64_t *ret)
{
    (void)d;
    (void)q;
    *ret = ++fake.ticket;
    return 0;
}

static int fake_wait(struct device *d, enum device_queue q, enum device_queue of, uint64_t ticket)
{
    (void)d;
    (void)q;
    (void)of;
    return ticket <= fake.ticket ? 0 : ERR_INTERNAL;
}

static void *fake_pin(struct device *d, size_t bytes)
{
    (void)d;
    return mem_aligned(64, bytes);
}

static void fake_unpin(struct device *d, void *p)
{
    (void)d;
    mem_free(p);
}

static struct avatar *open_fake(size_t limit)
{
    const char *root = getenv("TEST_GOLDEN");
    struct avatar *a = NULL;
    struct err err = {0};
    char path[1024];

    fake = (struct fake){.limit = limit};
    assert_int_equal(device_open(&fake.device, "cpu_ref", NULL, &err), 0);
    fake.hooks = (struct device_hooks){.free_bytes = fake_free_bytes,
                                       .arena_new = fake_arena_new,
                                       .arena_free = fake_arena_free,
                                       .upload = fake_upload,
                                       .forget = fake_forget,
                                       .write = fake_write,
                                       .read = fake_read,
                                       .copy = fake_copy,
                                       .mark = fake_mark,
                                       .wait = fake_wait,
                                       .pin = fake_pin,
                                       .unpin = fake_unpin};
    fake.device->hooks = &fake.hooks;
    fake.device->is_host = false;
    assert_non_null(root);
    str_path(path, sizeof(path), root, "tiny/ckpts");
    if (avatar_open(&a, fake.device, path, false, &err) < 0)
        fail_msg("%s", err.text);
    return a;
}

static void close_fake(struct avatar *a)
{
    avatar_close(a);
    assert_int_equal(fake.device->taken_bytes, 0);
    device_close(fake.device);
}

/* ---- the miniature model on it ---- */

struct job {
    uint8_t pixels[96 * 80 * 3];
    float samples[16000];
    uint8_t *yuv; /* owned */
    size_t bytes;
};

static const struct avatar_ask small = {.width = 64, .height = 64, .n_frames = 1, .steps = 1};

static int take_frames(void *arg, const uint8_t *yuv, int64_t n, int width, int height)
{
    struct job *j = arg;
    const size_t bytes = (size_t)n * (size_t)width * (size_t)height * 3 / 2;

    j->yuv = mem_realloc(j->yuv, j->bytes + bytes);
    assert_non_null(j->yuv);
    memcpy(j->yuv + j->bytes, yuv, bytes);
    j->bytes += bytes;
    return 0;
}

static struct job *new_job(void)
{
    struct job *j = mem_zalloc(sizeof(*j));

    assert_non_null(j);
    for (int i = 0; i < 96 * 80 * 3; i++)
        j->pixels[i] = (uint8_t)(127 + 90 * sin(i / 700.0 + i % 3));
    for (int i = 0; i < 16000; i++)
        j->samples[i] = (float)(0.3 * sin(i * 0.05) * sin(i * 0.0007));
    return j;
}

static void free_job(struct job *j)
{
    mem_free(j->yuv);
    mem_free(j);
}

static void make(struct avatar *a, struct job *j, struct avatar_result *ret)
{
    const struct avatar_hooks hooks = {.arg = j, .frames = take_frames};
    struct avatar_request q;
    struct err err = {0};

    avatar_request_init(&q);
    q.image = (struct image){j->pixels, 80, 96};
    q.wave = (struct wave){j->samples, 16000, 16000};
    q.width = small.width;
    q.height = small.height;
    q.steps = small.steps;
    q.n_frames = small.n_frames;
    q.seed = 7;
    q.face = AVATAR_FACE_AUTO; /* which needs an arena too */
    j->bytes = 0;
    if (avatar_run(a, &q, &hooks, ret, &err) < 0)
        fail_msg("%s: %s", avatar_mode_text(avatar_get_mode(a)), err.text);
}

/* With just the memory of its plan, so many times: what a job leaves in the pool must not be taken for weights by the next. */
static void check_mode(const struct avatar_mode *mode, const struct avatar_plan *plan, int times, const struct job *want)
{
    struct job *j = new_job();
    struct avatar *a = open_fake(plan->peak_bytes);
    struct avatar_result result;

    avatar_set_mode(a, mode);
    for (int i = 0; i < times; i++) {
        make(a, j, &result);
        assert_int_equal(j->bytes, want->bytes);
        assert_memory_equal(j->yuv, want->yuv, want->bytes);
        assert_true(result.brought_bytes == plan->brought_bytes);
        assert_true(result.arena_peak <= plan->memory_bytes);
    }
    close_fake(a);
    free_job(j);
}

static void test_modes_agree(void **state)
{
    struct job *want = new_job();
    struct avatar *a = open_fake((size_t)1 << 30);
    struct avatar_mode m[AVATAR_MODES];
    struct avatar_plan p[AVATAR_MODES];
    struct avatar_result result;
    struct err err = {0};

    (void)state;
    assert_int_equal(avatar_mode_ladder("auto", false, true, m, &err), AVATAR_MODES);
    for (int i = 0; i < AVATAR_MODES; i++) {
        assert_int_equal(avatar_make_mode_plan(a, &m[i], &small, &p[i], &err), 0);
        assert_true(i == 0 || p[i].peak_bytes <= p[i - 1].peak_bytes);
    }
    make(a, want, &result);
    assert_true(want->bytes == 64 * 64 * 3 / 2 && result.brought_bytes == 0);
    assert_true(fake.device->peak_bytes <= p[0].peak_bytes);
    close_fake(a);
    assert_true(p[2].peak_bytes < p[0].peak_bytes && p[3].peak_bytes < p[2].peak_bytes);
    check_mode(&m[2], &p[2], 1, want);
    check_mode(&m[3], &p[3], 2, want);
    free_job(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ladder),
        cmocka_unit_test(test_presets),
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_modes_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
