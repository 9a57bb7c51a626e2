/* bpe.h -- byte-pair encoding: a vocabulary, ranked merges, and words cut into ids. Shared by both
 * tokenizers.
 *
 * Tokens are spelt in the byte alphabet of GPT-2: bytes 33..126, 161..172 and 174..255 stand for themselves,
 * the other 68 in ascending order are U+0100 + n, so that every byte string is printable text. A word's
 * symbols are its bytes; the adjacent pair with the smallest rank is merged, leftmost among equals, until no
 * pair is listed. Time is O(n log n) in the length of the word: a heap of candidate pairs over a linked list
 * of symbols.
 *
 *     struct bpe *b;
 *     if ((rc = bpe_new(&b, vocab, BPE_WHOLE, err)) < 0 || (rc = bpe_merge(b, "h", 1, "e", 1, err)) < 0) ...
 *     rc = bpe_word(b, "hello", 5, &ids, err);
 *     int32_t first = bpe_id(&ids, 0);
 *     bpe_free(b);
 *
 * Ids are gathered in a struct buf as int32_t, the ceiling being the buf's. One thread at a time (scratch
 * inside).
 *
 * Source: Sennrich et al. 2016, arXiv 1508.07909; Radford et al. 2019 for the byte alphabet.
 */
#ifndef WORKER_MODEL_BPE_H
#define WORKER_MODEL_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"

struct bpe;

enum {
    BPE_WHOLE = 1,         /* a word that is in the vocabulary as a whole is that token, merges ignored */
    BPE_END = 2,           /* the last symbol of a word carries "</w>" */
    BPE_WORD_MAX = 1 << 20 /* bytes; a longer word is ERR_TOOBIG */
};

/* vocab: a JSON object, token -> id. Borrowed for the call. ERR_FORMAT names a token whose id is not in [0,
 * 2^31) and the byte that has no token (ends: also without "</w>"). */
int bpe_new(struct bpe **ret, json_t *vocab, unsigned flags, struct err *err);
void bpe_free(struct bpe *b);
/* The next merge in order of rank; a pair named again takes the later rank. ERR_FORMAT when left, right or
 * their concatenation is not in the vocabulary. */
int bpe_merge(struct bpe *b, const char *left, size_t left_len, const char *right, size_t right_len,
              struct err *err);

/* The id of a token spelt in the byte alphabet, -1 if there is none. */
int32_t bpe_find(const struct bpe *b, const char *token, size_t len);
/* Appends the ids of one word of raw bytes. ERR_TOOBIG, ERR_NOMEM. */
int bpe_word(struct bpe *b, const char *word, size_t len, struct buf *ids, struct err *err);

/* Ids in a buf. */
int bpe_add_id(struct buf *ids, int32_t id, struct err *err);
size_t bpe_n_ids(const struct buf *ids);
int32_t bpe_id(const struct buf *ids, size_t i);

#endif
