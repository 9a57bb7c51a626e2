/* fuzz_tokenizer.c -- any bytes as a prompt, and as tokenizer.json and vocab.json.
 *
 * Prompts go through tokenizers whose vocabulary is the 256 letters of the byte alphabet and a few merges.
 * What is not UTF-8 must be refused; its bytes are then tried again as characters of their own, some of them
 * odd ones. A guarded prompt has exactly one image token, its last.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/str.h"
#include "tests/fuzz/fuzz.h"
#include "worker/model/tokenizer_clip.h"
#include "worker/model/tokenizer_llama.h"

static char dir[] = "/tmp/fuzz_tokenizer_XXXXXX", bad_dir[] = "/tmp/fuzz_tokenizer_XXXXXX";
static struct tokenizer_llama *llama;
static struct tokenizer_clip *clip;

static void must(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "fuzz_tokenizer: %s\n", what);
        abort();
    }
}

static void path_of(char path[256], const char *folder, const char *name)
{
    must(str_path(path, 256, folder, name) == 0, "path");
}

static void write_file(const char *folder, const char *name, const void *bytes, size_t n)
{
    char path[256];
    path_of(path, folder, name);
    FILE *f = fopen(path, "wb");
    must(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0, "a file cannot be written");
}

static void remove_all(void)
{
    static const char *const names[] = {"tokenizer.json", "config.json", "vocab.json", "merges.txt"};
    char path[256];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        path_of(path, dir, names[i]);
        unlink(path);
        path_of(path, bad_dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
    rmdir(bad_dir);
}

/* "letter": id, for all bytes, with an ending. */
static void put_letters(struct buf *b, const char *end, int first)
{
    for (int i = 0, extra = 0; i < 256; i++) {
        int c = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174 ? i : 256 + extra++;
        if (c == '"' || c == '\\')
            buf_printf(b, "\"\\%c%s\":%d,", c, end, first + i);
        else if (c < 128)
            buf_printf(b, "\"%c%s\":%d,", c, end, first + i);
        else
            buf_printf(b, "\"%c%c%s\":%d,", 0xc0 | c >> 6, 0x80 | (c & 63), end, first + i);
    }
}

static void make_files(void)
{
    static const char merges[] = "#version\nt h\nth e</w>\na n\n";
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_puts(&b, "{\"added_tokens\":[");
    static const char *const added[] = {
        "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>", "<pad>"};
    for (int i = 0; i < 6; i++)
        buf_printf(&b, "%s{\"id\":%d,\"content\":\"%s\"}", i ? "," : "", 600 + i, added[i]);
    buf_puts(&b, "],\"pre_tokenizer\":{\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^"
                 "\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
                 "\\\\p{L}+|\\\\p{N}{1,3}| "
                 "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}},"
                 "\"model\":{\"ignore_merges\":true,\"merges\":[\"t h\",[\"th\",\"e\"],\"a n\"],\"vocab\":{");
    put_letters(&b, "", 0);
    buf_puts(&b, "\"th\":300,\"the\":301,\"an\":302,\"whole\":303}}}");
    write_file(dir, "tokenizer.json", b.data, b.len);
    write_file(dir, "config.json", "{}", 2);
    write_file(bad_dir, "config.json", "{}", 2);
    buf_clear(&b);
    buf_puts(&b, "{");
    put_letters(&b, "", 0);
    put_letters(&b, "</w>", 256);
    buf_puts(&b, "\"th\":600,\"the</w>\":601,\"an\":602,\"<|startoftext|>\":603,\"<|endoftext|>\":604}");
    write_file(dir, "vocab.json", b.data, b.len);
    write_file(dir, "merges.txt", merges, sizeof merges - 1);
    write_file(bad_dir, "merges.txt", merges, sizeof merges - 1);
    buf_done(&b);
}

static void start(void)
{
    struct err err = {0};
    must(mkdtemp(dir) && mkdtemp(bad_dir), "no folder");
    atexit(remove_all);
    make_files();
    if (tokenizer_llama_open(&llama, dir, &err) < 0 || tokenizer_clip_open(&clip, dir, &err) < 0)
        must(false, err.text);
}

static void try_prompt(const char *text, size_t n)
{
    struct tokenizer_llama_prompt p;
    struct tokenizer_clip_prompt q;
    bool good = str_utf8_ok(text, n);
    for (int guard = 0; guard < 2; guard++) {
        int rc = tokenizer_llama_prompt(llama, text, n, guard, &p, NULL);
        must((rc == 0) == good || rc == ERR_TOOBIG, "Llama took or refused the wrong text");
        int images = 0;
        for (int i = 0; rc == 0 && i < p.n; i++)
            images += p.ids[i] == tokenizer_llama_image(llama);
        must(rc < 0 || !guard || (images == 1 && p.ids[p.n - 1] == tokenizer_llama_image(llama)),
             "image token");
        rc = tokenizer_clip_prompt(clip, text, n, &q, NULL);
        must((rc == 0) == good || rc == ERR_TOOBIG, "CLIP took or refused the wrong text");
        must(rc < 0 || (q.n >= 2 && q.n <= TOKENIZER_CLIP_MAX && q.n_dropped >= 0), "length");
    }
}

/* Bytes from 0x80 on as characters: Latin, and every eighth an odd one. */
static void try_characters(const uint8_t *data, size_t n)
{
    static const char *const odd[] = {"\xc4\xb0",         "\xce\xa3",     "\xcd\x85",         "\xe2\x80\x8d",
                                      "\xe4\xb8\xad",     "\xe2\x80\xa8", "\xf0\x9f\x91\xa9", "\xcc\x81",
                                      "\xef\xbf\xbd",     "\xe1\xa0\x8e", "<image>",          "<|endoftext|>",
                                      "\xf0\xaf\xa0\x80", "\xea\xb0\x80", "\xe1\x84\x80",     "\xc2\x85"};
    struct buf b;
    buf_init(&b, 1 << 20);
    for (size_t i = 0; i < n && b.len < (1 << 20) - 32; i++) {
        if (data[i] < 0x80)
            buf_add(&b, data + i, 1);
        else if (data[i] % 8 == 0)
            buf_puts(&b, odd[data[i] / 8 % 16]);
        else
            buf_printf(&b, "%c%c", 0xc0 | data[i] >> 6, 0x80 | (data[i] & 63));
    }
    if (b.len)
        try_prompt(b.data, b.len);
    buf_done(&b);
}

static void try_files(const uint8_t *data, size_t n)
{
    struct tokenizer_llama *t = NULL;
    struct tokenizer_clip *c = NULL;
    write_file(bad_dir, "tokenizer.json", data, n);
    write_file(bad_dir, "vocab.json", data, n);
    if (tokenizer_llama_open(&t, bad_dir, NULL) == 0) {
        struct tokenizer_llama_prompt p;
        tokenizer_llama_prompt(t, "the whole an 123", 16, false, &p, NULL);
    }
    (void)tokenizer_clip_open(&c, bad_dir, NULL);
    tokenizer_llama_close(t);
    tokenizer_clip_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!llama)
        start();
    if (size > 0 && data[0] == '{')
        try_files(data, size);
    try_prompt((const char *)data, size);
    if (size < 65536)
        try_characters(data, size);
    return 0;
}
