/* conv.c -- convolution by oneDNN, channels last. The only door to that library.
 *
 * A plan is a primitive for one shape; it is made once and kept, as are weights in the layout that plans of
 * their shape want. 1 x 1 x 1 goes to the linear layer. Where the padding is not zeros, or the input is a
 * view, frames go through a padded copy of at most COPY_MAX bytes at a time.
 */
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"

#define DIMS(...) ((const dnnl_dims_t){__VA_ARGS__})
#define COPY_MAX ((int64_t)16 << 20)

struct engine {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

struct plan {
    dnnl_primitive_t primitive; /* NULL: oneDNN has nothing fast for this shape */
    dnnl_memory_t src, weights, bias, dst;
    dnnl_memory_desc_t weights_desc;
    bool has_act; /* the activation is part of it */
};

/* One call of a plan: n frames of x (in place or copied) to frames of y. */
struct job {
    struct tensor y, x, w, b;
    struct conv c;
    dnnl_dims_t pad_before, pad_after; /* t, y, x */
};

static void engine_free(void *value)
{
    struct engine *e = value;
    if (e->stream)
        dnnl_stream_destroy(e->stream);
    if (e->engine)
        dnnl_engine_destroy(e->engine);
    mem_free(e);
}

static struct engine *engine_get(struct cpu *s)
{
    if (s->dnnl)
        return s->dnnl;
    struct engine *e = mem_zalloc(sizeof *e);
    if (!e)
        return NULL;
    if (dnnl_engine_create(&e->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&e->stream, e->engine, dnnl_stream_default_flags) != dnnl_success) {
        engine_free(e);
        return NULL;
    }
    s->dnnl = e;
    s->dnnl_free = engine_free;
    return e;
}

/* ---- plans ---- */

static void plan_free(void *value)
{
    struct plan *p = value;
    dnnl_memory_t memories[] = {p->src, p->weights, p->bias, p->dst};
    for (int i = 0; i < 4; i++) {
        if (memories[i])
            dnnl_memory_destroy(memories[i]);
    }
    if (p->primitive)
        dnnl_primitive_destroy(p->primitive);
    mem_free(p);
}

static dnnl_status_t append_act(dnnl_post_ops_t ops, enum act act)
{
    switch (act) {
    case ACT_RELU:
        return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_relu, 0, 0);
    case ACT_SILU:
        return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_swish, 1, 0);
    case ACT_QUICK_GELU:
        return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_swish, 1.702f, 0);
    case ACT_SIGMOID:
        return dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_logistic, 0, 0);
    default:
        return act == ACT_NONE ? dnnl_success : dnnl_unimplemented; /* its GELUs are too coarse */
    }
}

/* Weights as the checkpoint has them: [Co, Ci/groups, t, y, x], with a dimension of groups in front when
 * grouped. */
static dnnl_status_t weights_desc(dnnl_memory_desc_t *d, const struct job *j, dnnl_format_tag_t plain,
                                  dnnl_format_tag_t grouped)
{
    const int64_t *w = j->w.shape;
    int64_t g = j->c.groups;
    if (g == 1)
        return dnnl_memory_desc_init_by_tag(d, 5, DIMS(w[0], w[1], w[2], w[3], w[4]), dnnl_f32, plain);
    return dnnl_memory_desc_init_by_tag(d, 6, DIMS(g, w[0] / g, w[1], w[2], w[3], w[4]), dnnl_f32, grouped);
}

static dnnl_status_t describe(const struct engine *e, const struct job *j, enum act act,
                              dnnl_primitive_desc_t *ret)
{
    const int64_t *x = j->x.shape, *y = j->y.shape;
    const dnnl_dims_t strides = {j->c.stride[0], j->c.stride[1], j->c.stride[2]};
    dnnl_memory_desc_t src, weights, bias, dst;
    dnnl_convolution_desc_t d;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t rc =
        dnnl_memory_desc_init_by_tag(&src, 5, DIMS(1, x[3], x[0], x[1], x[2]), dnnl_f32, dnnl_ndhwc);
    rc = rc ? rc
            : dnnl_memory_desc_init_by_tag(&dst, 5, DIMS(1, y[3], y[0], y[1], y[2]), dnnl_f32, dnnl_ndhwc);
    rc = rc ? rc : weights_desc(&weights, j, dnnl_format_tag_any, dnnl_format_tag_any);
    rc = rc ? rc : dnnl_memory_desc_init_by_tag(&bias, 1, DIMS(y[3]), dnnl_f32, dnnl_a);
    rc = rc ? rc
            : dnnl_convolution_forward_desc_init(&d, dnnl_forward_inference, dnnl_convolution_direct, &src,
                                                 &weights, tensor_is_none(j->b) ? NULL : &bias, &dst, strides,
                                                 j->pad_before, j->pad_after);
    rc = rc ? rc : dnnl_primitive_attr_create(&attr);
    rc = rc ? rc : dnnl_post_ops_create(&ops);
    rc = rc ? rc : append_act(ops, act);
    rc = rc ? rc : dnnl_primitive_attr_set_post_ops(attr, ops);
    rc = rc ? rc : dnnl_primitive_desc_create(ret, &d, attr, e->engine, NULL);
    if (ops)
        dnnl_post_ops_destroy(ops);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return rc;
}

static dnnl_status_t memory_new(const struct engine *e, dnnl_primitive_desc_t d, dnnl_query_t what, int index,
                                dnnl_memory_t *ret)
{
    return dnnl_memory_create(ret, dnnl_primitive_desc_query_md(d, what, index), e->engine, DNNL_MEMORY_NONE);
}

/* primitive stays NULL when there is none for this shape. ERR_NOMEM (NULL) only. */
static struct plan *plan_new(const struct engine *e, const struct job *j)
{
    struct plan *p = mem_zalloc(sizeof *p);
    dnnl_primitive_desc_t d = NULL;
    if (!p)
        return NULL;
    p->has_act = true;
    dnnl_status_t rc = describe(e, j, j->c.act, &d);
    if (rc) {
        p->has_act = false;
        rc = describe(e, j, ACT_NONE, &d);
    }
    if (rc)
        return p;
    p->weights_desc = *dnnl_primitive_desc_query_md(d, dnnl_query_weights_md, 0);
    rc = memory_new(e, d, dnnl_query_src_md, 0, &p->src);
    rc = rc ? rc : memory_new(e, d, dnnl_query_weights_md, 0, &p->weights);
    rc = rc ? rc : memory_new(e, d, dnnl_query_dst_md, 0, &p->dst);
    if (!rc && !tensor_is_none(j->b))
        rc = memory_new(e, d, dnnl_query_weights_md, 1, &p->bias);
    rc = rc ? rc : dnnl_primitive_create(&p->primitive, d);
    dnnl_primitive_desc_destroy(d);
    if (rc)
        p->primitive = NULL;
    return p;
}

/* Kernel sizes, strides and paddings share numbers: false when one is beyond its bits. */
static bool plan_key(struct cpu_key *key, const struct job *j)
{
    int64_t sizes = 0, pads = 0, top = 0;
    for (int i = 0; i < 3; i++) {
        top |= (j->w.shape[2 + i] | j->c.stride[i] | j->pad_before[i] | j->pad_after[i]) >> 10;
        sizes = sizes << 20 | j->w.shape[2 + i] << 10 | j->c.stride[i];
        pads = pads << 20 | j->pad_before[i] << 10 | j->pad_after[i];
    }
    *key = (struct cpu_key){.kind = CPU_PLAN_CONV,
                            .number = {j->x.shape[0], j->x.shape[1], j->x.shape[2], j->x.shape[3],
                                       j->y.shape[3], sizes, pads,
                                       j->c.groups << 16 | (int64_t)j->c.act << 1 | tensor_is_none(j->b)}};
    return top == 0;
}

static struct plan *plan_get(struct cpu *s, const struct engine *e, const struct job *j)
{
    struct cpu_key key;
    if (!plan_key(&key, j))
        return NULL;
    struct plan *p = cpu_find(s, &key);
    if (p)
        return p;
    p = plan_new(e, j);
    return p && cpu_keep(s, &key, p, plan_free) == 0 ? p : NULL;
}

/* ---- weights ---- */

static int reorder(const struct engine *e, const struct job *j, const struct plan *p, float *wide,
                   void *packed)
{
    dnnl_memory_desc_t plain;
    dnnl_memory_t from = NULL, to = NULL;
    dnnl_primitive_desc_t d = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_status_t rc = weights_desc(&plain, j, dnnl_abcde, dnnl_abcdef);
    rc = rc ? rc : dnnl_memory_create(&from, &plain, e->engine, wide);
    rc = rc ? rc : dnnl_memory_create(&to, &p->weights_desc, e->engine, packed);
    rc = rc ? rc
            : dnnl_reorder_primitive_desc_create(&d, &plain, e->engine, &p->weights_desc, e->engine, NULL);
    rc = rc ? rc : dnnl_primitive_create(&primitive, d);
    if (!rc) {
        dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
        rc = dnnl_primitive_execute(primitive, e->stream, 2, args);
        dnnl_stream_wait(e->stream);
    }
    if (primitive)
        dnnl_primitive_destroy(primitive);
    if (d)
        dnnl_primitive_desc_destroy(d);
    if (to)
        dnnl_memory_destroy(to);
    if (from)
        dnnl_memory_destroy(from);
    return rc ? ERR_DEVICE : 0;
}

/* The layouts that plans ask for differ in their blocks and strides. */
static struct cpu_key weights_key(const struct job *j, const struct plan *p)
{
    const dnnl_blocking_desc_t *b = &p->weights_desc.format_desc.blocking;
    struct cpu_key key = {.data = j->w.data, .kind = CPU_PACKED_CONV};
    key.number[0] = (int64_t)dnnl_memory_desc_get_size(&p->weights_desc) << 4 | b->inner_nblks;
    key.number[1] = j->w.dtype;
    for (int i = 0; i < 4; i++) {
        key.number[2] = key.number[2] << 12 | (b->inner_blks[i] & 0xfff);
        key.number[3] = key.number[3] << 4 | (b->inner_idxs[i] & 0xf);
    }
    for (int i = 0; i < 4; i++)
        key.number[4 + i] = b->strides[i];
    return key;
}

static void *weights_get(struct run *r, struct cpu *s, const struct engine *e, const struct job *j,
                         const struct plan *p)
{
    struct cpu_key key = weights_key(j, p);
    bool lasting = cpu_is_lasting(r, j->w);
    void *packed = lasting ? cpu_find(s, &key) : NULL;
    if (packed)
        return packed;
    size_t bytes = dnnl_memory_desc_get_size(&p->weights_desc);
    float *wide = cpu_ref_widened(j->w);
    packed = lasting ? mem_aligned(64, bytes) : cpu_slot(r, CPU_PACK, bytes);
    if (!wide || !packed)
        run_fail(r, ERR_NOMEM, "no memory for %zu bytes of packed weights", bytes);
    else if (reorder(e, j, p, wide, packed) < 0)
        run_fail(r, ERR_DEVICE, "oneDNN could not pack the weights");
    mem_free(wide);
    if (lasting && run_failed(r)) {
        mem_free(packed);
        packed = NULL;
    } else if (lasting && cpu_keep(s, &key, packed, mem_free) < 0) {
        run_fail(r, ERR_NOMEM, "no memory to keep packed weights");
        packed = NULL;
    }
    return run_failed(r) ? NULL : packed;
}

/* ---- calls ---- */

/* oneDNN has nothing for this shape. */
static int by_reference(struct run *r, const struct job *j)
{
    struct conv c = j->c;
    for (int i = 0; i < 3; i++) {
        c.pad_before[i] = (int)j->pad_before[i];
        c.pad_after[i] = (int)j->pad_after[i];
    }
    return cpu_ref_conv(r, j->y, j->x, j->w, j->b, &c);
}

static dnnl_status_t submit(const struct engine *e, const struct plan *p, const struct job *j, void *weights,
                            const float *bias)
{
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->src},
                              {DNNL_ARG_WEIGHTS, p->weights},
                              {DNNL_ARG_DST, p->dst},
                              {DNNL_ARG_BIAS, p->bias}};
    dnnl_status_t rc = dnnl_memory_set_data_handle(p->src, j->x.data);
    rc = rc ? rc : dnnl_memory_set_data_handle(p->weights, weights);
    rc = rc ? rc : dnnl_memory_set_data_handle(p->dst, j->y.data);
    if (p->bias)
        rc = rc ? rc : dnnl_memory_set_data_handle(p->bias, (void *)(uintptr_t)bias);
    rc = rc ? rc : dnnl_primitive_execute(p->primitive, e->stream, p->bias ? 4 : 3, args);
    return rc ? rc : dnnl_stream_wait(e->stream);
}

static int execute(struct run *r, const struct job *j, const float *bias)
{
    struct cpu *s = cpu_begin(r);
    const struct engine *e = engine_get(s);
    struct plan *p = e ? plan_get(s, e, j) : NULL;
    if (!p || !p->primitive)
        return by_reference(r, j);
    void *weights = weights_get(r, s, e, j, p);
    if (!weights)
        return r->err.code;
    dnnl_status_t rc = submit(e, p, j, weights, bias);
    if (rc)
        return run_fail(r, ERR_DEVICE, "oneDNN's convolution failed with %d", (int)rc);
    return p->has_act || j->c.act == ACT_NONE ? 0 : r->table->act(r, j->y, j->c.act);
}

static int64_t source(int64_t i, int64_t n, bool replicate)
{
    if (i < 0 || i >= n)
        return !replicate ? -1 : i < 0 ? 0 : n - 1;
    return i;
}

/* One row of the padded copy. */
static void copy_row(float *dst, const struct job *j, int64_t t, int64_t y)
{
    int64_t c = j->x.shape[3], w = j->x.shape[2], before = j->pad_before[2],
            all = before + w + j->pad_after[2];
    t = source(t, j->x.shape[0], j->c.replicate);
    y = source(y, j->x.shape[1], j->c.replicate);
    if (t < 0 || y < 0) {
        memset(dst, 0, (size_t)(all * c) * sizeof *dst);
        return;
    }
    const float *src = ref_at4(j->x, t, y, 0, 0);
    bool dense = j->x.stride[2] == c || w == 1;
    if (dense)
        memcpy(dst + before * c, src, (size_t)(w * c) * sizeof *dst);
    for (int64_t i = 0; i < all; i++) {
        int64_t from = source(i - before, w, j->c.replicate);
        if (dense && i >= before && i < before + w)
            i = before + w - 1;
        else if (from < 0)
            memset(dst + i * c, 0, (size_t)c * sizeof *dst);
        else
            memcpy(dst + i * c, src + from * j->x.stride[2], (size_t)c * sizeof *dst);
    }
}

/* Some output frames at a time: copies the input frames they need, padded. */
static int copied(struct run *r, const struct job *j, const float *bias)
{
    int64_t h = j->pad_before[1] + j->x.shape[1] + j->pad_after[1],
            w = j->pad_before[2] + j->x.shape[2] + j->pad_after[2];
    int64_t frame = h * w * j->x.shape[3], kt = j->w.shape[2], step = j->c.stride[0], all = j->y.shape[0];
    int64_t most = COPY_MAX / (frame * (int64_t)sizeof(float)), n = most > kt ? (most - kt) / step + 1 : 1;
    n = n < all ? n : all;
    float *copy = cpu_slot(r, CPU_PADDED, (size_t)(((n - 1) * step + kt) * frame) * sizeof *copy);
    if (!copy)
        return r->err.code;
    for (int64_t first = 0; first < all; first += n) {
        struct job part = {.w = j->w, .b = j->b, .c = j->c};
        int64_t n_out = all - first < n ? all - first : n, n_in = (n_out - 1) * step + kt;
        cpu_begin(r);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n_in * h; i++)
            copy_row(copy + i * w * j->x.shape[3], j, first * step - j->pad_before[0] + i / h,
                     i % h - j->pad_before[1]);
        part.x = tensor_of(copy, DTYPE_F32, 4, SHAPE(n_in, h, w, j->x.shape[3]));
        part.y = tensor_slice(j->y, 0, first, n_out);
        int rc = execute(r, &part, bias);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int cpu_conv(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
             const struct conv *c)
{
    struct job j = {.y = y, .x = x, .w = w, .b = b, .c = *c};
    bool padded = false, strided = false;
    for (int i = 0; i < 3; i++) {
        j.pad_before[i] = c->pad_before[i];
        j.pad_after[i] = c->pad_after[i];
        padded |= c->pad_before[i] || c->pad_after[i];
        strided |= c->stride[i] != 1;
    }
    if (tensor_count(w) == w.shape[0] * w.shape[1] && c->groups == 1 && !padded && !strided)
        return r->table->linear(r, y, x, tensor_view(w, 2, SHAPE(w.shape[0], w.shape[1])), b, c->act);
    const float *bias = NULL;
    if (!tensor_is_none(b)) {
        bias = cpu_vector(r, CPU_BIAS, b, w.shape[0], 0);
        if (!bias)
            return r->err.code;
    }
    if ((padded && c->replicate) || !tensor_is_contiguous(x))
        return copied(r, &j, bias);
    return execute(r, &j, bias);
}
