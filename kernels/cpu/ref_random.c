/* ref_random.c -- normal random numbers that are the same on every device.
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11): a keyed
 * bijection of 128 bits, ten rounds. Elements 4j .. 4j+3 come from one block:
 *
 *     counter = (low 32 bits of j, high 32 bits of j, stream, 0)     key = (low 32 bits of seed, high 32
 * bits) x[0..3] = philox(counter, key);   u[i] = (x[i] + 0.5) * 2^-32  in double, never 0 or 1 element 4j   =
 * sqrt(-2 ln u[0]) cos(2 pi u[1])     element 4j+1 = sqrt(-2 ln u[0]) sin(2 pi u[1]) element 4j+2 = sqrt(-2
 * ln u[2]) cos(2 pi u[3])     element 4j+3 = sqrt(-2 ln u[2]) sin(2 pi u[3])
 *
 * in double, rounded to f32 at the end (Box and Muller, 1958).
 */
#include "kernels/cpu/ref_random.h"

#include <math.h>

#include "kernels/cpu/ref.h"

void cpu_ref_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4])
{
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]}, k0 = key[0], k1 = key[1];
    for (int i = 0; i < 10; i++) {
        uint64_t a = (uint64_t)0xd2511f53u * c[0], b = (uint64_t)0xcd9e8d57u * c[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k1,
                            (uint32_t)a};
        for (int j = 0; j < 4; j++)
            c[j] = next[j];
        k0 += 0x9e3779b9u; /* golden ratio */
        k1 += 0xbb67ae85u; /* sqrt(3) - 1 */
    }
    for (int j = 0; j < 4; j++)
        ret[j] = c[j];
}

void cpu_ref_normal4(uint64_t seed, uint32_t stream, uint64_t block, float ret[4])
{
    uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), stream, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, x[4];
    cpu_ref_philox(counter, key, x);
    for (int i = 0; i < 4; i += 2) {
        double radius = sqrt(-2 * log(((double)x[i] + 0.5) * 0x1p-32));
        double angle = 2 * M_PI * (((double)x[i + 1] + 0.5) * 0x1p-32);
        ret[i] = (float)(radius * cos(angle));
        ret[i + 1] = (float)(radius * sin(angle));
    }
}

int cpu_ref_randn(struct run *r, struct tensor y, uint64_t seed, uint32_t stream)
{
    (void)r;
    float *p = y.data, four[4];
    int64_t n = tensor_count(y);
    for (int64_t i = 0; i < n; i++) {
        if (i % 4 == 0)
            cpu_ref_normal4(seed, stream, (uint64_t)i / 4, four);
        p[i] = four[i % 4];
    }
    return 0;
}
