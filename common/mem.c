#include "common/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static atomic_long n_allocs, fail_at;

__attribute__((constructor)) static void read_environment(void)
{
    const char *s = getenv("MEM_FAIL_AT");
    if (s)
        mem_fail_at(strtol(s, NULL, 10));
}

static int refused(void)
{
    long n = atomic_fetch_add(&n_allocs, 1) + 1;
    long at = atomic_load(&fail_at);
    return at > 0 && n == at;
}

void mem_fail_at(long n)
{
    atomic_store(&fail_at, n > 0 ? atomic_load(&n_allocs) + n : 0);
}

long mem_count(void)
{
    return atomic_load(&n_allocs);
}

void *mem_alloc(size_t bytes)
{
    return refused() ? NULL : malloc(bytes ? bytes : 1);
}

void *mem_zalloc(size_t bytes)
{
    return mem_calloc(1, bytes);
}

void *mem_calloc(size_t n, size_t size)
{
    return refused() ? NULL : calloc(n ? n : 1, size ? size : 1);
}

void *mem_realloc(void *p, size_t bytes)
{
    return refused() ? NULL : realloc(p, bytes ? bytes : 1);
}

void *mem_aligned(size_t align, size_t bytes)
{
    void *p = NULL;
    if (refused() || posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align, bytes ? bytes : 1) != 0)
        return NULL;
    return p;
}

void *mem_dup(const void *p, size_t bytes)
{
    void *q = mem_alloc(bytes);
    if (q && bytes)
        memcpy(q, p, bytes);
    return q;
}

char *mem_strdup(const char *s)
{
    return s ? mem_dup(s, strlen(s) + 1) : NULL;
}

void mem_free(void *p)
{
    free(p);
}
