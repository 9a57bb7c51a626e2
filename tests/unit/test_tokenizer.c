/* test_tokenizer.c -- byte pairs, and what the golden cases do not reach in the tokenizers: plain text, long
 * prompts, odd characters, bad files, no memory. The miniature vocabularies are those of the golden cases.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/model/bpe.h"
#include "worker/model/tokenizer_clip.h"
#include "worker/model/tokenizer_llama.h"
#include "worker/model/tokenizer_regex.h"

struct fixture {
    char llama_dir[1024], clip_dir[1024];
    struct tokenizer_llama *llama;
    struct tokenizer_clip *clip;
};

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    const char *root = getenv("TEST_GOLDEN");
    struct err err = {0};
    assert_non_null(f);
    assert_non_null(root);
    str_path(f->llama_dir, sizeof f->llama_dir, root, "tiny/ckpts/llava_llama_image");
    str_path(f->clip_dir, sizeof f->clip_dir, root, "tiny/ckpts/text_encoder_2");
    if (tokenizer_llama_open(&f->llama, f->llama_dir, &err) < 0 ||
        tokenizer_clip_open(&f->clip, f->clip_dir, &err) < 0)
        fail_msg("%s", err.text);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    tokenizer_llama_close(f->llama);
    tokenizer_clip_close(f->clip);
    mem_free(f);
    return 0;
}

/* ---- byte pairs ---- */

/* All 256 letters (ids 0..255), with "</w>" (256..511) if asked, then the given tokens. */
static struct bpe *small_bpe(unsigned flags, const char *const *tokens, size_t n)
{
    json_t *vocab = json_object();
    struct err err = {0};
    struct bpe *b = NULL;
    for (int end = 0, extra = 0, id = 0; end < (flags & BPE_END ? 2 : 1); end++, extra = 0) {
        for (int i = 0; i < 256; i++, id++) {
            char name[16];
            int c = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174 ? i : 256 + extra++;
            int len = c < 128 ? 1 : 2;
            name[0] = (char)(c < 128 ? c : 0xc0 | c >> 6);
            name[1] = (char)(0x80 | (c & 63));
            str_copy(name + len, sizeof name - (size_t)len, end ? "</w>" : "");
            assert_int_equal(json_object_set_new(vocab, name, json_integer(id)), 0);
        }
    }
    for (size_t i = 0; i < n; i++)
        json_object_set_new(vocab, tokens[i], json_integer(1000 + (json_int_t)i));
    if (bpe_new(&b, vocab, flags, &err) < 0)
        fail_msg("%s", err.text);
    json_decref(vocab);
    return b;
}

static void merge(struct bpe *b, const char *left, const char *right)
{
    struct err err = {0};
    if (bpe_merge(b, left, strlen(left), right, strlen(right), &err) < 0)
        fail_msg("%s", err.text);
}

static void assert_word(struct bpe *b, const char *word, size_t n, const int32_t *want)
{
    struct buf ids;
    struct err err = {0};
    buf_init(&ids, 1 << 20);
    assert_int_equal(bpe_word(b, word, strlen(word), &ids, &err), 0);
    assert_int_equal(bpe_n_ids(&ids), n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(bpe_id(&ids, i), want[i]);
    buf_done(&ids);
}

static void test_merge_order(void **state)
{
    (void)state;
    static const char *const tokens[] = {"ab", "bc", "abc", "aa", "abcabc"};
    struct bpe *b = small_bpe(0, tokens, 5);
    merge(b, "b", "c");
    merge(b, "a", "b");
    merge(b, "a", "bc");
    merge(b, "a", "a");
    assert_word(b, "abc", 1, (const int32_t[]){1002}); /* bc first, then a bc */
    assert_word(b, "abd", 2, (const int32_t[]){1000, 'd'});
    assert_word(b, "aaa", 2, (const int32_t[]){1003, 'a'}); /* leftmost among equals */
    assert_word(b, "aaaa", 2, (const int32_t[]){1003, 1003});
    assert_word(b, "abcabc", 2, (const int32_t[]){1002, 1002}); /* in the vocabulary, but no merge gives it */
    bpe_free(b);
    b = small_bpe(BPE_WHOLE, tokens, 5);
    assert_word(b, "abcabc", 1, (const int32_t[]){1004});
    bpe_free(b);
}

static void test_merge_twice(void **state)
{
    (void)state;
    static const char *const tokens[] = {"ab", "bc"};
    struct bpe *b = small_bpe(0, tokens, 2);
    merge(b, "a", "b");
    merge(b, "b", "c");
    assert_word(b, "abc", 2, (const int32_t[]){1000, 'c'});
    merge(b, "a", "b"); /* now behind b c */
    assert_word(b, "abc", 2, (const int32_t[]){'a', 1001});
    bpe_free(b);
}

static void test_word_end(void **state)
{
    (void)state;
    static const char *const tokens[] = {"ab</w>", "ab"};
    struct bpe *b = small_bpe(BPE_END, tokens, 2);
    merge(b, "a", "b</w>");
    merge(b, "a", "b");
    assert_word(b, "ab", 1, (const int32_t[]){1000});
    assert_word(b, "abab", 2, (const int32_t[]){1001, 1000});
    assert_word(b, "a", 1, (const int32_t[]){256 + 'a'});
    bpe_free(b);
}

static void test_bytes(void **state)
{
    (void)state;
    struct bpe *b = small_bpe(0, NULL, 0);
    for (int i = 1; i < 256; i++)
        assert_word(b, (const char[]){(char)i, 0}, 1, &(const int32_t){i});
    bpe_free(b);
}

static void test_bad_merge(void **state)
{
    (void)state;
    static const char *const tokens[] = {"ab"};
    struct bpe *b = small_bpe(0, tokens, 1);
    struct err err = {0};
    assert_int_equal(bpe_merge(b, "x", 1, "y", 1, &err), ERR_FORMAT);
    assert_string_equal(err.text, "merges: entry 0, \"x y\", is not made of the vocabulary's tokens");
    bpe_free(b);
    err_clear(&err);
    json_t *vocab = json_pack("{s:i}", "a", 0);
    assert_int_equal(bpe_new(&b, vocab, 0, &err), ERR_FORMAT);
    assert_string_equal(err.text, "vocabulary: byte 0 has no token \"\xc4\x80\"");
    json_decref(vocab);
}

/* A word of a million bytes takes the time of its length, not of its square. */
static void test_long_word(void **state)
{
    struct fixture *f = *state;
    const size_t n = BPE_WORD_MAX;
    char *text = mem_alloc(n);
    struct buf ids;
    struct err err = {0};
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        text[i] = "thean"[i % 5];
    buf_init(&ids, 64 << 20);
    assert_int_equal(tokenizer_llama_ids(f->llama, text, n, &ids, &err), 0);
    assert_true(bpe_n_ids(&ids) > n / 8 && bpe_n_ids(&ids) <= n + 1);
    buf_clear(&ids);
    assert_int_equal(tokenizer_clip_ids(f->clip, text, n, &ids, &err), 0);
    assert_true(bpe_n_ids(&ids) > n / 8);
    buf_done(&ids);
    mem_free(text);
}

/* ---- regular expressions ---- */

static void test_white_space(void **state)
{
    (void)state;
    struct tokenizer_regex *re = NULL;
    struct err err = {0};
    size_t start = 0, end = 0;
    assert_int_equal(tokenizer_regex_new(&re, "\\s+|[^\\s]", false, &err), 0);
    static const char *const space[] = {"\xc2\x85", "\xc2\xa0", "\xe2\x80\xa8", "\xe3\x80\x80", "\x0b"};
    for (size_t i = 0; i < sizeof space / sizeof *space; i++) {
        char text[16];
        str_format(text, sizeof text, "%s%s", space[i], space[i]);
        assert_int_equal(tokenizer_regex_next(re, text, strlen(text), 0, &start, &end, &err), 1);
        assert_int_equal(end, strlen(text));
    }
    assert_int_equal(tokenizer_regex_next(re, "\xe1\xa0\x8e\xe1\xa0\x8e", 6, 0, &start, &end, &err), 1);
    assert_int_equal(end, 3); /* U+180E is no white space */
    assert_int_equal(tokenizer_regex_next(re, "", 0, 0, &start, &end, &err), 0);
    tokenizer_regex_free(re);
    assert_int_equal(tokenizer_regex_new(&re, "a(b", false, &err), ERR_FORMAT);
    assert_string_equal(err.text, "tokenizer: pattern at byte 3: missing closing parenthesis");
}

/* ---- Llama ---- */

static int count_id(const int32_t *ids, int n, int32_t id)
{
    int found = 0;
    for (int i = 0; i < n; i++)
        found += ids[i] == id;
    return found;
}

static void prompt(struct fixture *f, const char *text, bool guard, struct tokenizer_llama_prompt *p)
{
    struct err err = {0};
    if (tokenizer_llama_prompt(f->llama, text, strlen(text), guard, p, &err) < 0)
        fail_msg("%s", err.text);
}

static void test_plain_text(void **state)
{
    struct fixture *f = *state;
    const int32_t image = tokenizer_llama_image(f->llama);
    static const char *const same[] = {
        "A person.", "", "  \n two lines\n", "{} %s \\n", "a<|notspecial|>b", "<image", "image>"};
    struct tokenizer_llama_prompt a, b;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) { /* without specials nothing differs */
        prompt(f, same[i], false, &a);
        prompt(f, same[i], true, &b);
        assert_memory_equal(&a, &b, sizeof a);
        assert_int_equal(count_id(b.ids, b.n, image), 1);
        assert_int_equal(b.ids[b.n - 1], image);
    }
    prompt(f, "x<image>y<|eot_id|>", false, &a);
    assert_int_equal(count_id(a.ids, a.n, image), 2);
    prompt(f, "x<image>y<|eot_id|>", true, &b);
    assert_int_equal(count_id(b.ids, b.n, image), 1);
    assert_true(b.n > a.n);
    prompt(f, "y<|eot_id|>", false, &a); /* the others are what they are in the reference */
    prompt(f, "y<|eot_id|>", true, &b);
    assert_memory_equal(&a, &b, sizeof a);
    for (int i = b.n; i < TOKENIZER_LLAMA_MAX; i++)
        assert_int_equal(b.ids[i], tokenizer_llama_pad(f->llama));
}

/* The reference loses <image>; ours loses the prompt's last words. */
static void test_long_prompt(void **state)
{
    struct fixture *f = *state;
    const int32_t image = tokenizer_llama_image(f->llama);
    struct tokenizer_llama_prompt a, b, empty;
    struct buf text;
    buf_init(&text, 1 << 16);
    for (int i = 0; i < 400; i++)
        assert_int_equal(buf_puts(&text, " the"), 0);
    prompt(f, "", true, &empty);
    prompt(f, text.data, false, &a);
    prompt(f, text.data, true, &b);
    assert_int_equal(count_id(a.ids, a.n, image), 0);
    assert_int_equal(b.n, TOKENIZER_LLAMA_MAX);
    assert_int_equal(b.ids[b.n - 1], image);
    assert_int_equal(count_id(b.ids, b.n, image), 1);
    assert_true(b.n_dropped > 0);
    assert_int_equal(b.n_dropped, a.n_dropped);
    int tail = empty.n - TOKENIZER_LLAMA_CROP;
    assert_memory_equal(b.ids + b.n - tail, empty.ids + empty.n - tail, (size_t)tail * sizeof *b.ids);
    assert_memory_equal(b.ids, a.ids, (size_t)(b.n - tail) * sizeof *b.ids);
    buf_done(&text);
}

static void test_head(void **state)
{
    struct fixture *f = *state;
    struct tokenizer_llama_prompt a, b;
    prompt(f, "one", true, &a);
    prompt(f, "two", true, &b);
    assert_memory_equal(a.ids, b.ids, TOKENIZER_LLAMA_CROP * sizeof *a.ids);
    assert_true(a.ids[TOKENIZER_LLAMA_CROP] != b.ids[TOKENIZER_LLAMA_CROP]);
}

static void test_bad_text(void **state)
{
    struct fixture *f = *state;
    static const char *const bad[] = {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80"};
    struct tokenizer_llama_prompt p;
    struct tokenizer_clip_prompt q;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        assert_int_equal(tokenizer_llama_prompt(f->llama, bad[i], strlen(bad[i]), true, &p, &err),
                         ERR_INVALID);
        assert_string_equal(err.text, "text: is not UTF-8");
        assert_int_equal(tokenizer_clip_prompt(f->clip, bad[i], strlen(bad[i]), &q, NULL), ERR_INVALID);
    }
    char *big = mem_zalloc(TOKENIZER_LLAMA_TEXT_MAX + 1);
    assert_non_null(big);
    assert_int_equal(tokenizer_llama_prompt(f->llama, big, TOKENIZER_LLAMA_TEXT_MAX + 1, true, &p, NULL),
                     ERR_TOOBIG);
    assert_int_equal(tokenizer_clip_prompt(f->clip, big, TOKENIZER_CLIP_TEXT_MAX + 1, &q, NULL),
                     ERR_TOOBIG);
    mem_free(big);
}

/* ---- CLIP ---- */

/* Both texts have the same ids. */
static void assert_same(struct fixture *f, const char *a, const char *b)
{
    struct tokenizer_clip_prompt p, q;
    struct err err = {0};
    if (tokenizer_clip_prompt(f->clip, a, strlen(a), &p, &err) < 0 ||
        tokenizer_clip_prompt(f->clip, b, strlen(b), &q, &err) < 0)
        fail_msg("%s", err.text);
    assert_memory_equal(&p, &q, sizeof p);
}

static void test_cleaning(void **state)
{
    struct fixture *f = *state;
    assert_same(f, "\xc4\xb0", "i\xcc\x87");                                  /* capital I with dot */
    assert_same(f, "\xce\xa3\xce\x9f\xce\xa3", "\xcf\x83\xce\xbf\xcf\x82");   /* final sigma */
    assert_same(f, "\xce\xa3", "\xcf\x83");                                   /* alone it is not final */
    assert_same(f, "\xce\x91\xce\xa3'\xce\x91", "\xce\xb1\xcf\x83'\xce\xb1"); /* the apostrophe is ignored */
    assert_same(f, "e\xcc\x81", "\xc3\xa9");                                  /* NFC */
    assert_same(f,
                "a\xe2\x80\x8b\xc2\xad\xef\xbb\xbf"
                "b",
                "ab"); /* zero width, soft hyphen, mark */
    assert_same(f,
                "a\x01\x7f"
                "b",
                "ab");
    assert_same(f,
                "a\xef\xbf\xbd"
                "b",
                "ab"); /* U+FFFD */
    assert_same(f,
                "a\xe4\xb8\xad"
                "b",
                "a \xe4\xb8\xad b"); /* ideographs stand alone */
    assert_same(f, "a\t\r\n\xc2\xa0\xe2\x80\xa8  b", " a b ");
    assert_same(f, "HELLO", "hello");
}

static void test_clip_special(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "a<|endoftext|>b";
    struct tokenizer_clip_prompt p;
    assert_int_equal(tokenizer_clip_prompt(f->clip, text, sizeof text - 1, &p, NULL), 0);
    assert_int_equal(p.n, 3); /* start, a, end */
}

static void test_clip_long(void **state)
{
    struct fixture *f = *state;
    char text[400];
    struct tokenizer_clip_prompt p;
    memset(text, '1', sizeof text); /* digits are words of their own */
    assert_int_equal(tokenizer_clip_prompt(f->clip, text, 75, &p, NULL), 0);
    assert_int_equal(p.n, 77);
    assert_int_equal(p.n_dropped, 0);
    assert_int_equal(tokenizer_clip_prompt(f->clip, text, sizeof text, &p, NULL), 0);
    assert_int_equal(p.n, 77);
    assert_int_equal(p.n_dropped, 325);
}

/* ---- files and memory ---- */

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[1200];
    str_path(path, sizeof path, dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void remove_file(const char *dir, const char *name)
{
    char path[1200];
    str_path(path, sizeof path, dir, name);
    unlink(path);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const char *const files[] = {"",
                                        "[]",
                                        "{}",
                                        "{\"pre_tokenizer\": {\"pattern\": {\"Regex\": \"(\"}}}",
                                        "{\"pre_tokenizer\": {\"pattern\": {\"Regex\": \"a\"}}}",
                                        "{\"pre_tokenizer\": {\"pattern\": {\"Regex\": \"a\"}}, \"model\": "
                                        "{\"vocab\": {\"a\": -1}, \"merges\": []}}",
                                        "{\"pre_tokenizer\": {\"pattern\": {\"Regex\": \"a\"}}, \"model\": "
                                        "{\"vocab\": {\"a\": 0}, \"merges\": 7}}"};
    char dir[] = "/tmp/test_tokenizer_XXXXXX";
    struct tokenizer_llama *t = NULL;
    struct tokenizer_clip *c = NULL;
    struct err err = {0};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(tokenizer_llama_open(&t, dir, &err), ERR_NOTFOUND);
    assert_non_null(strstr(err.text, "tokenizer.json"));
    assert_int_equal(tokenizer_clip_open(&c, dir, NULL), ERR_NOTFOUND);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        write_file(dir, "tokenizer.json", files[i]);
        write_file(dir, "vocab.json", files[i]);
        err_clear(&err);
        assert_int_equal(tokenizer_llama_open(&t, dir, &err), ERR_FORMAT);
        assert_true(err.text[0] != 0);
        assert_int_equal(tokenizer_clip_open(&c, dir, NULL), ERR_FORMAT);
    }
    assert_null(t);
    assert_null(c);
    remove_file(dir, "tokenizer.json");
    remove_file(dir, "vocab.json");
    rmdir(dir);
}

/* The miniature file written anew: merges as pairs or strings, ignore_merges on or off. */
static struct tokenizer_llama *rewritten(const struct fixture *f, const char *dir, bool pairs, bool ignore)
{
    char path[1200];
    json_t *file = NULL;
    struct tokenizer_llama *t = NULL;
    struct err err = {0};
    str_path(path, sizeof path, f->llama_dir, "tokenizer.json");
    assert_int_equal(json_read_file(path, 1 << 24, &file, &err), 0);
    json_t *model = json_object_get(file, "model"), *merges = json_object_get(model, "merges");
    for (size_t i = 0; pairs && i < json_array_size(merges); i++) {
        const char *text = json_string_value(json_array_get(merges, i)), *gap = strchr(text, ' ');
        assert_non_null(gap);
        json_array_set_new(merges, i, json_pack("[s#, s]", text, (int)(gap - text), gap + 1));
    }
    json_object_set_new(model, "ignore_merges", json_boolean(ignore));
    str_path(path, sizeof path, dir, "tokenizer.json");
    assert_int_equal(json_dump_file(file, path, 0), 0);
    json_decref(file);
    write_file(dir, "config.json", "{}");
    if (tokenizer_llama_open(&t, dir, &err) < 0)
        fail_msg("%s", err.text);
    return t;
}

static void test_file_forms(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "A person is talking; twilight campfire lanterns, the quick brown fox";
    char dir[] = "/tmp/test_tokenizer_XXXXXX";
    struct tokenizer_llama_prompt p[2][2], first;
    assert_non_null(mkdtemp(dir));
    for (int pairs = 0; pairs < 2; pairs++) {
        for (int ignore = 0; ignore < 2; ignore++) {
            struct tokenizer_llama *t = rewritten(f, dir, pairs, ignore);
            assert_int_equal(tokenizer_llama_prompt(t, text, sizeof text - 1, true, &p[pairs][ignore], NULL),
                             0);
            assert_int_equal(tokenizer_llama_image(t),
                             tokenizer_llama_image(f->llama)); /* without config.json's */
            assert_int_equal(tokenizer_llama_pad(t), tokenizer_llama_pad(f->llama));
            tokenizer_llama_close(t);
        }
    }
    prompt(f, text, true, &first);
    assert_memory_equal(&first, &p[0][1], sizeof first);
    assert_memory_equal(&p[0][0], &p[1][0], sizeof first);
    assert_memory_equal(&p[0][1], &p[1][1], sizeof first);
    assert_memory_not_equal(p[0][0].ids, p[0][1].ids, sizeof first.ids); /* words that no merge reaches */
    remove_file(dir, "tokenizer.json");
    remove_file(dir, "config.json");
    rmdir(dir);
}

/* Every allocation of a prompt fails once: an error comes back, the next call is right again. */
static void test_no_memory(void **state)
{
    struct fixture *f = *state;
    static const char text[] = "A person \xe4\xb8\xad <image> 12345";
    struct tokenizer_llama_prompt want, p;
    struct tokenizer_clip_prompt want_clip, q;
    prompt(f, text, true, &want);
    assert_int_equal(tokenizer_clip_prompt(f->clip, text, sizeof text - 1, &want_clip, NULL), 0);
    int failures = 0;
    for (long n = 1; n < 200; n++) {
        mem_fail_at(n);
        int rc = tokenizer_llama_prompt(f->llama, text, sizeof text - 1, true, &p, NULL);
        mem_fail_at(n);
        int rc_clip = tokenizer_clip_prompt(f->clip, text, sizeof text - 1, &q, NULL);
        mem_fail_at(0);
        failures += (rc < 0) + (rc_clip < 0);
        if (rc == 0)
            assert_memory_equal(&p, &want, sizeof p);
        if (rc_clip == 0)
            assert_memory_equal(&q, &want_clip, sizeof q);
    }
    assert_true(failures > 4);
    prompt(f, text, true, &p);
    assert_memory_equal(&p, &want, sizeof p);
}

static void test_no_memory_opening(void **state)
{
    struct fixture *f = *state;
    for (long n = 1; n < 60; n++) {
        struct tokenizer_llama *t = NULL;
        struct tokenizer_clip *c = NULL;
        mem_fail_at(n);
        int rc = tokenizer_llama_open(&t, f->llama_dir, NULL);
        mem_fail_at(n);
        int rc_clip = tokenizer_clip_open(&c, f->clip_dir, NULL);
        mem_fail_at(0);
        assert_true((rc < 0) == (t == NULL));
        assert_true((rc_clip < 0) == (c == NULL));
        tokenizer_llama_close(t);
        tokenizer_clip_close(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merge_order),  cmocka_unit_test(test_merge_twice),
        cmocka_unit_test(test_word_end),     cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_bad_merge),    cmocka_unit_test(test_long_word),
        cmocka_unit_test(test_white_space),  cmocka_unit_test(test_plain_text),
        cmocka_unit_test(test_long_prompt),  cmocka_unit_test(test_head),
        cmocka_unit_test(test_bad_text),     cmocka_unit_test(test_cleaning),
        cmocka_unit_test(test_clip_special), cmocka_unit_test(test_clip_long),
        cmocka_unit_test(test_bad_files),    cmocka_unit_test(test_file_forms),
        cmocka_unit_test(test_no_memory),    cmocka_unit_test(test_no_memory_opening),
    };
    return cmocka_run_group_tests_name("tokenizers", tests, setup, teardown);
}
