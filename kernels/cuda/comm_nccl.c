#include "kernels/cuda/comm_nccl.h"

#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/str.h"
#include "kernels/comm/comm.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/lib_nccl.h"
#include "kernels/device.h"

#define LOOK_US (100 * CLOCK_MS)
#define POLL_US 50
#define OPEN_US (60 * CLOCK_S)  /* for NCCL to find all ranks */
#define CLOSE_US (2 * CLOCK_S)  /* for all ranks to be done with it */
#define LEAST_VERSION 21400     /* calls that do not block */

struct nccl {
    struct comm comm;
    struct comm *control; /* borrowed */
    const struct cuda_impl *gpu;
    const struct lib_nccl *lib;
    pthread_t watcher;
    bool watched;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    ncclComm_t nccl;      /* NULL once aborted */
    struct err why;       /* the first failure */
    cudaEvent_t last;     /* on the stream, behind the last exchange */
    int64_t since;        /* when that was enqueued; 0: it is done */
    bool ending;
};

/* ---- NCCL's state ---- */

/* Whose fault: ERR_DEVICE ends the process, the others are tried again by it. */
static int code_of(ncclResult_t e)
{
    return e == ncclUnhandledCudaError || e == ncclInternalError ? ERR_DEVICE : ERR_IO;
}

/* With the lock. */
static int give_up(struct nccl *k, int code, const char *why)
{
    err_set(&k->why, code, "%s", why);
    if (k->nccl)
        k->lib->CommAbort(k->nccl);
    k->nccl = NULL;
    return k->why.code;
}

static int give_up_as(struct nccl *k, ncclResult_t e)
{
    char text[160];
    str_format(text, sizeof(text), "NCCL: %s", k->lib->GetErrorString(e));
    return give_up(k, code_of(e), text);
}

/* What NCCL is at, while calls do not block. With the lock, and before an abort. */
static ncclResult_t state_of(const struct nccl *k)
{
    ncclResult_t now = ncclSystemError;
    const ncclResult_t asked = k->lib->CommGetAsyncError(k->nccl, &now);
    return asked == ncclSuccess ? now : asked;
}

/* Until NCCL has taken what it was given. With the lock, which is let go in between. */
static int settle(struct nccl *k, ncclResult_t said, int64_t within_us, struct err *err)
{
    const int64_t until = clock_us() + within_us;
    while (!k->why.code && (said == ncclSuccess || said == ncclInProgress)) {
        said = state_of(k);
        if (said == ncclSuccess)
            return 0;
        if (said == ncclInProgress && clock_us() > until)
            give_up(k, ERR_TIMEOUT, "NCCL did not go on before the deadline");
        pthread_mutex_unlock(&k->lock);
        clock_sleep_us(POLL_US);
        pthread_mutex_lock(&k->lock);
    }
    if (!k->why.code)
        give_up_as(k, said);
    return err_set(err, k->why.code, "%s", k->why.text);
}

/* ---- the thread that watches ---- */

/* The last exchange on the stream: others may be alive and yet not come. With the lock. */
static void look_at_stream(struct nccl *k)
{
    if (!k->since)
        return;
    const cudaError_t e = cudaEventQuery(k->last);
    if (e == cudaSuccess)
        k->since = 0;
    else if (e != cudaErrorNotReady)
        give_up(k, ERR_DEVICE, cudaGetErrorString(e));
    else if (clock_us() - k->since > k->comm.deadline_us)
        give_up(k, ERR_TIMEOUT, "an exchange between GPUs was not over before the deadline");
}

static void look(struct nccl *k)
{
    struct err err = {0};
    pthread_mutex_unlock(&k->lock);
    const int rc = k->control->carrier->check(k->control, &err);
    pthread_mutex_lock(&k->lock);
    if (k->ending || k->why.code)
        return;
    const ncclResult_t now = state_of(k);
    if (rc < 0)
        give_up(k, rc, err.text);
    else if (now != ncclSuccess && now != ncclInProgress)
        give_up_as(k, now);
    else
        look_at_stream(k);
}

static void *watch(void *arg)
{
    struct nccl *k = arg;
    cuda_here(k->gpu);
    pthread_mutex_lock(&k->lock);
    while (!k->ending && !k->why.code) {
        const int64_t at = clock_us() + LOOK_US;
        const struct timespec until = {.tv_sec = at / CLOCK_S, .tv_nsec = at % CLOCK_S * 1000};
        pthread_cond_clockwait(&k->wake, &k->lock, CLOCK_MONOTONIC, &until);
        if (!k->ending)
            look(k);
    }
    pthread_mutex_unlock(&k->lock);
    return NULL;
}

/* ---- the carrier ---- */

static bool is_taken(ncclResult_t e)
{
    return e == ncclSuccess || e == ncclInProgress;
}

/* All of an exchange as one group: NCCL orders it without deadlock. With the lock. */
static ncclResult_t enqueue(struct nccl *k, const struct comm_set *s, const struct comm_piece *out,
                            const struct comm_piece *in)
{
    const struct lib_nccl *lib = k->lib;
    ncclResult_t bad = lib->GroupStart();
    for (int i = 0; i < s->n; i++) {
        if (i == s->me)
            continue;
        if (out[i].bytes && is_taken(bad))
            bad = lib->Send(out[i].data, out[i].bytes, ncclUint8, s->rank[i], k->nccl, k->gpu->compute);
        if (in[i].bytes && is_taken(bad))
            bad = lib->Recv(in[i].data, in[i].bytes, ncclUint8, s->rank[i], k->nccl, k->gpu->compute);
    }
    const ncclResult_t end = lib->GroupEnd();
    return is_taken(bad) ? end : bad;
}

/* With the lock. */
static int enqueue_all(struct nccl *k, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in,
                       struct err *err)
{
    if (k->why.code)
        return err_set(err, k->why.code, "%s", k->why.text);
    const int rc = settle(k, enqueue(k, s, out, in), k->comm.deadline_us, err);
    if (rc < 0)
        return rc;
    k->since = clock_us();
    return cudaEventRecord(k->last, k->gpu->compute) == cudaSuccess
               ? 0
               : err_set(err, ERR_DEVICE, "an exchange could not be followed on the device");
}

static int nccl_exchange(struct comm *c, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in,
                         struct err *err)
{
    struct nccl *k = (struct nccl *)c;
    cuda_here(k->gpu);
    if (out[s->me].bytes && cudaMemcpyAsync(in[s->me].data, out[s->me].data, out[s->me].bytes, cudaMemcpyDeviceToDevice,
                                            k->gpu->compute) != cudaSuccess)
        return err_set(err, ERR_DEVICE, "a copy on the device could not be started");
    pthread_mutex_lock(&k->lock);
    const int rc = enqueue_all(k, s, out, in, err);
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

static void stop_watching(struct nccl *k)
{
    pthread_mutex_lock(&k->lock);
    k->ending = true;
    pthread_cond_signal(&k->wake);
    pthread_mutex_unlock(&k->lock);
    if (k->watched)
        pthread_join(k->watcher, NULL);
}

/* NCCL's end is for all ranks together, as others may still read what this one holds; where they do not come it is aborted.
 * Watched to the end, so that the stream comes to its own. */
static void nccl_close(struct comm *c)
{
    struct nccl *k = (struct nccl *)c;
    struct err ignored = {0};
    cuda_here(k->gpu);
    cudaStreamSynchronize(k->gpu->compute);
    pthread_mutex_lock(&k->lock);
    if (k->nccl && settle(k, k->lib->CommFinalize(k->nccl), CLOSE_US, &ignored) == 0) {
        k->lib->CommDestroy(k->nccl);
        k->nccl = NULL;
        k->ending = true; /* nothing is left to look at */
    }
    pthread_mutex_unlock(&k->lock);
    stop_watching(k);
    if (k->last)
        cudaEventDestroy(k->last);
    pthread_cond_destroy(&k->wake);
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

/* ---- how they meet ---- */

/* What each rank tells the others. */
struct hello {
    int32_t code; /* 0, or it cannot, and why */
    char why[256];
    int32_t version;
    char gpu[96]; /* host and bus: two ranks on one are none of NCCL's */
    ncclUniqueId id; /* rank 0's */
};

static int make(struct nccl **ret, struct device *d, struct comm *control, int64_t deadline_us, struct err *err)
{
    const struct lib_nccl *lib = lib_nccl_load(err);
    struct nccl *k = lib ? mem_zalloc(sizeof(*k)) : NULL;
    if (!k)
        return lib ? err_set(err, ERR_NOMEM, "no memory for NCCL's connections") : ERR_UNSUPPORTED;
    k->comm = (struct comm){&nccl_carrier, control->rank, control->size, deadline_us};
    k->control = control;
    k->gpu = d->impl;
    k->lib = lib;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->wake, NULL);
    *ret = k;
    return cuda_err(err, cudaEventCreateWithFlags(&k->last, cudaEventDisableTiming), "an event");
}

static int introduce(const struct nccl *k, struct hello *mine, struct err *err)
{
    char host[64] = "", bus[24] = "";
    int version = 0;
    if (k->lib->GetVersion(&version) != ncclSuccess || version < LEAST_VERSION)
        return err_set(err, ERR_UNSUPPORTED, "NCCL %d is too old: 2.14 is the first that will do", version);
    if (k->comm.rank == 0 && k->lib->GetUniqueId(&mine->id) != ncclSuccess)
        return err_set(err, ERR_UNSUPPORTED, "NCCL cannot open a port for its ranks to meet");
    mine->version = version;
    gethostname(host, sizeof(host) - 1);
    cudaDeviceGetPCIBusId(bus, sizeof(bus), k->gpu->index);
    str_format(mine->gpu, sizeof(mine->gpu), "%s %s", host, bus);
    return 0;
}

/* The same answer at every rank, of what all have told. */
static int compare(const struct hello *all, int n, struct err *err)
{
    int bad = -1;
    for (int i = 0; i < n; i++) /* one that waited in vain has less to say than another */
        if (all[i].code && (bad < 0 || (all[bad].code == ERR_TIMEOUT && all[i].code != ERR_TIMEOUT)))
            bad = i;
    if (bad >= 0)
        return err_set(err, ERR_UNSUPPORTED, "rank %d: %s", bad, all[bad].why);
    for (int i = 1; i < n; i++) {
        if (all[i].version != all[0].version)
            return err_set(err, ERR_UNSUPPORTED, "NCCL is version %d at rank 0 and %d at rank %d", (int)all[0].version,
                           (int)all[i].version, i);
        for (int j = 0; j < i; j++)
            if (strcmp(all[i].gpu, all[j].gpu) == 0)
                return err_set(err, ERR_UNSUPPORTED, "ranks %d and %d have one GPU, NCCL wants one each", j, i);
    }
    return 0;
}

static int join(struct nccl *k, ncclUniqueId id, struct err *err)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    pthread_mutex_lock(&k->lock);
    const ncclResult_t said = k->lib->CommInitRankConfig(&k->nccl, k->comm.size, id, k->comm.rank, &config);
    int rc = 0;
    if (!k->nccl)
        rc = give_up_as(k, said);
    else if (pthread_create(&k->watcher, NULL, watch, k) != 0)
        rc = give_up(k, ERR_NOMEM, "no thread to watch NCCL");
    else
        k->watched = true;
    if (rc < 0)
        err_set(err, rc, "%s", k->why.text);
    else
        rc = settle(k, said, OPEN_US < k->comm.deadline_us ? OPEN_US : k->comm.deadline_us, err);
    pthread_mutex_unlock(&k->lock);
    return rc;
}

/* Tells all, this rank's own reason (if it has one) too, and hears whether all can. */
static int meet(struct comm *control, struct hello *all, const struct err *own, struct err *err)
{
    all[control->rank].code = own->code;
    str_copy(all[control->rank].why, sizeof(all->why), own->text);
    const int rc = comm_tell(control, all, sizeof(*all), err);
    return rc < 0 ? rc : compare(all, control->size, err);
}

int comm_nccl_open(struct device *d, struct comm *control, int64_t deadline_us, struct comm **ret, struct err *err)
{
    struct hello *all = mem_calloc(COMM_MAX, sizeof(*all));
    struct nccl *k = NULL;
    struct err own = {0};
    if (!all) { /* the others would wait */
        comm_abort(control, ERR_NOMEM, "no memory for NCCL's connections");
        return err_set(err, ERR_NOMEM, "no memory for NCCL's connections");
    }
    cuda_here(d->impl);
    int rc = make(&k, d, control, deadline_us, &own);
    if (rc == 0)
        introduce(k, &all[control->rank], &own);
    rc = meet(control, all, &own, err);
    if (rc == 0) {
        join(k, all[0].id, &own);
        rc = meet(control, all, &own, err);
    }
    if (rc == 0) {
        *ret = &k->comm;
    } else if (k) { /* the others will not end it together */
        pthread_mutex_lock(&k->lock);
        give_up(k, rc, err->text);
        pthread_mutex_unlock(&k->lock);
        nccl_close(&k->comm);
    }
    mem_free(all);
    return rc;
}
