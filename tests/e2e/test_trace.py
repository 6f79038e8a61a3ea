"""A trace says whose tokens each micro-batch carried, and what came of them: rows of /parts against the results."""
import json

import h5py
import numpy as np
import pytest

from conftest import FIXTURES, ok, refuses

ROWS = [{"id": f"r{i}", "prompt": "Once upon a time " * (1 + i % 4), "max_tokens": 3 + i, "temperature": 0.5 * (i % 2),
         "seed": i}
        for i in range(9)]


@pytest.mark.parametrize("ranks,options,stages", [(1, (), 1), (2, ("--chunk", 5), 2), (2, ("--layout", "1x2"), 1),
                                                  (4, ("--replicas", 2), 2)],
                         ids=["alone", "2x1", "1x2", "replicas"])
def test_parts(ranks, options, stages, demo, tmp_path):
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    ok("run", demo, "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--trace", tmp_path / "t.h5",
       "--context", 128, "--slots", 3,
       "--threads", 1, *options, ranks=ranks)
    out = {r["id"]: r for r in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    with h5py.File(tmp_path / "t.h5") as f:
        parts, requests, ranks_table = f["parts"][:], f["requests"][:], f["ranks"][:]
        kinds = [k.decode() if isinstance(k, bytes) else k for k in f["kinds"]["name"]]
        events = {int(n.removeprefix("rank_")): f["events"][n][:] for n in f["events"]}
    assert len(requests) == len(ROWS)
    assert (ranks_table["peak_int8_ops_per_s"] > 1e8).all() and (ranks_table["peak_f32_ops_per_s"] > 1e7).all()
    for r in requests:
        row, mine = out[r["id"].decode()], np.sort(parts[parts["request"] == r["request"]], order="position")
        usage = row["usage"]
        assert len(set(mine["slot"])) == len(set(mine["rank"])) == 1
        assert mine["tokens"].sum() == usage["prompt_tokens"] + usage["completion_tokens"] - 1
        assert (mine["position"] == np.concatenate([[0], np.cumsum(mine["tokens"])[:-1]])).all()
        assert mine["outputs"].sum() == usage["completion_tokens"]
        assert (mine["forked_from"] == -1).all() and (mine["guesses"] == 0).all()
    step, sample = kinds.index("step"), kinds.index("sample")
    for rank, e in events.items():  # every step of a line is of a micro-batch in /parts, with its tokens
        lead = ranks_table["replica"][rank] * (len(ranks_table) // (1 + ranks_table["replica"].max()))
        for s in e[e["kind"] == step]:
            of = parts[(parts["rank"] == lead) & (parts["microbatch"] == s["microbatch"])]
            assert of["tokens"].sum() == s["tokens"] and len(of) == s["parts"]
        mine = set(parts[parts["rank"] == lead]["microbatch"])
        assert sorted(e[e["kind"] == step]["microbatch"]) == sorted(mine)  # one of each on every rank
        if rank == lead:
            assert sorted(e[e["kind"] == kinds.index("schedule")]["microbatch"]) == sorted(mine)
        for name in "probe", "idle", "schedule":
            of = e[e["kind"] == kinds.index(name)]
            assert (of["layer"] == -1).all() and (of["peer"] == -1).all(), name
            assert name == "schedule" or (of["microbatch"] == -1).all() and (of["tokens"] == 0).all()
        assert (e["kind"] == kinds.index("probe")).sum() == 1
        assert rank or (e["kind"] == kinds.index("idle")).any()  # before the first request
        drawn = e[e["kind"] == sample]
        if ranks_table["stage"][rank] == stages - 1 and ranks_table["member"][rank] == 0:
            with_outputs = set(parts[(parts["rank"] == lead) & (parts["outputs"] > 0)]["microbatch"])
            assert set(drawn["microbatch"]) == with_outputs
        elif stages > 1:
            assert not len(drawn)


def test_every_column_has_its_unit(demo, tmp_path):
    """Names of columns end in what they are measured in; the tables say the same."""
    ends = {"_bytes": "byte", "_ns": "ns", "_bytes_per_s": "byte/s", "_ops_per_s": "operation/s", "_tokens": "token"}
    ok("run", demo, "-p", "Once", "-n", 3, "--context", 64, "--threads", 1, "--trace", tmp_path / "t.h5", "--quiet")
    met = set()
    with h5py.File(tmp_path / "t.h5") as f:
        for name, table in (*((n, f[n]) for n in ("ranks", "parts", "requests")), ("events", f["events/rank_0000"])):
            where = f["events"] if name == "events" else table
            for column in table.dtype.names:
                unit = where.attrs[f"{column}.unit"]
                assert len(where.attrs[f"{column}.description"]) > 3
                for end, wanted in ends.items():
                    if column.endswith(end):
                        assert (unit.decode() if isinstance(unit, bytes) else unit) == wanted, (name, column)
                        met.add(end)
    assert met == set(ends)


def test_long_traces(convert, tmp_path):
    """More events than a rank sends at once: all arrive, once and in order."""
    trace = tmp_path / "t.h5"
    ok("run", convert(FIXTURES / "llama_a"), "--tokens", "1,2", "-n", 500, "--ignore-eos", "--context", 502,
       "--threads", 1, "--trace", trace, "--trace-level", "kernel", "--quiet", "--layout", "1x2", ranks=2)
    with h5py.File(trace) as f:
        step = {k["name"].decode(): k["id"] for k in f["kinds"][:]}["step"]
        for rank in sorted(f["events"]):
            events = f["events"][rank][:]
            assert len(events) > 8192 and (np.diff(events["end_ns"].astype(np.int64)) >= 0).all()
            assert list(events[events["kind"] == step]["microbatch"]) == list(range(500))


@pytest.mark.parametrize("which,traced", [("all", [0, 1, 2, 3]), ("heads", [0, 2]), ("3", [0, 3]),
                                          ("1-2,3", [0, 1, 2, 3])])
def test_ranks_that_are_traced(which, traced, demo, tmp_path):
    """The first chip of a line in any case: /parts is complete. Counts of experts are of all ranks."""
    ok("run", demo, "--tokens", "1,2,3", "-n", 4, "--ignore-eos", "--layout", "2x2", "--trace", tmp_path / "t.h5",
       "--trace-ranks", which, ranks=4)
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]
    with h5py.File(tmp_path / "t.h5") as f:
        assert len(f["ranks"]) == len(f["events"]) == 4 and (f["ranks"]["probe_bytes_per_s"] > 0).all()
        events = {r: len(f["events"][f"rank_{r:04d}"]) for r in range(4)}
        assert [r for r in events if events[r]] == traced and list(f["ranks"]["events"]) == list(events.values())
        assert f["parts"]["tokens"].sum() == 3 + 3 and f.attrs["trace_ranks"].decode() == which


@pytest.mark.parametrize("which,code", [("4", 4), ("0,2-9", 4), ("99999999", 4), ("100000000", 2), ("one", 2), ("", 2),
                                        ("1-", 2), ("3-2", 2), ("1,", 2), ("-1", 2), ("alls", 2)])
def test_ranks_that_are_not_there(which, code, demo, tmp_path):
    refuses(code, "run", demo, "-p", "x", "--trace", tmp_path / "t.h5", "--trace-ranks", which, ranks=4,
            says="--trace-ranks")
    assert not list(tmp_path.iterdir())


def test_ranks_of_no_trace(demo):
    refuses(2, "run", demo, "-p", "x", "--trace-ranks", "heads", says="--trace-ranks: needs --trace FILE.h5")
