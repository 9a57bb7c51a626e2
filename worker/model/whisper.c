#include "worker/model/whisper.h"

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "worker/model/model_config.h"

/* field, name, dimensions: M mels, R rows */
#define WHISPER(W)                                                                                           \
    W(conv1_w, "model.encoder.conv1.weight", 3, C, M, 3)                                                     \
    W(conv1_b, "model.encoder.conv1.bias", 1, C)                                                             \
    W(conv2_w, "model.encoder.conv2.weight", 3, C, C, 3)                                                     \
    W(conv2_b, "model.encoder.conv2.bias", 1, C)                                                             \
    W(position, "model.encoder.embed_positions.weight", 2, R, C)                                             \
    W(norm_w, "model.encoder.layer_norm.weight", 1, C)                                                       \
    W(norm_b, "model.encoder.layer_norm.bias", 1, C)

#define EPS 1e-5f

enum { LEAD = 4, PIECES_MAX = 1024 };

struct whisper {
    struct whisper_config config;
    int64_t C, F, M, R;
#define W(field, ...) struct tensor field;
    WHISPER(W)
#undef W
    struct encoder_layer *layer; /* owned; config.layers of them */
    float *filters;              /* owned; [M, WHISPER_BINS] */
    struct tensor filters_dev;   /* the same for ops */
    struct device *device;
};

/* ---- mel filters ---- */

/* Slaney's scale: linear below 1000 Hz, logarithmic above. */
static double mel_to_hz(double mel)
{
    return mel < 15 ? 200 * mel / 3 : 1000 * exp(log(6.4) / 27 * (mel - 15));
}

/* Triangles over M + 2 points evenly spaced in mel from 0 to 8000 Hz, each of area 1 (in Hz, times 2). */
static void fill_filters(float *filters, int64_t n_mels)
{
    const double top = 15 + 27 * log(8) / log(6.4);
    for (int64_t i = 0; i < n_mels; i++) {
        double at[3];
        for (int k = 0; k < 3; k++)
            at[k] = mel_to_hz(top * (double)(i + k) / (double)(n_mels + 1));
        for (int k = 0; k < WHISPER_BINS; k++) {
            double f = 40.0 * k, up = (f - at[0]) / (at[1] - at[0]), down = (at[2] - f) / (at[2] - at[1]);
            double low = up < down ? up : down;
            filters[i * WHISPER_BINS + k] = (float)(low > 0 ? low * 2 / (at[2] - at[0]) : 0);
        }
    }
}

static int make_filters(struct whisper *w, struct err *err)
{
    const int64_t shape[2] = {w->M, WHISPER_BINS};
    w->filters = mem_calloc((size_t)w->M * WHISPER_BINS, sizeof *w->filters);
    if (!w->filters)
        return err_set(err, ERR_NOMEM, "audio encoder: no memory for %lld mel filters", (long long)w->M);
    fill_filters(w->filters, w->M);
    struct tensor host = tensor_of(w->filters, DTYPE_F32, 2, shape);
    w->filters_dev = tensor_of(NULL, DTYPE_F32, 2, shape);
    return w->device ? device_upload(w->device, host, &w->filters_dev, err) : 0;
}

/* ---- opening ---- */

static int fill(struct model_config *c, struct whisper_config *ret)
{
    struct whisper_config config = {
        .layers = model_config_int(c, "encoder_layers", 4, 1, 1000),
        .heads = model_config_int(c, "encoder_attention_heads", 6, 1, 1024),
        .act = model_config_act(c, "activation_function", ACT_GELU_ERF),
    };
    int rc = model_config_done(c);
    if (rc == 0)
        *ret = config;
    return rc;
}

int whisper_config_read(struct whisper_config *ret, const char *path, struct err *err)
{
    struct model_config c;
    model_config_read(&c, path, err);
    return fill(&c, ret);
}

int whisper_config_parse(struct whisper_config *ret, const char *text, size_t len, struct err *err)
{
    struct model_config c;
    model_config_parse(&c, text, len, err);
    return fill(&c, ret);
}

static int bind_all(struct whisper *w, struct ckpt *c, struct err *err)
{
    const int64_t C = w->C, M = w->M, R = w->R;
    struct binder b;
    binder_init(&b, c, w->device, "audio encoder");
#define W(field, name, n_dims, ...) binder_bind(&b, &w->field, name, n_dims, SHAPE(__VA_ARGS__));
    WHISPER(W)
#undef W
    for (int i = 0; i < (int)w->config.layers; i++)
        encoder_layer_bind(&b, &w->layer[i], ENCODER_LAYER_WHISPER, C, w->F, "model.encoder", i);
    bind_ignore(&b, "model.decoder.");
    bind_ignore(&b, "proj_out.");
    return binder_finish(&b, true, err);
}

int whisper_open(struct whisper **ret, const struct whisper_config *config, struct ckpt *c,
                 struct device *device, struct err *err)
{
    struct whisper *w = mem_zalloc(sizeof *w);
    if (!w)
        return err_set(err, ERR_NOMEM, "audio encoder: no memory");
    w->config = *config;
    w->device = device;
    w->C = ckpt_dim(c, "model.encoder.conv1.weight", 0);
    w->M = ckpt_dim(c, "model.encoder.conv1.weight", 1);
    w->R = ckpt_dim(c, "model.encoder.embed_positions.weight", 0);
    w->F = ckpt_dim(c, "model.encoder.layers.0.fc1.weight", 0);
    w->layer = mem_calloc((size_t)config->layers, sizeof *w->layer);
    int rc =
        w->layer ? 0 : err_set(err, ERR_NOMEM, "audio encoder: no memory for %d layers", (int)config->layers);
    if (rc == 0 && (w->C < 1 || w->M < 1 || w->M > 1024 || w->F < 1 || w->C % config->heads != 0 ||
                    w->R != WHISPER_PIECE / 320))
        rc = err_set(err, ERR_WEIGHTS,
                     "audio encoder: %lld channels, %lld heads, %lld mels, MLP %lld, %lld positions do not "
                     "make one (%d positions are wanted)",
                     (long long)w->C, (long long)config->heads, (long long)w->M, (long long)w->F,
                     (long long)w->R, WHISPER_PIECE / 320);
    if (rc == 0)
        rc = bind_all(w, c, err);
    if (rc == 0)
        rc = make_filters(w, err);
    if (rc < 0)
        whisper_close(w);
    else
        *ret = w;
    return rc;
}

void whisper_close(struct whisper *w)
{
    if (!w)
        return;
    if (w->device && w->filters)
        device_forget(w->device, w->filters, (size_t)w->M * WHISPER_BINS * sizeof *w->filters);
    mem_free(w->filters);
    mem_free(w->layer);
    mem_free(w);
}

int64_t whisper_width(const struct whisper *w)
{
    return w->C;
}

int64_t whisper_states(const struct whisper *w)
{
    return w->config.layers + 1;
}

const float *whisper_filters(const struct whisper *w, int64_t *ret_n_mels)
{
    *ret_n_mels = w->M;
    return w->filters;
}

/* ---- encoder ---- */

struct tensor whisper_mel(struct run *r, const struct whisper *w, struct tensor wave)
{
    return op_log_mel(r, wave, w->filters_dev);
}

/* act(conv), x [T, Ci], w [Co, Ci, 3] -> [T / stride, Co] */
static struct tensor conv(struct run *r, struct tensor x, struct tensor w, struct tensor b, int stride,
                          enum act act)
{
    const struct conv c = {
        .stride = {1, 1, stride}, .pad_before = {0, 0, 1}, .pad_after = {0, 0, 1}, .act = act};
    x = tensor_view(x, 4, SHAPE(1, 1, tensor_dim(x, 0), tensor_dim(x, 1)));
    w = tensor_view(w, 5, SHAPE(tensor_dim(w, 0), tensor_dim(w, 1), 1, 1, tensor_dim(w, 2)));
    x = op_conv(r, x, w, b, &c);
    return tensor_view(x, 2, SHAPE(tensor_dim(x, 2), tensor_dim(x, 3)));
}

/* One piece of 30 s into out [1500, states, C]. samples: n of them, the rest is silence. */
static void encode_piece(struct run *r, const struct whisper *w, const float *samples, int64_t n,
                         struct tensor out)
{
    const struct encoder_layer_kind kind = {w->config.heads, EPS, w->config.act, ATTN_FULL};
    const int layers = (int)w->config.layers;
    size_t mark = run_mark(r);
    struct tensor wave = run_new(r, DTYPE_F32, 1, SHAPE(WHISPER_PIECE));
    op_fill(r, wave, 0);
    op_copy_into(r, tensor_slice(wave, 0, 0, n), run_write(r, samples, DTYPE_F32, 1, SHAPE(n)));
    struct tensor mel = whisper_mel(r, w, wave); /* [3000, M] */
    run_tap(r, mel, "mid.mel");
    struct tensor x = conv(r, mel, w->conv1_w, w->conv1_b, 1, ACT_GELU_ERF);
    x = conv(r, x, w->conv2_w, w->conv2_b, 2, ACT_GELU_ERF); /* [1500, C] */
    op_add(r, x, op_copy(r, w->position, DTYPE_F32));
    for (int i = 0; i < layers; i++) {
        op_copy_into(r, tensor_at(out, 1, i), x);
        run_push(r, "layer %d", i);
        encoder_layer_forward(r, &w->layer[i], x, &kind);
        run_pop(r);
    }
    op_copy_into(r, tensor_at(out, 1, layers), op_layer_norm(r, x, w->norm_w, w->norm_b, EPS));
    run_rewind(r, mark);
}

struct tensor whisper_encode(struct run *r, const struct whisper *w, const float *samples, int64_t n)
{
    const int64_t pieces = (n + WHISPER_PIECE - 1) / WHISPER_PIECE;
    if (n < 1 || pieces > PIECES_MAX) {
        run_fail(r, ERR_SHAPE, "%lld samples; 1 to %lld are allowed", (long long)n,
                 (long long)PIECES_MAX * WHISPER_PIECE);
        return TENSOR_NONE;
    }
    struct tensor out = run_new(r, DTYPE_F32, 3, SHAPE(pieces * w->R, whisper_states(w), w->C));
    for (int64_t i = 0; i < pieces; i++) {
        const int64_t first = i * WHISPER_PIECE, rest = n - first;
        run_push(r, "whisper %lld", (long long)i);
        encode_piece(r, w, samples ? samples + first : NULL, rest < WHISPER_PIECE ? rest : WHISPER_PIECE,
                     tensor_slice(out, 0, i * w->R, w->R));
        run_pop(r);
    }
    return out;
}

/* ---- windows ---- */

int64_t whisper_frames(int64_t n_samples)
{
    return n_samples / WHISPER_FRAME;
}

void whisper_reference_frames(int64_t n_frames, int64_t *ret_windows, int64_t *ret_total)
{
    int64_t n = n_frames < WHISPER_FRAMES_MAX ? n_frames : WHISPER_FRAMES_MAX;
    *ret_windows = n;
    *ret_total = n <= WHISPER_FRAMES_PADDED ? WHISPER_FRAMES_PADDED : n + WHISPER_FRAMES_MORE;
}

/* Rows of the states with LEAD zero rows in front; row 0 stands for every row that does not exist. */
static struct tensor window_rows(struct run *r, int64_t n_windows, int64_t step, int64_t n_total,
                                 int64_t n_rows)
{
    const int64_t n = n_total * WHISPER_WINDOW;
    int32_t *at = mem_alloc((size_t)n * sizeof *at);
    if (!at)
        run_fail(r, ERR_NOMEM, "no memory for %lld rows of windows", (long long)n);
    for (int64_t i = 0; at && i < n; i++) {
        int64_t frame = i / WHISPER_WINDOW, row = step * frame + i % WHISPER_WINDOW;
        at[i] = (int32_t)(frame < n_windows && row < n_rows + LEAD ? row : 0);
    }
    struct tensor idx = run_write(r, at, DTYPE_I32, 1, SHAPE(n));
    mem_free(at);
    return idx;
}

struct tensor whisper_windows(struct run *r, struct tensor states, int64_t n_windows, double fps,
                              int64_t n_total)
{
    const int64_t step = fps == 25 ? 2 : fps == 12.5 ? 4 : 0;
    const int64_t R = tensor_dim(states, 0), L = tensor_dim(states, 1), C = tensor_dim(states, 2);
    if (step == 0)
        run_fail(r, ERR_UNSUPPORTED, "%g frames a second; 25 and 12.5 are supported", fps);
    if (n_total < 1 || n_windows < 0 || n_windows > n_total || n_total > INT32_MAX / 64 || states.n_dims != 3)
        run_fail(r, ERR_SHAPE, "%lld windows of %lld frames do not fit the states", (long long)n_windows,
                 (long long)n_total);
    if (run_failed(r))
        return TENSOR_NONE;
    struct tensor y = run_new(r, DTYPE_F32, 2, SHAPE(n_total * WHISPER_WINDOW, L * C));
    size_t mark = run_mark(r);
    struct tensor x = run_new(r, DTYPE_F32, 2, SHAPE(R + LEAD, L * C));
    op_fill(r, tensor_slice(x, 0, 0, LEAD), 0);
    op_copy_into(r, tensor_slice(x, 0, LEAD, R), tensor_view(states, 2, SHAPE(R, L * C)));
    op_copy_into(r, y, op_gather(r, x, 0, window_rows(r, n_windows, step, n_total, R)));
    run_rewind(r, mark);
    return tensor_view(y, 4, SHAPE(n_total, WHISPER_WINDOW, L, C));
}
