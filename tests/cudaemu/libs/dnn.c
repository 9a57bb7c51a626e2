/* dnn.c -- cuDNN's backend API, as far as kernels/cuda/lib_dnn.c uses it, in plain loops over "device" memory: descriptors
 * keep their attributes, an execution reads them back. Its heuristics first offer an engine that does not repeat its sums
 * (its results are NaN: nobody may take it), then one that wants more workspace than there is, then the one to use.
 * Attention with heads wider than 128 has none. A graph of several operations is taken when it is attention in e4m3 as the
 * documentation draws it, on sm_90 and later and but for heads of 48; it is computed operation by operation.
 */
#include <cudnn.h>

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/dtype.h"

#define ATTRIBUTES 16
#define BYTES 256

struct attribute {
    int name, type;
    int64_t n;
    char bytes[BYTES];
};

struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool finished;
    int n, engine;
    struct attribute list[ATTRIBUTES];
};

struct cudnnContext {
    cudaStream_t stream;
};

static atomic_int open_handles, open_descriptors;

cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    *h = mem_zalloc(sizeof **h);
    open_handles++;
    return *h ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_INTERNAL_ERROR;
}

/* A descriptor that is left over is a leak of the caller's. */
cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
    mem_free(h);
    if (--open_handles == 0 && open_descriptors != 0)
        __builtin_trap();
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s)
{
    h->stream = s;
    return s ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

const char *cudnnGetErrorString(cudnnStatus_t s)
{
    return s == CUDNN_STATUS_NOT_SUPPORTED ? "not supported" : "emulated: refused";
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *ret)
{
    struct descriptor *d = mem_zalloc(sizeof *d);
    if (!d)
        return CUDNN_STATUS_INTERNAL_ERROR;
    d->type = type;
    d->engine = -1;
    *ret = d;
    open_descriptors++;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    mem_free(d);
    open_descriptors--;
    return CUDNN_STATUS_SUCCESS;
}

static size_t size_of(int type)
{
    switch (type) {
    case CUDNN_TYPE_BOOLEAN:
        return sizeof(bool);
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
    case CUDNN_TYPE_INT64:
        return 8;
    default:
        return 4;
    }
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n, const void *values)
{
    struct descriptor *d = descriptor;
    if (d->finished || d->n == ATTRIBUTES || n < 1 || (size_t)n * size_of((int)type) > BYTES)
        return CUDNN_STATUS_BAD_PARAM;
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR && !(*(struct descriptor *const *)values)->finished)
        return CUDNN_STATUS_BAD_PARAM;
    struct attribute *a = &d->list[d->n++];
    a->name = (int)name;
    a->type = (int)type;
    a->n = n;
    memcpy(a->bytes, values, (size_t)n * size_of((int)type));
    return CUDNN_STATUS_SUCCESS;
}

static const struct attribute *find(const struct descriptor *d, int name)
{
    for (int i = 0; i < d->n; i++) {
        if (d->list[i].name == name)
            return &d->list[i];
    }
    __builtin_trap(); /* the caller forgot one */
}

static const struct descriptor *part(const struct descriptor *d, int name)
{
    const struct descriptor *p;
    memcpy(&p, find(d, name)->bytes, sizeof p);
    return p;
}

static int64_t number(const struct descriptor *d, int name, int i)
{
    int64_t v;
    memcpy(&v, find(d, name)->bytes + 8 * i, sizeof v);
    return v;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor)
{
    struct descriptor *d = descriptor;
    d->finished = true;
    return CUDNN_STATUS_SUCCESS;
}

/* What an operation does, as one letter. */
static char letter(const struct descriptor *op)
{
    int what = 0;
    bool reduces = op->type == CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR;
    if (op->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)
        return 'M';
    if (!reduces && op->type != CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)
        return '?';
    const struct descriptor *how =
        part(op, reduces ? CUDNN_ATTR_OPERATION_REDUCTION_DESC : CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    memcpy(&what, find(how, reduces ? CUDNN_ATTR_REDUCTION_OPERATOR : CUDNN_ATTR_POINTWISE_MODE)->bytes, sizeof what);
    if (reduces)
        return what == CUDNN_REDUCE_TENSOR_MAX ? '^' : what == CUDNN_REDUCE_TENSOR_ADD ? '+' : 'A';
    switch (what) {
    case CUDNN_POINTWISE_MUL:
        return '*';
    case CUDNN_POINTWISE_SUB:
        return '-';
    case CUDNN_POINTWISE_EXP:
        return 'e';
    case CUDNN_POINTWISE_LOG:
        return 'l';
    case CUDNN_POINTWISE_DIV:
        return '/';
    default:
        return 's';
    }
}

static const struct descriptor *operation(const struct descriptor *graph, int i)
{
    const struct descriptor *op;
    memcpy(&op, find(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS)->bytes + (size_t)i * sizeof op, sizeof op);
    return op;
}

static bool is_attention_e4m3(const struct descriptor *graph)
{
    static const char drawn[] = "M***^-e+ls/A*M***A";
    const char *sm = getenv("CUDAEMU_SM");
    int n = (int)find(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS)->n;
    bool same = n == (int)sizeof drawn - 1 && sm && atoi(sm) >= 90;
    for (int i = 0; i < n && same; i++)
        same = letter(operation(graph, i)) == drawn[i];
    const struct descriptor *q = same ? part(operation(graph, 0), CUDNN_ATTR_OPERATION_MATMUL_ADESC) : NULL;
    return q && number(q, CUDNN_ATTR_TENSOR_DIMENSIONS, 3) != 48;
}

static cudnnStatus_t heuristics(const struct descriptor *d, int64_t max, int64_t *ret_n, struct descriptor **configs)
{
    const struct descriptor *graph = part(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH), *first = operation(graph, 0);
    *ret_n = 0;
    if (first->type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR &&
        number(part(first, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC), CUDNN_ATTR_TENSOR_DIMENSIONS, 3) > 128)
        return CUDNN_STATUS_NOT_SUPPORTED;
    if (first->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR && !is_attention_e4m3(graph))
        return CUDNN_STATUS_SUCCESS; /* and no engine */
    if (max < 3)
        return CUDNN_STATUS_BAD_PARAM;
    for (int i = 0; i < 3; i++) {
        cudnnBackendSetAttribute(configs[i], CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                 &graph);
        configs[i]->engine = i;
        configs[i]->finished = true;
    }
    *ret_n = 3;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t max, int64_t *ret_n, void *values)
{
    const struct descriptor *d = descriptor;
    (void)type;
    *ret_n = 1;
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS)
        return heuristics(d, max, ret_n, values);
    if (name == CUDNN_ATTR_ENGINECFG_ENGINE)
        (*(struct descriptor **)values)->engine = d->engine;
    if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE)
        *(cudnnBackendNumericalNote_t *)values =
            d->engine == 0 ? CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC : CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
    if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)
        *(int64_t *)values = part(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)->engine == 1 ? (int64_t)1 << 40 : 4096;
    return CUDNN_STATUS_SUCCESS;
}

/* ---- execution ---- */

struct operand {
    char *data; /* NULL: virtual */
    int type;
    int64_t uid, n[5], step[5];
};

static struct operand bound(const struct descriptor *pack, const struct descriptor *tensor)
{
    struct operand o = {.uid = number(tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, 0)};
    bool is_virtual = find(tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL)->bytes[0] != 0;
    const struct attribute *uids = find(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS),
                           *dims = find(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS);
    for (int i = 0; i < uids->n; i++) {
        if (number(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, i) == o.uid)
            memcpy(&o.data, find(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)->bytes + 8 * i, sizeof o.data);
    }
    if (!o.data != is_virtual || (uintptr_t)o.data % (size_t)number(tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 0))
        __builtin_trap();
    memcpy(&o.type, find(tensor, CUDNN_ATTR_TENSOR_DATA_TYPE)->bytes, sizeof o.type);
    memcpy(o.n, dims->bytes, (size_t)dims->n * 8);
    memcpy(o.step, find(tensor, CUDNN_ATTR_TENSOR_STRIDES)->bytes, (size_t)dims->n * 8);
    return o;
}

static enum dtype dtype_of(int type)
{
    switch (type) {
    case CUDNN_DATA_FLOAT:
        return DTYPE_F32;
    case CUDNN_DATA_HALF:
        return DTYPE_F16;
    case CUDNN_DATA_BFLOAT16:
        return DTYPE_BF16;
    default:
        return DTYPE_F8E4M3;
    }
}

static double get(const struct operand *o, int64_t at)
{
    float v = 0;
    dtype_read_f32(&v, o->data + at * (int64_t)dtype_bytes(dtype_of(o->type)), dtype_of(o->type), 1, 1);
    return (double)v;
}

static void set(const struct operand *o, int64_t at, double value)
{
    float v = (float)value;
    dtype_write_f32(o->data + at * (int64_t)dtype_bytes(dtype_of(o->type)), dtype_of(o->type), &v, 1);
}

/* An execution as the stream sees it when its turn comes: descriptors may be gone by then. */
struct execution {
    struct operand a, b, c, y; /* x and weights; or q, k, v */
    int64_t stride[3];
    double scale;
    void *workspace;
};

static void convolve(void *arg)
{
    const struct execution *e = arg;
    struct operand x = e->a, w = e->b, y = e->y;
    const int64_t *s = e->stride, taps = w.n[2] * w.n[3] * w.n[4];
    memset(e->workspace, 0xff, 4096); /* it is the library's: operands lie elsewhere */
    for (int64_t i = 0; i < y.n[1] * y.n[2] * y.n[3] * y.n[4]; i++) {
        int64_t u = i % y.n[4], v = i / y.n[4] % y.n[3], t = i / y.n[4] / y.n[3] % y.n[2], o = i / y.n[4] / y.n[3] / y.n[2];
        double sum = 0;
        for (int64_t k = 0; k < taps * w.n[1]; k++) {
            int64_t ku = k % w.n[4], kv = k / w.n[4] % w.n[3], kt = k / w.n[4] / w.n[3] % w.n[2], ch = k / taps;
            sum += get(&x, ch * x.step[1] + (t * s[0] + kt) * x.step[2] + (v * s[1] + kv) * x.step[3] +
                               (u * s[2] + ku) * x.step[4]) *
                   get(&w, o * w.step[0] + ch * w.step[1] + kt * w.step[2] + kv * w.step[3] + ku * w.step[4]);
        }
        set(&y, o * y.step[1] + t * y.step[2] + v * y.step[3] + u * y.step[4], sum);
    }
}

static double score(const struct operand *q, const struct operand *k, int64_t at_q, int64_t at_k, double scale)
{
    double sum = 0;
    for (int64_t c = 0; c < q->n[3]; c++)
        sum += get(q, at_q + c * q->step[3]) * get(k, at_k + c * k->step[3]);
    return exp(scale * sum); /* the test's scores are small */
}

static void attend(void *arg)
{
    const struct execution *e = arg;
    struct operand q = e->a, k = e->b, v = e->c, o = e->y;
    double by = e->scale, sum[128];
    memset(e->workspace, 0xff, 4096);
    for (int64_t i = 0; i < q.n[1] * q.n[2]; i++) {
        int64_t h = i / q.n[2], row = i % q.n[2], hk = h / (q.n[1] / k.n[1]);
        double total = 0;
        memset(sum, 0, sizeof sum);
        for (int64_t j = 0; j < k.n[2]; j++) {
            double p = score(&q, &k, h * q.step[1] + row * q.step[2], hk * k.step[1] + j * k.step[2], by);
            total += p;
            for (int64_t c = 0; c < v.n[3]; c++)
                sum[c] += p * get(&v, hk * v.step[1] + j * v.step[2] + c * v.step[3]);
        }
        for (int64_t c = 0; c < o.n[3]; c++)
            set(&o, h * o.step[1] + row * o.step[2] + c * o.step[3], sum[c] / total);
    }
}

static void bind_conv(struct execution *e, const struct descriptor *op, const struct descriptor *pack)
{
    const struct descriptor *c = part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    e->a = bound(pack, part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X));
    e->b = bound(pack, part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W));
    e->y = bound(pack, part(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y));
    for (int i = 0; i < 3; i++) {
        e->stride[i] = number(c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, i);
        if (number(c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, i) ||
            (e->a.n[2 + i] - e->b.n[2 + i]) / e->stride[i] + 1 != e->y.n[2 + i])
            __builtin_trap();
    }
}

static void bind_attention(struct execution *e, const struct descriptor *op, const struct descriptor *pack)
{
    e->a = bound(pack, part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC));
    e->b = bound(pack, part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC));
    e->c = bound(pack, part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC));
    e->y = bound(pack, part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC));
    e->scale = (double)*(const float *)(void *)bound(pack, part(op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC)).data;
}

/* ---- graphs ---- */

#define STEPS 20
#define TENSORS 40

struct graph {
    struct step {
        char what;
        int a, b, y; /* of tensors; b -1: none */
    } steps[STEPS];
    struct operand tensors[TENSORS];
    int n_steps, n_tensors;
    double scale; /* what was passed by value */
    void *workspace;
};

static bool is_reduction(char what)
{
    return what == '^' || what == '+' || what == 'A';
}

static int tensor_index(struct graph *g, const struct descriptor *pack, const struct descriptor *tensor)
{
    struct operand o = bound(pack, tensor);
    for (int i = 0; i < g->n_tensors; i++) {
        if (g->tensors[i].uid == o.uid)
            return i;
    }
    if (find(tensor, CUDNN_ATTR_TENSOR_IS_BY_VALUE)->bytes[0]) {
        g->scale = (double)*(const float *)(void *)o.data;
        o.data = NULL; /* the caller's memory: graph_run puts it into its own */
        o.uid = -o.uid;
    }
    if (g->n_tensors == TENSORS)
        __builtin_trap();
    g->tensors[g->n_tensors] = o;
    return g->n_tensors++;
}

static void bind_graph(struct graph *g, const struct descriptor *graph, const struct descriptor *pack)
{
    static const int product[3] = {CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC,
                                   CUDNN_ATTR_OPERATION_MATMUL_CDESC},
                     pointwise[3] = {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                                     CUDNN_ATTR_OPERATION_POINTWISE_YDESC},
                     reduction[3] = {CUDNN_ATTR_OPERATION_REDUCTION_XDESC, 0, CUDNN_ATTR_OPERATION_REDUCTION_YDESC};
    g->n_steps = (int)find(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS)->n;
    for (int i = 0; i < g->n_steps; i++) {
        const struct descriptor *op = operation(graph, i);
        char what = letter(op);
        struct step *s = &g->steps[i];
        bool two = what == 'M' || (!is_reduction(what) && what != 'e' && what != 'l');
        const int *name = what == 'M' ? product : is_reduction(what) ? reduction : pointwise;
        s->what = what;
        s->a = tensor_index(g, pack, part(op, name[0]));
        s->b = two ? tensor_index(g, pack, part(op, name[1])) : -1;
        s->y = tensor_index(g, pack, part(op, name[2]));
    }
}

static int64_t elements(const struct operand *o)
{
    return o->n[0] * o->n[1] * o->n[2] * o->n[3];
}

/* Where element i of a tensor of shape `like` lies in o, which may be 1 in some dimensions. */
static int64_t place(const struct operand *o, const struct operand *like, int64_t i)
{
    int64_t at = 0;
    for (int d = 3; d >= 0; d--) {
        int64_t here = i % like->n[d];
        i /= like->n[d];
        if (o->n[d] != 1 && o->n[d] != like->n[d])
            __builtin_trap();
        at += o->n[d] == 1 ? 0 : here * o->step[d];
    }
    return at;
}

static void multiply(const struct operand *a, const struct operand *b, const struct operand *y)
{
    if (a->n[1] != b->n[1] || a->n[3] != b->n[2] || y->n[2] != a->n[2] || y->n[3] != b->n[3])
        __builtin_trap();
    for (int64_t i = 0; i < elements(y); i++) {
        int64_t c = i % y->n[3], r = i / y->n[3] % y->n[2], h = i / y->n[3] / y->n[2];
        double sum = 0;
        for (int64_t k = 0; k < a->n[3]; k++)
            sum += get(a, h * a->step[1] + r * a->step[2] + k * a->step[3]) *
                   get(b, h * b->step[1] + k * b->step[2] + c * b->step[3]);
        set(y, place(y, y, i), sum);
    }
}

static void reduce(char what, const struct operand *x, const struct operand *y)
{
    for (int64_t i = 0; i < elements(y); i++)
        set(y, place(y, y, i), what == '^' ? -INFINITY : 0);
    for (int64_t i = 0; i < elements(x); i++) {
        double v = get(x, place(x, x, i)), old = get(y, place(y, x, i));
        set(y, place(y, x, i), what == '+' ? old + v : fmax(old, what == 'A' ? fabs(v) : v));
    }
}

static double apply(char what, double a, double b)
{
    switch (what) {
    case '*':
        return a * b;
    case '-':
        return a - b;
    case '/':
        return a / b;
    case 's':
        return a + b;
    case 'e':
        return exp(a);
    default:
        return log(a);
    }
}

static void graph_run(void *arg)
{
    struct graph *g = arg;
    float scale = (float)g->scale;
    memset(g->workspace, 0xff, 4096);
    bool is_virtual[TENSORS];
    for (int i = 0; i < g->n_tensors; i++) {
        struct operand *t = &g->tensors[i];
        is_virtual[i] = !t->data && t->uid > 0;
        if (is_virtual[i] && !(t->data = mem_calloc((size_t)elements(t), sizeof(float))))
            __builtin_trap();
        if (t->uid < 0)
            t->data = (char *)&scale;
    }
    for (int i = 0; i < g->n_steps; i++) {
        const struct step *s = &g->steps[i];
        const struct operand *a = &g->tensors[s->a], *b = s->b < 0 ? a : &g->tensors[s->b], *y = &g->tensors[s->y];
        if (s->what == 'M')
            multiply(a, b, y);
        if (is_reduction(s->what))
            reduce(s->what, a, y);
        for (int64_t k = 0; s->what != 'M' && !is_reduction(s->what) && k < elements(y); k++)
            set(y, place(y, y, k), apply(s->what, get(a, place(a, y, k)), get(b, place(b, y, k))));
    }
    for (int i = 0; i < g->n_tensors; i++)
        mem_free(is_virtual[i] ? g->tensors[i].data : NULL);
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack)
{
    const struct descriptor *config = part(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG),
                            *graph = part(config, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH), *op = operation(graph, 0);
    struct execution e = {0};
    struct graph g = {0};
    int rc = 0;
    if (!h->stream || config->engine != 2 || !((struct descriptor *)pack)->finished)
        return CUDNN_STATUS_EXECUTION_FAILED;
    memcpy(&e.workspace, find(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE)->bytes, sizeof e.workspace);
    if (op->type == CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR) {
        g.workspace = e.workspace;
        bind_graph(&g, graph, pack);
        rc = cudaemu_enqueue(h->stream, graph_run, &g, sizeof g);
    } else if (op->type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR) {
        bind_attention(&e, op, pack);
        rc = cudaemu_enqueue(h->stream, attend, &e, sizeof e);
    } else {
        bind_conv(&e, op, pack);
        rc = cudaemu_enqueue(h->stream, convolve, &e, sizeof e);
    }
    return rc == 0 ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED;
}
