#include "kernels/cuda/lib_nccl.h"

#ifdef LIB_NCCL_LINKED /* the emulation: its calls are in the module */
const struct lib_nccl *lib_nccl_load(struct err *err)
{
    (void)err;
#define CALL(name) .name = nccl##name,
    static const struct lib_nccl calls = {LIB_NCCL_CALLS(CALL)};
    return &calls;
}
#else
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>

#define NAME "libnccl.so.2"

static struct lib_nccl calls;
static struct err failure; /* why it is not there */

static bool find(void *library, const char *name, void *member)
{
    void **at = member; /* POSIX: a function's address fits a pointer to an object */
    *at = dlsym(library, name);
    return *at != NULL;
}

/* It stays loaded, as the module does: its threads live in it. */
static void load(void)
{
    void *library = dlopen(NAME, RTLD_NOW | RTLD_LOCAL);
    bool whole = library != NULL;
#define CALL(name) whole = whole && find(library, "nccl" #name, &calls.name);
    LIB_NCCL_CALLS(CALL)
    if (!whole)
        err_set(&failure, ERR_UNSUPPORTED, "NCCL cannot be used: %s", dlerror());
}

const struct lib_nccl *lib_nccl_load(struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    if (!failure.code)
        return &calls;
    err_set(err, failure.code, "%s", failure.text);
    return NULL;
}
#endif
