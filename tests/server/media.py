"""Pictures and sounds for the tests, made on the spot with the standard library (and ffmpeg for other containers)."""
import io
import math
import struct
import subprocess
import wave
import zlib


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width=64, height=64, color=2, depth=8, pixel=None, claim=None):
    """A PNG. color: 0 grey, 2 RGB, 4 grey+alpha, 6 RGBA; pixel(x, y) -> samples; claim: (w, h) of a lying header."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    top = (1 << depth) - 1
    pixel = pixel or (lambda x, y: [(x * 5 + y * 3 + 40 * c) % (top + 1) for c in range(samples)])
    rows = b""
    for y in range(height):
        rows += b"\0" + b"".join(struct.pack(">H" if depth == 16 else "B", v) for x in range(width) for v in pixel(x, y))
    w, h = claim or (width, height)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, color, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def wav(seconds=1.0, rate=16000, channels=1, hz=220.0):
    n = int(seconds * rate)
    out = io.BytesIO()
    with wave.open(out, "wb") as w:
        w.setnchannels(channels)
        w.setsampwidth(2)
        w.setframerate(rate)
        one = [int(12000 * math.sin(2 * math.pi * hz * i / rate)) for i in range(min(n, rate))]
        block = b"".join(struct.pack("<h", v) * channels for v in one)
        w.writeframes((block * (n // max(len(one), 1) + 1))[:n * 2 * channels])
    return out.getvalue()


def wav_float(values, rate=16000):
    body = struct.pack("<%df" % len(values), *values)
    fmt = struct.pack("<HHIIHH", 3, 1, rate, rate * 4, 4, 32)
    return (b"RIFF" + struct.pack("<I", 4 + 8 + len(fmt) + 8 + len(body)) + b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt +
            b"data" + struct.pack("<I", len(body)) + body)


def ffmpeg(*words, data=b"", suffix="-f", form="mp4"):
    p = subprocess.run(["ffmpeg", "-v", "error", *words, suffix, form, "pipe:1"], input=data, capture_output=True, check=True)
    return p.stdout


def convert(data, form, *words):
    """data through ffmpeg into another container or codec."""
    return ffmpeg("-i", "pipe:0", *words, data=data, form=form)
