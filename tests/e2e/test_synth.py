"""Random weights of a geometry: the same bytes for the same seed, sane numbers, and they run."""
import json
import os
import re
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest

from conftest import ALL, ENV, FIXTURES, ROOT, chipline, command, generate, hear_signals, ids, ok, refuses

VARIANT = r"_([bc]|fp8|int4|mxfp4|clip)$"  # of a family that is there under another name
FAMILIES = sorted(p.parent.name for p in FIXTURES.glob("*/config.json"))


def synth(config, out, *options):
    ok("synth", config, "-o", out, "--quiet", *options)
    return out


def checksum(model):
    return json.loads(ok("inspect", model, "--json").stdout)["checksum"]


def test_seed_and_jobs(tmp_path):
    config = FIXTURES / "qwen3_moe" / "config.json"
    one = checksum(synth(config, tmp_path / "a.h5", "--format", "q8_0", "--seed", 5, "--jobs", 1))
    assert one == checksum(synth(config, tmp_path / "b.h5", "--format", "q8_0", "--seed", 5, "--jobs", 3))
    assert one != checksum(synth(config, tmp_path / "c.h5", "--format", "q8_0", "--seed", 6))


def test_same_bytes(tmp_path):
    """Whole files, whenever they are made."""
    config = FIXTURES / "deepseek_v3" / "config.json"
    one = synth(config, tmp_path / "a.h5", "--format", "fp8").read_bytes()
    time.sleep(1.1)  # HDF5 counts seconds
    assert one == synth(config, tmp_path / "b.h5", "--format", "fp8").read_bytes()


def large(tmp_path, layers):
    config = json.loads((ROOT / "configs" / "models" / "kimi-k2.json").read_text())
    path = tmp_path / "large.json"
    path.write_text(json.dumps(config | {"num_hidden_layers": layers}))
    return path


def test_disk_too_small(tmp_path):
    disk = os.statvfs(tmp_path)
    config = large(tmp_path, 4000)
    if disk.f_bavail * disk.f_frsize > 2**47:
        pytest.skip("a disk without limits")
    line = refuses(4, "synth", config, "-o", tmp_path / "m.h5", "--format", "f32", "--quiet", timeout=20)
    assert "needs 2" in line and "TB, and its disk has" in line
    assert [p.name for p in tmp_path.iterdir()] == ["large.json"]


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_by_a_signal(sig, tmp_path):
    """What was written so far goes; the program says so once."""
    out = tmp_path / "m.h5"
    out.write_text("an earlier file")
    p = subprocess.Popen(command("synth", ROOT / "configs" / "models" / "olmoe-1b-7b.json", "-o", out, "--format",
                                 "q4_0", "--jobs", 1, "--quiet"), env=ENV, preexec_fn=hear_signals,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.time() + 30
    while time.time() < end and not any(f.stat().st_size > 1 << 20 for f in tmp_path.glob("m.h5.*.part")):
        time.sleep(0.02)
    assert p.poll() is None
    p.send_signal(sig)
    err = p.communicate(timeout=30)[1]
    assert p.returncode == 1 and err == f"chipline: {out}: stopped by a signal, nothing was written\n"
    assert [f.name for f in tmp_path.iterdir()] == ["m.h5"] and out.read_text() == "an earlier file"


def run(config, fmt, tmp_path):
    """Logits neither vanish nor explode."""
    model = synth(config, tmp_path / "m.h5", "--format", fmt)
    row = generate(model, "--tokens", "5,6,7,8,9", "-n", 3, "--ignore-eos", "--logits", tmp_path / "l.npy")
    logits = np.load(tmp_path / "l.npy")
    assert len(row["tokens"]) == 3 and np.isfinite(logits).all() and 0.2 < logits.std() < 20
    return model


@pytest.mark.parametrize("name", FAMILIES if ALL else [n for n in FAMILIES if not re.search(VARIANT, n)])
def test_every_family_runs(name, tmp_path):
    run(FIXTURES / name / "config.json", "fp8", tmp_path)


@pytest.mark.parametrize("fmt", ["keep", "f16", "bf16", "q8_0", "q4_0", "q4_1", "mxfp4", "int4", "fp8"])
def test_every_format_runs(fmt, tmp_path):
    ok("verify", run(FIXTURES / "deepseek_v3" / "config.json", fmt, tmp_path))


def test_spread_of_every_kind_of_weight(tmp_path):
    """Activations keep their variance: a product with n inputs has weights of 1 / sqrt(n); what is added to the stream,
    twice a layer, is smaller by the square root of how often that is; a gated unit's output has 1 / 1.6."""
    model = tmp_path / "m.h5"
    ok("synth", FIXTURES / "deepseek_v2_lite" / "config.json", "-f", "f32", "-o", model, "--quiet")
    met = set()
    with h5py.File(model) as f:
        n_layers = len({name.split(".")[1] for name in f["tensors"] if name.startswith("layers.")})
        for name, t in f["tensors"].items():
            role = name.removesuffix(".weight").split(".", 2)[-1] if name.startswith("layers.") else name
            x = t[()].view(np.float32)
            n = t.shape[1] // 4 if len(t.shape) == 2 else t.shape[2] // 4
            branch = (2 * n_layers) ** -0.5
            want = {"attn.o": branch, "ffn.down": 1.6 * branch, "ffn.experts.down": 1.6 * branch, "ffn.router": 2,
                    "ffn.shared.down": 1.6 * branch, "head.weight": 2, "embed.weight": n ** 0.5}.get(role, 1)
            if "norm" in role or role == "attn.k_b":
                continue
            met.add(role)
            assert x.std() == pytest.approx(want * n ** -0.5, rel=4 * x.size ** -0.5), (name, x.std())
            assert abs(x.mean()) < 5 * x.std() * x.size ** -0.5, name
    assert {"attn.o", "ffn.down", "ffn.experts.down", "ffn.shared.down", "ffn.router", "head.weight"} < met


def test_refused(tmp_path):
    bad = json.loads((FIXTURES / "mixtral" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(bad | {"num_local_experts": 0}))
    refuses(3, "synth", tmp_path, "-o", tmp_path / "m.h5", says="num_local_experts")
    refuses(2, "synth", FIXTURES / "mixtral" / "config.json", "-o", tmp_path / "m.h5", "--format", "fp9", says="fp9")
    refuses(2, "synth", FIXTURES / "mixtral" / "config.json", says="-o")
    assert not list(tmp_path.glob("m.h5*"))


def test_prompts_need_ids(tmp_path):
    model = synth(FIXTURES / "llama_b" / "config.json", tmp_path / "m.h5")
    refuses(3, "run", model, "-p", "hello", "--quiet")
    assert chipline("inspect", model).returncode == 0
    ask = ("--tokens", "5,6", "-n", 3, "--ignore-eos")  # the reply is ids too
    assert ok("run", model, *ask, "--quiet").stdout == ids(generate(model, *ask)["tokens"]) + "\n"
