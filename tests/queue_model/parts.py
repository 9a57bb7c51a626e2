"""What the model is made of: jobs, tenants, workers, deliveries; and how a difference is said."""
ENDED = ("done", "failed", "cancelled", "timed_out")
OBEY_MS, GAP_MS, GRACE_MS, TRASH_MS, DAY_MS = 30000, 3000, 5000, 60000, 86400000
AGAIN_MS = 3600000
CALLS = ("n_lost", "n_refused", "n_cached", "n_late")  # counted by the one who sends twice
IDLE_MS = 1500  # a worker that asked so long ago is idle no more
WARM_MS, HOLD_MS, HOOK_PROGRESS_MS, DEATHS_MAX, LATE_MAX, LOG_MAX, CLASSES_MAX = 500, 5000, 500, 3, 4, 64, 256


class Mismatch(Exception):
    pass


def need(true, text, *values):
    if not true:
        raise Mismatch(text % values if values else text)


def words(text):
    return {w for w in (text or "").split(",") if w}


def rounded(n):
    """Memory in classes: up to a 32nd of a power of two."""
    step = max(1, 2 ** (n.bit_length() - 1) // 32)
    return -(-n // step) * step


def average(old, value):
    return float("%.6g" % (value if old is None else 0.8 * old + 0.2 * value))


class Job:
    def __init__(self, a, record, now):
        self.id, self.rec, self.sub, self.asked = a["id"], record, now, a
        for name in ("gen", "ver", "prio", "gmin", "gmax", "tenant", "ds", "dr", "ttl", "idem", "fp", "cache", "hook", "gflop"):
            setattr(self, name, a[name])
        self.bytes, self.labels = rounded(a["bytes"]), words(a["labels"])
        self.state, self.attempt, self.fails, self.deaths = "new", 0, 0, 0
        self.start = self.fin = self.exp = self.retry = self.worker = self.verdict = self.ghost = None
        self.stop = self.stop_at = 0
        self.ranks, self.leases, self.scheduled = [], {}, False
        self.place, self.since, self.cost, self.clock = None, None, 0.0, None
        self.code = self.error = self.result = self.stage = None
        self.weights, self.late, self.log = "", [], []
        self.step = self.total = self.eta = None

    def line(self):
        return (self.prio, self.gen, self.ver, self.bytes, self.gmin, self.gmax, tuple(sorted(self.labels)))


class Tenant:
    def __init__(self):
        self.weight, self.max_running, self.max_queued, self.gpu_s_day = 1.0, 0, 0, 0.0
        self.rate, self.burst, self.tokens, self.tokens_t = 0.0, 0, None, 0
        self.used, self.day = 0, None


class Worker:
    def __init__(self):
        self.info, self.quiet, self.until, self.unfit = {}, False, 0, set()
        self.job, self.rank, self.token, self.untold, self.claimed = None, 0, None, None, None

    def gens(self):
        return words(self.info.get("generators")) - self.unfit


class Delivery:
    def __init__(self, job, event, created, due):
        self.id, self.job, self.event, self.created, self.due = None, job, event, created, due
        self.hold, self.tries, self.said = 0, 0, None
