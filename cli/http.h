/* http.h -- the CLI's calls to a dispatcher, over libcurl. Blocking, each with a deadline.
 *
 * An answer of 400 and above becomes an error with the server's own sentence (RFC 9457's "detail"); a server
 * that is not there becomes ERR_IO with the address and the way out; a path that it does not know, ERR_UNSUPPORTED: it is
 * older than this program.
 */
#ifndef CLI_HTTP_H
#define CLI_HTTP_H

#include "cli/cli.h"
#include "common/buf.h"

struct http_part {
    const char *name;
    const char *value; /* text, or the path of a file when is_file */
    bool is_file;
};

/* JSON in (may be NULL), JSON out (owned; NULL for an empty answer). timeout_s bounds the whole call. */
int http_json(const struct cli *c, const char *method, const char *path, const json_t *body, long timeout_s,
              json_t **ret, struct err *err);
/* "&name=value" (or '?'), percent-encoded, onto a path. value NULL: nothing. ERR_TOOBIG. */
int http_query(char *path, size_t size, const char *name, const char *value);
/* path's one "%s" becomes the word, a job's id or a worker's name that a person typed. ERR_INVALID when it cannot be one,
 * ERR_TOOBIG. */
int http_path(char *dst, size_t size, const char *path, const char *word);
/* A multipart form. up, if given, is called with the bytes sent and their total. */
int http_form(const struct cli *c, const char *path, const struct http_part *part, int n,
              void (*up)(void *arg, double sent, double total), void *arg, json_t **ret, struct err *err);
/* Writes the answer's body to a new file (temporary name, then rename). */
int http_download(const struct cli *c, const char *path, const char *file, struct err *err);
/* Server-sent events: fn gets each event's name, id and data; non-zero ends the stream (returned as
 * *ret_stop). Returns 0 when the stream ended or fn stopped it, ERR_IO when the connection broke. last_id: ""
 * or where to go on. */
int http_events(const struct cli *c, const char *path, const char *last_id,
                int (*fn)(void *arg, const char *event, const char *id, const char *data), void *arg,
                struct err *err);

#endif
