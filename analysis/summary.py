"""summary: the run in tables."""
import numpy as np
import pandas as pd

from analysis import measure
from analysis.output import (COLOURS, count, duration, layers, number, percent, pyplot, save_figure, span, stack, text_table,
                             write_tables)


def run(traces, args):
    runs = pd.DataFrame([run_row(t) for t in traces])
    ranks = pd.concat([rank_table(t).assign(trace=t.path) for t in traces], ignore_index=True)
    experts = pd.concat([expert_table(t).assign(trace=t.path) for t in traces], ignore_index=True)
    notes = [warnings(t) for t in traces]
    warned = pd.DataFrame([(t.path, w) for t, note in zip(traces, notes) for w in note], columns=["trace", "warning"])
    write_tables({"ranks": ranks, "run": runs, "experts": experts, "warnings": warned}, args.csv, args.json)
    if args.png:
        draw(traces, args.png)
    print("\n\n".join(text(t, row, note) for t, (_, row), note in zip(traces, runs.iterrows(), notes)))
    if len(traces) > 1:
        print("\n" + compare(runs))


# --- numbers ---

def run_row(t):
    """One row about the run. A rate is tokens by the time in which any request was at it: several at once count once."""
    r = t.requests[(t.requests["first_token_ns"] > 0) & (t.requests["finish_reason"] != "error")]
    prompt_s = measure.union_ns(r["started_ns"].to_numpy(), r["first_token_ns"].to_numpy()) / 1e9
    decode_s = measure.union_ns(r["first_token_ns"].to_numpy(), r["finished_ns"].to_numpy()) / 1e9
    after_first = int((r["completion_tokens"] - 1).clip(lower=0).sum())
    ttft = (r["first_token_ns"] - r["arrived_ns"]) / 1e9
    queue = (r["started_ns"] - r["arrived_ns"]) / 1e9
    return {
        "trace": t.path, "model": str(t.run.get("model", "")), "ranks": len(t.all_ranks), "traced_ranks": len(t.ranks),
        "stages": int(t.all_ranks["stage"].nunique()),
        "threads": int(t.all_ranks["threads"].sum()), "hosts": int(t.all_ranks["host"].nunique()), "seconds": t.seconds,
        "requests": len(t.requests), "failed_requests": int((t.requests["finish_reason"] == "error").sum()),
        "prompt_tokens": int(t.requests["prompt_tokens"].sum()), "generated_tokens": int(t.requests["completion_tokens"].sum()),
        "prompt_tokens_per_s": r["prompt_tokens"].sum() / prompt_s if prompt_s > 0 else np.nan,
        "generation_tokens_per_s": after_first / decode_s if decode_s > 0 else np.nan,
        "ttft_median_s": ttft.median(), "ttft_max_s": ttft.max(), "queue_median_s": queue.median(),
        "wall_is_parallel": not measure.core_doubts(t), "events": len(t.events), "dropped_events": int(t.all_ranks["dropped"].sum()),
    }


def rank_table(t):
    """One row per rank; shares are of the run's time, on_core is CPU time by time of its steps."""
    ranks = t.ranks.set_index("rank")
    use, work, sent = measure.time_use(t), measure.work_totals(t), measure.message_totals(t)
    run_ns = max(t.end_ns - t.start_ns, 1)
    out = ranks[["host", "stage", "member", "threads", "first_layer", "n_layers"]].copy()
    out["steps"] = work["steps"]
    for name in ("busy", "gather", "wait", "send", "schedule", "idle", "other"):
        out[f"{name}_share"] = use[name] / run_ns
    busy = use["busy"].replace(0, np.nan)
    read = work["weight_bytes"] + work["kv_bytes"]
    out["on_core"] = work["cpu_ns"] / (use["busy"] + use["gather"]).replace(0, np.nan)  # steps as a whole: a wait may spin
    out["weight_bytes_read"], out["kv_bytes_read"] = work["weight_bytes"], work["kv_bytes"]
    out["read_gb_per_s"] = read / busy
    out["read_gb_per_cpu_s"] = read / work["cpu_ns"].replace(0, np.nan)
    out["probe_gb_per_s"] = measure.probe_speeds(t) / 1e9
    out["probe_gb_per_cpu_s"] = measure.probe_speeds(t, "cpu") / 1e9
    out = out.join(sent)
    out["slice_bytes"], out["kv_bytes"], out["baseline_bytes"] = ranks["slice_bytes"], ranks["kv_bytes"], ranks["baseline_bytes"]
    out["peak_rss_bytes"] = ranks["peak_rss_bytes"]
    out["over_bytes"] = (ranks["peak_rss_bytes"].astype(np.int64) - ranks["slice_bytes"].astype(np.int64)
                         - ranks["kv_bytes"].astype(np.int64) - ranks["baseline_bytes"].astype(np.int64))
    return out.reset_index()


def expert_table(t):
    """Distinct experts that a layer reads in a step, by layer and by tokens in the step."""
    e = t.of_kind("layer")
    e = e[e["experts"] > 0]
    table = e.groupby(["layer", "tokens"])["experts"].agg(steps="size", mean="mean", least="min", most="max").reset_index()
    total, top = t.run.get("experts"), t.run.get("experts_per_token")
    known = isinstance(total, int) and isinstance(top, int) and 0 < top <= total
    # n tokens that choose k of E experts evenly and independently miss one with (1 - k/E)^n
    table["even_routing"] = total * (1 - (1 - top / total) ** table["tokens"]) if known else np.nan
    return table


def warnings(t):
    notes = [f"{doubt}; wall time is not parallel time: shares of the run and GB/s by the wall clock say little"
             for doubt in measure.core_doubts(t)]
    dropped = t.all_ranks[t.all_ranks["dropped"] > 0]
    if len(dropped):
        notes.append(f"{dropped['dropped'].sum()} events of {count(len(dropped), 'rank')} were lost (the disk was full): sums are too small")
    pairs = measure.messages(t)
    early, worst = measure.clock_doubts(t, pairs)
    if early:
        notes.append(f"{early} of {len(pairs)} messages arrive before they are sent, by up to {number(worst / 1e3)} us more than the "
                     "clocks' uncertainty: clocks drifted; times between ranks are no better than that")
    if not len(t.events):
        notes.append("no events: nothing was recorded")
    return notes


# --- text ---

def text(t, row, notes):
    head = t.run.get("command") or ""
    lines = [f"{t.path}: {row['model'] or 'a run'} on {count(row['ranks'], 'rank')}"]
    if head:
        lines.append(f"  {head}")
    lines += [""] + run_lines(t, row)
    lines += ["", "time and reading per rank (busy, gather, wait, other: of the run; gather: exchanging inside the stage)", time_lines(t)]
    lines += ["", "messages and memory per rank", memory_lines(t)]
    experts = expert_lines(t)
    if experts:
        lines += ["", experts]
    lines += [f"\nwarning: {n}" for n in notes]
    return "\n".join(lines)


def run_lines(t, row):
    build, revision = str(t.run.get("version", "")), str(t.run.get("revision", ""))
    build = build if revision in build else f"{build} {revision}"
    arithmetic = ", ".join(f"{k} {t.run[k]}" for k in ("activations", "kv", "kernels") if t.run.get(k))
    lines = int(t.run.get("replicas", 1))
    replicas = f" in each of {lines} lines side by side" if lines > 1 else ""
    rows = [
        ("layout", f"{count(row['stages'], 'stage')}{replicas}, {count(row['ranks'], 'rank')} on {count(row['hosts'], 'host')}, "
                   f"{count(row['threads'], 'thread')}"),
        ("program", ", ".join(x for x in (build, arithmetic) if x) or "-"),
        ("requests", f"{row['requests']}" + (f", {row['failed_requests']} failed" if row["failed_requests"] else "")),
        ("tokens", f"{row['prompt_tokens']} prompt, {row['generated_tokens']} generated, in {duration(row['seconds'])}"),
        ("tokens/s", f"{number(row['prompt_tokens_per_s'])} prompt, {number(row['generation_tokens_per_s'])} generation"),
        ("first token", f"median {duration(row['ttft_median_s'])}, longest {duration(row['ttft_max_s'])} after the request arrived; "
                        f"in the queue: median {duration(row['queue_median_s'])}"),
    ]
    if row["traced_ranks"] < row["ranks"]:
        rows.insert(1, ("traced", f"{row['traced_ranks']} of {row['ranks']} ranks: tables and sums are of these"))
    if not t.run.get("ended", True):
        rows[[k for k, _ in rows].index("requests"):] = [("requests", "unknown: the run did not end; its events were collected afterwards")]
    return [f"  {k:<13}{v}" for k, v in rows]


def time_lines(t):
    short = bool(measure.core_doubts(t))
    table = rank_table(t)
    gathers = ["gather %"] if table["gather_share"].max() > 0 else []
    columns = ["rank", "stage", "layers<", "steps", "busy %", *gathers, "wait %", "other %", "on core %", "GB read", "GB/s busy"]
    columns += ["probe GB/s"] if not short else ["GB/s on core", "probe GB/s on core"]
    columns += ["of probe %"]
    rows = []
    for r in table.itertuples():
        speed, probe = (r.read_gb_per_cpu_s, r.probe_gb_per_cpu_s) if short else (r.read_gb_per_s, r.probe_gb_per_s)
        row = [str(r.rank), str(r.stage), span(r.first_layer, r.n_layers), str(r.steps), percent(r.busy_share),
               *([percent(r.gather_share)] if gathers else []), percent(r.wait_share),
               percent(r.send_share + r.schedule_share + r.idle_share + r.other_share), percent(r.on_core),
               number((r.weight_bytes_read + r.kv_bytes_read) / 1e9), number(r.read_gb_per_s)]
        rows.append(row + ([number(speed)] if short else []) + [number(probe), percent(speed / probe)])
    return text_table(columns, rows)


def memory_lines(t):
    columns = ["rank", "host<", "sent", "MB", "received", "MB", "slice MB", "KV MB", "baseline MB", "peak MB", "over MB"]
    rows = []
    for r in rank_table(t).itertuples():
        memory = (r.slice_bytes, r.kv_bytes, r.baseline_bytes, r.peak_rss_bytes, r.over_bytes)
        rows.append([str(r.rank), r.host, str(r.messages_sent), number(r.bytes_sent / 1e6), str(r.messages_received),
                     number(r.bytes_received / 1e6)] + [f"{b / 1e6:.1f}" for b in memory])
    return text_table(columns, rows)


def expert_lines(t):
    table = expert_table(t)
    if not len(table):
        return ""
    rows = []
    for tokens, g in table.groupby("tokens"):
        mean = (g["mean"] * g["steps"]).sum() / g["steps"].sum()
        rows.append([str(tokens), str(int(g["steps"].max())), number(mean), number(g["mean"].min()), number(g["mean"].max()),
                     number(g["even_routing"].iloc[0])])
    left = len(rows) - 20  # the usual step sizes are few; the rest is in the CSV
    if left > 0:
        rows = sorted(sorted(rows, key=lambda r: -int(r[1]))[:20], key=lambda r: int(r[0]))
    columns = ["tokens in step", "steps", "mean", "layer with fewest", "layer with most", "if routed evenly"]
    return (f"distinct experts read per layer and step ({table['layer'].nunique()} layers with experts)\n" + text_table(columns, rows)
            + (f"\n({left} rarer step sizes are in --csv)" if left > 0 else ""))


def compare(runs):
    columns = ["trace<", "ranks", "threads", "s", "prompt tokens/s", "generation tokens/s", "first token s", "wall is parallel<"]
    rows = [[r.trace, str(r.ranks), str(r.threads), number(r.seconds), number(r.prompt_tokens_per_s), number(r.generation_tokens_per_s),
             number(r.ttft_median_s), "yes" if r.wall_is_parallel else "no"] for r in runs.itertuples()]
    return "all runs\n" + text_table(columns, rows)


# --- picture ---

USE_STYLE = (("busy", "computing", COLOURS[0], ""), ("gather", "exchanging inside the stage", "#c9d8ea", "\\\\\\\\"), ("wait", "waiting for a message", "#e4e4e4", "////"),
             ("send", "sending", COLOURS[1], ""), ("schedule", "scheduling", COLOURS[2], ""),
             ("idle", "idle: no request", "#f7f7f7", "...."), ("other", "other", "#b5b5b5", ""))


def draw(traces, path):
    """Where each rank's time went; beside it, for models with experts, how many a step reads."""
    plt = pyplot()
    experts = [expert_table(t) for t in traces]
    wide = any(len(e) for e in experts)
    heights = [1.5 + 0.36 * min(len(t.ranks), 48) + (1.6 if len(e) else 0) for t, e in zip(traces, experts)]
    fig, axes, below = stack(plt, heights, 2 if wide else 1, 14 if wide else 9, legend_lines=1 if wide else 2)
    uses = {}
    for row, t, e in zip(axes, traces, experts):
        uses.update(draw_use(row[0], t))
        if len(e):
            draw_experts(row[1], t, e)
            if len(t.ranks) > 12:
                row[1].set_box_aspect(0.7)
                row[1].set_anchor("N")
        elif wide:
            row[1].axis("off")
    below.legend(handles=[uses[u] for u, *_ in USE_STYLE if u in uses], loc="center left", ncol=6 if wide else 3, frameon=False)
    save_figure(fig, path)
    plt.close(fig)


def draw_use(ax, t):
    table = rank_table(t)
    left = np.zeros(len(table))
    y = np.arange(len(table))
    drawn = {}
    for use, label, colour, hatch in USE_STYLE:
        share = 100 * table[f"{use}_share"].to_numpy()
        if use not in ("busy", "wait") and share.max() < 0.05:
            left += share
            continue
        drawn[use] = ax.barh(y, share, left=left, height=0.72, color=colour, hatch=hatch, edgecolor="#a0a0a0" if hatch else colour,
                             linewidth=0, label=label)
        left += share
    step = max(1, len(table) // 32)
    ax.set_yticks(y[::step], [f"rank {r.rank} ({layers(r.first_layer, r.n_layers)})" for r in table.iloc[::step].itertuples()])
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlim(0, 100)
    ax.set_xlabel(f"share of the run's {duration(t.seconds)}, %")
    doubt = "\n(cores were shared: wall time is not parallel time)" if measure.core_doubts(t) else ""
    ax.set_title(f"Where the time went: {t.name}{doubt}", loc="left")
    return drawn


def draw_experts(ax, t, table):
    by_tokens = table.assign(sum=table["mean"] * table["steps"]).groupby("tokens").agg(steps=("steps", "sum"), sum=("sum", "sum"),
                                                                                       least=("mean", "min"), most=("mean", "max"))
    x = by_tokens.index.to_numpy()
    mean = by_tokens["sum"] / by_tokens["steps"]
    ax.errorbar(x, mean, (mean - by_tokens["least"], by_tokens["most"] - mean), fmt="o", color=COLOURS[0], markersize=5, capsize=3,
                linewidth=1.2, label="mean over layers and steps; bar: layers with fewest and most")
    even = table.groupby("tokens")["even_routing"].first()
    if even.notna().all():
        total, top = t.run["experts"], t.run["experts_per_token"]
        n = np.linspace(1, x.max(), 200)
        ax.plot(n, total * (1 - (1 - top / total) ** n), "--", color="#555555", label=f"even, independent choice of {top} of {total}")
        ax.axhline(total, color="#999999", linewidth=1)
        ax.text(x.max(), total, f" all {total}", va="bottom", ha="right", color="#555555")
    if x.max() > 20 * max(1, x.min()):
        ax.set_xscale("log")
    ax.set_ylim(0, None)
    ax.set_xlabel("tokens in the step")
    ax.set_ylabel("distinct experts read per layer")
    ax.set_title("Experts read against tokens", loc="left")
    ax.grid(True)
    ax.legend(frameon=False, loc="lower right")
