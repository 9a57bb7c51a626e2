#include "worker/model/ckpt.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/sha256.h"
#include "common/str.h"
#include "worker/model/ckpt_impl.h"
#include "worker/model/ptfile.h"
#include "worker/model/safetensors.h"

/* ---- what the readers use ---------------------------------------------------------------------------- */

int ckpt_add_block(struct ckpt *c, void *data, size_t bytes, bool mapped)
{
    if (c->n_blocks == c->cap_blocks) {
        size_t cap = c->cap_blocks ? c->cap_blocks * 2 : 8;
        struct ckpt_block *p = mem_realloc(c->blocks, cap * sizeof *p);
        if (!p)
            return ERR_NOMEM;
        c->blocks = p;
        c->cap_blocks = cap;
    }
    c->blocks[c->n_blocks++] = (struct ckpt_block){data, bytes, mapped};
    return 0;
}

int ckpt_map(struct ckpt *c, const char *path, const uint8_t **ret_data, size_t *ret_len, struct err *err)
{
    int rc = 0;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno == ENOENT || errno == ENOTDIR ? ERR_NOTFOUND : ERR_IO, "%s: %s", path,
                       strerror(errno));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        rc = err_set(err, ERR_FORMAT, "%s: not a regular file", path);
        goto out;
    }
    if (st.st_size == 0) {
        rc = err_set(err, ERR_FORMAT, "%s: the file is empty", path);
        goto out;
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        rc = err_set(err, ERR_IO, "%s: mmap: %s", path, strerror(errno));
        goto out;
    }
    rc = ckpt_add_block(c, p, (size_t)st.st_size, true);
    if (rc < 0) {
        munmap(p, (size_t)st.st_size);
        err_set(err, rc, "%s: out of memory", path);
        goto out;
    }
    *ret_data = p;
    *ret_len = (size_t)st.st_size;
out:
    close(fd);
    return rc;
}

int ckpt_shape_bytes(enum dtype dtype, int n_dims, const int64_t *shape, size_t *ret)
{
    uint64_t n = dtype_bytes(dtype);
    bool empty = false;
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 0)
            return ERR_FORMAT;
        if (shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(n, (uint64_t)shape[i], &n) || n > (uint64_t)PTRDIFF_MAX)
            return ERR_FORMAT;
    }
    *ret = empty ? 0 : (size_t)n;
    return 0;
}

static bool name_ok(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return n > 0 && n <= CKPT_MAX_NAME && str_utf8_ok(name, n);
}

int ckpt_add(struct ckpt *c, const char *name, enum dtype dtype, int n_dims, const int64_t *shape,
             const void *data, struct err *err)
{
    static const int64_t scalar[1] = {1};
    size_t bytes = 0, esize = dtype_bytes(dtype);
    if (!name_ok(name))
        return err_set(err, ERR_FORMAT,
                       "tensor %zu: the name is empty, longer than %d bytes or not clean UTF-8", c->n_items,
                       CKPT_MAX_NAME);
    if (n_dims > TENSOR_MAX_DIMS)
        return err_set(err, ERR_UNSUPPORTED, "%s: %d dimensions, at most %d are supported", name, n_dims,
                       TENSOR_MAX_DIMS);
    if (ckpt_shape_bytes(dtype, n_dims, shape, &bytes) < 0)
        return err_set(err, ERR_FORMAT, "%s: a dimension is negative or the size overflows", name);
    if (c->n_items >= CKPT_MAX_TENSORS)
        return err_set(err, ERR_TOOBIG, "more than %d tensors", CKPT_MAX_TENSORS);
    if (c->n_items == c->cap_items) {
        size_t cap = c->cap_items ? c->cap_items * 2 : 64;
        struct ckpt_entry *p = mem_realloc(c->items, cap * sizeof *p);
        if (!p)
            return err_set(err, ERR_NOMEM, "out of memory for %zu tensor names", cap);
        c->items = p;
        c->cap_items = cap;
    }
    void *where = (void *)(uintptr_t)data;
    if (data && bytes && (uintptr_t)data % esize != 0) {
        where = mem_aligned(64, bytes);
        if (!where || ckpt_add_block(c, where, bytes, false) < 0) {
            mem_free(where);
            return err_set(err, ERR_NOMEM, "%s: out of memory for an aligned copy", name);
        }
        memcpy(where, data, bytes);
    }
    char *copy = mem_strdup(name);
    if (!copy)
        return err_set(err, ERR_NOMEM, "out of memory for tensor names");
    if (n_dims == 0) {
        n_dims = 1;
        shape = scalar;
    }
    c->items[c->n_items++] = (struct ckpt_entry){copy, tensor_of(where, dtype, n_dims, shape)};
    return 0;
}

/* ---- opening ----------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct ckpt_entry *)a)->name, ((const struct ckpt_entry *)b)->name);
}

static int sort_entries(struct ckpt *c, struct err *err)
{
    if (c->n_items)
        qsort(c->items, c->n_items, sizeof *c->items, by_name);
    for (size_t i = 1; i < c->n_items; i++)
        if (strcmp(c->items[i - 1].name, c->items[i].name) == 0)
            return err_set(err, ERR_FORMAT, "tensor %s is there twice", c->items[i].name);
    return 0;
}

void ckpt_close(struct ckpt *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_items; i++)
        mem_free(c->items[i].name);
    for (size_t i = 0; i < c->n_blocks; i++) {
        if (c->blocks[i].mapped)
            munmap(c->blocks[i].data, c->blocks[i].bytes);
        else
            mem_free(c->blocks[i].data);
    }
    mem_free(c->items);
    mem_free(c->blocks);
    mem_free(c->scales);
    mem_free(c);
}

void ckpt_forget(const struct ckpt *c, struct device *device)
{
    for (size_t i = 0; c && i < c->n_blocks; i++)
        device_forget(device, c->blocks[i].data, c->blocks[i].bytes);
}

/* A file's kind is read from its first bytes, never from its name. */
static int read_file(struct ckpt *c, const char *path, struct err *err)
{
    uint8_t head[16] = {0};
    struct stat st = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        int why = errno;
        if (fd >= 0)
            close(fd);
        return err_set(err, why == ENOENT || why == ENOTDIR ? ERR_NOTFOUND : ERR_IO, "%s: %s", path,
                       strerror(why));
    }
    ssize_t n = S_ISREG(st.st_mode) ? pread(fd, head, sizeof head, 0) : 0;
    close(fd);
    if (S_ISDIR(st.st_mode))
        return safetensors_read_dir(c, path, err);
    if (memcmp(head, "PK\3\4", 4) == 0)
        return ptfile_read(c, path, err);
    if (n >= 9 && safetensors_probe(head, (size_t)st.st_size))
        return safetensors_read(c, path, err);
    if (head[0] == 0x80 && head[1] <= 5)
        return err_set(err, ERR_FORMAT,
                       "%s: a bare pickle; only PyTorch's zip form is read: save it again with torch.save",
                       path);
    return err_set(err, ERR_FORMAT, "%s: neither a safetensors file nor a PyTorch zip (%lld bytes)", path,
                   (long long)st.st_size);
}

int ckpt_open(struct ckpt **ret, const char *path, struct err *err)
{
    struct ckpt *c = mem_zalloc(sizeof *c);
    if (!c)
        return err_set(err, ERR_NOMEM, "out of memory");
    c->has_data = true;
    int rc = read_file(c, path, err);
    if (rc == 0 && (rc = sort_entries(c, err)) < 0)
        err_wrap(err, "%s", path);
    if (rc == 0 && c->n_items == 0)
        rc = err_set(err, ERR_FORMAT, "%s: holds no tensor", path);
    if (rc < 0) {
        ckpt_close(c);
        return rc;
    }
    *ret = c;
    return 0;
}

static int take_scale(const struct ckpt *map, const char *name, float *ret, struct err *err)
{
    static const char tail[] = ".weight";
    char layer[CKPT_MAX_NAME + 1];
    str_copy(layer, sizeof layer, name);
    if (str_ends(layer, tail))
        layer[strlen(layer) - strlen(tail)] = 0;
    struct tensor t = ckpt_find(map, layer);
    if (tensor_is_none(t))
        return err_set(err, ERR_WEIGHTS, "%s is fp8 and the map has no scale %s", name, layer);
    if (tensor_count(t) != 1 ||
        (t.dtype != DTYPE_F32 && t.dtype != DTYPE_F64 && t.dtype != DTYPE_BF16 && t.dtype != DTYPE_F16))
        return err_set(err, ERR_WEIGHTS, "scale of %s: one float wanted", layer);
    dtype_read_f32(ret, t.data, t.dtype, 1, 1);
    if (!(*ret >= 0 && *ret < 1e30f))
        return err_set(err, ERR_WEIGHTS, "scale of %s is %g", layer, (double)*ret);
    return 0;
}

int ckpt_open_fp8(struct ckpt **ret, const char *path, const char *map_path, struct err *err)
{
    struct ckpt *c = NULL, *map = NULL;
    int rc = ckpt_open(&c, path, err);
    if (rc == 0)
        rc = ckpt_open(&map, map_path, err);
    if (rc == 0 && !(c->scales = mem_calloc(c->n_items, sizeof *c->scales)))
        rc = err_set(err, ERR_NOMEM, "out of memory");
    for (size_t i = 0; rc == 0 && i < c->n_items; i++) {
        if (c->items[i].t.dtype != DTYPE_F8E4M3)
            continue;
        rc = take_scale(map, c->items[i].name, &c->scales[i], err);
        c->items[i].t.scale = &c->scales[i];
    }
    ckpt_close(map);
    if (rc < 0) {
        ckpt_close(c);
        return rc;
    }
    *ret = c;
    return 0;
}

int ckpt_strip(struct ckpt *c, const char *part, struct err *err)
{
    size_t n = strlen(part);
    for (size_t i = 0; n && i < c->n_items; i++) {
        char *name = c->items[i].name, *to = name;
        for (const char *from = name; *from;) {
            if (strncmp(from, part, n) == 0)
                from += n;
            else
                *to++ = *from++;
        }
        *to = 0;
        if (to == name)
            return err_set(err, ERR_FORMAT, "a tensor's name is nothing but %s", part);
    }
    c->digest[0] = 0;
    return sort_entries(c, err);
}

/* ---- lists ------------------------------------------------------------------------------------------- */

struct columns {
    int name, dtype, shape;
};

static size_t split_tabs(char *line, char **field, size_t max)
{
    size_t n = 0;
    for (char *p = line; p && n < max;) {
        field[n++] = p;
        p = strchr(p, '\t');
        if (p)
            *p++ = 0;
    }
    return n;
}

static bool read_header(char **field, size_t n, struct columns *col)
{
    struct columns got = {-1, -1, -1};
    for (size_t i = 0; i < n; i++) {
        if (strcmp(field[i], "name") == 0)
            got.name = (int)i;
        else if (strcmp(field[i], "dtype") == 0 || strcmp(field[i], "module_dtype") == 0)
            got.dtype = (int)i;
        else if (strcmp(field[i], "shape") == 0)
            got.shape = (int)i;
    }
    if (got.name < 0 || got.dtype < 0 || got.shape < 0)
        return false;
    *col = got;
    return true;
}

static int parse_shape(char *text, int64_t *shape)
{
    int n = 0;
    for (char *p = text; p && *p;) {
        char *next = strchr(p, 'x');
        if (next)
            *next++ = 0;
        if (n == TENSOR_MAX_DIMS || str_parse_i64(p, 0, INT64_MAX, &shape[n]) < 0)
            return ERR_FORMAT;
        n++;
        p = next;
    }
    return n;
}

static int parse_dtype(const char *text, enum dtype *ret)
{
    static const struct {
        const char *text;
        enum dtype dtype;
    } torch[] = {{"float32", DTYPE_F32},
                 {"float64", DTYPE_F64},
                 {"bfloat16", DTYPE_BF16},
                 {"float16", DTYPE_F16},
                 {"float8_e4m3fn", DTYPE_F8E4M3},
                 {"uint8", DTYPE_U8},
                 {"bool", DTYPE_BOOL},
                 {"int8", DTYPE_I8},
                 {"int16", DTYPE_I16},
                 {"int32", DTYPE_I32},
                 {"int64", DTYPE_I64}};
    for (size_t i = 0; i < sizeof torch / sizeof *torch; i++) {
        if (strcmp(text, torch[i].text) == 0) {
            *ret = torch[i].dtype;
            return 0;
        }
    }
    return dtype_parse(text, ret);
}

static int add_line(struct ckpt *c, char *line, int number, struct columns *col, struct err *err)
{
    char *field[16];
    int64_t shape[TENSOR_MAX_DIMS];
    enum dtype dtype;
    size_t n = split_tabs(line, field, 16);
    if (number == 1 && read_header(field, n, col))
        return 0;
    if (n <= (size_t)col->name || n <= (size_t)col->dtype || n <= (size_t)col->shape)
        return err_set(err, ERR_FORMAT, "list, line %d: fewer columns than needed (%zu)", number, n);
    if (parse_dtype(field[col->dtype], &dtype) < 0)
        return err_set(err, ERR_FORMAT, "list, line %d: element type \"%s\" is not known", number,
                       field[col->dtype]);
    int n_dims = parse_shape(field[col->shape], shape);
    if (n_dims < 0)
        return err_set(err, ERR_FORMAT, "list, line %d: shape is not AxBxC with at most %d dimensions",
                       number, TENSOR_MAX_DIMS);
    return ckpt_add(c, field[col->name], dtype, n_dims, shape, NULL, err);
}

int ckpt_open_list(struct ckpt **ret, const char *text, size_t len, struct err *err)
{
    struct columns col = {0, 1, 2};
    int rc = 0, number = 0;
    char *copy = mem_alloc(len + 1);
    struct ckpt *c = mem_zalloc(sizeof *c);
    if (!copy || !c) {
        rc = err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    memcpy(copy, text, len);
    copy[len] = 0;
    if (strlen(copy) != len) {
        rc = err_set(err, ERR_FORMAT, "list: a NUL byte");
        goto out;
    }
    for (char *p = copy; rc == 0 && p && *p;) {
        char *next = strchr(p, '\n');
        if (next)
            *next++ = 0;
        number++;
        if (*p)
            rc = add_line(c, p, number, &col, err);
        p = next;
    }
    if (rc == 0)
        rc = sort_entries(c, err);
    if (rc == 0 && c->n_items == 0)
        rc = err_set(err, ERR_FORMAT, "list: no tensor");
out:
    mem_free(copy);
    if (rc < 0) {
        ckpt_close(c);
        return rc;
    }
    *ret = c;
    return 0;
}

/* ---- asking ------------------------------------------------------------------------------------------ */

size_t ckpt_count(const struct ckpt *c)
{
    return c->n_items;
}

const char *ckpt_name(const struct ckpt *c, size_t i)
{
    return i < c->n_items ? c->items[i].name : NULL;
}

struct tensor ckpt_tensor(const struct ckpt *c, size_t i)
{
    return i < c->n_items ? c->items[i].t : TENSOR_NONE;
}

/* The first entry whose name is not below name. */
static size_t lower_bound(const struct ckpt *c, const char *name)
{
    size_t lo = 0, hi = c->n_items;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (strcmp(c->items[mid].name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct tensor ckpt_find(const struct ckpt *c, const char *name)
{
    size_t i = lower_bound(c, name);
    return i < c->n_items && strcmp(c->items[i].name, name) == 0 ? c->items[i].t : TENSOR_NONE;
}

int64_t ckpt_dim(const struct ckpt *c, const char *name, int dim)
{
    struct tensor t = ckpt_find(c, name);
    if (dim < 0)
        dim += t.n_dims;
    return dim >= 0 && dim < t.n_dims ? t.shape[dim] : 0;
}

int ckpt_count_blocks(const struct ckpt *c, const char *prefix)
{
    char start[CKPT_MAX_NAME + 32];
    for (int k = 0;; k++) {
        if (str_format(start, sizeof start, "%s%d.", prefix, k) < 0)
            return k;
        size_t i = lower_bound(c, start);
        if (i >= c->n_items || !str_starts(c->items[i].name, start))
            return k;
    }
}

struct ckpt_place *ckpt_place(struct ckpt *c)
{
    return &c->place;
}

bool ckpt_has_data(const struct ckpt *c)
{
    return c->has_data;
}

size_t ckpt_bytes(const struct ckpt *c)
{
    size_t sum = 0;
    for (size_t i = 0; i < c->n_items; i++)
        sum += tensor_bytes(c->items[i].t);
    return sum;
}

int ckpt_digest(struct ckpt *c, char hex[65], struct err *err)
{
    if (!c->digest[0]) {
        struct sha256 s;
        int rc = sha256_init(&s);
        if (rc < 0)
            return err_set(err, rc, "SHA-256 of the weights cannot start");
        for (size_t i = 0; i < c->n_items; i++) {
            struct tensor t = c->items[i].t;
            char text[160];
            tensor_format(t, text, sizeof text);
            sha256_add(&s, c->items[i].name, strlen(c->items[i].name) + 1);
            sha256_add(&s, text, strlen(text) + 1);
            if (t.scale)
                sha256_add(&s, t.scale, sizeof *t.scale);
            if (t.data)
                sha256_add(&s, t.data, tensor_bytes(t));
        }
        rc = sha256_hex(&s, c->digest);
        sha256_done(&s);
        if (rc < 0)
            return err_set(err, rc, "SHA-256 of the weights failed");
    }
    memcpy(hex, c->digest, sizeof c->digest);
    return 0;
}
