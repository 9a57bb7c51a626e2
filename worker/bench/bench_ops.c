#include "worker/bench/bench_ops.h"

#include <string.h>

#include "common/str.h"
#include "worker/bench/bench_case.h"
#include "worker/bench/bench_progress.h"

#define HOST_ROOM ((size_t)512 << 20) /* of a row's operands: a CPU's caches are smaller */

/* Extents that follow from the video's size. */
enum { TOKENS = -12, VIDEO, FRAME, LATENTS, FRONT, LH, LW, H, W, LH2, LW2 };

/* The published network: 3,072 channels, 24 heads of 128, MLP 12,288; the decoder's tile of 17 latents of 32 x 32;
 * Llama-3-8B behind 926 tokens; Whisper's 1,500 rows; the detector's first layers. goal: share of the peak that is aimed at.
 */
static const struct spec {
    const struct bench_kind *kind;
    const char *where;
    int64_t e[BENCH_CASE_EXTENTS];
    int flag;
    double goal;
} specs[] = {
    {&bench_case_linear, "dit qkv", {TOKENS, 3072, 9216}, ACT_NONE, 0.8},
    {&bench_case_linear, "dit qkv, as called", {4096, 3072, 9216}, ACT_NONE, 0},
    {&bench_case_linear, "dit mlp, up", {TOKENS, 3072, 12288}, ACT_GELU_TANH, 0.8},
    {&bench_case_linear, "dit mlp, up, as called", {4096, 3072, 12288}, ACT_GELU_TANH, 0},
    {&bench_case_linear, "dit modulation", {1, 3072, 18432}, ACT_NONE, 0},
    {&bench_case_linear, "dit adapter, queries", {VIDEO, 3072, 1024}, ACT_NONE, 0},
    {&bench_case_linear, "llava mlp, up", {926, 4096, 14336}, ACT_NONE, 0},
    {&bench_case_linear, "llava keys", {926, 4096, 1024}, ACT_NONE, 0},
    {&bench_case_linear, "whisper mlp, up", {1500, 384, 1536}, ACT_GELU_ERF, 0},
    {&bench_case_linear_add, "dit proj", {TOKENS, 3072, 3072}, 0, 0.8},
    {&bench_case_linear_add, "dit mlp, down", {TOKENS, 12288, 3072}, 0, 0.8},
    {&bench_case_linear_add, "dit mlp, down, as called", {4096, 12288, 3072}, 0, 0},
    {&bench_case_attention, "dit", {TOKENS, 0, 24, 0, 128, 1}, ATTN_FULL, 0.67},
    {&bench_case_attention, "dit adapter", {FRAME, 16, 1, 0, 1024, LATENTS}, ATTN_FULL, 0},
    {&bench_case_attention, "dit refiner", {831, 0, 24, 0, 128, 1}, ATTN_MASK, 0},
    {&bench_case_attention, "vae mid", {17408, 0, 1, 0, 512, 1}, ATTN_BLOCK_CAUSAL, 0},
    {&bench_case_attention, "llava", {926, 0, 32, 8, 128, 1}, ATTN_CAUSAL, 0},
    {&bench_case_attention, "vision tower", {577, 0, 16, 0, 64, 1}, ATTN_FULL, 0},
    {&bench_case_attention, "whisper", {1500, 0, 6, 0, 64, 1}, ATTN_FULL, 0},
    {&bench_case_conv, "vae level 0", {64, 64, 17, 512, 512}, 3, 0.5},
    {&bench_case_conv, "vae level 2", {128, 128, 33, 512, 256}, 3, 0.5},
    {&bench_case_conv, "vae level 3", {256, 256, 65, 128, 128}, 3, 0.5},
    {&bench_case_conv, "vae out", {256, 256, 65, 128, 3}, 3, 0},
    {&bench_case_conv, "detector", {80, 80, 1, 64, 64}, 2, 0},
    {&bench_case_conv, "whisper", {1, 3000, 1, 80, 384}, 1, 0},
    {&bench_case_layer_norm, "dit adapter", {VIDEO, 3072}, 0, 0},
    {&bench_case_layer_norm, "whisper", {1500, 384}, 0, 0},
    {&bench_case_layer_norm_mod, "dit", {TOKENS, 3072}, 0, 0},
    {&bench_case_rms_norm, "llava", {926, 4096}, 0, 0},
    {&bench_case_group_norm, "vae level 0", {64, 64, 17, 512}, 0, 0},
    {&bench_case_group_norm, "vae level 3", {256, 256, 65, 128}, 0, 0},
    {&bench_case_group_stats, "vae level 3", {256, 256, 65, 128}, 0, 0},
    {&bench_case_group_apply, "vae level 3", {256, 256, 65, 128}, 0, 0},
    {&bench_case_batch_norm, "detector", {160, 160, 1, 64}, 0, 0},
    {&bench_case_rope_table, "dit", {LH2, LW2, FRONT, 128}, 0, 0},
    {&bench_case_norm_rope, "dit", {TOKENS, 24, 128}, 0, 0},
    {&bench_case_rope_halves, "llava", {926, 32, 128}, 0, 0},
    {&bench_case_max_pool, "detector", {160, 160, 1, 64}, 0, 0},
    {&bench_case_upsample, "vae level 1", {64, 64, 17, 512}, 0, 0},
    {&bench_case_normalize, "picture", {H, W, 1, 3}, 0, 0},
    {&bench_case_to_u8, "48 frames", {H, W, 48, 3}, 0, 0},
    {&bench_case_to_yuv420, "48 frames", {H, W, 48, 3}, 0, 0},
    {&bench_case_mask_down, "face", {H, W}, 0, 0},
    {&bench_case_act, "dit mlp, 4,096 rows", {4096, 12288}, 0, 0},
    {&bench_case_act_mul, "llava mlp", {926, 14336}, 0, 0},
    {&bench_case_add, "dit", {TOKENS, 3072}, 0, 0},
    {&bench_case_add_gated, "dit", {TOKENS, 3072}, 0, 0},
    {&bench_case_add_masked, "dit adapter", {FRAME, LATENTS, 3072}, 0, 0},
    {&bench_case_scale, "dit", {TOKENS, 3072}, 0, 0},
    {&bench_case_fill, "dit", {TOKENS, 3072}, 0, 0},
    {&bench_case_round, "dit", {TOKENS, 3072}, 0, 0},
    {&bench_case_timestep, "60 times", {60, 256}, 0, 0},
    {&bench_case_mean_rows, "text", {831, 4096}, 0, 0},
    {&bench_case_copy, "dit", {TOKENS, 24, 128}, 0, 0},
    {&bench_case_copy, "dit heads", {TOKENS, 24, 128}, 1, 0},
    {&bench_case_copy, "dit", {TOKENS, 24, 128}, 2, 0},
    {&bench_case_gather, "dit face tokens", {16384, 3072, VIDEO}, 0, 0},
    {&bench_case_scatter_add, "dit face tokens", {16384, 3072, VIDEO}, 0, 0},
    {&bench_case_patchify, "latents", {LH, LW, LATENTS, 16}, 0, 0},
    {&bench_case_unpatchify, "latents", {LH, LW, LATENTS, 16}, 0, 0},
    {&bench_case_randn, "latents", {LH, LW, LATENTS, 16}, 0, 0},
    {&bench_case_euler, "latents", {LH, LW, LATENTS, 16}, 0, 0},
    {&bench_case_gauss, "latents", {LH, LW, LATENTS, 16}, 0, 0},
    {&bench_case_blend, "vae tile", {256, 256, 65, 3}, 0, 0},
    {&bench_case_log_mel, "whisper, 30 s", {480000, 80}, 0, 0},
};
enum { N_SPECS = sizeof specs / sizeof *specs };
_Static_assert((int)N_SPECS <= (int)BENCH_OPS_MAX, "more rows than room");

static int64_t extent(const struct bench_ops_options *o, int64_t e)
{
    const int64_t h = o->height / 8, w = o->width / 8, T = o->frames > 129 ? 33 : (o->frames + 3) / 4, P = (h / 2) * (w / 2);
    switch (e) {
    case TOKENS:
        return (T + 1) * P + 831;
    case VIDEO:
        return T * P;
    case FRAME:
        return P;
    case LATENTS:
        return T;
    case FRONT:
        return T + 1;
    case LH:
        return h;
    case LW:
        return w;
    case H:
        return o->height;
    case W:
        return o->width;
    case LH2:
        return h / 2;
    case LW2:
        return w / 2;
    default:
        return e;
    }
}

/* The first extent that may be is halved; false: none may. */
static bool halve(const struct bench_kind *k, int64_t *e)
{
    for (int i = 0; i < BENCH_CASE_EXTENTS; i++) {
        int64_t half = e[i] / 2, unit = i < 2 && k->unit ? k->unit : 1;
        if (k->least[i] == 0 || half < k->least[i] || half % unit)
            continue;
        e[i] = half;
        return true;
    }
    return false;
}

static void refresh(struct run *r, void *arg)
{
    const struct bench_case *c = arg;
    size_t mark = run_mark(r);
    op_copy_into(r, c->x, bench_case_draw(r, c->x.n_dims, c->x.shape));
    run_rewind(r, mark);
}

/* What a call takes, by a run without a device. */
struct cost {
    double flops, bytes;
    size_t arena, weights;
};

static int plan(const struct spec *s, struct bench_case *c, struct cost *ret, struct err *err)
{
    struct run r;
    int rc = run_init(&r, NULL, 0, err);
    if (rc < 0)
        return rc;
    s->kind->make(&r, c);
    if (s->kind->refreshes)
        refresh(&r, c);
    double flops = r.flops, bytes = r.bytes;
    s->kind->call(&r, c);
    *ret = (struct cost){r.flops - flops, r.bytes - bytes, r.arena_peak, tensor_bytes(c->w)};
    return run_failed(&r) ? err_set(err, r.err.code, "%s", r.err.text) : 0;
}

/* Halves e until a call is short and fits; how often. */
static int settle(const struct run *r, const struct spec *s, const struct bench_ops_options *o,
                  const struct bench_peak *peak, int64_t *e, int *ret_halved, struct err *err)
{
    size_t room = device_free_bytes(r->device) / 2;
    struct cost cost;
    int halved = 0;
    if (r->device->is_host)
        room = room < HOST_ROOM ? room : HOST_ROOM;
    else
        room = r->arena_max;
    for (;; halved++) {
        struct bench_case c = {.e = e, .flag = s->flag};
        int rc = plan(s, &c, &cost, err);
        if (rc < 0)
            return rc;
        bool fits = cost.arena <= room - room / 16;
        if (fits && cost.flops / peak->rate_flops + cost.bytes / peak->rate_bytes <= o->longest)
            break;
        if (!halve(s->kind, e)) {
            if (!fits)
                return err_set(err, ERR_NOMEM, "no room");
            break;
        }
    }
    *ret_halved = halved;
    return 0;
}

/* The run's error stays in the run. */
static void measure(struct run *r, const struct spec *s, const struct bench_ops_options *o, const int64_t *e,
                    struct bench_row *row)
{
    struct bench_case c = {.e = e, .flag = s->flag};
    const bool on_host = r->device->is_host;
    run_reset(r);
    s->kind->make(r, &c);
    str_copy(row->shape, sizeof row->shape, c.shape);
    bench_time_calls(
        r, &(struct bench_work){s->kind->call, s->kind->refreshes ? refresh : NULL, &c},
        &(struct bench_limits){.samples = on_host ? 7 : 15, .seconds = 5 * o->longest < 0.5 ? 5 * o->longest : 0.5},
        &row->time);
    bench_case_done(r, &c);
    run_rewind(r, 0);
}

static int one(struct run *r, const struct spec *s, const struct bench_ops_options *o, const struct bench_peak *peak,
               struct bench_row *row)
{
    int64_t e[BENCH_CASE_EXTENTS];
    struct err err = {0};
    for (int i = 0; i < BENCH_CASE_EXTENTS; i++)
        e[i] = extent(o, s->e[i]);
    *row = (struct bench_row){.goal = r->device->is_host ? 0 : s->goal, .is_heavy = s->kind->is_heavy};
    str_copy(row->op, sizeof row->op, s->kind->op);
    str_copy(row->where, sizeof row->where, s->where);
    int rc = settle(r, s, o, peak, e, &row->halved, &err);
    if (rc == 0) {
        measure(r, s, o, e, row);
        rc = r->err.code;
        err = r->err;
    }
    if (rc < 0)
        str_copy(row->skipped, sizeof row->skipped, err.text); /* a cut sentence is still one */
    return rc == ERR_DEVICE || rc == ERR_CANCEL ? rc : 0;
}

int bench_ops_all(struct run *r, const struct bench_ops_options *o, const struct bench_peak *peak, struct bench_row *ret)
{
    struct bench_progress p;
    int n = 0, rc = 0;
    bench_progress_start(&p, "ops");
    for (int i = 0; rc == 0 && i < N_SPECS; i++) {
        char note[64];
        if (o->only && strcmp(o->only, specs[i].kind->op) != 0)
            continue;
        str_format(note, sizeof note, "%s, %s", specs[i].kind->op, specs[i].where);
        bench_progress_show(&p, note, i, N_SPECS, -1);
        rc = one(r, &specs[i], o, peak, &ret[n++]);
    }
    bench_progress_end(&p);
    return rc < 0 ? rc : n;
}
