#include "cli/board.h"

#include <stdlib.h>
#include <string.h>

#include "cli/http.h"
#include "common/mem.h"

enum { CALL_S = 10 };

static const char *state_of(const json_t *w)
{
    bool busy = cli_text(w, "job")[0] != 0, quiet = json_is_true(json_object_get(w, "quiet"));
    return busy ? quiet ? "draining" : "busy" : quiet ? "quiet" : "idle";
}

static json_t *row_of(json_t *w, const json_t *jobs)
{
    static const char *const of_job[] = {"stage", "step", "total", "eta_s"};
    json_t *row = json_copy(w), *job = json_object_get(jobs, cli_text(w, "job"));
    json_object_del(row, "components");
    for (size_t i = 0; i < sizeof of_job / sizeof *of_job; i++) {
        json_t *v = json_object_get(job, of_job[i]);
        if (row && v)
            json_object_set(row, of_job[i], v);
    }
    json_object_set_new(row, "state", json_string(state_of(w)));
    return row;
}

static int by_work(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    bool bx = cli_text(x, "job")[0] != 0, by = cli_text(y, "job")[0] != 0;
    return bx != by ? by - bx : strcmp(cli_text(x, "name"), cli_text(y, "name"));
}

static int sorted(const json_t *list, const json_t *jobs, json_t **ret)
{
    size_t n = json_array_size(list), i;
    json_t **row = mem_zalloc((n + 1) * sizeof *row), *out = json_array(), *w;
    json_array_foreach(list, i, w) {
        if (row)
            row[i] = row_of(w, jobs);
    }
    if (row && n > 1)
        qsort(row, n, sizeof *row, by_work);
    for (i = 0; row && i < n; i++)
        json_array_append_new(out, row[i]);
    bool ok = row && out;
    mem_free(row);
    if (!ok) {
        json_decref(out);
        return ERR_NOMEM;
    }
    *ret = out;
    return 0;
}

/* {id: item} of the running jobs; at most the hundred newest, as many as the list gives at once. */
static int running(const struct cli *c, json_t **ret, struct err *err)
{
    json_t *answer = NULL, *by_id = json_object(), *job;
    size_t i;
    int rc = http_json(c, "GET", "/v1/jobs?state=running&limit=100", NULL, CALL_S, &answer, err);
    json_array_foreach(json_object_get(answer, "jobs"), i, job) {
        json_object_set(by_id, cli_text(job, "id"), job);
    }
    json_decref(answer);
    *ret = by_id;
    return rc;
}

int board_workers(const struct cli *c, json_t **ret, struct err *err)
{
    json_t *workers = NULL, *jobs = NULL;
    int rc = http_json(c, "GET", "/v1/workers", NULL, CALL_S, &workers, err);
    if (rc == 0)
        rc = running(c, &jobs, err);
    if (rc == 0 && (rc = sorted(json_object_get(workers, "workers"), jobs, ret)) < 0)
        err_set(err, rc, "out of memory");
    json_decref(workers);
    json_decref(jobs);
    return rc;
}
