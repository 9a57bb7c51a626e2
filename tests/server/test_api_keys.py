"""Tenants and their keys: scopes, one tenant's jobs hidden from another over every route, rotation without restart, limits."""
import hashlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
import urllib.parse

import pytest

from api_tools import Client, Dispatcher, Redis, RedisServer, Worker, dispatcher_program, png, temporary_folder, wav

ROUTES = os.path.join(os.path.dirname(__file__), "..", "..", "dispatcher", "route.c")

# Every route of dispatcher/route.c: who may call it. A new one fails test_every_route_is_here until it stands here too.
#   open   anybody      jobs   any key; the answer holds only the key's own tenant's jobs
#   own    any key, and for another tenant's job the same 404 as for none      admin   keys of scope admin
ACCESS = {
    ("POST", "/v1/jobs"): "jobs",
    ("GET", "/v1/jobs"): "jobs",
    ("GET", "/v1/jobs/{id}"): "own",
    ("GET", "/v1/jobs/{id}/why"): "own",
    ("GET", "/v1/jobs/{id}/webhooks"): "own",
    ("GET", "/v1/jobs/{id}/events"): "own",
    ("GET", "/v1/jobs/{id}/video"): "own",
    ("GET", "/v1/jobs/{id}/thumbnail"): "own",
    ("GET", "/v1/jobs/{id}/report"): "own",
    ("POST", "/v1/jobs/{id}/cancel"): "own",
    ("POST", "/v1/jobs/{id}/retry"): "own",
    ("DELETE", "/v1/jobs/{id}"): "own",
    ("POST", "/v1/blobs"): "jobs",
    ("GET", "/v1/blobs/{key}"): "jobs",
    ("GET", "/v1/generators"): "jobs",
    ("GET", "/v1/queue"): "admin",
    ("POST", "/v1/queue/pause"): "admin",
    ("POST", "/v1/queue/resume"): "admin",
    ("POST", "/v1/queue/purge"): "admin",
    ("GET", "/v1/queue/dead"): "admin",
    ("POST", "/v1/queue/redrive"): "admin",
    ("GET", "/v1/tenants"): "admin",
    ("GET", "/v1/workers"): "admin",
    ("POST", "/v1/workers/{name}/quiet"): "admin",
    ("GET", "/metrics"): "admin",
    ("GET", "/healthz"): "open",
    ("GET", "/readyz"): "open",
    ("GET", "/v2/health/live"): "open",
    ("GET", "/v2/health/ready"): "open",
    ("GET", "/ping"): "open",
    ("GET", "/openapi.json"): "open",
    ("GET", "/docs"): "open",
    ("GET", "/"): "open",
    ("GET", "/style.css"): "open",
    ("GET", "/page.js"): "open",
    ("GET", "/board.js"): "open",
}


def of_kind(kind):
    return [k for k, v in ACCESS.items() if v == kind]


# ---- keys, files, clients ----

def secret(name):
    return "tk_" + (name + "-" * 43)[:43]


def entry(name, scope="jobs", **more):
    return {"id": name, "sha256": hashlib.sha256(secret(name).encode()).hexdigest(), "scope": scope, **more}


def write_keys(folder, tenants, mode=0o640):
    """Whole or not at all, as an operator's tool should."""
    path = os.path.join(folder, "keys.json")
    with open(path + ".new", "w") as f:
        f.write(tenants if isinstance(tenants, str) else json.dumps({"tenants": tenants}))
    os.chmod(path + ".new", mode)
    os.rename(path + ".new", path)
    return path


class KeyClient(Client):
    def __init__(self, port, key):
        super().__init__(port)
        self.key = key

    def __call__(self, method, path, body=None, **headers):
        if self.key:
            headers.setdefault("Authorization", "Bearer " + self.key)
        return super().__call__(method, path, body, **headers)

    def try_submit(self, headers=None, **fields):
        parts = [("image", ("face.png", png(8, 8))), ("audio", ("speech.wav", wav(0.5)))]
        return self.form("/v1/jobs", parts + [(k, str(v)) for k, v in fields.items()], **(headers or {}))


USUAL = {"alpha": {"keys": [entry("alice")]}, "gamma": {"keys": [entry("bob")]}, "ops": {"keys": [entry("root", "admin")]}}


class Setup:
    """A dispatcher with a keys file, a client for each key, a played worker."""

    def __init__(self, folder, server, tenants, *flags):
        self.folder, self.server = folder, server
        self.dispatcher = Dispatcher(folder, server.path, "--keys", write_keys(folder, tenants), *flags)
        self.redis = Redis(server.path)
        self.worker = Worker(self.redis)
        self.alice, self.bob, self.root = (self.client(n) for n in ("alice", "bob", "root"))
        self.nobody = KeyClient(self.dispatcher.port, None)

    def client(self, name):
        return KeyClient(self.dispatcher.port, secret(name))

    def keys(self, tenants, now=False, **kw):
        """The file changes; now: and the dispatcher is told, otherwise it sees that within a second."""
        write_keys(self.folder, tenants, **kw)
        if now:
            os.kill(self.dispatcher.process.pid, signal.SIGHUP)

    def wait_log(self, words, seconds=5):
        end = time.monotonic() + seconds
        while words not in self.dispatcher.log():
            assert time.monotonic() < end, self.dispatcher.log()
            time.sleep(0.02)

    def finish(self, job, result=None):
        """Runs a waiting job to its end."""
        got, attempt = self.worker.claim()
        assert got == job
        folder = os.path.join(self.dispatcher.volume, "results", job)
        os.makedirs(folder, exist_ok=True)
        files = {"video": "1-video.mp4", "thumbnail": "1-thumbnail.png", "report": "1-report.json"}
        for name in files.values():
            with open(os.path.join(folder, name), "w") as f:
                f.write("{}")
        self.worker.settle(job, attempt, {**files, **(result or {})})

    def stop(self):
        code = self.dispatcher.stop()
        self.redis.close()
        log = self.dispatcher.log()
        assert code == 0, log
        told = re.search(r".*(tk_[a-z]+-|whsec_).*", log)
        assert not told, "a secret is in the log: " + told[0]


@pytest.fixture(scope="module")
def usual():
    folder, remove = temporary_folder()
    server = RedisServer(folder)
    s = Setup(folder, server, USUAL)
    yield s
    s.stop()
    server.stop()
    remove()


@pytest.fixture
def setup(folder, redis_server):
    made = []

    def make(tenants, *flags):
        made.append(Setup(folder, redis_server, tenants, *flags))
        return made[-1]
    yield make
    for s in made:
        s.stop()


def until(ask, seconds=5):
    """The first answer that is not None, False or []."""
    end = time.monotonic() + seconds
    while not (got := ask()):
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.02)
    return got


# ---- who may call what ----

def test_every_route_is_here():
    with open(ROUTES) as f:
        rows = re.findall(r'^ +\{"([A-Z]+)",\s*"([^"]+)"', f.read(), re.M)
    assert len(rows) > 30 and len(set(rows)) == len(rows)
    assert set(rows) == set(ACCESS)


def path_of(path, job="none", key="sha256:" + "0" * 64):
    return path.replace("{id}", job).replace("{key}", key).replace("{name}", "nobody")


@pytest.mark.parametrize("method, path", ACCESS)
def test_scopes(usual, method, path):
    kind, where = ACCESS[method, path], path_of(path)
    a = usual.nobody(method, where)
    assert (a.status == 401) == (kind != "open"), a.body
    if kind != "open":
        assert a.headers["WWW-Authenticate"] == "Bearer" and a.json["code"] == "AUTH"
    a = usual.alice(method, where)
    assert (a.status == 403) == (kind == "admin"), a.body
    if kind == "admin":
        assert a.json["detail"] == "this needs a key of scope admin; the key alice is for the jobs of alpha"
    assert usual.root(method, where).status not in (401, 403)


def strip(a, job):
    """An answer, as far as it could tell two jobs apart."""
    return a.status, a.body.replace(job.encode(), b"JOB"), {k: v for k, v in a.headers.items() if k.lower() != "date"}


def test_another_tenants_job_is_as_none(usual):
    """Waiting, running, done with files: bob learns nothing and changes nothing, over every route with an id."""
    done = usual.alice.submit(webhook_events="end")
    usual.finish(done)
    running = usual.alice.submit()
    assert usual.worker.claim()[0] == running
    waiting = usual.alice.submit()
    absent = "00000000-0000-7000-8000-000000000000"
    before = [usual.alice("GET", "/v1/jobs/%s?history=1" % j).json for j in (done, running, waiting)]
    for method, path in of_kind("own"):
        for m in [method] + ["HEAD"] * (method == "GET"):
            none = strip(usual.bob(m, path_of(path, absent)), absent)
            assert none[0] == 404, (m, path)
            for job in (done, running, waiting):
                assert strip(usual.bob(m, path_of(path, job)), job) == none, (m, path)
    a = usual.bob("GET", "/v1/jobs/%s?wait=3" % running)
    assert a.status == 404
    a = usual.bob("GET", "/v1/jobs/%s/events" % done, Last_Event_ID="0-1")
    assert a.status == 404 and done not in a.body.decode().replace("/v1/jobs/%s/events" % done, "").replace("no job " + done, "")
    after = [usual.alice("GET", "/v1/jobs/%s?history=1" % j).json for j in (done, running, waiting)]
    for one in before + after: # these move by themselves
        one.pop("start_s", None)
    assert after == before
    assert os.listdir(os.path.join(usual.dispatcher.volume, "results", done))
    for who in (usual.alice, usual.root): # its owner and an admin get through, over the same routes
        for method, path in of_kind("own"):
            if (method, path) != ("DELETE", "/v1/jobs/{id}"):
                a = who(method, path_of(path, done))
                assert a.status in (200, 204, 409), (method, path, a.body)
    assert usual.alice("POST", "/v1/jobs/%s/cancel" % waiting).json["state"] == "cancelled"
    assert usual.root("DELETE", "/v1/jobs/" + waiting).status == 204
    assert usual.alice("DELETE", "/v1/jobs/" + done).status == 204
    usual.root("POST", "/v1/jobs/%s/cancel" % running)
    usual.worker.settle(running, 1, code="CANCEL", error="stopped", verdict="stop")


def test_lists(usual):
    for j in usual.root("GET", "/v1/jobs?limit=100").json["jobs"]:
        usual.root("POST", "/v1/jobs/%s/cancel" % j["id"])
    a, b, c = usual.alice.submit(), usual.bob.submit(), usual.root.submit()

    def ids(who, query=""):
        got = who("GET", "/v1/jobs?state=queued" + query)
        assert got.status == 200, got.body
        return [j["id"] for j in got.json["jobs"]]
    assert ids(usual.alice) == [a] and ids(usual.bob) == [b] and ids(usual.root) == [c, b, a]
    assert ids(usual.root, "&tenant=gamma") == [b] and ids(usual.alice, "&tenant=alpha") == [a]
    got = usual.alice("GET", "/v1/jobs?tenant=gamma")
    assert got.status == 422 and got.json["detail"] == "tenant: the key alice is for the jobs of alpha"
    assert [usual.root("GET", "/v1/jobs/" + j).status for j in (a, b, c)] == [200] * 3
    usual.root("POST", "/v1/queue/purge")


def test_idempotency_is_per_tenant(usual):
    same = {"Idempotency_Key": "once"}
    a, b = usual.alice.try_submit(same), usual.bob.try_submit(same)
    assert a.status == b.status == 201 and a.json["id"] != b.json["id"]
    again = usual.alice.try_submit(same)
    assert again.status == 201 and again.json["id"] == a.json["id"] and again.headers["Idempotent-Replayed"] == "true"
    usual.root("POST", "/v1/queue/purge")


@pytest.mark.parametrize("form, good", [
    ("Bearer %s", True), ("bearer   %s", True), ("%s", True), ("Key %s", True), ("Key alice:%s", True), ("Bearer alice:%s", True),
    ("alice:%s", True), ("Key bob:%s", False), ("Key :%s", False), ("Bearer %sx", False), ("Bearer", False), ("Bearer ", False),
    ("Basic %s", False), ("Bearer %s,", False), ("Key alice:", False), ("Bearer " + "x" * 3000, False),
])
def test_forms_of_the_header(usual, form, good):
    a = usual.nobody("GET", "/v1/jobs", Authorization=form % secret("alice") if "%s" in form else form)
    assert a.status == (200 if good else 401), a.body


def test_cookie(usual):
    for value, status in [(secret("alice"), 200), (urllib.parse.quote("alice:" + secret("alice"), safe=""), 200), ("x", 401)]:
        assert usual.nobody("GET", "/v1/jobs", Cookie="a=b; troupe_key=%s" % value).status == status
    # a header that is there decides: a wrong one is not helped by the cookie
    a = usual.nobody("GET", "/v1/jobs", Authorization="Bearer x", Cookie="troupe_key=" + secret("alice"))
    assert a.status == 401


def test_own_stream(usual):
    job = usual.alice.submit()
    connection = usual.alice.connect()
    connection.request("GET", "/v1/jobs/%s/events" % job, headers={"Cookie": "troupe_key=" + secret("alice")})
    stream = connection.getresponse()
    assert stream.status == 200
    usual.alice("POST", "/v1/jobs/%s/cancel" % job)
    assert b"event: end" in stream.read()
    connection.close()


def test_blobs_are_by_content(usual):
    key = usual.alice("POST", "/v1/blobs", wav(0.2), Content_Type="application/octet-stream").json["key"]
    assert usual.bob("GET", "/v1/blobs/" + key).status == 200


# ---- beside the setting api_key, and without keys ----

def test_api_key_is_an_admin(setup):
    s = setup(USUAL, "--api-key", "plain,other:one")
    for key in ("plain", "other:one"):
        c = KeyClient(s.dispatcher.port, key)
        job = c.submit()
        assert c("GET", "/v1/queue").status == 200 and s.root("GET", "/v1/jobs/" + job).status == 200
        assert s.alice("GET", "/v1/jobs/" + job).status == 404
    mine = s.alice.submit()
    assert KeyClient(s.dispatcher.port, "plain")("GET", "/v1/jobs/" + mine).status == 200


def test_keys_let_others_in(folder, redis_server):
    d = Dispatcher(folder, redis_server.path, "--bind", "0.0.0.0", "--keys", write_keys(folder, USUAL))
    assert KeyClient(d.port, secret("alice"))("GET", "/v1/jobs").status == 200
    assert Client(d.port)("GET", "/v1/jobs").status == 401
    assert d.stop() == 0


@pytest.mark.parametrize("text, words", [
    ("{\"tenants\": {\n  \"a\": {,}}}", "line 2, column"),
    ({"a": {"keys": [{"id": "k", "sha256": "short"}]}}, "tenants.a: keys[0]: sha256"),
    ({"a": {"wieght": 2}}, "is it meant as weight"),
    ({}, "not one key"),
    (None, "No such file"),
])
def test_no_start_with_a_wrong_file(folder, redis_server, text, words):
    path = os.path.join(folder, "none.json") if text is None else write_keys(folder, text)
    d = Dispatcher(folder, redis_server.path, "--keys", path, wait=False)
    assert d.process.wait(10) == 2 and words in d.log() and path in d.log(), d.log()


def test_new_key_is_good_for_the_file(setup):
    done = subprocess.run([dispatcher_program(), "--new-key", "fresh"], capture_output=True, text=True, check=True)
    key = re.search(r"^ +(tk_\S{43})$", done.stdout, re.M)[1]
    line = json.loads(re.search(r"^ +(\{.*\})$", done.stdout, re.M)[1])
    assert line["id"] == "fresh" and line["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    s = setup({"a": {"keys": [line]}})
    assert KeyClient(s.dispatcher.port, key)("GET", "/v1/jobs").status == 200


# ---- the file changes ----

def test_rotation_without_restart(setup):
    old, new = entry("old"), entry("new")
    s = setup({"t": {"keys": [old]}})
    first, second = s.client("old"), s.client("new")
    job = first.submit()
    assert second("GET", "/v1/jobs").status == 401
    s.keys({"t": {"keys": [old, new]}})
    until(lambda: second("GET", "/v1/jobs/" + job).status == 200)
    assert first("GET", "/v1/jobs/" + job).status == 200 # both, while clients change over
    s.keys({"t": {"keys": [new]}}, now=True)
    until(lambda: first("GET", "/v1/jobs/" + job).status == 401)
    assert second("GET", "/v1/jobs/" + job).status == 200


def test_broken_reload(setup):
    s = setup(USUAL)
    s.keys("{\"tenants\":\n  oops")
    s.wait_log("stay in force")
    assert "line 2" in s.dispatcher.log() and s.alice("GET", "/v1/jobs").status == 200
    assert s.nobody("GET", "/v1/jobs").status == s.client("stranger")("GET", "/v1/jobs").status == 401
    os.unlink(os.path.join(s.folder, "keys.json"))
    s.wait_log("is gone")
    assert s.alice("GET", "/v1/jobs").status == 200
    time.sleep(1.1)
    assert s.dispatcher.log().count("is gone") == 1 # told once
    s.keys({"alpha": {"keys": [entry("carol")]}}, now=True)
    until(lambda: s.client("carol")("GET", "/v1/jobs").status == 200)
    assert s.alice("GET", "/v1/jobs").status == 401


def test_expiry(setup):
    s = setup({"t": {"keys": [entry("short"), entry("long")]}})
    end = int(time.time()) + 3
    s.keys({"t": {"keys": [entry("short", expires=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))), entry("long")]}}, now=True)
    s.wait_log("keys loaded")
    short = s.client("short")
    a = until(lambda: (a := short("GET", "/v1/jobs")).status == 401 and a)
    assert time.time() >= end
    assert re.match("the key short expired at 20.*; ask for a new one", a.json["detail"])
    assert s.client("long")("GET", "/v1/jobs").status == 200


def test_told_by_a_signal(setup):
    s = setup(USUAL)
    os.kill(s.dispatcher.process.pid, signal.SIGHUP) # the file is as it was: only the signal can be why
    s.wait_log("keys loaded")


def test_readable_by_everybody_warns(setup):
    s = setup(USUAL)
    assert "chmod 640" not in s.dispatcher.log()
    s.keys(USUAL, now=True, mode=0o644)
    s.wait_log("chmod 640")


# ---- limits ----

def limits(s, name):
    for t in s.root("GET", "/v1/tenants").json["list" if "list" in s.root("GET", "/v1/tenants").json else "tenants"]:
        if t["name"] == name:
            return tuple(t[k] for k in ("weight", "max_running", "max_queued", "gpu_s_day"))
    return None


def test_limits_reach_redis(setup):
    with_limits = {**USUAL, "alpha": {"weight": 2, "max_running": 3, "max_queued": 4, "gpu_s_day": 5, "keys": [entry("alice")]}}
    s = setup(with_limits)
    assert limits(s, "alpha") == (2, 3, 4, 5) # before the first request
    s.keys({**with_limits, "alpha": {**with_limits["alpha"], "weight": 7}}, now=True)
    until(lambda: limits(s, "alpha") == (7, 3, 4, 5))
    s.keys({k: v for k, v in USUAL.items() if k != "alpha"}, now=True) # gone: without limits
    until(lambda: limits(s, "alpha") == (1, 0, 0, 0))
    s.keys(with_limits, now=True)
    until(lambda: limits(s, "alpha") == (2, 3, 4, 5))
    s.server.stop() # Redis comes back with nothing: it is told again
    for name in os.listdir(s.folder):
        if name.startswith("appendonly"):
            for part in os.listdir(os.path.join(s.folder, name)):
                os.unlink(os.path.join(s.folder, name, part))
            os.rmdir(os.path.join(s.folder, name))
    s.server.start()
    until(lambda: s.root("GET", "/readyz").status == 200, 10)
    until(lambda: limits(s, "alpha") == (2, 3, 4, 5))


def test_limits_of_a_tenant_that_left_while_nobody_looked(setup):
    s = setup({**USUAL, "alpha": {"max_running": 3, "keys": [entry("alice")]}})
    assert limits(s, "alpha") == (1, 3, 0, 0)
    assert s.dispatcher.stop() == 0
    s = setup({k: v for k, v in USUAL.items() if k != "alpha"})
    until(lambda: limits(s, "alpha") == (1, 0, 0, 0))


def refused_submit(a, what):
    assert a.status == 429 and a.json["code"] == "LIMIT" and re.search(what, a.json["detail"]), a.body
    return int(a.headers["Retry-After"])


def drain(ask, most):
    """Asks until refused: (how many were granted, seconds it took, the refusal)."""
    start, granted = time.monotonic(), 0
    while (a := ask()).status != 429:
        assert a.status in (200, 201), a.body
        granted += 1
        assert granted < most, "no limit"
    return granted, time.monotonic() - start, a


def test_rate_of_submits(setup):
    s = setup({**USUAL, "alpha": {"rate_per_min": 60, "burst": 3, "keys": [entry("alice")]}})
    granted, seconds, a = drain(s.alice.try_submit, 30)
    assert 3 <= granted <= 3 + seconds + 0.01
    wait = refused_submit(a, "rate|submit")
    assert wait == 1
    s.bob.submit() # another's affair
    time.sleep(wait)
    s.alice.submit()


def test_max_queued(setup):
    s = setup({**USUAL, "alpha": {"max_queued": 2, "keys": [entry("alice")]}})
    first = s.alice.submit()
    s.alice.submit()
    assert refused_submit(s.alice.try_submit(), "2") >= 1
    s.bob.submit()
    assert s.worker.claim()[0] == first
    s.alice.submit()


def test_rate_of_reads(setup):
    s = setup(USUAL, "--rate-reads-per-s", "1", "--rate-reads-burst", "20")

    def ask():
        return s.alice("GET", "/v1/jobs")
    granted, seconds, a = drain(ask, 100)
    assert 20 <= granted <= 20 + seconds + 0.01
    assert a.headers["Retry-After"] == "1" and "more than 1 calls a second" in a.json["detail"]
    assert s.alice("GET", "/healthz").status == 200 and s.bob("GET", "/v1/jobs").status == 200
    s.alice.submit() # counted apart
    s.keys({**USUAL, "alpha": {"keys": [entry("alice"), entry("other")]}}, now=True)
    s.wait_log("keys loaded")
    assert drain(ask, 100)[0] < 20 # a reload fills no bucket
    time.sleep(1)
    assert ask().status == 200 # as it was told


# ---- what a submit answers ----

def test_cached_answer(usual):
    first = usual.alice.try_submit(seed=7, prompt="x")
    assert first.status == 201 and first.headers["X-Cache"] == "miss" and first.json["cached"] is False
    job = first.json["id"]
    usual.finish(job)
    hit = usual.alice.try_submit(seed=7, prompt="x", tags="another", priority=9)
    assert hit.status == 200 and hit.headers["X-Cache"] == "hit" and hit.headers["Location"] == "/v1/jobs/" + job
    assert (hit.json["id"], hit.json["cached"], hit.json["state"]) == (job, True, "done")
    assert "warning" not in hit.json
    for who, fields in [(usual.bob, {"seed": 7, "prompt": "x"}), (usual.alice, {"seed": 7, "prompt": "x", "cache": "off"}),
                        (usual.alice, {"seed": 8, "prompt": "x"}), (usual.alice, {"seed": 7, "prompt": "y"}),
                        (usual.alice, {"prompt": "x"}), (usual.alice, {"seed": -1, "prompt": "x"})]:
        other = who.try_submit(**fields)
        assert other.status == 201 and other.json["cached"] is False and other.json["id"] != job, fields
        cacheable = fields.get("seed", -1) >= 0 and "cache" not in fields
        assert other.headers["X-Cache"] == ("miss" if cacheable else None)
    usual.root("POST", "/v1/queue/purge")


GIB = 1 << 30
# For 1024 x 1024 pixels 20 GiB, growing with the area.
COST = json.dumps({"window": 129, "slope": 0.0155, "steps": [[1, 1], [50, 50]], "rows": [
    [256 * 256, 100, 50, 1, 20 * GIB / 16, 0], [1024 * 1024, 1600, 800, 16, 20 * GIB, 0]]})


def test_what_no_worker_can_hold(setup):
    s = setup(USUAL)
    a = s.alice.try_submit(size="1024x1024")
    assert a.status == 201 and a.json["fitting"] == 0 # nothing is known yet: accepted, with a word
    assert a.json["warning"].startswith("no worker that could run this job")
    s.worker.hello(**{"cost:avatar": COST, "memory_bytes": 12 * GIB, "warm": "avatar"})

    def try_large():
        a = s.alice.try_submit(size="1024x1024")
        return a.status != 201 and a
    a = until(try_large)
    assert a.status == 422 and a.json["code"] == "NOFIT" and a.json["field"] == "size"
    assert a.json["detail"] == ("size: this video needs about 20.0 GiB of device memory and the largest worker has 12.0 GiB; "
                                "choose a smaller size, a shorter recording or fewer num_frames")
    a = s.alice.try_submit(size="512x512") # 5 GiB
    assert a.status == 201 and a.json["fitting"] == 1 and "warning" not in a.json
    s.root("POST", "/v1/queue/purge")
    a = s.alice.try_submit(size="800x832") # 12.7 GiB, within a tenth: the largest may try, and gets it
    assert a.status == 201 and a.json["fitting"] == 1, a.body
    assert s.worker.claim(bytes=12 * GIB)[0] == a.json["id"]
    s.worker.hello(**{"cost:avatar": COST, "memory_bytes": 24 * GIB, "warm": "avatar"})
    until(lambda: s.alice.try_submit(size="1024x1024").status == 201)


def test_traceparent(usual):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    a = usual.alice.try_submit({"traceparent": trace})
    assert a.status == 201 and a.headers["traceparent"] == trace == a.json["traceparent"]
    assert usual.alice("GET", "/v1/jobs/" + a.json["id"]).json["traceparent"] == trace
    line = [x for x in usual.dispatcher.log().splitlines() if a.json["id"] in x and "submitted" in x][0]
    assert trace in line and "tenant=alpha" in line and "key=alice" in line
    for wrong in ("nonsense", trace.replace("4bf92f", "4BF92F"), trace[:3] + "0" * 32 + trace[35:]):
        a = usual.alice.try_submit({"traceparent": wrong})
        assert a.status == 201 and a.headers["traceparent"] is None and "traceparent" not in a.json
    usual.root("POST", "/v1/queue/purge")
