/* lib_blas.c -- linear layers by cuBLASLt (CUDA 13's documentation of cublasLtMatmul).
 *
 * The library thinks in columns: our y[m, n] = x[m, k] w[n, k]^T is its Y^T = W^T X with W [k, n] transposed, X [k, m], both
 * with k along memory; bias runs along its rows, our n. Operands of another type go through the work buffer, a piece of rows
 * (and of weights, where these must be converted) at a time.
 *
 * An algorithm is asked for once a shape and kept; none may add partial sums in the order of arrival, so the same call
 * gives the same bits. Nothing is allocated after the handle.
 */
#include "kernels/cuda/lib_blas.h"

#include <cublasLt.h>
#include <string.h>

#include "common/mem.h"

#define VECTOR ((size_t)512 << 10)
#define BIAS CUDA_WORK_LIBRARY /* offsets in the work buffer: the library's own, two vectors of n, operands */
#define GATE (BIAS + VECTOR)
#define OPERANDS (GATE + VECTOR)
#ifndef BLAS_OPERANDS_BYTES /* tests take less, to come to pieces with little */
#define BLAS_KNOWN 512      /* shapes kept; a hash that falls on another takes its place */
#define BLAS_OPERANDS_BYTES (cuda_of(r)->work_bytes - OPERANDS)
#define BLAS_WEIGHTS_BYTES (BLAS_OPERANDS_BYTES / 8 * 3) /* of them for converted weights */
#endif
#define PIECE 128 /* rows and columns are split at multiples of this */

/* One call of the library, without its pointers; the key of an algorithm, compared byte by byte. */
struct blas_key {
    int64_t m, n, k, ldx, ldy;
    int32_t type, epilogue, adds;
    int32_t align_x, align_w, align_y;
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

/* The whole op: two-dimensional, rows one stride apart. */
struct blas_op {
    struct tensor y, x, w;
    const void *bias;   /* f32 [n] or NULL */
    struct tensor gate; /* f32 [n] or none */
    enum act act;       /* what is left to do after the product */
    int epilogue;
    bool adds;
    float alpha;
    enum dtype type; /* of both operands */
    int64_t m_piece, n_piece;
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
    cublasLtDestroy(b->handle);
    mem_free(b);
}

static struct blas *open_blas(struct run *r)
{
    struct cuda_impl *c = cuda_of(r);
    if (c->blas)
        return c->blas;
    struct blas *b = mem_zalloc(sizeof *b);
    if (!b) {
        run_fail(r, ERR_NOMEM, "no memory for cuBLASLt");
        return NULL;
    }
    cublasStatus_t s = cublasLtCreate(&b->handle);
    if (s != CUBLAS_STATUS_SUCCESS) {
        mem_free(b);
        fail(r, s, "opening");
        return NULL;
    }
    c->blas_close = close_blas;
    return c->blas = b;
}

/* ---- one call ---- */

static cublasStatus_t describe(struct blas_call *c, const struct blas_key *k, const void *bias)
{
    cublasOperation_t turned = CUBLAS_OP_T;
    cudaDataType_t type = (cudaDataType_t)k->type;
    cublasStatus_t s[8] = {0};
    s[0] = cublasLtMatmulDescInit(&c->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    s[1] = cublasLtMatmulDescSetAttribute(&c->product, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned);
    s[2] = cublasLtMatmulDescSetAttribute(&c->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &k->epilogue, sizeof k->epilogue);
    if (bias)
        s[3] = cublasLtMatmulDescSetAttribute(&c->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(const void *));
    s[4] = cublasLtMatrixLayoutInit(&c->w, type, (uint64_t)k->k, (uint64_t)k->n, k->k);
    s[5] = cublasLtMatrixLayoutInit(&c->x, type, (uint64_t)k->k, (uint64_t)k->m, k->ldx);
    s[6] = cublasLtMatrixLayoutInit(&c->y, CUDA_R_32F, (uint64_t)k->n, (uint64_t)k->m, k->ldy);
    for (int i = 0; i < 7; i++) {
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

/* The algorithm for a key: looked up, or asked for. NULL after a failure. */
static const struct blas_known *choose(struct run *r, struct blas *b, const struct blas_key *key, struct blas_call *c)
{
    struct blas_known *known = &b->known[hash(key) % BLAS_KNOWN];
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int n = 0;
    if (known->used && memcmp(&known->key, key, sizeof *key) == 0)
        return known;
    memset(&result, 0, sizeof result);
    cublasStatus_t s = prefer(&preference, key);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulAlgoGetHeuristic(b->handle, &c->product, &c->w, &c->x, &c->y, &c->y, &preference, 1, &result, &n);
    if (s != CUBLAS_STATUS_SUCCESS && s != CUBLAS_STATUS_NOT_SUPPORTED) {
        fail(r, s, "choosing an algorithm");
        return NULL;
    }
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

/* y[m, n] (f32) = x w^T, both contiguous along k and of type o->type. */
static int multiply(struct run *r, const struct blas_op *o, struct tensor y, struct tensor x, const void *w,
                    const float *bias, bool adds)
{
    struct blas *b = open_blas(r);
    struct blas_key key;
    struct blas_call call;
    const float beta = adds ? 1 : 0;
    if (!b)
        return r->err.code;
    memset(&key, 0, sizeof key);
    key.m = x.shape[0];
    key.n = y.shape[1];
    key.k = x.shape[1];
    key.ldx = x.stride[0];
    key.ldy = y.stride[0];
    key.type = o->type == DTYPE_F32 ? CUDA_R_32F : CUDA_R_16BF;
    key.epilogue = o->epilogue;
    key.adds = adds;
    key.align_x = alignment(x.data);
    key.align_w = alignment(w);
    key.align_y = alignment(y.data);
    cublasStatus_t s = describe(&call, &key, bias);
    if (s != CUBLAS_STATUS_SUCCESS)
        return fail(r, s, "describing the product");
    const struct blas_known *known = choose(r, b, &key, &call);
    if (!known || !known->fits)
        return known ? LIB_BLAS_OWN : r->err.code;
    s = cublasLtMatmul(b->handle, &call.product, &o->alpha, w, &call.w, x.data, &call.x, &beta, y.data, &call.y, y.data,
                       &call.y, &known->algo, cuda_of(r)->work, CUDA_WORK_LIBRARY, cuda_of(r)->compute);
    return s == CUBLAS_STATUS_SUCCESS ? 0 : fail(r, s, "the product");
}

/* ---- one op ---- */

static struct tensor rows_of(struct tensor t, int64_t first, int64_t n)
{
    return tensor_slice(t, 0, first, n);
}

/* Rows [i, i + m) of the op, with weights w of outputs [j, j + n) ready in memory. */
static int piece(struct run *r, const struct blas_op *o, int64_t i, int64_t m, int64_t j, int64_t n, const void *w,
                 size_t free_at)
{
    struct tensor x = rows_of(o->x, i, m), y = tensor_slice(rows_of(o->y, i, m), 1, j, n), out = y;
    bool gated = !tensor_is_none(o->gate);
    int rc = 0;
    if (o->type != DTYPE_F32) {
        struct tensor narrow = tensor_of(cuda_of(r)->work + free_at, o->type, 2, x.shape);
        free_at += (tensor_bytes(narrow) + 255) / 256 * 256;
        rc = cuda_copy(r, narrow, x);
        x = narrow;
    }
    if (gated)
        out = tensor_of(cuda_of(r)->work + free_at, DTYPE_F32, 2, y.shape);
    if (rc == 0)
        rc = multiply(r, o, out, x, w, o->bias ? (const float *)o->bias + j : NULL, o->adds && !gated);
    if (rc == 0 && gated)
        rc = cuda_add_gated(r, y, out, tensor_slice(o->gate, 0, j, n));
    return rc == 0 && o->act != ACT_NONE ? cuda_act(r, y, o->act) : rc;
}

/* How many rows and outputs go at once; false: not even some. */
static bool plan(const struct run *r, struct blas_op *o)
{
    int64_t m = o->x.shape[0], k = o->x.shape[1], n = o->w.shape[0];
    (void)r; /* where tests say how much there is */
    size_t size = dtype_bytes(o->type), row = o->type == DTYPE_F32 ? 0 : (size_t)k * size, room = BLAS_OPERANDS_BYTES - 1024;
    o->n_piece = n;
    if (o->w.dtype != o->type) {
        int64_t fit = (int64_t)(BLAS_WEIGHTS_BYTES / ((size_t)k * size));
        if (fit < n)
            o->n_piece = fit / PIECE * PIECE;
        room -= (size_t)o->n_piece * (size_t)k * size;
    }
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
    struct tensor w = rows_of(o->w, j, n);
    size_t free_at = OPERANDS;
    int64_t m = o->x.shape[0];
    int rc = 0;
    if (w.dtype != o->type) {
        struct tensor converted = tensor_of(cuda_of(r)->work + free_at, o->type, 2, w.shape);
        free_at += (tensor_bytes(converted) + 255) / 256 * 256;
        rc = cuda_copy(r, converted, w);
        w = converted;
    }
    for (int64_t i = 0; i < m && rc == 0; i += o->m_piece) {
        rc = piece(r, o, i, m - i < o->m_piece ? m - i : o->m_piece, j, n, w.data, free_at);
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

/* An [n] parameter as f32 in device memory: where it is, or a copy at `at` of the work buffer. */
static int vector(struct run *r, struct tensor *t, size_t at)
{
    int64_t n = tensor_count(*t);
    if (tensor_is_none(*t))
        return 0;
    *t = tensor_of(t->data, t->dtype, 1, &n);
    if (t->dtype == DTYPE_F32 && alignment(t->data) >= 16)
        return 0;
    if ((size_t)n * sizeof(float) > VECTOR)
        return LIB_BLAS_OWN;
    struct tensor copy = tensor_of(cuda_of(r)->work + at, DTYPE_F32, 1, &n);
    int rc = cuda_copy(r, copy, *t);
    *t = copy;
    return rc;
}

/* Fills o; 0, LIB_BLAS_OWN, or a failure. */
static int prepare(struct run *r, struct blas_op *o, struct tensor b)
{
    bool exact = r->device->precision == DEVICE_F32;
    o->type = exact ? DTYPE_F32 : DTYPE_BF16;
    o->alpha = o->w.dtype == DTYPE_F8E4M3 && o->w.scale ? o->w.scale[0] : 1;
    o->w.scale = NULL; /* copied without it */
    if (!flatten(&o->y) || !flatten(&o->x) || o->w.shape[1] < 1)
        return LIB_BLAS_OWN;
    int rc = vector(r, &b, BIAS);
    if (rc == 0)
        rc = vector(r, &o->gate, GATE);
    o->bias = b.data;
    o->epilogue = b.data ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    if (o->act == ACT_GELU_TANH && !exact) { /* its tanh is an approximation that nobody bounds */
        o->epilogue = b.data ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
        o->act = ACT_NONE;
    }
    return rc;
}

int lib_blas_linear(struct run *r, struct tensor y, struct tensor x, struct tensor w, struct tensor b, enum act act)
{
    struct blas_op o = {.y = y, .x = x, .w = w, .act = act};
    int rc = prepare(r, &o, b);
    return rc == 0 ? product(r, &o) : rc;
}

int lib_blas_linear_add(struct run *r, struct tensor x, struct tensor h, struct tensor w, struct tensor b,
                        struct tensor gate)
{
    struct blas_op o = {.y = x, .x = h, .w = w, .gate = gate, .adds = true};
    int rc = prepare(r, &o, b);
    return rc == 0 ? product(r, &o) : rc;
}
