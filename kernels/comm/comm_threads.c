/* comm_threads.c -- ranks are threads of one process: a mailbox for each pair, one lock. The reader copies out of the
 * writer's buffer; the writer waits until it has. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"
#include "kernels/comm/comm.h"

struct mail {
    const void *data;
    size_t bytes;
    bool full, busy; /* busy: is being copied, outside the lock */
};

struct hub {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int size, open;
    bool left[COMM_MAX];
    struct err why; /* of the first abort */
    struct mail *mail; /* [from][to] */
};

struct threads {
    struct comm comm;
    struct hub *hub;
};

static struct mail *mail_of(struct hub *h, int from, int to)
{
    return &h->mail[from * h->size + to];
}

static void post(struct hub *h, const struct comm_set *s, int rank, const struct comm_piece *out)
{
    for (int i = 0; i < s->n; i++)
        if (i != s->me && out[i].bytes)
            *mail_of(h, rank, s->rank[i]) = (struct mail){.data = out[i].data, .bytes = out[i].bytes, .full = true};
    pthread_cond_broadcast(&h->changed);
}

/* Called and left with the lock held. */
static int take(struct hub *h, struct mail *m, const struct comm_piece *in, int from, struct err *err)
{
    if (m->bytes != in->bytes)
        return err_set(err, ERR_SHAPE, "rank %d sends %zu bytes, %zu are wanted", from, m->bytes, in->bytes);
    m->busy = true;
    pthread_mutex_unlock(&h->lock);
    memcpy(in->data, m->data, m->bytes);
    pthread_mutex_lock(&h->lock);
    m->busy = m->full = false;
    pthread_cond_broadcast(&h->changed);
    return 0;
}

/* Takes what is there; pending counts what is not, who is one that is waited for. Returns how many it took: while it did, with
 * the lock let go, more may have come. */
static int take_all(struct hub *h, const struct comm_set *s, int rank, const struct comm_piece *in, bool *done, int *pending,
                    int *who, struct err *err)
{
    int rc = 0, taken = 0;
    *pending = 0;
    for (int i = 0; i < s->n && rc == 0; i++) {
        struct mail *m = mail_of(h, s->rank[i], rank);
        if (i == s->me || done[i] || in[i].bytes == 0)
            continue;
        if (m->full) {
            rc = take(h, m, &in[i], s->rank[i], err);
            done[i] = true;
            taken++;
        } else {
            ++*pending;
            *who = s->rank[i];
        }
    }
    for (int i = 0; i < s->n && rc == 0; i++)
        if (i != s->me && mail_of(h, rank, s->rank[i])->full) {
            ++*pending;
            *who = s->rank[i];
        }
    return rc < 0 ? rc : taken;
}

/* One that is waited for and has left will never come. */
static bool is_gone(struct hub *h, const struct comm_set *s, int rank, const struct comm_piece *in, const bool *done, int *who)
{
    for (int i = 0; i < s->n; i++) {
        const int p = s->rank[i];
        if (i == s->me || !h->left[p])
            continue;
        *who = p;
        if ((!done[i] && in[i].bytes && !mail_of(h, p, rank)->full) || mail_of(h, rank, p)->full)
            return true;
    }
    return false;
}

static int wait_change(struct hub *h, int64_t until, int who, struct err *err)
{
    const struct timespec at = {.tv_sec = until / CLOCK_S, .tv_nsec = until % CLOCK_S * 1000};
    if (pthread_cond_clockwait(&h->changed, &h->lock, CLOCK_MONOTONIC, &at) == ETIMEDOUT && clock_us() >= until)
        return err_set(err, ERR_TIMEOUT, "rank %d did not come before the deadline", who);
    return 0;
}

/* Nobody reads from our buffers after this. */
static void withdraw(struct hub *h, const struct comm_set *s, int rank)
{
    for (int i = 0; i < s->n; i++) {
        struct mail *m = mail_of(h, rank, s->rank[i]);
        while (m->busy)
            pthread_cond_wait(&h->changed, &h->lock);
        m->full = false;
    }
}

static int threads_exchange(struct comm *c, const struct comm_set *s, const struct comm_piece *out,
                            const struct comm_piece *in, struct err *err)
{
    struct hub *h = ((struct threads *)c)->hub;
    const int64_t until = clock_us() + c->deadline_us;
    bool done[COMM_MAX] = {false};
    int rc = 0, pending = 1, who = c->rank;
    pthread_mutex_lock(&h->lock);
    if (!h->why.code)
        post(h, s, c->rank, out);
    while (pending && rc >= 0) {
        if (h->why.code)
            rc = err_set(err, h->why.code, "%s", h->why.text);
        else
            rc = take_all(h, s, c->rank, in, done, &pending, &who, err);
        if (rc == 0 && pending && is_gone(h, s, c->rank, in, done, &who))
            rc = err_set(err, ERR_IO, "rank %d is gone", who);
        if (rc == 0 && pending)
            rc = wait_change(h, until, who, err);
    }
    if (rc < 0)
        withdraw(h, s, c->rank);
    pthread_mutex_unlock(&h->lock);
    return rc < 0 ? rc : 0;
}

static int threads_check(struct comm *c, struct err *err)
{
    struct hub *h = ((struct threads *)c)->hub;
    int rc = 0;
    pthread_mutex_lock(&h->lock);
    if (h->why.code)
        rc = err_set(err, h->why.code, "%s", h->why.text);
    for (int i = 0; i < h->size && rc == 0; i++)
        if (h->left[i])
            rc = err_set(err, ERR_IO, "rank %d is gone", i);
    pthread_mutex_unlock(&h->lock);
    return rc;
}

static void threads_abort(struct comm *c, int code, const char *why)
{
    struct hub *h = ((struct threads *)c)->hub;
    pthread_mutex_lock(&h->lock);
    if (!h->why.code)
        err_set(&h->why, code, "rank %d: %s", c->rank, why);
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
}

static void hub_free(struct hub *h)
{
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->lock);
    mem_free(h->mail);
    mem_free(h);
}

static void threads_close(struct comm *c)
{
    struct hub *h = ((struct threads *)c)->hub;
    pthread_mutex_lock(&h->lock);
    h->left[c->rank] = true;
    const bool last = --h->open == 0;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    mem_free(c);
    if (last)
        hub_free(h);
}

static const struct comm_carrier threads_carrier = {
    .name = "threads", .exchange = threads_exchange, .check = threads_check, .abort = threads_abort, .close = threads_close};

int comm_threads_open(struct comm **ret, int size, int64_t deadline_us, struct err *err)
{
    if (size < 1 || size > COMM_MAX)
        return err_set(err, ERR_INVALID, "%d ranks: 1 to %d are possible", size, COMM_MAX);
    struct hub *h = mem_zalloc(sizeof(*h));
    struct mail *mail = mem_calloc((size_t)size * (size_t)size, sizeof(*mail));
    struct threads *end[COMM_MAX] = {NULL};
    bool ok = h && mail;
    for (int i = 0; i < size && ok; i++)
        ok = (end[i] = mem_zalloc(sizeof(**end))) != NULL;
    if (!ok) {
        for (int i = 0; i < size; i++)
            mem_free(end[i]);
        mem_free(mail);
        mem_free(h);
        return err_set(err, ERR_NOMEM, "no memory for %d ranks", size);
    }
    *h = (struct hub){.size = size, .open = size, .mail = mail};
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->changed, NULL);
    for (int i = 0; i < size; i++) {
        *end[i] = (struct threads){{&threads_carrier, i, size, deadline_us}, h};
        ret[i] = &end[i]->comm;
    }
    return 0;
}
