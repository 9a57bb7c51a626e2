"""docker-compose.yml: by `docker compose config` where a Docker with it is at hand, and by what it must say in any case."""
import os
import re
import shutil
import subprocess

import pytest

import dockerfile
from api_tools import Redis, RedisServer, clean_environment, dispatcher_program
from cluster_tools import worker_program

yaml = pytest.importorskip("yaml")
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PATH = os.path.join(ROOT, "docker-compose.yml")
with open(PATH, encoding="utf-8") as _f:
    FILE = yaml.safe_load(_f)
SERVICES = FILE["services"]
OURS = ["dispatcher", "worker", "worker-gpu"]
# Of the Compose specification: what a service may have, as far as it is used here. The value: type.
FIELDS = {"image": str, "build": dict, "command": list, "environment": dict, "ports": list, "volumes": list, "depends_on": dict,
          "healthcheck": dict, "profiles": list, "deploy": dict, "restart": str, "read_only": bool, "tmpfs": list,
          "cap_drop": list, "security_opt": list, "stop_grace_period": str, "user": str}


def seconds(text):
    assert re.fullmatch(r"\d+s", text), text
    return int(text[:-1])


def filled(value, **env):
    """${NAME-x}, ${NAME:-x} and ${NAME:?x} as Compose fills them in."""
    def one(m):
        name, how, other = m[1], m[2], m[3]
        known = env.get(name)
        if known is None or (how.startswith(":") and known == ""):
            assert not how.endswith("?"), "%s: %s" % (name, other)
            return other
        return known
    return re.sub(r"\$\{(\w+)(:?[-?])([^}]*)\}", one, value)


def test_fields():
    assert set(FILE) <= {"services", "volumes"} | {k for k in FILE if k.startswith("x-")}
    assert set(SERVICES) == {"redis", *OURS}
    for name, s in SERVICES.items():
        for field, value in s.items():
            assert field in FIELDS and isinstance(value, FIELDS[field]), "%s.%s" % (name, field)
        assert all(isinstance(v, str) for v in s.get("environment", {}).values()), name + ": YAML would read numbers and yes"


def test_docker_compose_config():
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]) and subprocess.run(words + ["version"], capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("no docker compose here")
    done = subprocess.run(words + ["-f", PATH, "--profile", "gpu", "config"], capture_output=True, text=True,
                          env=clean_environment(TROUPE_API_KEY="k"))
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)
    done = subprocess.run(words + ["-f", PATH, "config"], capture_output=True, text=True, env=clean_environment())
    assert done.returncode != 0 and "TROUPE_API_KEY" in done.stderr


def test_redis_keeps_what_was_accepted(folder):
    r = SERVICES["redis"]
    pairs = dict(zip(r["command"][1::2], r["command"][2::2]))
    assert pairs["--appendonly"] == "yes" and pairs["--maxmemory-policy"] == "noeviction"
    assert pairs["--appendfsync"] in ("everysec", "always")
    assert "redis:/data" in r["volumes"] and "redis" in FILE["volumes"]
    assert int(re.fullmatch(r"redis:(\d+)[.\w-]*", r["image"])[1]) >= 7
    assert r["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"] and "ports" not in r
    server = RedisServer(folder, *r["command"][1:]) # a Redis that is started so says the same
    redis = Redis(server.path)
    for name, value in [(b"appendonly", b"yes"), (b"maxmemory-policy", b"noeviction"), (b"save", b"")]:
        assert redis("CONFIG", "GET", name) == [name, value]
    redis.close()
    server.stop()


def test_hardened():
    for name, s in SERVICES.items():
        assert s["read_only"] and s["cap_drop"] == ["ALL"] and "no-new-privileges:true" in s["security_opt"], name
        assert "/tmp" in s["tmpfs"] and s["restart"] == "unless-stopped", name


@pytest.mark.parametrize("name", OURS)
def test_our_services(name):
    s, stages = SERVICES[name], dockerfile.read(os.path.join(ROOT, SERVICES[name]["build"]["dockerfile"]))
    assert s["build"]["target"] in stages and s["build"]["context"] == "."
    assert set(s["build"]["args"]) == {"BUILD_ID"}
    assert s["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert seconds(s["stop_grace_period"]) > 10, "the dispatcher drains for 10 s, a worker for drain_s"
    assert dockerfile.last(stages, s["build"]["target"], "HEALTHCHECK"), "`up --wait` waits for this"
    assert s["environment"]["TROUPE_REDIS"] == "redis://redis:6379/0"
    assert "data:" + s["environment"]["TROUPE_VOLUME"] in s["volumes"]


def test_profiles():
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    assert all("profiles" not in SERVICES[n] for n in ("redis", "dispatcher", "worker"))
    device = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert filled(SERVICES["worker"]["deploy"]["replicas"]) == "1"
    assert filled(SERVICES["worker"]["deploy"]["replicas"], CPU_WORKERS="0") == "0"


def settings():
    names = {"RUN_MODE"}
    for program in (dispatcher_program(), worker_program()):
        table = subprocess.run([program, "--help-table"], capture_output=True, text=True, check=True).stdout
        names |= set(re.findall(r"`(TROUPE_\w+)`", table))
    return names


def test_variables_are_settings():
    known = settings()
    for name in OURS:
        assert set(SERVICES[name]["environment"]) <= known, name


def test_only_this_machine_unless_told():
    for p in SERVICES["dispatcher"]["ports"]:
        assert filled(p).startswith("127.0.0.1:") and filled(p, LISTEN="0.0.0.0").startswith("0.0.0.0:")
    env = SERVICES["dispatcher"]["environment"]
    assert {filled(p).rsplit(":", 1)[1] for p in SERVICES["dispatcher"]["ports"]} == {env["TROUPE_PORT"], env["TROUPE_WEB_PORT"]}
    with pytest.raises(AssertionError, match="TROUPE_API_KEY"):
        filled(env["TROUPE_API_KEY"])
    assert filled(env["TROUPE_API_KEY"], TROUPE_API_KEY="k") == "k"
    assert filled(env["TROUPE_DEFAULT_PROMPT"], TROUPE_DEFAULT_PROMPT="") == ""


def test_what_the_head_says():
    """The lines for .env in the comment name what the file reads."""
    with open(PATH, encoding="utf-8") as f:
        text = f.read()
    head = text[:text.index("x-ours")]
    read = set(re.findall(r"\$\{(\w+)", text[len(head):])) | {"COMPOSE_PROFILES"}
    named = set(re.findall(r"\b([A-Z][A-Z_]+)=", head))
    assert named <= read, named - read
