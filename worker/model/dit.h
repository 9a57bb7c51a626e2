/* dit.h -- the transformer's dims and weights: read from a checkpoint, bound by name and shape.
 *
 *     struct dit *d;
 *     if ((rc = dit_open(&d, ckpt, device, &err)) < 0) ...      (device NULL: planning, weights without data)
 *     ...
 *     dit_close(d);
 *
 * The fp8 file binds the same way: its weights carry their scale (ckpt_open_fp8). After dit_open nothing here is
 * written but by dit_set_compact. What is computed is in dit_cond.h (all that does not depend on the latents),
 * dit_block.h (blocks) and dit_denoise.h (a whole prediction).
 *
 * Shape letters of all dit files: T latent frames of a window, P = (h/2)(w/2) tokens a frame, N = (T+1) P
 * image tokens (a frame of the picture in front), n text tokens, M = N + n, H hidden, D head width.
 *
 * Source: HunyuanVideo-Avatar, models_audio.py, audio_adapters.py, token_refiner.py.
 */
#ifndef WORKER_MODEL_DIT_H
#define WORKER_MODEL_DIT_H

#include "common/err.h"
#include "kernels/device.h"
#include "kernels/pool.h"
#include "kernels/tensor.h"
#include "worker/model/ckpt.h"

enum {
    DIT_FREQS = 256,     /* width of the sinusoids */
    DIT_AUDIO_GROUP = 4, /* audio frames of a latent frame */
    DIT_REFINER_BLOCKS = 2,
};

struct dit_dims {
    int64_t channels; /* of latents, 16 */
    int64_t hidden;   /* H */
    int64_t head;     /* D */
    int64_t heads;
    int64_t mlp;          /* 4H */
    int64_t text, text2;  /* widths of the text states and of the pooled text */
    int64_t audio;        /* window x layers x width of an audio frame */
    int64_t audio_inner;  /* of audio_proj */
    int64_t audio_tokens; /* of an audio frame, 4 */
    int64_t inner;        /* of the adapters */
    int rope[3];          /* channels of a head turned by t, y, x */
    int n_double, n_single, n_adapters;
};

struct dit_linear {
    struct tensor w, b; /* [out, in], [out] */
};
struct dit_embedder {
    struct dit_linear in, out; /* out(silu(in(x))) */
};
struct dit_stream {
    struct dit_linear mod, qkv, proj, fc1, fc2;
    struct tensor q_norm, k_norm;
};
struct dit_double {
    struct dit_stream img, txt;
};
struct dit_single {
    struct dit_linear mod, linear1, linear2;
    struct tensor q_norm, k_norm;
};
struct dit_adapter {
    struct dit_linear norm1, norm2; /* of the sound, of the image */
    struct tensor to_q, to_kv, to_out;
};
struct dit_refiner {
    struct dit_linear norm1, qkv, proj, norm2, fc1, fc2, gates;
};

/* Blocks of the pool by who reads them (kernels/pool.h). Unit u: double block u, then the single blocks; adapter a, which
 * follows double block 2a + 1, is with the unit behind it. The modulation layers are read once a video: mods[0] is that of the
 * last single block and the final layer, mods[1 + u] that of unit u. Not streamed: many of them are the same block. */
struct dit_places {
    int front;   /* image embedding, final layer */
    int prepare; /* read once a video, but for modulation: times, text, sound */
    int refiner; /* what dit_cond_refine reads */
    int *mods;   /* owned */
    int *units;  /* owned */
};

struct dit {
    struct dit_dims dims;
    struct pool *pool; /* borrowed; NULL: all weights are there */
    struct dit_places place;
    struct dit_linear img_in, ref_in,
        before; /* the first two as linear layers over patches [H, 4 channels] */
    struct dit_linear text_in;
    struct dit_embedder text_time, text_context;
    struct dit_refiner refiner[DIT_REFINER_BLOCKS];
    struct dit_embedder time, vector, motion_exp, motion_pose, fps;
    struct dit_linear audio1, audio2, audio3, audio_norm;
    struct dit_linear final_mod, final;
    struct dit_double *doubles;   /* owned */
    struct dit_single *singles;   /* owned */
    struct dit_adapter *adapters; /* owned; adapter a follows double block 2a + 1 */
    bool compact;
};

int dit_units(const struct dit *d); /* double and single blocks */
int dit_adapter_before(const struct dit *d, int unit); /* the adapter that comes before the unit, or -1 */
/* Strict: one ERR_WEIGHTS lists all that is missing, misshapen or left over. The checkpoint's mapping must
 * outlive d. */
int dit_open(struct dit **ret, struct ckpt *c, struct device *device, struct err *err);
void dit_close(struct dit *d);
/* Compact: forwards take about half the memory for a little more time; the results are the same. To be set before a
 * video's dit_cond_picture and left alone until its last forward. Where a window's tokens are spread over ranks
 * (dit_share.h) attention stays as it is. */
void dit_set_compact(struct dit *d, bool on);

#endif
