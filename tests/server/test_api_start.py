"""Starting, stopping, and Redis being absent, wrong, away or back."""
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from api_tools import Client, Dispatcher, Redis, RedisServer, Worker, dispatcher_program, png, wav


def refused(folder, redis, *flags, seconds=10, env=None):
    d = Dispatcher(folder, redis, *flags, wait=False, env=env)
    code = d.process.wait(seconds)
    assert not os.path.exists(d.port_file)
    return code, d.log()


def test_starts_fast(folder, redis_server):
    times = []
    for _ in range(5):
        start = time.monotonic()
        d = Dispatcher(folder, redis_server.path)
        times.append(time.monotonic() - start)
        log = d.log()
        assert d.stop() == 0
    assert "listening" in log
    assert min(times) < 0.2, times


def test_absent_redis(folder):
    start = time.time()
    code, log = refused(folder, "redis://127.0.0.1:1/0", "--redis-wait-s", "0.5")
    assert code == 3 and "127.0.0.1" in log and "gave up waiting" in log
    assert time.time() - start < 3


def test_redis_comes_late(folder):
    path = os.path.join(folder, "redis.sock")
    d = Dispatcher(folder, path, "--redis-wait-s", "10", wait=False)
    time.sleep(0.5)
    server = RedisServer(folder)
    d.wait_listening()
    assert Client(d.port)("GET", "/readyz").status == 200
    assert d.stop() == 0
    server.stop()


def test_wrong_password(folder):
    server = RedisServer(folder, "--requirepass", "right")
    for url in ["unix://%s" % server.path, "unix://%s?password=wrong" % server.path]:
        code, log = refused(folder, url)
        assert code == 3 and "login refused" in log and "wrong" not in log.replace("WRONGPASS", ""), log
    d = Dispatcher(folder, "unix://%s?password=right" % server.path)
    assert Client(d.port)("GET", "/readyz").status == 200
    assert d.stop() == 0
    server.stop()


def test_evicting_redis(folder):
    server = RedisServer(folder, "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
    code, log = refused(folder, server.path)
    assert code == 3 and "noeviction" in log
    server.stop()


@pytest.mark.parametrize("flags, code, words", [
    (["--bind", "0.0.0.0"], 2, "--insecure"),
    (["--bind", "not an address"], 2, "bind"),
    (["--nonsense", "1"], 2, "nonsense"),
    (["--redis", "http://x"], 2, "redis"),
    (["--queue", "no spaces"], 2, "queue"),
])
def test_bad_settings(folder, redis_server, flags, code, words):
    got, log = refused(folder, redis_server.path, *flags)
    assert got == code and words in log, log


def test_volume_that_takes_no_writes(folder, redis_server):
    blocked = os.path.join(folder, "volume")
    with open(blocked, "w") as f:
        f.write("a file where the folder should be")
    code, log = refused(folder, redis_server.path)
    assert code == 4 and blocked in log


def test_taken_ports(folder, redis_server):
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen()
    taken = str(s.getsockname()[1])
    code, log = refused(folder, redis_server.path, "--port", taken)
    assert code == 5 and taken in log
    d = Dispatcher(folder, redis_server.path, "--web-port", taken)
    assert Client(d.port)("GET", "/").status == 200 and "second port" in d.log()
    assert d.stop() == 0
    s.close()


def test_second_port(folder, redis_server):
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    free = s.getsockname()[1]
    s.close()
    d = Dispatcher(folder, redis_server.path, "--web-port", str(free))
    assert Client(free)("GET", "/").status == Client(d.port)("GET", "/v1/queue").status == 200
    assert d.stop() == 0


def test_help_and_version():
    for flag, words in [("--help", "--port"), ("--version", "troupe-dispatcher")]:
        done = subprocess.run([dispatcher_program(), flag], capture_output=True, text=True)
        assert done.returncode == 0 and words in done.stdout and done.stderr == ""


def test_stop_finishes_what_is_in_flight(dispatcher, api):
    job = api.submit()
    box = []
    thread = threading.Thread(target=lambda: box.append(api("GET", "/v1/jobs/%s?wait=50" % job)))
    thread.start()
    idle = api.connect()
    idle.request("GET", "/healthz")
    idle.getresponse().read()
    slow = socket.create_connection(("127.0.0.1", dispatcher.port), timeout=10)
    slow.sendall(b"POST /v1/blobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345")
    time.sleep(0.3)
    dispatcher.process.send_signal(signal.SIGTERM)
    thread.join(5)
    assert box[0].json["state"] == "queued"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", dispatcher.port), timeout=1)
    slow.sendall(b"67890")
    assert slow.recv(65536).startswith(b"HTTP/1.1 201")
    slow.close()
    assert dispatcher.process.wait(5) == 0
    idle.close()


def test_outage(folder, redis_server, dispatcher, api):
    job = api.submit()
    box = []
    thread = threading.Thread(target=lambda: box.append(api("GET", "/v1/jobs/%s?wait=20" % job)))
    thread.start()
    stream = api.events(job)
    next(stream)
    time.sleep(0.2)
    redis_server.stop(kill=True)
    time.sleep(0.3)
    for method, path in [("GET", "/v1/jobs"), ("GET", "/v1/jobs/" + job), ("POST", "/v1/jobs/%s/cancel" % job),
                         ("GET", "/v1/jobs/%s/video" % job), ("GET", "/v1/queue"), ("GET", "/v1/jobs/%s/events" % job),
                         ("GET", "/ping"), ("GET", "/v1/jobs/%s?wait=5" % job)]:
        a = api(method, path)
        assert a.status == 503 and int(a.headers["Retry-After"]) > 0 and a.json["code"] == "REDIS", path
    a = api.form("/v1/jobs", [("image", ("a.png", png(8, 8))), ("audio", ("a.wav", wav(0.5)))])
    assert a.status == 503 and a.headers["Retry-After"]
    assert api("GET", "/readyz").status == 503 and api("GET", "/healthz").status == 200
    assert "troupe_redis_up 0\n" in api("GET", "/metrics").body.decode()
    assert thread.is_alive()
    redis_server.start()
    deadline = time.time() + 10
    while api("GET", "/readyz").status != 200 and time.time() < deadline:
        time.sleep(0.02)
    redis = Redis(redis_server.path)
    worker = Worker(redis)
    got, attempt = worker.claim()
    assert got == job
    worker.progress(job, attempt, "denoise", 1, 2, 1.0)
    worker.settle(job, attempt, {"seed": 9})
    redis.close()
    thread.join(10)
    assert box[0].json["state"] == "done" and box[0].json["result"]["seed"] == 9
    names = [e[1] for e in stream]
    assert names[-2:] == ["job", "end"] and "progress" in names, names


def test_redis_that_hangs(folder, redis_server, dispatcher, api):
    job = api.submit()
    redis_server.process.send_signal(signal.SIGSTOP)
    start = time.time()
    a = api("GET", "/v1/jobs/" + job)
    redis_server.process.send_signal(signal.SIGCONT)
    assert a.status in (503, 504) and 3 < time.time() - start < 9
    deadline = time.time() + 10
    while api("GET", "/v1/jobs/" + job).status != 200 and time.time() < deadline:
        time.sleep(0.05)
    assert api("GET", "/v1/jobs/" + job).status == 200


def test_redis_that_forgot_the_library(redis_server, dispatcher, api):
    redis = Redis(redis_server.path)
    redis("FUNCTION", "FLUSH")
    deadline = time.time() + 5
    while api("GET", "/v1/queue").status != 200 and time.time() < deadline:
        time.sleep(0.05)
    assert api("GET", "/v1/queue").status == 200
    redis.close()


def test_connection_limit(folder, redis_server):
    d = Dispatcher(folder, redis_server.path, "--max-connections", "8", "--idle-s", "1")
    held = [socket.create_connection(("127.0.0.1", d.port)) for _ in range(8)]
    time.sleep(0.1)
    start = time.time()
    assert Client(d.port)("GET", "/healthz").status == 200 # waits until the silent ones are closed
    assert 0.3 < time.time() - start < 6
    for s in held:
        s.close()
    assert d.stop() == 0


def test_a_client_that_only_drips_is_closed(folder, redis_server):
    d = Dispatcher(folder, redis_server.path, "--idle-s", "1")
    drip = socket.create_connection(("127.0.0.1", d.port), timeout=0.2)
    drip.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    start, closed = time.monotonic(), False
    while not closed and time.monotonic() - start < 8:
        try:
            drip.sendall(b"a")
            closed = drip.recv(100) == b""
        except socket.timeout:
            pass
        except OSError:
            closed = True
    drip.close()
    assert closed and time.monotonic() - start < 4
    assert d.stop() == 0


def test_what_dead_writers_left_goes(folder, redis_server):
    tmp = os.path.join(folder, "volume", "tmp")
    os.makedirs(tmp)
    for name, age in (("put-old", 2 * 86400), ("put-new", 60)):
        path = os.path.join(tmp, name)
        open(path, "w").close()
        os.utime(path, (time.time() - age,) * 2)
    d = Dispatcher(folder, redis_server.path)
    end = time.monotonic() + 5
    while "put-old" in os.listdir(tmp) and time.monotonic() < end:
        time.sleep(0.05)
    assert os.listdir(tmp) == ["put-new"]
    assert d.stop() == 0
