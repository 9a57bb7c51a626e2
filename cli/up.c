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
        printf("api   %s\n", cluster_url(k));
        if (cluster_page(k)[0])
            printf("page  %s\n", cluster_page(k));
        printf("logs  %s\n", cluster_log_dir(k));
    }
    fflush(stdout);
}

void up_wait(struct cluster *k)
{
    int seen = 0;
    while (!cli_stopped) {
        int n = cluster_deaths(k);
        if (n > seen)
            fprintf(stderr, "a program ended and was started again (%d so far): see %s\n", n,
                    cluster_log_dir(k));
        seen = n;
        nanosleep(&(struct timespec){0, 100000000}, NULL);
    }
}

static int up_all(struct cli *c, const char *n_workers, struct err *err)
{
    struct cluster *k = NULL;
    struct cluster_options o = {.volume = c->conf.volume};
    int rc = o.n_workers = workers_of(n_workers, err);
    if (rc >= 0)
        rc = up_check_ckpts(c, err);
    cli_catch_signals();
    if (rc == 0)
        rc = cluster_start(&k, c, &o, err);
    if (rc == 0) {
        up_say_where(c, k);
        fprintf(stderr, "Ctrl-C stops all of it\n");
        up_wait(k);
    }
    cluster_stop(k);
    return rc;
}

int up_command(struct cli *c, int argc, char **argv)
{
    const char *n_workers = NULL;
    const struct arg own[] = {{"workers", &n_workers, NULL, "N", "workers to start [1]"}, {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 0, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "[options]",
                  "Starts redis-server, a dispatcher and workers on this machine, until Ctrl-C.", own, false);
    else if (rc == 0)
        rc = up_all(c, n_workers, &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
