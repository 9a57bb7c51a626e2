/* isa.c -- the ops of one instruction set, put into the table. */
#include "kernels/cpu/isa.h"

#define OVERRIDES(X) X(linear) X(linear_add) X(attention)

void ISA_FN(isa)(struct op_table *table)
{
#define X(member) table->member = ISA_FN(member);
    OVERRIDES(X)
#undef X
}
