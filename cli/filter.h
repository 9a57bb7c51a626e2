/* filter.h -- which jobs: the options that jobs, dead and redrive share.
 *
 *     struct filter f = {0};
 *     const struct arg own[] = {FILTER_ARGS(f), {0}};
 *     ... args_read ...
 *     rc = filter_add(&f, path, sizeof path, &err);         "/v1/queue/dead?tenant=acme&code=MEDIA"
 */
#ifndef CLI_FILTER_H
#define CLI_FILTER_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct filter {
    const char *state, *tenant, *generator, *code, *worker; /* NULL: any */
};

/* Rows for struct arg, without state. */
#define FILTER_ARGS(f)                                                                                               \
    {"tenant", &(f).tenant, NULL, "NAME", "only this tenant's"},                                                     \
    {"generator", &(f).generator, NULL, "NAME", "only of this generator"},                                           \
    {"code", &(f).code, NULL, "CODE", "only those whose last failure was this: MEDIA, NOFIT, ..."},                  \
    {"worker", &(f).worker, NULL, "NAME", "only those whose last attempt ran there"}

bool filter_any(const struct filter *f); /* is anything chosen? */
/* Adds the query to a path. ERR_INVALID when it becomes too long. */
int filter_add(const struct filter *f, char *path, size_t size, struct err *err);

#endif
