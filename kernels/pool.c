#include "kernels/pool.h"

#include <string.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/device.h"

#define ALIGN ((size_t)256)
#define BYTES_MAX (SIZE_MAX / 4)
#define BLOCKS_MAX 4096
#define WEIGHTS_MAX 65536
#define CHUNK ((size_t)32 << 20) /* of pinned memory: a quarter or less shares one, so that at most a quarter is wasted */

/* Ops that read a block's weights: none since they came up; more may be enqueued (taken); all are, up to a ticket. */
enum readers { NONE, MORE, ALL };

struct block {
    char name[48];
    size_t offset, end;
    int first, last;  /* its weights; -1: none */
    bool is_loaded;   /* its copies are enqueued, and nothing was brought up over it since */
    bool is_awaited;  /* ops wait for them already */
    enum readers readers;
    uint64_t copied;  /* ticket of DEVICE_COPIES: its weights are up */
    uint64_t read;    /* ticket of DEVICE_OPS where readers is ALL */
};

struct weight {
    const void *host; /* borrowed, or in pinned memory */
    size_t offset, bytes;
    int next; /* of the same block; -1: none */
};

struct pool {
    struct device *device; /* NULL: planning */
    char *base;
    size_t bytes;
    bool is_pinned;
    struct block *blocks;
    struct weight *weights;
    void **pins;
    int n_blocks, max_blocks, n_weights, max_weights, n_pins, max_pins;
    char *chunk; /* what is left of the last one */
    size_t n_chunk, n_pinned;
    struct pool_stats stats;
};

static size_t round_up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* Room for one more in *list. */
static bool has_room(void **list, int n, int *max, size_t size, int ceiling)
{
    if (n < *max)
        return true;
    int more = *max ? 2 * *max : 64;
    void *p = n < ceiling ? mem_realloc(*list, (size_t)more * size) : NULL;
    if (!p)
        return false;
    *list = p;
    *max = more;
    return true;
}

int pool_new(struct pool **ret, struct device *device, size_t bytes, bool is_pinned, struct err *err)
{
    void *base = NULL;
    if (device && (device->is_host || !device->hooks->copy))
        return err_set(err, ERR_UNSUPPORTED, "device %s: weights are not brought up and thrown out here: load them once",
                       device->kind);
    struct pool *p = mem_zalloc(sizeof *p);
    if (!p)
        return err_set(err, ERR_NOMEM, "pool of weights: no memory");
    int rc = device && bytes > 0 ? device->hooks->arena_new(device, &bytes, &base, err) : 0;
    if (rc < 0) {
        mem_free(p);
        return err_wrap(err, "pool of weights");
    }
    p->device = device;
    p->base = base;
    p->bytes = device ? bytes : BYTES_MAX;
    p->is_pinned = is_pinned && device;
    *ret = p;
    return 0;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    if (p->base) {
        const struct device_hooks *hooks = p->device->hooks;
        uint64_t last;
        if (hooks->mark(p->device, DEVICE_COPIES, &last) == 0) /* freeing waits for the ops alone */
            hooks->wait(p->device, DEVICE_OPS, DEVICE_COPIES, last);
        hooks->arena_free(p->device, p->base, p->bytes);
    }
    for (int i = 0; i < p->n_pins; i++)
        p->device->hooks->unpin(p->device, p->pins[i]);
    mem_free(p->pins);
    mem_free(p->weights);
    mem_free(p->blocks);
    mem_free(p);
}

/* ---- places ---- */

int pool_block(struct pool *p, const char *name, size_t offset)
{
    if (offset > BYTES_MAX || !has_room((void **)&p->blocks, p->n_blocks, &p->max_blocks, sizeof *p->blocks, BLOCKS_MAX))
        return ERR_NOMEM;
    struct block *b = &p->blocks[p->n_blocks];
    *b = (struct block){.offset = round_up(offset), .end = round_up(offset), .first = -1, .last = -1};
    str_copy(b->name, sizeof b->name, name);
    return p->n_blocks++;
}

int pool_room(struct pool *p, const char *name, size_t offset, size_t bytes)
{
    int n = offset <= p->bytes && bytes <= p->bytes - offset ? pool_block(p, name, offset) : ERR_NOMEM;
    if (n < 0)
        return n;
    struct block *b = &p->blocks[n];
    b->end = offset + bytes > b->offset ? offset + bytes : b->offset;
    return n;
}

void *pool_memory(const struct pool *p, int room)
{
    return room >= 0 && room < p->n_blocks && p->base ? p->base + p->blocks[room].offset : NULL;
}

size_t pool_size(const struct pool *p, int block)
{
    return block >= 0 && block < p->n_blocks ? p->blocks[block].end - p->blocks[block].offset : 0;
}

static void *pinned_room(struct pool *p, size_t bytes)
{
    size_t want = round_up(bytes);
    bool is_shared = want <= CHUNK / 4;
    if (is_shared && want <= p->n_chunk) {
        void *at = p->chunk;
        p->chunk += want;
        p->n_chunk -= want;
        return at;
    }
    if (!has_room((void **)&p->pins, p->n_pins, &p->max_pins, sizeof *p->pins, WEIGHTS_MAX))
        return NULL;
    size_t n = is_shared ? CHUNK : want;
    char *at = p->device->hooks->pin(p->device, n);
    if (!at)
        return NULL;
    p->pins[p->n_pins++] = at;
    p->n_pinned += n;
    if (is_shared) {
        p->chunk = at + want;
        p->n_chunk = n - want;
    }
    return at;
}

/* Where host's bytes are copied from, later. */
static int source_of(struct pool *p, const struct block *b, struct tensor host, const void **ret, struct err *err)
{
    size_t n = tensor_bytes(host);
    char more[32], have[32];
    if (p->device && !host.data)
        return err_set(err, ERR_INTERNAL, "pool of weights, %s: a weight without data", b->name);
    *ret = host.data;
    if (!p->is_pinned)
        return 0;
    void *room = pinned_room(p, n);
    if (!room)
        return err_set(err, ERR_NOMEM, "pool of weights, %s: no pinned host memory for %s more beside %s", b->name,
                       str_bytes(more, sizeof more, n), str_bytes(have, sizeof have, p->n_pinned));
    memcpy(room, host.data, n);
    *ret = room;
    return 0;
}

static int check_place(const struct pool *p, const struct block *b, struct tensor host, struct err *err)
{
    char want[32], have[32];
    size_t n = tensor_bytes(host);
    if (!tensor_is_contiguous(host))
        return err_set(err, ERR_INTERNAL, "pool of weights, %s: a weight must be contiguous", b->name);
    if (b->is_loaded)
        return err_set(err, ERR_INTERNAL, "pool of weights, %s: it is filled after it was taken", b->name);
    if (n > p->bytes || b->end > p->bytes - n)
        return err_set(err, ERR_NOMEM, "pool of weights, %s: a weight of %s at byte %zu ends behind the pool's %s", b->name,
                       str_bytes(want, sizeof want, n), b->end, str_bytes(have, sizeof have, p->bytes));
    return 0;
}

int pool_place(struct pool *p, int block, struct tensor host, struct tensor *ret, struct err *err)
{
    if (block < 0 || block >= p->n_blocks)
        return err_set(err, ERR_INTERNAL, "pool of weights: block %d of %d", block, p->n_blocks);
    struct block *b = &p->blocks[block];
    struct weight w = {.offset = b->end, .bytes = tensor_bytes(host), .next = -1};
    if (w.bytes == 0) {
        *ret = host;
        return 0;
    }
    int rc = check_place(p, b, host, err);
    if (rc == 0 && !has_room((void **)&p->weights, p->n_weights, &p->max_weights, sizeof *p->weights, WEIGHTS_MAX))
        rc = err_set(err, ERR_NOMEM, "pool of weights, %s: no memory for the list of %d weights", b->name, p->n_weights + 1);
    if (rc == 0)
        rc = source_of(p, b, host, &w.host, err);
    if (rc < 0)
        return rc;
    if (b->last < 0)
        b->first = p->n_weights;
    else
        p->weights[b->last].next = p->n_weights;
    b->last = p->n_weights++;
    p->weights[b->last] = w;
    b->end = round_up(w.offset + w.bytes);
    *ret = host;
    ret->data = p->base ? p->base + w.offset : NULL;
    return 0;
}

size_t pool_end(const struct pool *p, int block)
{
    return block >= 0 && block < p->n_blocks ? p->blocks[block].end : 0;
}

/* ---- up and out: while planning there is nothing to wait for ---- */

static int mark(const struct pool *p, enum device_queue q, uint64_t *ret)
{
    return p->device ? p->device->hooks->mark(p->device, q, ret) : 0;
}

static int wait(const struct pool *p, enum device_queue q, enum device_queue of, uint64_t ticket)
{
    return p->device ? p->device->hooks->wait(p->device, q, of, ticket) : 0;
}

static int copy(const struct pool *p, const struct weight *w)
{
    return p->device ? p->device->hooks->copy(p->device, p->base + w->offset, w->host, w->bytes, p->is_pinned) : 0;
}

static bool overlap(const struct block *a, const struct block *b)
{
    size_t from = a->offset > b->offset ? a->offset : b->offset, to = a->end < b->end ? a->end : b->end;
    return from < to;
}

/* Copies from here on may write over b. */
static int throw_out(struct pool *p, struct block *b)
{
    int rc = b->readers == MORE ? mark(p, DEVICE_OPS, &b->read) : 0;
    if (rc == 0 && b->readers != NONE)
        rc = wait(p, DEVICE_COPIES, DEVICE_OPS, b->read);
    if (rc < 0)
        return rc;
    b->is_loaded = false;
    b->readers = NONE;
    return 0;
}

static int bring_up(struct run *r, struct pool *p, struct block *b)
{
    int rc = 0;
    for (int i = 0; i < p->n_blocks && rc == 0; i++) {
        struct block *other = &p->blocks[i];
        if (other->is_loaded && other != b && overlap(other, b))
            rc = throw_out(p, other);
    }
    for (int i = b->first; i >= 0 && rc == 0; i = p->weights[i].next) {
        const struct weight *w = &p->weights[i];
        rc = copy(p, w);
        p->stats.bytes += rc == 0 ? (double)w->bytes : 0;
        r->brought += rc == 0 ? (double)w->bytes : 0;
    }
    if (rc == 0)
        rc = mark(p, DEVICE_COPIES, &b->copied);
    if (rc < 0)
        return rc;
    b->is_loaded = true;
    b->is_awaited = false;
    b->readers = NONE;
    return 0;
}

/* NULL: nothing is to be done, or the run has failed. */
static struct block *block_of(struct run *r, struct pool *p, int block)
{
    if (!p || !p->device != !r->table || run_failed(r))
        return NULL;
    if (block >= 0 && block < p->n_blocks)
        return &p->blocks[block];
    run_fail(r, ERR_INTERNAL, "pool of weights: block %d of %d", block, p->n_blocks);
    return NULL;
}

static void fail(struct run *r, const struct pool *p, const struct block *b, int rc)
{
    char bytes[32];
    run_fail(r, rc, "pool of weights: the %s of %s could not be brought to %s",
             str_bytes(bytes, sizeof bytes, b->end - b->offset), b->name, p->device->name);
}

void pool_take(struct run *r, struct pool *p, int block)
{
    struct block *b = block_of(r, p, block);
    if (!b)
        return;
    int rc = 0;
    r->unrepeatable = true;
    p->stats.n_taken++;
    if (!b->is_loaded) {
        p->stats.n_missing++;
        rc = bring_up(r, p, b);
    }
    if (rc == 0 && !b->is_awaited)
        rc = wait(p, DEVICE_OPS, DEVICE_COPIES, b->copied);
    if (rc < 0) {
        fail(r, p, b, rc);
        return;
    }
    b->is_awaited = true;
    b->readers = MORE;
}

/* Would bringing b up throw out one that more ops may read? */
static bool is_in_use(const struct pool *p, const struct block *b)
{
    for (int i = 0; i < p->n_blocks; i++) {
        const struct block *other = &p->blocks[i];
        if (other->is_loaded && other->readers == MORE && overlap(other, b))
            return true;
    }
    return false;
}

void pool_next(struct run *r, struct pool *p, int block, int next)
{
    struct block *b = block_of(r, p, block);
    if (!b)
        return;
    if (!b->is_loaded || b->readers == NONE) {
        run_fail(r, ERR_INTERNAL, "pool of weights: %s was not there for its ops: it was not taken, or another over it was",
                 b->name);
        return;
    }
    int rc = mark(p, DEVICE_OPS, &b->read);
    if (rc < 0) {
        fail(r, p, b, rc);
        return;
    }
    b->readers = ALL;
    struct block *after = next < 0 ? NULL : block_of(r, p, next);
    if (!after || after->is_loaded || overlap(after, b) || is_in_use(p, after))
        return;
    rc = bring_up(r, p, after);
    if (rc < 0)
        fail(r, p, after, rc);
}

struct pool_stats pool_stats(const struct pool *p)
{
    return p->stats;
}
