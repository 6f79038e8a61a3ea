"""timeline: the assembly line, ranks down, time across; as a picture and as trace-event JSON for Perfetto."""
import json

import numpy as np
import pandas as pd

from analysis import measure
from analysis.output import (COLOURS, UsageError, count, layers, number, percent, pyplot, save_figure, stack, text_table, write_file,
                             write_tables)

PICTURE_BARS = 150   # steps that the default window shows over all rows, about
MOST_LINES = 400     # more messages than this are not drawn


def run(traces, args):
    windows = [window(t, args) for t in traces]
    uses = [measure.time_use(t, *w.span).loc[w.ranks] for t, w in zip(traces, windows)]
    write_tables({"ranks": pd.concat(map(share_table, traces, windows, uses), ignore_index=True),
                  "events": pd.concat(map(event_table, traces, windows), ignore_index=True)}, args.csv, args.json)
    if args.png:
        draw(traces, windows, args.png)
    if args.perfetto:
        chosen = args.from_ms is not None or args.to_ms is not None or args.steps
        perfetto(traces[0], windows[0] if chosen else Window((-np.inf, np.inf), windows[0].ranks, ""), args.perfetto)
    print("\n\n".join(map(text, traces, windows, uses)))


def share_table(t, w, use):
    table = (use / 1e6).add_suffix("_ms").reset_index()
    share = use["busy"].to_numpy() / (w.span[1] - w.span[0])
    return table.assign(busy_share=share, from_ms=ms(t, w.span[0]), to_ms=ms(t, w.span[1]), trace=t.path)


def event_table(t, w):
    e = visible(t, w)
    table = e[["rank", "kind", "microbatch", "layer", "tokens", "parts", "peer", "msg_bytes"]].astype({"kind": str})
    return table.assign(start_ms=ms(t, e["start_ns"]), end_ms=ms(t, e["end_ns"]), trace=t.path)


def ms(t, ns):
    """Milliseconds since the start of the run."""
    return (ns - t.start_ns) / 1e6


# --- what to show ---

class Window:
    def __init__(self, time_span, ranks, words):
        self.span, self.ranks, self.words = time_span, ranks, words


def window(t, args):
    ranks = list(t.ranks["rank"])
    if args.ranks:
        ranks = [r for r in ranks if args.ranks[0] <= r <= args.ranks[1]]
        if not ranks:
            raise UsageError(f"--ranks {args.ranks[0]}:{args.ranks[1]}: the trace has ranks 0 to {t.ranks['rank'].max()}")
    if args.all:
        return Window((t.start_ns, t.end_ns), ranks, "the whole run")
    if args.from_ms is not None or args.to_ms is not None:
        lo = t.start_ns if args.from_ms is None else t.start_ns + int(args.from_ms * 1e6)
        hi = t.end_ns if args.to_ms is None else t.start_ns + int(args.to_ms * 1e6)
        if hi <= t.start_ns or lo >= t.end_ns or lo >= hi:
            raise UsageError(f"--from, --to: the run lasts from 0 to {ms(t, t.end_ns):.0f} ms")
        return Window((lo, hi), ranks, f"from {ms(t, lo):.0f} to {ms(t, hi):.0f} ms")
    steps = t.of_kind("step")
    numbers = np.sort(steps["microbatch"].unique())
    if args.steps:
        first, last = args.steps
        chosen = numbers[(numbers >= first) & (numbers <= last)]
        if not len(chosen):
            raise UsageError(f"--steps {first}:{last}: the trace has micro-batches {numbers.min() if len(numbers) else 0} to "
                             f"{numbers.max() if len(numbers) else 0}")
    else:
        wanted = int(np.clip(PICTURE_BARS // max(len(ranks), 1), 12, 40))
        if len(numbers) <= wanted:
            return Window((t.start_ns, t.end_ns), ranks, "the whole run")
        chosen = numbers[(len(numbers) - wanted) // 2:][:wanted]
    e = steps[steps["microbatch"].isin(chosen)]
    if args.steps:
        lo, hi = e["start_ns"].min(), e["end_ns"].max()
    else:  # of the first stage's passes: so the line is full from edge to edge
        first_rank = e[e["rank"] == t.ranks.sort_values(["stage", "member"])["rank"].iloc[0]]
        e = first_rank if len(first_rank) else e
        lo, hi = e["start_ns"].min(), e["end_ns"].max()
    return Window((int(lo), int(hi)), ranks, f"micro-batches {chosen[0]} to {chosen[-1]} of {numbers[-1] + 1}")


def visible(t, w):
    e = t.events
    return e[(e["end_ns"] > w.span[0]) & (e["start_ns"] < w.span[1]) & e["rank"].isin(w.ranks)]


def text(t, w, use):
    ns = w.span[1] - w.span[0]
    columns = ["rank"] + [f"{c} %" for c in use.columns]
    rows = [[str(rank)] + [percent(v / ns) for v in row] for rank, row in zip(use.index, use.to_numpy())]
    short = "".join(f"\nwarning: {doubt}; wall time is not parallel time" for doubt in measure.core_doubts(t))
    return (f"{t.path}: {w.words}, {number(ms(t, w.span[0]), 6)} to {number(ms(t, w.span[1]), 6)} ms after the start of the run\n"
            + text_table(columns, rows) + short)


# --- picture ---

WAIT_STYLE = {"facecolor": "#e6e6e6", "edgecolor": "#ababab", "hatch": "////", "linewidth": 0}
IDLE_STYLE = {"facecolor": "#fafafa", "edgecolor": "#c8c8c8", "hatch": "....", "linewidth": 0}
LINK_STYLE = {"facecolor": "#333333", "linewidth": 0}
PASS_STYLE = {"color": "#222222", "linewidth": 0.9, "zorder": 2}
RETURN_STYLE = {"color": "#8a8a8a", "linewidth": 0.7, "linestyle": (0, (4, 3)), "zorder": 1.5}
TALL, LOW = 0.76, 0.52  # of a row: micro-batches with prompt tokens, and others


def draw(traces, windows, path):
    plt = pyplot()
    heights = [1.3 + max(1.6, min((0.66 if len(w.ranks) <= 16 else 0.5) * len(w.ranks), 22)) for w in windows]
    fig, axes, below = stack(plt, heights, 1, 16, legend_lines=2)
    for ax, t, w in zip(axes[:, 0], traces, windows):
        draw_line(ax, t, w)
    legend(below, traces, windows)
    save_figure(fig, path)
    plt.close(fig)


def bars(ax, t, w, e, y, height, **style):
    """Rectangles for the events, cut off at the window."""
    if not len(e):
        return
    start = np.maximum(e["start_ns"].to_numpy(), w.span[0])
    end = np.minimum(e["end_ns"].to_numpy(), w.span[1])
    ax.broken_barh(list(zip(ms(t, start), (end - start) / 1e6)), (y - height / 2, height), **style)


def draw_line(ax, t, w):
    lo, hi = ms(t, w.span[0]), ms(t, w.span[1])
    ax.set_xlim(lo, hi)
    ax.set_ylim(len(w.ranks) - 0.4, -0.6)
    e = visible(t, w)
    width_px = 2100 / (hi - lo)  # of a millisecond, about
    for y, rank in enumerate(w.ranks):
        of_rank = e[e["rank"] == rank]
        bars(ax, t, w, of_rank[of_rank["kind"] == "recv"], y, LOW, **WAIT_STYLE)
        bars(ax, t, w, of_rank[of_rank["kind"] == "idle"], y, LOW, **IDLE_STYLE)
        bars(ax, t, w, of_rank[of_rank["kind"].isin(("send", "schedule"))], y, LOW, **LINK_STYLE)
        steps = of_rank[of_rank["kind"].isin(("step", "sample"))]
        prompt = measure.with_prompt(steps)
        for k, colour in enumerate(COLOURS):
            mine = steps["microbatch"] % len(COLOURS) == k
            bars(ax, t, w, steps[mine & ~prompt], y, LOW, facecolor=colour, edgecolor="white", linewidth=0.4, zorder=3)
            bars(ax, t, w, steps[mine & prompt], y, TALL, facecolor=colour, edgecolor="#222222", linewidth=1.3, zorder=3)
        for s in steps[steps["kind"] == "step"].itertuples():
            a, b = max(ms(t, s.start_ns), lo), min(ms(t, s.end_ns), hi)
            if (b - a) * width_px > 9 * len(str(s.microbatch)) + 6:
                dark = s.microbatch % len(COLOURS) in (0, 2, 5)
                ax.text((a + b) / 2, y, str(s.microbatch), ha="center", va="center", fontsize=9, color="white" if dark else "#222222",
                        zorder=5)
    lines(ax, t, w)
    busy = measure.time_use(t, *w.span)["busy"] / (w.span[1] - w.span[0])
    step = max(1, len(w.ranks) // 40)
    by_rank = t.ranks.set_index("rank")
    ax.set_yticks(range(0, len(w.ranks), step), [f"rank {r}\n{layers(by_rank.loc[r, 'first_layer'], by_rank.loc[r, 'n_layers'])}"
                                                  for r in w.ranks[::step]])
    for y in range(0, len(w.ranks), step):
        ax.text(1.006, y, f"{100 * busy[w.ranks[y]]:.0f} % busy", transform=ax.get_yaxis_transform(), va="center", fontsize=10,
                color="#444444")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("time since the start of the run, ms")
    doubts = measure.core_doubts(t)
    model = f"{t.run['model']}, " if t.run.get("model") else ""
    ax.set_title(f"{t.name}: {model}{count(len(t.all_ranks), 'rank')} on {count(t.all_ranks['host'].nunique(), 'host')}, {w.words}",
                 loc="left", pad=22 if doubts else 8)
    if doubts:
        ax.text(0, 1.01, f"{doubts[0]}; wall time is not parallel time", transform=ax.transAxes, color="#B03A00", va="bottom")


def lines(ax, t, w):
    """Messages: from the sender's row to the receiver's, where not too many."""
    from matplotlib.collections import LineCollection
    row = {r: y for y, r in enumerate(w.ranks)}
    for (src, dst), pairs in shown_messages(t, w).groupby(["src", "dst"]):
        a, b = row[src], row[dst]
        down = 1 if b > a else -1
        under_way = (pairs["recv_end_ns"] - pairs["send_end_ns"]).clip(lower=0).sum() / (w.span[1] - w.span[0])  # on average
        times = zip(ms(t, pairs["send_end_ns"]), ms(t, pairs["recv_end_ns"]))
        ends = [[(x0, a + down * LOW / 2), (x1, b - down * LOW / 2)] for x0, x1 in times]
        ax.add_collection(LineCollection(ends, alpha=min(1, 6 / max(under_way, 1)), **(PASS_STYLE if down > 0 else RETURN_STYLE)))


def messages_in(t, w):
    pairs = measure.messages(t)
    inside = (pairs["recv_end_ns"] > w.span[0]) & (pairs["send_start_ns"] < w.span[1])
    return pairs[inside & pairs["src"].isin(w.ranks) & pairs["dst"].isin(w.ranks)]


def shown_messages(t, w):
    pairs = messages_in(t, w)
    return pairs if len(pairs) <= MOST_LINES else pairs.iloc[:0]


def legend(ax, traces, windows):
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    e = pd.concat([visible(t, w) for t, w in zip(traces, windows)])
    steps = e[e["kind"] == "step"]
    marks = [Patch(facecolor=COLOURS[0], edgecolor="white", label="a micro-batch (number and colour the same in every row)")]
    if measure.with_prompt(steps).any():
        marks.append(Patch(facecolor=COLOURS[0], edgecolor="#222222", linewidth=1.3, label="taller, framed: with prompt tokens"))
    marks.append(Patch(**WAIT_STYLE, label="waiting for a message"))
    if (e["kind"] == "idle").any():
        marks.append(Patch(**IDLE_STYLE, label="idle: no request"))
    marks.append(Patch(**LINK_STYLE, label="sending, scheduling"))
    marks.append(Patch(facecolor="white", edgecolor="#bbbbbb", label="white: not recorded (text, files, other programs)"))
    if any(len(shown_messages(t, w)) for t, w in zip(traces, windows)):
        marks.append(Line2D([], [], label="activations handed over", **PASS_STYLE))
        marks.append(Line2D([], [], label="sampled ids return", **RETURN_STYLE))
    ax.legend(handles=marks, loc="center", ncol=min(len(marks), 4), frameon=False)


# --- Perfetto ---

def perfetto(t, w, path):
    """Trace-event JSON: a process per rank, nested complete events, an arrow per message, micro-batches under way as a counter."""
    e = visible(t, w)
    by_rank = t.ranks.set_index("rank")
    origin = t.start_ns

    def us(ns):
        return round((int(ns) - origin) / 1e3, 3)

    def entries():
        for rank in w.ranks:
            r = by_rank.loc[rank]
            name = f"rank {rank}: {layers(r['first_layer'], r['n_layers'])} on {r['host']}"
            yield {"ph": "M", "name": "process_name", "pid": int(rank), "args": {"name": name}}
            yield {"ph": "M", "name": "process_sort_index", "pid": int(rank), "args": {"sort_index": int(rank)}}
        for rank, of_rank in e.groupby("rank", sort=True):
            tracks = nest(of_rank["start_ns"].to_numpy(), of_rank["end_ns"].to_numpy())
            for track in range(tracks.max() + 1):
                name = "chip" if track == 0 else f"overlapping {track}"
                yield {"ph": "M", "name": "thread_name", "pid": int(rank), "tid": track, "args": {"name": name}}
            for s, track in zip(of_rank.itertuples(), tracks):
                yield complete(s, int(track), us)
                if s.kind == "step":
                    read = s.weight_bytes + s.kv_bytes
                    rate = read / max(s.end_ns - s.start_ns, 1)
                    yield {"ph": "C", "name": "GB/s read", "pid": int(rank), "ts": us(s.start_ns), "args": {"GB/s": round(rate, 3)}}
                    yield {"ph": "C", "name": "GB/s read", "pid": int(rank), "ts": us(s.end_ns), "args": {"GB/s": 0}}
        for i, m in enumerate(messages_in(t, w).itertuples()):
            flow = {"cat": "message", "name": "message", "id": i}
            yield {"ph": "s", **flow, "pid": int(m.src), "tid": 0, "ts": us(m.send_start_ns)}
            yield {"ph": "f", "bp": "e", **flow, "pid": int(m.dst), "tid": 0, "ts": us(m.recv_end_ns)}

    def write(f):
        f.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        for i, entry in enumerate(entries()):
            f.write((",\n" if i else "") + json.dumps(entry, ensure_ascii=False))
        f.write("\n]}\n")

    write_file(path, write)


def complete(s, track, us):
    """One event with everything that is known of it."""
    name = s.kind
    if s.kind in ("step", "schedule"):
        name = f"{s.kind} {s.microbatch} ({s.tokens} token{'s' * (s.tokens != 1)})"
    elif s.kind in ("recv", "send"):
        name = f"{'wait for' if s.kind == 'recv' else 'send to'} {s.peer}"
    elif s.layer >= 0:
        name = f"{s.kind} {s.layer}"
    args = {"cpu_us": round(s.cpu_ns / 1e3, 3)}
    for field in ("weight_bytes", "kv_bytes", "msg_bytes", "tokens", "parts", "experts"):
        if getattr(s, field):
            args[field] = int(getattr(s, field))
    for field in ("microbatch", "layer", "peer"):
        if getattr(s, field) >= 0:
            args[field] = int(getattr(s, field))
    return {"ph": "X", "name": name, "cat": s.kind, "pid": int(s.rank), "tid": track, "ts": us(s.start_ns),
            "dur": round((s.end_ns - s.start_ns) / 1e3, 3), "args": args}


def nest(start, end):
    """The track of each event (sorted by start, longer ones first): on one track, events lie inside or beside each other."""
    open_ends, track = [[]], np.zeros(len(start), int)
    for i, (a, b) in enumerate(zip(start, end)):
        for k, stack in enumerate(open_ends):
            while stack and stack[-1] <= a:
                stack.pop()
            if not stack or b <= stack[-1]:
                break
        else:
            k, stack = len(open_ends), []
            open_ends.append(stack)
        stack.append(b)
        track[i] = k
    return track
