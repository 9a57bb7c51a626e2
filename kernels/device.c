#include "kernels/device.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"
#include "kernels/cpu/cpu.h"
#include "kernels/table.h"

/* The value of the first line of path that starts with key (key "": the first line), without blanks around
 * it. */
static int read_value(const char *path, const char *key, char *dst, size_t size)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return ERR_NOTFOUND;
    char line[512];
    int rc = ERR_NOTFOUND;
    while (rc < 0 && fgets(line, sizeof line, f)) {
        if (!str_starts(line, key))
            continue;
        char *p = line + strlen(key);
        p += strspn(p, " \t:");
        p[strcspn(p, "\n")] = 0;
        str_copy(dst, size, p); /* a cut name is still a name */
        rc = 0;
    }
    fclose(f);
    return rc;
}

/* A number of bytes, or otherwise when the file does not say ("max", absent). */
static size_t read_bytes(const char *path, const char *key, int64_t unit, size_t otherwise)
{
    char text[64];
    int64_t n;
    if (read_value(path, key, text, sizeof text) < 0)
        return otherwise;
    text[strcspn(text, " ")] = 0; /* "16384 kB" */
    if (str_parse_i64(text, 0, INT64_MAX / unit, &n) < 0)
        return otherwise;
    return (size_t)(n * unit);
}

/* Containers are given less than the machine has; control groups say how much. */
static size_t host_memory(void)
{
    size_t all = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    size_t limit = read_bytes("/sys/fs/cgroup/memory.max", "", 1, SIZE_MAX);
    return limit < all ? limit : all;
}

static size_t host_free(void)
{
    size_t all = read_bytes("/proc/meminfo", "MemAvailable:", 1024, host_memory());
    size_t limit = read_bytes("/sys/fs/cgroup/memory.max", "", 1, SIZE_MAX);
    if (limit == SIZE_MAX)
        return all;
    size_t used = read_bytes("/sys/fs/cgroup/memory.current", "", 1, 0);
    size_t left = limit > used ? limit - used : 0;
    return left < all ? left : all;
}

static int host_threads(int wanted)
{
    cpu_set_t set;
    int n =
        sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (wanted > 0)
        n = wanted;
    return n > 0 ? n : 1;
}

static const struct device_hooks cpu_ref_hooks = {0};
static const struct device_hooks cpu_hooks = {.close = cpu_close, .forget = cpu_forget};

static int open_host(struct device *d, const struct device_options *o, struct err *err)
{
    bool is_ref = strcmp(d->kind, "cpu_ref") == 0;
    if (o->precision == DEVICE_FP8)
        return err_set(err, ERR_UNSUPPORTED,
                       "device %s: precision fp8 needs a GPU of compute capability 8.9 or later: use bf16 or f32", d->kind);
    d->is_host = true;
    d->memory_bytes = host_memory();
    if (read_value("/proc/cpuinfo", "model name", d->name, sizeof d->name) < 0)
        str_copy(d->name, sizeof d->name, "CPU");
    d->n_threads = is_ref ? 1 : host_threads(o->n_threads);
    d->precision = is_ref ? DEVICE_F32 : o->precision;
    d->table = is_ref ? cpu_ref_table() : cpu_table();
    d->hooks = is_ref ? &cpu_ref_hooks : &cpu_hooks;
    if (is_ref)
        return 0;
    int rc = cpu_open(d);
    return rc < 0 ? err_set(err, rc, "device cpu: %s", err_text(rc)) : 0;
}

/* The module stays loaded for the life of the process: its library's own threads and exit handlers live in
 * it. */
static int open_module(struct device *d, const struct device_options *o, struct err *err)
{
    const char *path = getenv("TROUPE_CUDA_MODULE");
    if (!path || !path[0])
        path = "troupe-cuda.so";
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module)
        return err_set(err, ERR_UNSUPPORTED,
                       "device cuda: the module cannot be loaded (%s): build it where nvcc is and name it in "
                       "TROUPE_CUDA_MODULE, or use --device cpu",
                       dlerror());
    union {
        void *data;
        device_module_fn *fn;
    } symbol = {dlsym(module, DEVICE_MODULE_SYMBOL)};
    if (!symbol.data) {
        int rc = err_set(err, ERR_UNSUPPORTED, "device cuda: %s is no module of this program: %s", path,
                         dlerror());
        dlclose(module);
        return rc;
    }
    return symbol.fn(d, o, err);
}

int device_open(struct device **ret, const char *kind, const struct device_options *o, struct err *err)
{
    static const struct {
        const char *kind;
        int (*open)(struct device *d, const struct device_options *o, struct err *err);
    } kinds[] = {{"cpu_ref", open_host}, {"cpu", open_host}, {"cuda", open_module}};
    static const struct device_options defaults = {0};

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].kind, kind) != 0)
            continue;
        struct device *d = mem_zalloc(sizeof *d);
        if (!d)
            return err_set(err, ERR_NOMEM, "device %s: no memory", kind);
        str_copy(d->kind, sizeof d->kind, kind);
        int rc = kinds[i].open(d, o ? o : &defaults, err);
        if (rc < 0) {
            mem_free(d);
            return rc;
        }
        *ret = d;
        return 0;
    }
    return err_set(err, ERR_INVALID, "device: '%s' is not known; cpu, cpu_ref and cuda are", kind);
}

void device_close(struct device *d)
{
    if (!d)
        return;
    if (d->hooks->close)
        d->hooks->close(d);
    mem_free(d);
}

static const char *const precisions[] = {[DEVICE_F32] = "f32", [DEVICE_BF16] = "bf16", [DEVICE_FP8] = "fp8"};

int device_precision_parse(const char *name, const char *kind, enum device_precision *ret, struct err *err)
{
    if (strcmp(name, "auto") == 0) {
        *ret = strcmp(kind, "cuda") == 0 ? DEVICE_BF16 : DEVICE_F32;
        return 0;
    }
    for (size_t i = 0; i < sizeof precisions / sizeof precisions[0]; i++) {
        if (strcmp(name, precisions[i]) == 0) {
            *ret = (enum device_precision)i;
            return 0;
        }
    }
    return err_set(err, ERR_INVALID, "precision: auto, f32, bf16 and fp8 are allowed, not %s", name);
}

const char *device_precision_name(enum device_precision p)
{
    return precisions[p];
}

size_t device_free_bytes(const struct device *d)
{
    return d->hooks->free_bytes ? d->hooks->free_bytes(d) : host_free();
}

size_t device_used_bytes(const struct device *d, bool *by_nvml)
{
    *by_nvml = false;
    return d->hooks->used_bytes ? d->hooks->used_bytes(d, by_nvml) : 0;
}

int device_upload(struct device *d, struct tensor host, struct tensor *ret, struct err *err)
{
    if (d->hooks->upload)
        return d->hooks->upload(d, host, ret, err);
    *ret = host;
    return 0;
}

void device_forget(struct device *d, const void *base, size_t bytes)
{
    if (d->hooks->forget)
        d->hooks->forget(d, base, bytes);
}
