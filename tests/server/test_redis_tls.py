"""Redis over TLS, with accounts (ACL): what works, and what is told when it does not."""
import glob
import os
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from api_tools import Client, Dispatcher, Redis, Worker, clean_environment, dispatcher_program
from cluster_tools import TINY, WorkerProcess, until, worker_program
from redis_tools import Authority, TlsServer, free_port, have_openssl, submit_real

pytestmark = pytest.mark.skipif(not have_openssl(), reason="no openssl program")
ACCOUNT = ["--user", "default", "off", "--user", "troupe", "on", ">open:sesame@", "~{avatar}*", "+@all", "-@dangerous", "+info"]


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("pki"))
    ca = Authority(folder)
    ca.good, ca.client = ca.issue("good"), ca.issue("client", "DNS:client")
    return ca


@pytest.fixture
def serve(folder, pki):
    servers = []

    def start(certificate, *options, **more):
        servers.append(TlsServer(folder, pki, certificate, *options, **more))
        return servers[-1]
    yield start
    for s in servers:
        s.stop()


def leftovers():
    return set(glob.glob("/tmp/troupe-tls-*"))


def test_jobs_and_events(serve, folder, pki, need_worker):
    """A dispatcher and a worker with an account of their own and a certificate that the server asks for."""
    before = leftovers()
    server = serve(pki.good, *ACCOUNT, clients="yes")
    url = "rediss://troupe:open%%3Asesame%%40@localhost:%d?ca=%s&cert=%s&key=%s" % (server.port, pki.pem, *pki.client)
    program = Dispatcher(folder, url)
    api = Client(program.port)
    w = WorkerProcess(folder, url, name="secret")
    events = list(api.events(submit_real(api), timeout=150))
    assert events[-1][1] == "end" and events[-1][2]["state"] == "done", events[-3:]
    assert any(e[1] == "progress" for e in events)
    assert leftovers() == before
    for log in (program.log(), w.log()):
        assert "sesame" not in log
    assert w.stop() == 0 and program.stop() == 0
    assert leftovers() == before


def test_a_restart_of_the_server_and_a_renewed_certificate(folder, pki, serve):
    old = serve(pki.issue("short", days=-1))
    new_ca = Authority(folder, "later")
    url = "rediss://localhost:%d?ca=%s" % (old.port, os.path.join(folder, "now.pem"))
    os.symlink(pki.pem, os.path.join(folder, "now.pem"))
    program = Dispatcher(folder, url, "--redis-wait-s", "10", wait=False)
    until(lambda: "has expired" in program.log(), 5)
    old.stop()
    renewed = TlsServer(folder, new_ca, new_ca.issue("renewed"), port=old.port)
    until(lambda: "authority that is not known here" in program.log(), 5)
    os.remove(os.path.join(folder, "now.pem"))
    os.symlink(new_ca.pem, os.path.join(folder, "now.pem"))
    program.wait_listening()
    assert Client(program.port).submit()
    assert program.stop() == 0
    renewed.stop()


def told(program, folder, url, seconds="1"):
    words = ["--redis", url, "--volume", os.path.join(folder, "v"), "--redis-wait-s", seconds]
    done = subprocess.run(program + words, capture_output=True, text=True, timeout=30, env=clean_environment())
    assert done.returncode in (1, 2, 3), done.stderr
    assert "sesame" not in done.stderr
    return done.stderr


def test_what_is_told(folder, pki, serve, need_worker):
    before = leftovers()
    good, wrong = serve(pki.good), serve(pki.issue("wrong", "DNS:other.example"))
    old, asks = serve(pki.issue("old", days=-1)), serve(pki.good, clients="yes")
    ca = "?ca=" + pki.pem
    plain = socket.create_server(("127.0.0.1", 0)) # answers as a server without TLS does
    threading.Thread(target=lambda: answer_plain(plain), daemon=True).start()
    address = "rediss://localhost:%d"
    cases = [
        (address % good.port, "an authority that is not known here: name its file with ?ca=FILE"),
        (address % wrong.port + ca, "is not for 'localhost'"),
        ("rediss://127.0.0.1:%d" % wrong.port + ca, "is not for '127.0.0.1'"),
        (address % old.port + ca, "has expired: renew it"),
        (address % asks.port + ca, "a certificate of ours: name it with ?cert=FILE&key=FILE"),
        (address % plain.getsockname()[1] + ca, "does not speak TLS on this port"),
        (address % free_port() + ca, "Connection refused"),
        (address % good.port + "?ca=/nowhere.pem", "ca: /nowhere.pem cannot be read"),
        (address % good.port + ca + "&cert=%s&key=%s" % (pki.good[0], pki.client[1]), "does not belong to the certificate"),
        (address.replace("//", "//troupe:sesame@") % good.port + ca, ("WRONGPASS", "refuses the password")),
    ]
    programs = [dispatcher_program(), "--port", "0", "--web-port", "-1"], [worker_program(), "--ckpts", TINY]
    with ThreadPoolExecutor(4) as pool:
        texts = [[pool.submit(told, program, folder, url) for program in programs] for url, _ in cases]
    for (url, words), pair in zip(cases, texts):
        words = words if isinstance(words, tuple) else (words, words)
        for program, text, word in zip(programs, pair, words):
            text = text.result()
            if word not in text and ("in time" in text or "did not answer" in text): # a busy machine: with patience
                text = told(program, folder, url, "4")
            assert word in text, (url, text)
    assert leftovers() == before
    plain.close()


def answer_plain(server):
    while True:
        try:
            connection = server.accept()[0]
        except OSError:
            return
        connection.recv(1000)
        connection.sendall(b"-ERR unknown command\r\n")
        connection.close()


def test_insecure_is_warned_about(folder, pki, serve):
    server = serve(pki.issue("wrong2", "DNS:other.example"))
    program = Dispatcher(folder, "rediss://127.0.0.1:%d?insecure=1" % server.port)
    assert Client(program.port).submit()
    assert "level=warn" in program.log() and "the certificate of Redis is not checked" in program.log()
    assert program.stop() == 0


def test_the_line_is_cut(folder, pki, serve):
    """Redis closes all connections: both sides of the relay end, and come again."""
    server = serve(pki.good)
    program = Dispatcher(folder, "rediss://localhost:%d?ca=%s" % (server.port, pki.pem))
    api = Client(program.port)
    job = api.submit()
    stream = api.events(job)
    next(stream)
    redis = Redis(server.path)
    assert redis("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") >= 2
    until(lambda: api("GET", "/v1/jobs/" + job).status == 200, 5)
    worker = Worker(redis)
    got, attempt = worker.claim()
    worker.settle(got, attempt, {})
    assert stream.until("end")[2]["state"] == "done"
    threads = "/proc/%d/task" % program.process.pid
    until(lambda: len([c for c in redis("CLIENT", "LIST").decode().splitlines() if "tls" in c or "sock" not in c]) <= 3, 5)
    assert len(os.listdir(threads)) < 16
    redis.close()
    assert program.stop() == 0
