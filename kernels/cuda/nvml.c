#include "kernels/cuda/nvml.h"

#include <dlfcn.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/str.h"

#define PROCESSES_MAX 256

struct process { /* nvmlProcessInfo_t */
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};

struct memory { /* nvmlMemory_t */
    unsigned long long total, free, used;
};

struct nvml {
    void *library;
    void *gpu; /* nvmlDevice_t */
    unsigned long long used_before;
    int (*shut_down)(void);
    int (*memory)(void *gpu, struct memory *ret);
    int (*processes)(void *gpu, unsigned *n, struct process *ret); /* NULL: the driver is older */
};

static void *function(const struct nvml *n, const char *name)
{
    return dlsym(n->library, name);
}

struct nvml *nvml_open(int pci_domain, int pci_bus, int pci_device)
{
    char where[32];
    struct memory m;
    struct nvml *n = mem_zalloc(sizeof *n);
    if (!n)
        return NULL;
    n->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!n->library) {
        mem_free(n);
        return NULL;
    }
    int (*init)(void), (*find)(const char *, void **);
    *(void **)&init = function(n, "nvmlInit_v2");
    *(void **)&find = function(n, "nvmlDeviceGetHandleByPciBusId_v2");
    *(void **)&n->memory = function(n, "nvmlDeviceGetMemoryInfo");
    *(void **)&n->processes = function(n, "nvmlDeviceGetComputeRunningProcesses_v3");
    *(void **)&n->shut_down = function(n, "nvmlShutdown");
    str_format(where, sizeof where, "%08x:%02x:%02x.0", (unsigned)pci_domain, (unsigned)pci_bus, (unsigned)pci_device);
    if (!init || !find || !n->memory || !n->shut_down || init() != 0)
        n->shut_down = NULL;
    else if (find(where, &n->gpu) == 0 && n->memory(n->gpu, &m) == 0) {
        n->used_before = m.used;
        return n;
    }
    nvml_close(n);
    return NULL;
}

void nvml_close(struct nvml *n)
{
    if (!n)
        return;
    if (n->shut_down)
        n->shut_down();
    dlclose(n->library);
    mem_free(n);
}

size_t nvml_used(const struct nvml *n, bool *is_own)
{
    struct process list[PROCESSES_MAX];
    unsigned n_listed = PROCESSES_MAX;
    struct memory m;
    *is_own = false;
    if (!n)
        return 0;
    if (!n->processes || n->processes(n->gpu, &n_listed, list) != 0)
        n_listed = 0;
    for (unsigned i = 0; i < n_listed && i < PROCESSES_MAX; i++) {
        if (list[i].pid != (unsigned)getpid() || list[i].used == ~0ull) /* all ones: it does not say */
            continue;
        *is_own = true;
        return list[i].used;
    }
    return n->memory(n->gpu, &m) == 0 && m.used > n->used_before ? m.used - n->used_before : 0;
}
