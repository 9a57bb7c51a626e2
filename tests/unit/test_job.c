/* job: ids, states, the record's round trip and its versions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/job.h"
#include "common/mem.h"
#include "common/pack.h"
#include "common/queue.h"
#include "common/str.h"

static void test_ids(void **state)
{
    (void)state;
    char a[JOB_ID], b[JOB_ID];
    assert_int_equal(job_make_id(a), 0);
    assert_int_equal(job_make_id(b), 0);
    assert_int_equal(strlen(a), 36);
    assert_int_equal(a[14], '7');
    assert_string_not_equal(a, b);
    assert_true(memcmp(a, b, 13) <= 0); /* sorts by time */
    assert_true(job_id_ok(a));
    static const char *const bad[] = {"",    "-a",  "a/b", "..",
                                      "a b", "{a}", "a:b", "0123456789012345678901234567890123456789"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(job_id_ok(bad[i]));
    assert_false(job_id_ok(NULL));
}

static void test_states(void **state)
{
    (void)state;
    enum job_state s;
    for (int i = 0; i < JOB_STATE_COUNT; i++) {
        assert_int_equal(job_state_parse(job_state_text((enum job_state)i), &s), 0);
        assert_int_equal(s, i);
    }
    assert_int_equal(job_state_parse("lost", &s), ERR_INVALID);
    assert_int_equal(job_state_parse(NULL, &s), ERR_INVALID);
    assert_true(job_state_final(JOB_TIMED_OUT));
    assert_false(job_state_final(JOB_DELAYED));
}

static void fill(struct job *j)
{
    job_init(j);
    str_copy(j->id, sizeof(j->id), "j1");
    str_copy(j->generator, sizeof(j->generator), "avatar");
    str_copy(j->tenant, sizeof(j->tenant), "me");
    j->priority = 9;
    j->deadline_run_ms = 1;
    j->plan_bytes = INT64_C(1) << 40;
    j->params = json_pack("{s:I}", "seed", (json_int_t)INT64_MAX);
}

static void test_record(void **state)
{
    (void)state;
    struct job j, back;
    struct buf b;
    struct err err = {0};
    buf_init(&b, 1 << 20);
    fill(&j);
    j.extra = json_pack("{s:[i,i]}", "later", 1, 2);
    assert_int_equal(job_pack(&j, &b, &err), 0);
    assert_int_equal(job_unpack(b.data, b.len, &back, &err), 0);
    assert_string_equal(back.id, "j1");
    assert_string_equal(back.tenant, "me");
    assert_int_equal(back.priority, 9);
    assert_int_equal(back.plan_bytes, INT64_C(1) << 40);
    assert_true(json_equal(back.params, j.params));
    assert_true(json_equal(back.extra, j.extra)); /* unknown fields survive */
    assert_null(back.tags);
    struct buf again;
    buf_init(&again, 1 << 20);
    assert_int_equal(job_pack(&back, &again, &err), 0);
    struct job third;
    assert_int_equal(job_unpack(again.data, again.len, &third, &err), 0);
    assert_true(json_equal(third.extra, j.extra));
    job_done(&third);
    job_done(&back);
    job_done(&j);
    buf_done(&again);
    buf_done(&b);
}

static int unpack_json(json_t *o)
{
    struct buf b;
    struct job j;
    struct err err = {0};
    buf_init(&b, 1 << 20);
    assert_int_equal(pack_write(&b, o, &err), 0);
    json_decref(o);
    int rc = job_unpack(b.data, b.len, &j, &err);
    if (rc == 0)
        job_done(&j);
    buf_done(&b);
    return rc;
}

static void test_bad_records(void **state)
{
    (void)state;
    assert_int_equal(unpack_json(json_pack("{s:i,s:s,s:{}}", "v", 1, "id", "a", "params")), 0);
    assert_int_equal(unpack_json(json_pack("{s:i,s:s,s:{}}", "v", 2, "id", "a", "params")), ERR_UNSUPPORTED);
    assert_int_equal(unpack_json(json_pack("{s:i,s:s,s:{}}", "v", 0, "id", "a", "params")), ERR_FORMAT);
    assert_int_equal(unpack_json(json_pack("{s:i,s:s,s:{}}", "v", 1, "id", "a/b", "params")), ERR_FORMAT);
    assert_int_equal(unpack_json(json_pack("{s:i,s:s}", "v", 1, "id", "a")), ERR_FORMAT);
    assert_int_equal(unpack_json(json_pack("{s:i,s:s,s:[]}", "v", 1, "id", "a", "params")), ERR_FORMAT);
    assert_int_equal(unpack_json(json_pack("{s:i,s:i,s:{}}", "v", 1, "id", 1, "params")), ERR_FORMAT);
    assert_int_equal(unpack_json(json_pack("{s:i,s:s,s:{},s:i}", "v", 1, "id", "a", "params", "prio", 10)),
                     ERR_FORMAT);
    assert_int_equal(unpack_json(json_pack("{s:i,s:s,s:{},s:s}", "v", 1, "id", "a", "params", "ttl", "x")),
                     ERR_FORMAT);
    assert_int_equal(unpack_json(json_array()), ERR_FORMAT);
}

static void test_too_long(void **state)
{
    (void)state;
    struct job j;
    struct buf b;
    struct err err = {0};
    static char text[JOB_RECORD_MAX];
    memset(text, 'a', sizeof(text) - 1);
    buf_init(&b, 1 << 20);
    fill(&j);
    json_object_set_new(j.params, "prompt", json_string(text));
    assert_int_equal(job_pack(&j, &b, &err), ERR_TOOBIG);
    assert_int_equal(b.len, 0);
    job_done(&j);
    buf_done(&b);
}

/* Every allocation of ours fails once: ERR_NOMEM each time, nothing left half done. */
static void test_no_memory(void **state)
{
    (void)state;
    struct job j;
    struct queue q;
    struct queue_cmd c = {0};
    int rc = ERR_NOMEM, n_failed = 0;
    fill(&j);
    assert_int_equal(queue_init(&q, "q", NULL), 0);
    for (int n = 1; rc != 0; n++) {
        struct err err = {0};
        mem_fail_at(n);
        rc = queue_cmd_submit(&c, &q, &j, 1, &err);
        mem_fail_at(0);
        if (rc < 0) {
            assert_int_equal(rc, ERR_NOMEM);
            assert_true(err.text[0] != 0);
            assert_int_equal(c.argc, 0);
            n_failed++;
        }
    }
    assert_true(n_failed >= 2);
    assert_string_equal(c.argv[1], "troupe_submit");
    queue_cmd_done(&c);
    job_done(&j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),         cmocka_unit_test(test_states),   cmocka_unit_test(test_record),
        cmocka_unit_test(test_bad_records), cmocka_unit_test(test_too_long), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
