/* llava.h -- picture and prompt to the transformer's text states: vision tower, projector, Llama with the
 * merge of transformers 4.45.
 *
 *     struct llava *l;
 *     if ((rc = llava_open(&l, &config, ckpt, device, err)) < 0) ...       ckpt stays until llava_close
 *     struct tensor image = llava_vision(r, l, pixels, NULL);              once for all prompts, [576, H]
 *     struct tensor states = llava_text(r, l, ids, n, image);              [831, H]
 *     llava_mask(l, n, mask);                                              host, 831 bytes of 0 and 1
 *     llava_close(l);
 *
 * Flow of a prompt of n tokens, <image> last (H 4096):
 *     1. rows [0, n-1) token embeddings, [n-1, n+575) the image, then a row of zeros: the pad   [n+576, H]
 *     2. Llama, all layers but the last two
 *     3. rows [95, n+575), then the pad's row 351 - n times                                     [831, H]
 *
 * The mask handed on is not the mask of valid rows: its 575 ones for the image are appended behind the
 * padding, though the image rows sit in front of it. The transformer was trained on that.
 *
 * Source: Liu et al. 2023, arXiv 2304.08485; HunyuanVideo-Avatar, text_encoder/__init__.py; transformers 4.45
 * modeling_llava.py.
 */
#ifndef WORKER_MODEL_LLAVA_H
#define WORKER_MODEL_LLAVA_H

#include <stdint.h>

#include "worker/model/clip_vision.h"
#include "worker/model/llama.h"

struct llava_config {
    struct llama_config text;
    struct clip_vision_config vision;
    enum act act;     /* between the projector's layers */
    int64_t image_id; /* of <image>, the last token; -1: not checked */
};

/* config.json; what it leaves out has the defaults of transformers. ERR_NOTFOUND, ERR_FORMAT. */
int llava_config_read(struct llava_config *ret, const char *path, struct err *err);
int llava_config_parse(struct llava_config *ret, const char *text, size_t len, struct err *err);

struct llava;

/* c is borrowed until llava_close. device NULL: planning. ERR_WEIGHTS lists what does not match. */
int llava_open(struct llava **ret, const struct llava_config *config, struct ckpt *c, struct device *device,
               struct err *err);
void llava_close(struct llava *l);
int64_t llava_rows(const struct llava *l);  /* of states and mask: 831 */
int64_t llava_width(const struct llava *l); /* H */

/* pixels u8 [336, 336, 3] -> [576, H]; *ret_vision (may be NULL): the tower's own rows [576, C]. */
struct tensor llava_vision(struct run *r, const struct llava *l, struct tensor pixels,
                           struct tensor *ret_vision);
/* ids: host, n real tokens, the last of them <image>; 95 < n <= 351. NULL while planning. image: of
 * llava_vision. */
struct tensor llava_text(struct run *r, const struct llava *l, const int32_t *ids, int n,
                         struct tensor image);
/* The mask that belongs to the states of n tokens: [1]*(n-95) + [0]*(351-n) + [1]*575. */
void llava_mask(const struct llava *l, int n, uint8_t *ret);

#endif
