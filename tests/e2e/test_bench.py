"""`chipline bench`: every number follows from the others, in JSON, table and CSV, whatever the shape of the line. How
large they are is not looked at."""
import csv
import json
import re
import signal
import statistics
import subprocess

import pytest

from conftest import ENV, command, hear_signals, ok, refuses, some

TINY = ["--seconds", 0, "--threads", 1, "--quiet"]
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32, "q4_1": 20 / 32, "mxfp4": 17 / 32,
         "int4": 18 / 32,
         "fp8": 1}  # of a weight, about
NUMBERS = ["tokens_per_s", "read_gb_per_s", "probe_gb_per_s", "gop_per_s", "peak_gop_per_s"]


def bench(*args, ranks=None):
    return json.loads(ok("bench", *args, *TINY, "--json", ranks=ranks).stdout)


def check_case(case):
    """Medians and shares are those of its runs."""
    runs = case["runs"]
    assert 3 <= len(runs) <= 15
    for key in NUMBERS:
        assert all(run[key] > 0 for run in runs), key
        assert case[key] == pytest.approx(statistics.median(run[key] for run in runs)), key
    shares = ("share_of_probe", "read_gb_per_s", "probe_gb_per_s"), ("share_of_peak", "gop_per_s", "peak_gop_per_s")
    for share, part, whole in shares:
        assert case[share] == pytest.approx(statistics.median(run[part] / run[whole] for run in runs))
    assert case["others_cores"] is None or 0 <= case["others_cores"] < 4096
    q1, _, q3 = statistics.quantiles([run["tokens_per_s"] for run in runs], n=4, method="inclusive")
    assert case["spread"] == pytest.approx((q3 - q1) / case["tokens_per_s"])


def check_report(report, ranks):
    assert report["ranks"] == ranks and report["threads"] == 1 and report["threads_total"] == ranks
    for key in "probe_gb_per_s", "peak_gop_per_s":
        assert report[key] == pytest.approx(statistics.median(run[key] for case in report["cases"]
                                                              for run in case["runs"])), key
    for case in report["cases"]:
        check_case(case)


def per_token(case, key):
    """Bytes or operations of a token: speed must have no part in them."""
    values = [run[key] / run["tokens_per_s"] * 1e9 for run in case["runs"]]
    assert max(values) == pytest.approx(min(values), rel=1e-6)
    return values[0]


@pytest.fixture(scope="module")
def inspected(demo):
    return json.loads(ok("inspect", demo, "--json").stdout)


def linear(inspected):
    """Weights that a token is multiplied with, in layers and head."""
    hidden, total = inspected["hidden"], inspected["vocab"] * inspected["hidden"]
    for layer in inspected["layers"]:
        a, f = layer["attention"], layer["ffn"]
        total += hidden * a["head_dim"] * 2 * (a["heads"] + a["kv_heads"])
        total += hidden * (f["experts"] + f["top_k"] * 3 * f["width"])
    return total


def test_defaults(demo):
    report = bench(demo)
    cases = [(c["kind"], c["sequences"], c["tokens"]) for c in report["cases"]]
    assert cases[:6] == [("decode", n, 64) for n in (1, 2, 4, 8, 16, 32)]
    assert cases[6:8] == [("prompt", 1, 32), ("prompt", 1, 128)] and all(kind == "prompt" for kind, _, _ in cases[6:])
    check_report(report, 1)


@pytest.mark.parametrize("ranks,layout", some([(None, "1x1"), (2, "2x1"), (2, "1x2"), (4, "1x4"), (4, "2x2")], 2))
def test_layouts(demo, inspected, ranks, layout):
    report = bench(demo, "--sequences", "1,4", "--tokens", "8,16", *(["--layout", layout] if ranks else []),
                   ranks=ranks)
    assert report["layout"] == layout
    check_report(report, ranks or 1)
    cases = {(c["kind"], c["sequences"], c["tokens"]): c for c in report["cases"]}
    assert list(cases) == [(kind, s, t) for kind in ("decode", "prompt") for t in (8, 16) for s in (1, 4)]
    # One sequence reads every weight for each token, and its cache. Chips of a stage each read the router, and keys and
    # values of a head that several need.
    read, weights, chips = per_token(cases["decode", 1, 16],
                                     "read_gb_per_s"), inspected["read_bytes_per_token"], int(layout[-1])
    assert weights * 0.98 < read < weights * (1 + 0.05 * chips) + chips * 17 * inspected["kv_bytes_per_token"]
    ops = {key: per_token(case, "gop_per_s") for key, case in cases.items()}
    for key in ("decode", 1, 8), ("decode", 4, 16):
        assert ops[key] == pytest.approx(2 * linear(inspected))
    # A prompt needs the output head once; with twice the tokens, half as often for each.
    assert ops["prompt", 1, 8] - ops["prompt", 1, 16] == pytest.approx((ops["decode", 1, 8] - ops["prompt", 1, 8]) / 14)
    assert per_token(cases["prompt", 1, 16], "read_gb_per_s") < per_token(cases["prompt", 1, 8], "read_gb_per_s") < read


def test_progress(demo):
    """Of every case once, from rank 0; of a list that is given twice the later one counts."""
    args = ["bench", demo, "--seconds", 0, "--threads", 1, "--kind", "decode", "--tokens", 8]
    said = ok(*args, "--sequences", "5,6", "--sequences", "1,2", ranks=2).stderr.splitlines()
    line = r"decode  {} x 8 tokens  \d+\.\d tokens/s  \d+\.\d\d GB/s  \(\d+ runs\)"
    said = [s for s in said if s.startswith("decode")]
    assert len(said) == 2 and all(re.fullmatch(line.format(n), s) for n, s in zip((1, 2), said)), said


@pytest.mark.parametrize("options,threads", [(("--threads", 2), "2 threads"), ((), r"[1-9]\d* threads?")])
def test_table_of_products(options, threads):
    r = ok("bench", "--kernels", "generic", "--megabytes", 1, "--tokens", "2,1", "--format", "q4_0", "--seconds", 0,
           *options)
    number = r" +\d+(\.\d+)?"
    rows = "".join(rf"q4_0    q8       {number * 6}\n" for _ in range(2))
    want = (rf"kernels     generic, {threads}, matrices of 1 MB\n"
            r"probe       \d+\.\d\d GB/s read, \d+ Gop/s 8-bit on registers\n\n"
            r"format  activations  tokens  spread %     GB/s  % of probe     Gop/s  % of peak\n" + rows +
            r"(\nnote  other processes used up to .* cores: measure again when they have ended\n)?")
    assert re.fullmatch(want, r.stdout), r.stdout
    line = r"q4_0   q8     {} token{}  \d+\.\d\d GB/s  \(\d+ runs\)\n"
    assert re.fullmatch(line.format(2, "s") + line.format(1, ""), r.stderr), r.stderr


def test_one_kind(demo):
    report = bench(demo, "--kind", "prompt", "--tokens", 16)
    assert [(c["kind"], c["sequences"], c["tokens"]) for c in report["cases"]] == [("prompt", 1, 16)]
    report = bench(demo, "--kind", "decode", "--tokens", 8, "--sequences", 3, "--activations", "f32", "--kernels",
                   "reference")
    assert [(c["kind"], c["sequences"], c["tokens"]) for c in report["cases"]] == [("decode", 3, 8)]
    assert (report["activations"], report["kernels"], report["kv"]) == ("f32", "reference", "f32")


def rows(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def test_table_and_csv(demo, tmp_path):
    out = tmp_path / "b.csv"
    text = ok("bench", demo, *TINY, "--sequences", "1,2", "--tokens", 8, "--csv", out, ranks=2).stdout
    table = [line.split() for line in text.splitlines() if line.startswith(("decode", "prompt"))]
    got = rows(out)
    assert [(r["kind"], r["sequences"], r["tokens"]) for r in got] == [tuple(line[:3]) for line in table]
    assert len(got) == 4 and all(r["layout"] == "2x1" and r["ranks"] == "2" and r["threads"] == "1" for r in got)
    for r, line in zip(got, table):
        shown = (("tokens_per_s", 1), ("spread", 100), ("read_gb_per_s", 1), ("share_of_probe", 100), ("gop_per_s", 1),
                 ("share_of_peak", 100))
        for (column, scale), text in zip(shown, line[3:]):
            assert float(text) == pytest.approx(scale * float(r[column]), abs=0.051, rel=1e-4), column
    json_out = tmp_path / "j.csv"
    report = json.loads(ok("bench", demo, *TINY, "--json", "--kind", "prompt", "--tokens", 8, "--csv", json_out).stdout)
    (row,), (case,) = rows(json_out), report["cases"]
    assert float(row["share_of_probe"]) == pytest.approx(case["share_of_probe"], rel=1e-5)
    assert int(row["runs"]) == len(case["runs"])


def test_kernels(tmp_path):
    out = tmp_path / "k.csv"
    tokens = some((1, 5), 2, at=1)
    report = json.loads(ok("bench", "--kernels", "--megabytes", 1, "--tokens", ",".join(map(str, tokens)), *TINY,
                           "--json", "--csv", out).stdout)
    cases = report["cases"]
    formats = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "mxfp4", "int4", "fp8"]
    assert [(c["format"], c["tokens"]) for c in cases] == [(f, t) for f in formats for t in tokens]
    assert {c["format"] for c in cases if c["activations"] == "q8"} == {"q8_0", "q4_0", "q4_1", "mxfp4", "int4"}
    for case in cases:
        check_case(case)
        run = case["runs"][0]
        assert run["gop_per_s"] / run["read_gb_per_s"] == pytest.approx(2 * case["tokens"] / BYTES[case["format"]],
                                                                        rel=0.05)
    assert [(r["format"], r["tokens"]) for r in rows(out)] == [(c["format"], str(c["tokens"])) for c in cases]
    report = bench("--kernels", "generic", "--megabytes", 1, "--tokens", 2, "--format", "q4_0", "--activations", "f32")
    assert report["kernels"] == "generic" and [(c["format"], c["activations"])
                                               for c in report["cases"]] == [("q4_0", "f32")]


def test_refusals(demo, tmp_path):
    refuses(2, "bench", says="needs a model")
    refuses(2, "bench", demo, "--kind", "both", says="--kind")
    for bad in "0", "1,,2", "1,x", "", "9999999999":
        refuses(2, "bench", demo, "--sequences", bad, says="--sequences")
        refuses(2, "bench", demo, "--tokens", bad, says="--tokens")
    refuses(2, "bench", demo, "--sequences", ",".join("1" * 33), says="at most 32")
    refuses(2, "bench", demo, "--seconds", "-1", says="--seconds")
    refuses(2, "bench", demo, "--megabytes", 4, says="--kernels")
    refuses(2, "bench", demo, "--kernels", says="--kernels")
    refuses(2, "bench", "--kernels", "--layout", "1x2", says="--layout")
    refuses(2, "bench", "--kernels", says="mpirun", ranks=2)
    refuses(2, "bench", "--kernels", "--format", "keep", says="--format")
    for option in "--kernels", "--set":  # as it was called before
        refuses(2, "bench", option, "avx3", says="avx3")
    refuses(2, "bench", demo, "--kernels", "avx3", says="avx3", ranks=2)
    refuses(2, "bench", demo, "--set", says="value")
    refuses(2, "bench", demo, "--csv", demo, says="same file")
    refuses(3, "bench", demo, "--csv", tmp_path / "none" / "b.csv", ranks=2)
    refuses(3, "bench", tmp_path / "none.h5", ranks=2)
    refuses(4, "bench", demo, "--tokens", 1000000, says="--tokens")
    refuses(4, "bench", demo, "--layout", "3x1", ranks=2)


def test_products_stopped():
    """What is complete is shown here too."""
    args = ["bench", "--kernels", "--megabytes", 1, "--tokens", "1,2,3,4,5,6,7,8,9,10,11,12", "--threads", 1,
            "--seconds", 0]
    p = subprocess.Popen(command(*args), env=ENV, preexec_fn=hear_signals, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    p.stderr.readline()  # the first row is complete
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    rows = [line for line in out.splitlines() if line.startswith(("f32 ", "f16 ", "bf16 "))]
    assert p.returncode == 75 and "stopped by a signal" in err, err
    assert len(rows) >= 1, out


def test_peak_is_of_the_arithmetic(demo):
    """Float32 products against their own peak, 8-bit ones against theirs."""
    peaks = {a: bench(demo, "--kind", "decode", "--tokens", 4, "--sequences", 1, "--activations", a)["peak_gop_per_s"]
             for a in ("f32", "q8")}
    alone = {}
    for name, fmt in ("f32", "f32"), ("q8", "q8_0"):
        said = json.loads(ok("bench", "--kernels", "--megabytes", 1, "--tokens", 1, "--format", fmt, "--json",
                             *TINY).stdout)
        alone[name] = said["cases"][0]["peak_gop_per_s"]
    if alone["q8"] > 2 * alone["f32"]:  # else they cannot be told apart on this machine
        assert peaks["q8"] > 1.3 * peaks["f32"], (peaks, alone)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_stopped(demo, sig):
    """A signal ends it after the run under way; the cases that are complete are shown."""
    args = ["bench", demo, "--seconds", 0, "--threads", 1, "--kind", "decode", "--sequences", "1,2,3,4", "--tokens",
            "8,16,32,64,96"]
    p = subprocess.Popen(command(*args), env=ENV, preexec_fn=hear_signals, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    for line in p.stderr:
        if line.startswith("decode"):  # the first case is complete
            break
    p.send_signal(sig)
    out, err = p.communicate(timeout=60)
    rows = [line for line in out.splitlines() if line.startswith("decode ")]
    assert p.returncode == 75 and "stopped by a signal" in err, err
    assert 1 <= len(rows) < 20
