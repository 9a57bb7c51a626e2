#include "worker/model/tokenizer_regex.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "common/buf.h"
#include "common/mem.h"

#define WHITE_SPACE                                                                                          \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{" \
    "3000}"

enum { PATTERN_MAX = 64 * 1024 };

struct tokenizer_regex {
    pcre2_general_context *memory;
    pcre2_compile_context *compile;
    pcre2_match_context *match;
    pcre2_code *code;
    pcre2_match_data *data;
};

static void *regex_alloc(size_t bytes, void *unused)
{
    (void)unused;
    return mem_alloc(bytes);
}

static void regex_free(void *p, void *unused)
{
    (void)unused;
    mem_free(p);
}

/* Copies the pattern; \s and \S become White_Space and its complement. Inside a class \s loses the brackets;
 * \S there stays as it is. */
static int rewrite(const char *pattern, struct buf *out)
{
    bool in_class = false;
    int rc = 0;
    for (const char *p = pattern; *p && rc == 0; p++) {
        if (*p == '\\' && p[1] == 's') {
            rc = buf_puts(out, in_class ? WHITE_SPACE : "[" WHITE_SPACE "]");
            p++;
        } else if (*p == '\\' && p[1] == 'S' && !in_class) {
            rc = buf_puts(out, "[^" WHITE_SPACE "]");
            p++;
        } else if (*p == '\\' && p[1]) {
            rc = buf_add(out, p, 2);
            p++;
        } else {
            in_class = *p == '[' || (in_class && *p != ']');
            rc = buf_add(out, p, 1);
        }
    }
    return rc;
}

int tokenizer_regex_new(struct tokenizer_regex **ret, const char *pattern, bool caseless, struct err *err)
{
    struct buf text;
    buf_init(&text, PATTERN_MAX);
    struct tokenizer_regex *re = mem_zalloc(sizeof *re);
    int rc = re ? rewrite(pattern, &text) : ERR_NOMEM;
    if (rc < 0) {
        err_set(err, rc, "tokenizer: pattern of %zu bytes does not fit", strlen(pattern));
        goto out;
    }
    re->memory = pcre2_general_context_create(regex_alloc, regex_free, NULL);
    re->compile = re->memory ? pcre2_compile_context_create(re->memory) : NULL;
    re->match = re->memory ? pcre2_match_context_create(re->memory) : NULL;
    if (!re->compile || !re->match) {
        rc = err_set(err, ERR_NOMEM, "tokenizer: no memory for a pattern");
        goto out;
    }
    int code = 0;
    PCRE2_SIZE at = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE | (caseless ? PCRE2_CASELESS : 0);
    re->code =
        pcre2_compile((PCRE2_SPTR)(text.data ? text.data : ""), text.len, options, &code, &at, re->compile);
    if (!re->code) {
        unsigned char why[120] = "";
        pcre2_get_error_message(code, why, sizeof why);
        rc = code == PCRE2_ERROR_HEAP_FAILED ? ERR_NOMEM : ERR_FORMAT;
        err_set(err, rc, "tokenizer: pattern at byte %zu: %s", (size_t)at, (const char *)why);
        goto out;
    }
    pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE); /* a build without it interprets */
    re->data = pcre2_match_data_create(1, re->memory);
    if (!re->data)
        rc = err_set(err, ERR_NOMEM, "tokenizer: no memory for a match");
out:
    buf_done(&text);
    if (rc < 0)
        tokenizer_regex_free(re);
    else
        *ret = re;
    return rc;
}

void tokenizer_regex_free(struct tokenizer_regex *re)
{
    if (!re)
        return;
    pcre2_match_data_free(re->data);
    pcre2_code_free(re->code);
    pcre2_match_context_free(re->match);
    pcre2_compile_context_free(re->compile);
    pcre2_general_context_free(re->memory);
    mem_free(re);
}

int tokenizer_regex_next(struct tokenizer_regex *re, const char *text, size_t len, size_t from,
                         size_t *ret_start, size_t *ret_end, struct err *err)
{
    uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int rc = pcre2_match(re->code, (PCRE2_SPTR)text, len, from, options, re->data, re->match);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its state on the heap */
        rc = pcre2_match(re->code, (PCRE2_SPTR)text, len, from, options | PCRE2_NO_JIT, re->data, re->match);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0) {
        unsigned char why[120] = "";
        pcre2_get_error_message(rc, why, sizeof why);
        return err_set(err, rc == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_TOOBIG,
                       "text: cannot be cut into words: %s", (const char *)why);
    }
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(re->data);
    *ret_start = span[0];
    *ret_end = span[1];
    return 1;
}
