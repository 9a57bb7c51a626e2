#include "common/log.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/str.h"

#define LINE_MAX_BYTES 4096
#define VALUE_MAX_BYTES 1024

static struct {
    const char *program;
    enum log_format format;
    enum log_level level;
    int fd;
} log_state = {"troupe", LOG_KV, LOG_INFO, STDERR_FILENO};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

struct line {
    char text[LINE_MAX_BYTES];
    size_t len;
};

static void line_add(struct line *l, const char *s, size_t n)
{
    size_t room = sizeof(l->text) - 2 - l->len; /* the newline always fits */
    if (n > room)
        n = room;
    memcpy(l->text + l->len, s, n);
    l->len += n;
}

static void line_puts(struct line *l, const char *s)
{
    line_add(l, s, strlen(s));
}

/* One byte of a quoted value, escaped as JSON does it; both forms use the same escapes. */
static void line_char(struct line *l, unsigned char c)
{
    char t[8];
    if (c == '"' || c == '\\') {
        t[0] = '\\';
        t[1] = (char)c;
        line_add(l, t, 2);
    } else if (c == '\n') {
        line_puts(l, "\\n");
    } else if (c < 0x20 || c == 0x7f) {
        str_format(t, sizeof(t), "\\u%04x", c);
        line_puts(l, t);
    } else {
        line_add(l, (const char *)&c, 1);
    }
}

static void line_quoted(struct line *l, const char *s)
{
    size_t n = strnlen(s, VALUE_MAX_BYTES);
    while (n > 0 && n == VALUE_MAX_BYTES && ((unsigned char)s[n] & 0xc0) == 0x80)
        n--; /* not inside a character */
    bool utf8 = str_utf8_ok(s, n);
    line_puts(l, "\"");
    for (size_t i = 0; i < n; i++)
        line_char(l, utf8 || (unsigned char)s[i] < 0x80 ? (unsigned char)s[i] : '?');
    line_puts(l, "\"");
}

static bool is_plain(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if ((unsigned char)*s <= 0x20 || (unsigned char)*s >= 0x7f || strchr("\"\\=", *s))
            return false;
    return true;
}

static void line_text(struct line *l, const char *s)
{
    if (log_state.format == LOG_KV && is_plain(s) && strlen(s) < VALUE_MAX_BYTES)
        line_puts(l, s);
    else
        line_quoted(l, s);
}

static void line_key(struct line *l, const char *key)
{
    if (log_state.format == LOG_JSON) {
        line_puts(l, l->len > 1 ? ",\"" : "\"");
        line_puts(l, key);
        line_puts(l, "\":");
    } else {
        line_puts(l, l->len ? " " : "");
        line_puts(l, key);
        line_puts(l, "=");
    }
}

static void line_field(struct line *l, const struct log_field *f)
{
    char t[40];
    if (f->type == LOG_FIELD_STR && !f->str)
        return;
    line_key(l, f->key);
    if (f->type == LOG_FIELD_STR) {
        line_text(l, f->str);
        return;
    }
    if (f->type == LOG_FIELD_INT)
        str_format(t, sizeof(t), "%lld", (long long)f->i);
    else if (isfinite(f->num))
        str_format(t, sizeof(t), "%.6g", f->num);
    else
        str_copy(t, sizeof(t), "null");
    line_puts(l, t);
}

void log_init(const char *program, enum log_format format, enum log_level level)
{
    log_state.program = program;
    log_state.format = format;
    log_state.level = level;
}

void log_to(int fd)
{
    log_state.fd = fd;
}

struct log_field log_str(const char *key, const char *value)
{
    return (struct log_field){.key = key, .type = LOG_FIELD_STR, .str = value};
}

struct log_field log_int(const char *key, int64_t value)
{
    return (struct log_field){.key = key, .type = LOG_FIELD_INT, .i = value};
}

struct log_field log_num(const char *key, double value)
{
    return (struct log_field){.key = key, .type = LOG_FIELD_NUM, .num = value};
}

struct log_field log_code(int code)
{
    return (struct log_field){.key = "code", .type = LOG_FIELD_STR, .str = err_name(code)};
}

void log_event(enum log_level level, const char *what, const struct log_field *fields, size_t n_fields)
{
    if (level < log_state.level)
        return;
    struct line l = {.len = 0};
    char time[32];
    if (log_state.format == LOG_JSON)
        line_puts(&l, "{");
    const struct log_field head[] = {log_str("time", clock_format(time, sizeof(time), clock_wall_ms())),
                                     log_str("level", level_names[level]),
                                     log_str("program", log_state.program), log_str("event", what)};
    for (size_t i = 0; i < sizeof(head) / sizeof(head[0]); i++)
        line_field(&l, &head[i]);
    for (size_t i = 0; i < n_fields; i++) {
        size_t before = l.len;
        line_field(&l, &fields[i]);
        if (l.len >= sizeof(l.text) - 3) { /* a cut field would not be JSON any more */
            l.len = before;
            break;
        }
    }
    l.text[l.len++] = log_state.format == LOG_JSON ? '}' : '\n';
    if (log_state.format == LOG_JSON)
        l.text[l.len++] = '\n';
    ssize_t n = write(log_state.fd, l.text, l.len);
    (void)n; /* a log that cannot be written is no reason to stop */
}
