#include "worker/model/tokenizer_clip.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <utf8proc.h>

#include "common/json.h"
#include "common/mem.h"
#include "common/str.h"
#include "worker/model/bpe.h"
#include "worker/model/tokenizer_regex.h"

enum { FILE_MAX = 64 << 20, N_SPECIAL = 2 };

static const char *const special_text[N_SPECIAL] = {"<|startoftext|>", "<|endoftext|>"};

/* U+0345 is in no word: it folds to the letter iota, so that the reference's engine counts it as neither. */
#define WORDS "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}\\x{345}]+"
static const char pattern_words[] = "<\\|startoftext\\|>|<\\|endoftext\\|>|" WORDS;
/* Category C*, which PCRE2 knows in the same Unicode version as the letters of the words. */
static const char pattern_dropped[] = "(?:(?![\\t\\n\\r])[\\p{C}\\x{fffd}])+";

struct tokenizer_clip {
    struct bpe *bpe;
    struct tokenizer_regex *dropped, *words;
    int32_t special[N_SPECIAL]; /* start, end */
};

/* ---- cleaning ---- */

struct range {
    int32_t first, last;
};

static bool in_ranges(int32_t c, const struct range *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (c >= list[i].first && c <= list[i].last)
            return true;
    }
    return false;
}

static bool is_ideograph(int32_t c)
{
    static const struct range list[] = {{0x4e00, 0x9fff},   {0x3400, 0x4dbf},   {0x20000, 0x2a6df},
                                        {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f}, {0x2b820, 0x2ceaf},
                                        {0xf900, 0xfaff},   {0x2f800, 0x2fa1f}};
    return in_ranges(c, list, sizeof list / sizeof *list);
}

/* Unicode's Case_Ignorable. */
static bool is_case_ignorable(int32_t c)
{
    static const struct range list[] = {
        {0x27, 0x27},     {0x2e, 0x2e},     {0x3a, 0x3a},     {0xb7, 0xb7},
        {0x387, 0x387},   {0x55f, 0x55f},   {0x5f4, 0x5f4},   {0x2018, 0x2019},
        {0x2024, 0x2024}, {0x2027, 0x2027}, {0xfe13, 0xfe13}, {0xfe52, 0xfe52},
        {0xfe55, 0xfe55}, {0xff07, 0xff07}, {0xff0e, 0xff0e}, {0xff1a, 0xff1a}};
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return in_ranges(c, list, sizeof list / sizeof *list);
    }
}

/* Unicode's Cased, for characters that are not Case_Ignorable. */
static bool is_cased(int32_t c)
{
    static const struct range list[] = {{0xaa, 0xaa},      {0xba, 0xba},       {0x2160, 0x217f},
                                        {0x24b6, 0x24e9},  {0x1f130, 0x1f149}, {0x1f150, 0x1f169},
                                        {0x1f170, 0x1f189}};
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
        return true;
    default:
        return in_ranges(c, list, sizeof list / sizeof *list);
    }
}

/* Final_Sigma of Unicode's SpecialCasing: a cased letter before i, none after it, case-ignorable ones
 * skipped. */
static bool is_final_sigma(const int32_t *word, size_t n, size_t i)
{
    size_t before = i, after = i + 1;
    while (before > 0 && is_case_ignorable(word[before - 1]))
        before--;
    if (before == 0 || !is_cased(word[before - 1]))
        return false;
    while (after < n && is_case_ignorable(word[after]))
        after++;
    return after == n || !is_cased(word[after]);
}

static int put(struct buf *out, int32_t c)
{
    utf8proc_uint8_t bytes[4];
    return buf_add(out, bytes, (size_t)utf8proc_encode_char(c, bytes));
}

static int put_lower(struct buf *out, const int32_t *word, size_t n)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (word[i] == 0x130)
            rc = buf_puts(out, "i\xcc\x87");
        else if (word[i] == 0x3a3)
            rc = put(out, is_final_sigma(word, n, i) ? 0x3c2 : 0x3c3);
        else
            rc = put(out, utf8proc_tolower(word[i]));
    }
    return rc;
}

/* text without what the pattern matches. */
static int drop(struct tokenizer_regex *re, const char *text, size_t len, struct buf *out, struct err *err)
{
    size_t at = 0;
    int rc = 0;
    while (at < len && rc >= 0) {
        size_t start = len, end = len;
        rc = tokenizer_regex_next(re, text, len, at, &start, &end, err);
        if (rc >= 0 && buf_add(out, text + at, start - at) < 0)
            rc = ERR_NOMEM;
        at = end;
    }
    return rc < 0 ? rc : 0;
}

static int put_spaced(const struct buf *text, struct buf *out)
{
    int rc = 0;
    for (size_t at = 0; at < text->len && rc == 0;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text->data + at,
                                              (utf8proc_ssize_t)(text->len - at), &c);
        if (n <= 0)
            return ERR_INVALID;
        if (c == '\t' || c == '\n' || c == '\r' || utf8proc_category(c) == UTF8PROC_CATEGORY_ZS)
            rc = buf_add(out, " ", 1);
        else if (is_ideograph(c))
            rc = buf_printf(out, " %.*s ", (int)n, text->data + at);
        else
            rc = buf_add(out, text->data + at, (size_t)n);
        at += (size_t)n;
    }
    return rc;
}

/* Normal form C, as code points. */
static int normalise(const struct buf *text, struct buf *out, size_t *ret_n)
{
    const utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text->data;
    utf8proc_ssize_t n =
        text->len ? utf8proc_decompose(bytes, (utf8proc_ssize_t)text->len, NULL, 0, options) : 0;
    if (n < 0)
        return ERR_INVALID;
    int rc = buf_reserve(out, 4 * (size_t)n);
    if (rc < 0 || n == 0) {
        *ret_n = 0;
        return rc;
    }
    int32_t *point = (int32_t *)(void *)out->data;
    n = utf8proc_decompose(bytes, (utf8proc_ssize_t)text->len, point, n, options);
    if (n > 0)
        n = utf8proc_normalize_utf32(point, n, options);
    if (n < 0)
        return ERR_INVALID;
    *ret_n = (size_t)n;
    return 0;
}

/* White space that cleaning leaves. */
static bool is_space(int32_t c)
{
    return c == ' ' || c == 0x2028 || c == 0x2029;
}

/* One piece of text without special tokens -> lower-case words with one space between them, in out. */
static int clean(struct tokenizer_clip *t, const char *text, size_t len, struct buf *out, struct err *err)
{
    struct buf kept, spaced, points;
    size_t n = 0;
    buf_init(&kept, TOKENIZER_CLIP_TEXT_MAX);
    buf_init(&spaced, 3 * (size_t)TOKENIZER_CLIP_TEXT_MAX);
    buf_init(&points, 64 * (size_t)TOKENIZER_CLIP_TEXT_MAX);
    int rc = drop(t->dropped, text, len, &kept, err);
    if (rc == 0)
        rc = put_spaced(&kept, &spaced);
    if (rc == 0)
        rc = normalise(&spaced, &points, &n);
    const int32_t *point = (const int32_t *)(const void *)points.data;
    for (size_t at = 0; at < n && rc == 0;) {
        size_t end = at;
        while (end < n && !is_space(point[end]))
            end++;
        if (end > at && out->len > 0)
            rc = buf_add(out, " ", 1);
        if (rc == 0)
            rc = put_lower(out, point + at, end - at);
        at = end + 1;
    }
    buf_done(&kept);
    buf_done(&spaced);
    buf_done(&points);
    return rc < 0 ? err_set(err, rc, "text: %zu bytes cannot be normalised", len) : 0;
}

/* ---- text to ids ---- */

/* Which special token starts at text, -1 if none. */
static int special_at(const char *text, size_t len)
{
    for (int i = 0; i < N_SPECIAL; i++) {
        size_t n = strlen(special_text[i]);
        if (n <= len && memcmp(text, special_text[i], n) == 0)
            return i;
    }
    return -1;
}

static int encode_piece(struct tokenizer_clip *t, const char *text, size_t len, struct buf *ids,
                        struct err *err)
{
    struct buf cleaned;
    buf_init(&cleaned, 64 * (size_t)TOKENIZER_CLIP_TEXT_MAX);
    int rc = clean(t, text, len, &cleaned, err);
    size_t at = 0, start, end;
    while (rc >= 0 && at < cleaned.len) {
        rc = tokenizer_regex_next(t->words, cleaned.data, cleaned.len, at, &start, &end, err);
        if (rc <= 0)
            break;
        const char *word = cleaned.data + start;
        int k = special_at(word, end - start);
        if (k >= 0 && strlen(special_text[k]) == end - start)
            rc = bpe_add_id(ids, t->special[k], err);
        else
            rc = bpe_word(t->bpe, word, end - start, ids, err);
        at = end;
    }
    buf_done(&cleaned);
    return rc < 0 ? rc : 0;
}

int tokenizer_clip_ids(struct tokenizer_clip *t, const char *text, size_t len, struct buf *ids,
                       struct err *err)
{
    if (len > TOKENIZER_CLIP_TEXT_MAX)
        return err_set(err, ERR_TOOBIG, "text: %zu bytes; at most %d are allowed", len,
                       TOKENIZER_CLIP_TEXT_MAX);
    if (!str_utf8_ok(text, len))
        return err_set(err, ERR_INVALID, "text: is not UTF-8");
    size_t piece = 0;
    int rc = bpe_add_id(ids, t->special[0], err);
    for (size_t at = 0; at < len && rc == 0;) {
        int k = special_at(text + at, len - at);
        if (k < 0) {
            at++;
            continue;
        }
        rc = encode_piece(t, text + piece, at - piece, ids, err);
        if (rc == 0)
            rc = bpe_add_id(ids, t->special[k], err);
        at += strlen(special_text[k]);
        piece = at;
    }
    if (rc == 0)
        rc = encode_piece(t, text + piece, len - piece, ids, err);
    return rc < 0 ? rc : bpe_add_id(ids, t->special[1], err);
}

int tokenizer_clip_prompt(struct tokenizer_clip *t, const char *text, size_t len,
                          struct tokenizer_clip_prompt *ret, struct err *err)
{
    struct buf ids;
    buf_init(&ids, 64 * (size_t)TOKENIZER_CLIP_TEXT_MAX);
    int rc = tokenizer_clip_ids(t, text, len, &ids, err);
    if (rc == 0) {
        size_t total = bpe_n_ids(&ids), n = total < TOKENIZER_CLIP_MAX ? total : TOKENIZER_CLIP_MAX;
        for (size_t i = 0; i < TOKENIZER_CLIP_MAX; i++)
            ret->ids[i] = i + 1 < n ? bpe_id(&ids, i) : t->special[1];
        ret->n = 1;
        while (ret->ids[ret->n - 1] != t->special[1])
            ret->n++;
        ret->n_dropped = (int)(total - n);
    }
    buf_done(&ids);
    return rc;
}

/* ---- opening ---- */

/* merges.txt: one "left right" a line, the first line is a version. */
static int read_merges(struct tokenizer_clip *t, const char *text, struct err *err)
{
    int rc = 0;
    const char *line = strchr(text, '\n');
    while (line && rc == 0) {
        line++;
        size_t n = strcspn(line, "\r\n"), left = strcspn(line, " \r\n");
        if (n > left + 1)
            rc = bpe_merge(t->bpe, line, left, line + left + 1, n - left - 1, err);
        else if (n > 0)
            rc = err_set(err, ERR_FORMAT, "merges.txt: \"%.*s\" is not a pair", n < 40 ? (int)n : 40, line);
        line = strchr(line + n, '\n');
    }
    return rc;
}

static int read_file(FILE *f, struct buf *out)
{
    char chunk[16384];
    size_t n;
    int rc = 0;
    while (rc == 0 && (n = fread(chunk, 1, sizeof chunk, f)) > 0)
        rc = buf_add(out, chunk, n);
    return rc == 0 && ferror(f) ? ERR_IO : rc;
}

static int open_merges(struct tokenizer_clip *t, const char *dir, struct err *err)
{
    char path[4096];
    struct buf text;
    buf_init(&text, FILE_MAX);
    int rc = str_path(path, sizeof path, dir, "merges.txt");
    FILE *f = rc == 0 ? fopen(path, "rb") : NULL;
    if (!f) {
        rc = errno == ENOENT ? ERR_NOTFOUND : ERR_IO;
        return err_set(err, rc, "%s: %s", path, strerror(errno));
    }
    rc = read_file(f, &text);
    fclose(f);
    if (rc < 0)
        err_set(err, rc, "%s: %s", path, err_text(rc));
    else
        rc = read_merges(t, text.data ? text.data : "", err);
    buf_done(&text);
    return rc;
}

static int open_vocab(struct tokenizer_clip *t, const char *dir, struct err *err)
{
    char path[4096];
    json_t *vocab = NULL;
    int rc = str_path(path, sizeof path, dir, "vocab.json");
    if (rc == 0)
        rc = json_read_file(path, FILE_MAX, &vocab, err);
    if (rc == 0)
        rc = bpe_new(&t->bpe, vocab, BPE_END, err);
    json_decref(vocab);
    for (int i = 0; i < N_SPECIAL && rc == 0; i++) {
        t->special[i] = bpe_find(t->bpe, special_text[i], strlen(special_text[i]));
        if (t->special[i] < 0)
            rc = err_set(err, ERR_FORMAT, "vocab.json: no token %s", special_text[i]);
    }
    return rc;
}

int tokenizer_clip_open(struct tokenizer_clip **ret, const char *dir, struct err *err)
{
    struct tokenizer_clip *t = mem_zalloc(sizeof *t);
    int rc = t ? open_vocab(t, dir, err) : ERR_NOMEM;
    if (rc == 0)
        rc = open_merges(t, dir, err);
    if (rc == 0)
        rc = tokenizer_regex_new(&t->dropped, pattern_dropped, false, err);
    if (rc == 0)
        rc = tokenizer_regex_new(&t->words, pattern_words, true, err);
    if (rc < 0) {
        err_set(err, rc, "%s: cannot be opened", dir);
        tokenizer_clip_close(t);
        return rc;
    }
    *ret = t;
    return 0;
}

void tokenizer_clip_close(struct tokenizer_clip *t)
{
    if (!t)
        return;
    tokenizer_regex_free(t->dropped);
    tokenizer_regex_free(t->words);
    bpe_free(t->bpe);
    mem_free(t);
}
