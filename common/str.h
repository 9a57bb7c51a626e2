/* str.h -- bounded text: numbers with a range, paths, UTF-8 checks. No strtol, strcpy or sprintf elsewhere. */
#ifndef COMMON_STR_H
#define COMMON_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The whole of s must be one decimal number inside [min, max]. ERR_INVALID otherwise, *ret untouched. */
int str_parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret);
int str_parse_f64(const char *s, double min, double max, double *ret); /* finite only */
int str_parse_bool(const char *s, bool *ret);                           /* 1 0 true false yes no on off */

/* Writes at most size bytes with the NUL; ERR_TOOBIG when it did not fit (then dst is cut, still terminated). */
int str_copy(char *dst, size_t size, const char *src);
int str_format(char *dst, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* dir + "/" + name */
int str_path(char *dst, size_t size, const char *dir, const char *name);

/* Drops the first bytes of a UTF-8 character whose last ones were cut off at the end (str_copy and str_format do). */
void str_end_whole(char *text);

bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);
bool str_utf8_ok(const char *s, size_t n); /* RFC 3629: no overlong forms, no surrogates, <= U+10FFFF */

/* How many letters must be changed, added, dropped or swapped with a neighbour to get b from a ('-' and '_' are one);
 * limit when that many or more. For "did you mean". */
int str_distance(const char *a, const char *b, int limit);
/* The name of the list (NULL at its end) that was most likely meant; NULL when none is close. */
const char *str_nearest(const char *name, const char *const *list);

/* Is word one of "a|b|c"? NULL: of nothing. */
bool str_in_list(const char *list, const char *word);

/* "1.5 GiB", "812 B": for people. Returns dst. */
const char *str_bytes(char *dst, size_t size, uint64_t bytes);

#endif
