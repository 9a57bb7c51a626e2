"""deploy/docker/Dockerfile, read by dockerfile.py: what every image must have, and that what it copies is there."""
import os
import re
import subprocess

import dockerfile
import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PATH = os.path.join(ROOT, "deploy", "docker", "Dockerfile")
STAGES = dockerfile.read(PATH)
IMAGES = ["dispatcher", "worker", "worker-cuda", "pod"]
FILES = set(dockerfile.context(ROOT))


def test_the_images_are_there():
    assert [s for s in STAGES if s in IMAGES] == IMAGES


@pytest.mark.parametrize("stage", list(STAGES))
def test_bases(stage):
    base = STAGES[stage].base
    assert base in STAGES or re.fullmatch(r"[a-z]+(/[a-z]+)?:[a-z0-9][a-zA-Z0-9._-]*", base), \
        "%s: an image of Docker Hub by its plain name, with a tag" % base
    assert not base.endswith(":latest")
    if base in STAGES:
        assert list(STAGES).index(base) < list(STAGES).index(stage)


@pytest.mark.parametrize("image", IMAGES)
def test_what_every_image_has(image):
    user = dockerfile.last(STAGES, image, "USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user.text), "a number: Kubernetes cannot tell whether a name is root"
    for word in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        step = dockerfile.last(STAGES, image, word)
        assert step and step.exec_form() is not None, word + ": signals must reach the program, not a shell"
    assert dockerfile.last(STAGES, image, "STOPSIGNAL").text == "SIGTERM"
    assert re.search(r"--interval=\d+s --timeout=\d+s --start-period=\d+s", dockerfile.last(STAGES, image, "HEALTHCHECK").text)
    labels = {k: v for s in dockerfile.chain(STAGES, image) for step in s.all("LABEL") for k, v in step.pairs().items()}
    assert labels["org.opencontainers.image.revision"] == "${BUILD_ID}"
    assert {"org.opencontainers.image." + k for k in ("title", "description", "licenses")} < set(labels)
    own = STAGES[image]
    assert [s.text for s in own.all("ARG")] == ["BUILD_ID=unknown"], "an ARG holds for its own stage only"
    assert dockerfile.environment(STAGES, image)["RUN_MODE"] in ("web", "worker", "all")
    programs = dockerfile.last(STAGES, image, "ENTRYPOINT").exec_form() + dockerfile.last(STAGES, image, "HEALTHCHECK").exec_form()
    for program in programs:
        name = os.path.join("deploy/docker", os.path.basename(program))
        assert os.access(os.path.join(ROOT, name), os.X_OK), name
        assert any(name in s.copy()[1] and s.copy()[2] == os.path.dirname(program) + "/"
                   for stage in dockerfile.chain(STAGES, image) for s in stage.all("COPY")), program


@pytest.mark.parametrize("image", IMAGES)
def test_the_last_user_is_not_root(image):
    """Every stage that becomes root for a RUN step ends as somebody else."""
    users = [s.text for s in STAGES[image].all("USER")]
    assert users and not users[-1].startswith("0")


def test_one_list_of_packages():
    """deploy/install has it; here it is only called."""
    text = "\n".join(s.text for stage in STAGES.values() for s in stage.all("RUN"))
    assert not re.search(r"\b(apt|apt-get|aptitude|dpkg|pip3?|apk|dnf|yum)\b(?![/-])", text.replace("/var/lib/apt/lists", ""))
    assert text.count("install --packages") == 3 and text.count("deploy/install --deps-only") == 1
    for image in ("dispatcher", "worker", "pod"):
        run = " ".join(s.text for s in STAGES[image].all("RUN"))
        assert "rm -rf /tmp/troupe /var/lib/apt/lists/*" in run, "what apt downloaded stays in the image"


@pytest.mark.parametrize("stage", list(STAGES))
def test_what_is_copied_is_there(stage):
    for step in STAGES[stage].all("COPY"):
        flags, sources, target = step.copy()
        assert set(flags) <= {"from", "chown", "chmod"}
        if "from" in flags:
            assert list(STAGES).index(flags["from"]) < list(STAGES).index(stage), "%s: not built yet" % flags["from"]
            continue
        for source in sources:
            assert source == "." or source in FILES or any(f.startswith(source + "/") for f in FILES), \
                "%s:%d: %s is not there, or .dockerignore leaves it out" % (PATH, step.line, source)


@pytest.mark.parametrize("stage", list(STAGES))
def test_names_are_known(stage):
    """Every $NAME of RUN, LABEL and COPY is an ARG or ENV of the stage or of what it stands on."""
    known = set(dockerfile.environment(STAGES, stage))
    for step in STAGES[stage].steps:
        if step.word == "ARG":
            known.add(step.text.partition("=")[0])
        elif step.word in ("LABEL", "COPY", "WORKDIR", "USER"):
            dockerfile.expand(step.text, dict.fromkeys(known, "x"))
        elif step.word == "RUN":
            dockerfile.expand(re.sub(r"'[^']*'", "", step.text), dict.fromkeys(known, "x"))


def test_a_runtime_stage_compiles_nothing():
    """Nothing but packages, a user and files; the compiler's stage only lends files."""
    for image in IMAGES:
        for stage in dockerfile.chain(STAGES, image):
            assert not stage.name.startswith(("build", "tools"))
            assert not any(re.search(r"\b(meson|ninja|gcc|nvcc|python3?)\b", s.text) for s in stage.all("RUN"))


def test_the_builder_gets_what_it_needs():
    """All that the build reads, and nothing that a change of a test would change."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    if len(tracked) < 10:
        pytest.skip("no git tree")
    for f in tracked:
        if re.match(r"(common|kernels|worker|dispatcher|cli)/", f) or f in ("meson.build", "meson_options.txt", "deploy/install"):
            assert f in FILES, f
    assert {f for f in FILES if f.startswith("tests/")} == {"tests/meson.build"}
    assert not any(f.startswith((".git/", "build")) for f in FILES)


def test_dockerignore_rules():
    rules = ["build*", "tests/*", "!tests/meson.build", "**/__pycache__", "*.md"]
    for path, out in [("build-asan/x/y", True), ("a/build", False), ("tests/unit/x.c", True), ("tests/meson.build", False),
                      ("a/b/__pycache__/c.pyc", True), ("README.md", True), ("common/PROTOCOL.md", False), ("meson.build", False)]:
        assert dockerfile.ignored(path, rules) is out, path


@pytest.mark.parametrize("text, sentence", [
    ("FROM debian:12\n", "FROM IMAGE AS name"),
    ("RUN true\n", "before the first FROM"),
    ("FROM debian:12 AS a\nMAINTAINER me\n", "MAINTAINER is no instruction"),
    ("FROM debian:12 AS a\nRUN a \\\n", "in the middle"),
    ("FROM debian:$X AS a\n", "X is not an ARG"),
])
def test_the_reader_refuses(tmp_path, text, sentence):
    (tmp_path / "D").write_text(text)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        dockerfile.read(str(tmp_path / "D"))


def test_gpu_architectures():
    """`all` of meson's option is what the images ask for."""
    args = [s.text for s in STAGES["build-cuda"].all("ARG")]
    assert "GPU_ARCH=all" in args
    with open(os.path.join(ROOT, "kernels/cuda/meson.build"), encoding="utf-8") as f:
        line = re.search(r"'all' \? \[(.*?)\]", f.read())[1]
    assert re.findall(r"'(sm_\w+)'", line) == ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"]
