/* golden -- runs golden cases and compares.
 *
 *     golden [--table cpu_ref|cpu|cuda] [--case GLOB] [--verbose] DIR...
 *
 * A case is a JSON file with a `kind`; GLOB is matched against "folder/stem" and against the kind. Exit
 * status: 0 all passed (or skipped: no such device), 1 failures, 2 wrong use.
 */
#include <dirent.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"
#include "tests/golden/golden.h"
#include "kernels/threads.h"
#include "tests/golden/report.h"

#define MAX_CASES 10000
#define MAX_DEPTH 16

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
    const char *table, *glob;
    bool verbose;
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

static golden_fn *find_kind(const char *kind)
{
    const struct golden_kind *const tables[] = {golden_dit_kinds,  golden_sampler_kinds, golden_vae_kinds,
                                                golden_text_kinds, golden_sound_kinds,   golden_picture_kinds,
                                                golden_face_kinds, golden_pipeline_kinds};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const struct golden_kind *k = tables[i]; k && k->kind; k++)
            if (strcmp(k->kind, kind) == 0)
                return k->fn;
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

static void run_case(struct golden *g, golden_fn *fn)
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
    fn(g);
    if (run.err.code)
        golden_fail(g, "%s", run.err.text);
    if (!g->err.code)
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

static void one(const struct options *o, struct device *device, const char *path, json_t *twin,
                struct totals *t)
{
    char dir[2048], name[256], id[600], ckpts[2048];
    const char *slash = strrchr(path, '/'), *kind = json_string_value(json_object_get(twin, "kind"));
    str_format(dir, sizeof dir, "%.*s", (int)(slash - path), path);
    str_format(name, sizeof name, "%.*s", (int)(strlen(slash + 1) - 5), slash + 1);
    const char *folder = strrchr(dir, '/');
    str_format(id, sizeof id, "%s/%s", folder ? folder + 1 : dir, name);
    if (o->glob && fnmatch(o->glob, id, 0) != 0 && fnmatch(o->glob, kind, 0) != 0)
        return;
    if (!device) {
        t->skipped++;
        return;
    }
    find_ckpts(dir, twin, ckpts, sizeof ckpts);
    struct golden_report report = {.verbose = o->verbose};
    struct golden g = {
        .dir = dir, .name = name, .twin = twin, .ckpts = ckpts, .device = device, .report = &report};
    golden_fn *fn = find_kind(kind);
    if (fn)
        run_case(&g, fn);
    else
        golden_fail(&g, "kind %s is not known", kind);
    if (g.err.code) {
        t->failed++;
        printf("FAIL   %-22s %-36s %s\n", kind, id, g.err.text);
    } else {
        t->passed++;
        printf("ok     %-22s %-36s %-24s %.3g\n", kind, id, report.worst_name, report.worst);
    }
    fflush(stdout);
    finish_case(&g);
}

static int run_all(const struct options *o, const struct list *l)
{
    struct totals t = {0};
    struct device *device = NULL;
    struct err err = {0};
    struct device_options options = {0};
    if (device_open(&device, o->table, &options, &err) < 0) {
        printf("no device %s: %s\n", o->table, err.text);
        if (strcmp(o->table, "cuda") != 0)
            t.failed++;
    }
    for (int i = 0; i < l->n; i++) {
        json_t *twin = NULL;
        struct err bad = {0};
        if (json_read_file_nul(l->path[i], 64u << 20, &twin, &bad) < 0) {
            printf("FAIL   %s: %s\n", l->path[i], bad.text);
            t.failed++;
        } else if (json_is_string(json_object_get(twin, "kind"))) {
            one(o, device, l->path[i], twin, &t);
        }
        json_decref(twin);
    }
    device_close(device);
    printf("%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped);
    return t.failed || t.passed + t.skipped == 0;
}

int main(int argc, char **argv)
{
    threads_settle(argv);
    struct options o = {.table = "cpu_ref"};
    struct list l = {0};
    int rc = 2, i = 1;
    for (; i < argc && str_starts(argv[i], "--"); i++) {
        if (strcmp(argv[i], "--verbose") == 0)
            o.verbose = true;
        else if (strcmp(argv[i], "--table") == 0 && i + 1 < argc)
            o.table = argv[++i];
        else if (strcmp(argv[i], "--case") == 0 && i + 1 < argc)
            o.glob = argv[++i];
        else
            break;
    }
    bool ok = i < argc && !str_starts(argv[i], "--");
    for (; ok && i < argc; i++) {
        char whole[PATH_MAX]; /* "." and "x/" too have a name and a folder above */
        ok = collect(&l, realpath(argv[i], whole) ? whole : argv[i], 0);
    }
    if (ok) {
        if (l.n)
            qsort(l.path, (size_t)l.n, sizeof *l.path, by_text);
        rc = run_all(&o, &l);
    } else {
        fprintf(stderr, "use: golden [--table cpu_ref|cpu|cuda] [--case GLOB] [--verbose] DIR...\n");
    }
    for (int k = 0; k < l.n; k++)
        mem_free(l.path[k]);
    mem_free(l.path);
    return rc;
}
