/* model_config.h -- numbers out of a network's config.json, with ranges; the first problem sticks.
 *
 *     struct model_config c;
 *     model_config_read(&c, "ckpts/whisper-tiny/config.json", &err);
 *     int64_t heads = model_config_int(&c, "encoder_attention_heads", 4, 1, 1024);
 *     model_config_enter(&c, "text_config");              from now on inside that object, if there is one
 *     rc = model_config_done(&c);                         ERR_NOTFOUND, ERR_FORMAT with key, value and range
 */
#ifndef WORKER_MODEL_MODEL_CONFIG_H
#define WORKER_MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/json.h"
#include "kernels/ops.h"

struct model_config {
    json_t *root; /* owned */
    json_t *at;   /* the object in use */
    struct err *err;
    int rc;
};

void model_config_read(struct model_config *c, const char *path, struct err *err);
void model_config_parse(struct model_config *c, const char *text, size_t len, struct err *err);
int model_config_done(struct model_config *c);

/* true if there is an object of that name; otherwise nothing changes. */
bool model_config_enter(struct model_config *c, const char *key);
void model_config_leave(struct model_config *c); /* back to the root */

/* A missing or null key gives `otherwise`. */
int64_t model_config_int(struct model_config *c, const char *key, int64_t otherwise, int64_t min,
                         int64_t max);
float model_config_real(struct model_config *c, const char *key, double otherwise, double min, double max);
/* "gelu", "quick_gelu", "silu" or "relu". */
enum act model_config_act(struct model_config *c, const char *key, enum act otherwise);

#endif
