#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/pool.h"
#include "worker/model/ckpt.h"

/* What CUDA rounds an allocation up to, from LARGE on. */
#define LARGE ((size_t)1 << 20)
#define PAGE ((size_t)2 << 20)
#define ALIGN ((size_t)512)
#define MAX_PROBLEMS 8 /* named in the message; the rest is counted */

void binder_init(struct binder *b, struct ckpt *c, struct device *device, const char *what)
{
    size_t n = ckpt_count(c);
    *b = (struct binder){.ckpt = c, .device = device, .what = what};
    buf_init(&b->problems, 4096);
    b->used = mem_zalloc(n ? n : 1);
    if (!b->used)
        err_set(&b->err, ERR_NOMEM, "%s: out of memory", what);
    ckpt_place(c)->block = binder_block(b, what, 0);
}

int binder_block(struct binder *b, const char *name, size_t offset)
{
    struct pool *pool = ckpt_place(b->ckpt)->pool;
    if (!pool)
        return 0;
    int n = pool_block(pool, name, offset);
    if (n < 0)
        err_set(&b->err, n, "%s: no memory for the list of its blocks", b->what);
    else
        b->block = n;
    return n;
}

size_t binder_end(const struct binder *b)
{
    const struct ckpt_place *p = ckpt_place(b->ckpt);
    return p->pool && b->err.code == 0 ? pool_end(p->pool, b->block) : 0;
}

void binder_slots(struct binder *b, const char *name, int n, size_t *at, binder_layer_fn *fn, void *arg, int *block,
                  size_t *end)
{
    const struct ckpt_place *p = ckpt_place(b->ckpt);
    const int before = b->block, step = p->pool && p->is_streamed ? 2 : 1;
    *end = *at;
    for (int slot = 0; slot < step; slot++) {
        *at = *end;
        for (int i = slot; i < n; i += step) {
            char text[64];
            str_format(text, sizeof text, "%s %d", name, i);
            block[i] = step == 2 ? binder_block(b, text, *at) : before;
            fn(b, arg, i);
            *end = binder_end(b) > *end ? binder_end(b) : *end;
        }
    }
    b->block = before;
}

static void note(struct binder *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(struct binder *b, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    if (b->n_problems++ >= MAX_PROBLEMS)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    buf_printf(&b->problems, "%s%s", b->n_problems > 1 ? "; " : "", text);
}

/* Index of a name in the sorted checkpoint, or -1. */
static ptrdiff_t find(const struct ckpt *c, const char *name)
{
    size_t lo = 0, hi = ckpt_count(c);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = strcmp(ckpt_name(c, mid), name);
        if (order == 0)
            return (ptrdiff_t)mid;
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

static bool is_float(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F64 || t == DTYPE_BF16 || t == DTYPE_F16 || t == DTYPE_F8E4M3;
}

/* The stored tensor of that name, if it is what is wanted; else ret is of the wanted shape, without data. */
static bool take(struct binder *b, struct tensor *ret, const char *name, int n_dims, const int64_t *shape)
{
    struct tensor want = tensor_of(NULL, DTYPE_F32, n_dims, shape);
    char got_text[96], want_text[96];
    *ret = want;
    if (b->err.code < 0)
        return false;
    ptrdiff_t i = find(b->ckpt, name);
    if (i < 0) {
        note(b, "%s is missing", name);
        return false;
    }
    b->used[i] = 1;
    struct tensor t = ckpt_tensor(b->ckpt, (size_t)i);
    if (!tensor_same_shape(t, want) || !is_float(t.dtype)) {
        note(b, "%s is %s, wanted %s", name, tensor_format(t, got_text, sizeof got_text),
             tensor_format(want, want_text, sizeof want_text));
        return false;
    }
    if (t.dtype == DTYPE_F8E4M3 && !t.scale) {
        note(b, "%s is fp8 without a scale: the fp8 map is needed", name);
        return false;
    }
    *ret = t;
    return true;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

void binder_bind(struct binder *b, struct tensor *ret, const char *name, int n_dims, const int64_t *shape)
{
    struct pool *pool = ckpt_place(b->ckpt)->pool;
    struct tensor host;
    size_t unit;
    int rc = 0;
    *ret = tensor_of(NULL, DTYPE_F32, n_dims, shape);
    if (!take(b, &host, name, n_dims, shape))
        return;
    *ret = host;
    ret->data = NULL;
    unit = tensor_bytes(host) > LARGE ? PAGE : ALIGN;
    if (pool)
        rc = pool_place(pool, b->block, host, ret, &b->err);
    else if (b->device && host.data)
        rc = device_upload(b->device, host, ret, &b->err);
    if (rc < 0)
        err_wrap(&b->err, "%s: %s", b->what, name);
    if (!b->device)
        ret->data = NULL;
    b->apart += (tensor_bytes(host) + unit - 1) / unit * unit;
    b->bytes = pool && rc == 0 ? larger(b->bytes, binder_end(b)) : b->bytes + tensor_bytes(host);
}

void binder_host(struct binder *b, struct tensor *ret, const char *name, int n_dims, const int64_t *shape)
{
    if (take(b, ret, name, n_dims, shape) && !b->device)
        ret->data = NULL;
}

void binder_bindf(struct binder *b, struct tensor *ret, int n_dims, const int64_t *shape, const char *fmt, ...)
{
    char name[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    binder_bind(b, ret, name, n_dims, shape);
}

void bind_ignore(struct binder *b, const char *prefix)
{
    for (size_t i = 0; b->used && i < ckpt_count(b->ckpt); i++)
        if (str_starts(ckpt_name(b->ckpt, i), prefix))
            b->used[i] = 1;
}

int binder_finish(struct binder *b, bool strict, struct err *err)
{
    int rc = b->err.code;
    ckpt_place(b->ckpt)->bytes = b->bytes;
    ckpt_place(b->ckpt)->apart = b->apart;
    for (size_t i = 0; rc == 0 && strict && i < ckpt_count(b->ckpt); i++)
        if (!b->used[i])
            note(b, "%s is not a part of it", ckpt_name(b->ckpt, i));
    if (rc < 0)
        err_set(err, rc, "%s", b->err.text);
    else if (b->n_problems > MAX_PROBLEMS)
        rc = err_set(err, ERR_WEIGHTS, "%s: %s; and %zu more", b->what, b->problems.data,
                     b->n_problems - MAX_PROBLEMS);
    else if (b->n_problems > 0)
        rc = err_set(err, ERR_WEIGHTS, "%s: %s", b->what,
                     b->problems.data ? b->problems.data : "weights do not match");
    mem_free(b->used);
    buf_done(&b->problems);
    *b = (struct binder){0};
    return rc;
}
