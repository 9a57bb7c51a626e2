/* isa_rows.h -- how element-wise ops cut their work: pieces of rows, shared out when there are enough.
 *
 *     struct rows c = rows_of(rows_flat(x));
 *     #pragma omp parallel for if (c.many)
 *     for (int64_t i = 0; i < c.n_pieces; i++) {
 *         struct piece p = rows_piece(&c, i);
 *         float *x = rows_at(t, p);
 *         ... x[0 .. p.n)
 *     }
 */
#ifndef KERNELS_CPU_ISA_ROWS_H
#define KERNELS_CPU_ISA_ROWS_H

#include "kernels/cpu/isa_math.h"
#include "kernels/cpu/ref.h"

#define ROWS_PIECE 8192
#define ROWS_MANY 65536 /* elements that are worth waking a second thread for */

struct rows {
    int64_t n;        /* in a row */
    int64_t per_row;  /* pieces */
    int64_t n_pieces; /* in all */
    bool many;
};

struct piece {
    int64_t row, first, n;
};

/* A contiguous tensor as one row. */
ISA_INLINE struct tensor rows_flat(struct tensor t)
{
    return tensor_is_contiguous(t) && tensor_count(t) > 0 ? tensor_view(t, 1, SHAPE(tensor_count(t))) : t;
}

ISA_INLINE struct rows rows_of(struct tensor t)
{
    int64_t n = tensor_dim(t, -1), per_row = (n + ROWS_PIECE - 1) / ROWS_PIECE;
    return (struct rows){n, per_row, tensor_rows(t) * per_row, tensor_count(t) >= ROWS_MANY};
}

ISA_INLINE struct piece rows_piece(const struct rows *c, int64_t i)
{
    struct piece p = {.row = i / c->per_row, .first = i % c->per_row * ROWS_PIECE};
    p.n = c->n - p.first < ROWS_PIECE ? c->n - p.first : ROWS_PIECE;
    return p;
}

ISA_INLINE float *rows_at(struct tensor t, struct piece p)
{
    return ref_row(t, p.row) + p.first;
}

#endif
