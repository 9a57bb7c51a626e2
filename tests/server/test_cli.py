"""The person's program, as a person runs it: troupe run, up, submit, watch, jobs, cancel, plan, doctor, bench, version."""
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from cluster_tools import (DEMO, FACE, ROOT, SPEECH, TINY, Cluster, alive, clean_environment, cli_program, descendants,
                           die_with_parent, probe, read_safetensors, temporary_folders, until, words_of)
from api_tools import temporary_folder

PIPELINE = os.path.join(ROOT, "tests", "data", "golden", "pipeline")
NOWHERE = "http://127.0.0.1:1"
SMALL = ["--image", FACE, "--audio", SPEECH, "--ckpts", TINY, "--size", "64", "--steps", "1", "--frames", "9", "--seed", "7"]
pytestmark = pytest.mark.skipif(not os.path.exists(cli_program()), reason="no %s: build it first" % cli_program())


def troupe(*words, cwd=None, timeout=120):
    return subprocess.run([cli_program(), *words], capture_output=True, text=True, timeout=timeout, cwd=cwd,
                          env=clean_environment(), preexec_fn=die_with_parent)


def started(*words, cwd=None):
    return subprocess.Popen([cli_program(), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
                            env=clean_environment(), preexec_fn=die_with_parent)


def one_value(done):
    """stdout is one JSON value on one line."""
    assert done.stdout.count("\n") == 1, done
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def place():
    """A cluster with one worker, and where troupe finds it."""
    path, remove = temporary_folder()
    c = Cluster(path)
    c.worker()
    yield c
    c.stop()
    remove()


# ---- run ----

def test_run(tmp_path):
    out = str(tmp_path / "a.mp4")
    done = troupe("run", *SMALL, "--out", out, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, out + "\n"), done
    streams = probe(out)
    assert streams["video"]["codec_name"] == "h264" and streams["audio"]["codec_name"] == "aac"
    assert int(streams["video"]["nb_read_frames"]) == 9
    assert (streams["video"]["width"], streams["video"]["height"]) == (64, 64)
    assert streams["video"]["avg_frame_rate"] == "25/1"
    assert os.listdir(tmp_path) == ["a.mp4"]
    again = troupe("run", *SMALL, "--json", cwd=tmp_path) # no --out: named after the job
    job = one_value(again)
    assert job["state"] == "done" and job["result"]["seed"] == 7
    path = os.path.join(tmp_path, job["path"])
    assert os.path.basename(path) == job["id"] + ".mp4"
    with open(path, "rb") as f, open(out, "rb") as g:
        assert f.read() == g.read() # the same seed
    other = str(tmp_path / "b.mp4")
    assert troupe("run", *SMALL[:-1], "8", "--out", other).returncode == 0
    with open(path, "rb") as f, open(other, "rb") as g:
        assert f.read() != g.read()


def with_means(dump):
    """Large tensors stand in the case as their means, the reference picture's latents as the first frame of theirs."""
    def mean(name, outer, n, inner):
        v = dump[name][1]
        return [sum(v[(o * n + k) * inner + i] for k in range(n)) / n for o in range(outer) for i in range(inner)]
    b, tokens, width = dump["mid.text"][0]
    _, frames, *rest = dump["mid.audio"][0]
    (one, channels, times, h, w), ref = dump["mid.ref"]
    return {**dump, "mid.text_sum": ([b, width], mean("mid.text", b, tokens, width)),
            "mid.audio_mean": ([frames], mean("mid.audio", frames, math.prod(rest), 1)),
            "mid.ref_first": ([one, channels, 1, h, w],
                              [x for c in range(channels) for x in ref[c * times * h * w:(c * times + 1) * h * w]])}


# name of the case, its options, ours (a face box that has the mask of the reference's choice, which is not the largest face), and
# by how much 1 % of the frames' bytes and all of them may differ
REFERENCE = [
    ("bf16", ["--steps", "6", "--cfg", "5.0", "--prompt", ""],
     ["--steps", "6", "--guidance", "5.0", "--prompt", "", "--face", "42.1875,43.75,3.125,2.5"], (4, 16)),
    ("square", ["--steps", "13", "--round", "f32", "--prompt", "A man speaks to the camera."],
     ["--steps", "13", "--round", "f32", "--prompt", "A man speaks to the camera.", "--face", "70,112,4,8"], (2, 8)),
]


def frames_are_near(ours, which, want, near):
    """The sampled frames `which`: 99 % of the bytes within near[0], all within near[1]."""
    (_, h, w, c), values = ours
    size = h * w * c
    assert want[0] == [len(which), h, w, c]
    apart = [abs(a - b) for i, at in enumerate(which)
             for a, b in zip(values[at * size:(at + 1) * size], want[1][i * size:(i + 1) * size])]
    assert max(apart) <= near[1] and sum(d > near[0] for d in apart) <= len(apart) / 100


@pytest.mark.parametrize("name, options, words, near", REFERENCE, ids=[r[0] for r in REFERENCE])
def test_run_with_noise_and_dump_gives_the_reference(tmp_path, name, options, words, near):
    """The named tensors are those of the reference's run from the same noise."""
    base = os.path.join(PIPELINE, name)
    with open(base + ".json") as f:
        twin = json.load(f)
    assert twin["params"]["options"] == options
    dump, video = str(tmp_path / "dump.safetensors"), str(tmp_path / "v.mp4")
    done = troupe("run", "--image", base + ".png", "--audio", base + ".wav", "--noise", base + "_noise.safetensors", "--dump",
                  dump, "--ckpts", TINY, "--size", str(twin["params"]["size"]), *words, "--out", video)
    assert done.returncode == 0, done
    ours, want = with_means(read_safetensors(dump)), read_safetensors(base + ".safetensors")
    atol, rtol = twin["tolerance"]["atol"], twin["tolerance"]["rtol"]
    compared = [k for k in want if k in ours and k != "out.frames"]
    for k in compared:
        (shape, values), (its_shape, its_values) = ours[k], want[k]
        worst = max(abs(a - b) - rtol * abs(b) for a, b in zip(values, its_values))
        assert shape == its_shape and not math.isnan(sum(values)) and worst <= atol, "%s: %g beyond %g" % (k, worst, atol)
    assert set(want) - set(compared) == {"in.frames", "out.frames", "out.mean"}
    frames_are_near(ours["out.frames"], want["in.frames"][1], want["out.frames"], near)
    assert int(probe(video)["video"]["nb_read_frames"]) == twin["params"]["frames"]


BAD_RUNS = [ # words, exit code, what stderr ends with
    ([], 2, "troupe run: --image is needed: a file"),
    (["--image", FACE], 2, "troupe run: --audio is needed: a file"),
    (["--image", "/nowhere/a.png", "--audio", SPEECH], 2, "troupe run: image: /nowhere/a.png: No such file or directory"),
    (["--image", FACE, "--audio", SPEECH, "--ckpts", "/nowhere"], 1,
     "troupe run: --ckpts: there is no folder /nowhere: name the one that holds the weights (the demo model is "
     "deploy/demo-model/ckpts)"),
    (["--image", FACE, "--audio", SPEECH, "--steps", "0"], 2,
     "troupe run: num_inference_steps: 0 is not allowed; a whole number from 1 to 100 is"),
    (["--image", FACE, "--audio", SPEECH, "--size", "9"], 2,
     'troupe run: size: "9" is not allowed; a whole number from 64 to 1024, or "WxH" of multiples of 16 in that range is'),
]


@pytest.mark.parametrize("words, code, sentence", BAD_RUNS, ids=[" ".join(b[0])[-30:] or "nothing" for b in BAD_RUNS])
def test_run_with_wrong_words(tmp_path, words, code, sentence):
    done = troupe("run", *words, *([] if "--ckpts" in words else ["--ckpts", TINY]), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1] == sentence
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words, sentence", [
    (["--device", "cuda:1023"], "worker0 cannot start: device cuda"), # no module, no GPU, or not so many
    (["--precision", "fp8"], "worker0 cannot start: device cpu: precision fp8 needs a GPU"),
])
def test_run_with_a_worker_that_cannot_start(tmp_path, words, sentence):
    done = troupe("run", *SMALL, *words, cwd=tmp_path, timeout=30)
    assert done.returncode == 1 and sentence in done.stderr
    assert not list(tmp_path.glob("*.mp4"))


def test_run_of_a_bad_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    done = troupe("run", "--image", str(tmp_path / "a.png"), "--audio", SPEECH, "--ckpts", TINY, "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert one_value(done) == {"error": {
        "code": "MEDIA", "detail": "image: not a PNG, JPEG, WebP or GIF file; convert the picture to one of them"}}


# ---- the queue ----

def test_submit_watch_jobs_cancel(place, tmp_path):
    at = ["--server", place.url()]
    request = SMALL[:4] + ["--size", "64", "--frames", "9", "--seed", "7"]
    done = troupe("submit", *request, "--steps", "2", *at)
    assert done.returncode == 0
    job = done.stdout.strip()
    watched = troupe("watch", job, *at, "--json")
    assert watched.returncode == 0 and one_value(watched)["state"] == "done"
    assert troupe("watch", job, *at).returncode == 0 # long ended
    out = str(tmp_path / "s.mp4")
    done = troupe("submit", *request, "--steps", "1", "--out", out, *at)
    assert done.returncode == 0 and done.stdout.splitlines()[1] == out
    assert int(probe(out)["video"]["nb_read_frames"]) == 9
    long = one_value(troupe("submit", *request, "--steps", "100", "--json", *at))["id"]
    until(lambda: place.job(long)["state"] == "running")
    waiting = one_value(troupe("submit", *request, "--json", *at))["id"]
    listed = {j["id"]: j["state"] for j in one_value(troupe("jobs", "--json", *at))["jobs"]}
    assert listed[job] == "done" and listed[waiting] == "queued"
    lines = troupe("jobs", "--state", "queued", *at).stdout.splitlines()
    assert len(lines) == 1 and lines[0].startswith(waiting)
    assert troupe("cancel", waiting, *at).stdout == "cancelled\n"
    assert troupe("cancel", long, *at).returncode == 0
    watched = troupe("watch", long, *at, "--json")
    assert watched.returncode == 1
    assert one_value(watched) == {"error": {"code": "CANCEL", "detail": "the job is cancelled"}}
    unknown = troupe("watch", "01a2140e-10f1-7707-b8bc-4bd6e172e9ae", *at)
    assert unknown.returncode == 1 and "there is no such job" in unknown.stderr
    assert troupe("jobs", "--limit", "0", *at).returncode == 2


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_trace_in_the_worker_s_log(place):
    with open(FACE, "rb") as face, open(SPEECH, "rb") as speech:
        answer = place.api.form("/v1/jobs", [("image", ("f", face.read())), ("audio", ("s", speech.read())), ("size", "64"),
                                             ("num_frames", "9"), ("num_inference_steps", "1")], traceparent=TRACE)
    job = answer.json["id"]
    place.done(job)
    lines = until(lambda: [x for x in place.workers[0].log().splitlines() if job in x and "job ended" in x]) + [
        x for x in place.workers[0].log().splitlines() if job in x and "job claimed" in x]
    assert len(lines) == 2 and all("trace=" + TRACE in x for x in lines)


@pytest.mark.parametrize("words", [["jobs"], ["watch", "x"], ["cancel", "x"], ["submit", *SMALL[:4]]], ids=lambda w: w[0])
def test_nobody_answers(words):
    done = troupe(*words, "--server", NOWHERE, "--json")
    sentence = "no dispatcher answers at %s: start one with `troupe up`, or name it with --server" % NOWHERE
    assert done.returncode == 1
    assert one_value(done) == {"error": {"code": "IO", "detail": sentence}}
    assert done.stderr == "troupe %s: %s\n" % (words[0], sentence)


# ---- starting and stopping ----

def whole_up(tmp_path, *words):
    """`troupe up`, once its worker is there: the process, its api, all its processes and their /tmp folders."""
    p = started("up", "--ckpts", TINY, "--port", "0", "--web-port", "-1", "--volume", str(tmp_path / "v"), "--json", *words)
    where = json.loads(p.stdout.readline())

    def worker_there():
        assert p.poll() is None, p.stderr.read()
        v = troupe("jobs", "--server", where["api"], "--json")
        names = [os.path.basename(words_of(k)[0]) for k in descendants(p.pid)]
        return v.returncode == 0 and b"troupe-worker" in names
    until(worker_there)
    family = descendants(p.pid)
    return p, where, family, temporary_folders(family)


def gone(family, folders, seconds=10):
    until(lambda: not alive(family), seconds)
    assert not [f for f in folders if os.path.exists(f)]


def test_up_and_ctrl_c(tmp_path):
    p, where, family, folders = whole_up(tmp_path, "--workers", "2")
    assert len(family) >= 4 and folders
    done = troupe("submit", *SMALL[:4], "--size", "64", "--steps", "1", "--frames", "9", "--wait", "--json", "--server",
                  where["api"], cwd=tmp_path)
    assert done.returncode == 0 and one_value(done)["state"] == "done"
    long = troupe("submit", *SMALL[:4], "--size", "64", "--steps", "100", "--server", where["api"]).stdout.strip()
    began = time.time()
    p.send_signal(signal.SIGINT)
    assert p.wait(10) == 0 and time.time() - began < 10
    gone(family, folders, 1)
    p.stdout.close()
    # the job is kept for the next time
    p, where, family, folders = whole_up(tmp_path)
    done = troupe("cancel", long, "--server", where["api"])
    assert done.returncode == 0, done
    p.send_signal(signal.SIGTERM)
    assert p.wait(10) == 0
    gone(family, folders, 1)


def test_kill_of_up_takes_the_children_with_it(tmp_path):
    p, _, family, folders = whole_up(tmp_path)
    p.kill()
    p.wait(5)
    until(lambda: not alive(family), 10)
    for folder in folders: # nobody is left to do it
        shutil.rmtree(folder)


def test_a_dispatcher_that_dies_comes_back_where_it_was(tmp_path):
    p, where, family, folders = whole_up(tmp_path)
    dispatcher = [k for k in family if os.path.basename(words_of(k)[0]) == b"troupe-dispatcher"][0]
    os.kill(dispatcher, signal.SIGKILL)
    until(lambda: troupe("jobs", "--server", where["api"]).returncode != 0, 5)
    until(lambda: troupe("jobs", "--server", where["api"]).returncode == 0, 10)
    p.send_signal(signal.SIGINT)
    assert p.wait(10) == 0
    gone(family, folders, 1)
    p.stdout.close()


def test_one_up_a_volume_and_the_page_where_it_is(tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    p = started("up", "--ckpts", TINY, "--port", "0", "--web-port", port, "--workers", "0", "--volume", str(tmp_path / "v"),
                "--json")
    where = json.loads(p.stdout.readline())
    assert where["page"] == where["api"] + "/"  # the port for the page is somebody else's
    second = troupe("up", "--ckpts", TINY, "--port", "0", "--web-port", "-1", "--volume", str(tmp_path / "v"))
    assert second.returncode == 1 and "is in use by another `troupe up`" in second.stderr
    p.send_signal(signal.SIGINT)
    assert p.wait(10) == 0
    p.stdout.close()
    taken.close()


def test_a_program_that_dies_is_started_again(tmp_path):
    p, where, family, _ = whole_up(tmp_path)
    worker = [k for k in family if os.path.basename(words_of(k)[0]) == b"troupe-worker"][0]
    os.kill(worker, signal.SIGKILL)
    done = troupe("submit", *SMALL[:4], "--size", "64", "--steps", "1", "--frames", "9", "--wait", "--server", where["api"],
                  cwd=tmp_path)
    assert done.returncode == 0
    family = descendants(p.pid)
    p.send_signal(signal.SIGINT)
    assert p.wait(10) == 0
    gone(family, set(), 1)


def test_ctrl_c_of_run(tmp_path):
    p = started("run", *SMALL[:6], "--size", "64", "--steps", "100", "--out", str(tmp_path / "v.mp4"), cwd=tmp_path)

    def computing():
        assert p.poll() is None
        return len(descendants(p.pid)) >= 4
    until(computing, 30)
    time.sleep(0.5)
    family = descendants(p.pid)
    folders = temporary_folders(family)
    assert len(folders) >= 1
    began = time.time()
    p.send_signal(signal.SIGINT)
    assert p.wait(10) == 1 and time.time() - began < 10
    assert p.stderr.read().splitlines()[-1] == "troupe run: stopped"
    gone(family, folders, 1)
    assert os.listdir(tmp_path) == []


# ---- words about this machine ----

def test_plan_of_the_real_sizes():
    began = time.time()
    done = troupe("plan", "--dims", "full", "--json")
    seconds = time.time() - began
    v = one_value(done)
    assert (v["width"], v["height"], v["frames"], v["latents"]) == (704, 704, 129, 33)
    transformer = 2 * 12991493184 # bytes of its parameters in bf16
    assert transformer <= v["stages"]["denoise"]["weight_bytes"] < 1.05 * transformer
    assert v["stages"]["denoise"]["flops"] > 100 * v["stages"]["decode"]["flops"] > 0
    assert v["peak_bytes"] >= max(s["weight_bytes"] for s in v["stages"].values())
    assert v["flops"] == pytest.approx(sum(s["flops"] for s in v["stages"].values()))
    assert seconds < 5 # 1 s on a machine that does nothing else
    half = one_value(troupe("plan", "--dims", "full", "--json", "--steps", "25"))
    assert half["stages"]["denoise"]["flops"] == pytest.approx(v["stages"]["denoise"]["flops"] / 2, rel=0.2)
    small = one_value(troupe("plan", "--dims", "full", "--json", "--size", "256", "--frames", "33"))
    assert small["stages"]["denoise"]["arena_bytes"] < v["stages"]["denoise"]["arena_bytes"] / 4


def test_plan_of_a_folder():
    v = one_value(troupe("plan", "--ckpts", DEMO, "--size", "64", "--frames", "25", "--steps", "10", "--json"))
    assert 0 < v["peak_bytes"] < 1 << 30
    text = troupe("plan", "--ckpts", DEMO, "--size", "64", "--frames", "25")
    assert text.returncode == 0 and "denoise" in text.stdout
    done = troupe("plan", "--ckpts", "/nowhere")
    assert done.returncode == 1 and "/nowhere is not there" in done.stderr


def test_doctor(tmp_path):
    done = troupe("doctor", "--ckpts", TINY, "--json", cwd=tmp_path)
    v = one_value(done)
    assert done.returncode == 0 and v["ok"] and all(f["ok"] for f in v["findings"])
    done = troupe("doctor", "--ckpts", "/nowhere", cwd=tmp_path)
    assert done.returncode == 1
    bad = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    assert len(bad) == 1 and "/nowhere" in bad[0] and "--ckpts" in bad[0]
    (tmp_path / "file").write_text("not a folder")
    done = troupe("doctor", "--ckpts", TINY, "--volume", str(tmp_path / "file" / "v"), cwd=tmp_path)
    assert done.returncode == 1


def test_bench(tmp_path):
    v = one_value(troupe("bench", "--threads", "1", "--row-s", "0.002", "--table", str(tmp_path / "t.md"), "--json", timeout=170))
    assert v["threads"] == 1 and v["peak"]["tflops"] > 0 and "step" not in v
    assert not [r for r in v["rows"] if r["skipped"]]
    assert all(r["ms"] > 0 and math.isfinite(r["tflops"]) and r["bound"] in ("compute", "memory") for r in v["rows"])
    text = open(os.path.join(ROOT, "kernels", "table.h"), encoding="utf-8").read()
    assert {r["op"] for r in v["rows"]} == set(re.findall(r"^    X\((\w+),", text, re.M))
    table = (tmp_path / "t.md").read_text()
    assert table.count("\n| ") == len(v["rows"]) + 2


def test_bench_step(tmp_path):
    out = tmp_path / "out.json"
    words = ["bench", "--step", "--dims", TINY, "--size", "64x64", "--frames", "5"]
    done = troupe(*words, "--json", str(out), timeout=170)
    assert done.returncode == 0, done.stderr
    v = json.loads(out.read_text())
    assert not v["rows"] and "text encoder" in done.stdout
    step = v["step"]
    assert step["within_plan"] and 0 < step["peak_bytes"] <= step["plan_bytes"] and step["tokens"] == 34 * 16 + 831
    rows = {(r["op"], r["where"]): r for r in step["rows"]}
    assert rows["full step", "two texts"]["gflop"] > rows["full step", "one text"]["gflop"] > 5 * rows["cached step", "cached"]["gflop"]
    assert [rows["full step", w]["of"] for w in ("two texts", "one text")] == [10, 20] and rows["cached step", "cached"]["of"] == 20
    assert ("decoder tile", "vae") in rows and ("text encoder", "vision and one prompt") in rows
    # what it would need, and does not have
    done = troupe("bench", "--step", timeout=60)
    assert done.returncode == 1 and "--dims DIR" in done.stderr, done.stderr
    assert troupe(*words, "--weights", "streamed").returncode == 2


def test_version_and_help():
    v = one_value(troupe("version", "--json"))
    assert set(v) == {"name", "version", "build"}
    assert troupe("version").stdout == "troupe %s (%s)\n" % (v["version"], v["build"])
    for words in (["--help"], ["help"]):
        done = troupe(*words)
        assert done.returncode == 0 and "troupe submit" in done.stdout and not done.stderr
    assert troupe().returncode == 2


COMMANDS = ["up", "run", "submit", "watch", "jobs", "cancel", "plan", "doctor", "bench"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of(name):
    done = troupe(name, "--help")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith("usage: troupe %s" % name) and "--json" in done.stdout


@pytest.mark.parametrize("words, sentence", [
    (["sumbit"], 'troupe: there is no command "sumbit"; did you mean submit?'),
    (["run", "--imagee", "x"], "troupe run: there is no option --imagee; did you mean --image?"),
    (["submit", "--num-inference-stps=3"],
     "troupe submit: there is no option --num-inference-stps=3; did you mean --num-inference-steps?"),
    (["up", "--wokers", "2"], "troupe up: there is no option --wokers; did you mean --workers?"),
    (["jobs", "--stat", "done"], "troupe jobs: there is no option --stat; did you mean --state?"),
    (["doctor", "--ckpt", "x"], "troupe doctor: there is no option --ckpt; did you mean --ckpts?"),
    (["jobs", "--zzzzzzzz"], "troupe jobs: there is no option --zzzzzzzz: see troupe jobs --help"),
    (["jobs", "queued"], "troupe jobs: unexpected word queued: see troupe jobs --help"),
    (["watch"], "troupe watch: a word is missing: see troupe watch --help"),
    (["up", "--workers", "99"], "troupe up: --workers: 99 is not a number from 0 to 32"),
    (["up", "--workers"], "troupe up: --workers needs a value: N"),
    (["plan", "--frame", "3"], "troupe plan: there is no option --frame; did you mean --frames?"),
    (["plan", "--fps"], "troupe plan: there is no option --fps; did you mean --fp8?"),
    (["plan", "--frames"], "troupe plan: --frames needs a value"),
    (["plan", "--size", "3"], 'troupe plan: size: "3" is not allowed; a whole number from 64 to 1024, or "WxH" of multiples '
     "of 16 in that range is"),
    (["bench", "--thread", "1"], "troupe bench: there is no option --thread; did you mean --threads?"),
    (["bench", "--threads", "many"], "troupe bench: --threads: many is not a number from 0 to 1024"),
], ids=lambda w: " ".join(w) if isinstance(w, list) else "")
def test_wrong_words(words, sentence):
    done = troupe(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[0] == sentence


def test_completion():
    script = """
        eval "$(%s completion)"
        complete -p troupe
        say() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _troupe; echo "${COMPREPLY[@]}"; }
        say %s sub
        say %s submit --imag
        say %s plan --fra
        say %s bench --thr
        say %s run --num-inf
    """ % ((cli_program(),) * 6)
    done = subprocess.run([shutil.which("bash"), "-c", script], capture_output=True, text=True, env=clean_environment(),
                          timeout=30)
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout.splitlines()[1:] == ["submit", "--image", "--frames", "--threads", "--num-inference-steps"]
