#!/usr/bin/env python3
"""Writes ref_vectors.h: small inputs and outputs of every op that has a formula, from PyTorch in float64.

    python3 make_ref_vectors.py > ref_vectors.h        (needs torch; seeded, the same numbers every time)

test_ref.c feeds the inputs to the reference table. Nothing here knows how that table computes.
"""
import math

import torch
import torch.nn.functional as F

torch.manual_seed(20)
out = []


def emit(name, t):
    a = t.to(torch.float32)
    body = [f"{v:.9g}" for v in a.reshape(-1).tolist()]
    body = [b if any(c in b for c in ".ein") else b + ".0" for b in body]
    lines, line = [], "   "
    for b in body:
        if len(line) + len(b) + 3 > 108:
            lines.append(line)
            line = "   "
        line += f" {b}f,"
    lines.append(line)
    out.append(f"/* {list(a.shape)} */\nstatic const float {name}[] = {{\n" + "\n".join(lines) + "\n};")


def rand(*shape):
    """Numbers with few digits that f32 holds exactly, so that both sides start from the same."""
    return (torch.randn(*shape) * 32).round().to(torch.float64) / 32


def rounded(t, dtype):
    return t.to(dtype).to(torch.float64)


x = rand(5, 7)
w, b = rand(3, 7), rand(3)
emit("lin_x", x), emit("lin_w", w), emit("lin_b", b)
lin = F.linear(x, w, b)
for name, f in [("none", lambda v: v), ("relu", F.relu), ("silu", F.silu),
                ("gelu_tanh", lambda v: F.gelu(v, approximate="tanh")), ("gelu_erf", F.gelu),
                ("quick", lambda v: v * torch.sigmoid(1.702 * v)), ("sigmoid", torch.sigmoid)]:
    emit("lin_" + name, f(lin))
emit("lin_bf16", F.linear(x, rounded(w, torch.bfloat16), b))
emit("lin_f16", F.linear(x, rounded(w, torch.float16), b))
gate, acc = rand(3), rand(5, 3)
emit("lin_gate", gate), emit("lin_acc", acc), emit("lin_add", acc + gate * lin)

nw, nb, sh = rand(7), rand(7), rand(7)
emit("norm_w", nw), emit("norm_b", nb), emit("norm_shift", sh)
emit("norm_layer", F.layer_norm(x, (7,), nw, nb, 1e-5))
emit("norm_mod", F.layer_norm(x, (7,), None, None, 1e-6) * (1 + nw) + sh)
emit("norm_rms", x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * nw)

g = rand(1, 6, 2, 3, 2)  # N C T H W
gw, gb, gm, gv = rand(6), rand(6), rand(6), rand(6).abs()
last = lambda t: t[0].permute(1, 2, 3, 0).contiguous()
emit("grp_x", last(g)), emit("grp_w", gw), emit("grp_b", gb), emit("grp_mean", gm), emit("grp_var", gv)
emit("grp_y", F.silu(last(F.group_norm(g, 3, gw, gb, 1e-6))))
emit("bat_y", F.relu(last(F.batch_norm(g, gm, gv, gw, gb, False, 0, 1e-3))))

q, k, v = rand(2, 4, 4, 6), rand(2, 6, 2, 6), rand(2, 6, 2, 6)  # B S H D
mask = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0]]).bool()
emit("att_q", q), emit("att_k", k), emit("att_v", v)


def attention(q, k, v, scale, allowed=None):
    q, k, v = (t.permute(0, 2, 1, 3) for t in (q, k, v))
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    s = q @ k.transpose(-1, -2) * scale
    if allowed is not None:
        s = s.masked_fill(~allowed, float("-inf"))
    return (s.softmax(-1) @ v).permute(0, 2, 1, 3).contiguous()


emit("att_full", attention(q, k, v, 0.4))
emit("att_causal", attention(q, k, v, 0.4, torch.ones(4, 6, dtype=torch.bool).tril(2)))
emit("att_mask", attention(q, k, v, 0.4, mask))
i = torch.arange(6)
emit("att_block", attention(k, k, v, 0.4, (i // 4)[None, :] <= (i // 4)[:, None]))

# Rope: a 2 x 2 x 3 grid, widths 2, 4, 2; one frame before 0.
pos = torch.tensor([(t, y, x) for t in (-1, 0) for y in range(2) for x in range(3)]).double()
steps = [256.0 ** (-torch.arange(0, d, 2).double() / d) for d in (2, 4, 2)]
ang = torch.cat([pos[:, a:a + 1] * s for a, s in enumerate(steps)], 1)
emit("rope_cos", ang.cos()), emit("rope_sin", ang.sin())
rx, rw = rand(14, 2, 8), rand(8)
n = rx / torch.sqrt((rx * rx).mean(-1, keepdim=True) + 1e-6) * rw
turned = torch.view_as_complex(n[:12].reshape(12, 2, 4, 2)) * torch.polar(torch.ones_like(ang), ang)[:, None]
emit("rope_x", rx), emit("rope_w", rw)
emit("rope_y", torch.cat([torch.view_as_real(turned).reshape(12, 2, 8), n[12:]]))
p = torch.arange(14).double() * 3
ha = p[:, None] * 10000.0 ** (-torch.arange(0, 8, 2).double() / 8)
c, s = (torch.cat([f(ha)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
emit("halves_y", rx * c + torch.cat([-rx[..., 4:], rx[..., :4]], -1) * s)

cx = rand(1, 4, 3, 5, 4)
emit("conv_x", last(cx))
for name, co, groups, k3, stride, pad, mode in [
        ("causal", 3, 1, (3, 3, 3), (2, 2, 2), (1, 1, 1, 1, 2, 0), "replicate"),
        ("zero", 2, 2, (1, 3, 2), (1, 2, 1), (1, 0, 1, 1, 0, 0), "constant"),
        ("depth", 4, 4, (1, 3, 3), (1, 1, 2), (1, 1, 1, 1, 0, 0), "constant"),
        ("one", 5, 1, (1, 1, 1), (1, 1, 1), (0,) * 6, "constant")]:
    cw, cb = rand(co, 4 // groups, *k3), rand(co)
    emit(f"conv_{name}_w", cw), emit(f"conv_{name}_b", cb)
    emit(f"conv_{name}_y", F.silu(last(F.conv3d(F.pad(cx, pad, mode=mode), cw, cb, stride, 0, 1, groups))))

px = rand(2, 3, 6, 7)  # T C H W as a batch of pictures
emit("pool_x", px.permute(0, 2, 3, 1).contiguous())
for name, args in [("floor", (3, 2, 1, 1, False)), ("ceil", (3, 2, 0, 1, True)), ("ceil2", (2, 2, 0, 1, True)),
                   ("ceil3", (2, 2, 1, 1, True))]:
    emit(f"pool_{name}", F.max_pool2d(px, *args).permute(0, 2, 3, 1).contiguous())

t = torch.tensor([0.0, 999.5, 123.456])
freq = torch.exp(-math.log(10000) * torch.arange(4, dtype=torch.float32) / 4)
arg = t[:, None] * freq[None]
emit("time_y", torch.cat([arg.cos(), arg.sin()], -1))

big = rand(1, 1, 16, 16)
emit("mask_x", big[0, 0]), emit("mask_y", F.interpolate(big, (2, 2), mode="bilinear", align_corners=False)[0, 0])

lv = torch.tensor([-40.0, -30.5, -2.0, 0.0, 3.0, 50.0]).double()
gm2, gn = rand(6), rand(6)
emit("gauss_mean", gm2), emit("gauss_logvar", lv), emit("gauss_noise", gn)
emit("gauss_y", 0.476986 * (gm2 + torch.exp(lv.clamp(-30, 20) / 2) * gn))

wave = rand(480) / 8 + (torch.sin(torch.arange(480) * 0.3) * 8).round().double() / 8
filters = rand(2, 201).abs()
power = torch.stft(wave, 400, 160, window=torch.hann_window(400, dtype=torch.float64), return_complex=True)[:, :-1].abs() ** 2
mel = (filters @ power).clamp(min=1e-10).log10()
emit("mel_wave", wave), emit("mel_filters", filters), emit("mel_y", ((torch.maximum(mel, mel.max() - 8) + 4) / 4).T)

print("/* ref_vectors.h -- written by make_ref_vectors.py; do not edit. */")
print("#ifndef TESTS_UNIT_REF_VECTORS_H\n#define TESTS_UNIT_REF_VECTORS_H\n")
print("\n".join(out))
print("\n#endif")
