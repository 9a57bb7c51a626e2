"""Webhooks: what is sent and how it is signed, tries and their end, who sends when several could, and where none may go.

The signature check, the receiver and the silent name server are the tests' own (hook_tools.py, fake_dns.c).
"""
import hashlib
import json
import os
import signal
import ssl
import subprocess
import time

import pytest

from api_tools import BUILD, Client, Dispatcher, Redis, RedisServer, Worker, png, wav
from hook_tools import OTHER_SECRET, SECRET, Receiver, log_of, signed_by, verify

FAKE_DNS = os.path.abspath(os.path.join(BUILD, "tests", "server", "libfake_dns.so"))
OPEN = ("--webhook-secret", SECRET, "--webhook-allow", "127.0.0.1,inside.test")
ALL = "queued,start,progress,end"


def submit(api, url, events="end", status=201, **headers):
    parts = [("image", ("face.png", png(8, 8))), ("audio", ("speech.wav", wav(0.5))), ("webhook", url),
             ("webhook_events", events)]
    answer = api.form("/v1/jobs", parts, **headers)
    assert answer.status == status, answer.body
    return answer.json["id"] if status == 201 else answer.json


def cancelled(api, url):
    """A job that has ended already."""
    job = submit(api, url)
    assert api("POST", "/v1/jobs/%s/cancel" % job).status == 200
    return job


def stop(program):
    code = program.stop()
    log = program.log()
    assert code == 0 and "Sanitizer" not in log, log
    assert SECRET not in log and SECRET[6:] not in log
    return log


class Place:
    """A redis-server, and dispatchers as a test wants them."""

    def __init__(self, folder):
        self.folder, self.server, self.programs = folder, RedisServer(folder), []
        self.redis = Redis(self.server.path)
        self.worker = Worker(self.redis)

    def start(self, *flags, env=None):
        program = Dispatcher(self.folder, self.server.path, *(flags or OPEN), env=env)
        self.programs.append(program)
        program.api = Client(program.port)
        return program

    def hurry(self, api):
        """All tries are due, and something happens that makes the dispatchers look."""
        for one in self.redis("ZRANGE", "{avatar}:hooks", 0, -1):
            self.redis("ZADD", "{avatar}:hooks", 0, one)
        job = api.submit()
        api("POST", "/v1/jobs/%s/cancel" % job)

    def close(self):
        for program in self.programs:
            if program.process.poll() is None:
                stop(program)
        self.redis.close()
        self.server.stop()


@pytest.fixture
def place(folder):
    p = Place(folder)
    yield p
    p.close()


@pytest.fixture
def receiver():
    r = Receiver()
    yield r
    r.close()


# ---- what is sent ----

def test_a_whole_life(place, receiver):
    proxy = "http://127.0.0.1:1/"  # not to be used
    api = place.start(*OPEN, "--public-url", "https://video.example/", env={"http_proxy": proxy, "ALL_PROXY": proxy}).api
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    began = time.time()
    job = submit(api, receiver.url("/a?b=c"), ALL, traceparent=trace)
    quiet = submit(api, receiver.url("/quiet"))
    receiver.wait(1)
    got, attempt = place.worker.claim()
    assert got == job
    receiver.wait(2)
    place.worker.progress(job, attempt, "denoise", 3, 10, 1.5)
    receiver.wait(3)
    place.worker.settle(job, attempt, {"video": "1-video.mp4", "seed": 7})
    hooks = receiver.wait(4)
    assert time.time() - began < 4, "an event makes the dispatcher look"
    assert [h.type for h in hooks] == ["job.queued", "job.start", "job.progress", "job.end"]
    for h in hooks:
        verify(SECRET, h)
        assert not signed_by(OTHER_SECRET, h)
        assert h.path == "/a?b=c" and h.headers["content-type"] == "application/json"
        assert h.headers["traceparent"] == trace and h.headers["user-agent"].startswith("troupe/")
        assert h.headers["host"] == "127.0.0.1:%d" % receiver.port
        assert began - 1 < time.mktime(time.strptime(h.json["timestamp"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone <= h.at
        assert h.at - began < 5 and set(h.json) == {"type", "timestamp", "data"}
    assert len({h.id for h in hooks}) == 4 and all("." not in h.id for h in hooks)
    assert hooks[2].data["progress"]["step"] == 3 and hooks[2].data["state"] == "running"
    end = hooks[3].data
    assert end["state"] == "done" and end["result"]["seed"] == 7
    assert end["links"]["video"] == "https://video.example/v1/jobs/%s/video" % job
    shown = api("GET", "/v1/jobs/" + job).json
    assert set(shown) == set(end) and shown["result"] == end["result"] and shown["links"]["video"].startswith("/v1/")
    log = log_of(api, job, 4)
    assert [e["event"] for e in log["log"]] == ["queued", "start", "progress", "end"] and log["waiting"] == []
    assert all(e["verdict"] == "ok" and e["status"] == 204 and e["try"] == 1 and e["why"] == "" for e in log["log"])
    assert [e["id"] for e in log["log"]] == [h.id for h in hooks]
    assert all(e["time"].startswith("20") and "time_ms" not in e for e in log["log"])
    got, attempt = place.worker.claim()
    assert got == quiet
    place.worker.settle(quiet, attempt, code="MEDIA", error="no face")
    last = receiver.wait(1, job=quiet)
    assert [h.type for h in last] == ["job.end"] and last[0].data["error"]["code"] == "MEDIA"
    assert "traceparent" not in last[0].headers
    assert api("GET", "/v1/jobs/none/webhooks").status == 404
    stats = api("GET", "/v1/queue").json
    assert stats["n_hooks_sent"] == 5 and stats["hooks"] == 0


def test_rotation_and_tenants(place, receiver, folder):
    keys = os.path.join(folder, "keys.json")
    with open(keys, "w") as f:
        json.dump({"tenants": {
            name: {"webhook_secrets": secrets, "keys": [
                {"id": name, "sha256": hashlib.sha256(("tk_" + name).encode()).hexdigest(), "scope": "jobs"}]}
            for name, secrets in (("own", [OTHER_SECRET]), ("none", []))}}, f)
    third = "whsec_" + "QUJD" * 11
    api = place.start("--webhook-secret", third + "," + SECRET, "--webhook-allow", "127.0.0.0/8", "--keys", keys).api
    for name, good, bad in (("none", (third, SECRET), (OTHER_SECRET,)), ("own", (OTHER_SECRET,), (third, SECRET))):
        job = submit(api, receiver.url(), "queued", Authorization="Bearer tk_" + name)
        hook = receiver.wait(1, job=job)[0]
        assert len(hook.headers["webhook-signature"].split(" ")) == len(good)
        assert all(signed_by(s, hook) for s in good) and not any(signed_by(s, hook) for s in bad)
        his = api("GET", "/v1/jobs/%s/webhooks" % job, Authorization="Bearer tk_" + name)
        other = api("GET", "/v1/jobs/%s/webhooks" % job, Authorization="Bearer tk_" + ("none" if name == "own" else "own"))
        assert (his.status, other.status) == (200, 404)


def test_without_a_secret(place, receiver):
    program = place.start("--webhook-allow", "127.0.0.1")
    refusal = submit(program.api, receiver.url(), status=422)
    assert refusal["field"] == "webhook" and "webhook_secret" in refusal["detail"]
    stop(program)
    api = place.start("--webhook-allow", "127.0.0.1", "--webhook-unsigned").api
    hook = receiver.wait(1, job=submit(api, receiver.url(), "queued"))[0]
    assert "webhook-signature" not in hook.headers and hook.headers["webhook-id"] and hook.headers["webhook-timestamp"]


def test_bad_settings(place):
    for flags, word in ((("--webhook-secret", SECRET + "," + SECRET[:-2]), "secret 2"), (("--webhook-secret", "x"), "whsec_"),
                        (("--webhook-allow", "10.0.0.0/40"), "10.0.0.0/40"), (("--public-url", "video.example"), "public_url")):
        program = Dispatcher(place.folder, place.server.path, *flags, wait=False)
        assert program.process.wait(10) == 2
        assert word in program.log() and SECRET[6:30] not in program.log()


# ---- tries ----

def test_again_with_the_same_id(place):
    hidden = Receiver()
    answers = {"/500": [500, 429, 200], "/302": [(302, {"Location": hidden.url()}, b""), 200], "/cut": [None, 200]}
    receivers = {path: Receiver(lambda h: answers[h.path].pop(0)) for path in answers}  # so that no connection is shared
    api = place.start().api
    jobs = {path: cancelled(api, r.url(path)) for path, r in receivers.items()}
    gone = Receiver()
    gone.close()
    jobs["gone"] = cancelled(api, gone.url())
    first = {path: log_of(api, job)["log"][0] for path, job in jobs.items()}
    assert all(e["verdict"] == "again" and e["try"] == 1 for e in first.values())
    assert first["/500"]["why"] == "the receiver answered 500"
    assert (first["/302"]["status"], first["/302"]["why"]) == (302, "the receiver answered 302; redirects are not followed")
    assert first["/cut"]["status"] == 0 and first["/cut"]["why"]
    assert first["gone"]["status"] == 0 and "onnect" in first["gone"]["why"]
    waiting = log_of(api, jobs["/500"])["waiting"]
    assert len(waiting) == 1 and waiting[0]["tries"] == 1 and waiting[0]["id"] == first["/500"]["id"]
    assert waiting[0]["due_at"] > first["/500"]["time"]
    began = time.time()
    for r in receivers.values():
        r.wait(2, 8)  # the queue's own wait: 5 s, 20 % more or less
        assert 2.5 < time.time() - began < 7.5
    assert log_of(api, jobs["/500"], 2)["log"][1]["status"] == 429
    place.hurry(api)
    receivers["/500"].wait(3)
    for path, n in (("/500", 3), ("/302", 2), ("/cut", 2)):
        seen = receivers[path].of(jobs[path])
        assert len(seen) == n and len({h.id for h in seen}) == 1, path
        for h in seen:
            verify(SECRET, h)
        log = log_of(api, jobs[path], n)
        assert [e["try"] for e in log["log"]] == list(range(1, n + 1)) and log["log"][-1]["verdict"] == "ok"
        assert log["waiting"] == []
    assert len(log_of(api, jobs["gone"], 2)["waiting"]) == 1
    assert hidden.hooks == []
    for r in (hidden, *receivers.values()):
        r.close()


def test_410_ends_it(place):
    receiver = Receiver(lambda h: 410)
    api = place.start().api
    job = submit(api, receiver.url(), ALL)
    log = log_of(api, job)
    assert log["log"][0]["verdict"] == "drop" and "410" in log["log"][0]["why"] and log["waiting"] == []
    got, attempt = place.worker.claim()
    place.worker.progress(job, attempt, "denoise", 1, 2, 1.0)
    place.worker.settle(job, attempt, {})
    control = cancelled(api, receiver.url("/other"))
    receiver.wait(1, job=control)
    assert len(receiver.of(job)) == 1
    assert api("GET", "/v1/queue").json["n_hooks_failed"] >= 1
    receiver.close()


def test_progress_is_throttled(place, receiver):
    api = place.start().api
    job = submit(api, receiver.url(), "progress,end")
    got, attempt = place.worker.claim()
    began = time.time()
    n = 0
    while time.time() - began < 2.2:
        n += 1
        place.worker.progress(job, attempt, "denoise", n, 1000, 1.0)
        time.sleep(0.01)
    place.worker.settle(job, attempt, {})
    deadline = time.time() + 5
    while "job.end" not in [h.type for h in receiver.of(job)] and time.time() < deadline:
        time.sleep(0.01)
    hooks = [h for h in receiver.of(job) if h.type == "job.progress"]
    assert n > 100 and 3 <= len(hooks) <= 6, (n, len(hooks))
    gaps = [b.at - a.at for a, b in zip(hooks, hooks[1:])]
    assert min(gaps) > 0.2, gaps
    steps = [h.data["progress"]["step"] for h in hooks if h.data["state"] == "running"]
    assert steps == sorted(steps) and steps[-1] > 100, "each tells the newest"


def test_an_answer_without_end(place):
    receiver = Receiver(lambda h: (200, {}, b"x" * (20 << 20)))
    api = place.start().api
    job = cancelled(api, receiver.url())
    log = log_of(api, job)["log"][0]
    assert log["verdict"] == "ok" and log["status"] == 200 and log["seconds"] < 5
    time.sleep(0.1)
    assert receiver.written == 0, "all was read"
    receiver.close()


def test_certificates_are_checked(place, folder):
    names = [os.path.join(folder, n) for n in ("key.pem", "cert.pem")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                    "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", names[0], "-out", names[1]],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(names[1], names[0])
    receiver = Receiver(context=context)
    api = place.start().api
    log = log_of(api, cancelled(api, receiver.url(scheme="https")))["log"][0]
    assert log["verdict"] == "again" and "certificate" in log["why"] and receiver.hooks == []
    receiver.close()


# ---- slow and many ----

def test_slow_receivers_hold_nobody_up(place, receiver):
    slow = Receiver(lambda h: time.sleep(3) or 200)
    env = {"LD_PRELOAD": FAKE_DNS, "ASAN_OPTIONS": "verify_asan_link_order=0"}
    program = place.start(*OPEN, "--webhook-timeout-s", "1", env=env)
    api = program.api
    jobs = [cancelled(api, slow.url()), cancelled(api, "http://silent.test/")]
    slow.wait(1)
    began, worst, n = time.time(), 0, 0
    job = cancelled(api, receiver.url())
    while time.time() - began < 1.5:  # past both deadlines
        start = time.time()
        assert api("GET", "/healthz").status == 200
        worst, n = max(worst, time.time() - start), n + 1
        time.sleep(0.005)
    assert worst < 0.8 and n > 20, (worst, n)
    assert receiver.wait(1, 1, job=job)
    for job in jobs:
        log = log_of(api, job)["log"][0]
        assert log["verdict"] == "again" and log["status"] == 0 and 0.9 < log["seconds"] < 2.5, log
        assert "time" in log["why"].lower()
    start = time.time()
    stop(program)  # although the name server is still silent
    assert time.time() - start < 6
    slow.close()


def test_a_dead_receiver_takes_few_places(place, receiver):
    dead = Receiver(lambda h: time.sleep(30) or 200)
    api = place.start(*OPEN, "--webhook-timeout-s", "1", "--webhook-parallel", "8").api
    jobs = [submit(api, dead.url()) for _ in range(80)]
    api("POST", "/v1/queue/purge")
    dead.wait(8)
    began = time.time()
    receiver.wait(1, job=cancelled(api, receiver.url()))
    assert time.time() - began < 5, "80 tries of a second each, 8 at once, are 10 s"
    logs = [log_of(api, job)["log"][0] for job in jobs]
    assert all(e["verdict"] == "again" and e["status"] == 0 for e in logs)
    assert 40 < len([e for e in logs if "not sent" in e["why"]]) <= 72
    dead.close()


def test_two_hundred_at_once(place):
    receiver = Receiver(lambda h: time.sleep(0.1) or 200)
    first, second = place.start(), place.start()
    jobs = [submit(first.api, receiver.url("/%d" % i)) for i in range(200)]
    began = time.time()
    assert first.api("POST", "/v1/queue/purge").json["cancelled"] == 200
    receiver.wait(200, 20)
    took = time.time() - began
    for job in jobs:
        log_of(second.api, job)
    assert sorted(h.data["id"] for h in receiver.hooks) == sorted(jobs), "each once"
    assert len({h.id for h in receiver.hooks}) == 200
    assert took < 15, took
    receiver.close()


# ---- who dies where ----

def test_killed_between_sending_and_reporting(place):
    receiver = Receiver(lambda h: time.sleep(0.8) or 200)
    flags = (*OPEN, "--webhook-timeout-s", "1")
    first = place.start(*flags)
    job = cancelled(first.api, receiver.url())
    receiver.wait(1)
    second = place.start(*flags)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(5)
    began = time.time()
    place.programs.remove(first)
    hooks = receiver.wait(2, 12)
    assert hooks[0].id == hooks[1].id and 4 < time.time() - began < 12
    log = log_of(second.api, job)
    assert len(log["log"]) == 1 and log["log"][0]["verdict"] == "ok" and log["waiting"] == []


def test_redis_away_while_sending(place):
    receiver = Receiver(lambda h: time.sleep(0.6) or 200)
    api = place.start().api
    job = cancelled(api, receiver.url())
    receiver.wait(1)
    place.redis.close()
    place.server.stop(kill=False)
    time.sleep(0.8)
    place.server.start()
    place.redis = Redis(place.server.path)
    deadline = time.time() + 8
    while api("GET", "/readyz").status != 200 and time.time() < deadline:
        time.sleep(0.05)
    log = log_of(api, job, seconds=8)
    assert log["log"][0]["verdict"] == "ok" and log["waiting"] == []
    assert len(receiver.hooks) == 1, "reported late, not sent again"
    receiver.close()


def test_stops_in_time(place):
    receiver = Receiver(lambda h: time.sleep(0.5) or 200)
    stuck = Receiver(lambda h: time.sleep(20) or 200)
    program, other = place.start(), place.start()
    job = cancelled(program.api, receiver.url())
    receiver.wait(1)
    log = stop(program)
    cancelled(other.api, stuck.url())
    stuck.wait(1)
    began = time.time()
    stop(other)
    assert time.time() - began < 6, log
    api = place.start().api
    log = log_of(api, job)
    assert log["log"][0]["verdict"] == "ok" and len(receiver.hooks) == 1, "what was on its way was told"
    receiver.close()
    stuck.close()


# ---- where none may go ----

def test_the_guard(place, receiver):
    env = {"LD_PRELOAD": FAKE_DNS, "ASAN_OPTIONS": "verify_asan_link_order=0"}
    api = place.start("--webhook-secret", SECRET, env=env).api
    for url in (receiver.url(), receiver.url(host="localhost"), receiver.url(host="[::1]"), receiver.url(host="0x7f.1"),
                receiver.url(host="2130706433"), receiver.url(host="[::ffff:127.0.0.1]"), "http://169.254.169.254/latest/meta-data",
                "http://10.0.0.1/", receiver.url(host="me:pw@example.com"), "ftp://example.com/", "http://"):
        refusal = submit(api, url, status=422)
        assert refusal["field"] == "webhook" and "pw" not in refusal["detail"], (url, refusal)
    for host in ("inside.test", "both.test"):
        log = log_of(api, cancelled(api, receiver.url(host=host)))["log"][0]
        assert log["verdict"] == "drop" and "not public" in log["why"] and "127.0" not in log["why"], log
    assert receiver.hooks == []


def test_the_guard_at_each_try(place, receiver):
    """What one dispatcher took, another refuses: the settings of the one that sends count; a name may be allowed."""
    env = {"LD_PRELOAD": FAKE_DNS, "ASAN_OPTIONS": "verify_asan_link_order=0"}
    first = place.start("--webhook-secret", SECRET, "--webhook-allow", "inside.test,127.0.0.1", env=env)
    named = submit(first.api, receiver.url(host="inside.test"), "queued")
    receiver.wait(1, job=named)
    job = submit(first.api, receiver.url())
    stop(first)
    place.programs.remove(first)
    second = place.start("--webhook-secret", SECRET)
    second.api("POST", "/v1/jobs/%s/cancel" % job)
    log = log_of(second.api, job)["log"][0]
    assert log["verdict"] == "drop" and "webhook_allow" in log["why"] and not receiver.of(job)
