#include "worker/generator.h"

#include <string.h>

#include "worker/generator_avatar.h"

static const struct generator *const table[] = {&generator_avatar};

const struct generator *generator_at(size_t i)
{
    return i < sizeof(table) / sizeof(table[0]) ? table[i] : NULL;
}

const struct generator *generator_find(const char *name)
{
    for (size_t i = 0; generator_at(i); i++)
        if (strcmp(table[i]->name, name) == 0)
            return table[i];
    return NULL;
}
