#include "dispatcher/redis_link.h"

#include <hiredis/async.h>
#include <hiredis/hiredis.h>

#include "common/err.h"
#include "common/mem.h"

struct link {
    uv_poll_t poll;
    redisAsyncContext *ac; /* NULL once hiredis let go */
    int events;
};

static void on_poll(uv_poll_t *p, int status, int events)
{
    struct link *l = p->data;
    if (l->ac && (status < 0 || (events & UV_READABLE)))
        redisAsyncHandleRead(l->ac);
    if (l->ac && status >= 0 && (events & UV_WRITABLE))
        redisAsyncHandleWrite(l->ac);
}

static void set_events(struct link *l, int on, int off)
{
    int events = (l->events | on) & ~off;
    if (events == l->events)
        return;
    l->events = events;
    if (events)
        uv_poll_start(&l->poll, events, on_poll);
    else
        uv_poll_stop(&l->poll);
}

static void add_read(void *p)
{
    set_events(p, UV_READABLE, 0);
}

static void del_read(void *p)
{
    set_events(p, 0, UV_READABLE);
}

static void add_write(void *p)
{
    set_events(p, UV_WRITABLE, 0);
}

static void del_write(void *p)
{
    set_events(p, 0, UV_WRITABLE);
}

static void on_closed(uv_handle_t *h)
{
    mem_free(h->data);
}

static void cleanup(void *p)
{
    struct link *l = p;
    if (!l->ac)
        return;
    l->ac = NULL;
    uv_poll_stop(&l->poll);
    uv_close((uv_handle_t *)&l->poll, on_closed);
}

int redis_link_attach(uv_loop_t *loop, struct redisAsyncContext *ac)
{
    struct link *l = mem_zalloc(sizeof *l);
    if (!l)
        return ERR_NOMEM;
    if (uv_poll_init(loop, &l->poll, ac->c.fd) < 0) {
        mem_free(l);
        return ERR_IO;
    }
    l->poll.data = l;
    l->ac = ac;
    ac->ev.data = l;
    ac->ev.addRead = add_read;
    ac->ev.delRead = del_read;
    ac->ev.addWrite = add_write;
    ac->ev.delWrite = del_write;
    ac->ev.cleanup = cleanup;
    return 0;
}
