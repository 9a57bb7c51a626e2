#!/usr/bin/env python3
"""embed.py NAME FILE OUT -- writes a C file that holds FILE's bytes as NAME and their number as NAME_len."""
import sys


def main(name, source, out):
    with open(source, "rb") as f:
        data = f.read()
    with open(out, "w", encoding="ascii") as f:
        f.write('#include "worker/model/avatar_full.h"\n\n')
        f.write(f"const size_t {name}_len = {len(data)};\nconst unsigned char {name}[] = {{\n")
        for i in range(0, len(data), 24):
            f.write(",".join(map(str, data[i:i + 24])) + ",\n")
        f.write("};\n")


main(*sys.argv[1:])
