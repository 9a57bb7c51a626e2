#include "worker/model/tokenizer_llama.h"

#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/mem.h"
#include "common/str.h"
#include "worker/model/bpe.h"
#include "worker/model/tokenizer_regex.h"

enum { FILE_MAX = 128 << 20, ADDED_MAX = 4096 };

static const char template_head[] =
    "<|start_header_id|>system<|end_header_id|>\n\n"
    "Describe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n";
static const char template_tail[] = "<|eot_id|>\nThe person looks like<image>";

struct added {
    char *text; /* owned */
    size_t len;
    int32_t id;
};

struct tokenizer_llama {
    struct bpe *bpe;
    struct tokenizer_regex *words;
    struct added *added; /* longest first */
    size_t n_added;
    bool starts_added[256]; /* first bytes of added tokens */
    int32_t begin, image, pad;
    int n_tail; /* tokens of the tail */
};

/* ---- reading ---- */

static int by_length(const void *a, const void *b)
{
    size_t x = ((const struct added *)a)->len, y = ((const struct added *)b)->len;
    return x < y ? 1 : x > y ? -1 : 0;
}

static int read_added(struct tokenizer_llama *t, json_t *list, struct err *err)
{
    size_t n = json_array_size(list);
    if (n == 0 || n > ADDED_MAX)
        return err_set(err, ERR_FORMAT, "tokenizer.json: %zu added tokens; 1 to %d are allowed", n,
                       ADDED_MAX);
    t->added = mem_calloc(n, sizeof *t->added);
    if (!t->added)
        return err_set(err, ERR_NOMEM, "tokenizer.json: no memory for %zu added tokens", n);
    for (size_t i = 0; i < n; i++) {
        json_t *entry = json_array_get(list, i);
        const char *text = json_string_value(json_object_get(entry, "content"));
        json_int_t id = json_integer_value(json_object_get(entry, "id"));
        if (!text || !*text || id < 0 || id > INT32_MAX)
            return err_set(err, ERR_FORMAT, "tokenizer.json: added token %zu has no content or no id", i);
        t->added[i] = (struct added){.text = mem_strdup(text), .len = strlen(text), .id = (int32_t)id};
        t->n_added = i + 1;
        if (!t->added[i].text)
            return err_set(err, ERR_NOMEM, "tokenizer.json: no memory for added tokens");
        t->starts_added[(unsigned char)*text] = true;
    }
    qsort(t->added, n, sizeof *t->added, by_length);
    return 0;
}

static int32_t find_added(const struct tokenizer_llama *t, const char *text)
{
    for (size_t i = 0; i < t->n_added; i++) {
        if (strcmp(t->added[i].text, text) == 0)
            return t->added[i].id;
    }
    return -1;
}

static int read_merges(struct tokenizer_llama *t, json_t *merges, struct err *err)
{
    if (!json_is_array(merges))
        return err_set(err, ERR_FORMAT, "tokenizer.json: model.merges is not a list");
    int rc = 0;
    for (size_t i = 0; i < json_array_size(merges) && rc == 0; i++) {
        json_t *entry = json_array_get(merges, i);
        const char *left = json_string_value(json_is_array(entry) ? json_array_get(entry, 0) : entry);
        const char *gap = left && json_is_string(entry) ? strchr(left, ' ') : NULL;
        const char *right = gap ? gap + 1 : json_string_value(json_array_get(entry, 1));
        if (!left || !right)
            return err_set(err, ERR_FORMAT,
                           "tokenizer.json: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]", i);
        rc = bpe_merge(t->bpe, left, gap ? (size_t)(gap - left) : strlen(left), right, strlen(right), err);
    }
    return rc;
}

/* The first Split of the pre-tokenizer, alone or in a sequence. */
static const char *find_pattern(json_t *file)
{
    json_t *pre = json_object_get(file, "pre_tokenizer");
    json_t *list = json_object_get(pre, "pretokenizers");
    if (list)
        pre = json_array_get(list, 0);
    return json_string_value(json_object_get(json_object_get(pre, "pattern"), "Regex"));
}

static int read_tokenizer(struct tokenizer_llama *t, json_t *file, struct err *err)
{
    json_t *model = json_object_get(file, "model");
    unsigned flags = json_is_true(json_object_get(model, "ignore_merges")) ? BPE_WHOLE : 0;
    const char *pattern = find_pattern(file);
    if (!pattern)
        return err_set(err, ERR_FORMAT, "tokenizer.json: pre_tokenizer has no pattern.Regex");
    int rc = tokenizer_regex_new(&t->words, pattern, false, err);
    if (rc == 0)
        rc = bpe_new(&t->bpe, json_object_get(model, "vocab"), flags, err);
    if (rc == 0)
        rc = read_merges(t, json_object_get(model, "merges"), err);
    if (rc == 0)
        rc = read_added(t, json_object_get(file, "added_tokens"), err);
    return rc;
}

/* The id that config.json gives, or the one of the added token. */
static int read_id(const struct tokenizer_llama *t, json_t *config, const char *key, const char *token,
                   int32_t *ret, struct err *err)
{
    json_t *value = json_object_get(config, key);
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : find_added(t, token);
    if (id < 0 || id > INT32_MAX)
        return err_set(err, ERR_FORMAT, "config.json has no %s and tokenizer.json no added token %s", key,
                       token);
    *ret = (int32_t)id;
    return 0;
}

static int read_ids(struct tokenizer_llama *t, json_t *config, struct err *err)
{
    int rc = read_id(t, config, "image_token_index", "<image>", &t->image, err);
    if (rc == 0)
        rc = read_id(t, config, "pad_token_id", "<pad>", &t->pad, err);
    t->begin = find_added(t, "<|begin_of_text|>");
    if (rc == 0 && t->begin < 0)
        rc = err_set(err, ERR_FORMAT, "tokenizer.json: no added token <|begin_of_text|>");
    return rc;
}

/* ---- text to ids ---- */

/* One piece without added tokens: every match of the pattern is a word, and so is what lies between matches.
 */
static int encode_piece(struct tokenizer_llama *t, const char *text, size_t len, struct buf *ids,
                        struct err *err)
{
    size_t at = 0;
    int rc = 0;
    while (at < len && rc >= 0) {
        size_t start = len, end = len;
        rc = tokenizer_regex_next(t->words, text, len, at, &start, &end, err);
        if (rc >= 0 && start > at)
            rc = bpe_word(t->bpe, text + at, start - at, ids, err);
        if (rc >= 0)
            rc = bpe_word(t->bpe, text + start, end - start, ids, err);
        at = end;
    }
    return rc < 0 ? rc : 0;
}

/* The longest added token that starts at text, NULL if none does. */
static const struct added *added_at(const struct tokenizer_llama *t, const char *text, size_t len)
{
    if (!t->starts_added[(unsigned char)*text])
        return NULL;
    for (size_t i = 0; i < t->n_added; i++) {
        if (t->added[i].len <= len && memcmp(t->added[i].text, text, t->added[i].len) == 0)
            return &t->added[i];
    }
    return NULL;
}

/* A whole text; in [from, to) the text of the image token is ordinary text. */
static int encode(struct tokenizer_llama *t, const char *text, size_t len, size_t from, size_t to,
                  struct buf *ids, struct err *err)
{
    if (len > TOKENIZER_LLAMA_TEXT_MAX)
        return err_set(err, ERR_TOOBIG, "text: %zu bytes; at most %d are allowed", len,
                       TOKENIZER_LLAMA_TEXT_MAX);
    if (!str_utf8_ok(text, len))
        return err_set(err, ERR_INVALID, "text: is not UTF-8");
    size_t piece = 0;
    int rc = bpe_add_id(ids, t->begin, err);
    for (size_t at = 0; at < len && rc == 0;) {
        const struct added *a = added_at(t, text + at, len - at);
        if (!a || (a->id == t->image && at >= from && at < to)) {
            at++;
            continue;
        }
        rc = encode_piece(t, text + piece, at - piece, ids, err);
        if (rc == 0)
            rc = bpe_add_id(ids, a->id, err);
        at += a->len;
        piece = at;
    }
    return rc < 0 ? rc : encode_piece(t, text + piece, len - piece, ids, err);
}

int tokenizer_llama_ids(struct tokenizer_llama *t, const char *text, size_t len, struct buf *ids,
                        struct err *err)
{
    return encode(t, text, len, len, len, ids, err);
}

int tokenizer_llama_prompt(struct tokenizer_llama *t, const char *prompt, size_t len, bool guard,
                           struct tokenizer_llama_prompt *ret, struct err *err)
{
    const size_t head = sizeof template_head - 1;
    struct buf text, ids;
    buf_init(&text, TOKENIZER_LLAMA_TEXT_MAX);
    buf_init(&ids, 4 * (size_t)TOKENIZER_LLAMA_TEXT_MAX + 64);
    int rc = buf_puts(&text, template_head);
    if (rc == 0)
        rc = buf_add(&text, prompt, len);
    if (rc == 0)
        rc = buf_puts(&text, template_tail);
    if (rc < 0) {
        err_set(err, rc, "prompt: %zu bytes are too many", len);
        goto out;
    }
    size_t plain = guard ? head : text.len;
    rc = encode(t, text.data, text.len, plain, guard ? head + len : plain, &ids, err);
    if (rc < 0)
        goto out;
    size_t total = bpe_n_ids(&ids), n = total < TOKENIZER_LLAMA_MAX ? total : TOKENIZER_LLAMA_MAX;
    size_t tail = guard ? (size_t)t->n_tail : 0;
    for (size_t i = 0; i < TOKENIZER_LLAMA_MAX; i++)
        ret->ids[i] = i >= n ? t->pad : bpe_id(&ids, i < n - tail ? i : total - n + i);
    ret->n = (int)n;
    ret->n_dropped = (int)(total - n);
out:
    buf_done(&text);
    buf_done(&ids);
    return rc;
}

/* ---- opening ---- */

static int count_tail(struct tokenizer_llama *t, struct err *err)
{
    struct buf ids;
    buf_init(&ids, 4096);
    int rc = tokenizer_llama_ids(t, template_tail, sizeof template_tail - 1, &ids, err);
    t->n_tail = (int)bpe_n_ids(&ids) - 1;
    buf_done(&ids);
    if (rc == 0 && t->n_tail + TOKENIZER_LLAMA_CROP >= TOKENIZER_LLAMA_MAX)
        rc = err_set(err, ERR_FORMAT, "tokenizer.json: the template's tail alone is %d tokens", t->n_tail);
    return rc;
}

int tokenizer_llama_open(struct tokenizer_llama **ret, const char *dir, struct err *err)
{
    json_t *file = NULL, *config = NULL;
    char path[4096];
    struct tokenizer_llama *t = mem_zalloc(sizeof *t);
    int rc = t ? str_path(path, sizeof path, dir, "tokenizer.json") : ERR_NOMEM;
    if (rc == 0)
        rc = json_read_file(path, FILE_MAX, &file, err);
    if (rc == 0)
        rc = read_tokenizer(t, file, err);
    if (rc == 0)
        rc = str_path(path, sizeof path, dir, "config.json");
    if (rc == 0)
        rc = json_read_file(path, FILE_MAX, &config, err);
    if (rc == 0)
        rc = read_ids(t, config, err);
    if (rc == 0)
        rc = count_tail(t, err);
    json_decref(file);
    json_decref(config);
    if (rc < 0) {
        err_set(err, rc, "%s: cannot be opened", dir);
        tokenizer_llama_close(t);
        return rc;
    }
    *ret = t;
    return 0;
}

void tokenizer_llama_close(struct tokenizer_llama *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n_added; i++)
        mem_free(t->added[i].text);
    mem_free(t->added);
    tokenizer_regex_free(t->words);
    bpe_free(t->bpe);
    mem_free(t);
}

int32_t tokenizer_llama_image(const struct tokenizer_llama *t)
{
    return t->image;
}

int32_t tokenizer_llama_pad(const struct tokenizer_llama *t)
{
    return t->pad;
}
