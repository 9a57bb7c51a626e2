#include "dispatcher/api_ops.h"

#include <string.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "common/str.h"
#include "common/version.h"
#include "dispatcher/api_events.h"
#include "dispatcher/backend.h"
#include "dispatcher/events.h"
#include "dispatcher/reply.h"
#include "dispatcher/server.h"
#include "dispatcher/view.h"

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

static void pause_or_resume(struct request *r, bool paused)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    backend_ask(r, queue_cmd_pause(&c, &r->app->queue, paused, &err), &c, &err, on_ok);
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
    int rc = queue_cmd_quiet(&c, &r->app->queue, r->param[0], !off || *off == '0', &err);
    backend_ask(r, rc, &c, &err, on_ok);
}

static void on_purged(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct err err = *why;
    int64_t n = 0;
    if (rc == 0)
        rc = queue_read_count(bytes, len, &n, &err);
    if (rc < 0)
        reply_error(arg, &err);
    else
        reply_json(arg, 200, json_pack("{s:I}", "cancelled", (json_int_t)n));
}

void api_ops_purge(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    backend_ask(r, queue_cmd_purge(&c, &r->app->queue, &err), &c, &err, on_purged);
}

/* ---- metrics ---- */

/* name, type, member of stats, scale, help. Names as Prometheus wants them: prefix, base units, _total on counters. */
#define METRICS(X)                                                                                                   \
    X("jobs_queued", "gauge", "waiting", 1, "Jobs that wait for a worker.")                                          \
    X("jobs_running", "gauge", "running", 1, "Jobs that a worker holds.")                                            \
    X("jobs_delayed", "gauge", "delayed", 1, "Jobs that wait for their next attempt.")                               \
    X("jobs_kept", "gauge", "ended", 1, "Ended jobs that are still kept.")                                           \
    X("queue_oldest_age_seconds", "gauge", "oldest_ms", 0.001, "Age of the job at the head of the line.")            \
    X("queue_backlog_seconds", "gauge", "backlog_s", 1, "Waiting work over the workers there are.")                  \
    X("queue_paused", "gauge", "paused", 1, "1 while no jobs are handed out.")                                       \
    X("workers", "gauge", "workers", 1, "Workers that were heard of lately.")                                        \
    X("job_run_mean_seconds", "gauge", "mean_run_ms", 0.001, "Mean run of the jobs done.")                           \
    X("jobs_submitted_total", "counter", "n_submitted", 1, "Jobs accepted.")                                         \
    X("jobs_done_total", "counter", "n_done", 1, "Jobs that became a video.")                                        \
    X("jobs_failed_total", "counter", "n_failed", 1, "Jobs that failed for good.")                                   \
    X("jobs_cancelled_total", "counter", "n_cancelled", 1, "Jobs cancelled.")                                        \
    X("jobs_timed_out_total", "counter", "n_timed_out", 1, "Jobs whose deadline passed.")                            \
    X("attempts_retried_total", "counter", "n_retried", 1, "Attempts that failed and were queued again.")            \
    X("attempts_released_total", "counter", "n_released", 1, "Attempts given back by stopping workers.")             \
    X("leases_expired_total", "counter", "n_expired", 1, "Attempts whose worker fell silent.")                       \
    X("stale_writes_total", "counter", "n_lost", 1, "Writes refused, for another attempt owned the job.")            \
    X("late_results_total", "counter", "n_late", 1, "Results that came after their attempt was over.")

static void metric(struct buf *b, const char *name, const char *type, const char *help, double value)
{
    buf_printf(b, "# HELP troupe_%s %s\n# TYPE troupe_%s %s\ntroupe_%s %.12g\n", name, help, name, type, name, value);
}

static double number_of(const json_t *o, const char *member)
{
    const json_t *v = json_object_get(o, member);
    return json_is_true(v) ? 1 : json_number_value(v);
}

static void own_metrics(struct request *r, struct buf *b, bool redis)
{
    const struct app *app = r->app;
    struct rusage u = {0};
    getrusage(RUSAGE_SELF, &u);
    metric(b, "redis_up", "gauge", "1 while the queue can be reached.", redis);
    metric(b, "redis_rtt_seconds", "gauge", "Round trip of the last command.", backend_rtt_s(app->backend));
    metric(b, "redis_connections_lost_total", "counter", "Connections lost.", (double)backend_n_lost(app->backend));
    metric(b, "http_connections", "gauge", "Open connections.", server_n_connections(r->server));
    metric(b, "http_requests_in_flight", "gauge", "Requests not yet answered in full.", server_n_requests(r->server));
    metric(b, "event_streams", "gauge", "Open server-sent event streams.", api_events_n(app->streams));
    metric(b, "event_watches", "gauge", "Requests that wait for a job.", events_n_watches(app->events));
    metric(b, "uptime_seconds", "gauge", "Since the dispatcher's start.", (double)(clock_us() - app->started_us) / 1e6);
    metric(b, "cpu_seconds_total", "counter", "Processor time of the dispatcher.",
           (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    metric(b, "resident_peak_bytes", "gauge", "Largest resident size.", (double)u.ru_maxrss * 1024);
    buf_puts(b, "# HELP troupe_http_responses_total Answers by class of status.\n"
                "# TYPE troupe_http_responses_total counter\n");
    for (int i = 1; i <= 5; i++)
        buf_printf(b, "troupe_http_responses_total{code=\"%dxx\"} %llu\n", i,
                   (unsigned long long)server_n_answers(r->server, i));
    buf_printf(b, "# HELP troupe_build_info Constant 1.\n# TYPE troupe_build_info gauge\n"
                  "troupe_build_info{version=\"%s\",build=\"%s\"} 1\n", version_text(), version_build());
}

static void on_stats(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct err err = *why;
    struct buf b;
    json_t *o = NULL;
    buf_init(&b, 64 * 1024);
    if (rc == 0)
        rc = queue_read_object(bytes, len, &o, &err);
#define X(name, type, member, scale, help)                                                                           \
    if (rc == 0)                                                                                                     \
        metric(&b, name, type, help, number_of(o, member) * (scale));
    METRICS(X)
#undef X
    own_metrics(r, &b, rc == 0);
    json_decref(o);
    reply_text(r, 200, "text/plain; version=0.0.4; charset=utf-8", b.data ? b.data : "", b.len);
    buf_done(&b);
}

void api_ops_metrics(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    backend_ask(r, queue_cmd_stats(&c, &r->app->queue, &err), &c, &err, on_stats);
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
    double workers = number_of(o, "workers");
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
