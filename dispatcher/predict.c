#include "dispatcher/predict.h"

#include <string.h>
#include <unistd.h>

#include "common/blob.h"
#include "common/mem.h"
#include "common/schema.h"
#include "common/sha256.h"
#include "common/str.h"
#include "dispatcher/magic.h"

static const double SLACK = 1.1; /* the model is fitted, not exact */

double predict_audio_s(const char *volume, const json_t *params)
{
    const char *key = schema_str(params, "audio", "");
    int fd = -1;
    if (!blob_key_ok(key) || blob_open(volume, key, &fd, NULL) < 0)
        return 0;
    double seconds = magic_audio_seconds(fd);
    close(fd);
    return seconds;
}

int predict_cache_key(struct job *job, struct err *err)
{
    struct sha256 h = {0};
    job->cache_key[0] = 0;
    if (job->no_cache || schema_int(job->params, "seed", -1) < 0)
        return 0;
    char *text = json_dumps(job->params, JSON_COMPACT | JSON_SORT_KEYS);
    int rc = text ? sha256_init(&h) : ERR_NOMEM;
    if (rc == 0) {
        sha256_add(&h, job->tenant, strlen(job->tenant) + 1); /* with the NUL: no two triples look the same */
        sha256_add(&h, job->generator, strlen(job->generator) + 1);
        sha256_add(&h, text, strlen(text));
        rc = sha256_hex(&h, job->cache_key);
    }
    sha256_done(&h);
    mem_free(text);
    return rc < 0 ? err_set(err, rc, "%s", err_text(rc)) : 0;
}

/* On the queue's grid, an eighth of a power of two, rounded down: the queue rounds what a job needs up, and a job that may
 * take all of a device must not be rounded past it. */
static int64_t floor_bytes(int64_t bytes)
{
    int64_t step = 1;
    while (bytes / step >= 16)
        step *= 2;
    return bytes / step * step;
}

int predict_fit(const struct models *m, struct job *job, double audio_s, struct err *err)
{
    struct cost_guess g = {0};
    int64_t memory = 0;
    char need[32], has[32];
    if (!models_guess(m, job->generator, job->params, audio_s, &g, &memory))
        return 0;
    bool above = memory > 0 && g.bytes > memory;
    if (above && job->group_max <= 1 && (double)g.bytes > (double)memory * SLACK)
        return err_set(err, ERR_NOFIT,
                       "size: this video needs about %s of device memory and the largest worker has %s; choose a smaller "
                       "size, a shorter recording or fewer num_frames",
                       str_bytes(need, sizeof need, (uint64_t)g.bytes), str_bytes(has, sizeof has, (uint64_t)memory));
    job->gflop = g.gflop;
    job->plan_bytes = above ? floor_bytes(memory) : g.bytes;
    return 0;
}
