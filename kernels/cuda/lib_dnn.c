/* lib_dnn.c -- attention and convolution by cuDNN 9's backend API: descriptors with attributes, written from the
 * documentation of cudnn_graph and the header's own comments. The forward attention descriptor is there from 9.13 on; before
 * that, and for every shape that no engine takes, the answer is LIB_DNN_OWN.
 *
 * In e4m3 there is no such descriptor: attention is then the graph of operations that NVIDIA's documentation gives for it
 * ("SDPA FP8 forward"). Engines know it by its shape: no operation may be missing, and none moved.
 *
 * A plan is built once a shape and kept with its descriptors (building may take milliseconds and allocate; later calls do
 * not). The one that was used longest ago makes room: recordings (graph.cu) hold kernels of plans that were used lately.
 * Operands are narrow copies in the work buffer, a part of the op at a time: heads of attention, a box of output rows
 * of a convolution with what its kernels reach, padding included, so that the library itself pads nothing.
 */
#include "kernels/cuda/lib_dnn.h"

#include <cudnn.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/cuda/e4m3.h"

/* In the work buffer: the library's own, then operands. Attention takes next to nothing for itself and much for these. */
#define OPERANDS CUDA_WORK_LIBRARY
#define HEADS ((size_t)2 << 20)
#define PARTS_MAX 96       /* descriptors of a plan */
#define CONFIGS_MAX 8      /* engines that are tried */
#ifndef DNN_OPERANDS_BYTES /* tests take less, to come to parts with little */
#define DNN_KNOWN 256      /* plans kept: a picture size takes some dozens, for boxes, tiles and frames of the VAE */
#define DNN_OPERANDS_BYTES (cuda_of(r)->work_bytes - OPERANDS)
#define DNN_HEADS_BYTES (cuda_of(r)->work_bytes - HEADS)
#define DNN_WORTH                                                                                                           \
    1000000 /* queries x keys, or products of a convolution over 1000, from which on a plan and copies are made */
#endif

enum kind { ATTENTION = 1, ATTENTION_E4M3, CONVOLUTION, CONVOLUTION_F16 };
/* AMAX_P and AMAX_O are there because the graph has them, and not read. From VIRTUAL on: between operations of a graph. */
enum uid { Q = 1, K, V, O, SCALE, X = 11, W, Y, BY_Q = 21, BY_K, BY_V, BY_P, TO_P, TO_O, AMAX_P, AMAX_O, VIRTUAL = 100 };
#define P_SCALE 256 /* weights of keys, 1 at most, are multiplied by it before they become e4m3, which ends at 448 */

struct dnn_key {
    int64_t kind, n[12];
};

struct dnn_plan {
    struct dnn_key key;
    uint64_t used; /* when it was last, 0: never */
    cudnnBackendDescriptor_t parts[PARTS_MAX], plan; /* parts in order of making; plan is one of them. NULL: no engine */
    int n_parts;
    int64_t room;         /* bytes of the work buffer for the library's own needs */
    cudnnStatus_t status; /* of what failed first while it was made */
};

struct dnn {
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t described; /* in tests, where no device is: what one would be. Otherwise NULL */
    uint64_t now; /* look-ups so far */
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
    if (d->handle)
        cudnnDestroy(d->handle);
    mem_free(d);
}

int lib_dnn_open(struct cuda_impl *c, struct err *err)
{
    struct dnn *d = mem_zalloc(sizeof *d);
    if (!d)
        return err_set(err, ERR_NOMEM, "device cuda: no memory for cuDNN");
    c->dnn = d;
    c->dnn_close = close_dnn;
    cudnnStatus_t s = cudnnCreate(&d->handle);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnSetStream(d->handle, c->compute);
    if (s == CUDNN_STATUS_SUCCESS)
        return 0;
    return err_set(err, ERR_UNSUPPORTED, "device cuda: cuDNN does not open: %s: precision f32 goes without",
                   cudnnGetErrorString(s));
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
    bool by_value = uid == SCALE, is_virtual = uid >= VIRTUAL;
    put(p, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    put(p, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    put(p, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, n, dims);
    put(p, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, n, strides);
    put(p, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    put(p, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    put(p, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
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

static void make_plan(struct dnn *d, struct dnn_plan *p, int n, const cudnnBackendDescriptor_t *operations)
{
    cudnnBackendDescriptor_t graph = part_new(p, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (!d->described)
        put(p, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &d->handle);
    put(p, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, n, operations);
    ready(p, graph);
    search(d, p, graph, CUDNN_HEUR_MODE_A);
    cudaGetLastError(); /* of engines that did not do: the next launch must not find it */
}

static struct dnn_plan *lookup(struct dnn *d, cudaStream_t stream, const struct dnn_key *key, bool *ret_new)
{
    struct dnn_plan *p = d->known;
    *ret_new = true;
    for (int i = 0; i < DNN_KNOWN && *ret_new; i++) {
        struct dnn_plan *here = &d->known[i];
        *ret_new = memcmp(&here->key, key, sizeof *key) != 0;
        if (!*ret_new || here->used < p->used)
            p = here;
    }
    if (*ret_new) {
        if (p->n_parts > 0)
            cudaStreamSynchronize(stream); /* the old plan's kernels may be under way */
        forget(p);
        p->key = *key;
    }
    p->used = ++d->now;
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

/* At *at of the work buffer, which moves on. */
static struct tensor operand(struct run *r, size_t *at, enum dtype type, int n_dims, const int64_t *shape)
{
    struct tensor t = tensor_of(cuda_of(r)->work + *at, type, n_dims, shape);
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
    ready(p, operation);
    make_plan(d, p, 1, &operation);
#else
    (void)d, (void)sq, (void)sk, (void)hq, (void)hk, (void)width;
    p->status = CUDNN_STATUS_NOT_SUPPORTED;
#endif
}

/* ---- attention in e4m3 ---- */

/* Operations of a graph, in order. */
struct graph {
    struct dnn_plan *p;
    cudnnBackendDescriptor_t list[20];
    int n;
    int64_t uid; /* of the next virtual tensor */
    int64_t sq, sk, heads;
};

/* A virtual tensor [1, heads, sq, n], and what an operation makes into it. */
static cudnnBackendDescriptor_t between(struct graph *g, cudnnDataType_t type, int64_t n)
{
    const int64_t dims[4] = {1, g->heads, g->sq, n}, strides[4] = {g->heads * g->sq * n, g->sq * n, n, 1};
    return tensor_part(g->p, g->uid++, type, 4, dims, strides);
}

static cudnnBackendDescriptor_t one_number(struct graph *g, enum uid uid)
{
    static const int64_t one[4] = {1, 1, 1, 1};
    return tensor_part(g->p, uid, CUDNN_DATA_FLOAT, 4, one, one);
}

static cudnnBackendDescriptor_t sum_in_f32(struct graph *g, cudnnBackendDescriptorType_t type,
                                           cudnnBackendAttributeName_t name)
{
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t d = part_new(g->p, type);
    put(g->p, d, name, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    return d;
}

static void add(struct graph *g, cudnnBackendDescriptor_t operation)
{
    if (g->n == (int)(sizeof g->list / sizeof g->list[0])) {
        g->p->status = CUDNN_STATUS_INTERNAL_ERROR;
        return;
    }
    g->list[g->n++] = ready(g->p, operation);
}

static cudnnBackendDescriptor_t product(struct graph *g, cudnnBackendDescriptor_t a, cudnnBackendDescriptor_t b,
                                        cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t how =
        ready(g->p, sum_in_f32(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR, CUDNN_ATTR_MATMUL_COMP_TYPE));
    cudnnBackendDescriptor_t operation = part_new(g->p, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    put_part(g->p, operation, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    put_part(g->p, operation, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    put_part(g->p, operation, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y);
    put_part(g->p, operation, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    add(g, operation);
    return y;
}

/* b NULL: of x alone. */
static cudnnBackendDescriptor_t pointwise(struct graph *g, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t x,
                                          cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t how = sum_in_f32(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MATH_PREC);
    put(g->p, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    ready(g->p, how);
    cudnnBackendDescriptor_t operation = part_new(g->p, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    put_part(g->p, operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    put_part(g->p, operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b)
        put_part(g->p, operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    put_part(g->p, operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add(g, operation);
    return y;
}

static cudnnBackendDescriptor_t reduction(struct graph *g, cudnnReduceTensorOp_t what, cudnnBackendDescriptor_t x,
                                          cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t how = sum_in_f32(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_ATTR_REDUCTION_COMP_TYPE);
    put(g->p, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &what);
    ready(g->p, how);
    cudnnBackendDescriptor_t operation = part_new(g->p, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    put_part(g->p, operation, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    put_part(g->p, operation, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    put_part(g->p, operation, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    add(g, operation);
    return y;
}

static cudnnBackendDescriptor_t times(struct graph *g, cudnnBackendDescriptor_t x, enum uid by, int64_t n)
{
    return pointwise(g, CUDNN_POINTWISE_MUL, x, one_number(g, by), between(g, CUDNN_DATA_FLOAT, n));
}

/* Softmax over the keys. The logarithm of the sums is nobody's, but the graph that engines know has it. */
static cudnnBackendDescriptor_t softmax(struct graph *g, cudnnBackendDescriptor_t s)
{
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t most = reduction(g, CUDNN_REDUCE_TENSOR_MAX, s, between(g, f32, 1));
    s = pointwise(g, CUDNN_POINTWISE_SUB, s, most, between(g, f32, g->sk));
    s = pointwise(g, CUDNN_POINTWISE_EXP, s, NULL, between(g, f32, g->sk));
    cudnnBackendDescriptor_t total = reduction(g, CUDNN_REDUCE_TENSOR_ADD, s, between(g, f32, 1));
    cudnnBackendDescriptor_t log = pointwise(g, CUDNN_POINTWISE_LOG, total, NULL, between(g, f32, 1));
    pointwise(g, CUDNN_POINTWISE_ADD, most, log, between(g, f32, 1));
    return pointwise(g, CUDNN_POINTWISE_DIV, s, total, between(g, f32, g->sk));
}

/* As attention_plan, one key head a query head; o is bf16. */
static void e4m3_plan(struct dnn *d, struct dnn_plan *p, int64_t sq, int64_t sk, int64_t heads, int64_t width)
{
    const cudnnDataType_t e4m3 = CUDNN_DATA_FP8_E4M3, f32 = CUDNN_DATA_FLOAT;
    const int64_t nq[4] = {1, heads, sq, width}, lq[4] = {sq * heads * width, width, heads * width, 1},
                  nk[4] = {1, heads, width, sk}, lk[4] = {sk * heads * width, width, 1, heads * width}, /* turned */
        nv[4] = {1, heads, sk, width}, lv[4] = {sk * heads * width, width, heads * width, 1};
    struct graph g = {.p = p, .uid = VIRTUAL, .sq = sq, .sk = sk, .heads = heads};
    cudnnBackendDescriptor_t s =
        product(&g, tensor_part(p, Q, e4m3, 4, nq, lq), tensor_part(p, K, e4m3, 4, nk, lk), between(&g, f32, sk));
    s = times(&g, times(&g, times(&g, s, SCALE, sk), BY_Q, sk), BY_K, sk);
    s = softmax(&g, s);
    reduction(&g, CUDNN_REDUCE_TENSOR_AMAX, s, one_number(&g, AMAX_P));
    s = pointwise(&g, CUDNN_POINTWISE_MUL, s, one_number(&g, TO_P), between(&g, e4m3, sk));
    s = product(&g, s, tensor_part(p, V, e4m3, 4, nv, lv), between(&g, f32, width));
    s = times(&g, times(&g, s, BY_P, width), BY_V, width);
    pointwise(&g, CUDNN_POINTWISE_MUL, s, one_number(&g, TO_O), tensor_part(p, O, CUDNN_DATA_BFLOAT16, 4, nq, lq));
    reduction(&g, CUDNN_REDUCE_TENSOR_AMAX, s, one_number(&g, AMAX_O));
    p->room = (int64_t)HEADS;
    make_plan(d, p, g.n, g.list);
}

/* ---- attention, some heads at a time ---- */

struct attention {
    struct tensor y, q, k, v; /* of one batch: [tokens, heads, width] */
    float scale;
    bool e4m3;
};

/* [tokens, heads, width] as [tokens, heads * width]: heads lie side by side. */
static struct tensor side_by_side(struct tensor t)
{
    struct tensor flat = {.data = t.data,
                          .dtype = t.dtype,
                          .n_dims = 2,
                          .shape = {t.shape[0], t.shape[1] * t.shape[2]},
                          .stride = {t.stride[0], 1}};
    return flat;
}

/* Softmax does not change when all keys move by the same vector: without their mean they have smaller numbers to round. */
static int operands_e4m3(struct run *r, const struct attention *a, struct tensor to[3], struct tensor numbers,
                         struct tensor mean)
{
    const struct tensor from[3] = {side_by_side(a->q), side_by_side(a->k), side_by_side(a->v)}, none = {0};
    int rc = e4m3_mean(r, mean, from[1]);
    for (int i = 0; i < 3 && rc == 0; i++)
        rc = e4m3_rows(r, side_by_side(to[i]), from[i], i == 1 ? mean : none, tensor_slice(numbers, 0, i, 1), false);
    if (rc == 0)
        rc = cuda_fill(r, tensor_slice(numbers, 0, 3, 1), 1.0f / P_SCALE);
    if (rc == 0)
        rc = cuda_fill(r, tensor_slice(numbers, 0, 4, 1), P_SCALE);
    return rc == 0 ? cuda_fill(r, tensor_slice(numbers, 0, 5, 1), 1) : rc;
}

static int operands_bf16(struct run *r, const struct attention *a, struct tensor to[3])
{
    int rc = cuda_copy(r, to[0], a->q);
    if (rc == 0)
        rc = cuda_copy(r, to[1], a->k);
    return rc == 0 ? cuda_copy(r, to[2], a->v) : rc;
}

/* Some heads of one batch. */
static int attend(struct run *r, struct dnn *d, const struct attention *a)
{
    const int64_t sq = a->q.shape[0], hq = a->q.shape[1], width = a->q.shape[2], sk = a->k.shape[0], hk = a->k.shape[1];
    const int64_t wide = hk * width, n_numbers = 8;
    struct dnn_key key = {a->e4m3 ? ATTENTION_E4M3 : ATTENTION, {sq, sk, hq, hk, width}};
    enum dtype type = a->e4m3 ? DTYPE_F8E4M3 : DTYPE_BF16;
    float scale = a->scale;
    size_t at = HEADS;
    struct tensor to[3] = {operand(r, &at, type, 3, a->q.shape), operand(r, &at, type, 3, a->k.shape),
                           operand(r, &at, type, 3, a->v.shape)},
                  o = operand(r, &at, DTYPE_BF16, 3, a->q.shape), numbers = operand(r, &at, DTYPE_F32, 1, &n_numbers),
                  mean = operand(r, &at, DTYPE_F32, 1, &wide);
    float *number = numbers.data;
    const int64_t uids[] = {Q, K, V, O, SCALE, BY_Q, BY_K, BY_V, BY_P, TO_P, TO_O, AMAX_P, AMAX_O};
    void *pointers[] = {to[0].data, to[1].data, to[2].data, o.data,     &scale,     number,    number + 1,
                        number + 2, number + 3, number + 4, number + 5, number + 6, number + 7};
    bool is_new;
    struct dnn_plan *p = lookup(d, cuda_of(r)->compute, &key, &is_new);
    if (is_new && a->e4m3)
        e4m3_plan(d, p, sq, sk, hq, width);
    else if (is_new)
        attention_plan(d, p, sq, sk, hq, hk, width);
    if (!p->plan)
        return LIB_DNN_OWN;
    int rc = a->e4m3 ? operands_e4m3(r, a, to, numbers, mean) : operands_bf16(r, a, to);
    if (rc == 0)
        rc = execute(r, d, p, a->e4m3 ? 13 : 5, uids, pointers);
    return rc == 0 ? cuda_copy(r, a->y, o) : rc;
}

/* Key heads that go at once, in equal parts so that one plan serves all; 0: not even one fits. */
static int64_t heads_at_once(const struct run *r, struct tensor q, struct tensor k, bool e4m3)
{
    int64_t sq = q.shape[1], sk = k.shape[1], hk = k.shape[2], width = q.shape[3], share = q.shape[2] / hk;
    int64_t size = e4m3 ? 1 : 2, head = width * (sq * share * (size + 2) + 2 * sk * size) + 4 * width + 2048;
    (void)r; /* where tests say how much there is */
    int64_t n = (int64_t)(DNN_HEADS_BYTES) / head;
    n = n < hk ? n : hk;
    while (n > 1 && hk % n != 0)
        n--;
    return n;
}

/* All batches and heads, as in ops.h. */
static int batches(struct run *r, struct tensor y, struct tensor q, struct tensor k, struct tensor v, float scale, bool e4m3)
{
    int64_t n = heads_at_once(r, q, k, e4m3), hk = k.shape[2], share = q.shape[2] / hk;
    struct dnn *d = cuda_of(r)->dnn;
    int rc = n < 1 ? LIB_DNN_OWN : 0;
    for (int64_t i = 0; i < q.shape[0] * hk && rc == 0; i += n) {
        int64_t b = i / hk, h = i % hk;
        const struct attention a = {.y = tensor_slice(tensor_at(y, 0, b), 1, h * share, n * share),
                                    .q = tensor_slice(tensor_at(q, 0, b), 1, h * share, n * share),
                                    .k = tensor_slice(tensor_at(k, 0, b), 1, h, n),
                                    .v = tensor_slice(tensor_at(v, 0, b), 1, h, n),
                                    .scale = scale,
                                    .e4m3 = e4m3};
        rc = attend(r, d, &a);
    }
    return rc;
}

/* Where e4m3 is worth it and documented: Hopper and later, a key head for each query head, heads of up to 128. */
static bool e4m3_fits(const struct run *r, struct tensor q, struct tensor k, struct tensor v)
{
    int64_t width = q.shape[3];
    bool here = r->device->precision == DEVICE_FP8 && cuda_of(r)->sm >= 90 && q.shape[2] == k.shape[2];
    bool close = q.stride[2] == width && k.stride[2] == width && v.stride[2] == width;
    return here && width % 16 == 0 && width <= 128 && (close || q.shape[2] == 1);
}

int lib_dnn_attention(struct run *r, struct tensor y, struct tensor q, struct tensor k, struct tensor v, struct attn a)
{
    int64_t sk = k.shape[1];
    bool full = a.kind == ATTN_FULL || (a.kind == ATTN_BLOCK_CAUSAL && a.block >= sk); /* a single block */
    if (r->device->precision == DEVICE_F32 || !full || q.shape[3] % 8 != 0 || q.shape[1] * sk < DNN_WORTH)
        return LIB_DNN_OWN;
    int rc = e4m3_fits(r, q, k, v) ? batches(r, y, q, k, v, a.scale, true) : LIB_DNN_OWN;
    return rc == LIB_DNN_OWN ? batches(r, y, q, k, v, a.scale, false) : rc;
}

/* ---- convolution ---- */

/* Everything is [T, H, W, C] in memory; x holds its padding. */
static void conv_plan(struct dnn *d, struct dnn_plan *p, const int64_t *x, const int64_t *y, const int64_t *w,
                      const int *stride, cudnnDataType_t type)
{
    const int64_t nx[5] = {1, x[3], x[0], x[1], x[2]}, ny[5] = {1, y[3], y[0], y[1], y[2]};
    const int64_t nw[5] = {w[0], w[1], w[2], w[3], w[4]}, taps = w[2] * w[3] * w[4];
    const int64_t lx[5] = {x[0] * x[1] * x[2] * x[3], 1, x[1] * x[2] * x[3], x[2] * x[3], x[3]};
    const int64_t ly[5] = {y[0] * y[1] * y[2] * y[3], 1, y[1] * y[2] * y[3], y[2] * y[3], y[3]};
    const int64_t lw[5] = {taps * w[1], 1, w[3] * w[4] * w[1], w[4] * w[1], w[1]};
    const int64_t zero[3] = {0}, one[3] = {1, 1, 1}, step[3] = {stride[0], stride[1], stride[2]}, n = 3;
    const cudnnDataType_t sum = CUDNN_DATA_FLOAT;
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
    ready(p, operation);
    make_plan(d, p, 1, &operation);
}

/* Output rows [h, h + n[1]) of frames [t, t + n[0]), in w's type. */
static int box(struct run *r, struct dnn *d, struct tensor y, struct tensor x, struct tensor w, struct tensor b,
               const struct conv *c, int64_t t, int64_t h, const int64_t n[2], size_t at)
{
    const int64_t ny[4] = {n[0], n[1], y.shape[2], y.shape[3]};
    const int64_t from[3] = {t * c->stride[0] - c->pad_before[0], h * c->stride[1] - c->pad_before[1], -c->pad_before[2]};
    int64_t nx[4];
    const bool is_f16 = w.dtype == DTYPE_F16;
    struct dnn_key key = {is_f16 ? CONVOLUTION_F16 : CONVOLUTION, {0}};
    for (int i = 0; i < 3; i++)
        nx[i] = (ny[i] - 1) * c->stride[i] + w.shape[2 + i];
    nx[3] = x.shape[3];
    struct tensor xn = operand(r, &at, w.dtype, 4, nx), yn = operand(r, &at, w.dtype, 4, ny);
    memcpy(key.n, nx, sizeof nx);
    memcpy(key.n + 4, w.shape, 5 * sizeof *w.shape);
    for (int i = 0; i < 3; i++)
        key.n[9 + i] = c->stride[i];
    bool is_new;
    struct dnn_plan *p = lookup(d, cuda_of(r)->compute, &key, &is_new);
    if (is_new)
        conv_plan(d, p, nx, ny, w.shape, c->stride, is_f16 ? CUDNN_DATA_HALF : CUDNN_DATA_BFLOAT16);
    if (!p->plan)
        return LIB_DNN_OWN;
    const int64_t uids[] = {X, W, Y};
    void *pointers[] = {xn.data, w.data, yn.data};
    int rc = lib_dnn_padded(r, xn, x, from, c->replicate);
    if (rc == 0)
        rc = execute(r, d, p, 3, uids, pointers);
    return rc == 0 ? lib_dnn_finish(r, tensor_slice(tensor_slice(y, 0, t, n[0]), 1, h, n[1]), yn, b, c->act) : rc;
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
    if (r->device->precision == DEVICE_F32 || c->groups != 1 || x.shape[3] % 8 != 0 || y.shape[3] % 8 != 0)
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
    struct tensor wn = operand(r, &at, w.dtype == DTYPE_F16 ? DTYPE_F16 : DTYPE_BF16, 5, nw), kernels = w;
    kernels.data = wn.data;
    kernels.dtype = wn.dtype;
    box_size(y, x, w, c, OPERANDS + DNN_OPERANDS_BYTES - at, n);
    if (n[0] < 1)
        return LIB_DNN_OWN;
    struct dnn *d = cuda_of(r)->dnn;
    int rc = cuda_copy(r, wn, tensor_permute(w, last));
    for (int64_t t = 0; t < y.shape[0] && rc == 0; t += n[0]) {
        for (int64_t h = 0; h < y.shape[1] && rc == 0; h += n[1]) {
            const int64_t here[2] = {y.shape[0] - t < n[0] ? y.shape[0] - t : n[0],
                                     y.shape[1] - h < n[1] ? y.shape[1] - h : n[1]};
            rc = box(r, d, y, x, kernels, b, c, t, h, here, at);
        }
    }
    return rc;
}
