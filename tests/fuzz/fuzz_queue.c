/* fuzz_queue.c -- any bytes as what Redis gives: msgpack, job records, answers, events. What is read must
 * pack again to a value that is equal; every reader either refuses or gives an object that can be freed. */
#include <stdio.h>
#include <stdlib.h>

#include "common/pack.h"
#include "common/queue.h"
#include "tests/fuzz/fuzz.h"

static void must(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "fuzz_queue: %s\n", what);
        abort();
    }
}

static void round_trip(const uint8_t *data, size_t size)
{
    json_t *v = NULL, *back = NULL;
    size_t used = 0;
    struct buf b;
    buf_init(&b, 1 << 20);
    if (pack_read(data, size, &used, &v, NULL) == 0) {
        must(used > 0 && used <= size, "more bytes used than there are");
        if (pack_write(&b, v, NULL) == 0) {
            must(pack_read(b.data, b.len, NULL, &back, NULL) == 0, "what was packed cannot be read");
            must(json_equal(v, back), "not equal after a round trip");
        }
    }
    json_decref(v);
    json_decref(back);
    buf_done(&b);
}

static void record(const uint8_t *data, size_t size)
{
    struct job job, again;
    struct buf b;
    buf_init(&b, 1 << 20);
    if (job_unpack(data, size, &job, NULL) < 0)
        return;
    if (job_pack(&job, &b, NULL) == 0) {
        must(job_unpack(b.data, b.len, &again, NULL) == 0, "a record that was packed cannot be read");
        must(json_equal(job.params, again.params), "parameters changed");
        job_done(&again);
    }
    job_done(&job);
    buf_done(&b);
}

static void answers(const uint8_t *data, size_t size)
{
    struct job_view view;
    struct queue_claimed claimed;
    struct queue_expired expired;
    struct queue_submitted submitted;
    struct queue_cancelled cancelled;
    struct queue_heard heard;
    struct queue_event event;
    enum job_state state;
    char cursor[64];
    json_t *v = NULL;
    if (queue_read_get(data, size, &view, NULL) == 0)
        job_view_done(&view);
    if (queue_read_claim(data, size, &claimed, NULL) == 0)
        job_done(&claimed.job);
    if (queue_read_expire(data, size, &expired, NULL) == 0)
        json_decref(expired.forget);
    if (queue_read_list(data, size, &v, cursor, NULL) == 0)
        json_decref(v);
    queue_read_submit(data, size, &submitted, NULL);
    queue_read_cancel(data, size, &cancelled, NULL);
    queue_read_heard(data, size, &heard, NULL);
    queue_read_event(data, size, &event, NULL);
    queue_read_settle(data, size, &state, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    round_trip(data, size);
    record(data, size);
    answers(data, size);
    return 0;
}
