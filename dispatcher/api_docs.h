/* api_docs.h -- the API describes itself: generators, OpenAPI 3.1, a page for people. All from the schema's and the
 * routes' tables. */
#ifndef DISPATCHER_API_DOCS_H
#define DISPATCHER_API_DOCS_H

#include "dispatcher/request.h"

void api_docs_generators(struct request *r);
void api_docs_openapi(struct request *r);
void api_docs_page(struct request *r);

#endif
