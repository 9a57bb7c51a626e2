/* plan: memory and work of a video by stage, from the same forwards run without data. */
#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "common/schema.h"
#include "common/str.h"
#include "worker/command.h"
#include "worker/media/size.h"
#include "worker/model/avatar.h"

struct planning {
    const char *ckpts; /* NULL: the real dims, no weights */
    int width, height;
    int64_t frames, steps;
    bool fp8, json, help;
};

static const char usage[] =
    "usage: troupe plan (--ckpts DIR | --dims full) [--size N|WxH] [--frames N] [--steps N] [--fp8] "
    "[--json]\n\n"
    "Memory and work of one video by stage, before anything runs. --dims full needs no weights.\n"
    "A size N is planned for a square picture. One rank: --ranks above 1 comes with the GPU table.\n";

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

/* One option with its value. ERR_INVALID for an unknown one. */
static int take(struct planning *p, const char *name, const char *value, struct err *err)
{
    int64_t ranks;
    if (!value)
        return err_set(err, ERR_INVALID, "%s needs a value", name);
    if (strcmp(name, "--ckpts") == 0) {
        p->ckpts = value;
    } else if (strcmp(name, "--dims") == 0) {
        p->ckpts = NULL;
        return strcmp(value, "full") == 0 ? 0
                                          : err_set(err, ERR_INVALID,
                                                    "--dims: only \"full\" is known without weights; "
                                                    "--ckpts DIR plans the model of a folder");
    } else if (strcmp(name, "--size") == 0) {
        return take_size(p, value, err);
    } else if (strcmp(name, "--frames") == 0) {
        return take_number(name, value, 100000, &p->frames, err);
    } else if (strcmp(name, "--steps") == 0) {
        return take_number(name, value, 100, &p->steps, err);
    } else if (strcmp(name, "--ranks") == 0) {
        int rc = take_number(name, value, 64, &ranks, err);
        return rc < 0 || ranks == 1
                   ? rc
                   : err_set(err, ERR_UNSUPPORTED, "--ranks: groups are not in this version: plan one rank");
    } else if (strcmp(name, "--preset") == 0) {
        return strcmp(value, "auto") == 0 || strcmp(value, "cpu") == 0
                   ? 0
                   : err_set(err, ERR_UNSUPPORTED, "--preset: auto and cpu are in this version, not %s",
                             value);
    } else {
        return err_set(err, ERR_INVALID, "unknown option %s: see troupe plan --help", name);
    }
    return 0;
}

static int read_words(struct planning *p, int argc, char **argv, struct err *err)
{
    int rc = 0;
    for (int i = 1; i < argc && rc == 0; i++) {
        if (strcmp(argv[i], "--json") == 0)
            p->json = true;
        else if (strcmp(argv[i], "--fp8") == 0)
            p->fp8 = true;
        else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            p->help = true;
        else {
            rc = take(p, argv[i], i + 1 < argc ? argv[i + 1] : NULL, err);
            i++;
        }
    }
    return rc;
}

static void print_text(const struct avatar_plan *a)
{
    char w[32], m[32], s[32];
    printf("%dx%d, %lld frames, %lld latents\n\n%-11s %12s %12s %12s %12s\n", a->width, a->height,
           (long long)a->n_frames, (long long)a->n_latents, "stage", "weights", "arena", "staging", "TFLOP");
    for (int i = 0; i < AVATAR_STAGE_COUNT; i++) {
        const struct avatar_cost *c = &a->stage[i];
        printf("%-11s %12s %12s %12s %12.4g\n", avatar_stage_name((enum avatar_stage)i),
               str_bytes(w, sizeof w, c->weight_bytes), str_bytes(m, sizeof m, c->arena_bytes),
               str_bytes(s, sizeof s, c->staging_bytes), c->flops / 1e12);
    }
    printf("\nlargest at one time  %s\nwork                 %.4g TFLOP\n",
           str_bytes(w, sizeof w, a->peak_bytes), a->flops / 1e12);
}

static void print_json(const struct avatar_plan *a)
{
    json_t *stages = json_object();
    for (int i = 0; i < AVATAR_STAGE_COUNT; i++) {
        const struct avatar_cost *c = &a->stage[i];
        json_object_set_new(stages, avatar_stage_name((enum avatar_stage)i),
                            json_pack("{s:I, s:I, s:I, s:f}", "weight_bytes", (json_int_t)c->weight_bytes,
                                      "arena_bytes", (json_int_t)c->arena_bytes, "staging_bytes",
                                      (json_int_t)c->staging_bytes, "flops", c->flops));
    }
    json_t *v = json_pack("{s:i, s:i, s:I, s:I, s:o, s:I, s:f}", "width", a->width, "height", a->height,
                          "frames", (json_int_t)a->n_frames, "latents", (json_int_t)a->n_latents, "stages",
                          stages, "peak_bytes", (json_int_t)a->peak_bytes, "flops", a->flops);
    json_dumpf(v, stdout, JSON_COMPACT);
    printf("\n");
    json_decref(v);
}

int command_plan(int argc, char **argv)
{
    struct planning p = {.frames = 129, .steps = 50};
    struct avatar_plan plan;
    struct avatar *a = NULL;
    struct err err = {0};
    size_rule(704, 704, 704, &p.width, &p.height);
    int rc = read_words(&p, argc, argv, &err);
    if (rc == 0 && p.help) {
        fputs(usage, stdout);
        return 0;
    }
    if (rc == 0)
        rc = avatar_open(&a, NULL, p.ckpts, p.fp8, &err);
    if (rc == 0)
        rc = avatar_make_plan(a, p.width, p.height, p.frames, (int)p.steps, &plan, &err);
    if (rc == 0 && p.json)
        print_json(&plan);
    else if (rc == 0)
        print_text(&plan);
    avatar_close(a);
    if (rc < 0)
        fprintf(stderr, "troupe plan: %s\n", err.text);
    return rc == 0 ? 0 : rc == ERR_INVALID ? 2 : 1;
}
