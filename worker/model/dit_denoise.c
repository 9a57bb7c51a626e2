#include "worker/model/dit_denoise.h"

#include "common/mem.h"
#include "kernels/run_repeat.h"

enum { NEGATIVE, POSITIVE, TEXTS };
enum kind { EARLY, LATE, CACHED }; /* of steps: all of a kind are computed alike */
enum { RECORDED_MAX = 8 };

/* A window's prediction in steps of a kind, recorded where the device can. */
struct recorded {
    enum kind kind;
    int k;
    struct run_repeat repeat;
    struct tensor v[DIT_ROWS];
};

struct dit_denoise {
    const struct sampler_plan *plan;
    struct dit_scene scene;
    struct dit_text text[TEXTS];
    struct tensor gates;          /* refiner gates of the full rows */
    struct tensor refined[TEXTS]; /* of this step */
    int n_early;                  /* steps with the negative text: rows 0.. of all tables */
    int n_full;                   /* steps that run the whole network */
    int64_t n_sound;              /* audio frames that are not silence */

    struct dit_scene now;   /* of this step: the scene, */
    int mod[DIT_ROWS];      /* and each row's row of its tables */
    struct dit_mods still;  /* [2, ...]: this step's rows, where recordings find them */
    struct recorded recorded[RECORDED_MAX], plain; /* plain: of windows for which there was no room */
    int n_recorded;

    struct tensor x;       /* [rows, buffers, N + most text tokens, H]: of this rank's rows, windows and tokens */
    struct tensor recalled; /* [this rank's windows, rows, N + text tokens, H]: a cached step's, where windows are shared */
    int n_rows, n_buffers; /* 1 or 2; this rank's windows, or 1 when no step is cached */
    int16_t owner[WINDOW_MAX_LATENTS];                      /* per latent: the window that computed it last */
    int64_t start[WINDOW_MAX_LATENTS / WINDOW_LATENTS + 1]; /* per window: its first latent then */
};

/* ---- rows of the tables: a pair of time and text each. Order: negative text of the early steps; positive
 * text of the full steps; positive text of the cached steps. ---- */

static int full_before(int step)
{
    int n = 0;
    for (int i = 0; i < step; i++)
        n += !sampler_is_cached(i);
    return n;
}

static int row_of(const struct dit_denoise *n, int step, int row)
{
    if (row == 0 && !sampler_is_late(step))
        return step;
    if (sampler_is_cached(step))
        return n->n_early + n->n_full + step - full_before(step);
    return n->n_early + full_before(step);
}

static void make_tables(struct run *r, struct dit_denoise *n, double fps)
{
    float t[2 * SAMPLER_MAX_STEPS];
    const struct sampler_plan *p = n->plan;
    for (int i = 0; i < p->steps; i++) {
        t[row_of(n, i, 0)] = 1000.0f * p->sigma[i];
        t[row_of(n, i, 1)] = 1000.0f * p->sigma[i];
    }
    const int n_full = n->n_early + n->n_full;
    const struct dit_rows rows = {.t = t,
                                  .n = n->n_early + p->steps,
                                  .n_a = n->n_early,
                                  .a = &n->text[NEGATIVE],
                                  .b = &n->text[POSITIVE]};
    struct tensor vec = dit_cond_vec(r, n->scene.dit, &rows, fps);
    dit_cond_mods(r, n->scene.dit, vec, n_full, &n->scene.mods);
    n->gates = dit_cond_gates(r, n->scene.dit, &rows, n_full);
}

static void make_text(struct run *r, struct dit_denoise *n, int which, const struct sampler_text *t)
{
    dit_cond_text(r, n->scene.dit, t->states, t->text2, t->mask, t->n_valid, &n->text[which]);
}

/* ---- this rank's rows, windows and text tokens: all of them where it is alone ---- */

static int window_ranks(const struct run *r)
{
    return r->group ? r->group->windows.n : 1;
}

static int64_t text_rows(const struct run *r, const struct dit_denoise *n, int64_t n_text)
{
    struct dit_share share;
    return dit_forward_share(r, &n->scene.picture, n_text, &share) ? share.n_text : n_text;
}

static void make_buffers(struct run *r, struct dit_denoise *n)
{
    const int64_t a = text_rows(r, n, n->text[NEGATIVE].n_valid), b = text_rows(r, n, n->text[POSITIVE].n_valid);
    const int windows = sampler_windows_of(r, &n->plan->window, r->group ? r->group->windows.me : 0);
    n->n_buffers = n->n_full < n->plan->steps ? windows : 1;
    n->n_rows = dit_forward_has_row(r, 0) + dit_forward_has_row(r, 1);
    n->x = run_new(
        r, DTYPE_F32, 4,
        SHAPE(n->n_rows, n->n_buffers, n->scene.picture.N + (a > b ? a : b), n->scene.dit->dims.hidden));
}

/* x of a row of window k for n_text text tokens. */
static struct tensor buffer(const struct run *r, const struct dit_denoise *n, int row, int k, int64_t n_text)
{
    struct tensor x = tensor_at(n->x, 0, n->n_rows == 1 ? 0 : row);
    x = tensor_at(x, 0, n->n_buffers > 1 ? k / window_ranks(r) : 0);
    return tensor_slice(x, 0, 0, n->scene.picture.N + text_rows(r, n, n_text));
}

/* ---- cache ---- */

static void remember(struct dit_denoise *n, int k, int64_t start)
{
    int32_t latents[WINDOW_LATENTS];
    window_latents(&n->plan->window, start, latents);
    for (int j = 0; j < WINDOW_LATENTS; j++)
        n->owner[latents[j]] = (int16_t)k;
    n->start[k] = start;
}

/* The input of the last block for the window that starts there, put together from the last full step's
 * windows. */
static struct tensor recall(struct run *r, const struct dit_denoise *n, int row, int64_t start)
{
    const struct dit_picture *p = &n->scene.picture;
    const int64_t n_text = n->text[POSITIVE].n_valid, L = n->plan->window.n_latents;
    struct tensor first = buffer(r, n, row, n->owner[start], n_text);
    if (n->plan->window.n_windows == 1)
        return first;
    int32_t latents[WINDOW_LATENTS];
    window_latents(&n->plan->window, start, latents);
    struct tensor x = run_new(r, DTYPE_F32, 2, first.shape);
    op_copy_into(r, tensor_slice(x, 0, 0, p->P), tensor_slice(first, 0, 0, p->P));
    for (int j = 0; j < WINDOW_LATENTS; j++) {
        const int k = n->owner[latents[j]];
        const int64_t at = (latents[j] - n->start[k] + L) % L;
        struct tensor from = buffer(r, n, row, k, n_text);
        op_copy_into(r, tensor_slice(x, 0, (1 + j) * p->P, p->P),
                     tensor_slice(from, 0, (1 + at) * p->P, p->P));
    }
    const int64_t text = first.shape[0] - p->N;
    op_copy_into(r, tensor_slice(x, 0, p->N, text), tensor_slice(first, 0, p->N, text));
    return x;
}

/* ---- cache of windows that are shared: the same pieces, from whoever has them ---- */

/* One piece of one window's x: of which window's buffer, from which row on, how many rows. */
struct piece {
    int k, row, source;
    int64_t to, from, n;
};

typedef void piece_fn(void *arg, struct run *r, const struct dit_denoise *n, const struct piece *p);

/* Piece i of window k: 0 the picture's front and, behind the latents, the text; both from the window that computed the
 * first latent. */
static struct piece piece_of(const struct run *r, const struct dit_denoise *n, int64_t start, int i)
{
    const struct dit_picture *p = &n->scene.picture;
    const int64_t L = n->plan->window.n_latents;
    int32_t latents[WINDOW_LATENTS];
    window_latents(&n->plan->window, start, latents);
    if (i == 0)
        return (struct piece){.source = n->owner[start], .n = p->P};
    if (i > WINDOW_LATENTS)
        return (struct piece){.source = n->owner[start],
                              .to = p->N,
                              .from = p->N,
                              .n = text_rows(r, n, n->text[POSITIVE].n_valid)};
    const int source = n->owner[latents[i - 1]];
    const int64_t at = (latents[i - 1] - n->start[source] + L) % L;
    return (struct piece){.source = source, .to = i * p->P, .from = (1 + at) * p->P, .n = p->P};
}

/* Shows fn every piece that place `from` has and place `to` needs for a step, in one order at both. */
static void each_piece(struct run *r, const struct dit_denoise *n, int step, int from, int to, piece_fn *fn, void *arg)
{
    const struct window_plan *w = &n->plan->window;
    for (int k = to; k < w->n_windows; k += window_ranks(r)) {
        const int64_t start = window_start(w, step, k);
        for (int i = 0; i < WINDOW_LATENTS + 2; i++) {
            struct piece p = piece_of(r, n, start, i);
            p.k = k;
            if (p.source % window_ranks(r) != from)
                continue;
            for (p.row = 0; p.row < DIT_ROWS; p.row++)
                if (dit_forward_has_row(r, p.row))
                    fn(arg, r, n, &p);
        }
    }
}

static void count_rows(void *arg, struct run *r, const struct dit_denoise *n, const struct piece *p)
{
    (void)r;
    (void)n;
    *(int64_t *)arg += p->n;
}

/* Rows on their way, [rows, H], and how far they are read or written. */
struct wire {
    struct tensor rows;
    int64_t at;
};

static struct tensor recalled(const struct run *r, const struct dit_denoise *n, int row, int k)
{
    return tensor_at(tensor_at(n->recalled, 0, k / window_ranks(r)), 0, n->n_rows == 1 ? 0 : row);
}

static void pack(void *arg, struct run *r, const struct dit_denoise *n, const struct piece *p)
{
    struct wire *w = arg;
    struct tensor x = buffer(r, n, p->row, p->source, n->text[POSITIVE].n_valid);
    op_copy_into(r, tensor_slice(w->rows, 0, w->at, p->n), tensor_slice(x, 0, p->from, p->n));
    w->at += p->n;
}

static void unpack(void *arg, struct run *r, const struct dit_denoise *n, const struct piece *p)
{
    struct wire *w = arg;
    struct tensor x = recalled(r, n, p->row, p->k);
    op_copy_into(r, tensor_slice(x, 0, p->to, p->n), tensor_slice(w->rows, 0, w->at, p->n));
    w->at += p->n;
}

/* All of this rank's windows of a cached step: what other ranks computed comes from them. */
static void recall_all(struct run *r, struct dit_denoise *n, int step)
{
    const struct comm_set *set = &r->group->windows;
    const int64_t H = n->scene.dit->dims.hidden, M = n->scene.picture.N + text_rows(r, n, n->text[POSITIVE].n_valid);
    int64_t n_in[COMM_MAX] = {0}, n_out[COMM_MAX] = {0}, in = 0, out = 0;
    for (int i = 0; i < set->n; i++) {
        each_piece(r, n, step, i, set->me, count_rows, &n_in[i]);
        each_piece(r, n, step, set->me, i, count_rows, &n_out[i]);
        in += n_in[i];
        out += n_out[i];
        n_in[i] *= H;
        n_out[i] *= H;
    }
    n->recalled =
        run_new(r, DTYPE_F32, 4, SHAPE(sampler_windows_of(r, &n->plan->window, set->me), n->n_rows, M, H));
    const size_t mark = run_mark(r);
    struct wire to = {run_new(r, DTYPE_F32, 2, SHAPE(in, H)), 0}, from = {run_new(r, DTYPE_F32, 2, SHAPE(out, H)), 0};
    for (int i = 0; i < set->n; i++)
        each_piece(r, n, step, set->me, i, pack, &from);
    comm_all_to_all(r, set, to.rows, n_in, from.rows, n_out);
    for (int i = 0; i < set->n; i++)
        each_piece(r, n, step, i, set->me, unpack, &to);
    run_rewind(r, mark);
}

/* ---- recordings: what is enqueued alike in every step of a kind ---- */

static enum kind kind_of(int step)
{
    return sampler_is_cached(step) ? CACHED : sampler_is_late(step) ? LATE : EARLY;
}

static void make_still(struct run *r, struct dit_denoise *n)
{
    const struct dit_mods *all = &n->scene.mods;
    n->still.blocks = run_new(r, DTYPE_F32, 2, SHAPE(DIT_ROWS, tensor_dim(all->blocks, 1)));
    n->still.last = run_new(r, DTYPE_F32, 2, SHAPE(DIT_ROWS, tensor_dim(all->last, 1)));
    n->plain.repeat.state = RUN_REPEAT_OFF;
}

/* This step's rows of the tables; where the device records they are copied to the same place in every step. */
static void settle(struct run *r, struct dit_denoise *n, int step)
{
    n->now = n->scene;
    n->mod[0] = row_of(n, step, 0);
    n->mod[1] = row_of(n, step, 1);
    if (!run_repeat_can(r))
        return;
    const int rows = n->mod[0] == n->mod[1] ? 1 : DIT_ROWS;
    for (int i = 0; i < rows; i++) {
        op_copy_into(r, tensor_at(n->still.last, 0, i), tensor_at(n->scene.mods.last, 0, n->mod[i]));
        if (!sampler_is_cached(step))
            op_copy_into(r, tensor_at(n->still.blocks, 0, i), tensor_at(n->scene.mods.blocks, 0, n->mod[i]));
        n->mod[i] = i;
    }
    n->mod[1] = rows - 1;
    n->now.mods = n->still;
}

static void drop_recorded(struct dit_denoise *n)
{
    for (int i = 0; i < n->n_recorded; i++)
        run_repeat_done(&n->recorded[i].repeat);
    n->n_recorded = 0;
}

static struct recorded *recorded(struct dit_denoise *n, int step, int k)
{
    for (int i = 0; i < n->n_recorded; i++) {
        if (n->recorded[i].kind == kind_of(step) && n->recorded[i].k == k)
            return &n->recorded[i];
    }
    if (n->n_recorded == RECORDED_MAX)
        return &n->plain;
    struct recorded *it = &n->recorded[n->n_recorded++];
    *it = (struct recorded){.kind = kind_of(step), .k = k};
    return it;
}

/* ---- the sampler's side ---- */

static void refine(struct run *r, struct dit_denoise *n, int which, int row)
{
    const struct dit_text *t = &n->text[which];
    n->refined[which] = dit_cond_refine(r, n->scene.dit, t, tensor_at(n->gates, 0, row), t->n_valid);
}

void dit_denoise_begin(void *arg, struct run *r, int step)
{
    struct dit_denoise *n = arg;
    if (step == SAMPLER_EARLY_STEPS)
        drop_recorded(n); /* none of those comes again */
    settle(r, n, step);
    if (sampler_is_cached(step)) {
        if (window_ranks(r) > 1)
            recall_all(r, n, step);
        return;
    }
    for (int k = 0; k < n->plan->window.n_windows; k++)
        remember(n, k, window_start(&n->plan->window, step, k));
    if (!sampler_is_late(step))
        refine(r, n, NEGATIVE, row_of(n, step, 0));
    refine(r, n, POSITIVE, row_of(n, step, 1));
}

static void predict_full(struct run *r, struct dit_denoise *n, int step, int k, struct tensor latents,
                         struct tensor ret_v[DIT_ROWS])
{
    const struct window_plan *w = &n->plan->window;
    const int64_t start = window_start(w, step, k);
    const bool late = sampler_is_late(step);
    int32_t audio[WINDOW_AUDIO];
    window_audio(w, start, n->n_sound, audio);
    struct tensor sound = run_write(r, audio, DTYPE_I32, 1, SHAPE(WINDOW_AUDIO));
    struct tensor mask = late ? n->scene.picture.mask : n->scene.picture.mask_early;
    const struct dit_row rows[DIT_ROWS] = {
        {.text = n->refined[late ? POSITIVE : NEGATIVE], .mask = mask, .mod = n->mod[0]},
        {.text = n->refined[POSITIVE], .mask = mask, .sound = sound, .mod = n->mod[1]},
    };
    const struct tensor x[DIT_ROWS] = {buffer(r, n, 0, k, rows[0].text.shape[0]),
                                       buffer(r, n, 1, k, rows[1].text.shape[0])};
    const struct tensor inputs[] = {latents, sound, rows[0].text, rows[1].text};
    struct recorded *it = recorded(n, step, k);
    while (run_repeat(r, &it->repeat, inputs, 4))
        dit_forward_pair(r, &n->now, rows, latents, x, it->v);
    for (int row = 0; row < DIT_ROWS; row++)
        ret_v[row] = it->v[row];
}

static void last_of_rows(struct run *r, const struct dit_denoise *n, const struct tensor x[DIT_ROWS],
                         struct tensor ret_v[DIT_ROWS])
{
    for (int row = 0; row < DIT_ROWS; row++) {
        const struct dit_row it = {.n_text = n->text[POSITIVE].n_valid, .mod = n->mod[row]};
        if (dit_forward_has_row(r, row))
            ret_v[row] = dit_forward_last(r, &n->now, &it, x[row]);
    }
}

static void predict_cached(struct run *r, struct dit_denoise *n, int step, int k,
                           struct tensor ret_v[DIT_ROWS])
{
    const int64_t start = window_start(&n->plan->window, step, k);
    struct tensor x[DIT_ROWS] = {TENSOR_NONE, TENSOR_NONE};
    for (int row = 0; row < DIT_ROWS; row++) {
        if (dit_forward_has_row(r, row))
            x[row] = window_ranks(r) > 1 ? recalled(r, n, row, k) : recall(r, n, row, start);
    }
    struct recorded *it = recorded(n, step, k);
    while (run_repeat(r, &it->repeat, x, DIT_ROWS))
        last_of_rows(r, n, x, it->v);
    for (int row = 0; row < DIT_ROWS; row++)
        ret_v[row] = it->v[row];
    dit_forward_swap(r, ret_v);
}

void dit_denoise_predict(void *arg, struct run *r, int step, int k, struct tensor x,
                         struct tensor ret_v[DIT_ROWS])
{
    struct dit_denoise *n = arg;
    if (sampler_is_cached(step))
        predict_cached(r, n, step, k, ret_v);
    else
        predict_full(r, n, step, k, x, ret_v);
}

void dit_denoise_free(struct dit_denoise *n)
{
    if (n)
        drop_recorded(n);
    mem_free(n);
}

int dit_denoise_new(struct dit_denoise **ret, struct run *r, const struct dit *dit,
                    const struct sampler_plan *plan, const struct sampler_inputs *in)
{
    struct dit_denoise *n = mem_zalloc(sizeof(*n));
    if (!n)
        return run_fail(r, ERR_NOMEM, "no memory for the denoiser");
    n->plan = plan;
    n->scene.dit = dit;
    n->n_early = plan->steps < SAMPLER_EARLY_STEPS ? plan->steps : SAMPLER_EARLY_STEPS;
    n->n_full = full_before(plan->steps);
    n->n_sound = in->audio.shape[0] < in->n_frames ? in->audio.shape[0] : in->n_frames;
    run_push(r, "prepare");
    dit_cond_picture(r, dit, in->ref, in->face, &n->scene.picture);
    n->scene.kv = dit_cond_audio(r, dit, in->audio, n->n_sound);
    make_text(r, n, NEGATIVE, &in->negative);
    make_text(r, n, POSITIVE, &in->positive);
    make_tables(r, n, in->fps);
    make_still(r, n);
    make_buffers(r, n);
    run_pop(r);
    if (run_failed(r)) {
        dit_denoise_free(n);
        return r->err.code;
    }
    *ret = n;
    return 0;
}
