#include "dispatcher/api_hooks.h"

#include "common/clock.h"
#include "dispatcher/api_jobs.h"
#include "dispatcher/backend.h"
#include "dispatcher/reply.h"

/* In each member of list: milliseconds called `from` become text called `to`. */
static void show_times(json_t *list, const char *from, const char *to)
{
    char text[32];
    size_t i;
    json_t *one;
    json_array_foreach(list, i, one) {
        int64_t ms = json_integer_value(json_object_get(one, from));
        json_object_set_new(one, to, json_string(clock_format(text, sizeof text, ms)));
        json_object_del(one, from);
    }
}

static void on_hooks(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct request *r = arg;
    struct err err = *why;
    json_t *o = NULL;
    if (rc == 0)
        rc = queue_read_object(bytes, len, &o, &err);
    if (rc < 0) {
        reply_error(r, &err);
        return;
    }
    json_t *log = json_object_get(o, "log"), *waiting = json_object_get(o, "waiting");
    show_times(log, "time_ms", "time");
    show_times(waiting, "due_ms", "due_at");
    reply_json(r, 200, json_pack("{s:s, s:s, s:O, s:O}", "object", "webhooks", "job", r->param[0], "log", log, "waiting",
                                 waiting));
    json_decref(o);
}

void api_hooks_list(struct request *r)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    const char *id = api_jobs_id(r);
    if (id)
        backend_ask(r, queue_cmd_hooks(&c, &r->app->queue, id, &err), &c, &err, on_hooks);
}
