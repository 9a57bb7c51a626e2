/* api_events.c -- a stream is born parked: watch, replay (when asked for), fetch, and only then the answer begins. Live
 * events that come before that wait in `early`. Afterwards the connection is parked whenever nothing is to be sent, and
 * woken by whoever appends to `out`; on_bytes is the library's reader. */
#include "dispatcher/api_events.h"

#include <string.h>

#include "common/crash.h"
#include "common/mem.h"
#include "common/str.h"
#include "dispatcher/api_jobs.h"
#include "dispatcher/events.h"
#include "dispatcher/reply.h"
#include "dispatcher/view.h"

enum {
    OUT_MAX = 256 * 1024, /* a client that reads slower than this loses the stream, and comes back */
    EARLY_MAX = 256,
    TICK_MS = 1000,
    QUIET_MS = 15000,
    FETCHES_A_TICK = 256,
    BLOCK = 1024,
};

struct early {
    char id[EVENTS_ID];
    struct queue_event e;
};

struct stream {
    struct request *r;
    struct streams *all;
    struct events_watch watch;
    struct buf out;
    struct early *early; /* owned */
    int n_early;
    int n_replayed;
    bool resumed;  /* came with a Last-Event-ID */
    bool live;     /* the answer has begun */
    bool over;     /* close when out is empty */
    struct fetch *fetching; /* the one on its way, or NULL */
    bool stale;             /* fetch once more when it is back */
    bool final;    /* a final event was seen: the next fetch ends the stream */
    char last[EVENTS_ID]; /* id of the last event that is told or replayed */
    enum job_state state;
    int64_t position;
    uint64_t moves;
    uint64_t spoke_ms; /* loop time of the last bytes */
    struct stream *prev, *next;
};

/* A live stream can lose its client while a fetch is on its way: it then leaves the fetch without a stream. */
struct fetch {
    struct stream *s;
};

struct streams {
    struct app *app;
    uv_timer_t tick;
    struct stream *first;
    unsigned n;
};

/* ---- writing ---- */

static void wake(struct stream *s)
{
    s->spoke_ms = uv_now(s->r->app->loop);
    if (s->live)
        request_unpark(s->r);
}

static void overflow(struct stream *s)
{
    buf_clear(&s->out);
    s->over = true;
}

/* Takes data. id NULL: the frame carries none. */
static void frame(struct stream *s, const char *id, const char *name, json_t *data)
{
    char *text = data ? json_dumps(data, JSON_COMPACT) : NULL;
    json_decref(data);
    int rc = text ? 0 : ERR_NOMEM;
    if (rc == 0 && id && *id)
        rc = buf_printf(&s->out, "id: %s\n", id);
    if (rc == 0)
        rc = buf_printf(&s->out, "event: %s\ndata: %s\n\n", name, text);
    mem_free(text);
    if (rc < 0)
        overflow(s);
    wake(s);
}

static void event_frame(struct stream *s, const char *id, const struct queue_event *e)
{
    bool final = job_state_final(e->state);
    str_copy(s->last, sizeof s->last, id);
    s->state = e->state;
    CRASH_POINT(dispatcher_frame);
    frame(s, final ? NULL : id, strcmp(e->what, "progress") == 0 ? "progress" : "state", view_event(e));
}

static void end_frame(struct stream *s)
{
    frame(s, s->last, "end", json_pack("{s:s, s:s}", "job", s->r->param[0], "state", job_state_text(s->state)));
    s->over = true;
}

/* ---- the library's reader ---- */

static ssize_t on_bytes(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct stream *s = cls;
    (void)pos;
    if (s->out.len == 0) {
        if (s->over)
            return MHD_CONTENT_READER_END_OF_STREAM;
        request_park(s->r);
        return 0;
    }
    size_t n = s->out.len < max ? s->out.len : max;
    memcpy(buf, s->out.data, n);
    memmove(s->out.data, s->out.data + n, s->out.len - n);
    s->out.len -= n;
    if (s->out.len == 0) { /* a silent stream keeps nothing */
        buf_done(&s->out);
        buf_init(&s->out, OUT_MAX);
    }
    return (ssize_t)n;
}

static void begin_answer(struct stream *s)
{
    struct MHD_Response *m = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, on_bytes, s, NULL);
    if (m) {
        MHD_add_response_header(m, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
        MHD_add_response_header(m, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
        MHD_add_response_header(m, "X-Accel-Buffering", "no");
    }
    s->live = true;
    request_answer(s->r, 200, m);
}

/* ---- fetching the job ---- */

static void tell_job(struct stream *s, struct job_view *v, bool always)
{
    bool moved = v->status.state != s->state || v->status.position != s->position;
    s->state = v->status.state;
    s->position = v->status.position;
    if (always || moved)
        frame(s, NULL, "job", view_job(v));
    if (job_state_final(s->state))
        end_frame(s);
}

static void tell_early(struct stream *s)
{
    for (int i = 0; i < s->n_early && !s->over; i++) {
        if (!events_id_after(s->early[i].id, s->last))
            continue;
        event_frame(s, s->early[i].id, &s->early[i].e);
        s->final |= job_state_final(s->early[i].e.state);
    }
    mem_free(s->early);
    s->early = NULL;
    s->n_early = 0;
}

static void on_fetched(void *arg, int rc, const void *bytes, size_t len, const struct err *why);

static void fetch(struct stream *s)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    s->stale = s->fetching != NULL;
    if (s->fetching || s->over)
        return;
    struct fetch *f = mem_zalloc(sizeof *f);
    if (!f) {
        overflow(s);
        wake(s);
        return;
    }
    f->s = s;
    s->fetching = f;
    s->moves = events_moves(s->r->app->events);
    int rc = queue_cmd_get(&c, &s->r->app->queue, s->r->param[0], false, &err);
    if (rc == 0)
        backend_send(s->r->app->backend, &c, on_fetched, f);
    else
        on_fetched(f, rc, NULL, 0, &err);
}

static void first_fetched(struct stream *s, int rc, struct job_view *v, const struct err *err)
{
    if (rc < 0) {
        reply_error(s->r, err);
    } else if (job_state_final(v->status.state) && s->resumed && s->n_replayed == 0 && s->n_early == 0) {
        reply_empty(s->r, 204);
    } else {
        tell_job(s, v, true);
        if (!s->over)
            tell_early(s);
        begin_answer(s);
        if (s->final && !s->over)
            fetch(s);
    }
}

static void on_fetched(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct fetch *f = arg;
    struct stream *s = f->s;
    struct job_view v = {0};
    struct err err = *why;
    mem_free(f);
    if (!s)
        return;
    s->fetching = NULL;
    if (rc == 0)
        rc = queue_read_get(bytes, len, &v, &err);
    if (!s->live)
        first_fetched(s, rc, &v, &err);
    else if (rc == 0 && !s->over)
        tell_job(s, &v, s->final);
    else if (rc == ERR_NOTFOUND && !s->over)
        end_frame(s);
    job_view_done(&v);
    if (rc == 0 && s->live && s->stale && !s->over)
        fetch(s);
}

/* ---- what happens to a stream ---- */

static void keep_early(struct stream *s, const char *id, const struct queue_event *e)
{
    if (s->n_early == EARLY_MAX)
        return;
    struct early *more = mem_realloc(s->early, sizeof *more * (size_t)(s->n_early + 1));
    if (!more)
        return;
    s->early = more;
    str_copy(more[s->n_early].id, sizeof more->id, id);
    more[s->n_early++].e = *e;
}

static void on_event(void *arg, const char *id, const struct queue_event *e)
{
    struct stream *s = arg;
    if (s->over)
        return;
    if (!e) {
        if (s->live)
            fetch(s);
        return;
    }
    if (!s->live) {
        keep_early(s, id, e);
        return;
    }
    if (strcmp(e->what, "delete") == 0) {
        end_frame(s);
        return;
    }
    event_frame(s, id, e);
    if (job_state_final(e->state)) {
        s->final = true;
        fetch(s);
    }
}

static void on_replayed(void *arg, const char *id, const struct queue_event *e)
{
    struct stream *s = arg;
    s->n_replayed++;
    if (s->out.len < OUT_MAX / 2) /* the rest is in the snapshot that follows */
        event_frame(s, id, e);
}

static void on_replay_done(void *arg, int rc, const struct err *err)
{
    struct stream *s = arg;
    if (rc < 0)
        reply_error(s->r, err);
    else
        fetch(s);
}

static void on_tick(uv_timer_t *t)
{
    struct streams *all = t->data;
    uint64_t now = uv_now(all->app->loop), moves = events_moves(all->app->events);
    int n = 0;
    for (struct stream *s = all->first, *next; s; s = next) {
        next = s->next;
        if (!s->live || s->over)
            continue;
        if (s->state == JOB_QUEUED && s->moves != moves && !s->fetching && n++ < FETCHES_A_TICK)
            fetch(s);
        if (now - s->spoke_ms >= QUIET_MS) {
            if (request_gone(s->r) || buf_puts(&s->out, ": still here\n\n") < 0)
                overflow(s);
            wake(s);
        }
    }
}

/* ---- life ---- */

static void stream_free(void *p)
{
    struct stream *s = p;
    if (s->fetching)
        s->fetching->s = NULL;
    events_unwatch(s->r->app->events, &s->watch);
    if (s->prev)
        s->prev->next = s->next;
    else
        s->all->first = s->next;
    if (s->next)
        s->next->prev = s->prev;
    s->all->n--;
    buf_done(&s->out);
    mem_free(s->early);
    mem_free(s);
}

static struct stream *stream_new(struct request *r)
{
    struct stream *s = mem_zalloc(sizeof *s);
    if (!s)
        return NULL;
    s->r = r;
    s->all = r->app->streams;
    s->watch = (struct events_watch){.fn = on_event, .arg = s};
    s->position = -2;
    s->spoke_ms = uv_now(r->app->loop);
    buf_init(&s->out, OUT_MAX);
    s->next = s->all->first;
    if (s->next)
        s->next->prev = s;
    s->all->first = s;
    s->all->n++;
    return s;
}

void api_events_stream(struct request *r)
{
    const char *id = api_jobs_id(r), *from = request_header(r, "Last-Event-ID");
    struct err err = {0};
    if (!id)
        return;
    if (!from)
        from = request_query(r, "last_event_id");
    if (from && !events_id_ok(from)) {
        err_set(&err, ERR_INVALID, "last-event-id: %.60s is no id of an event", from);
        reply_error(r, &err);
        return;
    }
    struct stream *s = r->head ? NULL : stream_new(r);
    if (!s) {
        reply_empty(r, r->head ? 200 : 503);
        return;
    }
    r->state = s;
    r->state_free = stream_free;
    s->resumed = from != NULL;
    str_copy(s->last, sizeof s->last, from ? from : events_last(r->app->events));
    buf_printf(&s->out, "retry: 1000\n\n");
    events_watch(r->app->events, &s->watch, id);
    request_park(r);
    if (from)
        events_replay(r->app->events, from, id, on_replayed, on_replay_done, s);
    else
        fetch(s);
}

int api_events_new(struct app *app, struct streams **ret, struct err *err)
{
    struct streams *all = mem_zalloc(sizeof *all);
    if (!all)
        return err_set(err, ERR_NOMEM, "out of memory");
    all->app = app;
    uv_timer_init(app->loop, &all->tick);
    all->tick.data = all;
    uv_timer_start(&all->tick, on_tick, TICK_MS, TICK_MS);
    *ret = all;
    return 0;
}

void api_events_drain(struct streams *all)
{
    for (struct stream *s = all->first; s; s = s->next) {
        s->over = true;
        wake(s);
    }
}

static void on_closed(uv_handle_t *h)
{
    mem_free(h->data);
}

void api_events_free(struct streams *all)
{
    if (all)
        uv_close((uv_handle_t *)&all->tick, on_closed);
}

unsigned api_events_n(const struct streams *all)
{
    return all->n;
}
