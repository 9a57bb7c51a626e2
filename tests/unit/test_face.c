/* test_face.c -- the finder as the generator uses it, cascades that are damaged, files that are not
 * detectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/str.h"
#include "worker/face/cascade.h"
#include "worker/face/detector.h"
#include "worker/face/face.h"
#include "worker/face/mask.h"
#include "worker/face/stretch.h"
#include "worker/media/image_in.h"

extern const unsigned char face_cascade_xml[];
extern const size_t face_cascade_xml_len;

static const char *golden(const char *relative)
{
    static char text[1024];
    const char *root = getenv("TEST_GOLDEN");
    str_path(text, sizeof text, root ? root : "tests/data/golden", relative);
    return text;
}

static void open_picture(const char *relative, struct image *im)
{
    struct err err = {0};
    assert_int_equal(image_in_open(golden(relative), false, im, &err), 0);
}

static void test_finder_cascade(void **state)
{
    struct face_finder *f = NULL;
    struct face_list list;
    struct image im = {0};
    struct err err = {0};
    (void)state;
    assert_int_equal(face_finder_open(&f, "/nowhere", NULL, &err), 0);
    assert_string_equal(face_finder_name(f), "cascade");
    open_picture("face/cascade_two.png", &im);
    assert_int_equal(face_find(f, NULL, &im, &list, &err), 0);
    assert_int_equal(list.n, 2);
    assert_true(list.box[0].w * list.box[0].h > list.box[1].w * list.box[1].h);
    assert_true(list.box[0].x < 150 && list.box[1].x > 300); /* the larger one is on the left */
    image_done(&im);
    open_picture("face/cascade_noface.png", &im);
    assert_int_equal(face_find(f, NULL, &im, &list, &err), 0);
    assert_int_equal(list.n, 0);
    image_done(&im);
    face_finder_close(f);
}

static void test_finder_detector(void **state)
{
    struct device *device = NULL;
    struct face_finder *f = NULL;
    struct face_list list;
    struct image im = {0};
    struct run run;
    struct err err = {0};
    (void)state;
    assert_int_equal(device_open(&device, "cpu", &(struct device_options){0}, &err), 0);
    assert_int_equal(run_init(&run, device, 0, &err), 0);
    assert_int_equal(face_finder_open(&f, golden("tiny/ckpts"), device, &err), 0);
    assert_string_equal(face_finder_name(f), "detface.pt");
    open_picture("face/cascade_portrait_small.png", &im);
    size_t mark = run_mark(&run);
    assert_int_equal(face_find(f, &run, &im, &list, &err), 0);
    assert_int_equal(run_mark(&run), mark);
    assert_true(list.n > 1);
    for (int i = 0; i < list.n; i++) {
        const struct face_box *b = &list.box[i];
        assert_true(b->x < (float)im.width && b->x + b->w > 0 && b->y < (float)im.height && b->y + b->h > 0);
        assert_true(i == 0 || b[-1].w * b[-1].h >= b->w * b->h);
    }
    image_done(&im);
    face_finder_close(f);
    run_done(&run);
    device_close(device);
}

static void test_detector_bad(void **state)
{
    struct detector *d = NULL;
    struct err err = {0};
    (void)state;
    assert_int_equal(detector_open(&d, golden("nothing.pt"), NULL, &err), ERR_NOTFOUND);
    err_clear(&err);
    const char *other = "tiny/ckpts/hunyuan-video-t2v-720p/vae/pytorch_model.pt";
    assert_int_equal(detector_open(&d, golden(other), NULL, &err), ERR_WEIGHTS);
    assert_non_null(strstr(err.text, "neither of the two known"));
    assert_null(d);
}

static int open_changed(const char *from, const char *to, char *text, size_t size)
{
    struct cascade *c = NULL;
    struct err err = {0};
    size_t n = face_cascade_xml_len, n_from = strlen(from), n_to = strlen(to);
    char *xml = mem_alloc(n + n_to);
    const char *at = memmem(face_cascade_xml, n, from, n_from);
    assert_non_null(xml);
    assert_non_null(at);
    size_t head = (size_t)(at - (const char *)face_cascade_xml);
    memcpy(xml, face_cascade_xml, head);
    memcpy(xml + head, to, n_to);
    memcpy(xml + head + n_to, at + n_from, n - head - n_from);
    int rc = cascade_open(&c, xml, n - n_from + n_to, &err);
    cascade_close(c);
    mem_free(xml);
    str_copy(text, size, err.text);
    return rc;
}

static void test_cascade_bad(void **state)
{
    static const struct {
        const char *from, *to, *says;
    } rows[] = {
        {"<featureType>LBP", "<featureType>HAAR", "LBP"},
        {"<height>24", "<height>2400000000", "count"},
        {"<height>24", "<height>25", "square"},
        {"<stageNum>20", "<stageNum>21", "announced"},
        {"0 -1 46 ", "0 -1 4000 ", "not there"},
        {"0 -1 46 ", "1 -1 46 ", "stump"},
        {"0 -1 46 ", "0 -1 ", "fewer"},
        {"0 -1 46 ", "0 -1 46 46 ", "more"},
        {"0 -1 46 ", "0 -1 4x6 ", "number"},
        {"18 0 2 2</rect>", "22 0 2 2</rect>", "out of the window"},
        {"</leafValues>", "</leafValue>", "match"},
        {"<!-- stage 0 -->", "<!-- stage 0", "outside a stage"},
        {"</opencv_storage>", "", "cut off"},
    };
    char text[480];
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int rc = open_changed(rows[i].from, rows[i].to, text, sizeof text);
        if (rc != ERR_FORMAT || !strstr(text, rows[i].says))
            print_error("%s: %d \"%s\"\n", rows[i].to, rc, text);
        assert_int_equal(rc, ERR_FORMAT);
        assert_non_null(strstr(text, rows[i].says));
    }
}

/* Cut anywhere it is refused, and nothing behind the cut is read. */
static void test_cascade_cut(void **state)
{
    (void)state;
    for (size_t n = 0; n + 20 < face_cascade_xml_len; n += 997) {
        struct cascade *c = NULL;
        struct err err = {0};
        char *xml = mem_dup(face_cascade_xml, n ? n : 1);
        assert_non_null(xml);
        assert_int_equal(cascade_open(&c, xml, n, &err), ERR_FORMAT);
        mem_free(xml);
    }
}

static void test_stretch(void **state)
{
    uint8_t in[4 * 3 * 3], out[8 * 6 * 3];
    (void)state;
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (uint8_t)(i * 7);
    assert_int_equal(stretch_linear(in, 4, 3, 3, out, 4, 3), 0);
    assert_memory_equal(in, out, sizeof in);
    assert_int_equal(stretch_exact(in, 4, 3, 3, out, 4, 3), 0);
    assert_memory_equal(in, out, sizeof in);
    memset(in, 200, sizeof in);
    assert_int_equal(stretch_exact(in, 4, 3, 3, out, 8, 6), 0);
    for (size_t i = 0; i < sizeof out; i++)
        assert_int_equal(out[i], 200);
    assert_int_equal(stretch_linear(in, 1, 1, 3, out, 5, 5), 0);
    assert_int_equal(out[74], 200);
}

static void test_mask_far(void **state)
{
    int rect[4];
    (void)state;
    mask_rect(1e30, -1e30, 1e30, 1e30, MASK_AREA, 64, 64, rect);
    assert_true(rect[0] >= 0 && rect[2] <= 64 && rect[1] >= 0 && rect[3] <= 64);
    mask_rect(10, 10, 10, 10, MASK_AREA, 64, 64, rect);
    assert_int_equal(rect[0], 0);
    assert_int_equal(rect[2], 30);
}

static void test_no_memory(void **state)
{
    struct image im = {0};
    (void)state;
    open_picture("face/cascade_portrait_small.png", &im);
    for (long n = 1; n < 100; n++) {
        struct face_finder *f = NULL;
        struct face_list list;
        struct err err = {0};
        mem_fail_at(n);
        int rc = face_finder_open(&f, NULL, NULL, &err);
        if (rc == 0)
            rc = face_find(f, NULL, &im, &list, &err);
        mem_fail_at(0);
        face_finder_close(f);
        if (rc == 0) {
            assert_true(n > 10);
            image_done(&im);
            return;
        }
        assert_int_equal(rc, ERR_NOMEM);
    }
    fail();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finder_cascade), cmocka_unit_test(test_finder_detector),
        cmocka_unit_test(test_detector_bad),   cmocka_unit_test(test_cascade_bad),
        cmocka_unit_test(test_cascade_cut),    cmocka_unit_test(test_stretch),
        cmocka_unit_test(test_mask_far),       cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
