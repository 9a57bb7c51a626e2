#!/usr/bin/env python3
"""The house rules that a script can see. One rule a call:  lint.py RULE SOURCE_DIR BUILD_DIR

arrows    which folder may include which, and each library's one door
prefixes  what a file exports begins with the file's name (nm over the build's objects)
size      functions of at most 60 lines and complexity 15 (pmccabe); files of at most 800 lines
headers   every header compiles alone
banned    calls that have a better one here, and words that only this machine knows
text      no tabs, trailing blanks, lines over 128 columns, missing last newline
readme    every path that a README names is there
help      --help, the settings table and the README say the same
"""
import os
import re
import subprocess
import sys

CODE = ("common", "kernels", "worker", "dispatcher", "cli")


def files(root, folders, ends):
    for folder in folders:
        for where, _, names in os.walk(os.path.join(root, folder)):
            for name in sorted(names):
                if name.endswith(ends):
                    yield os.path.relpath(os.path.join(where, name), root)


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as f:
        return f.read()


# ---- arrows ----------------------------------------------------------------------------------------------------------
MAY = {  # folder: folders it may include
    "common": {"common"},
    "kernels": {"common", "kernels"},
    "worker": {"common", "kernels", "worker"},
    "dispatcher": {"common", "dispatcher"},
    "cli": {"common", "cli"},
}
DOORS = {  # start of a system include: where it may stand (regular expressions)
    "jansson": r"common/json\.h",
    "msgpack": r"common/pack\.c",
    "hiredis": r"dispatcher/redis_(async|async_reply|link)\.c|common/redis_(sync|find)\.c",
    "uv.h": r"dispatcher/.*|cli/.*",
    "microhttpd": r"dispatcher/.*",
    "libav": r"worker/media/.*",
    "libsw": r"worker/media/.*",
    "soxr": r"worker/media/.*",
    "oneapi": r"kernels/cpu/.*",
    "dnnl": r"kernels/cpu/.*",
    "omp.h": r"kernels/cpu/.*",
    "immintrin": r"kernels/cpu/.*",
    "cuda": r"kernels/cuda/.*",
    "cublas": r"kernels/cuda/.*",
    "cudnn": r"kernels/cuda/.*",
    "nccl": r"kernels/cuda/lib_nccl\.h",
    "pcre2": r"worker/model/.*tok.*",
    "utf8proc": r"worker/model/.*tok.*",
    "curl": r"dispatcher/(webhook_guard\.c|webhook_send\.[ch]|curl_loop\.[ch])|worker/fetch\.c|cli/.*",
    "openssl": r"common/(redis_tls|sha256)\.c",
    "dlfcn": r"kernels/(device|cuda/nvml|cuda/lib_nccl)\.c",
}


def arrows(root, _):
    for path in files(root, CODE, (".c", ".h", ".cu")):
        folder = path.split("/")[0]
        for no, line in enumerate(read(root, path).splitlines(), 1):
            m = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
            if not m:
                continue
            name = m[2]
            if m[1] == '"':
                target = name.split("/")[0]
                if target not in MAY[folder]:
                    yield f"{path}:{no}: {folder}/ must not include {name}"
                continue
            for start, door in DOORS.items():
                if name.startswith(start) and not re.fullmatch(door, path):
                    yield f"{path}:{no}: <{name}> has its door elsewhere ({door})"


# ---- prefixes --------------------------------------------------------------------------------------------------------
ALSO = {  # file: further prefixes, each with its reason
    r"kernels/ops.*\.c": ["op_"],            # written a thousand times
    r"kernels/cpu/.*": ["cpu_", "ref_"],     # a table's functions
    r"worker/model/(ckpt|bind).*": ["ckpt_", "bind", "binder_"],
    r"worker/media/media\.c": ["image_", "wave_"],
    r"worker/media/audio_in\.c": ["sound_"],
}


def symbols(build):
    """(source, symbol) of every exported text or data symbol of the project's objects."""
    for where, _, names in os.walk(build):
        for name in names:
            m = re.match(r"(.*)\.c\.o$", name)
            if not m or "/tests" in where:
                continue
            path = where + "/" + name
            out = subprocess.run(["nm", "-g", "--defined-only", path], capture_output=True, text=True).stdout
            for line in out.splitlines():
                yield path, m[1], line.split()[-1]


def source_of(root, build, path, stem):
    """The source file of an object: meson writes folder_file.c below lib*.a.p."""
    where = os.path.relpath(os.path.dirname(path), build).split("/")
    folder = "/".join(w for w in where if not w.endswith(".p"))
    for base in (folder, ""):
        flat = stem.replace("_", "/")
        for cand in (f"{base}/{stem}.c", f"{base}/{flat}.c"):
            if os.path.exists(os.path.join(root, cand)):
                return cand.lstrip("/")
    parts = stem.split("_")
    for k in range(1, len(parts)):
        for base in (folder, ""):
            cand = f"{base}/{'/'.join(parts[:k])}/{'_'.join(parts[k:])}.c".lstrip("/")
            if os.path.exists(os.path.join(root, cand)):
                return cand
    return None


def prefixes(root, build):
    seen = 0
    for path, stem, symbol in symbols(build):
        source = source_of(root, build, path, stem)
        if source is None or symbol == "main" or symbol.startswith(("__", "_binary", "asan", "_")):
            continue
        seen += 1
        name = os.path.basename(source)[:-2]
        heads = [name]
        while "_" in heads[-1]:  # dit_block.c may export dit_*: a part of dit
            heads.append(heads[-1].rsplit("_", 1)[0])
        for rule, more in ALSO.items():
            if re.fullmatch(rule, source):
                heads += more
        if not any(symbol == h or symbol.startswith(h if h.endswith("_") else h + "_") or h == "bind" and symbol.startswith(h)
                   for h in heads):
            yield f"{source}: exports {symbol}, which does not begin with {' or '.join(sorted(set(heads)))}"
    if not seen:
        yield f"no objects under {build}: nothing was checked"


# ---- size ------------------------------------------------------------------------------------------------------------
def size(root, _):
    names = list(files(root, CODE, (".c", ".cu")))
    out = subprocess.run(["pmccabe"] + names, cwd=root, capture_output=True, text=True)
    if out.returncode != 0 and not out.stdout:
        yield "pmccabe failed: " + out.stderr
    for line in out.stdout.splitlines():
        w = line.split()
        if len(w) >= 7 and (int(w[1]) > 15 or int(w[4]) > 60):
            yield f"{w[5]} {' '.join(w[6:])}: {w[4]} lines, complexity {w[1]}; 60 and 15 are the limits"
    for path in files(root, CODE, (".c", ".h", ".cu", ".lua", ".js")):
        n = read(root, path).count("\n")
        if n > 800:
            yield f"{path}: {n} lines; split it (limit 800)"


# ---- headers ---------------------------------------------------------------------------------------------------------
def pkg_flags():
    out = []
    for name in ("jansson", "hiredis", "libuv", "libmicrohttpd", "libavcodec", "libavformat", "cmocka"):
        p = subprocess.run(["pkg-config", "--cflags", name], capture_output=True, text=True)
        out += p.stdout.split()
    return out


def headers(root, _):
    flags = pkg_flags()
    for path in files(root, CODE + ("tests",), (".h",)):
        if "/cuda/" in path or "/cudaemu/" in path:
            continue
        p = subprocess.run(["cc", "-std=c11", "-D_GNU_SOURCE", "-fsyntax-only", "-Wall", "-I", root, "-x", "c", path] + flags,
                           cwd=root, capture_output=True, text=True)
        if p.returncode or "warning" in p.stderr.replace("#pragma once", ""):
            yield f"{path} does not compile alone: " + p.stderr.strip().splitlines()[0]
        guard = path.upper().replace("/", "_").replace(".", "_")
        if guard not in read(root, path):
            yield f"{path}: its guard is not {guard}"


# ---- banned ----------------------------------------------------------------------------------------------------------
BANNED = {
    r"\b(strcpy|strcat|sprintf|vsprintf|strtok|atoi|atol|atof|alloca|gets)\s*\(": (r"", "use common/str.h"),
    r"(?<![\w.>])(malloc|calloc|realloc|free|strdup)\s*\(": (r"common/mem\.c", "use common/mem.h"),
    r"\b(strtol|strtoll|strtoul|strtod|strtof)\s*\(": (r"common/(mem|str)\.c", "use common/str.h"),
    r"(?<![\w_])exit\s*\(": (r".*/main\.c", "return a code to main"),
    r"(?<![\w_])printf\s*\(": (r"cli/.*|.*/main\.c|worker/command.*", "only programs' top layers print"),
    r"\bsystem\s*\(|\bpopen\s*\(": (r"", "no shells"),
}
WORDS = r"/wor[k]/|\.\./share[d]|\bTODO\b|\bFIXME\b|\bXXX\b"  # in brackets, so that this line is not one of them


def banned(root, _):
    for path in files(root, CODE, (".c", ".h", ".cu")):
        text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), read(root, path), flags=re.S)
        text = re.sub(r'"(\\.|[^"\\\n])*"', '""', text)
        for no, line in enumerate(text.splitlines(), 1):
            for what, (where, why) in BANNED.items():
                m = re.search(what, line)
                if m and not (where and re.fullmatch(where, path)):
                    yield f"{path}:{no}: {m[0].strip()}: {why}"
    for path in files(root, CODE + ("tests", "deploy"), (".c", ".h", ".cu", ".py", ".md", ".js", ".lua", ".sh")):
        if path.startswith(("tests/data", "tests/lint", "tests/oracle", "deploy/demo-model")):
            continue
        for no, line in enumerate(read(root, path).splitlines(), 1):
            m = re.search(WORDS, line)
            if m:
                yield f"{path}:{no}: {m[0]}"


# ---- text ------------------------------------------------------------------------------------------------------------
def text(root, _):
    for path in files(root, CODE, (".c", ".h", ".cu", ".lua", ".js")):
        body = read(root, path)
        if not body.endswith("\n"):
            yield f"{path}: no newline at the end"
        for no, line in enumerate(body.splitlines(), 1):
            if "\t" in line and not path.endswith((".tsv",)):
                yield f"{path}:{no}: tab"
            if line != line.rstrip():
                yield f"{path}:{no}: blanks at the end"
            if len(line) > 128:
                yield f"{path}:{no}: {len(line)} columns"


# ---- readme ----------------------------------------------------------------------------------------------------------
def readme(root, _):
    pages = ["README.md", "tests/README.md", "kernels/README.md", "worker/model/MODEL.md", "common/PROTOCOL.md"]
    for page in pages:
        if not os.path.exists(os.path.join(root, page)):
            yield f"{page} is missing"
            continue
        here = os.path.dirname(page)
        for name in re.findall(r"`([\w./-]+)`|\]\(([\w./-]+)\)", read(root, page)):
            name = name[0] or name[1]
            if not re.search(r"\.(c|h|md|lua|py|json|yml|cu)$|/$", name) or name.startswith(("/", "build", "~")):
                continue
            if page.endswith("MODEL.md") and name.split("/")[0] not in CODE + ("tests", "deploy"):
                continue  # files of the reference and of a checkpoint
            if not any(os.path.exists(os.path.join(root, base, name)) for base in ("", here)):
                yield f"{page}: {name} is not there"


# ---- help ------------------------------------------------------------------------------------------------------------
def help_text(root, build):
    page = read(root, "README.md")
    for program in ("troupe-dispatcher", "troupe-worker"):
        found = [os.path.join(w, program) for w, _, n in os.walk(build) if program in n]
        if not found:
            yield f"{program} is not built"
            continue
        out = subprocess.run([found[0], "--help"], capture_output=True, text=True).stdout
        table = subprocess.run([found[0], "--help-table"], capture_output=True, text=True).stdout
        flags = set(re.findall(r"^\s+--([a-z][a-z0-9-]*)", out, re.M)) - {"help", "help-table", "version", "config"}
        rows = set(re.findall(r"^\| `--([a-z][a-z0-9-]*)`", table, re.M))
        if not flags or not rows:
            yield f"{program}: --help names {len(flags)} settings, --help-table {len(rows)}"
        for name in sorted(flags ^ rows):
            yield f"{program}: --{name} is in only one of --help and --help-table"
        for line in table.splitlines():
            if line.startswith("|") and line not in page:
                yield f"README.md lacks the row (run {program} --help-table): {line}"


RULES = {"arrows": arrows, "prefixes": prefixes, "size": size, "headers": headers, "banned": banned, "text": text,
         "readme": readme, "help": help_text}


def main():
    rule, root, build = sys.argv[1:4]
    found = list(RULES[rule](os.path.abspath(root), os.path.abspath(build)))
    for line in found:
        print(line)
    print(f"{rule}: {len(found)} found")
    sys.exit(1 if found else 0)


main()
