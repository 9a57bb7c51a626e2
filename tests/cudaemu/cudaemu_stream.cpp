/* cudaemu_stream.cpp -- the order of things in the emulation: streams, events, graphs.
 *
 * A stream is a queue of tasks, records and waits. At once (the default) a task is done when it is put; in the other
 * orders (CUDAEMU_STREAMS) nothing is done until somebody waits, and then only stream order and events say what goes
 * before what: what the host did since, and other streams, come as early or as late as they may.
 *
 * A captured stream's tasks go into its graph. Sources: CUDA C++ Programming Guide 13.0, "Asynchronous Concurrent
 * Execution" and "CUDA Graphs"; CUDA Runtime API, "Stream Management", "Graph Management". Not emulated: a second stream
 * that joins a capture (refused), streams that are not cudaStreamNonBlocking (refused).
 */
#include "cudaemu.h"

#include <ctime>
#include <deque>
#include <memory>
#include <thread>
#include <unistd.h>
#include <vector>

struct record { /* what an event and the queues share: how often it was recorded, and how much of that happened */
    uint64_t put, done;
    bool captured, is_hold;
    struct timespec at;
};

struct item {
    emu_task task; /* or: */
    std::shared_ptr<struct record> record;
    uint64_t ticket;
    bool waits; /* until the record has come to ticket; otherwise it comes to it now */
};

struct cudaemu_graph {
    std::vector<emu_task> tasks;
};

struct capture {
    std::shared_ptr<struct cudaemu_graph> graph;
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    bool broken;
};

struct cudaemu_stream {
    int device;
    std::deque<struct item> queue;
    std::unique_ptr<struct capture> capture;
    std::shared_ptr<struct record> hold;
};

struct cudaemu_event {
    int device;
    std::shared_ptr<struct record> record;
};

struct cudaemu_graph_exec {
    struct cudaemu_graph graph;
};

/* All: first each device's default stream. For the life of the process. */
static std::vector<struct cudaemu_stream *> &streams = *new std::vector<struct cudaemu_stream *>;
static uint64_t n_steps;

static void set_up(void)
{
    emu_set_up();
    for (int i = (int)streams.size(); i < emu.n_devices; i++)
        streams.push_back(new cudaemu_stream{i, {}, {}, {}});
}

static struct cudaemu_stream *real(cudaStream_t s)
{
    if (streams.empty())
        set_up();
    return s ? s : streams[(size_t)emu_device];
}

int emu_device_of(cudaStream_t s)
{
    return s ? s->device : emu_device;
}

/* ---- order ---- */

static bool may_go(const struct cudaemu_stream *s)
{
    return !s->queue.empty() && !(s->queue.front().waits && s->queue.front().record->done < s->queue.front().ticket);
}

static void go(struct cudaemu_stream *s)
{
    struct item i = std::move(s->queue.front());
    s->queue.pop_front();
    if (i.task)
        i.task(s->device);
    else if (!i.waits && i.record->done < i.ticket) {
        i.record->done = i.ticket;
        clock_gettime(CLOCK_MONOTONIC, &i.record->at);
    }
}

/* The stream that brings record to ticket; NULL: another thread does. */
static struct cudaemu_stream *bringer(const struct record *record, uint64_t ticket)
{
    for (struct cudaemu_stream *s : streams) {
        for (const struct item &i : s->queue) {
            if (i.record.get() == record && !i.waits && i.ticket == ticket)
                return s;
        }
    }
    if (!record->is_hold)
        emu_die("an event that never comes is waited for");
    return NULL;
}

/* The stream whose turn it is so that s gets on: itself, or one that it waits for. NULL: it is held. */
static struct cudaemu_stream *needed(struct cudaemu_stream *s)
{
    while (s && !may_go(s))
        s = bringer(s->queue.front().record.get(), s->queue.front().ticket);
    return s;
}

static void go_others(const struct cudaemu_stream *s)
{
    for (bool moved = true; moved;) {
        moved = false;
        for (struct cudaemu_stream *o : streams) {
            for (; o != s && may_go(o); moved = true)
                go(o);
        }
    }
}

static struct cudaemu_stream *any(void)
{
    size_t n = streams.size(), first = (size_t)(emu_random(++n_steps) >> 16) % n;
    for (size_t i = 0; i < n; i++) {
        if (may_go(streams[(first + i) % n]))
            return streams[(first + i) % n];
    }
    return NULL;
}

/* One step of the order, so that s, which is not empty, gets on in the end. */
static void step(struct cudaemu_stream *s)
{
    struct cudaemu_stream *next = emu.order == EMU_RANDOM ? any() : NULL;
    if (emu.order == EMU_LATE)
        go_others(s);
    if (s->queue.empty())
        return;
    if (!next)
        next = needed(s);
    if (next) {
        go(next);
        return;
    }
    emu_lock.unlock(); /* every call of CUDA locks once */
    usleep(100);
    emu_lock.lock();
}

/* Until record has come to ticket, which an item of some stream is to bring. */
static void finish_record(const struct record *record, uint64_t ticket)
{
    while (record->done < ticket)
        step(bringer(record, ticket));
}

void emu_finish_all(int device)
{
    set_up();
    for (size_t i = 0; i < streams.size(); i++) {
        struct cudaemu_stream *s = streams[emu.order == EMU_LATE ? streams.size() - 1 - i : i];
        while ((device < 0 || s->device == device) && !s->queue.empty())
            step(s);
    }
}

static void put(struct cudaemu_stream *s, const std::shared_ptr<struct record> &record, bool waits)
{
    s->queue.push_back(item{nullptr, record, record->put, waits});
    if (emu.order == EMU_AT_ONCE)
        go_others(NULL);
}

void cudaemu_hold(cudaStream_t stream)
{
    EMU_LOCK;
    struct cudaemu_stream *s = real(stream);
    if (!s->hold)
        s->hold = std::make_shared<struct record>(record{0, 0, false, true, {}});
    s->hold->put++;
    put(s, s->hold, true);
}

void cudaemu_release(cudaStream_t stream)
{
    EMU_LOCK;
    struct cudaemu_stream *s = real(stream);
    if (s->hold && s->hold->done < s->hold->put)
        s->hold->done++;
    if (emu.order == EMU_AT_ONCE)
        go_others(NULL);
}

/* ---- capture ---- */

cudaError_t emu_break(cudaStream_t s, cudaError_t error)
{
    if (real(s)->capture)
        real(s)->capture->broken = true;
    return error;
}

cudaError_t emu_unsafe(void)
{
    cudaError_t error = cudaSuccess;
    for (struct cudaemu_stream *s : streams) {
        const struct capture *c = s->capture.get();
        bool mine = c && c->thread == std::this_thread::get_id() && c->mode != cudaStreamCaptureModeRelaxed;
        if (mine || (c && c->mode == cudaStreamCaptureModeGlobal))
            error = emu_failed(emu_break(s, cudaErrorStreamCaptureUnsupported));
    }
    return error;
}

cudaError_t emu_put(cudaStream_t stream, emu_task task)
{
    struct cudaemu_stream *s = real(stream);
    struct capture *c = s->capture.get();
    if (c && c->graph->tasks.size() + 1 == emu.break_at)
        c->broken = true;
    if (c && c->broken)
        return emu_failed(cudaErrorStreamCaptureInvalidated);
    if (c)
        c->graph->tasks.push_back(std::move(task));
    else if (emu.order == EMU_AT_ONCE && s->queue.empty())
        task(s->device);
    else
        s->queue.push_back(item{std::move(task), nullptr, 0, false});
    return c ? cudaSuccess : emu_lost[s->device];
}

int cudaemu_enqueue(cudaStream_t s, void (*fn)(void *arg), const void *arg, size_t bytes)
{
    EMU_LOCK;
    set_up();
    std::shared_ptr<char> kept((char *)::operator new(bytes), [](char *p) { ::operator delete(p); });
    memcpy(kept.get(), arg, bytes);
    return (int)emu_put(s, [=](int device) {
        struct emu_visible v(device);
        if (!emu_lost[device])
            fn(kept.get());
    });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode)
{
    EMU_LOCK;
    if (!s) /* the default stream cannot be captured */
        return emu_failed(cudaErrorStreamCaptureUnsupported);
    if (s->capture)
        return emu_failed(emu_break(s, cudaErrorInvalidValue));
    s->capture.reset(new capture{std::make_shared<cudaemu_graph>(), mode, std::this_thread::get_id(), false});
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *ret)
{
    EMU_LOCK;
    *ret = NULL;
    if (!s || !s->capture)
        return emu_failed(cudaErrorInvalidValue);
    if (s->capture->mode != cudaStreamCaptureModeRelaxed && s->capture->thread != std::this_thread::get_id())
        return emu_failed(emu_break(s, cudaErrorStreamCaptureWrongThread));
    std::unique_ptr<struct capture> c = std::move(s->capture);
    if (c->broken)
        return emu_failed(cudaErrorStreamCaptureInvalidated);
    *ret = new cudaemu_graph(*c->graph);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *ret)
{
    EMU_LOCK;
    const struct capture *c = real(s)->capture.get();
    *ret = !c ? cudaStreamCaptureStatusNone : c->broken ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n)
{
    if (nodes)
        return emu_failed(cudaErrorNotSupported);
    *n = graph->tasks.size();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ret, cudaGraph_t graph, unsigned long long)
{
    EMU_LOCK;
    *ret = NULL;
    if (cudaError_t error = emu_unsafe())
        return error;
    *ret = new cudaemu_graph_exec{*graph};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    EMU_LOCK;
    if (real(s)->capture)
        return emu_failed(emu_break(s, cudaErrorNotSupported));
    cudaError_t error = cudaSuccess;
    for (size_t i = 0; i < exec->graph.tasks.size() && !error; i++)
        error = emu_put(s, exec->graph.tasks[i]);
    return error ? emu_failed(error) : error;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    EMU_LOCK;
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    EMU_LOCK;
    delete graph;
    return cudaSuccess;
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned flags)
{
    EMU_LOCK;
    set_up();
    if (flags != cudaStreamNonBlocking)
        return emu_failed(cudaErrorNotSupported);
    *ret = new cudaemu_stream{emu_device, {}, {}, {}};
    streams.push_back(*ret);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    EMU_LOCK;
    while (!s->queue.empty())
        step(s);
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i] == s)
            streams.erase(streams.begin() + (long)i);
    }
    delete s;
    return cudaSuccess;
}

cudaError_t emu_finish(cudaStream_t stream)
{
    struct cudaemu_stream *s = real(stream);
    while (!s->queue.empty())
        step(s);
    return emu_lost[s->device];
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    EMU_LOCK;
    if (real(s)->capture)
        return emu_failed(emu_break(s, cudaErrorStreamCaptureUnsupported));
    cudaError_t error = emu_unsafe();
    return error ? error : emu_finish(s);
}

cudaError_t cudaDeviceSynchronize(void)
{
    EMU_LOCK;
    if (cudaError_t error = emu_unsafe())
        return error;
    emu_finish_all(emu_device);
    return emu_lost[emu_device];
}

/* Asking brings it on by a step, so that asking again and again ends. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    EMU_LOCK;
    struct cudaemu_stream *s = real(stream);
    if (s->capture)
        return emu_failed(emu_break(s, cudaErrorStreamCaptureUnsupported));
    if (cudaError_t error = emu_unsafe())
        return error;
    if (!s->queue.empty())
        step(s);
    return s->queue.empty() ? emu_lost[s->device] : emu_failed(cudaErrorNotReady);
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new cudaemu_event{emu_device, std::make_shared<struct record>()};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    EMU_LOCK;
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    EMU_LOCK;
    struct cudaemu_stream *s = real(stream);
    if (event->device != s->device)
        return emu_failed(emu_break(s, cudaErrorInvalidResourceHandle));
    event->record->captured = s->capture != nullptr;
    if (s->capture)
        return s->capture->broken ? emu_failed(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
    event->record->put++;
    put(s, event->record, false);
    return emu_lost[s->device];
}

/* For what was recorded last before this call; never recorded: for nothing. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    EMU_LOCK;
    struct cudaemu_stream *s = real(stream);
    if (event->record->captured)
        return s->capture && !s->capture->broken ? cudaSuccess : emu_failed(emu_break(s, cudaErrorNotSupported));
    if (event->record->put == 0)
        return emu_lost[s->device];
    if (s->capture)
        return emu_failed(emu_break(s, cudaErrorStreamCaptureIsolation));
    put(s, event->record, true);
    return emu_lost[s->device];
}

static cudaError_t check_event(const struct cudaemu_event *event)
{
    return event->record->captured ? emu_failed(cudaErrorCapturedEvent) : emu_unsafe();
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    EMU_LOCK;
    if (cudaError_t error = check_event(event))
        return error;
    finish_record(event->record.get(), event->record->put);
    return emu_lost[event->device];
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    EMU_LOCK;
    if (cudaError_t error = check_event(event))
        return error;
    const struct record *r = event->record.get();
    if (r->done < r->put)
        step(bringer(r, r->put));
    return r->done < r->put ? emu_failed(cudaErrorNotReady) : emu_lost[event->device];
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    EMU_LOCK;
    const struct record *a = from->record.get(), *b = to->record.get();
    if (!a->put || !b->put)
        return emu_failed(cudaErrorInvalidResourceHandle);
    if (a->done < a->put || b->done < b->put)
        return emu_failed(cudaErrorNotReady);
    *ms = (float)((double)(b->at.tv_sec - a->at.tv_sec) * 1e3 + (double)(b->at.tv_nsec - a->at.tv_nsec) * 1e-6);
    return emu_lost[from->device];
}
