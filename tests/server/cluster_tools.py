"""Tools for tests on the real programs: redis-server, dispatcher, workers and the person's `troupe`.

A Cluster is all of them in one temporary folder. Leases are short, so that a lost worker is missed within a second or two.
Only the standard library is used.
"""
import ctypes
import json
import os
import signal
import struct
import subprocess
import time

from api_tools import BUILD, Client, Dispatcher, RedisServer, clean_environment

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
TINY = os.path.join(ROOT, "tests", "data", "golden", "tiny", "ckpts")
DEMO = os.path.join(ROOT, "deploy", "demo-model", "ckpts")
SAMPLES = os.path.join(ROOT, "deploy", "demo-model", "samples")
FACE, SPEECH = os.path.join(SAMPLES, "face0.png"), os.path.join(SAMPLES, "speech0.wav")
LIBC = ctypes.CDLL(None)


def program(folder, name):
    return os.path.abspath(os.path.join(BUILD, folder, name))


def worker_program():
    return program("worker", "troupe-worker")


def cli_program():
    return program("cli", "troupe")


def die_with_parent():
    LIBC.prctl(1, signal.SIGKILL)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def until(what, seconds=20, every=0.01):
    """Calls what() until it is true; returns that value."""
    deadline = time.time() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.time() < deadline, "not true within %g s" % seconds
        time.sleep(every)


# ---- a worker ----

class WorkerProcess:
    def __init__(self, folder, redis, *flags, ckpts=TINY, name="w", volume=None, wait=True):
        self.name = name
        self.log_path = os.path.join(folder, "%s-%d.log" % (name, time.monotonic_ns()))
        argv = [worker_program(), "--redis", redis, "--volume", volume or os.path.join(folder, "volume"), "--ckpts", ckpts,
                "--worker-name", name, "--lease-s", "1", "--renew-s", "0.2", "--drain-s", "0", "--backoff-s", "0.05", *flags]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=log, env=clean_environment(),
                                            preexec_fn=die_with_parent)
        self.pid = self.process.pid
        if wait:
            until(self.ready, 30)

    def ready(self):
        assert self.process.poll() is None, "the worker ended with %d: %s" % (self.process.returncode, self.log())
        return " event=ready " in self.log()

    def log(self):
        return read(self.log_path).decode()

    def claimed(self):
        """[(job, attempt)] in the order of its log."""
        found = []
        for line in self.log().splitlines():
            if "job claimed" in line:
                words = dict(w.split("=", 1) for w in line.split() if "=" in w)
                found.append((words["job"], int(words["attempt"])))
        return found

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def stop(self, seconds=30):
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(seconds)


# ---- all of it ----

class Cluster:
    def __init__(self, folder, *dispatcher_flags, redis_flags=()):
        self.folder, self.volume = folder, os.path.join(folder, "volume")
        self.redis = RedisServer(folder, *redis_flags)
        self.workers = []
        self.dispatcher_flags = dispatcher_flags
        self.dispatcher = self.start_dispatcher()
        self.port = self.dispatcher.port
        self.api = Client(self.port, timeout=60)

    def start_dispatcher(self, *flags):
        return Dispatcher(self.folder, self.redis.path, *self.dispatcher_flags, *flags)

    def worker(self, *flags, **options):
        options.setdefault("name", "w%d" % len(self.workers))
        w = WorkerProcess(self.folder, self.redis.path, *flags, **options)
        self.workers.append(w)
        return w

    def url(self):
        return "http://127.0.0.1:%d" % self.port

    def send(self, image=None, audio=None, **fields):
        """POST /v1/jobs with a small job; the answer. image, audio: bytes."""
        fields = {"size": 64, "num_inference_steps": 2, "num_frames": 9, "seed": 7, "cache": "off", **fields}
        parts = [("image", ("image", image if image is not None else read(FACE))),
                 ("audio", ("audio", audio if audio is not None else read(SPEECH)))]
        return self.api.form("/v1/jobs", parts + [(k, v if isinstance(v, bytes) else str(v)) for k, v in fields.items()])

    def submit(self, **fields):
        answer = self.send(**fields)
        assert answer.status == 201, answer.body
        return answer.json["id"]

    def job(self, job):
        answer = self.api("GET", "/v1/jobs/" + job)
        assert answer.status == 200, answer.body
        return answer.json

    def end_of(self, job, seconds=60):
        """The job once it is done, failed or cancelled."""
        deadline = time.time() + seconds
        while True:
            v = self.api("GET", "/v1/jobs/%s?wait=5" % job).json
            if v.get("state") in ("done", "failed", "cancelled"):
                return v
            assert time.time() < deadline, v

    def done(self, job, seconds=60):
        v = self.end_of(job, seconds)
        assert v["state"] == "done", (v["state"], v["error"], self.logs())
        return v

    def running(self, job, stage="denoise", seconds=30):
        """Waits until the job is in that stage; the job."""
        def there():
            v = self.job(job)
            assert v["state"] in ("queued", "running"), v
            return v if v["state"] == "running" and v["progress"]["stage"] == stage else None
        return until(there, seconds, 0.005)

    def cancel(self, job):
        return self.api("POST", "/v1/jobs/%s/cancel" % job)

    def video(self, job):
        answer = self.api("GET", "/v1/jobs/%s/video" % job)
        assert answer.status == 200, answer.body
        return answer.body

    def logs(self):
        return "\n".join([self.dispatcher.log()] + [w.log() for w in self.workers])

    def stop(self):
        codes = [w.stop() for w in self.workers if w.process.returncode is None]
        if self.dispatcher.process.returncode is None:
            codes.append(self.dispatcher.stop())
        self.redis.stop()
        assert not any(codes), (codes, self.logs())


# ---- processes ----

def descendants(pid):
    """pids of all children, theirs too."""
    parent = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = read("/proc/%s/stat" % name)
        except OSError:
            continue
        parent[int(name)] = int(stat[stat.rindex(b")") + 2:].split()[1])
    found, more = [], [pid]
    while more:
        more = [p for p, up in parent.items() if up in more]
        found += more
    return found


def alive(pids):
    left = []
    for p in pids:
        try:
            stat = read("/proc/%d/stat" % p)
        except OSError:
            continue
        if stat[stat.rindex(b")") + 2:].split()[0] != b"Z":
            left.append(p)
    return left


def temporary_folders(pids):
    """/tmp/troupe-... folders that these processes name in their words and environment."""
    found = set()
    for p in pids:
        try:
            words = read("/proc/%d/cmdline" % p) + b"\0" + read("/proc/%d/environ" % p)
        except OSError:
            continue
        for word in words.split(b"\0"):
            at = word.find(b"/tmp/troupe-")
            if at >= 0:
                found.add(b"/".join(word[at:].split(b"/")[:3]).decode())
    return found


def words_of(pid):
    return read("/proc/%d/cmdline" % pid).split(b"\0")


# ---- files ----

def read_safetensors(path):
    """{name: (shape, [numbers])}"""
    codes = {"F32": "f", "U8": "B", "I64": "q", "I32": "i", "F64": "d", "BOOL": "?"}
    raw = read(path)
    n = struct.unpack("<Q", raw[:8])[0]
    found = {}
    for name, t in json.loads(raw[8:8 + n]).items():
        if name == "__metadata__":
            continue
        begin, end = t["data_offsets"]
        body = raw[8 + n + begin:8 + n + end]
        if t["dtype"] == "BF16":
            values = struct.unpack("<%df" % (len(body) // 2), b"".join(b"\0\0" + body[i:i + 2] for i in range(0, len(body), 2)))
        else:
            code = codes[t["dtype"]]
            values = struct.unpack("<%d%s" % (len(body) // struct.calcsize(code), code), body)
        found[name] = (t["shape"], values)
    return found


def probe(path):
    """What ffprobe says: {"video": stream, "audio": stream}, frames counted."""
    out = subprocess.run(["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", path],
                         capture_output=True, check=True).stdout
    return {s["codec_type"]: s for s in json.loads(out)["streams"]}
