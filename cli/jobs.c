/* jobs: the list of jobs. cancel: stops one. why: what it waits for. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/figures.h"
#include "cli/filter.h"
#include "cli/http.h"
#include "common/str.h"

static void print_row(const json_t *job)
{
    char when[20];
    str_copy(when, sizeof when, cli_text(job, "submitted_at")); /* RFC 3339, cut behind the seconds */
    printf("%-36s  %-9s  %-19s  %s", cli_text(job, "id"), cli_text(job, "state"), when,
           cli_text(job, "stage"));
    if (json_integer_value(json_object_get(job, "total")) > 0)
        printf(" %lld/%lld", (long long)json_integer_value(json_object_get(job, "step")),
               (long long)json_integer_value(json_object_get(job, "total")));
    printf("\n");
}

static int list(const struct cli *c, const struct filter *f, const char *limit, struct err *err)
{
    json_t *answer = NULL, *job;
    size_t i;
    char path[512], number[16];
    int64_t n = 20;
    if (limit && str_parse_i64(limit, 1, 100, &n) < 0)
        return err_set(err, ERR_INVALID, "--limit: %s is not a number from 1 to 100", limit);
    str_copy(path, sizeof path, "/v1/jobs");
    str_format(number, sizeof number, "%d", (int)n);
    http_query(path, sizeof path, "limit", number);
    int rc = filter_add(f, path, sizeof path, err);
    if (rc == 0)
        rc = http_json(c, "GET", path, NULL, 30, &answer, err);
    const json_t *rows = json_is_array(answer) ? answer : json_object_get(answer, "jobs");
    if (rc == 0 && c->json) {
        cli_print_json(json_incref(answer));
    } else if (rc == 0) {
        json_array_foreach(rows, i, job) print_row(job);
        if (json_array_size(rows) == 0)
            printf("no jobs\n");
    }
    json_decref(answer);
    return rc;
}

int jobs_command(struct cli *c, int argc, char **argv)
{
    struct filter f = {0};
    const char *limit = NULL;
    const struct arg own[] = {
        {"state", &f.state, NULL, "STATE", "only these: queued, delayed, running, done, failed, cancelled, timed_out"},
        FILTER_ARGS(f),
        {"limit", &limit, NULL, "N", "at most so many, newest first [20]"},
        {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 0, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "[options]", "Lists jobs, newest first.", own, false);
    else if (rc == 0)
        rc = list(c, &f, limit, &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}

static int stop_job(const struct cli *c, const char *id, struct err *err)
{
    json_t *answer = NULL;
    char path[128];
    if (str_format(path, sizeof path, "/v1/jobs/%s/cancel", id) < 0)
        return err_set(err, ERR_INVALID, "%s is not a job's id", id);
    int rc = http_json(c, "POST", path, NULL, 30, &answer, err);
    if (rc == 0 && c->json)
        cli_print_json(json_incref(answer));
    else if (rc == 0)
        printf("%s\n", cli_text(answer, "state"));
    json_decref(answer);
    return rc;
}

int jobs_cancel(struct cli *c, int argc, char **argv)
{
    static const struct arg own[] = {{0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 1, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "ID", "Stops a job: at once while it waits, within one step while it runs.", own, false);
    else if (rc == 0)
        rc = stop_job(c, r.word[0], &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}

/* ---- why ---- */

static void print_why(const json_t *v)
{
    char text[600], ahead[32], start[32];
    printf("%s: %s\n", cli_text(v, "state"), cli_clean(text, sizeof text, cli_text(v, "why")));
    if (strcmp(cli_text(v, "state"), "queued") != 0)
        return;
    printf("before it    %lld job%s, %s of work\n", (long long)cli_int(v, "ahead"), cli_int(v, "ahead") == 1 ? "" : "s",
           figures_seconds(ahead, sizeof ahead, cli_num(v, "ahead_s", -1)));
    if (cli_num(v, "start_s", -1) >= 0)
        printf("starts in    about %s\n", figures_seconds(start, sizeof start, cli_num(v, "start_s", -1)));
    printf("workers      %lld of %lld can run it\n", (long long)cli_int(v, "fitting"), (long long)cli_int(v, "workers"));
}

static int tell_why(const struct cli *c, const char *id, struct err *err)
{
    json_t *answer = NULL;
    char path[256];
    if (http_path(path, sizeof path, "/v1/jobs/%s/why", id) < 0)
        return err_set(err, ERR_INVALID, "\"%.60s\" is no job's id", id);
    int rc = http_json(c, "GET", path, NULL, 30, &answer, err);
    if (rc == 0 && c->json)
        cli_print_json(json_incref(answer));
    else if (rc == 0)
        print_why(answer);
    json_decref(answer);
    return rc;
}

int jobs_why(struct cli *c, int argc, char **argv)
{
    static const struct arg own[] = {{0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 1, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "ID", "Why a job is not running: what is before it, who could run it, when it will start.", own, false);
    else if (rc == 0)
        rc = tell_why(c, r.word[0], &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
