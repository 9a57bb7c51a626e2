/* whisper.h -- sound to audio features: Whisper's log mel and encoder, and the window of states that a video
 * frame sees.
 *
 *     struct whisper *w;
 *     if ((rc = whisper_open(&w, &config, ckpt, device, err)) < 0) ...       ckpt stays until whisper_close
 *     struct tensor states = whisper_encode(r, w, samples, n);               [1500 pieces, 5, C]
 *     struct tensor y = whisper_windows(r, states, n_frames, 25, n_total);   [n_total, 10, 5, C]
 *     whisper_close(w);
 *
 * Flow of a piece of 30 s (tiny: C 384, 4 layers, 6 heads, MLP 1536):
 *     1. 480000 samples, zeros behind the end -> log mel                     [3000, 80]
 *     2. gelu(conv 3), gelu(conv 3 every 2), + positions                     [1500, C]
 *     3. layers; every row sees all 1500
 *     4. five states a row: before the layers, after layers 1, 2, 3, and after the last one and its LayerNorm
 * Longer sound is cut into pieces of 30 s, each with its own maximum and its own attention. The reference
 * only uses the first piece.
 *
 * Source: Radford et al. 2022, arXiv 2212.04356; transformers 4.45 modeling_whisper.py; the windows are
 * HunyuanVideo-Avatar's get_audio_feature and encode_audio.
 */
#ifndef WORKER_MODEL_WHISPER_H
#define WORKER_MODEL_WHISPER_H

#include <stdint.h>

#include "worker/model/encoder_layer.h"

enum {
    WHISPER_RATE = 16000,        /* samples a second */
    WHISPER_PIECE = 480000,      /* samples of a piece */
    WHISPER_BINS = 201,          /* of the spectrum */
    WHISPER_FRAME = 640,         /* samples of a frame at 25 fps */
    WHISPER_WINDOW = 10,         /* rows of a window */
    WHISPER_FRAMES_MAX = 400,    /* windows that the reference makes at most */
    WHISPER_FRAMES_PADDED = 129, /* frames that the reference fills up to */
    WHISPER_FRAMES_MORE = 5,     /* silent frames behind a longer clip */
};

struct whisper_config {
    int64_t layers, heads;
    enum act act;
};
int whisper_config_read(struct whisper_config *ret, const char *path, struct err *err);
int whisper_config_parse(struct whisper_config *ret, const char *text, size_t len, struct err *err);

struct whisper;

/* c is borrowed until whisper_close; device too (NULL: planning). ERR_WEIGHTS lists what does not match. */
int whisper_open(struct whisper **ret, const struct whisper_config *config, struct ckpt *c,
                 struct device *device, struct err *err);
void whisper_close(struct whisper *w);
int64_t whisper_width(const struct whisper *w);  /* C */
int64_t whisper_states(const struct whisper *w); /* 5 */
/* The mel filters, host [n_mels, WHISPER_BINS]. */
const float *whisper_filters(const struct whisper *w, int64_t *ret_n_mels);

/* One piece: wave f32 [WHISPER_PIECE] of the run -> [3000, n_mels]. */
struct tensor whisper_mel(struct run *r, const struct whisper *w, struct tensor wave);
/* samples: host, 16 kHz, mono; NULL while planning. n >= 1. -> [1500 pieces, 5, C] */
struct tensor whisper_encode(struct run *r, const struct whisper *w, const float *samples, int64_t n);

/* Frames of n samples as the reference counts them, at either fps: 1/25 s each. */
int64_t whisper_frames(int64_t n_samples);
/* What the reference makes of n frames: min(n, 400) windows, then zeros: 129 frames in all, or 5 more than
 * windows. */
void whisper_reference_frames(int64_t n_frames, int64_t *ret_windows, int64_t *ret_total);
/* states [R, states, C] -> [n_total, 10, states, C]: frame f < n_windows sees the rows s-4 .. s+5, s = 2f at
 * 25 fps and 4f at 12.5; rows outside the states and frames from n_windows on are zeros. Other fps:
 * ERR_UNSUPPORTED. */
struct tensor whisper_windows(struct run *r, struct tensor states, int64_t n_windows, double fps,
                              int64_t n_total);

#endif
