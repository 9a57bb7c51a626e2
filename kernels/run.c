#include "kernels/run.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "common/str.h"
#include "kernels/comm/comm.h"
#include "kernels/device.h"
#include "kernels/table.h"

#define ALIGN 64
#define ARENA_DEFAULT ((size_t)1 << 40)
#define ARENA_LEAST ((size_t)1 << 30)

/* Address space only: pages come with the first touch, and stay for reuse. Some machines limit address space,
 * so a ceiling nobody asked for shrinks until it is granted. */
static int reserve(struct run *r, struct err *err)
{
    size_t bytes = r->arena_max ? r->arena_max : ARENA_DEFAULT;
    void *p = MAP_FAILED;
    for (;;) {
        p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED || r->arena_max || bytes <= ARENA_LEAST)
            break;
        bytes /= 2;
    }
    if (p == MAP_FAILED)
        return err_set(err, ERR_NOMEM, "run: %zu bytes of address space for activations: %s", bytes,
                       strerror(errno));
    madvise(p, bytes, MADV_HUGEPAGE); /* advice: a kernel without it is fine */
    madvise(p, bytes, MADV_DONTDUMP);
    r->arena = p;
    r->arena_max = bytes;
    return 0;
}

int run_init(struct run *r, struct device *device, size_t arena_max, struct err *err)
{
    *r = (struct run){.device = device, .arena_max = arena_max};
    if (device) {
        r->table = device->table;
        r->shadow = device->shadow;
    } else {
        if (!arena_max)
            r->arena_max = SIZE_MAX / 2;
        return 0;
    }
    if (!device->hooks->arena_new)
        return reserve(r, err);
    void *p;
    int rc = device->hooks->arena_new(device, &r->arena_max, &p, err);
    if (rc < 0)
        return rc;
    r->arena = p;
    return 0;
}

void run_init_in(struct run *r, struct device *device, void *arena, size_t bytes)
{
    *r = (struct run){.device = device, .table = device->table, .shadow = device->shadow, .is_lent = true};
    run_move(r, arena, bytes);
}

void run_move(struct run *r, void *arena, size_t bytes)
{
    r->arena = arena;
    r->arena_max = bytes;
    r->arena_used = 0;
}

void run_done(struct run *r)
{
    if (!r->arena || r->is_lent)
        return;
    if (r->device->hooks->arena_free)
        r->device->hooks->arena_free(r->device, r->arena, r->arena_max);
    else
        munmap(r->arena, r->arena_max);
    r->arena = NULL;
}

void run_reset(struct run *r)
{
    err_clear(&r->err);
    r->arena_used = r->arena_peak = 0;
    r->flops = r->bytes = r->traffic = r->brought = 0;
    r->n_ops = 0;
    r->op = NULL;
    r->label[0] = 0;
    r->label_depth = 0;
}

bool run_failed(const struct run *r)
{
    return r->err.code != 0;
}

int run_fail(struct run *r, int code, const char *fmt, ...)
{
    if (run_failed(r))
        return code;
    char text[sizeof r->err.text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (r->op && r->label[0])
        err_set(&r->err, code, "%s (%s): %s", r->op, r->label, text);
    else if (r->op || r->label[0])
        err_set(&r->err, code, "%s: %s", r->op ? r->op : r->label, text);
    else
        err_set(&r->err, code, "%s", text);
    return code;
}

size_t run_mark(const struct run *r)
{
    return r->arena_used;
}

void run_rewind(struct run *r, size_t mark)
{
    if (mark < r->arena_used)
        r->arena_used = mark;
}

/* Bytes of shape rounded up to the alignment; false when there is no such number. */
static bool bytes_of(enum dtype dtype, int n_dims, const int64_t *shape, size_t *ret)
{
    size_t n = dtype_bytes(dtype);
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(n, (size_t)shape[i], &n))
            return false;
    }
    if (n > SIZE_MAX / 4)
        return false;
    *ret = (n + ALIGN - 1) / ALIGN * ALIGN;
    return true;
}

struct tensor run_new(struct run *r, enum dtype dtype, int n_dims, const int64_t *shape)
{
    size_t n;
    if (n_dims < 1 || n_dims > TENSOR_MAX_DIMS || !bytes_of(dtype, n_dims, shape, &n)) {
        run_fail(r, ERR_SHAPE, "a tensor of %d dimensions with a negative or endless size was asked for",
                 n_dims);
        return TENSOR_NONE;
    }
    struct tensor t = tensor_of(NULL, dtype, n_dims, shape);
    if (run_failed(r))
        return t;
    if (n > r->arena_max - r->arena_used) {
        char want[32], max[32], used[32], what[128];
        run_fail(r, ERR_NOMEM, "no room for %s: %s more wanted, %s of %s are in use",
                 tensor_format(t, what, sizeof what), str_bytes(want, sizeof want, n),
                 str_bytes(used, sizeof used, r->arena_used), str_bytes(max, sizeof max, r->arena_max));
        return t;
    }
    if (r->arena)
        t.data = r->arena + r->arena_used;
    r->arena_used += n;
    if (r->arena_used > r->arena_peak)
        r->arena_peak = r->arena_used;
    return t;
}

struct tensor run_write(struct run *r, const void *host, enum dtype dtype, int n_dims, const int64_t *shape)
{
    struct tensor t = run_new(r, dtype, n_dims, shape);
    size_t n = tensor_bytes(t);
    if (!t.data || n == 0)
        return t;
    const struct device_hooks *hooks = r->device->hooks;
    r->unrepeatable = true;
    if (!hooks->write) {
        memcpy(t.data, host, n);
        return t;
    }
    int rc = hooks->write(r->device, t.data, host, n);
    if (rc < 0)
        run_fail(r, rc, "%zu bytes could not be copied to %s", n, r->device->name);
    return t;
}

/* Exchanges that only the device waits for end when one fails, and leave what is no result. */
static void check_group(struct run *r)
{
    struct comm *c = r->group ? r->group->comm : NULL;
    struct err err = {0};
    if (c && c->carrier->on_device && c->carrier->check(c, &err) < 0)
        run_fail(r, err.code, "%s", err.text);
}

int run_read(struct run *r, struct tensor t, void *host)
{
    size_t n = tensor_bytes(t), mark = run_mark(r);
    if (run_failed(r) || !r->table || n == 0)
        return r->err.code;
    if (!t.data)
        return run_fail(r, ERR_INTERNAL, "a tensor without data is read");
    if (!tensor_is_contiguous(t)) {
        struct tensor packed = run_new(r, t.dtype, t.n_dims, t.shape);
        int rc = run_failed(r) ? r->err.code : r->table->copy(r, packed, t);
        if (rc < 0)
            return run_fail(r, rc, "a view could not be packed");
        t = packed;
    }
    const struct device_hooks *hooks = r->device->hooks;
    r->unrepeatable = true;
    if (!hooks->read) {
        memcpy(host, t.data, n);
    } else {
        int rc = hooks->read(r->device, host, t.data, n);
        if (rc < 0)
            run_fail(r, rc, "%zu bytes could not be copied from %s", n, r->device->name);
        else
            check_group(r);
    }
    run_rewind(r, mark);
    return r->err.code;
}

void run_push(struct run *r, const char *fmt, ...)
{
    size_t len = strlen(r->label);
    int depth = r->label_depth++;
    if (depth >= (int)(sizeof r->label_len / sizeof r->label_len[0]))
        return;
    r->label_len[depth] = (short)len;
    if (len > 0 && len + 1 < sizeof r->label) {
        r->label[len++] = '/';
        r->label[len] = 0;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->label + len, sizeof r->label - len, fmt, ap);
    va_end(ap);
}

void run_pop(struct run *r)
{
    if (r->label_depth == 0)
        return;
    int depth = --r->label_depth;
    if (depth < (int)(sizeof r->label_len / sizeof r->label_len[0]))
        r->label[r->label_len[depth]] = 0;
}

void run_tap(struct run *r, struct tensor t, const char *fmt, ...)
{
    if (!r->tap || run_failed(r))
        return;
    char name[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    r->tap(r->tap_arg, r, name, t);
}
