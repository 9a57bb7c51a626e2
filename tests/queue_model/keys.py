"""What must be true of the keys of a queue, whatever happened: each job in exactly one place, all counts equal recounts."""
import math
from collections import Counter

from link import command
from parts import ENDED, need

READ = {"string": ("GET",), "hash": ("HGETALL",), "list": ("LRANGE", 0, -1), "set": ("SMEMBERS",),
        "zset": ("ZRANGE", 0, -1, "WITHSCORES")}
# What may be there when every job is deleted and every worker has gone: what was learnt, counted and allowed.
KEPT = ("meta", "hist", "rate", "gpu", "model", "events", "wake", "paused", "budget", "tenants", "tenant:", "vt:")


class Keys:
    """All keys of the queue, without the prefix "{q}:"."""

    def __init__(self, link, queue):
        prefix = "{%s}:" % queue
        names = link.call("KEYS", "{%s}*" % queue.replace("[", "\\["))
        kinds = link.send(*[command("TYPE", n) for n in names]) if names else []
        reads = [(n, k.decode()) for n, k in zip(names, kinds) if k != b"stream"]
        values = link.send(*[command(READ[k][0], n, *READ[k][1:]) for n, k in reads]) if reads else []
        self.all = {n.decode()[len(prefix):] for n in names}
        self.data = {}
        for (name, kind), value in zip(reads, values):
            short = name.decode()[len(prefix):]
            if kind in ("hash", "zset"):
                value = {value[i].decode(): value[i + 1] for i in range(0, len(value), 2)}
                if kind == "zset":
                    value = {k: float(v) for k, v in value.items()}
                elif not short.startswith("job:"):
                    value = {k: v.decode("utf-8", "replace") for k, v in value.items()}
            elif kind == "set":
                value = {v.decode() for v in value}
            self.data[short] = value

    def get(self, name):
        return self.data.get(name) or {}

    def under(self, prefix):
        return {n[len(prefix):]: v for n, v in self.data.items() if n.startswith(prefix)}


def check_jobs(k):
    """Each job is in the one set of its state."""
    jobs, places = {}, Counter()
    for id, raw in k.under("job:").items():
        f = {name: v.decode("utf-8", "replace") for name, v in raw.items() if name not in ("rec", "ranks", "late")}
        need("state" in f, "a piece of job %s is left: %s", id, sorted(f))
        f["ranks"] = raw.get("ranks")
        jobs[id] = f
    need(set(k.get("all")) == set(jobs), "all: %s", set(k.get("all")) ^ set(jobs))
    of = {}
    for id, f in jobs.items():
        if f["tenant"]:
            of.setdefault(f["tenant"], set()).add(id)
    need({name: set(ids) for name, ids in k.under("of:").items()} == of, "jobs by tenant: %s", (k.under("of:"), of))
    holds = {"queued": set(k.get("wait")), "delayed": set(k.get("delayed")), "ended": set(k.get("ended")),
             "running": {m.partition("#")[0] for m in k.get("lease")}}
    for state, ids in holds.items():
        want = {id for id, f in jobs.items() if f["state"] == state or state == "ended" and f["state"] in ENDED}
        need(ids == want, "the set of the %s: %s", state, ids ^ want)
    dead = {id for id, f in jobs.items() if f["state"] == "failed"}
    need(set(k.get("dead")) == dead, "dead: %s", set(k.get("dead")) ^ dead)
    for line, members in k.under("line:").items():
        for id in members:
            places[id] += 1
            f = jobs.get(id, {})
            need(line == "%s|%s|%s" % (f.get("prio"), f.get("cls"), f.get("tenant")), "%s stands in the line %s", id, line)
    need(places == Counter(holds["queued"]), "who waits stands in one line: %s", places)
    clock = set(k.get("clock"))
    need(clock <= {id for id, f in jobs.items() if f["state"] not in ENDED}, "clock: %s", clock)
    return jobs


def check_tenants(k, jobs):
    """Counts of tenants and levels equal a recount; the turns hold exactly the open tenants that have lines."""
    lines, open_lines = {}, {}
    for line in k.under("line:"):
        turn, _, tenant = line.rpartition("|")
        lines.setdefault(tenant, set()).add(turn)
    need(lines == k.under("lines:"), "lines: %s", (lines, k.under("lines:")))
    run = Counter(f["tenant"] for f in jobs.values() if f["state"] == "running")
    wait = Counter(f["tenant"] for f in jobs.values() if f["state"] in ("queued", "delayed"))
    for name, f in k.under("tenant:").items():
        need(int(f.get("n_run", 0)) == run[name], "tenant '%s': n_run %s, %d run", name, f.get("n_run"), run[name])
        need(int(f.get("n_wait", 0)) == wait[name], "tenant '%s': n_wait %s, %d wait", name, f.get("n_wait"), wait[name])
        cap = int(f.get("max_running", 0))
        closed = "tenant:" + name in k.get("paused") or cap and run[name] >= cap
        budget = float(f.get("gpu_day_ms", 0))
        if not closed and not (budget and float(f.get("day_ms", 0)) >= budget):
            for turn in lines.get(name, ()):
                open_lines.setdefault(turn, set()).add(name)
        elif not closed:  # over its budget: of today, or of a day that is over
            for turn in lines.get(name, ()):
                if name in k.get("turn:" + turn):
                    open_lines.setdefault(turn, set()).add(name)
    need(set(run) | set(wait) <= set(k.under("tenant:")), "a tenant without counts")
    turns = {turn: set(members) for turn, members in k.under("turn:").items()}
    need(turns == open_lines, "turns: %s, open: %s", turns, open_lines)
    need(set(k.get("turns")) == set(turns), "turns: %s", set(k.get("turns")) ^ set(turns))
    for turn, members in k.under("turn:").items():
        need(k.get("turns")[turn] == 9 - int(turn[0]), "the level of %s", turn)
        for tenant, score in members.items():
            at = k.get("vt:" + turn[0]).get(tenant)
            need(at is not None and math.isclose(at, score, abs_tol=1e-3), "'%s' stands at %s in %s, its virtual time is %s",
                 tenant, score, turn, at)


def check_workers(k, jobs):
    offers = Counter()
    for name, f in k.under("worker:").items():
        job = jobs.get(f.get("job") or "")
        need(not f.get("job") or job and job["state"] == "running", "worker %s is said to run %s", name, f.get("job"))
        if f.get("offer"):
            offers[f["offer"]] += 1
    has = {o: int(n) for o, n in k.get("offers").items()}
    need(has == dict(offers), "offers: %s, counted %s", has, dict(offers))
    need(set(k.get("workers")) == set(k.under("worker:")), "the keys of workers: %s", set(k.get("workers")) ^ set(k.under("worker:")))


def check_hooks(k, jobs):
    hooks = k.under("hook:")
    need(set(k.get("hooks")) == set(hooks), "hooks: %s", set(k.get("hooks")) ^ set(hooks))
    by_job = {}
    for id, f in hooks.items():
        need(f.get("job") in jobs, "delivery %s of a job that is gone", id)
        by_job.setdefault(f["job"], set()).add(id)
    need(by_job == k.under("hookjob:"), "hookjob: %s", (by_job, k.under("hookjob:")))
    for name in ("log:", "hooklog:"):
        need(set(k.under(name)) <= set(jobs), "%s of a job that is gone: %s", name, set(k.under(name)) - set(jobs))


def check(k):
    jobs = check_jobs(k)
    check_tenants(k, jobs)
    check_workers(k, jobs)
    check_hooks(k, jobs)
    return jobs


def check_empty(k):
    """Everything was deleted."""
    left = sorted(n for n in k.all if not n.startswith(KEPT) )
    need(not left, "keys are left behind: %s", left)
