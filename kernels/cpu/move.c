/* move.c -- moving elements. Copies are first brought to as few dimensions as both sides allow; then they are
 * runs (last dimension contiguous on both sides) or, for a transpose, square tiles that keep both sides in
 * the cache. */
#include "kernels/cpu/isa_rows.h"

#define TILE 16

struct shape {
    int n_dims;
    int64_t n[TENSOR_MAX_DIMS], to[TENSOR_MAX_DIMS], from[TENSOR_MAX_DIMS]; /* sizes, strides of dst and x */
};

/* Leaves out dimensions of one element and joins those that follow each other in both tensors. */
static struct shape joined(struct tensor dst, struct tensor x)
{
    struct shape s = {0};
    for (int i = 0; i < x.n_dims; i++) {
        int last = s.n_dims - 1;
        if (x.shape[i] == 1)
            continue;
        if (last >= 0 && s.to[last] == dst.stride[i] * x.shape[i] &&
            s.from[last] == x.stride[i] * x.shape[i]) {
            s.n[last] *= x.shape[i];
            s.to[last] = dst.stride[i];
            s.from[last] = x.stride[i];
            continue;
        }
        s.n[s.n_dims] = x.shape[i];
        s.to[s.n_dims] = dst.stride[i];
        s.from[s.n_dims++] = x.stride[i];
    }
    if (s.n_dims == 0)
        s = (struct shape){.n_dims = 1, .n = {1}, .to = {1}, .from = {1}};
    return s;
}

/* Offsets of element i of the dimensions in front of the last `inner`. */
static void offsets(const struct shape *s, int inner, int64_t i, int64_t *ret_to, int64_t *ret_from)
{
    int64_t to = 0, from = 0;
    for (int d = s->n_dims - inner - 1; d >= 0; d--) {
        to += i % s->n[d] * s->to[d];
        from += i % s->n[d] * s->from[d];
        i /= s->n[d];
    }
    *ret_to = to;
    *ret_from = from;
}

static int64_t outer(const struct shape *s, int inner)
{
    int64_t n = 1;
    for (int d = 0; d < s->n_dims - inner; d++)
        n *= s->n[d];
    return n;
}

/* Runs of s->n[last] elements, cut into pieces. */
static void copy_runs(struct tensor dst, struct tensor x, const struct shape *s)
{
    int64_t run = s->n[s->n_dims - 1], size = (int64_t)dtype_bytes(x.dtype),
            per = (run + ROWS_PIECE - 1) / ROWS_PIECE;
    int64_t n = outer(s, 1) * per;
#pragma omp parallel for schedule(static) if (tensor_count(x) >= ROWS_MANY)
    for (int64_t i = 0; i < n; i++) {
        int64_t to, from, first = i % per * ROWS_PIECE,
                          len = run - first < ROWS_PIECE ? run - first : ROWS_PIECE;
        offsets(s, 1, i / per, &to, &from);
        memcpy((char *)dst.data + (to + first) * size, (const char *)x.data + (from + first) * size,
               (size_t)(len * size));
    }
}

/* The same with a conversion by way of f32. */
static void convert_runs(struct tensor dst, struct tensor x, const struct shape *s)
{
    int64_t run = s->n[s->n_dims - 1], per = (run + 255) / 256, n = outer(s, 1) * per;
    int64_t to_size = (int64_t)dtype_bytes(dst.dtype), from_size = (int64_t)dtype_bytes(x.dtype);
    float scale = x.dtype == DTYPE_F8E4M3 && x.scale ? x.scale[0] : 1;
#pragma omp parallel for schedule(static) if (tensor_count(x) >= ROWS_MANY)
    for (int64_t i = 0; i < n; i++) {
        float wide[256];
        int64_t to, from, first = i % per * 256, len = run - first < 256 ? run - first : 256;
        offsets(s, 1, i / per, &to, &from);
        char *d = (char *)dst.data + (to + first) * to_size;
        const char *p = (const char *)x.data + (from + first) * from_size;
        if (dst.dtype == DTYPE_F32) {
            dtype_read_f32((float *)(void *)d, p, x.dtype, len, scale);
            continue;
        }
        dtype_read_f32(wide, p, x.dtype, len, scale);
        dtype_write_f32(d, dst.dtype, wide, len);
    }
}

/* f32 where dst runs along the last dimension and x along dimension `d`: tiles of these two. */
static void transpose(struct tensor dst, struct tensor x, struct shape s, int d)
{
    int last = s.n_dims - 1;
    int64_t swap[3] = {s.n[d], s.to[d], s.from[d]}; /* d goes next to the last */
    for (int i = d; i < last - 1; i++) {
        s.n[i] = s.n[i + 1];
        s.to[i] = s.to[i + 1];
        s.from[i] = s.from[i + 1];
    }
    s.n[last - 1] = swap[0];
    s.to[last - 1] = swap[1];
    s.from[last - 1] = swap[2];
    int64_t a = s.n[last - 1], b = s.n[last], per = (a + TILE - 1) / TILE, n = outer(&s, 2) * per;
    int64_t to_step = s.to[last - 1], from_step = s.from[last], dst_step = s.to[last],
            x_step = s.from[last - 1];
#pragma omp parallel for schedule(static) if (tensor_count(x) >= ROWS_MANY)
    for (int64_t i = 0; i < n; i++) {
        int64_t to, from, first = i % per * TILE, len = a - first < TILE ? a - first : TILE;
        offsets(&s, 2, i / per, &to, &from);
        float *q = (float *)dst.data + to + first * to_step;
        const float *p = (const float *)x.data + from + first * x_step;
        for (int64_t at = 0; at < b; at += TILE) {
            int64_t width = b - at < TILE ? b - at : TILE;
            for (int64_t k = 0; k < len; k++) {
                for (int64_t c = 0; c < width; c++)
                    q[k * to_step + (at + c) * dst_step] = p[k * x_step + (at + c) * from_step];
            }
        }
    }
}

static bool is_float(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_BF16 || t == DTYPE_F16;
}

/* A dimension before the last along which one side is contiguous, or -1. */
static int contiguous_dim(const struct shape *s)
{
    int along = -1;
    for (int i = 0; i < s->n_dims - 1; i++)
        along = s->from[i] == 1 || s->to[i] == 1 ? i : along;
    return along;
}

int ISA_FN(copy)(struct run *r, struct tensor dst, struct tensor x)
{
    cpu_begin(r);
    if (tensor_count(x) == 0)
        return 0;
    struct shape s = joined(dst, x);
    int last = s.n_dims - 1, along = contiguous_dim(&s);
    bool same = dst.dtype == x.dtype && x.dtype != DTYPE_F8E4M3, runs = s.to[last] == 1 && s.from[last] == 1;
    if (runs && same)
        copy_runs(dst, x, &s);
    else if (runs && is_float(dst.dtype) && (is_float(x.dtype) || x.dtype == DTYPE_F8E4M3))
        convert_runs(dst, x, &s);
    else if (same && x.dtype == DTYPE_F32 && along >= 0)
        transpose(dst, x, s, along);
    else
        return cpu_ref_copy(r, dst, x);
    return 0;
}

/* Whole rows of a contiguous tail; anything else as the reference does. */
int ISA_FN(gather)(struct run *r, struct tensor y, struct tensor x, int dim, struct tensor idx)
{
    cpu_begin(r);
    struct ref_split from = ref_split(x, dim), to = ref_split(y, dim);
    const int32_t *index = idx.data;
    int64_t size = (int64_t)dtype_bytes(x.dtype), n = idx.shape[0], expected = 1;
    for (int d = from.after.n_dims - 1; d >= 0; d--) {
        if (from.after.shape[d] != 1 && from.after.stride[d] != expected)
            return cpu_ref_gather(r, y, x, dim, idx);
        expected *= from.after.shape[d];
    }
    if (from.n_after < 16)
        return cpu_ref_gather(r, y, x, dim, idx);
    for (int64_t i = 0; i < n; i++) {
        if (index[i] < 0 || index[i] >= x.shape[dim])
            return cpu_ref_gather(r, y, x, dim, idx); /* which says so */
    }
#pragma omp parallel for schedule(static) if (tensor_count(y) >= ROWS_MANY)
    for (int64_t k = 0; k < n * from.n_before; k++) {
        int64_t b = k / n, i = k % n;
        const char *p =
            (const char *)x.data + (ref_element(from.before, b) + index[i] * x.stride[dim]) * size;
        float *q = (float *)y.data + ref_element(to.before, b) + i * y.stride[dim];
        dtype_read_f32(q, p, x.dtype, from.n_after, 1);
    }
    return 0;
}

/* Both ways between latents [C, T, h, w] and tokens; threads share the tokens' rows (t, y). */
static void patches(struct run *r, struct tensor latents, struct tensor tokens, bool to_tokens)
{
    cpu_begin(r);
    int64_t n_c = latents.shape[0], h = latents.shape[2] / 2, w = latents.shape[3] / 2,
            n = latents.shape[1] * h;
    int64_t step = tokens.stride[0];
#pragma omp parallel for schedule(static) if (tensor_count(latents) >= ROWS_MANY)
    for (int64_t i = 0; i < n; i++) {
        for (int64_t c = 0; c < n_c; c++) {
            float *a = ref_at4(latents, c, i / h, i % h * 2, 0), *b = a + latents.stride[2];
            float *t = ref_row(tokens, i * w) + c * 4;
            for (int64_t x = 0; x < w && to_tokens; x++) {
                float *p = t + x * step;
                p[0] = a[2 * x];
                p[1] = a[2 * x + 1];
                p[2] = b[2 * x];
                p[3] = b[2 * x + 1];
            }
            for (int64_t x = 0; x < w && !to_tokens; x++) {
                const float *p = t + x * step;
                a[2 * x] = p[0];
                a[2 * x + 1] = p[1];
                b[2 * x] = p[2];
                b[2 * x + 1] = p[3];
            }
        }
    }
}

int ISA_FN(patchify)(struct run *r, struct tensor y, struct tensor x)
{
    patches(r, x, y, true);
    return 0;
}

int ISA_FN(unpatchify)(struct run *r, struct tensor y, struct tensor x)
{
    patches(r, y, x, false);
    return 0;
}
