"""Tools for tests that speak HTTP to a real dispatcher over a private redis-server.

A worker is played by the test itself: Worker sends the queue's functions (claim, progress, settle) straight to Redis.
Only the standard library is used.
"""
import http.client
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import zlib

BUILD = os.environ.get("TROUPE_BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))


def dispatcher_program():
    return os.path.abspath(os.path.join(BUILD, "dispatcher", "troupe-dispatcher"))


# ---- msgpack and RESP: just what the queue's functions need ----

def pack(v):
    if v is None:
        return b"\xc0"
    if v is True or v is False:
        return b"\xc3" if v else b"\xc2"
    if isinstance(v, int):
        return b"\xd3" + struct.pack(">q", v)
    if isinstance(v, float):
        return b"\xcb" + struct.pack(">d", v)
    if isinstance(v, str):
        raw = v.encode()
        return b"\xdb" + struct.pack(">I", len(raw)) + raw
    if isinstance(v, dict):
        return b"\xdf" + struct.pack(">I", len(v)) + b"".join(pack(k) + pack(x) for k, x in v.items())
    return b"\xdd" + struct.pack(">I", len(v)) + b"".join(pack(x) for x in v)


def _many(b, at, n):
    out = []
    for _ in range(n):
        v, at = unpack_at(b, at)
        out.append(v)
    return out, at


def unpack_at(b, at=0):
    c = b[at]
    at += 1
    fixed = {0xcc: ">B", 0xcd: ">H", 0xce: ">I", 0xcf: ">Q", 0xd0: ">b", 0xd1: ">h", 0xd2: ">i", 0xd3: ">q",
             0xca: ">f", 0xcb: ">d"}
    if c < 0x80:
        return c, at
    if c >= 0xe0:
        return c - 256, at
    if c in (0xc0, 0xc2, 0xc3):
        return {0xc0: None, 0xc2: False, 0xc3: True}[c], at
    if c in fixed:
        n = struct.calcsize(fixed[c])
        return struct.unpack_from(fixed[c], b, at)[0], at + n
    sizes = {0xd9: ">B", 0xda: ">H", 0xdb: ">I", 0xdc: ">H", 0xdd: ">I", 0xde: ">H", 0xdf: ">I"}
    if c in sizes:
        n = struct.unpack_from(sizes[c], b, at)[0]
        at += struct.calcsize(sizes[c])
        kind = "s" if c <= 0xdb else "a" if c <= 0xdd else "m"
    else:
        kind, n = ("m", c & 15) if c < 0x90 else ("a", c & 15) if c < 0xa0 else ("s", c & 31)
    if kind == "s":
        return b[at:at + n].decode(), at + n
    flat, at = _many(b, at, n * 2 if kind == "m" else n)
    return (dict(zip(flat[::2], flat[1::2])) if kind == "m" else flat), at


def clean_environment(**more):
    """This process' environment without settings that a person may have."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("TROUPE_") and k not in ("PORT", "FASTAPI_PORT")}
    return {**keep, **more}


class Redis:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")

    def __call__(self, *words):
        raw = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self.sock.sendall(b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in raw))
        return self._read()

    def _read(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        n = int(rest)
        if n < 0:
            return None
        if kind == b"$":
            return self.file.read(n + 2)[:-2]
        return [self._read() for _ in range(n)]

    def close(self):
        self.file.close()
        self.sock.close()


class Worker:
    """Plays a worker: the wire of common/PROTOCOL.md, part 3."""

    def __init__(self, redis, name="test-1", queue="avatar"):
        self.redis, self.name, self.base = redis, name, "{%s}" % queue

    def call(self, function, **args):
        return unpack_at(self.redis("FCALL", "troupe_" + function, 1, self.base, pack(args)))[0]

    def hello(self, **more):
        info = {"pid": 1, "host": "here", "device": "cpu", "generators": "avatar",
                "components": '[{"name": "dit", "status": "ready"}]', **more}
        return self.call("hello", worker=self.name, ttl=60000, info=info)

    def _claim(self, more):
        offer = dict(worker=self.name, gens="avatar", bytes=0, ver=1, lease=60000, token="", labels="", warm="avatar", host="",
                     device="cpu")
        raw = self.redis("FCALL", "troupe_claim", 1, self.base, pack({**offer, **more}))
        got, at = unpack_at(raw)
        return got, unpack_at(raw, at)[0]["id"] if got.get("got") else None

    def offer(self, **more):
        """What the queue answers to a claim."""
        return self._claim(more)[0]

    def claim(self, **more):
        """(job, attempt), or None."""
        got, job = self._claim(more)
        return (job, got["attempt"]) if got.get("got") else None

    def progress(self, job, attempt, stage, step, total, eta):
        return self.call("progress", id=job, attempt=attempt, stage=stage, step=step, total=total, eta=eta)

    def settle(self, job, attempt, result=None, code=None, error="", verdict="fail", stages=None):
        return self.call("settle", id=job, attempt=attempt, verdict="ok" if code is None else verdict, code=code or "",
                         error=error, result=json.dumps(result or {}) if code is None else "", max_fails=3, backoff=100,
                         gflop=0.0, stages=stages or {}, weights="", unfit=False)


# ---- the programs ----

class RedisServer:
    def __init__(self, folder, *options):
        self.folder, self.options = folder, options
        self.path = os.path.join(folder, "redis.sock")
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.path, "--dir", self.folder, "--save", "",
             "--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning", *self.options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 10
        while time.time() < deadline:
            try:
                connection = Redis(self.path)
                try:
                    connection("PING")
                    return
                except RuntimeError as e:
                    if "NOAUTH" in str(e):
                        return
                finally:
                    connection.close()
            except OSError:
                pass
            time.sleep(0.01)
        raise RuntimeError("redis-server did not start")

    def stop(self, kill=False):
        if self.process:
            (self.process.kill if kill else self.process.terminate)()
            self.process.wait(10)
        self.process = None


class Dispatcher:
    def __init__(self, folder, redis_path, *flags, wait=True, env=None):
        self.port_file = os.path.join(folder, "port-%d" % time.monotonic_ns())
        self.log_path = self.port_file + ".log"
        self.volume = os.path.join(folder, "volume")
        argv = [dispatcher_program(), "--port", "0", "--web-port", "-1", "--port-file", self.port_file, "--volume",
                self.volume, "--redis", redis_path, *flags]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=log,
                                            env=clean_environment(**(env or {})))
        self.port = None
        if wait:
            self.wait_listening()

    def wait_listening(self, seconds=10):
        deadline = time.time() + seconds
        while time.time() < deadline:
            if os.path.exists(self.port_file):
                with open(self.port_file) as f:
                    self.port = int(f.read())
                return
            if self.process.poll() is not None:
                raise RuntimeError("dispatcher ended with %d: %s" % (self.process.returncode, self.log()))
            time.sleep(0.002)
        raise RuntimeError("dispatcher does not listen: " + self.log())

    def log(self):
        with open(self.log_path) as f:
            return f.read()

    def stop(self, seconds=15):
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(seconds)


class Answer:
    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    def __init__(self, port, timeout=20):
        self.port, self.timeout = port, timeout

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)

    def __call__(self, method, path, body=None, **headers):
        connection = self.connect()
        try:
            head = {k.replace("_", "-"): v for k, v in headers.items()}
            if isinstance(body, (dict, list)):
                body = json.dumps(body).encode()
                head.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, head)
            response = connection.getresponse()
            return Answer(response, response.read())
        finally:
            connection.close()

    def form(self, path, parts, **headers):
        body, kind = form_data(parts)
        return self("POST", path, body, Content_Type=kind, **headers)

    def submit(self, **fields):
        parts = [("image", ("face.png", png(8, 8))), ("audio", ("speech.wav", wav(0.5)))]
        answer = self.form("/v1/jobs", parts + [(k, str(v)) for k, v in fields.items()])
        assert answer.status == 201, answer.body
        return answer.json["id"]

    def events(self, job, last=None, timeout=20):
        return EventStream(self.port, job, last, timeout)


class EventStream:
    """Server-sent events, one (id, name, data) at a time. StopIteration when the server closes."""

    def __init__(self, port, job, last=None, timeout=20):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self.connection.request("GET", "/v1/jobs/%s/events" % job, headers={"Last-Event-ID": last} if last else {})
        self.response = self.connection.getresponse()
        self.status = self.response.status

    def __iter__(self):
        return self

    def __next__(self):
        frame = {}
        while True:
            line = self.response.readline()
            if not line:
                raise StopIteration
            line = line.decode().rstrip("\n")
            if line.startswith(":") or line.startswith("retry:"):
                continue
            if line == "":
                if "data" in frame:
                    return frame.get("id"), frame.get("event"), json.loads(frame["data"])
                continue
            name, _, value = line.partition(": ")
            frame[name] = value

    def until(self, name, **members):
        for event in self:
            if event[1] == name and all(event[2].get(k) == v for k, v in members.items()):
                return event
        raise AssertionError("the stream ended before %s %s" % (name, members))

    def close(self):
        self.response.close()
        self.connection.close()


# ---- inputs ----

def form_data(parts, boundary="----troupe7f3a"):
    """parts: (name, text) or (name, (filename, bytes))."""
    out = []
    for name, value in parts:
        head = '--%s\r\nContent-Disposition: form-data; name="%s"' % (boundary, name)
        if isinstance(value, tuple):
            head += '; filename="%s"\r\nContent-Type: application/octet-stream' % value[0]
            value = value[1]
        elif isinstance(value, str):
            value = value.encode()
        out.append(head.encode() + b"\r\n\r\n" + value + b"\r\n")
    return b"".join(out) + b"--%s--\r\n" % boundary.encode(), "multipart/form-data; boundary=" + boundary


def png(width, height, claim=None):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    w, h = claim or (width, height)
    rows = (b"\0" + b"\x80\x60\x40" * width) * height
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def wav(seconds, rate=16000):
    data = b"\0\0" * int(seconds * rate)
    return (b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " +
            struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * 2, 2, 16) + b"data" + struct.pack("<I", len(data)) + data)


def temporary_folder():
    folder = tempfile.mkdtemp(prefix="troupe-api-")
    return folder, lambda: shutil.rmtree(folder, ignore_errors=True)
