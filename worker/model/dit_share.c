#include "worker/model/dit_share.h"

#include <math.h>

void dit_share_init(struct dit_share *ret, const struct comm_set *set, int64_t T, int64_t P, int64_t n_text)
{
    const int n = set ? set->n : 1, me = set ? set->me : 0;
    *ret = (struct dit_share){.set = set, .P = P, .T = T};
    for (int i = 0; i < n; i++) {
        ret->video[i] = T * comm_part(P, n, i);
        ret->rows[i] = (T + 1) * comm_part(P, n, i) + comm_part(n_text, n, i);
    }
    ret->at = comm_part_at(P, n, me);
    ret->n = comm_part(P, n, me);
    ret->text_at = comm_part_at(n_text, n, me);
    ret->n_text = comm_part(n_text, n, me);
}

static struct tensor attention(struct run *r, const struct dit_dims *s, struct tensor q, struct tensor k, struct tensor v)
{
    struct attn a = {.kind = ATTN_FULL, .scale = 1.0f / sqrtf((float)s->head)};
    return op_attention(r, q, k, v, a);
}

/* x [S, parts, heads, D] -> [all S, parts, mine, D]: every place sends this rank its rows of this rank's heads. */
static struct tensor to_heads(struct run *r, const struct dit_dims *s, const struct dit_share *share, struct tensor x,
                              const int64_t *rows)
{
    const struct comm_set *set = share->set;
    const int64_t S = x.shape[0], parts = x.shape[1], D = s->head, mine = comm_part(s->heads, set->n, set->me);
    int64_t n_out[COMM_MAX], n_in[COMM_MAX], all = 0, at = 0;
    for (int i = 0; i < set->n; i++) {
        n_in[i] = rows[i] * parts * mine * D;
        n_out[i] = S * parts * comm_part(s->heads, set->n, i) * D;
        all += rows[i];
    }
    struct tensor y = run_new(r, DTYPE_F32, 4, SHAPE(all, parts, mine, D));
    const size_t mark = run_mark(r);
    struct tensor out = run_new(r, DTYPE_F32, 1, SHAPE(S * parts * s->heads * D));
    for (int i = 0; i < set->n; at += n_out[i++]) {
        const int64_t n = comm_part(s->heads, set->n, i);
        op_copy_into(r, tensor_view(tensor_slice(out, 0, at, n_out[i]), 4, SHAPE(S, parts, n, D)),
                     tensor_slice(x, 2, comm_part_at(s->heads, set->n, i), n));
    }
    comm_all_to_all(r, set, y, n_in, out, n_out);
    run_rewind(r, mark);
    return y;
}

/* o [all S, mine, D] -> y [S, heads, D]: the way back. */
static void from_heads(struct run *r, const struct dit_dims *s, const struct dit_share *share, struct tensor o,
                       const int64_t *rows, struct tensor y)
{
    const struct comm_set *set = share->set;
    const int64_t S = y.shape[0], D = s->head, mine = comm_part(s->heads, set->n, set->me);
    int64_t n_out[COMM_MAX], n_in[COMM_MAX], at = 0;
    for (int i = 0; i < set->n; i++) {
        n_out[i] = rows[i] * mine * D;
        n_in[i] = S * comm_part(s->heads, set->n, i) * D;
    }
    const size_t mark = run_mark(r);
    struct tensor in = run_new(r, DTYPE_F32, 1, SHAPE(S * s->heads * D));
    comm_all_to_all(r, set, in, n_in, tensor_view(o, 1, SHAPE(tensor_count(o))), n_out);
    for (int i = 0; i < set->n; at += n_in[i++]) {
        const int64_t n = comm_part(s->heads, set->n, i);
        op_copy_into(r, tensor_slice(y, 1, comm_part_at(s->heads, set->n, i), n),
                     tensor_view(tensor_slice(in, 0, at, n_in[i]), 3, SHAPE(S, n, D)));
    }
    run_rewind(r, mark);
}

/* Part i of t [S, parts, heads, D] as attention wants it. */
static struct tensor part_of(struct tensor t, int i)
{
    const int64_t *n = t.shape;
    return tensor_at(tensor_view(t, 5, SHAPE(1, n[0], n[1], n[2], n[3])), 2, i);
}

struct tensor dit_share_attend(struct run *r, const struct dit_dims *s, const struct dit_share *share, struct tensor q,
                               const int64_t *n_q, struct tensor kv, int first, const int64_t *n_kv)
{
    const int64_t S = q.shape[0];
    if (!share)
        return tensor_view(attention(r, s, part_of(q, 0), part_of(kv, first), part_of(kv, first + 1)), 2,
                           SHAPE(S, q.shape[2] * s->head));
    struct tensor y = run_new(r, DTYPE_F32, 3, SHAPE(S, s->heads, s->head)), all_q, all_kv, o;
    const size_t mark = run_mark(r);
    all_kv = to_heads(r, s, share, kv, n_kv);
    all_q = first ? all_kv : to_heads(r, s, share, q, n_q);
    o = run_new(r, DTYPE_F32, 3, SHAPE(all_q.shape[0], all_q.shape[2], s->head));
    if (all_q.shape[2] > 0) /* a rank without heads only passes tokens on */
        o = attention(r, s, part_of(all_q, 0), part_of(all_kv, first), part_of(all_kv, first + 1));
    from_heads(r, s, share, o, n_q, y);
    run_rewind(r, mark);
    return tensor_view(y, 2, SHAPE(S, s->hidden));
}

struct tensor dit_share_tokens(struct run *r, const struct dit_share *share, struct tensor tokens)
{
    const struct comm_set *set = share->set;
    const int64_t C = tokens.shape[1], T = share->T;
    int64_t n[COMM_MAX], at = 0;
    struct tensor all = run_new(r, DTYPE_F32, 3, SHAPE(T, share->P, C));
    const size_t mark = run_mark(r);
    struct tensor in = run_new(r, DTYPE_F32, 1, SHAPE(T * share->P * C));
    for (int i = 0; i < set->n; i++)
        n[i] = share->video[i] * C;
    comm_all_gather(r, set, in, n, tokens);
    for (int i = 0; i < set->n; at += n[i++]) {
        const int64_t own = comm_part(share->P, set->n, i);
        op_copy_into(r, tensor_slice(all, 1, comm_part_at(share->P, set->n, i), own),
                     tensor_view(tensor_slice(in, 0, at, n[i]), 3, SHAPE(T, own, C)));
    }
    run_rewind(r, mark);
    return tensor_view(all, 2, SHAPE(T * share->P, C));
}

struct tensor dit_share_rows(struct run *r, const struct dit_share *share, struct tensor x)
{
    const int64_t frames = x.shape[0] / share->P, C = x.shape[1];
    struct tensor all = tensor_view(x, 3, SHAPE(frames, share->P, C));
    return tensor_view(op_copy(r, tensor_slice(all, 1, share->at, share->n), DTYPE_F32), 2, SHAPE(frames * share->n, C));
}
