#include "worker/model/sampler.h"

#include <math.h>

#include "kernels/comm/comm.h"
#include "kernels/ops.h"
#include "worker/model/dit.h"
#include "worker/model/dit_denoise.h"

/* Steps up to here run the whole network; then every fifth; then all of the last nine of fifty. */
enum { CACHE_FIRST = 16, CACHE_EVERY = 5, CACHE_LAST = 40, CACHE_END = 50 };

static const double LATE_FIRST = 6.5, LATE_LAST = 3.5;

void sampler_sigmas(int n, double shift, float *ret)
{
    const float step = -1.0f / (float)n, s = (float)shift, s1 = (float)(shift - 1);
    for (int i = 0; i <= n; i++) {
        /* From both ends, so that the last one is 0 exactly. */
        const float u = 2 * i < n + 1 ? 1.0f + step * (float)i : -step * (float)(n - i);
        ret[i] = s * u / (1.0f + s1 * u);
    }
}

bool sampler_is_cached(int step)
{
    return step >= CACHE_FIRST && (step >= CACHE_END || (step <= CACHE_LAST && step % CACHE_EVERY != 0));
}

bool sampler_is_late(int step)
{
    return step >= SAMPLER_EARLY_STEPS;
}

double sampler_guidance(int n, double guidance, int step)
{
    const double left = 1 - (double)step / n;
    return sampler_is_late(step) ? left * (LATE_FIRST - LATE_LAST) + LATE_LAST : left * (guidance - 2) + 2;
}

int sampler_plan_init(struct sampler_plan *ret, const struct sampler_inputs *in, struct err *err)
{
    struct window_plan window;
    int rc = window_plan_init(&window, in->n_frames, err);
    if (rc < 0)
        return rc;
    if (in->steps < 1 || in->steps > SAMPLER_MAX_STEPS)
        return err_set(err, ERR_INVALID, "%d steps: 1 to %d are possible", in->steps, SAMPLER_MAX_STEPS);
    if (!(in->shift > 0 && in->shift <= 100))
        return err_set(err, ERR_INVALID, "a shift of %g: above 0, at most 100, is possible", in->shift);
    if (!(in->guidance >= 0 && in->guidance <= 100))
        return err_set(err, ERR_INVALID, "a guidance of %g: 0 to 100 is possible", in->guidance);
    *ret = (struct sampler_plan){
        .window = window, .steps = in->steps, .guidance = in->guidance, .round_bf16 = in->round_bf16};
    sampler_sigmas(in->steps, in->shift, ret->sigma);
    return 0;
}

/* ---- solver ---- */

/* Latents in two windows are averaged. */
static void average(struct run *r, const struct sampler_plan *p, int step, struct tensor sum)
{
    for (int64_t f = 0; f < p->window.n_latents; f++) {
        const int n = window_count(&p->window, step, f);
        if (n > 1)
            op_scale(r, tensor_slice(sum, 1, f, 1), 1.0f / (float)n, 0);
    }
}

int sampler_windows_of(const struct run *r, const struct window_plan *w, int i)
{
    const int n = r->group ? r->group->windows.n : 1;
    return i < w->n_windows ? (w->n_windows - 1 - i) / n + 1 : 0;
}

static struct tensor window_index(struct run *r, const struct sampler_plan *p, int step, int k)
{
    int32_t list[WINDOW_LATENTS];
    window_latents(&p->window, window_start(&p->window, step, k), list);
    return run_write(r, list, DTYPE_I32, 1, SHAPE(WINDOW_LATENTS));
}

/* One window: its latents after the step are added to sum, or, where others add theirs too, left in keep. */
static void step_window(struct run *r, const struct sampler_plan *p, const struct sampler_denoiser *d,
                        int step, int k, struct tensor latents, struct tensor sum, struct tensor keep)
{
    struct tensor v[SAMPLER_ROWS] = {TENSOR_NONE, TENSOR_NONE};
    run_push(r, "window %d", k);
    const size_t mark = run_mark(r);
    struct tensor idx = window_index(r, p, step, k);
    struct tensor x = op_gather(r, latents, 1, idx);
    d->predict(d->arg, r, step, k, x, v);
    op_euler(r, x, v[0], v[1], (float)sampler_guidance(p->steps, p->guidance, step),
             p->sigma[step + 1] - p->sigma[step]);
    if (p->round_bf16)
        op_round(r, x, DTYPE_BF16);
    if (tensor_is_none(keep))
        op_scatter_add(r, sum, 1, idx, x);
    else
        op_copy_into(r, keep, x);
    run_rewind(r, mark);
    run_pop(r);
}

/* Windows on several ranks: each computes its own, all add all, in the order of one rank. */
static void shared_windows(struct run *r, const struct sampler_plan *p, const struct sampler_denoiser *d, int step,
                           struct tensor latents, struct tensor sum)
{
    const struct comm_set *set = &r->group->windows;
    const int64_t C = latents.shape[0], h = latents.shape[2], w = latents.shape[3], one = C * WINDOW_LATENTS * h * w;
    const int n_windows = p->window.n_windows;
    int64_t n[COMM_MAX];
    for (int i = 0; i < set->n; i++)
        n[i] = one * sampler_windows_of(r, &p->window, i);
    struct tensor own = run_new(r, DTYPE_F32, 5, SHAPE(n[set->me] / one, C, WINDOW_LATENTS, h, w));
    struct tensor all = run_new(r, DTYPE_F32, 5, SHAPE(n_windows, C, WINDOW_LATENTS, h, w));
    for (int k = set->me; k < n_windows; k += set->n)
        step_window(r, p, d, step, k, latents, sum, tensor_at(own, 0, k / set->n));
    comm_all_gather(r, set, all, n, own);
    for (int k = 0; k < n_windows; k++) {
        int at = k / set->n;
        for (int i = 0; i < k % set->n; i++)
            at += sampler_windows_of(r, &p->window, i);
        op_scatter_add(r, sum, 1, window_index(r, p, step, k), tensor_at(all, 0, at));
    }
}

/* Windows of a step do not see each other's result. */
static void solve_step(struct run *r, const struct sampler_plan *p, const struct sampler_denoiser *d,
                       int step, struct tensor latents)
{
    run_push(r, "step %d", step);
    const size_t mark = run_mark(r);
    if (d->begin)
        d->begin(d->arg, r, step);
    struct tensor sum = run_new(r, DTYPE_F32, latents.n_dims, latents.shape);
    op_fill(r, sum, 0);
    if (r->group && r->group->windows.n > 1)
        shared_windows(r, p, d, step, latents, sum);
    else
        for (int k = 0; k < p->window.n_windows; k++)
            step_window(r, p, d, step, k, latents, sum, TENSOR_NONE);
    average(r, p, step, sum);
    op_copy_into(r, latents, sum);
    run_rewind(r, mark);
    run_pop(r);
}

/* While planning, all steps of a kind cost the same: the second one is only counted; where weights are brought up, the third:
 * the first finds other weights there than those behind it. */
struct cost {
    double flops, bytes, traffic, brought;
    int64_t n_ops;
    int n_seen;
};

static struct cost cost_since(const struct run *r, const struct cost *before)
{
    return (struct cost){r->flops - before->flops, r->bytes - before->bytes, r->traffic - before->traffic,
                         r->brought - before->brought, r->n_ops - before->n_ops, before->n_seen + 1};
}

static void plan_step(struct run *r, const struct sampler_plan *p, const struct sampler_denoiser *d, int step,
                      struct tensor latents, struct cost known[3])
{
    struct cost *c = &known[sampler_is_cached(step) ? 2 : sampler_is_late(step)];
    if (c->n_seen == 0 || (c->n_seen == 1 && c->brought > 0)) {
        const struct cost before = {r->flops, r->bytes, r->traffic, r->brought, r->n_ops, c->n_seen};
        solve_step(r, p, d, step, latents);
        *c = cost_since(r, &before);
        return;
    }
    r->flops += c->flops;
    r->bytes += c->bytes;
    r->traffic += c->traffic;
    r->brought += c->brought;
    r->n_ops += c->n_ops;
}

int sampler_solve(struct run *r, const struct sampler_plan *p, const struct sampler_denoiser *d,
                  struct tensor latents, const struct sampler_hooks *hooks)
{
    struct cost known[3] = {{0}};
    for (int step = 0; step < p->steps && !run_failed(r); step++) {
        if (!r->table) {
            plan_step(r, p, d, step, latents, known);
            continue;
        }
        comm_agree_cancel(r);
        solve_step(r, p, d, step, latents);
        run_tap(r, latents, "mid.step%02d", step);
        if (hooks && hooks->progress && !run_failed(r))
            hooks->progress(hooks->arg, step + 1, p->steps);
    }
    return r->err.code;
}

/* ---- the whole ---- */

static bool has_shape(struct tensor t, int n_dims, const int64_t *shape)
{
    if (t.n_dims != n_dims)
        return false;
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] >= 0 && t.shape[i] != shape[i])
            return false;
    }
    return true;
}

/* -1: any. */
static int check(struct run *r, const char *name, struct tensor t, int n_dims, const int64_t *shape)
{
    char text[96];
    if (has_shape(t, n_dims, shape))
        return 0;
    return run_fail(r, ERR_SHAPE, "the sampler's %s is %s", name, tensor_format(t, text, sizeof(text)));
}

static int check_inputs(struct run *r, const struct dit *dit, const struct sampler_inputs *in,
                        const struct sampler_plan *p)
{
    const struct dit_dims *s = &dit->dims;
    const int64_t C = s->channels, h = tensor_dim(in->noise, 2), w = tensor_dim(in->noise, 3);
    check(r, "noise", in->noise, 4, SHAPE(C, -1, -1, -1));
    check(r, "reference", in->ref, 4, SHAPE(C, WINDOW_LATENTS, h, w));
    check(r, "face mask", in->face, 2, SHAPE(h, w));
    check(r, "sound", in->audio, 4, SHAPE(-1, -1, -1, -1));
    check(r, "negative text", in->negative.states, 2, SHAPE(-1, s->text));
    check(r, "text", in->positive.states, 2, SHAPE(-1, s->text));
    if (!run_failed(r) && in->noise.shape[1] < p->window.n_latents)
        run_fail(r, ERR_SHAPE, "the noise has %lld latents, %lld are needed", (long long)in->noise.shape[1],
                 (long long)p->window.n_latents);
    if (h < 2 || w < 2 || h % 2 || w % 2)
        run_fail(r, ERR_SHAPE, "latents of %lld x %lld: even sizes are needed", (long long)w, (long long)h);
    return r->err.code;
}

static int denoise(struct run *r, const struct dit *dit, const struct sampler_inputs *in,
                   const struct sampler_plan *p, const struct sampler_hooks *hooks, struct tensor latents)
{
    struct dit_denoise *n;
    int rc = dit_denoise_new(&n, r, dit, p, in);
    if (rc < 0)
        return rc;
    const struct sampler_denoiser d = {n, dit_denoise_begin, dit_denoise_predict};
    rc = sampler_solve(r, p, &d, latents, hooks);
    dit_denoise_free(n);
    return rc;
}

int sampler_run(struct run *r, const struct dit *dit, const struct sampler_inputs *in,
                const struct sampler_hooks *hooks, struct tensor *ret_latents)
{
    struct sampler_plan p;
    struct err err = {0};
    int rc = sampler_plan_init(&p, in, &err);
    if (rc < 0)
        return run_fail(r, rc, "%s", err.text);
    rc = check_inputs(r, dit, in, &p);
    if (rc < 0)
        return rc;
    const int64_t C = in->noise.shape[0], h = in->noise.shape[2], w = in->noise.shape[3];
    run_push(r, "denoise");
    struct tensor out = run_new(r, DTYPE_F32, 4, SHAPE(C, p.window.n_decoded, h, w));
    const size_t mark = run_mark(r);
    struct tensor latents = run_new(r, DTYPE_F32, 4, SHAPE(C, p.window.n_latents, h, w));
    op_copy_into(r, latents, tensor_slice(in->noise, 1, 0, p.window.n_latents));
    rc = denoise(r, dit, in, &p, hooks, latents);
    op_copy_into(r, out, tensor_slice(latents, 1, 0, p.window.n_decoded));
    run_rewind(r, mark);
    run_pop(r);
    if (rc < 0 || run_failed(r))
        return r->err.code;
    *ret_latents = out;
    return 0;
}
