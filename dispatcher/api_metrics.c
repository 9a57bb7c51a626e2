#include "dispatcher/api_metrics.h"

#include <math.h>
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

enum {
    TEXT_MAX = 1 << 20,
    STAGES_MAX = 32, /* names that workers chose: bounded, whatever they say */
    DEVICES_MAX = 64,
    BOUNDS_MAX = 40,
};

/* ---- lines ---- */

static void family(struct buf *b, const char *name, const char *type, const char *help)
{
    buf_printf(b, "# HELP troupe_%s %s\n# TYPE troupe_%s %s\n", name, help, name, type);
}

static void sample(struct buf *b, const char *name, const char *labels, double value)
{
    const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    buf_printf(b, "troupe_%s%s%s%s %.15g\n", name, open, labels, close, isfinite(value) ? value : 0);
}

static void metric(struct buf *b, const char *name, const char *type, const char *help, double value)
{
    family(b, name, type, help);
    sample(b, name, "", value);
}

/* label="value", with the three escapes of the format. */
static void label(char *dst, size_t size, const char *name, const char *value)
{
    char clean[160];
    size_t n = 0;
    for (const char *p = value; *p && n + 2 < sizeof clean; p++) {
        if (*p == '\\' || *p == '"' || *p == '\n')
            clean[n++] = '\\';
        clean[n++] = *p == '\n' ? 'n' : *p;
    }
    clean[n] = 0;
    str_end_whole(clean);
    str_format(dst, size, "%s=\"%s\"", name, clean);
}

static double number_of(const json_t *o, const char *member)
{
    const json_t *v = json_object_get(o, member);
    return json_is_true(v) ? 1 : json_number_value(v);
}

/* ---- the queue ---- */

/* name, type, member of stats, scale, help */
#define SINGLE(X)                                                                                                    \
    X("queue_oldest_age_seconds", "gauge", "oldest_ms", 0.001, "Age of the job that waits longest.")                 \
    X("queue_backlog_seconds", "gauge", "backlog_s", 1, "Predicted work that waits, over the workers there are.")    \
    X("queue_paused", "gauge", "paused", 1, "1 while no jobs are handed out.")                                       \
    X("webhooks_waiting", "gauge", "hooks", 1, "Webhook deliveries that wait for their next try.")                   \
    X("job_run_mean_seconds", "gauge", "mean_run_ms", 0.001, "Mean run of the jobs done.")                           \
    X("jobs_submitted_total", "counter", "n_submitted", 1, "Jobs accepted.")                                         \
    X("jobs_refused_total", "counter", "n_refused", 1, "Submits refused: a limit of the queue or of a tenant.")      \
    X("jobs_cached_total", "counter", "n_cached", 1, "Submits answered by an earlier job.")                          \
    X("jobs_retried_total", "counter", "n_retried", 1, "Jobs queued again after a failure, by time or hand.")               \
    X("jobs_released_total", "counter", "n_released", 1, "Attempts given back by stopping workers.")                 \
    X("jobs_unfit_total", "counter", "n_unfit", 1, "Attempts given back by workers that cannot run the generator.")  \
    X("lease_expired_total", "counter", "n_expired", 1, "Attempts whose worker fell silent.")                        \
    X("stale_result_total", "counter", "n_lost", 1, "Writes refused, for another attempt owned the job.")            \
    X("late_result_total", "counter", "n_late", 1, "Results that came after their attempt was over.")                \
    X("webhooks_sent_total", "counter", "n_hooks_sent", 1, "Webhook deliveries that were accepted.")                 \
    X("webhooks_failed_total", "counter", "n_hooks_failed", 1, "Webhook deliveries given up.")

static void write_states(struct buf *b, const json_t *s)
{
    double dead = number_of(s, "dead");
    family(b, "jobs", "gauge", "Jobs by state; ended: done, cancelled or timed out, and still kept.");
    sample(b, "jobs", "state=\"queued\"", number_of(s, "waiting"));
    sample(b, "jobs", "state=\"running\"", number_of(s, "running"));
    sample(b, "jobs", "state=\"delayed\"", number_of(s, "delayed"));
    sample(b, "jobs", "state=\"failed\"", dead);
    sample(b, "jobs", "state=\"ended\"", fmax(0, number_of(s, "ended") - dead));
    family(b, "jobs_finished_total", "counter", "Jobs by how they ended.");
    sample(b, "jobs_finished_total", "state=\"done\"", number_of(s, "n_done"));
    sample(b, "jobs_finished_total", "state=\"failed\"", number_of(s, "n_failed"));
    sample(b, "jobs_finished_total", "state=\"cancelled\"", number_of(s, "n_cancelled"));
    sample(b, "jobs_finished_total", "state=\"timed_out\"", number_of(s, "n_timed_out"));
}

static void write_levels(struct buf *b, const json_t *s)
{
    static const struct {
        const char *name, *member, *help;
    } what[] = {{"queue_waiting", "waiting", "Jobs that wait, by priority; 9 goes first."},
                {"queue_waiting_work_seconds", "waiting_s", "Predicted work that waits, by priority."}};
    const json_t *levels = json_object_get(s, "levels");
    for (size_t k = 0; k < sizeof what / sizeof *what; k++) {
        double at[10] = {0};
        size_t i;
        json_t *one;
        char text[32];
        json_array_foreach(levels, i, one) {
            json_int_t p = json_integer_value(json_object_get(one, "priority"));
            if (p >= 0 && p < 10)
                at[p] = number_of(one, what[k].member);
        }
        family(b, what[k].name, "gauge", what[k].help);
        for (int p = 9; p >= 0; p--) {
            str_format(text, sizeof text, "priority=\"%d\"", p);
            sample(b, what[k].name, text, at[p]);
        }
    }
}

/* Pauses of generators and of tenants: how many, not which. */
static void write_pauses(struct buf *b, const json_t *s)
{
    double generators = 0, tenants = 0;
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(s, "paused_list"), i, one) {
        const char *text = json_string_value(one);
        generators += text && str_starts(text, "generator:");
        tenants += text && str_starts(text, "tenant:");
    }
    family(b, "queue_paused_parts", "gauge", "Generators and tenants whose jobs are not handed out.");
    sample(b, "queue_paused_parts", "scope=\"generator\"", generators);
    sample(b, "queue_paused_parts", "scope=\"tenant\"", tenants);
}

static void write_gpu(struct buf *b, const json_t *s)
{
    const char *device;
    json_t *ms;
    char text[200];
    int n = 0;
    family(b, "gpu_seconds_total", "counter", "Device time that attempts took, by kind of device.");
    json_object_foreach(json_object_get(s, "gpu_ms"), device, ms) {
        label(text, sizeof text, "device", device);
        if (n++ < DEVICES_MAX)
            sample(b, "gpu_seconds_total", text, json_number_value(ms) / 1000);
    }
}

static void write_hist(struct buf *b, const char *name, const char *labels, const json_t *h)
{
    const json_t *le = json_object_get(h, "le"), *counts = json_object_get(h, "n");
    double bound[BOUNDS_MAX] = {0}, count[BOUNDS_MAX + 1] = {0};
    size_t n = json_array_size(le);
    if (n == 0 || n > BOUNDS_MAX || json_array_size(counts) != n + 1)
        return;
    for (size_t i = 0; i <= n; i++) {
        if (i < n)
            bound[i] = json_number_value(json_array_get(le, i));
        count[i] = json_number_value(json_array_get(counts, i));
    }
    hist_text(b, name, labels, bound, count, n + 1, number_of(h, "sum"));
}

static void write_hists(struct buf *b, const json_t *s)
{
    static const struct {
        const char *member, *name, *help;
    } what[] = {{"wait", "queue_wait_seconds", "From being queued to the claim."},
                {"run", "execution_seconds", "From a claim to the end of the attempt."},
                {"cancel", "cancel_latency_seconds", "From asking a running job to stop to its end."},
                {"hook", "webhook_delivery_seconds", "A try to deliver a webhook."}};
    const json_t *hist = json_object_get(s, "hist");
    const char *key;
    char name[80], text[200];
    json_t *h;
    int n = 0;
    for (size_t k = 0; k < sizeof what / sizeof *what; k++) {
        str_format(name, sizeof name, "troupe_%s", what[k].name);
        family(b, what[k].name, "histogram", what[k].help);
        write_hist(b, name, "", json_object_get(hist, what[k].member));
    }
    family(b, "stage_seconds", "histogram", "Stages of the attempts that ended well.");
    json_object_foreach((json_t *)(uintptr_t)hist, key, h) {
        if (!str_starts(key, "stage:") || n++ >= STAGES_MAX)
            continue;
        label(text, sizeof text, "stage", key + strlen("stage:"));
        write_hist(b, "troupe_stage_seconds", text, h);
    }
}

/* Without a look at each: there may be ten thousand. */
static void write_workers(struct buf *b, const json_t *s)
{
    double all = number_of(s, "workers"), offering = number_of(s, "offering");
    family(b, "workers", "gauge", "Workers heard of lately; taking: jobs; quiet: nothing more (told so, or fit for nothing).");
    sample(b, "workers", "state=\"taking\"", offering);
    sample(b, "workers", "state=\"quiet\"", fmax(0, all - offering));
    metric(b, "workers_busy", "gauge", "Workers that hold a job, or a part of one.", number_of(s, "running"));
}

static void write_queue(struct buf *b, const json_t *s)
{
    write_states(b, s);
#define X(name, type, member, scale, help) metric(b, name, type, help, number_of(s, member) * (scale));
    SINGLE(X)
#undef X
    write_levels(b, s);
    write_pauses(b, s);
    write_workers(b, s);
    write_gpu(b, s);
    write_hists(b, s);
}

/* ---- this program ---- */

static void write_own(struct request *r, struct buf *b, bool redis)
{
    const struct app *app = r->app;
    struct rusage u = {0};
    char version[100], build[100], text[220];
    getrusage(RUSAGE_SELF, &u);
    metric(b, "redis_up", "gauge", "1 while the queue can be reached.", redis);
    family(b, "redis_rtt_seconds", "histogram", "From a command to its reply.");
    hist_write(b, "troupe_redis_rtt_seconds", "", backend_rtt(app->backend));
    metric(b, "redis_connections_lost_total", "counter", "Connections lost.", (double)backend_n_lost(app->backend));
    http_stats_write(server_stats(r->server), b);
    metric(b, "http_connections", "gauge", "Open connections.", server_n_connections(r->server));
    metric(b, "http_requests_in_flight", "gauge", "Requests not yet answered in full.", server_n_requests(r->server));
    metric(b, "event_streams", "gauge", "Open server-sent event streams.", api_events_n(app->streams));
    metric(b, "event_watches", "gauge", "Requests that wait for a job.", events_n_watches(app->events));
    metric(b, "uptime_seconds", "gauge", "Since the dispatcher's start.", (double)(clock_us() - app->started_us) / 1e6);
    metric(b, "cpu_seconds_total", "counter", "Processor time of the dispatcher.",
           (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    metric(b, "resident_peak_bytes", "gauge", "Largest resident size.", (double)u.ru_maxrss * 1024);
    label(version, sizeof version, "version", version_text());
    label(build, sizeof build, "build", version_build());
    str_format(text, sizeof text, "%s,%s", version, build);
    family(b, "build_info", "gauge", "Constant 1.");
    sample(b, "build_info", text, 1);
}

/* Stats, or what is known without them. */
static void on_stats(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct buf b;
    struct err err = {0};
    json_t *o = NULL;
    (void)why;
    buf_init(&b, TEXT_MAX);
    if (rc == 0 && (rc = queue_read_object(bytes, len, &o, &err)) == 0)
        write_queue(&b, o);
    json_decref(o);
    write_own(r, &b, rc == 0);
    reply_text(r, 200, "text/plain; version=0.0.4; charset=utf-8", b.data ? b.data : "", b.len);
    buf_done(&b);
}

void api_metrics_get(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    backend_ask(r, queue_cmd_stats(&c, &r->app->queue, &err), &c, &err, on_stats);
}
