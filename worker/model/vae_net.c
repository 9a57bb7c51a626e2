/* The VAE's two networks. Numbers of the flow for a latent tile [t, h, w, 16] of the published model:
 *
 *     1. post_quant_conv, conv_in                              [t, h, w, 512]
 *     2. mid                                                   [t, h, w, 512]
 *     3. level 0: 3 resnets, up (1,2,2)                        [t, 2h, 2w, 512]
 *     4. level 1: 3 resnets, up (2,2,2), frame 0 once          [2t-1, 4h, 4w, 512]
 *     5. level 2: 3 resnets to 256, up (2,2,2)                 [4t-3, 8h, 8w, 256]
 *     6. level 3: 3 resnets to 128                             [4t-3, 8h, 8w, 128]
 *     7. GroupNorm, silu, conv_out                             [4t-3, 8h, 8w, 3]
 *
 * The encoder is the mirror image with 2 resnets a level. Everything stays channels-last; residuals are
 * summed in place; scratch of a block is given back as soon as its result stands.
 */
#include "worker/model/vae_net.h"

#include <math.h>
#include <stdio.h>

#include "kernels/ops.h"
#include "kernels/pool.h"
#include "worker/model/vae_slab.h"

/* ---- binding ---- */

#define VAE_NET_BIND(field, name, n_dims, ...)                                                               \
    binder_bindf(b, &w->field, n_dims, SHAPE(__VA_ARGS__), "%s." name, at);

static void vae_net_bind_resnet(struct binder *b, struct vae_resnet *w, const char *at, int64_t ci,
                                int64_t co)
{
    VAE_NET_RESNET(VAE_NET_BIND)
    if (ci != co) {
        VAE_NET_SHORTCUT(VAE_NET_BIND)
    }
}

static void vae_net_bind_mid(struct binder *b, struct vae_half *h, const char *half, int64_t co)
{
    struct vae_attention *w = &h->attention;
    char at[96];

    for (int i = 0; i < 2; i++) {
        snprintf(at, sizeof(at), "%s.mid_block.resnets.%d", half, i);
        vae_net_bind_resnet(b, &h->mid[i], at, co, co);
    }
    snprintf(at, sizeof(at), "%s.mid_block.attentions.0", half);
    VAE_NET_ATTENTION(VAE_NET_BIND)
}

/* kind: "down" or "up". */
static void vae_net_bind_level(struct binder *b, struct vae_level *l, const char *half, const char *kind,
                               int i, int64_t ci, int64_t co)
{
    char at[96];

    for (int k = 0; k < l->n_resnets; k++) {
        snprintf(at, sizeof(at), "%s.%s_blocks.%d.resnets.%d", half, kind, i, k);
        vae_net_bind_resnet(b, &l->resnet[k], at, k == 0 ? ci : co, co);
    }
    if (l->has_scale) {
        binder_bindf(b, &l->scale_w, 5, SHAPE(co, co, 3, 3, 3), "%s.%s_blocks.%d.%ssamplers.0.conv.conv.weight",
              half, kind, i, kind);
        binder_bindf(b, &l->scale_b, 1, SHAPE(co), "%s.%s_blocks.%d.%ssamplers.0.conv.conv.bias", half, kind, i,
              kind);
    }
}

static void vae_net_bind_ends(struct binder *b, struct vae_half *w, const char *at, int64_t ci, int64_t c_in,
                              int64_t c_out, int64_t co)
{
    VAE_NET_ENDS(VAE_NET_BIND)
}

static void vae_net_bind_half(struct binder *b, struct vae_half *h, const struct vae_config *c,
                              bool is_encoder)
{
    const char *name = is_encoder ? "encoder" : "decoder", *kind = is_encoder ? "down" : "up";
    const char *quant = is_encoder ? "quant_conv" : "post_quant_conv";
    int64_t z = c->latent_channels, top = c->channels[c->n_levels - 1];
    int64_t first = is_encoder ? c->channels[0] : top, at = first, q = is_encoder ? 2 * z : z;

    h->n_levels = c->n_levels;
    for (int i = 0; i < c->n_levels; i++) {
        struct vae_level *l = &h->level[i];
        int64_t co = c->channels[is_encoder ? i : c->n_levels - 1 - i];
        l->n_resnets = c->layers + (is_encoder ? 0 : 1);
        l->has_scale = vae_config_strides(c, i, l->factor);
        vae_net_bind_level(b, l, name, kind, i, at, co);
        at = co;
    }
    vae_net_bind_mid(b, h, name, top);
    vae_net_bind_ends(b, h, name, is_encoder ? c->in_channels : z, first, at,
                      is_encoder ? 2 * z : c->in_channels);
    binder_bindf(b, &h->quant_w, 5, SHAPE(q, q, 1, 1, 1), "%s.weight", quant);
    binder_bindf(b, &h->quant_b, 1, SHAPE(q), "%s.bias", quant);
}

int vae_net_bind(struct vae_net *n, const struct vae_config *config, struct ckpt *c, struct device *device,
                 struct err *err)
{
    struct binder b;

    *n = (struct vae_net){.config = *config, .slab = VAE_NET_SLAB};
    binder_init(&b, c, device, "vae");
    n->pool = ckpt_place(c)->pool;
    n->encoder.place = b.block;
    vae_net_bind_half(&b, &n->encoder, config, true);
    n->decoder.place = binder_block(&b, "vae decoder", 0);
    vae_net_bind_half(&b, &n->decoder, config, false);
    return binder_finish(&b, true, err);
}

/* ---- blocks ---- */

/* y, the newest tensor, moved down to mark if the space between holds it: everything allocated since mark but
 * y is free again. It stays where it is if it would overlap itself. */
static struct tensor vae_net_settle(struct run *r, size_t mark, size_t y_mark, struct tensor y)
{
    struct tensor t = y;

    if (tensor_bytes(y) > y_mark - mark)
        return y;
    run_rewind(r, mark);
    t = run_new(r, y.dtype, y.n_dims, y.shape);
    op_copy_into(r, t, y);
    return t;
}

struct tensor vae_net_conv(struct run *r, struct tensor x, struct tensor w, struct tensor b,
                           const int *strides)
{
    struct conv c = {.pad_before = {2, 1, 1}, .pad_after = {0, 1, 1}, .replicate = true};

    for (int i = 0; strides != NULL && i < 3; i++)
        c.stride[i] = strides[i];
    return op_conv(r, x, w, b, &c);
}

/* 1x1x1 convolution: a linear layer over the channels. */
static struct tensor vae_net_pointwise(struct run *r, struct tensor x, struct tensor w, struct tensor b)
{
    return op_linear(r, x, tensor_view(w, 2, SHAPE(w.shape[0], w.shape[1])), b, ACT_NONE);
}

struct tensor vae_net_resnet(struct run *r, const struct vae_net *n, const struct vae_resnet *w,
                             struct tensor x)
{
    if (vae_slab_wanted(n, x))
        return vae_slab_resnet(r, n, w, x);
    int groups = n->config.groups;
    struct tensor y = tensor_is_none(w->short_w) ? x : vae_net_pointwise(r, x, w->short_w, w->short_b);
    size_t mark = run_mark(r), at;
    struct tensor h = op_group_norm(r, x, w->norm1_w, w->norm1_b, groups, VAE_NET_EPS, ACT_SILU);

    at = run_mark(r);
    h = vae_net_settle(r, mark, at, vae_net_conv(r, h, w->conv1_w, w->conv1_b, NULL));
    h = op_group_norm(r, h, w->norm2_w, w->norm2_b, groups, VAE_NET_EPS, ACT_SILU);
    h = vae_net_conv(r, h, w->conv2_w, w->conv2_b, NULL);
    op_add(r, y, h);
    run_rewind(r, mark);
    return y;
}

static void vae_net_attention(struct run *r, const struct vae_net *n, const struct vae_attention *w,
                              bool causal, struct tensor x)
{
    int64_t s = tensor_rows(x), c = tensor_dim(x, -1);
    struct attn a = {.kind = causal ? ATTN_BLOCK_CAUSAL : ATTN_FULL,
                     .scale = 1.0f / sqrtf((float)c),
                     .block = x.shape[1] * x.shape[2]};
    size_t mark = run_mark(r);
    struct tensor h = op_group_norm(r, x, w->norm_w, w->norm_b, n->config.groups, VAE_NET_EPS, ACT_NONE);
    struct tensor rows = tensor_view(x, 2, SHAPE(s, c));
    struct tensor q, k, v, o;

    h = tensor_view(h, 4, SHAPE(1, s, 1, c));
    q = op_linear(r, h, w->q_w, w->q_b, ACT_NONE);
    k = op_linear(r, h, w->k_w, w->k_b, ACT_NONE);
    v = op_linear(r, h, w->v_w, w->v_b, ACT_NONE);
    o = op_attention(r, q, k, v, a);
    op_linear_add(r, rows, tensor_view(o, 2, SHAPE(s, c)), w->out_w, w->out_b, TENSOR_NONE);
    run_rewind(r, mark);
}

struct tensor vae_net_mid(struct run *r, const struct vae_net *n, const struct vae_half *h, bool causal,
                          struct tensor x)
{
    run_push(r, "mid");
    x = vae_net_resnet(r, n, &h->mid[0], x);
    vae_net_attention(r, n, &h->attention, causal, x);
    x = vae_net_resnet(r, n, &h->mid[1], x);
    run_pop(r);
    return x;
}

struct tensor vae_net_down(struct run *r, const struct vae_level *l, struct tensor x)
{
    return vae_net_conv(r, x, l->scale_w, l->scale_b, l->factor);
}

struct tensor vae_net_up(struct run *r, const struct vae_level *l, struct tensor x)
{
    size_t mark = run_mark(r), at;
    struct tensor h = op_upsample(r, x, l->factor[0], l->factor[1], l->factor[2], true);

    at = run_mark(r);
    return vae_net_settle(r, mark, at, vae_net_conv(r, h, l->scale_w, l->scale_b, NULL));
}

/* x begins at *at and is the newest tensor; so is the result, which takes its place if it can. */
static struct tensor vae_net_step(struct run *r, const struct vae_net *n, const struct vae_resnet *w, struct tensor x,
                                  size_t *at)
{
    bool packs = vae_slab_wanted(n, x) && vae_slab_packs(w);
    size_t end = run_mark(r), start = *at;
    struct tensor y = vae_net_resnet(r, n, w, x);

    if (tensor_is_none(w->short_w))
        return y;
    if (packs) {
        run_rewind(r, start);
        return run_new(r, y.dtype, y.n_dims, y.shape);
    }
    if (tensor_bytes(y) > end - start)
        *at = end;
    return vae_net_settle(r, start, end, y);
}

/* The level's resnets from the first on. */
static struct tensor vae_net_level(struct run *r, const struct vae_net *n, const struct vae_level *l, int first,
                                   struct tensor x, size_t *at)
{
    for (int k = first; k < l->n_resnets; k++)
        x = vae_net_step(r, n, &l->resnet[k], x, at);
    return x;
}

static struct tensor vae_net_tail(struct run *r, const struct vae_net *n, const struct vae_half *h,
                                  struct tensor x)
{
    if (vae_slab_wanted(n, x))
        return vae_slab_tail(r, n, h, x);
    x = op_group_norm(r, x, h->norm_out_w, h->norm_out_b, n->config.groups, VAE_NET_EPS, ACT_SILU);
    return vae_net_conv(r, x, h->conv_out_w, h->conv_out_b, NULL);
}

/* ---- the two halves ---- */

struct tensor vae_net_encode(struct run *r, const struct vae_net *n, struct tensor x)
{
    const struct vae_half *h = &n->encoder;
    size_t at = run_mark(r);

    run_push(r, "vae.encoder");
    pool_take(r, n->pool, h->place);
    x = vae_net_conv(r, x, h->conv_in_w, h->conv_in_b, NULL);
    for (int i = 0; i < h->n_levels; i++) {
        run_push(r, "level %d", i);
        x = vae_net_level(r, n, &h->level[i], 0, x, &at);
        if (h->level[i].has_scale) {
            at = run_mark(r);
            x = vae_net_down(r, &h->level[i], x);
        }
        run_pop(r);
    }
    x = vae_net_mid(r, n, h, n->config.mid_causal, x);
    x = vae_net_tail(r, n, h, x);
    x = vae_net_pointwise(r, x, h->quant_w, h->quant_b);
    run_pop(r);
    return x;
}

/* From the end of level i to the next one, of which *ret_first resnets are done too. at: as in vae_net_step. */
static struct tensor vae_net_rise(struct run *r, const struct vae_net *n, int i, struct tensor x, size_t *at, int *ret_first)
{
    const struct vae_level *l = &n->decoder.level[i];
    const struct vae_resnet *next = i + 1 < n->decoder.n_levels ? &n->decoder.level[i + 1].resnet[0] : NULL;

    bool joins = next != NULL && vae_slab_joins(n, l, next, x);

    if (!joins && vae_slab_up_wanted(n, l, x))
        return vae_slab_up(r, n, l, x, *at);
    *at = run_mark(r);
    *ret_first = joins;
    return joins ? vae_slab_up_resnet(r, n, l, next, x) : vae_net_up(r, l, x);
}

struct tensor vae_net_decode(struct run *r, const struct vae_net *n, struct tensor z)
{
    const struct vae_half *h = &n->decoder;
    struct tensor x;
    size_t at;
    int first = 0;

    run_push(r, "vae.decoder");
    pool_take(r, n->pool, h->place);
    x = vae_net_pointwise(r, z, h->quant_w, h->quant_b);
    at = run_mark(r);
    x = vae_net_conv(r, x, h->conv_in_w, h->conv_in_b, NULL);
    x = vae_net_mid(r, n, h, n->config.mid_causal, x);
    for (int i = 0; i < h->n_levels; i++) {
        run_push(r, "level %d", i);
        x = vae_net_level(r, n, &h->level[i], first, x, &at);
        first = 0;
        if (h->level[i].has_scale)
            x = vae_net_rise(r, n, i, x, &at, &first);
        run_pop(r);
    }
    x = vae_net_tail(r, n, h, x);
    run_pop(r);
    return x;
}
