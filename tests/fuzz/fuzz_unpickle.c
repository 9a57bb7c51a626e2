/* fuzz_unpickle.c -- any bytes as a pickle. Seeds are whole .pt files: the pickle is looked for behind its
 * protocol mark. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "worker/model/unpickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct unpickle *u = NULL;
    struct err err = {0};
    const uint8_t *p = memchr(data, 0x80, size);
    if (p)
        size -= (size_t)(p - data);
    if (unpickle_new(&u, p ? p : data, size, &err) == 0)
        (void)unpickle_get(unpickle_root(u), "module");
    unpickle_free(u);
    return 0;
}
