"""Every tiny checkpoint gives transformers' logits and greedy tokens, from every source and on 1 to 4 ranks."""
import json
import shutil

import numpy as np
import pytest

from conftest import FIXTURES, generate, golden, ids, ok

MODELS = sorted(p.parent.name for p in FIXTURES.glob("*/golden.json") if (p.parent / "config.json").exists())
GGUF = sorted(str(p.relative_to(FIXTURES)) for p in FIXTURES.glob("*/*.gguf") if p.parent.name != "quant" and "-00002-of" not in p.name)
QUANT = sorted(p.stem[len("model_"):] for p in (FIXTURES / "quant").glob("model_*.gguf"))


def layers(model_file):
    return len(json.loads(ok("inspect", model_file, "--json").stdout)["layers"])


def check(model, gold, want, work, ranks, *options):
    """Logits of prompt and continuation within 1e-4 of their standard deviation, the same greedy ids."""
    path = work / "logits.npy"
    row = generate(model, "--tokens", ids(gold["prompt"]), "-n", len(gold["greedy"]), "--ignore-eos", "--activations", "f32", "--logits", path,
                   "--digest", "--threads", 1, *options, ranks=ranks)
    assert row["tokens"] == gold["greedy"]
    got = np.load(path)
    path.unlink()
    assert got.shape == want.shape and got.dtype == np.float32
    assert np.abs(got - want).max() < 1e-4 * gold["logits_std"]
    return row["logits_xxh3"]


def test_all_are_there():
    assert len(MODELS) >= 11 and len(GGUF) >= 7 and len(QUANT) >= 6


@pytest.mark.parametrize("name", MODELS)
def test_checkpoint_on_all_ranks(name, convert, work):
    gold, want = golden(name)
    model = convert(FIXTURES / name)
    digests = {check(model, gold, want, work, ranks) for ranks in range(1, min(4, layers(model)) + 1)}
    digests.add(check(model, gold, want, work, None, "--chunk", 3, "--kernels", "reference"))
    assert len(digests) == 1


@pytest.mark.parametrize("name", MODELS)
def test_hub_dialect_is_the_same_model(name, convert, work, tmp_path):
    for f in (FIXTURES / name).iterdir():
        if f.name.startswith("model") and f.suffix in (".safetensors", ".json"):
            shutil.copy(f, tmp_path)
    shutil.copy(FIXTURES / name / "config_hub.json", tmp_path / "config.json")
    a = json.loads(ok("inspect", convert(FIXTURES / name), "--json").stdout)
    b = json.loads(ok("inspect", convert(tmp_path), "--json").stdout)
    assert a["layers"] == b["layers"] and a["parameters"] == b["parameters"]
    gold, want = golden(name)
    check(convert(tmp_path), gold, want, work, None)


@pytest.mark.parametrize("path", GGUF)
def test_gguf(path, convert, work):
    gold, want = golden(path.split("/")[0])
    check(convert(FIXTURES / path), gold, want, work, None)


@pytest.mark.parametrize("kind", QUANT)
def test_quantised_gguf(kind, convert, work):
    """Native formats are computed as they are; K-quants are re-encoded to Q8_0, so they agree only within its error."""
    folder = FIXTURES / "quant"
    gold = json.loads((folder / f"golden_{kind}.json").read_text())
    want = np.load(folder / f"logits_{kind}.npy")
    model = convert(folder / f"model_{kind}.gguf")
    path = work / "logits.npy"
    generate(model, "--tokens", ids(gold["prompt"]), "-n", 1, "--ignore-eos", "--activations", "f32", "--logits", path)
    got = np.load(path)
    std = want.std()
    exact = kind in ("Q8_0", "Q4_0", "Q4_1", "MXFP4")
    assert np.abs(got - want).max() < (1e-4 if exact else 0.15) * std
    generate(model, "--tokens", ids(gold["prompt"]), "-n", 1, "--ignore-eos", "--logits", path)
    error = np.sqrt(((np.load(path) - want) ** 2).mean()) / std
    assert 1e-6 < error < 0.1, f"8-bit activations: {error:.4f} of the logits' standard deviation"
