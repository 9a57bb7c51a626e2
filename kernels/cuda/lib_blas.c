/* lib_blas.c -- linear layers by cuBLASLt (CUDA 13's documentation of cublasLtMatmul; what of it matters is in lib_blas.h).
 *
 * The library thinks in columns: our y[m, n] = x[m, k] w[n, k]^T is its Y^T = W^T X with W [k, n] transposed, X [k, m], both
 * with k along memory; bias runs along its rows, our n. Operands of another type go through the work buffer, a piece of rows
 * (and of weights, where these must be converted) at a time.
 *
 * An algorithm is asked for once a shape and kept; none may add partial sums in the order of arrival, so the same call
 * gives the same bits. Where there is none with the epilogue that is wanted, one without is asked for, and a pass follows;
 * where there is none in e4m3, 16 bits are next. Nothing is allocated after the handle.
 */
#include "kernels/cuda/lib_blas.h"

#include <cublasLt.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/cuda/e4m3.h"

#define VECTOR ((size_t)512 << 10)
#define BIAS CUDA_WORK_LIBRARY /* offsets in the work buffer: the library's own, two vectors of n, operands */
#define GATE (BIAS + VECTOR)
#define OPERANDS (GATE + VECTOR)
#ifndef BLAS_OPERANDS_BYTES /* tests take less, to come to pieces with little */
#define BLAS_KNOWN 512      /* shapes kept; where all PLACES of a hash are taken the first makes room */
#define BLAS_OPERANDS_BYTES (cuda_of(r)->work_bytes - OPERANDS)
#define BLAS_WEIGHTS_BYTES (BLAS_OPERANDS_BYTES / 8 * 3) /* of them for converted weights */
#define BLAS_E4M3_LEAST 1024 /* in and out features: smaller layers (patches in and out, the VAE's) are not what costs */
#endif
#define PLACES 8
#define PIECE 128 /* rows and columns are split at multiples of this */

/* One call of the library, without its pointers; the key of an algorithm, compared byte by byte. */
struct blas_key {
    int64_t m, n, k, ldx, ldy;
    int32_t type, epilogue, adds, each_row;
    int32_t align_x, align_w, align_y, align_bias;
};

struct blas_known {
    struct blas_key key;
    cublasLtMatmulAlgo_t algo;
    bool used, fits; /* fits: there is an algorithm */
};

struct blas {
    cublasLtHandle_t handle;
    struct blas_known known[BLAS_KNOWN];
};

/* The type of both operands; e4m3: a scale for each row of x and w, or one for all of it. */
struct blas_way {
    enum dtype type;
    bool each_row;
};

/* The whole op: two-dimensional, rows one stride apart. */
struct blas_op {
    struct tensor y, x, w;
    struct tensor bias, gate; /* [n] or none; f32, the bias of e4m3 bf16 */
    enum act act;
    bool adds;
    float alpha;
    struct blas_way way;
    int64_t m_piece, n_piece;
};

/* In the memory of the device, k along it, rows ld elements apart. scale: NULL is 1. */
struct blas_operand {
    const void *data;
    const float *scale;
    int64_t ld;
};

struct blas_call {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t w, x, y;
};

static int fail(struct run *r, cublasStatus_t s, const char *what)
{
    int code = s == CUBLAS_STATUS_EXECUTION_FAILED || s == CUBLAS_STATUS_INTERNAL_ERROR ? ERR_DEVICE : ERR_INTERNAL;
    return run_fail(r, code, "cuBLASLt: %s: %s", what, cublasLtGetStatusString(s));
}

static void close_blas(void *p)
{
    struct blas *b = p;
    if (b->handle)
        cublasLtDestroy(b->handle);
    mem_free(b);
}

int lib_blas_open(struct cuda_impl *c, struct err *err)
{
    struct blas *b = mem_zalloc(sizeof *b);
    if (!b)
        return err_set(err, ERR_NOMEM, "device cuda: no memory for cuBLASLt");
    c->blas = b;
    c->blas_close = close_blas;
    cublasStatus_t s = cublasLtCreate(&b->handle);
    return s == CUBLAS_STATUS_SUCCESS
               ? 0
               : err_set(err, ERR_UNSUPPORTED, "device cuda: cuBLASLt does not open: %s", cublasLtGetStatusString(s));
}

/* ---- one call ---- */

struct blas_attribute {
    cublasLtMatmulDescAttributes_t what;
    const void *value;
    size_t size;
};

/* Scales are there for e4m3 alone: set with other types they are an error. */
static cublasStatus_t describe_e4m3(cublasLtMatmulDesc_t d, const struct blas_key *k, const float *const *w,
                                    const float *const *x, bool has_bias)
{
    int32_t bias = CUDA_R_16BF, mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const struct blas_attribute all[] = {{CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias, sizeof bias},
                                         {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, w, sizeof *w},
                                         {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x, sizeof *x},
                                         {CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode},
                                         {CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode}};
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    for (int i = has_bias ? 0 : 1; i < (k->each_row ? 5 : 3) && s == CUBLAS_STATUS_SUCCESS; i++)
        s = cublasLtMatmulDescSetAttribute(d, all[i].what, all[i].value, all[i].size);
    return s;
}

static cublasStatus_t describe(struct blas_call *c, const struct blas_key *k, struct blas_operand w, struct blas_operand x,
                               const void *bias)
{
    cublasOperation_t turned = CUBLAS_OP_T;
    cudaDataType_t type = (cudaDataType_t)k->type;
    cublasStatus_t s[8] = {0};
    s[0] = cublasLtMatmulDescInit(&c->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    s[1] = cublasLtMatmulDescSetAttribute(&c->product, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned);
    s[2] = cublasLtMatmulDescSetAttribute(&c->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &k->epilogue, sizeof k->epilogue);
    if (bias)
        s[3] = cublasLtMatmulDescSetAttribute(&c->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(const void *));
    if (type == CUDA_R_8F_E4M3)
        s[4] = describe_e4m3(&c->product, k, &w.scale, &x.scale, bias != NULL);
    s[5] = cublasLtMatrixLayoutInit(&c->w, type, (uint64_t)k->k, (uint64_t)k->n, k->k);
    s[6] = cublasLtMatrixLayoutInit(&c->x, type, (uint64_t)k->k, (uint64_t)k->m, k->ldx);
    s[7] = cublasLtMatrixLayoutInit(&c->y, CUDA_R_32F, (uint64_t)k->n, (uint64_t)k->m, k->ldy);
    for (int i = 0; i < 8; i++) {
        if (s[i] != CUBLAS_STATUS_SUCCESS)
            return s[i];
    }
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t prefer(cublasLtMatmulPreferenceOpaque_t *p, const struct blas_key *k)
{
    uint64_t bytes = CUDA_WORK_LIBRARY;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, aw = (uint32_t)k->align_w, ax = (uint32_t)k->align_x,
             ay = (uint32_t)k->align_y;
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        const void *value;
        size_t size;
    } all[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes},
               {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &aw, sizeof aw},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &ax, sizeof ax},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &ay, sizeof ay},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &ay, sizeof ay}};
    cublasStatus_t s = cublasLtMatmulPreferenceInit(p);
    for (size_t i = 0; i < sizeof all / sizeof all[0] && s == CUBLAS_STATUS_SUCCESS; i++)
        s = cublasLtMatmulPreferenceSetAttribute(p, all[i].what, all[i].value, all[i].size);
    return s;
}

static uint64_t hash(const struct blas_key *k)
{
    const unsigned char *p = (const unsigned char *)k;
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < sizeof *k; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* Where a key is, or is to go. */
static struct blas_known *place(struct blas *b, const struct blas_key *key)
{
    uint64_t first = hash(key) % BLAS_KNOWN;
    for (int i = 0; i < PLACES; i++) {
        struct blas_known *at = &b->known[(first + (uint64_t)i) % BLAS_KNOWN];
        if (!at->used || memcmp(&at->key, key, sizeof *key) == 0)
            return at;
    }
    return &b->known[first];
}

/* What the library does not do; everything else is a failure. */
static bool refused(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE || s == CUBLAS_STATUS_ARCH_MISMATCH;
}

/* The algorithm for a key: looked up, or asked for. NULL after a failure. */
static struct blas_known *choose(struct run *r, struct blas *b, const struct blas_key *key, struct blas_call *c)
{
    struct blas_known *known = place(b, key);
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int n = 0;
    if (known->used && memcmp(&known->key, key, sizeof *key) == 0)
        return known;
    memset(&result, 0, sizeof result);
    cublasStatus_t s = prefer(&preference, key);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulAlgoGetHeuristic(b->handle, &c->product, &c->w, &c->x, &c->y, &c->y, &preference, 1, &result, &n);
    if (s != CUBLAS_STATUS_SUCCESS && !refused(s)) {
        fail(r, s, "choosing an algorithm");
        return NULL;
    }
    cudaGetLastError(); /* of what was looked at: the next launch must not find it */
    known->key = *key;
    known->used = true;
    known->fits = s == CUBLAS_STATUS_SUCCESS && n > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    known->algo = result.algo;
    return known;
}

static int32_t alignment(const void *p)
{
    uintptr_t at = (uintptr_t)p, low = at & (~at + 1);
    return low > 256 || low == 0 ? 256 : (int32_t)low;
}

static int32_t library_type(enum dtype t)
{
    switch (t) {
    case DTYPE_F32:
        return CUDA_R_32F;
    case DTYPE_F16:
        return CUDA_R_16F;
    case DTYPE_F8E4M3:
        return CUDA_R_8F_E4M3;
    default:
        return CUDA_R_16BF;
    }
}

/* y[m, n] (f32) = x w^T with this epilogue, or LIB_BLAS_OWN. */
static int attempt(struct run *r, const struct blas_op *o, struct tensor y, struct blas_operand x, struct blas_operand w,
                   const void *bias, int epilogue, bool adds)
{
    struct blas *b = cuda_of(r)->blas;
    struct blas_key key;
    struct blas_call call;
    const float beta = adds ? 1 : 0;
    memset(&key, 0, sizeof key);
    key.m = y.shape[0];
    key.n = y.shape[1];
    key.k = o->w.shape[1];
    key.ldx = x.ld;
    key.ldy = y.stride[0];
    key.type = library_type(o->way.type);
    key.epilogue = epilogue;
    key.adds = adds;
    key.each_row = o->way.each_row;
    key.align_x = alignment(x.data);
    key.align_w = alignment(w.data);
    key.align_y = alignment(y.data);
    key.align_bias = alignment(bias);
    cublasStatus_t s = describe(&call, &key, w, x, bias);
    if (s != CUBLAS_STATUS_SUCCESS && o->way.type == DTYPE_F8E4M3)
        return LIB_BLAS_OWN; /* a library that is older than the headers */
    if (s != CUBLAS_STATUS_SUCCESS)
        return fail(r, s, "describing the product");
    struct blas_known *known = choose(r, b, &key, &call);
    if (!known || !known->fits)
        return known ? LIB_BLAS_OWN : r->err.code;
    s = cublasLtMatmul(b->handle, &call.product, &o->alpha, w.data, &call.w, x.data, &call.x, &beta, y.data, &call.y, y.data,
                       &call.y, &known->algo, cuda_of(r)->work, CUDA_WORK_LIBRARY, cuda_of(r)->compute);
    if (refused(s)) { /* scales that it does not take it refuses only here */
        known->fits = false;
        return LIB_BLAS_OWN;
    }
    return s == CUBLAS_STATUS_SUCCESS ? 0 : fail(r, s, "the product");
}

/* The same with bias and activation: in the epilogue as far as there is an algorithm with it, the rest in a pass. */
static int multiply(struct run *r, const struct blas_op *o, struct tensor y, struct blas_operand x, struct blas_operand w,
                    struct tensor bias, bool adds)
{
    const struct tensor none = {0};
    bool gelu = o->act == ACT_GELU_TANH && o->way.type != DTYPE_F32; /* its tanh is an approximation that nobody bounds */
    const int plain = bias.data ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT,
              with_gelu = bias.data ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU,
              tries[] = {gelu ? with_gelu : plain, plain, CUBLASLT_EPILOGUE_DEFAULT};
    int rc = LIB_BLAS_OWN, last = 0;
    for (int i = 0; i < 3 && rc == LIB_BLAS_OWN; i++) {
        if (tries[i] != last)
            rc = attempt(r, o, y, x, w, tries[i] & CUBLASLT_EPILOGUE_BIAS ? bias.data : NULL, tries[i], adds);
        last = tries[i];
    }
    if (rc != 0)
        return rc;
    if (last & CUBLASLT_EPILOGUE_BIAS)
        bias = none;
    return lib_blas_finish(r, y, bias, last & CUBLASLT_EPILOGUE_GELU ? ACT_NONE : o->act);
}

/* ---- one op ---- */

static struct tensor rows_of(struct tensor t, int64_t first, int64_t n)
{
    return tensor_slice(t, 0, first, n);
}

static struct tensor take(struct run *r, size_t *at, enum dtype type, int n_dims, const int64_t *shape)
{
    struct tensor t = tensor_of(cuda_of(r)->work + *at, type, n_dims, shape);
    *at += (tensor_bytes(t) + 255) / 256 * 256;
    return t;
}

/* t [rows, k] as the product wants it: as it lies, or converted at *at of the work buffer, which moves on. */
static int convert(struct run *r, struct blas_way way, struct tensor t, size_t *at, struct blas_operand *ret)
{
    *ret = (struct blas_operand){.data = t.data, .ld = t.stride[0]};
    if (t.dtype == way.type && !way.each_row) /* the scale of stored e4m3 weights is alpha */
        return 0;
    struct tensor scales = {0}, dst = {0}, none = {0};
    if (way.type == DTYPE_F8E4M3) {
        int64_t n = way.each_row ? t.shape[0] : 1;
        scales = take(r, at, DTYPE_F32, 1, &n);
        ret->scale = scales.data;
    }
    if (t.dtype == way.type)
        return cuda_fill(r, scales, 1);
    dst = take(r, at, way.type, 2, t.shape);
    ret->data = dst.data;
    ret->ld = dst.stride[0];
    if (way.type == DTYPE_F8E4M3)
        return e4m3_rows(r, dst, t, none, scales, way.each_row);
    return way.type == DTYPE_F16 ? lib_blas_f16(r, dst, t) : cuda_copy(r, dst, t);
}

/* Rows [i, i + m) of the op, with weights w of outputs [j, j + n) ready in memory. */
static int piece(struct run *r, const struct blas_op *o, int64_t i, int64_t m, int64_t j, int64_t n, struct blas_operand w,
                 size_t free_at)
{
    struct tensor x = rows_of(o->x, i, m), y = tensor_slice(rows_of(o->y, i, m), 1, j, n), out = y, bias = o->bias;
    struct blas_operand xs;
    bool gated = !tensor_is_none(o->gate);
    int rc = convert(r, o->way, x, &free_at, &xs);
    if (gated)
        out = take(r, &free_at, DTYPE_F32, 2, y.shape);
    if (bias.data)
        bias = tensor_slice(bias, 0, j, n);
    if (rc == 0)
        rc = multiply(r, o, out, xs, w, bias, o->adds && !gated);
    return rc == 0 && gated ? cuda_add_gated(r, y, out, tensor_slice(o->gate, 0, j, n)) : rc;
}

/* How many rows and outputs go at once; false: not even some. */
static bool plan(const struct run *r, struct blas_op *o)
{
    int64_t m = o->x.shape[0], k = o->x.shape[1], n = o->w.shape[0];
    (void)r; /* where tests say how much there is */
    size_t size = dtype_bytes(o->way.type), scale = o->way.each_row ? sizeof(float) : 0;
    size_t row = o->way.type == DTYPE_F32 ? 0 : (size_t)k * size + scale, room = BLAS_OPERANDS_BYTES - 2048;
    o->n_piece = n;
    if (o->w.dtype != o->way.type) {
        int64_t fit = (int64_t)(BLAS_WEIGHTS_BYTES / ((size_t)k * size));
        if (fit < n)
            o->n_piece = fit / PIECE * PIECE;
        room -= (size_t)o->n_piece * (size_t)k * size;
    }
    if (scale * (size_t)o->n_piece > room / 2)
        return false;
    room -= scale * (size_t)o->n_piece;
    if (!tensor_is_none(o->gate))
        row += (size_t)o->n_piece * sizeof(float);
    o->m_piece = m;
    if (row > 0 && (int64_t)(room / row) < m)
        o->m_piece = (int64_t)(room / row) / PIECE * PIECE;
    return o->n_piece > 0 && o->m_piece > 0;
}

/* Outputs [j, j + n) of all rows. */
static int outputs(struct run *r, const struct blas_op *o, int64_t j, int64_t n)
{
    struct blas_operand w;
    size_t free_at = OPERANDS;
    int64_t m = o->x.shape[0];
    int rc = convert(r, o->way, rows_of(o->w, j, n), &free_at, &w);
    for (int64_t i = 0; i < m && rc == 0; i += o->m_piece) {
        rc = piece(r, o, i, m - i < o->m_piece ? m - i : o->m_piece, j, n, w, free_at);
        if (rc == LIB_BLAS_OWN && o->adds && i + j > 0) /* some was added: there is no way back */
            rc = run_fail(r, ERR_INTERNAL, "cuBLASLt has an algorithm for some pieces of this product and not for others");
    }
    return rc;
}

static int product(struct run *r, struct blas_op *o)
{
    int64_t n = o->w.shape[0];
    int rc = plan(r, o) ? 0 : LIB_BLAS_OWN;
    for (int64_t j = 0; j < n && rc == 0; j += o->n_piece)
        rc = outputs(r, o, j, n - j < o->n_piece ? n - j : o->n_piece);
    return rc;
}

/* [..., n] as [rows, n] with one stride between rows; false where rows have no such stride. */
static bool flatten(struct tensor *t)
{
    struct cuda_rows v = cuda_rows_of(*t);
    int64_t stride = v.n_dims > 0 ? v.stride[0] : v.n;
    struct tensor flat = {.data = t->data, .dtype = t->dtype, .n_dims = 2, .shape = {v.n_rows, v.n}, .stride = {stride, 1}};
    if (v.n_dims > 1 || stride < v.n || v.n < 1)
        return false;
    *t = flat;
    return true;
}

/* An [n] parameter of a type in device memory: where it is, or a copy at `at` of the work buffer. */
static int vector(struct run *r, struct tensor *t, enum dtype type, size_t at)
{
    int64_t n = tensor_count(*t);
    if (tensor_is_none(*t))
        return 0;
    *t = tensor_of(t->data, t->dtype, 1, &n);
    if (t->dtype == type && alignment(t->data) >= 16)
        return 0;
    if ((size_t)n * dtype_bytes(type) > VECTOR)
        return LIB_BLAS_OWN;
    struct tensor copy = tensor_of(cuda_of(r)->work + at, type, 1, &n);
    int rc = cuda_copy(r, copy, *t);
    *t = copy;
    return rc;
}

/* What the library asks for in e4m3, and what makes it worth converting. */
static bool e4m3_fits(const struct run *r, const struct blas_op *o)
{
    int64_t n = o->w.shape[0], k = o->w.shape[1];
    bool here = r->device->precision == DEVICE_FP8 && cuda_of(r)->sm >= 89;
    bool shape = n % 16 == 0 && k % 16 == 0 && n >= BLAS_E4M3_LEAST && k >= BLAS_E4M3_LEAST;
    bool y = !tensor_is_none(o->gate) || (alignment(o->y.data) >= 16 && o->y.stride[0] % 4 == 0);
    return here && shape && y && (o->w.dtype != DTYPE_F8E4M3 || alignment(o->w.data) >= 16);
}

/* The ways to multiply, best first. */
static int ways(const struct run *r, const struct blas_op *o, struct blas_way ret[3])
{
    int n = 0;
    if (r->device->precision == DEVICE_F32) {
        ret[n++] = (struct blas_way){.type = DTYPE_F32};
        return n;
    }
    if (e4m3_fits(r, o)) {
        if (cuda_of(r)->sm == 90) /* the only one documented to have it */
            ret[n++] = (struct blas_way){.type = DTYPE_F8E4M3, .each_row = true};
        ret[n++] = (struct blas_way){.type = DTYPE_F8E4M3};
    }
    ret[n++] = (struct blas_way){.type = o->w.dtype == DTYPE_F16 ? DTYPE_F16 : DTYPE_BF16};
    return n;
}

/* o with y, x, w, gate, act and adds set. */
static int linear(struct run *r, struct blas_op *o, struct tensor b)
{
    struct blas_way list[3];
    o->alpha = o->w.dtype == DTYPE_F8E4M3 && o->w.scale ? o->w.scale[0] : 1;
    o->w.scale = NULL; /* copied without it */
    if (!flatten(&o->y) || !flatten(&o->x) || o->w.shape[1] < 1)
        return LIB_BLAS_OWN;
    int rc = vector(r, &o->gate, DTYPE_F32, GATE), n = ways(r, o, list);
    if (rc != 0)
        return rc;
    rc = LIB_BLAS_OWN;
    for (int i = 0; i < n && rc == LIB_BLAS_OWN; i++) {
        o->way = list[i];
        o->bias = b;
        rc = vector(r, &o->bias, o->way.type == DTYPE_F8E4M3 ? DTYPE_BF16 : DTYPE_F32, BIAS);
        if (rc == 0)
            rc = product(r, o);
    }
    return rc;
}

int lib_blas_linear(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, enum act act)
{
    struct blas_op o = {.y = y, .x = x, .w = w, .act = act};
    return linear(r, &o, b);
}

int lib_blas_linear_add(struct run *r, struct tensor x, struct tensor h, struct tensor w, struct tensor b,
                        struct tensor gate)
{
    struct blas_op o = {.y = x, .x = h, .w = w, .gate = gate, .adds = true};
    return linear(r, &o, b);
}
