#include "worker/model/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/str.h"
#include "worker/model/ckpt_impl.h"

#define MAX_HEADER (100u << 20) /* the format's own limit */
#define MAX_INDEX (64u << 20)

struct range {
    uint64_t begin, end;
    const char *name;
};

static uint64_t read_le64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

bool safetensors_probe(const void *data, size_t len)
{
    const uint8_t *p = data;
    return len >= 10 && p[8] == '{' && read_le64(p) <= MAX_HEADER;
}

static int range_order(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Ranges must tile the data exactly: nothing shared, nothing unexplained, nothing cut off. */
static int check_ranges(struct range *list, size_t n, uint64_t data_len, struct err *err)
{
    uint64_t at = 0;
    if (n)
        qsort(list, n, sizeof *list, range_order);
    for (size_t i = 0; i < n; i++) {
        if (list[i].begin < at)
            return err_set(err, ERR_FORMAT, "%s: data_offsets start at %llu, inside the tensor before it",
                           list[i].name, (unsigned long long)list[i].begin);
        if (list[i].begin > at)
            return err_set(err, ERR_FORMAT, "%s: a hole of %llu bytes in front of the data", list[i].name,
                           (unsigned long long)(list[i].begin - at));
        at = list[i].end;
    }
    if (at != data_len)
        return err_set(err, ERR_FORMAT, "%llu bytes of data that belong to no tensor",
                       (unsigned long long)(data_len - at));
    return 0;
}

static int read_int(const json_t *v, int64_t *ret)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return ERR_FORMAT;
    *ret = json_integer_value(v);
    return 0;
}

static int read_dims(const char *name, const json_t *v, int64_t *shape, int *ret_n, struct err *err)
{
    size_t n = json_array_size(v);
    if (!json_is_array(v))
        return err_set(err, ERR_FORMAT, "%s: shape is not an array", name);
    if (n > TENSOR_MAX_DIMS)
        return err_set(err, ERR_UNSUPPORTED, "%s: %zu dimensions, at most %d are supported", name, n,
                       TENSOR_MAX_DIMS);
    for (size_t i = 0; i < n; i++)
        if (read_int(json_array_get(v, i), &shape[i]) < 0)
            return err_set(err, ERR_FORMAT, "%s: shape[%zu] is not a count", name, i);
    *ret_n = (int)n;
    return 0;
}

static int read_entry(struct ckpt *c, const char *name, const json_t *v, const uint8_t *data,
                      uint64_t data_len, struct range *range, struct err *err)
{
    int rc, n_dims = 0;
    int64_t shape[TENSOR_MAX_DIMS], begin = 0, end = 0;
    size_t bytes = 0;
    enum dtype dtype;
    const char *text = json_string_value(json_object_get(v, "dtype"));
    const json_t *offsets = json_object_get(v, "data_offsets");
    if (!text)
        return err_set(err, ERR_FORMAT, "%s: no dtype", name);
    if (dtype_parse(text, &dtype) < 0)
        return err_set(err, ERR_UNSUPPORTED, "%s: element type \"%.20s\" is not supported", name, text);
    if ((rc = read_dims(name, json_object_get(v, "shape"), shape, &n_dims, err)) < 0)
        return rc;
    if (json_array_size(offsets) != 2 || read_int(json_array_get(offsets, 0), &begin) < 0 ||
        read_int(json_array_get(offsets, 1), &end) < 0 || begin > end)
        return err_set(err, ERR_FORMAT, "%s: data_offsets is not [begin, end]", name);
    if ((uint64_t)end > data_len)
        return err_set(err, ERR_FORMAT, "%s: data ends at byte %lld of %llu: the file is cut off", name,
                       (long long)end, (unsigned long long)data_len);
    if (ckpt_shape_bytes(dtype, n_dims, shape, &bytes) < 0 || bytes != (uint64_t)(end - begin))
        return err_set(err, ERR_FORMAT, "%s: %lld bytes of data, the shape needs %zu", name,
                       (long long)(end - begin), bytes);
    *range = (struct range){(uint64_t)begin, (uint64_t)end, name};
    return ckpt_add(c, name, dtype, n_dims, shape, data + begin, err);
}

static int read_header(struct ckpt *c, json_t *head, const uint8_t *data, uint64_t data_len, struct err *err)
{
    int rc = 0;
    size_t n = 0;
    const char *name;
    json_t *v;
    if (!json_is_object(head))
        return err_set(err, ERR_FORMAT, "the header is not a JSON object");
    struct range *list = mem_calloc(json_object_size(head) + 1, sizeof *list);
    if (!list)
        return err_set(err, ERR_NOMEM, "out of memory");
    json_object_foreach(head, name, v)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        if ((rc = read_entry(c, name, v, data, data_len, &list[n++], err)) < 0)
            break;
    }
    if (rc == 0)
        rc = check_ranges(list, n, data_len, err);
    mem_free(list);
    return rc;
}

int safetensors_read(struct ckpt *c, const char *path, struct err *err)
{
    const uint8_t *bytes = NULL;
    size_t len = 0;
    json_t *head = NULL;
    struct err why = {0};
    int rc = ckpt_map(c, path, &bytes, &len, err);
    if (rc < 0)
        return rc;
    if (len < 10)
        return err_set(err, ERR_FORMAT, "%s: %zu bytes are too few for a safetensors file", path, len);
    uint64_t head_len = read_le64(bytes);
    if (head_len > len - 8 || head_len > MAX_HEADER)
        return err_set(err, ERR_FORMAT,
                       "%s: the header's length %llu is beyond the file (%zu bytes) or the limit", path,
                       (unsigned long long)head_len, len);
    if (json_parse((const char *)bytes + 8, (size_t)head_len, 8, &head, &why) < 0)
        return err_set(err, ERR_FORMAT, "%s: header: %s", path, why.text);
    rc = read_header(c, head, bytes + 8 + head_len, len - 8 - head_len, &why);
    if (rc < 0)
        err_set(err, rc, "%s: %s", path, why.text);
    json_decref(head);
    return rc;
}

/* ---- folders ----------------------------------------------------------------------------------------- */

static int find_index(const char *dir, char *ret, size_t size, struct err *err)
{
    int n = 0;
    DIR *d = opendir(dir);
    if (!d)
        return err_set(err, ERR_IO, "%s: %s", dir, strerror(errno));
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        if (e->d_name[0] == '.' || !str_ends(e->d_name, ".safetensors.index.json"))
            continue;
        n++;
        str_path(ret, size, dir, e->d_name);
    }
    closedir(d);
    if (n > 1)
        return err_set(err, ERR_FORMAT, "%s: %d *.safetensors.index.json files, one wanted", dir, n);
    return n;
}

/* Whether an earlier entry of the map names the same shard: every shard is read once. */
static int note_shard(json_t *seen, const char *shard)
{
    if (json_object_get(seen, shard))
        return 0;
    return json_object_set_new(seen, shard, json_true()) < 0 ? ERR_NOMEM : 1;
}

static int read_shards(struct ckpt *c, const char *dir, json_t *map, json_t *seen, struct err *err)
{
    const char *name;
    json_t *v;
    json_object_foreach(map, name, v)
    {
        char path[4096];
        const char *shard = json_string_value(v);
        if (!shard || !*shard || *shard == '.' || strchr(shard, '/'))
            return err_set(err, ERR_FORMAT, "%s: weight_map of %s is not a file name", dir, name);
        int rc = note_shard(seen, shard);
        if (rc < 0)
            return err_set(err, rc, "out of memory");
        if (json_object_size(seen) > CKPT_MAX_FILES)
            return err_set(err, ERR_TOOBIG, "%s: more than %d shards", dir, CKPT_MAX_FILES);
        if (rc == 0)
            continue;
        if (str_path(path, sizeof path, dir, shard) < 0)
            return err_set(err, ERR_TOOBIG, "%s: path too long", dir);
        if ((rc = safetensors_read(c, path, err)) < 0)
            return rc;
    }
    return 0;
}

/* Every name of the map must have come out of the shards. Few names are missing in practice: a set of those
 * found. */
static int check_map(const struct ckpt *c, const char *dir, json_t *map, struct err *err)
{
    int rc = 0;
    const char *name;
    json_t *v, *found = json_object();
    for (size_t i = 0; found && i < c->n_items; i++)
        if (json_object_set_new(found, c->items[i].name, json_true()) < 0)
            rc = ERR_NOMEM;
    if (!found || rc < 0) {
        json_decref(found);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    json_object_foreach(map, name, v)
    {
        if (!json_object_get(found, name)) {
            rc = err_set(err, ERR_WEIGHTS, "%s: %s is in the index and not in %s", dir, name,
                         json_string_value(v));
            break;
        }
    }
    json_decref(found);
    return rc;
}

int safetensors_read_dir(struct ckpt *c, const char *dir, struct err *err)
{
    char path[4096];
    json_t *index = NULL, *seen = NULL;
    int rc = find_index(dir, path, sizeof path, err);
    if (rc < 0)
        return rc;
    if (rc == 0) {
        if (str_path(path, sizeof path, dir, "model.safetensors") < 0)
            return err_set(err, ERR_TOOBIG, "%s: path too long", dir);
        if (access(path, F_OK) < 0)
            return err_set(err, ERR_NOTFOUND, "%s: neither model.safetensors nor *.safetensors.index.json",
                           dir);
        return safetensors_read(c, path, err);
    }
    if ((rc = json_read_file(path, MAX_INDEX, &index, err)) < 0)
        return rc;
    json_t *map = json_object_get(index, "weight_map");
    seen = json_object();
    if (!json_is_object(map) || json_object_size(map) == 0)
        rc = err_set(err, ERR_FORMAT, "%s: no weight_map", path);
    else if (!seen)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    if (rc == 0)
        rc = read_shards(c, dir, map, seen, err);
    if (rc == 0)
        rc = check_map(c, dir, map, err);
    json_decref(seen);
    json_decref(index);
    return rc;
}

/* ---- writing ----------------------------------------------------------------------------------------- */

static json_t *describe(struct tensor t, uint64_t at)
{
    json_t *shape = json_array();
    for (int i = 0; shape && i < t.n_dims; i++)
        json_array_append_new(shape, json_integer(t.shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(t.dtype), "shape", shape, "data_offsets",
                     (json_int_t)at, (json_int_t)(at + tensor_bytes(t)));
}

static int add_text(const char *text, size_t n, void *arg)
{
    return buf_add(arg, text, n) < 0 ? -1 : 0;
}

/* The header padded with spaces to a multiple of 8, so that the data stays aligned. */
static int make_header(struct buf *b, const struct safetensors_item *list, size_t n, struct err *err)
{
    int rc = 0;
    uint64_t at = 0;
    json_t *head = json_object();
    for (size_t i = 0; head && i < n; i++) {
        if (json_object_get(head, list[i].name)) {
            rc = err_set(err, ERR_INVALID, "%s is there twice", list[i].name);
            break;
        }
        if (!tensor_is_contiguous(list[i].t)) {
            rc = err_set(err, ERR_INVALID, "%s is not contiguous", list[i].name);
            break;
        }
        json_object_set_new(head, list[i].name, describe(list[i].t, at));
        at += tensor_bytes(list[i].t);
    }
    if (rc == 0 && (!head || json_dump_callback(head, add_text, b, JSON_COMPACT) < 0))
        rc = err_set(err, ERR_INVALID, "names or shapes cannot be written as JSON");
    while (rc == 0 && b->len % 8 != 0)
        rc = buf_add(b, " ", 1);
    json_decref(head);
    return rc;
}

static bool put(FILE *f, const void *data, size_t n)
{
    return n == 0 || fwrite(data, 1, n, f) == n;
}

int safetensors_write(const char *path, const struct safetensors_item *list, size_t n, struct err *err)
{
    char part[4096];
    uint8_t le[8];
    struct buf head;
    FILE *f = NULL;
    buf_init(&head, MAX_HEADER);
    int rc = make_header(&head, list, n, err);
    if (rc < 0)
        goto out;
    if (str_format(part, sizeof part, "%s.part", path) < 0) {
        rc = err_set(err, ERR_TOOBIG, "path too long");
        goto out;
    }
    f = fopen(part, "wbe");
    if (!f) {
        rc = err_set(err, ERR_IO, "%s: %s", part, strerror(errno));
        goto out;
    }
    for (int i = 0; i < 8; i++)
        le[i] = (uint8_t)((uint64_t)head.len >> 8 * i);
    bool ok = put(f, le, 8) && put(f, head.data, head.len);
    for (size_t i = 0; ok && i < n; i++)
        ok = put(f, list[i].t.data, tensor_bytes(list[i].t));
    ok = ok && fflush(f) == 0 && fsync(fileno(f)) == 0;
    ok = fclose(f) == 0 && ok;
    if (!ok || rename(part, path) < 0) {
        rc = err_set(err, errno == ENOSPC ? ERR_NOSPACE : ERR_IO, "%s: %s", path, strerror(errno));
        unlink(part);
    }
out:
    buf_done(&head);
    return rc;
}
