"""The operator's words: troupe queue, why, retry, dead, redrive, pause, resume, workers, quiet, purge, top.

The worker is played by the tests, so that they decide what happens when.
"""
import fcntl
import hashlib
import http.server
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time
import unicodedata

import pytest

from api_tools import Client, Dispatcher, Redis, Worker, clean_environment
from cluster_tools import cli_program, die_with_parent, until

NOWHERE = "http://127.0.0.1:1"
pytestmark = pytest.mark.skipif(not os.path.exists(cli_program()), reason="no %s: build it first" % cli_program())


class Person:
    """Whoever types troupe at this dispatcher."""

    def __init__(self, port, **env):
        self.env = clean_environment(TROUPE_SERVER="http://127.0.0.1:%d" % port, **env)

    def __call__(self, *words, typed=None):
        return subprocess.run([cli_program(), *words], capture_output=True, text=True, timeout=60, env=self.env, input=typed or "",
                              preexec_fn=die_with_parent)

    def out(self, *words):
        done = self(*words)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def json(self, *words, code=0):
        done = self(*words, "--json")
        assert done.returncode == code and done.stdout.count("\n") == 1, done
        return json.loads(done.stdout)


@pytest.fixture
def troupe(dispatcher, worker):
    worker.hello()
    return Person(dispatcher.port)


def fail(api, worker, code="MEDIA", why="no picture"):
    job = api.submit()
    worker.settle(*worker.claim(), code=code, error=why)
    return job


# ---- looking ----

def test_queue(troupe, api, worker):
    for priority in (9, 5, 5):
        api.submit(priority=priority)
    worker.settle(*worker.claim(), {})
    fail(api, worker)
    api("POST", "/v1/queue/pause?generator=avatar")
    worker.call("tenant", name="acme", weight=2.0, max_running=3, max_queued=0, gpu_s_day=0.0, rate=30.0, burst=5)
    worker.redis("DEL", "{avatar}:hist") # ten waits of 30 to 60 s, ten runs of 2 to 5 min
    worker.redis("HSET", "{avatar}:hist", "wait:10", 10, "wait:sum", 450000, "run:12", 10, "run:sum", 2100000)
    text = troupe.out("queue")
    for line in [r"state     paused: generator avatar", r"waiting   2   the oldest for \d+\.\d s; .* of work .*", "running   0",
                 "delayed   0", "failed    1   troupe dead lists them", "workers   1", "waits     p50 45 s, p90 57 s", "runs      p50 3 min 30 s, p90 4 min 42 s",
                 r"level   waiting  work", r"5             2  \d+.*", r"acme  +2 +0 +0 +0\.0 s +3 running, 30 a minute",
                 r"\(none\) +1 +2 +0 .*-"]:
        assert [x for x in text.splitlines() if re.fullmatch(line, x)], (line, text)
    v = troupe.json("queue")
    assert (v["waiting"], v["dead"], v["paused_list"]) == (2, 1, ["generator:avatar"])
    assert {t["name"] for t in v["tenants"]} == {"", "acme"}
    api("POST", "/v1/queue/pause")
    assert "paused: " in troupe.out("queue") and "the queue" in troupe.out("queue")


def test_port_alone(dispatcher):
    """On this machine the port is enough, as a flag or in the environment; the address wins."""
    person = Person(dispatcher.port)
    del person.env["TROUPE_SERVER"]
    assert "waiting" in person.out("queue", "--port", str(dispatcher.port))
    person.env["TROUPE_PORT"] = str(dispatcher.port)
    assert "waiting" in person.out("queue")
    done = person("queue", "--server", NOWHERE)
    assert done.returncode != 0 and NOWHERE in done.stderr, done


def test_why(troupe, api, worker):
    first, second = api.submit(), api.submit()
    lines = troupe.out("why", second).splitlines()
    assert lines[0].startswith("queued: 1 job") and re.fullmatch(r"before it    1 job, \d.* of work", lines[1])
    assert re.fullmatch(r"starts in    about \d.*", lines[2]) and lines[3] == "workers      1 of 1 can run it"
    assert troupe.json("why", second)["reason"] == "behind" and troupe.json("why", first)["reason"] == "next"
    worker.claim()
    assert troupe.out("why", first).startswith("running: worker test-1 runs it")
    done = troupe("why", "none")
    assert done.returncode == 1 and "there is no such job" in done.stderr
    assert troupe.json("why", "../queue", code=2)["error"]["detail"] == '"../queue" is no job\'s id'


def test_dead_with_filters_and_history(troupe, api, worker):
    assert troupe.out("dead") == "no failed jobs\n" and troupe.json("dead") == {"jobs": [], "more": False}
    old = fail(api, worker, why="\x1b[2J\x07 gone\u009b31m")
    new = fail(api, worker, "NOFIT", "needs 80 GiB")
    lines = troupe.out("dead").splitlines()
    assert [x.split()[0] for x in lines] == [new, old] and "needs 80 GiB" in lines[0] and " NOFIT " in lines[0]
    assert lines[1].endswith("?[2J? gone??31m") # what a name holds never reaches the terminal
    assert troupe.out("dead", "--code", "NOFIT").startswith(new) and troupe.out("dead", "--code=MEDIA").startswith(old)
    assert troupe.out("dead", "--worker", "other") == "no failed job is like that\n"
    assert troupe.out("dead", "--limit", "1").splitlines()[1] == "and more: --limit N"
    assert troupe.json("dead", "--limit", "1")["more"] is True
    for i in range(101):
        fail(api, worker)
    v = troupe.json("dead", "--limit", "1000") # two pages
    assert len(v["jobs"]) == 103 and len({j["id"] for j in v["jobs"]}) == 103 and v["more"] is False
    text = troupe.out("dead", new).splitlines()
    assert text[0] == "%s  failed, attempt 1: 0 failed, 0 lost their worker" % new and text[1] == "NOFIT: needs 80 GiB"
    assert [re.split(r"  +", x)[1] for x in text[2:]] == ["submit", "claim", "settle"] and "on test-1" in text[3]
    assert troupe.json("dead", new)["history"][2]["code"] == "NOFIT"


def test_jobs_with_filters(troupe, api, worker):
    bad = fail(api, worker)
    waiting = api.submit()
    assert [x.split()[0] for x in troupe.out("jobs").splitlines()] == [waiting, bad]
    assert troupe.out("jobs", "--state", "failed", "--code", "MEDIA", "--worker", "test-1").startswith(bad)
    assert troupe.out("jobs", "--tenant", "acme") == "no jobs\n"
    done = troupe("jobs", "--tenant", "a&limit=1")
    assert done.returncode == 2 and "tenant: a&limit=1 is no tenant's name" in done.stderr # percent-encoded on the way


def test_workers_and_quiet(troupe, api, worker):
    assert re.fullmatch(r"test-1 +idle +cpu *", troupe.out("workers").splitlines()[0])
    job = api.submit()
    worker.progress(*worker.claim(), "denoise", 3, 10, 33.0)
    assert re.fullmatch(r"test-1 +busy +cpu +%s  denoise 3/10, 33 s left" % job, troupe.out("workers").splitlines()[0])
    assert troupe.out("quiet", "test-1") == "test-1 finishes what it has and takes no more\n"
    w, = troupe.json("workers")["workers"]
    assert (w["state"], w["job"], w["step"], w["total"], w["eta_s"]) == ("draining", job, 3, 10, 33)
    assert troupe.out("quiet", "test-1", "--off") == "test-1 takes jobs again\n"
    assert troupe.json("workers")["workers"][0]["state"] == "busy"
    done = troupe("quiet", "nobody")
    assert done.returncode == 1 and "there is no such job or worker" in done.stderr
    assert troupe("quiet", "a/b").returncode == 2
    for name in ("a-first", "z-last"):
        Worker(worker.redis, name).hello()
    assert [w["name"] for w in troupe.json("workers")["workers"]] == ["test-1", "a-first", "z-last"] # who works, then by name
    for name in ("test-1", "a-first", "z-last"):
        worker.call("bye", worker=name)
    assert troupe.out("workers") == "no workers\n"


# ---- acting ----

def test_retry(troupe, api, worker):
    a, b = fail(api, worker), fail(api, worker)
    waiting = api.submit()
    assert troupe.out("retry", a) == a + " queued\n"
    done = troupe("retry", b, "none", "a/b")
    assert done.returncode == 1 and done.stdout == b + " queued\n"
    assert [x.split(": ")[1] for x in done.stderr.splitlines()] == ["none", "a/b"]
    v = troupe.json("retry", waiting, "none", code=1)
    assert v["queued"] == [waiting] and v["n"] == 1 and v["refused"][0]["code"] == "NOTFOUND"
    assert troupe("retry").returncode == 2


def test_redrive(troupe, api, worker):
    jobs = [fail(api, worker, code) for code in ("MEDIA", "NOFIT", "MEDIA", "IO")]
    for words in [[], ["--all", jobs[0]], ["--all", "--code", "IO"], [jobs[0], "--code", "IO"]]:
        done = troupe("redrive", *words)
        assert done.returncode == 2 and "which jobs?" in done.stderr
    done = troupe("redrive", "--all")
    assert done.returncode == 2 and done.stderr == ("troupe redrive: Put 4 failed jobs back into the queue? there is no "
                                                    "terminal to ask: say --yes\n")
    assert api("GET", "/v1/queue").json["dead"] == 4
    assert troupe.out("redrive", jobs[3]) == jobs[3] + " queued\n"
    assert troupe.out("redrive", "--code", "MEDIA", "--yes") == "2 queued\n"
    assert troupe.json("redrive", "--all", "--yes") == {"n": 1}
    assert troupe.out("redrive", "--all") == "0 queued\n" # nothing to ask
    assert api("GET", "/v1/queue").json["waiting"] == 4


def test_pause_resume_purge(troupe, api, worker):
    api.submit()
    assert troupe.out("pause") == "paused the queue: what runs goes on, nothing more is handed out\n"
    assert troupe.out("pause", "--tenant", "acme").startswith("paused tenant acme:")
    assert troupe.out("pause", "--generator", "avatar").startswith("paused generator avatar:")
    assert sorted(troupe.json("queue")["paused_list"]) == ["generator:avatar", "queue", "tenant:acme"]
    assert worker.claim() is None
    assert troupe.out("resume") == "resumed the queue\n" and troupe.out("resume", "--tenant", "acme") == "resumed tenant acme\n"
    assert troupe.json("resume", "--generator", "avatar") == {"ok": True} and troupe.json("queue")["paused_list"] == []
    done = troupe("pause", "--generator", "avatr")
    assert done.returncode == 1 and "did you mean avatar?" in done.stderr
    assert troupe("pause", "--generator", "avatar", "--tenant", "a").returncode == 2
    done = troupe("purge")
    assert done.returncode == 2 and "Cancel 1 waiting job?" in done.stderr
    assert troupe.out("purge", "--yes") == "1 cancelled\n" and troupe.json("purge", "--yes") == {"cancelled": 0}


# ---- who answers ----

COMMANDS = [["queue"], ["why", "x"], ["retry", "x"], ["dead"], ["dead", "x"], ["redrive", "--all", "--yes"], ["pause"],
            ["resume"], ["workers"], ["quiet", "x"], ["purge", "--yes"], ["top"]]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_nobody_answers(words):
    done = Person(1)(*words, "--json", "--server", NOWHERE)
    sentence = "no dispatcher answers at %s: start one with `troupe up`, or name it with --server" % NOWHERE
    assert done.returncode == 1 and json.loads(done.stdout) == {"error": {"code": "IO", "detail": sentence}}
    assert done.stderr == "troupe %s: %s\n" % (words[0], sentence)


class Old(http.server.BaseHTTPRequestHandler):
    """A dispatcher of before these commands."""

    def answer(self):
        known = self.path in ("/v1/queue", "/v1/workers") or self.path.startswith("/v1/jobs?")
        body = {"waiting": 1, "workers": []} if known else {
            "type": "/docs#NOTFOUND", "title": "not found", "status": 404, "code": "NOTFOUND",
            "detail": "there is nothing at %s; /docs lists what there is" % self.path}
        text = json.dumps(body).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


def test_an_older_dispatcher():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    person = Person(server.server_port)
    assert "waiting   1" in person.out("queue") # as far as it goes
    for words in [["dead"], ["redrive", "--code", "IO", "--yes"], ["top"]]:
        v = person.json(*words, code=1)["error"]
        assert v["code"] == "UNSUPPORTED" and "is older than this program" in v["detail"], words
    server.shutdown()
    server.server_close()


class Proxy(Old):
    """Something in between that lets nobody through, and says nothing."""

    def answer(self):
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = answer


def test_a_proxy_that_refuses():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    v = Person(server.server_port).json("queue", code=1)
    assert v == {"error": {"code": "AUTH", "detail": "the dispatcher answered HTTP 403"}}
    server.shutdown()
    server.server_close()


def test_a_key_that_may_not(folder, redis_server):
    keys = {"jobs-key": "jobs", "admin-key": "admin"}
    path = os.path.join(folder, "keys.json")
    with open(path, "w") as f:
        json.dump({"tenants": {"acme": {"keys": [
            {"id": k, "sha256": hashlib.sha256(k.encode()).hexdigest(), "scope": scope} for k, scope in keys.items()]}}}, f)
    os.chmod(path, 0o600)
    d = Dispatcher(folder, redis_server.path, "--keys", path)
    for words in [["queue"], ["dead"], ["redrive", "--all", "--yes"], ["pause"], ["workers"], ["top"], ["purge", "--yes"]]:
        v = Person(d.port, TROUPE_API_KEY="jobs-key").json(*words, code=1)["error"]
        assert v["code"] == "AUTH" and "needs a key of scope admin" in v["detail"], words
        assert Person(d.port, TROUPE_API_KEY="wrong").json(*words, code=1)["error"]["code"] == "AUTH"
        assert Person(d.port, TROUPE_API_KEY="admin-key")(*words).returncode == 0, words
    assert Person(d.port, TROUPE_API_KEY="jobs-key").out("jobs") == "no jobs\n"
    assert d.stop() == 0


# ---- words ----

NAMES = sorted({w[0] for w in COMMANDS})


@pytest.mark.parametrize("name", NAMES)
def test_help_of(name):
    done = Person(1)(name, "--help")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith("usage: troupe %s" % name) and "--json" in done.stdout


@pytest.mark.parametrize("words, sentence", [
    (["queu"], 'troupe: there is no command "queu"; did you mean queue?'),
    (["redrve"], 'troupe: there is no command "redrve"; did you mean redrive?'),
    (["dead", "--cod", "x"], "troupe dead: there is no option --cod; did you mean --code?"),
    (["dead", "a", "b"], "troupe dead: one job at a time: troupe dead ID"),
    (["dead", "--limit", "0"], "troupe dead: --limit: 0 is not a number from 1 to 100000"),
    (["redrive", "--al"], "troupe redrive: there is no option --al; did you mean --all?"),
    (["pause", "--tennant", "x"], "troupe pause: there is no option --tennant; did you mean --tenant?"),
    (["pause", "x"], "troupe pause: unexpected word x: see troupe pause --help"),
    (["top", "--interval", "0"], "troupe top: --interval: 0 is not a number of seconds from 0.1 to 3600"),
    (["quiet"], "troupe quiet: a word is missing: see troupe quiet --help"),
    (["why"], "troupe why: a word is missing: see troupe why --help"),
    (["retry", *["x"] * 65], "troupe retry: at most 64 words at once are taken"),
], ids=lambda w: " ".join(w)[:20] if isinstance(w, list) else "")
def test_wrong_words(words, sentence):
    done = Person(1)(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[0] == sentence


def test_completion(troupe, api, worker):
    bad, waiting = fail(api, worker), api.submit()
    script = """
        eval "$(%s completion)"
        say() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _troupe; echo "${COMPREPLY[@]}"; }
        say %s redr
        say %s jobs --state de
        say %s dead --code NOF
        say %s pause --generator ''
        say %s quiet te
        say %s redrive ''
        say %s why ''
        say %s redrive --al
    """ % ((cli_program(),) * 9)
    done = subprocess.run([shutil.which("bash"), "-c", script], capture_output=True, text=True, env=troupe.env, timeout=30)
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout.splitlines() == ["redrive", "delayed", "NOFIT", "avatar", "test-1", bad, waiting + " " + bad, "--all"]


# ---- terminals ----

class Terminal:
    """A program on a terminal of this size, and what the terminal shows: cursor moves, erasing, colours dropped."""

    def __init__(self, words, env, columns=80, rows=24, nohup=False):
        self.columns, self.rows, self.raw = columns, rows, b""
        self.lines, self.at, self.hidden, self.other, self.scrolled = [""] * rows, [0, 0], False, False, False
        self.master, slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(slave)
        self.slave = slave

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            die_with_parent()
            signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
        self.process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own_terminal,
                                        env={**env, "TERM": "xterm-256color"})

    def resize(self, columns, rows):
        """The kernel tells the program itself (SIGWINCH)."""
        self.columns, self.rows = columns, rows
        self.lines, self.at[0] = (self.lines + [""] * rows)[:rows], min(self.at[0], rows - 1)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def read(self, seconds=0.05):
        while select.select([self.master], [], [], seconds)[0]:
            try:
                chunk = os.read(self.master, 65536)
            except OSError:
                return
            if not chunk:
                return
            self.raw += chunk
            self.feed(chunk.decode())

    def feed(self, text):
        for m in re.finditer(r"\x1b\[(\??[0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]|\x1b", text):
            y, x = self.at
            if m[2] in ("h", "l") and m[1] == "?25":
                self.hidden = m[2] == "l"
            elif m[2] in ("h", "l") and m[1] == "?1049":
                self.other = m[2] == "h"
            elif m[2] == "H":
                self.at = [0, 0]
            elif m[2] == "K":
                self.lines[y] = self.lines[y][:x]
            elif m[2] == "J":
                first = 0 if m[1] == "2" else y + 1
                if m[1] != "2":
                    self.lines[y] = self.lines[y][:x]
                self.lines[first:] = [""] * len(self.lines[first:])
            elif m[2] == "m":
                pass
            elif m[0] == "\r":
                self.at[1] = 0
            elif m[0] == "\n":
                self.at[0] = min(self.rows - 1, y + 1)
                self.scrolled |= y + 1 >= self.rows
            else:
                assert m[2] is None and m[0].isprintable(), m[0]
                self.lines[y] = self.lines[y][:x].ljust(x) + m[0] + self.lines[y][x + 1:]
                self.at[1] += 1

    def text(self):
        self.read()
        return "\n".join(line.rstrip() for line in self.lines)

    def shows(self, pattern, seconds=10):
        return until(lambda: re.search(pattern, self.text(), re.M), seconds)

    def end(self, seconds=10):
        deadline = time.time() + seconds
        while self.process.poll() is None:
            self.read()
            assert time.time() < deadline, self.text()
        self.read()
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.slave)
        os.close(self.master)
        return self.process.returncode


def test_confirmation(troupe, api, worker):
    for verb, question, left in [("redrive", "Put 1 failed job back into the queue? [y/N]", ("dead", 1, 0)),
                                 ("purge", "Cancel 1 waiting job? [y/N]", ("waiting", 1, 0))]:
        fail(api, worker) if verb == "redrive" else None
        words = [cli_program(), verb] + (["--all"] if verb == "redrive" else [])
        for typed, code in [("\n", 1), ("no\n", 1), ("\x04", 1), ("y\n", 0)]:
            t = Terminal(words, troupe.env)
            until(lambda: question in t.text())
            assert api("GET", "/v1/queue").json[left[0]] == left[1]
            t.type(typed)
            assert t.end() == code
            assert ("nothing was changed" in t.raw.decode()) == (code == 1)
        assert api("GET", "/v1/queue").json[left[0]] == left[2]


def test_watch_says_when_it_starts(troupe, api, worker):
    api.submit()
    job = api.submit()
    t = Terminal([cli_program(), "watch", job], troupe.env)
    t.shows(r"\] queued +1 before it  \d+\.\d s  starts in about \d+ s$")
    api("POST", "/v1/jobs/%s/cancel" % job)
    assert t.end() == 1 and "the job is cancelled" in t.raw.decode()


def columns_of(text):
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def test_top_once(troupe, api, worker):
    for priority in (9, 5, 5, 2):
        api.submit(priority=priority)
    worker.progress(*worker.claim(), "denoise", 5, 10, 42.0)
    other = Worker(worker.redis, "quiet-one")
    other.hello()
    api("POST", "/v1/workers/quiet-one/quiet")
    api("POST", "/v1/queue/pause?tenant=acme")
    text = troupe.out("top")
    for line in [r"3 waiting  1 running  0 delayed  0 failed  2 workers", r"oldest \d.* work \d.* waits p50 .* runs -",
                 "paused: tenant acme", "LEVEL  WAITING  WORK", r" +5 +2  \d.* +\[#{24}\]", r" +2 +1  \d.* +\[#{12}-{12}\]",
                 r"test-1 +busy +[0-9a-f]{8}  denoise +\[#####-----\] 5/10  42 s left", r"quiet-one +quiet +cpu"]:
        assert [x for x in text.splitlines() if re.fullmatch(line, x)], (line, text)
    assert "\x1b" not in text and "FAILURES" not in text
    v = troupe.json("top")
    assert (v["queue"]["waiting"], len(v["workers"]), v["failed"]) == (3, 2, [])


def test_top_live(troupe, api, worker):
    api.submit()
    t = Terminal([cli_program(), "top", "--interval", "0.1"], troupe.env)
    t.shows(r"^1 waiting  0 running")
    assert t.hidden and t.other
    job, attempt = worker.claim()
    worker.progress(job, attempt, "denoise", 2, 10, 80.0)
    t.shows(r"^test-1 +busy +%s  denoise +\[##--------\] 2/10  80 s left$" % job[-8:])
    worker.progress(job, attempt, "denoise", 7, 10, 30.0)
    t.shows(r"\[#######---\] 7/10  30 s left$")
    worker.settle(job, attempt, code="MEDIA", error="\x1b[31mbad\x07 " + "音" * 60)
    t.shows(r"^LAST FAILURES$\n^\d\d:\d\d:\d\d %s  MEDIA     \?\[31mbad\? 音+$" % job[-8:])
    t.shows(r"^test-1 +idle +cpu$")
    for i in range(12):
        Worker(worker.redis, "w-%02d" % i).hello()
    t.shows(r"^w-11 +idle")
    for columns, rows in [(40, 12), (200, 50), (20, 5), (80, 24)]:
        t.resize(columns, rows)
        until(lambda: len(t.text().split("\n")) == rows and max(map(columns_of, t.lines)) <= columns)
        time.sleep(0.15)
        t.read()
        t.scrolled = False
        time.sleep(0.25) # twice drawn since
        lines = t.text().split("\n")
        assert len(lines) == rows and max(map(columns_of, lines)) <= columns and not t.scrolled, lines
        full = [x for x in lines if x]
        if rows >= 50: # everything, and whole ids
            assert len([x for x in full if x.startswith("w-")]) == 12 and job in t.text()
        if rows == 12:
            assert re.search(r"^and \d+ more$", t.text(), re.M) and "WORKER" in t.text()
        if rows == 5:
            assert full[0].startswith("troupe") and len(full) >= 3
    assert b"\x1b[31mbad" not in t.raw and b"\x07" not in t.raw
    t.type("q")
    assert t.end() == 0 and not t.hidden and not t.other


def test_top_waits_for_a_dispatcher_that_is_away(folder, redis_server):
    d = Dispatcher(folder, redis_server.path)
    Client(d.port)("POST", "/v1/queue/pause?tenant=acme")
    t = Terminal([cli_program(), "top", "--interval", "0.1"], Person(d.port).env, rows=4)
    t.shows(r"^paused: tenant acme")
    assert d.stop() == 0
    t.shows(r"^no dispatcher answers at ")
    t.shows(r"^0 waiting") # what was there before stays, as far as there is room
    assert not t.scrolled
    again = Dispatcher(folder, redis_server.path, "--port", str(d.port))
    until(lambda: "no dispatcher" not in t.text())
    t.process.send_signal(signal.SIGTERM)
    assert t.end() == 0 and not t.hidden
    assert again.stop() == 0


def test_top_ends_with_its_terminal(troupe):
    t = Terminal([cli_program(), "top", "--interval", "60"], troupe.env)
    t.shows(r"^0 waiting")
    t.type("\x03") # Ctrl-C
    assert t.end(3) == 0
    for nohup, code in [(False, -signal.SIGHUP), (True, 0)]:
        t = Terminal([cli_program(), "top"], {**troupe.env, "NO_COLOR": "1"}, nohup=nohup)
        t.shows(r"^0 waiting")
        assert b"\x1b[1m" not in t.raw and b"\x1b[2m" not in t.raw
        os.close(t.slave)
        os.close(t.master)
        assert t.process.wait(5) == code


def test_top_on_a_dumb_terminal(troupe):
    done = subprocess.run(["script", "-qec", "%s top" % cli_program(), "/dev/null"], capture_output=True, text=True,
                          env={**troupe.env, "TERM": "dumb"}, timeout=20) if shutil.which("script") else None
    if not done:
        pytest.skip("needs script (util-linux)")
    assert done.returncode == 0 and "\x1b" not in done.stdout and "0 waiting" in done.stdout
