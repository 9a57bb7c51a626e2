/* redis_async_reply.c -- reading a reply without its library's header. */
#include <hiredis/hiredis.h>

#include "dispatcher/redis_async.h"

enum redis_async_kind redis_async_kind(const struct redisReply *r)
{
    switch (r ? r->type : REDIS_REPLY_NIL) {
    case REDIS_REPLY_INTEGER:
        return REDIS_INT;
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
        return REDIS_TEXT;
    case REDIS_REPLY_ARRAY:
        return REDIS_LIST;
    case REDIS_REPLY_ERROR:
        return REDIS_ERROR;
    default:
        return REDIS_NIL;
    }
}

const char *redis_async_text(const struct redisReply *r, size_t *ret_len)
{
    enum redis_async_kind k = redis_async_kind(r);
    bool has = k == REDIS_TEXT || k == REDIS_ERROR;
    *ret_len = has ? (size_t)r->len : 0;
    return has ? r->str : "";
}

int64_t redis_async_int(const struct redisReply *r)
{
    return redis_async_kind(r) == REDIS_INT ? r->integer : 0;
}

size_t redis_async_count(const struct redisReply *r)
{
    return redis_async_kind(r) == REDIS_LIST ? r->elements : 0;
}

const struct redisReply *redis_async_at(const struct redisReply *r, size_t i)
{
    return i < redis_async_count(r) ? r->element[i] : NULL;
}
