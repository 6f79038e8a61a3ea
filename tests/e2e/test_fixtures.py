"""Every tiny checkpoint gives transformers' logits and greedy tokens, from every source and on 1 to 4 ranks."""
import json
import shutil

import h5py
import numpy as np
import pytest

from conftest import FIXTURES, generate, golden, ids, ok

MODELS = sorted(p.parent.name for p in FIXTURES.glob("*/golden.json") if (p.parent / "config.json").exists())
GGUF = sorted(str(p.relative_to(FIXTURES)) for p in FIXTURES.glob("*/*.gguf") if p.parent.name != "quant"
              and "-00002-of" not in p.name)
# quantised checkpoints: as what
STORED = {name: json.loads((FIXTURES / name / "golden.json").read_text()).get("stored") for name in MODELS}
PLAIN = [name for name in MODELS if not STORED[name]]
PAIRS = [path for path in GGUF if (FIXTURES / path.split("/")[0] / "model.safetensors").exists()]
QUANT = sorted(p.stem[len("model_"):] for p in (FIXTURES / "quant").glob("model_*.gguf"))


def layers(model_file):
    return len(json.loads(ok("inspect", model_file, "--json").stdout)["layers"])


def check(model, gold, want, work, ranks, *options):
    """Logits of prompt and continuation within 1e-4 of their standard deviation, the same greedy ids."""
    path = work / "logits.npy"
    row = generate(model, "--tokens", ids(gold["prompt"]), "-n", len(gold["greedy"]), "--ignore-eos", "--activations",
                   "f32", "--logits", path,
                   "--digest", "--threads", 1, *options, ranks=ranks)
    assert row["tokens"] == gold["greedy"]
    got = np.load(path)
    path.unlink()
    assert got.shape == want.shape and got.dtype == np.float32
    assert np.abs(got - want).max() < 1e-4 * gold["logits_std"]
    return row["logits_xxh3"]


def contents(model):
    """Root checksum (spec and tensors), and every tensor's shape, format and checksum."""
    with h5py.File(model) as f:
        return f.attrs["checksum"], {name: (*t.attrs["shape"], t.attrs["format"], t.attrs["xxh3"]) for name,
                                     t in f["tensors"].items()}


def test_all_are_there():
    assert len(MODELS) >= 27 and len(GGUF) >= 14 and len(QUANT) >= 6 and set(STORED.values()) == {None, "mxfp4", "fp8",
                                                                                                  "int4"}


@pytest.mark.parametrize("name", MODELS)
def test_checkpoint_on_all_ranks(name, convert, work):
    gold, want = golden(name)
    model = convert(FIXTURES / name)
    digests = {check(model, gold, want, work, ranks) for ranks in range(1, min(4, layers(model)) + 1)}
    digests.add(check(model, gold, want, work, None, "--chunk", 3, "--kernels", "reference"))
    digests.add(check(model, gold, want, work, None, "--chunk", 1))
    assert len(digests) == 1


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_the_main_models(name, convert):
    """Neither layers that predict further tokens nor other modalities' towers become layers."""
    config = json.loads((FIXTURES / name / "config.json").read_text())
    assert layers(convert(FIXTURES / name)) == config.get("text_config", config)["num_hidden_layers"]


@pytest.mark.parametrize("name", PLAIN)
def test_hub_dialect_is_the_same_model(name, convert, tmp_path):
    for f in (FIXTURES / name).iterdir():
        if f.name.startswith("model") and f.suffix in (".safetensors", ".json"):
            shutil.copy(f, tmp_path)
    shutil.copy(FIXTURES / name / "config_hub.json", tmp_path / "config.json")
    a, b = convert(FIXTURES / name), convert(tmp_path)
    assert json.loads(ok("inspect", a, "--json").stdout)["layers"] == json.loads(ok("inspect", b,
                                                                                    "--json").stdout)["layers"]
    assert contents(a) == contents(b)


@pytest.mark.parametrize("path", GGUF)
def test_gguf(path, convert, work):
    gold, want = golden(path.split("/")[0])
    check(convert(FIXTURES / path), gold, want, work, None)


@pytest.mark.parametrize("path", PAIRS)
def test_gguf_holds_the_same_tensors(path, convert):
    """Renamed, permuted, split and fused as both containers do, every canonical tensor has the same bits. (Routers of
    quantised checkpoints are bf16 there and float32 in GGUF.)"""
    name = path.split("/")[0]
    a, b = contents(convert(FIXTURES / name))[1], contents(convert(FIXTURES / path))[1]
    if STORED[name]:
        routers = [t for t in a if t.endswith("router.weight")]
        assert routers and [a.pop(t)[:-2] for t in routers] == [b.pop(t)[:-2] for t in routers]
    assert a == b


@pytest.mark.parametrize("name", [n for n in MODELS if STORED[n]])
def test_quantised_checkpoint(name, convert, work):
    """Matrices keep the checkpoint's format (its float32 arithmetic is held to 1e-4 above). With 8-bit activations: the
    error of the positions' logits. FP8 weights take float32 ones, so that only the cache's bf16 shows. (A position
    where another expert is chosen is far off; the median is not.)"""
    gold, want = golden(name)
    model, kind = convert(FIXTURES / name), STORED[name]
    experts = [f for n, (*_, f, _) in contents(model)[1].items() if ".experts." in n and n.endswith("weight")]
    assert experts and set(experts) == {kind.encode() if isinstance(experts[0], bytes) else kind}
    path = work / "logits.npy"
    generate(model, "--tokens", ids(gold["prompt"] + gold["greedy"][:-1]), "-n", 1, "--ignore-eos", "--activations",
             "q8",
             "--logits", path)
    rows = np.sqrt(((np.load(path) - want) ** 2).mean(1)) / want.std()
    error, middle = np.sqrt((rows ** 2).mean()), np.median(rows)
    print(f"{name}: 8-bit activations with {kind} weights move the logits by {error:.4f} (median position {middle:.4f}) of their deviation")
    assert 1e-6 < error < 0.2 and middle < (0.01 if kind == "fp8" else 0.03)


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
