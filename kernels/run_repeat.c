#include "kernels/run_repeat.h"

#include "kernels/device.h"

static const struct device_hooks *hooks_of(const struct run *r)
{
    return r->device->hooks;
}

bool run_repeat_can(const struct run *r)
{
    return r->table && !r->tap && !r->group && hooks_of(r)->repeat_begin;
}

static void keep_place(const struct run *r, struct run_repeat *p, const struct tensor *inputs, int n)
{
    p->device = r->device;
    p->arena = r->arena;
    p->at = r->arena_used;
    p->n_inputs = n;
    for (int i = 0; i < n; i++)
        p->inputs[i] = inputs[i].data;
}

static bool is_in_place(const struct run *r, const struct run_repeat *p, const struct tensor *inputs, int n)
{
    bool same = r->device == p->device && r->arena == p->arena && r->arena_used == p->at && n == p->n_inputs;
    for (int i = 0; i < n && same; i++)
        same = inputs[i].data == p->inputs[i];
    return same;
}

static void turn_off(struct run_repeat *p, int code, const char *why)
{
    run_repeat_done(p);
    p->state = RUN_REPEAT_OFF;
    err_set(&p->why, code, "%s", why);
}

/* ---- counters ---- */

static void begin_counting(struct run *r, struct run_repeat *p)
{
    p->before.at = r->arena_used;
    p->before.peak = r->arena_peak;
    p->before.flops = r->flops;
    p->before.bytes = r->bytes;
    p->before.n_ops = r->n_ops;
    r->arena_peak = r->arena_used;
    r->unrepeatable = false;
}

static void raise_peak(struct run *r, size_t peak)
{
    if (r->arena_peak < peak)
        r->arena_peak = peak;
}

static void end_counting(struct run *r, struct run_repeat *p)
{
    p->end = r->arena_used;
    p->peak = r->arena_peak;
    p->flops = r->flops - p->before.flops;
    p->bytes = r->bytes - p->before.bytes;
    p->n_ops = r->n_ops - p->before.n_ops;
    raise_peak(r, p->before.peak);
}

/* As if this pass had not been. */
static void forget_pass(struct run *r, struct run_repeat *p)
{
    err_clear(&r->err);
    r->arena_used = p->before.at;
    raise_peak(r, p->before.peak);
    r->flops = p->before.flops;
    r->bytes = p->before.bytes;
    r->n_ops = p->before.n_ops;
}

/* ---- passes ---- */

static bool run_plainly(struct run_repeat *p)
{
    p->pass = RUN_REPEAT_PLAIN;
    return true;
}

/* Launches the recording. True: it could not be, and the stretch is to be enqueued after all. */
static bool play(struct run *r, struct run_repeat *p)
{
    if (r->cancel && atomic_load_explicit(r->cancel, memory_order_relaxed)) {
        run_fail(r, ERR_CANCEL, "the job was cancelled");
        return false;
    }
    int rc = hooks_of(r)->repeat_play(r->device, p->recording);
    if (rc < 0) {
        turn_off(p, rc, "the device could not launch what it recorded");
        return run_plainly(p);
    }
    p->n_played++;
    r->arena_used = p->end;
    raise_peak(r, p->peak);
    r->flops += p->flops;
    r->bytes += p->bytes;
    r->n_ops += p->n_ops;
    return false;
}

static void end_first(struct run *r, struct run_repeat *p)
{
    end_counting(r, p);
    if (run_failed(r))
        return;
    if (r->unrepeatable)
        turn_off(p, ERR_UNSUPPORTED, "the stretch moves data between host and device, or brings weights up");
    else if (p->flops > RUN_REPEAT_FLOPS)
        turn_off(p, ERR_UNSUPPORTED, "the stretch is so long that its launches do not matter");
    else
        p->state = RUN_REPEAT_KNOWN;
}

/* Nothing of the pass has run: it was recorded. True: the stretch is to be enqueued after all. */
static bool end_recording(struct run *r, struct run_repeat *p)
{
    const bool fine = !run_failed(r) && !r->unrepeatable && r->arena_used == p->end && r->n_ops - p->before.n_ops == p->n_ops;
    const int rc = hooks_of(r)->repeat_end(r->device, fine ? &p->recording : NULL);
    const struct err err = r->err;
    forget_pass(r, p);
    if (fine && rc == 0) {
        p->state = RUN_REPEAT_KEPT;
        return play(r, p);
    }
    turn_off(p, err.code ? err.code : ERR_UNSUPPORTED, err.code ? err.text : "the device could not record it");
    return run_plainly(p);
}

static bool begin_recording(struct run *r, struct run_repeat *p)
{
    int rc = hooks_of(r)->repeat_begin(r->device);
    if (rc < 0) {
        turn_off(p, rc, "the device could not begin to record");
        return run_plainly(p);
    }
    p->pass = RUN_REPEAT_RECORDING;
    begin_counting(r, p);
    return true;
}

static bool begin_first(struct run *r, struct run_repeat *p, const struct tensor *inputs, int n)
{
    keep_place(r, p, inputs, n);
    p->pass = RUN_REPEAT_FIRST;
    begin_counting(r, p);
    return true;
}

/* The stretch was enqueued. True: once more. */
static bool end_pass(struct run *r, struct run_repeat *p)
{
    const int pass = p->pass;
    p->pass = RUN_REPEAT_IDLE;
    if (pass == RUN_REPEAT_RECORDING)
        return end_recording(r, p);
    if (pass == RUN_REPEAT_FIRST)
        end_first(r, p);
    return false;
}

bool run_repeat(struct run *r, struct run_repeat *p, const struct tensor *inputs, int n)
{
    if (p->pass != RUN_REPEAT_IDLE)
        return end_pass(r, p);
    if (run_failed(r) || !run_repeat_can(r) || n > RUN_REPEAT_INPUTS || p->state == RUN_REPEAT_OFF)
        return run_plainly(p);
    if (p->state == RUN_REPEAT_NEW)
        return begin_first(r, p, inputs, n);
    if (!is_in_place(r, p, inputs, n))
        return run_plainly(p);
    return p->state == RUN_REPEAT_KEPT ? play(r, p) : begin_recording(r, p);
}

void run_repeat_done(struct run_repeat *p)
{
    if (p->recording)
        p->device->hooks->repeat_free(p->device, p->recording);
    *p = (struct run_repeat){0};
}
