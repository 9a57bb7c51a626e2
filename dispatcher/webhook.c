/* webhook.c -- a slot is one delivery on its way: the job is fetched, the request sent, its end reported; then the slot is
 * free again. Everything runs on the loop's thread. Start reading at take. */
#include "dispatcher/webhook.h"

#include <string.h>

#include "common/clock.h"
#include "common/crash.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/str.h"
#include "dispatcher/backend.h"
#include "dispatcher/curl_loop.h"
#include "dispatcher/events.h"
#include "dispatcher/keys.h"
#include "dispatcher/tenants.h"
#include "dispatcher/view.h"
#include "dispatcher/webhook_guard.h"
#include "dispatcher/webhook_send.h"
#include "dispatcher/webhook_sign.h"
#include "dispatcher/webhook_slow.h"

enum {
    WAKE_MS = 10,         /* from an event to the look for what it brought */
    QUIET_MS = 50,        /* the same while looks find nothing: most queues have no webhooks */
    IDLE_MS = 5000,       /* between two looks when nothing happens */
    TAKE_MAX = 50,        /* the queue's limit a command */
    HOLD_EXTRA_MS = 6000, /* held longer than a try may take: the job's fetch and the report */
    TRY_MIN_MS = 50,
    SLOW_PARALLEL = 4,    /* tries on their way to a receiver that did not answer lately */
    REPORT_AGAIN_MS = 500,
    DRAIN_MS = 2000,      /* a stopping dispatcher waits no longer for receivers */
    BODY_MAX = 1 << 20,
    SECRETS_MAX = KEYS_SECRETS * KEYS_SECRET,
};

static const double SLOW_S = 0.5; /* an end without an answer that took so long kept a place from others */

enum slot_state { SLOT_FREE, SLOT_FETCH, SLOT_SEND, SLOT_TELL, SLOT_UNTOLD };

struct slot {
    struct webhook *w;
    enum slot_state state;
    struct queue_hook hook;
    struct webhook_send send;
    struct webhook_outcome outcome;
    char host[WEBHOOK_SLOW_HOST]; /* the receiver, while it is being sent */
    int64_t until_us; /* the delivery is ours until then */
};

struct webhook {
    struct app *app;
    struct webhook_guard guard;
    struct webhook_slow slow;
    struct curl_loop *curl;
    uv_timer_t next;
    struct slot *slots; /* owned */
    int n_slots, n_busy;
    bool taking, again; /* a look is on its way; look once more after it */
    int64_t taking_us;  /* since when */
    bool found;         /* the last look brought something, or said that something waits */
    bool draining;
    int64_t drain_until_us;
};

/* ---- settings ---- */

int webhook_check_conf(const struct conf *c, struct err *err)
{
    struct webhook_guard g;
    if (webhook_sign_check(c->webhook_secret, err) < 0)
        return err_wrap(err, "webhook_secret");
    if (webhook_guard_init(&g, c->webhook_allow, err) < 0)
        return err_wrap(err, "webhook_allow");
    webhook_guard_done(&g);
    if (*c->public_url && !str_starts(c->public_url, "http://") && !str_starts(c->public_url, "https://"))
        return err_set(err, ERR_INVALID, "public_url: an http:// or https:// URL is expected");
    return 0;
}

/* What signs a tenant's webhooks: its own secrets from the keys file, or else the setting's; "": none. */
static const char *secrets_of(const struct webhook *w, const char *tenant, char room[SECRETS_MAX])
{
    const struct keys_tenant *t = w->app->tenants ? tenants_get(w->app->tenants, tenant) : NULL;
    size_t n = 0;
    if (!t || t->n_secrets == 0)
        return w->app->conf.webhook_secret;
    for (int i = 0; i < t->n_secrets; i++) {
        str_format(room + n, SECRETS_MAX - n, "%s%s", i ? "," : "", t->secret[i]);
        n = strlen(room);
    }
    return room;
}

int webhook_check(const struct webhook *w, const struct job *job, struct err *err)
{
    char room[SECRETS_MAX];
    bool named;
    if (!*job->webhook)
        return 0;
    if (webhook_guard_url(&w->guard, job->webhook, &named, err) < 0)
        return err_wrap(err, "webhook");
    if (!*secrets_of(w, job->tenant, room) && !w->app->conf.webhook_unsigned)
        return err_set(err, ERR_INVALID, "webhook: this dispatcher has no secret to sign webhooks with; its operator sets one "
                       "with webhook_secret, or allows webhook_unsigned");
    return 0;
}

/* ---- the body ---- */

/* Paths become URLs. */
static void absolute_links(const char *base, json_t *job)
{
    char url[CONF_TEXT_MAX + 160];
    const char *name;
    json_t *path;
    json_t *links = json_object_get(job, "links");
    int n = (int)strlen(base);
    n -= n > 0 && base[n - 1] == '/';
    json_object_foreach(links, name, path) {
        str_format(url, sizeof url, "%.*s%s", n, base, json_string_value(path));
        json_object_set_new(links, name, json_string(url));
    }
}

static int make_body(const struct webhook *w, const struct queue_hook *hook, const struct job_view *v, struct buf *ret)
{
    char type[32], time[32];
    json_t *job = view_job(v);
    str_format(type, sizeof type, "job.%s", hook->event);
    if (job && *w->app->conf.public_url)
        absolute_links(w->app->conf.public_url, job);
    json_t *o = json_pack("{s:s, s:s, s:o}", "type", type, "timestamp", clock_format(time, sizeof time, hook->created_ms),
                          "data", job);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    buf_init(ret, BODY_MAX);
    int rc = text ? buf_puts(ret, text) : ERR_NOMEM;
    mem_free(text);
    json_decref(o);
    return rc;
}

/* ---- a delivery's way ---- */

static void take(struct webhook *w);

static void on_next(uv_timer_t *t)
{
    take(t->data);
}

/* A look in ms, or sooner if one is due sooner. */
static void look(struct webhook *w, int64_t ms)
{
    if (w->draining)
        return;
    if (w->taking) {
        w->again = w->again || ms < IDLE_MS;
        return;
    }
    bool set = uv_is_active((uv_handle_t *)&w->next);
    if (!set || (int64_t)uv_timer_get_due_in(&w->next) > ms)
        uv_timer_start(&w->next, on_next, (uint64_t)ms, 0);
}

static void slot_free(struct slot *s)
{
    struct webhook *w = s->w;
    webhook_send_done(&s->send);
    *s = (struct slot){.w = w};
    w->n_busy--;
    look(w, WAKE_MS);
}

static void on_told(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct slot *s = arg;
    struct err err = *why;
    if (rc == 0)
        rc = queue_read_ok(bytes, len, &err);
    CRASH_POINT_IF(rc == 0, webhook_told);
    bool later = rc == ERR_REDIS || rc == ERR_TIMEOUT;
    if (later && !s->w->draining && clock_us() < s->until_us) {
        s->state = SLOT_UNTOLD;
        look(s->w, REPORT_AGAIN_MS);
        return;
    }
    if (rc < 0)
        LOG(WARN, "the end of a webhook's try could not be reported", log_str("delivery", s->hook.id), log_code(rc),
            log_str("why", err.text));
    slot_free(s);
}

static void tell(struct slot *s)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    const struct webhook_outcome *o = &s->outcome;
    s->state = SLOT_TELL;
    int rc = queue_cmd_hook_done(&c, &s->w->app->queue, &s->hook, o->verdict, o->status, o->seconds, o->why, &err);
    if (rc == 0) {
        backend_send(s->w->app->backend, &c, on_told, s);
    } else {
        queue_cmd_done(&c);
        on_told(s, rc, NULL, 0, &err);
    }
}

/* The try is over. */
static void ended(struct slot *s)
{
    static const char *const verdicts[] = {"delivered", "again", "dropped"};
    const struct webhook_outcome *o = &s->outcome;
    log_event(o->verdict == QUEUE_HOOK_OK ? LOG_DEBUG : o->verdict == QUEUE_HOOK_AGAIN ? LOG_INFO : LOG_WARN, "webhook",
              (const struct log_field[]){log_str("job", s->hook.job), log_str("delivery", s->hook.id),
                                         log_str("event", s->hook.event), log_int("try", s->hook.tries + 1),
                                         log_str("end", verdicts[o->verdict]), log_int("status", o->status),
                                         log_num("seconds", o->seconds), log_str("why", *o->why ? o->why : NULL)},
              8);
    webhook_send_done(&s->send);
    tell(s);
}

static void ended_unsent(struct slot *s, enum queue_hook_verdict verdict, const char *why)
{
    s->outcome = (struct webhook_outcome){.verdict = verdict};
    str_copy(s->outcome.why, sizeof s->outcome.why, why);
    str_end_whole(s->outcome.why);
    ended(s);
}

static void on_end(void *arg, CURL *easy, CURLcode code)
{
    struct slot *s = NULL;
    (void)arg;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&s);
    CRASH_POINT(webhook_sent);
    webhook_send_result(&s->send, code, &s->outcome);
    webhook_slow_note(&s->w->slow, s->host, s->outcome.status == 0 && s->outcome.seconds > SLOW_S, clock_us());
    ended(s);
}

/* Whether others wait because of this one's receiver. */
static bool too_many(const struct webhook *w, const char *host)
{
    int n = 0;
    if (!webhook_slow_is(&w->slow, host, clock_us()))
        return false;
    for (int i = 0; i < w->n_slots; i++)
        n += w->slots[i].state == SLOT_SEND && strcmp(w->slots[i].host, host) == 0;
    return n >= SLOW_PARALLEL;
}

static void send_job(struct slot *s, const struct job_view *v)
{
    struct webhook *w = s->w;
    struct err err = {0};
    char room[SECRETS_MAX];
    int64_t left_ms = (s->until_us - clock_us()) / CLOCK_MS, limit_ms = (int64_t)(w->app->conf.webhook_timeout_s * 1000);
    const struct webhook_request r = {
        .url = v->job.webhook,
        .id = s->hook.id,
        .secrets = secrets_of(w, v->job.tenant, room),
        .traceparent = v->job.traceparent,
        .timeout_ms = left_ms - HOLD_EXTRA_MS / 3 < limit_ms ? left_ms - HOLD_EXTRA_MS / 3 : limit_ms,
    };
    if (!*r.secrets && !w->app->conf.webhook_unsigned) {
        ended_unsent(s, QUEUE_HOOK_AGAIN, "no secret to sign with: neither the setting webhook_secret nor the tenant has one");
        return;
    }
    webhook_slow_host(r.url, s->host);
    if (too_many(w, s->host)) {
        ended_unsent(s, QUEUE_HOOK_AGAIN, "not sent: the receiver did not answer lately, and other tries wait for it");
        return;
    }
    if (r.timeout_ms < TRY_MIN_MS) { /* Redis was slow: the delivery is nearly another's */
        slot_free(s);
        return;
    }
    int rc = make_body(w, &s->hook, v, &s->send.body);
    if (rc == 0)
        rc = webhook_send_open(&s->send, &w->guard, &r, s, &err);
    if (rc == 0)
        rc = curl_loop_add(w->curl, s->send.easy);
    if (rc < 0)
        ended_unsent(s, rc == ERR_INVALID ? QUEUE_HOOK_DROP : QUEUE_HOOK_AGAIN, *err.text ? err.text : err_text(rc));
    else
        s->state = SLOT_SEND;
}

static void on_job(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct slot *s = arg;
    struct job_view v = {0};
    struct err err = *why;
    if (rc == 0)
        rc = queue_read_get(bytes, len, &v, &err);
    if (rc == 0)
        send_job(s, &v);
    else if (rc == ERR_REDIS || rc == ERR_TIMEOUT)
        slot_free(s); /* due again when its hold is over */
    else
        ended_unsent(s, rc == ERR_NOTFOUND ? QUEUE_HOOK_DROP : QUEUE_HOOK_AGAIN, err.text);
    job_view_done(&v);
}

static void start(struct webhook *w, const struct queue_hook *hook, int64_t until_us)
{
    int i = 0;
    while (i < w->n_slots && w->slots[i].state != SLOT_FREE)
        i++;
    if (i == w->n_slots)
        return; /* more than was asked for */
    struct slot *s = &w->slots[i];
    struct queue_cmd c = {0};
    struct err err = {0};
    *s = (struct slot){.w = w, .state = SLOT_FETCH, .hook = *hook, .until_us = until_us};
    w->n_busy++;
    int rc = queue_cmd_get(&c, &w->app->queue, hook->job, false, &err);
    if (rc == 0)
        backend_send(w->app->backend, &c, on_job, s);
    else
        ended_unsent(s, QUEUE_HOOK_AGAIN, err.text);
    queue_cmd_done(&c);
}

/* ---- looking ---- */

static int64_t hold_ms(const struct webhook *w)
{
    return (int64_t)(w->app->conf.webhook_timeout_s * 1000) + HOLD_EXTRA_MS;
}

static void on_taken(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct webhook *w = arg;
    struct queue_hook *hooks = NULL;
    struct err err = *why;
    size_t n = 0;
    int64_t next_ms = -1;
    w->taking = false;
    if (rc == 0)
        rc = queue_read_hook_take(bytes, len, &hooks, &n, &next_ms, &err);
    CRASH_POINT_IF(n > 0, webhook_taken);
    for (size_t i = 0; rc == 0 && !w->draining && i < n; i++)
        start(w, &hooks[i], w->taking_us + hold_ms(w) * CLOCK_MS);
    mem_free(hooks);
    w->found = n > 0 || next_ms >= 0;
    bool more = w->again;
    w->again = false;
    if (rc == 0 && next_ms >= 0 && next_ms < IDLE_MS)
        look(w, next_ms > WAKE_MS ? next_ms : WAKE_MS);
    else
        look(w, rc == 0 && more ? w->found ? WAKE_MS : QUIET_MS : IDLE_MS);
}

static void tell_untold(struct webhook *w)
{
    for (int i = 0; i < w->n_slots; i++)
        if (w->slots[i].state == SLOT_UNTOLD)
            tell(&w->slots[i]);
}

static void take(struct webhook *w)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    tell_untold(w);
    int n = w->n_slots - w->n_busy < TAKE_MAX ? w->n_slots - w->n_busy : TAKE_MAX;
    if (n == 0)
        return; /* a slot that ends looks again */
    if (queue_cmd_hook_take(&c, &w->app->queue, n, hold_ms(w), &err) < 0) {
        queue_cmd_done(&c);
        look(w, IDLE_MS);
        return;
    }
    w->taking = true;
    w->taking_us = clock_us();
    backend_send(w->app->backend, &c, on_taken, w);
}

static void on_event(void *arg, const char *stream_id, const struct queue_event *e)
{
    struct webhook *w = arg;
    (void)stream_id;
    (void)e;
    look(w, w->found ? WAKE_MS : QUIET_MS);
}

/* ---- life ---- */

int webhook_new(struct app *app, struct webhook **ret, struct err *err)
{
    struct webhook *w = mem_zalloc(sizeof *w);
    struct slot *slots = mem_calloc((size_t)app->conf.webhook_parallel, sizeof *slots);
    int rc = w && slots ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    if (rc == 0)
        rc = webhook_guard_init(&w->guard, app->conf.webhook_allow, err);
    if (rc == 0)
        rc = curl_loop_new(app->loop, (long)app->conf.webhook_parallel, on_end, w, &w->curl, err);
    if (rc < 0) {
        if (w)
            webhook_guard_done(&w->guard);
        mem_free(slots);
        mem_free(w);
        return rc;
    }
    w->app = app;
    w->slots = slots;
    w->n_slots = (int)app->conf.webhook_parallel;
    for (int i = 0; i < w->n_slots; i++)
        slots[i].w = w;
    uv_timer_init(app->loop, &w->next);
    w->next.data = w;
    events_listen(app->events, on_event, w);
    look(w, WAKE_MS);
    *ret = w;
    return 0;
}

void webhook_drain(struct webhook *w)
{
    if (!w || w->draining)
        return;
    w->draining = true;
    w->drain_until_us = clock_us() + DRAIN_MS * CLOCK_MS;
    uv_timer_stop(&w->next);
}

bool webhook_busy(const struct webhook *w)
{
    return w && w->n_busy > 0 && clock_us() < w->drain_until_us;
}

static void on_closed(uv_handle_t *h)
{
    struct webhook *w = h->data;
    mem_free(w->slots);
    mem_free(w);
}

void webhook_free(struct webhook *w)
{
    if (!w)
        return;
    w->draining = true;
    for (int i = 0; i < w->n_slots; i++) {
        if (w->slots[i].state == SLOT_SEND)
            curl_loop_remove(w->curl, w->slots[i].send.easy);
        webhook_send_done(&w->slots[i].send);
    }
    curl_loop_free(w->curl);
    webhook_guard_done(&w->guard);
    uv_close((uv_handle_t *)&w->next, on_closed);
}
