"""trace.load: what is in the file comes out, on one clock; what is wrong with it is said."""
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

import synth
from conftest import HERE, ROOT, S, by_hand

from analysis import measure, summary, trace

V1 = os.path.join(HERE, "trace_v1.h5")


def test_everything_comes_out(hand):
    t = trace.load(hand)
    assert t.run["model"] == "hand.h5" and t.name == "hand.h5"
    assert (t.start_ns, t.end_ns, t.seconds) == (S, S + 1_000_000, 0.001)
    assert list(t.ranks["rank"]) == [0, 1] and t.ranks.loc[1, "host"] == "node0" and t.ranks.loc[1, "first_layer"] == 2
    assert list(t.requests["id"]) == ["a", "b", "c"] and t.requests.loc[2, "finish_reason"] == "error"
    assert len(t.events) == 18 and (t.events["rank"] == 0).sum() == 11
    first = t.of_kind("step").iloc[0]
    assert (first["weight_bytes"], first["kv_bytes"], first["tokens"], first["peer"]) == (1_800_000, 200_000, 8, -1)
    assert t.kinds.loc[8, "name"] == "layer" and t.has("head") and not t.has("idle")
    assert t.schema == 2 and list(t.requests["request"]) == [0, 1, 2]
    assert t.parts[["microbatch", "request", "slot", "position", "tokens", "forked_from"]].values.tolist() == [
        [0, 0, 1, 0, 8, -1], [1, 0, 1, 8, 1, -1], [1, 1, 0, 4, 1, 1]]


def test_schema_1_is_read():
    """A trace that chipline 0.1.0 wrote with schema 1: two ranks, two requests of 4 + 6 and 2 + 4 tokens."""
    t = trace.load(V1)
    assert t.schema == 1 and len(t.ranks) == 2 and list(t.requests["request"]) == [0, 1]
    assert sorted(zip(t.requests["id"], t.requests["prompt_tokens"], t.requests["completion_tokens"])) == [("a", 4, 6), ("b", 2, 4)]
    assert len(t.parts) == 0 and list(t.parts.columns) == list(trace.PART_COLUMNS)
    assert "waits_for" not in t.events and (t.events["gather_ns"] == 0).all()
    assert (t.ranks["peak_int8_ops_per_s"] == 0).all() and (t.ranks["probe_bytes_per_s"] > 0).all()
    steps = t.of_kind("step")
    assert set(steps["rank"]) == {0, 1} and (steps["weight_bytes"] > 0).all()
    assert len(measure.messages(t)) == len(t.of_kind("send"))


def test_commands_read_schema_1(tmp_path, run):
    for command in ("summary", "timeline", "membw"):
        code, out, err = run(command, V1, "--json", tmp_path / "j.json")
        assert code == 0 and err == "" and "trace_v1.h5" in out


def test_columns_that_an_old_writer_lacked(hand):
    def change_all(f):
        for table, columns in (("ranks", ("peak_f32_ops_per_s",)), ("requests", ("request",)), ("events/rank_0000", ("gather_ns", "gathers"))):
            for c in columns:
                without(f, table, c)
    change(hand, change_all)
    t = trace.load(hand)
    assert (t.ranks["peak_f32_ops_per_s"] == 0).all() and list(t.requests["request"]) == [0, 1, 2]
    assert (t.events["gather_ns"] == 0).all() and measure.time_use(t).loc[0, "busy"] == 400_000


def test_clocks_are_shifted_to_rank_0(hand):
    with h5py.File(hand) as f:
        assert f["events/rank_0001"]["start_ns"][0] == S + 400_000_000  # the rank's own clock
    t = trace.load(hand)
    assert t.events[t.events["rank"] == 1]["start_ns"].iloc[0] == S


def test_events_are_in_order_and_parents_come_first(hand):
    e = trace.load(hand).events
    e = e[e["rank"] == 0]
    assert e["start_ns"].is_monotonic_increasing
    assert list(e["kind"][1:4]) == ["schedule", "step", "layer"]


def test_run_without_times_lasts_from_first_to_last_event(tmp_path):
    b = synth.Builder()
    b.rank(0)
    b.event(0, "probe", 10, 20)
    b.event(0, "step", 100, 200, microbatch=0)
    b.event(0, "idle", 200, 350)
    t = trace.load(b.write(str(tmp_path / "t.h5")))
    assert (t.start_ns, t.end_ns) == (100, 350)


def test_a_run_in_which_nothing_happened(tmp_path):
    b = synth.Builder()
    b.rank(0)
    t = trace.load(b.write(str(tmp_path / "t.h5")))
    assert len(t.events) == 0 and t.seconds < 1e-6 and len(measure.messages(t)) == 0


def fields(rows):
    return [(n, rows.dtype[n]) for n in rows.dtype.names]


def test_columns_of_later_writers_are_kept(hand):
    with h5py.File(hand, "r+") as f:
        rows = f["ranks"][:]
        more = np.zeros(len(rows), fields(rows) + [("colour", "<i4")])
        for n in rows.dtype.names:
            more[n] = rows[n]
        more["colour"] = 7
        del f["ranks"]
        f["ranks"] = more
    assert list(trace.load(hand).ranks["colour"]) == [7, 7]


# --- what may be wrong ---

def change(path, what):
    with h5py.File(path, "r+") as f:
        what(f)


def replace(f, name, data):
    del f[name]
    f[name] = data


def edited(f, name, column, value):
    rows = f[name][:]
    rows[column][-1] = value
    replace(f, name, rows)


def without(f, name, column):
    rows = f[name][:]
    less = np.zeros(len(rows), [d for d in fields(rows) if d[0] != column])
    for n in less.dtype.names:
        less[n] = rows[n]
    replace(f, name, less)


WRONG = [
    (lambda f: f.attrs.__delitem__("schema"), "not a chipline trace"),
    (lambda f: f.attrs.__setitem__("schema", np.bytes_("other")), "not a chipline trace"),
    (lambda f: f.attrs.__setitem__("schema_version", np.int64(3)), "schema version 3, this analysis reads 1 and 2"),
    (lambda f: f.attrs.__setitem__("schema_version", np.int64(0)), "schema version 0"),
    (lambda f: f.__delitem__("parts"), "/parts is missing"),
    (lambda f: without(f, "parts", "slot"), "no column slot"),
    (lambda f: edited(f, "parts", "rank", 7), "/parts names a rank"),
    (lambda f: f.attrs.__delitem__("schema_version"), "schema version"),
    (lambda f: f.__delitem__("run"), "/run is missing"),
    (lambda f: replace(f, "run", np.bytes_("[1]")), "no JSON object"),
    (lambda f: replace(f, "run", np.bytes_("{")), "not readable"),
    (lambda f: f.__delitem__("kinds"), "/kinds is missing"),
    (lambda f: f.__delitem__("ranks"), "/ranks is missing"),
    (lambda f: f.__delitem__("requests"), "/requests is missing"),
    (lambda f: f.__delitem__("events"), "/events is missing"),
    (lambda f: f.__delitem__("events/rank_0001"), "/events/rank_0001 is missing"),
    (lambda f: f.move("events/rank_0001", "events/rank_0007"), "/events/rank_0007 belongs to no row"),
    (lambda f: replace(f, "ranks", np.arange(3)), "/ranks is no table"),
    (lambda f: replace(f, "ranks", f["ranks"][:0]), "/ranks has no rows"),
    (lambda f: without(f, "ranks", "clock_offset_ns"), "no column clock_offset_ns"),
    (lambda f: without(f, "events/rank_0000", "kv_bytes"), "no column kv_bytes"),
    (lambda f: without(f, "requests", "finished_ns"), "no column finished_ns"),
    (lambda f: edited(f, "ranks", "rank", 0), "names a rank twice"),
    (lambda f: edited(f, "events/rank_0000", "kind", 99), "kind 99"),
    (lambda f: edited(f, "events/rank_0000", "end_ns", 5), "ends before it starts"),
    (lambda f: edited(f, "events/rank_0000", "end_ns", 2**63), "impossible"),
    (lambda f: edited(f, "requests", "finished_ns", 2**64 - 1), "impossible"),
]


@pytest.mark.parametrize("what,message", WRONG, ids=[m for _, m in WRONG])
def test_wrong_files_are_refused(hand, run, what, message):
    change(hand, what)
    for command in ("summary", "timeline", "membw"):
        code, out, err = run(command, hand)
        assert code == 3 and out == ""
        assert err.startswith(f"analysis: {hand}: ") and message in err and err.count("\n") == 1 and "(" in err


def test_truncated_files_are_refused(hand, tmp_path, run):
    whole = open(hand, "rb").read()
    for part in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / "cut.h5"
        cut.write_bytes(whole[:part])
        code, out, err = run("summary", cut)
        assert code == 3 and err.startswith(f"analysis: {cut}: ") and err.count("\n") == 1


FLIPS = """
import random, sys
sys.path.insert(0, sys.argv[1])
from analysis import trace
path, n = sys.argv[2], int(sys.argv[3])
good, rng, refused = open(path, "rb").read(), random.Random(5), 0
for i in range(n):
    bad = bytearray(good)
    bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    open(path, "wb").write(bad)
    try:
        trace.load(path)
    except trace.TraceError as e:
        assert str(e).startswith(path + ": ") and "(" in str(e), e
        refused += 1
print(refused)
"""


def test_flipped_bytes_are_refused_or_do_no_harm(hand):
    """In a child: libhdf5 itself may fall over a damaged file. With checksummed metadata and deflated tables hardly anything slips through."""
    r = subprocess.run([sys.executable, "-c", FLIPS, ROOT, hand, "120"], capture_output=True, text=True, timeout=280)
    assert r.returncode == 0, (r.returncode == -signal.SIGSEGV, r.stderr[-2000:])
    assert int(r.stdout) > 30  # the rest are gaps between the pieces of metadata


def test_things_that_are_no_trace(tmp_path, run):
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    for path in (text, tmp_path, tmp_path / "missing.h5"):
        code, _, err = run("summary", path)
        assert code == 3 and str(path) in err and err.count("\n") == 1


# --- measures ---

def test_union():
    assert measure.union_ns([], []) == 0
    assert measure.union_ns([0, 10], [5, 15]) == 10
    assert measure.union_ns([10, 0, 2, 3], [15, 8, 4, 12]) == 15  # unsorted, nested, overlapping
    assert measure.union_ns([0, 1, 1, 5], [3, 2, 3, 5]) == 3


def test_time_use_counts_each_moment_once(hand):
    t = trace.load(hand)
    use = measure.time_use(t)
    assert list(use.loc[0]) == [400_000, 0, 400_000, 20_000, 10_000, 0, 170_000]  # busy, gather, wait, send, schedule, idle, other
    assert list(use.loc[1]) == [400_000, 0, 540_000, 10_000, 0, 0, 50_000]
    assert (use.sum(axis=1) == 1_000_000).all()
    part = measure.time_use(t, S + 200_000, S + 300_000)
    assert list(part.loc[0]) == [10_000, 0, 80_000, 10_000, 0, 0, 0]


def test_work_inside_a_wait_is_work(tmp_path):
    b = synth.Builder(serve_start_s=1e-6, elapsed_s=1e-7)
    b.rank(0)
    b.event(0, "step", 1000, 1060)
    b.event(0, "recv", 1020, 1090)
    use = measure.time_use(trace.load(b.write(str(tmp_path / "t.h5"))))
    assert use.loc[0, "busy"] == 60 and use.loc[0, "wait"] == 30 and use.loc[0, "other"] == 10


def test_exchanges_are_not_computing(tmp_path):
    b = synth.Builder(serve_start_s=1e-6, elapsed_s=1e-7)
    b.rank(0)
    b.event(0, "step", 1000, 1060, gather_ns=20)
    b.event(0, "layer", 1010, 1050, gather_ns=20)
    t = trace.load(b.write(str(tmp_path / "t.h5")))
    use = measure.time_use(t)
    assert (use.loc[0, "busy"], use.loc[0, "gather"], use.loc[0, "other"]) == (40, 20, 40)
    half = measure.time_use(t, 1000, 1030)
    assert (half.loc[0, "busy"], half.loc[0, "gather"]) == (20, 10)


def test_totals(hand):
    t = trace.load(hand)
    work = measure.work_totals(t)
    assert list(work.loc[0]) == [2, 3_800_000, 200_000, 300_000]
    assert list(work.loc[1]) == [2, 4_500_000, 0, 400_000]
    sent = measure.message_totals(t)
    assert list(sent.loc[0]) == [2, 5120, 1, 32] and list(sent.loc[1]) == [1, 32, 2, 5120]


def test_messages_are_matched(hand):
    pairs = measure.messages(trace.load(hand)).sort_values("send_start_ns")
    assert list(zip(pairs["src"], pairs["dst"], pairs["microbatch"], pairs["bytes"])) == [(0, 1, 0, 4096), (1, 0, 0, 32), (0, 1, 1, 1024)]
    assert list(pairs["recv_end_ns"] - S) == [250_000, 620_000, 850_000]


def test_clocks_that_disagree_are_noticed(tmp_path):
    b = synth.Builder()
    b.rank(0, clock_uncertainty_ns=0)
    b.rank(1, clock_uncertainty_ns=300)
    b.event(0, "send", 5000, 5100, peer=1, microbatch=0)
    b.event(1, "recv", 3000, 4500, peer=0, microbatch=0)  # 500 ns early
    b.event(0, "send", 6000, 6100, peer=1, microbatch=1)
    b.event(1, "recv", 5500, 5900, peer=0, microbatch=1)  # 100 ns early: within the uncertainty
    t = trace.load(b.write(str(tmp_path / "t.h5")))
    assert measure.clock_doubts(t, measure.messages(t)) == (1, 200)


def test_both_clocks_may_be_wrong(tmp_path):
    b = synth.Builder()
    b.rank(0, clock_uncertainty_ns=300)  # the sender's
    b.rank(1, clock_uncertainty_ns=50)
    b.event(0, "send", 5000, 5100, peer=1, microbatch=0)
    b.event(1, "recv", 3000, 4650, peer=0, microbatch=0)  # 350 ns early: just what the two allow
    b.event(0, "send", 6000, 6100, peer=1, microbatch=1)
    b.event(1, "recv", 5500, 5649, peer=0, microbatch=1)  # one more
    t = trace.load(b.write(str(tmp_path / "t.h5")))
    assert measure.clock_doubts(t, measure.messages(t)) == (1, 1)


def test_probe_per_second_of_cpu(hand):
    t = trace.load(hand)
    assert list(measure.probe_speeds(t)) == [12.5e9, 20e9]
    assert list(measure.probe_speeds(t, "cpu")) == [25e9, 20e9]  # rank 0 had half a core; rank 1 recorded no probe


def test_hosts_with_too_few_cores(tmp_path):
    assert trace.load(by_hand(str(tmp_path / "a.h5"), cores=2)).short_hosts() == {}
    assert trace.load(by_hand(str(tmp_path / "b.h5"), cores=1)).short_hosts() == {"node0": (2, 1)}
    assert trace.load(by_hand(str(tmp_path / "c.h5"), cores=0)).short_hosts() == {}
    assert trace.load(by_hand(str(tmp_path / "d.h5"), cores=0, cores_of_rank0_host=1)).short_hosts() == {"node0": (2, 1)}


def test_ranks_without_events(tmp_path, run):
    """--trace-ranks heads: tables and sums are of the ranks that have events, the run is of all."""
    b = synth.Builder(trace_ranks="heads", experts=0)
    for rank in range(4):
        b.rank(rank, stage=rank // 2, member=rank % 2, threads=3, host_cores=8, dropped=rank)
    for rank in (0, 2):
        b.event(rank, "step", S, S + 1000, weight_bytes=500, cpu_ns=1000, microbatch=0, tokens=1, parts=1)
    path = b.write(str(tmp_path / "heads.h5"))
    t = trace.load(path)
    assert list(t.ranks["rank"]) == [0, 2] and list(t.ranks.index) == [0, 1] and list(t.all_ranks["rank"]) == [0, 1, 2, 3]
    assert t.short_hosts() == {"node0": (12, 8)}
    row = summary.run_row(t)
    assert (row["ranks"], row["traced_ranks"], row["threads"], row["stages"], row["dropped_events"]) == (4, 2, 12, 2, 6)
    assert list(summary.rank_table(t)["rank"]) == [0, 2]
    code, out, err = run("summary", path)
    assert code == 0 and "  traced       2 of 4 ranks: tables and sums are of these\n" in out
    assert "6 events of 3 ranks were lost" in out
    b.rank(4)
    assert len(trace.load(b.write(str(tmp_path / "more.h5"))).ranks) == 2
