"""Runs deploy/docker/start as a container would: a folder of programs as the PATH, and an environment of its own."""
import os
import shutil
import subprocess

from api_tools import BUILD
from cluster_tools import die_with_parent

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
START = os.path.join(ROOT, "deploy", "docker", "start")
HEALTH = os.path.join(ROOT, "deploy", "docker", "health")
OURS = {"troupe": "cli", "troupe-dispatcher": "dispatcher", "troupe-worker": "worker"}


class Image:
    """What is in the image: our programs, by default all, redis-server, and small ones of the test's own."""

    def __init__(self, folder, *programs, copy=False):
        self.folder = folder
        self.bin, self.tmp, self.data = (os.path.join(folder, d) for d in ("bin", "tmp", "data"))
        for d in (self.bin, self.tmp, self.data):
            os.makedirs(d)
        for name in programs or ("redis-server", *OURS):
            real = os.path.abspath(os.path.join(BUILD, OURS[name], name)) if name in OURS else shutil.which(name)
            (shutil.copy if copy else os.symlink)(real, os.path.join(self.bin, name))
        # Those of the system, but none of the programs that the script looks for.
        for name in ("bash", "sh", "env", "cat", "mkdir", "id", "dirname", "seq", "grep", "head", "tr", "base64", "mktemp", "sync",
                     "mv", "sort", "sed", "awk", "readlink", "sleep", "date"):
            os.symlink(shutil.which(name), os.path.join(self.bin, name))
        self.script("nvidia-smi", "exit 9")

    def script(self, name, text):
        path = os.path.join(self.bin, name)
        if os.path.lexists(path):
            os.unlink(path)
        with open(path, "w", encoding="utf-8") as f:
            f.write("#!/bin/bash\n" + text + "\n")
        os.chmod(path, 0o755)

    def environment(self, **env):
        base = {"PATH": self.bin, "TMPDIR": self.tmp, "TROUPE_VOLUME_ROOTS": os.path.join(self.folder, "none"),
                "TROUPE_VOLUME": self.data, "HOME": self.folder}
        return {k: str(v) for k, v in {**base, **env}.items() if v is not None}

    def show(self, *words, **env):
        """(exit code, {setting: value}, command's words, standard error)"""
        done = subprocess.run([START, "--show", *words], env=self.environment(**env), capture_output=True, text=True)
        lines = done.stdout.splitlines()
        settings = dict(line.split("=", 1) for line in lines[:-1])
        return done.returncode, settings, lines[-1].split() if lines else [], done.stderr

    def start(self, *words, log=None, **env):
        return subprocess.Popen([START, *words], env=self.environment(**env), stdout=log, stderr=subprocess.STDOUT,
                                preexec_fn=die_with_parent)

    def health(self, **env):
        done = subprocess.run([HEALTH], env=self.environment(**env), capture_output=True, text=True, timeout=20)
        return done.returncode, done.stdout.strip()
