"""`chipline run` as people use it: text, batches, stops, JSON, logits, summary, traces."""
import json
import subprocess
import time

import h5py
import numpy as np
import pytest

from conftest import CHIPLINE, DEMO, ENV, chipline, command, generate, ok, refuses


def test_text_goes_to_stdout_and_nothing_else(demo):
    r = ok("run", demo, "-p", "Once upon a time", "-n", 20, ranks=2)
    assert len(r.stdout.split()) > 5
    assert "tokens/s" in r.stderr and "tokens/s" not in r.stdout
    quiet = ok("run", demo, "-p", "Once upon a time", "-n", 20, "--quiet")
    assert quiet.stdout == r.stdout and quiet.stderr == ""


def test_prompt_from_file_stdin_and_ids(demo, tmp_path):
    text = "The dog — and the cat —"
    (tmp_path / "p.txt").write_text(text)
    tokens = json.loads(ok("tokenize", demo, "-p", text, "--json").stdout)["tokens"]
    outs = {ok("run", demo, "-n", 8, "--quiet", *args, stdin=stdin).stdout
            for args, stdin in (((), text), (("-f", tmp_path / "p.txt"), None), (("-p", text), None),
                                (("--tokens", ",".join(map(str, tokens))), None))}
    assert len(outs) == 1


def test_golden_of_the_demo_model(convert):
    gold = json.loads((DEMO / "golden.json").read_text())
    row = generate(convert(DEMO), "-p", gold["prompt"], "-n", len(gold["greedy"]), "--ignore-eos", "--activations",
                   "f32", ranks=3)
    assert row["tokens"] == gold["greedy"]
    assert row["usage"] == {"prompt_tokens": len(gold["tokens"]), "completion_tokens": len(gold["greedy"])}


def test_stops(demo):
    full = generate(demo, "-p", "Once upon a time", "-n", 60, "--ignore-eos")
    assert full["finish_reason"] == "length"
    stop = full["text"].split()[6]
    cut = generate(demo, "-p", "Once upon a time", "-n", 60, "--ignore-eos", "--stop", "never in any text", "--stop",
                   stop)
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == full["text"][:full["text"].index(stop)]
    streamed = ok("run", demo, "-p", "Once upon a time", "-n", 60, "--ignore-eos", "--stop", stop, "--quiet").stdout
    assert streamed == cut["text"] + "\n"


def test_eos_ends(demo):
    rows = [generate(demo, "-p", "Once upon a time", "-n", 400, "--temperature", 0.8, "--seed", s) for s in range(3)]
    stopped = [r for r in rows if r["finish_reason"] == "stop"]
    assert stopped and all(len(r["tokens"]) < 400 and "<|endoftext|>" not in r["text"] for r in stopped)


def test_times(demo, tmp_path):
    """A file's rows wait from the start of serving, not from the start of loading; those that find no slot wait
    longer."""
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"id": str(i), "prompt": "Once", "max_tokens": 40})
                                                 for i in range(6)))
    ok("run", demo, "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--ignore-eos", "--slots", 2,
       "--context", 64, "--summary", tmp_path / "s.json",
       "--threads", 1, ranks=2)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    elapsed = json.loads((tmp_path / "s.json").read_text())["elapsed_s"]
    queued = sorted(r["timing"]["queue_s"] for r in rows)
    assert all(0 <= r["timing"]["queue_s"] <= r["timing"]["ttft_s"] <= elapsed for r in rows)
    assert queued[5] > elapsed / 4 and queued[0] < elapsed / 10


def test_context_is_the_end(demo):
    row = generate(demo, "-p", "Once upon a time", "-n", 500, "--ignore-eos", "--context", 32)
    assert row["finish_reason"] == "length"
    assert row["usage"]["prompt_tokens"] + row["usage"]["completion_tokens"] == 32


def test_batch_rows(demo, tmp_path):
    rows = ['{"id": "a", "prompt": "Once", "max_tokens": 4}', '{"id": "broken', "", '{"prompt": "x", "maxtokens": 3}',
            '{"id": "b", "tokens": [5, 6, 7], "max_tokens": 3, "stop": ["zzz"]}',
            '{"id": "long", "tokens": [%s]}' % ",".join(["5"] * 64),
            '{"id": "c", "tokens": [999999]}']
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    r = chipline("run", demo, "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--context", 64,
                 ranks=2)
    assert r.returncode == 1
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(out) == 6
    by = {o["id"]: o for o in out}
    assert by["a"]["finish_reason"] == "length" and len(by["a"]["tokens"]) == 4
    assert len(by["b"]["tokens"]) == 3
    for bad, says in (("1", "JSON"), ("2", "max_tokens"), ("long", "context"), ("c", "vocabulary")):
        assert by[bad]["finish_reason"] == "error" and says in by[bad]["error"]["message"], by[bad]


def test_batch_from_a_slow_pipe(demo, tmp_path):
    """A row that comes late holds up nobody: the first one's result is there before it."""
    out = tmp_path / "out.jsonl"
    p = subprocess.Popen(command("run", demo, "--batch", "-", "--out", out, "-n", 5, "--context", 64, "--quiet",
                                 "--stall-timeout", 2, "--threads", 1, ranks=2),
                         env=ENV, stdin=subprocess.PIPE)
    p.stdin.write(b'{"id": "first", "prompt": "Once"}\n')
    p.stdin.flush()
    end = time.time() + 60
    while time.time() < end and not (out.exists() and out.read_text()):
        time.sleep(0.05)
    time.sleep(3)  # longer than the stall time-out: idle is not dead
    assert json.loads(out.read_text())["id"] == "first"
    p.stdin.write(b'{"id": "second", "prompt": "Twice"}')
    p.stdin.close()
    assert p.wait(timeout=60) == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["first", "second"]


def test_many_sequences_through_few_slots(demo, tmp_path):
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"id": str(i), "prompt": "The " * (1 + i % 7),
                                                             "max_tokens": 1 + i % 9}) for i in range(60)))
    ok("run", demo, "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--slots", 5, "--context", 64,
       "--ignore-eos", "--threads", 1, ranks=4)
    out = {o["id"]: o for o in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    assert len(out) == 60 and all(len(out[str(i)]["tokens"]) == 1 + i % 9 for i in range(60))


def test_logits_and_digest(demo, tmp_path):
    import ctypes.util
    row = generate(demo, "-p", "Once upon a time", "-n", 5, "--ignore-eos", "--digest", "--logits", tmp_path / "l.npy",
                   ranks=2)
    got = np.load(tmp_path / "l.npy")
    assert got.shape[0] == row["usage"]["prompt_tokens"] + 4
    assert [int(i) for i in got[-5:].argmax(1)] == row["tokens"]
    lib = ctypes.util.find_library("xxhash")
    if lib:
        xxh3 = ctypes.CDLL(lib).XXH3_64bits
        xxh3.restype, xxh3.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t]
        data = got.tobytes()
        assert f"{xxh3(data, len(data)):016x}" == row["logits_xxh3"]


def test_summary(demo, tmp_path):
    ok("run", demo, "-p", "Once upon a time", "-n", 12, "--ignore-eos", "--summary", tmp_path / "s.json", "--context",
       128, ranks=3)
    s = json.loads((tmp_path / "s.json").read_text())
    assert s["layout"] == "3x1" and s["requests"] == 1 and len(s["ranks"]) == 3
    assert s["generation_tokens_per_s"] > 0 and s["prompt_tokens_per_s"] > 0 and s["ttft_s"] > 0
    assert [k["rank"] for k in s["ranks"]] == [0, 1, 2] and [k["stage"] for k in s["ranks"]] == [0, 1, 2]
    assert len(s["model"]["checksum"]) == 16


@pytest.mark.parametrize("ranks", [1, 4])
def test_memory(ranks, demo, tmp_path):
    """Resident memory of each rank: its slice, its cache, what MPI takes, and at most 30 MB."""
    ok("run", demo, "-p", "Once upon a time", "-n", 64, "--ignore-eos", "--summary", tmp_path / "s.json", "--context",
       512, "--slots", 8, "--threads", 1, ranks=ranks)
    for k in json.loads((tmp_path / "s.json").read_text())["ranks"]:
        assert k["over_bytes"] < 30e6, k
        assert k["slice_bytes"] > 0 and k["kv_bytes"] > 0


@pytest.mark.parametrize("level", ["stage", "layer", "kernel"])
def test_trace(level, demo, tmp_path):
    """The trace holds every micro-batch on every rank, every message on both sides, and goes through the analysis."""
    trace = tmp_path / "t.h5"
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"prompt": "Once upon a time", "max_tokens": 6})
                                                 for _ in range(6)))
    ok("run", demo, "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--ignore-eos", "--trace", trace,
       "--trace-level", level, "--context", 128,
       "--threads", 1, ranks=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "t.h5"]  # no part files left
    with h5py.File(trace) as f:
        kinds = {n.decode() if isinstance(n, bytes) else n: int(i) for i,
                 n in zip(f["kinds"]["id"], f["kinds"]["name"])}
        assert len(f["ranks"]) == 3 and len(f["requests"]) == 6
        events = [f[f"events/rank_{r:04d}"][:] for r in range(3)]
    steps = [e[e["kind"] == kinds["step"]] for e in events]
    assert len({tuple(s["microbatch"]) for s in steps}) == 1 and len(steps[0]) > 6
    for a, b in ((0, 1), (1, 2), (2, 0)):
        sent = events[a][(events[a]["kind"] == kinds["send"]) & (events[a]["peer"] == b)]
        got = events[b][(events[b]["kind"] == kinds["recv"]) & (events[b]["peer"] == a)]
        assert list(sent["microbatch"]) == list(got["microbatch"]) and list(sent["msg_bytes"]) == list(got["msg_bytes"])
    layer_events = sum(int((e["kind"] == kinds["layer"]).sum()) for e in events)
    assert (layer_events > 0) == (level != "stage")
    assert (steps[0]["weight_bytes"] > 0).all() and (steps[0]["end_ns"] > steps[0]["start_ns"]).all()


def test_chat_needs_a_format(demo):
    refuses(3, "run", demo, "--chat", "-p", "Hello", says="--chat-format", ranks=2)


def test_runs_without_mpirun_from_any_folder(demo, tmp_path):
    r = subprocess.run([CHIPLINE, "run", str(demo), "-p", "Once", "-n", "3", "--quiet"], env=ENV, cwd=tmp_path,
                       capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and r.stdout


def test_one_layer_each(demo):
    layers = len(json.loads(ok("inspect", demo, "--json").stdout)["layers"])
    alone = generate(demo, "-p", "Once upon a time", "-n", 8, "--digest")
    assert generate(demo, "-p", "Once upon a time", "-n", 8, "--digest", "--threads", 1,
                    ranks=layers)["logits_xxh3"] == alone["logits_xxh3"]
    # stages of several chips
    more = generate(demo, "-p", "Once upon a time", "-n", 8, "--digest", "--threads", 1, ranks=layers + 1)
    assert more["logits_xxh3"] == alone["logits_xxh3"]
    refuses(4, "run", demo, "-p", "x", "--layout", f"{layers + 1}x1", ranks=layers + 1, says=str(layers))
