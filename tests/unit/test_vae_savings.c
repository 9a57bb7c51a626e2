/* test_vae_savings.c -- the work that the VAE does not do: each saving against the unsaved way, on the
 * miniature checkpoint. Exact ones (the same operations on the same numbers) must be equal bit by bit; the
 * one-frame encode takes sums in another order and may differ by rounding.
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
#include "worker/model/ckpt.h"
#include "worker/model/vae.h"

struct fixture {
    struct device *device;
    struct ckpt *ckpt;
    struct vae *vae;
    struct vae_config config;
    struct run run;
};

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    const char *root = getenv("TEST_GOLDEN");
    struct device_options o = {.n_threads = 2};
    struct err err = {0};
    char path[1024];

    if (f == NULL || root == NULL)
        return -1;
    str_path(path, sizeof(path), root, "tiny/ckpts/hunyuan-video-t2v-720p/vae/config.json");
    if (device_open(&f->device, "cpu", &o, &err) < 0 || vae_config_read(path, &f->config, &err) < 0)
        return -1;
    str_path(path, sizeof(path), root, "tiny/ckpts/hunyuan-video-t2v-720p/vae/pytorch_model.pt");
    if (ckpt_open(&f->ckpt, path, &err) < 0 || vae_open(&f->vae, &f->config, f->ckpt, f->device, &err) < 0 ||
        run_init(&f->run, f->device, 0, &err) < 0)
        return -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    run_done(&f->run);
    vae_close(f->vae);
    device_forget(f->device, NULL, SIZE_MAX);
    ckpt_close(f->ckpt);
    device_close(f->device);
    mem_free(f);
    return 0;
}

static float *read_all(struct run *r, struct tensor t)
{
    float *p = mem_alloc((size_t)tensor_count(t) * sizeof(float));

    assert_non_null(p);
    assert_int_equal(run_read(r, t, p), 0);
    return p;
}

/* The picture repeated `frames` times gives, for every latent frame, the moments of the picture alone. */
static void check_repeated(struct fixture *f, int64_t frames, int64_t h, int64_t w, bool tiled)
{
    struct run *r = &f->run;
    struct tensor one, many, x;
    float *a, *b;
    double worst = 0;

    run_reset(r);
    one = op_randn(r, 5, 0, 4, SHAPE(1, h, w, 3));
    op_scale(r, one, 0.4f, 0.0f);
    x = run_new(r, DTYPE_F32, 4, SHAPE(frames, h, w, 3));
    for (int64_t t = 0; t < frames; t++)
        op_copy_into(r, tensor_slice(x, 0, t, 1), one);
    one = vae_encode(r, f->vae, one, tiled);
    many = vae_encode(r, f->vae, x, tiled);
    a = read_all(r, one);
    b = read_all(r, many);
    assert_int_equal(many.shape[0], (frames - 1) / 4 + 1);
    for (int64_t t = 0; t < many.shape[0]; t++)
        for (int64_t i = 0; i < tensor_count(one); i++)
            worst = fmax(worst, fabs((double)a[i] - (double)b[t * tensor_count(one) + i]));
    assert_true(worst < 5e-5);
    mem_free(a);
    mem_free(b);
}

static void test_one_frame_encode(void **state)
{
    check_repeated(*state, 21, 32, 24, false);
}

static void test_one_frame_encode_tiled(void **state)
{
    check_repeated(*state, 33, 40, 32, true); /* several tiles in space and time */
}

struct video {
    float *pixels; /* owned */
    int64_t frames, size;
    int calls;
};

static int take(void *arg, struct run *r, struct tensor y)
{
    struct video *v = arg;

    v->size = y.shape[1] * y.shape[2] * y.shape[3];
    v->pixels = mem_realloc(v->pixels, (size_t)((v->frames + y.shape[0]) * v->size) * sizeof(float));
    assert_non_null(v->pixels);
    v->frames += y.shape[0];
    v->calls++;
    return run_read(r, y, v->pixels + (v->frames - y.shape[0]) * v->size);
}

/* The reference's order: all temporal tiles are decoded, the one-latent tile at the end too; then all are
 * blended; then the kept parts are put together. */
static struct video decode_whole(struct fixture *f, struct tensor z)
{
    struct run *r = &f->run;
    int64_t tile = f->config.tile_frames, small = tile / 4, step = small * 3 / 4, blend = tile / 4;
    struct tensor part[64];
    struct video v = {0}, one;
    int n = 0;

    for (int64_t at = 0; at < z.shape[0]; at += step, n++) {
        int64_t len = z.shape[0] - at < small + 1 ? z.shape[0] - at : small + 1;
        assert_true(n < 64);
        one = (struct video){0};
        assert_int_equal(vae_decode(r, f->vae, tensor_slice(z, 0, at, len), false, 0, take, &one), 0);
        assert_int_equal(one.frames, 4 * (len - 1) + 1);
        part[n] =
            run_write(r, one.pixels, DTYPE_F32, 4, SHAPE(one.frames, 8 * z.shape[1], 8 * z.shape[2], 3));
        if (n > 0 && one.frames > 1)
            part[n] = tensor_slice(part[n], 0, 1, one.frames - 1);
        else if (n > 0)
            part[n] = TENSOR_NONE; /* its one frame is dropped */
        mem_free(one.pixels);
    }
    for (int i = 0; i < n; i++) {
        int64_t len = tensor_is_none(part[i]) ? 0 : part[i].shape[0], keep = tile - blend + (i == 0),
                over = blend;
        if (i > 0 && len > 0) {
            over = part[i - 1].shape[0] < over ? part[i - 1].shape[0] : over;
            op_blend(r, part[i], part[i - 1], 0, len < over ? len : over);
        }
        if (len > 0)
            take(&v, r, tensor_slice(part[i], 0, 0, len < keep ? len : keep));
    }
    return v;
}

/* Streaming, the skipped tile and the early end against the whole. 13 = 12 + 1 latents: the last tile holds
 * one. */
static void check_streaming(struct fixture *f, int64_t t, int64_t max_frames)
{
    struct run *r = &f->run;
    struct video whole, part = {0};
    struct tensor z;
    double flops;

    run_reset(r);
    z = op_randn(r, 6, 0, 4, SHAPE(t, 4, 3, f->config.latent_channels));
    whole = decode_whole(f, z);
    flops = r->flops;
    assert_int_equal(whole.frames, 4 * (t - 1) + 1);
    assert_int_equal(vae_decode(r, f->vae, z, true, max_frames, take, &part), 0);
    assert_true(r->flops - flops <= flops);
    assert_int_equal(part.frames, max_frames > 0 && max_frames < whole.frames ? max_frames : whole.frames);
    assert_memory_equal(part.pixels, whole.pixels, (size_t)(part.frames * part.size) * sizeof(float));
    if (max_frames > 0 && max_frames <= f->config.tile_frames * 3 / 4 + 1) {
        assert_int_equal(part.calls, 1); /* the later tiles were not decoded */
        assert_true(r->flops - flops < 0.6 * flops);
    }
    mem_free(whole.pixels);
    mem_free(part.pixels);
}

static void test_streaming_is_the_whole(void **state)
{
    check_streaming(*state, 8, 0);
}

static void test_one_latent_tile_is_skipped(void **state)
{
    struct fixture *f = *state;
    int64_t step = f->config.tile_frames / 4 * 3 / 4;

    check_streaming(f, 3 * step + 1, 0);
}

static void test_tiles_behind_the_end_are_skipped(void **state)
{
    struct fixture *f = *state;

    check_streaming(f, 10, f->config.tile_frames * 3 / 4 + 1);
    check_streaming(f, 10, 5);
    check_streaming(f, 10, f->config.tile_frames);
}

/* 33 samples of one frame's moments against samples of the moments repeated. */
static void test_sample_repeats_moments(void **state)
{
    struct fixture *f = *state;
    struct run *r = &f->run;
    int64_t c = f->config.latent_channels, n = 5;
    struct tensor m, noise, many;
    float *a, *b;

    run_reset(r);
    m = op_randn(r, 7, 0, 4, SHAPE(1, 4, 3, 2 * c));
    noise = op_randn(r, 7, 1, 4, SHAPE(c, n, 4, 3));
    many = run_new(r, DTYPE_F32, 4, SHAPE(n, 4, 3, 2 * c));
    for (int64_t t = 0; t < n; t++)
        op_copy_into(r, tensor_slice(many, 0, t, 1), m);
    a = read_all(r, vae_sample(r, f->vae, m, noise, vae_scaling(f->vae)));
    b = read_all(r, vae_sample(r, f->vae, many, noise, vae_scaling(f->vae)));
    assert_memory_equal(a, b, (size_t)(c * n * 12) * sizeof(float));
    mem_free(a);
    mem_free(b);
}

/* z decoded with the threshold for slabs at `slab` bytes. */
static struct video decode_slabs(struct fixture *f, struct tensor z, size_t slab, bool compact)
{
    struct video v = {0};
    int rc;

    vae_set_slab(f->vae, slab);
    vae_set_compact(f->vae, compact);
    f->run.arena_peak = run_mark(&f->run);
    rc = vae_decode(&f->run, f->vae, z, false, 0, take, &v);
    vae_set_slab(f->vae, VAE_NET_SLAB);
    vae_set_compact(f->vae, false);
    assert_int_equal(rc, 0);
    return v;
}

/* Some frames at a time: the same bits, on any number of frames, with slabs that do not divide it; everything, or (a
 * threshold between their sizes) the larger tensors alone. */
static void check_slabs(struct fixture *f, int64_t t, int64_t h, int64_t w, size_t slab)
{
    struct run *r = &f->run;
    struct video whole, part;
    struct tensor z;
    size_t peak;

    run_reset(r);
    z = op_randn(r, 8, 0, 4, SHAPE(t, h, w, f->config.latent_channels));
    whole = decode_slabs(f, z, SIZE_MAX, false);
    peak = r->arena_peak;
    part = decode_slabs(f, z, slab, false);
    assert_int_equal(part.frames, whole.frames);
    assert_memory_equal(part.pixels, whole.pixels, (size_t)(part.frames * part.size) * sizeof(float));
    if (slab == 0 && t > 4)
        assert_true(r->arena_peak < 0.6 * (double)peak);
    mem_free(whole.pixels);
    mem_free(part.pixels);
}

static void test_slabs_are_the_whole(void **state)
{
    check_slabs(*state, 5, 3, 4, 0);
    check_slabs(*state, 6, 4, 2, 0);
    check_slabs(*state, 1, 2, 4, 0);
    check_slabs(*state, 2, 2, 4, 0);
    check_slabs(*state, 4, 4, 2, 100000);
    check_slabs(*state, 4, 4, 2, 300000);
}

/* Statistics of pieces are joined: the same numbers but for rounding, in less memory. */
static void test_compact(void **state)
{
    struct fixture *f = *state;
    struct run *r = &f->run;
    struct video whole, part;
    struct tensor z;
    double worst = 0, most = 0;
    size_t peak;

    run_reset(r);
    z = op_randn(r, 9, 0, 4, SHAPE(9, 2, 3, f->config.latent_channels));
    whole = decode_slabs(f, z, 0, false);
    peak = r->arena_peak;
    part = decode_slabs(f, z, 0, true);
    assert_true(r->arena_peak < 0.8 * (double)peak);
    assert_int_equal(part.frames, whole.frames);
    for (int64_t i = 0; i < part.frames * part.size; i++) {
        worst = fmax(worst, fabs((double)part.pixels[i] - (double)whole.pixels[i]));
        most = fmax(most, fabs((double)whole.pixels[i]));
    }
    assert_true(most > 0.1 && worst < 2e-5 * most);
    mem_free(whole.pixels);
    mem_free(part.pixels);
}

/* The encoder's resnets, of which some widen. */
static void test_slabs_of_encoder(void **state)
{
    struct fixture *f = *state;
    struct run *r = &f->run;
    struct tensor x, whole, part;
    float *a, *b;

    run_reset(r);
    x = op_randn(r, 10, 0, 4, SHAPE(13, 32, 24, 3));
    whole = vae_encode(r, f->vae, x, false);
    vae_set_slab(f->vae, 0);
    part = vae_encode(r, f->vae, x, false);
    vae_set_slab(f->vae, VAE_NET_SLAB);
    a = read_all(r, whole);
    b = read_all(r, part);
    assert_memory_equal(a, b, (size_t)tensor_count(whole) * sizeof(float));
    mem_free(a);
    mem_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_frame_encode),
        cmocka_unit_test(test_one_frame_encode_tiled),
        cmocka_unit_test(test_streaming_is_the_whole),
        cmocka_unit_test(test_one_latent_tile_is_skipped),
        cmocka_unit_test(test_tiles_behind_the_end_are_skipped),
        cmocka_unit_test(test_sample_repeats_moments),
        cmocka_unit_test(test_slabs_are_the_whole),
        cmocka_unit_test(test_compact),
        cmocka_unit_test(test_slabs_of_encoder),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
