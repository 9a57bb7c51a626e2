/* golden -- runs golden cases and compares.
 *
 *     golden [--table cpu_ref|cpu|cuda] [--ranks N [--split T,P,W] [--carrier NAME]] [--compact] [--shadow] [--weights W] [--case GLOB]
 *            [--verbose] DIR...
 *
 * --ranks runs the cases whose work ranks share (dit.forward, dit.cached, sampler.loop, vae.decode, pipeline): once alone, then on N
 * threads, each a rank with a device of its own, in every way to split N or in the one given (ranks for tokens, guidance rows,
 * windows). Each rank's result must hold the case's bound; the line also says how far it is from that of one rank. GPUs are taken
 * in turns, and where each rank has its own they talk over NCCL; --carrier nccl makes anything else a failure.
 *
 * --shadow: every op a second time on cpu_ref (kernels/shadow.h); the first that differs fails its case. The last line says how
 * close they came.
 *
 * --precision bf16|fp8, --rms F: for what is not held to the bounds of f32: each result's difference, as a root mean square
 * over that of what is stored, must be F at most; it is what is printed, as a share of F.
 *
 * --compact: transformer and VAE in the mode that takes less memory. The bounds are the same.
 *
 * --weights staged|streamed: weights come and go (worker/model/avatar_mode.h), for the kinds that run as a job runs: dit.forward,
 * dit.cached, llava, pipeline. The bounds are the same.
 *
 * A case is a JSON file with a `kind`; GLOB is matched against "folder/stem" and against the kind. Exit
 * status: 0 all passed (or skipped: no such device), 1 failures, 2 wrong use.
 */
#include <dirent.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"
#include "kernels/comm/comm.h"
#include "kernels/shadow.h"
#include "tests/golden/golden.h"
#include "kernels/threads.h"
#include "tests/golden/report.h"

#define MAX_CASES 10000
#define MAX_DEPTH 16
#define GROUP_US (300 * CLOCK_S) /* for one exchange */

/* A table whose file is not built yet is simply absent: its kinds are then unknown, and fail. */
#pragma weak golden_dit_kinds
#pragma weak golden_sampler_kinds
#pragma weak golden_vae_kinds
#pragma weak golden_text_kinds
#pragma weak golden_sound_kinds
#pragma weak golden_picture_kinds
#pragma weak golden_face_kinds
#pragma weak golden_pipeline_kinds

struct options {
    const char *table, *glob, *carrier;
    bool verbose, compact, shadow;
    int ranks; /* 0: one, without a group */
    struct comm_degrees split; /* tokens 0: every way */
    enum device_precision precision;
    double rms; /* 0: the cases' own bounds */
    enum avatar_weights weights;
};

struct totals {
    int passed, failed, skipped;
};

struct list {
    char **path; /* owned, each owned */
    int n;
};

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool add_path(struct list *l, const char *path)
{
    if (l->n == MAX_CASES)
        return false;
    if (!l->path)
        l->path = mem_calloc(MAX_CASES, sizeof *l->path);
    char *copy = l->path ? mem_strdup(path) : NULL;
    if (!copy)
        return false;
    l->path[l->n++] = copy;
    return true;
}

/* Every *.json under dir, but for checkpoints and folders of raw files. */
static bool collect(struct list *l, const char *dir, int depth)
{
    bool ok = true;
    DIR *d = depth < MAX_DEPTH ? opendir(dir) : NULL;
    if (!d) {
        fprintf(stderr, "golden: %s cannot be read\n", dir);
        return false;
    }
    for (struct dirent *e = readdir(d); ok && e; e = readdir(d)) {
        char path[2048];
        struct stat st;
        if (e->d_name[0] == '.' || strcmp(e->d_name, "ckpts") == 0)
            continue;
        if (str_path(path, sizeof path, dir, e->d_name) < 0 || stat(path, &st) < 0)
            ok = false;
        else if (S_ISDIR(st.st_mode))
            ok = collect(l, path, depth + 1);
        else if (str_ends(path, ".json"))
            ok = add_path(l, path);
    }
    closedir(d);
    return ok;
}

static const struct golden_kind *find_kind(const char *kind)
{
    const struct golden_kind *const tables[] = {golden_dit_kinds,  golden_sampler_kinds, golden_vae_kinds,
                                                golden_text_kinds, golden_sound_kinds,   golden_picture_kinds,
                                                golden_face_kinds, golden_pipeline_kinds};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const struct golden_kind *k = tables[i]; k && k->kind; k++)
            if (strcmp(k->kind, kind) == 0)
                return k;
    return NULL;
}

/* The twin's own path, or the nearest folder named ckpts on the way up. */
static void find_ckpts(const char *dir, json_t *twin, char *ret, size_t size)
{
    const char *said = json_string_value(json_object_get(twin, "ckpts"));
    char up[1800];
    if (said && str_path(ret, size, dir, said) == 0 && access(ret, F_OK) == 0)
        return;
    str_copy(up, sizeof up, dir);
    for (int i = 0; i < MAX_DEPTH; i++) {
        if (str_path(ret, size, up, "ckpts") == 0 && access(ret, F_OK) == 0)
            return;
        if (strlen(up) + 4 > sizeof up)
            break;
        memcpy(up + strlen(up), "/..", 4);
    }
    ret[0] = 0;
}

/* Results that were stored and not looked at are failures, and so is a case that checks nothing. */
static void check_complete(struct golden *g)
{
    for (size_t i = 0; g->file && i < ckpt_count(g->file); i++)
        if (str_starts(ckpt_name(g->file, i), "out.") && !g->report->checked[i])
            golden_fail(g, "%s was not checked", ckpt_name(g->file, i));
    if (g->report->n_checks == 0)
        golden_fail(g, "the case checks nothing");
    if (g->report->worst > 1)
        golden_fail(g, "%s: %.3g times its bound", g->report->worst_name, g->report->worst);
}

static void run_case(struct golden *g, golden_fn *fn, const struct comm_group *group)
{
    struct run run;
    char path[2048];
    struct err err = {0};
    if (str_format(path, sizeof path, "%s/%s.safetensors", g->dir, g->name) == 0 && access(path, F_OK) == 0 &&
        ckpt_open(&g->file, path, &g->err) < 0)
        return;
    g->report->checked = mem_zalloc(g->file ? ckpt_count(g->file) : 1);
    if (!g->report->checked || run_init(&run, g->device, 0, &err) < 0) {
        golden_fail(g, "no run: %s", err.code ? err.text : "out of memory");
        return;
    }
    g->run = &run;
    run.group = group;
    fn(g);
    if (run.err.code)
        golden_fail(g, "%s", run.err.text);
    if (!g->err.code && (!group || group->rank == 0))
        check_complete(g);
    device_forget(g->device, NULL,
                  SIZE_MAX); /* the case's weights go away, others may come to the same addresses */
    run_done(&run);
    g->run = NULL;
}

static void finish_case(struct golden *g)
{
    for (int i = 0; i < g->report->n_others; i++)
        ckpt_close(g->report->others[i]);
    ckpt_close(g->file);
    mem_free(g->report->checked);
}

/* ---- several ranks ---- */

struct rank {
    struct golden g;
    struct golden_report report;
    golden_fn *fn;
    struct comm *comm;
    struct comm_degrees split;
    const char *carrier; /* that it must be, or NULL */
    pthread_t thread;
};

/* Over the device's own carrier where all ranks can. */
static int open_own(struct rank *k, struct comm **ret)
{
    struct device *d = k->g.device;
    struct err no = {0};
    *ret = k->comm;
    const int rc = d->hooks->comm ? d->hooks->comm(d, k->comm, GROUP_US, ret, &no) : 0;
    if (rc < 0 && rc != ERR_UNSUPPORTED)
        return err_set(&k->g.err, rc, "%s", no.text);
    if (k->carrier && strcmp(k->carrier, (*ret)->carrier->name) != 0)
        return err_set(&k->g.err, ERR_UNSUPPORTED, "carrier: it is %s: %s", (*ret)->carrier->name, no.text);
    return 0;
}

static void *rank_main(void *arg)
{
    struct rank *k = arg;
    struct comm_group group;
    struct comm *own = k->comm;
    char done[COMM_MAX] = {0};
    struct err ignored = {0};
    int rc = open_own(k, &own);
    if (rc == 0)
        rc = comm_group_init(&group, own, own->rank, &k->split, &k->g.err);
    if (rc == 0)
        run_case(&k->g, k->fn, &group);
    if (rc == 0 && !k->g.err.code) /* nobody leaves while others read */
        comm_tell(k->comm, done, sizeof(*done), &ignored);
    if (own != k->comm)
        comm_close(own);
    comm_close(k->comm);
    return NULL;
}

/* The case on all ranks; g's report and error become those of the rank that is worst off. */
static void run_ranks(struct golden *g, golden_fn *fn, struct device **devices, struct comm_degrees split, const char *carrier,
                      const struct golden_kept *kept)
{
    const int n = split.tokens * split.pair * split.windows;
    struct rank *ranks = mem_calloc(COMM_MAX, sizeof *ranks);
    struct comm *ends[COMM_MAX];
    if (!ranks || comm_threads_open(ends, n, GROUP_US, &g->err) < 0) {
        golden_fail(g, "no ranks");
        mem_free(ranks);
        return;
    }
    for (int i = 0; i < n; i++) {
        ranks[i] = (struct rank){.g = *g, .fn = fn, .comm = ends[i], .split = split, .carrier = carrier};
        ranks[i].report = (struct golden_report){
            .verbose = g->report->verbose && i == 0, .rms = g->report->rms, .kept = kept};
        ranks[i].g.report = &ranks[i].report;
        ranks[i].g.device = devices[i];
        if (pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]) != 0)
            abort();
    }
    for (int i = 0; i < n; i++) {
        struct golden_report *r = &ranks[i].report;
        pthread_join(ranks[i].thread, NULL);
        if (ranks[i].g.err.code)
            golden_fail(g, "rank %d: %s", i, ranks[i].g.err.text);
        const double apart = r->apart > g->report->apart ? r->apart : g->report->apart;
        if (i == 0 || r->worst > g->report->worst)
            *g->report = (struct golden_report){.worst = r->worst};
        if (g->report->worst == r->worst)
            str_copy(g->report->worst_name, sizeof g->report->worst_name, r->worst_name);
        g->report->apart = apart;
        finish_case(&ranks[i].g);
    }
    mem_free(ranks);
}

static void print_case(const struct golden *g, const char *kind, const char *id, const char *how, struct totals *t)
{
    const struct golden_report *r = g->report;
    if (g->err.code) {
        t->failed++;
        printf("FAIL   %-22s %-36s %s%s\n", kind, id, how, g->err.text);
    } else {
        t->passed++;
        printf("ok     %-22s %-36s %s%-24s %.3g", kind, id, how, r->worst_name, r->worst);
        if (how[0])
            printf("  apart %.2g", r->apart);
        printf("\n");
    }
    fflush(stdout);
}

/* Ways to split n ranks: over tokens, then with the guidance rows on two halves, with windows on two or all. */
static int splits_of(int n, bool has_windows, bool has_rows, struct comm_degrees ret[8])
{
    int k = 0;
    ret[k++] = (struct comm_degrees){n, 1, 1};
    if (n % 2 == 0 && has_rows)
        ret[k++] = (struct comm_degrees){n / 2, 2, 1};
    if (n % 2 == 0 && has_windows)
        ret[k++] = (struct comm_degrees){n / 2, 1, 2};
    if (n % 4 == 0 && has_windows)
        ret[k++] = (struct comm_degrees){n / 4, 2, 2};
    if (n % 2 && has_windows)
        ret[k++] = (struct comm_degrees){1, 1, n};
    return k;
}

static void one_shared(const struct options *o, struct golden *g, const struct golden_kind *kind, struct device **devices,
                       const char *id, struct totals *t)
{
    struct golden_kept *kept = mem_zalloc(sizeof *kept);
    struct comm_degrees split[8];
    char how[48];
    const bool vae = str_starts(kind->kind, "vae"), dit = str_starts(kind->kind, "dit");
    int n = o->split.tokens ? 1 : splits_of(o->ranks, !vae && !dit, !vae, split);
    if (o->split.tokens)
        split[0] = o->split;
    g->report->keep = kept;
    run_case(g, kind->fn, NULL);
    finish_case(g);
    for (int i = 0; i < n && !g->err.code; i++) {
        struct golden shared = *g;
        struct golden_report report = {.verbose = o->verbose, .rms = o->rms};
        shared.report = &report;
        shared.file = NULL;
        run_ranks(&shared, kind->fn, devices, split[i], o->carrier, kept);
        str_format(how, sizeof how, "%d x %d x %d  ", split[i].tokens, split[i].pair, split[i].windows);
        print_case(&shared, kind->kind, id, how, t);
    }
    if (g->err.code)
        print_case(g, kind->kind, id, "alone  ", t);
    for (int i = 0; kept && i < kept->n; i++)
        mem_free(kept->one[i].value);
    mem_free(kept);
}

/* Do cases of that kind take their weights as a job does? Others look at single layers. */
static bool streams(const char *kind)
{
    return str_starts(kind, "dit.forward") || strcmp(kind, "dit.cached") == 0 || str_starts(kind, "llava.") ||
           strcmp(kind, "pipeline") == 0;
}

static void one(const struct options *o, struct device **devices, const char *path, json_t *twin,
                struct totals *t)
{
    char dir[2048], name[256], id[600], ckpts[2048];
    const char *slash = strrchr(path, '/'), *text = json_string_value(json_object_get(twin, "kind"));
    str_format(dir, sizeof dir, "%.*s", (int)(slash - path), path);
    str_format(name, sizeof name, "%.*s", (int)(strlen(slash + 1) - 5), slash + 1);
    const char *folder = strrchr(dir, '/');
    str_format(id, sizeof id, "%s/%s", folder ? folder + 1 : dir, name);
    if (o->glob && fnmatch(o->glob, id, 0) != 0 && fnmatch(o->glob, text, 0) != 0)
        return;
    const struct golden_kind *kind = find_kind(text);
    if (o->ranks && kind && !kind->shares)
        return;
    if (o->weights != AVATAR_RESIDENT && !streams(text))
        return;
    if (!devices[0]) {
        t->skipped++;
        return;
    }
    find_ckpts(dir, twin, ckpts, sizeof ckpts);
    struct golden_report report = {.verbose = o->verbose, .rms = o->rms};
    struct golden g = {
        .dir = dir, .name = name, .twin = twin, .ckpts = ckpts, .device = devices[0], .report = &report, .compact = o->compact,
        .weights = o->weights};
    if (!kind)
        golden_fail(&g, "kind %s is not known", text);
    else if (o->ranks) {
        one_shared(o, &g, kind, devices, id, t);
        return;
    } else {
        run_case(&g, kind->fn, NULL);
    }
    print_case(&g, text, id, "", t);
    finish_case(&g);
}

/* One device a rank, in turns on the GPUs that there are; none where there is no such device. */
static void open_devices(const struct options *o, struct device **devices, struct totals *t)
{
    struct device_options options = {.n_threads = o->ranks ? 1 : 0, .precision = o->precision};
    int n_gpus = 0;
    for (int i = 0; i < (o->ranks ? o->ranks : 1); i++) {
        struct err err = {0};
        options.index = strcmp(o->table, "cuda") != 0 ? 0 : n_gpus ? i % n_gpus : i;
        int rc = device_open(&devices[i], o->table, &options, &err);
        if (rc == ERR_INVALID && i > 0 && !n_gpus) { /* the first that is not there */
            n_gpus = i;
            options.index = 0;
            rc = device_open(&devices[i], o->table, &options, &err);
        }
        if (rc == 0)
            continue;
        printf("no device %s: %s\n", o->table, err.text);
        if (strcmp(o->table, "cuda") != 0)
            t->failed++;
        return;
    }
}

/* One of each device that there is. */
static void open_shadows(struct device **devices, struct shadow **shadows, struct totals *t)
{
    struct err err = {0};
    for (int i = 0; i < COMM_MAX && devices[i]; i++) {
        if (shadow_open(&shadows[i], devices[i], SHADOW_BYTES, &err) == 0)
            continue;
        printf("%s\n", err.text);
        t->failed++;
        return;
    }
}

static void close_shadow(struct shadow *s)
{
    struct shadow_report r;
    if (!s)
        return;
    shadow_report(s, &r);
    printf("shadow: %lld ops checked, %lld too large", (long long)r.n_checked, (long long)r.n_skipped);
    if (r.share > 0)
        printf("; %s (%s) used most of its bound: %.3f", r.op, r.label, r.share);
    printf("\n");
    shadow_close(s);
}

static int run_all(const struct options *o, const struct list *l)
{
    struct totals t = {0};
    struct device *devices[COMM_MAX] = {NULL};
    struct shadow *shadows[COMM_MAX] = {NULL};
    open_devices(o, devices, &t);
    if (o->shadow)
        open_shadows(devices, shadows, &t);
    for (int i = 0; i < l->n; i++) {
        json_t *twin = NULL;
        struct err bad = {0};
        if (json_read_file_nul(l->path[i], 64u << 20, &twin, &bad) < 0) {
            printf("FAIL   %s: %s\n", l->path[i], bad.text);
            t.failed++;
        } else if (json_is_string(json_object_get(twin, "kind"))) {
            one(o, devices, l->path[i], twin, &t);
        }
        json_decref(twin);
    }
    for (int i = 0; i < COMM_MAX; i++) {
        close_shadow(shadows[i]);
        device_close(devices[i]);
    }
    printf("%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped);
    return t.failed || t.passed + t.skipped == 0;
}

static bool take_split(struct options *o, const char *text)
{
    struct comm_degrees *d = &o->split;
    return sscanf(text, "%d,%d,%d", &d->tokens, &d->pair, &d->windows) == 3 && d->tokens > 0 && d->pair > 0 &&
           d->windows > 0;
}

static bool take_weights(struct options *o, const char *text)
{
    struct avatar_mode modes[AVATAR_MODES];
    struct err err = {0};
    const bool ok = strcmp(text, "auto") != 0 && avatar_mode_ladder(text, false, false, modes, &err) > 0;
    o->weights = ok ? modes[0].weights : AVATAR_RESIDENT;
    return ok;
}

static bool take_option(struct options *o, const char *name, const char *value)
{
    int64_t n = 0;
    struct err err = {0};
    if (strcmp(name, "--table") == 0)
        o->table = value;
    else if (strcmp(name, "--case") == 0)
        o->glob = value;
    else if (strcmp(name, "--carrier") == 0)
        o->carrier = value;
    else if (strcmp(name, "--rms") == 0 && str_parse_f64(value, 0, 1e9, &o->rms) == 0)
        return true;
    else if (strcmp(name, "--precision") == 0 && device_precision_parse(value, "", &o->precision, &err) == 0)
        return true;
    else if (strcmp(name, "--weights") == 0)
        return take_weights(o, value);
    else if (strcmp(name, "--split") == 0)
        return take_split(o, value);
    else if (strcmp(name, "--ranks") == 0 && str_parse_i64(value, 1, COMM_MAX, &n) == 0)
        o->ranks = (int)n;
    else
        return false;
    return true;
}

static bool take_flag(struct options *o, const char *name)
{
    bool *flag = strcmp(name, "--verbose") == 0   ? &o->verbose
                 : strcmp(name, "--compact") == 0 ? &o->compact
                 : strcmp(name, "--shadow") == 0  ? &o->shadow
                                                  : NULL;
    if (flag)
        *flag = true;
    return flag;
}

int main(int argc, char **argv)
{
    threads_settle(argv);
    struct options o = {.table = "cpu_ref"};
    struct list l = {0};
    int rc = 2, i = 1;
    for (; i < argc && str_starts(argv[i], "--"); i++) {
        if (take_flag(&o, argv[i]))
            continue;
        if (i + 1 < argc && take_option(&o, argv[i], argv[i + 1]))
            i++;
        else
            break;
    }
    bool ok = i < argc && !str_starts(argv[i], "--") &&
              (!o.split.tokens || o.split.tokens * o.split.pair * o.split.windows == o.ranks);
    for (; ok && i < argc; i++) {
        char whole[PATH_MAX]; /* "." and "x/" too have a name and a folder above */
        ok = collect(&l, realpath(argv[i], whole) ? whole : argv[i], 0);
    }
    if (ok) {
        if (l.n)
            qsort(l.path, (size_t)l.n, sizeof *l.path, by_text);
        rc = run_all(&o, &l);
    } else {
        fprintf(stderr, "use: golden [--table cpu_ref|cpu|cuda] [--ranks N [--split T,P,W] [--carrier NAME]] [--compact] "
                        "[--weights W] [--shadow] [--precision P] [--rms F] [--case GLOB] [--verbose] DIR...\n");
    }
    for (int k = 0; k < l.n; k++)
        mem_free(l.path[k]);
    mem_free(l.path);
    return rc;
}
