/* events.h -- reads the queue's one event stream and tells whoever watches a job.
 *
 * One blocking connection per dispatcher, however many wait: XREAD from the last entry seen. After a loss of Redis it
 * goes on behind that entry, so nothing is missed that the stream still holds. events_resync
 * tells all watchers, with e NULL, to look at their jobs again.
 *
 *     struct events_watch w = {.fn = on_event, .arg = r};
 *     events_watch(app->events, &w, job_id);       first watch, then fetch the job: no event falls between
 *     ...
 *     events_unwatch(app->events, &w);             not watching: fine
 */
#ifndef DISPATCHER_EVENTS_H
#define DISPATCHER_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/queue.h"
#include "dispatcher/app.h"

#define EVENTS_ID 48 /* "1764093199042-0" */

typedef void (*events_fn)(void *arg, const char *stream_id, const struct queue_event *e);

struct events_watch {
    events_fn fn;
    void *arg;
    char job[JOB_ID];
    bool on;
    struct events_watch *prev, *next; /* in its bucket */
};

int events_new(struct app *app, struct events **ret, struct err *err);
void events_free(struct events *ev);

void events_watch(struct events *ev, struct events_watch *w, const char *job);
void events_unwatch(struct events *ev, struct events_watch *w);

/* The one who hears of every event, whatever its job; e NULL as for watchers. fn NULL: nobody any more. */
void events_listen(struct events *ev, events_fn fn, void *arg);

/* Tells every watcher "look again" (e NULL): Redis is back, or the dispatcher stops. NULL is fine. */
void events_resync(struct events *ev);

const char *events_last(const struct events *ev); /* id of the last entry seen; "" before the first */
uint64_t events_moves(const struct events *ev);   /* grows whenever places in the line may have changed */
unsigned events_n_watches(const struct events *ev);

/* Entries after `from` that are about `job`, oldest first, then done(rc). fn's e is never NULL here. */
typedef void (*events_done_fn)(void *arg, int rc, const struct err *err);
void events_replay(struct events *ev, const char *from, const char *job, events_fn fn, events_done_fn done, void *arg);

bool events_id_ok(const char *id);                     /* digits, or digits-digits */
bool events_id_after(const char *a, const char *b);    /* a is later than b ("" is the beginning) */

#endif
