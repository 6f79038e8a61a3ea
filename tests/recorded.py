"""What the program says, recorded once and compared from then on: a fault in a number, a word, a default or a name
that no test thought of shows as a line of a difference.

A page is a text file in the folder `outputs` beside the tests. With CHIPLINE_RECORD=1 the tests write them anew: look
at what `git diff` says then; every line of it is a change that users see."""
import difflib
import json
import os
import pathlib
import re
import tempfile
import zlib

RECORD = os.environ.get("CHIPLINE_RECORD") == "1"
ROOT = pathlib.Path(__file__).resolve().parents[1]


def plain(text):
    """Without what differs from run to run and from machine to machine: folders, rates, last digits of fractions."""
    folders = "|".join(re.escape(f) for f in {"/tmp", tempfile.gettempdir()})
    text = text.replace(str(ROOT), "ROOT")  # which may lie in one of these itself
    text = re.sub(rf"(?:{folders})/[^ :,'\"\n]*?/(?=[^/ :,'\"\n]*(?:[ :,'\"\n]|$))", "WORK/", text)
    text = re.sub(r"WORK/model\d+\.h5", "WORK/model.h5", text)
    text = re.sub(r"in \d+\.\d s \([^)]*/s\)", "in some time", text)

    def shorter(match):
        return f"{float(match[0]):.6g}" if len(match[0]) > 8 else match[0]
    return re.sub(r"\b\d+\.\d+(?:e[+-]?\d+)?\b", shorter, text)


def page(folder, name, text):
    path = pathlib.Path(folder) / "outputs" / f"{name}.txt"
    text = plain(text)
    if RECORD:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    want = path.read_text() if path.exists() else ""
    if text != want:
        lines = list(difflib.unified_diff(want.splitlines(), text.splitlines(), "recorded", "now", lineterm="", n=1))
        raise AssertionError("\n".join([f"{path.name} (tests/recorded.py says how it is recorded)"] + lines[:60]))


def short(text, most=7000):
    """All of it, or its end and its checksum."""
    text = plain(text)
    return text if len(text) <= most else f"[{len(text)} characters, crc {zlib.crc32(text.encode()):08x}]\n"


VARIES = {"host", "cpu", "kernels", "cores", "chipline", "revision", "build_flags", "counted_bytes", "before_bytes",
          "rss_bytes", "baseline_bytes", "over_bytes"}


def kinds(value, key=None):
    """JSON with types for what is measured."""
    if isinstance(value, dict):
        return {k: kinds(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [kinds(v, key) for v in value]
    return type(value).__name__ if isinstance(value, float) or key in VARIES else value


MACHINE = r"buffers of|its disk has"  # what a message says then depends on this machine


class Said:
    """Messages of the tests, by test."""

    def __init__(self, folder):
        self.path = pathlib.Path(folder) / "outputs" / "messages.json"
        self.known = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.seen = {}

    def check(self, line):
        test = re.sub(r"^\S*?(test_\w+\.py::)", r"\1", os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0])
        line = plain(line)
        line = re.sub(r"\d+(\.\d+)?( [kMGT]?B)?", "#", line) if re.search(MACHINE, line) else line
        at = self.seen.setdefault(test, [])
        at.append(line)
        if RECORD:
            self.known[test] = list(at)
            self.path.parent.mkdir(exist_ok=True)
            self.path.write_text(json.dumps(self.known, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
            return
        want = self.known.get(test, [])
        assert len(at) <= len(want), f"not recorded: {line} (tests/recorded.py)"
        assert line == want[len(at) - 1], f"recorded was: {want[len(at) - 1]}"
