/* tokenizer_clip.h -- text to CLIP ids, from the published vocab.json and merges.txt.
 *
 *     struct tokenizer_clip *t;
 *     if ((rc = tokenizer_clip_open(&t, "ckpts/text_encoder_2", err)) < 0) ...
 *     struct tokenizer_clip_prompt p;
 *     rc = tokenizer_clip_prompt(t, prompt, strlen(prompt), &p, err);
 *     tokenizer_clip_close(t);
 *
 * The rules are those of the slow tokenizer of transformers 4.45 without ftfy (no mojibake repair, no HTML
 * unescaping): clean (category C* dropped, white space to spaces, spaces around CJK ideographs), NFC, words
 * lower-cased with Unicode's full mapping, cut by the pattern, byte pairs with "</w>" (bpe.h), start and end
 * id around. "<|startoftext|>" and "<|endoftext|>" typed in the text give their ids, as in the reference.
 *
 * text must be UTF-8 (ERR_INVALID) of at most TOKENIZER_CLIP_TEXT_MAX bytes (ERR_TOOBIG). One thread at a
 * time.
 */
#ifndef WORKER_MODEL_TOKENIZER_CLIP_H
#define WORKER_MODEL_TOKENIZER_CLIP_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

enum { TOKENIZER_CLIP_MAX = 77, TOKENIZER_CLIP_TEXT_MAX = 1 << 20 };

struct tokenizer_clip;

struct tokenizer_clip_prompt {
    int32_t ids[TOKENIZER_CLIP_MAX]; /* padded on the right with the end id */
    int n;                           /* up to and including the first end id */
    int n_dropped;                   /* tokens that did not fit */
};

int tokenizer_clip_open(struct tokenizer_clip **ret, const char *dir, struct err *err);
void tokenizer_clip_close(struct tokenizer_clip *t);

/* Appends start id, the ids of text, end id to ids (int32_t in a buf, see bpe.h). */
int tokenizer_clip_ids(struct tokenizer_clip *t, const char *text, size_t len, struct buf *ids,
                       struct err *err);
/* The same cut to TOKENIZER_CLIP_MAX, start and end kept, and padded. */
int tokenizer_clip_prompt(struct tokenizer_clip *t, const char *text, size_t len,
                          struct tokenizer_clip_prompt *ret, struct err *err);

#endif
