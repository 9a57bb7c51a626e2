/* tenants.c -- pushing: commands go in batches, the next when the last one's replies are in; any failure, and any news,
 * starts again from the first tenant. Every command may be sent twice. */
#include "dispatcher/tenants.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/str.h"
#include "dispatcher/backend.h"

enum {
    LOOK_MS = 1000,
    BATCH = 64,
    GONE_MAX = 1024, /* removed tenants that are remembered: their limits were taken back when they left */
};

/* What tells two versions of a file apart. */
struct stamp {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec mtime;
};

struct tenants {
    struct app *app;
    struct keys *keys; /* owned; NULL: none are needed */
    struct stamp seen;
    bool missing; /* told once */
    uv_timer_t look;
    uv_signal_t hup;
    int n_handles;      /* not closed yet */
    char (*gone)[KEYS_NAME]; /* owned: tenants that left the file */
    size_t n_gone;
    size_t next; /* to be pushed: tenants of the file, then those that left it */
    unsigned n_pending;
    bool compared;      /* with the tenants that Redis knows */
    bool dirty, failed; /* push from the first one; a reply of this round was an error */
    uint64_t n_lost;    /* backend_n_lost at the last push */
};

/* ---- the file ---- */

static struct stamp stamp_of(const struct stat *st)
{
    return (struct stamp){.dev = st->st_dev, .ino = st->st_ino, .size = st->st_size, .mtime = st->st_mtim};
}

static bool stamp_same(const struct stamp *a, const struct stamp *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->mtime.tv_sec == b->mtime.tv_sec &&
           a->mtime.tv_nsec == b->mtime.tv_nsec;
}

static int read_all(int fd, struct buf *b)
{
    char chunk[16384];
    ssize_t n;
    int rc = 0;
    while (rc == 0 && (n = read(fd, chunk, sizeof chunk)) != 0) {
        if (n < 0)
            return ERR_IO;
        rc = buf_add(b, chunk, (size_t)n);
    }
    return rc;
}

/* The stamp is of the very file that is read. */
static int load_file(const char *path, struct keys **ret, struct stamp *ret_stamp, struct err *err)
{
    struct stat st = {0};
    struct buf b;
    int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    buf_init(&b, KEYS_FILE_MAX);
    if (fd >= 0 && fstat(fd, &st) == 0)
        *ret_stamp = stamp_of(&st);
    if (fd < 0)
        rc = err_set(err, ERR_INVALID, "keys: %s cannot be read: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = err_set(err, ERR_INVALID, "keys: %s is no file", path);
    else if ((rc = read_all(fd, &b)) < 0)
        err_set(err, rc, "keys: %s: %s", path, err_text(rc));
    else if ((rc = keys_parse(b.data ? b.data : "", b.len, ret, err)) < 0)
        err_wrap(err, "keys: %s", path);
    else if (st.st_mode & (S_IROTH | S_IWOTH))
        LOG(WARN, "everybody on this machine can reach the keys file; chmod 640 it", log_str("file", path));
    if (fd >= 0)
        close(fd);
    buf_done(&b);
    return rc;
}

static int load(const struct app *app, struct keys **ret, struct stamp *ret_stamp, struct err *err)
{
    struct keys *k = NULL;
    int rc = *app->conf.keys ? load_file(app->conf.keys, &k, ret_stamp, err) : 0;
    if (rc == 0 && *app->conf.api_key)
        rc = keys_add_plain(&k, app->conf.api_key, err);
    if (rc < 0)
        keys_free(k);
    else
        *ret = k;
    return rc;
}

/* ---- limits to Redis ---- */

static void push_more(struct tenants *t);

/* A tenant that the file does not have (any more): its limits are taken back at the next push. */
static void remember_gone(struct tenants *t, const char *name)
{
    void *more = NULL;
    for (size_t i = 0; i < t->n_gone; i++) {
        if (strcmp(t->gone[i], name) == 0)
            return;
    }
    if (t->n_gone < GONE_MAX && !keys_tenant(t->keys, name))
        more = mem_realloc(t->gone, (t->n_gone + 1) * KEYS_NAME);
    if (!more)
        return;
    t->gone = more;
    str_copy(t->gone[t->n_gone++], KEYS_NAME, name);
    t->dirty = true;
}

/* Has Redis limits for it? */
static bool limited(const json_t *o)
{
    static const char *const names[] = {"max_running", "max_queued", "gpu_s_day", "rate", "burst"};
    double weight = json_number_value(json_object_get(o, "weight"));
    bool some = weight > 0 && (weight < 1 || weight > 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        some |= json_number_value(json_object_get(o, names[i])) > 0;
    return some;
}

/* At the start: tenants that were taken out of the file while nobody looked. */
static void on_listed(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct tenants *t = arg;
    struct err err = *why;
    json_t *o = NULL, *one;
    size_t i;
    if (rc == 0)
        rc = queue_read_object(bytes, len, &o, &err);
    t->compared = rc == 0;
    t->dirty |= rc < 0;
    json_array_foreach(json_object_get(o, "list"), i, one) {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && *name && queue_tenant_ok(name) && limited(one))
            remember_gone(t, name);
    }
    json_decref(o);
    tenants_push(t);
}

static void compare(struct tenants *t)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    if (queue_cmd_tenants(&c, &t->app->queue, &err) == 0)
        backend_send(t->app->backend, &c, on_listed, t);
    queue_cmd_done(&c);
}

static void on_pushed(void *arg, int rc, const void *bytes, size_t len, const struct err *why)
{
    struct tenants *t = arg;
    struct err err = *why;
    if (rc == 0)
        rc = queue_read_ok(bytes, len, &err);
    if (rc < 0 && !t->failed && rc != ERR_REDIS)
        LOG(WARN, "limits of tenants were not taken; trying again", log_code(rc), log_str("why", err.text));
    t->failed |= rc < 0;
    if (--t->n_pending == 0)
        push_more(t);
}

static void push_one(struct tenants *t, const struct queue_tenant *q)
{
    struct queue_cmd c = {0};
    struct err err = {0};
    t->n_pending++;
    int rc = queue_cmd_tenant(&c, &t->app->queue, q, &err);
    if (rc == 0)
        backend_send(t->app->backend, &c, on_pushed, t);
    else
        on_pushed(t, rc, NULL, 0, &err);
}

static struct queue_tenant limits_at(const struct tenants *t, size_t i, size_t n_tenants)
{
    if (i >= n_tenants)
        return (struct queue_tenant){.name = t->gone[i - n_tenants], .weight = 1};
    const struct keys_tenant *k = &t->keys->tenant[i];
    return (struct queue_tenant){.name = k->name, .weight = k->weight, .max_running = k->max_running,
                                 .max_queued = k->max_queued, .gpu_s_day = k->gpu_s_day,
                                 .rate_per_min = k->rate_per_min, .burst = k->burst};
}

static void push_more(struct tenants *t)
{
    size_t n_tenants = t->keys ? t->keys->n_tenants : 0, n = n_tenants + t->n_gone;
    if (t->failed || t->dirty)
        return; /* the timer begins again */
    if (t->next >= n) {
        if (!t->compared && *t->app->conf.keys)
            compare(t);
        return;
    }
    t->n_pending++; /* answers that come at once do not end the batch */
    for (int i = 0; i < BATCH && t->next < n; i++) {
        struct queue_tenant q = limits_at(t, t->next++, n_tenants);
        push_one(t, &q);
    }
    t->n_pending--;
}

void tenants_push(struct tenants *t)
{
    t->dirty |= t->failed || backend_n_lost(t->app->backend) != t->n_lost;
    if (!t->dirty || t->n_pending || !backend_ready(t->app->backend))
        return;
    t->n_lost = backend_n_lost(t->app->backend);
    t->dirty = t->failed = false;
    t->next = 0;
    push_more(t);
}

/* ---- watching ---- */

static void forget_returned(struct tenants *t)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n_gone; i++) { /* those that came back have limits of their own */
        if (!keys_tenant(t->keys, t->gone[i]))
            memmove(t->gone[n++], t->gone[i], KEYS_NAME);
    }
    t->n_gone = n;
}

static void reload(struct tenants *t)
{
    struct keys *k = NULL, *old = t->keys;
    struct err err = {0};
    if (load(t->app, &k, &t->seen, &err) < 0) {
        LOG(ERROR, "the keys file is not good; the keys from before stay in force", log_code(err.code),
            log_str("why", err.text));
        return;
    }
    keys_carry(k, old);
    t->keys = k;
    forget_returned(t);
    for (size_t i = 0; old && i < old->n_tenants; i++)
        remember_gone(t, old->tenant[i].name);
    keys_free(old);
    LOG(INFO, "keys loaded", log_str("file", t->app->conf.keys), log_int("tenants", (int64_t)k->n_tenants),
        log_int("keys", (int64_t)k->n_keys));
    t->dirty = true;
    tenants_push(t);
}

static void on_look(uv_timer_t *timer)
{
    struct tenants *t = timer->data;
    const char *path = t->app->conf.keys;
    struct stat st;
    if (*path && stat(path, &st) < 0) {
        if (!t->missing)
            LOG(ERROR, "the keys file is gone; its keys stay in force", log_str("file", path),
                log_str("why", strerror(errno)));
        t->missing = true;
    } else if (*path) {
        struct stamp now = stamp_of(&st);
        t->missing = false;
        if (!stamp_same(&now, &t->seen)) {
            t->seen = now;
            reload(t);
        }
    }
    tenants_push(t);
}

static void on_hup(uv_signal_t *h, int number)
{
    (void)number;
    reload(h->data);
}

/* ---- life ---- */

int tenants_new(struct app *app, struct tenants **ret, struct err *err)
{
    struct tenants *t = mem_zalloc(sizeof *t);
    if (!t)
        return err_set(err, ERR_NOMEM, "out of memory");
    t->app = app;
    t->dirty = true;
    int rc = load(app, &t->keys, &t->seen, err);
    if (rc < 0) {
        mem_free(t);
        return rc;
    }
    uv_timer_init(app->loop, &t->look);
    uv_signal_init(app->loop, &t->hup);
    t->look.data = t->hup.data = t;
    t->n_handles = 2;
    if (*app->conf.keys) { /* otherwise a closed terminal ends the program, as everywhere */
        uv_timer_start(&t->look, on_look, LOOK_MS, LOOK_MS);
        uv_signal_start(&t->hup, on_hup, SIGHUP);
    }
    *ret = t;
    return 0;
}

static void on_closed(uv_handle_t *h)
{
    struct tenants *t = h->data;
    if (--t->n_handles == 0)
        mem_free(t);
}

void tenants_free(struct tenants *t)
{
    if (!t)
        return;
    keys_free(t->keys);
    mem_free(t->gone);
    t->keys = NULL;
    uv_close((uv_handle_t *)&t->look, on_closed);
    uv_close((uv_handle_t *)&t->hup, on_closed);
}

bool tenants_need_key(const struct tenants *t)
{
    return t->keys != NULL;
}

struct keys_key *tenants_find(const struct tenants *t, const char *shown)
{
    return keys_find(t->keys, shown);
}

const struct keys_tenant *tenants_get(const struct tenants *t, const char *name)
{
    return keys_tenant(t->keys, name);
}
