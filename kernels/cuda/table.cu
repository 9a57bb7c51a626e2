/* table.cu -- every op of kernels/table.h by its name: cuda_<op>, from whichever file of this folder defines it; one that
 * is missing is missed by the linker. */
#include "kernels/cuda/table.h"

#include <stdio.h>
#include <string.h>

static void describe(struct run *r, struct tensor t)
{
    char text[128];
    size_t len = strlen(r->err.text);
    if (!tensor_is_none(t) && len < sizeof r->err.text)
        snprintf(r->err.text + len, sizeof r->err.text - len, " %s", tensor_format(t, text, sizeof text));
}

template <typename T> static void describe(struct run *, T)
{
}

/* One op: a failure of CUDA's gets the shapes of all tensors. (What the ops check, they describe themselves.) */
template <auto F> struct op;
template <typename... A, int (*F)(struct run *, A...)> struct op<F> {
    static int call(struct run *r, A... a)
    {
        int rc = cuda_fail(r, cuda_here(cuda_of(r)), "device");
        if (rc == 0)
            rc = F(r, a...);
        if (rc == ERR_DEVICE || rc == ERR_INTERNAL)
            (describe(r, a), ...);
        return rc;
    }
};

const struct op_table *table_get(void)
{
    static const struct op_table table = {"cuda",
#define X(member, ...) &op<cuda_##member>::call,
                                          OP_TABLE(X)
#undef X
    };
    return &table;
}
