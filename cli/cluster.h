/* cluster.h -- a whole troupe on one machine: a private redis-server, one dispatcher, one worker per device;
 * started, watched and stopped together.
 *
 *     struct cluster *k;
 *     if ((rc = cluster_start(&k, cli, &options, &err)) < 0) ...      returns when the dispatcher listens
 *     ... cluster_url(k) ...                                           "http://127.0.0.1:8000"
 *     cluster_stop(k);                                                 SIGTERM to all, SIGKILL after 10 s;
 * waits for them
 *
 * One thread of the cluster restarts what dies (after 1 s, 2 s, 4 s ... 30 s; a worker that asks for it with exit code
 * 75 at once). The children are in their own process group, so that Ctrl-C reaches them through cluster_stop only, and
 * end when this process does. Redis' data lies in STATE/redis, the logs in STATE/log; in a container the logs are this
 * program's standard error, and without Redis or the dispatcher the rest is of no use: cluster_failed tells.
 */
#ifndef CLI_CLUSTER_H
#define CLI_CLUSTER_H

#include "cli/cli.h"

struct cluster;

enum { CLUSTER_REDIS = 1, CLUSTER_DISPATCHER = 2, CLUSTER_WORKERS = 4, CLUSTER_ALL = 7 };

struct cluster_options {
    unsigned parts;           /* CLUSTER_*; 0: all. Without CLUSTER_REDIS the one of the setting `redis` is used */
    int n_workers;            /* 0: none */
    const char *devices;      /* "cuda:0,cuda:1": one worker each instead of n_workers; NULL: the setting `device` */
    const char *volume;       /* made if missing */
    const char *state;        /* folder of one cluster alone: Redis' data and the logs; NULL: the volume */
    bool container;           /* see above */
    bool once;                /* for one job: a worker that cannot start ends it all (cluster_failed, cli_stopped) */
    const char *noise, *dump; /* files for the workers' every job (tests and comparisons), or NULL */
};

/* "redis,dispatcher,workers" as a set. ERR_INVALID. */
int cluster_parts(const char *text, unsigned *ret, struct err *err);

/* The path of one of our programs (or redis-server): beside this program, in a build tree's sibling folders,
 * on the PATH. ERR_NOTFOUND with `package` as the way out. */
int cluster_find(const char *name, const char *package, char *ret, size_t size, struct err *err);

/* ERR_NOTFOUND: a program is not there, with what to install. ERR_TIMEOUT: something did not come up; names
 * its log. */
int cluster_start(struct cluster **ret, struct cli *c, const struct cluster_options *o, struct err *err);
const char *cluster_url(const struct cluster *k);  /* "" without a dispatcher */
const char *cluster_page(const struct cluster *k); /* "" without a page port */
const char *cluster_log_dir(const struct cluster *k); /* "" in a container */
const char *cluster_failed(struct cluster *k); /* in a container or with once: the part that ended and is missed, or NULL */
void cluster_why(struct cluster *k, char *ret, size_t size); /* what that part said last; "" where it has no log */
int cluster_deaths(struct cluster *k); /* restarts so far */
void cluster_stop(struct cluster *k);  /* NULL is fine */

#endif
