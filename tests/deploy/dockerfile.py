"""Reads Dockerfiles: just what ours use, and a sentence for everything else.

    stages = read("deploy/docker/Dockerfile")     {name: Stage}, in the file's order
    stages["worker"].steps                        [Step("RUN", "deploy/install --deps-only", line), ...]

Source of the syntax: the Dockerfile reference of Docker's documentation (instructions, exec form, ARG before FROM).
"""
import fnmatch
import json
import os
import re
import shlex

INSTRUCTIONS = {"FROM", "ARG", "ENV", "LABEL", "RUN", "COPY", "WORKDIR", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK",
                "ENTRYPOINT", "CMD"}


class Step:
    def __init__(self, word, text, line):
        self.word, self.text, self.line = word, text, line

    def exec_form(self):
        """The words of ["a", "b"], None for the shell form."""
        text = self.text
        if self.word == "HEALTHCHECK":
            found = re.match(r"(?:--\S+\s+)*CMD\s+(.*)$", text, re.S)
            text = found[1] if found else ""
        try:
            words = json.loads(text)
        except ValueError:
            return None
        return words if isinstance(words, list) and all(isinstance(w, str) for w in words) else None

    def copy(self):
        """(flags, sources, destination)"""
        words = shlex.split(self.text)
        flags = dict(w[2:].split("=", 1) for w in words if w.startswith("--"))
        paths = [w for w in words if not w.startswith("--")]
        return flags, paths[:-1], paths[-1]

    def pairs(self):
        """{name: value} of ENV and LABEL."""
        return dict(w.split("=", 1) for w in shlex.split(self.text.replace("\n", " ")))


class Stage:
    def __init__(self, name, base, line):
        self.name, self.base, self.line, self.steps = name, base, line, []

    def all(self, word):
        return [s for s in self.steps if s.word == word]


def instructions(path):
    """[Step] of the whole file: comments out, continued lines joined."""
    steps, text, begun = [], "", 0
    with open(path, encoding="utf-8") as f:
        lines = f.read().splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip().startswith("#") or (not text and not line.strip()):
            continue
        begun = begun if text else number
        text += line.strip()
        if text.endswith("\\"):
            text = text[:-1].rstrip() + " "
            continue
        word, _, rest = text.partition(" ")
        if word not in INSTRUCTIONS:
            raise ValueError("%s:%d: %s is no instruction that is used here" % (path, begun, word))
        steps.append(Step(word, rest.strip(), begun))
        text = ""
    if text:
        raise ValueError("%s:%d: the file ends in the middle of an instruction" % (path, begun))
    return steps


def expand(text, names):
    """$NAME and ${NAME} of names; others are an error."""
    def value(m):
        name = m[1] or m[2]
        if name not in names:
            raise ValueError("%s is not an ARG or ENV here: %s" % (name, text))
        return names[name]
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", value, text)


def read(path, args=None):
    args, stages, stage = dict(args or {}), {}, None
    for step in instructions(path):
        if step.word == "ARG" and stage is None:
            name, _, value = step.text.partition("=")
            args.setdefault(name, value)
        elif step.word == "FROM":
            found = re.fullmatch(r"(\S+)\s+AS\s+([a-z][a-z0-9-]*)", step.text)
            if not found:
                raise ValueError("%s:%d: FROM IMAGE AS name" % (path, step.line))
            stage = stages[found[2]] = Stage(found[2], expand(found[1], args), step.line)
        elif stage is None:
            raise ValueError("%s:%d: %s before the first FROM" % (path, step.line, step.word))
        else:
            stage.steps.append(step)
    return stages


def chain(stages, name):
    """The stage and those it stands on, lowest first."""
    found = [stages[name]]
    while found[0].base in stages:
        found.insert(0, stages[found[0].base])
    return found


def last(stages, name, word):
    """The instruction that counts in the image `name`: the last one, bases included."""
    found = [s for stage in chain(stages, name) for s in stage.all(word)]
    return found[-1] if found else None


def environment(stages, name):
    found = {}
    for stage in chain(stages, name):
        for step in stage.all("ENV"):
            found.update(step.pairs())
    return found


def needs(stages, name):
    """The stages that building `name` takes, in the file's order."""
    wanted, more = set(), [name]
    while more:
        one = more.pop()
        if one not in stages or one in wanted:
            continue
        wanted.add(one)
        more.append(stages[one].base)
        more += [s.copy()[0]["from"] for s in stages[one].all("COPY") if "from" in s.copy()[0]]
    return [s for s in stages if s in wanted]


# ---- what is sent to the builder ----

def ignored(path, patterns):
    """Does .dockerignore leave this file out? The last line that matches it or a folder above it counts."""
    out = False
    parts = path.split("/")
    above = ["/".join(parts[:i + 1]) for i in range(len(parts))]
    for p in patterns:
        plain = p.lstrip("!").rstrip("/")
        tried = [plain, plain[3:]] if plain.startswith("**/") else [plain]
        names = parts if plain.startswith("**/") else []
        if any(_match(a, t) for a in above for t in tried) or any(fnmatch.fnmatchcase(n, tried[-1]) for n in names):
            out = not p.startswith("!")
    return out


def _match(path, pattern):
    a, b = path.split("/"), pattern.split("/")
    return len(a) == len(b) and all(fnmatch.fnmatchcase(x, y) for x, y in zip(a, b))


def context(root):
    """Paths of the files below root that the builder gets."""
    with open(os.path.join(root, ".dockerignore"), encoding="utf-8") as f:
        patterns = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    for where, folders, names in os.walk(root):
        here = os.path.relpath(where, root)
        here = "" if here == "." else here + "/"
        keeps = any(p.startswith("!" + here) for p in patterns)
        folders[:] = sorted(f for f in folders if keeps or not ignored(here + f, patterns) or
                            any(p.startswith("!" + here + f + "/") for p in patterns))
        for name in sorted(names):
            if not ignored(here + name, patterns):
                yield here + name
