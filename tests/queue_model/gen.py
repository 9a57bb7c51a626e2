"""What may be asked of a queue, at random: operations aimed at what the model holds, now and then beside it."""
import msgpack

from parts import DAY_MS

GENS = ("avatar", "tryon")
TENANTS = ("", "acme", "zeta.9")
HOSTS = {"w1": "h1", "w2": "h1", "w3": "h1", "w4": "h2", "w5": ""}
MEMORY = {"w1": 0, "w2": 4096, "w3": 1024, "w4": 4096, "w5": 0}
LABELS = {"w1": "eu,h100", "w2": "h100", "w3": "", "w4": "eu", "w5": "eu"}
JUMPS = ((60, 0), (100, 5), (60, 300), (60, 1000), (20, 2500), (10, 6000), (6, 16000), (4, 31000), (2, 300000), (1, 40000000))

WEIGHTS = {
    "submit": 150, "claim": 220, "renew": 30, "progress": 40, "settle": 80, "release": 15, "cancel": 35, "expire": 70,
    "retry": 25, "redrive": 6, "delete": 30, "forgot": 20, "purge": 1, "pause": 12, "tenant": 10, "get": 25, "list": 15, "why": 25, "stats": 12,
    "workers": 6, "tenants": 6, "models": 4, "hello": 50, "bye": 8, "quiet": 12, "hook_take": 20, "hook_done": 25, "hooks": 8,
}


class Generator:
    def __init__(self, rng, model):
        self.rng, self.m, self.serial = rng, model, 0
        self.names = TENANTS[:rng.choice((1, 2, 3))]
        self.crew = list(HOSTS)[:rng.choice((1, 3, 5))]
        self.gang, self.caps, self.few = rng.random() < 0.4, rng.random() < 0.5, rng.random() < 0.5
        self.gens = {w: rng.choice(("avatar,tryon", "avatar,tryon", "avatar")) for w in HOSTS}
        self.tokens, self.forced = {}, []
        self.calm = rng.random() < 0.6  # expire comes in time, so that leases may run out; few outer disturbances
        self.weights = dict(WEIGHTS)
        if self.calm:
            self.weights.update(pause=4, quiet=4, purge=0, bye=2, expire=130)

    def operation(self):
        """(name, arguments, record or None, milliseconds that pass before it)"""
        rng = self.rng
        dt = rng.choices([j[1] for j in JUMPS], [j[0] for j in JUMPS])[0]
        dt = rng.randint(0, dt) if dt and rng.random() < 0.7 else dt
        if self.calm:
            dt = min(dt, 2600)
        name = rng.choices(list(self.weights), list(self.weights.values()))[0]
        if (self.m.now + dt) // DAY_MS != self.m.now // DAY_MS:
            self.forced = [2600, 2600]  # the day's budgets begin with an expire, once Redis is known to be there
            return "expire", {"max": 100}, None, dt
        if self.forced:
            return "expire", {"max": 100}, None, self.forced.pop()
        got = getattr(self, name)()
        args, record = got if isinstance(got, tuple) else (got, None)
        return name, args, record, dt

    # ---- which ----

    def id_of(self, *states):
        known = [j.id for j in self.m.jobs.values() if not states or j.state in states]
        if known and self.rng.random() < 0.93:
            return self.rng.choice(sorted(known))
        return self.rng.choice(["nobody"] + sorted(self.m.jobs))

    def held(self):
        """id and attempt of a worker: mostly of one that holds the job."""
        id = self.id_of("running") if self.rng.random() < 0.93 else self.id_of()
        job = self.m.jobs.get(id)
        attempt = job.attempt if job else 1
        if self.rng.random() < 0.1:
            attempt = max(0, attempt + self.rng.choice((-1, -1, 1)))
        return id, attempt, job

    def subset(self, all, p=0.5):
        return ",".join(sorted(w for w in all if self.rng.random() < p))

    # ---- clients ----

    def submit(self):
        rng = self.rng
        waiting = sum(j.state in ("queued", "delayed") for j in self.m.jobs.values())
        if self.m.jobs and rng.random() < 0.08:  # said again, or the id of another
            job = self.m.jobs[rng.choice(sorted(self.m.jobs))]
            if rng.random() < 0.7 and hasattr(job, "asked"):
                return dict(job.asked), job.rec
            id = job.id
        else:
            self.serial += 1
            id = "j%d" % self.serial
        gmin = rng.choice((2, 2, 3)) if self.gang and rng.random() < 0.3 else 1
        hook = rng.choice(("", "", "end", "queued,start,progress,end"))
        a = {"id": id, "gen": rng.choice(GENS), "ver": rng.choice((1, 1, 1, 2)), "prio": rng.choice((5, 5, 5, 0, 9)),
             "bytes": rng.choice((0, 0, 900, 1000, 1001, 4000)), "gflop": rng.choice((0, 0.0, 10.5, 2000)), "gmin": gmin,
             "gmax": max(gmin, rng.choice((1, 2, 4))), "labels": rng.choice(("", "", "", "eu", "eu,h100")),
             "tenant": rng.choice(self.names), "ds": rng.choice((0, 0, 0, 500, 20000)), "dr": rng.choice((0, 0, 0, 800, 20000)),
             "ttl": rng.choice((1000, 60000, 604800000)), "idem": rng.choice(("", "", "", "k 1", "k2", "k3", "k4")), "fp": rng.choice("xxxxxy"),
             "cache": rng.choice(("", "", "c1", "c2")), "due": 0, "delay": 0, "hook": hook, "max": rng.choice((1000, 1000, 1000, 12))}
        if self.few and waiting > 12:
            a["max"] = rng.choice((10, 15))
        a["cache"] = a["cache"] and a["cache"] + a["gen"]  # a digest of the generator too
        if rng.random() < 0.12:
            a[rng.choice(("due", "due", "delay"))] = rng.choice((1, 700, 5000, 100000))
            a["due"] += self.m.now if a["due"] else 0
        return a, msgpack.packb({"id": id, "v": a["ver"], "n": rng.randint(0, 10 ** 9)})

    def cancel(self):
        return {"id": self.id_of(), "who": self.rng.choice(("client", "console"))}

    def retry(self):
        return {"id": self.id_of("failed", "cancelled", "timed_out")}

    def filter(self):
        a = {}
        if self.rng.random() < 0.4:
            a["tenant"] = self.rng.choice(TENANTS)
        for name, values in (("gen", GENS), ("code", ("MEDIA", "IO", "INTERNAL", "CANCEL")), ("worker", tuple(HOSTS))):
            if self.rng.random() < 0.2:
                a[name] = self.rng.choice(values)
        return a

    def redrive(self):
        return {**self.filter(), "max": self.rng.choice((1, 3, 1000))}

    def delete(self):
        return {"id": self.id_of("done", "failed", "cancelled", "timed_out")}

    def forgot(self):
        return {"id": self.rng.choice(sorted(self.m.trash) or ["nobody"])}

    def purge(self):
        return {"max": self.rng.choice((1, 3, 1000))}

    def pause(self):
        scope = self.rng.choice(("queue", "generator", "tenant"))
        name = {"queue": "", "generator": self.rng.choice(GENS), "tenant": self.rng.choice(self.names)}[scope]
        on = self.rng.random() < 0.3
        if self.m.paused and not on and self.rng.random() < 0.8:
            scope, _, name = self.rng.choice(sorted(self.m.paused)).partition(":")
        return {"scope": scope, "name": name, "on": on}

    def tenant(self):
        rng, caps = self.rng, self.caps
        return {"name": rng.choice(self.names), "weight": rng.choice((1, 1, 0.5, 3)),
                "max_running": rng.choice((0, 1, 2)) if caps else 0, "max_queued": rng.choice((0, 0, 4)) if caps else 0,
                "gpu_s_day": rng.choice((0, 0, 5.5, 500)) if caps else 0, "rate": rng.choice((0, 0, 6, 600)) if caps else 0,
                "burst": rng.choice((0, 1, 5))}

    # ---- people ----

    def get(self):
        return {"id": self.id_of(), "history": self.rng.random() < 0.5}

    def list(self):
        state = self.rng.choice(("", "", "failed", "queued", "running", "done"))
        return {**self.filter(), **({"state": state} if state else {}), "cursor": "", "limit": self.rng.choice((1, 5, 100))}

    def why(self):
        return {"id": self.id_of()}

    def nothing(self):
        return {}

    stats = workers = tenants = models = nothing

    # ---- workers ----

    def hello(self):
        rng = self.rng
        w = rng.choice(self.crew)
        info = {"generators": self.gens[w], "memory_bytes": MEMORY[w], "labels": LABELS[w], "host": HOSTS[w], "ver": 2,
                "gang": int(bool(HOSTS[w])), "device": "H100" if w < "w4" else "L4", "pid": rng.choice((7, 7, 7, 7, 8))}
        if self.rng.random() < 0.1:
            info["weights:avatar"] = self.rng.choice(("abc", "def"))
        return {"worker": w, "ttl": self.rng.choice((60000, 60000, 3000)), "info": info}

    def bye(self):
        return {"worker": self.rng.choice(self.crew)}

    def quiet(self):
        return {"worker": self.rng.choice(self.crew), "on": self.rng.random() < 0.2}

    def claim(self):
        rng = self.rng
        w = rng.choice(self.crew)
        if w not in self.tokens or rng.random() < 0.8:
            self.serial += 1
            self.tokens[w] = "p%d:%d" % (rng.random() < 0.03, self.serial)
        gens, token = self.gens[w], self.tokens[w]
        if rng.random() < 0.04:  # a copy of an old claim, that comes late
            token = "p0:%d" % rng.randint(1, self.serial)
        return {"worker": w, "gens": gens, "bytes": MEMORY[w], "ver": rng.choice((2, 2, 2, 1)),
                "lease": rng.choice((15000, 15000, 900)), "token": token, "labels": LABELS[w],
                "warm": rng.choice(("", "avatar", gens)), "host": HOSTS[w], "device": "H100" if w < "w4" else "L4"}

    def renew(self):
        id, attempt, job = self.held()
        rank = self.rng.randrange(len(job.ranks)) if job and job.ranks else 0
        return {"id": id, "attempt": attempt, "rank": rank, "lease": self.rng.choice((15000, 400))}

    def progress(self):
        id, attempt, _ = self.held()
        return {"id": id, "attempt": attempt, "stage": self.rng.choice(("denoise", "decode")), "step": self.rng.randint(0, 50),
                "total": 50, "eta": self.rng.choice((-1, 4.5))}

    def settle(self):
        rng = self.rng
        id, attempt, _ = self.held()
        verdict = rng.choice(("ok", "ok", "ok", "fail", "retry", "retry", "stop"))
        return {"id": id, "attempt": attempt, "verdict": verdict, "code": "OK" if verdict == "ok" else rng.choice(("MEDIA", "IO")),
                "error": "because", "result": '{"video":"%d.mp4"}' % attempt if verdict == "ok" else "",
                "max_fails": rng.choice((3, 3, 1)), "backoff": rng.choice((20, 2000)), "gflop": rng.choice((0, 12.5)),
                "stages": rng.choice(({}, {"denoise": 1.5, "decode": 0.25})), "weights": rng.choice(("", "abc")),
                "unfit": verdict == "fail" and rng.random() < 0.3}

    def release(self):
        id, attempt, _ = self.held()
        return {"id": id, "attempt": attempt, "why": "drain"}

    def expire(self):
        return {"max": self.rng.choice((100, 100, 100, 1, 3))}

    # ---- webhooks ----

    def hook_take(self):
        return {"n": self.rng.choice((1, 5, 50)), "hold": self.rng.choice((1000, 30000))}

    def hook_done(self):
        if self.m.taken and self.rng.random() < 0.95:
            id, hold = self.rng.choice(self.m.taken[-8:])
        else:
            id, hold = "7", 1
        verdict = self.rng.choice(("ok", "ok", "again", "drop"))
        return {"id": id, "hold": hold, "verdict": verdict, "status": {"ok": 204, "again": 503, "drop": 410}[verdict],
                "seconds": 0.25, "why": ""}

    def hooks(self):
        return {"id": self.id_of()}
