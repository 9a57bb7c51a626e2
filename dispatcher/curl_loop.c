#include "dispatcher/curl_loop.h"

#include "common/mem.h"

struct curl_loop {
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer;
    curl_loop_fn on_end;
    void *arg;
    int n_refs; /* handles that are not closed */
};

struct watch {
    uv_poll_t poll;
    struct curl_loop *c;
    curl_socket_t fd;
};

static void unref(struct curl_loop *c)
{
    if (--c->n_refs == 0)
        mem_free(c);
}

static void on_timer_closed(uv_handle_t *h)
{
    unref(h->data);
}

static void on_watch_closed(uv_handle_t *h)
{
    struct watch *w = h->data;
    unref(w->c);
    mem_free(w);
}

/* Transfers that ended. A message is gone once its handle is removed: what is needed is copied first. */
static void tell_ended(struct curl_loop *c)
{
    const CURLMsg *m;
    int left;
    while (c->multi && (m = curl_multi_info_read(c->multi, &left)) != NULL) {
        CURL *easy = m->easy_handle;
        CURLcode code = m->data.result;
        if (m->msg != CURLMSG_DONE)
            continue;
        curl_multi_remove_handle(c->multi, easy);
        c->on_end(c->arg, easy, code);
    }
}

static void on_ready(uv_poll_t *p, int status, int events)
{
    const struct watch *w = p->data;
    struct curl_loop *c = w->c;
    int flags = (events & UV_READABLE ? CURL_CSELECT_IN : 0) | (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0);
    int running;
    curl_multi_socket_action(c->multi, w->fd, status < 0 ? CURL_CSELECT_ERR : flags, &running);
    tell_ended(c);
}

static void on_timer(uv_timer_t *t)
{
    struct curl_loop *c = t->data;
    int running;
    curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    tell_ended(c);
}

/* libcurl must not be called from in here: 0 ms is the loop's next turn. */
static int on_when(CURLM *multi, long ms, void *arg)
{
    struct curl_loop *c = arg;
    (void)multi;
    if (ms < 0)
        uv_timer_stop(&c->timer);
    else
        uv_timer_start(&c->timer, on_timer, (uint64_t)ms, 0);
    return 0;
}

static struct watch *watch_new(struct curl_loop *c, curl_socket_t fd)
{
    struct watch *w = mem_zalloc(sizeof *w);
    if (!w)
        return NULL;
    if (uv_poll_init(c->loop, &w->poll, fd) < 0) {
        mem_free(w);
        return NULL;
    }
    w->c = c;
    w->fd = fd;
    w->poll.data = w;
    c->n_refs++;
    curl_multi_assign(c->multi, fd, w);
    return w;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *of_socket)
{
    struct curl_loop *c = arg;
    struct watch *w = of_socket;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            curl_multi_assign(c->multi, fd, NULL);
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, on_watch_closed);
        }
        return 0;
    }
    if (!w)
        w = watch_new(c, fd);
    if (!w)
        return -1; /* the transfer fails */
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&w->poll, events, on_ready) < 0 ? -1 : 0;
}

int curl_loop_new(uv_loop_t *loop, long max_idle, curl_loop_fn on_end, void *arg, struct curl_loop **ret, struct err *err)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return err_set(err, ERR_INTERNAL, "libcurl does not start");
    struct curl_loop *c = mem_zalloc(sizeof *c);
    CURLM *multi = curl_multi_init();
    if (!c || !multi) {
        mem_free(c);
        curl_multi_cleanup(multi);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    *c = (struct curl_loop){.loop = loop, .multi = multi, .on_end = on_end, .arg = arg, .n_refs = 1};
    uv_timer_init(loop, &c->timer);
    c->timer.data = c;
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_when);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, c);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, max_idle);
    *ret = c;
    return 0;
}

int curl_loop_add(struct curl_loop *c, CURL *easy)
{
    return curl_multi_add_handle(c->multi, easy) == CURLM_OK ? 0 : ERR_NOMEM;
}

void curl_loop_remove(struct curl_loop *c, CURL *easy)
{
    curl_multi_remove_handle(c->multi, easy);
}

void curl_loop_free(struct curl_loop *c)
{
    if (!c)
        return;
    CURLM *multi = c->multi;
    curl_multi_cleanup(multi); /* still calls on_socket */
    c->multi = NULL;
    uv_timer_stop(&c->timer);
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
}
