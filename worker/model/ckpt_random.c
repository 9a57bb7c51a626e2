#include "worker/model/ckpt_random.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/model/ckpt_impl.h"

enum {
    MAX_KINDS = 64,  /* pairs of element type and k; the published models have up to 14 */
    TABLE = 1 << 16, /* normal numbers that a pool draws from */
};
#define PAGE ((size_t)4096)
#define PIECE_MAX ((size_t)8 << 20)
#define VECTORS_MAX ((size_t)256 << 20)

/* The bytes that matrices of one element type and one k share. */
struct kind {
    enum dtype dtype;
    int64_t k;
    size_t offset; /* in the file */
};

struct pool {
    struct kind kind[MAX_KINDS];
    int n_kinds;
    size_t piece; /* bytes of each */
    int fd;
    uint64_t state;
    float *table; /* owned */
};

static uint64_t next(struct pool *p)
{
    uint64_t z = (p->state += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static bool is_float(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_BF16 || t == DTYPE_F16 || t == DTYPE_F8E4M3 || t == DTYPE_F64;
}

static bool is_shared(struct tensor t)
{
    return t.n_dims > 1 && is_float(t.dtype);
}

static int64_t fan_in(struct tensor t)
{
    return tensor_count(t) / (t.shape[0] > 0 ? t.shape[0] : 1);
}

static size_t whole_pages(size_t n)
{
    return (n + PAGE - 1) / PAGE * PAGE;
}

/* Standard normal numbers by Box and Muller. */
static int make_table(struct pool *p, struct err *err)
{
    p->table = mem_calloc(TABLE, sizeof *p->table);
    if (!p->table)
        return err_set(err, ERR_NOMEM, "random weights: no memory for a table of %d numbers", TABLE);
    for (int i = 0; i < TABLE; i += 2) {
        double u = ((double)(next(p) >> 11) + 0.5) * 0x1p-53, v = (double)(next(p) >> 11) * 0x1p-53;
        p->table[i] = (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v));
        p->table[i + 1] = (float)(sqrt(-2 * log(u)) * sin(2 * M_PI * v));
    }
    return 0;
}

static const struct kind *kind_of(const struct pool *p, struct tensor t)
{
    for (int i = 0; i < p->n_kinds; i++)
        if (p->kind[i].dtype == t.dtype && p->kind[i].k == fan_in(t))
            return &p->kind[i];
    return NULL;
}

static int find_kinds(struct pool *p, const struct ckpt *c, struct err *err)
{
    for (size_t i = 0; i < c->n_items; i++) {
        struct tensor t = c->items[i].t;
        if (!is_shared(t) || kind_of(p, t))
            continue;
        if (p->n_kinds == MAX_KINDS)
            return err_set(err, ERR_TOOBIG, "random weights: matrices of more than %d widths", MAX_KINDS);
        p->kind[p->n_kinds++] = (struct kind){.dtype = t.dtype, .k = fan_in(t)};
    }
    p->piece = p->n_kinds ? CKPT_RANDOM_POOL / (size_t)p->n_kinds / PAGE * PAGE : PAGE;
    p->piece = p->piece < PIECE_MAX ? p->piece : PIECE_MAX;
    for (int i = 0; i < p->n_kinds; i++)
        p->kind[i].offset = p->piece * (size_t)i;
    return 0;
}

/* n elements drawn from 65,536 that were rounded once: a draw is a copy. */
#define DRAW(bits)                                                                                                          \
    for (size_t i = 0; i < n; i += 4) {                                                                                     \
        uint64_t z = next(p);                                                                                               \
        for (size_t j = i; j < i + 4 && j < n; j++, z >>= 16)                                                               \
            ((uint##bits##_t *)dst)[j] = ((const uint##bits##_t *)from)[z & 0xffff];                                        \
    }
static void draw(struct pool *p, void *dst, const void *from, size_t n, size_t width)
{
    switch (width) {
    case 1:
        DRAW(8)
        break;
    case 2:
        DRAW(16)
        break;
    case 4:
        DRAW(32)
        break;
    default:
        DRAW(64)
        break;
    }
}
#undef DRAW

static void fill(struct pool *p, const struct kind *k, void *piece, float *scaled, void *rounded)
{
    const float scale = 1.0f / sqrtf((float)k->k);
    for (int i = 0; i < TABLE; i++)
        scaled[i] = scale * p->table[i];
    dtype_write_f32(rounded, k->dtype, scaled, TABLE);
    draw(p, piece, rounded, p->piece / dtype_bytes(k->dtype), dtype_bytes(k->dtype));
}

/* The file in memory with all kinds' pieces. */
static int make_pool(struct pool *p, struct err *err)
{
    size_t bytes = p->piece * (size_t)(p->n_kinds > 0 ? p->n_kinds : 1);
    float *scaled = mem_calloc(TABLE, sizeof *scaled);
    double *rounded = mem_calloc(TABLE, sizeof *rounded);
    int rc = 0;
    void *all = MAP_FAILED;
    p->fd = memfd_create("random weights", MFD_CLOEXEC);
    if (!scaled || !rounded)
        rc = err_set(err, ERR_NOMEM, "random weights: no memory");
    else if (p->fd < 0 || ftruncate(p->fd, (off_t)bytes) < 0)
        rc = err_set(err, ERR_IO, "random weights: a file of %zu bytes in memory: %s", bytes, strerror(errno));
    else if ((all = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0)) == MAP_FAILED)
        rc = err_set(err, ERR_NOMEM, "random weights: mapping %zu bytes: %s", bytes, strerror(errno));
    for (int i = 0; rc == 0 && i < p->n_kinds; i++)
        fill(p, &p->kind[i], (char *)all + p->kind[i].offset, scaled, rounded);
    if (all != MAP_FAILED)
        munmap(all, bytes);
    mem_free(scaled);
    mem_free(rounded);
    return rc;
}

/* The piece again and again over [at, at + bytes), beginning at a page of it. */
static int map_tensor(struct pool *p, const struct kind *k, char *at, size_t bytes, struct err *err)
{
    size_t from = (size_t)(next(p) % (p->piece / PAGE)) * PAGE;
    for (size_t done = 0, n; done < bytes; done += n, from = 0) {
        n = p->piece - from < bytes - done ? p->piece - from : bytes - done;
        if (mmap(at + done, n, PROT_READ, MAP_SHARED | MAP_FIXED, p->fd, (off_t)(k->offset + from)) == MAP_FAILED)
            return err_set(err, ERR_NOMEM, "random weights: mapping %zu bytes: %s", n, strerror(errno));
    }
    return 0;
}

static int map_matrices(struct pool *p, struct ckpt *c, struct err *err)
{
    size_t bytes = 0, at = 0;
    for (size_t i = 0; i < c->n_items; i++)
        if (is_shared(c->items[i].t))
            bytes += whole_pages(tensor_bytes(c->items[i].t));
    if (bytes == 0)
        return 0;
    char *base = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return err_set(err, ERR_NOMEM, "random weights: %zu bytes of addresses: %s", bytes, strerror(errno));
    if (ckpt_add_block(c, base, bytes, true) < 0) {
        munmap(base, bytes);
        return err_set(err, ERR_NOMEM, "random weights: no memory");
    }
    for (size_t i = 0; i < c->n_items; i++) {
        struct tensor *t = &c->items[i].t;
        if (!is_shared(*t))
            continue;
        int rc = map_tensor(p, kind_of(p, *t), base + at, whole_pages(tensor_bytes(*t)), err);
        if (rc < 0)
            return rc;
        t->data = base + at;
        at += whole_pages(tensor_bytes(*t));
    }
    return 0;
}

/* Vectors are what a norm multiplies by, unless they are called a bias. */
static void fill_vector(struct pool *p, const char *name, struct tensor t)
{
    const bool is_bias = str_ends(name, "bias");
    for (int64_t i = 0; i < tensor_count(t); i++) {
        float z = p->table[next(p) % TABLE], v = is_bias ? 0.02f * z : 1 + 0.1f * z;
        dtype_write_f32((char *)t.data + (size_t)i * dtype_bytes(t.dtype), t.dtype, &v, 1);
    }
}

static int make_vectors(struct pool *p, struct ckpt *c, struct err *err)
{
    size_t bytes = 0, at = 0;
    for (size_t i = 0; i < c->n_items; i++)
        if (!is_shared(c->items[i].t))
            bytes += (tensor_bytes(c->items[i].t) + 63) / 64 * 64;
    if (bytes == 0)
        return 0;
    if (bytes > VECTORS_MAX)
        return err_set(err, ERR_TOOBIG, "random weights: vectors of %zu bytes, at most %zu", bytes, VECTORS_MAX);
    char *base = mem_aligned(64, bytes);
    if (!base || ckpt_add_block(c, base, bytes, false) < 0) {
        mem_free(base);
        return err_set(err, ERR_NOMEM, "random weights: no memory for vectors of %zu bytes", bytes);
    }
    memset(base, 0, bytes);
    for (size_t i = 0; i < c->n_items; i++) {
        struct tensor *t = &c->items[i].t;
        if (is_shared(*t))
            continue;
        t->data = base + at;
        at += (tensor_bytes(*t) + 63) / 64 * 64;
        if (is_float(t->dtype))
            fill_vector(p, c->items[i].name, *t);
    }
    return 0;
}

int ckpt_open_random(struct ckpt **ret, const char *list, size_t len, uint64_t seed, struct err *err)
{
    struct pool pool = {.fd = -1, .state = seed};
    struct ckpt *c = NULL;
    int rc = ckpt_open_list(&c, list, len, err);
    if (rc == 0)
        rc = make_table(&pool, err);
    if (rc == 0)
        rc = find_kinds(&pool, c, err);
    if (rc == 0)
        rc = make_pool(&pool, err);
    if (rc == 0)
        rc = map_matrices(&pool, c, err);
    if (rc == 0)
        rc = make_vectors(&pool, c, err);
    if (pool.fd >= 0)
        close(pool.fd);
    mem_free(pool.table);
    if (rc < 0) {
        ckpt_close(c);
        return rc;
    }
    c->has_data = true;
    *ret = c;
    return 0;
}
