#!/usr/bin/env python3
"""One step of the transformer side by side, same device, same run: plain PyTorch, then `troupe bench --step`.

    tests/bench/dit_step.py [--device cuda] [--size 704x768] [--build build | --bench WORDS] [--dims full|DIR] [--compile] [--json FILE]

PyTorch runs double and single blocks of the same widths with random weights (bf16 on a GPU, f32 on a CPU), written here as one would:
LayerNorm, modulation, one linear for q, k and v, RMS norm, rotary positions, scaled_dot_product_attention, gated residuals. One block of
each kind is timed (the median of repeats, device events on a GPU) and multiplied by their numbers, twice for the two guidance
rows. So PyTorch's figure has the blocks alone, troupe's the whole step with embeddings, adapters and final layer (0.3 % more work).
"eager" is PyTorch with its flash attention, "fastest" with whichever attention is fastest here, "compiled" that in torch.compile.

Exit code 0; 1 where a side failed; 2 where there is no PyTorch, or no such device.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
FULL = {"hidden": 3072, "heads": 24, "double": 20, "single": 40}
TEXT, LATENTS = 831, 33
# against which PyTorch, how many times as fast: good, best
GOALS = {"eager": (1.5, 1.75), "fastest": (1.0, 1.15), "compiled": (1.0, 1.15)}
GOAL_SECONDS = {"H200": 14.5, "H100": 14.5}
GOAL_SHARE = 0.70

sys.path[:] = [p for p in sys.path if os.path.abspath(p) != HERE]  # its queue.py is not Python's
try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("no PyTorch here: python3 -m pip install torch, or name a python that has it")
    sys.exit(2)


def backends():
    """Ways of attention that this PyTorch knows, by name."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:
        return {"its own choice": None}
    names = {"flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}
    return {name: (lambda kind=getattr(SDPBackend, attr): sdpa_kernel(kind)) for name, attr in names.items() if hasattr(SDPBackend, attr)}


class Way:
    """Attention by one backend."""

    def __init__(self, name, context):
        self.name, self.context = name, context

    def __call__(self, q, k, v):
        if self.context is None:
            return F.scaled_dot_product_attention(q, k, v)
        with self.context():
            return F.scaled_dot_product_attention(q, k, v)


class Block(torch.nn.Module):
    def __init__(self, d, attention):
        super().__init__()
        self.d, self.attention = d, attention
        self.width = d["hidden"]
        self.weights = torch.nn.Parameter(torch.ones(2, d["hidden"] // d["heads"]))

    def norm(self, x, shift, scale):
        return F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale) + shift

    def heads(self, qkv, cos, sin):
        """[S, 3H] to q, k, v [1, heads, S, D]; the first rows of q and k are turned by their positions."""
        S, n = qkv.shape[0], self.d["heads"]
        q, k, v = qkv.view(S, 3, n, -1).permute(1, 2, 0, 3)
        out = []
        for i, t in enumerate((q, k)):
            f = t.float()
            f = f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weights[i].float()
            if cos is not None:
                n_turned = cos.shape[0]
                a, b = f[:, :n_turned, 0::2], f[:, :n_turned, 1::2]
                turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
                f = turned if n_turned == S else torch.cat((turned, f[:, n_turned:]), 1)
            out.append(f.to(qkv.dtype))
        return out[0][None], out[1][None], v[None]

    def attend(self, q, k, v):
        return self.attention(q, k, v)[0].permute(1, 0, 2).reshape(q.shape[2], -1)


class Stream(torch.nn.Module):
    def __init__(self, H):
        super().__init__()
        self.qkv, self.proj = torch.nn.Linear(H, 3 * H), torch.nn.Linear(H, H)
        self.fc1, self.fc2, self.mod = torch.nn.Linear(H, 4 * H), torch.nn.Linear(4 * H, H), torch.nn.Linear(H, 6 * H)


class Double(Block):
    def __init__(self, d, attention):
        super().__init__(d, attention)
        self.img, self.txt = Stream(d["hidden"]), Stream(d["hidden"])

    def forward(self, x, vec, cos, sin, n_img):
        parts, mods, qkv = (x[:n_img], x[n_img:]), [], []
        for stream, part, turn in ((self.img, parts[0], True), (self.txt, parts[1], False)):
            mod = stream.mod(F.silu(vec)).chunk(6, -1)
            mods.append(mod)
            qkv.append(self.heads(stream.qkv(self.norm(part, mod[0], mod[1])), cos if turn else None, sin))
        o = self.attend(*(torch.cat((a, b), 2) for a, b in zip(*qkv)))
        out = []
        for stream, part, mod, rows in ((self.img, parts[0], mods[0], o[:n_img]), (self.txt, parts[1], mods[1], o[n_img:])):
            part = part + mod[2] * stream.proj(rows)
            h = F.gelu(stream.fc1(self.norm(part, mod[3], mod[4])), approximate="tanh")
            out.append(part + mod[5] * stream.fc2(h))
        return torch.cat(out)


class Single(Block):
    def __init__(self, d, attention):
        super().__init__(d, attention)
        H = d["hidden"]
        self.linear1, self.linear2, self.mod = torch.nn.Linear(H, 7 * H), torch.nn.Linear(5 * H, H), torch.nn.Linear(H, 3 * H)

    def forward(self, x, vec, cos, sin, n_img):
        shift, scale, gate = self.mod(F.silu(vec)).chunk(3, -1)
        qkv, mlp = self.linear1(self.norm(x, shift, scale)).split((3 * self.width, 4 * self.width), -1)
        o = self.attend(*self.heads(qkv, cos, sin))
        return x + gate * self.linear2(torch.cat((o, F.gelu(mlp, approximate="tanh")), -1))


class Clock:
    def __init__(self, device, repeats):
        self.cuda, self.repeats = device.startswith("cuda"), repeats

    def __call__(self, fn):
        """Median seconds of fn, and the spread of the middle half."""
        times = []
        fn()
        for _ in range(self.repeats):
            if self.cuda:
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                fn()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) / 1e3)
            else:
                start = time.perf_counter()
                fn()
                times.append(time.perf_counter() - start)
        middle = statistics.median(times)
        quarter = statistics.quantiles(times, n=4) if len(times) > 1 else [middle] * 3
        return middle, (quarter[2] - quarter[0]) / 2 / middle


def step_flops(d, S):
    """Of a guidance pair: linear layers 24 H^2 a token, attention 4 S^2 H, a block."""
    H = d["hidden"]
    return 2 * (d["double"] + d["single"]) * (24 * H * H * S + 4 * S * S * H)


def torch_step(d, device, dtype, n_img, n_txt, repeats, wanted):
    """{name: (seconds of a step, spread, how)}"""
    S, H, D = n_img + n_txt, d["hidden"], d["hidden"] // d["heads"]
    clock = Clock(device, repeats)
    torch.manual_seed(1)
    make = dict(device=device, dtype=dtype)
    x, vec = torch.randn(S, H, **make), torch.randn(1, H, **make)
    cos, sin = (torch.rand(n_img, D // 2, device=device) for _ in range(2))
    q = torch.randn(3, 1, d["heads"], S, D, **make)
    ways = {}
    for name, context in backends().items():
        try:
            way = Way(name, context)
            seconds, _ = clock(lambda: way(*q))
            ways[name] = (seconds, way)
            print("  attention, %-12s %10.2f ms  %8.1f TFLOP/s" % (name, seconds * 1e3, 4 * S * S * H / seconds / 1e12), flush=True)
        except RuntimeError as e:
            print("  attention, %-12s not here: %s" % (name, str(e).splitlines()[0][:90]), flush=True)
    del q
    if not ways:
        ways["its own choice"] = (0, Way("its own choice", None))
    fastest = min(ways.values(), key=lambda w: w[0])[1]
    plan = {"eager": ways["flash"][1] if "flash" in ways else fastest, "fastest": fastest}
    if "compiled" in wanted:
        plan["compiled"] = fastest
    out = {}
    for name, way in plan.items():
        if name == "fastest" and way is plan["eager"]:
            out[name] = out["eager"]
            continue
        total, spread = 0, 0
        for kind, n in ((Double, d["double"]), (Single, d["single"])):
            block = kind(d, way).to(device=device, dtype=dtype).eval()
            run = torch.compile(block) if name == "compiled" else block
            with torch.inference_mode():
                seconds, one = clock(lambda: run(x, vec, cos, sin, n_img))
            print("  %-9s %-7s block %10.2f ms  +- %.0f %%" % (name, kind.__name__.lower(), seconds * 1e3, one * 100), flush=True)
            total, spread = total + 2 * n * seconds, max(spread, one)
            del block, run
        out[name] = (total, spread, way.name)
    return out


def troupe_step(o, dims):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "step.json")
        words = o.bench.split() if o.bench else [os.path.join(o.build, "worker", "troupe-worker"), "bench"]
        words += ["--step", "--device", o.device, "--dims", dims, "--size", o.size, "--frames", "129", "--json", path]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=o.timeout)
        if done.returncode != 0:
            raise RuntimeError("troupe bench: exit code %d" % done.returncode)
        with open(path, encoding="utf-8") as f:
            return json.load(f)


def report(o, d, S, sides, ours):
    row = next(r for r in ours["step"]["rows"] if r["op"] == "full step" and r["where"] == "two texts")
    seconds, flops, peak = row["ms"] / 1e3, step_flops(d, S), ours["peak"]["tflops"] * 1e12
    print("\n%s, %s, driver %s, PyTorch %s, %d tokens\n" % (ours["device"], ours["precision"], ours["driver"] or "-", torch.__version__, S))
    print("| a full step, both rows | seconds | spread | TFLOP/s | of peak | troupe is | goal (good, best) |\n| --- | --- | --- | --- | --- | --- | --- |")
    ratios = {}
    for name, (total, spread, how) in sides.items():
        ratios[name] = total / seconds
        print("| PyTorch %s, %s attention, blocks alone | %.4g | %.0f %% | %.4g | %.0f %% | %.2f times as fast | %.2f, %.2f |"
              % (name, how, total, spread * 100, flops / total / 1e12, 100 * flops / total / peak, ratios[name], *GOALS[name]))
    limit = [s for chip, s in GOAL_SECONDS.items() if chip in ours["device"]]
    print("| troupe | %.4g | %.0f %% | %.4g | %.0f %% | | %.0f %% of peak%s |"
          % (seconds, row["spread"] * 100, row["tflops"], 100 * row["compute_share"], 100 * GOAL_SHARE, ", %.4g s" % limit[0] if limit else ""))
    if o.json:
        value = {"device": ours["device"], "torch": torch.__version__, "tokens": S, "ratios": ratios, "troupe": ours,
                 "pytorch": {k: {"seconds": v[0], "spread": v[1], "attention": v[2]} for k, v in sides.items()}}
        with open(o.json, "w", encoding="utf-8") as f:
            json.dump(value, f, indent=1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda")
    p.add_argument("--size", default="704x768")
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--bench", help="the words that begin `troupe bench`, instead of the build folder's worker")
    p.add_argument("--dims", default="full", help="full, or a folder of weights with dims.json")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--timeout", type=float, default=900, help="of troupe's side, in seconds")
    p.add_argument("--compile", action="store_true", help="torch.compile too (a minute more)")
    p.add_argument("--json", help="write the figures there")
    o = p.parse_args()
    if o.device.startswith("cuda") and not torch.cuda.is_available():
        print("PyTorch %s finds no GPU here" % torch.__version__)
        return 2
    d = FULL
    if o.dims != "full":
        with open(os.path.join(o.dims, "dims.json"), encoding="utf-8") as f:
            d = {k: v for k, v in json.load(f).items() if k in FULL}
    width, height = (int(n) for n in o.size.split("x"))
    n_img = (LATENTS + 1) * (width // 16) * (height // 16)
    dtype = torch.bfloat16 if o.device.startswith("cuda") else torch.float32
    print("PyTorch %s, %s, %s, %d tokens" % (torch.__version__, o.device, str(dtype)[6:], n_img + TEXT), flush=True)
    sides = torch_step(d, o.device, dtype, n_img, TEXT, o.repeats, ["compiled"] if o.compile else [])
    if o.device.startswith("cuda"):
        torch.cuda.empty_cache()
    try:
        ours = troupe_step(o, o.dims)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as e:
        print(e)
        return 1
    report(o, d, n_img + TEXT, sides, ours)
    return 0


if __name__ == "__main__":
    sys.exit(main())
