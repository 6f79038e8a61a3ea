"""What the commands say of three traces, every number and word, against what was recorded (tests/recorded.py)."""
import json
import shutil

import h5py
import numpy as np
import pytest

import synth
from conftest import HERE, by_hand
from recorded import page, short
from test_reader import V1

from analysis import membw, summary, timeline, trace


@pytest.mark.parametrize("command", ["summary", "timeline", "membw"])
def test_commands(command, run, hand, line, tmp_path):
    text = ""
    for path in (hand, line, V1):
        code, out, err = run(command, path, "--json", tmp_path / "j.json")
        text += f"== {path.rsplit('/', 1)[-1]}\nexit code {code}\n{out}{err}"
        text += short(json.dumps(json.loads((tmp_path / "j.json").read_text()), indent=1), 20000) + "\n"
    page(HERE, command, text)


def test_two_traces(run, hand, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # columns are as wide as names
    shutil.copy(line, "line.h5")
    text = ""
    for command in "summary", "membw":
        code, out, err = run(command, "hand.h5", "line.h5")
        text += f"exit code {code}\n{out}{err}"
    page(HERE, "two", text)


def test_help(run):
    page(HERE, "help", "".join(run(*command, "--help")[1] for command in ([], ["summary"], ["timeline"], ["membw"])))


def test_all_that_is_read(hand, line):
    """Every column of every table, with what stands for one that an old trace lacks."""
    text = ""
    for path in (hand, V1):
        t = trace.load(path)
        for name in ("kinds", "ranks", "requests", "parts", "events"):
            table = getattr(t, name)
            text += f"== {name}\n" + table.head(12).to_csv()
    page(HERE, "tables", text)


def shape(artist):
    """Where it is drawn and how."""
    from matplotlib import colors
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D

    def colour(c):
        return "".join(sorted({colors.to_hex(one, keep_alpha=True) for one in colors.to_rgba_array(c)}))
    if isinstance(artist, Line2D):
        points, how = artist.get_xydata(), (artist.get_linestyle(), artist.get_marker()) + tuple(
            map(colour, (artist.get_color(), artist.get_markerfacecolor(), artist.get_markeredgecolor())))
    elif isinstance(artist, Collection):
        points = np.concatenate([p.vertices for p in artist.get_paths()] or [np.zeros((0, 2))])
        how = colour(artist.get_facecolor()), colour(artist.get_edgecolor()), artist.get_hatch()
    else:
        points, how = artist.get_patch_transform().transform(artist.get_path().vertices), (
            colour(artist.get_facecolor()), artist.get_hatch())
    numbers = " ".join(f"{v:.5g}" for v in np.asarray(points, float).ravel())
    return f"{how} {artist.get_label() * (artist.get_label()[0] != '_')}: {short(numbers, 600).strip()}\n"


def picture(fig, drawn=True):
    """Its words, and what is drawn: all of it, or how much."""
    text = f"{fig.get_size_inches().round(3)}\n"
    for ax in fig.axes:
        ticks = [t.get_text() for t in ax.get_yticklabels()]
        text += (f"- {ax.get_title(loc='left')} | {ax.get_xlabel()} {ax.get_xscale()} | {ax.get_ylabel()}"
                 f" {ax.get_yscale()} | {ticks if any('rank' in t for t in ticks) else ''}\n")
        text += f"texts {[(t.get_text(), t.get_color()) for t in ax.texts]}\n" if ax.texts else ""
        legend = ax.get_legend()
        if legend:
            marks = [*legend.get_lines(), *legend.get_patches()]
            text += f"legend {[t.get_text() for t in legend.get_texts()]}\n" + "".join(map(shape, marks))
        if drawn or "experts" in ax.get_ylabel():
            limits = " ".join(f"{v:.5g}" for v in (*ax.get_xlim(), *ax.get_ylim()))
            text += f"{limits}\n" + "".join(map(shape, [*ax.lines, *ax.patches, *ax.collections]))
        else:
            text += f"{len(ax.lines)} lines, {len(ax.patches)} patches, {len(ax.collections)} collections\n"
    return text


def test_pictures(run, hand, line, tmp_path, monkeypatch):
    """What each picture draws of the trace made by hand; of two others, one of them with ranks too many for a name
    each, its words and how much."""
    many = synth.line(str(tmp_path / "many.h5"), ranks=50, layers=50, sequences=16, generate=3, cores=1)
    seen = []
    for module in summary, timeline, membw:
        monkeypatch.setattr(module, "save_figure", lambda fig, path: seen.append(fig))
    text = ""
    for command in "summary", "timeline", "membw":
        for paths in (hand,), (line, many):
            assert run(command, *paths, "--png", tmp_path / "p.png")[0] == 0
            text += f"== {command}, {len(paths)}\n" + picture(seen.pop(), paths == (hand,))
    page(HERE, "pictures", text)
