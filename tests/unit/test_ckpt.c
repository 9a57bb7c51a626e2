/* test_ckpt.c -- checkpoint files, good and bad: every bad one is made here, one fault each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/buf.h"
#include "common/mem.h"
#include "common/str.h"
#include "tests/unit/zipmake.h"
#include "worker/model/ckpt.h"
#include "worker/model/safetensors.h"
#include "worker/model/unpickle.h"

static char folder[64];
static char path[128];

static int make_folder(void **state)
{
    (void)state;
    str_copy(folder, sizeof folder, "/tmp/troupe-ckpt-XXXXXX");
    return mkdtemp(folder) ? str_path(path, sizeof path, folder, "x") : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void write_file(const char *name, const void *data, size_t n)
{
    FILE *f = fopen(name, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* ---- safetensors ------------------------------------------------------------------------------------- */

static void write_safetensors(const char *head, size_t n_data)
{
    static const char zeros[4096];
    struct buf b;
    uint64_t n = strlen(head);
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 8; i++)
        buf_add(&b, &(char){(char)(n >> 8 * i)}, 1);
    buf_puts(&b, head);
    buf_add(&b, zeros, n_data);
    write_file(path, b.data, b.len);
    buf_done(&b);
}

static void refused(int code, const char *says)
{
    struct ckpt *c = (struct ckpt *)1;
    struct err err = {0};
    int rc = ckpt_open(&c, path, &err);
    if (rc != code || !strstr(err.text, says))
        print_error("got %d \"%s\"\n", rc, err.text);
    assert_int_equal(rc, code);
    assert_non_null(strstr(err.text, says));
    assert_ptr_equal(c, (struct ckpt *)1);
}

static void test_safetensors_bad(void **state)
{
    static const struct {
        const char *head;
        size_t n_data;
        int code;
        const char *says;
    } rows[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", 15, ERR_FORMAT, "cut off"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", 17, ERR_FORMAT, "no tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,16]}}", 16, ERR_FORMAT,
         "shape needs 24"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
         6, ERR_FORMAT, "inside the tensor before"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
         12, ERR_FORMAT, "hole"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, ERR_FORMAT, "uplicate"},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, ERR_UNSUPPORTED, "\"F33\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, ERR_FORMAT, "shape[0]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, ERR_FORMAT, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0,
         ERR_FORMAT, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, ERR_UNSUPPORTED,
         "dimensions"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, ERR_FORMAT, "shape[0]"},
        {"{\"a\":7}", 4, ERR_FORMAT, "no dtype"},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, ERR_FORMAT, "name"},
        {"{\"a\":{\"dtype\":", 4, ERR_FORMAT, "header"},
        {"{}", 0, ERR_FORMAT, "no tensor"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        write_safetensors(rows[i].head, rows[i].n_data);
        refused(rows[i].code, rows[i].says);
    }
}

static void test_files_bad(void **state)
{
    static const unsigned char beyond[] = {100, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    static const unsigned char pickle[] = {0x80, 2, 'N', '.'};
    (void)state;
    unlink(path);
    refused(ERR_NOTFOUND, "No such file");
    write_file(path, "", 0);
    refused(ERR_FORMAT, "neither");
    write_file(path, "hello, world of text", 20);
    refused(ERR_FORMAT, "neither");
    write_file(path, beyond, sizeof beyond);
    refused(ERR_FORMAT, "beyond the file");
    write_file(path, pickle, sizeof pickle);
    refused(ERR_FORMAT, "bare pickle");
}

static void test_safetensors_round_trip(void **state)
{
    float a[6] = {1, 2, 3, 4, 5, 6};
    uint8_t odd[3] = {7, 8, 9};
    struct safetensors_item list[] = {{"z.odd", tensor_of(odd, DTYPE_U8, 1, SHAPE(3))},
                                      {"a\"quoted\xc3\xa9", tensor_of(a, DTYPE_F32, 2, SHAPE(2, 3))},
                                      {"none", tensor_of(NULL, DTYPE_F32, 2, SHAPE(0, 4))}};
    struct ckpt *c = NULL;
    struct err err = {0};
    char hex[65], again[65];
    (void)state;
    assert_int_equal(safetensors_write(path, list, 3, &err), 0);
    assert_int_equal(ckpt_open(&c, path, &err), 0);
    assert_int_equal(ckpt_count(c), 3);
    assert_string_equal(ckpt_name(c, 0), "a\"quoted\xc3\xa9");
    struct tensor t = ckpt_find(c, "a\"quoted\xc3\xa9");
    assert_memory_equal(t.data, a, sizeof a);
    /* three bytes stand in front of it: the element is aligned all the same */
    assert_int_equal((uintptr_t)t.data % 4, 0);
    assert_memory_equal(ckpt_find(c, "z.odd").data, odd, 3);
    assert_int_equal(ckpt_dim(c, "none", 1), 4);
    assert_int_equal(ckpt_dim(c, "nothing", 0), 0);
    assert_true(tensor_is_none(ckpt_find(c, "nothing")));
    assert_int_equal(ckpt_bytes(c), 27);
    assert_int_equal(ckpt_digest(c, hex, &err), 0);
    ckpt_close(c);
    odd[1] = 0;
    assert_int_equal(safetensors_write(path, list, 3, &err), 0);
    assert_int_equal(ckpt_open(&c, path, &err), 0);
    assert_int_equal(ckpt_digest(c, again, &err), 0);
    assert_string_not_equal(hex, again);
    ckpt_close(c);
    list[2].name = "z.odd";
    assert_int_equal(safetensors_write(path, list, 3, &err), ERR_INVALID);
}

/* ---- PyTorch zips ------------------------------------------------------------------------------------ */

#define STORAGE(class, count)                                                                                \
    "((X\7\0\0\0storagectorch\n" class "\nX\1\0\0\0"                                                         \
                                       "0X\3\0\0\0cpuK" count "tQ"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define HOOKS                                                                                                \
    "\x89"                                                                                                   \
    "ccollections\nOrderedDict\n)RtR"
/* {"w": tensor [2, 3] of 6 floats at storage offset 1} */
#define TENSOR(offset, shape, stride)                                                                        \
    REBUILD STORAGE("FloatStorage", "\7") "K" offset "(" shape "t(" stride "t" HOOKS
#define DICT_OF(value) "\x80\2}X\1\0\0\0w" value "s."
#define GOOD DICT_OF(TENSOR("\1", "K\2K\3", "K\3K\1"))
#define TEXT(s) (s), sizeof(s) - 1

static void write_pt(const char *pickle, size_t n, size_t n_data, const char *byteorder)
{
    static float data[64];
    for (int i = 0; i < 64; i++)
        data[i] = (float)i;
    struct zipmake_item list[] = {{"m/data.pkl", pickle, n},
                                  {"m/byteorder", byteorder, strlen(byteorder)},
                                  {"m/data/0", data, n_data},
                                  {"m/version", "3\n", 2}};
    struct buf b;
    buf_init(&b, 1 << 20);
    zipmake(&b, list, 4);
    write_file(path, b.data, b.len);
    buf_done(&b);
}

static void test_pt_good(void **state)
{
    struct ckpt *c = NULL;
    struct err err = {0};
    (void)state;
    write_pt(TEXT(GOOD), 28, "little");
    if (ckpt_open(&c, path, &err) < 0)
        print_error("%s\n", err.text);
    assert_non_null(c);
    struct tensor t = ckpt_find(c, "w");
    assert_int_equal(t.n_dims, 2);
    assert_int_equal(t.shape[1], 3);
    assert_true(((float *)t.data)[0] == 1 && ((float *)t.data)[5] == 6); /* the storage's offset is used */
    ckpt_close(c);
}

static void test_pt_bad(void **state)
{
    static const struct {
        const char *pickle;
        size_t n, n_data;
        const char *byteorder;
        int code;
        const char *says;
    } rows[] = {
        {TEXT(GOOD), 28, "big", ERR_UNSUPPORTED, "big-endian"},
        {TEXT(GOOD), 28, "middle", ERR_FORMAT, "byteorder"},
        {TEXT(GOOD), 24, "little", ERR_FORMAT, "storage 0 has 24 bytes"},
        {TEXT(DICT_OF(TENSOR("\2", "K\2K\3", "K\3K\1"))), 28, "little", ERR_FORMAT, "beyond its storage"},
        {TEXT(DICT_OF(TENSOR("\0", "K\2K\3", "K\1K\2"))), 28, "little", ERR_UNSUPPORTED, "not contiguous"},
        {TEXT(DICT_OF(TENSOR("\0", "K\2K\3", "K\3"))), 28, "little", ERR_FORMAT, "strides"},
        {TEXT(DICT_OF(TENSOR("\0", "J\xff\xff\xff\xffK\3", "K\3K\1"))), 28, "little", ERR_FORMAT, "no count"},
        {TEXT(DICT_OF(REBUILD STORAGE("ComplexFloatStorage", "\7") "K\0(K\2t(K\1t" HOOKS)), 28, "little",
         ERR_UNSUPPORTED, "torch.ComplexFloatStorage"},
        {TEXT("\x80\2}."), 28, "little", ERR_FORMAT, "no tensor"},
        {TEXT("\x80\2}X\1\0\0\0w"), 28, "little", ERR_FORMAT, "STOP"},
        {TEXT("\x80\2cposix\nsystem\nX\2\0\0\0id\x85R."), 28, "little", ERR_FORMAT,
         "refuses to call posix.system: this file is not a plain checkpoint"},
        {TEXT("\x80\4\x8c\2os\x8c\6system\x93\x8c\2id\x85R."), 28, "little", ERR_FORMAT,
         "refuses to call os.system"},
        {TEXT("(S'id'\nios\nsystem\n."), 28, "little", ERR_FORMAT, "opcode 0x53"},
        {TEXT("(ios\nsystem\n."), 28, "little", ERR_FORMAT, "refuses to call os.system"},
        {TEXT("\x80\2(cos\nsystem\nX\2\0\0\0ido."), 28, "little", ERR_FORMAT, "refuses to call os.system"},
        {TEXT("\x80\2csubprocess\nPopen\n)\x81."), 28, "little", ERR_FORMAT,
         "refuses to call subprocess.Popen"},
        {TEXT("\x80\2cbuiltins\neval\nX\1\0\0\0"
              "1\x85R."),
         28, "little", ERR_FORMAT, "refuses to call builtins.eval"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        write_pt(rows[i].pickle, rows[i].n, rows[i].n_data, rows[i].byteorder);
        refused(rows[i].code, rows[i].says);
    }
}

static void test_zip_bad(void **state)
{
    struct buf b;
    struct zipmake_item list[] = {{"m/data.pkl", GOOD, sizeof GOOD - 1},
                                  {"m/data/0", "0123456789012345678901234567", 28}};
    (void)state;
    buf_init(&b, 1 << 20);
    zipmake(&b, list, 2);
    size_t n = b.len, central = n - 22 - (46 + 10) - (46 + 8);
    write_file(path, b.data, n - 1);
    refused(ERR_FORMAT, "cut off");
    b.data[central + 10] = 8; /* deflated */
    write_file(path, b.data, n);
    refused(ERR_UNSUPPORTED, "m/data.pkl is compressed");
    b.data[central + 10] = 0;
    b.data[central + 20] = b.data[central + 24] = (char)0xff;
    b.data[central + 21] = b.data[central + 25] = (char)0x7f;
    write_file(path, b.data, n);
    refused(ERR_FORMAT, "beyond the file");
    buf_clear(&b);
    zipmake(&b, list, 2);
    b.data[central + 56 + 42] = 0; /* the second entry points at the first one's header */
    write_file(path, b.data, n);
    refused(ERR_FORMAT, "another name");
    buf_clear(&b);
    list[1] = list[0];
    zipmake(&b, list, 2);
    write_file(path, b.data, b.len);
    refused(ERR_FORMAT, "twice");
    buf_clear(&b);
    list[1] = (struct zipmake_item){"n/data.pkl", "N.", 2};
    zipmake(&b, list, 2);
    write_file(path, b.data, b.len);
    refused(ERR_FORMAT, "2 data.pkl");
    buf_done(&b);
}

/* A pickle may build lists in lists without end at no cost; neither memory nor the stack may follow it. */
static void test_pickle_bounds(void **state)
{
    struct unpickle *u = NULL;
    struct err err = {0};
    struct buf b;
    (void)state;
    buf_init(&b, 64 << 20);
    for (int i = 0; i < 2000000; i++)
        buf_add(&b, "N", 1);
    assert_int_equal(unpickle_new(&u, (const uint8_t *)b.data, b.len, &err), ERR_TOOBIG);
    buf_clear(&b);
    err_clear(&err);
    buf_add(&b, "Nr\xff\xff\xff\x7f.", 7);
    assert_int_equal(unpickle_new(&u, (const uint8_t *)b.data, b.len, &err), ERR_TOOBIG);
    /* thirty levels of a dict that holds the next one twice: 2^30 paths */
    buf_clear(&b);
    buf_add(&b, "\x80\2}", 3);
    for (int i = 0; i < 30; i++)
        buf_add(&b, "q\0}X\1\0\0\0ah\0sX\1\0\0\0bh\0s", 21);
    buf_puts(&b, ".");
    write_pt(b.data, b.len, 28, "little");
    refused(ERR_FORMAT, "nested too deep");
    buf_done(&b);
}

/* ---- lists and binder -------------------------------------------------------------------------------- */

static void test_list(void **state)
{
    static const char good[] =
        "name\tmodule_dtype\tshape\tnumel\nb.1.w\tbfloat16\t3x4\t12\nb.0.w\tfloat8_e4m3fn\t2\t2\n"
        "vae.vae.x\tF16\t1x2x3x4x5\t120\n";
    static const char *const bad[] = {"",
                                      "a\tF32\n",
                                      "a\tF99\t3\n",
                                      "a\tF32\t3xx4\n",
                                      "a\tF32\t1x1x1x1x1x1x1\n",
                                      "a\tF32\t3\na\tF32\t3\n",
                                      "a\tF32\t-3\n"};
    struct ckpt *c = NULL;
    struct err err = {0};
    (void)state;
    assert_int_equal(ckpt_open_list(&c, good, sizeof good - 1, &err), 0);
    assert_int_equal(ckpt_count(c), 3);
    assert_false(ckpt_has_data(c));
    assert_int_equal(ckpt_count_blocks(c, "b."), 2);
    assert_int_equal(ckpt_count_blocks(c, "c."), 0);
    assert_int_equal(ckpt_find(c, "b.0.w").dtype, DTYPE_F8E4M3);
    assert_int_equal(ckpt_dim(c, "vae.vae.x", -1), 5);
    assert_int_equal(ckpt_strip(c, "vae.", &err), 0);
    assert_int_equal(ckpt_dim(c, "x", 4), 5);
    assert_int_equal(ckpt_bytes(c), 24 + 2 + 240);
    ckpt_close(c);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err why = {0};
        assert_true(ckpt_open_list(&c, bad[i], strlen(bad[i]), &why) < 0);
        assert_int_equal(why.code, ERR_FORMAT);
    }
}

static void test_binder(void **state)
{
    static const char text[] = "a\tF32\t3\nb\tF32\t3x2\nextra\tF32\t1\nknown.c\tI64\t1\n";
    struct ckpt *c = NULL;
    struct binder b;
    struct err err = {0};
    struct tensor t;
    (void)state;
    assert_int_equal(ckpt_open_list(&c, text, sizeof text - 1, &err), 0);
    binder_init(&b, c, NULL, "net");
    binder_bind(&b, &t, "a", 1, SHAPE(3));
    binder_bindf(&b, &t, 2, SHAPE(3, 3), "%c", 'b');
    binder_bind(&b, &t, "missing", 1, SHAPE(7));
    assert_int_equal(t.shape[0], 7);
    bind_ignore(&b, "known.");
    assert_int_equal(binder_finish(&b, true, &err), ERR_WEIGHTS);
    assert_non_null(strstr(err.text, "missing is missing"));
    assert_non_null(strstr(err.text, "b is "));
    assert_non_null(strstr(err.text, "extra is not a part"));
    assert_null(strstr(err.text, "known"));
    err_clear(&err);
    binder_init(&b, c, NULL, "net");
    binder_bind(&b, &t, "a", 1, SHAPE(3));
    assert_int_equal(binder_finish(&b, false, &err), 0);
    ckpt_close(c);
}

/* ---- the files that we ship -------------------------------------------------------------------------- */

static const char *golden(const char *relative)
{
    static char text[1024];
    const char *root = getenv("TEST_GOLDEN");
    str_path(text, sizeof text, root ? root : "tests/data/golden", relative);
    return text;
}

static void test_full_lists(void **state)
{
    static const struct {
        const char *name;
        size_t n;
    } rows[] = {{"full/dit.tsv", 946},
                {"full/vae.tsv", 248},
                {"full/llava.tsv", 686},
                {"full/clip.tsv", 196},
                {"full/whisper.tsv", 67}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ckpt *c = NULL;
        struct err err = {0};
        struct buf b;
        char piece[4096];
        size_t n;
        FILE *f = fopen(golden(rows[i].name), "rb");
        assert_non_null(f);
        buf_init(&b, 1 << 20);
        while ((n = fread(piece, 1, sizeof piece, f)) > 0)
            buf_add(&b, piece, n);
        fclose(f);
        assert_int_equal(ckpt_open_list(&c, b.data, b.len, &err), 0);
        assert_int_equal(ckpt_count(c), rows[i].n);
        ckpt_close(c);
        buf_done(&b);
    }
}

static void test_tiny_tree(void **state)
{
    struct ckpt *c = NULL;
    struct err err = {0};
    char fp8[1024], map[1024];
    (void)state;
    assert_int_equal(ckpt_open(&c, golden("tiny/ckpts/hunyuan-video-t2v-720p/vae/pytorch_model.pt"), &err),
                     0);
    assert_int_equal(ckpt_dim(c, "vae.encoder.conv_in.conv.weight", 0),
                     16); /* state_dict is gone, vae. not yet */
    assert_int_equal(ckpt_strip(c, "vae.", &err), 0);
    assert_int_equal(ckpt_dim(c, "encoder.conv_in.conv.weight", 0), 16);
    ckpt_close(c);
    str_copy(fp8, sizeof fp8,
             golden("tiny/ckpts/hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states_fp8.pt"));
    str_copy(map, sizeof map,
             golden("tiny/ckpts/hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states_fp8_map.pt"));
    assert_int_equal(ckpt_open_fp8(&c, fp8, map, &err), 0);
    struct tensor t = ckpt_find(c, "double_blocks.0.img_attn_proj.weight");
    assert_int_equal(t.dtype, DTYPE_F8E4M3);
    assert_non_null(t.scale);
    assert_true(*t.scale > 0.002066f && *t.scale < 0.002067f);
    assert_int_equal(ckpt_count_blocks(c, "double_blocks."), 4);
    ckpt_close(c);
    assert_int_equal(ckpt_open(&c, golden("tiny/ckpts/det_align/detface.pt"), &err), 0);
    assert_int_equal(ckpt_dim(c, "model.0.stem_1.conv.weight", 1), 3);
    assert_int_equal(ckpt_dim(c, "model.23.anchor_grid", 5), 2);
    assert_int_equal(ckpt_find(c, "model.0.stem_1.bn.num_batches_tracked").dtype, DTYPE_I64);
    ckpt_close(c);
    assert_int_equal(ckpt_open(&c, golden("tiny/ckpts/llava_llama_image"), &err), 0);
    assert_true(ckpt_count_blocks(c, "language_model.model.layers.") > 0);
    ckpt_close(c);
}

/* Every allocation of an opening may fail: an error and no leak. */
static void test_no_memory(void **state)
{
    (void)state;
    write_pt(TEXT(GOOD), 28, "little");
    for (long n = 1; n < 200; n++) {
        struct ckpt *c = NULL;
        struct err err = {0};
        mem_fail_at(n);
        int rc = ckpt_open(&c, path, &err);
        mem_fail_at(0);
        if (rc == 0) {
            ckpt_close(c);
            assert_true(n > 5);
            return;
        }
        assert_int_equal(rc, ERR_NOMEM);
    }
    fail();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safetensors_bad),
        cmocka_unit_test(test_files_bad),
        cmocka_unit_test(test_safetensors_round_trip),
        cmocka_unit_test(test_pt_good),
        cmocka_unit_test(test_pt_bad),
        cmocka_unit_test(test_zip_bad),
        cmocka_unit_test(test_pickle_bounds),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_binder),
        cmocka_unit_test(test_full_lists),
        cmocka_unit_test(test_tiny_tree),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
