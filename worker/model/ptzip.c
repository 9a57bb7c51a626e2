#include "worker/model/ptzip.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"

#define MAX_ENTRIES 400000
#define MAX_NAME 1024

#define SIG_LOCAL 0x04034b50u
#define SIG_CENTRAL 0x02014b50u
#define SIG_END 0x06054b50u
#define SIG_END64 0x06064b50u
#define SIG_LOCATOR64 0x07064b50u

struct entry {
    char *name;      /* owned */
    uint64_t header; /* offset of the local header */
    uint64_t data;   /* offset of the data */
    uint64_t size;
    bool plain; /* stored, not encrypted */
};

struct ptzip {
    const uint8_t *bytes;
    size_t len;
    struct entry *items; /* owned; by name */
    size_t n_items;
};

struct directory {
    uint64_t count, offset, size;
};

static uint16_t le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t le32(const uint8_t *p)
{
    return (uint32_t)le16(p) | (uint32_t)le16(p + 2) << 16;
}

static uint64_t le64(const uint8_t *p)
{
    return (uint64_t)le32(p) | (uint64_t)le32(p + 4) << 32;
}

/* Whether n bytes from offset at lie in the file. */
static bool inside(const struct ptzip *z, uint64_t at, uint64_t n)
{
    return at <= z->len && n <= z->len - at;
}

/* The end record is the last thing in the file but for a comment of at most 65535 bytes. */
static int find_end(const struct ptzip *z, size_t *ret)
{
    if (z->len < 22)
        return ERR_FORMAT;
    size_t low = z->len > 22 + 65535 ? z->len - 22 - 65535 : 0;
    for (size_t at = z->len - 22;; at--) {
        if (le32(z->bytes + at) == SIG_END && at + 22 + le16(z->bytes + at + 20) == z->len) {
            *ret = at;
            return 0;
        }
        if (at == low)
            return ERR_FORMAT;
    }
}

static int read_end64(const struct ptzip *z, size_t end, struct directory *d, struct err *err)
{
    if (end < 20 || le32(z->bytes + end - 20) != SIG_LOCATOR64)
        return err_set(err, ERR_FORMAT, "zip64 is announced and its locator is missing");
    uint64_t at = le64(z->bytes + end - 20 + 8);
    if (!inside(z, at, 56) || le32(z->bytes + at) != SIG_END64)
        return err_set(err, ERR_FORMAT, "the zip64 end record is not where its locator says");
    const uint8_t *p = z->bytes + at;
    if (le32(p + 16) != 0 || le32(p + 20) != 0)
        return err_set(err, ERR_UNSUPPORTED, "a zip in several volumes");
    *d = (struct directory){.count = le64(p + 32), .size = le64(p + 40), .offset = le64(p + 48)};
    return 0;
}

static int read_end(const struct ptzip *z, struct directory *d, struct err *err)
{
    size_t end = 0;
    if (find_end(z, &end) < 0)
        return err_set(err, ERR_FORMAT, "no zip directory at the end: the file is cut off");
    const uint8_t *p = z->bytes + end;
    if (le16(p + 4) != 0 && le16(p + 4) != 0xffff)
        return err_set(err, ERR_UNSUPPORTED, "a zip in several volumes");
    *d = (struct directory){.count = le16(p + 10), .size = le32(p + 12), .offset = le32(p + 16)};
    if (d->count == 0xffff || d->size == 0xffffffffu || d->offset == 0xffffffffu) {
        int rc = read_end64(z, end, d, err);
        if (rc < 0)
            return rc;
    }
    if (d->count > MAX_ENTRIES)
        return err_set(err, ERR_TOOBIG, "%llu entries, at most %d are read", (unsigned long long)d->count,
                       MAX_ENTRIES);
    if (!inside(z, d->offset, d->size) || d->size / 46 < d->count)
        return err_set(err, ERR_FORMAT,
                       "the zip directory lies outside the file or is too short for its entries");
    return 0;
}

/* 64-bit values of the zip64 extra field stand in for fields that are all ones, in a fixed order. */
static int read_extra64(const uint8_t *p, size_t n, uint64_t *size, uint64_t *packed, uint64_t *header)
{
    uint64_t *want[3] = {size, packed, header};
    while (n >= 4) {
        size_t len = le16(p + 2);
        if (len > n - 4)
            return ERR_FORMAT;
        if (le16(p) == 1) {
            const uint8_t *q = p + 4;
            for (int i = 0; i < 3; i++) {
                if (*want[i] != 0xffffffffu)
                    continue;
                if (len < 8)
                    return ERR_FORMAT;
                *want[i] = le64(q);
                q += 8;
                len -= 8;
            }
            return 0;
        }
        p += 4 + len;
        n -= 4 + len;
    }
    return *size == 0xffffffffu || *packed == 0xffffffffu || *header == 0xffffffffu ? ERR_FORMAT : 0;
}

static int read_local(const struct ptzip *z, struct entry *e, const uint8_t *name, size_t name_len,
                      struct err *err)
{
    if (!inside(z, e->header, 30) || le32(z->bytes + e->header) != SIG_LOCAL)
        return err_set(err, ERR_FORMAT, "%s: no local header at %llu", e->name,
                       (unsigned long long)e->header);
    const uint8_t *p = z->bytes + e->header;
    size_t local_name = le16(p + 26), extra = le16(p + 28);
    if (!inside(z, e->header + 30, local_name + extra) || local_name != name_len ||
        memcmp(p + 30, name, name_len) != 0)
        return err_set(err, ERR_FORMAT, "%s: the local header has another name", e->name);
    e->data = e->header + 30 + local_name + extra;
    if (e->plain && !inside(z, e->data, e->size))
        return err_set(err, ERR_FORMAT, "%s: %llu bytes at %llu reach beyond the file (%zu bytes)", e->name,
                       (unsigned long long)e->size, (unsigned long long)e->data, z->len);
    return 0;
}

/* One record of the directory at *at; moves *at behind it. */
static int read_record(struct ptzip *z, uint64_t *at, uint64_t stop, struct err *err)
{
    if (stop - *at < 46 || le32(z->bytes + *at) != SIG_CENTRAL)
        return err_set(err, ERR_FORMAT, "entry %zu of the zip directory is damaged", z->n_items);
    const uint8_t *p = z->bytes + *at;
    size_t name_len = le16(p + 28), extra = le16(p + 30), comment = le16(p + 32);
    if (stop - *at - 46 < name_len + extra + comment || name_len == 0 || name_len > MAX_NAME)
        return err_set(err, ERR_FORMAT, "entry %zu of the zip directory: name or extra field is too long",
                       z->n_items);
    if (memchr(p + 46, 0, name_len))
        return err_set(err, ERR_FORMAT, "entry %zu of the zip directory: NUL in the name", z->n_items);
    uint64_t packed = le32(p + 20), size = le32(p + 24), header = le32(p + 42);
    char *name = mem_alloc(name_len + 1);
    if (!name)
        return err_set(err, ERR_NOMEM, "out of memory");
    memcpy(name, p + 46, name_len);
    name[name_len] = 0;
    struct entry *e = &z->items[z->n_items++];
    e->name = name;
    if (read_extra64(p + 46 + name_len, extra, &size, &packed, &header) < 0)
        return err_set(err, ERR_FORMAT, "%s: damaged zip64 field", name);
    e->header = header;
    e->size = size;
    e->plain = le16(p + 10) == 0 && (le16(p + 8) & 1) == 0 && packed == size;
    *at += 46 + name_len + extra + comment;
    return read_local(z, e, p + 46, name_len, err);
}

static int by_header(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return (x->header > y->header) - (x->header < y->header);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static int check_order(struct ptzip *z, struct err *err)
{
    if (z->n_items == 0)
        return err_set(err, ERR_FORMAT, "an empty zip");
    qsort(z->items, z->n_items, sizeof *z->items, by_header);
    for (size_t i = 1; i < z->n_items; i++) {
        const struct entry *e = &z->items[i - 1];
        if (z->items[i].header < e->data + (e->plain ? e->size : 0))
            return err_set(err, ERR_FORMAT, "%s and %s overlap", e->name, z->items[i].name);
    }
    qsort(z->items, z->n_items, sizeof *z->items, by_name);
    for (size_t i = 1; i < z->n_items; i++)
        if (strcmp(z->items[i - 1].name, z->items[i].name) == 0)
            return err_set(err, ERR_FORMAT, "%s is in the zip twice", z->items[i].name);
    return 0;
}

void ptzip_close(struct ptzip *z)
{
    if (!z)
        return;
    for (size_t i = 0; i < z->n_items; i++)
        mem_free(z->items[i].name);
    mem_free(z->items);
    mem_free(z);
}

int ptzip_open(struct ptzip **ret, const uint8_t *bytes, size_t len, struct err *err)
{
    struct directory d = {0};
    struct ptzip *z = mem_zalloc(sizeof *z);
    if (!z)
        return err_set(err, ERR_NOMEM, "out of memory");
    z->bytes = bytes;
    z->len = len;
    int rc = read_end(z, &d, err);
    if (rc == 0 && !(z->items = mem_calloc((size_t)d.count + 1, sizeof *z->items)))
        rc = err_set(err, ERR_NOMEM, "out of memory for %llu entries", (unsigned long long)d.count);
    uint64_t at = d.offset, stop = d.offset + d.size;
    for (uint64_t i = 0; rc == 0 && i < d.count; i++)
        rc = read_record(z, &at, stop, err);
    if (rc == 0)
        rc = check_order(z, err);
    if (rc < 0) {
        ptzip_close(z);
        return rc;
    }
    *ret = z;
    return 0;
}

size_t ptzip_count(const struct ptzip *z)
{
    return z->n_items;
}

const char *ptzip_name(const struct ptzip *z, size_t i)
{
    return i < z->n_items ? z->items[i].name : NULL;
}

int ptzip_find(const struct ptzip *z, const char *name, const uint8_t **ret, size_t *ret_len, struct err *err)
{
    struct entry key = {.name = (char *)(uintptr_t)name};
    const struct entry *e = bsearch(&key, z->items, z->n_items, sizeof *z->items, by_name);
    if (!e)
        return err_set(err, ERR_NOTFOUND, "%s is not in the zip", name);
    if (!e->plain)
        return err_set(err, ERR_UNSUPPORTED, "%s is compressed or encrypted: only stored entries are read",
                       name);
    *ret = z->bytes + e->data;
    *ret_len = (size_t)e->size;
    return 0;
}
