#include "kernels/comm/comm.h"

int64_t comm_part_at(int64_t total, int n, int i)
{
    const int64_t more = total % n;
    return total / n * i + (i < more ? i : more);
}

int64_t comm_part(int64_t total, int n, int i)
{
    return total / n + (i < total % n);
}

/* Ranks first, first + step, ...: n of them, this one at place me. */
static struct comm_set every(int first, int step, int n, int me)
{
    struct comm_set s = {.n = n, .me = me};
    for (int i = 0; i < n; i++)
        s.rank[i] = (short)(first + step * i);
    return s;
}

static int degree(int n)
{
    return n > 0 ? n : 1;
}

int comm_group_init(struct comm_group *ret, struct comm *c, int rank, const struct comm_degrees *d, struct err *err)
{
    const int tokens = degree(d->tokens), pair = degree(d->pair), windows = degree(d->windows);
    if (tokens > COMM_MAX || windows > COMM_MAX || pair > 2 || tokens * pair * windows > COMM_MAX)
        return err_set(err, ERR_INVALID, "a group of %d x %d x %d ranks: %d at most, and 1 or 2 for the guidance rows", tokens,
                       pair, windows, COMM_MAX);
    const int size = tokens * pair * windows;
    if (rank < 0 || rank >= size || (c && (c->rank != rank || c->size != size)))
        return err_set(err, ERR_INVALID, "rank %d of %d does not fit a group of %d", c ? c->rank : rank, c ? c->size : size,
                       size);
    const int t = rank % tokens, p = rank / tokens % pair, w = rank / tokens / pair;
    *ret = (struct comm_group){
        .comm = c,
        .rank = rank,
        .size = size,
        .all = every(0, 1, size, rank),
        .tokens = every(rank - t, 1, tokens, t),
        .pair = every(rank - p * tokens, tokens, pair, p),
        .windows = every(rank - w * tokens * pair, tokens * pair, windows, w),
    };
    return 0;
}

void comm_abort(struct comm *c, int code, const char *why)
{
    if (c)
        c->carrier->abort(c, code, why);
}

void comm_close(struct comm *c)
{
    if (c)
        c->carrier->close(c);
}

static int say(struct comm *c, const struct comm_set *all, const struct comm_piece *out, const struct comm_piece *in,
               struct err *err)
{
    return (c->carrier->agree ? c->carrier->agree : c->carrier->exchange)(c, all, out, in, err);
}

int comm_share(struct comm *c, int root, void *data, size_t bytes, struct err *err)
{
    const struct comm_set all = every(0, 1, c->size, c->rank);
    struct comm_piece out[COMM_MAX] = {{NULL, 0}}, in[COMM_MAX] = {{NULL, 0}};
    for (int i = 0; i < c->size; i++)
        if (i != root && c->rank == root)
            out[i] = (struct comm_piece){data, bytes};
    if (c->rank != root)
        in[root] = (struct comm_piece){data, bytes};
    return say(c, &all, out, in, err);
}

int comm_tell(struct comm *c, void *all, size_t bytes, struct err *err)
{
    const struct comm_set set = every(0, 1, c->size, c->rank);
    struct comm_piece out[COMM_MAX] = {{NULL, 0}}, in[COMM_MAX] = {{NULL, 0}};
    for (int i = 0; i < c->size; i++) {
        if (i == c->rank)
            continue;
        out[i] = (struct comm_piece){(char *)all + (size_t)c->rank * bytes, bytes};
        in[i] = (struct comm_piece){(char *)all + (size_t)i * bytes, bytes};
    }
    return say(c, &set, out, in, err);
}
