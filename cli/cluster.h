/* cluster.h -- a whole troupe on one machine: a private redis-server, one dispatcher, one worker per device;
 * started, watched and stopped together.
 *
 *     struct cluster *k;
 *     if ((rc = cluster_start(&k, cli, &options, &err)) < 0) ...      returns when the dispatcher listens
 *     ... cluster_url(k) ...                                           "http://127.0.0.1:8000"
 *     cluster_stop(k);                                                 SIGTERM to all, SIGKILL after 10 s;
 * waits for them
 *
 * One thread of the cluster restarts what dies (after 1 s, 2 s, 4 s ... 30 s). The children are in their own
 * process group, so that Ctrl-C reaches them through cluster_stop only, and end when this process does.
 * Redis' data lies in VOLUME/redis, the logs in VOLUME/log.
 */
#ifndef CLI_CLUSTER_H
#define CLI_CLUSTER_H

#include "cli/cli.h"

struct cluster;

struct cluster_options {
    int n_workers;            /* 0: none */
    const char *volume;       /* made if missing */
    const char *noise, *dump; /* files for the workers' every job (tests and comparisons), or NULL */
};

/* The path of one of our programs (or redis-server): beside this program, in a build tree's sibling folders,
 * on the PATH. ERR_NOTFOUND with `package` as the way out. */
int cluster_find(const char *name, const char *package, char *ret, size_t size, struct err *err);

/* ERR_NOTFOUND: a program is not there, with what to install. ERR_TIMEOUT: something did not come up; names
 * its log. */
int cluster_start(struct cluster **ret, struct cli *c, const struct cluster_options *o, struct err *err);
const char *cluster_url(const struct cluster *k);
const char *cluster_page(const struct cluster *k); /* "" without a page port */
const char *cluster_log_dir(const struct cluster *k);
int cluster_deaths(struct cluster *k); /* restarts so far */
void cluster_stop(struct cluster *k);  /* NULL is fine */

#endif
