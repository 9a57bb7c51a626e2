/* tokenizer_regex.h -- the regular expressions of the tokenizers: matches one after another over UTF-8 text.
 *
 *     struct tokenizer_regex *re;
 *     if ((rc = tokenizer_regex_new(&re, "\\p{L}+|\\s+", false, err)) < 0) ...
 *     while ((rc = tokenizer_regex_next(re, text, len, at, &start, &end, err)) > 0)
 *         at = end;                                         text[start, end) is the match
 *     tokenizer_regex_free(re);
 *
 * The engine is PCRE2 with Unicode properties (and its compiler to machine code where the build has one).
 * `\s` and `\S` are rewritten to Unicode's White_Space, which PCRE2's own `\s` is not (it adds U+180E).
 * Groups are not captured. One thread at a time.
 */
#ifndef WORKER_MODEL_TOKENIZER_REGEX_H
#define WORKER_MODEL_TOKENIZER_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct tokenizer_regex;

/* ERR_FORMAT with the place where the pattern is wrong. */
int tokenizer_regex_new(struct tokenizer_regex **ret, const char *pattern, bool caseless, struct err *err);
void tokenizer_regex_free(struct tokenizer_regex *re);

/* The first match that starts at or after `from`: 1 and [*ret_start, *ret_end), 0 when there is none. text
 * must be valid UTF-8 (not checked again); its end is the end for look-ahead. An empty match is none.
 * ERR_TOOBIG when the engine's limit of work is reached. */
int tokenizer_regex_next(struct tokenizer_regex *re, const char *text, size_t len, size_t from,
                         size_t *ret_start, size_t *ret_end, struct err *err);

#endif
