/* run: up, submit and watch in one, in a private folder: from a portrait and a recording to an MP4. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/http.h"
#include "cli/submit.h"
#include "cli/up.h"
#include "common/str.h"

struct running {
    const char *out, *noise, *dump;
    bool keep, stay;
    char dir[64]; /* the private folder; "" until it is made */
    struct cluster *cluster;
};

static void get_into(const struct cli *c, json_t *job, const char *id, const char *name)
{
    char path[96];
    json_t *v = NULL;
    str_format(path, sizeof path, "/v1/jobs/%s/%s", id, name);
    if (http_json(c, "GET", path, NULL, 30, &v, NULL) == 0)
        json_object_set_new(job, name, v);
}

static void tell(const struct cli *c, json_t *job, const char *id, const char *path)
{
    if (!c->json) {
        printf("%s\n", path);
        fflush(stdout);
        return;
    }
    get_into(c, job, id, "report");
    json_object_set_new(job, "path", json_string(path));
    cli_print_json(json_incref(job));
}

/* Ctrl-C: the job is stopped too, so that the worker ends at once. */
static void cancel(const struct cli *c, const char *id)
{
    char path[96];
    json_t *v = NULL;
    str_format(path, sizeof path, "/v1/jobs/%s/cancel", id);
    http_json(c, "POST", path, NULL, 5, &v, NULL);
    json_decref(v);
}

static int run_job(const struct cli *c, const json_t *fields, const struct running *w, struct err *err)
{
    json_t *answer = NULL, *job = NULL;
    char path[1024];
    int rc = submit_request(c, fields, &answer, err);
    const char *id = json_string_value(json_object_get(answer, "id"));
    if (rc == 0)
        rc = submit_fetch(c, id, w->out, path, sizeof path, &job, err);
    if (rc == 0)
        tell(c, job, id, path);
    if (rc == ERR_CANCEL && id && cli_stopped) {
        cancel(c, id);
        err_clear(err);
        err_set(err, ERR_CANCEL, "stopped");
    }
    json_decref(answer);
    json_decref(job);
    return rc;
}

static int start(struct cli *c, struct running *w, struct err *err)
{
    struct cluster_options o = {.n_workers = 1, .volume = w->dir, .noise = w->noise, .dump = w->dump, .once = true};
    int rc = up_check_ckpts(c, err);
    if (rc < 0)
        return rc;
    str_copy(w->dir, sizeof w->dir, "/tmp/troupe-run-XXXXXX");
    if (!mkdtemp(w->dir)) {
        w->dir[0] = 0;
        return err_set(err, ERR_IO, "/tmp: no folder can be made");
    }
    if (!w->stay) {
        c->conf.port = 0;
        c->conf.web_port = -1;
    }
    return cluster_start(&w->cluster, c, &o, err);
}

/* The volume of a run is its own: nothing else is in it. */
static void stop(struct running *w)
{
    char rm[] = "rm", force[] = "-rf", end[] = "--";
    char *const words[] = {rm, force, end, w->dir, NULL};
    cluster_stop(w->cluster);
    if (w->dir[0] && !w->keep)
        cli_spawn_wait(words);
    else if (w->dir[0])
        fprintf(stderr, "kept %s\n", w->dir);
}

static int run_all(struct cli *c, const json_t *fields, struct running *w, struct err *err)
{
    cli_catch_signals();
    int rc = submit_check(fields, err);
    if (rc == 0)
        rc = start(c, w, err);
    if (rc == 0 && w->stay)
        up_say_where(c, w->cluster);
    if (rc == 0)
        rc = run_job(c, fields, w, err);
    if (rc < 0 && w->cluster && cluster_failed(w->cluster)) {
        char why[400];
        cluster_why(w->cluster, why, sizeof why);
        err_clear(err);
        rc = err_set(err, ERR_UNSUPPORTED, "%s cannot start: %s", cluster_failed(w->cluster), why);
    }
    if (rc == 0 && w->stay) {
        fprintf(stderr, "open %s to see it and to make more; Ctrl-C stops everything\n",
                cluster_page(w->cluster));
        up_wait(w->cluster);
    }
    stop(w);
    return rc;
}

int run_command(struct cli *c, int argc, char **argv)
{
    struct running w = {0};
    const struct arg own[] = {
        {"out", &w.out, NULL, "FILE", "where the MP4 goes [ID.mp4]"},
        {"noise", &w.noise, NULL, "FILE", "safetensors with `noise` and `vae_noise`"},
        {"dump", &w.dump, NULL, "FILE", "write intermediate tensors here (safetensors)"},
        {"keep", NULL, &w.keep, NULL, "keep the private folder"},
        {"stay", NULL, &w.stay, NULL, "leave the page up until Ctrl-C"},
        {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, true, 0, &r, &err);
    if (rc == 0 && r.help)
        args_help(
            c, "--image FILE --audio FILE [options]",
            "From a portrait and a recording to an MP4: up, submit and watch in one, in a private folder.",
            own, true);
    else if (rc == 0)
        rc = run_all(c, r.fields, &w, &err);
    args_done(&r);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
