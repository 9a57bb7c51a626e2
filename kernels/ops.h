/* ops.h -- THE list of what a network may do. Each op's comment is its specification.
 *
 * Every op: stops if the run already failed; checks shapes and dtypes once; takes the result from the arena; counts
 * flops and bytes; calls the table. Unless said otherwise results are new contiguous f32 tensors, x may be a strided
 * view whose last dimension is contiguous, sums are in f32 or wider, weights may be f32, bf16, f16 or (linear only)
 * F8E4M3 with scale, widened exactly to f32. "In place" ops return nothing and write their first tensor.
 * Letters: T frames, H W pixels or latents, C channels, S tokens, N out features, K in features, D head size.
 * Activations are channels-last: [T, H, W, C].
 *
 * To add an op: kernels/README.md.
 */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include "kernels/run.h"
#include "kernels/tensor.h"

enum act {
    ACT_NONE,
    ACT_RELU,       /* max(x, 0) */
    ACT_SILU,       /* x / (1 + exp(-x)) */
    ACT_GELU_TANH,  /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    ACT_GELU_ERF,   /* x/2 (1 + erf(x / sqrt 2)) */
    ACT_QUICK_GELU, /* x / (1 + exp(-1.702 x)) */
    ACT_SIGMOID,    /* 1 / (1 + exp(-x)) */
    ACT_COUNT
};

/* ---- linear ------------------------------------------------------------------------------------------------ */

/* y[..., N] = act(x[..., K] w[N, K]^T + b[N]);  b may be none.  flops 2 rows N K. */
struct tensor op_linear(struct run *r, struct tensor x, struct tensor w, struct tensor b, enum act act);
/* The same into dst [..., N] (f32, may be a strided view with contiguous last dimension, e.g. columns of a wider
 * one). */
void op_linear_into(struct run *r, struct tensor dst, struct tensor x, struct tensor w, struct tensor b,
                    enum act act);
/* x[S, N] += gate[N] * (h[S, K] w[N, K]^T + b), in place; gate and b may be none (gate 1). */
void op_linear_add(struct run *r, struct tensor x, struct tensor h, struct tensor w, struct tensor b,
                   struct tensor gate);

/* ---- norms ------------------------------------------------------------------------------------------------- */

/* (x - mean) / sqrt(var + eps) * w + b over the last dimension C; var is the biased one; w, b [C] may be none. */
struct tensor op_layer_norm(struct run *r, struct tensor x, struct tensor w, struct tensor b, float eps);
/* LN(x) without affine * (1 + scale[C]) + shift[C]. */
struct tensor op_layer_norm_mod(struct run *r, struct tensor x, struct tensor shift, struct tensor scale, float eps);
/* x / sqrt(mean(x^2) + eps) * w[C] over the last dimension. */
struct tensor op_rms_norm(struct run *r, struct tensor x, struct tensor w, float eps);
/* x [T, H, W, C]: mean and variance over (T, H, W, C/groups); then w[C], b[C], then act. */
struct tensor op_group_norm(struct run *r, struct tensor x, struct tensor w, struct tensor b, int groups, float eps,
                            enum act act);
/* The two halves of it. Of x [T, H, W, C], for each group: T H W, mean and variance, [groups, 3]. */
struct tensor op_group_stats(struct run *r, struct tensor x, int groups);
/* dst (as x, may be strided, may be x) = act((x - mean) / sqrt(var + eps) * w[C] + b[C]). stats [groups, 3], or
 * [n, groups, 3] of n pieces, which count as one tensor. x may be a part of what the statistics are of. */
void op_group_apply(struct run *r, struct tensor dst, struct tensor x, struct tensor stats, struct tensor w,
                    struct tensor b, float eps, enum act act);
/* (x - mean[C]) / sqrt(var[C] + eps) * w[C] + b[C] over the last dimension C (inference), then act. */
struct tensor op_batch_norm(struct run *r, struct tensor x, struct tensor w, struct tensor b, struct tensor mean,
                            struct tensor var, float eps, enum act act);

/* ---- attention and positions ------------------------------------------------------------------------------- */

enum attn_kind {
    ATTN_FULL,
    ATTN_CAUSAL,       /* query i sees keys j <= i + (Sk - Sq) */
    ATTN_BLOCK_CAUSAL, /* query i sees keys j with j/block <= i/block (VAE: block = tokens of a frame); Sq = Sk */
    ATTN_MASK,         /* mask u8 [Sq, Sk]: non-zero = seen. Every query must see at least one key */
};

struct attn {
    enum attn_kind kind;
    float scale;        /* usually 1/sqrt(D) */
    int64_t block;      /* ATTN_BLOCK_CAUSAL */
    struct tensor mask; /* ATTN_MASK */
};

/* y[B, Sq, Hq, D] = softmax(scale q k^T) v.  q [B, Sq, Hq, D], k, v [B, Sk, Hk, D]; Hq a multiple of Hk (grouped:
 * query head h uses key head h / (Hq/Hk)).  Strided views: last dimension contiguous.  D <= 1024.  flops 4 B Hq Sq Sk D
 * (the seen part of the causal kinds is counted as half). */
struct tensor op_attention(struct run *r, struct tensor q, struct tensor k, struct tensor v, struct attn a);

/* Interleaved 3-axis table of the DiT. cos and sin [n_frames*h*w, D/2] with D/2 = (dims[0]+dims[1]+dims[2])/2; token
 * order frame, y, x; frame f has t = f + t_first; angle of pair k of an axis of width d = pos * theta^(-2k/d), in f32
 * as the reference computes it (1/theta^(2k/d), times pos). */
void op_rope_table(struct run *r, int64_t n_frames, int64_t h, int64_t w, const int dims[3], float theta,
                   int64_t t_first, struct tensor *ret_cos, struct tensor *ret_sin);
/* In place on x [S, heads, D]: per head x / sqrt(mean x^2 + eps) * w[D] (w none: skipped), then for the first
 * cos.shape[0] rows out[2k] = a cos - b sin, out[2k+1] = b cos + a sin (cos none: skipped). */
void op_norm_rope(struct run *r, struct tensor x, struct tensor w, float eps, struct tensor cos, struct tensor sin);
/* In place on x [S, heads, D]: Llama's halves: pair (i, i + D/2), angle pos[s] * theta^(-2i/D). pos i32 [S]. */
void op_rope_halves(struct run *r, struct tensor x, struct tensor pos, float theta);

/* ---- convolution and pictures ------------------------------------------------------------------------------ */

struct conv {
    int stride[3];     /* t, y, x; 0 means 1 */
    int pad_before[3]; /* t, y, x */
    int pad_after[3];
    bool replicate;    /* pad with the edge value; otherwise zeros */
    int groups;        /* 0 means 1; = C for depthwise */
    enum act act;
};

/* x [T, H, W, Ci], w [Co, Ci/groups, kt, kh, kw] (checkpoint order; view conv2d and conv1d weights with ones in front:
 * [Co, Ci, 1, kh, kw], [Co, Ci, 1, 1, k]), b [Co] or none -> [To, Ho, Wo, Co], To = (T + pads - kt)/stride + 1. */
struct tensor op_conv(struct run *r, struct tensor x, struct tensor w, struct tensor b, const struct conv *c);
/* The same into dst, f32, contiguous: frames of a longer tensor. */
void op_conv_into(struct run *r, struct tensor dst, struct tensor x, struct tensor w, struct tensor b,
                  const struct conv *c);
/* 2-d max pooling on [T, H, W, C], size k x k; padding counts as -inf; ceil: partial windows at the end count, as in
 * PyTorch's ceil_mode. */
struct tensor op_max_pool(struct run *r, struct tensor x, int k, int stride, int pad, bool ceil);
/* Nearest: every frame, row and column ft, fh, fw times. first_once: frame 0 is enlarged in space only
 * (T -> ft(T-1)+1). */
struct tensor op_upsample(struct run *r, struct tensor x, int ft, int fh, int fw, bool first_once);
/* (x/div - mean[c]) / std[c] of u8 x [..., C]; mean, std host arrays of C. */
struct tensor op_normalize(struct run *r, struct tensor x, float div, const float *mean, const float *std);
/* u8 = trunc(255 clamp(x/2 + 0.5, 0, 1)). */
struct tensor op_to_u8(struct run *r, struct tensor x);
/* Frames for a video encoder: x f32 [n, H, W, 3] in [-1, 1] (RGB; H, W even) -> u8 [n, 3H/2, W], I420: H rows of Y, then U
 * packed, then V packed, H/2 x W/2 each. BT.709, limited range, rounded once; chroma is the mean of its 2 x 2 pixels (sited in
 * their centre). q = trunc(16384 clamp(x/2 + 0.5, 0, 1) + 0.5), NaN 0, and from there integers: yuv.h. */
struct tensor op_to_yuv420(struct run *r, struct tensor x);
/* f32 [H, W] (multiples of 8) -> [H/8, W/8]: mean of the pixels (8i+3, 8i+4) x (8j+3, 8j+4). */
struct tensor op_mask_down(struct run *r, struct tensor mask);

/* ---- elements ---------------------------------------------------------------------------------------------- */

void op_act(struct run *r, struct tensor x, enum act act);              /* in place */
void op_act_mul(struct run *r, struct tensor a, struct tensor b, enum act act); /* a = act(a) * b, in place (SwiGLU) */
/* x += y, in place. y's shape equals x's trailing dimensions (broadcast over the leading ones). */
void op_add(struct run *r, struct tensor x, struct tensor y);
/* x[S, C] += gate[C] * y[S, C], in place. */
void op_add_gated(struct run *r, struct tensor x, struct tensor y, struct tensor gate);
/* x[T, P, C] += mask[P] * y[T, P, C], in place. */
void op_add_masked(struct run *r, struct tensor x, struct tensor y, struct tensor mask);
void op_scale(struct run *r, struct tensor x, float mul, float add);    /* x = mul x + add, in place */
void op_fill(struct run *r, struct tensor x, float value);
/* Rounds f32 x to the grid of dtype (bf16 or f16), half to even, in place. */
void op_round(struct run *r, struct tensor x, enum dtype dtype);
/* [n, dim]: [cos(t f), sin(t f)], f_k = exp(-ln(10000) k/(dim/2)); t a host array of n. */
struct tensor op_timestep(struct run *r, const float *t, int n, int dim);
/* [C] = sum over s of mask[s] x[s, C] / sum of mask; mask f32 [S]. */
struct tensor op_mean_rows(struct run *r, struct tensor x, struct tensor mask);

/* ---- moving ------------------------------------------------------------------------------------------------ */

/* New contiguous copy of any view, converted to dtype. */
struct tensor op_copy(struct run *r, struct tensor x, enum dtype dtype);
/* dst = x, same shape, any strides, dst's dtype. */
void op_copy_into(struct run *r, struct tensor dst, struct tensor x);
struct tensor op_concat(struct run *r, const struct tensor *list, int n, int dim);
/* Rows idx of dimension dim: idx i32 [n] (on the device). Any float x, result f32 (embedding look-up: dim 0 of the
 * table). An index outside the dimension is ERR_SHAPE on host devices. */
struct tensor op_gather(struct run *r, struct tensor x, int dim, struct tensor idx);
/* dst[.., idx[i], ..] += src[.., i, ..] along dim, in order of i, in place. */
void op_scatter_add(struct run *r, struct tensor dst, int dim, struct tensor idx, struct tensor src);
/* [C, T, h, w] -> [T*(h/2)*(w/2), C*4], token order frame, row, column; inside a token (c, dy, dx), c slowest. */
struct tensor op_patchify(struct run *r, struct tensor x);
/* The way back: [T*(h/2)*(w/2), C*4] -> [C, T, h, w]. */
struct tensor op_unpatchify(struct run *r, struct tensor x, int64_t T, int64_t h, int64_t w);

/* ---- sampler and VAE --------------------------------------------------------------------------------------- */

/* Standard normal, Philox4x32-10 and Box-Muller: element i of stream s under seed is the same on every device (the
 * formula is in kernels/cpu/ref_random.c). */
struct tensor op_randn(struct run *r, uint64_t seed, uint32_t stream, int n_dims, const int64_t *shape);
/* x += dt (v0 + g (v1 - v0)), in place, f32; v1 none: x += dt v0. */
void op_euler(struct run *r, struct tensor x, struct tensor v0, struct tensor v1, float g, float dt);
/* scale (mean + exp(clamp(logvar, -30, 20)/2) noise). mean, logvar may be broadcast views (stride 0). */
struct tensor op_gauss(struct run *r, struct tensor mean, struct tensor logvar, struct tensor noise, float scale);
/* In place on b, along dim, k < n: b[k] = a[end - n + k] (1 - k/n) + b[k] k/n. a, b alike but for dim. */
void op_blend(struct run *r, struct tensor b, struct tensor a, int dim, int64_t n);

/* ---- sound ------------------------------------------------------------------------------------------------- */

/* Whisper's log mel of wave f32 [n] (n a multiple of 160; 480000 real): reflect pad 200, frames of 400 every 160, Hann
 * (periodic), 201-bin power, filters f32 [n_mels, 201], log10(max(., 1e-10)), max(., global max - 8), (. + 4)/4
 * -> [n/160, n_mels] (time first). */
struct tensor op_log_mel(struct run *r, struct tensor wave, struct tensor filters);

#endif
