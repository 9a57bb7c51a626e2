"""Programs under faults: redis-server that loses power, and dispatchers and workers that are started again whenever they
end, each time with the next fault of their list.
"""
import copy
import os
import re
import signal
import subprocess
import time

from api_tools import BUILD, Redis, clean_environment
from cluster_tools import die_with_parent, read

HERE = os.path.dirname(os.path.abspath(__file__))
HEADER = os.path.join(HERE, "..", "..", "common", "crash.h")
LEASE_S = 1


def built(name):
    return os.path.abspath(os.path.join(BUILD, "tests", "chaos", name))


SHIM = built("chaos_shim.so")


def points():
    """Names of common/crash.h."""
    return re.findall(r"^    X\((\w+), ", read(HEADER).decode(), re.M)


# ---- faults ----

class Fault:
    """One thing that goes wrong in one process. `words`: what its log says when it has happened."""

    def __init__(self, name, env, words, kills=True, term=None, late=False):
        self.name, self.env, self.words, self.kills = name, env, words, kills
        self.term = term  # the process is told to stop: "busy", or "idle"
        self.late = late  # comes when jobs are deleted
        self.optional = False  # whoever comes first
        self.resume = None  # of a stopped process: "done" or "claimed" (by another)

    def again(self):
        """The same for another process: it is enough when one of them comes to it."""
        f = copy.copy(self)
        f.optional = True
        return f


def point(name, nth=1, stop=None):
    f = Fault(name, {"TROUPE_CRASH_AT": "%s:%d%s" % (name, nth, ":stop" if stop else "")}, "crash point %s\n" % name,
              kills=not stop)
    f.resume = stop
    if name in ("worker_release", "worker_released"):
        f.term = "busy"
    if name == "worker_bye":
        f.term = "idle"
    f.late = name in ("dispatcher_delete", "blob_remove")
    return f


def shim(name, *rules, kills=False, **env):
    rule = ";".join(rules)
    words = "chaos shim %s " % re.search(r"op=(\w+)", rule)[1] if rule else None
    return Fault(name, {"LD_PRELOAD": SHIM, "CHAOS_SHIM": rule, **env}, words, kills=kills)


def sent(function, nth=1, act="kill"):
    """The command is sent, its answer is never seen: the process dies, or the answer is lost."""
    f = shim("%s:%s" % ("sent" if act == "kill" else "lost", function),
             "op=send path=troupe_%s nth=%d do=%s" % (function, nth, act), kills=act == "kill")
    f.late = function in ("delete", "forgot")
    if function == "release":
        f.term = "busy"
    return f


# ---- processes ----

def state_of(pid):
    try:
        stat = read("/proc/%d/stat" % pid)
    except OSError:
        return "?"
    return chr(stat[stat.rindex(b")") + 2])


class Slot:
    """A program and its successors."""

    def __init__(self, folder, name, argv, faults=(), prefix=()):
        self.folder, self.name, self.argv, self.prefix = folder, name, argv, list(prefix)
        self.faults = list(faults)
        self.fault = None
        self.process = None
        self.logs = []
        self.reached = []
        self.deaths = 0
        self.killed = self.told = self.ending = False
        self.stopped_at = None

    def flags(self):
        return []

    def start(self):
        self.fault = self.faults.pop(0) if self.faults else None
        self.killed = self.told = False
        self.stopped_at = None
        self.logs.append(os.path.join(self.folder, "%s-%d.log" % (self.name, len(self.logs))))
        env = clean_environment(**(self.fault.env if self.fault else {}))
        with open(self.logs[-1], "wb") as log:
            self.process = subprocess.Popen(self.prefix + self.argv + self.flags(), stdout=subprocess.DEVNULL, stderr=log,
                                            env=env, preexec_fn=die_with_parent)

    def log(self):
        return read(self.logs[-1]).decode(errors="replace")

    def note(self):
        """Has this process' fault happened?"""
        f = self.fault
        if f and f not in self.reached and (f.words is None or f.words in self.log()):
            self.reached.append(f)
        return f in self.reached

    def kill(self):
        self.killed = True
        self.process.kill()

    def look(self):
        """Called often. The sentence of what must not happen, or None."""
        code = self.process.poll()
        happened = self.note()
        if code is None:
            return None
        if self.ending:
            return None
        self.deaths += code == -9
        fine = code == -9 and (self.killed or (happened and self.fault.kills)) or code == 0 and self.told
        text = None if fine else "%s ended with %d: ... %s" % (self.name, code, self.log()[-600:])
        self.start()
        return text

    def left(self, late=False):
        """Faults that have not happened."""
        all_ = ([self.fault] if self.fault and not self.note() else []) + self.faults
        return [f for f in all_ if (late or not f.late) and not f.optional]

    def end(self):
        self.ending = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()

    def ended(self, seconds=20):
        """After end: the sentence of what went wrong, or None."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "%s did not stop: ... %s" % (self.name, self.log()[-600:])
        happened = self.note()
        unheard = code == -15 and "event=" not in self.log()  # told before it could listen
        if code == 0 or unheard or code == -9 and (self.killed or happened and self.fault.kills):
            return None
        return "%s ended with %d when told to stop: ... %s" % (self.name, code, self.log()[-600:])


class WorkerSlot(Slot):
    def __init__(self, folder, name, redis, volume, faults=(), real=None, prefix=(), flags=()):
        argv = [built("troupe-worker-crash" if real else "troupe-worker-quick"), "--redis", redis, "--volume", volume,
                "--ckpts", real or folder, "--worker-name", name, "--lease-s", str(LEASE_S), "--renew-s", "0.2", "--drain-s",
                "0", "--backoff-s", "0.05", "--redis-wait-s", "30", "--threads", "1", *flags]
        Slot.__init__(self, folder, name, argv, faults, prefix)

    def ready(self):
        return " event=ready " in self.log()

    def busy(self):
        text = self.log()
        return text.rfind("job claimed") > max(text.rfind("job " + end) for end in ("ended", "given back", "lost"))

    def look(self):
        text = Slot.look(self)
        f = self.fault
        if f and f.term and not self.told and self.ready():
            if self.busy() if f.term == "busy" else "job ended" in self.log():
                self.told = True
                self.process.terminate()
        return text

    def is_stopped(self):
        if self.stopped_at is None and state_of(self.process.pid) == "T":
            self.stopped_at = time.time()
        return self.stopped_at is not None

    def resume(self):
        self.process.send_signal(signal.SIGCONT)
        self.fault = None
        self.stopped_at = None


class DispatcherSlot(Slot):
    def __init__(self, folder, name, redis, volume, faults=(), flags=(), prefix=()):
        argv = [built("troupe-dispatcher-crash"), "--port", "0", "--web-port", "-1", "--volume", volume, "--redis", redis,
                "--redis-wait-s", "30", *flags]
        Slot.__init__(self, folder, name, argv, faults, prefix)

    def flags(self):
        return ["--port-file", self.logs[-1] + ".port"]

    def port(self):
        try:
            return int(read(self.logs[-1] + ".port"))
        except (OSError, ValueError):
            return None


# ---- Redis ----

class RedisProgram:
    """redis-server with an append-only file. power_cut: what was not synced is gone, as with a real one."""

    def __init__(self, folder, sync="always", tcp=None, power=False):
        self.folder, self.sync, self.tcp, self.power = folder, sync, tcp, power
        self.path = os.path.join(folder, "redis.sock")
        self.synced = os.path.join(folder, "synced")
        self.aof = os.path.join(folder, "appendonlydir")
        self.cuts = []  # when
        self.start()

    def start(self):
        argv = ["redis-server", "--unixsocket", self.path, "--dir", self.folder, "--save", "", "--appendonly", "yes",
                "--appendfsync", self.sync, "--loglevel", "warning"]
        if self.tcp:
            argv += ["--bind", self.tcp[0], "--port", str(self.tcp[1]), "--protected-mode", "no"]
        else:
            argv += ["--port", "0"]
        env = clean_environment(**({"LD_PRELOAD": SHIM, "CHAOS_SYNC_LOG": self.synced} if self.power else {}))
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env,
                                        preexec_fn=die_with_parent)
        deadline = time.time() + 20
        while True:
            try:
                self.connect()("PING")
                return
            except (OSError, RuntimeError):
                assert time.time() < deadline and self.process.poll() is None, "redis-server does not start"
                time.sleep(0.01)

    def connect(self):
        return Redis(self.path)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.cuts.append(time.time())

    def lose_unsynced(self):
        """Cuts the files to what was synced. Returns how many bytes that cost."""
        sure, gone = {}, 0
        if os.path.exists(self.synced):
            for line in read(self.synced).decode().splitlines():
                path, size = line.rsplit(" ", 1)
                sure[os.path.basename(path)] = int(size)
        for name in os.listdir(self.aof):
            if ".incr." in name:
                path = os.path.join(self.aof, name)
                keep = min(sure.get(name, 0), os.path.getsize(path))
                gone += os.path.getsize(path) - keep
                os.truncate(path, keep)
        return gone

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
