#include "dispatcher/route.h"

#include <string.h>

#include "common/str.h"
#include "dispatcher/api_blobs.h"
#include "dispatcher/api_docs.h"
#include "dispatcher/api_events.h"
#include "dispatcher/api_files.h"
#include "dispatcher/api_hooks.h"
#include "dispatcher/api_jobs.h"
#include "dispatcher/api_list.h"
#include "dispatcher/api_metrics.h"
#include "dispatcher/api_ops.h"
#include "dispatcher/page.h"

static const struct route table[] = {
    {"POST", "/v1/jobs", ROUTE_BODY_SUBMIT, ROUTE_JOBS, api_jobs_submit, "Submit: an image and a recording in, a video out"},
    {"GET", "/v1/jobs", 0, ROUTE_JOBS, api_list_jobs, "List jobs, newest first: ?state= tenant= generator= code= worker="},
    {"GET", "/v1/jobs/{id}", 0, ROUTE_JOBS, api_jobs_get, "A job; with ?wait=s, when it has ended or s seconds are over"},
    {"DELETE", "/v1/jobs/{id}", 0, ROUTE_JOBS, api_jobs_delete, "Remove an ended job and its files"},
    {"POST", "/v1/jobs/{id}/cancel", 0, ROUTE_JOBS, api_jobs_cancel, "Cancel a job, waiting or running"},
    {"POST", "/v1/jobs/{id}/retry", 0, ROUTE_JOBS, api_jobs_retry, "Queue a failed, cancelled or timed out job again"},
    {"GET", "/v1/jobs/{id}/why", 0, ROUTE_JOBS, api_jobs_why, "Why a job is not running"},
    {"GET", "/v1/jobs/{id}/webhooks", 0, ROUTE_JOBS, api_hooks_list, "What became of a job's webhooks"},
    {"GET", "/v1/jobs/{id}/events", 0, ROUTE_JOBS, api_events_stream, "Server-sent events of a job; Last-Event-ID replays"},
    {"GET", "/v1/jobs/{id}/video", 0, ROUTE_JOBS, api_files_video, "The MP4 (Range, ETag; ?download=1)"},
    {"GET", "/v1/jobs/{id}/thumbnail", 0, ROUTE_JOBS, api_files_thumbnail, "A picture of the video"},
    {"GET", "/v1/jobs/{id}/report", 0, ROUTE_JOBS, api_files_report, "How the video was made (JSON)"},
    {"POST", "/v1/blobs", ROUTE_BODY_BLOB, ROUTE_JOBS, api_blobs_put, "Store a file; answers its key"},
    {"GET", "/v1/blobs/{key}", 0, ROUTE_JOBS, api_blobs_get, "A stored file"},
    {"GET", "/v1/queue", 0, 0, api_ops_queue, "The queue in numbers"},
    {"POST", "/v1/queue/pause", 0, 0, api_ops_pause, "Hand out no jobs until resumed: all, ?generator= or ?tenant="},
    {"POST", "/v1/queue/resume", 0, 0, api_ops_resume, "Hand out jobs again: all, ?generator= or ?tenant="},
    {"POST", "/v1/queue/purge", 0, 0, api_ops_purge, "Cancel everything that waits"},
    {"GET", "/v1/queue/dead", 0, 0, api_list_dead, "The dead list: jobs that failed, with why; the filters of jobs"},
    {"POST", "/v1/queue/redrive", 0, 0, api_ops_redrive, "Queue failed jobs again: all, or what the filters choose"},
    {"GET", "/v1/tenants", 0, 0, api_ops_tenants, "The tenants: limits, what waits, runs and was used"},
    {"GET", "/v1/workers", 0, 0, api_ops_workers, "The workers, and what each does"},
    {"POST", "/v1/workers/{name}/quiet", 0, 0, api_ops_quiet, "Let a worker take nothing more (?off=1: let it again)"},
    {"GET", "/v1/generators", 0, ROUTE_JOBS, api_docs_generators, "What can be asked for: fields, ranges, defaults"},
    {"GET", "/metrics", 0, 0, api_metrics_get, "Prometheus metrics"},
    {"GET", "/healthz", 0, ROUTE_OPEN, api_ops_live, "The dispatcher runs"},
    {"GET", "/readyz", 0, ROUTE_OPEN, api_ops_ready, "The dispatcher and Redis are ready"},
    {"GET", "/v2/health/live", 0, ROUTE_OPEN, api_ops_live, "KServe liveness"},
    {"GET", "/v2/health/ready", 0, ROUTE_OPEN, api_ops_ready, "KServe readiness"},
    {"GET", "/ping", 0, ROUTE_OPEN, api_ops_ping, "200 when a worker is ready, 204 while none is"},
    {"GET", "/openapi.json", 0, ROUTE_OPEN, api_docs_openapi, "This document"},
    {"GET", "/docs", 0, ROUTE_OPEN | ROUTE_HIDDEN, api_docs_page, "The documentation for people"},
    {"GET", "/", 0, ROUTE_OPEN | ROUTE_HIDDEN, page_index, "The web page"},
    {"GET", "/style.css", 0, ROUTE_OPEN | ROUTE_HIDDEN, page_style, "Its looks"},
    {"GET", "/page.js", 0, ROUTE_OPEN | ROUTE_HIDDEN, page_script, "Its behaviour"},
    {"GET", "/board.js", 0, ROUTE_OPEN | ROUTE_HIDDEN, page_board, "The operator's part of it"},
};

const struct route *route_table(size_t *ret_n)
{
    *ret_n = sizeof table / sizeof *table;
    return table;
}

int route_job_param(const struct route *t)
{
    int n = 0;
    for (const char *p = strchr(t->path, '{'); p; p = strchr(p + 1, '{'), n++) {
        if (str_starts(p, "{id}"))
            return n;
    }
    return -1;
}

/* pattern's {..} segments take one segment of path each. */
static bool matches(const char *pattern, const char *path, char param[REQUEST_PARAMS][REQUEST_PARAM_BYTES])
{
    int n = 0;
    while (*pattern && *path) {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        size_t len = strcspn(path, "/");
        if (len == 0 || len >= REQUEST_PARAM_BYTES || n == REQUEST_PARAMS)
            return false;
        memcpy(param[n], path, len);
        param[n++][len] = 0;
        path += len;
        pattern = strchr(pattern, '}') + 1;
    }
    return *pattern == 0 && *path == 0;
}

int route_find(struct request *r, const char *method, const char *path, char *ret_allow, size_t allow_size,
               struct err *err)
{
    size_t n = 0;
    bool head = strcmp(method, "HEAD") == 0;
    ret_allow[0] = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (!matches(table[i].path, path, r->param))
            continue;
        if (strcmp(table[i].method, head ? "GET" : method) == 0) {
            r->route = &table[i];
            r->head = head;
            return 0;
        }
        str_format(ret_allow + n, allow_size - n, "%s%s", n ? ", " : "", table[i].method);
        n = strlen(ret_allow);
    }
    if (n)
        return err_set(err, ERR_UNSUPPORTED, "%.16s is not for %.200s; %s is", method, path, ret_allow);
    return err_set(err, ERR_NOTFOUND, "there is nothing at %.200s; /docs lists what there is", path);
}
