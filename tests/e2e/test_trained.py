"""Trained checkpoints against the values of the library they come from: the demo model, which is here, and
SmolLM2-135M-Instruct against transformers' float32 where its checkpoint is (jobs/smollm2.sh fetches it into
out/smollm2/; CHIPLINE_SMOLLM2 names another folder)."""
import json
import os
import pathlib

import numpy as np
import pytest

from conftest import DEMO, FIXTURES, ROOT, generate, ids, ok, some

FOLDER = pathlib.Path(os.environ.get("CHIPLINE_SMOLLM2", ROOT / "out" / "smollm2"))
FILES = sorted(FOLDER.glob("*.gguf"))


@pytest.mark.parametrize("ranks,options", [(None, ()), (3, ()), (2, ("--layout", "1x2"))])
def test_demo(ranks, options, convert):
    gold = json.loads((DEMO / "golden.json").read_text())
    row = generate(convert(DEMO), "-p", gold["prompt"], "-n", len(gold["greedy"]), "--ignore-eos", "--activations",
                   "f32", *options, ranks=ranks)
    assert row["tokens"] == gold["greedy"]
    assert row["usage"] == {"prompt_tokens": len(gold["tokens"]), "completion_tokens": len(gold["greedy"])}


if FILES:
    GOLD = json.loads((FIXTURES / "smollm2" / "golden.json").read_text())
    CHAT = json.loads((FIXTURES / "smollm2" / "chat.json").read_text())
    QUESTION = ("--chat", "-p", "What is the capital of France?", "--temperature", 0, "-n", 64, "--activations", "f32",
                "--digest")

    @pytest.fixture(scope="module")
    def model(convert):
        return convert(FILES[0])

    @pytest.fixture(scope="module")
    def alone(model):
        return {"answer": generate(model, *QUESTION),
                "tokens": generate(model, "--tokens", ids(GOLD["ids"][:40]), "-n", 8, "--ignore-eos", "--digest")}

    def test_smollm2_tokens_and_chat(model):
        assert json.loads(ok("tokenize", model, "-p", GOLD["text"], "--json").stdout)["tokens"] == GOLD["ids"]
        for c in CHAT["chats"]:
            got = json.loads(ok("tokenize", model, "--chat", "--json", "-p", json.dumps(c["messages"])).stdout)
            assert (got["rendered"], got["tokens"]) == (c["rendered"], c["ids"])
        # every numeric character stands alone, also those that are no digits
        got = json.loads(ok("tokenize", model, "-p", "ied 4 ½ m², 1234", "--json").stdout)
        assert all(sum(ch.isnumeric() for ch in p) <= 1 for p in got["pieces"])

    def test_smollm2_logits(model, work):
        path = work / "smollm2.npy"
        generate(model, "--tokens", ids(GOLD["ids"]), "-n", 1, "--ignore-eos", "--activations", "f32", "--logits", path,
                 ranks=2)
        got = np.load(path)
        assert list(got.argmax(1)) == GOLD["argmax"]
        want, std = np.array(GOLD["logits"]), np.array(GOLD["row_std"])[:, None]
        assert (np.abs(got[:, GOLD["vocabulary_ids"]] - want) / std).max() < 0.01

    def test_smollm2_continuations(model):
        for c in GOLD["continuations"]:
            row = generate(model, "--tokens", ids(c["prompt_ids"]), "-n", len(c["ids"]), "--ignore-eos",
                           "--activations", "f32")
            assert row["tokens"] == c["ids"]

    @pytest.mark.parametrize("ranks", some([1, 8, 2, 3, 4], 3, 1))
    def test_smollm2_answers_on_ranks(ranks, model, alone):
        chat = GOLD["continuations"][2]
        row = generate(model, *QUESTION, "--threads", 1, ranks=ranks)
        assert row["text"] == "The capital of France is Paris." and row["finish_reason"] == "stop"
        assert row["tokens"] == chat["ids"][:chat["eos_index"] + 1]
        assert row["logits_xxh3"] == alone["answer"]["logits_xxh3"]

    @pytest.mark.parametrize("ranks,options", some([
        (2, ("--layout", "1x2")), (3, ("--layout", "1x3")), (4, ("--layout", "1x4")), (4, ("--layout", "2x2")),
        (6, ("--layout", "3x2")), (3, ("--layout", "1x3", "--gather", "messages")), (2, ("--replicas", 2))], 2, 1),
        ids=lambda o: " ".join(map(str, o)) if isinstance(o, tuple) else str(o))
    def test_smollm2_layouts(ranks, options, model, alone):
        """9 query heads on 3 kv heads divide by none of these."""
        row = generate(model, "--tokens", ids(GOLD["ids"][:40]), "-n", 8, "--ignore-eos", "--digest", *options,
                       "--threads", 1, "--chunk", 9, ranks=ranks)
        assert row["tokens"] == alone["tokens"]["tokens"]
        assert row["logits_xxh3"] == alone["tokens"]["logits_xxh3"]
