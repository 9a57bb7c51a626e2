#include "kernels/cpu/ref.h"

static const struct op_table table = {.name = "cpu_ref",
#define X(member, ...) .member = cpu_ref_##member,
                                      OP_TABLE(X)
#undef X
};

const struct op_table *cpu_ref_table(void)
{
    return &table;
}
