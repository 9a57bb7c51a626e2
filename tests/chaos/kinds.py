"""The kinds of run: which faults, and when."""
import os

from hook_tools import Receiver
from programs import LEASE_S, point, sent, shim, state_of
from run import REAL, Skipped, as_root

# Points that a worker reaches with a job in work: two of them in a run kill no job three times.
HOLDING = ["worker_claimed", "worker_held", "worker_inputs", "worker_stage", "worker_denoise", "worker_frames",
           "worker_video", "worker_video_named", "worker_computed", "worker_settle", "worker_renewed", "worker_reported",
           "worker_release", "blob_sync", "blob_rename", "blob_renamed"]
HOLDING_SENT = ["claim", "settle", "progress", "renew", "release"]
FREE = ["worker_claim", "worker_settled", "worker_released", "worker_hello", "worker_expired", "worker_bye"]
DISPATCHER = ["dispatcher_upload", "dispatcher_body", "dispatcher_submit", "dispatcher_submitted", "dispatcher_replied",
              "dispatcher_expire", "dispatcher_expired", "dispatcher_event", "dispatcher_frame", "dispatcher_delete",
              "blob_add", "blob_sync", "blob_rename", "blob_renamed", "blob_remove"]
DISPATCHER_SENT = ["submit", "expire", "delete", "get", "forgot"]
CANCELLING = ["dispatcher_cancel", "dispatcher_cancelled"]
OFTEN = {"worker_stage": 7, "worker_denoise": 8, "worker_frames": 3, "worker_claim": 3, "worker_renewed": 3,
         "worker_reported": 2, "dispatcher_upload": 6, "dispatcher_event": 8, "dispatcher_frame": 6, "dispatcher_expire": 2,
         "blob_add": 4, "worker_expired": 2, "worker_hello": 3}


class Kind:
    def __init__(self, name, plan, part=0, parts=1):
        self.name, self._plan, self.part, self.parts = name, plan, part, parts

    def plan(self, run):
        self._plan(run, self.part, self.parts)


def some(run, name):
    return point(name, run.rng.randint(1, OFTEN.get(name, 1)))


def dealt(things, part, parts):
    return things[part::parts]


def crash(run, part, parts):
    """Every point and every command's way, dealt out over the runs of this kind."""
    run.cached = 0.25
    holding = [some(run, n) for n in HOLDING] + [sent(n, run.rng.randint(1, 2)) for n in HOLDING_SENT]
    others = [some(run, n) for n in DISPATCHER] + [sent(n, run.rng.randint(1, 2)) for n in DISPATCHER_SENT]
    for i, f in enumerate(dealt(holding, part, parts)):
        run.worker_faults[i % 2].append(f)
    for i, f in enumerate(dealt([some(run, n) for n in FREE], part, parts)):
        run.worker_faults[(i + part) % 2].append(f)
    for i, f in enumerate(dealt(others, part, parts)):
        run.dispatcher_faults[i % 2].append(f)
        if f.late:  # whichever is asked to delete
            run.dispatcher_faults[1 - i % 2].append(f.again())
    for faults in run.dispatcher_faults:
        faults.sort(key=lambda f: f.late)


def cancel(run, part, parts):
    """Most jobs are cancelled, while those who carry the word die."""
    run.n_jobs, run.n_cancels = 6, 5
    run.dispatcher_faults = [[some(run, CANCELLING[0]), sent("cancel")], [some(run, CANCELLING[1])]]
    run.worker_faults = [[point("worker_denoise", run.rng.randint(1, 6))], [sent("settle", 2)]]


def redis_kill(run, part, parts):
    for at in (run.rng.uniform(0.5, 1), run.rng.uniform(2, 3)):
        run.timed.append((at, lambda: (run.redis.kill(), run.redis.start())))
    run.n_jobs = 6


def redis_stop(run, part, parts):
    """Redis stands still for longer than anybody waits; then it does what was asked of it meanwhile, by whoever gave up."""
    at = run.rng.uniform(0.3, 1.5)
    run.timed += [(at, lambda: run.redis.process.send_signal(19)),
                  (at + run.rng.uniform(2.5, 7), lambda: run.redis.process.send_signal(18))]
    run.n_jobs = 6


def power(run, sync):
    """The machine of Redis loses power: what was not synced is gone."""
    run.redis_options = {"sync": sync, "power": True}

    def cut():
        run.redis.kill()
        run.notes.append("%d bytes not synced" % run.redis.lose_unsynced())
        run.redis.start()
    for at in (run.rng.uniform(0.4, 1.2), run.rng.uniform(2, 3.5)):
        run.timed.append((at, cut))
    run.n_jobs = 8


def power_always(run, part, parts):
    power(run, "always")


def power_everysec(run, part, parts):
    power(run, "everysec")


def stop(run, part, parts):
    """Workers that stand still beyond their lease, at the worst places, and then go on."""
    where = run.rng.sample(["worker_settle", "worker_computed", "worker_video_named", "worker_frames"], 2)
    run.worker_faults = [[point("worker_settle", 1, "done")], [point(where[0], 1, "claimed")], []]
    run.needs_late = True
    run.n_jobs, run.n_cancels = 5, 0


def pause(run, part, parts):
    """SIGSTOP of whoever is there, at any time."""
    def hold(slot):
        def begin():
            if state_of(slot.process.pid) not in "T?":
                slot.process.send_signal(19)
        return begin

    def go_on(slot):
        return lambda: slot.process.poll() is None and slot.process.send_signal(18)

    def plan():
        for slot in run.workers[:2] + run.dispatchers[:1]:
            at = run.rng.uniform(0.3, 2)
            run.timed += [(at, hold(slot)), (at + LEASE_S + run.rng.uniform(0.2, 1.5), go_on(slot))]
        run.timed.sort(key=lambda t: t[0])
    run.worker_faults = [[], [], []]
    run.timed.append((0, plan))


def full(run, part, parts):
    """The volume is full for a while."""
    os.makedirs(run.volume)
    as_root("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", run.volume)
    run.while_open.append(lambda: as_root("umount", "-l", run.volume))
    filler = os.path.join(run.volume, "filler")

    def fill():
        with open(filler, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"\0" * 4096)
            except OSError:
                pass
    begin = run.rng.uniform(0.4, 1)
    run.timed += [(begin, fill), (begin + run.rng.uniform(0.5, 2), lambda: os.unlink(filler))]
    run.fail_codes = {"NOSPACE"}
    run.n_jobs = 6


RESULT = ("op=fsync path=*.mp4.part do=EIO", "op=write path=*.mp4.part nth=2 do=ENOSPC", "op=rename path=*-video.mp4 do=EIO",
          "op=open path=*-thumbnail.png.part do=EIO", "op=fsync path=*-report.json.part do=ENOSPC",
          "op=write path=*-report.json.part do=EIO", "op=rename path=*-report.json do=EROFS",
          "op=write path=*.part nth=1 count=9999 do=short")
INPUT = ("op=fsync path=*/put-* do=EIO", "op=write path=*/put-* nth=3 do=ENOSPC", "op=rename path=*/blobs/* do=EIO",
         "op=write path=*/put-* nth=2 count=9999 do=short", "op=open path=*/put-* nth=2 do=EMFILE")


def disk(run, part, parts):
    """EIO, ENOSPC, short writes: once in each program."""
    a, b = run.rng.sample(RESULT, 2)
    run.worker_faults = [[shim("disk:" + a.split()[-1], a)], [shim("disk:" + b.split()[-1], b)]]
    a, b = run.rng.sample(INPUT, 2)
    run.dispatcher_faults = [[shim("disk:" + a.split()[-1], a)], [shim("disk:" + b.split()[-1], b)]]


def slow(run, part, parts):
    """A disk that takes longer than a lease, and wall clocks that are days off."""
    ms = run.rng.randint(1100, 1800)
    run.worker_faults = [[shim("slow", "op=fsync path=*.part nth=1 count=2 do=sleep:%d" % ms, CHAOS_CLOCK="-400000")],
                         [shim("slow", "op=rename path=*-video.mp4 nth=1 count=2 do=sleep:%d" % ms, CHAOS_CLOCK="400000")]]
    run.dispatcher_faults = [[shim("slow", "op=fsync path=*put-* nth=2 count=2 do=sleep:%d" % ms, CHAOS_CLOCK="400000")], []]
    run.n_jobs = 5


def lost(run, part, parts):
    """Answers of Redis that never arrive: everything is said twice."""
    names = run.rng.sample(["claim", "settle", "progress", "renew", "hello", "expire"], 4)
    run.worker_faults = [[shim("lost:" + "+".join(names[:2]), *("op=send path=troupe_%s nth=%d count=2 do=lose" %
                                                                (n, run.rng.randint(1, 2)) for n in names[:2]))],
                         [shim("lost:" + "+".join(names[2:]), *("op=send path=troupe_%s do=lose" % n for n in names[2:]))]]
    run.dispatcher_faults = [[sent("submit", run.rng.randint(1, 2), "lose")], [sent("get", 2, "lose")]]


def half_open(run, part, parts):
    """A worker's connection to Redis goes silent: packets are lost without a word, in a network of its own."""
    name, net = "chaos%d" % (os.getpid() % 100000), 10 + run.number % 200
    host, inner = "169.254.%d.1" % net, "169.254.%d.2" % net
    outside, inside = "cha%d" % (os.getpid() % 100000), "chb%d" % (os.getpid() % 100000)
    as_root("ip", "netns", "add", name)
    run.while_open.append(lambda: as_root("ip", "netns", "del", name))
    as_root("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
    as_root("ip", "addr", "add", host + "/30", "dev", outside)
    as_root("ip", "link", "set", outside, "up")
    for words in (("addr", "add", inner + "/30", "dev", inside), ("link", "set", inside, "up"), ("link", "set", "lo", "up")):
        as_root("ip", "-n", name, *words)
    nowhere = "02:00:00:00:00:99"
    run.redis_options = {"tcp": (host, 6379)}
    run.worker_prefix[0] = ("ip", "netns", "exec", name)
    run.worker_redis[0] = "redis://%s:6379/0" % host

    def cut():
        as_root("ip", "-n", name, "neigh", "replace", host, "lladdr", nowhere, "dev", inside, "nud", "permanent")
        as_root("ip", "neigh", "replace", inner, "lladdr", nowhere, "dev", outside, "nud", "permanent")
        run.notes.append("silent with a job: %s" % ("yes" if run.workers[0].busy() else "no"))

    def heal():
        as_root("ip", "-n", name, "neigh", "del", host, "dev", inside)
        as_root("ip", "neigh", "del", inner, "dev", outside)
    at = run.rng.uniform(0.8, 1.6)
    run.timed += [(at, cut), (at + LEASE_S + run.rng.uniform(1.5, 3), heal)]
    run.n_jobs = 6


def forget(run, part, parts):
    """Jobs whose time to live is over, and deaths between their files and their records."""
    run.fields = {"ttl_s": 1.5}
    run.forgets = True
    run.n_jobs, run.n_cancels = 4, 1
    name = ("worker_forget", "dispatcher_forget", "blob_remove")[part]
    first = point(name)
    first.late = False
    second = first.again()
    if part == 1:
        run.dispatcher_faults = [[first], [second]]
    else:
        run.worker_faults, run.dispatcher_faults = [[first], [second], [first.again()]], [[]]


def webhook(run, part, parts):
    """Those who send webhooks die with them in hand: each comes at least once, again under the same id."""
    run.receiver = Receiver()
    run.while_open.append(run.receiver.close)
    run.fields = {"webhook": run.receiver.url(), "webhook_events": "start,end"}
    run.dispatcher_flags = ["--webhook-unsigned", "--webhook-allow", "127.0.0.1", "--webhook-timeout-s", "1"]
    run.dispatcher_faults = [[point("webhook_taken"), point("webhook_told")], [point("webhook_sent"), sent("hook_done")]]


def poison(run, part, parts):
    """A job that kills three workers is given up; the others are not."""
    run.n_jobs, run.n_cancels = 1, 0
    run.worker_faults = [[some(run, run.rng.choice(HOLDING[:9])) for _ in range(3)]]


def real(run, part, parts):
    """The avatar generator with its smallest checkpoint."""
    run.real = REAL
    run.n_jobs, run.n_cancels = 3, 1
    run.fields = {"num_inference_steps": 2}
    run.worker_faults = [[some(run, "worker_stage")], [point("worker_denoise")]]


CRASHES = 11


def matrix():
    """The kinds in the order of the runs; a longer form goes round."""
    others = (cancel, redis_kill, redis_stop, power_always, power_everysec, stop, pause, full, disk, slow, lost, half_open,
              webhook, poison, real)
    return ([Kind("crash", crash, i, CRASHES) for i in range(CRASHES)] + [Kind("forget", forget, i, 3) for i in range(3)] +
            [Kind(f.__name__, f) for f in others])
