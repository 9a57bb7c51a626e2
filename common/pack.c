#include "common/pack.h"

#include <msgpack.h>
#include <string.h>

static int write_bytes(void *arg, const char *bytes, size_t n)
{
    return buf_add(arg, bytes, n);
}

static int write_value(msgpack_packer *p, const json_t *v, int depth);

static int write_object(msgpack_packer *p, const json_t *v, int depth)
{
    const char *key;
    json_t *item;
    int rc = msgpack_pack_map(p, json_object_size(v));
    void *it = json_object_iter((json_t *)(uintptr_t)v);
    for (; rc == 0 && it; it = json_object_iter_next((json_t *)(uintptr_t)v, it)) {
        key = json_object_iter_key(it);
        item = json_object_iter_value(it);
        rc = msgpack_pack_str_with_body(p, key, strlen(key));
        if (rc == 0)
            rc = write_value(p, item, depth + 1);
    }
    return rc;
}

static int write_array(msgpack_packer *p, const json_t *v, int depth)
{
    int rc = msgpack_pack_array(p, json_array_size(v));
    for (size_t i = 0; rc == 0 && i < json_array_size(v); i++)
        rc = write_value(p, json_array_get(v, i), depth + 1);
    return rc;
}

static int write_value(msgpack_packer *p, const json_t *v, int depth)
{
    if (depth > PACK_DEPTH_MAX)
        return ERR_FORMAT;
    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_OBJECT:
        return write_object(p, v, depth);
    case JSON_ARRAY:
        return write_array(p, v, depth);
    case JSON_STRING:
        return msgpack_pack_str_with_body(p, json_string_value(v), json_string_length(v));
    case JSON_INTEGER:
        return msgpack_pack_int64(p, json_integer_value(v));
    case JSON_REAL:
        return msgpack_pack_double(p, json_real_value(v));
    case JSON_TRUE:
        return msgpack_pack_true(p);
    case JSON_FALSE:
        return msgpack_pack_false(p);
    default:
        return msgpack_pack_nil(p);
    }
}

int pack_write(struct buf *b, const json_t *value, struct err *err)
{
    msgpack_packer p;
    size_t before = b->len;
    msgpack_packer_init(&p, b, write_bytes);
    int rc = write_value(&p, value, 0);
    if (rc == 0)
        return 0;
    if (b->data)
        b->data[b->len = before] = 0;
    if (rc == ERR_TOOBIG)
        return err_set(err, rc, "packed, it is longer than %zu bytes", b->max);
    return err_set(err, rc, "%s", rc == ERR_FORMAT ? "values are nested too deep" : err_text(rc));
}

static int read_value(const msgpack_object *o, json_t **ret);

/* sets of jansson steal the reference and refuse NULL */
static int read_array(const msgpack_object *o, json_t **ret)
{
    json_t *array = json_array();
    int rc = array ? 0 : ERR_NOMEM;
    for (uint32_t i = 0; rc == 0 && i < o->via.array.size; i++) {
        json_t *item = NULL;
        rc = read_value(&o->via.array.ptr[i], &item);
        if (rc == 0 && json_array_append_new(array, item) < 0)
            rc = ERR_NOMEM;
    }
    if (rc == 0)
        *ret = array;
    else
        json_decref(array);
    return rc;
}

static int read_member(json_t *object, const msgpack_object_kv *kv)
{
    json_t *item = NULL;
    if (kv->key.type != MSGPACK_OBJECT_STR)
        return ERR_FORMAT;
    int rc = read_value(&kv->val, &item);
    if (rc < 0)
        return rc;
    /* checks UTF-8; a NUL inside a key would cut it, so it is refused */
    const char *key = kv->key.via.str.size ? kv->key.via.str.ptr : "";
    if (memchr(key, 0, kv->key.via.str.size) || json_object_setn(object, key, kv->key.via.str.size, item) < 0)
        rc = ERR_FORMAT;
    json_decref(item);
    return rc;
}

static int read_map(const msgpack_object *o, json_t **ret)
{
    json_t *object = json_object();
    int rc = object ? 0 : ERR_NOMEM;
    for (uint32_t i = 0; rc == 0 && i < o->via.map.size; i++)
        rc = read_member(object, &o->via.map.ptr[i]);
    if (rc == 0)
        *ret = object;
    else
        json_decref(object);
    return rc;
}

static json_t *read_scalar(const msgpack_object *o)
{
    switch (o->type) {
    case MSGPACK_OBJECT_NIL:
        return json_null();
    case MSGPACK_OBJECT_BOOLEAN:
        return json_boolean(o->via.boolean);
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        return o->via.u64 <= INT64_MAX ? json_integer((json_int_t)o->via.u64) : NULL;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return json_integer(o->via.i64);
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        return json_real(o->via.f64);
    case MSGPACK_OBJECT_STR:
        return json_stringn(o->via.str.size ? o->via.str.ptr : "",
                            o->via.str.size); /* may be NULL when empty */
    default:
        return NULL;
    }
}

static int read_value(const msgpack_object *o, json_t **ret)
{
    if (o->type == MSGPACK_OBJECT_ARRAY)
        return read_array(o, ret);
    if (o->type == MSGPACK_OBJECT_MAP)
        return read_map(o, ret);
    *ret = read_scalar(o);
    return *ret ? 0 : ERR_FORMAT;
}

/* msgpack-c recurses and allocates by the counts that the bytes claim: look at the bytes first. Every value
 * of a count must be there with at least one byte, and containers may not nest deeper than PACK_DEPTH_MAX. */
struct scan {
    const unsigned char *at;
    size_t left;
};

static int scan_number(struct scan *s, int bytes, uint64_t *ret)
{
    uint64_t v = 0;
    if (s->left < (size_t)bytes)
        return ERR_FORMAT;
    for (int i = 0; i < bytes; i++)
        v = v << 8 | s->at[i];
    s->at += bytes;
    s->left -= (size_t)bytes;
    *ret = v;
    return 0;
}

static int scan_skip(struct scan *s, uint64_t n)
{
    if (n > s->left)
        return ERR_FORMAT;
    s->at += n;
    s->left -= n;
    return 0;
}

/* The kinds of first bytes 0xc0..0xdf: size of the number that follows, and what it counts. */
enum scan_kind { SCAN_FIXED, SCAN_BYTES, SCAN_ARRAY, SCAN_MAP, SCAN_REFUSED };
static const struct {
    unsigned char number, kind;
} scan_table[32] = {
    {0, SCAN_FIXED},   {0, SCAN_REFUSED}, {0, SCAN_FIXED},   {0, SCAN_FIXED},   {0, SCAN_REFUSED},
    {0, SCAN_REFUSED}, {0, SCAN_REFUSED}, {0, SCAN_REFUSED}, {0, SCAN_REFUSED}, {0, SCAN_REFUSED},
    {4, SCAN_FIXED},   {8, SCAN_FIXED},   {1, SCAN_FIXED},   {2, SCAN_FIXED},   {4, SCAN_FIXED},
    {8, SCAN_FIXED},   {1, SCAN_FIXED},   {2, SCAN_FIXED},   {4, SCAN_FIXED},   {8, SCAN_FIXED},
    {0, SCAN_REFUSED}, {0, SCAN_REFUSED}, {0, SCAN_REFUSED}, {0, SCAN_REFUSED}, {0, SCAN_REFUSED},
    {1, SCAN_BYTES},   {2, SCAN_BYTES},   {4, SCAN_BYTES},   {2, SCAN_ARRAY},   {4, SCAN_ARRAY},
    {2, SCAN_MAP},     {4, SCAN_MAP},
};

/* One head; *ret_children: how many values follow inside. */
static int scan_head(struct scan *s, uint64_t *ret_children)
{
    uint64_t first, n = 0;
    *ret_children = 0;
    if (scan_number(s, 1, &first) < 0)
        return ERR_FORMAT;
    if (first < 0x80 || first >= 0xe0)
        return 0;
    if (first < 0x90) {
        *ret_children = (first & 15) * 2;
        return 0;
    }
    if (first < 0xa0) {
        *ret_children = first & 15;
        return 0;
    }
    if (first < 0xc0)
        return scan_skip(s, first & 31);
    enum scan_kind kind = scan_table[first - 0xc0].kind;
    if (kind == SCAN_REFUSED || scan_number(s, scan_table[first - 0xc0].number, &n) < 0)
        return ERR_FORMAT;
    if (kind == SCAN_BYTES)
        return scan_skip(s, n);
    if (kind == SCAN_ARRAY || kind == SCAN_MAP)
        *ret_children = n * (kind == SCAN_MAP ? 2 : 1);
    return *ret_children > s->left ? ERR_FORMAT : 0;
}

static int scan_value(struct scan *s)
{
    uint64_t todo[PACK_DEPTH_MAX + 1] = {1};
    int depth = 0;
    while (depth >= 0) {
        uint64_t children;
        if (todo[depth] == 0) {
            depth--;
            continue;
        }
        todo[depth]--;
        if (scan_head(s, &children) < 0 || (children && depth == PACK_DEPTH_MAX))
            return ERR_FORMAT;
        if (children)
            todo[++depth] = children;
    }
    return 0;
}

int pack_read(const void *bytes, size_t len, size_t *ret_used, json_t **ret, struct err *err)
{
    struct scan s = {bytes, len};
    json_t *value = NULL;
    size_t used = 0;
    int rc = scan_value(&s);
    msgpack_unpacked u;
    msgpack_unpacked_init(&u);
    if (rc == 0 && msgpack_unpack_next(&u, bytes, len - s.left, &used) < 0)
        rc = ERR_FORMAT;
    if (rc == 0 && !ret_used && used != len)
        rc = ERR_FORMAT;
    if (rc == 0)
        rc = read_value(&u.data, &value);
    msgpack_unpacked_destroy(&u);
    if (rc < 0)
        return err_set(err, rc, "%s",
                       rc == ERR_NOMEM ? err_text(rc) : "the bytes are not msgpack of the expected kind");
    if (ret_used)
        *ret_used = used;
    *ret = value;
    return 0;
}
