#!/usr/bin/env python3
"""The queue's protocol, searched exhaustively by spin.

    run.py [--part good|broken] [--only WORD] [--full] WORK_DIR

Builds a verifier from each model and choice below and runs it to the end. The models as they are must have no error, with
nothing left out (no depth limit, no bit-state hashing, memory enough); each broken variant must be caught, and by the
property that is named. --part: only these or those. --only: cases whose name holds the word. --full adds the large searches
(minutes, gigabytes). Seconds are the processor's.
The last line is "N passed, N failed, N skipped".
"""
import argparse
import os
import re
import resource
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
MEMORY_MIB = 2900
DEPTH = 200000

TWO = "JOBS=2 WORKERS=2 NET=1"
ONE = "JOBS=1 WORKERS=2 NET=2 FAILS_MAX=3 DEATHS_MAX=3 RUN_DEADLINE START_DEADLINE"
LIVE = "JOBS=1 WORKERS=2 NET=1 FAULTS=4 LIVE"

# name, model, choices
GOOD = [
    ("2 workers, 2 jobs, 2 fails or deaths", "queue", TWO),
    ("1 job, deadlines, 3 fails or deaths, 2 late requests", "queue", ONE),
    ("every accepted job ends (LTL)", "queue", LIVE),
    ("3 workers of a host, a job for 2 and one for 1", "gang", ""),
    ("records and files: delete, retry, late workers", "files", ""),
]
FULL = [
    ("2 workers, 2 jobs, run deadlines", "queue", TWO + " RUN_DEADLINE"),
]
# broken on purpose: word, model, choices, the property that must catch it
BROKEN = [
    ("NO_FENCE", "queue", TWO, "only_the_owner_writes"),
    ("NO_TOKEN", "queue", TWO, "same_claim_same_job"),
    ("FREES_ANY", "queue", TWO, "same_claim_same_job"),
    ("NO_IDEM", "queue", TWO, "one_job_per_key"),
    ("NO_REPEAT", "queue", TWO, "a_heard_end_is_kept"),
    ("CANCEL_LOSES", "queue", TWO, "cancel_is_final"),
    ("NO_STOP_AT_RELEASE", "queue", TWO, "cancel_is_final"),
    ("NO_OBEY_CLOCK", "queue", TWO, "a_stop_has_a_deadline"),
    ("EXPIRE_FORGETS", "queue", TWO, "in_one_set"),
    ("EXPIRE_FORGETS", "queue", LIVE, "every_accepted_job_ends"),
    ("DEATHS_FORGOTTEN", "queue", TWO, "attempts_have_an_end"),
    ("FAILS_FORGOTTEN", "queue", TWO, "attempts_have_an_end"),
    ("NO_FENCE", "gang", "", "only_the_owner_writes"),
    ("TAKES_BUSY", "gang", "", "no_rank_for_the_busy"),
    ("LEAVES_EARLY", "gang", "", "only_deaths_count"),
    ("FILES_FIRST", "files", "", "a_result_has_its_files"),
    ("FORGETS_WHAT_IS_NOT_DUE", "files", "", "only_the_due_is_forgotten"),
    ("NO_TRASH", "files", "", "no_files_without_a_job"),
    ("NO_SECOND_LOOK", "files", "", "no_files_without_a_job"),
]


def limit_memory():
    bytes_ = (MEMORY_MIB + 200) << 20
    resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))


def command(words, folder):
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(" ".join(words[:1]) + " failed:\n" + done.stdout[-2000:])


def build(folder, model, choices, short):
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        os.remove(os.path.join(folder, name))
    defines = ["-D" + word for word in choices.split()]
    live = "LIVE" in choices.split()
    command(["spin", *defines, "-a", os.path.join(HERE, model + ".pml")], folder)
    # one process, every step of which is atomic: partial order reduction has nothing to leave out
    command(["gcc", "-O0" if short else "-O2", "-w", *([] if live else ["-DSAFETY"]), "-DNOREDUCE", "-DNOFAIR",
             "-DMEMLIM=%d" % MEMORY_MIB, "-o", "pan", "pan.c"], folder)
    return ["./pan", "-m%d" % DEPTH, "-w%d" % (18 if short else 24), *(["-a"] if live else [])]


def search(folder, model, choices, short):
    """(text of the verifier, states, seconds)"""
    words = build(folder, model, choices, short)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          preexec_fn=limit_memory)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    states = re.search(r"^\s*([\d.e+]+) states, stored", done.stdout, re.M)
    return done.stdout, int(float(states[1])) if states else 0, seconds


def complaint(text):
    """Why a search does not count as complete and free of errors; None when it does."""
    errors = re.search(r"errors: (\d+)", text)
    if not errors:
        return "the verifier printed no sum:\n" + text[-2000:]
    for sign in ("Search not completed", "max search depth too small", "out of memory", "memory limit", "BITSTATE",
                 "hash-compact"):
        if sign in text:
            found = re.search(r"pan:\d+: .*", text)
            return sign + (": " + found[0] if found else "")
    return None if errors[1] == "0" else "errors: " + errors[1]


def caught_by(text):
    """The property that a search found broken."""
    found = re.search(r"assertion violated \(+(\w+)\|\|", text)
    if found:
        return found[1]
    found = re.search(r"acceptance cycle", text) and re.search(r"never claim\s+\+ \((\w+)\)", text)
    return found[1] if found else None


def run_good(folder, name, model, choices):
    text, states, seconds = search(folder, model, choices, short=not choices.startswith((TWO, ONE)))
    why = complaint(text)
    depth = re.search(r"depth reached (\d+)", text)
    unreached = re.search(r"^\s*\((\d+) of \d+ states\)", text, re.M)
    if why is None and choices == ONE and unreached and unreached[1] != "0":
        why = f"{unreached[1]} places of the model were never reached: a part of it says nothing"
    print(f"{'ok' if why is None else 'FAILED'}  {model}: {name}: {states} states, depth {depth[1] if depth else '?'}, "
          f"{seconds:.1f} s" + (f"; {why}" if why else ""), flush=True)
    if why and os.path.exists(os.path.join(folder, model + ".pml.trail")):
        defines = ["-D" + word for word in choices.split()]
        print(f"  the way there: cd {folder} && spin {' '.join(defines)} -t -p -g {os.path.join(HERE, model + '.pml')}")
    return why is None


def run_broken(folder, word, model, choices, name):
    text, states, seconds = search(folder, model, choices + " " + word, short=True)
    got = caught_by(text)
    good = got == name
    print(f"{'ok' if good else 'FAILED'}  {model}: {word} is caught by {got or 'nothing'} after {states} states, "
          f"{seconds:.1f} s" + ("" if good else f"; {name} should have\n{text[-1500:]}"), flush=True)
    return good


def cases(part, full):
    for name, model, choices in GOOD + (FULL if full else []) if part != "broken" else []:
        yield f"{model}: {name}", lambda folder, c=(name, model, choices): run_good(folder, *c)
    for word, model, choices, name in BROKEN if part != "good" else []:
        yield f"{model}: {word} broken", lambda folder, c=(word, model, choices, name): run_broken(folder, *c)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["good", "broken"])
    parser.add_argument("--only", default="")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("work")
    args = parser.parse_args()
    passed = failed = 0
    for n, (name, run) in enumerate(cases(args.part, args.full)):
        if args.only not in name:
            continue
        try:
            good = run(os.path.join(args.work, f"search-{n}"))
        except RuntimeError as e:
            print(f"FAILED  {name}: {e}")
            good = False
        passed, failed = passed + good, failed + (not good)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 0 if failed == 0 and passed > 0 else 1


sys.exit(main())
