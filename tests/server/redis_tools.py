"""Redis deployments for tests, on loopback ports: a server with TLS, a cluster of three nodes, a master with sentinels.

Only the standard library and Debian's redis-server, redis-cli and openssl are used.
"""
import os
import shutil
import socket
import subprocess
import time

from api_tools import Redis
from cluster_tools import FACE, SPEECH, die_with_parent, read, until

SMALL = {"size": 64, "num_inference_steps": 2, "num_frames": 9, "seed": 7}


def submit_real(api):
    """A job that a worker with the tiny checkpoint finishes in a second or two."""
    answer = api.form("/v1/jobs", [("image", ("face.png", read(FACE))), ("audio", ("speech.wav", read(SPEECH)))] +
                      [(k, str(v)) for k, v in SMALL.items()])
    assert answer.status == 201, answer.body
    return answer.json["id"]


def free_port():
    """One that nobody listens on now, below the ports that connections get."""
    while True:
        port = 10000 + int.from_bytes(os.urandom(2), "big") % 20000
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class TcpRedis(Redis):
    """A connection to a port; errors are RuntimeError, as over a unix socket."""

    def __init__(self, port, host="127.0.0.1"):
        self.sock = socket.create_connection((host, port), 10)
        self.file = self.sock.makefile("rb")


class Node:
    """One redis-server on a port of its own, and a connection to it."""

    def __init__(self, folder, *options, program=("redis-server",), port=None, wait=True):
        self.port = port or free_port()
        self.folder = os.path.join(folder, "redis-%d" % self.port)
        self.options, self.program = options, program
        os.makedirs(self.folder, exist_ok=True)
        self.process = self.connection = None
        self.start(wait)

    def start(self, wait=True):
        words = [*self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", "",
                 "--appendonly", "yes", "--loglevel", "notice", "--logfile", os.path.join(self.folder, "log"), *self.options]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        preexec_fn=die_with_parent)
        if wait:
            until(self.answers, 10)

    def answers(self):
        assert self.process.poll() is None, self.log()
        try:
            connection = TcpRedis(self.port)
        except OSError:
            return False
        try:
            connection("PING")
            return True
        except (RuntimeError, OSError) as e:
            return "NOAUTH" in str(e)
        finally:
            connection.close()

    def __call__(self, *words):
        for last in (False, True): # a server whose role changes closes its connections
            if not self.connection:
                self.connection = TcpRedis(self.port)
            try:
                return self.connection(*words)
            except (OSError, ValueError):
                self.connection.close()
                self.connection = None
                if last:
                    raise

    def log(self):
        with open(os.path.join(self.folder, "log"), errors="replace") as f:
            return f.read()

    def kill(self):
        self.stop(kill=True)

    def stop(self, kill=False):
        if self.connection:
            self.connection.close()
        self.connection = None
        if self.process:
            (self.process.kill if kill else self.process.terminate)()
            self.process.wait(10)
        self.process = None


class RedisCluster:
    """Three masters, and a replica of the one that has the queue. `home` is the owner of the slot now."""

    def __init__(self, folder, queue="avatar"):
        self.nodes, self.tag, self.folder = [], "{%s}" % queue, folder
        for _ in range(3):
            self.add()
        words = ["redis-cli", "--cluster", "create", *["127.0.0.1:%d" % n.port for n in self.nodes], "--cluster-yes"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: all(self.settled(n) for n in self.nodes), 20)
        self.slot = self.nodes[0]("CLUSTER", "KEYSLOT", self.tag)

    def add(self):
        self.nodes.append(Node(self.folder, "--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-port",
                               str(free_port()), "--repl-diskless-sync-delay", "0"))
        return self.nodes[-1]

    @staticmethod
    def settled(node):
        return b"cluster_state:ok" in node("CLUSTER", "INFO")

    def owner(self, asked=None):
        """The node that the cluster names as the slot's."""
        for first, last, master, *_ in (asked or next(n for n in self.nodes if n.process))("CLUSTER", "SLOTS"):
            if first <= self.slot <= last:
                return next(n for n in self.nodes if n.port == master[1])
        raise AssertionError("nobody has slot %d" % self.slot)

    def seeds(self, *nodes):
        return "redis://" + ",".join("127.0.0.1:%d" % n.port for n in nodes or self.nodes)

    def add_replica(self):
        home = self.owner()
        node = self.add()
        home_id = home("CLUSTER", "MYID")
        port = home.options[home.options.index("--cluster-port") + 1]
        node("CLUSTER", "MEET", "127.0.0.1", home.port, port)
        until(lambda: home_id in node("CLUSTER", "NODES"), 10)

        def replicate():
            try:
                return node("CLUSTER", "REPLICATE", home_id) == "OK"
            except RuntimeError:
                return False
        until(replicate, 10, 0.05)
        until(lambda: b"master_link_status:up" in node("INFO", "replication"), 15, 0.05)
        own = b"%s 127.0.0.1:%d" % (node("CLUSTER", "MYID"), node.port)
        until(lambda: all(own in n("CLUSTER", "NODES") for n in self.nodes), 15, 0.05) # those who elect know it
        until(lambda: all(b"handshake" not in n("CLUSTER", "NODES") for n in self.nodes), 15, 0.05)
        return node

    def stop(self):
        for n in self.nodes:
            n.stop(kill=True)


class Sentinels:
    """A master, a replica and `n` sentinels that watch them under the name mymaster."""

    def __init__(self, folder, n=3, password=None):
        self.folder, self.password = folder, password
        self.master = Node(folder, "--repl-diskless-sync-delay", "0", "--min-replicas-max-lag", "1")
        self.replica = Node(folder, "--replicaof", "127.0.0.1 %d" % self.master.port, "--repl-diskless-sync-delay", "0")
        until(lambda: b"master_link_status:up" in self.replica("INFO", "replication"), 10)
        self.sentinels = [self.sentinel(n // 2 + 1) for _ in range(n)]
        for s in self.sentinels:
            until(lambda s=s: s.info()["num-slaves"] == "1" and s.info()["num-other-sentinels"] == str(n - 1), 20, 0.05)

    def sentinel(self, quorum):
        port = free_port()
        folder = os.path.join(self.folder, "sentinel-%d" % port)
        os.makedirs(folder)
        conf = os.path.join(folder, "sentinel.conf")
        with open(conf, "w") as f:
            f.write("port %d\nbind 127.0.0.1\ndir %s\nsentinel monitor mymaster 127.0.0.1 %d %d\n"
                    "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n"
                    % (port, folder, self.master.port, quorum))
            if self.password:
                f.write("requirepass %s\nsentinel sentinel-pass %s\n" % (self.password, self.password))
        return Sentinel(port, conf, folder, self.password)

    def failover(self):
        """An orderly one; a sentinel that has not heard of the replica yet refuses."""
        def ask():
            try:
                return self.sentinels[0].connection("SENTINEL", "FAILOVER", "mymaster") == "OK"
            except RuntimeError as e:
                assert "NOGOODSLAVE" in str(e), e
        until(ask, 20, 0.2)

    def url(self, options=""):
        return "redis+sentinel://%s/mymaster%s" % (",".join("127.0.0.1:%d" % s.port for s in self.sentinels), options)

    def stop(self):
        for s in self.sentinels:
            s.stop()
        self.master.stop(kill=True)
        self.replica.stop(kill=True)


class Sentinel:
    def __init__(self, port, conf, folder, password):
        self.port, self.password = port, password
        self.process = subprocess.Popen(["redis-server", conf, "--sentinel", "--logfile", os.path.join(folder, "log")],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
        self.connection = None
        until(self.up, 10)

    def up(self):
        try:
            self.connection = TcpRedis(self.port)
            if self.password:
                self.connection("AUTH", self.password)
            return self.connection("PING") == "PONG"
        except OSError:
            return False

    def info(self):
        flat = [w.decode() for w in self.connection("SENTINEL", "MASTER", "mymaster")]
        return dict(zip(flat[::2], flat[1::2]))

    def stop(self):
        self.connection.close()
        self.process.kill()
        self.process.wait(10)


# ---- TLS ----

CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]


class Authority:
    """A certificate authority of the test's own, in a folder."""

    def __init__(self, folder, name="ca"):
        self.folder, self.pem = folder, os.path.join(folder, name + ".pem")
        self.key = os.path.join(folder, name + ".key")
        openssl("req", "-x509", *CURVE, "-nodes", "-days", "30", "-subj", "/CN=" + name, "-keyout", self.key,
                "-out", self.pem)

    def issue(self, name, alt="DNS:localhost,IP:127.0.0.1", days=30):
        """(certificate, key) files. days below 0: expired."""
        base = os.path.join(self.folder, name)
        openssl("req", *CURVE, "-nodes", "-subj", "/CN=" + name, "-keyout", base + ".key", "-out", base + ".csr")
        with open(base + ".ext", "w") as f:
            f.write("subjectAltName=%s\n" % alt)
        openssl("x509", "-req", "-in", base + ".csr", "-CA", self.pem, "-CAkey", self.key, "-CAcreateserial", "-days",
                str(days), "-extfile", base + ".ext", "-out", base + ".pem")
        return base + ".pem", base + ".key"


def openssl(*words):
    done = subprocess.run(["openssl", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def have_openssl():
    return shutil.which("openssl") is not None


class TlsServer:
    """redis-server with a tls-port, and a unix socket for the test itself."""

    def __init__(self, folder, authority, certificate, *options, clients="no", port=None):
        self.port, (cert, key) = port or free_port(), certificate
        self.path = os.path.join(folder, "tls-%d-%d.sock" % (self.port, time.monotonic_ns()))
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--tls-port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.path,
             "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", authority.pem,
             "--tls-auth-clients", clients, "--dir", folder, "--save", "", *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
        deadline = time.time() + 10
        while not os.path.exists(self.path) and time.time() < deadline:
            assert self.process.poll() is None, "redis-server without TLS?"
            time.sleep(0.01)

    def stop(self):
        self.process.kill() # twice is fine
        self.process.wait(10)
