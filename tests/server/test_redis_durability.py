"""The setting durability: a submit is answered once it is kept. Redis 7.0 has no WAITAOF: the part of a newer one is played
by a relay in front of the real one, which answers WAITAOF as Redis 7.2 would, late or not at all."""
import os
import socket
import subprocess
import threading
import time

import pytest

from api_tools import Client, Dispatcher, Redis, RedisServer, Worker, clean_environment, dispatcher_program, png, wav
from cluster_tools import until
from redis_tools import Node, Sentinels

REQUEST = [("image", ("face.png", png(8, 8))), ("audio", ("speech.wav", wav(0.5)))]


def start(folder, url, *flags):
    words = [dispatcher_program(), "--port", "0", "--web-port", "-1", "--volume", folder + "/v", "--redis", url,
             "--redis-wait-s", "5", "--durability", *flags]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, env=clean_environment())
    return done.returncode, done.stderr.splitlines()[-1]


# ---- Redis 7.0 ----

def test_what_is_refused(folder):
    server = RedisServer(folder) # appendfsync everysec
    code, text = start(folder, server.path, "paper")
    assert code == 2 and "'paper' is not one of default, disk, replica" in text, text
    code, text = start(folder, server.path, "disk")
    assert code == 3 and "syncs its log 'everysec'" in text and "set appendfsync always" in text, text
    redis = Redis(server.path)
    redis("CONFIG", "SET", "appendonly", "no")
    code, text = start(folder, server.path, "disk")
    assert code == 3 and "set appendonly yes" in text, text
    redis("CONFIG", "SET", "appendonly", "yes")
    redis("ACL", "SETUSER", "default", "-config")
    code, text = start(folder, server.path, "disk")
    assert code == 3 and "CONFIG GET appendfsync is forbidden" in text, text
    redis.close()
    server.stop(kill=True) # it still rewrites its log


def test_always(folder):
    server = RedisServer(folder, "--appendfsync", "always")
    program = Dispatcher(folder, server.path, "--durability", "disk")
    api = Client(program.port)
    job = api.submit()
    server.stop(kill=True)
    server.start()
    until(lambda: api("GET", "/v1/jobs/" + job).status == 200, 10, 0.05)
    # set to everysec behind its back: seen at the next connection, and no submit is taken
    redis = Redis(server.path)
    redis("CONFIG", "SET", "appendfsync", "everysec")
    redis("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    until(lambda: "syncs its log 'everysec'" in program.log(), 5)
    assert api("GET", "/readyz").status == 503
    redis("CONFIG", "SET", "appendfsync", "always")
    until(lambda: api("GET", "/readyz").status == 200, 5, 0.05)
    redis.close()
    assert program.stop() == 0
    server.stop()


# ---- a replica ----

def test_replica(folder):
    master = Node(folder, "--repl-diskless-sync-delay", "0")
    program = Dispatcher(folder, "redis://127.0.0.1:%d" % master.port, "--durability", "replica")
    api = Client(program.port)
    began = time.time()
    answer = api.form("/v1/jobs", REQUEST, Idempotency_Key="k1")
    assert answer.status == 503 and "no replica has said that it has it" in answer.json["detail"], answer.body
    assert 3.5 < time.time() - began < 12
    replica = Node(folder, "--replicaof", "127.0.0.1 %d" % master.port, "--repl-diskless-sync-delay", "0")
    until(lambda: b"state=online" in master("INFO", "replication"), 10)
    answer = api.form("/v1/jobs", REQUEST, Idempotency_Key="k1") # the same job, this time it is kept
    assert answer.status in (200, 201), answer.body
    assert replica("EXISTS", "{avatar}:job:" + answer.json["id"]) == 1
    assert program.stop() == 0
    master.stop()
    replica.stop()


def test_a_planned_failover_loses_nothing(folder):
    """Without WAIT the jobs of the last milliseconds would go: the old master takes them, the replica is master already."""
    group = Sentinels(folder)
    program = Dispatcher(folder, group.url(), "--durability", "replica")
    api = Client(program.port)
    accepted, stop = [], threading.Event()

    def submit():
        while not stop.is_set():
            answer = api.form("/v1/jobs", REQUEST)
            assert answer.status in (201, 503, 504), answer.body
            if answer.status == 201:
                accepted.append(answer.json["id"])
    threads = [threading.Thread(target=submit) for _ in range(4)]
    for t in threads:
        t.start()
    until(lambda: len(accepted) > 100)
    group.failover()
    until(lambda: "redis=127.0.0.1:%d" % group.replica.port in program.log(), 30)
    stop.set() # the new master has no replica yet: what is sent to it is not accepted
    for t in threads:
        t.join(20)
    there = set(group.replica("KEYS", "{avatar}:job:*"))
    lost = [job for job in accepted if b"{avatar}:job:" + job.encode() not in there]
    assert not lost, (len(accepted), lost)
    assert program.stop() == 0, program.log()
    group.stop()


# ---- WAITAOF ----

class NewerRedis:
    """Between the dispatcher and a real redis-server: says 7.2 in INFO, and keeps WAITAOF for itself."""

    def __init__(self, folder, server):
        self.server, self.path = server, os.path.join(folder, "newer.sock")
        self.wait_s, self.answer, self.waits, self.words = 0.0, b"*2\r\n:1\r\n:0\r\n", 0, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.connections = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            self.connections.append(near)
            threading.Thread(target=self.serve, args=(near,), daemon=True).start()

    def serve(self, near):
        far = socket.socket(socket.AF_UNIX)
        far.connect(self.server.path)
        asked, answers = near.makefile("rb"), far.makefile("rb")
        try:
            while True:
                words = self.command(asked)
                if words is None:
                    return
                if words[0] == b"WAITAOF":
                    self.waits += 1
                    self.words.append(words)
                    time.sleep(self.wait_s)
                    near.sendall(self.answer)
                    continue
                if words[0] in (b"FCALL", b"SET"):
                    self.words.append(words[:2])
                far.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
                raw = self.reply(answers)
                if words[0] == b"INFO":
                    raw = raw.replace(b"redis_version:7.0.", b"redis_version:7.2.")
                near.sendall(raw)
        except OSError:
            pass
        finally:
            near.close()
            far.close()

    @staticmethod
    def command(file):
        line = file.readline()
        if not line:
            return None
        words = []
        for _ in range(int(line[1:])):
            n = int(file.readline()[1:])
            words.append(file.read(n + 2)[:-2])
        return words

    def reply(self, file):
        line = file.readline()
        if not line:
            raise OSError("closed")
        if line[:1] == b"$" and int(line[1:]) >= 0:
            return line + file.read(int(line[1:]) + 2)
        if line[:1] == b"*":
            return line + b"".join(self.reply(file) for _ in range(max(0, int(line[1:]))))
        return line

    def cut(self):
        for c in self.connections:
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


@pytest.fixture
def newer(folder):
    server = RedisServer(folder)
    relay = NewerRedis(folder, server)
    yield relay
    relay.listener.close()
    server.stop()


def test_waitaof(folder, newer):
    program = Dispatcher(folder, newer.path, "--durability", "disk")
    api = Client(program.port)
    answer = api.form("/v1/jobs", REQUEST)
    assert answer.status == 201
    functions = [w for w in newer.words if w[0] != b"FCALL" or b"submit" in w[1]]
    assert [w[0] for w in functions][:3] == [b"FCALL", b"SET", b"WAITAOF"] and functions[2][1:3] == [b"1", b"0"]
    # many at once share the waits
    newer.wait_s, newer.waits = 0.7, 0
    statuses, began = [], time.time()
    threads = [threading.Thread(target=lambda: statuses.append(api.form("/v1/jobs", REQUEST).status)) for _ in range(20)]
    for t in threads:
        t.start()
    assert api("GET", "/readyz").status == 200 and time.time() - began < 0.7 # others do not wait for them
    for t in threads:
        t.join(20)
    assert statuses == [201] * 20 and newer.waits <= 6 and time.time() - began >= 0.7, (statuses, newer.waits)
    # not on the disk in time, or a disk that fails: no 201
    newer.wait_s, newer.answer = 0.0, b"*2\r\n:0\r\n:0\r\n"
    answer = api.form("/v1/jobs", REQUEST, Idempotency_Key="same")
    assert answer.status == 503 and "has not said that it is on its disk" in answer.json["detail"], answer.body
    newer.answer = b"-ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.\r\n"
    answer = api.form("/v1/jobs", REQUEST, Idempotency_Key="same")
    assert answer.status == 503 and "appendonly is disabled" in answer.json["detail"], answer.body
    newer.answer = b"*2\r\n:1\r\n:0\r\n"
    assert api.form("/v1/jobs", REQUEST, Idempotency_Key="same").status in (200, 201)
    assert program.stop() == 0


def test_the_connection_goes_while_it_waits(folder, newer):
    """Redis has the job, but nobody knows whether its disk has."""
    program = Dispatcher(folder, newer.path, "--durability", "disk")
    api = Client(program.port)
    newer.wait_s = 1.0
    answers = []
    thread = threading.Thread(target=lambda: answers.append(api.form("/v1/jobs", REQUEST, Idempotency_Key="k")))
    thread.start()
    until(lambda: newer.waits)
    newer.cut()
    thread.join(10)
    answer = answers[0]
    assert answer.status == 503 and "lost before the job was known to be kept" in answer.json["detail"], answer.body
    newer.wait_s = 0.0
    until(lambda: api("GET", "/readyz").status == 200, 5, 0.05)

    def repeat():
        answer = api.form("/v1/jobs", REQUEST, Idempotency_Key="k")
        return answer if answer.status in (200, 201) else None
    again = until(repeat, 5)
    redis = Redis(newer.server.path)
    assert len(redis("KEYS", "{avatar}:job:*")) == 1 and Worker(redis).claim()[0] == again.json["id"]
    redis.close()
    assert program.stop() == 0
