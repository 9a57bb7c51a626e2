/* clip_text.h -- CLIP's text model: ids to one pooled row.
 *
 *     struct clip_text *m;
 *     if ((rc = clip_text_open(&m, &config, ckpt, device, err)) < 0) ...    ckpt stays until clip_text_close
 *     struct tensor pooled = clip_text_pooled(r, m, ids, 77);               [C]
 *     clip_text_close(m);
 *
 * Flow (CLIP-L: C 768, 12 layers, 12 heads): token + position rows; causal layers; final LayerNorm; the row
 * of the first end token. That row sees only rows in front of it, so rows behind it are not computed and no
 * padding mask is needed.
 *
 * Source: Radford et al. 2021, arXiv 2103.00020; transformers 4.45 modeling_clip.py.
 */
#ifndef WORKER_MODEL_CLIP_TEXT_H
#define WORKER_MODEL_CLIP_TEXT_H

#include "worker/model/encoder_layer.h"

struct clip_text_config {
    int64_t layers, heads;
    int64_t end_id; /* 2 (older files): the end token is the one with the highest id */
    float eps;
    enum act act;
};

/* config.json of the whole CLIP (its text_config counts) or of the text model. ERR_NOTFOUND, ERR_FORMAT. */
int clip_text_config_read(struct clip_text_config *ret, const char *path, struct err *err);
int clip_text_config_parse(struct clip_text_config *ret, const char *text, size_t len, struct err *err);

struct clip_text;

/* c is borrowed until clip_text_close. device NULL: planning. ERR_WEIGHTS lists what does not match. */
int clip_text_open(struct clip_text **ret, const struct clip_text_config *config, struct ckpt *c,
                   struct device *device, struct err *err);
void clip_text_close(struct clip_text *m);
int64_t clip_text_width(const struct clip_text *m); /* C */

/* Rows up to and including the first end token; n if there is none. */
int clip_text_rows(const struct clip_text *m, const int32_t *ids, int n);
/* ids: host, n <= rows of the position table (77); NULL while planning: n rows then. -> [C] */
struct tensor clip_text_pooled(struct run *r, const struct clip_text *m, const int32_t *ids, int n);

#endif
