"""membw: time against bytes read, and what of the memory's speed was had."""
import numpy as np
import pandas as pd

from analysis import measure
from analysis.output import number, percent, pyplot, rank_colours, save_figure, span, stack, text_table, write_tables

WORK = ("step", "embed", "layer", "head", "qkv", "attend", "attn_out", "route", "ffn")
FEW = 8             # ranks, for a line and a name each
MOST_POINTS = 4000  # of one rank and kind in the picture


def run(traces, args):
    clocks = [clock_of(t, args.time) for t in traces]
    tables = [medians(t, clock) for t, clock in zip(traces, clocks)]
    together = pd.concat([table.assign(trace=t.path) for t, table in zip(traces, tables)], ignore_index=True)
    write_tables({"membw": together}, args.csv, args.json)
    if args.png:
        draw(traces, clocks, args.png)
    print("\n\n".join(map(text, traces, tables, clocks)))


def clock_of(t, choice):
    """Wall time says nothing about memory where ranks took turns on a core."""
    return choice if choice != "auto" else "cpu" if measure.core_doubts(t) else "wall"


def work_events(t, clock):
    """Events that read something, with bytes, seconds and phase."""
    e = t.of_kind(*WORK)
    ns = e["cpu_ns"] if clock == "cpu" else e["end_ns"] - e["start_ns"]
    e = e.assign(bytes=e["weight_bytes"] + e["kv_bytes"], seconds=ns / 1e9, phase=np.where(measure.with_prompt(e), "prompt", "decode"))
    return e[(e["bytes"] > 0) & (e["seconds"] > 0)]


def layer_groups(e):
    """For layer and kernel events, the run of neighbouring layers of the same make (dense or with experts) that they belong to."""
    groups = pd.Series("", index=e.index)
    layers = e[e["layer"] >= 0]
    for _, of_rank in layers.groupby("rank"):
        makes = of_rank.groupby("layer")["experts"].max() > 0
        run = (makes.ne(makes.shift()) | pd.Series(makes.index, makes.index).diff().ne(1)).cumsum()
        names = {}
        for _, members in makes.groupby(run):
            name = span(members.index[0], len(members)) + (" experts" if members.iloc[0] else " dense")
            names.update(dict.fromkeys(members.index, name))
        groups.loc[of_rank.index] = of_rank["layer"].map(names)
    return groups


def medians(t, clock):
    """One row per rank, event kind, layer group and phase."""
    e = work_events(t, clock)
    e = e.assign(layers=layer_groups(e), gb_per_s=e["bytes"] / e["seconds"] / 1e9, kind=e["kind"].astype(str))
    rows = []
    for (rank, kind, layers, phase), g in e.groupby(["rank", "kind", "layers", "phase"]):
        low, middle, high = g["gb_per_s"].quantile([0.1, 0.5, 0.9])
        rows.append({"rank": rank, "kind": kind, "layers": layers, "phase": phase, "events": len(g), "tokens": g["tokens"].median(),
                     "bytes": g["bytes"].median(), "kv_bytes": g["kv_bytes"].median(), "ms": g["seconds"].median() * 1e3,
                     "gb_per_s": middle, "gb_per_s_p10": low, "gb_per_s_p90": high})
    table = pd.DataFrame(rows, columns=["rank", "kind", "layers", "phase", "events", "tokens", "bytes", "kv_bytes", "ms",
                                        "gb_per_s", "gb_per_s_p10", "gb_per_s_p90"])
    table["probe_gb_per_s"] = table["rank"].map(measure.probe_speeds(t, clock) / 1e9)
    table["share_of_probe"] = table["gb_per_s"] / table["probe_gb_per_s"]
    table["clock"] = clock
    order = table["kind"].map({k: i for i, k in enumerate(WORK)})
    return table.assign(order=order).sort_values(["rank", "order", "layers", "phase"], ignore_index=True).drop(columns="order")


def text(t, table, clock):
    title = f"{t.path}: medians, time by {'the wall clock' if clock == 'wall' else 'CPU time of the recording thread'}"
    if not len(table):
        return title + "\n(no event read anything: nothing to show)"
    columns = ["rank", "event<", "layers<", "phase<", "events", "tokens", "MB", "of it KV", "ms", "GB/s", "10 % below", "10 % above",
               "probe GB/s", "of probe %"]
    rows = [[str(r.rank), r.kind, r.layers, r.phase, str(r.events), number(r.tokens), number(r.bytes / 1e6), number(r.kv_bytes / 1e6),
             number(r.ms), number(r.gb_per_s), number(r.gb_per_s_p10), number(r.gb_per_s_p90), number(r.probe_gb_per_s),
             percent(r.share_of_probe)] for r in table.itertuples()]
    return title + "\n" + text_table(columns, rows)


# --- picture ---

def draw(traces, clocks, path):
    plt = pyplot()
    layered = any(t.has("layer") for t in traces)
    fig, axes, _ = stack(plt, [5.6] * len(traces), 3 if layered else 2, 17 if layered else 12)
    for row, t, clock in zip(axes, traces, clocks):
        e = work_events(t, clock)
        scatter(row[0], t, e[e["kind"] == "step"], f"One step: {t.name}", clock, legend=True)
        if layered:
            scatter(row[1], t, e[e["kind"].isin(("layer", "head"))], "One layer, or the output head", clock)
        inner = e[e["kind"].isin(("layer", "head"))] if t.has("layer") else e[e["kind"] == "step"]
        distribution(row[-1], t, inner, "layers and head" if t.has("layer") else "steps", clock)
    save_figure(fig, path)
    plt.close(fig)


def thin(e):
    """At most MOST_POINTS, evenly chosen."""
    return e if len(e) <= MOST_POINTS else e.iloc[np.linspace(0, len(e) - 1, MOST_POINTS).astype(int)]


def scatter(ax, t, e, title, clock, legend=False):
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    ranks = list(t.ranks["rank"])
    colours = dict(zip(ranks, rank_colours(len(ranks))))
    if not len(e):
        ax.set_title(title, loc="left")
        ax.text(0.5, 0.5, "no events that read anything\n(record with --trace-level layer)", ha="center", va="center",
                transform=ax.transAxes)
        return
    for (rank, phase), g in e.groupby(["rank", "phase"]):
        g = thin(g)
        ax.plot(g["bytes"] / 1e6, g["seconds"] * 1e3, linestyle="", marker="^" if phase == "prompt" else "o", markersize=5, alpha=0.45,
                markerfacecolor="none" if phase == "prompt" else colours[rank], markeredgecolor=colours[rank],
                markeredgewidth=0.8 if phase == "prompt" else 0, rasterized=True)
    log = (e[["bytes", "seconds"]].max() > 20 * e[["bytes", "seconds"]].min()).any()
    lo, hi = (e["bytes"].min() / 1e6 / 1.5 if log else 0), e["bytes"].max() / 1e6 * (1.5 if log else 1.08)
    speeds = measure.probe_speeds(t, clock)
    if len(speeds) > FEW:
        ends = np.array([lo, hi]) * 1e9
        ax.fill_between([lo, hi], ends / speeds.max(), ends / speeds.min(), color="#555555", alpha=0.3, linewidth=0, zorder=1)
    else:
        for rank, speed in speeds.items():
            ax.plot([lo, hi], [lo * 1e9 / speed, hi * 1e9 / speed], color=colours[rank], linewidth=1.1, linestyle=(0, (5, 2)), zorder=1)
    ax.set_xlim(lo, hi)
    if log:
        ax.set_xscale("log")
        ax.set_yscale("log")
        plain_ticks(ax)
    else:
        ax.set_ylim(0, None)
    ax.grid(True)
    ax.set_xlabel("bytes read (weights and KV cache), MB")
    ax.set_ylabel("time, ms" if clock == "wall" else "CPU time of the recording thread, ms")
    ax.set_title(title, loc="left")
    if not legend:
        return
    some = ranks if len(ranks) <= FEW else [ranks[0], ranks[len(ranks) // 2], ranks[-1]]
    probed = {r: f": {speeds[r] / 1e9:.1f} GB/s probed" if r in speeds else "" for r in some}
    marks = [Line2D([], [], linestyle="", marker="o", color=colours[r], label=f"rank {r}{probed[r]}") for r in some]
    marks.append(Line2D([], [], linestyle="", marker="o", color="#555555", label="decoding"))
    if (e["phase"] == "prompt").any():
        marks.append(Line2D([], [], linestyle="", marker="^", markerfacecolor="none", color="#555555", label="with prompt tokens"))
    if len(speeds):
        marks.append(Patch(color="#555555", alpha=0.3, linewidth=0, label="as fast as the ranks' probes") if len(speeds) > FEW else
                     Line2D([], [], color="#555555", linewidth=1.1, linestyle=(0, (5, 2)), label="as fast as the probe"))
    ax.legend(handles=marks, frameon=True, framealpha=0.9, edgecolor="none", loc="upper left", fontsize=9)


def plain_ticks(ax):
    """1, 2, 5, 10 ... instead of powers, as many as fit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    for axis, (lo, hi) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        axis.set_major_locator(LogLocator(10, (1, 2, 5) if hi / lo < 300 else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.12g}"))
        axis.set_minor_formatter(NullFormatter())


def distribution(ax, t, e, what, clock):
    """Share of the bytes that were read at that speed or slower; a rank's probe is a vertical line."""
    ranks = list(t.ranks["rank"])
    colours = dict(zip(ranks, rank_colours(len(ranks))))
    top = 0
    for rank, g in e.groupby("rank"):
        speed = (g["bytes"] / g["seconds"] / 1e9).to_numpy()
        order = np.argsort(speed)
        share = 100 * np.cumsum(g["bytes"].to_numpy()[order]) / g["bytes"].sum()
        ax.plot(np.append(speed[order[0]], speed[order]), np.append(0, share), color=colours[rank], drawstyle="steps-post",
                **({"linewidth": 1.8} if len(ranks) <= FEW else {"linewidth": 0.9, "alpha": 0.6}))
        top = max(top, np.quantile(speed, 0.995))
    speeds = measure.probe_speeds(t, clock) / 1e9
    if len(speeds) > FEW:
        ax.axvspan(speeds.min(), speeds.max(), color="#555555", alpha=0.3, linewidth=0)
    else:
        for rank, speed in speeds.items():
            ax.axvline(speed, color=colours[rank], linewidth=1.1, linestyle=(0, (5, 2)))
    top = max([top, *speeds])
    ax.set_xlim(0, top * 1.08 or 1)
    ax.set_ylim(0, 101)
    ax.grid(True)
    of = " per second of CPU time" if clock == "cpu" else ""
    ax.set_xlabel(f"GB/s{of} ({what})" + (f"; {'shaded' if len(speeds) > FEW else 'dashed'}: probed" if len(speeds) else ""))
    ax.set_ylabel("bytes read at this speed or slower, %")
    ax.set_title("How fast the bytes came", loc="left")
