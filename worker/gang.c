#include "worker/gang.h"

#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/str.h"
#include "kernels/comm/comm.h"
#include "kernels/device.h"
#include "worker/model/group_plan.h"

#define FORM_US (30 * CLOCK_S)
#define WAIT_US (900 * CLOCK_S) /* for one exchange: another rank may still be loading its weights */
#define ADDRESS 192
#define MARK 12 /* last characters of the job's id, which are random */

struct gang {
    struct comm *control; /* owned: sockets */
    struct comm *comm;    /* owned: the device's own, or control */
    struct comm_group group;
};

/* Rates to split by, as nothing is measured: some cores and Unix sockets, or a device whose memory goes through them. */
static struct group_rates rates_of(const char *device_kind, const struct comm *comm)
{
    if (strcmp(device_kind, "cuda") == 0)
        return (struct group_rates){.flops = 400e12, .bytes = comm->carrier->on_device ? 100e9 : 5e9};
    return (struct group_rates){.flops = 2e11, .bytes = 1e9};
}

/* FNV-1a of job and attempt: no other gang answers to it. */
static uint64_t token_of(const char *job, int64_t attempt)
{
    uint64_t h = 14695981039346656037u;
    for (const char *s = job; *s; s++)
        h = (h ^ (unsigned char)*s) * 1099511628211u;
    return (h ^ (uint64_t)attempt) * 1099511628211u;
}

/* The device's own carrier, if all ranks have one and it opens: they know alike, and go on through host memory otherwise. */
static int open_own(struct gang *g, struct device *device, struct err *err)
{
    char has[COMM_MAX] = {0};
    struct err no = {0};
    has[g->control->rank] = device->hooks->comm != NULL;
    int rc = comm_tell(g->control, has, sizeof(*has), err);
    for (int i = 0; i < g->control->size && rc == 0; i++)
        if (!has[i])
            return 0;
    if (rc == 0)
        rc = device->hooks->comm(device, g->control, WAIT_US, &g->comm, &no);
    if (rc == ERR_UNSUPPORTED)
        LOG(WARN, "gang goes through host memory", log_str("why", no.text));
    return rc == ERR_UNSUPPORTED ? 0 : rc < 0 ? err_set(err, rc, "%s", no.text) : 0;
}

int gang_form(struct gang **ret, struct device *device, const char *volume, const char *job, int64_t attempt, int rank,
              int size, struct err *err)
{
    char text[COMM_MAX][ADDRESS];
    const char *address[COMM_MAX], *mark = strlen(job) > MARK ? job + strlen(job) - MARK : job;
    struct gang *g = mem_zalloc(sizeof(*g));
    if (!g)
        return err_set(err, ERR_NOMEM, "no memory for a gang");
    int rc = size > COMM_MAX ? err_set(err, ERR_UNSUPPORTED, "a gang of %d: %d at most", size, COMM_MAX) : 0;
    for (int i = 0; i < size && rc == 0; i++) {
        if (str_format(text[i], ADDRESS, "unix:%s/tmp/g-%s.%lld.%d", volume, mark, (long long)attempt, i) < 0)
            rc = err_set(err, ERR_INVALID, "volume: its path is too long for the sockets of a gang");
        address[i] = text[i];
    }
    if (rc == 0)
        rc = comm_sockets_open(&g->control, rank, size, address, token_of(job, attempt), FORM_US, err);
    if (rank < COMM_MAX && rc != ERR_INVALID && rc != ERR_UNSUPPORTED)
        unlink(text[rank] + strlen("unix:"));
    if (rc < 0) {
        mem_free(g);
        return rc;
    }
    g->comm = g->control;
    g->control->deadline_us = WAIT_US;
    if ((rc = open_own(g, device, err)) < 0) {
        comm_close(g->control);
        mem_free(g);
        return rc;
    }
    *ret = g;
    return 0;
}

int gang_rank(const struct gang *g)
{
    return g ? g->comm->rank : 0;
}

const char *gang_carrier(const struct gang *g)
{
    return g->comm->carrier->name;
}

int gang_share(struct gang *g, void *data, size_t bytes, struct err *err)
{
    return comm_share(g->control, 0, data, bytes, err);
}

int gang_split(struct gang *g, struct avatar *a, int width, int height, int64_t n_frames, int steps, const char *device_kind,
               struct avatar_plan *ret, struct err *err)
{
    const struct group_rates rates = rates_of(device_kind, g->comm);
    struct group_plan *plan = mem_zalloc(sizeof(*plan));
    if (!plan)
        return err_set(err, ERR_NOMEM, "no memory for the plan of a gang");
    int rc = group_plan_make(a, width, height, n_frames, steps, g->comm->size, &rates, plan, err);
    struct comm_degrees how = plan->way[0].degrees;
    if (rc == 0) /* one rank decides: they may be of different builds */
        rc = gang_share(g, &how, sizeof(how), err);
    if (rc == 0)
        rc = comm_group_init(&g->group, g->comm, g->comm->rank, &how, err);
    if (rc == 0)
        *ret = plan->first;
    mem_free(plan);
    return rc;
}

const struct comm_group *gang_group(const struct gang *g)
{
    return g ? &g->group : NULL;
}

/* Rank 0 sends a byte when it leaves with all done; otherwise what comes is its end. */
void gang_wait(struct gang *g)
{
    char byte = 0;
    struct err err = {0};
    comm_share(g->control, 0, &byte, 1, &err);
}

void gang_leave(struct gang *g, int code, const char *why)
{
    char byte = 0;
    struct err ignored = {0};
    if (!g)
        return;
    if (code < 0)
        comm_abort(g->comm, code, why);
    else if (g->control->rank == 0) /* a device's carrier is closed by all together */
        comm_share(g->control, 0, &byte, 1, &ignored);
    if (g->comm != g->control)
        comm_close(g->comm);
    comm_close(g->control);
    mem_free(g);
}
