"""The real SmolLM2-135M-Instruct against transformers' float32 values, on 1 to 8 ranks. Needs the checkpoint that
jobs/smollm2.sh fetches (out/smollm2/*.gguf), or its folder in CHIPLINE_SMOLLM2; without it these tests are skipped."""
import json
import os
import pathlib

import numpy as np
import pytest

from conftest import FIXTURES, ROOT, generate, ids, ok

FOLDER = pathlib.Path(os.environ.get("CHIPLINE_SMOLLM2", ROOT / "out" / "smollm2"))
FILES = sorted(FOLDER.glob("*.gguf"))
pytestmark = pytest.mark.skipif(not FILES, reason="no SmolLM2 checkpoint (jobs/smollm2.sh fetches it)")
GOLD = json.loads((FIXTURES / "smollm2" / "golden.json").read_text())
CHAT = json.loads((FIXTURES / "smollm2" / "chat.json").read_text())


@pytest.fixture(scope="module")
def model(convert):
    return convert(FILES[0])


def test_tokens_and_chat(model):
    assert json.loads(ok("tokenize", model, "-p", GOLD["text"], "--json").stdout)["tokens"] == GOLD["ids"]
    for c in CHAT["chats"]:
        got = json.loads(ok("tokenize", model, "--chat", "--json", "-p", json.dumps(c["messages"])).stdout)
        assert (got["rendered"], got["tokens"]) == (c["rendered"], c["ids"])
    # every numeric character stands alone, also those that are no digits
    got = json.loads(ok("tokenize", model, "-p", "ied 4 ½ m², 1234", "--json").stdout)
    assert all(sum(ch.isnumeric() for ch in p) <= 1 for p in got["pieces"])


def test_logits(model, work):
    path = work / "smollm2.npy"
    generate(model, "--tokens", ids(GOLD["ids"]), "-n", 1, "--ignore-eos", "--activations", "f32", "--logits", path,
             ranks=2)
    got = np.load(path)
    assert list(got.argmax(1)) == GOLD["argmax"]
    want, std = np.array(GOLD["logits"]), np.array(GOLD["row_std"])[:, None]
    assert (np.abs(got[:, GOLD["vocabulary_ids"]] - want) / std).max() < 0.01


def test_continuations(model):
    for c in GOLD["continuations"]:
        row = generate(model, "--tokens", ids(c["prompt_ids"]), "-n", len(c["ids"]), "--ignore-eos", "--activations",
                       "f32")
        assert row["tokens"] == c["ids"]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_answers_on_ranks(model, ranks):
    chat = GOLD["continuations"][2]
    row = generate(model, "--chat", "-p", "What is the capital of France?", "--temperature", 0, "-n", 64,
                   "--activations", "f32", "--digest", "--threads", 1,
                   ranks=ranks)
    assert row["text"] == "The capital of France is Paris." and row["finish_reason"] == "stop"
    assert row["tokens"] == chat["ids"][:chat["eos_index"] + 1]
    alone = generate(model, "--chat", "-p", "What is the capital of France?", "--temperature", 0, "-n", 64,
                     "--activations", "f32", "--digest")
    assert row["logits_xxh3"] == alone["logits_xxh3"]


@pytest.mark.parametrize("ranks,options", [(2, ("--layout", "1x2")), (3, ("--layout", "1x3")), (4, ("--layout", "1x4")),
                                           (4, ("--layout", "2x2")),
                                           (6, ("--layout", "3x2")), (3, ("--layout", "1x3", "--gather", "messages")),
                                           (2, ("--replicas", 2))],
                         ids=lambda o: " ".join(map(str, o)) if isinstance(o, tuple) else str(o))
def test_layouts(model, ranks, options):
    """9 query heads on 3 kv heads divide by none of these."""
    common = ("--tokens", ids(GOLD["ids"][:40]), "-n", 8, "--ignore-eos", "--digest")
    alone = generate(model, *common)
    row = generate(model, *common, *options, "--threads", 1, "--chunk", 9, ranks=ranks)
    assert (row["tokens"], row["logits_xxh3"]) == (alone["tokens"], alone["logits_xxh3"])
