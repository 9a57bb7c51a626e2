#include "cli/watch.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/args.h"
#include "cli/bar.h"
#include "cli/http.h"
#include "common/job.h"
#include "common/str.h"

#define PATIENCE_S 60 /* for a dispatcher that restarts */

struct watching {
    struct bar bar;
    char last_id[64];
    bool ended;
    int failures;
};

/* v: a job (progress in an object of its own) or an event (flat). */
static void show(struct watching *w, const json_t *v)
{
    const json_t *p = json_object_get(v, "progress");
    p = json_is_object(p) ? p : v;
    const char *state = cli_text(v, "state"), *stage = cli_text(p, "stage");
    json_t *eta = json_object_get(p, "eta_s"), *position = json_object_get(v, "position");
    enum job_state s;
    if (job_state_parse(state, &s) < 0)
        return;
    struct bar_state b = {.what = s == JOB_RUNNING && stage[0] ? stage : state, .position = -1, .eta_s = -1};
    if (s == JOB_QUEUED && json_is_integer(position)) {
        b.position = json_integer_value(position);
        b.eta_s = cli_num(v, "start_s", -1);
    }
    if (s == JOB_RUNNING) {
        b.step = json_integer_value(json_object_get(p, "step"));
        b.total = json_integer_value(json_object_get(p, "total"));
        b.eta_s = json_is_number(eta) ? json_number_value(eta) : -1;
    }
    w->ended = job_state_final(s);
    if (!w->ended)
        bar_show(&w->bar, &b);
}

static int on_event(void *arg, const char *event, const char *id, const char *data)
{
    struct watching *w = arg;
    json_t *v = NULL;
    (void)event;
    if (id[0])
        str_copy(w->last_id, sizeof w->last_id, id);
    w->failures = 0;
    if (json_parse(data, strlen(data), 32, &v, NULL) == 0)
        show(w, v);
    json_decref(v);
    return w->ended || cli_stopped;
}

/* One connection's worth of events; then again, until the job has ended. */
static int follow(const struct cli *c, const char *id, struct watching *w, struct err *err)
{
    char path[128];
    str_format(path, sizeof path, "/v1/jobs/%s/events", id);
    while (!w->ended && !cli_stopped) {
        struct err why = {0};
        int rc = http_events(c, path, w->last_id, on_event, w, &why);
        if (rc < 0 && rc != ERR_IO && rc != ERR_TIMEOUT)
            return err_set(err, rc, "%s", why.text);
        if (!w->ended && ++w->failures > PATIENCE_S)
            return err_set(err, ERR_IO, "%s",
                           why.text[0] ? why.text : "the dispatcher closes every connection");
        if (!w->ended && !cli_stopped)
            nanosleep(&(struct timespec){w->failures > 1, w->failures > 1 ? 0 : 100000000}, NULL);
    }
    return cli_stopped && !w->ended
               ? err_set(err, ERR_CANCEL, "stopped watching; the job goes on: troupe watch %s", id)
               : 0;
}

int watch_job(const struct cli *c, const char *id, json_t **ret, struct err *err)
{
    struct watching w = {0};
    char path[96];
    json_t *job = NULL;
    bar_init(&w.bar, false);
    str_format(path, sizeof path, "/v1/jobs/%s", id);
    int rc = http_json(c, "GET", path, NULL, 30, &job, err);
    if (rc < 0)
        return rc;
    show(&w, job);
    json_decref(job);
    job = NULL;
    if ((rc = follow(c, id, &w, err)) == 0)
        rc = http_json(c, "GET", path, NULL, 30, &job, err);
    bar_end(&w.bar, rc == 0 ? cli_text(job, "state") : "stopped");
    if (rc == 0)
        *ret = job;
    return rc;
}

int watch_verdict(const json_t *job, struct err *err)
{
    const json_t *e = json_object_get(job, "error");
    const char *state = cli_text(job, "state");
    if (strcmp(state, "done") == 0)
        return 0;
    const char *detail = json_is_string(e) ? json_string_value(e) : cli_text(e, "detail");
    const char *code = json_is_object(e) ? cli_text(e, "code") : cli_text(job, "error_code");
    int rc = code[0] ? err_parse(code) : ERR_CANCEL;
    if (rc == ERR_CANCEL)
        detail = ""; /* it says the same */
    return err_set(err, rc, "the job is %s%s%s", state, detail[0] ? ": " : "", detail);
}

int watch_command(struct cli *c, int argc, char **argv)
{
    static const struct arg own[] = {{0}};
    struct args_rest r = {0};
    struct err err = {0};
    json_t *job = NULL;
    int rc = args_read(c, argc, argv, own, false, 1, &r, &err);
    if (rc == 0 && r.help) {
        args_help(c, "ID", "Follows a job to its end.", own, false);
        return CLI_OK;
    }
    if (rc == 0)
        rc = watch_job(c, r.word[0], &job, &err);
    if (rc == 0)
        rc = watch_verdict(job, &err);
    if (job && c->json && rc == 0)
        cli_print_json(json_incref(job));
    json_decref(job);
    return rc < 0 ? cli_fail(c, &err) : CLI_OK;
}
