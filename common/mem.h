/* mem.h -- the malloc family of the tree: counts, and fails on request.
 *
 * MEM_FAIL_AT=n (environment, read once) or mem_fail_at(n) makes the n-th allocation from now fail, so that tests can
 * walk every out-of-memory path. Nothing outside mem.c calls malloc.
 */
#ifndef COMMON_MEM_H
#define COMMON_MEM_H

#include <stddef.h>

void *mem_alloc(size_t bytes);                  /* NULL when there is none; not zeroed */
void *mem_zalloc(size_t bytes);                 /* zeroed */
void *mem_calloc(size_t n, size_t size);        /* zeroed; NULL on overflow too */
void *mem_realloc(void *p, size_t bytes);
void *mem_aligned(size_t align, size_t bytes);  /* align a power of two; freed by mem_free */
char *mem_strdup(const char *s);                /* NULL in, NULL out */
void *mem_dup(const void *p, size_t bytes);
void mem_free(void *p);

void mem_fail_at(long n); /* 0: never */
long mem_count(void);     /* allocations so far */

#endif
