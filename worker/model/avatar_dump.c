#include "worker/model/avatar_dump.h"

#include <string.h>

#include "common/mem.h"
#include "worker/model/safetensors.h"

void avatar_dump_init(struct avatar_dump *d, const char *path)
{
    *d = (struct avatar_dump){.path = path};
}

void avatar_dump_done(struct avatar_dump *d)
{
    for (size_t i = 0; i < d->n; i++) {
        mem_free((char *)d->items[i].name);
        mem_free(d->items[i].t.data);
    }
    mem_free(d->items);
    *d = (struct avatar_dump){0};
}

bool avatar_dump_is_on(const struct avatar_dump *d)
{
    return d->path != NULL && d->err.code == 0;
}

struct tensor avatar_dump_room(struct avatar_dump *d, const char *name, enum dtype dtype, int n_dims,
                               const int64_t *shape)
{
    struct tensor t = tensor_of(NULL, dtype, n_dims, shape);
    size_t bytes = tensor_bytes(t);
    char *copy;

    if (d->n >= AVATAR_DUMP_MAX_ITEMS || d->bytes + bytes > AVATAR_DUMP_MAX_BYTES) {
        err_set(&d->err, ERR_TOOBIG, "dump: %s would make it larger than %d tensors or %zu GiB", name,
                AVATAR_DUMP_MAX_ITEMS, AVATAR_DUMP_MAX_BYTES >> 30);
        return t;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap == 0 ? 32 : 2 * d->cap;
        struct safetensors_item *more = mem_realloc(d->items, cap * sizeof(*more));
        if (more == NULL) {
            err_set(&d->err, ERR_NOMEM, "dump: no memory for %s", name);
            return t;
        }
        d->items = more;
        d->cap = cap;
    }
    copy = mem_strdup(name);
    t.data = mem_alloc(bytes > 0 ? bytes : 1);
    if (copy == NULL || t.data == NULL) {
        mem_free(copy);
        mem_free(t.data);
        t.data = NULL;
        err_set(&d->err, ERR_NOMEM, "dump: no memory for the %zu bytes of %s", bytes, name);
        return t;
    }
    d->items[d->n].name = copy;
    d->items[d->n++].t = t;
    d->bytes += bytes;
    return t;
}

void avatar_dump_host(struct avatar_dump *d, const char *name, enum dtype dtype, int n_dims,
                      const int64_t *shape, const void *data)
{
    struct tensor t;

    if (!avatar_dump_is_on(d))
        return;
    t = avatar_dump_room(d, name, dtype, n_dims, shape);
    if (t.data != NULL)
        memcpy(t.data, data, tensor_bytes(t));
}

void avatar_dump_tensor(struct avatar_dump *d, struct run *r, const char *name, struct tensor t, int n_dims,
                        const int64_t *shape)
{
    struct tensor copy;

    if (!avatar_dump_is_on(d) || run_failed(r) || r->table == NULL)
        return;
    copy = avatar_dump_room(d, name, t.dtype, n_dims, shape);
    if (copy.data != NULL)
        run_read(r, t, copy.data);
}

int avatar_dump_write(struct avatar_dump *d, struct err *err)
{
    if (d->path == NULL)
        return 0;
    if (d->err.code != 0)
        return err_set(err, d->err.code, "%s", d->err.text);
    return safetensors_write(d->path, d->items, d->n, err);
}
