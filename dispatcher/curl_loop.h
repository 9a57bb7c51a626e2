/* curl_loop.h -- libcurl's multi interface on the loop: any number of transfers, no thread, no waiting.
 *
 *     curl_loop_new(loop, 32, on_end, w, &c, err);
 *     curl_loop_add(c, easy);                     the transfer begins with the loop's next turn
 *     ... on_end(w, easy, code)                   it is over and out of the loop; the easy handle is the caller's again
 *     curl_loop_remove(c, easy);                  or: given up; on_end is not called
 *     curl_loop_free(c);                          every transfer must have ended or been removed
 *
 * on_end comes from the loop, never from inside curl_loop_add, and may add and remove transfers. libcurl tells which
 * sockets it watches and when it wants to be called (CURLMOPT_SOCKETFUNCTION, _TIMERFUNCTION); a uv_poll each and one
 * uv_timer do that.
 */
#ifndef DISPATCHER_CURL_LOOP_H
#define DISPATCHER_CURL_LOOP_H

#include <curl/curl.h>
#include <uv.h>

#include "common/err.h"

struct curl_loop;
typedef void (*curl_loop_fn)(void *arg, CURL *easy, CURLcode code);

/* max_idle: connections kept open for the next transfer. */
int curl_loop_new(uv_loop_t *loop, long max_idle, curl_loop_fn on_end, void *arg, struct curl_loop **ret, struct err *err);
int curl_loop_add(struct curl_loop *c, CURL *easy); /* ERR_NOMEM */
void curl_loop_remove(struct curl_loop *c, CURL *easy);
/* The memory goes with the loop's next turns. NULL is fine. */
void curl_loop_free(struct curl_loop *c);

#endif
