/* ref_move.c -- moving elements: copies, look-ups, patches. */
#include <string.h>

#include "kernels/cpu/ref.h"

static bool is_whole(enum dtype t)
{
    return t == DTYPE_U8 || t == DTYPE_BOOL || t == DTYPE_I8 || t == DTYPE_I16 || t == DTYPE_I32 ||
           t == DTYPE_I64;
}

static int64_t read_whole(const void *p, enum dtype t)
{
    switch (t) {
    case DTYPE_BOOL:
        return *(const uint8_t *)p != 0;
    case DTYPE_I8:
        return *(const int8_t *)p;
    case DTYPE_I16:
        return *(const int16_t *)p;
    case DTYPE_I32:
        return *(const int32_t *)p;
    case DTYPE_I64:
        return *(const int64_t *)p;
    default:
        return *(const uint8_t *)p;
    }
}

/* What does not fit is cut, as in a cast. */
static void write_whole(void *p, enum dtype t, int64_t v)
{
    switch (t) {
    case DTYPE_BOOL:
        *(uint8_t *)p = v != 0;
        break;
    case DTYPE_I8:
        *(int8_t *)p = (int8_t)v;
        break;
    case DTYPE_I16:
        *(int16_t *)p = (int16_t)v;
        break;
    case DTYPE_I32:
        *(int32_t *)p = (int32_t)v;
        break;
    case DTYPE_I64:
        *(int64_t *)p = v;
        break;
    default:
        *(uint8_t *)p = (uint8_t)v;
        break;
    }
}

/* n elements, each side with its own step in elements. */
static void copy_row(char *q, enum dtype to, int64_t q_step, const char *p, enum dtype from, int64_t p_step,
                     int64_t n, float scale)
{
    int64_t q_size = (int64_t)dtype_bytes(to), p_size = (int64_t)dtype_bytes(from);
    bool same = to == from && scale == 1, whole = is_whole(to) && is_whole(from);
    for (int64_t k = 0; k < n; k++, p += p_step * p_size, q += q_step * q_size) {
        if (same) {
            memcpy(q, p, (size_t)q_size);
        } else if (whole) {
            write_whole(q, to, read_whole(p, from));
        } else {
            float v;
            dtype_read_f32(&v, p, from, 1, scale);
            dtype_write_f32(q, to, &v, 1);
        }
    }
}

int cpu_ref_copy(struct run *r, struct tensor dst, struct tensor x)
{
    (void)r;
    int last = x.n_dims - 1;
    int64_t n = x.shape[last], q_size = (int64_t)dtype_bytes(dst.dtype),
            p_size = (int64_t)dtype_bytes(x.dtype);
    float scale = x.dtype == DTYPE_F8E4M3 && x.scale ? x.scale[0] : 1;
    for (int64_t i = 0; n > 0 && i < tensor_rows(x); i++) {
        char *q = (char *)dst.data + ref_offset(dst, i) * q_size;
        const char *p = (const char *)x.data + ref_offset(x, i) * p_size;
        copy_row(q, dst.dtype, dst.stride[last], p, x.dtype, x.stride[last], n, scale);
    }
    return 0;
}

static int check_index(struct run *r, int64_t index, int64_t n)
{
    if (index >= 0 && index < n)
        return 0;
    return run_fail(r, ERR_SHAPE, "index %lld is outside the dimension of %lld", (long long)index,
                    (long long)n);
}

int cpu_ref_gather(struct run *r, struct tensor y, struct tensor x, int dim, struct tensor idx)
{
    struct ref_split from = ref_split(x, dim), to = ref_split(y, dim);
    const int32_t *index = idx.data;
    int64_t size = (int64_t)dtype_bytes(x.dtype);
    for (int64_t i = 0; i < idx.shape[0]; i++) {
        int rc = check_index(r, index[i], x.shape[dim]);
        if (rc < 0)
            return rc;
        for (int64_t b = 0; b < from.n_before; b++) {
            const char *p =
                (const char *)x.data + (ref_element(from.before, b) + index[i] * x.stride[dim]) * size;
            float *q = (float *)y.data + ref_element(to.before, b) + i * y.stride[dim];
            for (int64_t a = 0; a < from.n_after; a++)
                dtype_read_f32(q + ref_element(to.after, a), p + ref_element(from.after, a) * size, x.dtype,
                               1, 1);
        }
    }
    return 0;
}

int cpu_ref_scatter_add(struct run *r, struct tensor dst, int dim, struct tensor idx, struct tensor src)
{
    struct ref_split from = ref_split(src, dim), to = ref_split(dst, dim);
    const int32_t *index = idx.data;
    for (int64_t i = 0; i < idx.shape[0]; i++) {
        int rc = check_index(r, index[i], dst.shape[dim]);
        if (rc < 0)
            return rc;
        for (int64_t b = 0; b < from.n_before; b++) {
            const float *p = (const float *)src.data + ref_element(from.before, b) + i * src.stride[dim];
            float *q = (float *)dst.data + ref_element(to.before, b) + index[i] * dst.stride[dim];
            for (int64_t a = 0; a < from.n_after; a++)
                q[ref_element(to.after, a)] += p[ref_element(from.after, a)];
        }
    }
    return 0;
}

/* Copies between latents [C, T, h, w] and tokens [T (h/2) (w/2), C*4], either way. */
static void patches(struct tensor latents, struct tensor tokens, bool to_tokens)
{
    int64_t h = latents.shape[2], w = latents.shape[3];
    for (int64_t c = 0; c < latents.shape[0]; c++) {
        for (int64_t t = 0; t < latents.shape[1]; t++) {
            for (int64_t i = 0; i < h * w; i++) {
                int64_t y = i / w, x = i % w, token = (t * (h / 2) + y / 2) * (w / 2) + x / 2;
                float *a = ref_at4(latents, c, t, y, x),
                      *b = ref_row(tokens, token) + c * 4 + y % 2 * 2 + x % 2;
                if (to_tokens)
                    *b = *a;
                else
                    *a = *b;
            }
        }
    }
}

int cpu_ref_patchify(struct run *r, struct tensor y, struct tensor x)
{
    (void)r;
    patches(x, y, true);
    return 0;
}

int cpu_ref_unpatchify(struct run *r, struct tensor y, struct tensor x)
{
    (void)r;
    patches(y, x, false);
    return 0;
}
