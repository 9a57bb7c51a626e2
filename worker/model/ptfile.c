#include "worker/model/ptfile.h"

#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/model/ckpt_impl.h"
#include "worker/model/ptzip.h"
#include "worker/model/unpickle.h"

#define MAX_DEPTH 32
#define MAX_VISITS 4000000 /* values may be shared: a small pickle can be an endless tree */

struct walk {
    struct ckpt *c;
    const struct ptzip *zip;
    const char *stem;
    int64_t n_visits;
    struct err *err;
};

/* The one <stem>/data.pkl of the archive. */
static int find_stem(const struct ptzip *zip, char *ret, size_t size, struct err *err)
{
    int n = 0;
    for (size_t i = 0; i < ptzip_count(zip); i++) {
        const char *name = ptzip_name(zip, i), *slash = strchr(name, '/');
        if (!slash || strcmp(slash, "/data.pkl") != 0)
            continue;
        if (str_format(ret, size, "%.*s", (int)(slash - name), name) < 0)
            return err_set(err, ERR_TOOBIG, "the archive's folder name is too long");
        n++;
    }
    if (n != 1)
        return err_set(err, ERR_FORMAT, "%d data.pkl in the zip, one wanted: this is no PyTorch file", n);
    return 0;
}

static int check_byteorder(const struct ptzip *zip, const char *stem, struct err *err)
{
    char name[1200];
    const uint8_t *p = NULL;
    size_t n = 0;
    struct err why = {0};
    str_format(name, sizeof name, "%s/byteorder", stem);
    int rc = ptzip_find(zip, name, &p, &n, &why);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc < 0)
        return err_set(err, rc, "%s", why.text);
    if (n == 6 && memcmp(p, "little", 6) == 0)
        return 0;
    if (n == 3 && memcmp(p, "big", 3) == 0)
        return err_set(err, ERR_UNSUPPORTED,
                       "big-endian tensors: save the file again on a little-endian machine");
    return err_set(err, ERR_FORMAT, "byteorder is neither little nor big");
}

static bool is_contiguous(const struct unpickle_tensor *t)
{
    uint64_t want = 1;
    for (int i = 0; i < t->n_dims; i++)
        if (t->shape[i] == 0)
            return true;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        if (t->shape[i] == 1)
            continue;
        if ((uint64_t)t->stride[i] != want || __builtin_mul_overflow(want, (uint64_t)t->shape[i], &want))
            return false;
    }
    return true;
}

/* Bytes of a tensor inside its storage, the storage inside its zip entry: each bound is checked against the
 * next. */
static int add_tensor(struct walk *w, const char *name, const struct unpickle_tensor *t)
{
    char entry[1800];
    const uint8_t *data = NULL;
    size_t entry_bytes = 0, bytes = 0, esize = dtype_bytes(t->dtype);
    const struct unpickle_storage *s = t->storage;
    uint64_t storage_bytes = 0, begin = 0, end = 0;
    if (!is_contiguous(t))
        return err_set(w->err, ERR_UNSUPPORTED,
                       "%s is not contiguous (a view or a transpose): save .contiguous() of it", name);
    if (str_format(entry, sizeof entry, "%s/data/%s", w->stem, s->key) < 0)
        return err_set(w->err, ERR_TOOBIG, "%s: the storage's key is too long", name);
    struct err why = {0};
    int rc = ptzip_find(w->zip, entry, &data, &entry_bytes, &why);
    if (rc < 0)
        return err_set(w->err, rc == ERR_NOTFOUND ? ERR_FORMAT : rc, "%s: %s", name, why.text);
    if (__builtin_mul_overflow((uint64_t)s->count, s->untyped ? 1 : dtype_bytes(s->dtype), &storage_bytes) ||
        storage_bytes > entry_bytes)
        return err_set(w->err, ERR_FORMAT, "%s: storage %s has %zu bytes, %lld elements are announced", name,
                       s->key, entry_bytes, (long long)s->count);
    if (ckpt_shape_bytes(t->dtype, t->n_dims, t->shape, &bytes) < 0 ||
        __builtin_mul_overflow((uint64_t)t->offset, esize, &begin) ||
        __builtin_add_overflow(begin, bytes, &end) || end > storage_bytes)
        return err_set(w->err, ERR_FORMAT, "%s: reaches beyond its storage %s of %llu bytes", name, s->key,
                       (unsigned long long)storage_bytes);
    return ckpt_add(w->c, name, t->dtype, t->n_dims, t->shape, data + begin, w->err);
}

static int join(char *dst, size_t size, const char *prefix, const struct unpickle_value *key)
{
    const char *dot = *prefix ? "." : "";
    if (key->kind == UNPICKLE_INT)
        return str_format(dst, size, "%s%s%lld", prefix, dot, (long long)key->u.i);
    if (key->kind == UNPICKLE_STR && strlen(key->u.text.s) == key->u.text.len)
        return str_format(dst, size, "%s%s%s", prefix, dot, key->u.text.s);
    return ERR_FORMAT;
}

static int walk_value(struct walk *w, const struct unpickle_value *v, const char *prefix, int depth)
{
    if (++w->n_visits > MAX_VISITS || depth > MAX_DEPTH)
        return err_set(w->err, ERR_FORMAT, "%.100s: nested too deep or more than %d values", prefix,
                       MAX_VISITS);
    if (v->kind == UNPICKLE_TENSOR)
        return add_tensor(w, prefix, v->u.tensor);
    if (v->kind != UNPICKLE_DICT && v->kind != UNPICKLE_OBJECT)
        return 0;
    for (size_t i = 0; i + 1 < v->u.list.n; i += 2) {
        char name[CKPT_MAX_NAME + 1];
        const struct unpickle_value *x = v->u.list.items[i + 1];
        if (x->kind != UNPICKLE_TENSOR && x->kind != UNPICKLE_DICT && x->kind != UNPICKLE_OBJECT)
            continue;
        if (join(name, sizeof name, prefix, v->u.list.items[i]) < 0)
            return err_set(w->err, ERR_FORMAT, "%.100s: a key under it is no plain name or is too long",
                           prefix);
        int rc = walk_value(w, x, name, depth + 1);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static const struct unpickle_value *strip_outer(const struct unpickle_value *root)
{
    static const char *const keys[] = {"module", "ema", "state_dict"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const struct unpickle_value *v = root->kind == UNPICKLE_DICT ? unpickle_get(root, keys[i]) : NULL;
        if (v && v->kind == UNPICKLE_DICT)
            return v;
    }
    return root;
}

static int read_zip(struct ckpt *c, const struct ptzip *zip, struct err *err)
{
    char stem[1024], name[1200];
    const uint8_t *p = NULL;
    size_t n = 0;
    struct unpickle *u = NULL;
    int rc = find_stem(zip, stem, sizeof stem, err);
    if (rc == 0)
        rc = check_byteorder(zip, stem, err);
    if (rc < 0)
        return rc;
    str_format(name, sizeof name, "%s/data.pkl", stem);
    if ((rc = ptzip_find(zip, name, &p, &n, err)) < 0 || (rc = unpickle_new(&u, p, n, err)) < 0)
        return rc;
    struct walk w = {.c = c, .zip = zip, .stem = stem, .err = err};
    rc = walk_value(&w, strip_outer(unpickle_root(u)), "", 0);
    unpickle_free(u);
    return rc;
}

int ptfile_read(struct ckpt *c, const char *path, struct err *err)
{
    const uint8_t *bytes = NULL;
    size_t len = 0;
    struct ptzip *zip = NULL;
    struct err why = {0};
    int rc = ckpt_map(c, path, &bytes, &len, err);
    if (rc < 0)
        return rc;
    rc = ptzip_open(&zip, bytes, len, &why);
    if (rc == 0)
        rc = read_zip(c, zip, &why);
    ptzip_close(zip);
    return rc < 0 ? err_set(err, rc, "%s: %s", path, why.text) : 0;
}
