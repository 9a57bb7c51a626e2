"""deploy/docker/start --show: what each variable makes of the settings and of the command."""
import os
import re

import pytest

from start_tools import ROOT, Image

DEMO = os.path.join(ROOT, "deploy", "demo-model", "ckpts")
OUTSIDE = {"TROUPE_REDIS": "redis://there:6379/0", "TROUPE_API_KEY": "k"}


@pytest.fixture
def image(folder):
    return Image(folder)


def weights(*parts):
    path = os.path.join(*parts)
    os.makedirs(os.path.join(path, "hunyuan-video-t2v-720p"))
    return path


# ---- what runs ----

def test_nothing_set(image):
    rc, env, command, said = image.show()
    assert rc == 0
    assert command == ["troupe", "up", "--container", "--parts", "redis,dispatcher,workers", "--devices", "cpu", "--state",
                       image.data]
    assert env["TROUPE_PORT"] == "80" and env["TROUPE_WEB_PORT"] == "7860" and env["TROUPE_BIND"] == "0.0.0.0"
    assert env["TROUPE_CKPTS"] == DEMO and "demo model" in said
    assert (env["TROUPE_DEFAULT_SIZE"], env["TROUPE_DEFAULT_STEPS"], env["TROUPE_DEFAULT_SEED"]) == ("64", "10", "128")


@pytest.mark.parametrize("mode, outside, parts", [
    ("all", False, "redis,dispatcher,workers"), ("web", False, "redis,dispatcher,workers"),
    ("api", False, "redis,dispatcher,workers"), ("all", True, "dispatcher,workers"),
    ("web", True, "troupe-dispatcher"), ("api", True, "troupe-dispatcher"), ("worker", True, "troupe-worker"),
])
def test_modes(image, mode, outside, parts):
    rc, env, command, _ = image.show(RUN_MODE=mode, **(OUTSIDE if outside else {}))
    assert rc == 0
    if "," in parts:
        assert command[:5] == ["troupe", "up", "--container", "--parts", parts]
    else: # one process a container
        assert command[0] == parts
    assert env.get("TROUPE_WEB_PORT") == {"api": "-1", "worker": None}.get(mode, "7860")


@pytest.mark.parametrize("env, sentence", [
    ({"RUN_MODE": "minimal"}, "RUN_MODE: minimal is not known; all, web, api and worker are"),
    ({"RUN_MODE": "worker"}, "RUN_MODE=worker needs TROUPE_REDIS"),
    ({"VRAM_MODE": "huge"}, "VRAM_MODE: huge is not known; auto, cpu, emergency"),
    ({"IMAGE_SIZE": "32"}, "IMAGE_SIZE: 32 is not a number from 64 to 1024"),
    ({"IMAGE_SIZE": "big"}, "IMAGE_SIZE: big is not a number"),
    ({"INFERENCE_STEPS": "0"}, "INFERENCE_STEPS: 0 is not a number from 1 to 100"),
    ({"VIDEO_LENGTH": "-5"}, "VIDEO_LENGTH: -5 is not a number"),
    ({"PORT": "99999"}, "TROUPE_PORT: 99999 is not a number from 0 to 65535"),
    ({"PORT": "8000", "PORT_HEALTH": "9000"}, "PORT_HEALTH: /ping is served on 8000 and 7860, not on 9000"),
    ({"MODEL_BASE": "/nowhere/else"}, "MODEL_BASE: no weights in /nowhere/else, /nowhere/else/ckpts or"),
    ({"TROUPE_VOLUME": "/proc/nothing"}, "the volume /proc/nothing is not writable for user"),
    ({"RUN_MODE": "web", "TROUPE_REDIS": "redis://there"}, "set TROUPE_API_KEY (any long random text; every dispatcher needs the same)"),
])
def test_refused(image, env, sentence):
    rc, _, _, said = image.show(**env)
    assert rc == 2 and ("start: " + sentence) in said and len(said.strip().splitlines()[-1]) < 300


@pytest.mark.parametrize("programs, env, sentence", [
    (["troupe-dispatcher"], {}, "this image has no troupe: set TROUPE_REDIS"),
    (["troupe-worker", "troupe"], {"RUN_MODE": "web", **OUTSIDE}, "this image has no dispatcher"),
    (["troupe-dispatcher"], {"RUN_MODE": "worker", **OUTSIDE}, "this image has no worker"),
])
def test_an_image_that_lacks_the_program(folder, programs, env, sentence):
    rc, _, _, said = Image(folder, *programs).show(**env)
    assert rc == 2 and sentence in said


def test_a_file_of_keys_is_enough(image):
    assert image.show(RUN_MODE="web", TROUPE_REDIS="redis://there", TROUPE_KEYS="/run/secrets/keys.json")[0] == 0
    assert image.show(RUN_MODE="web", TROUPE_REDIS="redis://there", TROUPE_INSECURE="yes")[0] == 0


def test_more_words_go_to_the_program(image):
    assert image.show("--log-format", "json")[2][-2:] == ["--log-format", "json"]


# ---- the reference's variables ----

CLASSES = { # name: size, steps, seconds of audio
    "emergency": ("96", "10", "8"), "ultra_minimal": ("128", "15", "15"), "ultra_low": ("256", "20", "20"),
    "low": ("384", "25", "30"), "balanced": ("512", "30", "45"), "high": ("704", "35", "60"),
    "high_performance": ("704", "35", "60"), "max": ("1024", "50", "120"), "maximum_quality": ("1024", "50", "120"),
}


@pytest.mark.parametrize("name", list(CLASSES))
def test_vram_mode(image, name):
    rc, env, _, said = image.show(VRAM_MODE=name)
    assert rc == 0
    assert (env["TROUPE_DEFAULT_SIZE"], env["TROUPE_DEFAULT_STEPS"], env["TROUPE_MAX_AUDIO_S"]) == CLASSES[name]
    assert "VRAM_MODE=%s: %s px" % (name, CLASSES[name][0]) in said


def test_vram_mode_auto_leaves_the_published_settings(image):
    real = weights(image.folder, "w")
    _, env, _, _ = image.show(VRAM_MODE="auto", TROUPE_CKPTS=real)
    assert not [k for k in env if k.startswith("TROUPE_DEFAULT_") or k == "TROUPE_MAX_AUDIO_S"]


def test_what_wins(image):
    _, env, _, _ = image.show(VRAM_MODE="balanced", IMAGE_SIZE="0256", INFERENCE_STEPS="12", VIDEO_LENGTH="129")
    assert (env["TROUPE_DEFAULT_SIZE"], env["TROUPE_DEFAULT_STEPS"], env["TROUPE_DEFAULT_FRAMES"]) == ("256", "12", "129")
    assert env["TROUPE_MAX_AUDIO_S"] == "45"
    _, env, _, _ = image.show(IMAGE_SIZE="256", TROUPE_DEFAULT_SIZE="320x192")
    assert env["TROUPE_DEFAULT_SIZE"] == "320x192"


@pytest.mark.parametrize("below", ["", "ckpts", "weights/ckpts"])
def test_model_base(image, below):
    base = os.path.join(image.folder, "base")
    there = weights(base, below)
    _, env, _, said = image.show(MODEL_BASE=base)
    assert os.path.samefile(env["TROUPE_CKPTS"], there) and "demo" not in said
    _, env, _, _ = image.show(MODEL_BASE=base, TROUPE_CKPTS="/mine")
    assert env["TROUPE_CKPTS"] == "/mine"


def test_output_base_is_told(image):
    rc, _, _, said = image.show(OUTPUT_BASE="/network_volume/outputs")
    assert rc == 0 and "OUTPUT_BASE is not used: results lie in %s/results" % image.data in said


# ---- the volume ----

def test_the_network_volume_is_found(image):
    first, second = os.path.join(image.folder, "workspace"), os.path.join(image.folder, "runpod-volume")
    roots = {"TROUPE_VOLUME": None, "TROUPE_VOLUME_ROOTS": first + " " + second}
    os.makedirs(second)
    there = weights(second, "ckpts")
    _, env, command, said = image.show(**roots)
    assert env["TROUPE_VOLUME"] == second + "/troupe" and env["TROUPE_CKPTS"] == there and "demo" not in said
    os.makedirs(first)
    _, env, _, _ = image.show(**roots)
    assert env["TROUPE_VOLUME"] == first + "/troupe" and env["TROUPE_CKPTS"] == there
    _, env, _, _ = image.show(**{**roots, "TROUPE_VOLUME": image.data})
    assert env["TROUPE_VOLUME"] == image.data


def test_pods_that_share_a_volume_have_a_folder_each(image):
    _, _, a, _ = image.show(RUNPOD_POD_ID="abc")
    _, _, b, _ = image.show(RUNPOD_POD_ID="xyz")
    assert a[-1] == image.data + "/pods/abc" and b[-1] == image.data + "/pods/xyz"


# ---- ports ----

@pytest.mark.parametrize("env, port", [
    ({}, "80"), ({"PORT": "8080"}, "8080"), ({"FASTAPI_PORT": "9000", "PORT": "8080"}, "9000"),
    ({"TROUPE_PORT": "7000", "FASTAPI_PORT": "9000"}, "7000"), ({"PORT": "8080", "PORT_HEALTH": "8080"}, "8080"),
    ({"PORT_HEALTH": "7860"}, "80"),
])
def test_ports(image, env, port):
    rc, got, _, said = image.show(**env)
    assert rc == 0, said
    assert got["TROUPE_PORT"] == port and got["TROUPE_WEB_PORT"] == "7860"


def test_ports_that_only_root_may_open(image):
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as f:
        if int(f.read()) <= 80:
            pytest.skip("everybody may open port 80 here")
    image.script("id", "echo 10001")
    rc, env, _, said = image.show()
    assert rc == 0 and env["TROUPE_PORT"] == "8000" and "port 80 is not open to user 10001 here: the API is on 8000" in said
    rc, _, _, said = image.show(PORT="80")
    assert rc == 2 and "port 80: user 10001 may only open ports from" in said


# ---- devices ----

def devices(command):
    return command[command.index("--devices") + 1] if "--devices" in command else command[command.index("--device") + 1]


@pytest.fixture
def gpu_image(image):
    image.module = os.path.join(image.folder, "troupe-cuda.so")
    open(image.module, "w").close()
    image.script("nvidia-smi", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA H100 (UUID: GPU-2)'")
    return image


@pytest.mark.parametrize("env, wanted", [
    ({}, "cuda:0,cuda:1"), ({"CUDA_VISIBLE_DEVICES": "1"}, "cuda:0"), ({"CUDA_VISIBLE_DEVICES": "2,0,1"}, "cuda:0,cuda:1,cuda:2"),
    ({"CUDA_VISIBLE_DEVICES": ""}, "cpu"), ({"TROUPE_DEVICES": "cpu"}, "cpu"), ({"TROUPE_DEVICES": "cuda:1"}, "cuda:1"),
    ({"VRAM_MODE": "cpu"}, "cpu"), ({"VRAM_MODE": "cpu_only"}, "cpu"),
])
def test_one_worker_a_gpu(gpu_image, env, wanted):
    assert devices(gpu_image.show(TROUPE_CUDA_MODULE=gpu_image.module, **env)[2]) == wanted
    command = gpu_image.show(TROUPE_CUDA_MODULE=gpu_image.module, RUN_MODE="worker", **OUTSIDE, **env)[2]
    assert devices(command) == wanted
    assert command[0] == ("troupe" if "," in wanted else "troupe-worker")


def test_a_gpu_without_the_module(gpu_image):
    rc, _, command, said = gpu_image.show()
    assert rc == 0 and devices(command) == "cpu" and "2 GPUs are here, but this image has no CUDA module" in said


def test_readme_names_every_variable():
    """The table in the README has each variable that the script reads, and no other."""
    with open(os.path.join(ROOT, "deploy/docker/start"), encoding="utf-8") as f:
        read = set(re.findall(r"\$\{([A-Z][A-Z_]+)(?=[:}-])", f.read())) | {"IMAGE_SIZE", "INFERENCE_STEPS", "VIDEO_LENGTH"}
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        text = f.read().split("### What a container reads", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("|"))))
    settings = {"TROUPE_API_KEY", "TROUPE_KEYS", "TROUPE_BIND", "TROUPE_INSECURE", "TROUPE_REDIS", "TROUPE_VOLUME", "TROUPE_CKPTS", "TROUPE_DEVICE",
                "TROUPE_PORT", "TROUPE_WEB_PORT", "TMPDIR"}
    assert read - settings <= named, (read - settings - named)
    assert named <= read, named - read
