/* dead: the jobs that failed, and why; with an id, that one's history. redrive: puts them back into the queue. */
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/filter.h"
#include "cli/http.h"
#include "common/clock.h"
#include "common/str.h"

enum { PAGE = 100, LIST_MAX = 100000, COUNT_MAX = 10000 };

/* ---- the list ---- */

/* Pages until there are max jobs, appended to list; *ret_more: there are others. */
static int fetch(const struct cli *c, const struct filter *f, int64_t max, json_t *list, bool *ret_more, struct err *err)
{
    char base[512] = "/v1/queue/dead", cursor[64] = "";
    int rc = filter_add(f, base, sizeof base, err);
    *ret_more = false;
    while (rc == 0) {
        char path[640], limit[16];
        json_t *page = NULL;
        int64_t left = max - (int64_t)json_array_size(list);
        str_copy(path, sizeof path, base);
        str_format(limit, sizeof limit, "%d", (int)(left < PAGE ? left : PAGE));
        http_query(path, sizeof path, "limit", limit);
        http_query(path, sizeof path, "cursor", cursor[0] ? cursor : NULL);
        rc = http_json(c, "GET", path, NULL, 30, &page, err);
        if (rc == 0)
            json_array_extend(list, json_object_get(page, "jobs"));
        *ret_more = rc == 0 && cli_text(page, "cursor")[0];
        str_copy(cursor, sizeof cursor, cli_text(page, "cursor"));
        json_decref(page);
        if (!*ret_more || (int64_t)json_array_size(list) >= max || cli_stopped)
            break;
    }
    return rc;
}

static void print_row(const json_t *job)
{
    char when[20], why[400];
    str_copy(when, sizeof when, cli_text(job, "finished_at")); /* RFC 3339, cut behind the seconds */
    printf("%-36s  %-19s  %-8s  %s", cli_text(job, "id"), when, cli_text(job, "error_code"),
           cli_clean(why, sizeof why, cli_text(job, "error")));
    if (cli_int(job, "attempt") > 1)
        printf(" (attempt %lld; %lld failed, %lld lost their worker)", (long long)cli_int(job, "attempt"),
               (long long)cli_int(job, "fails"), (long long)cli_int(job, "deaths"));
    printf("\n");
}

static int list(const struct cli *c, const struct filter *f, const char *limit, struct err *err)
{
    json_t *jobs = json_array(), *job;
    int64_t max = 20;
    bool more = false;
    size_t i;
    int rc = jobs ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    if (limit && str_parse_i64(limit, 1, LIST_MAX, &max) < 0)
        rc = err_set(err, ERR_INVALID, "--limit: %s is not a number from 1 to %d", limit, LIST_MAX);
    if (rc == 0)
        rc = fetch(c, f, max, jobs, &more, err);
    if (rc == 0 && c->json) {
        cli_print_json(json_pack("{s:O, s:b}", "jobs", jobs, "more", more));
    } else if (rc == 0) {
        json_array_foreach(jobs, i, job) print_row(job);
        if (json_array_size(jobs) == 0)
            printf(filter_any(f) ? "no failed job is like that\n" : "no failed jobs\n");
        else if (more)
            printf("and more: --limit N\n");
    }
    json_decref(jobs);
    return rc;
}

/* ---- one job's history ---- */

static void print_event(const json_t *e)
{
    char when[32], why[400], worker[80];
    clock_format(when, sizeof when, cli_int(e, "t"));
    when[19] = 0;
    printf("%s  %-8s  %-9s", when, cli_text(e, "what"), cli_text(e, "state"));
    if (cli_int(e, "attempt"))
        printf("  attempt %lld", (long long)cli_int(e, "attempt"));
    if (cli_text(e, "worker")[0])
        printf("  on %s", cli_clean(worker, sizeof worker, cli_text(e, "worker")));
    if (cli_text(e, "code")[0])
        printf("  %s", cli_text(e, "code"));
    if (cli_text(e, "why")[0])
        printf("  %s", cli_clean(why, sizeof why, cli_text(e, "why")));
    printf("\n");
}

static int history(const struct cli *c, const char *id, struct err *err)
{
    json_t *job = NULL, *e;
    char path[256], why[500];
    size_t i;
    if (http_path(path, sizeof path, "/v1/jobs/%s?history=1", id) < 0)
        return err_set(err, ERR_INVALID, "\"%.60s\" is no job's id", id);
    int rc = http_json(c, "GET", path, NULL, 30, &job, err);
    if (rc == 0 && c->json) {
        cli_print_json(json_incref(job));
    } else if (rc == 0) {
        const json_t *error = json_object_get(job, "error");
        printf("%s  %s, attempt %lld: %lld failed, %lld lost their worker\n", cli_text(job, "id"), cli_text(job, "state"),
               (long long)cli_int(job, "attempt"), (long long)cli_int(job, "fails"), (long long)cli_int(job, "deaths"));
        if (cli_text(error, "code")[0])
            printf("%s: %s\n", cli_text(error, "code"), cli_clean(why, sizeof why, cli_text(error, "detail")));
        json_array_foreach(json_object_get(job, "history"), i, e) print_event(e);
    }
    json_decref(job);
    return rc;
}

int dead_command(struct cli *c, int argc, char **argv)
{
    struct filter f = {0};
    const char *limit = NULL;
    const struct arg own[] = {FILTER_ARGS(f),
                              {"limit", &limit, NULL, "N", "at most so many, the last to fail first [20]"},
                              {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, ARGS_ANY, &r, &err);
    cli_catch_signals();
    if (rc == 0 && r.n > 1)
        rc = err_set(&err, ERR_INVALID, "one job at a time: troupe dead ID");
    if (rc == 0 && r.help)
        args_help(c, "[ID] [options]", "Lists the jobs that failed, and why; with an id, what happened to that one.", own,
                  false);
    else if (rc == 0)
        rc = r.n ? history(c, r.word[0], &err) : list(c, &f, limit, &err);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}

/* ---- back into the queue ---- */

/* Each by itself, whatever becomes of the others. *ret_bad: how many were refused. */
static int retry_all(const struct cli *c, const struct args_rest *r, int *ret_bad, struct err *err)
{
    json_t *good = json_array(), *bad = json_array();
    int rc = good && bad ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; rc == 0 && i < r->n; i++) {
        char path[256];
        struct err why = {0};
        json_t *answer = NULL;
        int one = http_path(path, sizeof path, "/v1/jobs/%s/retry", r->word[i]);
        if (one < 0)
            err_set(&why, ERR_INVALID, "\"%.60s\" is no job's id", r->word[i]);
        else
            one = http_json(c, "POST", path, NULL, 30, &answer, &why);
        json_decref(answer);
        if (one == ERR_IO)
            rc = err_set(err, one, "%s", why.text); /* nobody is there: the others would not be heard either */
        if (one == 0)
            json_array_append_new(good, json_string(r->word[i]));
        else
            json_array_append_new(bad, json_pack("{s:s, s:s, s:s}", "id", r->word[i], "code", err_name(why.code), "detail",
                                                 why.text));
        if (!c->json && one == 0)
            printf("%s queued\n", r->word[i]);
        else if (!c->json && rc == 0)
            fprintf(stderr, "troupe %s: %s: %s\n", c->name, r->word[i], why.text);
    }
    *ret_bad = (int)json_array_size(bad);
    if (rc == 0 && c->json)
        cli_print_json(json_pack("{s:O, s:O, s:i}", "queued", good, "refused", bad, "n", (int)json_array_size(good)));
    json_decref(good);
    json_decref(bad);
    return rc;
}

int dead_retry(struct cli *c, int argc, char **argv)
{
    static const struct arg own[] = {{0}};
    struct args_rest r = {0};
    struct err err = {0};
    int bad = 0;
    int rc = args_read(c, argc, argv, own, false, ARGS_ANY, &r, &err);
    if (rc == 0 && !r.help && r.n == 0)
        rc = err_set(&err, ERR_INVALID, "which jobs? troupe %s ID...", c->name);
    if (rc == 0 && r.help)
        args_help(c, "ID...", "Puts failed, cancelled or timed out jobs back into the queue, with counts at zero.", own, false);
    else if (rc == 0)
        rc = retry_all(c, &r, &bad, &err);
    return rc < 0 ? cli_fail(c, &err) : bad ? CLI_FAILED : CLI_OK;
}

/* How many it would be, for the question. */
static int count(const struct cli *c, const struct filter *f, int64_t *ret, bool *ret_more, struct err *err)
{
    json_t *jobs = json_array(), *q = NULL;
    int rc = 0;
    if (filter_any(f)) {
        rc = fetch(c, f, COUNT_MAX, jobs, ret_more, err);
        *ret = (int64_t)json_array_size(jobs);
    } else {
        rc = http_json(c, "GET", "/v1/queue", NULL, 30, &q, err);
        *ret = cli_int(q, "dead");
        *ret_more = false;
    }
    json_decref(q);
    json_decref(jobs);
    return rc;
}

static int redrive(const struct cli *c, const struct filter *f, bool yes, struct err *err)
{
    char path[512] = "/v1/queue/redrive", question[120];
    json_t *answer = NULL;
    int64_t n = 0;
    bool more = false;
    int rc = filter_add(f, path, sizeof path, err);
    if (rc == 0 && !yes)
        rc = count(c, f, &n, &more, err);
    if (rc == 0) {
        str_format(question, sizeof question, "Put %s%lld failed job%s back into the queue?", more ? "more than " : "",
                   (long long)n, n == 1 ? "" : "s");
        rc = cli_confirm(question, yes || n == 0, err);
    }
    if (rc == 0)
        rc = http_json(c, "POST", path, NULL, 600, &answer, err);
    if (rc == 0 && c->json)
        cli_print_json(json_incref(answer));
    else if (rc == 0)
        printf("%lld queued\n", (long long)cli_int(answer, "n"));
    json_decref(answer);
    return rc;
}

int dead_redrive(struct cli *c, int argc, char **argv)
{
    struct filter f = {0};
    bool all = false, yes = false;
    int bad = 0;
    const struct arg own[] = {{"all", NULL, &all, NULL, "every failed job"}, FILTER_ARGS(f),
                              {"yes", NULL, &yes, NULL, "do not ask"}, {0}};
    struct args_rest r = {0};
    struct err err = {0};
    int rc = args_read(c, argc, argv, own, false, ARGS_ANY, &r, &err);
    if (rc == 0 && !r.help && (r.n > 0) + all + filter_any(&f) != 1)
        rc = err_set(&err, ERR_INVALID, "which jobs? name ids, or --all, or filters (see troupe redrive --help)");
    if (rc == 0 && r.help)
        args_help(c, "ID... | --all | filters", "Puts failed jobs back into the queue: these, all, or what filters choose.",
                  own, false);
    else if (rc == 0)
        rc = r.n ? retry_all(c, &r, &bad, &err) : redrive(c, &f, yes, &err);
    return rc < 0 ? cli_fail(c, &err) : bad ? CLI_FAILED : CLI_OK;
}
