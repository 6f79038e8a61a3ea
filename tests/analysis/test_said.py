"""What the commands say of three traces, every number and word, against what was recorded (tests/recorded.py)."""
import json
import shutil

import h5py
import pytest

import synth
from conftest import HERE, by_hand
from recorded import page, short
from test_reader import V1

from analysis import trace


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
