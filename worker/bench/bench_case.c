#include "worker/bench/bench_case.h"

#include <string.h>

#include "kernels/device.h"
#include "common/mem.h"
#include "common/str.h"
#include "worker/model/ckpt_random.h"

enum { DRAWN = 1 << 20 };

/* A million of them, again and again: drawing takes a CPU far longer than copying. */
struct tensor bench_case_draw(struct run *r, int n_dims, const int64_t *shape)
{
    struct tensor t = run_new(r, DTYPE_F32, n_dims, shape);
    const int64_t all = tensor_count(t), n = all < DRAWN ? all : DRAWN;
    size_t mark = run_mark(r);
    struct tensor some = op_randn(r, 1, (uint32_t)r->n_ops, 1, SHAPE(n)), flat = tensor_view(t, 1, SHAPE(all));
    for (int64_t at = 0, k; at < all; at += k) {
        k = n < all - at ? n : all - at;
        op_copy_into(r, tensor_slice(flat, 0, at, k), tensor_slice(some, 0, 0, k));
    }
    run_rewind(r, mark);
    return t;
}

static int upload(struct run *r, struct ckpt *c, const char *name, struct tensor *ret, struct err *err)
{
    return device_upload(r->device, ckpt_find(c, name), ret, err);
}

void bench_case_weights(struct run *r, struct bench_case *c, int n_dims, const int64_t *shape)
{
    char list[256], dims[96] = "";
    struct err err = {0};
    c->w = tensor_of(NULL, DTYPE_BF16, n_dims, shape);
    c->b = tensor_of(NULL, DTYPE_BF16, 1, shape);
    if (!r->table || run_failed(r))
        return;
    for (int i = 0; i < n_dims; i++) {
        char before[96];
        str_copy(before, sizeof before, dims);
        str_format(dims, sizeof dims, "%s%s%lld", before, i ? "x" : "", (long long)shape[i]);
    }
    str_format(list, sizeof list, "w\tbfloat16\t%s\nbias\tbfloat16\t%lld\n", dims, (long long)shape[0]);
    int rc = ckpt_open_random(&c->weights, list, strlen(list), 1, &err);
    if (rc == 0)
        rc = upload(r, c->weights, "w", &c->w, &err);
    if (rc == 0)
        rc = upload(r, c->weights, "bias", &c->b, &err);
    if (rc < 0)
        run_fail(r, rc, "%s", err.text);
}

struct tensor bench_case_indices(struct run *r, int64_t n, int64_t step, int64_t below)
{
    int32_t *host = r->table ? mem_calloc((size_t)n, sizeof *host) : NULL;
    if (r->table && !host) {
        run_fail(r, ERR_NOMEM, "no memory for %lld indices", (long long)n);
        return run_new(r, DTYPE_I32, 1, SHAPE(n));
    }
    for (int64_t i = 0; host && i < n; i++)
        host[i] = (int32_t)(i * step % below);
    struct tensor t = host ? run_write(r, host, DTYPE_I32, 1, SHAPE(n)) : run_new(r, DTYPE_I32, 1, SHAPE(n));
    mem_free(host);
    return t;
}

void bench_case_done(struct run *r, struct bench_case *c)
{
    if (c->weights && r->device)
        ckpt_forget(c->weights, r->device);
    ckpt_close(c->weights);
    c->weights = NULL;
}
