/* preset.h -- classes of devices by their memory: what a job's `preset` asks for. Each is a ceiling on what the job may take of
 * a device; the worker plans within it, in the fastest mode that fits.
 *
 *     const struct preset *p = preset_find("low");               p->max_mib
 *     X(low, 12288, "12 GB cards")                               name, MiB (0: no ceiling), who it is for
 */
#ifndef COMMON_PRESET_H
#define COMMON_PRESET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRESETS(X)                              \
    X(auto, 0, "what the device has")           \
    X(emergency, 6144, "6 GB cards")            \
    X(ultra_minimal, 8192, "8 GB cards")        \
    X(ultra_low, 10240, "10 GB cards")          \
    X(low, 12288, "12 GB cards")                \
    X(balanced, 16384, "16 GB cards")           \
    X(high, 24576, "24 GB cards")               \
    X(max, 0, "what the device has")            \
    X(cpu, 0, "no GPU: workers on a CPU alone")

/* "auto|emergency|...|cpu", for the table of fields */
#define PRESET_CHOICES "auto|emergency|ultra_minimal|ultra_low|low|balanced|high|max|cpu"

struct preset {
    const char *name;
    int64_t max_mib;
    const char *what;
};

const struct preset *preset_find(const char *name); /* NULL: none of that name */
const struct preset *preset_at(size_t i);           /* NULL past the last */
size_t preset_bytes(const struct preset *p);        /* SIZE_MAX: no ceiling */
bool preset_is_cpu(const struct preset *p);

#endif
