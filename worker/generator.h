/* generator.h -- what this worker can make: one row for each generator. `avatar` is the first; another one is
 * a schema in common/schema.c, a file generator_<name>.c, and a row in generator.c.
 *
 *     const struct generator *g = generator_find("avatar");
 *     rc = g->open(&state, &env, &err);          once a process; loads nothing heavy
 *     rc = pipeline_run(g, state, ...);          jobs, one at a time
 *     g->close(state);
 */
#ifndef WORKER_GENERATOR_H
#define WORKER_GENERATOR_H

#include <stddef.h>

#include "common/conf.h"
#include "common/err.h"

struct cost_model;
struct device;
struct pipeline;

struct generator_env {
    const struct conf *conf; /* borrowed for the state's life */
    struct device *device;   /* likewise */
};

struct generator {
    const char *name; /* as in common/schema.h */
    int (*open)(void **ret, const struct generator_env *env, struct err *err);
    void (*close)(void *state);
    /* The i-th component's name, status, load seconds, error ("" for none); ERR_NOTFOUND past the last. Any
     * thread. */
    int (*component)(const void *state, int i, const char **ret_name, const char **ret_status,
                     double *ret_seconds, const char **ret_error);
    /* What jobs will cost here, from plans at a few sizes: part i of m (short; ERR_NOTFOUND past the last: m is whole).
     * Between jobs, on the thread of run. */
    int (*cost)(void *state, int i, struct cost_model *m, struct err *err);
    /* The job of p, from its inputs to frames and sound handed to pipeline_video_*. */
    int (*run)(void *state, struct pipeline *p, struct err *err);
};

const struct generator *generator_find(const char *name); /* NULL */
const struct generator *generator_at(size_t i);           /* NULL past the last */

#endif
