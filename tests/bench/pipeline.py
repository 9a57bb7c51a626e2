#!/usr/bin/env python3
"""The whole pipeline side by side: the reference in PyTorch (tests/oracle/refpipe.py) and troupe, same machine, same
checkpoint (`bench` dims, random weights), same picture, sound and noise; alternating, so that a noisy neighbour hits both.

    tests/bench/pipeline.py [--rounds 2] [--build build] [--work DIR] [--steps 10] [--size 128] [--frames 30]

The whole picture is the face for both (the reference picks another one where there are several). Needs AVATAR_REF (a
checkout of the reference at fd59436af88e) and the network once, for its own venv. Prints seconds per stage, the ratio, peak
memory and the PSNR between the two programs' frames (before H.264). A second row runs bf16 weights.
"""
import argparse
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ORACLE = os.path.join(ROOT, "tests", "oracle")
GOLDEN = os.path.join(ROOT, "tests", "data", "golden")
STAGES = ("condition", "denoise", "decode")
PEER = {"condition": ("image", "face", "audio", "text", "vae_encode"), "denoise": ("denoise",), "decode": ("vae_decode",)}


def venv(work):
    python = os.environ.get("ORACLE_PYTHON")
    if python:
        return python
    folder = os.path.join(work, "venv")
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        print("making a venv with PyTorch (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", os.path.join(ORACLE, "requirements.txt")], check=True)
    return python


def checkpoint(python, work):
    ckpts = os.path.join(work, "ckpts")
    if not os.path.exists(os.path.join(ckpts, "whisper-tiny")):
        subprocess.run([python, os.path.join(ORACLE, "make_tiny.py"), "--dims", "bench", "--ckpts", ckpts], check=True, cwd=ORACLE)
        for name in ("llava_llama_image", "text_encoder_2", "det_align", "whisper-tiny"):
            subprocess.run(["cp", "-r", os.path.join(GOLDEN, "tiny", "ckpts", name), ckpts], check=True)
    return ckpts


def noise(python, work, o):
    """Same noise for both; L = 65 latents are drawn, of which 33 are used."""
    path = os.path.join(work, f"noise_{o.size}.safetensors")
    code = ("import sys,torch; from PIL import Image; from safetensors.torch import save_file\n"
            "w,h=map(int,sys.argv[2:4]); g=torch.Generator().manual_seed(7)\n"
            "save_file({'noise':torch.randn(1,16,65,h//8,w//8,generator=g),'vae_noise':torch.randn(1,16,33,h//8,w//8,generator=g)},sys.argv[1])")
    subprocess.run([python, "-c", code, path, str(o.width), str(o.height)], check=True)
    return path


def run_reference(python, ckpts, noise_file, work, o):
    out = os.path.join(work, "reference")
    before = time.perf_counter()
    p = subprocess.Popen([python, os.path.join(ORACLE, "refpipe.py"), "--ckpts", ckpts, "--image", o.image, "--audio", o.audio,
                          "--size", str(o.size), "--steps", str(o.steps), "--max-frames", str(o.frames), "--noise", noise_file,
                          "--round", "f32", "--no-face", "--out", out], cwd=ORACLE, stdout=subprocess.DEVNULL,
                         stderr=open(os.path.join(work, "reference.log"), "w"))
    _, status, usage = os.wait4(p.pid, 0)
    if status:
        sys.exit("refpipe failed")
    with open(os.path.join(out, "times.json"), encoding="ascii") as f:
        t = json.load(f)["seconds"]
    row = {s: sum(t.get(k, 0) for k in PEER[s]) for s in STAGES}
    return row | {"load": t["load"], "wall": time.perf_counter() - before, "rss": usage.ru_maxrss * 1024}


def run_troupe(build, ckpts, noise_file, work, o, precision, dump=None):
    before = time.perf_counter()
    command = [os.path.join(build, "cli", "troupe"), "run", "--json", "--ckpts", ckpts, "--image", o.image, "--audio", o.audio,
               "--size", str(o.size), "--steps", str(o.steps), "--frames", str(o.frames), "--noise", noise_file,
               "--precision", precision, "--round", "f32", "--face", "none", "--prompt", "A person talks to the camera.", "--out", os.path.join(work, "troupe.mp4")]
    if dump:
        command += ["--dump", dump]
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if p.returncode:
        sys.exit("troupe run failed: " + p.stdout)
    report = json.loads(p.stdout)["report"]
    t = report["stage_seconds"]
    return {s: t[s] for s in STAGES} | {"load": t.get("load", 0), "wall": time.perf_counter() - before,
                                       "rss": report["peak_rss_bytes"]}


def psnr(python, work, dump):
    code = ("import sys,numpy as np; from safetensors.numpy import load_file\n"
            "a=np.load(sys.argv[1]).astype(float); b=load_file(sys.argv[2])['out.frames'].astype(float)\n"
            "n=min(len(a),len(b)); e=((a[:n]-b[:n])**2).mean(); print('%.1f dB over %d frames, largest difference %d of 255'%("
            "99 if e==0 else 10*np.log10(255**2/e),n,abs(a[:n]-b[:n]).max()))")
    return subprocess.run([python, "-c", code, os.path.join(work, "reference", "frames.npy"), dump], check=True, capture_output=True,
                          text=True).stdout.strip()


def best(rows):
    return {k: min(r[k] for r in rows) for k in rows[0]}


def show(name, row, peer=None):
    total = sum(row[s] for s in STAGES)
    line = f"{name:22}" + "".join(f"{row[s]:11.2f}" for s in STAGES) + f"{total:10.2f}{row['load']:8.2f}{row['wall']:9.2f}{row['rss'] / 2**20:9.0f}"
    if peer:
        line += f"   {sum(peer[s] for s in STAGES) / total:6.2f}x, denoise {peer['denoise'] / row['denoise']:.2f}x"
    print(line, flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--work", default=os.path.join(ROOT, "build", "bench"))
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--frames", type=int, default=30)
    p.add_argument("--image", default=os.path.join(GOLDEN, "samples", "face.png"))
    p.add_argument("--audio", default=os.path.join(GOLDEN, "samples", "speech.wav"))
    o = p.parse_args()
    if "AVATAR_REF" not in os.environ:
        sys.exit("set AVATAR_REF to a checkout of the reference at commit fd59436af88e (tests/oracle/README.md)")
    os.makedirs(o.work, exist_ok=True)
    python = venv(o.work)
    ckpts = checkpoint(python, o.work)
    size = subprocess.run([python, "-c", "import sys; from PIL import Image; print(*Image.open(sys.argv[1]).size)", o.image],
                          check=True, capture_output=True, text=True).stdout.split()
    w, h = map(int, size)
    s = o.size / min(w, h)
    o.width, o.height = round(w * s / 64) * 64, round(h * s / 64) * 64
    if o.width * o.height > o.size * 1.5 * o.size:
        s = (o.size * 1.5 * o.size / w / h) ** 0.5
        o.width, o.height = round(w * s / 64) * 64, round(h * s / 64) * 64
    file = noise(python, o.work, o)
    rows = {"reference (PyTorch)": [], "troupe f32": [], "troupe bf16": []}
    print(f"{o.width}x{o.height}, {o.steps} steps, {o.frames} frames, {os.cpu_count()} cores; best of {o.rounds}; load in load: "
          f"{os.getloadavg()[0]:.1f}")
    for i in range(o.rounds):
        rows["reference (PyTorch)"].append(run_reference(python, ckpts, file, o.work, o))
        for precision in ("f32", "bf16"):
            rows["troupe " + precision].append(run_troupe(o.build, ckpts, file, o.work, o, precision))
    dump = os.path.join(o.work, "dump.safetensors")
    run_troupe(o.build, ckpts, file, o.work, o, "f32", dump)
    print(f"{'seconds':22}" + "".join(f"{s:>11}" for s in STAGES) + f"{'sum':>10}{'load':>8}{'wall':>9}{'MiB':>9}")
    peer = best(rows["reference (PyTorch)"])
    for name, r in rows.items():
        show(name, best(r), peer if name != "reference (PyTorch)" else None)
    print("frames, f32 against the reference: " + psnr(python, o.work, dump))


main()
