#include "common/job.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/pack.h"
#include "common/str.h"

static const struct {
    const char *text;
    bool final;
} states[JOB_STATE_COUNT] = {
#define X(name, text, final) {text, final},
    JOB_STATES(X)
#undef X
};

const char *job_state_text(enum job_state s)
{
    return (unsigned)s < JOB_STATE_COUNT ? states[s].text : "unknown";
}

int job_state_parse(const char *text, enum job_state *ret)
{
    for (int i = 0; text && i < JOB_STATE_COUNT; i++)
        if (strcmp(text, states[i].text) == 0) {
            *ret = (enum job_state)i;
            return 0;
        }
    return ERR_INVALID;
}

bool job_state_final(enum job_state s)
{
    return (unsigned)s < JOB_STATE_COUNT && states[s].final;
}

void job_init(struct job *j)
{
    *j = (struct job){.version = JOB_VERSION, .priority = JOB_PRIORITY_DEFAULT, .group_min = 1, .group_max = 1};
}

void job_done(struct job *j)
{
    json_decref(j->params);
    json_decref(j->tags);
    json_decref(j->extra);
    *j = (struct job){0};
}

void job_view_done(struct job_view *v)
{
    job_done(&v->job);
    json_decref(v->status.result);
    json_decref(v->status.late);
    json_decref(v->status.history);
    v->status = (struct job_status){0};
}

int job_make_id(char id[JOB_ID])
{
    unsigned char b[16];
    if (getrandom(b, sizeof(b), 0) != (ssize_t)sizeof(b))
        return ERR_IO;
    uint64_t ms = (uint64_t)clock_wall_ms();
    for (int i = 0; i < 6; i++)
        b[i] = (unsigned char)(ms >> (40 - 8 * i));
    b[6] = (b[6] & 0x0f) | 0x70;
    b[8] = (b[8] & 0x3f) | 0x80;
    return str_format(id, JOB_ID, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                      b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
                      b[14], b[15]);
}

bool job_id_ok(const char *id)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t n = id ? strspn(id, allowed) : 0;
    return n > 0 && n < JOB_ID && id[n] == 0 && id[0] != '-';
}

/* Text and number fields of the record: key in the record, member. */
#define TEXT_FIELDS(X)                                                                                       \
    X("id", id)                                                                                              \
    X("gen", generator)                                                                                      \
    X("tenant", tenant)                                                                                      \
    X("idem", idem_key)                                                                                      \
    X("fp", fingerprint)                                                                                     \
    X("labels", labels)                                                                                      \
    X("cache", cache_key)                                                                                    \
    X("hook", webhook)                                                                                       \
    X("hook_on", webhook_events)                                                                             \
    X("trace", traceparent)
#define NUMBER_FIELDS(X)                                                                                     \
    X("ds", deadline_start_ms)                                                                               \
    X("dr", deadline_run_ms)                                                                                 \
    X("ttl", ttl_ms)                                                                                         \
    X("bytes", plan_bytes)                                                                                   \
    X("gmin", group_min)                                                                                     \
    X("gmax", group_max)

int job_pack(const struct job *j, struct buf *b, struct err *err)
{
    if (!job_id_ok(j->id))
        return err_set(err, ERR_INVALID, "id: '%s' is not 1 to %d of A-Z a-z 0-9 _ -", j->id, JOB_ID - 1);
    json_t *o = j->extra ? json_copy(j->extra) : json_object();
    int bad = !o;
    bad |= json_object_set_new(o, "v", json_integer(j->version));
    bad |= json_object_set_new(o, "prio", json_integer(j->priority));
#define X(key, member) bad |= json_object_set_new(o, key, json_string(j->member));
    TEXT_FIELDS(X)
#undef X
#define X(key, member) bad |= json_object_set_new(o, key, json_integer(j->member));
    NUMBER_FIELDS(X)
#undef X
    bad |= json_object_set(o, "params", j->params ? j->params : json_null());
    if (j->tags)
        bad |= json_object_set(o, "tags", j->tags);
    struct buf packed;
    buf_init(&packed, JOB_RECORD_MAX);
    int rc = bad ? err_set(err, ERR_NOMEM, "no memory for the job's record") : pack_write(&packed, o, err);
    if (rc == 0)
        rc = buf_add(b, packed.data, packed.len);
    buf_done(&packed);
    json_decref(o);
    return rc < 0 ? err_set(err, rc, "the job's record: %s", err_text(rc)) : 0;
}

static int take_text(json_t *o, const char *key, char *dst, size_t size)
{
    const json_t *v = json_object_get(o, key);
    int rc = !v ? 0 : !json_is_string(v) ? ERR_FORMAT : str_copy(dst, size, json_string_value(v));
    json_object_del(o, key);
    return rc;
}

static int take_number(json_t *o, const char *key, int64_t *ret)
{
    const json_t *v = json_object_get(o, key);
    if (v && !json_is_integer(v))
        return ERR_FORMAT;
    if (v)
        *ret = json_integer_value(v);
    json_object_del(o, key);
    return 0;
}

static json_t *take_value(json_t *o, const char *key)
{
    json_t *v = json_incref(json_object_get(o, key));
    json_object_del(o, key);
    return v;
}

static int take_fields(json_t *o, struct job *j)
{
    int64_t version = 0, prio = JOB_PRIORITY_DEFAULT;
    int bad = take_number(o, "v", &version) | take_number(o, "prio", &prio);
#define X(key, member) bad |= take_text(o, key, j->member, sizeof(j->member));
    TEXT_FIELDS(X)
#undef X
#define X(key, member) bad |= take_number(o, key, &j->member);
    NUMBER_FIELDS(X)
#undef X
    j->version = version > 0 && version < 1 << 20 ? (int)version : 0;
    j->priority = prio >= 0 && prio <= 9 ? (int)prio : -1;
    j->params = take_value(o, "params");
    j->tags = take_value(o, "tags");
    if (json_object_size(o))
        j->extra = json_incref(o);
    return bad || !j->version || j->priority < 0 || !job_id_ok(j->id) || !json_is_object(j->params) ||
                   (j->tags && !json_is_array(j->tags))
               ? ERR_FORMAT
               : 0;
}

int job_unpack(const void *bytes, size_t len, struct job *ret, struct err *err)
{
    struct job j;
    json_t *o = NULL;
    job_init(&j);
    int rc = pack_read(bytes, len, NULL, &o, err);
    if (rc < 0)
        return err_wrap(err, "the job's record");
    rc = json_is_object(o) ? take_fields(o, &j) : ERR_FORMAT;
    json_decref(o);
    if (j.version > JOB_VERSION)
        rc =
            err_set(err, ERR_UNSUPPORTED, "the job's record has version %d, this program knows %d: update it",
                    j.version, JOB_VERSION);
    else if (rc < 0)
        err_set(err, rc, "the job's record is not of the expected form");
    if (rc < 0)
        job_done(&j);
    else
        *ret = j;
    return rc;
}
