#include "dispatcher/api_list.h"

#include <string.h>

#include "common/str.h"
#include "dispatcher/backend.h"
#include "dispatcher/reply.h"
#include "dispatcher/view.h"

enum {
    LIST_DEFAULT = 20,
    LIST_MAX = 100,
    NAME_MAX_BYTES = 63, /* of a generator, a worker */
};

/* ---- the filters ---- */

/* "" chooses nothing, but for tenant, where it is a name. */
static const char *said(const struct request *r, const json_t *body, const char *name, bool empty_too)
{
    const char *v = request_query(r, name);
    if (!v)
        v = json_string_value(json_object_get(body, name));
    return v && (*v || empty_too) ? v : NULL;
}

static int check_body(const json_t *body, struct err *err)
{
    static const char *const known[] = {"state", "tenant", "generator", "code", "worker", NULL};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)body, key, v) {
        bool ours = false;
        for (int i = 0; known[i]; i++)
            ours |= strcmp(known[i], key) == 0;
        const char *best = ours ? NULL : str_nearest(key, known);
        if (!ours)
            return err_set(err, ERR_INVALID, "%.40s: there is no such filter%s%s%s", key, best ? "; did you mean " : "",
                           best ? best : "; there are state, tenant, generator, code and worker", best ? "?" : "");
        if (!json_is_string(v))
            return err_set(err, ERR_INVALID, "%s: text is expected", key);
    }
    return 0;
}

static int check_code(const char *code, struct err *err)
{
    const char *names[ERR_COUNT + 1] = {0};
    int n = 0;
    for (int c = 1; c < ERR_COUNT; c++) {
        if (strcmp(code, err_name(-c)) == 0)
            return 0;
        names[n++] = err_name(-c);
    }
    const char *best = str_nearest(code, names);
    return err_set(err, ERR_INVALID, "code: %.40s is no error's name%s%s%s", code,
                   best ? "; did you mean " : "; /docs lists them", best ? best : "", best ? "?" : "");
}

static int check_name(const char *field, const char *name, struct err *err)
{
    if (!name || (strlen(name) <= NAME_MAX_BYTES && str_utf8_ok(name, strlen(name))))
        return 0;
    return err_set(err, ERR_INVALID, "%s: a name of at most %d bytes is expected", field, NAME_MAX_BYTES);
}

/* Who has scope jobs chooses its own tenant, whether it says so or not. */
static int check_tenant(const struct request *r, const char **tenant, struct err *err)
{
    if (*tenant && !queue_tenant_ok(*tenant))
        return err_set(err, ERR_INVALID, "tenant: %.80s is no tenant's name: up to 48 of A-Z a-z 0-9 _ . -", *tenant);
    if (r->scope != KEYS_JOBS)
        return 0;
    if (*tenant && strcmp(*tenant, r->tenant) != 0)
        return err_set(err, ERR_INVALID, "tenant: the key %s is for the jobs of %s", r->key_id, r->tenant);
    *tenant = r->tenant;
    return 0;
}

int api_list_filter(const struct request *r, const json_t *body, struct queue_filter *ret, struct err *err)
{
    struct queue_filter f = {.state = -1};
    const char *state = said(r, body, "state", false);
    enum job_state s = JOB_QUEUED;
    f.tenant = said(r, body, "tenant", true);
    f.generator = said(r, body, "generator", false);
    f.code = said(r, body, "code", false);
    f.worker = said(r, body, "worker", false);
    int rc = check_body(body, err);
    if (rc == 0 && state && job_state_parse(state, &s) < 0)
        rc = err_set(err, ERR_INVALID,
                     "state: %.40s is none of queued, delayed, running, done, failed, cancelled, timed_out", state);
    if (rc == 0)
        rc = check_tenant(r, &f.tenant, err);
    if (rc == 0 && f.code)
        rc = check_code(f.code, err);
    if (rc == 0)
        rc = check_name("generator", f.generator, err);
    if (rc == 0)
        rc = check_name("worker", f.worker, err);
    if (rc < 0)
        return rc;
    if (state)
        f.state = (int)s;
    *ret = f;
    return 0;
}

/* ---- the lists ---- */

static void on_listed(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct err err = *why;
    json_t *jobs = NULL, *item, *out;
    char cursor[64] = "";
    size_t i;
    if (rc == 0)
        rc = queue_read_list(bytes, len, &jobs, cursor, &err);
    if (rc < 0) {
        reply_error(r, &err);
        return;
    }
    out = json_array();
    json_array_foreach(jobs, i, item) {
        json_array_append_new(out, view_list_item(item));
    }
    json_decref(jobs);
    reply_json(r, 200, json_pack("{s:s, s:o, s:o}", "object", "list", "jobs", out, "cursor",
                                 *cursor ? json_string(cursor) : json_null()));
}

static void list(struct request *r, bool dead)
{
    const char *cursor = request_query(r, "cursor"), *limit = request_query(r, "limit");
    struct queue_filter filter = {0};
    struct queue_cmd c = {0};
    struct err err = {0};
    int64_t n = LIST_DEFAULT;
    int rc = api_list_filter(r, NULL, &filter, &err);
    if (rc == 0 && limit && str_parse_i64(limit, 1, LIST_MAX, &n) < 0)
        rc = err_set(&err, ERR_INVALID, "limit: %.40s is not a whole number from 1 to %d", limit, LIST_MAX);
    if (rc == 0 && cursor && !str_utf8_ok(cursor, strlen(cursor)))
        rc = err_set(&err, ERR_INVALID, "cursor: take it as the page before gave it");
    if (dead)
        filter.state = JOB_FAILED;
    if (rc == 0)
        rc = queue_cmd_list(&c, &r->app->queue, &filter, cursor ? cursor : "", (int)n, &err);
    backend_ask(r, rc, &c, &err, on_listed);
}

void api_list_jobs(struct request *r)
{
    list(r, false);
}

void api_list_dead(struct request *r)
{
    list(r, true);
}
