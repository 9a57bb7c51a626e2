/* tokenizer_llama.h -- text to Llama-3 ids, from the published tokenizer.json, and the prompt template around
 * it.
 *
 *     struct tokenizer_llama *t;
 *     if ((rc = tokenizer_llama_open(&t, "ckpts/llava_llama_image", err)) < 0) ...
 *     struct tokenizer_llama_prompt p;
 *     rc = tokenizer_llama_prompt(t, prompt, strlen(prompt), true, &p, err);
 *     if (rc == 0 && p.n_dropped > 0) warn(...)         p.ids[0, p.n) are the tokens, the rest is padding
 *     tokenizer_llama_close(t);
 *
 * Flow: text is cut at the added tokens (longest first), pieces by the file's regular expression, words by
 * byte pairs (bpe.h). Both forms of `merges` ("a b", ["a", "b"]) and `ignore_merges` are read. One
 * begin-of-text in front. Added tokens typed in a prompt give their ids, as in the reference; guard: but
 * "<image>", which stops the run there, is ordinary text.
 *
 * text must be UTF-8 (ERR_INVALID) of at most TOKENIZER_LLAMA_TEXT_MAX bytes (ERR_TOOBIG). One thread at a
 * time.
 */
#ifndef WORKER_MODEL_TOKENIZER_LLAMA_H
#define WORKER_MODEL_TOKENIZER_LLAMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

enum {
    TOKENIZER_LLAMA_MAX = 351, /* tokens of a prompt with its template */
    TOKENIZER_LLAMA_CROP = 95, /* tokens in front of the prompt; their states are not handed on */
    TOKENIZER_LLAMA_TEXT_MAX = 1 << 20
};

struct tokenizer_llama;

struct tokenizer_llama_prompt {
    int32_t ids[TOKENIZER_LLAMA_MAX]; /* padded on the right */
    int n;                            /* without padding */
    int n_dropped;                    /* tokens that did not fit */
};

/* dir: the folder with tokenizer.json and config.json (for the ids of image and pad). ERR_NOTFOUND,
 * ERR_FORMAT. */
int tokenizer_llama_open(struct tokenizer_llama **ret, const char *dir, struct err *err);
void tokenizer_llama_close(struct tokenizer_llama *t);
int32_t tokenizer_llama_image(const struct tokenizer_llama *t); /* the id of <image> */
int32_t tokenizer_llama_pad(const struct tokenizer_llama *t);

/* Appends the ids of text, begin-of-text first, to ids (int32_t in a buf, see bpe.h). */
int tokenizer_llama_ids(struct tokenizer_llama *t, const char *text, size_t len, struct buf *ids,
                        struct err *err);

/* Template, prompt and the tail with <image> as at most TOKENIZER_LLAMA_MAX ids. guard: what the generator
 * uses; besides, a prompt that is too long loses its own last tokens and the tail stays. Without: the
 * reference's rule, which cuts whatever is last. */
int tokenizer_llama_prompt(struct tokenizer_llama *t, const char *prompt, size_t len, bool guard,
                           struct tokenizer_llama_prompt *ret, struct err *err);

#endif
