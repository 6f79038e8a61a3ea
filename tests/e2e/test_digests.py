"""Bits that never change: digests of logits and greedy ids, recorded once (digests.json) for every tiny checkpoint in
every arithmetic and cache format, and for SmolLM2 where its checkpoint is there. Whatever moves in the program, these
stay.

Run as a program it records them anew, which only a change of the arithmetic's definition may ask for."""
import itertools
import json
import os
import pathlib
import sys
import tempfile

import pytest

from conftest import ALL, FIXTURES, ROOT, generate, golden, ids, ok, some

HERE = pathlib.Path(__file__).parent
MODELS = sorted(p.parent.name for p in FIXTURES.glob("*/golden.json") if (p.parent / "model.safetensors").exists())
SMOLLM2 = sorted(pathlib.Path(os.environ.get("CHIPLINE_SMOLLM2", ROOT / "out" / "smollm2")).glob("*.gguf"))
ARITHMETIC = list(itertools.product(("f32", "q8", "mixed", "q16"), ("f32", "bf16", "q8")))
LAYOUTS = ("1x2", "2x1", "2x2")


def run(model, prompt, n, activations, kv, layout=None):
    ranks = None if layout is None else eval(layout.replace("x", "*"), {})
    row = generate(model, "--tokens", ids(prompt), "-n", n, "--ignore-eos", "--digest", "--context", len(prompt) + n,
                   "--chunk", 7,
                   "--activations", activations, "--kv", kv, "--threads", 1, *(("--layout", layout) if layout else ()),
                   ranks=ranks)
    return f"{row['logits_xxh3']} {ids(row['tokens'])}"


def prompt_of(name):
    if name == "smollm2":
        return json.loads((FIXTURES / name / "golden.json").read_text())["ids"]
    return golden(name)[0]["prompt"][:20]


def every(model, name, arithmetic=ARITHMETIC):
    """What is recorded of one model file."""
    return {f"{activations} {kv}": run(model, prompt_of(name), 6, activations, kv) for activations, kv in arithmetic}


def turn(at):
    """Each of the activations once, with another cache format for each and for each neighbour; or all that is
    recorded."""
    return ARITHMETIC if ALL else [ARITHMETIC[3 * i + (i + at) % 3] for i in range(4)]


def equal(got, want):
    return got == {key: want[key] for key in got} and bool(got)


def recorded(name, fmt):
    return json.loads((HERE / "digests.json").read_text())[f"{name} {fmt}"]


def test_all_are_recorded():
    every = {f"{n} {f}" for n in MODELS for f in ("keep", "q8_0")} | {"smollm2 keep"}
    assert set(json.loads((HERE / "digests.json").read_text())) == every and len(MODELS) >= 26


@pytest.mark.parametrize("fmt", ["keep", "q8_0"])
@pytest.mark.parametrize("at,name", enumerate(MODELS))
def test_alone(at, name, fmt, convert):
    got = every(convert(FIXTURES / name, "--format", fmt), name, turn(at + (fmt == "keep")))
    assert equal(got, recorded(name, fmt))


def test_every_arithmetic_has_its_turn():
    for fmt in (0, 1):
        assert {pair for at in range(len(MODELS)) for pair in turn(at + fmt)} == set(ARITHMETIC)


@pytest.mark.parametrize("at,name", enumerate(MODELS))
def test_in_layouts(at, name, convert):
    """Another arithmetic and layout for each, so that all together meet."""
    model, want = convert(FIXTURES / name, "--format", "q8_0"), recorded(name, "q8_0")
    if len(json.loads(ok("inspect", model, "--json").stdout)["layers"]) < 2:
        pytest.fail("every tiny checkpoint has two layers at least")
    for i, layout in some(enumerate(LAYOUTS), 3, at):
        activations, kv = ARITHMETIC[(5 * at + 4 * i) % len(ARITHMETIC)]
        assert run(model, prompt_of(name), 6, activations, kv, layout) == want[f"{activations} {kv}"], (activations, kv,
                                                                                                        layout)


if SMOLLM2:
    def test_smollm2(convert):
        model, want = convert(SMOLLM2[0]), recorded("smollm2", "keep")
        assert equal(every(model, "smollm2", turn(0)), want)
        for layout, (activations, kv) in some(itertools.product(LAYOUTS, (("mixed", "bf16"), ("q8", "q8"))), 2):
            assert run(model, prompt_of("smollm2"), 6, activations, kv, layout) == want[f"{activations} {kv}"]


if __name__ == "__main__":
    if not SMOLLM2:
        sys.exit("SmolLM2 belongs to the record (jobs/smollm2.sh fetches it; CHIPLINE_SMOLLM2 names its folder)")
    record = {}
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "model.h5"
        for name, fmt in [(n, f) for n in MODELS for f in ("keep", "q8_0")] + [("smollm2", "keep")]:
            ok("convert", SMOLLM2[0] if name == "smollm2" else FIXTURES / name, "-o", model, "--quiet", "--format", fmt)
            record[f"{name} {fmt}"] = every(model, name)
    (HERE / "digests.json").write_text(json.dumps(record, indent=1) + "\n")
