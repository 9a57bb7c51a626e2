/* reply.h -- the kinds of answer: JSON, text, problem, file.
 *
 * A problem is RFC 9457 (application/problem+json): type, title, status, detail, and as extensions `code` (the name in
 * err.h), `field` (the part of the request that is wrong, when the sentence begins with one) and `instance`.
 *
 *     reply_json(r, 200, object);                  takes the object
 *     reply_error(r, &err);                        status from the error's table
 */
#ifndef DISPATCHER_REPLY_H
#define DISPATCHER_REPLY_H

#include <sys/types.h>

#include "common/json.h"
#include "dispatcher/request.h"

void reply_json(struct request *r, int status, json_t *take);
void reply_text(struct request *r, int status, const char *type, const char *text, size_t len); /* copied */
void reply_static(struct request *r, const char *type, const char *text, size_t len, const char *etag);
void reply_empty(struct request *r, int status);
/* err->text is for a person; retry_after_s > 0 adds Retry-After (503 gets one in any case). */
void reply_error(struct request *r, const struct err *err);
void reply_problem(struct request *r, int status, const struct err *err, int64_t retry_after_s);

/* A file with Range, If-Range, ETag, If-None-Match and HEAD. etag without quotes; name, when not NULL, makes a
 * Content-Disposition (inline; attachment with ?download=1). Takes fd. */
void reply_file(struct request *r, int fd, const char *type, const char *etag, const char *name);

#endif
