/* log.h -- one line a record on standard error: key=value, or JSON by setting. Only the programs' top layers
 * log (main, server, claim, pipeline); everything else returns an error.
 *
 *     log_init("troupe-worker", LOG_KV, LOG_INFO);
 *     LOG(INFO, "job settled", log_str("job", id), log_int("attempt", 3), log_num("seconds", 4.2));
 *
 * A line is written with one write(2), so lines of several threads and processes do not mix. A line is at
 * most 4 KiB (longer values are cut). Values are escaped: no control characters, no second line, whatever a
 * client sent.
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum log_format { LOG_KV, LOG_JSON };
enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_field {
    const char *key;
    enum { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_NUM } type;
    const char *str; /* borrowed; NULL prints nothing for the field */
    int64_t i;
    double num;
};

void log_init(const char *program, enum log_format format, enum log_level level); /* once, before threads */
void log_to(int fd); /* another file than standard error: tests */

struct log_field log_str(const char *key, const char *value);
struct log_field log_int(const char *key, int64_t value);
struct log_field log_num(const char *key, double value);
struct log_field log_code(int code); /* code=SHAPE */

void log_event(enum log_level level, const char *what, const struct log_field *fields, size_t n_fields);

/* At least one field. */
#define LOG(level, what, ...)                                                                                \
    log_event(LOG_##level, what, (const struct log_field[]){__VA_ARGS__},                                    \
              sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))

#endif
