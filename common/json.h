/* json.h -- the one door to jansson: the library's own json_t functions, plus reading with limits. */
#ifndef COMMON_JSON_H
#define COMMON_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "common/err.h"

/* Parses one value from text: duplicate keys refused, depth at most 64 (max_depth lower), NUL in strings refused.
 * ERR_BADREQ with line and column. The caller owns *ret (json_decref). */
int json_parse(const char *text, size_t len, int max_depth, json_t **ret, struct err *err);
/* The same from a file of at most max_bytes. ERR_NOTFOUND, ERR_TOOBIG, ERR_FORMAT. */
int json_read_file(const char *path, size_t max_bytes, json_t **ret, struct err *err);
/* The same; strings may hold NUL, and json_string_length tells how long they are. For lists of test strings. */
int json_read_file_nul(const char *path, size_t max_bytes, json_t **ret, struct err *err);

#endif
