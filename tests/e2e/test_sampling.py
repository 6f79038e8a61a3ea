"""Ordinary sampling, without digests and logits files, which ask for whole rows: where a stage has several chips, each
gives its best candidates only, and the tokens are those of one chip all the same."""
import json

import numpy as np
import pytest

from conftest import generate, ids, ok

TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her dog."
LAYOUTS = [(2, "1x2"), (3, "1x3"), (4, "2x2")]
WINDOW = 64  # tokens that the repeat penalty looks back


@pytest.fixture(scope="module")
def prompt(demo):
    """Over 64 tokens, so that the window is full when the first one is drawn."""
    tokens = json.loads(ok("tokenize", demo, "-p", TEXT * 4, "--json").stdout)["tokens"]
    assert len(tokens) > 90
    return tokens[:90]


# The candidates of a micro-batch are as many as its most demanding row needs, wherever that row stands.
ROWS = [{"temperature": 0.9, "top_k": 40, "seed": 1}, {}, {"temperature": 1.1, "top_k": 5, "seed": 2},
        {"repeat_penalty": 1.4}, {"temperature": 0.8, "top_k": 64, "seed": 3, "repeat_penalty": 1.2},
        {"temperature": 1.0, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "seed": 4}, {"temperature": 2.0, "top_k": 40},
        {}]


def batch(model, prompt, folder, *options, ranks=None, n=40):
    """Tokens of all rows at once, greedy ones last and among those that sample."""
    rows = [{"id": str(i), "tokens": prompt[: 90 - 7 * i], "max_tokens": n, **row} for i, row in enumerate(ROWS)]
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ok("run", model, "--batch", folder / "in.jsonl", "--out", folder / "out.jsonl", "--ignore-eos", "--quiet",
       "--slots", len(ROWS), "--context", 192, "--threads", 1, *options, ranks=ranks)
    return {r["id"]: r["tokens"] for r in map(json.loads, (folder / "out.jsonl").read_text().splitlines())}


@pytest.fixture(scope="module")
def one_chip(demo, prompt, tmp_path_factory):
    rows = batch(demo, prompt, tmp_path_factory.mktemp("alone"))
    assert len({tuple(t) for t in rows.values()}) == len(ROWS) and all(len(t) == 40 for t in rows.values())
    return rows


@pytest.mark.parametrize("ranks,layout", LAYOUTS)
def test_candidates_of_all_chips(ranks, layout, demo, prompt, one_chip, tmp_path):
    assert batch(demo, prompt, tmp_path, "--layout", layout, ranks=ranks) == one_chip


def test_rows_that_need_all_logits(demo, prompt, one_chip, tmp_path, monkeypatch):
    """One row without a limit among them: no candidates, and the same tokens."""
    monkeypatch.setitem(ROWS[6], "top_k", 0)
    free = batch(demo, prompt, tmp_path)
    assert {i for i in free if free[i] != one_chip[i]} == {"6"}
    assert batch(demo, prompt, tmp_path, "--layout", "1x2", ranks=2) == free


def naive(logits, tokens, n_prompt, penalty):
    """Greedy ids of these rows when each of the last 64 tokens is penalised once."""
    drawn = []
    for position in range(n_prompt, len(tokens)):
        row = logits[position - 1].copy()
        for token in set(tokens[max(0, position - WINDOW):position]):
            row[token] = row[token] / np.float32(penalty) if row[token] > 0 else row[token] * np.float32(penalty)
        drawn.append(int(row.argmax()))
    return drawn


def test_repeat_window(demo, prompt, tmp_path):
    """Longer than the window, its prompt in one piece or in many, on one chip or several."""
    ask = ("--tokens", ids(prompt), "-n", 80, "--ignore-eos", "--repeat-penalty", 1.3, "--context", 192)
    got = generate(demo, *ask, "--logits", tmp_path / "l.npy")["tokens"]
    logits, tokens = np.load(tmp_path / "l.npy"), prompt + got
    assert len(got) == 80 and got == naive(logits, tokens, len(prompt), 1.3)
    every = naive(logits, tokens, len(prompt), 1)
    assert got != every and len(set(got)) > len(set(every)) // 2  # the penalty is seen
    for chunk in 1, 64, 128:
        assert generate(demo, *ask, "--chunk", chunk)["tokens"] == got, chunk
    for ranks, layout in LAYOUTS:
        assert generate(demo, *ask, "--layout", layout, "--threads", 1, ranks=ranks)["tokens"] == got, layout
