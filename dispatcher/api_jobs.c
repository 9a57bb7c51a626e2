/* api_jobs.c -- a submit takes three hops: body to disk on the loop (upload.c), then in a pool thread everything that
 * may block (fsync, base64, JSON of many megabytes, the files' first look), then one queue command. */
#include "dispatcher/api_jobs.h"

#include <string.h>

#include "common/blob.h"
#include "common/crash.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/schema.h"
#include "common/sha256.h"
#include "common/str.h"
#include "dispatcher/api_ops.h"
#include "dispatcher/events.h"
#include "dispatcher/predict.h"
#include "dispatcher/reply.h"
#include "dispatcher/server.h"
#include "dispatcher/trace.h"
#include "dispatcher/upload.h"
#include "dispatcher/view.h"
#include "dispatcher/webhook.h"

enum {
    JSON_DEPTH = 8,
    WAIT_MAX_S = 55,
};

const char *api_jobs_id(struct request *r)
{
    struct err err = {0};
    if (job_id_ok(r->param[0]))
        return r->param[0];
    err_set(&err, ERR_NOTFOUND, "no job %.80s is here", r->param[0]);
    reply_error(r, &err);
    return NULL;
}

/* ---- submit ---- */

struct submit {
    uv_work_t work;
    struct request *r;
    struct app *app;
    const struct schema *schema;
    struct job job;
    double audio_s;
    struct err err;
    bool idempotent;
};

static void submit_free(void *p)
{
    struct submit *s = p;
    job_done(&s->job);
    mem_free(s);
}

/* A media field's text becomes the key of a blob that is there and looks right. */
static int media_to_key(struct submit *s, json_t *body, const struct schema_field *f)
{
    json_t *v = json_object_get(body, f->name);
    const char *volume = s->app->conf.volume;
    struct schema_media m;
    char key[BLOB_KEY];
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_string(v))
        return err_set(&s->err, ERR_INVALID, "%s: text is expected: base64, a data: URL or a blob key", f->name);
    int rc = schema_media(s->schema, f->name, json_string_value(v), json_string_length(v), &m, &s->err);
    if (rc < 0)
        return rc;
    if (m.kind == SCHEMA_MEDIA_KEY) {
        str_format(key, sizeof key, "%.*s", (int)m.len, m.data);
    } else {
        bool image = strcmp(f->name, "image") == 0;
        uint64_t max = (uint64_t)(image ? s->app->conf.max_image_bytes : s->app->conf.max_audio_bytes);
        rc = blob_put_base64(volume, m.data, m.len, max, key, &s->err);
        if (rc < 0)
            return err_wrap(&s->err, "%s", f->name);
    }
    rc = upload_check_media(volume, f->name, key, &s->err);
    return rc < 0 ? rc : json_object_set_new(body, f->name, json_string(key));
}

static int submit_body(struct submit *s, json_t **ret)
{
    struct request *r = s->r;
    json_t *body = NULL;
    int rc;
    if (r->upload) {
        rc = upload_finish(r->upload, &s->err);
        body = json_incref(r->upload->fields);
    } else {
        rc = json_parse(r->body.data ? r->body.data : "", r->body.len, JSON_DEPTH, &body, &s->err);
        buf_done(&r->body);
        if (rc == 0 && !json_is_object(body))
            rc = err_set(&s->err, ERR_BADREQ, "the body must be a JSON object");
    }
    for (size_t i = 0; rc == 0 && i < s->schema->n_fields; i++) {
        if (s->schema->fields[i].type == SCHEMA_MEDIA)
            rc = media_to_key(s, body, &s->schema->fields[i]);
    }
    if (rc < 0)
        json_decref(body);
    else
        *ret = body;
    return rc;
}

/* The same request, however it was written: media by content, fields in order. */
static int fingerprint(struct submit *s, const json_t *body)
{
    char *text = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
    int rc = text ? sha256_bytes(text, strlen(text), s->job.fingerprint) : ERR_NOMEM;
    mem_free(text);
    return rc < 0 ? err_set(&s->err, rc, "%s", err_text(rc)) : 0;
}

static void submit_work(uv_work_t *w)
{
    struct submit *s = w->data;
    json_t *body = NULL;
    int rc = submit_body(s, &body);
    CRASH_POINT_IF(rc == 0, dispatcher_body);
    if (rc == 0)
        rc = schema_apply(s->schema, body, s->app->defaults, &s->job, &s->err);
    if (rc == 0 && !s->job.ttl_ms)
        s->job.ttl_ms = (int64_t)(s->app->conf.ttl_s * 1000);
    if (rc == 0 && (s->idempotent || *s->job.idem_key))
        rc = fingerprint(s, body);
    if (rc == 0)
        rc = predict_cache_key(&s->job, &s->err);
    if (rc == 0)
        s->audio_s = predict_audio_s(s->app->conf.volume, s->job.params);
    json_decref(body);
    if (rc < 0)
        err_set(&s->err, rc, "%s", err_text(rc));
}

static json_t *submitted_json(const struct submit *s, const struct queue_submitted *got, const char *path)
{
    bool waits = !job_state_final(got->state);
    json_t *o = json_pack("{s:s, s:s, s:s, s:o, s:b, s:b, s:I, s:{s:s, s:s+}}", "id", got->id, "object", "job", "state",
                          job_state_text(got->state), "position",
                          got->position >= 0 ? json_integer(got->position) : json_null(), "again", got->again, "cached",
                          got->cached, "fitting", (json_int_t)got->fitting, "links", "self", path, "events", path,
                          "/events");
    if (o && waits && !got->again && got->fitting == 0)
        json_object_set_new(o, "warning", json_string("no worker that could run this job is there at the moment; it waits "
                                                      "for one"));
    if (o && *s->job.traceparent)
        json_object_set_new(o, "traceparent", json_string(s->job.traceparent));
    return o;
}

static void on_submitted(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    const struct submit *s = r->state;
    const struct job *job = &s->job;
    struct queue_submitted got = {0};
    struct err err = *why;
    char path[96];
    if (rc == 0)
        rc = queue_read_submit(bytes, len, &got, &err);
    CRASH_POINT_IF(rc == 0, dispatcher_submitted);
    if (rc < 0) {
        int status = rc == ERR_CONFLICT ? 422 : err_http(rc); /* the draft's: same key, another body */
        reply_problem(r, status, &err, rc == ERR_LIMIT ? got.retry_after_s : 0);
        return;
    }
    str_format(path, sizeof path, "/v1/jobs/%s", got.id);
    request_set_header(r, MHD_HTTP_HEADER_LOCATION, path);
    if (got.again)
        request_set_header(r, "Idempotent-Replayed", "true");
    if (*job->cache_key)
        request_set_header(r, "X-Cache", got.cached ? "hit" : "miss");
    LOG(INFO, "job submitted", log_str("job", got.id), log_int("position", got.position), log_int("again", got.again),
        log_int("cached", got.cached), log_int("fitting", got.fitting), log_num("gflop", job->gflop),
        log_str("tenant", *r->tenant ? r->tenant : NULL), log_str("key", *r->key_id ? r->key_id : NULL),
        log_str("trace", *job->traceparent ? job->traceparent : NULL));
    reply_json(r, got.cached ? 200 : 201, submitted_json(s, &got, path));
    CRASH_POINT(dispatcher_replied);
}

static void submit_after(uv_work_t *w, int status)
{
    struct submit *s = w->data;
    struct request *r = s->r;
    struct queue_cmd c = {0};
    if (status < 0)
        err_set(&s->err, ERR_DRAIN, "the dispatcher is stopping; try again");
    if (!s->err.code)
        webhook_check(s->app->webhook, &s->job, &s->err);
    if (!s->err.code)
        predict_fit(s->app->models, &s->job, s->audio_s, &s->err);
    if (!s->err.code)
        queue_cmd_submit(&c, &s->app->queue, &s->job, s->app->conf.max_queue, &s->err);
    if (s->err.code) {
        queue_cmd_done(&c);
        reply_error(r, &s->err);
    } else {
        CRASH_POINT(dispatcher_submit);
        backend_send_durable(s->app->backend, &c, on_submitted, r);
    }
}

static int idempotency_key(struct request *r, struct submit *s)
{
    const char *key = request_header(r, "Idempotency-Key");
    if (!key)
        return 0;
    size_t n = strlen(key);
    if (n == 0 || n >= sizeof s->job.idem_key || !str_utf8_ok(key, n))
        return err_set(&s->err, ERR_BADREQ, "idempotency-key: 1 to %zu characters are allowed",
                       sizeof s->job.idem_key - 1);
    s->idempotent = true;
    return str_copy(s->job.idem_key, sizeof s->job.idem_key, key);
}

/* A trace that somebody else began goes on with the job; what is no traceparent is as if it were not there. */
static void take_trace(struct request *r, struct job *job)
{
    const char *trace = request_header(r, "traceparent");
    if (!trace || !trace_ok(trace))
        return;
    str_copy(job->traceparent, sizeof job->traceparent, trace);
    request_set_header(r, "traceparent", trace);
}

void api_jobs_submit(struct request *r)
{
    struct submit *s = mem_zalloc(sizeof *s);
    struct err err = {0};
    int rc = s ? 0 : err_set(&err, ERR_NOMEM, "out of memory");
    if (rc == 0 && !backend_ready(r->app->backend)) /* before megabytes are written for nothing */
        rc = err_set(&err, ERR_REDIS, "Redis is not reachable at the moment; try again");
    if (rc < 0) {
        mem_free(s);
        reply_error(r, &err);
        return;
    }
    *s = (struct submit){.r = r, .app = r->app, .schema = schema_at(0), .work.data = s};
    job_init(&s->job);
    str_copy(s->job.tenant, sizeof s->job.tenant, r->tenant);
    take_trace(r, &s->job);
    r->state = s;
    r->state_free = submit_free;
    rc = job_make_id(s->job.id);
    if (rc < 0)
        err_set(&s->err, rc, "no randomness for a job's id");
    else
        rc = idempotency_key(r, s);
    if (rc == 0 && uv_queue_work(r->app->loop, &s->work, submit_work, submit_after) == 0)
        request_park(r);
    else
        reply_error(r, &s->err);
}

/* ---- get, with long-poll ---- */

struct wait {
    struct request *r;
    struct events_watch watch;
    uv_timer_t *timer; /* frees itself */
    uint64_t until;    /* loop time, ms */
    bool fetching, again;
    bool seen; /* the job was fetched once: from then on an outage of Redis does not end the wait */
};

static void on_timer_closed(uv_handle_t *h)
{
    mem_free(h);
}

static void wait_free(void *p)
{
    struct wait *w = p;
    events_unwatch(w->r->app->events, &w->watch);
    if (w->timer) {
        w->timer->data = NULL;
        uv_close((uv_handle_t *)w->timer, on_timer_closed);
    }
    mem_free(w);
}

static void on_got(void *arg, int rc, const void *bytes, size_t len, const struct err *why);

static void wait_fetch(struct wait *w)
{
    w->again = w->fetching;
    if (w->fetching)
        return;
    w->fetching = true;
    api_jobs_fetch(w->r, false, on_got);
}

/* The answer, unless the job goes on and there is time to wait. */
static void on_got(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct wait *w = r->state;
    struct job_view v = {0};
    struct err err = *why;
    bool more = w && uv_now(r->app->loop) < w->until && !server_draining(r->server);
    if (rc == 0)
        rc = queue_read_get(bytes, len, &v, &err);
    if (w) {
        w->fetching = false;
        if (more && w->seen && (rc == ERR_REDIS || rc == ERR_TIMEOUT))
            return; /* events_watch is told when Redis is back */
        w->seen |= rc == 0;
        if (more && rc == 0 && !job_state_final(v.status.state)) {
            job_view_done(&v);
            if (w->again)
                wait_fetch(w);
            return;
        }
    }
    if (rc < 0)
        reply_error(r, &err);
    else
        reply_json(r, 200, view_job(&v));
    job_view_done(&v);
}

static void on_wait_event(void *arg, const char *stream_id, const struct queue_event *e)
{
    struct wait *w = arg;
    (void)stream_id;
    if (!w->r->answered && (!e || job_state_final(e->state) || strcmp(e->what, "delete") == 0))
        wait_fetch(w);
}

static void on_wait_over(uv_timer_t *t)
{
    struct wait *w = t->data;
    if (w && !w->r->answered)
        wait_fetch(w);
}

static struct wait *wait_new(struct request *r, int64_t seconds)
{
    struct wait *w = mem_zalloc(sizeof *w);
    if (!w)
        return NULL;
    w->r = r;
    w->timer = mem_zalloc(sizeof *w->timer);
    if (!w->timer) {
        mem_free(w);
        return NULL;
    }
    w->watch = (struct events_watch){.fn = on_wait_event, .arg = w};
    w->until = uv_now(r->app->loop) + (uint64_t)seconds * 1000;
    uv_timer_init(r->app->loop, w->timer);
    w->timer->data = w;
    uv_timer_start(w->timer, on_wait_over, (uint64_t)seconds * 1000, 0);
    return w;
}

void api_jobs_fetch(struct request *r, bool history, backend_fn fn)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    int rc = queue_cmd_get(&c, &r->app->queue, r->param[0], history, &err);
    backend_ask(r, rc, &c, &err, fn);
}

void api_jobs_get(struct request *r)
{
    const char *id = api_jobs_id(r), *wait = id ? request_query(r, "wait") : NULL;
    struct err err = {0};
    int64_t seconds = 0;
    if (!id)
        return;
    if (wait && str_parse_i64(wait, 0, WAIT_MAX_S, &seconds) < 0) {
        err_set(&err, ERR_INVALID, "wait: %.40s is not a whole number of seconds from 0 to %d", wait, WAIT_MAX_S);
        reply_error(r, &err);
        return;
    }
    struct wait *w = seconds > 0 && !r->head ? wait_new(r, seconds) : NULL;
    const char *history = request_query(r, "history");
    if (!w) {
        api_jobs_fetch(r, history && *history != '0', on_got);
        return;
    }
    r->state = w;
    r->state_free = wait_free;
    events_watch(r->app->events, &w->watch, id);
    wait_fetch(w);
}

/* ---- the others ---- */

static void on_cancelled(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct queue_cancelled got = {0};
    struct err err = *why;
    if (rc == 0)
        rc = queue_read_cancel(bytes, len, &got, &err);
    CRASH_POINT(dispatcher_cancelled);
    if (rc < 0)
        reply_error(r, &err);
    else
        reply_json(r, 200, json_pack("{s:s, s:s, s:b}", "id", r->param[0], "state", job_state_text(got.state),
                                     "stopping", got.stopping));
}

void api_jobs_cancel(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    const char *id = api_jobs_id(r);
    CRASH_POINT(dispatcher_cancel);
    if (id)
        backend_ask(r, queue_cmd_cancel(&c, &r->app->queue, id, "client", &err), &c, &err, on_cancelled);
}

static void on_retried(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct err err = *why;
    if (rc == 0)
        rc = queue_read_ok(bytes, len, &err);
    if (rc < 0)
        reply_error(r, &err);
    else
        reply_json(r, 200, json_pack("{s:s, s:s}", "id", r->param[0], "state", "queued"));
}

void api_jobs_retry(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    const char *id = api_jobs_id(r);
    if (id)
        backend_ask(r, queue_cmd_retry(&c, &r->app->queue, id, &err), &c, &err, on_retried);
}

void api_jobs_why(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    const char *id = api_jobs_id(r);
    if (id)
        backend_ask(r, queue_cmd_why(&c, &r->app->queue, id, &err), &c, &err, api_ops_object);
}

/* Delete, when it is there and over: the record, then in a pool thread the files, then the queue hears that these are gone.
 * After a death between the first and the last, the queue's timer has somebody else remove the files. */
struct removal {
    uv_work_t work;
    struct request *r;
    struct err err;
};

static void on_forgot(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    (void)rc; /* then the timer sees to it */
    (void)bytes;
    (void)len;
    (void)why;
    reply_empty(arg, 204);
}

static void remove_work(uv_work_t *w)
{
    struct removal *x = w->data;
    blob_delete_results(x->r->app->conf.volume, x->r->param[0], &x->err);
}

static void remove_after(uv_work_t *w, int status)
{
    struct removal *x = w->data;
    struct queue_cmd c = {0};
    (void)status;
    CRASH_POINT(dispatcher_delete);
    if (!x->err.code)
        queue_cmd_forgot(&c, &x->r->app->queue, x->r->param[0], &x->err);
    backend_ask(x->r, x->err.code, &c, &x->err, on_forgot);
}

static void on_deleted(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct err err = *why;
    if (rc == 0)
        rc = queue_read_ok(bytes, len, &err);
    struct removal *x = rc == 0 ? mem_zalloc(sizeof *x) : NULL;
    if (x) {
        *x = (struct removal){.r = r, .work.data = x};
        r->state = x;
        r->state_free = mem_free;
        if (uv_queue_work(r->app->loop, &x->work, remove_work, remove_after) == 0)
            return;
    }
    err_set(&err, ERR_NOMEM, "out of memory");
    reply_error(r, &err);
}

static void on_deletable(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct job_view v = {0};
    struct queue_cmd c = {0};
    struct err err = *why;
    if (rc == 0)
        rc = queue_read_get(bytes, len, &v, &err);
    if (rc == 0 && !job_state_final(v.status.state))
        rc = err_set(&err, ERR_CONFLICT, "the job is %s; cancel it first", job_state_text(v.status.state));
    job_view_done(&v);
    if (rc == 0)
        rc = queue_cmd_delete(&c, &r->app->queue, r->param[0], &err);
    backend_ask(r, rc, &c, &err, on_deleted);
}

void api_jobs_delete(struct request *r)
{
    if (api_jobs_id(r))
        api_jobs_fetch(r, false, on_deletable);
}
