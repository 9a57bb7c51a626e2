"""What deploy/runpod/generate writes: the committed files are its output and have the fields that RunPod knows.

The tables below are RunPod's own, of its API reference (templates v2 and v1) and the Hub's publishing guide:
field: (type, required, check).
"""
import json
import os
import re
import shutil
import subprocess

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
NONE = type(None)


def text(v):
    return v != ""


def ports(v):
    return len(v) <= 10 and all(re.fullmatch(r"[1-9]\d{0,4}/(http|tcp)", p) and int(p.split("/")[0]) < 65536 for p in v)


def env(v):
    return all(re.fullmatch(r"[A-Z_][A-Z0-9_]*", k) and isinstance(x, str) for k, x in v.items())


def mounts(v):
    p = v.get("persistent")
    return set(v) == {"persistent"} and set(p) == {"size", "path"} and p["size"] >= 10 and p["path"].startswith("/")


def cuda(v):
    return all(re.fullmatch(r"\d+\.\d+", x) for x in v)


V2 = {
    "name": (str, True, text), "image": (str, True, text), "args": (str, False, None), "disk": (int, False, lambda v: v >= 1),
    "ports": (list, False, ports), "env": (dict, False, env), "registry": ((str, NONE), False, None),
    "mounts": (dict, False, mounts), "serverless": (bool, False, None), "public": (bool, False, None),
    "category": (str, False, lambda v: v in ("NVIDIA", "AMD", "CPU")), "allowedCudaVersions": (list, False, cuda),
    "startSsh": (bool, False, None), "startJupyter": (bool, False, None),
}
V1 = {
    "name": (str, True, text), "imageName": (str, True, text), "dockerStartCmd": (list, False, None),
    "dockerEntrypoint": (list, False, None), "containerDiskInGb": (int, False, lambda v: v >= 1),
    "volumeInGb": (int, False, lambda v: v >= 10), "volumeMountPath": (str, False, lambda v: v.startswith("/")),
    "ports": (list, False, ports), "env": (dict, False, env), "isPublic": (bool, False, None),
    "isServerless": (bool, False, None), "readme": (str, False, None),
    "category": (str, False, lambda v: v in ("NVIDIA", "AMD", "CPU")), "containerRegistryAuthId": ((str, NONE), False, None),
}
HUB = {
    "title": (str, True, text), "description": (str, True, text), "type": (str, True, lambda v: v == "serverless"),
    "category": (str, True, lambda v: v in ("audio", "embedding", "language", "video", "image")),
    "iconUrl": (str, False, None), "config": (dict, True, None),
}
POOLS = {"AMPERE_16", "AMPERE_24", "ADA_24", "AMPERE_48", "ADA_48_PRO", "AMPERE_80", "ADA_80_PRO", "HOPPER_141"}
HUB_CONFIG = {
    "runsOn": (str, True, lambda v: v == "GPU"), "containerDiskInGb": (int, True, lambda v: v >= 1),
    "gpuCount": (int, True, lambda v: v >= 1), "gpuIds": (str, True, lambda v: set(v.split(",")) <= POOLS),
    "allowedCudaVersions": (list, False, cuda), "env": (list, False, None), "presets": (list, False, None),
}
HUB_INPUT = {
    "name": (str, True, text), "type": (str, True, lambda v: v in ("string", "number", "boolean", "huggingface")),
    "description": (str, True, text), "options": (list, False, None), "default": (str, False, None),
    "advanced": (bool, False, None),
}
TESTS_CONFIG = {
    "gpuTypeId": (str, True, lambda v: v.startswith("NVIDIA ")), "gpuCount": (int, True, None), "env": (list, False, None),
    "allowedCudaVersions": (list, False, cuda),
}
TEST = {"name": (str, True, text), "input": (dict, True, None), "timeout": (int, False, lambda v: v >= 1000)}


def check(table, value, what):
    """The faults of `value`, as sentences."""
    faults = ["%s: %s is missing" % (what, k) for k, (_, required, _) in table.items() if required and k not in value]
    for k, v in value.items():
        if k not in table:
            faults.append("%s: %s is no field" % (what, k))
        elif not isinstance(v, table[k][0]) or (isinstance(v, bool) and table[k][0] is int):
            faults.append("%s: %s is of the wrong type" % (what, k))
        elif table[k][2] and not table[k][2](v):
            faults.append("%s: %s may not be %s" % (what, k, v))
    return faults


def load(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return json.load(f)


def test_committed_is_generated():
    done = subprocess.run([os.path.join(ROOT, "deploy/runpod/generate"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_stale_file_is_found(tmp_path):
    shutil.copytree(os.path.join(ROOT, "deploy/runpod"), tmp_path / "deploy/runpod")
    program = str(tmp_path / "deploy/runpod/generate")
    subprocess.run([program], check=True)
    assert subprocess.run([program, "--check"], capture_output=True).returncode == 0
    assert subprocess.run([program, "--image", "me/mine:1", "--check"], capture_output=True).returncode == 1
    subprocess.run([program, "--image", "me/mine:1"], check=True)
    assert json.loads((tmp_path / "runpod_template.json").read_text())["image"] == "me/mine:1"
    assert json.loads((tmp_path / "deploy/runpod/template_v1.json").read_text())["imageName"] == "me/mine:1"


def test_template_v2():
    t = load("runpod_template.json")
    assert not check(V2, t, "v2")
    assert not set(t) & (set(V1) - set(V2)), "a name of v1"
    assert t["startSsh"] is False and t["startJupyter"] is False, "both are on unless switched off"
    assert {"7860/http", "80/http"} <= set(t["ports"]) and t["mounts"]["persistent"]["path"] == "/workspace"


def test_template_v1_says_the_same():
    a, b = load("runpod_template.json"), load("deploy/runpod/template_v1.json")
    assert not check(V1, b, "v1")
    for k2, k1 in [("name", "name"), ("image", "imageName"), ("disk", "containerDiskInGb"), ("ports", "ports"), ("env", "env"),
                   ("category", "category"), ("public", "isPublic"), ("serverless", "isServerless")]:
        assert a[k2] == b[k1]
    assert a["mounts"]["persistent"] == {"size": b["volumeInGb"], "path": b["volumeMountPath"]}


def test_hub():
    h = load(".runpod/hub.json")
    assert not check(HUB, h, "hub") and not check(HUB_CONFIG, h["config"], "config")
    keys = [e["key"] for e in h["config"]["env"]]
    assert len(set(keys)) == len(keys)
    for e in h["config"]["env"]:
        assert set(e) in ({"key", "value"}, {"key", "input"}), e
        if "input" in e:
            assert not check(HUB_INPUT, e["input"], e["key"])
            assert not e["input"].get("options") or e["input"]["default"] in [o["value"] for o in e["input"]["options"]]
    for p in h["config"]["presets"]:
        assert set(p) == {"name", "defaults"} and set(p["defaults"]) <= set(keys)


def test_hub_tests():
    t = load(".runpod/tests.json")
    assert set(t) == {"tests", "config"} and t["tests"] and not check(TESTS_CONFIG, t["config"], "config")
    for one in t["tests"]:
        assert not check(TEST, one, one["name"])
    assert all(set(e) == {"key", "value"} for e in t["config"]["env"])


def variables():
    found = {}
    for path, pick in [("runpod_template.json", lambda t: t["env"]),
                       (".runpod/hub.json", lambda h: {e["key"]: e for e in h["config"]["env"]})]:
        found.update({k: path for k in pick(load(path))})
    return found


@pytest.mark.parametrize("name", sorted(variables()))
def test_start_knows_every_variable(name):
    with open(os.path.join(ROOT, "deploy/docker/start"), encoding="utf-8") as f:
        assert re.search(r"\b%s\b" % name, f.read())


def test_every_class_is_one_of_start(tmp_path):
    values = [o["value"] for e in load(".runpod/hub.json")["config"]["env"] if e["key"] == "VRAM_MODE"
              for o in e["input"]["options"]]
    with open(os.path.join(ROOT, "deploy/docker/start"), encoding="utf-8") as f:
        classes = f.read().split("case $vram in", 1)[1].split("esac", 1)[0]
    for v in values:
        assert re.search(r"(^|\| )%s( \||\))" % v, classes, re.M), v


@pytest.mark.parametrize("change, fault", [
    ({"imageName": "x"}, "imageName is no field"), ({"disk": 0}, "disk may not be 0"), ({"disk": True}, "disk is of the wrong type"),
    ({"ports": ["80"]}, "ports may not be"), ({"env": {"A": 1}}, "env may not be"), ({"env": [{"key": "A"}]}, "env is of the wrong"),
    ({"mounts": {"persistent": {"size": 5, "path": "/w"}}}, "mounts may not be"), ({"category": "TPU"}, "category may not be"),
    ({"allowedCudaVersions": ["13"]}, "allowedCudaVersions may not be"), ({"startSsh": "false"}, "startSsh is of the wrong type"),
])
def test_the_table_finds_faults(change, fault):
    faults = check(V2, {**load("runpod_template.json"), **change}, "v2")
    assert len(faults) == 1 and fault in faults[0]
