"""Two clusters on one volume, the same inputs at the same time: one writer a file, a temporary name and a rename, nothing
shared but what is named by its content."""
import ctypes
import hashlib
import os
import struct
import threading

import pytest

from start_tools import Image
from test_deploy_pod import Pod

MODIFY, MOVED_TO, CREATE, DELETE, ISDIR = 0x2, 0x80, 0x100, 0x200, 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


class Watcher:
    """What happens to the files below a folder, by inotify: [(what, path)]."""

    def __init__(self, root):
        self.fd, self.folders, self.events = LIBC.inotify_init1(0o2000000), {}, []
        self.add(root)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def add(self, path):
        wd = LIBC.inotify_add_watch(self.fd, path.encode(), MODIFY | MOVED_TO | CREATE | DELETE)
        if wd >= 0:
            self.folders[wd] = path
            for name in os.listdir(path):
                if os.path.isdir(os.path.join(path, name)):
                    self.add(os.path.join(path, name))

    def run(self):
        while True:
            data, at = os.read(self.fd, 65536), 0
            while at < len(data):
                wd, mask, _, n = struct.unpack_from("iIII", data, at)
                name = data[at + 16:at + 16 + n].rstrip(b"\0").decode()
                at += 16 + n
                path = os.path.join(self.folders.get(wd, "?"), name)
                self.events.append((mask & ~ISDIR, path))
                if mask & ISDIR and mask & (CREATE | MOVED_TO):
                    self.add(path)


@pytest.fixture
def pair(folder):
    volume = os.path.join(folder, "volume")
    os.makedirs(volume)
    images = [Image(os.path.join(folder, n)) for n in "ab"]
    watcher = Watcher(volume)
    pods = [Pod(os.path.join(folder, n), image, TROUPE_VOLUME=volume, RUNPOD_POD_ID="pod-" + n, TROUPE_BIND="", TROUPE_DEVICES="cpu")
            for n, image in zip("ab", images)]
    pods[0].volume, pods[0].watcher = volume, watcher
    yield pods
    for p in pods:
        if p.process.poll() is None:
            assert p.stop()[0] == 0


def files(folder):
    return sorted(os.path.relpath(os.path.join(w, n), folder) for w, _, names in os.walk(folder) for n in names)


def test_two_clusters_one_volume(pair, folder):
    a, b = pair
    volume, jobs, n = a.volume, [[], []], 4

    def work(pod, mine):
        for i in range(n): # the same inputs and seeds in both
            mine.append(pod.submit(seed=i % 2))
        for job in mine:
            pod.done(job)
    threads = [threading.Thread(target=work, args=(p, j)) for p, j in zip(pair, jobs)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(100)
    assert [len(j) for j in jobs] == [n, n] and not set(jobs[0]) & set(jobs[1])

    # The inputs lie there once, and whole; nothing half-written is left.
    blobs = files(os.path.join(volume, "blobs"))
    assert len(blobs) == 2
    for f in blobs:
        with open(os.path.join(volume, "blobs", f), "rb") as x:
            assert hashlib.sha256(x.read()).hexdigest() == os.path.basename(f)
    assert files(os.path.join(volume, "tmp")) == []
    results = files(os.path.join(volume, "results"))
    assert not [f for f in results if f.endswith(".part")]
    assert len([f for f in results if f.endswith("video.mp4")]) == 2 * n

    # Each sees its own jobs, and what came of the same seed is the same video.
    for i in range(n):
        assert a.video(jobs[0][i]) == b.video(jobs[1][i])
        assert a.api("GET", "/v1/jobs/" + jobs[1][i], **a.key()).status == 404
    assert a.video(jobs[0][0]) != a.video(jobs[0][1])

    # What has its last name came there by a rename and is never written to again.
    events = a.watcher.events
    ours = [(what, p) for what, p in events if not p.startswith(os.path.join(volume, "pods"))]
    last = [p for _, p in ours if not p.startswith(os.path.join(volume, "tmp") + "/") and not p.endswith(".part")]
    assert not [p for what, p in ours if what & MODIFY and p in last]
    assert not [p for what, p in ours if what & CREATE and os.path.isfile(p) and p in last]
    moved = [p for what, p in ours if what & MOVED_TO]
    assert len([p for p in moved if p.endswith("-video.mp4")]) == 2 * n
    assert len([p for p in moved if "/blobs/" in p]) >= 2
    assert len(set(p for p in moved if "/results/" in p)) == len([p for p in moved if "/results/" in p]), "two wrote one result"

    # Beside these there are only the two folders of one cluster each.
    assert set(os.listdir(volume)) == {"blobs", "results", "tmp", "pods"}
    assert set(os.listdir(os.path.join(volume, "pods"))) == {"pod-a", "pod-b"}

    # One ends and comes again; the other does not notice, and both have all they had.
    assert a.stop()[0] == 0
    assert b.ping() == 200
    again = b.submit(seed=3)
    b.done(again)
    a = Pod(os.path.join(folder, "a"), a.image, TROUPE_VOLUME=volume, RUNPOD_POD_ID="pod-a", TROUPE_BIND="", TROUPE_DEVICES="cpu")
    pair[0] = a
    assert a.video(jobs[0][0]) == b.video(jobs[1][0])


def test_a_name_that_both_publish_at_once(folder, pair):
    """The same bytes uploaded to both, many times over: every answer is right and the file is whole."""
    data, keys, wrong = os.urandom(1 << 20), [], []

    def upload(pod):
        for _ in range(10):
            answer = pod.api("POST", "/v1/blobs", data, Content_Type="application/octet-stream", **pod.key())
            got = pod.api("GET", "/v1/blobs/" + answer.json["key"], **pod.key())
            keys.append(answer.json["key"])
            if got.body != data:
                wrong.append(got.status)
    threads = [threading.Thread(target=upload, args=(p,)) for p in pair for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(keys) == 40 and set(keys) == {"sha256:" + hashlib.sha256(data).hexdigest()} and not wrong
    assert files(os.path.join(pair[0].volume, "tmp")) == []
