/* pipeline.c -- see the header. `struct pipeline` is one job in work; pipeline_run is the story: `begin`, the
 * generator, `publish`, and `clean` whatever happened. Everything here runs on the compute thread. */
#include "worker/pipeline.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/blob.h"
#include "common/clock.h"
#include "common/crash.h"
#include "common/mem.h"
#include "common/sha256.h"
#include "common/str.h"
#include "common/version.h"
#include "kernels/device.h"
#include "kernels/shadow.h"
#include "worker/media/image_out.h"
#include "worker/media/mp4.h"
#include "worker/media/sandbox.h"

#define WARNINGS_MAX 16
#define CRF 17 /* visually lossless */

struct pipeline {
    const struct generator_env *env;
    const struct job *job;
    int64_t attempt;
    char mark[9]; /* of this run's files */
    const struct pipeline_hooks *hooks;
    char video[BLOB_PATH], video_part[BLOB_PATH]; /* the other files have the names of the result object */
    struct mp4 *mp4;                              /* owned */
    const struct sound *sound;
    double fps;
    struct image first; /* owned: the first frame */
    int64_t n_frames;
    json_t *report;   /* owned */
    json_t *warnings; /* owned: array */
    json_t *seconds;  /* owned: {stage: seconds} */
    char stage[24];
    int64_t stage_us; /* since when it runs */
    uint64_t seed;
};

/* ---- progress ---- */

static void end_stage(struct pipeline *p, int64_t now)
{
    if (!p->stage[0])
        return;
    double s = json_number_value(json_object_get(p->seconds, p->stage)) +
               (double)(now - p->stage_us) / (double)CLOCK_S;
    json_object_set_new(p->seconds, p->stage, json_real(s));
}

void pipeline_progress(struct pipeline *p, const char *stage, int64_t step, int64_t total, double eta_s)
{
    if (strcmp(stage, p->stage) != 0) {
        int64_t now = clock_us();
        CRASH_POINT(worker_stage);
        end_stage(p, now);
        str_copy(p->stage, sizeof(p->stage), stage);
        p->stage_us = now;
    }
    p->hooks->progress(p->hooks->arg, stage, step, total, eta_s);
    CRASH_POINT_IF(step > 0 && step < total && strcmp(stage, "denoise") == 0, worker_denoise);
}

void pipeline_warn(struct pipeline *p, const char *text)
{
    if (json_array_size(p->warnings) < WARNINGS_MAX)
        json_array_append_new(p->warnings, json_string(text));
}

void pipeline_note(struct pipeline *p, const char *key, json_t *value)
{
    if (value)
        json_object_set_new(p->report, key, value);
}

void pipeline_seed(struct pipeline *p, uint64_t seed)
{
    p->seed = seed;
}

const json_t *pipeline_params(const struct pipeline *p)
{
    return p->job->params;
}

const atomic_int *pipeline_cancel(const struct pipeline *p)
{
    return p->hooks->cancel;
}

struct gang *pipeline_gang(const struct pipeline *p)
{
    return p->hooks->gang;
}

static int cancelled(const struct pipeline *p, struct err *err)
{
    if (p->hooks->cancel && atomic_load(p->hooks->cancel))
        return err_set(err, ERR_CANCEL, "the job was cancelled");
    return 0;
}

/* ---- inputs ---- */

static int open_input(struct pipeline *p, const char *field, int *ret_fd, struct err *err)
{
    const char *key = json_string_value(json_object_get(p->job->params, field));
    struct err why = {0};
    int rc = cancelled(p, err);
    if (rc < 0)
        return rc;
    pipeline_progress(p, "fetch", 0, 0, -1);
    if (!key)
        return err_set(err, ERR_INVALID, "%s: missing", field);
    rc = blob_open(p->env->conf->volume, key, ret_fd, &why);
    if (rc == ERR_NOTFOUND) /* it was there when the job was accepted */
        rc = ERR_MEDIA;
    return rc < 0 ? err_set(err, rc, "%s: %s", field, why.text) : 0;
}

int pipeline_image(struct pipeline *p, const char *field, struct image *ret, struct err *err)
{
    int fd = -1, rc = open_input(p, field, &fd, err);
    if (rc < 0)
        return rc;
    pipeline_progress(p, "probe", 0, 0, -1);
    rc = sandbox_image_fd(fd, true, ret, err);
    close(fd);
    return rc;
}

int pipeline_sound(struct pipeline *p, const char *field, const struct audio_limit *limit, struct sound *ret,
                   struct err *err)
{
    int fd = -1, rc = open_input(p, field, &fd, err);
    if (rc < 0)
        return rc;
    pipeline_progress(p, "probe", 0, 0, -1);
    rc = sandbox_audio_fd(fd, limit, ret, err);
    close(fd);
    CRASH_POINT(worker_inputs);
    return rc;
}

/* ---- the video ---- */

void pipeline_video(struct pipeline *p, double fps, const struct sound *sound)
{
    p->fps = fps;
    p->sound = sound;
}

int pipeline_picture(struct pipeline *p, const uint8_t *rgb, int width, int height, struct err *err)
{
    image_done(&p->first);
    p->first.pixels = mem_dup(rgb, (size_t)width * (size_t)height * 3);
    if (!p->first.pixels)
        return err_set(err, ERR_NOMEM, "no memory for the thumbnail");
    p->first.width = width;
    p->first.height = height;
    return 0;
}

static int open_video(struct pipeline *p, int width, int height, struct err *err)
{
    struct mp4_options o = {.width = width, .height = height, .fps = p->fps, .crf = CRF};
    int rc = p->first.pixels ? 0 : err_set(err, ERR_INTERNAL, "no picture came before the frames");
    if (rc == 0)
        rc = mp4_open(&p->mp4, p->video_part, &o, err);
    if (rc == 0 && p->sound)
        rc = mp4_sound(p->mp4, p->sound, err);
    return rc;
}

int pipeline_frames(struct pipeline *p, const uint8_t *yuv, int64_t n, int width, int height, struct err *err)
{
    int rc = cancelled(p, err);
    if (rc == 0 && !p->mp4)
        rc = open_video(p, width, height, err);
    if (rc == 0)
        rc = mp4_frames(p->mp4, yuv, n, err);
    if (rc == 0)
        p->n_frames += n;
    CRASH_POINT(worker_frames);
    return rc;
}

/* ---- publishing ---- */

static int digest_of(const char *path, char hex[SHA256_HEX], int64_t *ret_bytes, struct err *err)
{
    struct sha256 h;
    char chunk[64 * 1024];
    ssize_t n;
    int rc = sha256_init(&h), fd = open(path, O_RDONLY | O_CLOEXEC);
    *ret_bytes = 0;
    if (rc < 0 || fd < 0) {
        rc = rc < 0 ? err_set(err, rc, "no memory for a checksum") : blob_errno(err, errno, "read", path);
        goto out;
    }
    while ((n = read(fd, chunk, sizeof(chunk))) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rc = blob_errno(err, errno, "read", path);
            goto out;
        }
        sha256_add(&h, chunk, (size_t)n);
        *ret_bytes += n;
    }
    rc = sha256_hex(&h, hex);
    if (rc < 0)
        err_set(err, rc, "the checksum of the video failed");
out:
    sha256_done(&h);
    if (fd >= 0)
        close(fd);
    return rc;
}

/* Attempt and mark make the name: a queue that lost its last second (Redis without power, a failover) may give the same
 * attempt to two workers, and neither must touch the other's files. */
static int result_path(const struct pipeline *p, const char *name, bool make, char *ret, struct err *err)
{
    char marked[48];
    str_format(marked, sizeof(marked), "%s-%s", p->mark, name);
    return blob_result_path(p->env->conf->volume, p->job->id, p->attempt, marked, make, ret, BLOB_PATH, err);
}

static int publish_video(struct pipeline *p, char hex[SHA256_HEX], int64_t *ret_bytes, struct err *err)
{
    struct mp4 *m = p->mp4;
    if (!m)
        return err_set(err, ERR_INTERNAL, "the generator made no frame");
    pipeline_progress(p, "encode", p->n_frames, p->n_frames, 0);
    p->mp4 = NULL; /* finish frees it, also when it fails */
    int rc = mp4_finish(m, err);
    CRASH_POINT(worker_video);
    if (rc == 0)
        rc = digest_of(p->video_part, hex, ret_bytes, err);
    pipeline_progress(p, "publish", 0, 0, 0);
    return rc < 0 ? rc : blob_publish(p->video_part, p->video, err);
}

static int publish_thumbnail(struct pipeline *p, struct err *err)
{
    char path[BLOB_PATH], part[BLOB_PATH];
    int rc = result_path(p, "thumbnail.png", true, path, err);
    if (rc == 0)
        rc = result_path(p, "thumbnail.png.part", true, part, err);
    if (rc == 0)
        rc = image_out_png(&p->first, part, err);
    return rc < 0 ? rc : blob_publish(part, path, err);
}

static json_t *result_of(const struct pipeline *p, const char *hex, int64_t bytes)
{
    char name[3][48];
    static const char *const names[] = {"video.mp4", "thumbnail.png", "report.json"};
    for (int i = 0; i < 3; i++)
        str_format(name[i], sizeof(name[i]), "%lld-%s-%s", (long long)p->attempt, p->mark, names[i]);
    return json_pack("{s:s,s:I,s:s,s:s,s:s,s:i,s:i,s:I,s:f,s:f,s:I,s:O}", "video", name[0], "video_bytes",
                     (json_int_t)bytes, "video_sha256", hex, "thumbnail", name[1], "report", name[2], "width",
                     p->first.width, "height", p->first.height, "frames", (json_int_t)p->n_frames, "fps",
                     p->fps, "seconds", (double)p->n_frames / p->fps, "seed", (json_int_t)p->seed, "warnings",
                     p->warnings);
}

/* Of this process since its start: jobs before this one count too. */
static json_int_t peak_rss(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (json_int_t)u.ru_maxrss * 1024 : 0;
}

static int publish_report(struct pipeline *p, const char *worker, json_t *result, struct err *err)
{
    char path[BLOB_PATH];
    end_stage(p, clock_us());
    p->stage_us = clock_us();
    int bad = json_object_update_missing(p->report, result);
    pipeline_note(p, "job", json_string(p->job->id));
    pipeline_note(p, "attempt", json_integer(p->attempt));
    pipeline_note(p, "generator", json_string(p->job->generator));
    pipeline_note(p, "params", json_incref(p->job->params));
    pipeline_note(p, "stage_seconds", json_incref(p->seconds));
    pipeline_note(p, "peak_rss_bytes", json_integer(peak_rss()));
    pipeline_note(p, "version", json_string(version_text()));
    pipeline_note(p, "build", json_string(version_build()));
    pipeline_note(p, "device", json_string(p->env->device->name));
    pipeline_note(p, "table", json_string(p->env->device->kind));
    pipeline_note(p, "worker", json_string(worker));
    char *text = bad ? NULL : json_dumps(p->report, JSON_INDENT(2));
    int rc =
        text ? result_path(p, "report.json", true, path, err) : err_set(err, ERR_NOMEM, "no memory for the report");
    if (rc == 0)
        rc = blob_publish_bytes(path, text, strlen(text), err);
    mem_free(text);
    return rc;
}

static int publish(struct pipeline *p, const char *worker, json_t **ret_result, struct err *err)
{
    char hex[SHA256_HEX];
    int64_t bytes = 0;
    int rc = cancelled(p, err);
    if (rc == 0)
        rc = publish_video(p, hex, &bytes, err);
    CRASH_POINT(worker_video_named);
    if (rc == 0)
        rc = publish_thumbnail(p, err);
    json_t *result = rc == 0 ? result_of(p, hex, bytes) : NULL;
    if (rc == 0 && !result)
        rc = err_set(err, ERR_NOMEM, "no memory for the result");
    if (rc == 0)
        rc = publish_report(p, worker, result, err);
    if (rc == 0)
        *ret_result = result;
    else
        json_decref(result);
    return rc;
}

/* What the shadow of the device saw, if it has one; in the report's "shadow". */
static void note_shadow(struct pipeline *p)
{
    struct shadow *s = p->env->device->shadow;
    struct shadow_report r;
    char text[120];
    if (!s)
        return;
    shadow_report(s, &r);
    pipeline_note(p, "shadow", json_pack("{s:I,s:I,s:f,s:s,s:s}", "checked", (json_int_t)r.n_checked, "skipped",
                                         (json_int_t)r.n_skipped, "largest_share", r.share, "op", r.op, "label", r.label));
    if (r.n_skipped == 0)
        return;
    str_format(text, sizeof(text), "shadow: %lld operations were too large to be checked", (long long)r.n_skipped);
    pipeline_warn(p, text);
}

static int begin(struct pipeline *p, struct err *err)
{
    struct shadow_report before;
    if (p->env->device->shadow) /* of a job that failed */
        shadow_report(p->env->device->shadow, &before);
    p->report = json_object();
    p->warnings = json_array();
    p->seconds = json_object();
    if (!p->report || !p->warnings || !p->seconds)
        return err_set(err, ERR_NOMEM, "no memory for the job");
    char id[JOB_ID];
    int rc = job_make_id(id);
    if (rc < 0)
        return err_set(err, rc, "no random numbers");
    str_copy(p->mark, sizeof(p->mark), id + strlen(id) - (sizeof(p->mark) - 1)); /* its random end */
    rc = result_path(p, "video.mp4", true, p->video, err);
    return rc < 0 ? rc : result_path(p, "video.mp4.part", true, p->video_part, err);
}

/* What an attempt that failed has written. The folder stays: another attempt may be about to write there. */
static void remove_files(const struct pipeline *p)
{
    static const char *const names[] = {"video.mp4",          "video.mp4.part", "thumbnail.png",
                                        "thumbnail.png.part", "report.json",    "report.json.part"};
    char path[BLOB_PATH];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (result_path(p, names[i], false, path, NULL) == 0)
            unlink(path);
}

int pipeline_run(const struct generator *g, void *state, const struct generator_env *env, const char *worker,
                 const struct job *job, int64_t attempt, const struct pipeline_hooks *hooks,
                 json_t **ret_result, json_t **ret_report, struct err *err)
{
    struct pipeline *p = mem_zalloc(sizeof(*p));
    if (!p)
        return err_set(err, ERR_NOMEM, "no memory for the job");
    p->env = env;
    p->job = job;
    p->attempt = attempt;
    p->hooks = hooks;
    p->fps = 25;
    int rc = begin(p, err);
    if (rc == 0)
        rc = g->run(state, p, err);
    if (rc == 0)
        note_shadow(p);
    if (rc == 0 && gang_rank(hooks->gang) == 0)
        rc = publish(p, worker, ret_result, err);
    if (p->mp4)
        mp4_abort(p->mp4);
    if (rc < 0)
        remove_files(p);
    image_done(&p->first);
    if (rc == 0)
        *ret_report = json_incref(p->report);
    json_decref(p->report);
    json_decref(p->warnings);
    json_decref(p->seconds);
    mem_free(p);
    return rc;
}
