/* jobs: the list of jobs. cancel: stops one. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/http.h"
#include "common/str.h"

static const char *text_of(const json_t *v, const char *key)
{
    const char *s = json_string_value(json_object_get(v, key));
    return s ? s : "";
}

static void print_row(const json_t *job)
{
    char when[20];
    str_copy(when, sizeof when, text_of(job, "submitted_at")); /* RFC 3339, cut behind the seconds */
    printf("%-36s  %-9s  %-19s  %s", text_of(job, "id"), text_of(job, "state"), when, text_of(job, "stage"));
    if (json_integer_value(json_object_get(job, "total")) > 0)
        printf(" %lld/%lld", (long long)json_integer_value(json_object_get(job, "step")),
               (long long)json_integer_value(json_object_get(job, "total")));
    printf("\n");
}

int command_jobs(struct cli *c, int argc, char **argv)
{
    const char *state = NULL, *limit = NULL;
    const struct arg own[] = {{"state", &state, NULL, "STATE", "only these: queued, running, done, failed, cancelled"},
                              {"limit", &limit, NULL, "N", "at most so many, newest first [20]"},
                              {0}};
    struct args_rest r = {0};
    struct err err = {0};
    json_t *answer = NULL, *job;
    size_t i;
    char path[128];
    int64_t n = 20;
    int rc = args_read(c, argc, argv, own, false, &r, &err);
    if (rc == 0 && (r.help || r.n)) {
        args_help(c, "[options]", "Lists jobs, newest first.", own, false);
        return r.help ? CLI_OK : CLI_USAGE;
    }
    if (rc == 0 && limit && str_parse_i64(limit, 1, 100, &n) < 0)
        rc = err_set(&err, ERR_INVALID, "--limit: %s is not a number from 1 to 100", limit);
    str_format(path, sizeof path, "/v1/jobs?limit=%d%s%s", (int)n, state ? "&state=" : "", state ? state : "");
    if (rc == 0)
        rc = http_json(c, "GET", path, NULL, 30, &answer, &err);
    json_t *list = json_is_array(answer) ? answer : json_object_get(answer, "jobs");
    if (rc == 0 && c->json) {
        cli_print_json(json_incref(answer));
    } else if (rc == 0) {
        json_array_foreach(list, i, job)
            print_row(job);
        if (json_array_size(list) == 0)
            printf("no jobs\n");
    }
    json_decref(answer);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}

int command_cancel(struct cli *c, int argc, char **argv)
{
    static const struct arg own[] = {{0}};
    struct args_rest r = {0};
    struct err err = {0};
    json_t *answer = NULL;
    char path[128];
    int rc = args_read(c, argc, argv, own, false, &r, &err);
    if (rc == 0 && (r.help || r.n != 1)) {
        args_help(c, "ID", "Stops a job: at once while it waits, within one step while it runs.", own, false);
        return r.help ? CLI_OK : CLI_USAGE;
    }
    if (rc == 0 && str_format(path, sizeof path, "/v1/jobs/%s/cancel", r.word[0]) < 0)
        rc = err_set(&err, ERR_INVALID, "%s is not a job's id", r.word[0]);
    if (rc == 0)
        rc = http_json(c, "POST", path, NULL, 30, &answer, &err);
    if (rc == 0 && c->json)
        cli_print_json(json_incref(answer));
    else if (rc == 0)
        printf("%s\n", text_of(answer, "state"));
    json_decref(answer);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
