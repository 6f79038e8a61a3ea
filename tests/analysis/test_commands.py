"""The commands: numbers against the hand-made trace, files that they write, options that are wrong."""
import json
import os
import subprocess
import sys

import pandas as pd
import pytest

import synth
from conftest import ROOT, S, by_hand

from analysis import measure, membw, summary, timeline, trace

PNG = b"\x89PNG\r\n\x1a\n"


def is_png(path):
    from matplotlib.image import imread
    with open(path, "rb") as f:
        assert f.read(8) == PNG
        f.seek(0)
        at = (data := f.read()).index(b"pHYs") + 4
        assert round(int.from_bytes(data[at:at + 4], "big") * 0.0254) == 150  # dots per inch, as for print
    image = imread(path)
    assert image.shape[0] > 300 and image.shape[1] > 800
    assert (image[..., :3].std(axis=(0, 1)) > 0.05).all()  # something is drawn
    return image


# --- summary ---

def test_run_row(hand):
    row = summary.run_row(trace.load(hand))
    assert row["ranks"] == 2 and row["stages"] == 2 and row["hosts"] == 1 and row["threads"] == 2
    assert row["requests"] == 3 and row["failed_requests"] == 1
    assert row["prompt_tokens"] == 12 and row["generated_tokens"] == 8
    # prompts: 100..300 and 200..500 us overlap, 400 us in all; decoding: 300..900 and 500..700 us
    assert row["prompt_tokens_per_s"] == pytest.approx(12 / 400e-6)
    assert row["generation_tokens_per_s"] == pytest.approx((4 + 2) / 600e-6)
    assert row["ttft_median_s"] == pytest.approx(400e-6) and row["ttft_max_s"] == pytest.approx(500e-6)
    assert row["queue_median_s"] == pytest.approx(150e-6)
    assert row["wall_is_parallel"]


def test_rank_table(hand):
    table = summary.rank_table(trace.load(hand)).set_index("rank")
    r = table.loc[0]
    assert r["steps"] == 2 and r["busy_share"] == pytest.approx(0.4) and r["wait_share"] == pytest.approx(0.4) and r["other_share"] == pytest.approx(0.17)
    assert r["on_core"] == pytest.approx(0.75)
    assert r["read_gb_per_s"] == pytest.approx(4.0e6 / 400e3) and r["read_gb_per_cpu_s"] == pytest.approx(4.0e6 / 300e3)
    assert r["probe_gb_per_s"] == 12.5 and r["probe_gb_per_cpu_s"] == 25
    assert r["over_bytes"] == 10_000_000 and table.loc[1, "over_bytes"] == 5_000_000
    assert r["messages_sent"] == 2 and r["bytes_sent"] == 5120 and r["bytes_received"] == 32


def test_expert_table(hand):
    table = summary.expert_table(trace.load(hand)).set_index(["layer", "tokens"])
    assert table.loc[(0, 8), "mean"] == 6 and table.loc[(1, 2), "mean"] == 4 and len(table) == 4
    assert table.loc[(0, 2), "even_routing"] == pytest.approx(8 * (1 - 0.75 ** 2))


def test_usual_step_sizes_are_shown(tmp_path, run):
    """Of 25 sizes the 20 with most steps, smallest first; the rest is counted."""
    b = synth.Builder(experts=8, experts_per_token=2)
    b.rank(0)
    at = 0
    for tokens in range(1, 26):
        for _ in range(1 if tokens % 5 == 0 else 2):
            b.event(0, "layer", at, at + 500, layer=0, experts=2, tokens=tokens, parts=tokens)
            at += 1000
    out = run("summary", b.write(str(tmp_path / "t.h5")))[1]
    lines = out[out.index("distinct experts"):].splitlines()
    shown = [int(words[0]) for words in map(str.split, lines) if words and words[0].isdigit()]
    assert shown == [n for n in range(1, 26) if n % 5]
    assert "(5 rarer step sizes are in --csv)" in out


def test_experts_are_weighted_by_steps(tmp_path, run):
    """Layer 0 with 3 steps that read 2 experts, layer 1 with one that reads 6: 3 on average, not 4."""
    b = synth.Builder(experts=8, experts_per_token=2)
    b.rank(0, n_layers=2)
    for i in range(3):
        b.event(0, "layer", 1000 * i, 1000 * i + 500, layer=0, experts=2, tokens=2, parts=2)
    b.event(0, "layer", 5000, 5500, layer=1, experts=6, tokens=2, parts=2)
    row = summary.expert_lines(trace.load(b.write(str(tmp_path / "t.h5")))).splitlines()[-1].split()
    assert row == ["2", "3", "3.00", "2.00", "6.00", "3.50"]


def test_summary_text(hand, run):
    code, out, err = run("summary", hand)
    assert code == 0 and err == ""
    for piece in ("hand.h5 on 2 ranks", "12 prompt, 8 generated", "30000 prompt, 10000 generation", "median 400 us, longest 500 us", "3, 1 failed",
                  "2 stages, 2 ranks on 1 host", "80.0", "distinct experts"):
        assert piece in out
    assert "warning" not in out


def test_summary_warns(tmp_path, run):
    path = by_hand(str(tmp_path / "t.h5"), cores=1)
    code, out, _ = run("summary", path)
    assert code == 0 and "node0: 2 threads shared 1 core" in out and "not parallel time" in out
    assert "GB/s on core" in out and "53.3" in out  # 4.0 MB in 300 us of CPU time, of 25 GB/s
    b = synth.Builder()
    b.rank(0, dropped=17)
    code, out, _ = run("summary", b.write(str(tmp_path / "u.h5")))
    assert code == 0 and "17 events of 1 rank were lost" in out and "no events" in out


def test_cores_that_others_used(tmp_path, run):
    for cpu, doubt in ((69, True), (71, False)):
        b = synth.Builder(serve_start_s=1e-6, elapsed_s=1e-7)
        b.rank(0, probe_bytes_per_s=1e9)
        b.event(0, "step", 1000, 1100, cpu_ns=cpu, weight_bytes=1000, microbatch=0, tokens=1, parts=1)
        path = b.write(str(tmp_path / "t.h5"))
        assert ("other programs" in run("summary", path)[1]) is doubt
        assert ("other programs" in run("timeline", path)[1]) is doubt
        assert ("CPU time" in run("membw", path)[1]) is doubt


def test_summary_files(hand, line, tmp_path, run):
    code, out, _ = run("summary", hand, line, "--csv", tmp_path / "s.csv", "--json", tmp_path / "s.json", "--png", tmp_path / "s.png")
    assert code == 0 and "all runs" in out
    ranks = pd.read_csv(tmp_path / "s.csv")
    assert len(ranks) == 2 + 4 and ranks.loc[0, "busy_share"] == pytest.approx(0.4) and set(ranks["trace"]) == {hand, line}
    assert len(pd.read_csv(tmp_path / "s-run.csv")) == 2 and len(pd.read_csv(tmp_path / "s-experts.csv")) > 4
    rows = json.loads((tmp_path / "s.json").read_text())
    assert rows["run"][0]["generated_tokens"] == 8 and rows["ranks"][1]["over_bytes"] == 5_000_000 and rows["warnings"] == []
    is_png(tmp_path / "s.png")
    assert not [n for n in os.listdir(tmp_path) if n.endswith(".part")]


# --- timeline ---

def test_timeline_shares(hand, run, tmp_path):
    code, out, _ = run("timeline", hand, "--from", 0.2, "--to", 0.3, "--csv", tmp_path / "t.csv")
    assert code == 0 and "0.200000 to 0.300000 ms" in out
    shares = pd.read_csv(tmp_path / "t.csv").set_index("rank")
    assert shares.loc[0, "busy_ms"] == pytest.approx(0.01) and shares.loc[0, "wait_ms"] == pytest.approx(0.08)
    events = pd.read_csv(tmp_path / "t-events.csv")
    assert set(events[events["rank"] == 1]["kind"]) == {"recv", "step", "layer"}
    assert events["start_ms"].min() == 0  # not cut off in the table


def test_timeline_windows(line):
    t = trace.load(line)
    steps = t.of_kind("step")
    last = int(steps["microbatch"].max())

    def of(**options):
        given = dict(from_ms=None, to_ms=None, steps=None, all=False, ranks=None)
        given.update(options)
        return timeline.window(t, type("Options", (), given))
    w = of()
    lo, hi = w.span
    shown = steps[(steps["start_ns"] >= lo) & (steps["end_ns"] <= hi) & (steps["rank"] == 0)]
    assert len(shown) == timeline.PICTURE_BARS // 4 and abs(shown["microbatch"].median() - last / 2) <= 1  # in the middle
    assert of(all=True).span == (t.start_ns, t.end_ns)
    lo, hi = of(steps=(3, 5)).span
    chosen = steps[steps["microbatch"].between(3, 5)]
    assert (lo, hi) == (chosen["start_ns"].min(), chosen["end_ns"].max())
    assert of(ranks=(1, 2)).ranks == [1, 2]
    for wrong in (dict(steps=(last + 1, last + 9)), dict(from_ms=1e9), dict(to_ms=-1.0), dict(ranks=(9, 12))):
        with pytest.raises(timeline.UsageError):
            of(**wrong)


def test_timeline_picture(hand, line, tmp_path, run):
    code, _, err = run("timeline", line, hand, "--png", tmp_path / "t.png", "--json", tmp_path / "t.json")
    assert code == 0 and err == ""
    image = is_png(tmp_path / "t.png")
    for colour in ((0, 0x72, 0xB2), (0xE6, 0x9F, 0), (0, 0x9E, 0x73)):  # bars of three micro-batches
        near = (abs(image[..., :3] * 255 - colour) < 3).all(axis=-1)
        assert near.sum() > 1000
    assert set(json.loads((tmp_path / "t.json").read_text())) == {"ranks", "events"}


def test_timeline_labels(hand):
    """A row's share is its own rank's, whichever ranks are shown."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    t = trace.load(hand)
    for ranks, shares in (None, ["10 % busy", "50 % busy"]), ((1, 1), ["50 % busy"]):
        options = dict(from_ms=0.2, to_ms=0.3, steps=None, all=False, ranks=ranks)
        fig, ax = plt.subplots()
        timeline.draw_line(ax, t, timeline.window(t, type("Options", (), options)))
        assert [text.get_text() for text in ax.texts if "busy" in text.get_text()] == shares
        plt.close(fig)


def test_perfetto(hand, tmp_path, run):
    code, _, _ = run("timeline", hand, "--perfetto", tmp_path / "p.json")
    assert code == 0
    events = json.loads((tmp_path / "p.json").read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {0: "rank 0: layers 0-1 on node0", 1: "rank 1: layers 2-3 on node0"}
    work = [e for e in events if e["ph"] == "X"]
    assert len(work) == 18 and all(e["tid"] == 0 for e in work)
    step = next(e for e in work if e["name"] == "step 0 (8 tokens)" and e["pid"] == 1)
    assert (step["ts"], step["dur"]) == (250, 300)  # us after the start, on rank 0's clock
    assert step["args"]["weight_bytes"] == 3_000_000 and step["args"]["microbatch"] == 0 and "layer" not in step["args"]
    starts, ends = ({e["id"]: e for e in events if e["ph"] == ph} for ph in "sf")
    assert len(starts) == len(ends) == 3 and set(starts) == set(ends)
    assert sorted((starts[i]["pid"], starts[i]["ts"], ends[i]["pid"], ends[i]["ts"]) for i in starts) == [
        (0, 210, 1, 250), (0, 820, 1, 850), (1, 550, 0, 620)]
    rates = [e["args"]["GB/s"] for e in events if e["ph"] == "C" and e["pid"] == 0]
    assert rates == [10, 0, 10, 0]


def test_perfetto_window(hand, tmp_path, run):
    assert run("timeline", hand, "--perfetto", tmp_path / "p.json", "--steps", "1:1", "--ranks", "1:1")[0] == 0
    work = [e for e in json.loads((tmp_path / "p.json").read_text())["traceEvents"] if e["ph"] == "X"]
    assert [e["name"] for e in work] == ["wait for 0", "step 1 (2 tokens)"]


def test_overlapping_events_get_their_own_track():
    import numpy as np
    assert list(timeline.nest(np.array([0, 0, 5, 10, 15]), np.array([10, 5, 10, 20, 25]))) == [0, 0, 0, 0, 1]


# --- membw ---

def test_medians(hand):
    table = membw.medians(trace.load(hand), "wall").set_index(["rank", "kind", "layers", "phase"])
    step = table.loc[(0, "step", "", "prompt")]
    assert step["events"] == 1 and step["bytes"] == 2_000_000 and step["kv_bytes"] == 200_000 and step["ms"] == pytest.approx(0.2)
    assert step["gb_per_s"] == pytest.approx(10) and step["share_of_probe"] == pytest.approx(0.8)
    layer = table.loc[(0, "layer", "0-1 experts", "decode")]
    assert layer["events"] == 2 and layer["gb_per_s"] == pytest.approx(10) and layer["tokens"] == 2
    assert table.loc[(1, "layer", "2 dense", "prompt"), "gb_per_s"] == pytest.approx(10)
    assert table.loc[(1, "head", "", "prompt"), "share_of_probe"] == pytest.approx(0.5)
    cpu = membw.medians(trace.load(hand), "cpu").set_index(["rank", "kind", "layers", "phase"])
    assert cpu.loc[(0, "step", "", "prompt"), "gb_per_s"] == pytest.approx(20) and cpu.loc[(0, "step", "", "prompt"), "share_of_probe"] == pytest.approx(0.8)


def test_spread_of_speeds(tmp_path):
    """Three steps at 1, 2 and 3 GB/s: a tenth lies under 1.2, a tenth over 2.8."""
    b = synth.Builder()
    b.rank(0)
    for i in range(3):
        b.event(0, "step", 10_000 * i, 10_000 * i + 1000, weight_bytes=1000 * (i + 1), tokens=1, parts=1)
    path = b.write(str(tmp_path / "t.h5"))
    row = membw.medians(trace.load(path), "wall").iloc[0]
    assert (row["gb_per_s_p10"], row["gb_per_s"], row["gb_per_s_p90"]) == pytest.approx((1.2, 2.0, 2.8))


def test_layer_groups(tmp_path):
    b = synth.Builder()
    b.rank(0)
    for i, (layer, experts) in enumerate([(0, 0), (1, 0), (2, 4), (3, 2), (4, 0), (6, 0)]):
        b.event(0, "layer", 1000 * i, 1000 * i + 500, layer=layer, experts=experts, weight_bytes=10, tokens=1, parts=1)
    table = membw.medians(trace.load(b.write(str(tmp_path / "t.h5"))), "wall")
    assert dict(zip(table["layers"], table["events"])) == {"0-1 dense": 2, "2-3 experts": 2, "4 dense": 1, "6 dense": 1}


def test_membw_files(hand, line, tmp_path, run):
    code, out, err = run("membw", hand, line, "--png", tmp_path / "m.png", "--csv", tmp_path / "m.csv", "--json", tmp_path / "m.json")
    assert code == 0 and err == "" and "0-1 experts" in out and "by the wall clock" in out
    table = pd.read_csv(tmp_path / "m.csv")
    assert set(table["trace"]) == {hand, line} and len(json.loads((tmp_path / "m.json").read_text())["membw"]) == len(table)
    is_png(tmp_path / "m.png")


def test_a_probe_is_on_a_core_all_the_time_at_most(tmp_path):
    """The clocks of a thread and of the wall may disagree a little."""
    b = synth.Builder()
    b.rank(0, probe_bytes_per_s=8e9)
    b.rank(1, probe_bytes_per_s=8e9)
    b.event(0, "probe", S, S + 1000, cpu_ns=1500)
    b.event(1, "probe", S, S + 1000, cpu_ns=500)
    t = trace.load(b.write(str(tmp_path / "t.h5")))
    assert list(measure.probe_speeds(t, "cpu")) == [8e9, 16e9] and list(measure.probe_speeds(t)) == [8e9, 8e9]


def test_membw_clock(tmp_path, run):
    path = by_hand(str(tmp_path / "t.h5"), cores=1)
    assert "CPU time" in run("membw", path)[1]
    assert "wall clock" in run("membw", path, "--time", "wall")[1]


# --- all commands, odd traces ---

@pytest.mark.parametrize("kind", ["many ranks", "stage level", "one rank", "no events"])
def test_odd_traces(kind, tmp_path, run):
    path = str(tmp_path / "t.h5")
    if kind == "many ranks":
        synth.line(path, ranks=13, layers=13, sequences=16, generate=2)
    elif kind == "stage level":
        synth.line(path, level="stage", sequences=8, generate=3, experts=0)
    elif kind == "one rank":
        synth.line(path, ranks=1, sequences=4, generate=3)
    else:
        b = synth.Builder()
        b.rank(0)
        b.write(path)
    for command in ("summary", "timeline", "membw"):
        code, out, err = run(command, path, "--png", tmp_path / "p.png", "--csv", tmp_path / "c.csv", "--json", tmp_path / "j.json")
        assert code == 0 and err == "" and path in out
        json.loads((tmp_path / "j.json").read_text())
        assert (tmp_path / "p.png").read_bytes()[:8] == PNG
    assert run("timeline", path, "--perfetto", tmp_path / "p.json")[0] == 0
    json.loads((tmp_path / "p.json").read_text())


# --- command line ---

@pytest.mark.parametrize("args", [
    [], ["summary"], ["nothing", "t.h5"], ["summary", "t.h5", "--wrong"], ["timeline", "t.h5", "--steps", "5"], ["timeline", "t.h5", "--steps", "5:4"],
    ["timeline", "t.h5", "--from", "x"], ["timeline", "t.h5", "--from", "5", "--to", "4"], ["timeline", "t.h5", "--all", "--steps", "0:1"],
    ["timeline", "t.h5", "u.h5", "--perfetto", "p.json"], ["membw", "t.h5", "--time", "sun"]])
def test_wrong_options(args, run):
    code, out, err = run(*args)
    assert code == 2 and out == "" and err.startswith("analysis: ") and err.count("\n") == 1


def test_options_that_do_not_fit_the_trace(hand, run):
    for args in (["--steps", "7:9"], ["--from", "50"], ["--ranks", "5:6"]):
        code, out, err = run("timeline", hand, *args)
        assert code == 2 and out == "" and err.startswith("analysis: --") and err.count("\n") == 1


def test_help(run):
    for args in ([], ["summary"], ["timeline"], ["membw"]):
        code, out, _ = run(*args, "--help")
        assert code == 0 and "Exit codes" in out


def test_unwritable(hand, tmp_path, run):
    for option in ("--png", "--csv", "--json", "--perfetto"):
        code, _, err = run("timeline", hand, option, tmp_path / "no" / "such")
        assert code == 1 and err.startswith(f"analysis: {tmp_path}/no/such") and err.count("\n") == 1
    assert os.listdir(tmp_path) == ["hand.h5"]


def as_users_do(*args, **kw):
    return subprocess.run([sys.executable, "-m", "analysis", *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=120, **kw)


def test_from_the_root_of_the_repository(hand, tmp_path):
    r = as_users_do("summary", hand)
    assert r.returncode == 0 and "hand.h5 on 2 ranks" in r.stdout and r.stderr == ""
    assert as_users_do("summary", tmp_path / "x").returncode == 3
    assert as_users_do("sumary", hand).returncode == 2


def test_missing_modules(hand, tmp_path):
    (tmp_path / "h5py.py").write_text("raise ImportError(\"No module named 'h5py'\")")
    r = as_users_do("summary", hand, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert r.returncode == 1 and r.stderr.count("\n") == 1
    for word in ("h5py", "python3-h5py python3-numpy python3-pandas python3-matplotlib", "/usr/bin/python3"):
        assert word in r.stderr


def test_reader_of_the_output_goes_away(line, tmp_path):
    p = subprocess.Popen([sys.executable, "-m", "analysis", "summary", line, line, line, "--csv", str(tmp_path / "s.csv")], cwd=ROOT,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.close()
    assert p.wait(120) == 0 and p.stderr.read() == b"" and (tmp_path / "s.csv").exists()
    p.stderr.close()
