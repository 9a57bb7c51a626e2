/* attention.cu -- attention: cuDNN where it is allowed (lib_dnn.h), and a plain kernel for every card, head width up to 1024
 * and kind. The scores are never stored: a block keeps some queries of one head, walks over the keys 64 at a time, and
 * carries the maximum, the sum and the weighted values along, corrected as the maximum grows (Milakov and Gimelshein,
 * "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022). All in f32.
 *
 * 256 threads, 16 x 16: thread (ty, tx) has EACH queries and, of them, every 16th score (4) and every 16th value.
 */
#include "kernels/cuda/lib_dnn.h"

#define THREADS 256
#define KEYS 64
#define STEP 32     /* of the head's width, while scores are made */
#define VALUES 4096 /* floats of v in shared memory */

struct attention {
    struct cuda_view4 y, q, k, v;
    const uint8_t *mask;
    int64_t mask_row, block, share; /* of ATTN_BLOCK_CAUSAL; query heads a key head */
    int64_t n_tiles;                /* of queries */
    float scale;                    /* with log2 e: weights are powers of two */
    int kind;
    __device__ __forceinline__ bool sees(int64_t i, int64_t j) const
    {
        switch (kind) {
        case ATTN_CAUSAL:
            return j <= i + (k.shape[1] - q.shape[1]);
        case ATTN_BLOCK_CAUSAL:
            return j / block <= i / block;
        case ATTN_MASK:
            return mask[i * mask_row + j] != 0;
        default:
            return true;
        }
    }
    /* Keys from here on are seen by no query up to i. */
    __device__ __forceinline__ int64_t end(int64_t i) const
    {
        int64_t n = k.shape[1];
        if (kind == ATTN_CAUSAL)
            n = min(n, i + (n - q.shape[1]) + 1);
        if (kind == ATTN_BLOCK_CAUSAL)
            n = min(n, (i / block + 1) * block);
        return n;
    }
};

template <int EACH> struct attention_shared {
    float p[16 * EACH][KEYS + 1]; /* weights of this step's keys */
    union {
        struct {
            float q[16 * EACH][STEP + 1], k[KEYS][STEP + 1];
        } s;
        float v[VALUES];
    } u;
};

/* Sums over the 16 threads of a query, and their maximum. */
static __device__ __forceinline__ float row_sum(float v)
{
#pragma unroll
    for (int k = 8; k > 0; k /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, k);
    return v;
}

static __device__ __forceinline__ float row_max(float v)
{
#pragma unroll
    for (int k = 8; k > 0; k /= 2) {
        float o = __shfl_xor_sync(0xffffffffu, v, k);
        v = o > v ? o : v;
    }
    return v;
}

/* Scores of the block's queries with keys [first, first + KEYS): s[i][j] is query ty * EACH + i, key tx + 16 j. */
template <int EACH>
static __device__ __forceinline__ void scores(const struct attention &a, struct attention_shared<EACH> &m, const float *q,
                                              const float *k, int64_t n_queries, int64_t n_keys, float s[EACH][4])
{
    int ty = (int)threadIdx.x / 16, tx = (int)threadIdx.x % 16, d = (int)a.q.shape[3];
    for (int from = 0; from < d; from += STEP) {
        __syncthreads();
        for (int i = (int)threadIdx.x; i < 16 * EACH * STEP; i += THREADS) {
            int row = i / STEP, c = i % STEP;
            m.u.s.q[row][c] = row < n_queries && from + c < d ? q[row * a.q.stride[1] + from + c] : 0;
        }
        for (int i = (int)threadIdx.x; i < KEYS * STEP; i += THREADS) {
            int row = i / STEP, c = i % STEP;
            m.u.s.k[row][c] = row < n_keys && from + c < d ? k[row * a.k.stride[1] + from + c] : 0;
        }
        __syncthreads();
#pragma unroll 8
        for (int c = 0; c < STEP; c++) {
            float kv[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                kv[j] = m.u.s.k[tx + 16 * j][c];
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                float qv = m.u.s.q[ty * EACH + i][c];
#pragma unroll
                for (int j = 0; j < 4; j++)
                    s[i][j] += qv * kv[j];
            }
        }
    }
}

/* sum += weights * values of this step's keys. */
template <int EACH, int WIDE>
static __device__ __forceinline__ void add_values(const struct attention &a, struct attention_shared<EACH> &m,
                                                  const float *v, int64_t n_keys, float sum[EACH][WIDE / 16])
{
    const int rows = VALUES / WIDE < KEYS ? VALUES / WIDE : KEYS;
    int ty = (int)threadIdx.x / 16, tx = (int)threadIdx.x % 16, d = (int)a.v.shape[3];
    for (int from = 0; from < n_keys; from += rows) {
        __syncthreads();
        for (int i = (int)threadIdx.x; i < rows * WIDE; i += THREADS) {
            int row = from + i / WIDE, c = i % WIDE;
            m.u.v[i] = row < n_keys && c < d ? v[row * a.v.stride[1] + c] : 0;
        }
        __syncthreads();
#pragma unroll 4
        for (int row = 0; row < rows; row++) {
            float p[EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++)
                p[i] = m.p[ty * EACH + i][from + row];
#pragma unroll
            for (int c = 0; c < WIDE / 16; c++) {
                float value = m.u.v[row * WIDE + tx + 16 * c];
#pragma unroll
                for (int i = 0; i < EACH; i++)
                    sum[i][c] += p[i] * value;
            }
        }
    }
}

/* Turns scores of keys from `first` on into weights under the new maximum, and corrects what was summed under the old one.
 */
template <int EACH, int WIDE>
static __device__ __forceinline__ void weigh(const struct attention &a, struct attention_shared<EACH> &m, int64_t query,
                                             int64_t first, int64_t n_keys, float s[EACH][4], float top[EACH],
                                             float total[EACH], float sum[EACH][WIDE / 16])
{
    int ty = (int)threadIdx.x / 16, tx = (int)threadIdx.x % 16;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int64_t at = query + ty * EACH + i;
        bool here = at < a.q.shape[1];
        float most = top[i], add = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int key = tx + 16 * j;
            s[i][j] = here && key < n_keys && a.sees(at, first + key) ? s[i][j] * a.scale : -INFINITY;
            most = s[i][j] > most ? s[i][j] : most;
        }
        most = row_max(most);
        float old = most == -INFINITY ? 1 : exp2f(top[i] - most); /* before the first seen key: nothing to correct */
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float p = s[i][j] == -INFINITY ? 0 : exp2f(s[i][j] - most);
            m.p[ty * EACH + i][tx + 16 * j] = p;
            add += p;
        }
        total[i] = total[i] * old + row_sum(add);
        top[i] = most;
#pragma unroll
        for (int c = 0; c < WIDE / 16; c++)
            sum[i][c] *= old;
    }
}

/* Wide heads need the registers of a whole multiprocessor: without the 1 they spill on sm_120. 0: as the compiler likes. */
template <int EACH, int WIDE> static __global__ void __launch_bounds__(THREADS, WIDE > 128 ? 1 : 0) attend(struct attention a)
{
    __shared__ struct attention_shared<EACH> m;
    int64_t tile = blockIdx.x % a.n_tiles, head = blockIdx.x / a.n_tiles, batch = head / a.q.shape[2];
    head -= batch * a.q.shape[2];
    int64_t query = tile * 16 * EACH, n_queries = min((int64_t)16 * EACH, a.q.shape[1] - query);
    int64_t end = a.end(query + n_queries - 1);
    const float *q = cuda_at4(a.q, batch, query, head, 0), *k = cuda_at4(a.k, batch, 0, head / a.share, 0);
    const float *v = cuda_at4(a.v, batch, 0, head / a.share, 0);
    float top[EACH], total[EACH] = {}, sum[EACH][WIDE / 16] = {};
    for (int i = 0; i < EACH; i++)
        top[i] = -INFINITY;
    for (int64_t first = 0; first < end; first += KEYS) {
        int64_t n_keys = min((int64_t)KEYS, end - first);
        float s[EACH][4] = {};
        scores<EACH>(a, m, q, k + first * a.k.stride[1], n_queries, n_keys, s);
        weigh<EACH, WIDE>(a, m, query, first, n_keys, s, top, total, sum);
        add_values<EACH, WIDE>(a, m, v + first * a.v.stride[1], n_keys, sum);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int row = (int)threadIdx.x / 16 * EACH + i;
#pragma unroll
        for (int c = 0; c < WIDE / 16; c++) {
            int at = (int)threadIdx.x % 16 + 16 * c;
            if (row < n_queries && at < a.q.shape[3])
                cuda_at4(a.y, batch, query + row, head, 0)[at] = sum[i][c] / total[i];
        }
    }
}

template <int EACH, int WIDE> static int launch(struct run *r, struct attention a)
{
    a.n_tiles = (a.q.shape[1] + 16 * EACH - 1) / (16 * EACH);
    int64_t blocks = a.n_tiles * a.q.shape[0] * a.q.shape[2];
    if (blocks > INT32_MAX)
        return run_fail(r, ERR_UNSUPPORTED, "%lld tiles of queries: the CUDA kernel ends at %d", (long long)blocks,
                        INT32_MAX);
    CUDA_LAUNCH((attend<EACH, WIDE>), (unsigned)blocks, THREADS, 0, cuda_of(r)->compute, a);
    return cuda_launched(r);
}

/* Queries of a block see all keys up to its end: that is full attention, which the library may have. The last block comes
 * first: it is the largest, and where it is not taken nothing was done. */
static int by_block(struct run *r, struct tensor y, struct tensor q, struct tensor k, struct tensor v, struct attn a)
{
    int64_t n = q.shape[1], n_blocks = a.kind == ATTN_BLOCK_CAUSAL ? (n + a.block - 1) / a.block : 0;
    struct attn full = a;
    int rc = LIB_DNN_OWN;
    full.kind = ATTN_FULL;
    for (int64_t i = n_blocks - 1; i >= 0 && (rc == 0 || i == n_blocks - 1); i--) {
        int64_t at = i * a.block, end = min(n, at + a.block), seen = min(k.shape[1], at + a.block);
        struct tensor part[] = {tensor_slice(y, 1, at, end - at), tensor_slice(q, 1, at, end - at),
                                tensor_slice(k, 1, 0, seen), tensor_slice(v, 1, 0, seen)};
        rc = lib_dnn_attention(r, part[0], part[1], part[2], part[3], full);
        if (rc == LIB_DNN_OWN && i < n_blocks - 1)
            rc = cuda_attention(r, part[0], part[1], part[2], part[3], full);
    }
    return rc;
}

int cuda_attention(struct run *r, struct tensor y, struct tensor q, struct tensor k, struct tensor v, struct attn a)
{
    if (tensor_count(y) < 1)
        return 0;
    int rc = lib_dnn_attention(r, y, q, k, v, a);
    if (rc == LIB_DNN_OWN)
        rc = by_block(r, y, q, k, v, a);
    if (rc != LIB_DNN_OWN)
        return rc;
    struct attention f = {cuda_view4_of(y),
                          cuda_view4_of(q),
                          cuda_view4_of(k),
                          cuda_view4_of(v),
                          (const uint8_t *)a.mask.data,
                          a.mask.stride[0],
                          a.block,
                          q.shape[2] / k.shape[2],
                          0,
                          a.scale * 1.4426950408889634f,
                          a.kind};
    if (q.shape[3] <= 32)
        return launch<4, 32>(r, f);
    if (q.shape[3] <= 64)
        return launch<4, 64>(r, f);
    if (q.shape[3] <= 128)
        return launch<4, 128>(r, f);
    if (q.shape[3] <= 256)
        return launch<4, 256>(r, f);
    if (q.shape[3] <= 512)
        return launch<2, 512>(r, f);
    return launch<1, 1024>(r, f);
}
