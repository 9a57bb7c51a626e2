#include "kernels/comm/comm.h"

#include <string.h>

#include "common/mem.h"
#include "kernels/device.h"

/* A rank that has failed says so: the others would wait for it. */
static bool lets_go(struct run *r)
{
    if (run_failed(r) && r->group && r->group->comm && r->table)
        comm_abort(r->group->comm, r->err.code, r->err.text);
    return run_failed(r);
}

static int64_t sum(const int64_t *n, int k)
{
    int64_t all = 0;
    for (int i = 0; i < k; i++)
        all += n[i];
    return all;
}

static bool check(struct run *r, const char *what, struct tensor t, int64_t n)
{
    char text[96];
    if (tensor_is_none(t) ? n == 0 : tensor_is_contiguous(t) && tensor_count(t) == n)
        return true;
    run_fail(r, ERR_SHAPE, "%s, %s, is not %lld elements in one piece", what, tensor_format(t, text, sizeof(text)),
             (long long)n);
    return false;
}

/* t in pieces of n[i] elements. */
static void cut(struct comm_piece *ret, struct tensor t, const int64_t *n, int k)
{
    char *data = t.data;
    const size_t element = tensor_is_none(t) ? 0 : dtype_bytes(t.dtype);
    for (int i = 0; i < k; i++) {
        ret[i] = (struct comm_piece){data, (size_t)n[i] * element};
        data = data ? data + ret[i].bytes : NULL;
    }
}

/* ---- through host memory: a device whose memory the carrier does not take ---- */

static size_t bytes_of(const struct comm_piece *p, int n)
{
    size_t all = 0;
    for (int i = 0; i < n; i++)
        all += p[i].bytes;
    return all;
}

static int staged(struct run *r, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in,
                  struct err *err)
{
    struct device *d = r->device;
    struct comm_piece host_out[COMM_MAX], host_in[COMM_MAX];
    const size_t all = bytes_of(out, s->n) + bytes_of(in, s->n);
    char *host = mem_alloc(all + 1), *at = host;
    int rc = 0;
    if (!host)
        return err_set(err, ERR_NOMEM, "no memory for %zu bytes on their way", all);
    for (int i = 0; i < s->n && rc == 0; at += out[i++].bytes) {
        host_out[i] = (struct comm_piece){at, out[i].bytes};
        if (out[i].bytes)
            rc = d->hooks->read(d, at, out[i].data, out[i].bytes);
    }
    for (int i = 0; i < s->n && rc == 0; at += in[i++].bytes)
        host_in[i] = (struct comm_piece){at, in[i].bytes};
    if (rc == 0)
        rc = r->group->comm->carrier->exchange(r->group->comm, s, host_out, host_in, err);
    if (rc == 0 && out[s->me].bytes)
        memcpy(host_in[s->me].data, host_out[s->me].data, out[s->me].bytes);
    for (int i = 0; i < s->n && rc == 0; i++)
        if (in[i].bytes)
            rc = d->hooks->write(d, in[i].data, host_in[i].data, in[i].bytes);
    mem_free(host);
    return rc;
}

static int direct(struct run *r, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in,
                  struct err *err)
{
    struct comm *c = r->group->comm;
    if (out[s->me].bytes && !c->carrier->on_device)
        memcpy(in[s->me].data, out[s->me].data, out[s->me].bytes);
    return c->carrier->exchange(c, s, out, in, err);
}

/* ---- operations ---- */

static void move(struct run *r, const struct comm_set *s, const struct comm_piece *out, const struct comm_piece *in)
{
    struct err err = {0};
    int rc = 0;
    if (run_failed(r))
        return;
    r->traffic += (double)(bytes_of(out, s->n) - out[s->me].bytes);
    if (out[s->me].bytes != in[s->me].bytes)
        rc = err_set(&err, ERR_SHAPE, "%zu bytes for this rank itself, %zu wanted", out[s->me].bytes, in[s->me].bytes);
    else if (r->table && !r->device->is_host && !r->group->comm->carrier->on_device)
        rc = staged(r, s, out, in, &err);
    else if (r->table)
        rc = direct(r, s, out, in, &err);
    if (rc < 0)
        run_fail(r, rc, "%s", err.code ? err.text : err_text(rc));
}

static void end(struct run *r)
{
    lets_go(r);
    r->op = NULL;
}

void comm_all_to_all(struct run *r, const struct comm_set *s, struct tensor dst, const int64_t *n_dst, struct tensor src,
                     const int64_t *n_src)
{
    struct comm_piece out[COMM_MAX], in[COMM_MAX];
    if (lets_go(r))
        return;
    r->op = "all_to_all";
    check(r, "what comes", dst, sum(n_dst, s->n));
    check(r, "what goes", src, sum(n_src, s->n));
    cut(out, src, n_src, s->n);
    cut(in, dst, n_dst, s->n);
    move(r, s, out, in);
    end(r);
}

/* root < 0: all places take. */
static void collect(struct run *r, const struct comm_set *s, int root, struct tensor dst, const int64_t *n, struct tensor src)
{
    struct comm_piece out[COMM_MAX], in[COMM_MAX] = {{NULL, 0}};
    const bool takes = root < 0 || root == s->me;
    const size_t bytes = tensor_is_none(src) ? 0 : tensor_bytes(src);
    check(r, "what goes", src, n[s->me]);
    if (takes && check(r, "what comes", dst, sum(n, s->n)))
        cut(in, dst, n, s->n);
    for (int i = 0; i < s->n; i++)
        out[i] = (struct comm_piece){src.data, root < 0 || root == i ? bytes : 0};
    move(r, s, out, in);
}

void comm_all_gather(struct run *r, const struct comm_set *s, struct tensor dst, const int64_t *n, struct tensor src)
{
    if (lets_go(r))
        return;
    r->op = "all_gather";
    collect(r, s, -1, dst, n, src);
    end(r);
}

void comm_gather(struct run *r, const struct comm_set *s, int root, struct tensor dst, const int64_t *n, struct tensor src)
{
    if (lets_go(r))
        return;
    r->op = "gather";
    collect(r, s, root, dst, n, src);
    end(r);
}

void comm_broadcast(struct run *r, const struct comm_set *s, int root, struct tensor t)
{
    struct comm_piece out[COMM_MAX] = {{NULL, 0}}, in[COMM_MAX] = {{NULL, 0}};
    if (s->n == 1 || lets_go(r))
        return;
    r->op = "broadcast";
    check(r, "what is sent to all", t, tensor_count(t));
    for (int i = 0; i < s->n; i++)
        if (i != root)
            (s->me == root ? out : in)[s->me == root ? i : root] = (struct comm_piece){t.data, tensor_bytes(t)};
    move(r, s, out, in);
    end(r);
}

int comm_agree(struct run *r, const struct comm_set *s, int value)
{
    struct comm_piece out[COMM_MAX], in[COMM_MAX];
    int32_t mine = value, theirs[COMM_MAX];
    struct err err = {0};
    if (lets_go(r) || !r->table || s->n == 1)
        return value;
    for (int i = 0; i < s->n; i++) {
        out[i] = (struct comm_piece){&mine, sizeof(mine)};
        in[i] = (struct comm_piece){&theirs[i], sizeof(mine)};
    }
    theirs[s->me] = mine;
    const struct comm_carrier *carrier = r->group->comm->carrier;
    const int rc = (carrier->agree ? carrier->agree : carrier->exchange)(r->group->comm, s, out, in, &err);
    if (rc < 0) {
        run_fail(r, rc, "agree: %s", err.text);
        lets_go(r);
        return value;
    }
    for (int i = 0; i < s->n; i++)
        mine = theirs[i] > mine ? theirs[i] : mine;
    return mine;
}

void comm_agree_cancel(struct run *r)
{
    const struct comm_group *g = r->group;
    if (g && comm_agree(r, &g->all, g->cancel && atomic_load(g->cancel) != 0) && !run_failed(r))
        run_fail(r, ERR_CANCEL, "cancelled");
}
