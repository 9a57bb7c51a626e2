#include "worker/model/bpe.h"

#include <stdbool.h>
#include <string.h>

#include "common/mem.h"

enum { TOKEN_MAX = 4096, ENTRIES_MAX = 1 << 24 };

struct token {
    size_t at; /* in names */
    uint32_t len;
    int32_t id;
};

struct pair {
    int32_t left, right; /* left -1: free slot */
    int32_t rank, id;    /* id of the merged symbol */
};

/* A symbol of the word in work. */
struct symbol {
    int32_t id; /* -1: merged into the one before it */
    int32_t prev, next;
};

/* A pair that may be merged: void when either symbol has changed since. */
struct candidate {
    int32_t rank, at, left, right, id;
};

struct bpe {
    unsigned flags;
    struct buf names;
    struct token *token; /* open addressing, at most half full; len 0: free */
    size_t token_cap;
    size_t token_longest; /* bytes */
    struct pair *pair;    /* the same */
    size_t pair_cap, n_pairs;
    int32_t next_rank;
    int32_t symbol[256], symbol_end[256];

    struct symbol *word; /* scratch, word_cap of them */
    struct candidate *heap;
    size_t word_cap, n_heap;
    char spelt[2 * TOKEN_MAX];
};

/* ---- the byte alphabet ---- */

static bool stands_for_itself(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* Writes byte's letter as UTF-8 (1 or 2 bytes) and returns its length. */
static size_t spell(unsigned char byte, char *dst)
{
    unsigned letter = byte;
    if (!stands_for_itself(byte)) {
        letter = 256;
        for (unsigned i = 0; i < byte; i++)
            letter += !stands_for_itself(i);
    }
    if (letter < 0x80) {
        dst[0] = (char)letter;
        return 1;
    }
    dst[0] = (char)(0xc0 | letter >> 6);
    dst[1] = (char)(0x80 | (letter & 0x3f));
    return 2;
}

/* ---- the vocabulary ---- */

static uint64_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)p[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static uint64_t hash_pair(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 31;
}

/* The slot that holds the token, or the free one where it belongs. */
static struct token *token_slot(const struct bpe *b, const char *name, size_t len)
{
    for (size_t i = hash_bytes(name, len);; i++) {
        struct token *t = &b->token[i & (b->token_cap - 1)];
        if (t->len == 0 || (t->len == len && memcmp(b->names.data + t->at, name, len) == 0))
            return t;
    }
}

static size_t table_size(size_t n)
{
    size_t cap = 64;
    while (cap < 2 * n)
        cap *= 2;
    return cap;
}

static int add_token(struct bpe *b, const char *name, json_t *value, struct err *err)
{
    size_t len = strlen(name);
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (len == 0 || len > TOKEN_MAX)
        return err_set(err, ERR_FORMAT, "vocabulary: a token of %zu bytes; 1 to %d are allowed", len,
                       TOKEN_MAX);
    if (id < 0 || id > INT32_MAX)
        return err_set(err, ERR_FORMAT, "vocabulary: the id of \"%.40s\" is not a number from 0 to 2^31 - 1",
                       name);
    struct token *t = token_slot(b, name, len);
    size_t at = b->names.len;
    if (buf_add(&b->names, name, len) < 0)
        return err_set(err, ERR_NOMEM, "vocabulary: no memory for %zu bytes of names", at + len);
    *t = (struct token){.at = at, .len = (uint32_t)len, .id = (int32_t)id};
    if (len > b->token_longest)
        b->token_longest = len;
    return 0;
}

static int find_symbols(struct bpe *b, struct err *err)
{
    for (unsigned i = 0; i < 256; i++) {
        char name[8];
        size_t n = spell((unsigned char)i, name);
        b->symbol[i] = bpe_find(b, name, n);
        memcpy(name + n, "</w>", 4);
        b->symbol_end[i] = b->flags & BPE_END ? bpe_find(b, name, n + 4) : b->symbol[i];
        if (b->symbol[i] < 0 || b->symbol_end[i] < 0)
            return err_set(err, ERR_FORMAT, "vocabulary: byte %u has no token \"%.*s\"", i,
                           (int)(b->symbol[i] < 0 ? n : n + 4), name);
    }
    return 0;
}

int bpe_new(struct bpe **ret, json_t *vocab, unsigned flags, struct err *err)
{
    int rc = 0;
    size_t n = json_is_object(vocab) ? json_object_size(vocab) : 0;
    if (n == 0 || n > ENTRIES_MAX)
        return err_set(err, ERR_FORMAT, "vocabulary: %zu tokens; 1 to %d are allowed", n, ENTRIES_MAX);
    struct bpe *b = mem_zalloc(sizeof *b);
    if (!b)
        return err_set(err, ERR_NOMEM, "vocabulary: no memory");
    b->flags = flags;
    buf_init(&b->names, (size_t)ENTRIES_MAX * 16);
    b->token_cap = table_size(n);
    b->token = mem_calloc(b->token_cap, sizeof *b->token);
    if (!b->token) {
        rc = err_set(err, ERR_NOMEM, "vocabulary: no memory for %zu tokens", n);
        goto out;
    }
    const char *name;
    json_t *value;
    json_object_foreach(vocab, name, value)
    {
        rc = add_token(b, name, value, err);
        if (rc < 0)
            goto out;
    }
    rc = find_symbols(b, err);
out:
    if (rc < 0)
        bpe_free(b);
    else
        *ret = b;
    return rc;
}

void bpe_free(struct bpe *b)
{
    if (!b)
        return;
    buf_done(&b->names);
    mem_free(b->token);
    mem_free(b->pair);
    mem_free(b->word);
    mem_free(b->heap);
    mem_free(b);
}

int32_t bpe_find(const struct bpe *b, const char *token, size_t len)
{
    if (len == 0 || len > b->token_longest)
        return -1;
    const struct token *t = token_slot(b, token, len);
    return t->len ? t->id : -1;
}

/* ---- the merges ---- */

static struct pair *pair_slot(const struct bpe *b, int32_t left, int32_t right)
{
    for (size_t i = hash_pair(left, right);; i++) {
        struct pair *p = &b->pair[i & (b->pair_cap - 1)];
        if (p->left < 0 || (p->left == left && p->right == right))
            return p;
    }
}

static int grow_pairs(struct bpe *b, struct err *err)
{
    if (b->pair && 2 * (b->n_pairs + 1) <= b->pair_cap)
        return 0;
    if (b->n_pairs >= ENTRIES_MAX)
        return err_set(err, ERR_FORMAT, "merges: more than %d", ENTRIES_MAX);
    struct bpe old = *b;
    b->pair_cap = table_size(2 * (b->n_pairs + 1));
    b->pair = mem_calloc(b->pair_cap, sizeof *b->pair);
    if (!b->pair) {
        b->pair = old.pair;
        b->pair_cap = old.pair_cap;
        return err_set(err, ERR_NOMEM, "merges: no memory for %zu", b->n_pairs);
    }
    for (size_t i = 0; i < b->pair_cap; i++)
        b->pair[i].left = -1;
    for (size_t i = 0; i < (old.pair ? old.pair_cap : 0); i++) {
        if (old.pair[i].left >= 0)
            *pair_slot(b, old.pair[i].left, old.pair[i].right) = old.pair[i];
    }
    mem_free(old.pair);
    return 0;
}

int bpe_merge(struct bpe *b, const char *left, size_t left_len, const char *right, size_t right_len,
              struct err *err)
{
    int rc = grow_pairs(b, err);
    if (rc < 0)
        return rc;
    size_t len = left_len + right_len;
    int32_t l = bpe_find(b, left, left_len), r = bpe_find(b, right, right_len), id = -1;
    if (l >= 0 && r >= 0 && len <= b->token_longest) {
        memcpy(b->spelt, left, left_len);
        memcpy(b->spelt + left_len, right, right_len);
        id = bpe_find(b, b->spelt, len);
    }
    if (id < 0)
        return err_set(err, ERR_FORMAT,
                       "merges: entry %d, \"%.*s %.*s\", is not made of the vocabulary's tokens",
                       b->next_rank, left_len < 40 ? (int)left_len : 40, left,
                       right_len < 40 ? (int)right_len : 40, right);
    struct pair *p = pair_slot(b, l, r);
    b->n_pairs += p->left < 0;
    *p = (struct pair){.left = l, .right = r, .rank = b->next_rank++, .id = id};
    return 0;
}

/* ---- words ---- */

static bool is_before(const struct candidate *a, const struct candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(struct bpe *b, struct candidate c)
{
    size_t i = b->n_heap++;
    while (i > 0 && is_before(&c, &b->heap[(i - 1) / 2])) {
        b->heap[i] = b->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    b->heap[i] = c;
}

static struct candidate heap_pop(struct bpe *b)
{
    struct candidate top = b->heap[0], last = b->heap[--b->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= b->n_heap)
            break;
        if (child + 1 < b->n_heap && is_before(&b->heap[child + 1], &b->heap[child]))
            child++;
        if (!is_before(&b->heap[child], &last))
            break;
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = last;
    return top;
}

/* Offers the pair that starts at symbol `at`, if it is listed. */
static void offer(struct bpe *b, int32_t at)
{
    if (at < 0 || b->word[at].next < 0 || !b->pair)
        return;
    int32_t left = b->word[at].id, right = b->word[b->word[at].next].id;
    const struct pair *p = pair_slot(b, left, right);
    if (p->left >= 0)
        heap_push(b, (struct candidate){p->rank, at, left, right, p->id});
}

/* A word of n symbols has n - 1 pairs, and each of at most n - 1 merges offers two more. */
static int grow_word(struct bpe *b, size_t n, struct err *err)
{
    if (n > BPE_WORD_MAX)
        return err_set(err, ERR_TOOBIG, "text: a word of %zu bytes; at most %d are allowed", n, BPE_WORD_MAX);
    if (n <= b->word_cap)
        return 0;
    size_t cap = n < 256 ? 256 : 2 * n;
    struct symbol *word = mem_realloc(b->word, cap * sizeof *word);
    if (word)
        b->word = word;
    struct candidate *heap = mem_realloc(b->heap, 3 * cap * sizeof *heap);
    if (heap)
        b->heap = heap;
    if (!word || !heap)
        return err_set(err, ERR_NOMEM, "text: no memory for a word of %zu bytes", n);
    b->word_cap = cap;
    return 0;
}

static void merge_all(struct bpe *b)
{
    while (b->n_heap > 0) {
        struct candidate c = heap_pop(b);
        struct symbol *s = &b->word[c.at];
        if (s->id != c.left || s->next < 0 || b->word[s->next].id != c.right)
            continue;
        int32_t gone = s->next;
        s->id = c.id;
        s->next = b->word[gone].next;
        b->word[gone].id = -1;
        if (s->next >= 0)
            b->word[s->next].prev = c.at;
        offer(b, s->prev);
        offer(b, c.at);
    }
}

/* The id of the whole word, -1 if it is none. */
static int32_t find_whole(struct bpe *b, const char *word, size_t len)
{
    size_t n = 0;
    if (len > b->token_longest)
        return -1;
    for (size_t i = 0; i < len; i++)
        n += spell((unsigned char)word[i], b->spelt + n);
    return bpe_find(b, b->spelt, n);
}

int bpe_word(struct bpe *b, const char *word, size_t len, struct buf *ids, struct err *err)
{
    if (len == 0)
        return 0;
    int32_t whole = b->flags & BPE_WHOLE ? find_whole(b, word, len) : -1;
    if (whole >= 0)
        return bpe_add_id(ids, whole, err);
    int rc = grow_word(b, len, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < len; i++) {
        bool last = i + 1 == len;
        int32_t id = (last ? b->symbol_end : b->symbol)[(unsigned char)word[i]];
        b->word[i] = (struct symbol){.id = id, .prev = (int32_t)i - 1, .next = last ? -1 : (int32_t)i + 1};
    }
    b->n_heap = 0;
    for (size_t i = 0; i + 1 < len; i++)
        offer(b, (int32_t)i);
    merge_all(b);
    for (int32_t i = 0; i >= 0 && rc == 0; i = b->word[i].next)
        rc = bpe_add_id(ids, b->word[i].id, err);
    return rc;
}

int bpe_add_id(struct buf *ids, int32_t id, struct err *err)
{
    int rc = buf_add(ids, &id, sizeof id);
    return rc < 0 ? err_set(err, rc, "text: more than %zu tokens", ids->max / sizeof id) : 0;
}

size_t bpe_n_ids(const struct buf *ids)
{
    return ids->len / sizeof(int32_t);
}

int32_t bpe_id(const struct buf *ids, size_t i)
{
    int32_t id;
    memcpy(&id, ids->data + i * sizeof id, sizeof id);
    return id;
}
