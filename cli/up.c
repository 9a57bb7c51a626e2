/* up: the cluster of one machine until Ctrl-C. run: the same in a private folder for one job, from files to an MP4. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cluster.h"
#include "cli/http.h"
#include "cli/submit.h"
#include "common/str.h"

static int workers_of(const char *text, struct err *err)
{
    int64_t n = 1;
    if (text && str_parse_i64(text, 0, 32, &n) < 0)
        return err_set(err, ERR_INVALID, "--workers: %s is not a number from 0 to 32", text);
    return (int)n;
}

static int check_ckpts(const struct cli *c, struct err *err)
{
    if (access(c->conf.ckpts, R_OK) == 0)
        return 0;
    return err_set(err, ERR_NOTFOUND, "--ckpts: there is no folder %s: name the one that holds the weights (the demo model "
                   "is deploy/demo-model/ckpts)", c->conf.ckpts);
}

static void say_where(const struct cli *c, const struct cluster *k)
{
    if (c->json) {
        cli_print_json(json_pack("{s:s, s:s, s:s}", "api", cluster_url(k), "page", cluster_page(k), "log",
                                 cluster_log_dir(k)));
    } else {
        printf("api   %s\n", cluster_url(k));
        if (cluster_page(k)[0])
            printf("page  %s\n", cluster_page(k));
        printf("logs  %s\n", cluster_log_dir(k));
    }
    fflush(stdout);
}

static void wait_for_stop(struct cluster *k)
{
    int seen = 0;
    while (!cli_stopped) {
        int n = cluster_deaths(k);
        if (n > seen)
            fprintf(stderr, "a program ended and was started again (%d so far): see %s\n", n, cluster_log_dir(k));
        seen = n;
        nanosleep(&(struct timespec){0, 100000000}, NULL);
    }
}

int command_up(struct cli *c, int argc, char **argv)
{
    const char *n_workers = NULL;
    const struct arg own[] = {{"workers", &n_workers, NULL, "N", "workers to start [1]"}, {0}};
    struct args_rest r = {0};
    struct err err = {0};
    struct cluster *k = NULL;
    int rc = args_read(c, argc, argv, own, false, &r, &err);
    if (rc == 0 && r.n)
        rc = err_set(&err, ERR_INVALID, "unexpected word %s: see troupe %s --help", r.word[0], c->name);
    if (rc == 0 && r.help) {
        args_help(c, "[options]", "Starts redis-server, a dispatcher and workers on this machine, until Ctrl-C.", own, false);
        return CLI_OK;
    }
    struct cluster_options o = {.volume = c->conf.volume};
    if (rc == 0)
        rc = o.n_workers = workers_of(n_workers, &err);
    if (rc > 0)
        rc = check_ckpts(c, &err);
    cli_catch_signals();
    if (rc == 0)
        rc = cluster_start(&k, c, &o, &err);
    if (rc == 0) {
        say_where(c, k);
        fprintf(stderr, "Ctrl-C stops all of it\n");
        wait_for_stop(k);
    }
    cluster_stop(k);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}

/* ---- run -------------------------------------------------------------------------------------------------------------- */

struct running {
    const char *out, *noise, *dump;
    bool keep;
};

static int run_job(struct cli *c, const json_t *fields, const struct running *w, struct err *err)
{
    json_t *answer = NULL, *job = NULL;
    char path[1024], cancel[96];
    int rc = submit_request(c, fields, &answer, err);
    const char *id = json_string_value(json_object_get(answer, "id"));
    if (rc == 0)
        rc = submit_fetch(c, id, w->out, path, sizeof path, &job, err);
    if (rc == ERR_CANCEL && id) {
        json_t *gone = NULL;
        str_format(cancel, sizeof cancel, "/v1/jobs/%s/cancel", id);
        http_json(c, "POST", cancel, NULL, 5, &gone, NULL);
        json_decref(gone);
        err_clear(err);
        err_set(err, ERR_CANCEL, "stopped");
    }
    if (rc == 0 && c->json) {
        json_object_set_new(job, "path", json_string(path));
        cli_print_json(json_incref(job));
    } else if (rc == 0) {
        printf("%s\n", path);
        fflush(stdout);
    }
    json_decref(answer);
    json_decref(job);
    return rc;
}

/* Only what this folder's run made: the volume of a run is its own. */
static void remove_dir(char *dir)
{
    char rm[] = "rm", force[] = "-rf", end[] = "--";
    char *const words[] = {rm, force, end, dir, NULL};
    cli_spawn_wait(words);
}

int command_run(struct cli *c, int argc, char **argv)
{
    struct running w = {0};
    bool stay = false;
    const struct arg own[] = {{"out", &w.out, NULL, "FILE", "where the MP4 goes [ID.mp4]"},
                              {"noise", &w.noise, NULL, "FILE", "safetensors with `noise` and `vae_noise`"},
                              {"dump", &w.dump, NULL, "FILE", "write intermediate tensors here (safetensors)"},
                              {"keep", NULL, &w.keep, NULL, "keep the private folder"},
                              {"stay", NULL, &stay, NULL, "leave the page up until Ctrl-C"},
                              {0}};
    struct args_rest r = {0};
    struct err err = {0};
    struct cluster *k = NULL;
    char dir[64] = "/tmp/troupe-run-XXXXXX";
    int rc = args_read(c, argc, argv, own, true, &r, &err);
    if (rc == 0 && r.n)
        rc = err_set(&err, ERR_INVALID, "unexpected word %s: see troupe %s --help", r.word[0], c->name);
    if (rc == 0 && r.help) {
        args_help(c, "--image FILE --audio FILE [options]",
                  "From a portrait and a recording to an MP4: up, submit and watch in one, in a private folder.", own, true);
        args_done(&r);
        return CLI_OK;
    }
    if (rc == 0)
        rc = check_ckpts(c, &err);
    if (rc == 0 && !mkdtemp(dir))
        rc = err_set(&err, ERR_IO, "/tmp: no folder can be made");
    cli_catch_signals();
    if (!stay) {
        c->conf.port = 0;
        c->conf.web_port = -1;
    }
    struct cluster_options o = {.n_workers = 1, .volume = dir, .noise = w.noise, .dump = w.dump};
    if (rc == 0)
        rc = cluster_start(&k, c, &o, &err);
    if (rc == 0 && stay)
        say_where(c, k);
    if (rc == 0)
        rc = run_job(c, r.fields, &w, &err);
    if (rc == 0 && stay) {
        fprintf(stderr, "the page is at %s until Ctrl-C\n", cluster_page(k));
        wait_for_stop(k);
    }
    cluster_stop(k);
    if (!w.keep && strcmp(dir + strlen(dir) - 6, "XXXXXX") != 0)
        remove_dir(dir);
    args_done(&r);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
