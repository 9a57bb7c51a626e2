"""What the model knows about the answers for people: get, list, stats, why, workers, tenants, models."""
from parts import CALLS, ENDED, need, words


class People:
    def do_get(self, a, _, got):
        job = self.jobs.get(a["id"])
        if not job:
            return need(got["r"] == "NOTFOUND", "no such job")
        need(got["r"] == "OK" and got["record"] == job.rec, "the record as it was submitted")
        self.check_fields(job, got)
        self.check_position(job, got["pos"])
        need([x["attempt"] for x in got.get("late") or []] == job.late, "late: %s", job.late)
        if a["history"]:
            seen = [(e["what"], e["state"], e["attempt"]) for e in got["history"]]
            need(seen == job.log, "its log is %s", job.log)

    FIELDS = ("state", "attempt", "fails", "deaths", "prio", "gen", "tenant", "sub", "start", "fin", "exp", "retry", "worker",
              "stage", "step", "total", "code", "result")

    def check_fields(self, job, f, names=FIELDS):
        for name in names:
            want, has = getattr(job, name), f.get(name)
            if name == "code" and want in ("CANCEL", None):
                want, has = want or "", has or ""
            need(has == want, "%s of %s is %r, not %r", name, job.id, has, want)
        need(int(f.get("stop") or 0) == job.stop, "stop of %s is %s, not %s", job.id, f.get("stop"), job.stop)

    def do_list(self, a, _, got):
        need(got["r"] == "OK", "a list")
        want = [j for j in self.jobs.values() if a.get("state") in (None, j.state) and self.chosen(j, a)]
        for f in got["jobs"]:
            job = self.jobs.get(f["id"])
            need(job in want, "%s is not chosen", f["id"])
            self.check_fields(job, f, [n for n in self.FIELDS if n != "result"])
        if not a["cursor"]:
            need(len(got["jobs"]) == min(a["limit"], len(want)), "%d of %d are chosen", len(got["jobs"]), len(want))
        when = [self.jobs[f["id"]].fin if a.get("state") == "failed" else self.jobs[f["id"]].sub for f in got["jobs"]]
        need(when == sorted(when, reverse=True), "newest first")

    def do_stats(self, a, _, got):
        by = {s: sum(j.state == s for j in self.jobs.values()) for s in ("queued", "running", "delayed") + ENDED}
        want = {"waiting": by["queued"], "running": by["running"], "delayed": by["delayed"],
                "ended": sum(by[s] for s in ENDED), "dead": by["failed"], "paused": "queue" in self.paused,
                "hooks": len(self.hooks)}
        want.update({name: n for name, n in self.n.items() if name not in CALLS})
        for name, value in want.items():
            need(got.get(name) == value, "stats: %s is %s, not %s", name, got.get(name), value)
        need(len(self.heard_of()) <= got["workers"] <= len(self.workers), "%d workers", len(self.workers))
        need(set(got["paused_list"]) == self.paused, "paused: %s", self.paused)
        since = [j.since for j in self.queued()]
        need(got["oldest_ms"] == (self.now - min(since) if since else 0), "oldest_ms")
        levels = {x["priority"]: (x["waiting"], round(x["waiting_s"] * 1000)) for x in got["levels"]}
        want = {}
        for j in self.queued():
            n, ms = want.get(j.prio, (0, 0))
            want[j.prio] = (n + 1, ms + j.cost)
        need(levels == want, "levels: %s, not %s", levels, want)
        hist = got["hist"] or {}
        for name, n in (("wait", self.claims), ("run", self.n.get("n_done", 0))):
            has = hist[name]["count"] if name in hist else 0
            need(has == n, "the histogram %s counts %d, not %d", name, has, n)

    def do_why(self, a, _, got):
        job = self.jobs.get(a["id"])
        if not job:
            return need(got["r"] == "NOTFOUND", "no such job")
        need(got["state"] == job.state and got["why"], "its state is %s", job.state)
        need(len(self.heard_of()) <= got["workers"] <= len(self.workers), "%d workers", len(self.workers))
        need(got["fitting"] == self.fitting(job), "%d fit, not %d", self.fitting(job), got["fitting"])
        self.check_position(job, got["position"])
        reason, capped = got["reason"], self.capped(job.tenant)
        if job.state != "queued":
            want = {"running": "stopping" if job.stop else "running", "delayed": "delayed"}.get(job.state, "ended")
            return need(reason == want, "the reason is %s, not %s", want, reason)
        true = {"paused": self.pausing(job), "no_worker": not self.workers, "no_fit": not self.fitting(job),
                "tenant_running": capped == "tenant_running", "tenant_budget": capped, "warm": True,
                "gang": job.gmin > 1, "next": got["position"] == 0, "behind": got["position"] > 0}
        need(true.get(reason), "the reason is not %s", reason)
        if reason in ("next", "behind", "warm", "gang"):
            need(not (true["paused"] or true["no_worker"] or true["no_fit"] or capped), "a better reason than %s is known", reason)

    def do_workers(self, a, _, got):
        names = {w["name"] for w in got["list"]}
        need(self.heard_of() <= names <= set(self.workers), "workers: %s, not %s", names, set(self.workers))
        for f in got["list"]:
            w = self.workers[f["name"]]
            need(bool(f["quiet"]) == w.quiet, "%s: quiet", f["name"])
            need((f.get("job") or None) == w.job, "%s: job %s, not %s", f["name"], f.get("job"), w.job)

    def do_tenants(self, a, _, got):
        for f in got["list"]:
            n = sum(j.tenant == f["name"] and j.state == "queued" for j in self.jobs.values())
            need(f["running"] == self.running_of(f["name"]), "running of %s", f["name"])
            need(f["waiting"] in (n, self.waiting_of(f["name"])), "waiting of %s", f["name"])
            t = self.tenant(f["name"])
            has = tuple(f[x] for x in ("weight", "max_running", "max_queued", "gpu_s_day", "rate", "burst"))
            need(has == (t.weight, t.max_running, t.max_queued, t.gpu_s_day, t.rate, t.burst), "limits of %s: %s", f["name"], has)
            need(f["paused"] == ("tenant:" + f["name"] in self.paused), "%s: paused", f["name"])
            need(bool(f["held"]) == bool(self.closed(f["name"])), "%s is held: %s", f["name"], f["held"])
            need(abs(f["used_s_day"] * 1000 - t.used) < 1, "%s used %s, not %d ms", f["name"], f["used_s_day"], t.used)
        active = {j.tenant for j in self.jobs.values() if j.state not in ENDED}
        need(active <= {f["name"] for f in got["list"]}, "a tenant with jobs is listed")

    def heard_of(self):
        """Registered, and not silent for too long; who is silent goes at the next expire."""
        return {name for name, w in self.workers.items() if w.until > self.now}

    def do_models(self, a, _, got):
        memory = {}
        for w in self.workers.values():
            for gen in words(w.info["generators"]) - w.unfit if not w.quiet else ():
                memory.setdefault(gen, []).append(w.info["memory_bytes"])
        want = {gen: 0 if 0 in sizes else max(sizes) for gen, sizes in memory.items()}
        need(dict(got["memory"]) == want, "memory: %s, not %s", got["memory"], want)
        need(dict(got["weights"]) == self.weights, "weights: %s, not %s", got["weights"], self.weights)
