/* table.c -- the cpu table: the reference, and over it what is faster on this machine. */
#if defined __x86_64__
#include <cpuid.h>
#endif
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

static struct op_table table;

#if defined __x86_64__
/* Asked directly: clang's __builtin_cpu_supports does not know the name. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

/* The highest level of the x86-64 psABI that the processor has: 3 is AVX2 and FMA, 4 AVX-512; 0 below. */
static int best_level(void)
{
#if defined __x86_64__
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("bmi2") || !has_f16c())
        return 0;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512cd"))
        return 4;
    return 3;
#else
    return 0;
#endif
}

/* TROUPE_CPU_ISA lowers it: tests run all that the machine has. */
static int level(void)
{
    const char *wanted = getenv("TROUPE_CPU_ISA");
    int best = best_level();
    if (wanted && strcmp(wanted, "base") == 0)
        return 0;
    return wanted && strcmp(wanted, "v3") == 0 && best > 3 ? 3 : best;
}

bool cpu_has_bf16(void)
{
#if defined __x86_64__
    return level() == 4 && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

static void fill(void)
{
    table = *cpu_ref_table();
    table.name = "cpu";
    table.conv = cpu_conv;
    switch (level()) {
#if defined __x86_64__
    case 4:
        cpu_isa_v4(&table);
        if (cpu_has_bf16()) {
            table.linear = cpu_linear_v4bf16;
            table.linear_add = cpu_linear_add_v4bf16;
        }
        break;
    case 3:
        cpu_isa_v3(&table);
        break;
#endif
    default:
        cpu_isa_base(&table);
        break;
    }
}

const struct op_table *cpu_table(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
    return &table;
}
