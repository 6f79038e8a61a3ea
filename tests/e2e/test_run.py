"""`chipline run` as people use it: text, batches, stops, JSON, logits, summary, traces."""
import ctypes
import ctypes.util
import json
import os
import re
import shutil
import statistics
import subprocess
import time

import h5py
import numpy as np
import pytest

from conftest import CHIPLINE, DEMO, ENV, FIXTURES, chipline, command, generate, ok, refuses


def test_text_goes_to_stdout_and_nothing_else(demo):
    r = ok("run", demo, "-p", "Once upon a time", "-n", 20, ranks=2)
    assert len(r.stdout.split()) > 5
    assert "tokens/s" in r.stderr and "tokens/s" not in r.stdout
    quiet = ok("run", demo, "-p", "Once upon a time", "-n", 20, "--quiet")
    assert quiet.stdout == r.stdout and quiet.stderr == ""


def test_what_is_said_at_the_end(demo):
    """The lines on standard error; only numbers that are measured may be others."""
    r = ok("run", demo, "-p", "Once upon a time", "-n", 20, "--threads", 1, "--kernels", "reference", ranks=2)
    lines = (r"loading: \d+\.\d+ MB in \d+\.\d s \([^)]*/s\)", "",
             r"prompt      4 tokens, N tokens/s, first token after N s",
             r"generation  20 tokens, N tokens/s",
             r"line        2x1 \(stages x chips\), 2 threads, kernels reference, activations mixed, KV cache bf16",
             r"reading     N to N GB/s per rank while computing",
             r"memory      rank [01] is the largest: N MB resident(, N [kM]B over its slice, KV cache and start)?")
    note = r"note        rank 0's host has 1 cores for 2 threads: these times are not those of parallel chips\n"
    want = "".join(line.replace("N", r"\d+(\.\d+)?") + r"\n" for line in lines) + f"({note})?"
    assert re.fullmatch(want, r.stderr), r.stderr


def test_prompt_from_file_stdin_and_ids(demo, tmp_path):
    text = "The dog — and the cat —"
    (tmp_path / "p.txt").write_text(text)
    tokens = json.loads(ok("tokenize", demo, "-p", text, "--json").stdout)["tokens"]
    outs = {ok("run", demo, "-n", 8, "--quiet", *args, stdin=stdin).stdout
            for args, stdin in (((), text), (("-f", tmp_path / "p.txt"), None), (("-p", text), None),
                                (("--tokens", ",".join(map(str, tokens))), None))}
    assert len(outs) == 1


STORY = ("-p", "Once upon a time", "-n", 60, "--ignore-eos")


@pytest.fixture(scope="module")
def story(demo):
    row = generate(demo, *STORY)
    assert row["finish_reason"] == "length" and len(row["tokens"]) == 60
    return row["text"]


def cut_out(text, first, last):
    """Of words first .. last, from the middle of the first to the middle of the last: no token ends there."""
    words = text.split(" ")
    at = [sum(len(w) + 1 for w in words[:i]) + len(words[i]) // 2 for i in (first, last)]
    return text[at[0]:at[1]]


@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("first,last", [(6, 7), (7, 9), (10, 15)])
def test_stops(first, last, ranks, demo, story):
    """A stop over several tokens: what was shown never has to be taken back, and the end has its reason."""
    stop = cut_out(story, first, last)
    assert len(json.loads(ok("tokenize", demo, "-p", stop, "--json").stdout)["tokens"]) > 1
    assert story.count(stop) == 1
    stops = ("--stop", "never in any text", "--stop", stop)
    cut = generate(demo, *STORY, *stops, ranks=ranks)
    assert (cut["finish_reason"], cut["text"]) == ("stop", story[:story.index(stop)])
    assert len(cut["tokens"]) < 40
    streamed = ok("run", demo, *STORY, *stops, "--quiet", ranks=ranks).stdout
    assert streamed == cut["text"] + "\n"


def test_a_stop_that_only_begins(demo, story):
    """What was held back is shown when something else follows, and at the end."""
    for stop in cut_out(story, 6, 8) + "zebra", story[-5:] + "zebra":
        row = generate(demo, *STORY, "--stop", stop)
        assert (row["finish_reason"], row["text"]) == ("length", story)
        assert ok("run", demo, *STORY, "--stop", stop, "--quiet").stdout == story + "\n"


def test_of_two_stops_the_first_in_the_text(demo, story):
    early, late = cut_out(story, 6, 8), cut_out(story, 7, 10)
    row = generate(demo, *STORY, "--stop", late, "--stop", early)
    assert row["text"] == story[:story.index(early)]


def test_defaults_are_those_that_are_told(demo):
    """The same as when they are given, and not the same as others."""
    hot = ("-p", "Once upon a time", "-n", 50, "--ignore-eos", "--temperature", 1.5, "--seed", 5)
    assert generate(demo, *hot)["text"] == generate(demo, *hot, "--top-k", 0)["text"] \
        != generate(demo, *hot, "--top-k", 3)["text"]
    chat = ("--chat", "--chat-format", "chatml", "-p", "Tell me of the dog", "--ignore-eos", "--seed", 3)
    told = generate(demo, *chat, "-n", 40, "--temperature", 0.7, "--top-k", 40, "--top-p", 0.95)["tokens"]
    assert generate(demo, *chat, "-n", 40)["tokens"] == told != generate(demo, *chat, "-n", 40, "--top-k", 5)["tokens"]
    assert len(generate(demo, *chat)["tokens"]) > 128  # 512, were it not for the model's context
    assert len(generate(demo, "-p", "Once", "--ignore-eos")["tokens"]) == 128


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
    # the third waits until one of the first two has ended, the fifth until two more have
    took = sorted(r["timing"]["ttft_s"] - r["timing"]["queue_s"] + 39 / r["timing"]["tokens_per_s"] for r in rows)
    assert queued[2] > 0.9 * took[0] and queued[4] > 1.8 * took[0] and queued[1] < queued[2] / 2


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
                                 "--stall-timeout", 2, "--threads", 1, "--summary", tmp_path / "s.json", ranks=2),
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
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["first", "second"]
    assert rows[1]["timing"]["ttft_s"] < 2.5  # counted from when it came, not from the start
    first = json.loads((tmp_path / "s.json").read_text())["ranks"][0]
    assert first["wait"] < 0.5  # for samples, not for requests


def test_blank_lines(demo, tmp_path):
    (tmp_path / "in.jsonl").write_text('\n  \n{"prompt": "Once"}\n\t\r\n\r\n {"prompt": "Twice"} \n   ')
    ok("run", demo, "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "o.jsonl", "-n", 2, "--context", 64,
       "--quiet")
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert sorted(r["id"] for r in rows) == ["0", "1"] and all(r["finish_reason"] != "error" for r in rows)


def test_many_sequences_through_few_slots(demo, tmp_path):
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"id": str(i), "prompt": "The " * (1 + i % 7),
                                                             "max_tokens": 1 + i % 9}) for i in range(60)))
    ok("run", demo, "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--slots", 5, "--context", 64,
       "--ignore-eos", "--threads", 1, ranks=4)
    out = {o["id"]: o for o in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    assert len(out) == 60 and all(len(out[str(i)]["tokens"]) == 1 + i % 9 for i in range(60))


def test_logits_and_digest(demo, tmp_path):
    row = generate(demo, "-p", "Once upon a time", "-n", 5, "--ignore-eos", "--digest", "--logits", tmp_path / "l.npy",
                   ranks=2)
    got = np.load(tmp_path / "l.npy")
    assert got.shape[0] == row["usage"]["prompt_tokens"] + 4
    assert [int(i) for i in got[-5:].argmax(1)] == row["tokens"]
    lib = ctypes.util.find_library("xxhash") or "libxxhash.so.0"  # chipline is linked with it
    xxh3 = ctypes.CDLL(lib).XXH3_64bits
    xxh3.restype, xxh3.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t]
    data = got.tobytes()
    assert f"{xxh3(data, len(data)):016x}" == row["logits_xxh3"]


def test_summary(demo, tmp_path):
    row = generate(demo, "-p", "Once upon a time", "-n", 112, "--ignore-eos", "--summary", tmp_path / "s.json",
                   "--context", 128, ranks=3)
    s = json.loads((tmp_path / "s.json").read_text())
    assert s["layout"] == "3x1" and s["requests"] == 1 and len(s["ranks"]) == 3
    assert [k["rank"] for k in s["ranks"]] == [0, 1, 2] and [k["stage"] for k in s["ranks"]] == [0, 1, 2]
    layers = len(json.loads(ok("inspect", demo, "--json").stdout)["layers"])
    assert sum(k["layers"] for k in s["ranks"]) == layers and s["ranks"][0]["first_layer"] == 0
    assert s["model"]["checksum"] == json.loads(ok("inspect", demo, "--json").stdout)["checksum"]
    # rates are tokens by times that lie within the run
    assert 110.9 / s["elapsed_s"] < s["generation_tokens_per_s"] < 111 / (s["elapsed_s"] - s["ttft_s"]) * 1.5
    assert s["prompt_tokens"] / s["elapsed_s"] < s["prompt_tokens_per_s"] < 1e7
    assert s["ttft_s"] == pytest.approx(row["timing"]["ttft_s"], rel=1e-3, abs=2e-6)
    assert all(0 < k["busy"] < 1 and 0 <= k["wait"] < 1 and k["busy"] + k["wait"] <= 1.02 for k in s["ranks"])


def test_numbers_are_those_of_the_rows(demo, tmp_path):
    """Of a batch that waits for slots: the summary's numbers, and the trace's table of requests, row by row."""
    text = "Once upon a time there was a little dog who lived near the river "
    rows = [{"id": f"r{i}", "prompt": text * (1 + i % 3), "max_tokens": 9 + 4 * i} for i in range(7)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"id": "bad", "tokens": [999999]}\n')
    r = chipline("run", demo, "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--ignore-eos",
                 "--slots", 2, "--context", 128, "--summary", tmp_path / "s.json", "--trace", tmp_path / "t.h5",
                 "--threads", 1, ranks=2)
    assert r.returncode == 1
    out = {o["id"]: o for o in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    s = json.loads((tmp_path / "s.json").read_text())
    good = [out[row["id"]] for row in rows]
    assert [o["usage"]["completion_tokens"] for o in good] == [row["max_tokens"] for row in rows]
    assert (s["requests"], s["failed_requests"]) == (8, 1)
    for key, usage in ("prompt_tokens", "prompt_tokens"), ("generated_tokens", "completion_tokens"):
        assert s[key] == sum(o["usage"][usage] for o in good), key
    # most of a late row's time to its first token is the wait for a slot
    assert s["ttft_s"] == pytest.approx(statistics.median(o["timing"]["ttft_s"] for o in good), rel=1e-3, abs=2e-6)
    late = max(good, key=lambda o: o["timing"]["queue_s"])
    assert late["timing"]["queue_s"] > late["timing"]["ttft_s"] / 2
    with h5py.File(tmp_path / "t.h5") as f:
        table = {t["id"].decode(): t for t in f["requests"][:]}
        about = dict(f.attrs)
    assert about["prompt_tokens"] / about["prompt_s"] == pytest.approx(s["prompt_tokens_per_s"], rel=1e-3)
    assert (about["generated_tokens"] - len(good)) / about["decode_s"] == pytest.approx(s["generation_tokens_per_s"],
                                                                                        rel=1e-3)
    for o in good:
        t, at = table[o["id"]], o["timing"]
        assert (t["prompt_tokens"], t["completion_tokens"]) == (o["usage"]["prompt_tokens"], len(o["tokens"]))
        assert t["finish_reason"].decode() == o["finish_reason"]
        since = {key: (int(t[f"{key}_ns"]) - int(t["arrived_ns"])) * 1e-9 for key in ("started", "first_token",
                                                                                      "finished")}
        assert since["started"] == pytest.approx(at["queue_s"], rel=1e-3, abs=2e-6)
        assert since["first_token"] == pytest.approx(at["ttft_s"], rel=1e-3, abs=2e-6)
        assert 0 <= since["started"] < since["first_token"] < since["finished"] < s["elapsed_s"] * 1.01


def test_threads_are_a_share_of_the_cores(demo, tmp_path):
    """Without --threads, ranks of one host divide the cores that they may use."""
    cores = len(os.sched_getaffinity(0))
    for ranks in 1, 2:
        ok("run", demo, "-p", "Once", "-n", 2, "--quiet", "--summary", tmp_path / "s.json", ranks=ranks)
        s = json.loads((tmp_path / "s.json").read_text())
        assert [k["threads"] for k in s["ranks"]] == [max(1, cores // ranks)] * ranks


@pytest.mark.parametrize("ranks", [1, 4])
def test_memory(ranks, demo, tmp_path):
    """Resident memory of each rank: its slice, its cache, what MPI takes, and at most 30 MB."""
    ok("run", demo, "-p", "Once upon a time", "-n", 64, "--ignore-eos", "--summary", tmp_path / "s.json", "--context",
       512, "--slots", 8, "--threads", 1, ranks=ranks)
    for k in json.loads((tmp_path / "s.json").read_text())["ranks"]:
        assert k["over_bytes"] < 30e6, k
        assert k["rss_bytes"] - k["baseline_bytes"] - k["slice_bytes"] - k["kv_bytes"] == k["over_bytes"]
    planned = json.loads(ok("plan", demo, "--ranks", ranks, "--context", 512, "--slots", 8, "--json").stdout)["chips"]
    summary = json.loads((tmp_path / "s.json").read_text())["ranks"]
    assert [(k["slice_bytes"], k["kv_bytes"]) for k in summary] == [(c["weight_bytes"], c["kv_bytes"]) for c in planned]


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
    of_level = {"stage": {"step", "recv", "send", "sample", "schedule"}, "layer": {"embed", "layer", "head"},
                "kernel": {"qkv", "attend", "attn_out", "route", "ffn"}}  # gathers: not in stages of one chip
    wanted = set().union(*(of_level[k] for k in list(of_level)[:list(of_level).index(level) + 1]))
    names = {i: n for n, i in kinds.items()}
    assert {names[k] for e in events for k in set(e["kind"].tolist())} - {"idle", "probe"} == wanted
    # a rank reads the weights that its slice has, but for experts that no token chose and rows of the embedding
    with h5py.File(trace) as f:
        slices = f["ranks"]["slice_bytes"]
    for r in range(3):
        assert (steps[r]["weight_bytes"] > slices[r] / 8).all() and (steps[r]["weight_bytes"] <= slices[r]).all()
        assert (steps[r]["end_ns"] > steps[r]["start_ns"]).all()


def test_gathers_in_the_trace(demo, tmp_path):
    """In a stage of two chips every layer exchanges numbers: its time is part of the layer's, the sum that of the
    step. A layer's is measured around the exchange, a step's is the waiting in it, of which the last to come has none:
    but one of the two waits."""
    ok("run", demo, "-p", "Once upon a time", "-n", 12, "--ignore-eos", "--context", 64, "--layout", "1x2",
       "--threads", 1, "--trace", tmp_path / "t.h5", "--quiet", ranks=2)
    waited = {}
    with h5py.File(tmp_path / "t.h5") as f:
        kinds = {k["name"].decode(): k["id"] for k in f["kinds"][:]}
        for events in (f["events"][name][:] for name in sorted(f["events"])):
            took = events["end_ns"].astype(np.int64) - events["start_ns"].astype(np.int64)
            gathers = events["gather_ns"].astype(np.int64)
            of = {k: events["kind"] == kinds[k] for k in ("step", "embed", "layer", "head", "sample")}
            for kind in "step", "layer":
                assert of[kind].sum() >= 12 and (gathers[of[kind]] <= took[of[kind]]).all(), kind
            assert (gathers[of["layer"]] > 0).all()
            inner = of["embed"] | of["layer"] | of["head"] | of["sample"]
            for mb in np.unique(events["microbatch"][of["step"]]):
                step = gathers[of["step"] & (events["microbatch"] == mb)].sum()
                parts = gathers[inner & (events["microbatch"] == mb)].sum()
                assert 0.8 * parts - 50_000 < step <= parts + 50_000, (mb, step, parts)
                waited[mb] = waited.get(mb, 0) + step
    assert len(waited) >= 12 and all(waited.values()), waited


def test_a_chat_ends_where_its_format_says(demo, convert, tmp_path):
    """In a vocabulary in which the reply's fourth token has the name of chatml's mark."""
    chat = ("--chat", "--chat-format", "chatml", "-p", "Tell me of the dog.", "-n", 20, "--temperature", 0)
    reply = generate(demo, *chat)["tokens"]
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO / name, tmp_path)
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    pieces = {i: piece for piece, i in vocab.items()}
    marks = {"<|im_end|>": reply[3], "<|im_start|>": 2047}
    assert reply[3] not in reply[:3] and len(reply) > 4
    gone = {pieces[i] for i in marks.values()}
    tokenizer["model"]["merges"] = [m for m in merges if not gone & {*m, "".join(m)}]
    tokenizer["model"]["vocab"] = {k: i for k, i in vocab.items() if k not in gone} | marks
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    marked = convert(tmp_path, "--format", "q8_0")
    row = generate(marked, *chat)
    assert (row["tokens"], row["finish_reason"]) == (reply[:4], "stop")
    assert generate(marked, *chat, "--ignore-eos")["tokens"] == reply


def test_date_of_a_batch(convert, tmp_path):
    """--date alone asks for the model's own format."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}')
    refuses(2, "run", convert(FIXTURES / "llama_a"), "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "o.jsonl",
            "--date", "2026-13-01", says="--date")
    assert not (tmp_path / "o.jsonl").exists()


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
