"""Clients that do not give up: each submits one job under an idempotency key, repeats every request until it is answered by
any dispatcher, and looks at what comes out.
"""
import base64
import hashlib
import http.client
import json
import subprocess
import tempfile
import threading
import time

from api_tools import Client, EventStream, form_data
from cluster_tools import FACE, SPEECH, read

FINAL = ("done", "failed", "cancelled", "timed_out")
STEPS, FRAMES = 10, 9
SYNC_S = 4  # everysec: a second, and more while a sync is slow


class Wrong(Exception):
    """A promise was broken."""


class Known:
    """Videos seen before in this process: equal requests give equal bytes, and each kind was played once."""
    lock = threading.Lock()
    by_request, playable = {}, set()

    @classmethod
    def check(cls, request, sha256, data):
        with cls.lock:
            first = cls.by_request.setdefault(request, sha256)
            if first != sha256:
                raise Wrong("the same request gave another video: %s, before %s" % (sha256[:12], first[:12]))
            if sha256 in cls.playable:
                return
            with tempfile.NamedTemporaryFile(suffix=".mp4") as f:
                f.write(data)
                f.flush()
                out = subprocess.run(["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v", "-show_entries",
                                      "stream=nb_read_frames", "-of", "csv=p=0", f.name], capture_output=True, text=True)
            if out.stdout.strip() != str(FRAMES) or out.stderr:
                raise Wrong("the video does not play: %s frames, %s" % (out.stdout.strip(), out.stderr[-200:]))
            cls.playable.add(sha256)


class Forgotten(Exception):
    """Its time to live was over before this client came to look: a slow machine, no fault."""


class Job:
    """One client and its job."""

    def __init__(self, run, number):
        rng = run.rng
        self.run, self.number = run, number
        self.key = "chaos-%d-%d-%08x" % (run.seed, number, rng.getrandbits(32))
        self.delay_s = rng.uniform(0, 0.4)
        self.way = rng.choice(("form", "json", "form"))
        self.fields = {"size": 64, "num_inference_steps": STEPS, "num_frames": FRAMES, "seed": rng.randrange(3),
                       "priority": rng.choice((5, 5, 7)), "cache": "auto" if rng.random() < run.cached else "off"}
        self.fields.update(run.fields)
        self.twice = rng.random() < 0.3
        self.watches = rng.random() < 0.6
        self.cancel_after = None
        self.id = None
        self.cancelled = False  # the queue said yes
        self.lost_ids = set()
        self.accepted_at = None
        self.view = None  # as the client saw it at the end
        self.final_frames = 0
        self.rng = run.rng_of(number)
        self.thread = threading.Thread(target=self.live, name="job-%d" % number, daemon=True)
        self.error = None
        self.over = False
        self.heard = []  # what was said to its cancels

    # ---- asking ----

    def ask(self, method, path, body=None, good=(200,), timeout=8, **headers):
        """Any dispatcher, until one answers with a status of `good`."""
        while True:
            port = self.run.some_port(self.rng)
            try:
                if port:
                    a = Client(port, timeout)(method, path, body, **headers)
                    if a.status in good:
                        return a
                    if a.status < 500 and a.status not in (408, 429):
                        raise Wrong("%s %s: %d %s" % (method, path, a.status, a.body[:300]))
            except (OSError, http.client.HTTPException):
                pass
            if time.time() > self.run.deadline:
                raise Wrong("%s %s: no answer until the end of the run" % (method, path))
            time.sleep(0.03)

    def submit(self):
        if self.way == "form":
            parts = [("image", ("image", read(FACE))), ("audio", ("audio", read(SPEECH)))]
            body, kind = form_data(parts + [(k, str(v)) for k, v in self.fields.items()])
        else:
            body = json.dumps({"image": base64.b64encode(read(FACE)).decode(),
                               "audio": base64.b64encode(read(SPEECH)).decode(), **self.fields}).encode()
            kind = "application/json"
        a = self.ask("POST", "/v1/jobs", body, (200, 201), Content_Type=kind, Idempotency_Key=self.key)
        job = a.json["id"]
        if self.id and job != self.id:
            if not self.may_be_lost():
                raise Wrong("key %s stands for two jobs: %s and %s" % (self.key, self.id, job))
            self.lost_ids.add(self.id)
            self.id = None
        if not self.id:
            self.id, self.accepted_at = job, time.time()

    def cancel(self):
        a = self.ask("POST", "/v1/jobs/%s/cancel" % self.id, good=(200, 202, 404, 409))
        if a.status == 404:
            self.lost()
            self.cancel()
        else:
            self.cancelled = a.status != 409
            self.heard.append("cancel %d %s" % (a.status, a.json.get("state") or a.json.get("detail")))

    def get(self, wait=0):
        """The job; None when it is not there."""
        a = self.ask("GET", "/v1/jobs/%s%s" % (self.id, "?wait=%d" % wait if wait else ""), good=(200, 404))
        return a.json if a.status == 200 else None

    def watch(self):
        """Its events until the end, over as many connections as it takes. A stream that broke between the final state and
        the end tells both again: so a state counts once a connection."""
        last = None
        while time.time() < self.run.deadline:
            port = self.run.some_port(self.rng)
            try:
                stream = EventStream(port, self.id, last, timeout=8) if port else None
                if stream and stream.status in (204, 404):
                    return
                n = 0
                for event_id, name, data in stream or ():
                    last = event_id or last
                    n += name == "state" and data.get("state") == "done"
                    self.final_frames = max(self.final_frames, n)
                    if name == "end":
                        return
            except (OSError, http.client.HTTPException, ValueError):
                pass
            time.sleep(0.03)

    # ---- a life ----

    def may_be_lost(self):
        return any(self.accepted_at - 1 < c < self.accepted_at + SYNC_S for c in self.run.cuts_that_lose())

    def lost(self):
        """The queue does not know the job: allowed only for what was accepted just before a power cut with everysec."""
        if self.run.forgets and time.time() - self.accepted_at > self.fields["ttl_s"]:
            raise Forgotten()
        if not self.may_be_lost():
            raise Wrong("job %s was accepted and is not there" % self.id)
        self.lost_ids.add(self.id)
        self.id, self.cancelled = None, False
        self.submit()

    def wait(self):
        while True:
            v = self.get(wait=5)
            if v is None:
                self.lost()
            elif v["state"] in FINAL:
                return v
            if time.time() > self.run.deadline:
                raise Wrong("job %s has not ended: %s attempt %s" % (self.id, v and v["state"], v and v["attempt"]))

    def wait_for_good(self):
        """The end that stays: what was told within the second before a power cut with everysec may be untold again."""
        while True:
            v = self.wait()
            if not self.run.may_lose_more():
                return v
            time.sleep(0.1)
            if self.cancelled:
                self.cancel()

    def check_video(self):
        r = self.view["result"]
        a = self.ask("GET", "/v1/jobs/%s/video" % self.id, good=(200, 404) if self.run.forgets else (200,))
        if a.status == 404:
            raise Forgotten()
        if hashlib.sha256(a.body).hexdigest() != r["video_sha256"] or len(a.body) != r["video_bytes"]:
            raise Wrong("job %s: the video is not the one of its record" % self.id)
        if not r["video"].startswith("%d-" % self.view["attempt"]):
            raise Wrong("job %s: attempt %s shows the result of another: %s" % (self.id, self.view["attempt"], r["video"]))
        Known.check((self.fields["seed"], self.run.real is not None), r["video_sha256"], a.body)

    def check_end(self):
        v = self.view
        allowed = {"cancelled"} if self.cancelled else {"done"}
        if self.run.may_fail(v):
            allowed.add("failed")
        if v["state"] not in allowed:
            raise Wrong("job %s is %s (%s), not %s; %s" % (self.id, v["state"], v["error"], " or ".join(sorted(allowed)),
                                                          self.heard))

    def live(self):
        try:
            time.sleep(self.delay_s)
            self.submit()
            if self.twice:
                self.submit()
            if self.cancel_after is not None:
                time.sleep(self.cancel_after)
                self.cancel()
            if self.watches:
                self.watch()
            self.view = self.wait_for_good()
            self.check_end()
            if self.view["state"] == "done":
                self.check_video()
        except Forgotten:
            self.run.notes.append("forgotten unseen")
        except Wrong as e:
            self.error = str(e)
        except Exception as e:  # a fault of the test itself is one too
            self.error = "%s: %s" % (type(e).__name__, e)
        self.over = True

    def delete(self):
        self.ask("DELETE", "/v1/jobs/%s" % self.id, good=(204, 404))
