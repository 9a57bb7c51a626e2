#include "kernels/cuda/comm_nccl.h"

#include <nccl.h>
#include <pthread.h>

#include "common/clock.h"
#include "common/mem.h"

#define LOOK_US (100 * CLOCK_MS)
#define POLL_US 50

struct nccl {
    struct comm comm;
    struct comm *control; /* borrowed */
    cudaStream_t stream;
    ncclComm_t nccl;      /* NULL once aborted */
    pthread_t watcher;
    pthread_mutex_t lock; /* of nccl, why and ending */
    struct err why;       /* the first failure */
    bool ending;
};

/* With the lock. */
static int give_up(struct nccl *k, int code, const char *why)
{
    err_set(&k->why, code, "%s", why);
    if (k->nccl)
        ncclCommAbort(k->nccl);
    k->nccl = NULL;
    return k->why.code;
}

/* What NCCL is at, while calls do not block. With the lock. */
static ncclResult_t state_of(const struct nccl *k)
{
    ncclResult_t now = ncclSystemError;
    return k->nccl && ncclCommGetAsyncError(k->nccl, &now) != ncclSuccess ? ncclSystemError : now;
}

/* Until NCCL has taken what it was given. With the lock, which is let go in between. */
static int settle(struct nccl *k, ncclResult_t said, int64_t deadline_us, struct err *err)
{
    const int64_t until = clock_us() + deadline_us;
    while (!k->why.code && (said == ncclSuccess || said == ncclInProgress)) {
        if (said == ncclSuccess && state_of(k) == ncclSuccess)
            return 0;
        pthread_mutex_unlock(&k->lock);
        clock_sleep_us(POLL_US);
        pthread_mutex_lock(&k->lock);
        if (!k->why.code && clock_us() > until)
            give_up(k, ERR_TIMEOUT, "NCCL did not go on before the deadline");
        said = k->why.code ? said : state_of(k);
    }
    if (!k->why.code)
        give_up(k, ERR_DEVICE, ncclGetErrorString(said));
    return err_set(err, k->why.code, "%s", k->why.text);
}

static void *watch(void *arg)
{
    struct nccl *k = arg;
    bool ending = false;
    while (!ending) {
        struct err err = {0};
        clock_sleep_us(LOOK_US);
        const int rc = k->control->carrier->check(k->control, &err);
        pthread_mutex_lock(&k->lock);
        const ncclResult_t now = k->nccl ? state_of(k) : ncclSuccess;
        ending = k->ending || k->why.code;
        if (!ending && rc < 0)
            give_up(k, rc, err.text);
        else if (!ending && now != ncclSuccess && now != ncclInProgress)
            give_up(k, ERR_DEVICE, ncclGetErrorString(now));
        pthread_mutex_unlock(&k->lock);
    }
    return NULL;
}

/* All of an exchange as one group: NCCL orders it without deadlock. With the lock. */
static ncclResult_t enqueue(struct nccl *k, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in)
{
    ncclResult_t bad = ncclGroupStart();
    for (int i = 0; i < s->n; i++) {
        if (i == s->me)
            continue;
        if (out[i].bytes && bad == ncclSuccess)
            bad = ncclSend(out[i].data, out[i].bytes, ncclUint8, s->rank[i], k->nccl, k->stream);
        if (in[i].bytes && bad == ncclSuccess)
            bad = ncclRecv(in[i].data, in[i].bytes, ncclUint8, s->rank[i], k->nccl, k->stream);
    }
    const ncclResult_t end = ncclGroupEnd();
    return bad == ncclSuccess || bad == ncclInProgress ? end : bad;
}

static int nccl_exchange(struct comm *c, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in,
                         struct err *err)
{
    struct nccl *k = (struct nccl *)c;
    int rc;
    if (out[s->me].bytes && cudaMemcpyAsync(in[s->me].data, out[s->me].data, out[s->me].bytes, cudaMemcpyDeviceToDevice,
                                            k->stream) != cudaSuccess)
        return err_set(err, ERR_DEVICE, "a copy on the device could not be started");
    pthread_mutex_lock(&k->lock);
    if (k->why.code)
        rc = err_set(err, k->why.code, "%s", k->why.text);
    else
        rc = settle(k, enqueue(k, s, out, in), c->deadline_us, err);
    pthread_mutex_unlock(&k->lock);
    return rc;
}

static int nccl_agree(struct comm *c, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in,
                      struct err *err)
{
    struct comm *control = ((struct nccl *)c)->control;
    return control->carrier->exchange(control, s, out, in, err);
}

static int nccl_check(struct comm *c, struct err *err)
{
    struct nccl *k = (struct nccl *)c;
    pthread_mutex_lock(&k->lock);
    const int rc = k->why.code ? err_set(err, k->why.code, "%s", k->why.text) : 0;
    pthread_mutex_unlock(&k->lock);
    return rc;
}

static void nccl_abort(struct comm *c, int code, const char *why)
{
    struct nccl *k = (struct nccl *)c;
    comm_abort(k->control, code, why);
    pthread_mutex_lock(&k->lock);
    give_up(k, code, why);
    pthread_mutex_unlock(&k->lock);
}

static void nccl_close(struct comm *c)
{
    struct nccl *k = (struct nccl *)c;
    pthread_mutex_lock(&k->lock);
    k->ending = true;
    pthread_mutex_unlock(&k->lock);
    pthread_join(k->watcher, NULL);
    if (k->nccl) { /* all that was enqueued is done when the last result was read; the end of the others is not waited for */
        cudaStreamSynchronize(k->stream);
        ncclCommAbort(k->nccl);
    }
    pthread_mutex_destroy(&k->lock);
    mem_free(k);
}

static const struct comm_carrier nccl_carrier = {.name = "nccl",
                                                 .on_device = true,
                                                 .exchange = nccl_exchange,
                                                 .agree = nccl_agree,
                                                 .check = nccl_check,
                                                 .abort = nccl_abort,
                                                 .close = nccl_close};

int comm_nccl_open(struct comm **ret, struct comm *control, cudaStream_t stream, int64_t deadline_us, struct err *err)
{
    ncclUniqueId id = {{0}};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    struct nccl *k = mem_zalloc(sizeof(*k));
    if (!k)
        return err_set(err, ERR_NOMEM, "no memory for NCCL's connections");
    k->comm = (struct comm){&nccl_carrier, control->rank, control->size, deadline_us};
    k->control = control;
    k->stream = stream;
    config.blocking = 0;
    pthread_mutex_init(&k->lock, NULL);
    int rc = control->rank == 0 && ncclGetUniqueId(&id) != ncclSuccess ? err_set(err, ERR_DEVICE, "NCCL cannot start") : 0;
    if (rc < 0)
        comm_abort(control, rc, err->text);
    else
        rc = comm_share(control, 0, &id, sizeof(id), err);
    ncclResult_t said = ncclSuccess;
    if (rc == 0)
        said = ncclCommInitRankConfig(&k->nccl, control->size, id, control->rank, &config);
    if (rc == 0 && pthread_create(&k->watcher, NULL, watch, k) != 0)
        rc = err_set(err, ERR_NOMEM, "no thread to watch NCCL");
    if (rc < 0) {
        if (k->nccl)
            ncclCommAbort(k->nccl);
        pthread_mutex_destroy(&k->lock);
        mem_free(k);
        return rc;
    }
    pthread_mutex_lock(&k->lock);
    rc = settle(k, said, deadline_us, err);
    pthread_mutex_unlock(&k->lock);
    if (rc < 0)
        nccl_close(&k->comm);
    else
        *ret = &k->comm;
    return rc;
}
