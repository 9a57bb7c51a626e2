/* api_blobs.h -- files by content: POST /v1/blobs stores one, GET and HEAD give it back. */
#ifndef DISPATCHER_API_BLOBS_H
#define DISPATCHER_API_BLOBS_H

#include "dispatcher/request.h"

void api_blobs_put(struct request *r);
void api_blobs_get(struct request *r);

#endif
