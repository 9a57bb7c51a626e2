/* golden_vae.c -- vae.*: blocks of the real module tree, encode and decode with and without tiles. */
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/comm/comm.h"
#include "kernels/ops.h"
#include "tests/golden/golden.h"
#include "worker/model/vae.h"

/* The VAE of the case's checkpoint, open for one case. */
struct golden_vae {
    struct ckpt *ckpt;
    struct vae *vae;
};

static bool golden_vae_open(struct golden *g, struct golden_vae *v)
{
    struct vae_config config;
    char dir[1024], path[1200];
    bool ok;

    *v = (struct golden_vae){0};
    str_path(dir, sizeof(dir), g->ckpts, "hunyuan-video-t2v-720p/vae");
    str_path(path, sizeof(path), dir, "config.json");
    if (vae_config_read(path, &config, &g->err) < 0)
        return false;
    str_path(path, sizeof(path), dir, "pytorch_model.pt");
    ok = ckpt_open(&v->ckpt, path, &g->err) == 0 &&
         vae_open(&v->vae, &config, v->ckpt, g->device, &g->err) == 0;
    if (ok && g->compact) {
        vae_set_compact(v->vae, true);
        vae_set_slab(v->vae, 0); /* all tensors are large */
    }
    return ok;
}

static void golden_vae_close(struct golden *g, struct golden_vae *v)
{
    device_forget(g->device, NULL, SIZE_MAX);
    vae_close(v->vae);
    ckpt_close(v->ckpt);
}

/* Stored [1, C, T, H, W] -> [T, H, W, C]. */
static struct tensor golden_vae_in(struct golden *g, const char *name)
{
    struct tensor t = golden_in(g, name);

    if (run_failed(g->run) || g->err.code != 0 || t.n_dims != 5) {
        golden_fail(g, "%s: a tensor of 5 dimensions was expected", name);
        return TENSOR_NONE;
    }
    return op_copy(g->run, tensor_permute(tensor_at(t, 0, 0), (const int[]){1, 2, 3, 0}), DTYPE_F32);
}

static void golden_vae_check(struct golden *g, const char *name, struct tensor y)
{
    if (!run_failed(g->run) && y.n_dims == 4)
        golden_check(g, name, tensor_permute(y, (const int[]){3, 0, 1, 2}));
    else
        golden_fail(g, "%s: no result", name);
}

typedef void golden_vae_fn(struct golden *g, const struct vae *v, const struct vae_net *n);

static void golden_vae_with(struct golden *g, golden_vae_fn *fn)
{
    struct golden_vae v;

    if (golden_vae_open(g, &v))
        fn(g, v.vae, vae_get_net(v.vae));
    golden_vae_close(g, &v);
}

/* ---- blocks ---- */

static void golden_vae_conv_fn(struct golden *g, const struct vae *v, const struct vae_net *n)
{
    struct tensor x = golden_vae_in(g, "in.x");

    (void)v;
    if (!tensor_is_none(x))
        golden_vae_check(g, "out.y",
                         vae_net_conv(g->run, x, n->decoder.conv_out_w, n->decoder.conv_out_b, NULL));
}

static void golden_vae_resnet_fn(struct golden *g, const struct vae *v, const struct vae_net *n)
{
    struct tensor x = golden_vae_in(g, "in.x");

    (void)v;
    if (!tensor_is_none(x))
        golden_vae_check(g, "out.y", vae_net_resnet(g->run, n, &n->encoder.level[1].resnet[0], x));
}

/* down0, up2: the level is the last character of the case's name; its factors are in the twin. */
static const struct vae_level *golden_vae_level(struct golden *g, const struct vae_half *h, const char *key)
{
    size_t len = strlen(g->name);
    int64_t i = -1;
    json_t *list = golden_param_json(g, key);

    if (len == 0 || str_parse_i64(g->name + len - 1, 0, h->n_levels - 1, &i) < 0 || !h->level[i].has_scale) {
        golden_fail(g, "the name must end with a level that has a scale");
        return NULL;
    }
    for (size_t k = 0; k < 3; k++) {
        if (json_integer_value(json_array_get(list, k)) != h->level[i].factor[k]) {
            golden_fail(g, "%s: ours is %d %d %d", key, h->level[i].factor[0], h->level[i].factor[1],
                        h->level[i].factor[2]);
            return NULL;
        }
    }
    return &h->level[i];
}

static void golden_vae_down_fn(struct golden *g, const struct vae *v, const struct vae_net *n)
{
    const struct vae_level *l = golden_vae_level(g, &n->encoder, "stride");
    struct tensor x = golden_vae_in(g, "in.x");

    (void)v;
    if (l != NULL && !tensor_is_none(x))
        golden_vae_check(g, "out.y", vae_net_down(g->run, l, x));
}

static void golden_vae_up_fn(struct golden *g, const struct vae *v, const struct vae_net *n)
{
    const struct vae_level *l = golden_vae_level(g, &n->decoder, "factor");
    struct tensor x = golden_vae_in(g, "in.x");

    (void)v;
    if (l != NULL && !tensor_is_none(x))
        golden_vae_check(g, "out.y", vae_net_up(g->run, l, x));
}

static void golden_vae_mid_fn(struct golden *g, const struct vae *v, const struct vae_net *n)
{
    static const char *const names[2] = {"out.full", "out.causal"};

    (void)v;
    for (int causal = 0; causal < 2; causal++) {
        struct tensor x = golden_vae_in(g, "in.x"); /* the block may write it */
        if (!tensor_is_none(x))
            golden_vae_check(g, names[causal], vae_net_mid(g->run, n, &n->decoder, causal != 0, x));
    }
}

/* ---- encode, decode ---- */

static void golden_vae_encode_all(struct golden *g, const struct vae *v, bool tiled)
{
    int64_t c = vae_get_net(v)->config.latent_channels;
    struct tensor x = golden_vae_in(g, "in.x"), noise = golden_in(g, "in.noise"), m, z;

    if (tensor_is_none(x) || noise.n_dims != 5)
        return;
    m = vae_encode(g->run, v, x, tiled);
    if (run_failed(g->run))
        return;
    golden_vae_check(g, "mid.mean", tensor_slice(m, 3, 0, c));
    z = op_copy(g->run, tensor_slice(m, 3, c, c), DTYPE_F32);
    golden_vae_check(g, "mid.logvar", z);
    golden_check(g, "out.z", vae_sample(g->run, v, m, tensor_at(noise, 0, 0), 1.0f));
}

static void golden_vae_encode_fn(struct golden *g, const struct vae *v, const struct vae_net *n)
{
    (void)n;
    golden_vae_encode_all(g, v, false);
}

static void golden_vae_encode_tiled_fn(struct golden *g, const struct vae *v, const struct vae_net *n)
{
    (void)n;
    golden_vae_encode_all(g, v, true);
}

/* A decoded video on the host, [frames, H, W, 3]. */
struct golden_vae_video {
    float *pixels; /* owned */
    int64_t frames, height, width, channels;
};

static int golden_vae_take(void *arg, struct run *r, struct tensor y)
{
    struct golden_vae_video *v = arg;
    int64_t size = y.shape[1] * y.shape[2] * y.shape[3];
    float *more = mem_realloc(v->pixels, (size_t)((v->frames + y.shape[0]) * size) * sizeof(float));

    if (more == NULL)
        return ERR_NOMEM;
    v->pixels = more;
    v->height = y.shape[1];
    v->width = y.shape[2];
    v->channels = y.shape[3];
    v->frames += y.shape[0];
    return run_read(r, y, v->pixels + (v->frames - y.shape[0]) * size);
}

static float golden_vae_at(const struct golden_vae_video *v, int64_t c, int64_t t, int64_t i)
{
    return v->pixels[(t * v->height * v->width + i) * v->channels + c];
}

/* out.x whole, or out.frames (the frames in.frames names) with out.mean and out.std of every frame and
 * channel. */
static void golden_vae_check_video(struct golden *g, const struct golden_vae_video *v)
{
    bool whole = golden_has(g, "out.x");
    struct tensor list = whole ? TENSOR_NONE : golden_host(g, "in.frames");
    int64_t area = v->height * v->width, n = whole ? v->frames : tensor_count(list), at = 0;
    float *y = mem_calloc((size_t)(v->channels * n * area), sizeof(float));
    float *mean = mem_calloc((size_t)(v->channels * v->frames), sizeof(float));
    float *std = mem_calloc((size_t)(v->channels * v->frames), sizeof(float));

    for (int64_t c = 0; c < v->channels; c++) {
        for (int64_t k = 0; k < n; k++) {
            int64_t t = whole ? k : ((const int64_t *)list.data)[k];
            for (int64_t i = 0; i < area && t >= 0 && t < v->frames; i++)
                y[at++] = golden_vae_at(v, c, t, i);
        }
        for (int64_t t = 0; t < v->frames; t++) {
            double sum = 0, square = 0, m;
            for (int64_t i = 0; i < area; i++)
                sum += (double)golden_vae_at(v, c, t, i);
            m = sum / (double)area;
            for (int64_t i = 0; i < area; i++)
                square += ((double)golden_vae_at(v, c, t, i) - m) * ((double)golden_vae_at(v, c, t, i) - m);
            mean[c * v->frames + t] = (float)m;
            std[c * v->frames + t] = (float)sqrt(square / (double)(area - 1));
        }
    }
    golden_check_host(g, whole ? "out.x" : "out.frames", y, at);
    if (!whole) {
        golden_check_host(g, "out.mean", mean, v->channels * v->frames);
        golden_check_host(g, "out.std", std, v->channels * v->frames);
    }
    mem_free(y);
    mem_free(mean);
    mem_free(std);
}

static void golden_vae_decode_all(struct golden *g, const struct vae *v, bool tiled)
{
    struct golden_vae_video video = {0};
    struct tensor z = golden_vae_in(g, "in.z");

    if (!tensor_is_none(z) && vae_decode(g->run, v, z, tiled, 0, golden_vae_take, &video) == 0) {
        if (g->run->group == NULL || g->run->group->rank == 0) /* the others are given no frames */
            golden_vae_check_video(g, &video);
    } else {
        golden_fail(g, "decode failed");
    }
    mem_free(video.pixels);
}

static void golden_vae_decode_fn(struct golden *g, const struct vae *v, const struct vae_net *n)
{
    (void)n;
    golden_vae_decode_all(g, v, false);
}

static void golden_vae_decode_tiled_fn(struct golden *g, const struct vae *v, const struct vae_net *n)
{
    (void)n;
    golden_vae_decode_all(g, v, true);
}

#define GOLDEN_VAE_CASE(stem)                                                                                \
    static void golden_vae_##stem(struct golden *g)                                                          \
    {                                                                                                        \
        golden_vae_with(g, golden_vae_##stem##_fn);                                                          \
    }
GOLDEN_VAE_CASE(conv)
GOLDEN_VAE_CASE(resnet)
GOLDEN_VAE_CASE(down)
GOLDEN_VAE_CASE(up)
GOLDEN_VAE_CASE(mid)
GOLDEN_VAE_CASE(encode)
GOLDEN_VAE_CASE(encode_tiled)
GOLDEN_VAE_CASE(decode)
GOLDEN_VAE_CASE(decode_tiled)

const struct golden_kind golden_vae_kinds[] = {
    {"vae.conv", golden_vae_conv},
    {"vae.resnet", golden_vae_resnet},
    {"vae.down", golden_vae_down},
    {"vae.up", golden_vae_up},
    {"vae.mid", golden_vae_mid},
    {"vae.encode", golden_vae_encode},
    {"vae.encode_tiled", golden_vae_encode_tiled},
    {"vae.decode", golden_vae_decode, true},
    {"vae.decode_tiled", golden_vae_decode_tiled, true},
    {NULL, NULL},
};
