#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <string.h>

#include "common/mem.h"

#define ALIGN 64
#define ENTRIES_MAX (1 << 20)

struct cpu_entry {
    struct cpu_key key;
    void *value;
    cpu_free_fn *free_value;
};

int cpu_open(struct device *d)
{
    struct cpu *s = mem_zalloc(sizeof *s);
    if (!s)
        return ERR_NOMEM;
    s->n_threads = d->n_threads;
    if (!cpu_has_bf16())
        d->precision = DEVICE_F32;
    s->bf16 = d->precision == DEVICE_BF16;
    s->scratch = mem_aligned(ALIGN, (size_t)s->n_threads * CPU_THREAD_BYTES);
    if (!s->scratch) {
        mem_free(s);
        return ERR_NOMEM;
    }
    d->impl = s;
    return 0;
}

static void drop(struct cpu_entry *e)
{
    if (e->value && e->free_value)
        e->free_value(e->value);
}

void cpu_close(struct device *d)
{
    struct cpu *s = d->impl;
    if (!s)
        return;
    for (int i = 0; i < s->cap_entries; i++)
        drop(&s->entries[i]);
    for (int i = 0; i < CPU_SLOT_COUNT; i++)
        mem_free(s->slot[i].data);
    if (s->dnnl_free)
        s->dnnl_free(s->dnnl);
    mem_free(s->entries);
    mem_free(s->scratch);
    mem_free(s);
    d->impl = NULL;
}

static size_t hash(const struct cpu_key *key)
{
    uint64_t h = (uint64_t)(uintptr_t)key->data * 0x9e3779b97f4a7c15u + (uint64_t)key->kind;
    for (int i = 0; i < CPU_KEY_NUMBERS; i++)
        h = (h ^ (h >> 29) ^ (uint64_t)key->number[i]) * 0xbf58476d1ce4e5b9u;
    return (size_t)(h ^ (h >> 32));
}

/* Open addressing, at most half full; free places have no value. */
static struct cpu_entry *place(struct cpu_entry *entries, int cap, const struct cpu_key *key)
{
    size_t i = hash(key) & (size_t)(cap - 1);
    while (entries[i].value && memcmp(&entries[i].key, key, sizeof *key) != 0)
        i = (i + 1) & (size_t)(cap - 1);
    return &entries[i];
}

/* By number: base may be NULL and base + bytes past any object ("forget everything"). */
static bool inside(const void *p, const void *base, size_t bytes)
{
    return (uintptr_t)p - (uintptr_t)base < bytes;
}

/* Moves the entries into a table of cap places, leaving out those of [base, base + bytes). */
static int rebuild(struct cpu *s, int cap, const char *base, size_t bytes)
{
    struct cpu_entry *entries = mem_calloc((size_t)cap, sizeof *entries);
    if (!entries)
        return ERR_NOMEM;
    s->n_entries = 0;
    for (int i = 0; i < s->cap_entries; i++) {
        struct cpu_entry *e = &s->entries[i];
        const char *data = e->key.data;
        if (data && inside(data, base, bytes)) {
            drop(e);
        } else if (e->value) {
            *place(entries, cap, &e->key) = *e;
            s->n_entries++;
        }
    }
    mem_free(s->entries);
    s->entries = entries;
    s->cap_entries = cap;
    return 0;
}

/* Without memory for a new table the old entries stay but can never be found again by their (now changed)
 * keys. */
void cpu_forget(struct device *d, const void *base, size_t bytes)
{
    struct cpu *s = d->impl;
    if (!s || s->n_entries == 0 || rebuild(s, s->cap_entries, base, bytes) == 0)
        return;
    for (int i = 0; i < s->cap_entries; i++) {
        struct cpu_entry *e = &s->entries[i];
        const char *data = e->key.data;
        if (data && inside(data, base, bytes))
            e->key.kind = -1;
    }
}

void *cpu_find(const struct cpu *s, const struct cpu_key *key)
{
    return s->cap_entries ? place(s->entries, s->cap_entries, key)->value : NULL;
}

int cpu_keep(struct cpu *s, const struct cpu_key *key, void *value, cpu_free_fn *free_value)
{
    struct cpu_entry e = {*key, value, free_value};
    int cap = s->cap_entries ? s->cap_entries : 64;
    while (2 * (s->n_entries + 1) > cap)
        cap *= 2;
    if (cap > ENTRIES_MAX || (cap != s->cap_entries && rebuild(s, cap, NULL, 0) < 0)) {
        drop(&e);
        return ERR_NOMEM;
    }
    *place(s->entries, s->cap_entries, key) = e;
    s->n_entries++;
    return 0;
}

struct cpu *cpu_begin(struct run *r)
{
    struct cpu *s = r->device->impl;
    if (omp_get_max_threads() != s->n_threads)
        omp_set_num_threads(s->n_threads);
    return s;
}

void *cpu_scratch(const struct cpu *s, int i)
{
    return s->scratch + (size_t)i * CPU_THREAD_BYTES;
}

void *cpu_slot(struct run *r, enum cpu_slot slot, size_t bytes)
{
    struct cpu *s = r->device->impl;
    if (bytes <= s->slot[slot].bytes)
        return s->slot[slot].data;
    mem_free(s->slot[slot].data);
    s->slot[slot].bytes = 0;
    s->slot[slot].data = mem_aligned(ALIGN, bytes);
    if (s->slot[slot].data)
        s->slot[slot].bytes = bytes;
    else
        run_fail(r, ERR_NOMEM, "no memory for %zu bytes of scratch", bytes);
    return s->slot[slot].data;
}

const float *cpu_vector(struct run *r, enum cpu_slot slot, struct tensor v, int64_t n, float otherwise)
{
    if (!tensor_is_none(v) && v.dtype == DTYPE_F32)
        return v.data;
    float *p = cpu_slot(r, slot, (size_t)n * sizeof *p);
    if (!p)
        return NULL;
    if (!tensor_is_none(v))
        dtype_read_f32(p, v.data, v.dtype, n, 1);
    for (int64_t i = 0; i < n && tensor_is_none(v); i++)
        p[i] = otherwise;
    return p;
}

bool cpu_is_lasting(const struct run *r, struct tensor w)
{
    const char *p = w.data;
    return p < r->arena || p >= r->arena + r->arena_max;
}
