"""pytest: the repository's root and this folder are importable; a trace made by hand whose numbers can be checked with a pencil."""
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [ROOT, HERE, os.path.join(ROOT, "tests")]

import synth  # noqa: E402

S = 1_000_000_000  # start of the run; it lasts 1 ms


def by_hand(path, cores=8, **run):
    """Two ranks, a prompt of 8 tokens (micro-batch 0), then 2 sequences decoding (1)."""
    b = synth.Builder(model="hand.h5", command="chipline run hand.h5", experts=8, experts_per_token=2, serve_start_s=1.0, elapsed_s=0.001, **run)
    sizes = dict(slice_bytes=100_000_000, kv_bytes=20_000_000, baseline_bytes=30_000_000, host_cores=cores, n_layers=2)
    b.rank(0, probe_bytes_per_s=12.5e9, peak_rss_bytes=160_000_000, **sizes)
    b.rank(1, offset=-400_000_000, probe_bytes_per_s=20e9, peak_rss_bytes=155_000_000, first_layer=2, **sizes)
    prompt, decode = dict(microbatch=0, tokens=8, parts=1), dict(microbatch=1, tokens=2, parts=2)
    b.event(0, "probe", S - 900_000, S - 800_000, cpu_ns=50_000)
    b.event(0, "schedule", S, S + 10_000, **prompt)
    b.event(0, "step", S + 10_000, S + 210_000, weight_bytes=1_800_000, kv_bytes=200_000, cpu_ns=100_000, **prompt)
    b.event(0, "layer", S + 10_000, S + 110_000, layer=0, weight_bytes=900_000, kv_bytes=100_000, experts=6, cpu_ns=50_000, **prompt)
    b.event(0, "layer", S + 110_000, S + 210_000, layer=1, weight_bytes=900_000, kv_bytes=100_000, experts=8, cpu_ns=50_000, **prompt)
    b.event(0, "send", S + 210_000, S + 220_000, peer=1, msg_bytes=4096, **prompt)
    b.event(0, "recv", S + 220_000, S + 620_000, peer=1, msg_bytes=32, microbatch=0, parts=1)
    b.event(0, "step", S + 620_000, S + 820_000, weight_bytes=2_000_000, cpu_ns=200_000, **decode)
    b.event(0, "layer", S + 620_000, S + 720_000, layer=0, weight_bytes=1_000_000, experts=3, **decode)
    b.event(0, "layer", S + 720_000, S + 820_000, layer=1, weight_bytes=1_000_000, experts=4, **decode)
    b.event(0, "send", S + 820_000, S + 830_000, peer=1, msg_bytes=1024, **decode)
    b.event(1, "recv", S, S + 250_000, peer=0, msg_bytes=4096, **prompt)
    b.event(1, "step", S + 250_000, S + 550_000, weight_bytes=3_000_000, **prompt)
    b.event(1, "layer", S + 250_000, S + 450_000, layer=2, weight_bytes=2_000_000, **prompt)
    b.event(1, "head", S + 450_000, S + 550_000, weight_bytes=1_000_000, **prompt)
    b.event(1, "send", S + 550_000, S + 560_000, peer=0, msg_bytes=32, microbatch=0, parts=1)
    b.event(1, "recv", S + 560_000, S + 850_000, peer=0, msg_bytes=1024, **decode)
    b.event(1, "step", S + 850_000, S + 950_000, weight_bytes=1_500_000, **decode)
    b.part(0, request=0, slot=1, tokens=8, flags=2)
    b.part(1, request=0, slot=1, position=8)
    b.part(1, request=1, slot=0, position=4, forked_from=1)
    b.request(id=b"a", prompt_tokens=8, completion_tokens=5, arrived_ns=S, started_ns=S + 100_000, first_token_ns=S + 300_000, finished_ns=S + 900_000)
    b.request(id=b"b", prompt_tokens=4, completion_tokens=3, arrived_ns=S, started_ns=S + 200_000, first_token_ns=S + 500_000, finished_ns=S + 700_000)
    b.request(id=b"c", prompt_tokens=0, completion_tokens=0, arrived_ns=S, finish_reason=b"error")
    return b.write(path)


@pytest.fixture
def hand(tmp_path):
    return by_hand(str(tmp_path / "hand.h5"))


@pytest.fixture(scope="session")
def line(tmp_path_factory):
    return synth.line(str(tmp_path_factory.mktemp("line") / "line.h5"), sequences=16, generate=12)


@pytest.fixture
def run(capsys):
    """Runs the command line; gives code, stdout, stderr."""
    from analysis.__main__ import main

    def call(*args):
        try:
            code = main([str(a) for a in args])
        except SystemExit as e:
            code = e.code
        out = capsys.readouterr()
        return code, out.out, out.err
    return call
