"""The same bits from every shape of the line: stages of one chip, stages as sets of chips, uneven ones, rows of all experts or whole
experts, lines side by side, by shared memory or by messages; with 1 and 2 threads, alone and in a batch, in one chunk and in many."""
import json

import pytest

from conftest import FIXTURES, generate, golden, ids, ok

MODELS = sorted(p.parent.name for p in FIXTURES.glob("*/golden.json") if (p.parent / "config.json").exists())
N = 10  # generated tokens

# ranks, least layers, options ("a+b": a layout file of stages with so many chips)
LAYOUTS = [(2, 1, "1x2"), (3, 1, "1x3"), (4, 1, "1x4"), (2, 2, "2x1"), (4, 2, "2x2"), (6, 3, "3x2"), (4, 4, "4x1"), (5, 2, "3+2"), (4, 2, "1+3")]
OTHERS = [(3, 1, "1x3", "--gather", "messages"), (4, 1, "1x2", "--replicas", 2), (4, 2, "2x1", "--replicas", 2)]
WHOLE = [(2, 1, "1x2", "--experts", "whole"), (4, 2, "2x2", "--experts", "whole", "--gather", "messages"), (4, 2, "3+1", "--experts", "whole")]


def layout_file(name, folder):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"stages": [{"chips": int(n)} for n in name.split("+")]}))
    return path


def rows(path):
    return {r["id"]: (r["tokens"], r["logits_xxh3"]) for r in map(json.loads, path.read_text().splitlines())}


def check(model, prompt, want, batch, n_layers, spec, turn, folder, *more):
    """Alone (chunks of 1, or all at once), or eight at a time."""
    ranks, least, layout, *options = spec
    if n_layers < least:
        return
    layout = layout_file(layout, folder) if "+" in layout else layout
    options = ["--layout", layout, *options, "--threads", 1 + turn % 2, "--ignore-eos", "--digest", "--context", 96, *more]
    if turn % 3:
        row = generate(model, "--tokens", ids(prompt), "-n", N, *options, "--chunk", 1 if turn % 3 == 1 else 64, ranks=ranks)
        assert (row["tokens"], row["logits_xxh3"]) == want["0"], spec
        return
    out = folder / "out.jsonl"
    ok("run", model, "--batch", batch, "--out", out, "--quiet", "--slots", 8, "--chunk", 7, *options, ranks=ranks)
    assert rows(out) == want, spec


def reference(model, prompt, folder, *more):
    """Eight requests, each alone on one chip: what every layout must give."""
    requests = [{"id": str(i), "tokens": prompt if i % 3 == 0 else prompt[: 2 + i], "max_tokens": N, "temperature": 0.9 * (i % 2), "top_k": 5 * (i % 4), "seed": i}
                for i in range(8)]
    batch, out = folder / "in.jsonl", folder / "alone.jsonl"
    batch.write_text("\n".join(map(json.dumps, requests)))
    ok("run", model, "--batch", batch, "--out", out, "--quiet", "--slots", 1, "--ignore-eos", "--digest", "--context", 96, "--threads", 1, *more)
    return rows(out), batch


@pytest.mark.parametrize("name", MODELS)
def test_matrix(name, convert, tmp_path):
    model = convert(FIXTURES / name)
    prompt = golden(name)[0]["prompt"]
    layers = json.loads(ok("inspect", model, "--json").stdout)["layers"]
    experts = any(layer["ffn"].get("experts") for layer in layers)
    want, batch = reference(model, prompt, tmp_path)
    specs = LAYOUTS + OTHERS + (WHOLE if experts else [])
    for turn, spec in enumerate(specs):
        check(model, prompt, want, batch, len(layers), spec, turn + len(name), tmp_path)
