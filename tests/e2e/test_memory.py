"""What a rank counts before it makes its first buffer is what it then has in memory."""
import json

import pytest

from conftest import ok

COMMON = ("-p", "Once upon a time " * 40, "-n", 4, "--ignore-eos", "--digest", "--threads", 1, "--quiet",
          "--context", 512, "--chunk", 512, "--slots", 100)
SHAPES = [(1, ()), (2, ()), (3, ()), (4, ("--layout", "2x2")), (4, ("--layout", "1x4")), (8, ("--layout", "4x2")),
          (2, ("--trace",))]
MB = 1e6


def ranks_of(model, path, *options, ranks):
    ok("run", model, *COMMON, "--summary", path, *options, ranks=ranks)
    return json.loads(path.read_text())["ranks"]


@pytest.mark.parametrize("ranks,options", SHAPES, ids=str)
def test_resident_is_counted(ranks, options, demo, tmp_path):
    options = (*options, tmp_path / "t.h5") if options == ("--trace",) else options
    for r in ranks_of(demo, tmp_path / "s.json", *options, ranks=ranks):
        off = r["rss_bytes"] - r["before_bytes"] - r["counted_bytes"]
        assert abs(off) < 8 * MB and r["counted_bytes"] > r["slice_bytes"] + r["kv_bytes"] + MB, r


def test_messages_are_within_what_is_counted(demo, tmp_path):
    for r in ranks_of(demo, tmp_path / "s.json", "--layout", "1x2", "--gather", "messages", ranks=2):
        assert r["rss_bytes"] - r["before_bytes"] < r["counted_bytes"] + 8 * MB, r
