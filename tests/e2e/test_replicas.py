"""Lines side by side: both have work, requests end in each as they do in one, and nobody is asked twice."""
import json

import pytest

from conftest import generate, ok

STARTS = ["Once upon a time", "There was once", "Tom was a kind boy who lived", "Mia had a friend", "In the morning",
          "One day, a little dog", "Lily was a happy girl", "The king said"]


def batch(model, folder, *options, ranks=None, rows=None):
    rows = rows or [{"id": str(i), "prompt": text, "max_tokens": 90 + i, "temperature": 0.7, "top_k": 40, "seed": i}
                    for i, text in enumerate(STARTS)]
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ok("run", model, "--batch", folder / "in.jsonl", "--out", folder / "out.jsonl", "--quiet", "--slots", 3,
       "--context", 192, "--threads", 1, "--summary", folder / "s.json", *options, ranks=ranks)
    results = {r["id"]: r for r in map(json.loads, (folder / "out.jsonl").read_text().splitlines())}
    assert len(results) == len(rows)
    return ({i: (r["text"], r["tokens"], r["finish_reason"]) for i, r in results.items()},
            json.loads((folder / "s.json").read_text()))


@pytest.fixture(scope="module")
def one_line(demo, tmp_path_factory):
    """Without --ignore-eos: some stories end by themselves."""
    rows, _ = batch(demo, tmp_path_factory.mktemp("one"))
    assert {reason for _, _, reason in rows.values()} == {"stop", "length"}
    return rows


@pytest.mark.parametrize("ranks,options", [(2, ()), (4, ("--layout", "1x2"))])
def test_both_lines_work_and_requests_end_there(ranks, options, demo, one_line, tmp_path):
    rows, summary = batch(demo, tmp_path, "--replicas", 2, *options, ranks=ranks)
    assert rows == one_line
    busy = {}
    for k in summary["ranks"]:
        busy.setdefault(k["replica"], []).append(k["busy"])
    assert set(busy) == {0, 1} and all(b > 0.02 for line in busy.values() for b in line), busy
    assert summary["requests"] == len(STARTS) and summary["replicas"] == 2


def test_lines_know_whether_ends_count(demo, one_line, tmp_path):
    """A story that would end by itself, so often that both lines have it: with --ignore-eos it goes on in both."""
    ending = next(int(i) for i, (_, _, reason) in sorted(one_line.items()) if reason == "stop")
    rows = [{"id": str(i), "prompt": STARTS[ending], "max_tokens": 90 + ending, "temperature": 0.7, "top_k": 40,
             "seed": ending} for i in range(6)]
    for options, finish in ((), "stop"), (("--ignore-eos",), "length"):
        got, _ = batch(demo, tmp_path, "--replicas", 2, *options, ranks=2, rows=rows)
        for _, tokens, reason in got.values():
            assert reason == finish and (len(tokens) == 90 + ending) == (finish == "length")


def test_stop_texts(demo, tmp_path):
    """Rank 0 sees the text, another line samples on until it hears of the end."""
    full = generate(demo, "-p", STARTS[0], "-n", 60, "--ignore-eos", "--context", 192)
    words = full["text"].split()
    rows = [{"id": str(i), "prompt": STARTS[0], "max_tokens": 60, "stop": [" ".join(words[5 + i:8 + i])]}
            for i in range(6)]
    got, _ = batch(demo, tmp_path, "--replicas", 2, "--ignore-eos", ranks=2, rows=rows)
    for row in rows:
        text, tokens, reason = got[row["id"]]
        assert reason == "stop" and text == full["text"][:full["text"].index(row["stop"][0])]
        assert tokens == full["tokens"][:len(tokens)] and len(tokens) < 60
