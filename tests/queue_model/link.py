"""A private redis-server, a pipelining client, and the queue's functions under a clock of ours.

    with Server() as server:
        link = server.link()
        link.load(library(clock="shim"))
        link.call("HSET", CLOCK, "s", 1000, "u", 0)
        reply = fcall(link, "submit", {...}, record)        the answer's map; claim and get: under "record" the bytes behind it

The library is the project's own text. Production code has no hook for a clock: here `redis` is shadowed by a table whose
call reads TIME from a key, and keeps what should be forgotten after a while in a sorted set, so that waiting costs nothing
(clock="shim"); or only TIME is replaced, where the cost of a call is measured (clock="time").
"""
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import msgpack

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
CLOCK = "test:clock"
FORGET = "test:forget"  # sorted set: key; when it would be gone

SHIM = """
local function test_real() return redis end
local function test_forget(key, ms)
    local c = test_real().call('HMGET', 'test:clock', 's', 'u')
    test_real().call('ZADD', 'test:forget', tonumber(c[1]) * 1000 + math.floor(tonumber(c[2]) / 1000) + ms, key)
end
local redis = {register_function = redis.register_function, call = function(cmd, ...)
    local r = test_real()
    if cmd == 'TIME' then
        return r.call('HMGET', 'test:clock', 's', 'u')
    elseif cmd == 'PEXPIRE' then
        local key, ms = ...
        if r.call('EXISTS', key) == 1 then
            test_forget(key, tonumber(ms))
            return 1
        end
        return 0
    elseif cmd == 'SET' then
        local a = {...}
        for i = 3, #a do
            if a[i] == 'PX' then
                test_forget(a[1], tonumber(a[i + 1]))
                table.remove(a, i)
                table.remove(a, i)
                break
            end
        end
        return r.call('SET', unpack(a))
    end
    return r.call(cmd, ...)
end}
"""


def library(clock=None, mutate=None, folder=os.path.join(ROOT, "common")):
    """The text of the library, its parts in the build's order. mutate: (what, by what): must be there exactly once."""
    with open(os.path.join(folder, "meson.build"), encoding="utf-8") as f:
        names = re.findall(r"'(\w+\.lua)'", re.search(r"custom_target\('queue_lua', input: \[([^\]]*)\]", f.read())[1])
    text = ""
    for name in names:
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            text += f.read()
    if mutate:
        assert text.count(mutate[0]) == 1, "the line to break is there %d times: %s" % (text.count(mutate[0]), mutate[0])
        text = text.replace(*mutate)
    if clock == "shim":
        first, rest = text.split("\n", 1)
        text = first + SHIM + rest
    elif clock == "time":
        assert "redis.call('TIME')" in text
        text = text.replace("redis.call('TIME')", "redis.call('HMGET', 'test:clock', 's', 'u')")
    return text


class RedisError(Exception):
    pass


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Server:
    def __init__(self, *flags):
        self.folder = tempfile.mkdtemp(prefix="troupe-redis-")
        self.path = os.path.join(self.folder, "redis.sock")
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no", "--dir", self.folder,
             "--maxmemory-policy", "noeviction", "--enable-debug-command", "local", "--logfile",
             os.path.join(self.folder, "redis.log"), *flags], preexec_fn=_die_with_parent)
        deadline = time.time() + 10
        while True:
            try:
                self.link().call("PING")
                return
            except OSError:
                if time.time() > deadline:
                    raise
                time.sleep(0.01)

    def link(self):
        return Link(self.path)

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def _bytes(word):
    return word if isinstance(word, bytes) else str(word).encode()


def command(*words):
    out = [b"*%d\r\n" % len(words)]
    for word in words:
        word = _bytes(word)
        out.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(out)


class Link:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.buffer, self.at = b"", 0

    def _more(self):
        got = self.socket.recv(1 << 20)
        if not got:
            raise OSError("redis-server closed the connection")
        self.buffer, self.at = self.buffer[self.at:] + got, 0

    def _line(self):
        while True:
            end = self.buffer.find(b"\r\n", self.at)
            if end >= 0:
                line = self.buffer[self.at:end]
                self.at = end + 2
                return line
            self._more()

    def read(self):
        """One reply; an error reply is raised."""
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            n = int(rest)
            if n < 0:
                return None
            while len(self.buffer) - self.at < n + 2:
                self._more()
            value = self.buffer[self.at:self.at + n]
            self.at += n + 2
            return value
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"*":
            return [self.read() for _ in range(int(rest))] if rest != b"-1" else None
        raise RedisError(rest.decode("utf-8", "replace"))

    def call(self, *words):
        self.socket.sendall(command(*words))
        return self.read()

    def send(self, *commands):
        """Many commands, packed by command(), in one go; their replies."""
        self.socket.sendall(b"".join(commands))
        return [self.read() for _ in commands]

    def load(self, text):
        self.call("FUNCTION", "LOAD", "REPLACE", text)


def packed(queue, name, args, record=None):
    """The command of one function of the queue."""
    words = ["FCALL", "troupe_" + name, 1, "{%s}" % queue, msgpack.packb(args)]
    return command(*words, record) if record is not None else command(*words)


def answer(raw):
    unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=1 << 26)
    unpacker.feed(raw)
    head = unpacker.unpack()
    if unpacker.tell() < len(raw):
        head["record"] = raw[unpacker.tell():]
    return head


def fcall(link, queue, name, args, record=None):
    return answer(link.send(packed(queue, name, args, record))[0])
