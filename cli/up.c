#include "cli/up.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cli/args.h"
#include "common/str.h"

static int workers_of(const char *text, struct err *err)
{
    int64_t n = 1;
    if (text && str_parse_i64(text, 0, 32, &n) < 0)
        return err_set(err, ERR_INVALID, "--workers: %s is not a number from 0 to 32", text);
    return (int)n;
}

struct words {
    const char *workers, *parts, *devices, *state;
    bool container;
};

static int read_words(const struct words *w, struct cluster_options *o, struct err *err)
{
    if (w->workers && w->devices)
        return err_set(err, ERR_INVALID, "--workers: with --devices there is one worker for each device");
    int rc = w->parts ? cluster_parts(w->parts, &o->parts, err) : 0;
    if (rc == 0)
        rc = o->n_workers = workers_of(w->workers, err);
    o->devices = w->devices;
    o->state = w->state;
    o->container = w->container;
    return rc < 0 ? rc : 0;
}

int up_check_ckpts(const struct cli *c, struct err *err)
{
    if (access(c->conf.ckpts, R_OK) == 0)
        return 0;
    return err_set(err, ERR_NOTFOUND,
                   "--ckpts: there is no folder %s: name the one that holds the weights (the demo model "
                   "is deploy/demo-model/ckpts)",
                   c->conf.ckpts);
}

void up_say_where(const struct cli *c, const struct cluster *k)
{
    if (c->json) {
        cli_print_json(json_pack("{s:s, s:s, s:s}", "api", cluster_url(k), "page", cluster_page(k), "log",
                                 cluster_log_dir(k)));
    } else {
        const char *const lines[][2] = {
            {"api", cluster_url(k)}, {"page", cluster_page(k)}, {"logs", cluster_log_dir(k)}};
        for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
            if (lines[i][1][0])
                printf("%-5s %s\n", lines[i][0], lines[i][1]);
        }
    }
    fflush(stdout);
}

void up_wait(struct cluster *k)
{
    int seen = 0;
    while (!cli_stopped && !cluster_failed(k)) {
        int n = cluster_deaths(k);
        if (n > seen)
            fprintf(stderr, "a program ended and is started again (%d so far): see %s\n", n,
                    cluster_log_dir(k)[0] ? cluster_log_dir(k) : "the lines above");
        seen = n;
        nanosleep(&(struct timespec){0, 100000000}, NULL);
    }
}

static int up_all(struct cli *c, struct cluster_options *o, struct err *err)
{
    struct cluster *k = NULL;
    bool workers = !o->parts || o->parts & CLUSTER_WORKERS;
    int rc = workers ? up_check_ckpts(c, err) : 0;
    o->volume = c->conf.volume;
    cli_catch_signals();
    if (rc == 0)
        rc = cluster_start(&k, c, o, err);
    if (rc == 0) {
        up_say_where(c, k);
        if (!o->container)
            fprintf(stderr, "Ctrl-C stops all of it\n");
        up_wait(k);
        if (cluster_failed(k))
            rc = err_set(err, ERR_IO, "%s ended, and the rest is of no use without it: see the lines above",
                         cluster_failed(k));
    }
    cluster_stop(k);
    return rc;
}

int up_command(struct cli *c, int argc, char **argv)
{
    struct words w = {0};
    struct cluster_options o = {0};
    const struct arg own[] = {
        {"workers", &w.workers, NULL, "N", "workers to start [1]"},
        {"devices", &w.devices, NULL, "LIST", "one worker for each, like cuda:0,cuda:1 [--workers of --device]"},
        {"parts", &w.parts, NULL, "LIST", "some of redis,dispatcher,workers; without redis: --redis is used [all]"},
        {"state", &w.state, NULL, "DIR", "folder of this cluster alone: Redis' data, logs [the volume]"},
        {"container", NULL, &w.container, NULL, "logs to standard error; ends when Redis or the dispatcher does"},
        {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 0, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "[options]",
                  "Starts redis-server, a dispatcher and workers on this machine, until Ctrl-C.", own, false);
    else if (rc == 0 && (rc = read_words(&w, &o, &err)) == 0)
        rc = up_all(c, &o, &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
