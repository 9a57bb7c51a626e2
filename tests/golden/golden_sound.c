/* golden_sound.c -- whisper.*: mel filters, mel and encoder states, windows of a frame; audio.resample. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/ops.h"
#include "tests/golden/golden.h"
#include "worker/media/resample.h"
#include "worker/model/whisper.h"

#define MAX_SAMPLES ((int64_t)WHISPER_RATE * 3600)

struct sound {
    struct ckpt *ckpt;
    struct whisper *whisper;
    float *samples; /* owned */
    int64_t n;
    float *mel; /* owned: [3000 pieces, n_mels] */
    int64_t n_mels, n_columns;
};

static bool sound_begin(struct golden *g, struct sound *s)
{
    char dir[2048], path[2200];
    struct whisper_config config;
    *s = (struct sound){0};
    str_path(dir, sizeof dir, g->ckpts, "whisper-tiny");
    str_path(path, sizeof path, dir, "config.json");
    return whisper_config_read(&config, path, &g->err) == 0 && ckpt_open(&s->ckpt, dir, &g->err) == 0 &&
           whisper_open(&s->whisper, &config, s->ckpt, g->device, &g->err) == 0;
}

static void sound_end(struct sound *s)
{
    whisper_close(s->whisper);
    ckpt_close(s->ckpt);
    mem_free(s->samples);
    mem_free(s->mel);
}

/* The folder of the case and a stem in it: "whisper/encode_x". */
static void sibling(const struct golden *g, const char *stem, char *dst, size_t size)
{
    const char *folder = strrchr(g->dir, '/');
    str_format(dst, size, "%s/%s", folder ? folder + 1 : g->dir, stem);
}

/* The stored samples of case `stem`, repeated to n (0: as they are). */
static bool take_samples(struct golden *g, struct sound *s, const char *stem, int64_t n)
{
    char relative[600];
    sibling(g, stem, relative, sizeof relative);
    struct ckpt *c = golden_other(g, relative);
    struct tensor t = c ? ckpt_find(c, "in.samples_i16") : TENSOR_NONE;
    int64_t count = tensor_count(t);
    s->n = n > 0 ? n : count;
    if (tensor_is_none(t) || t.dtype != DTYPE_I16 || count < 1 || s->n > MAX_SAMPLES) {
        golden_fail(g, "%s: no i16 samples", relative);
        return false;
    }
    s->samples = mem_calloc((size_t)s->n, sizeof *s->samples);
    for (int64_t i = 0; s->samples && i < s->n; i++)
        s->samples[i] = (float)((const int16_t *)t.data)[i % count] / 32768;
    if (!s->samples)
        golden_fail(g, "out of memory");
    return s->samples != NULL;
}

/* Samples of an encode case, its own or, as its note says, "the samples of X repeated to N". */
static bool read_samples(struct golden *g, struct sound *s, const char *stem)
{
    static const char words[] = "the samples of ";
    char relative[600], path[2800], other[256];
    json_t *twin = NULL;
    sibling(g, stem, relative, sizeof relative);
    str_format(path, sizeof path, "%s/../%s.json", g->dir, relative);
    if (json_read_file(path, 16 << 20, &twin, &g->err) < 0)
        return false;
    const char *note = json_string_value(json_object_get(twin, "note"));
    const char *from = note ? strstr(note, words) : NULL;
    bool ok;
    if (from) {
        from += sizeof words - 1;
        str_format(other, sizeof other, "%.*s", (int)strcspn(from, " "), from);
        ok = take_samples(g, s, other, json_integer_value(json_object_get(twin, "samples")));
    } else {
        ok = take_samples(g, s, stem, 0);
    }
    json_decref(twin);
    return ok;
}

/* ---- cases ---- */

static void case_filterbank(struct golden *g)
{
    struct sound s;
    if (sound_begin(g, &s)) {
        float window[400];
        const float *filters = whisper_filters(s.whisper, &s.n_mels);
        golden_check_host(g, "out.filters", filters, s.n_mels * WHISPER_BINS);
        for (int i = 0; i < 400;
             i++) /* the stored one is made in f32; op_log_mel's, in double, is held by mid.mel */
            window[i] = 0.5f - 0.5f * cosf((float)i * (float)(2 * M_PI / 400));
        golden_check_host(g, "out.window", window, 400);
    }
    sound_end(&s);
}

struct mel_tap {
    struct golden *g;
    struct sound *s;
};

/* Gathers the mel of every piece. */
static void tap_mel(void *arg, struct run *r, const char *name, struct tensor t)
{
    const struct mel_tap *tap = arg;
    struct sound *s = tap->s;
    if (strcmp(name, "mid.mel") != 0)
        return;
    int64_t n = tensor_dim(t, 0), m = tensor_dim(t, 1);
    float *more = mem_realloc(s->mel, (size_t)((s->n_columns + n) * m) * sizeof *more);
    if (!more) {
        golden_fail(tap->g, "out of memory");
        return;
    }
    s->mel = more;
    s->n_mels = m;
    run_read(r, t, s->mel + s->n_columns * m);
    s->n_columns += n;
}

/* Stored: [n_mels, chosen columns], or all columns where no list is named. */
static void check_mel(struct golden *g, const struct sound *s, const char *name, const char *list)
{
    struct tensor columns = list ? golden_host(g, list) : TENSOR_NONE;
    int64_t n = list ? tensor_count(columns) : s->n_columns, m = s->n_mels;
    float *chosen =
        !list || columns.dtype == DTYPE_I32 ? mem_calloc((size_t)(n * m + 1), sizeof *chosen) : NULL;
    if (!chosen) {
        golden_fail(g, "%s must be i32", list ? list : name);
        return;
    }
    for (int64_t i = 0; i < n * m; i++) {
        int64_t column = list ? ((const int32_t *)columns.data)[i % n] : i % n;
        if (column >= 0 && column < s->n_columns)
            chosen[i] = s->mel[column * m + i / n];
        else
            golden_fail(g, "%s[%lld] is past the sound", list ? list : name, (long long)(i % n));
    }
    golden_check_host(g, name, chosen, n * m);
    mem_free(chosen);
}

/* An input that is named as a result. */
static void check_echo(struct golden *g, const char *name)
{
    struct tensor t = golden_has(g, name) ? golden_host(g, name) : TENSOR_NONE;
    int64_t same[4096], n = tensor_count(t);
    if (t.dtype != DTYPE_I32 || n > 4096)
        return;
    for (int64_t i = 0; i < n; i++)
        same[i] = ((const int32_t *)t.data)[i];
    golden_check_exact(g, name, same, n);
}

/* The mel alone; the sound is the case's own, or that of encode_<name>. */
static void case_mel(struct golden *g)
{
    static const char *const lists[] = {"out.mel_columns", "mid.mel_columns", "in.mel_columns", "in.columns"};
    struct sound s;
    char stem[256];
    const char *list = NULL, *name = golden_has(g, "out.mel") ? "out.mel" : "mid.mel";
    str_format(stem, sizeof stem, "encode_%s", str_starts(g->name, "mel_") ? g->name + 4 : g->name);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        list = golden_has(g, lists[i]) ? lists[i] : list;
    if (sound_begin(g, &s) && read_samples(g, &s, golden_has(g, "in.samples_i16") ? g->name : stem)) {
        struct mel_tap tap = {g, &s};
        g->run->tap = tap_mel;
        g->run->tap_arg = &tap;
        whisper_encode(g->run, s.whisper, s.samples, s.n);
        g->run->tap = NULL;
        check_echo(g, "out.mel_columns");
        const int64_t shape[2] = {s.n_mels, s.n_columns};
        if (golden_has(g, "out.mel_shape"))
            golden_check_exact(g, "out.mel_shape", shape, 2);
        if (!run_failed(g->run))
            check_mel(g, &s, name, list);
    }
    sound_end(&s);
}

static void case_encode(struct golden *g)
{
    struct sound s;
    if (sound_begin(g, &s) && read_samples(g, &s, g->name)) {
        struct run *r = g->run;
        struct mel_tap tap = {g, &s};
        r->tap = tap_mel;
        r->tap_arg = &tap;
        struct tensor states = whisper_encode(r, s.whisper, s.samples, s.n);
        r->tap = NULL;
        struct tensor rows = op_gather(r, states, 0, golden_in(g, "out.rows"));
        check_echo(g, "out.rows");
        if (!run_failed(r)) {
            check_mel(g, &s, "mid.mel", "mid.mel_columns");
            golden_check(g, "out.states", tensor_permute(rows, (const int[]){1, 0, 2}));
        }
    }
    sound_end(&s);
}

static void check_sums(struct golden *g, struct tensor windows)
{
    int64_t n = tensor_dim(windows, 0), each = tensor_count(windows) / n;
    float *y = mem_alloc(tensor_bytes(windows)), *sum = mem_calloc((size_t)(2 * n), sizeof *sum);
    if (y && sum && run_read(g->run, windows, y) == 0) {
        for (int64_t i = 0; i < n; i++) {
            double a = 0, b = 0;
            for (int64_t k = 0; k < each; k++) {
                a += (double)y[i * each + k];
                b += (double)y[i * each + k] * (double)y[i * each + k];
            }
            sum[i] = (float)a;
            sum[n + i] = (float)b;
        }
        golden_check_host(g, "out.frame_sum", sum, n);
        golden_bound(g, 0.2, 0); /* the twin's bound for sums; this one's name does not say that it is one */
        golden_check_host(g, "out.frame_square", sum + n, n);
    }
    mem_free(y);
    mem_free(sum);
}

static void check_windows(struct golden *g, struct sound *s, double fps)
{
    struct run *r = g->run;
    int64_t n_windows, n_total;
    int64_t n = whisper_frames(s->n);
    if (golden_param_json(g,
                          "error")) { /* the reference fails; ours makes windows, with silence past the end */
        golden_check_exact(g, "out.frames", &n, 1);
    }
    whisper_reference_frames(n, &n_windows, &n_total);
    struct tensor states =
        whisper_encode(r, s->whisper, s->samples, s->n < WHISPER_PIECE ? s->n : WHISPER_PIECE);
    struct tensor y = whisper_windows(r, states, n_windows, fps, n_total);
    if (golden_param_json(g, "error") || run_failed(r))
        return;
    const int64_t shape[4] = {n_total, WHISPER_WINDOW, whisper_states(s->whisper), whisper_width(s->whisper)};
    const int64_t silent[4] = {WHISPER_FRAMES_PADDED, shape[1], shape[2], shape[3]};
    golden_check_exact(g, "out.shape", shape, 4);
    golden_check_exact(g, "out.uncond_shape", silent, 4);
    check_echo(g, "out.selected");
    golden_check(g, "out.windows",
                 op_gather(r, tensor_view(y, 2, SHAPE(n_total, shape[1] * shape[2] * shape[3])), 0,
                           golden_in(g, "out.selected")));
    check_sums(g, y);
}

/* windows_<name>_<fps> belongs to encode_<name>. */
static void case_windows(struct golden *g)
{
    struct sound s;
    char stem[256];
    const char *start = str_starts(g->name, "windows_") ? g->name + 8 : g->name, *end = strrchr(start, '_');
    str_format(stem, sizeof stem, "encode_%.*s", end ? (int)(end - start) : 0, start);
    if (sound_begin(g, &s) && read_samples(g, &s, stem))
        check_windows(g, &s, golden_param(g, "fps", 0));
    sound_end(&s);
}

/* The mean of the channels, then the library: held to the twin's words, max 2e-3 and rms 3e-4 away from the
 * ends. */
static void case_resample(struct golden *g)
{
    const double bound = 2e-3, bound_ends = 1e-2, bound_rms = 3e-4;
    struct tensor in = golden_host(g, "in.samples_i16"), want = golden_host(g, "out.mono16k");
    const int64_t n = tensor_dim(in, 0), channels = tensor_dim(in, 1), n_want = tensor_count(want);
    float *mono = NULL, *y = NULL;
    int64_t n_y = 0;
    if (in.dtype != DTYPE_I16 || want.dtype != DTYPE_F32 || !(mono = mem_calloc((size_t)n, sizeof *mono))) {
        golden_fail(g, "in.samples_i16 must be i16 [n, channels]");
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        for (int64_t c = 0; c < channels; c++)
            mono[i] += (float)((const int16_t *)in.data)[i * channels + c] / 32768;
        mono[i] /= (float)channels;
    }
    if (resample_16k(mono, n, (int)golden_param(g, "rate", 0), &y, &n_y, &g->err) == 0) {
        double worst = 0, sum = 0;
        for (int64_t i = 0; i < n_want && n_y == n_want; i++) {
            bool end = i < 200 || i >= n_want - 200;
            double d = fabs((double)y[i] - (double)((const float *)want.data)[i]);
            worst = fmax(worst, d / (end ? bound_ends : bound));
            sum += end ? 0 : d * d;
        }
        if (n_y != n_want)
            golden_fail(g, "%lld samples made, %lld stored", (long long)n_y, (long long)n_want);
        golden_note(g, "out.mono16k",
                    fmax(worst, sqrt(sum / (double)(n_want > 400 ? n_want - 400 : 1)) / bound_rms));
    }
    mem_free(mono);
    mem_free(y);
}

const struct golden_kind golden_sound_kinds[] = {
    {"whisper.filterbank", case_filterbank},
    {"whisper.encode", case_encode},
    {"whisper.windows", case_windows},
    {"whisper.mel", case_mel},
    {"audio.resample", case_resample},
    {NULL, NULL},
};
