/* lib_dnn.c -- attention and convolution by cuDNN 9's backend API: descriptors with attributes, written from the
 * documentation of cudnn_graph and the header's own comments. The forward attention descriptor is there from 9.13 on; before
 * that, and for every shape that no engine takes, the answer is LIB_DNN_OWN.
 *
 * A plan is built once a shape and kept with its descriptors (building may take milliseconds and allocate; later calls do
 * not). Operands are bf16 copies in the work buffer, a part of the op at a time: heads of attention, a box of output rows
 * of a convolution with what its kernels reach, padding included, so that the library itself pads nothing.
 */
#include "kernels/cuda/lib_dnn.h"

#include <cudnn.h>
#include <string.h>

#include "common/mem.h"

/* In the work buffer: the library's own, then operands. Attention takes next to nothing for itself and much for these. */
#define OPERANDS CUDA_WORK_LIBRARY
#define HEADS ((size_t)2 << 20)
#define PARTS_MAX 24       /* descriptors of a plan */
#define CONFIGS_MAX 8      /* engines that are tried */
#ifndef DNN_OPERANDS_BYTES /* tests take less, to come to parts with little */
#define DNN_KNOWN 128      /* plans kept; a hash that falls on another takes its place */
#define DNN_OPERANDS_BYTES (cuda_of(r)->work_bytes - OPERANDS)
#define DNN_HEADS_BYTES (cuda_of(r)->work_bytes - HEADS)
#define DNN_WORTH                                                                                                           \
    1000000 /* queries x keys, or products of a convolution over 1000, from which on a plan and copies are made */
#endif

enum kind { ATTENTION = 1, CONVOLUTION };
enum uid { Q = 1, K, V, O, SCALE, X = 11, W, Y };

struct dnn_key {
    int64_t kind, n[12];
};

struct dnn_plan {
    struct dnn_key key;
    cudnnBackendDescriptor_t parts[PARTS_MAX], plan; /* parts in order of making; plan is one of them. NULL: no engine */
    int n_parts;
    int64_t room;         /* bytes of the work buffer for the library's own needs */
    cudnnStatus_t status; /* of what failed first while it was made */
};

struct dnn {
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t described; /* in tests, where no device is: what one would be. Otherwise NULL */
    struct dnn_plan known[DNN_KNOWN];
};

static int fail(struct run *r, cudnnStatus_t s, const char *what)
{
    int code = CUDNN_STATUS_CATEGORY((int)s) == CUDNN_STATUS_EXECUTION_FAILED ? ERR_DEVICE : ERR_INTERNAL;
    return run_fail(r, code, "cuDNN: %s: %s", what, cudnnGetErrorString(s));
}

static void forget(struct dnn_plan *p)
{
    while (p->n_parts > 0)
        cudnnBackendDestroyDescriptor(p->parts[--p->n_parts]);
    memset(p, 0, sizeof *p);
}

static void close_dnn(void *handle)
{
    struct dnn *d = handle;
    for (int i = 0; i < DNN_KNOWN; i++)
        forget(&d->known[i]);
    cudnnDestroy(d->handle);
    mem_free(d);
}

static struct dnn *open_dnn(struct run *r)
{
    struct cuda_impl *c = cuda_of(r);
    if (c->dnn)
        return c->dnn;
    struct dnn *d = mem_zalloc(sizeof *d);
    if (!d) {
        run_fail(r, ERR_NOMEM, "no memory for cuDNN");
        return NULL;
    }
    cudnnStatus_t s = cudnnCreate(&d->handle);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnSetStream(d->handle, c->compute);
    if (s != CUDNN_STATUS_SUCCESS) {
        fail(r, s, "opening");
        if (d->handle)
            cudnnDestroy(d->handle);
        mem_free(d);
        return NULL;
    }
    c->dnn_close = close_dnn;
    return c->dnn = d;
}

/* ---- descriptors: the first failure sticks in p->status, and what follows does nothing ---- */

static cudnnBackendDescriptor_t part_new(struct dnn_plan *p, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = NULL;
    if (p->status == CUDNN_STATUS_SUCCESS && p->n_parts == PARTS_MAX)
        p->status = CUDNN_STATUS_INTERNAL_ERROR;
    if (p->status == CUDNN_STATUS_SUCCESS)
        p->status = cudnnBackendCreateDescriptor(type, &d);
    if (p->status == CUDNN_STATUS_SUCCESS)
        p->parts[p->n_parts++] = d;
    return d;
}

static void put(struct dnn_plan *p, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *values)
{
    if (p->status == CUDNN_STATUS_SUCCESS)
        p->status = cudnnBackendSetAttribute(d, name, type, n, values);
}

static void put_part(struct dnn_plan *p, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                     cudnnBackendDescriptor_t value)
{
    put(p, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static cudnnBackendDescriptor_t ready(struct dnn_plan *p, cudnnBackendDescriptor_t d)
{
    if (p->status == CUDNN_STATUS_SUCCESS)
        p->status = cudnnBackendFinalize(d);
    return d;
}

static cudnnBackendDescriptor_t tensor_part(struct dnn_plan *p, int64_t uid, cudnnDataType_t type, int n,
                                            const int64_t *dims, const int64_t *strides)
{
    cudnnBackendDescriptor_t d = part_new(p, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t align = type == CUDNN_DATA_FLOAT ? 4 : 16;
    bool by_value = uid == SCALE;
    put(p, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    put(p, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    put(p, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, n, dims);
    put(p, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, n, strides);
    put(p, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    put(p, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    return ready(p, d);
}

/* ---- plans ---- */

/* An engine whose sums depend on who comes first is not for us. */
static bool repeats(cudnnBackendDescriptor_t config)
{
    cudnnBackendDescriptor_t engine;
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t n = 0;
    bool fine = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) == CUDNN_STATUS_SUCCESS;
    if (!fine)
        return false;
    fine = cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine) ==
           CUDNN_STATUS_SUCCESS;
    n = 0;
    fine = fine && cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                            CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, notes) == CUDNN_STATUS_SUCCESS;
    for (int64_t i = 0; i < n && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT && fine; i++)
        fine = notes[i] != CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
    cudnnBackendDestroyDescriptor(engine);
    return fine;
}

/* A plan for the configuration, if it can be had within the work buffer. */
static bool try_config(struct dnn *d, struct dnn_plan *p, cudnnBackendDescriptor_t config)
{
    int64_t bytes = 0, n = 0;
    int before = p->n_parts;
    if (!repeats(config))
        return false;
    cudnnBackendDescriptor_t plan = part_new(p, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (d->described)
        put_part(p, plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, d->described);
    else
        put(p, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &d->handle);
    put_part(p, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    ready(p, plan);
    if (p->status == CUDNN_STATUS_SUCCESS)
        p->status =
            cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n, &bytes);
    if (p->status == CUDNN_STATUS_SUCCESS && bytes <= p->room) {
        p->plan = plan;
        return true;
    }
    p->status = CUDNN_STATUS_SUCCESS; /* the next one may do */
    while (p->n_parts > before)
        cudnnBackendDestroyDescriptor(p->parts[--p->n_parts]);
    return false;
}

static void search(struct dnn *d, struct dnn_plan *p, cudnnBackendDescriptor_t graph, cudnnBackendHeurMode_t mode)
{
    cudnnBackendDescriptor_t configs[CONFIGS_MAX];
    int64_t n = 0;
    int made = 0;
    cudnnBackendDescriptor_t heuristics = part_new(p, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    put_part(p, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    if (d->described)
        put_part(p, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, d->described);
    put(p, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    ready(p, heuristics);
    while (p->status == CUDNN_STATUS_SUCCESS && made < CONFIGS_MAX)
        configs[made++] = part_new(p, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (p->status == CUDNN_STATUS_SUCCESS)
        p->status = cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                             CONFIGS_MAX, &n, configs);
    for (int64_t i = 0; i < n && i < CONFIGS_MAX && p->status == CUDNN_STATUS_SUCCESS; i++) {
        if (try_config(d, p, configs[i]))
            return;
    }
}

static void make_plan(struct dnn *d, struct dnn_plan *p, cudnnBackendDescriptor_t operation)
{
    cudnnBackendDescriptor_t graph = part_new(p, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (!d->described)
        put(p, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &d->handle);
    put_part(p, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
    ready(p, graph);
    search(d, p, graph, CUDNN_HEUR_MODE_A);
}

static struct dnn_plan *lookup(struct dnn *d, cudaStream_t stream, const struct dnn_key *key, bool *ret_new)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < sizeof *key; i++)
        h = (h ^ bytes[i]) * 0x100000001b3u;
    struct dnn_plan *p = &d->known[h % DNN_KNOWN];
    *ret_new = memcmp(&p->key, key, sizeof *key) != 0;
    if (*ret_new) {
        if (p->n_parts > 0)
            cudaStreamSynchronize(stream); /* the old plan's kernels may be under way */
        forget(p);
        p->key = *key;
    }
    return p;
}

static int execute(struct run *r, struct dnn *d, const struct dnn_plan *p, int n, const int64_t *uids, void **pointers)
{
    cudnnBackendDescriptor_t pack = NULL;
    void *workspace = cuda_of(r)->work;
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, uids);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, pointers);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendFinalize(pack);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendExecute(d->handle, p->plan, pack);
    if (pack)
        cudnnBackendDestroyDescriptor(pack);
    return s == CUDNN_STATUS_SUCCESS ? 0 : fail(r, s, "execution");
}

/* A bf16 tensor at *at of the work buffer, which moves on. */
static struct tensor operand(struct run *r, size_t *at, int n_dims, const int64_t *shape)
{
    struct tensor t = tensor_of(cuda_of(r)->work + *at, DTYPE_BF16, n_dims, shape);
    *at += (tensor_bytes(t) + 255) / 256 * 256;
    return t;
}

/* ---- attention ---- */

/* q [sq, hq, d], k, v [sk, hk, d] in memory, as the library's [batch, head, token, width]. */
static void attention_plan(struct dnn *d, struct dnn_plan *p, int64_t sq, int64_t sk, int64_t hq, int64_t hk, int64_t width)
{
#if CUDNN_VERSION >= 91300
    const int64_t nq[4] = {1, hq, sq, width}, nk[4] = {1, hk, sk, width}, one[4] = {1, 1, 1, 1};
    const int64_t lq[4] = {sq * hq * width, width, hq * width, 1}, lk[4] = {sk * hk * width, width, hk * width, 1};
    const cudnnDataType_t type = CUDNN_DATA_BFLOAT16;
    cudnnBackendDescriptor_t q = tensor_part(p, Q, type, 4, nq, lq), k = tensor_part(p, K, type, 4, nk, lk),
                             v = tensor_part(p, V, type, 4, nk, lk), o = tensor_part(p, O, type, 4, nq, lq),
                             scale = tensor_part(p, SCALE, CUDNN_DATA_FLOAT, 4, one, one),
                             operation = part_new(p, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    put_part(p, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q);
    put_part(p, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, k);
    put_part(p, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, v);
    put_part(p, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, o);
    put_part(p, operation, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale);
    p->room = (int64_t)HEADS;
    make_plan(d, p, ready(p, operation));
#else
    (void)d, (void)sq, (void)sk, (void)hq, (void)hk, (void)width;
    p->status = CUDNN_STATUS_NOT_SUPPORTED;
#endif
}

/* Key heads [first, first + n) of one batch, and the query heads that use them. */
static int heads(struct run *r, struct dnn *d, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                 float scale, int64_t first, int64_t n)
{
    int64_t share = q.shape[1] / k.shape[1], sq = q.shape[0], sk = k.shape[0], width = q.shape[2];
    const int64_t nq[3] = {sq, n * share, width}, nk[3] = {sk, n, width};
    struct dnn_key key = {ATTENTION, {sq, sk, n * share, n, width}};
    size_t at = HEADS;
    struct tensor qn = operand(r, &at, 3, nq), kn = operand(r, &at, 3, nk), vn = operand(r, &at, 3, nk),
                  on = operand(r, &at, 3, nq);
    const int64_t uids[] = {Q, K, V, O, SCALE};
    void *pointers[] = {qn.data, kn.data, vn.data, on.data, &scale};
    bool is_new;
    struct dnn_plan *p = lookup(d, cuda_of(r)->compute, &key, &is_new);
    if (is_new)
        attention_plan(d, p, sq, sk, n * share, n, width);
    if (!p->plan)
        return LIB_DNN_OWN;
    int rc = cuda_copy(r, qn, tensor_slice(q, 1, first * share, n * share));
    if (rc == 0)
        rc = cuda_copy(r, kn, tensor_slice(k, 1, first, n));
    if (rc == 0)
        rc = cuda_copy(r, vn, tensor_slice(v, 1, first, n));
    if (rc == 0)
        rc = execute(r, d, p, 5, uids, pointers);
    return rc == 0 ? cuda_copy(r, tensor_slice(y, 1, first * share, n * share), on) : rc;
}

/* Key heads that go at once, in equal parts so that one plan serves all; 0: the op is not for here. */
static int64_t heads_at_once(const struct run *r, struct tensor q, struct tensor k, const struct attn *a)
{
    int64_t sq = q.shape[1], sk = k.shape[1], hk = k.shape[2], width = q.shape[3];
    bool full = a->kind == ATTN_FULL || (a->kind == ATTN_BLOCK_CAUSAL && a->block >= sk); /* a single block */
    if (r->device->precision != DEVICE_BF16 || !full || width % 8 != 0 || sq * sk < DNN_WORTH)
        return 0;
    int64_t head = 2 * width * (2 * sq * (q.shape[2] / hk) + 2 * sk) + 1024, n = (int64_t)(DNN_HEADS_BYTES) / head;
    n = n < hk ? n : hk;
    while (n > 1 && hk % n != 0)
        n--;
    return n;
}

int lib_dnn_attention(struct run *r, struct tensor y, struct tensor q, struct tensor k, struct tensor v, struct attn a)
{
    int64_t n = heads_at_once(r, q, k, &a), hk = k.shape[2];
    if (n < 1)
        return LIB_DNN_OWN;
    struct dnn *d = open_dnn(r);
    if (!d)
        return r->err.code;
    int rc = 0;
    for (int64_t b = 0; b < q.shape[0] && rc == 0; b++) {
        for (int64_t h = 0; h < hk && rc == 0; h += n)
            rc = heads(r, d, tensor_at(y, 0, b), tensor_at(q, 0, b), tensor_at(k, 0, b), tensor_at(v, 0, b), a.scale, h, n);
    }
    return rc;
}

/* ---- convolution ---- */

/* Everything is [T, H, W, C] in memory; x holds its padding. */
static void conv_plan(struct dnn *d, struct dnn_plan *p, const int64_t *x, const int64_t *y, const int64_t *w,
                      const int *stride)
{
    const int64_t nx[5] = {1, x[3], x[0], x[1], x[2]}, ny[5] = {1, y[3], y[0], y[1], y[2]};
    const int64_t nw[5] = {w[0], w[1], w[2], w[3], w[4]}, taps = w[2] * w[3] * w[4];
    const int64_t lx[5] = {x[0] * x[1] * x[2] * x[3], 1, x[1] * x[2] * x[3], x[2] * x[3], x[3]};
    const int64_t ly[5] = {y[0] * y[1] * y[2] * y[3], 1, y[1] * y[2] * y[3], y[2] * y[3], y[3]};
    const int64_t lw[5] = {taps * w[1], 1, w[3] * w[4] * w[1], w[4] * w[1], w[1]};
    const int64_t zero[3] = {0}, one[3] = {1, 1, 1}, step[3] = {stride[0], stride[1], stride[2]}, n = 3;
    const cudnnDataType_t type = CUDNN_DATA_BFLOAT16, sum = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const float alpha = 1, beta = 0;
    cudnnBackendDescriptor_t xp = tensor_part(p, X, type, 5, nx, lx), wp = tensor_part(p, W, type, 5, nw, lw),
                             yp = tensor_part(p, Y, type, 5, ny, ly),
                             conv = part_new(p, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    put(p, conv, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sum);
    put(p, conv, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    put(p, conv, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &n);
    put(p, conv, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 3, one);
    put(p, conv, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 3, step);
    put(p, conv, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 3, zero);
    put(p, conv, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 3, zero);
    ready(p, conv);
    cudnnBackendDescriptor_t operation = part_new(p, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    put_part(p, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, conv);
    put_part(p, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, xp);
    put_part(p, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, wp);
    put_part(p, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, yp);
    put(p, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &alpha);
    put(p, operation, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &beta);
    p->room = (int64_t)OPERANDS;
    make_plan(d, p, ready(p, operation));
}

/* Output rows [h, h + n[1]) of frames [t, t + n[0]). */
static int box(struct run *r, struct dnn *d, struct tensor y, struct tensor x, struct tensor w, const struct conv *c,
               int64_t t, int64_t h, const int64_t n[2], size_t at)
{
    const int64_t ny[4] = {n[0], n[1], y.shape[2], y.shape[3]};
    const int64_t from[3] = {t * c->stride[0] - c->pad_before[0], h * c->stride[1] - c->pad_before[1], -c->pad_before[2]};
    int64_t nx[4];
    struct dnn_key key = {CONVOLUTION, {0}};
    for (int i = 0; i < 3; i++)
        nx[i] = (ny[i] - 1) * c->stride[i] + w.shape[2 + i];
    nx[3] = x.shape[3];
    struct tensor xn = operand(r, &at, 4, nx), yn = operand(r, &at, 4, ny);
    memcpy(key.n, nx, sizeof nx);
    memcpy(key.n + 4, w.shape, 5 * sizeof *w.shape);
    for (int i = 0; i < 3; i++)
        key.n[9 + i] = c->stride[i];
    bool is_new;
    struct dnn_plan *p = lookup(d, cuda_of(r)->compute, &key, &is_new);
    if (is_new)
        conv_plan(d, p, nx, ny, w.shape, c->stride);
    if (!p->plan)
        return LIB_DNN_OWN;
    const int64_t uids[] = {X, W, Y};
    void *pointers[] = {xn.data, w.data, yn.data};
    int rc = lib_dnn_padded(r, xn, x, from, c->replicate);
    if (rc == 0)
        rc = execute(r, d, p, 3, uids, pointers);
    return rc == 0 ? cuda_copy(r, tensor_slice(tensor_slice(y, 0, t, n[0]), 1, h, n[1]), yn) : rc;
}

/* Frames and rows of output that fit `room` with their input; {0} when not even a row does. */
static void box_size(struct tensor y, struct tensor x, struct tensor w, const struct conv *c, size_t room, int64_t ret[2])
{
    int64_t wide = (y.shape[2] - 1) * c->stride[2] + w.shape[4];
    int64_t row_in = 2 * wide * x.shape[3], row_out = 2 * y.shape[2] * y.shape[3];
    ret[0] = y.shape[0];
    ret[1] = y.shape[1];
    for (;;) { /* halve frames first: rows of one frame lie together */
        int64_t frames = (ret[0] - 1) * c->stride[0] + w.shape[2], rows = (ret[1] - 1) * c->stride[1] + w.shape[3];
        if (frames * rows * row_in + ret[0] * ret[1] * row_out + 1024 <= (int64_t)room)
            return;
        int i = ret[0] > 1 ? 0 : 1;
        if (ret[i] == 1) {
            ret[0] = ret[1] = 0;
            return;
        }
        ret[i] = (ret[i] + 1) / 2;
    }
}

static bool conv_fits(const struct run *r, struct tensor y, struct tensor x, struct tensor w, const struct conv *c)
{
    int64_t n = tensor_count(w);
    if (r->device->precision != DEVICE_BF16 || c->groups != 1 || x.shape[3] % 8 != 0 || y.shape[3] % 8 != 0)
        return false;
    return 2 * n <= (int64_t)(DNN_OPERANDS_BYTES) / 2 && tensor_rows(y) * n / 1000 >= DNN_WORTH;
}

int lib_dnn_conv(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, const struct conv *c)
{
    static const int last[5] = {0, 2, 3, 4, 1}; /* of the weights, channels to the end */
    const int64_t nw[5] = {w.shape[0], w.shape[2], w.shape[3], w.shape[4], w.shape[1]};
    int64_t n[2];
    size_t at = OPERANDS;
    if (!conv_fits(r, y, x, w, c))
        return LIB_DNN_OWN;
    struct tensor wn = operand(r, &at, 5, nw), kernels = w;
    kernels.data = wn.data;
    box_size(y, x, w, c, OPERANDS + DNN_OPERANDS_BYTES - at, n);
    if (n[0] < 1)
        return LIB_DNN_OWN;
    struct dnn *d = open_dnn(r);
    int rc = d ? cuda_copy(r, wn, tensor_permute(w, last)) : r->err.code;
    for (int64_t t = 0; t < y.shape[0] && rc == 0; t += n[0]) {
        for (int64_t h = 0; h < y.shape[1] && rc == 0; h += n[1]) {
            const int64_t here[2] = {y.shape[0] - t < n[0] ? y.shape[0] - t : n[0],
                                     y.shape[1] - h < n[1] ? y.shape[1] - h : n[1]};
            rc = box(r, d, y, x, kernels, c, t, h, here, at);
        }
    }
    return rc == 0 ? lib_dnn_finish(r, y, b, c->act) : rc;
}
