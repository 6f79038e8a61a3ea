"""Tables to the terminal, CSV, JSON and pictures to files that appear under their name only when complete."""
import json
import math
import os

import numpy as np


class OutputError(Exception):
    """str() is `FILE: CAUSE (REMEDY)`."""


class UsageError(Exception):
    """An option that does not fit the trace."""


def write_file(path, write, binary=False):
    """write(file) into a new file beside path, then renamed."""
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "wb" if binary else "w", **({} if binary else {"encoding": "utf-8", "newline": ""})) as f:
            write(f)
        os.replace(part, path)
    except OSError as e:
        raise OutputError(f"{path}: cannot be written: {e.strerror or e} (choose another place)") from None
    finally:
        if os.path.exists(part):
            os.unlink(part)


def write_tables(tables, csv=None, json_path=None):
    """tables: {name: DataFrame}, the main one first. CSV: the main one under the given name, the others with -NAME before the
    extension; JSON: one object with a list of rows per table."""
    if csv:
        stem, ext = os.path.splitext(csv)
        for i, (name, table) in enumerate(tables.items()):
            write_file(csv if i == 0 else f"{stem}-{name}{ext}", lambda f, t=table: t.to_csv(f, index=False))
    if json_path:
        rows = {name: [{k: _plain(v) for k, v in row.items()} for row in table.to_dict("records")]
                for name, table in tables.items()}
        write_file(json_path, lambda f: (json.dump(rows, f, indent=1, ensure_ascii=False), f.write("\n")))


def _plain(v):
    if isinstance(v, np.generic):
        v = v.item()
    return None if isinstance(v, float) and not math.isfinite(v) else v


def pyplot():
    """matplotlib without a screen, in one style for all pictures."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({
        "font.family": "DejaVu Sans", "font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11, "legend.fontsize": 10,
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555", "axes.axisbelow": True,
        "grid.color": "#dddddd", "grid.linewidth": 0.8, "hatch.linewidth": 0.7, "figure.dpi": 100, "savefig.dpi": 150,
    })
    return plt


def stack(plt, heights, columns, width, legend_lines=0):
    """A figure with a row of axes per height (inches), and an empty strip below for a legend: figure, axes, strip or None."""
    strip = [0.3 * legend_lines + 0.1] if legend_lines else []
    fig = plt.figure(figsize=(width, sum(heights) + sum(strip)), layout="constrained")
    grid = fig.add_gridspec(len(heights) + len(strip), columns, height_ratios=list(heights) + strip)
    axes = np.array([[fig.add_subplot(grid[i, j]) for j in range(columns)] for i in range(len(heights))], dtype=object)
    below = fig.add_subplot(grid[-1, :]) if strip else None
    if below is not None:
        below.axis("off")
    return fig, axes, below


def save_figure(fig, path):
    write_file(path, lambda f: fig.savefig(f, format="png"), binary=True)


# Okabe and Ito's colours, which the colour-blind tell apart; black and grey are kept for other things.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def rank_colours(n):
    """A colour per rank: distinct ones for few, a scale along the line for many."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    import matplotlib
    scale = matplotlib.colormaps["viridis"]
    return [scale(i / (n - 1)) for i in range(n)]


def text_table(headings, rows):
    """Aligned text; rows of strings. A heading that ends in < is a column of words, on the left."""
    left = [h.endswith("<") for h in headings]
    rows = [[h.rstrip("<") for h in headings]] + rows
    width = [max(len(r[i]) for r in rows) for i in range(len(headings))]
    return "\n".join("  ".join(c.ljust(w) if to_left else c.rjust(w) for c, w, to_left in zip(r, width, left)).rstrip() for r in rows)


def number(x, digits=3):
    """A number with so many significant digits, no exponent; '-' for none."""
    if x is None or (isinstance(x, float) and not math.isfinite(x)):
        return "-"
    if x == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(x))))
    return f"{x:.{min(decimals, 9)}f}"


def duration(seconds):
    """With the unit that suits it."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns")):
        if abs(seconds) * factor >= 1:
            return f"{number(seconds * factor)} {unit}"
    return "0 s"


def percent(x):
    return "-" if x is None or not math.isfinite(x) else f"{100 * x:.1f}"


def span(first, n):
    """Layers as people write them: 0-7."""
    return "-" if n <= 0 else str(first) if n == 1 else f"{first}-{first + n - 1}"


def layers(first, n):
    return "no layer" if n <= 0 else f"layer{'s' if n > 1 else ''} {span(first, n)}"


def count(n, thing):
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
