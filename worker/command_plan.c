/* plan: memory and work of a video by stage, from the same forwards run without data. */
#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "common/mem.h"
#include "common/preset.h"
#include "common/schema.h"
#include "common/str.h"
#include "worker/command.h"
#include "worker/command_words.h"
#include "worker/media/size.h"
#include "worker/model/avatar.h"
#include "worker/model/group_plan.h"

/* What a GPU's driver, libraries and work buffer take about: a worker knows it of its own (device.h). */
#define GPU_FIXED ((size_t)960 << 20)

struct planning {
    const char *ckpts; /* NULL: the real dims, no weights */
    int width, height;
    int64_t frames, steps, ranks;
    double tflops, link;
    const struct preset *preset;
    const char *weights; /* a word of avatar_mode_ladder */
    bool fp8, compact, json, help;
};

static const char usage[] =
    "usage: troupe plan (--ckpts DIR | --dims full) [options]\n\n"
    "Memory and work of one video by stage, before anything runs.\n\n"
    "  --ckpts DIR     folder of the weights to plan for\n"
    "  --dims full     the published model instead; needs no weights [full]\n"
    "  --size N        area class, planned for a square picture, or WxH [704]\n"
    "  --frames N      length in frames [129]\n"
    "  --steps N       denoising steps [50]\n"
    "  --fp8           with the fp8 transformer\n"
    "  --preset P      class of device: emergency (6 GB), ultra_minimal (8 GB), ultra_low (10 GB), low (12 GB),\n"
    "                  balanced (16 GB), high (24 GB), max, auto or cpu: the fastest way that fits it is planned [auto]\n"
    "  --weights W     resident, staged or streamed weights alone [auto]\n"
    "  --compact       and fewer activations at a time\n"
    "  --ranks N       devices that share the work; how is chosen [1]\n"
    "  --tflops N      what a device computes, for their speed [400]\n"
    "  --link N        GB/s that a device sends to others [300]\n"
    "  --json          answer as one JSON value\n";

enum { JSON, FP8, COMPACT, HELP, FLAGS, CKPTS = FLAGS, DIMS, SIZE, FRAMES, STEPS, PRESET, WEIGHTS, RANKS, TFLOPS, LINK };
static const char *const options[] = {[JSON] = "json",     [FP8] = "fp8",         [COMPACT] = "compact", [HELP] = "help",
                                      [CKPTS] = "ckpts",   [DIMS] = "dims",       [SIZE] = "size",       [FRAMES] = "frames",
                                      [STEPS] = "steps",   [PRESET] = "preset",   [WEIGHTS] = "weights", [RANKS] = "ranks",
                                      [TFLOPS] = "tflops", [LINK] = "link", NULL};

static int take_size(struct planning *p, const char *text, struct err *err)
{
    int size = 0, w = 0, h = 0;
    int rc = schema_size_parse(text, 64, 1024, &size, &w, &h, err);
    if (rc == 0 && size > 0)
        size_rule(size, size, size, &w, &h);
    if (rc == 0) {
        p->width = w;
        p->height = h;
    }
    return rc;
}

static int take_number(const char *name, const char *text, int64_t max, int64_t *ret, struct err *err)
{
    if (str_parse_i64(text, 1, max, ret) == 0)
        return 0;
    return err_set(err, ERR_INVALID, "%s: %s is not a number from 1 to %lld", name, text, (long long)max);
}

static int take_rate(const char *name, const char *text, double *ret, struct err *err)
{
    if (str_parse_f64(text, 1e-3, 1e6, ret) == 0)
        return 0;
    return err_set(err, ERR_INVALID, "%s: %s is not a number from 0.001 to 1000000", name, text);
}

static int take_preset(struct planning *p, const char *text, struct err *err)
{
    p->preset = preset_find(text);
    return p->preset ? 0 : err_set(err, ERR_INVALID, "--preset: %s is not allowed; one of " PRESET_CHOICES " is", text);
}

static int take_weights(struct planning *p, const char *text, struct err *err)
{
    struct avatar_mode modes[AVATAR_MODES];
    int rc = avatar_mode_ladder(text, false, false, modes, err);
    p->weights = text;
    return rc < 0 ? rc : 0;
}

static int take_dims(struct planning *p, const char *text, struct err *err)
{
    p->ckpts = NULL;
    if (strcmp(text, "full") == 0)
        return 0;
    return err_set(err, ERR_INVALID, "--dims: only \"full\" is known without weights; --ckpts DIR plans the model of a folder");
}

static int take(struct planning *p, int option, const char *value, struct err *err)
{
    switch (option) {
    case JSON:
        p->json = true;
        return 0;
    case FP8:
        p->fp8 = true;
        return 0;
    case COMPACT:
        p->compact = true;
        return 0;
    case HELP:
        p->help = true;
        return 0;
    case CKPTS:
        p->ckpts = value;
        return 0;
    case DIMS:
        return take_dims(p, value, err);
    case SIZE:
        return take_size(p, value, err);
    case FRAMES:
        return take_number("--frames", value, 100000, &p->frames, err);
    case STEPS:
        return take_number("--steps", value, 100, &p->steps, err);
    case PRESET:
        return take_preset(p, value, err);
    case WEIGHTS:
        return take_weights(p, value, err);
    case RANKS:
        return take_number("--ranks", value, COMM_MAX, &p->ranks, err);
    case TFLOPS:
        return take_rate("--tflops", value, &p->tflops, err);
    default:
        return take_rate("--link", value, &p->link, err);
    }
}

static int read_words(struct planning *p, int argc, char **argv, struct err *err)
{
    const char *value;
    int rc = 0, option;
    for (int i = 1; i < argc && rc == 0; i++) {
        rc = command_words_next(options, FLAGS, argc, argv, &i, &option, &value, err);
        if (rc == 0)
            rc = take(p, option, value, err);
    }
    return rc;
}

static void print_text(const struct avatar_plan *a, bool is_gpu)
{
    char w[32], m[32], s[32], b[32];
    printf("%dx%d, %lld frames, %lld latents; weights %s\n\n%-11s %12s %12s %12s %12s %12s\n", a->width, a->height,
           (long long)a->n_frames, (long long)a->n_latents, avatar_mode_text(&a->mode), "stage", "weights",
           "brought up", "arena", "staging", "TFLOP");
    for (int i = 0; i < AVATAR_STAGE_COUNT; i++) {
        const struct avatar_cost *c = &a->stage[i];
        printf("%-11s %12s %12s %12s %12s %12.4g\n", avatar_stage_name((enum avatar_stage)i),
               str_bytes(w, sizeof w, c->weight_bytes), str_bytes(b, sizeof b, (size_t)c->brought_bytes),
               str_bytes(m, sizeof m, c->arena_bytes), str_bytes(s, sizeof s, c->staging_bytes), c->flops / 1e12);
    }
    printf("\nlargest at one time  %s\n", str_bytes(w, sizeof w, a->peak_bytes));
    if (a->mode.weights != AVATAR_RESIDENT)
        printf("brought up per job   %s\n", str_bytes(b, sizeof b, (size_t)a->brought_bytes));
    printf("work                 %.4g TFLOP\n", a->flops / 1e12);
    if (is_gpu)
        printf("on a GPU             %s more, for driver, libraries and work buffer\n", str_bytes(b, sizeof b, GPU_FIXED));
}

/* The ranks one by one, then the ways that were weighed. */
static int print_group(struct avatar *avatar, const struct planning *p, const struct group_plan *g, struct err *err)
{
    char bytes[32], sends[32];
    const struct group_way *best = &g->way[0];
    printf("\n%-11s %12s %12s %12s\n", "rank", "at one time", "sends", "TFLOP");
    for (int i = 0; i < g->ranks; i++) {
        struct avatar_plan one;
        int rc = avatar_make_rank_plan(avatar, p->width, p->height, p->frames, (int)p->steps, &best->degrees, i, &one, err);
        if (rc < 0)
            return rc;
        double sum = 0;
        for (int s = 0; s < AVATAR_STAGE_COUNT; s++)
            sum += one.stage[s].traffic_bytes;
        printf("%-11d %12s %12s %12.4g\n", i, str_bytes(bytes, sizeof bytes, one.peak_bytes),
               str_bytes(sends, sizeof sends, (size_t)sum), one.flops / 1e12);
    }
    printf("\n%-24s %12s %12s %12s\n", "tokens x rows x windows", "computing", "sending", "speed-up");
    for (int i = 0; i < g->n_ways; i++) {
        const struct group_way *w = &g->way[i];
        const struct comm_degrees *d = &w->degrees;
        printf("%2d x %d x %-17d %10.2f s %10.2f s %12.2f%s\n", d->tokens, d->pair, d->windows, w->compute, w->send,
               g->alone / group_plan_seconds(w), i == 0 ? "  taken" : "");
    }
    printf("\nat %g TFLOP/s and %g GB/s a rank, where nothing is hidden behind anything; alone %.2f s\n", p->tflops, p->link,
           g->alone);
    return 0;
}

static json_t *group_json(const struct group_plan *g)
{
    json_t *ways = json_array();
    for (int i = 0; i < g->n_ways; i++) {
        const struct group_way *w = &g->way[i];
        json_array_append_new(ways, json_pack("{s:i, s:i, s:i, s:f, s:f, s:f, s:f}", "tokens", w->degrees.tokens, "rows",
                                              w->degrees.pair, "windows", w->degrees.windows, "compute_seconds", w->compute,
                                              "send_seconds", w->send, "traffic_bytes", w->traffic, "speed_up",
                                              g->alone / group_plan_seconds(w)));
    }
    return json_pack("{s:i, s:f, s:o}", "ranks", g->ranks, "seconds_alone", g->alone, "ways", ways);
}

static void print_json(const struct avatar_plan *a, const struct group_plan *g)
{
    json_t *stages = json_object();
    for (int i = 0; i < AVATAR_STAGE_COUNT; i++) {
        const struct avatar_cost *c = &a->stage[i];
        json_object_set_new(stages, avatar_stage_name((enum avatar_stage)i),
                            json_pack("{s:I, s:I, s:I, s:f, s:f, s:f}", "weight_bytes", (json_int_t)c->weight_bytes,
                                      "arena_bytes", (json_int_t)c->arena_bytes, "staging_bytes",
                                      (json_int_t)c->staging_bytes, "brought_bytes", c->brought_bytes, "flops", c->flops,
                                      "traffic_bytes", c->traffic_bytes));
    }
    json_t *v = json_pack("{s:i, s:i, s:I, s:I, s:s, s:o, s:I, s:f, s:f}", "width", a->width, "height", a->height,
                          "frames", (json_int_t)a->n_frames, "latents", (json_int_t)a->n_latents, "mode",
                          avatar_mode_text(&a->mode), "stages", stages, "peak_bytes", (json_int_t)a->peak_bytes,
                          "brought_bytes", a->brought_bytes, "flops", a->flops);
    if (g)
        json_object_set_new(v, "group", group_json(g));
    json_dumpf(v, stdout, JSON_COMPACT);
    printf("\n");
    json_decref(v);
}

/* The fastest that fits the preset, of those that are not ruled out; of a group each rank is given what one alone needs. */
static int choose_mode(struct avatar *a, const struct planning *p, struct avatar_plan *ret, struct err *err)
{
    const struct avatar_ask ask = {.width = p->width, .height = p->height, .n_frames = p->frames, .steps = (int)p->steps};
    struct avatar_mode all[AVATAR_MODES], modes[AVATAR_MODES];
    char need[32];
    int n = 0, n_all = avatar_mode_ladder(p->weights, preset_is_cpu(p->preset), false, all, err);
    for (int i = 0; i < n_all; i++)
        if (!p->compact || all[i].compact)
            modes[n++] = all[i];
    if (n_all > 0 && n == 0)
        return err_set(err, ERR_INVALID, "--compact is for GPUs, preset cpu plans for none");
    const size_t most = preset_bytes(p->preset), room = most == SIZE_MAX ? most : most - GPU_FIXED;
    int i = n_all < 0 ? n_all : avatar_first_plan(a, modes, n, &ask, room, ret, err);
    if (i == n)
        return err_set(err, ERR_NOFIT, "--preset: %s has %lld MiB, and %d x %d with %lld frames needs %s at least (%s)",
                       p->preset->name, (long long)p->preset->max_mib, p->width, p->height, (long long)p->frames,
                       str_bytes(need, sizeof need, ret->peak_bytes + GPU_FIXED), avatar_mode_text(&ret->mode));
    if (i >= 0)
        avatar_set_mode(a, &modes[i]);
    return i < 0 ? i : 0;
}

static int plan(const struct planning *p, struct err *err)
{
    struct avatar *a = NULL;
    struct group_plan *g = mem_zalloc(sizeof *g);
    int rc = g ? avatar_open(&a, NULL, p->ckpts, p->fp8, err) : err_set(err, ERR_NOMEM, "plan: no memory");
    if (rc == 0)
        rc = choose_mode(a, p, &g->first, err);
    if (rc == 0 && p->ranks > 1)
        rc = group_plan_make(a, p->width, p->height, p->frames, (int)p->steps, (int)p->ranks,
                             &(struct group_rates){p->tflops * 1e12, p->link * 1e9}, g, err);
    if (rc == 0 && p->json) {
        print_json(&g->first, p->ranks > 1 ? g : NULL);
    } else if (rc == 0) {
        print_text(&g->first, !preset_is_cpu(p->preset));
        rc = p->ranks > 1 ? print_group(a, p, g, err) : 0;
    }
    mem_free(g);
    avatar_close(a);
    return rc;
}

int command_plan(int argc, char **argv)
{
    struct planning p = {
        .frames = 129, .steps = 50, .ranks = 1, .tflops = 400, .link = 300, .preset = preset_at(0), .weights = "auto"};
    struct err err = {0};
    size_rule(704, 704, 704, &p.width, &p.height);
    int rc = read_words(&p, argc, argv, &err);
    if (rc == 0 && p.help) {
        fputs(usage, stdout);
        return 0;
    }
    if (rc == 0)
        rc = plan(&p, &err);
    return rc < 0 ? command_words_fail(argc, argv, &err) : 0;
}
