/* workers: who runs what. quiet: a worker finishes its job and takes no other. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/board.h"
#include "cli/figures.h"
#include "cli/http.h"
#include "common/str.h"

static void print_row(const json_t *w)
{
    char name[64], device[64], doing[64] = "", eta[32];
    cli_clean(name, sizeof name, cli_text(w, "name"));
    cli_clean(device, sizeof device, cli_text(w, "device"));
    printf("%-24s  %-8s  %-20s", name, cli_text(w, "state"), device);
    if (cli_text(w, "job")[0]) {
        if (cli_int(w, "total") > 1)
            str_format(doing, sizeof doing, " %lld/%lld", (long long)cli_int(w, "step"), (long long)cli_int(w, "total"));
        printf("  %s  %s%s", cli_text(w, "job"), cli_clean(name, sizeof name, cli_text(w, "stage")), doing);
        if (cli_num(w, "eta_s", -1) >= 0)
            printf(", %s left", figures_seconds(eta, sizeof eta, cli_num(w, "eta_s", -1)));
    }
    printf("\n");
}

static int list(const struct cli *c, struct err *err)
{
    json_t *rows = NULL, *w;
    size_t i;
    int rc = board_workers(c, &rows, err);
    if (rc == 0 && c->json) {
        cli_print_json(json_pack("{s:O}", "workers", rows));
    } else if (rc == 0) {
        json_array_foreach(rows, i, w) print_row(w);
        if (json_array_size(rows) == 0)
            printf("no workers\n");
    }
    json_decref(rows);
    return rc;
}

int workers_command(struct cli *c, int argc, char **argv)
{
    static const struct arg own[] = {{0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 0, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "[options]", "Lists the workers: what each does, and on what.", own, false);
    else if (rc == 0)
        rc = list(c, &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}

static int set_quiet(const struct cli *c, const char *name, bool off, struct err *err)
{
    char path[256], shown[80];
    json_t *answer = NULL;
    if (http_path(path, sizeof path, off ? "/v1/workers/%s/quiet?off=1" : "/v1/workers/%s/quiet", name) < 0)
        return err_set(err, ERR_INVALID, "\"%.60s\" is no worker's name", name);
    int rc = http_json(c, "POST", path, NULL, 30, &answer, err);
    if (rc == 0 && c->json)
        cli_print_json(json_incref(answer));
    else if (rc == 0)
        printf(off ? "%s takes jobs again\n" : "%s finishes what it has and takes no more\n",
               cli_clean(shown, sizeof shown, name));
    json_decref(answer);
    return rc;
}

int workers_quiet(struct cli *c, int argc, char **argv)
{
    bool off = false;
    const struct arg own[] = {{"off", NULL, &off, NULL, "let it take jobs again"}, {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 1, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "NAME [--off]", "Lets a worker finish its job and take no other.", own, false);
    else if (rc == 0)
        rc = set_quiet(c, r.word[0], off, &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
