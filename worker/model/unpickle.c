#include "worker/model/unpickle.h"

#include <string.h>

#include "common/mem.h"

/* Ceilings. A 13 000-tensor checkpoint needs 5 MB of pickle and a stack of a few dozen. */
#define MAX_PICKLE (256u << 20)
#define MAX_MEMORY (1024u << 20)
#define MAX_STACK (1u << 20)
#define MAX_MEMO (1u << 22)
#define MAX_TEXT (1u << 20)

#define CHUNK (256u << 10)

struct chunk {
    struct chunk *next;
    size_t used, size;
    _Alignas(16) char data[];
};

struct unpickle {
    struct chunk *chunks; /* owned: all values */
    size_t memory;
    struct unpickle_value *root;
};

struct machine {
    struct unpickle *u;
    const uint8_t *p, *end, *start;
    struct unpickle_value **stack; /* owned */
    size_t n_stack, cap_stack;
    struct unpickle_value **memo; /* owned; NULL where nothing was put */
    size_t n_memo, cap_memo;
    bool stopped;
    struct err *err;
};

/* ---- memory ------------------------------------------------------------------------------------------ */

static void *take(struct machine *m, size_t bytes)
{
    struct unpickle *u = m->u;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > MAX_MEMORY || u->memory > MAX_MEMORY - bytes) {
        err_set(m->err, ERR_TOOBIG, "the pickle needs more than %u MiB", MAX_MEMORY >> 20);
        return NULL;
    }
    if (!u->chunks || u->chunks->size - u->chunks->used < bytes) {
        size_t size = bytes > CHUNK ? bytes : CHUNK;
        struct chunk *c = mem_alloc(sizeof *c + size);
        if (!c) {
            err_set(m->err, ERR_NOMEM, "out of memory for the pickle");
            return NULL;
        }
        *c = (struct chunk){.next = u->chunks, .size = size};
        u->chunks = c;
    }
    void *p = u->chunks->data + u->chunks->used;
    u->chunks->used += bytes;
    u->memory += bytes;
    memset(p, 0, bytes);
    return p;
}

/* The error that take or fail has set. */
static int failed(struct machine *m)
{
    return m->err->code;
}

static int damaged(struct machine *m, const char *what)
{
    return err_set(m->err, ERR_FORMAT, "pickle, byte %zu: %s", (size_t)(m->p - m->start), what);
}

static int grow(struct unpickle_value ***list, size_t *cap, size_t need, size_t max)
{
    size_t n = *cap ? *cap : 64;
    if (need <= *cap)
        return 0;
    if (need > max)
        return ERR_TOOBIG;
    while (n < need)
        n *= 2;
    struct unpickle_value **p = mem_realloc(*list, n * sizeof *p);
    if (!p)
        return ERR_NOMEM;
    *list = p;
    *cap = n;
    return 0;
}

static int push(struct machine *m, struct unpickle_value *v)
{
    int rc = v ? grow(&m->stack, &m->cap_stack, m->n_stack + 1, MAX_STACK) : failed(m);
    if (rc < 0)
        return err_set(m->err, rc, "pickle, byte %zu: the stack grows past %u values or memory",
                       (size_t)(m->p - m->start), MAX_STACK);
    m->stack[m->n_stack++] = v;
    return 0;
}

static struct unpickle_value *pop(struct machine *m)
{
    if (m->n_stack == 0 || m->stack[m->n_stack - 1]->kind == UNPICKLE_MARK_) {
        damaged(m, "nothing on the stack");
        return NULL;
    }
    return m->stack[--m->n_stack];
}

static struct unpickle_value *fresh(struct machine *m, enum unpickle_kind kind)
{
    struct unpickle_value *v = take(m, sizeof *v);
    if (v)
        v->kind = kind;
    return v;
}

/* Index of the first value above the topmost mark, or -1. */
static ptrdiff_t find_mark(struct machine *m)
{
    for (size_t i = m->n_stack; i > 0; i--)
        if (m->stack[i - 1]->kind == UNPICKLE_MARK_)
            return (ptrdiff_t)i;
    damaged(m, "no mark on the stack");
    return -1;
}

static int add_items(struct machine *m, struct unpickle_value *list, struct unpickle_value **items, size_t n)
{
    size_t need = list->u.list.n + n;
    if (need > list->u.list.cap) {
        size_t cap = list->u.list.cap ? list->u.list.cap * 2 : 4;
        if (cap < need)
            cap = need;
        struct unpickle_value **p = take(m, cap * sizeof *p);
        if (!p)
            return failed(m);
        if (list->u.list.n)
            memcpy(p, list->u.list.items, list->u.list.n * sizeof *p);
        list->u.list.items = p;
        list->u.list.cap = cap;
    }
    if (n)
        memcpy(list->u.list.items + list->u.list.n, items, n * sizeof *items);
    list->u.list.n = need;
    return 0;
}

static struct unpickle_value *new_list(struct machine *m, enum unpickle_kind kind,
                                       struct unpickle_value **items, size_t n)
{
    struct unpickle_value *v = fresh(m, kind);
    return v && add_items(m, v, items, n) == 0 ? v : NULL;
}

static struct unpickle_value *new_text(struct machine *m, enum unpickle_kind kind, const uint8_t *s,
                                       size_t len)
{
    struct unpickle_value *v = fresh(m, kind);
    char *copy = v ? take(m, len + 1) : NULL;
    if (!copy)
        return NULL;
    memcpy(copy, s, len);
    v->u.text.s = copy;
    v->u.text.len = len;
    return v;
}

/* ---- reading ----------------------------------------------------------------------------------------- */

static int read_uint(struct machine *m, int n, uint64_t *ret)
{
    uint64_t v = 0;
    if (m->end - m->p < n)
        return damaged(m, "the pickle ends inside a number");
    for (int i = n - 1; i >= 0; i--)
        v = v << 8 | m->p[i];
    m->p += n;
    *ret = v;
    return 0;
}

/* Two's complement, little-endian, n <= 8 bytes. */
static int read_sint(struct machine *m, uint64_t n, int64_t *ret)
{
    uint64_t v = 0;
    if (n > 8)
        return damaged(m, "an integer of more than 64 bits");
    int rc = read_uint(m, (int)n, &v);
    if (rc < 0)
        return rc;
    if (n > 0 && n < 8 && (v >> (8 * n - 1) & 1))
        v |= ~(uint64_t)0 << 8 * n;
    *ret = (int64_t)v;
    return 0;
}

static int push_int(struct machine *m, int64_t i)
{
    struct unpickle_value *v = fresh(m, UNPICKLE_INT);
    if (v)
        v->u.i = i;
    return push(m, v);
}

/* ---- opcodes: constants ------------------------------------------------------------------------------ */

static int do_proto(struct machine *m, uint8_t op)
{
    uint64_t v = 0;
    (void)op;
    int rc = read_uint(m, 1, &v);
    if (rc == 0 && v > 5)
        return damaged(m, "a protocol that does not exist");
    return rc;
}

static int do_frame(struct machine *m, uint8_t op)
{
    uint64_t v = 0;
    (void)op;
    int rc = read_uint(m, 8, &v);
    if (rc == 0 && v > (uint64_t)(m->end - m->p))
        return damaged(m, "a frame that is longer than the pickle");
    return rc;
}

static int do_const(struct machine *m, uint8_t op)
{
    struct unpickle_value *v = fresh(m, op == 'N' ? UNPICKLE_NONE : UNPICKLE_BOOL);
    if (v && op != 'N')
        v->u.b = op == 0x88;
    return push(m, v);
}

static int do_int(struct machine *m, uint8_t op)
{
    int64_t v = 0;
    uint64_t n = 4, u = 0;
    int rc = 0;
    if (op == 'K' || op == 'M') {
        rc = read_uint(m, op == 'K' ? 1 : 2, &u);
        return rc < 0 ? rc : push_int(m, (int64_t)u);
    }
    if (op == 0x8a || op == 0x8b)
        rc = read_uint(m, op == 0x8a ? 1 : 4, &n);
    if (rc == 0)
        rc = read_sint(m, n, &v);
    return rc < 0 ? rc : push_int(m, v);
}

static int do_float(struct machine *m, uint8_t op)
{
    uint64_t bits = 0;
    (void)op;
    int rc = read_uint(m, 8, &bits);
    if (rc < 0)
        return rc;
    bits = __builtin_bswap64(bits); /* the only big-endian number of the format */
    struct unpickle_value *v = fresh(m, UNPICKLE_FLOAT);
    if (v)
        memcpy(&v->u.f, &bits, sizeof bits);
    return push(m, v);
}

static int do_text(struct machine *m, uint8_t op)
{
    uint64_t n = 0;
    int width = op == 'U' || op == 'C' || op == 0x8c ? 1 : op == 0x8d || op == 0x8e ? 8 : 4;
    int rc = read_uint(m, width, &n);
    if (rc < 0)
        return rc;
    if (n > MAX_TEXT || n > (uint64_t)(m->end - m->p))
        return damaged(m, "a string is longer than the pickle or the limit");
    struct unpickle_value *v = new_text(m, UNPICKLE_STR, m->p, (size_t)n);
    m->p += n;
    return push(m, v);
}

/* ---- opcodes: stack and memo ------------------------------------------------------------------------- */

static int do_mark(struct machine *m, uint8_t op)
{
    static struct unpickle_value mark = {.kind = UNPICKLE_MARK_};
    (void)op;
    return push(m, &mark);
}

static int do_pop(struct machine *m, uint8_t op)
{
    (void)op;
    if (m->n_stack == 0)
        return damaged(m, "nothing on the stack");
    m->n_stack--;
    return 0;
}

static int do_pop_mark(struct machine *m, uint8_t op)
{
    (void)op;
    ptrdiff_t at = find_mark(m);
    if (at < 0)
        return failed(m);
    m->n_stack = (size_t)at - 1;
    return 0;
}

static int do_dup(struct machine *m, uint8_t op)
{
    (void)op;
    struct unpickle_value *v = pop(m);
    if (!v)
        return failed(m);
    m->n_stack++;
    return push(m, v);
}

static int put_memo(struct machine *m, uint64_t i)
{
    struct unpickle_value *v = pop(m);
    if (!v)
        return failed(m);
    m->n_stack++;
    size_t old = m->cap_memo;
    int rc = i < MAX_MEMO ? grow(&m->memo, &m->cap_memo, (size_t)i + 1, MAX_MEMO) : ERR_TOOBIG;
    if (rc < 0)
        return err_set(m->err, rc, "pickle: more than %u remembered values", MAX_MEMO);
    for (size_t k = old; k < m->cap_memo; k++)
        m->memo[k] = NULL;
    m->memo[i] = v;
    if (i >= m->n_memo)
        m->n_memo = (size_t)i + 1;
    return 0;
}

static int do_put(struct machine *m, uint8_t op)
{
    uint64_t i = m->n_memo;
    int rc = op == 0x94 ? 0 : read_uint(m, op == 'q' ? 1 : 4, &i);
    return rc < 0 ? rc : put_memo(m, i);
}

static int do_get(struct machine *m, uint8_t op)
{
    uint64_t i = 0;
    int rc = read_uint(m, op == 'h' ? 1 : 4, &i);
    if (rc < 0)
        return rc;
    if (i >= m->n_memo || !m->memo[i])
        return damaged(m, "a value that was never remembered");
    return push(m, m->memo[i]);
}

/* ---- opcodes: lists and dicts ------------------------------------------------------------------------ */

static int do_empty(struct machine *m, uint8_t op)
{
    return push(m, fresh(m, op == '}' ? UNPICKLE_DICT : UNPICKLE_LIST));
}

static int do_tuple(struct machine *m, uint8_t op)
{
    ptrdiff_t at = op >= 0x85 && op <= 0x87 ? (ptrdiff_t)m->n_stack - (op - 0x84) : find_mark(m);
    if (at < 0)
        return op >= 0x85 ? damaged(m, "nothing on the stack") : failed(m);
    for (size_t i = (size_t)at; i < m->n_stack; i++)
        if (m->stack[i]->kind == UNPICKLE_MARK_)
            return damaged(m, "a mark inside a tuple");
    size_t n = m->n_stack - (size_t)at;
    if (op == 'd' && n % 2)
        return damaged(m, "a key without a value");
    struct unpickle_value *v = new_list(m, op == 'd' ? UNPICKLE_DICT : UNPICKLE_LIST, m->stack + at, n);
    m->n_stack = (size_t)at - (op >= 0x85 && op <= 0x87 ? 0 : 1);
    return push(m, v);
}

/* The values above the mark (or the last n) go into the container below. */
static int append_to(struct machine *m, size_t at, size_t below, enum unpickle_kind kind)
{
    size_t n = m->n_stack - at;
    if (at < below + 1)
        return damaged(m, "nothing on the stack");
    struct unpickle_value *list = m->stack[at - below - 1];
    if (list->kind != kind && !(kind == UNPICKLE_DICT && list->kind == UNPICKLE_OBJECT))
        return damaged(m, "values for something that is no list or dict");
    for (size_t i = at; i < m->n_stack; i++)
        if (m->stack[i]->kind == UNPICKLE_MARK_)
            return damaged(m, "a mark among values");
    if (kind == UNPICKLE_DICT && n % 2)
        return damaged(m, "a key without a value");
    int rc = add_items(m, list, m->stack + at, n);
    m->n_stack = at - below;
    return rc;
}

static int do_append(struct machine *m, uint8_t op)
{
    size_t n = op == 'a' ? 1 : 2;
    if (m->n_stack < n + 1)
        return damaged(m, "nothing on the stack");
    return append_to(m, m->n_stack - n, 0, op == 'a' ? UNPICKLE_LIST : UNPICKLE_DICT);
}

static int do_appends(struct machine *m, uint8_t op)
{
    ptrdiff_t at = find_mark(m);
    if (at < 0)
        return failed(m);
    return append_to(m, (size_t)at, 1, op == 'e' ? UNPICKLE_LIST : UNPICKLE_DICT);
}

/* ---- opcodes: names, calls, objects ------------------------------------------------------------------ */

static int push_global(struct machine *m, const uint8_t *module, size_t n_module, const uint8_t *name,
                       size_t n_name)
{
    uint8_t text[512];
    if (n_module + n_name + 1 > sizeof text || memchr(module, 0, n_module) || memchr(name, 0, n_name))
        return damaged(m, "the name of a class is too long or holds a NUL");
    memcpy(text, module, n_module);
    text[n_module] = '.';
    memcpy(text + n_module + 1, name, n_name);
    return push(m, new_text(m, UNPICKLE_GLOBAL, text, n_module + 1 + n_name));
}

static int read_line(struct machine *m, const uint8_t **ret, size_t *ret_len)
{
    const uint8_t *nl = memchr(m->p, '\n', (size_t)(m->end - m->p));
    if (!nl)
        return damaged(m, "the pickle ends inside a name");
    *ret = m->p;
    *ret_len = (size_t)(nl - m->p);
    m->p = nl + 1;
    return 0;
}

static int do_global(struct machine *m, uint8_t op)
{
    const uint8_t *module = NULL, *name = NULL;
    size_t n_module = 0, n_name = 0;
    if (op == 0x93) {
        struct unpickle_value *b = pop(m), *a = b ? pop(m) : NULL;
        if (!a)
            return failed(m);
        if (a->kind != UNPICKLE_STR || b->kind != UNPICKLE_STR)
            return damaged(m, "the name of a class is not text");
        return push_global(m, (const uint8_t *)a->u.text.s, a->u.text.len, (const uint8_t *)b->u.text.s,
                           b->u.text.len);
    }
    if (read_line(m, &module, &n_module) < 0 || read_line(m, &name, &n_name) < 0)
        return failed(m);
    return push_global(m, module, n_module, name, n_name);
}

static int refuse(struct machine *m, const struct unpickle_value *f)
{
    if (f->kind != UNPICKLE_GLOBAL)
        return err_set(m->err, ERR_FORMAT,
                       "refuses to call a value that is no function: this file is not a plain checkpoint");
    return err_set(m->err, ERR_FORMAT, "refuses to call %.300s: this file is not a plain checkpoint",
                   f->u.text.s);
}

/* "i module\nname\n" makes an instance of any class, 'o' the same from the stack. */
static int do_inst(struct machine *m, uint8_t op)
{
    if (op == 'i') {
        int rc = do_global(m, 'c');
        struct unpickle_value *f = rc == 0 ? pop(m) : NULL;
        return f ? refuse(m, f) : failed(m);
    }
    ptrdiff_t at = find_mark(m);
    if (at < 0 || (size_t)at >= m->n_stack)
        return damaged(m, "no class on the stack");
    return refuse(m, m->stack[at]);
}

static bool is_global(const struct unpickle_value *v, const char *name)
{
    return v->kind == UNPICKLE_GLOBAL && strcmp(v->u.text.s, name) == 0;
}

static const struct {
    const char *storage; /* torch.<storage> */
    const char *name;    /* torch.<name> */
    enum dtype dtype;
} torch_types[] = {
    {"torch.FloatStorage", "torch.float32", DTYPE_F32},
    {"torch.DoubleStorage", "torch.float64", DTYPE_F64},
    {"torch.HalfStorage", "torch.float16", DTYPE_F16},
    {"torch.BFloat16Storage", "torch.bfloat16", DTYPE_BF16},
    {"torch.LongStorage", "torch.int64", DTYPE_I64},
    {"torch.IntStorage", "torch.int32", DTYPE_I32},
    {"torch.ShortStorage", "torch.int16", DTYPE_I16},
    {"torch.CharStorage", "torch.int8", DTYPE_I8},
    {"torch.ByteStorage", "torch.uint8", DTYPE_U8},
    {"torch.BoolStorage", "torch.bool", DTYPE_BOOL},
    {"torch.Float8_e4m3fnStorage", "torch.float8_e4m3fn", DTYPE_F8E4M3},
};

static int find_type(const struct unpickle_value *v, bool storage, enum dtype *ret)
{
    for (size_t i = 0; i < sizeof torch_types / sizeof *torch_types; i++) {
        if (is_global(v, storage ? torch_types[i].storage : torch_types[i].name)) {
            *ret = torch_types[i].dtype;
            return 0;
        }
    }
    return ERR_UNSUPPORTED;
}

/* Persistent id: ('storage', class, key, location, count). */
static int do_persid(struct machine *m, uint8_t op)
{
    (void)op;
    struct unpickle_value *id = pop(m);
    if (!id)
        return failed(m);
    struct unpickle_value **part = id->u.list.items;
    if (id->kind != UNPICKLE_LIST || id->u.list.n < 5 || part[0]->kind != UNPICKLE_STR ||
        strcmp(part[0]->u.text.s, "storage") != 0 || part[1]->kind != UNPICKLE_GLOBAL ||
        part[2]->kind != UNPICKLE_STR || part[4]->kind != UNPICKLE_INT || part[4]->u.i < 0)
        return damaged(m, "a persistent id that is no storage");
    struct unpickle_storage *s = take(m, sizeof *s);
    struct unpickle_value *v = s ? fresh(m, UNPICKLE_STORAGE) : NULL;
    if (!v)
        return failed(m);
    s->key = part[2]->u.text.s;
    s->count = part[4]->u.i;
    s->untyped = is_global(part[1], "torch.storage.UntypedStorage");
    s->dtype = DTYPE_U8;
    if (!s->untyped && find_type(part[1], true, &s->dtype) < 0)
        return err_set(m->err, ERR_UNSUPPORTED, "storage %.40s: element type %.100s is not supported", s->key,
                       part[1]->u.text.s);
    v->u.storage = s;
    return push(m, v);
}

static int read_dims(struct machine *m, const struct unpickle_value *list, int64_t *ret)
{
    if (list->kind != UNPICKLE_LIST || list->u.list.n > TENSOR_MAX_DIMS)
        return damaged(m, "a tensor's size is no tuple of at most 6 numbers");
    for (size_t i = 0; i < list->u.list.n; i++) {
        if (list->u.list.items[i]->kind != UNPICKLE_INT || list->u.list.items[i]->u.i < 0)
            return damaged(m, "a tensor's size or stride is no count");
        ret[i] = list->u.list.items[i]->u.i;
    }
    return (int)list->u.list.n;
}

/* Element type of a tensor: v3 says it, before that it is the storage's. */
static int read_type(struct machine *m, struct unpickle_tensor *t, const struct unpickle_value *type)
{
    t->dtype = t->storage->dtype;
    if (!type && t->storage->untyped)
        return damaged(m, "a tensor of untyped storage without an element type");
    if (type && find_type(type, false, &t->dtype) < 0)
        return err_set(m->err, ERR_UNSUPPORTED, "storage %.40s: element type %.100s is not supported",
                       t->storage->key, type->kind == UNPICKLE_GLOBAL ? type->u.text.s : "?");
    return 0;
}

/* (storage, offset, size, stride, ...); v3 has the element type as the seventh. */
static int call_tensor(struct machine *m, const struct unpickle_value *args, bool typed,
                       struct unpickle_value **ret)
{
    struct unpickle_value **a = args->u.list.items;
    size_t n = args->u.list.n;
    if (n < (typed ? 7u : 4u) || a[0]->kind != UNPICKLE_STORAGE || a[1]->kind != UNPICKLE_INT ||
        a[1]->u.i < 0)
        return damaged(m, "a tensor without storage or offset");
    struct unpickle_tensor *t = take(m, sizeof *t);
    struct unpickle_value *v = t ? fresh(m, UNPICKLE_TENSOR) : NULL;
    if (!v)
        return failed(m);
    int dims = read_dims(m, a[2], t->shape), strides = dims < 0 ? dims : read_dims(m, a[3], t->stride);
    if (strides < 0)
        return strides;
    if (dims != strides)
        return damaged(m, "a tensor has another number of strides than of dimensions");
    t->n_dims = dims;
    t->offset = a[1]->u.i;
    t->storage = a[0]->u.storage;
    v->u.tensor = t;
    *ret = v;
    return read_type(m, t, typed ? a[6] : NULL);
}

/* OrderedDict(): empty, or from a list of pairs. */
static int call_dict(struct machine *m, const struct unpickle_value *args, struct unpickle_value **ret)
{
    struct unpickle_value *v = fresh(m, UNPICKLE_DICT);
    if (!v)
        return failed(m);
    if (args->u.list.n > 0) {
        const struct unpickle_value *pairs = args->u.list.items[0];
        if (pairs->kind != UNPICKLE_LIST)
            return damaged(m, "an OrderedDict of something that is no list");
        for (size_t i = 0; i < pairs->u.list.n; i++) {
            const struct unpickle_value *pair = pairs->u.list.items[i];
            if (pair->kind != UNPICKLE_LIST || pair->u.list.n != 2)
                return damaged(m, "an OrderedDict of something that is no pair");
            int rc = add_items(m, v, pair->u.list.items, 2);
            if (rc < 0)
                return rc;
        }
    }
    *ret = v;
    return 0;
}

/* Calls whose result is their first argument: parameters are tensors, sizes and typed lists are lists. */
static bool is_wrapper(const struct unpickle_value *f)
{
    static const char *const names[] = {
        "torch._utils._rebuild_parameter",   "torch.Size",
        "torch.jit._pickle.build_intlist",   "torch.jit._pickle.build_doublelist",
        "torch.jit._pickle.build_boollist",  "torch.jit._pickle.build_tensorlist",
        "torch.jit._pickle.restore_type_tag"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (is_global(f, names[i]))
            return true;
    return false;
}

static int do_reduce(struct machine *m, uint8_t op)
{
    (void)op;
    int rc = 0;
    struct unpickle_value *args = pop(m), *f = args ? pop(m) : NULL, *v = NULL;
    if (!f)
        return failed(m);
    if (args->kind != UNPICKLE_LIST)
        return damaged(m, "arguments that are no tuple");
    if (is_global(f, "torch._utils._rebuild_tensor_v2") || is_global(f, "torch._utils._rebuild_tensor"))
        rc = call_tensor(m, args, false, &v);
    else if (is_global(f, "torch._utils._rebuild_tensor_v3"))
        rc = call_tensor(m, args, true, &v);
    else if (is_global(f, "collections.OrderedDict"))
        rc = call_dict(m, args, &v);
    else if (!is_wrapper(f))
        return refuse(m, f);
    else if (args->u.list.n == 0)
        return damaged(m, "a call without arguments");
    else
        v = args->u.list.items[0];
    return rc < 0 ? rc : push(m, v);
}

static int do_newobj(struct machine *m, uint8_t op)
{
    (void)op;
    struct unpickle_value *args = pop(m), *cls = args ? pop(m) : NULL;
    if (!cls)
        return failed(m);
    if (cls->kind != UNPICKLE_GLOBAL || strncmp(cls->u.text.s, "__torch__.", 10) != 0)
        return refuse(m, cls);
    return push(m, fresh(m, UNPICKLE_OBJECT));
}

/* State of an object: its attributes. An OrderedDict's own state (torch's _metadata) says nothing about
 * tensors. */
static int do_build(struct machine *m, uint8_t op)
{
    (void)op;
    struct unpickle_value *state = pop(m), *v = state ? pop(m) : NULL;
    if (!v)
        return failed(m);
    m->n_stack++;
    if (v->kind == UNPICKLE_DICT)
        return 0;
    if (v->kind != UNPICKLE_OBJECT || state->kind != UNPICKLE_DICT)
        return damaged(m, "the state of something that is no module");
    return add_items(m, v, state->u.list.items, state->u.list.n);
}

static int do_stop(struct machine *m, uint8_t op)
{
    (void)op;
    struct unpickle_value *v = pop(m);
    if (!v)
        return failed(m);
    m->u->root = v;
    m->stopped = true;
    return 0;
}

/* ---- the machine ------------------------------------------------------------------------------------- */

typedef int op_fn(struct machine *m, uint8_t op);

static op_fn *const ops[256] = {
    [0x80] = do_proto,  [0x95] = do_frame,   ['N'] = do_const,   [0x88] = do_const, [0x89] = do_const,
    ['J'] = do_int,     ['K'] = do_int,      ['M'] = do_int,     [0x8a] = do_int,   [0x8b] = do_int,
    ['G'] = do_float,   ['X'] = do_text,     ['T'] = do_text,    ['U'] = do_text,   ['B'] = do_text,
    ['C'] = do_text,    [0x8c] = do_text,    [0x8d] = do_text,   [0x8e] = do_text,  ['('] = do_mark,
    ['0'] = do_pop,     ['1'] = do_pop_mark, ['2'] = do_dup,     ['q'] = do_put,    ['r'] = do_put,
    [0x94] = do_put,    ['h'] = do_get,      ['j'] = do_get,     ['}'] = do_empty,  [']'] = do_empty,
    [')'] = do_empty,   ['t'] = do_tuple,    ['l'] = do_tuple,   ['d'] = do_tuple,  [0x85] = do_tuple,
    [0x86] = do_tuple,  [0x87] = do_tuple,   ['a'] = do_append,  ['s'] = do_append, ['e'] = do_appends,
    ['u'] = do_appends, ['c'] = do_global,   [0x93] = do_global, ['i'] = do_inst,   ['o'] = do_inst,
    ['Q'] = do_persid,  ['R'] = do_reduce,   [0x81] = do_newobj, ['b'] = do_build,  ['.'] = do_stop,
};

void unpickle_free(struct unpickle *u)
{
    if (!u)
        return;
    while (u->chunks) {
        struct chunk *next = u->chunks->next;
        mem_free(u->chunks);
        u->chunks = next;
    }
    mem_free(u);
}

int unpickle_new(struct unpickle **ret, const uint8_t *bytes, size_t len, struct err *err)
{
    int rc = 0;
    struct err why = {0};
    if (len > MAX_PICKLE)
        return err_set(err, ERR_TOOBIG, "a pickle of %zu bytes, at most %u are read", len, MAX_PICKLE);
    struct machine m = {
        .u = mem_zalloc(sizeof *m.u), .p = bytes, .start = bytes, .end = bytes + len, .err = &why};
    if (!m.u)
        return err_set(err, ERR_NOMEM, "out of memory");
    while (rc == 0 && !m.stopped) {
        if (m.p == m.end) {
            rc = damaged(&m, "it ends without its STOP");
            break;
        }
        uint8_t op = *m.p++;
        rc = ops[op] ? ops[op](&m, op)
                     : err_set(&why, ERR_FORMAT, "pickle, byte %zu: opcode 0x%02x belongs to no checkpoint",
                               (size_t)(m.p - m.start) - 1, op);
    }
    mem_free(m.stack);
    mem_free(m.memo);
    if (rc < 0) {
        unpickle_free(m.u);
        return err_set(err, rc, "%s", why.text);
    }
    *ret = m.u;
    return 0;
}

const struct unpickle_value *unpickle_root(const struct unpickle *u)
{
    return u->root;
}

const struct unpickle_value *unpickle_get(const struct unpickle_value *v, const char *key)
{
    if (v->kind != UNPICKLE_DICT && v->kind != UNPICKLE_OBJECT)
        return NULL;
    for (size_t i = 0; i + 1 < v->u.list.n; i += 2) {
        const struct unpickle_value *k = v->u.list.items[i];
        if (k->kind == UNPICKLE_STR && strcmp(k->u.text.s, key) == 0)
            return v->u.list.items[i + 1];
    }
    return NULL;
}
