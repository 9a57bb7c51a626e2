/* jobs: the list of jobs. cancel: stops one. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
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

static int list(const struct cli *c, const char *state, const char *limit, struct err *err)
{
    json_t *answer = NULL, *job;
    size_t i;
    char path[128];
    int64_t n = 20;
    if (limit && str_parse_i64(limit, 1, 100, &n) < 0)
        return err_set(err, ERR_INVALID, "--limit: %s is not a number from 1 to 100", limit);
    if (str_format(path, sizeof path, "/v1/jobs?limit=%d%s%s", (int)n, state ? "&state=" : "",
                   state ? state : "") < 0)
        return err_set(err, ERR_INVALID, "--state: %s is not a state", state);
    int rc = http_json(c, "GET", path, NULL, 30, &answer, err);
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
    const char *state = NULL, *limit = NULL;
    const struct arg own[] = {
        {"state", &state, NULL, "STATE", "only these: queued, running, done, failed, cancelled"},
        {"limit", &limit, NULL, "N", "at most so many, newest first [20]"},
        {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, 0, &r, &err);
    if (rc == 0 && r.help)
        args_help(c, "[options]", "Lists jobs, newest first.", own, false);
    else if (rc == 0)
        rc = list(c, state, limit, &err);
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
