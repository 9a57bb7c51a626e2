#include "worker/model/avatar_parts.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/sha256.h"
#include "common/str.h"
#include "kernels/pool.h"
#include "worker/face/face.h"
#include "worker/model/avatar_full.h"
#include "worker/model/ckpt_random.h"
#include "worker/model/clip_text.h"
#include "worker/model/dit.h"
#include "worker/model/llava.h"
#include "worker/model/tokenizer_clip.h"
#include "worker/model/tokenizer_llama.h"
#include "worker/model/vae.h"
#include "worker/model/whisper.h"

#define DIT_DIR "hunyuan-video-t2v-720p/transformers/"
#define VAE_DIR "hunyuan-video-t2v-720p/vae/"

#define FACE_FILE "det_align/detface.pt"
#define SMALL_BYTES ((size_t)8 << 20) /* mel filters, and what rounding up adds to a few allocations */

enum { PATH_MAX_BYTES = 2048 };

/* ---- files ---- */

static int avatar_parts_path(const struct avatar_parts *p, const char *name, char path[PATH_MAX_BYTES],
                             struct err *err)
{
    if (str_path(path, PATH_MAX_BYTES, p->root, name) < 0)
        return err_set(err, ERR_INVALID, "ckpts: the path is longer than %d bytes", PATH_MAX_BYTES);
    return 0;
}

static bool avatar_parts_has(const struct avatar_parts *p, const char *name)
{
    char path[PATH_MAX_BYTES];

    return str_path(path, sizeof(path), p->root, name) == 0 && access(path, R_OK) == 0;
}

/* What the tree must hold. detface.pt may be absent: a cascade finds faces then. */
static const char *const avatar_parts_files[] = {
    VAE_DIR "config.json",           VAE_DIR "pytorch_model.pt",
    "llava_llama_image/config.json", "llava_llama_image/tokenizer.json",
    "text_encoder_2/config.json",    "text_encoder_2/vocab.json",
    "text_encoder_2/merges.txt",     "whisper-tiny/config.json",
};
static const char *const avatar_parts_dit_files[] = {DIT_DIR "mp_rank_00_model_states.pt"};
static const char *const avatar_parts_fp8_files[] = {DIT_DIR "mp_rank_00_model_states_fp8.pt",
                                                     DIT_DIR "mp_rank_00_model_states_fp8_map.pt"};

static int avatar_parts_missing(const struct avatar_parts *p, const char *const *list, size_t n,
                                struct buf *missing)
{
    int count = 0;

    for (size_t i = 0; i < n; i++) {
        if (avatar_parts_has(p, list[i]))
            continue;
        buf_printf(missing, "%s%s", missing->len > 0 ? ", " : "", list[i]);
        count++;
    }
    return count;
}

static int avatar_parts_check(const struct avatar_parts *p, struct err *err)
{
    struct buf missing;
    int count, rc = 0;

    if (access(p->root, R_OK | X_OK) != 0)
        return err_set(
            err, ERR_WEIGHTS,
            "ckpts: %s is not there or not readable; expected is the published folder with "
            "hunyuan-video-t2v-720p, llava_llama_image, text_encoder_2, whisper-tiny and det_align in it",
            p->root);
    buf_init(&missing, 1 << 16);
    count =
        avatar_parts_missing(p, avatar_parts_files, sizeof(avatar_parts_files) / sizeof(char *), &missing);
    if (p->fp8)
        count += avatar_parts_missing(p, avatar_parts_fp8_files, 2, &missing);
    else
        count += avatar_parts_missing(p, avatar_parts_dit_files, 1, &missing);
    if (count > 0)
        rc = err_set(err, ERR_WEIGHTS, "ckpts: %d file%s missing in %s: %s", count,
                     count > 1 ? "s are" : " is", p->root, missing.data != NULL ? missing.data : "");
    buf_done(&missing);
    return rc;
}

/* ---- loading, one function a component ---- */

static void avatar_parts_place(const struct avatar_parts *p, struct ckpt *c)
{
    *ckpt_place(c) = (struct ckpt_place){.pool = p->pool, .is_streamed = p->mode.weights == AVATAR_STREAMED};
}

/* The checkpoint at name, or the list of the published model; on a device, with random weights. */
static int avatar_parts_ckpt(const struct avatar_parts *p, struct ckpt **ret, const char *name,
                             const unsigned char *list, size_t len, struct err *err)
{
    char path[PATH_MAX_BYTES];
    int rc;

    if (p->root == NULL && p->device != NULL)
        rc = ckpt_open_random(ret, (const char *)list, len, 1, err);
    else if (p->root == NULL)
        rc = ckpt_open_list(ret, (const char *)list, len, err);
    else if ((rc = avatar_parts_path(p, name, path, err)) == 0)
        rc = ckpt_open(ret, path, err);
    if (rc == 0)
        avatar_parts_place(p, *ret);
    return rc;
}

static int avatar_parts_load_llava(struct avatar_parts *p, struct err *err)
{
    struct llava_config c;
    char path[PATH_MAX_BYTES];
    int rc;

    if (p->root == NULL) {
        rc = llava_config_parse(&c, (const char *)avatar_full_llava_json, avatar_full_llava_json_len, err);
    } else if ((rc = avatar_parts_path(p, "llava_llama_image/config.json", path, err)) == 0) {
        rc = llava_config_read(&c, path, err);
        *strrchr(path, '/') = 0;
        if (rc == 0)
            rc = tokenizer_llama_open(&p->tokenizer_llama, path, err);
    }
    if (rc < 0)
        return rc;
    rc = avatar_parts_ckpt(p, &p->llava_ckpt, "llava_llama_image", avatar_full_llava_tsv,
                           avatar_full_llava_tsv_len, err);
    return rc < 0 ? rc : llava_open(&p->llava, &c, p->llava_ckpt, p->device, err);
}

static int avatar_parts_load_clip(struct avatar_parts *p, struct err *err)
{
    struct clip_text_config c;
    char path[PATH_MAX_BYTES];
    int rc;

    if (p->root == NULL) {
        rc = clip_text_config_parse(&c, (const char *)avatar_full_clip_json, avatar_full_clip_json_len, err);
    } else if ((rc = avatar_parts_path(p, "text_encoder_2/config.json", path, err)) == 0) {
        rc = clip_text_config_read(&c, path, err);
        *strrchr(path, '/') = 0;
        if (rc == 0)
            rc = tokenizer_clip_open(&p->tokenizer_clip, path, err);
    }
    if (rc < 0)
        return rc;
    rc = avatar_parts_ckpt(p, &p->clip_ckpt, "text_encoder_2", avatar_full_clip_tsv, avatar_full_clip_tsv_len,
                           err);
    return rc < 0 ? rc : clip_text_open(&p->clip, &c, p->clip_ckpt, p->device, err);
}

static int avatar_parts_load_audio(struct avatar_parts *p, struct err *err)
{
    struct whisper_config c;
    char path[PATH_MAX_BYTES];
    int rc;

    if (p->root == NULL)
        rc = whisper_config_parse(&c, (const char *)avatar_full_whisper_json, avatar_full_whisper_json_len,
                                  err);
    else if ((rc = avatar_parts_path(p, "whisper-tiny/config.json", path, err)) == 0)
        rc = whisper_config_read(&c, path, err);
    if (rc < 0)
        return rc;
    rc = avatar_parts_ckpt(p, &p->audio_ckpt, "whisper-tiny", avatar_full_whisper_tsv,
                           avatar_full_whisper_tsv_len, err);
    return rc < 0 ? rc : whisper_open(&p->whisper, &c, p->audio_ckpt, p->device, err);
}

static int avatar_parts_load_face(struct avatar_parts *p, struct err *err)
{
    if (p->root == NULL)
        return 0; /* not planned: what it needs is far below the other parts */
    return face_finder_open(&p->face, p->root, p->device, err);
}

static int avatar_parts_load_vae(struct avatar_parts *p, struct err *err)
{
    struct vae_config c;
    char path[PATH_MAX_BYTES];
    int rc;

    if (p->root == NULL)
        rc = vae_config_parse((const char *)avatar_full_vae_json, avatar_full_vae_json_len, &c, err);
    else if ((rc = avatar_parts_path(p, VAE_DIR "config.json", path, err)) == 0)
        rc = vae_config_read(path, &c, err);
    if (rc < 0)
        return rc;
    rc = avatar_parts_ckpt(p, &p->vae_ckpt, VAE_DIR "pytorch_model.pt", avatar_full_vae_tsv,
                           avatar_full_vae_tsv_len, err);
    if (rc == 0 && (rc = vae_open(&p->vae, &c, p->vae_ckpt, p->device, err)) == 0)
        vae_set_compact(p->vae, p->mode.compact);
    return rc;
}

static int avatar_parts_load_dit(struct avatar_parts *p, struct err *err)
{
    char path[PATH_MAX_BYTES], map[PATH_MAX_BYTES];
    int rc;

    if (p->root != NULL && p->fp8) {
        if ((rc = avatar_parts_path(p, avatar_parts_fp8_files[0], path, err)) < 0 ||
            (rc = avatar_parts_path(p, avatar_parts_fp8_files[1], map, err)) < 0)
            return rc;
        if ((rc = ckpt_open_fp8(&p->dit_ckpt, path, map, err)) == 0)
            avatar_parts_place(p, p->dit_ckpt);
    } else {
        rc = avatar_parts_ckpt(p, &p->dit_ckpt, avatar_parts_dit_files[0], avatar_full_dit_tsv,
                               avatar_full_dit_tsv_len, err);
    }
    if (rc == 0 && (rc = dit_open(&p->dit, p->dit_ckpt, p->device, err)) == 0)
        dit_set_compact(p->dit, p->mode.compact);
    return rc;
}

static int (*const avatar_parts_load[AVATAR_PART_COUNT])(struct avatar_parts *p, struct err *err) = {
    [AVATAR_PART_TEXT] = avatar_parts_load_llava,  [AVATAR_PART_CLIP] = avatar_parts_load_clip,
    [AVATAR_PART_AUDIO] = avatar_parts_load_audio, [AVATAR_PART_FACE] = avatar_parts_load_face,
    [AVATAR_PART_VAE] = avatar_parts_load_vae,     [AVATAR_PART_DIT] = avatar_parts_load_dit,
};

/* ---- the whole ---- */

static void avatar_parts_set(struct avatar_parts *p, enum avatar_part part, enum avatar_part_status status)
{
    atomic_store(&p->state[part].status, status);
    if (part == AVATAR_PART_TEXT) {
        p->state[AVATAR_PART_VISION].seconds = p->state[part].seconds;
        p->state[AVATAR_PART_VISION].err = p->state[part].err;
        atomic_store(&p->state[AVATAR_PART_VISION].status, status);
    }
}

int avatar_parts_need(struct avatar_parts *p, enum avatar_part part, struct err *err)
{
    enum avatar_part real = part == AVATAR_PART_VISION ? AVATAR_PART_TEXT : part;
    struct avatar_part_state *s = &p->state[real];
    int64_t start = clock_us();
    int rc;

    if (atomic_load(&s->status) == AVATAR_PART_READY)
        return 0;
    if (p->mode.weights != AVATAR_RESIDENT && p->pool == NULL &&
        (rc = pool_new(&p->pool, p->device, p->pool_bytes, p->mode.pin, err)) < 0)
        return rc;
    if (atomic_load(&s->status) == AVATAR_PART_FAILED)
        return err_set(err, s->err.code, "%s: %s", avatar_parts_name(real), s->err.text);
    avatar_parts_set(p, real, AVATAR_PART_LOADING);
    rc = avatar_parts_load[real](p, &s->err);
    s->seconds = (double)(clock_us() - start) / 1e6;
    p->load_seconds += s->seconds;
    s->err.code = rc; /* the source's may be another: the second asking gets the first one's answer */
    avatar_parts_set(p, real, rc < 0 ? AVATAR_PART_FAILED : AVATAR_PART_READY);
    return rc < 0 ? err_set(err, rc, "%s: %s", avatar_parts_name(real), s->err.text) : 0;
}

int avatar_parts_init(struct avatar_parts *p, struct device *device, const char *root, bool fp8,
                      struct err *err)
{
    int rc = 0;

    memset(p, 0, sizeof(*p));
    p->device = device;
    p->fp8 = fp8;
    if (root == NULL)
        return 0;
    p->root = mem_strdup(root);
    if (p->root == NULL)
        return err_set(err, ERR_NOMEM, "ckpts: no memory");
    if ((rc = avatar_parts_check(p, err)) < 0)
        avatar_parts_done(p);
    return rc;
}

/* What the device made of a checkpoint's weights goes before the mapping does. */
static void avatar_parts_drop(const struct avatar_parts *p, struct ckpt *c)
{
    if (c != NULL && p->device != NULL)
        ckpt_forget(c, p->device);
    ckpt_close(c);
}

static void avatar_parts_close(struct avatar_parts *p)
{
    pool_free(p->pool); /* before the host memory that it copies from */
    face_finder_close(p->face);
    tokenizer_llama_close(p->tokenizer_llama);
    tokenizer_clip_close(p->tokenizer_clip);
    llava_close(p->llava);
    clip_text_close(p->clip);
    whisper_close(p->whisper);
    vae_close(p->vae);
    dit_close(p->dit);
    avatar_parts_drop(p, p->llava_ckpt);
    avatar_parts_drop(p, p->clip_ckpt);
    avatar_parts_drop(p, p->audio_ckpt);
    avatar_parts_drop(p, p->vae_ckpt);
    avatar_parts_drop(p, p->dit_ckpt);
}

void avatar_parts_done(struct avatar_parts *p)
{
    avatar_parts_close(p);
    mem_free(p->root);
    memset(p, 0, sizeof(*p));
}

void avatar_parts_set_mode(struct avatar_parts *p, const struct avatar_mode *mode)
{
    avatar_parts_close(p);
    for (int i = 0; i < AVATAR_PART_COUNT; i++) /* another thread may look */
        atomic_store(&p->state[i].status, AVATAR_PART_ABSENT);
    p->mode = *mode;
    p->pool = NULL;
    p->pool_bytes = 0;
    p->room[0] = p->room[1] = -1;
    p->llava_ckpt = p->clip_ckpt = p->audio_ckpt = p->vae_ckpt = p->dit_ckpt = NULL;
    p->llava = NULL;
    p->tokenizer_llama = NULL;
    p->tokenizer_clip = NULL;
    p->clip = NULL;
    p->whisper = NULL;
    p->face = NULL;
    p->vae = NULL;
    p->dit = NULL;
}

const char *avatar_parts_name(enum avatar_part part)
{
    static const char *const names[] = {
#define X(id, name) name,
        AVATAR_PARTS(X)
#undef X
    };
    return names[part];
}

const char *avatar_parts_status(const struct avatar_parts *p, enum avatar_part part)
{
    static const char *const names[] = {"not loaded", "loading", "ready", "failed"};

    return names[atomic_load(&p->state[part].status)];
}

static struct ckpt *avatar_parts_ckpt_of(const struct avatar_parts *p, enum avatar_part part)
{
    struct ckpt *const list[AVATAR_PART_COUNT] = {
        [AVATAR_PART_TEXT] = p->llava_ckpt,  [AVATAR_PART_CLIP] = p->clip_ckpt,
        [AVATAR_PART_AUDIO] = p->audio_ckpt, [AVATAR_PART_VAE] = p->vae_ckpt,
        [AVATAR_PART_DIT] = p->dit_ckpt,
    };
    return list[part];
}

size_t avatar_parts_bytes(const struct avatar_parts *p, enum avatar_part part)
{
    struct ckpt *c = avatar_parts_ckpt_of(p, part);

    return c != NULL ? ckpt_place(c)->bytes : 0;
}

size_t avatar_parts_rounding(const struct avatar_parts *p)
{
    size_t bytes = 0;

    for (int i = 0; i < AVATAR_PART_COUNT && p->pool == NULL; i++) {
        struct ckpt *c = avatar_parts_ckpt_of(p, (enum avatar_part)i);
        if (c != NULL)
            bytes += ckpt_place(c)->apart - ckpt_place(c)->bytes;
    }
    return bytes;
}

size_t avatar_parts_small_bytes(const struct avatar_parts *p)
{
    char path[PATH_MAX_BYTES];
    struct stat st;
    size_t bytes = SMALL_BYTES;

    if (p->root != NULL && str_path(path, sizeof(path), p->root, FACE_FILE) == 0 && stat(path, &st) == 0)
        bytes += (size_t)st.st_size;
    return bytes;
}

void avatar_parts_take(const struct avatar_parts *p, struct run *r, enum avatar_part part)
{
    if (p->pool != NULL)
        pool_take(r, p->pool, ckpt_place(avatar_parts_ckpt_of(p, part))->block);
}

void avatar_parts_leave(const struct avatar_parts *p, struct run *r, enum avatar_part part)
{
    if (p->pool != NULL)
        pool_next(r, p->pool, ckpt_place(avatar_parts_ckpt_of(p, part))->block, -1);
}

int avatar_parts_digest(struct avatar_parts *p, char hex[65], struct err *err)
{
    struct sha256 h = {0};
    char one[65];
    int rc = sha256_init(&h);

    for (int i = 0; i < AVATAR_PART_COUNT && rc == 0; i++) {
        struct ckpt *c = avatar_parts_ckpt_of(p, (enum avatar_part)i);
        if (c == NULL)
            continue;
        if ((rc = ckpt_digest(c, one, err)) == 0)
            sha256_add(&h, one, 64);
    }
    if (rc == 0)
        rc = sha256_hex(&h, hex);
    sha256_done(&h);
    return rc;
}
