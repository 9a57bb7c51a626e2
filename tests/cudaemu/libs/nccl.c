/* nccl.c -- NCCL's contract as kernels/cuda/comm_nccl.c uses it, between threads of one process, each with an emulated
 * device of its own. From NCCL's user guide (2.28):
 *
 * - communicators do not block: init, group end and finalize return ncclInProgress (sends and receives may, and do so
 *   here); ncclCommGetAsyncError says when they are over. Until then nothing else may be called on the communicator but
 *   that and ncclCommAbort;
 * - init is over when all ranks have called it; two on one device are refused;
 * - sends and receives of a pair are matched in order; those of a group go on at the same time. They are the stream's:
 *   what it has before is done before, what follows waits;
 * - abort ends what waits, at this rank alone: others go on waiting until they abort too;
 * - finalize is over when all ranks have called it.
 *
 * Stricter than NCCL: lengths that differ, a call out of turn and host memory end the program with a sentence.
 *
 * CUDAEMU_NCCL=WHAT:DEVICE[:N],... makes things go wrong at the rank on that device, read when a group is formed: absent (no
 * NCCL), refuse (init fails), late (init never ends), error (ncclRemoteError at exchange N, from 1, which then never ends),
 * stuck (exchange N never ends, and nothing is said).
 */
#include <nccl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"

enum { RANKS_MAX = 64, GROUP_MAX = 2 * RANKS_MAX };

/* One send or receive. */
struct piece {
    struct piece *next; /* in its pair's queue */
    void *data;
    size_t bytes;
    int peer;
    bool is_send, busy, done;
};

/* One group of them. */
struct work {
    struct work *next;
    cudaStream_t stream;
    struct piece piece[GROUP_MAX];
    int n, number;
    bool held;        /* the stream waits for it from here on */
    bool ready, over; /* ready: what the stream has before it is done. The later of both frees it */
};

struct clique {
    struct clique *next;
    int id, n, came, finalized, left;
    struct ncclComm *rank[RANKS_MAX];
    struct piece *sends[RANKS_MAX][RANKS_MAX]; /* [from][to], first in front */
};

struct ncclComm {
    struct clique *clique;
    int rank, device, n_works;
    ncclResult_t state;
    bool aborted, finalizes, ending;
    struct work *works; /* first in front */
    pthread_t thread;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all below */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct clique *cliques;
static int last_id;

static _Thread_local struct work *group; /* what this thread has given since GroupStart */
static _Thread_local struct ncclComm *group_comm;
static _Thread_local int depth;

__attribute__((noreturn)) static void die(const struct ncclComm *c, const char *what)
{
    fprintf(stderr, "cudaemu: NCCL, rank %d: %s\n", c ? c->rank : -1, what);
    abort();
}

/* The number of a fault of this device; 0: it has none. */
static int fault(const char *what, int device)
{
    const char *at = getenv("CUDAEMU_NCCL");
    char name[16];
    for (int d, n, used; at && *at; at += strcspn(at, ","), at += *at == ',') {
        n = 1;
        used = sscanf(at, "%15[a-z]:%d:%d", name, &d, &n);
        if (used >= 2 && d == device && strcmp(name, what) == 0)
            return n;
    }
    return 0;
}

static int device_here(void)
{
    int device = 0;
    cudaGetDevice(&device);
    return device;
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = fault("absent", device_here()) ? 0 : 22809;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const text[] = {"no error",
                                       "unhandled cuda error",
                                       "unhandled system error",
                                       "internal error",
                                       "invalid argument",
                                       "invalid usage",
                                       "remote process exited or there was a network error",
                                       "NCCL operation in progress"};
    return (unsigned)result < sizeof(text) / sizeof(*text) ? text[result] : "unknown result code";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    pthread_mutex_lock(&lock);
    memset(id, 0, sizeof(*id));
    snprintf(id->internal, sizeof(id->internal), "%d", ++last_id);
    pthread_mutex_unlock(&lock);
    return ncclSuccess;
}

/* ---- exchanges: a thread of each communicator does them, one after the other ---- */

static struct piece **front_of(const struct ncclComm *c, int from, int to)
{
    return &c->clique->sends[from][to];
}

static void post(const struct ncclComm *c, struct work *w)
{
    for (int i = 0; i < w->n; i++) {
        struct piece **at = front_of(c, c->rank, w->piece[i].peer);
        if (!w->piece[i].is_send)
            continue;
        while (*at)
            at = &(*at)->next;
        *at = &w->piece[i];
    }
    pthread_cond_broadcast(&changed);
}

/* Nobody reads from this rank's memory after this. */
static void withdraw(const struct ncclComm *c, struct work *w)
{
    for (int i = 0; i < w->n; i++) {
        struct piece *p = &w->piece[i];
        while (p->busy)
            pthread_cond_wait(&changed, &lock);
        for (struct piece **at = front_of(c, c->rank, p->peer); p->is_send && *at; at = &(*at)->next)
            if (*at == p) {
                *at = p->next;
                break;
            }
    }
}

/* The lock is let go while bytes move. */
static void take(const struct ncclComm *c, struct piece *in)
{
    struct piece *out = *front_of(c, in->peer, c->rank);
    if (out->bytes != in->bytes)
        die(c, "a receive of another length than its send");
    out->busy = true;
    pthread_mutex_unlock(&lock);
    if (cudaMemcpy(in->data, out->data, in->bytes, cudaMemcpyDeviceToDevice) != cudaSuccess)
        die(c, "a send or a receive of memory that is no device's");
    pthread_mutex_lock(&lock);
    *front_of(c, in->peer, c->rank) = out->next;
    in->done = out->done = true;
    out->busy = false;
    pthread_cond_broadcast(&changed);
}

/* One receive that can be done is; false: none can. */
static bool take_one(const struct ncclComm *c, struct work *w)
{
    for (int i = 0; i < w->n; i++)
        if (!w->piece[i].is_send && !w->piece[i].done && *front_of(c, w->piece[i].peer, c->rank)) {
            take(c, &w->piece[i]);
            return true;
        }
    return false;
}

static bool is_done(const struct work *w)
{
    for (int i = 0; i < w->n; i++)
        if (!w->piece[i].done)
            return false;
    return true;
}

static void perform(struct ncclComm *c, struct work *w)
{
    const bool stuck = fault("stuck", c->device) == w->number, breaks = fault("error", c->device) == w->number;
    if (breaks)
        c->state = ncclRemoteError;
    if (!stuck && !breaks)
        post(c, w);
    while (!c->aborted && (stuck || breaks || !is_done(w)))
        if (stuck || breaks || !take_one(c, w))
            pthread_cond_wait(&changed, &lock);
    withdraw(c, w);
}

static void get_ready(void *arg)
{
    struct work *w = *(struct work **)arg;
    pthread_mutex_lock(&lock);
    w->ready = true;
    pthread_cond_broadcast(&changed);
    if (w->over)
        mem_free(w);
    pthread_mutex_unlock(&lock);
}

static void *serve(void *arg)
{
    struct ncclComm *c = arg;
    pthread_mutex_lock(&lock);
    while (!c->ending || c->works) {
        struct work *w = c->works;
        if (!w || !w->held || (!w->ready && !c->aborted)) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        perform(c, w);
        pthread_mutex_unlock(&lock);
        cudaemu_release(w->stream);
        pthread_mutex_lock(&lock);
        c->works = w->next;
        w->over = true;
        if (w->ready)
            mem_free(w);
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* ---- communicators ---- */

static struct clique *clique_of(int id, int n)
{
    for (struct clique *q = cliques; q; q = q->next)
        if (q->id == id)
            return q;
    struct clique *q = mem_zalloc(sizeof(*q));
    if (!q)
        abort();
    *q = (struct clique){.next = cliques, .id = id, .n = n};
    return cliques = q;
}

static void come(struct clique *q, struct ncclComm *c)
{
    ncclResult_t now = ncclInProgress;
    for (int i = 0; i < q->n; i++)
        if (q->rank[i] && q->rank[i]->device == c->device)
            now = ncclInvalidUsage;
    q->rank[c->rank] = c;
    if (fault("refuse", c->device))
        c->state = ncclSystemError;
    else if (!fault("late", c->device))
        q->came++;
    if (now == ncclInProgress && q->came == q->n)
        now = ncclSuccess;
    for (int i = 0; i < q->n && now != ncclInProgress; i++)
        if (q->rank[i])
            q->rank[i]->state = now;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *ret, int n, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    struct ncclComm *c = mem_zalloc(sizeof(*c));
    if (!c || config->magic != 0xcafebeef || config->blocking != 0 || n < 1 || n > RANKS_MAX || rank < 0 || rank >= n)
        die(NULL, "init wants a rank of the group and a communicator that does not block");
    pthread_mutex_lock(&lock);
    *c = (struct ncclComm){
        .clique = clique_of(atoi(id.internal), n), .rank = rank, .device = device_here(), .state = ncclInProgress};
    if (pthread_create(&c->thread, NULL, serve, c) != 0)
        abort();
    come(c->clique, c);
    *ret = c;
    pthread_mutex_unlock(&lock);
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *error)
{
    pthread_mutex_lock(&lock);
    *error = c->state;
    if (c->state == ncclInProgress && c->n_works && !c->finalizes)
        c->state = ncclSuccess; /* the next time it is over: what was given lies on the stream */
    pthread_mutex_unlock(&lock);
    return ncclSuccess;
}

/* With the lock, which is not held on return. */
static void end(struct ncclComm *c)
{
    struct clique *q = c->clique, **at = &cliques;
    c->ending = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    pthread_join(c->thread, NULL);
    pthread_mutex_lock(&lock);
    q->rank[c->rank] = NULL;
    if (++q->left == q->n) {
        while (*at != q)
            at = &(*at)->next;
        *at = q->next;
        mem_free(q);
    }
    pthread_mutex_unlock(&lock);
    mem_free(c);
}

ncclResult_t ncclCommAbort(ncclComm_t c)
{
    pthread_mutex_lock(&lock);
    c->aborted = true;
    end(c);
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    pthread_mutex_lock(&lock);
    if (c->state == ncclInProgress || c->finalizes)
        die(c, "finalize while a call is in progress");
    struct clique *q = c->clique;
    while (c->works && !c->aborted)
        pthread_cond_wait(&changed, &lock);
    c->finalizes = true;
    c->state = ncclInProgress;
    const bool all = ++q->finalized == q->n;
    for (int i = 0; i < q->n && all; i++)
        if (q->rank[i])
            q->rank[i]->state = ncclSuccess;
    pthread_mutex_unlock(&lock);
    return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    pthread_mutex_lock(&lock);
    if (!c->finalizes || c->state != ncclSuccess)
        die(c, "destroy before finalize is over");
    end(c);
    return ncclSuccess;
}

/* ---- groups ---- */

ncclResult_t ncclGroupStart(void)
{
    depth++;
    return ncclSuccess;
}

static ncclResult_t give(void *data, size_t bytes, int peer, struct ncclComm *c, cudaStream_t stream, bool is_send)
{
    if (depth == 0 || (group_comm && group_comm != c))
        die(c, "sends and receives stand in a group, of one communicator");
    group_comm = c;
    if (!group && !(group = mem_zalloc(sizeof(*group))))
        abort();
    if (group->n == GROUP_MAX || peer == c->rank || peer < 0 || peer >= c->clique->n)
        die(c, "a send or receive of a rank that is none of the others");
    group->stream = stream;
    group->piece[group->n++] = (struct piece){.data = data, .bytes = bytes, .peer = peer, .is_send = is_send};
    return ncclInProgress;
}

ncclResult_t ncclSend(const void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    (void)type;
    return give((void *)(uintptr_t)data, count, peer, comm, stream, true);
}

ncclResult_t ncclRecv(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    (void)type;
    return give(data, count, peer, comm, stream, false);
}

ncclResult_t ncclGroupEnd(void)
{
    struct ncclComm *c = group_comm;
    struct work *w = group, **at;
    if (--depth > 0 || !c)
        return ncclSuccess;
    group = NULL;
    group_comm = NULL;
    pthread_mutex_lock(&lock);
    if (c->state == ncclInProgress)
        die(c, "a group while a call is in progress");
    if (c->state != ncclSuccess) {
        const ncclResult_t now = c->state;
        pthread_mutex_unlock(&lock);
        mem_free(w);
        return now;
    }
    w->number = ++c->n_works;
    c->state = ncclInProgress;
    for (at = &c->works; *at;)
        at = &(*at)->next;
    *at = w;
    pthread_mutex_unlock(&lock);
    cudaemu_enqueue(w->stream, get_ready, &w, sizeof(struct work *));
    cudaemu_hold(w->stream);
    pthread_mutex_lock(&lock);
    w->held = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return ncclInProgress;
}
