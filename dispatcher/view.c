#include "dispatcher/view.h"

#include <string.h>

#include "common/clock.h"
#include "common/str.h"

enum { COMPONENTS_DEPTH = 4 };

static json_t *time_json(int64_t ms)
{
    char text[32];
    return ms > 0 ? json_string(clock_format(text, sizeof text, ms)) : json_null();
}

static json_t *text_or_null(const char *s)
{
    return *s ? json_string(s) : json_null();
}

static void set_path(json_t *o, const char *name, const char *id, const char *tail)
{
    char path[160];
    str_format(path, sizeof path, "/v1/jobs/%s%s", id, tail);
    json_object_set_new(o, name, json_string(path));
}

static json_t *links(const char *id, enum job_state state, const json_t *result)
{
    json_t *o = json_object();
    set_path(o, "self", id, "");
    set_path(o, "events", id, "/events");
    if (!job_state_final(state))
        set_path(o, "cancel", id, "/cancel");
    if (state == JOB_DONE && json_object_get(result, "video"))
        set_path(o, "video", id, "/video");
    if (state == JOB_DONE && json_object_get(result, "thumbnail"))
        set_path(o, "thumbnail", id, "/thumbnail");
    if (state == JOB_DONE && json_object_get(result, "report"))
        set_path(o, "report", id, "/report");
    return o;
}

/* How far the whole run is, 0..1: by time, where the worker says how long it will need. */
static double fraction(const struct job_status *s)
{
    if (s->state == JOB_DONE)
        return 1;
    if (s->state != JOB_RUNNING || s->eta_s < 0 || s->started_ms <= 0)
        return 0;
    double gone = (double)(s->now_ms - s->started_ms) / 1000;
    return gone > 0 ? gone / (gone + s->eta_s + 1e-3) : 0;
}

static json_t *progress(const struct job_status *s)
{
    return json_pack("{s:o, s:I, s:I, s:o, s:f}", "stage", text_or_null(s->stage), "step", (json_int_t)s->step, "total",
                     (json_int_t)s->total, "eta_s", s->eta_s >= 0 ? json_real(s->eta_s) : json_null(), "fraction",
                     fraction(s));
}

json_t *view_job(const struct job_view *v)
{
    const struct job *j = &v->job;
    const struct job_status *s = &v->status;
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:i}", "id", j->id, "object", "job", "generator", j->generator, "state",
                          job_state_text(s->state), "priority", j->priority);
    if (!o)
        return NULL;
    json_object_set_new(o, "stopping", json_boolean(s->state == JOB_RUNNING && s->stop != JOB_STOP_NONE));
    json_object_set_new(o, "position", s->position >= 0 ? json_integer(s->position) : json_null());
    json_object_set_new(o, "start_s", s->state == JOB_QUEUED && s->start_s >= 0 ? json_real(s->start_s) : json_null());
    json_object_set_new(o, "progress", progress(s));
    json_object_set_new(o, "attempt", json_integer(s->attempt));
    json_object_set_new(o, "fails", json_integer(s->fails));
    json_object_set_new(o, "deaths", json_integer(s->deaths));
    json_object_set_new(o, "worker", text_or_null(s->worker));
    json_object_set_new(o, "submitted_at", time_json(s->submitted_ms));
    json_object_set_new(o, "started_at", time_json(s->started_ms));
    json_object_set_new(o, "finished_at", time_json(s->finished_ms));
    json_object_set_new(o, "expires_at", time_json(s->expires_ms));
    json_object_set_new(o, "retry_at", time_json(s->retry_ms));
    json_object_set_new(o, "error", *s->error_code ? json_pack("{s:s, s:s}", "code", s->error_code, "detail", s->error)
                                                   : json_null());
    json_object_set_new(o, "tenant", json_string(j->tenant));
    json_object_set_new(o, "traceparent", text_or_null(j->traceparent));
    json_object_set(o, "params", j->params);
    if (j->tags)
        json_object_set(o, "tags", j->tags);
    json_object_set_new(o, "result", s->state == JOB_DONE && s->result ? json_incref(s->result) : json_null());
    if (s->late)
        json_object_set(o, "late", s->late);
    if (s->history)
        json_object_set(o, "history", s->history);
    json_object_set_new(o, "links", links(j->id, s->state, s->result));
    return o;
}

json_t *view_event(const struct queue_event *e)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:I}", "job", e->id, "event", e->what, "state", job_state_text(e->state),
                          "attempt", (json_int_t)e->attempt);
    if (!o)
        return NULL;
    json_object_set_new(o, "time", time_json(e->time_ms));
    if (*e->stage) {
        json_object_set_new(o, "stage", json_string(e->stage));
        json_object_set_new(o, "step", json_integer(e->step));
        json_object_set_new(o, "total", json_integer(e->total));
        json_object_set_new(o, "eta_s", e->eta_s >= 0 ? json_real(e->eta_s) : json_null());
    }
    if (*e->worker)
        json_object_set_new(o, "worker", json_string(e->worker));
    if (*e->code)
        json_object_set_new(o, "code", json_string(e->code));
    if (*e->why)
        json_object_set_new(o, "why", json_string(e->why));
    return o;
}

json_t *view_list_item(const json_t *item)
{
    static const char *const times[][2] = {
        {"submitted_ms", "submitted_at"}, {"started_ms", "started_at"}, {"finished_ms", "finished_at"}};
    json_t *o = json_copy((json_t *)(uintptr_t)item);
    const char *id = json_string_value(json_object_get(item, "id"));
    const char *state = json_string_value(json_object_get(item, "state"));
    enum job_state s = JOB_QUEUED;
    for (size_t i = 0; o && i < sizeof times / sizeof *times; i++) {
        json_object_set_new(o, times[i][1], time_json(json_integer_value(json_object_get(item, times[i][0]))));
        json_object_del(o, times[i][0]);
    }
    if (o && id && state && job_state_parse(state, &s) == 0) {
        json_object_set_new(o, "links", links(id, s, NULL));
        if (s == JOB_DONE) {
            set_path(json_object_get(o, "links"), "video", id, "/video");
            set_path(json_object_get(o, "links"), "thumbnail", id, "/thumbnail");
        }
    }
    return o;
}

json_t *view_worker(const json_t *worker)
{
    static const char *const numbers[] = {"pid", "memory_bytes", "free_bytes"};
    static const char *const times[][2] = {{"seen_ms", "seen_at"}, {"started_ms", "started_at"}};
    json_t *o = json_copy((json_t *)(uintptr_t)worker), *list = NULL;
    const char *components = json_string_value(json_object_get(worker, "components"));
    int64_t n;
    for (size_t i = 0; o && i < sizeof numbers / sizeof *numbers; i++) {
        const char *text = json_string_value(json_object_get(worker, numbers[i]));
        if (text && str_parse_i64(text, 0, INT64_MAX, &n) == 0)
            json_object_set_new(o, numbers[i], json_integer(n));
    }
    for (size_t i = 0; o && i < sizeof times / sizeof *times; i++) {
        const json_t *v = json_object_get(worker, times[i][0]);
        n = json_integer_value(v);
        if (json_is_string(v) && str_parse_i64(json_string_value(v), 0, INT64_MAX, &n) < 0)
            n = 0;
        json_object_del(o, times[i][0]);
        json_object_set_new(o, times[i][1], time_json(n));
    }
    if (o && components && json_parse(components, strlen(components), COMPONENTS_DEPTH, &list, NULL) == 0)
        json_object_set_new(o, "components", list);
    return o;
}
