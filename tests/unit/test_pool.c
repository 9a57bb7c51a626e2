/* test_pool.c -- the pool of weights on a device of plain memory, whose two queues run as late or as early as they may: what
 * an op reads is looked at when the op runs. A device that does not hear waits shows that this would be seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "kernels/device.h"
#include "kernels/pool.h"
#include "kernels/table.h"

/* ---- a device ---- */

enum what { COPY, WAIT, MARK, READ };
enum order { COPIES_EARLY, OPS_EARLY, SHUFFLED, N_ORDERS };

struct command {
    enum what what;
    char *dst;        /* COPY, READ */
    const char *host; /* what is copied; what must be read */
    void *owned;
    size_t bytes;
    enum device_queue of;
    uint64_t ticket;
};

struct queue {
    struct command *commands;
    int n, at;
    uint64_t marked, done;
};

#define COMMANDS_MAX 4000

struct fake {
    struct device device;
    struct queue q[2];
    enum order order;
    bool deaf[2];         /* does this queue wait? */
    uint32_t random;
    char log[4096];       /* what was enqueued */
    int n_reads, n_wrong; /* ops that ran; that saw other bytes than they should */
    int n_arenas, n_pins;
    char *pins[64];
    size_t pin_bytes[64];
    int fail_in; /* this many calls later one fails; 0: never */
};

static struct fake *fake_of(const struct device *d)
{
    return d->impl;
}

static uint32_t draw(uint32_t *random)
{
    return (*random = *random * 1664525u + 1013904223u) >> 8;
}

static bool step(struct fake *f, enum device_queue which)
{
    struct queue *q = &f->q[which];
    if (q->at == q->n)
        return false;
    struct command *c = &q->commands[q->at];
    if (c->what == WAIT && f->q[c->of].done < c->ticket && !f->deaf[which])
        return false;
    q->at++;
    if (c->what == MARK)
        q->done = c->ticket;
    if (c->what == COPY)
        memcpy(c->dst, c->host, c->bytes);
    if (c->what == READ) {
        f->n_reads++;
        f->n_wrong += memcmp(c->dst, c->host, c->bytes) != 0;
    }
    mem_free(c->owned);
    return true;
}

/* One of them as far as it goes, the other only where the first waits for it. */
static void run_all(struct fake *f, enum device_queue first)
{
    do {
        while (step(f, first))
            ;
    } while (step(f, !first));
}

static void enqueue(struct fake *f, enum device_queue which, struct command c)
{
    struct queue *q = &f->q[which];
    assert_true(q->n < COMMANDS_MAX);
    q->commands[q->n++] = c;
    if (f->order == SHUFFLED) {
        for (uint32_t n = draw(&f->random) % 4; n > 0; n--)
            step(f, draw(&f->random) % 2);
    } else {
        enum device_queue early = f->order == COPIES_EARLY ? DEVICE_COPIES : DEVICE_OPS;
        while (step(f, early))
            ;
    }
}

static void say(struct fake *f, const char *fmt, ...)
{
    size_t n = strlen(f->log);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->log + n, sizeof f->log - n, fmt, ap);
    va_end(ap);
}

static bool fails(struct fake *f)
{
    return f->fail_in > 0 && --f->fail_in == 0;
}

static int fake_arena_new(struct device *d, size_t *bytes, void **ret, struct err *err)
{
    if (*bytes > d->memory_bytes)
        return err_set(err, ERR_NOMEM, "device fake: %zu bytes are free", d->memory_bytes);
    *ret = mem_zalloc(*bytes);
    fake_of(d)->n_arenas++;
    return 0;
}

/* Waits for the ops alone; copies that are still under way would write into freed memory. */
static void fake_arena_free(struct device *d, void *arena, size_t bytes)
{
    struct fake *f = fake_of(d);
    while (f->q[DEVICE_OPS].at < f->q[DEVICE_OPS].n)
        assert_true(step(f, DEVICE_OPS) || step(f, DEVICE_COPIES));
    f->n_wrong += f->q[DEVICE_COPIES].at < f->q[DEVICE_COPIES].n;
    assert_true(bytes <= d->memory_bytes);
    mem_free(arena);
    f->n_arenas--;
}

static int fake_copy(struct device *d, void *dst, const void *host, size_t bytes, bool is_pinned)
{
    struct fake *f = fake_of(d);
    struct command c = {.what = COPY, .dst = dst, .host = host, .bytes = bytes};
    bool is_inside = false;
    if (fails(f))
        return ERR_DEVICE;
    for (int i = 0; i < f->n_pins && is_pinned; i++)
        is_inside |= c.host >= f->pins[i] && c.host + bytes <= f->pins[i] + f->pin_bytes[i];
    assert_true(is_inside == is_pinned);
    if (!is_pinned)
        c.host = c.owned = mem_dup(host, bytes);
    say(f, "copy %zu;", bytes);
    enqueue(f, DEVICE_COPIES, c);
    return 0;
}

static int fake_mark(struct device *d, enum device_queue q, uint64_t *ret)
{
    struct fake *f = fake_of(d);
    if (fails(f))
        return ERR_DEVICE;
    *ret = ++f->q[q].marked;
    say(f, "%s %d;", q == DEVICE_OPS ? "ops" : "up", (int)*ret);
    enqueue(f, q, (struct command){.what = MARK, .ticket = *ret});
    return 0;
}

static int fake_wait(struct device *d, enum device_queue q, enum device_queue of, uint64_t ticket)
{
    struct fake *f = fake_of(d);
    if (fails(f))
        return ERR_DEVICE;
    say(f, "%s after %d;", q == DEVICE_OPS ? "ops" : "up", (int)ticket);
    enqueue(f, q, (struct command){.what = WAIT, .of = of, .ticket = ticket});
    return 0;
}

static void *fake_pin(struct device *d, size_t bytes)
{
    struct fake *f = fake_of(d);
    if (fails(f) || f->n_pins == 64)
        return NULL;
    f->pin_bytes[f->n_pins] = bytes;
    return f->pins[f->n_pins++] = mem_alloc(bytes);
}

static void fake_unpin(struct device *d, void *p)
{
    struct fake *f = fake_of(d);
    f->n_wrong += f->q[DEVICE_COPIES].at != f->q[DEVICE_COPIES].n;
    for (int i = 0; i < f->n_pins; i++) {
        if (f->pins[i] != p)
            continue;
        f->pins[i] = f->pins[--f->n_pins];
        mem_free(p);
        return;
    }
    fail();
}

static const struct device_hooks hooks = {.arena_new = fake_arena_new, .arena_free = fake_arena_free, .copy = fake_copy,
                                          .mark = fake_mark, .wait = fake_wait, .pin = fake_pin, .unpin = fake_unpin};
static const struct op_table no_ops;

static struct fake *fake_new(enum order order)
{
    struct fake *f = mem_zalloc(sizeof *f);
    f->device = (struct device){.table = &no_ops, .hooks = &hooks, .memory_bytes = 1 << 20, .name = "a fake", .impl = f};
    f->order = order;
    for (int i = 0; i < 2; i++)
        f->q[i].commands = mem_alloc(COMMANDS_MAX * sizeof(struct command));
    return f;
}

/* How many ops saw wrong bytes. */
static int fake_end(struct fake *f)
{
    int n_wrong = f->n_wrong;
    assert_int_equal(f->n_arenas, 0);
    assert_int_equal(f->n_pins, 0);
    for (int i = 0; i < 2; i++) {
        for (; f->q[i].at < f->q[i].n; f->q[i].at++)
            mem_free(f->q[i].commands[f->q[i].at].owned);
        mem_free(f->q[i].commands);
    }
    mem_free(f);
    return n_wrong;
}

static struct run run_on(struct fake *f)
{
    return (struct run){.device = &f->device, .table = f->device.table};
}

/* ---- weights ---- */

#define BLOCKS 7
#define WEIGHTS 3

struct block {
    int number;
    char host[WEIGHTS][300];
    struct tensor up[WEIGHTS];
};

/* WEIGHTS weights of `bytes` bytes or a few less, which no other block has. */
static void fill(struct pool *p, struct block *b, int seed, size_t offset, size_t bytes)
{
    struct err err = {0};
    char name[32];
    snprintf(name, sizeof name, "block %d", seed);
    b->number = pool_block(p, name, offset);
    assert_true(b->number >= 0);
    for (int i = 0; i < WEIGHTS; i++) {
        for (size_t k = 0; k < sizeof b->host[i]; k++)
            b->host[i][k] = (char)(seed * 31 + i * 7 + (int)k);
        struct tensor t = tensor_of(b->host[i], DTYPE_U8, 1, SHAPE((int64_t)bytes - i));
        assert_int_equal(pool_place(p, b->number, t, &b->up[i], &err), 0);
    }
}

/* An op that reads all weights of b. */
static void read_all(struct fake *f, const struct block *b)
{
    for (int i = 0; i < WEIGHTS; i++)
        enqueue(f, DEVICE_OPS, (struct command){.what = READ, .dst = b->up[i].data, .host = b->host[i],
                                               .bytes = tensor_bytes(b->up[i])});
}

/* Ops that write into a room, and one that reads what they wrote. */
static void use_room(struct fake *f, char *room, size_t bytes, int value)
{
    char *data = mem_alloc(bytes);
    memset(data, value, bytes);
    char *same = mem_dup(data, bytes);
    enqueue(f, DEVICE_OPS, (struct command){.what = COPY, .dst = room, .host = data, .owned = data, .bytes = bytes});
    enqueue(f, DEVICE_OPS, (struct command){.what = READ, .dst = room, .host = same, .owned = same, .bytes = bytes});
}

/* ---- tests ---- */

/* Two places, four blocks: each next one comes up while the one before is read. */
static void test_order(void **state)
{
    (void)state;
    struct fake *f = fake_new(COPIES_EARLY);
    struct run r = run_on(f);
    struct pool *p = NULL;
    struct err err = {0};
    struct block b[4];
    assert_int_equal(pool_new(&p, &f->device, 8192, false, &err), 0);
    for (int i = 0; i < 4; i++)
        fill(p, &b[i], i, i % 2 * 1024, (size_t)(10 + i));
    assert_int_equal(pool_end(p, b[0].number), 3 * 256);
    assert_int_equal(pool_end(p, b[1].number), 1024 + 3 * 256);
    for (int i = 0; i < 4; i++) {
        pool_take(&r, p, b[i].number);
        read_all(f, &b[i]);
        pool_next(&r, p, b[i].number, i + 1 < 4 ? b[i + 1].number : -1);
    }
    assert_string_equal(f->log, "copy 10;copy 9;copy 8;up 1;ops after 1;ops 1;"
                                "copy 11;copy 10;copy 9;up 2;ops after 2;ops 2;"
                                "up after 1;copy 12;copy 11;copy 10;up 3;ops after 3;ops 3;"
                                "up after 2;copy 13;copy 12;copy 11;up 4;ops after 4;ops 4;");
    f->log[0] = 0;
    pool_take(&r, p, b[2].number); /* still there, and its copies were waited for */
    pool_take(&r, p, b[2].number);
    assert_string_equal(f->log, "");
    pool_take(&r, p, b[0].number); /* more ops may have read 2 since its mark: a mark of now */
    assert_string_equal(f->log, "ops 5;up after 5;copy 10;copy 9;copy 8;up 5;ops after 5;");
    struct pool_stats s = pool_stats(p);
    assert_true(s.n_taken == 7 && s.n_missing == 2 && s.bytes == 27 + 30 + 33 + 36 + 27);
    assert_false(run_failed(&r));
    pool_free(p);
    assert_int_equal(f->n_reads, 12);
    assert_int_equal(fake_end(f), 0);
}

/* What pool_next must not touch: its own block's place, and that of a block whose ops are still to come. */
static void test_next(void **state)
{
    (void)state;
    struct fake *f = fake_new(COPIES_EARLY);
    struct run r = run_on(f);
    struct pool *p = NULL;
    struct err err = {0};
    struct block top, low, over_low, over_top, over_both;
    assert_int_equal(pool_new(&p, &f->device, 8192, false, &err), 0);
    fill(p, &top, 0, 0, 20);
    fill(p, &low, 1, pool_end(p, top.number) + 512, 20);
    fill(p, &over_low, 2, pool_end(p, top.number) + 1024, 20);
    fill(p, &over_top, 3, 1, 20); /* at 256 */
    fill(p, &over_both, 4, 512, 300);
    assert_int_equal(pool_end(p, over_top.number), 4 * 256);
    pool_take(&r, p, top.number);
    pool_take(&r, p, low.number);
    read_all(f, &low);
    f->log[0] = 0;
    pool_next(&r, p, low.number, over_low.number);
    pool_next(&r, p, low.number, over_top.number);
    pool_next(&r, p, low.number, top.number);
    pool_next(&r, p, low.number, -1);
    assert_string_equal(f->log, "ops 1;ops 2;ops 3;ops 4;");
    read_all(f, &top);
    pool_next(&r, p, top.number, -1);
    f->log[0] = 0;
    pool_take(&r, p, over_both.number); /* waits for the readers of both */
    assert_string_equal(f->log, "up after 5;up after 4;copy 300;copy 299;copy 298;up 3;ops after 3;");
    read_all(f, &over_both);
    assert_false(run_failed(&r));
    pool_next(&r, p, top.number, -1);
    assert_int_equal(r.err.code, ERR_INTERNAL);
    assert_non_null(strstr(r.err.text, "block 0 was not there"));
    pool_free(p);
    assert_int_equal(fake_end(f), 0);
}

/* Places of any size and a room, over each other; takes and guesses at random; the plan beside it (its blocks have the same
 * numbers). Returns how many ops read wrong bytes. */
static int play(enum order order, bool is_pinned, uint32_t seed, int deaf)
{
    struct fake *f = fake_new(order);
    struct run r = run_on(f), planned = {0};
    struct pool *p = NULL, *plan = NULL;
    struct err err = {0};
    struct block b[BLOCKS], same;
    f->random = seed;
    if (deaf >= 0)
        f->deaf[deaf] = true;
    assert_int_equal(pool_new(&plan, NULL, 0, is_pinned, &err), 0);
    assert_int_equal(pool_new(&p, &f->device, 16384, is_pinned, &err), 0);
    for (int i = 0; i < BLOCKS; i++) {
        size_t offset = draw(&f->random) % 3000, bytes = 3 + draw(&f->random) % 290;
        fill(p, &b[i], i, offset, bytes);
        fill(plan, &same, i, offset, bytes);
    }
    size_t offset = draw(&f->random) % 3000, bytes = 1 + draw(&f->random) % 2000;
    int room = pool_room(p, "room", offset, bytes);
    assert_true(room == BLOCKS && pool_room(plan, "room", offset, bytes) == room);
    size_t from = (offset + 255) / 256 * 256, end = offset + bytes > from ? offset + bytes : from;
    assert_true(pool_end(p, room) == end && pool_size(p, room) == end - from);
    for (int i = 0; i < 200; i++) {
        int now = (int)(draw(&f->random) % (BLOCKS + 1)), next = (int)(draw(&f->random) % (BLOCKS + 2)) - 1;
        pool_take(&r, p, now);
        pool_take(&planned, plan, now);
        for (uint32_t n = draw(&f->random) % 3; n > 0; n--) {
            if (now == room)
                use_room(f, pool_memory(p, room), pool_size(p, room), i + (int)n);
            else
                read_all(f, &b[now]);
        }
        if (draw(&f->random) % 4 > 0) {
            pool_next(&r, p, now, next);
            pool_next(&planned, plan, now, next);
        }
        if (i % 50 == 49)
            run_all(f, draw(&f->random) % 2);
    }
    struct pool_stats s = pool_stats(p);
    assert_true(!run_failed(&r) && s.n_taken == 200 && s.n_missing > 20 && s.n_missing < 200);
    assert_true(r.brought == s.bytes && planned.brought == r.brought && pool_stats(plan).n_missing == s.n_missing);
    pool_free(plan);
    pool_free(p);
    assert_true(f->n_reads > 300);
    return fake_end(f);
}

static void test_bytes(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 150; seed++) {
        for (int order = 0; order < N_ORDERS; order++)
            assert_int_equal(play((enum order)order, seed % 10 == 0, seed, -1), 0);
    }
}

/* Without the ops' waits they read what is not up yet, without the copies' waits what is up already. */
static void test_seen(void **state)
{
    (void)state;
    assert_true(play(OPS_EARLY, false, 1, DEVICE_OPS) > 0);
    assert_true(play(COPIES_EARLY, false, 1, DEVICE_COPIES) > 0);
    assert_true(play(OPS_EARLY, true, 2, DEVICE_OPS) > 0);
    assert_true(play(COPIES_EARLY, true, 2, DEVICE_COPIES) > 0);
}

static void test_planning(void **state)
{
    (void)state;
    struct pool *p = NULL;
    struct err err = {0};
    struct tensor t;
    const float scale = 2;
    assert_int_equal(pool_new(&p, NULL, 0, true, &err), 0);
    int a = pool_block(p, "a", 100), b = pool_block(p, "b", 1000);
    struct tensor host = tensor_of(NULL, DTYPE_F8E4M3, 2, SHAPE(1 << 20, 3 << 20));
    host.scale = &scale;
    assert_int_equal(pool_place(p, b, host, &t, &err), 0);
    assert_true(t.data == NULL && t.scale == &scale && t.shape[1] == 3 << 20 && tensor_same_shape(t, host));
    assert_int_equal(pool_end(p, b), 1024 + (3ll << 40));
    assert_int_equal(pool_end(p, a), 256);
    assert_int_equal(pool_place(p, a, tensor_of(NULL, DTYPE_F32, 1, SHAPE(0)), &t, &err), 0);
    assert_int_equal(pool_end(p, a), 256);
    struct run r = {0};
    pool_take(&r, p, a);
    pool_next(&r, p, a, b);
    pool_take(&r, p, b);
    assert_false(run_failed(&r));
    assert_true(pool_stats(p).n_taken == 2 && pool_stats(p).n_missing == 1 && r.brought == (double)(3ll << 40));
    pool_take(&r, NULL, 0);
    pool_next(&r, NULL, 0, 1);
    assert_false(run_failed(&r));
    pool_take(&r, p, 2);
    assert_int_equal(r.err.code, ERR_INTERNAL);
    pool_free(p);
    pool_free(NULL);
}

static void test_scale(void **state)
{
    (void)state;
    struct fake *f = fake_new(COPIES_EARLY);
    struct run r = run_on(f);
    struct pool *p = NULL;
    struct err err = {0};
    struct tensor t;
    const float scale = 0.5f;
    uint8_t bytes[] = {1, 2, 3};
    assert_int_equal(pool_new(&p, &f->device, 256, true, &err), 0);
    struct tensor host = tensor_of(bytes, DTYPE_F8E4M3, 1, SHAPE(3));
    host.scale = &scale;
    int a = pool_block(p, "a", 0);
    assert_int_equal(pool_place(p, a, host, &t, &err), 0);
    assert_true(t.scale == &scale && t.data != bytes && t.dtype == DTYPE_F8E4M3);
    bytes[1] = 9; /* it was copied when it was placed */
    pool_take(&r, p, a);
    assert_int_equal(((uint8_t *)t.data)[1], 2);
    pool_free(p);
    assert_int_equal(fake_end(f), 0);
}

static void test_refusals(void **state)
{
    (void)state;
    struct fake *f = fake_new(COPIES_EARLY);
    struct run r = run_on(f);
    struct device *cpu = NULL;
    struct pool *p = NULL;
    struct err err = {0};
    struct block b;
    struct tensor t = {.n_dims = 77};
    assert_int_equal(device_open(&cpu, "cpu_ref", NULL, &err), 0);
    assert_int_equal(pool_new(&p, cpu, 1 << 20, false, &err), ERR_UNSUPPORTED);
    device_close(cpu);
    err_clear(&err);
    assert_int_equal(pool_new(&p, &f->device, 2 << 20, false, &err), ERR_NOMEM);
    assert_non_null(strstr(err.text, "1048576 bytes are free"));
    assert_null(p);
    err_clear(&err);
    assert_int_equal(pool_new(&p, &f->device, 2000, false, &err), 0);
    fill(p, &b, 5, 1000, 200);
    assert_int_equal(pool_end(p, b.number), 1024 + 3 * 256); /* 208 bytes are left: too few */
    struct tensor host = tensor_of(b.host[0], DTYPE_U8, 1, SHAPE(209)), view = tensor_every(host, 0, 0, 2);
    assert_int_equal(pool_place(p, b.number, host, &t, &err), ERR_NOMEM);
    assert_non_null(strstr(err.text, "block 5: a weight of 209 B at byte 1792 ends behind the pool's 2.0 KiB"));
    err_clear(&err);
    assert_int_equal(pool_place(p, b.number, view, &t, &err), ERR_INTERNAL);
    err_clear(&err);
    assert_int_equal(pool_place(p, b.number, tensor_of(NULL, DTYPE_U8, 1, SHAPE(5)), &t, &err), ERR_INTERNAL);
    err_clear(&err);
    assert_int_equal(pool_place(p, 3, host, &t, &err), ERR_INTERNAL);
    err_clear(&err);
    assert_int_equal(pool_block(p, "far", SIZE_MAX - 5), ERR_NOMEM);
    assert_int_equal(pool_room(p, "large", 1000, 1001), ERR_NOMEM);
    assert_int_equal(pool_room(p, "far", 2001, 0), ERR_NOMEM);
    assert_int_equal(pool_room(p, "endless", 1, SIZE_MAX), ERR_NOMEM);
    pool_take(&r, p, b.number);
    host.shape[0] = 100;
    assert_int_equal(pool_place(p, b.number, host, &t, &err), ERR_INTERNAL);
    assert_int_equal(t.n_dims, 77);
    int n = 0;
    while (pool_block(p, "one more", 0) >= 0)
        n++;
    assert_int_equal(n, 4096 - 1);
    pool_take(&r, p, 4096);
    assert_int_equal(r.err.code, ERR_INTERNAL);
    pool_free(p);
    assert_int_equal(fake_end(f), 0);
}

/* Each call of the device fails once: the run says so, and the pool is right again after it. */
static void test_failures(void **state)
{
    (void)state;
    for (int at = 1; at < 40; at++) {
        struct fake *f = fake_new(COPIES_EARLY);
        struct run r = run_on(f);
        struct pool *p = NULL;
        struct err err = {0};
        struct block b[3];
        assert_int_equal(pool_new(&p, &f->device, 4096, false, &err), 0);
        for (int i = 0; i < 3; i++)
            fill(p, &b[i], i, (size_t)i * 512, 30);
        f->fail_in = at;
        for (int i = 0; i < 6; i++) {
            pool_take(&r, p, b[i % 3].number);
            if (!run_failed(&r))
                read_all(f, &b[i % 3]);
            pool_next(&r, p, b[i % 3].number, b[(i + 2) % 3].number);
        }
        if (f->fail_in == 0) {
            assert_int_equal(r.err.code, ERR_DEVICE);
            assert_non_null(strstr(r.err.text, "of block "));
            assert_non_null(strstr(r.err.text, "brought to a fake"));
        }
        assert_true(f->fail_in == 0 || at > 30); /* there are that many calls */
        f->fail_in = 0;
        r = run_on(f);
        for (int i = 0; i < 3; i++) {
            pool_take(&r, p, b[i].number);
            read_all(f, &b[i]);
        }
        assert_false(run_failed(&r));
        pool_free(p);
        assert_int_equal(fake_end(f), 0);
    }
}

static void test_memory(void **state)
{
    (void)state;
    for (int at = 1; at < 8; at++) {
        struct fake *f = fake_new(COPIES_EARLY);
        struct pool *p = NULL;
        struct err err = {0};
        struct tensor t;
        char bytes[16] = {0};
        int rc, block = 0;
        f->fail_in = at == 6 ? 1 : 0; /* the pin */
        mem_fail_at(at < 6 ? at : 0);
        rc = pool_new(&p, at == 2 ? NULL : &f->device, 4096, at != 2, &err);
        if (rc == 0)
            block = pool_block(p, "a", 0);
        if (rc == 0 && block >= 0)
            rc = pool_place(p, block, tensor_of(bytes, DTYPE_U8, 1, SHAPE(16)), &t, &err);
        mem_fail_at(0);
        bool is_fine = rc == 0 && block >= 0;
        assert_true(at == 7 ? is_fine : at == 2 || at == 5 || rc == ERR_NOMEM || block == ERR_NOMEM);
        pool_free(p);
        fake_end(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order),    cmocka_unit_test(test_next),
                                       cmocka_unit_test(test_bytes),    cmocka_unit_test(test_seen),
                                       cmocka_unit_test(test_planning), cmocka_unit_test(test_scale),
                                       cmocka_unit_test(test_refusals), cmocka_unit_test(test_failures),
                                       cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
