"""Numbers that more than one command needs: where a rank's time went, which bytes it read, which messages went where."""
import numpy as np
import pandas as pd

# What a moment of a rank counts as: the first of these that has an event then (a wait inside a step is work for the rank).
USES = (
    ("busy", ("step", "sample", "embed", "layer", "head", "qkv", "attend", "attn_out", "route", "ffn")),
    ("wait", ("recv",)),
    ("send", ("send",)),
    ("schedule", ("schedule",)),
    ("idle", ("idle",)),
)


def union_ns(start, end):
    """Length of the union of the intervals [start, end)."""
    if len(start) == 0:
        return 0
    order = np.argsort(start, kind="stable")
    start, reach = np.asarray(start)[order], np.maximum.accumulate(np.asarray(end)[order])
    covered = np.concatenate(([start[0]], reach[:-1]))  # up to here, earlier intervals reach
    return int(np.maximum(reach - np.maximum(start, covered), 0).sum())


def time_use(trace, from_ns=None, to_ns=None):
    """Per rank: nanoseconds busy, gather, wait, send, schedule, idle and other between the two times (default: the run). gather is
    what the steps spent in exchanges with the other chips of their stage."""
    lo = trace.start_ns if from_ns is None else from_ns
    hi = trace.end_ns if to_ns is None else to_ns
    rows = []
    by_rank = dict(tuple(trace.events.groupby("rank", sort=False)))
    for rank in trace.ranks["rank"]:
        e = by_rank.get(rank, trace.events.iloc[:0])
        e = e[(e["end_ns"] > lo) & (e["start_ns"] < hi)]
        start, end = np.clip(e["start_ns"].to_numpy(), lo, hi), np.clip(e["end_ns"].to_numpy(), lo, hi)
        row, taken, seen = {"rank": rank}, 0, np.zeros(len(e), bool)
        for use, kinds in USES:
            seen |= e["kind"].isin(kinds).to_numpy()
            total = union_ns(start[seen], end[seen])
            row[use] = total - taken
            taken = total
        row["other"] = hi - lo - taken
        row["gather"] = min(gather_ns(e, start, end), row["busy"])
        row["busy"] -= row["gather"]
        rows.append(row)
    return pd.DataFrame(rows, columns=["rank", "busy", "gather"] + [u for u, _ in USES[1:]] + ["other"]).set_index("rank")


def gather_ns(events, start, end):
    """Time in exchanges inside the stage, of one rank's events cut to start and end (of a step that is cut, in proportion)."""
    which = events["kind"] == "step"
    if not which.any():
        which = events["kind"].isin(("embed", "layer", "head"))
    length = (events["end_ns"] - events["start_ns"])[which]
    part = (end - start)[which.to_numpy()] / length.where(length > 0, 1)
    return int((events["gather_ns"][which] * part).sum())


def work_totals(trace):
    """Per rank: steps, bytes read and CPU time of its work. A step's bytes include its layers', so the larger of the two levels."""
    steps = trace.of_kind("step")
    parts = trace.of_kind("embed", "layer", "head")
    totals = pd.DataFrame(index=pd.Index(trace.ranks["rank"], name="rank"))
    totals["steps"] = steps.groupby("rank").size()
    for column in ("weight_bytes", "kv_bytes"):
        both = [e.groupby("rank")[column].sum().reindex(totals.index).fillna(0) for e in (steps, parts)]
        totals[column] = np.maximum(*both)
    totals["cpu_ns"] = (steps if len(steps) else parts).groupby("rank")["cpu_ns"].sum()
    return totals.fillna(0).astype(np.int64)


ON_CORE = 0.7  # of the time that they compute, ranks with a core each are on it; less: something else was there too


def core_doubts(trace):
    """Reasons why wall time is not the time that parallel chips would take: [] where there are none."""
    doubts = [f"{host}: {threads} threads shared {cores} core{'' if cores == 1 else 's'}"
              for host, (threads, cores) in trace.short_hosts().items()]
    if not doubts:
        on_core, busy = work_totals(trace)["cpu_ns"].sum(), time_use(trace)["busy"].sum()
        if busy and on_core < ON_CORE * busy:
            doubts.append(f"the ranks were on a core in {100 * on_core / busy:.0f} % of their computing time: "
                          "other programs were there too")
    return doubts


def probe_speeds(trace, clock="wall"):
    """Probed bytes per second, by rank, of ranks that probed. clock "cpu": per second of CPU time, for ranks that shared cores."""
    speed = trace.ranks.set_index("rank")["probe_bytes_per_s"]
    speed = speed[speed > 0]
    if clock == "cpu":
        probe = trace.of_kind("probe").groupby("rank")[["start_ns", "end_ns", "cpu_ns"]].sum().reindex(speed.index)
        on_core = probe["cpu_ns"] / (probe["end_ns"] - probe["start_ns"])
        speed = speed / on_core.where(on_core > 0, 1).clip(upper=1)
    return speed


def message_totals(trace):
    """Per rank: messages and bytes, sent and received."""
    totals = pd.DataFrame(index=pd.Index(trace.ranks["rank"], name="rank"))
    for kind, word in (("send", "sent"), ("recv", "received")):
        group = trace.of_kind(kind).groupby("rank")["msg_bytes"]
        totals[f"messages_{word}"] = group.size()
        totals[f"bytes_{word}"] = group.sum()
    return totals.fillna(0).astype(np.int64)


def messages(trace):
    """Every message: the send and the receive of the same micro-batch between the same ranks, in order. Times on rank 0's clock."""
    ends = []
    for kind, src, dst in (("send", "rank", "peer"), ("recv", "peer", "rank")):
        e = trace.of_kind(kind)
        e = pd.DataFrame({"src": e[src], "dst": e[dst], "microbatch": e["microbatch"], "bytes": e["msg_bytes"],
                          f"{kind}_start_ns": e["start_ns"], f"{kind}_end_ns": e["end_ns"]})
        e["nth"] = e.groupby(["src", "dst", "microbatch"]).cumcount()
        ends.append(e)
    pairs = ends[0].merge(ends[1].drop(columns="bytes"), on=["src", "dst", "microbatch", "nth"])
    return pairs.drop(columns="nth")


def clock_doubts(trace, pairs):
    """Messages that arrive before they were sent by more than the two clocks' uncertainties: (how many, worst in ns)."""
    doubt = trace.ranks.set_index("rank")["clock_uncertainty_ns"]
    slack = pairs["src"].map(doubt).fillna(0) + pairs["dst"].map(doubt).fillna(0)
    early = pairs["send_start_ns"] - pairs["recv_end_ns"] - slack
    return int((early > 0).sum()), int(max(early.max(), 0)) if len(early) else 0


def with_prompt(events):
    """Does a micro-batch hold prompt tokens? More tokens than sequences says so."""
    return events["tokens"] > events["parts"]
