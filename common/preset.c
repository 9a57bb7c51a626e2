#include "common/preset.h"

#include <string.h>

static const struct preset presets[] = {
#define X(name, mib, what) {#name, mib, what},
    PRESETS(X)
#undef X
};

const struct preset *preset_at(size_t i)
{
    return i < sizeof(presets) / sizeof(presets[0]) ? &presets[i] : NULL;
}

const struct preset *preset_find(const char *name)
{
    for (size_t i = 0; preset_at(i); i++)
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    return NULL;
}

size_t preset_bytes(const struct preset *p)
{
    return p->max_mib ? (size_t)p->max_mib << 20 : SIZE_MAX;
}

bool preset_is_cpu(const struct preset *p)
{
    return strcmp(p->name, "cpu") == 0;
}
