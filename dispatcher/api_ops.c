#include "dispatcher/api_ops.h"

#include <string.h>

#include "common/mem.h"
#include "common/schema.h"
#include "common/str.h"
#include "dispatcher/api_list.h"
#include "dispatcher/backend.h"
#include "dispatcher/reply.h"
#include "dispatcher/server.h"
#include "dispatcher/view.h"

enum { BODY_DEPTH = 3 };

/* ---- objects of the queue, shown as they are ---- */

void api_ops_object(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct err err = *why;
    json_t *o = NULL;
    if (rc == 0)
        rc = queue_read_object(bytes, len, &o, &err);
    if (rc < 0)
        reply_error(arg, &err);
    else
        reply_json(arg, 200, o);
}

void api_ops_queue(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    backend_ask(r, queue_cmd_stats(&c, &r->app->queue, &err), &c, &err, api_ops_object);
}

static void on_workers(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct err err = *why;
    json_t *o = NULL, *one, *list;
    size_t i;
    if (rc == 0)
        rc = queue_read_object(bytes, len, &o, &err);
    if (rc < 0) {
        reply_error(arg, &err);
        return;
    }
    list = json_array();
    json_array_foreach(json_object_get(o, "list"), i, one) {
        json_array_append_new(list, view_worker(one));
    }
    json_decref(o);
    reply_json(arg, 200, json_pack("{s:s, s:o}", "object", "list", "workers", list));
}

void api_ops_workers(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    backend_ask(r, queue_cmd_workers(&c, &r->app->queue, &err), &c, &err, on_workers);
}

static void on_ok(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct err err = *why;
    if (rc == 0)
        rc = queue_read_ok(bytes, len, &err);
    if (rc < 0)
        reply_error(arg, &err);
    else
        reply_json(arg, 200, json_pack("{s:b}", "ok", 1));
}

static void on_tenants(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct err err = *why;
    json_t *o = NULL;
    if (rc == 0)
        rc = queue_read_object(bytes, len, &o, &err);
    json_t *list = json_incref(json_object_get(o, "list"));
    json_decref(o);
    if (rc < 0)
        reply_error(arg, &err);
    else
        reply_json(arg, 200, json_pack("{s:s, s:o}", "object", "list", "tenants",
                                       json_is_array(list) ? list : json_array()));
}

void api_ops_tenants(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    backend_ask(r, queue_cmd_tenants(&c, &r->app->queue, &err), &c, &err, on_tenants);
}

/* ---- stopping and letting go ---- */

/* ?generator=NAME or ?tenant=NAME; neither: all of the queue. */
static int scope_of(const struct request *r, enum queue_scope *ret, const char **ret_name, struct err *err)
{
    const char *generator = request_query(r, "generator"), *tenant = request_query(r, "tenant");
    const char *names[16] = {0};
    if (generator && tenant)
        return err_set(err, ERR_INVALID, "generator: name a generator or a tenant, not both");
    if (generator && !schema_find(generator)) {
        for (size_t i = 0; i + 1 < sizeof names / sizeof *names && schema_at(i); i++)
            names[i] = schema_at(i)->generator;
        const char *best = str_nearest(generator, names);
        return err_set(err, ERR_NOTFOUND, "generator: there is no %.40s%s%s%s", generator, best ? "; did you mean " : "",
                       best ? best : "; GET /v1/generators lists them", best ? "?" : "");
    }
    if (tenant && !queue_tenant_ok(tenant))
        return err_set(err, ERR_INVALID, "tenant: %.80s is no tenant's name: up to 48 of A-Z a-z 0-9 _ . -", tenant);
    *ret = generator ? QUEUE_GENERATOR : tenant ? QUEUE_TENANT : QUEUE_ALL;
    *ret_name = generator ? generator : tenant;
    return 0;
}

static void pause_or_resume(struct request *r, bool paused)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    enum queue_scope scope = QUEUE_ALL;
    const char *name = NULL;
    int rc = scope_of(r, &scope, &name, &err);
    if (rc == 0)
        rc = queue_cmd_pause(&c, &r->app->queue, scope, name, paused, &err);
    backend_ask(r, rc, &c, &err, on_ok);
}

void api_ops_pause(struct request *r)
{
    pause_or_resume(r, true);
}

void api_ops_resume(struct request *r)
{
    pause_or_resume(r, false);
}

void api_ops_quiet(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    const char *off = request_query(r, "off");
    bool text = str_utf8_ok(r->param[0], strlen(r->param[0]));
    int rc = text ? queue_cmd_quiet(&c, &r->app->queue, r->param[0], !off || *off == '0', &err)
                  : err_set(&err, ERR_NOTFOUND, "there is no worker of that name");
    backend_ask(r, rc, &c, &err, on_ok);
}

/* ---- all of them: what one call does for a thousand jobs is called until it does less ---- */

enum { BATCH = 1000, ROUNDS_MAX = 1000 };

struct repeat {
    json_t *body; /* owned; or NULL. filter points into it */
    struct queue_filter filter;
    bool purge;
    int64_t n;
    int rounds;
};

static void repeat_free(void *p)
{
    struct repeat *x = p;
    json_decref(x->body);
    mem_free(x);
}

static void on_batch(void *arg, int rc, const void *bytes, size_t len, const struct err *why);

static void next_batch(struct request *r)
{
    struct repeat *x = r->state;
    struct queue_cmd c = {0};
    struct err err = {0};
    int rc = x->purge ? queue_cmd_purge(&c, &r->app->queue, &err)
                      : queue_cmd_redrive(&c, &r->app->queue, &x->filter, &err);
    x->rounds++;
    backend_ask(r, rc, &c, &err, on_batch);
}

static void on_batch(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct repeat *x = r->state;
    struct err err = *why;
    int64_t n = 0;
    if (rc == 0)
        rc = queue_read_count(bytes, len, &n, &err);
    x->n += n;
    if (rc < 0)
        reply_error(r, &err);
    else if (n >= BATCH && x->rounds < ROUNDS_MAX && !server_draining(r->server))
        next_batch(r);
    else
        reply_json(r, 200, json_pack("{s:I}", x->purge ? "cancelled" : "n", (json_int_t)x->n));
}

static struct repeat *repeat_begin(struct request *r)
{
    struct err err = {0};
    struct repeat *x = mem_zalloc(sizeof *x);
    if (!x) {
        err_set(&err, ERR_NOMEM, "out of memory");
        reply_error(r, &err);
        return NULL;
    }
    r->state = x;
    r->state_free = repeat_free;
    return x;
}

void api_ops_purge(struct request *r)
{
    struct repeat *x = repeat_begin(r);
    if (!x)
        return;
    x->purge = true;
    next_batch(r);
}

void api_ops_redrive(struct request *r)
{
    struct repeat *x = repeat_begin(r);
    struct err err = {0};
    int rc = 0;
    if (!x)
        return;
    if (r->body.len)
        rc = json_parse(r->body.data, r->body.len, BODY_DEPTH, &x->body, &err);
    if (rc == 0 && x->body && !json_is_object(x->body))
        rc = err_set(&err, ERR_BADREQ, "the body must be a JSON object of filters, or nothing");
    if (rc == 0)
        rc = api_list_filter(r, x->body, &x->filter, &err);
    if (rc == 0 && x->filter.state >= 0 && x->filter.state != JOB_FAILED)
        rc = err_set(&err, ERR_INVALID, "state: only failed jobs are redriven; leave it away");
    if (rc < 0)
        reply_error(r, &err);
    else
        next_batch(r);
}

/* ---- health ---- */

void api_ops_live(struct request *r)
{
    reply_json(r, 200, json_pack("{s:b, s:s}", "live", 1, "status", "ok"));
}

void api_ops_ready(struct request *r)
{
    bool up = backend_ready(r->app->backend), stop = server_draining(r->server);
    reply_json(r, up && !stop ? 200 : 503,
               json_pack("{s:b, s:b, s:b, s:s}", "ready", up && !stop, "live", 1, "redis", up, "status",
                         stop ? "stopping" : up ? "ok" : "Redis is not reachable"));
}

static void on_ping(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct err err = *why;
    json_t *o = NULL;
    if (rc == 0)
        rc = queue_read_object(bytes, len, &o, &err);
    double workers = json_number_value(json_object_get(o, "workers"));
    json_decref(o);
    if (rc < 0)
        reply_error(arg, &err);
    else if (workers > 0)
        reply_json(arg, 200, json_pack("{s:s, s:f}", "status", "healthy", "workers", workers));
    else
        reply_empty(arg, 204);
}

void api_ops_ping(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    backend_ask(r, queue_cmd_stats(&c, &r->app->queue, &err), &c, &err, on_ping);
}
