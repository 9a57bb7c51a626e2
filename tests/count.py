#!/usr/bin/env python3
"""count.py TESTLOG_JSON...: adds up meson's test log: the cases that each program reported, or the program itself.

Knows the closing line "N passed, N failed, N skipped" (our runners), pytest's summary and cmocka's. A program that failed
but reported no failed case counts as one failed; one that reported nothing counts as one passed, failed or skipped.
"""
import json
import re
import sys


def cases(text):
    p = f = s = 0
    found = False
    for m in re.finditer(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", text, re.M):
        found, p, f, s = True, p + int(m[1]), f + int(m[2]), s + int(m[3])
    word = r"\d+ (?:passed|failed|skipped|deselected|errors?|warnings?)"
    for line in re.findall(r"^(?:=+ )?(%s(?:, %s)*) in [\d.]+s" % (word, word), text, re.M):
        found = True
        for n, what in re.findall(r"(\d+) (passed|failed|skipped|error)", line):
            p += int(n) if what == "passed" else 0
            f += int(n) if what in ("failed", "error") else 0
            s += int(n) if what == "skipped" else 0
    for what in ("PASSED", "FAILED", "SKIPPED"):
        for m in re.finditer(r"^\[  %s *\] (\d+) test" % what, text, re.M):
            found = True
            if what == "PASSED":
                p += int(m[1])
            elif what == "FAILED":
                f += int(m[1])
            else:
                s += int(m[1])
    return found, p, f, s


def main():
    passed = failed = skipped = 0
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as log:
            for line in log:
                t = json.loads(line)
                found, p, f, s = cases(t.get("stdout", "") + "\n" + t.get("stderr", ""))
                bad = t["result"] not in ("OK", "SKIP", "EXPECTEDFAIL")
                if not found:
                    p, f, s = int(t["result"] == "OK"), int(bad), int(t["result"] == "SKIP")
                elif bad and f == 0:
                    f = 1
                passed, failed, skipped = passed + p, failed + f, skipped + s
    print(f"{passed} passed, {failed} failed, {skipped} skipped")


main()
