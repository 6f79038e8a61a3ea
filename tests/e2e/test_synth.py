"""Random weights of a geometry: the same bytes for the same seed, sane numbers, and they run."""
import json

import numpy as np
import pytest

from conftest import FIXTURES, chipline, generate, ok, refuses

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


def run(config, fmt, tmp_path):
    """Logits neither vanish nor explode."""
    model = synth(config, tmp_path / "m.h5", "--format", fmt)
    row = generate(model, "--tokens", "5,6,7,8,9", "-n", 3, "--ignore-eos", "--logits", tmp_path / "l.npy")
    logits = np.load(tmp_path / "l.npy")
    assert len(row["tokens"]) == 3 and np.isfinite(logits).all() and 0.2 < logits.std() < 20
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs(name, tmp_path):
    run(FIXTURES / name / "config.json", "fp8", tmp_path)


@pytest.mark.parametrize("fmt", ["keep", "f16", "bf16", "q8_0", "q4_0", "q4_1", "mxfp4", "int4", "fp8"])
def test_every_format_runs(fmt, tmp_path):
    ok("verify", run(FIXTURES / "deepseek_v3" / "config.json", fmt, tmp_path))


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
