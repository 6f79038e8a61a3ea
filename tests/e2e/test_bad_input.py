"""Bad input: one message that starts with chipline:, one exit code, no hang, no partial file under its final name."""
import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import time

import h5py
import pytest

from conftest import CHIPLINE, DEMO, ENV, FIXTURES, command, hear_signals, messages, ok, refuses


@pytest.mark.parametrize("args,says", [
    (["rum"], "run"), (["run"], "model file"), (["run", "m.h5", "--tempreature", "1"], "--temperature"),
    (["run", "m.h5", "-n"], "value"),
    (["run", "m.h5", "-n", "many"], "whole number"), (["run", "m.h5", "-n", "0"], "from 1"),
    (["run", "m.h5", "--top-p", "1.5"], "from 0 to 1"),
    (["run", "m.h5", "--temperature", "nan"], "not a number"), (["run", "m.h5", "--activations", "q9"], "f32"),
    (["run", "m.h5", "--layout", "2by2"], "SxG"),
    (["run", "m.h5", "-p", "a", "--tokens", "1"], "exclude"), (["run", "m.h5", "--batch", "x.jsonl"], "--out"),
    (["run", "m.h5", "extra"], "too many"),
    (["run", "m.h5", "--chip", "lots"], "lots"), (["run", "m.h5", "--stop", ""], "--stop"),
    (["convert", "--frmat", "q8_0"], "--format"),
    (["convert", "x"], "-o"), (["convert", "x", "-o", "y", "--format", "q3"], "q"), (["inspect"], ""), (["verify"], ""),
    (["plan"], ""), (["tokenize"], ""),
    (["synth", "x.json", "-o", ""], "-o: is empty"), (["convert", "x", "-o", ""], "-o: is empty"),
    (["synth", "", "-o", "m.h5"], "CONFIG.json: is empty"),
    (["convert", "", "-o", "m.h5"], "SRC: is empty"), (["inspect", ""], "MODEL: is empty"),
    (["verify", ""], "MODEL: is empty"),
    (["plan", ""], "MODEL: is empty"), (["run", "", "-p", "a"], "MODEL: is empty"),
    (["tokenize", "", "-p", "a"], "MODEL: is empty"), (["tokenize", "m.h5", "--decode", "abc"], "abc"),
    (["tokenize", "m.h5", "--decode", "1,-2"], "1,-2"),
    (["tokenize", "m.h5", "--decode", "1", "-p", "a"], "--decode: not with -p"),
    (["tokenize", "m.h5", "--decode", "1", "--chat"], "--decode: not with --chat"),
    (["tokenize", "m.h5", "--date", "2026-01-01", "-p", "a"], "--date: needs --chat"),
    (["tokenize", "m.h5", "--chat-format", "qwen3", "-p", "a"], "--chat-format: needs --chat"),
    (["run", "m.h5", "-p", "a", "--date", "2026-01-01"], "--date: needs --chat"),
    (["run", "m.h5", "-p", "a", "--chat-format", "qwen3"], "--chat-format: needs --chat")])
def test_command_lines(args, says, tmp_path):
    assert says in refuses(2, *args, cwd=tmp_path)


def test_command_line_under_mpirun(demo):
    refuses(2, "run", demo, "--nonsense", ranks=3, says="--nonsense")
    refuses(3, "run", "nowhere.h5", "-p", "x", ranks=3, says="nowhere.h5")


def test_help_everywhere():
    for c in ([], ["convert"], ["inspect"], ["verify"], ["tokenize"], ["plan"], ["run"]):
        r = ok(*c, "--help")
        assert "Usage" in r.stdout and r.stderr == ""
    version = ok("--version").stdout.splitlines()
    assert [line.split()[0] for line in version] == ["chipline", "MPI:", "HDF5:", "kernels:", "build:"]
    assert version[3].endswith(" generic reference")


def test_prompts(demo):
    refuses(3, "run", demo, "-p", "", says="empty", ranks=2)
    refuses(2, "run", demo, "--tokens", "1,x", says="x")
    refuses(3, "run", demo, "--tokens", "1,999999", says="999999", ranks=2)
    refuses(2, "run", demo, "--tokens", "1,-1", says="-1")
    refuses(4, "run", demo, "-p", "word " * 300, "--context", 64, says="context", ranks=2)
    r = subprocess.run(command("run", demo, ranks=2), env=ENV, input=b"abc \xff\xfe def", capture_output=True,
                       timeout=60)
    assert r.returncode == 3 and b"UTF-8" in r.stderr
    assert r.stderr.count(b"\nchipline:") + r.stderr.startswith(b"chipline:") == 1


def test_context_over_the_model(demo):
    refuses(4, "run", demo, "-p", "x", "--context", 1000000, ranks=2, says="--context")


def test_budget(demo):
    assert "bytes more than a chip's 100000" in refuses(4, "run", demo, "-p", "x", "--chip", "100kB", ranks=2)


def test_unwritable_outputs(demo, tmp_path):
    gone = tmp_path / "no" / "such"
    for args in (["--summary", gone / "s.json"], ["--trace", gone / "t.h5"], ["--logits", gone / "l.npy"]):
        refuses(3, "run", demo, "-p", "Once", "-n", 2, *args, ranks=2, says=str(gone))
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}')
    refuses(3, "run", demo, "--batch", tmp_path / "in.jsonl", "--out", gone / "o.jsonl", ranks=2, says=str(gone))
    refuses(3, "run", demo, "--batch", tmp_path / "none.jsonl", "--out", tmp_path / "o.jsonl", ranks=2,
            says="none.jsonl")
    refuses(3, "convert", DEMO, "-o", gone / "m.h5", says=str(gone))


def test_full_disk(demo, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "max_tokens": 3}\n' * 5)
    refuses(1, "run", demo, "--batch", tmp_path / "in.jsonl", "--out", "/dev/full", "--context", 64, ranks=3,
            says="/dev/full")


def test_file_that_may_not_grow(demo, tmp_path):
    """Rows that were whole are kept, nothing of the others is: as on a full disk, by a limit on a file's size."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "Once", "max_tokens": 9}\n' * 60)
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    r = subprocess.run([CHIPLINE, "run", str(demo), "--batch", "in.jsonl", "--out", "o.jsonl", "--slots", "8",
                        "--context", "64", "--ignore-eos", "--threads", "1"], cwd=tmp_path, env=ENV, preexec_fn=limit,
                       capture_output=True, text=True, timeout=120)
    assert r.returncode == 1 and "o.jsonl: write failed" in r.stderr
    rows = (tmp_path / "o.jsonl").read_text().splitlines()
    assert len(rows) > 5 and all(len(json.loads(row)["tokens"]) == 9 for row in rows)


def test_outputs_never_destroy_inputs(demo, tmp_path):
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"prompt": "a"}\n')
    (tmp_path / "link.jsonl").symlink_to(rows)
    model = tmp_path / "m.h5"
    shutil.copy(demo, model)
    refuses(2, "run", model, "--batch", rows, "--out", tmp_path / "link.jsonl", says="--out")
    refuses(2, "run", model, "--batch", rows, "--out", model, says="--out", ranks=2)
    refuses(2, "run", model, "-p", "x", "--summary", model, says="--summary")
    refuses(2, "run", model, "-p", "x", "--trace", tmp_path / "y", "--logits", tmp_path / "y", says="--logits")
    refuses(3, "run", model, "--batch", tmp_path, "--out", tmp_path / "o.jsonl", says="folder")
    assert rows.read_text() == '{"prompt": "a"}\n' and model.read_bytes() == demo.read_bytes()


def special_files(folder, target):
    """A pipe and a link: names that no output may replace."""
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(target)
    return [folder / "pipe", folder / "link"]


ROUTED = ["-p", "x", "--experts", "whole", "--routing", "LINK"]


@pytest.mark.parametrize("options", [
    ["-f", "LINK", "--trace", "FILE"], ["-f", "LINK", "--logits", "FILE"], ["-f", "LINK", "--summary", "FILE"],
    ["--batch", "LINK", "--out", "FILE"], ["--batch", "LINK", "--out", "o", "--trace", "FILE"],
    ["--batch", "LINK", "--out", "o", "--summary", "FILE"], ["--batch", "b", "--out", "LINK", "--trace", "FILE"],
    ["--batch", "b", "--out", "LINK", "--summary", "FILE"], ["-p", "x", "--trace", "LINK", "--logits", "FILE"],
    ["-p", "x", "--trace", "LINK", "--summary", "FILE"], ["-p", "x", "--logits", "LINK", "--summary", "FILE"],
    [*ROUTED, "--trace", "FILE"], [*ROUTED, "--logits", "FILE"], [*ROUTED, "--summary", "FILE"],
    [*ROUTED[2:], "--batch", "b", "--out", "FILE"]])
def test_no_file_is_two_things(options, demo, tmp_path):
    """Every output of a run against every input and other output, under another name."""
    (tmp_path / "FILE").write_text("x")
    (tmp_path / "LINK").symlink_to(tmp_path / "FILE")
    refuses(2, "run", demo, *options, says="is the same file as", cwd=tmp_path)
    assert (tmp_path / "FILE").read_text() == "x"


def test_closed_descriptors(demo, tmp_path):
    """What would go to standard output and errors goes nowhere, not into the files that are opened next."""
    run = f'exec "{CHIPLINE}" run "{demo}" -p Once -n 4 --context 64 --threads 1 --summary s.json --trace t.h5'
    for closed in "0<&-", ">&-", "2>&-", "0<&- >&- 2>&-":
        r = subprocess.run(["bash", "-c", f"{run} {closed}"], cwd=tmp_path, env=ENV, capture_output=True, timeout=60)
        assert r.returncode == 0, r.stderr
        assert json.loads((tmp_path / "s.json").read_text())["requests"] == 1
        with h5py.File(tmp_path / "t.h5") as f:
            assert len(f["requests"]) == 1
    line = f'exec "{CHIPLINE}" run "{demo}" --batch - --out o.jsonl --context 64 --threads 1 >&- 2>&-'
    p = subprocess.Popen(["bash", "-c", line], cwd=tmp_path, env=ENV, stdin=subprocess.PIPE)
    try:
        p.stdin.write(b'{"prompt": "Once", "max_tokens": 3}\n')
        p.stdin.flush()
        end = time.time() + 60
        while time.time() < end and not ((tmp_path / "o.jsonl").exists() and (tmp_path / "o.jsonl").read_text()):
            time.sleep(0.05)
        assert [os.readlink(f"/proc/{p.pid}/fd/{fd}") for fd in (1, 2)] == ["/dev/null"] * 2
        p.stdin.close()
        assert p.wait(timeout=60) == 0
    finally:
        p.kill()


def test_outputs_replace_plain_files_only(demo, tmp_path):
    config = tmp_path / "config.json"
    shutil.copy(FIXTURES / "llama_b" / "config.json", config)
    text = config.read_bytes()
    (tmp_path / "hard.json").hardlink_to(config)
    specials = special_files(tmp_path, config)
    for out in specials:
        refuses(3, "synth", config, "-o", out, says=str(out))
        refuses(3, "convert", DEMO, "-o", out, says=str(out))
        for option in ("--summary", "--trace", "--logits"):
            refuses(3, "run", demo, "-p", "Once", "-n", 2, option, out, ranks=2, says=str(out))
    for out in (config, tmp_path / "hard.json"):
        refuses(3, "synth", config, "-o", out, says="file of the source")
        refuses(3, "synth", tmp_path, "-o", out, says="file of the source")
    assert specials[0].is_fifo() and specials[1].is_symlink() and config.read_bytes() == text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "hard.json", "link", "pipe"]
    plain = tmp_path / "m.h5"
    plain.write_text("an earlier file")
    ok("synth", tmp_path, "-o", plain, "--quiet")
    ok("synth", tmp_path, "-o", plain, "--quiet")
    ok("verify", plain)


def test_numbers_that_are_none(tmp_path):
    """As Python's json.dump writes them."""
    base = json.loads((FIXTURES / "llama_b" / "config.json").read_text())
    path = tmp_path / "config.json"
    for key, value, says in (("rope_theta", float("nan"), "rope_theta: line"),
                             ("rms_norm_eps", float("-inf"), "rms_norm_eps: line"),
                             ("vocab_size", 10**20, "vocab_size: line"),
                             ("rope_scaling", {"type": "linear", "factor": float("inf")}, "rope_scaling.factor: line"),
                             ("eos_token_id", 10**15, "eos_token_id: is 1000000000000000"),
                             ("torch_dtype", "int8", "torch_dtype: int8")):
        path.write_text(json.dumps({k: v for k, v in base.items() if k != "dtype"} | {key: value}, indent=1))
        assert f"{path}: {says}" in refuses(3, "inspect", path)


def apart(one, other):
    """Two ranks, each with a command line and a folder of its own."""
    lines = [["-n", "1", "--wdir", str(cwd), CHIPLINE, *map(str, args)] for args, cwd in (one, other)]
    return subprocess.run(["timeout", "-k", "5", "60", "mpirun", "--oversubscribe", "--bind-to", "none", *lines[0],
                           ":", *lines[1]],
                          env=ENV, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_files_that_only_rank_0_has(demo, tmp_path):
    """Layout and chip are read by rank 0 alone; what others have of them is not looked at."""
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in a, b:
        folder.mkdir()
        shutil.copy(demo, folder / "m.h5")
    (a / "layout.json").write_text('{"stages": [{"chips": 2}]}')
    (a / "chip.json").write_text('{"memory_bytes": 100000000}')
    words = ["run", "m.h5", "-p", "Once", "-n", 4, "--layout", "layout.json", "--chip", "chip.json", "--threads", 1,
             "--context", 64]
    words += ["--summary", tmp_path / "s.json"]
    def run(one, other):
        return apart((words, one), (words, other))
    assert run(a, b).returncode == 0
    assert json.loads((tmp_path / "s.json").read_text())["layout"] == "1x2"
    (b / "layout.json").write_text("nonsense")
    assert run(a, b).returncode == 0
    r = run(b, a)
    assert r.returncode == 3 and len(messages(r)) == 1 and "layout.json" in messages(r)[0]


def test_ranks_that_were_told_otherwise(demo, tmp_path):
    one = ["run", demo, "-p", "Once", "-n", 4, "--context", 64]
    for other, says in ((["run", "--help"], "rank 1 was started as another command"),
                        (["bench", demo], "rank 1 was started as another command"), ([*one, "-n", "many"], "-n")):
        r = apart((one, tmp_path), (other, tmp_path))
        assert r.returncode == 2 and len(messages(r)) == 1 and says in messages(r)[0], (other, r.stderr)


def test_other_kinds_of_files(demo, tmp_path):
    """Each command says what it cannot read, and recommends only what it can."""
    gguf = FIXTURES / "llama_b" / "model.gguf"
    for command in ("inspect", "plan", "verify"):
        refuses(3, command, gguf, says="is a GGUF file, not a model file (chipline convert makes one)")
    refuses(3, "synth", gguf, "-o", tmp_path / "m.h5", says="is a GGUF file, not a config.json")
    refuses(3, "synth", demo, "-o", tmp_path / "m.h5", says="is an HDF5 file, not a config.json")
    for args in (["inspect", tmp_path], ["plan", tmp_path], ["synth", tmp_path, "-o", tmp_path / "m.h5"]):
        assert "GGUF" not in refuses(3, *args, says="has no config.json")


def test_chat_options(demo, convert, tmp_path):
    for date in ("2026-13-01", "2026-02-30"):
        refuses(2, "tokenize", demo, "--chat", "--chat-format", "harmony", "--date", date, "-p", "x", says="--date")
        refuses(2, "run", demo, "--chat", "--chat-format", "harmony", "--date", date, "-p", "x", says="--date", ranks=2)
    refuses(3, "tokenize", demo, "--decode", "5,99999999", says="99999999")
    # a vocabulary without any marks reads them as text
    ok("tokenize", demo, "--chat", "--chat-format", "qwen3", "-p", "x")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO / name, tmp_path)
    shutil.copy(FIXTURES / "tokenizers" / "smollm" / "tokenizer.json", tmp_path)
    chatml = convert(tmp_path)
    ok("tokenize", chatml, "--chat", "--chat-format", "chatml", "-p", "x")
    for command in (["tokenize"], ["run"]):
        refuses(3, *command, chatml, "--chat", "--chat-format", "llama4", "-p", "x",
                says="chat format llama4: the vocabulary has no token <|header_start|>")


def test_nothing_is_left_after_a_bad_prompt(demo, tmp_path):
    for args in (["-p", ""], ["--tokens", "999999"], ["-p", "x", "--trace", tmp_path]):
        trace = [] if "--trace" in args else ["--trace", tmp_path / "t.h5"]
        refuses(3, "run", demo, *args, *trace, "--logits", tmp_path / "l.npy", ranks=2)
        assert list(tmp_path.iterdir()) == []


def test_ranks_with_different_models(demo, convert, tmp_path):
    """A stale copy on one node must not be mixed in: rank 1 finds another file under the same name."""
    for name, source in (("a", demo), ("b", convert(DEMO, "--format", "q4_0"))):
        (tmp_path / name).mkdir()
        shutil.copy(source, tmp_path / name / "m.h5")
    one = ["--bind-to", "none", "-n", "1"]
    run = [CHIPLINE, "run", "m.h5", "-p", "x", "-n", "2"]
    r = subprocess.run(["timeout", "60", "mpirun", "--oversubscribe", *one, "-wdir", tmp_path / "a", *run, ":", *one,
                        "-wdir", tmp_path / "b", *run],
                       env=ENV, capture_output=True, text=True)
    assert r.returncode == 3 and len(messages(r)) == 1 and "has another one than rank 0" in messages(r)[0], r.stderr


def test_convert_stopped_by_a_signal(tmp_path):
    """While it waits for its source, here a pipe in which nothing comes."""
    os.mkfifo(tmp_path / "config.json")
    p = subprocess.Popen(command("convert", tmp_path, "-o", tmp_path / "m.h5"), env=ENV, preexec_fn=hear_signals,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    writer = None
    while writer is None and p.poll() is None:
        with contextlib.suppress(OSError):  # as long as nobody reads
            writer = os.open(tmp_path / "config.json", os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.01)
    p.send_signal(signal.SIGTERM)
    out, err = p.communicate(timeout=30)
    os.close(writer)
    assert (p.returncode, out) == (1, "")
    assert err == f"chipline: {tmp_path / 'm.h5'}: stopped by a signal, nothing was written\n"
    assert [f.name for f in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("args", [
    ["run", "-p", "Once", "-n", 3], ["run", "-p", "Once", "-n", 3, "--json"],
    ["run", "-p", "a", "-n", 3, "--chat", "--chat-format", "deepseek-r1", "--reasoning", "show", "--ignore-eos"],
    ["tokenize", "-p", "a"], ["plan"], ["inspect", "--json"]])
def test_full_standard_output(args, demo):
    with open("/dev/full", "w") as full:
        r = subprocess.run(command(args[0], demo, *args[1:], *(["--quiet"] if args[0] == "run" else [])), env=ENV,
                           stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (r.returncode, r.stderr) == (1, "chipline: stdout: write failed: No space left on device\n")


def test_reader_that_goes_away(demo, tmp_path):
    line = f"{CHIPLINE} run {demo} -p Once -n 400 --ignore-eos --quiet --trace {tmp_path}/t.h5 | head -c 3"
    r = subprocess.run(["bash", "-c", line],
                       env=ENV, capture_output=True, text=True, timeout=60)
    assert len(r.stdout) == 3 and r.stderr.count("chipline:") == 1
    r = subprocess.run(["bash", "-c", f"{CHIPLINE} inspect {demo} > /dev/full"], env=ENV, capture_output=True,
                       text=True, timeout=60)
    assert r.returncode == 1 and "stdout" in r.stderr
    r = subprocess.run(["bash", "-c", f"{CHIPLINE} run {demo} -p Once -n 3 --quiet <&-"], env=ENV, capture_output=True,
                       text=True, timeout=60)
    assert r.returncode == 0 and r.stdout


def test_stopped_rank_ends_the_job(demo):
    """A rank that stands still is noticed by its neighbours."""
    p = subprocess.Popen(command("run", demo, "-p", "Once", "-n", 400, "--ignore-eos", "--context", 450,
                                 "--stall-timeout", 2, "--kernels", "reference",
                                 "--threads", 1, "--quiet", ranks=3), env=ENV, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
    p.stdout.read(1)
    ranks = [int(c) for c in subprocess.run(["pgrep", "-P", str(p.pid)], capture_output=True, text=True).stdout.split()]
    victim = next(r for r in ranks if "OMPI_COMM_WORLD_RANK=1" in open(f"/proc/{r}/environ").read().split("\0"))
    os.kill(victim, signal.SIGSTOP)
    try:
        err = p.communicate(timeout=20)[1]
    finally:
        if pathlib.Path(f"/proc/{victim}").exists():
            os.kill(victim, signal.SIGCONT)
        p.kill()
    assert p.returncode == 1 and "--stall-timeout" in err


def test_model_files(demo, tmp_path):
    data = demo.read_bytes()
    bad = tmp_path / "bad.h5"
    for cut in (0, 1, 100, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:cut])
        refuses(3, "run", bad, "-p", "x", ranks=2, says="bad.h5")
    bad.write_bytes(b"x" * 5000)
    refuses(3, "inspect", bad, says="bad.h5")
    # one flipped byte in the middle of the weights: run and verify both find it
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x10
    bad.write_bytes(flipped)
    assert "checksum" in refuses(3, "verify", bad)
    assert "checksum" in refuses(3, "run", bad, "-p", "x", ranks=2)


def test_checkpoints(tmp_path):
    source = FIXTURES / "llama_b"

    def folder(**changes):
        d = tmp_path / f"c{len(list(tmp_path.iterdir()))}"
        d.mkdir()
        config = json.loads((source / "config.json").read_text())
        for k, v in changes.items():
            config.pop(k, None) if v is None else config.update({k: v})
        (d / "config.json").write_text(json.dumps(config))
        shutil.copy(source / "model.safetensors", d)
        return d

    def bad(d, says, code=3):
        out = tmp_path / "out.h5"
        line = refuses(code, "convert", d, "-o", out, says=says)
        assert not out.exists() and not list(tmp_path.glob("out.h5*")), line

    bad(folder(model_type="elephant", architectures=["ElephantForCausalLM"]), "lephant")
    bad(folder(num_attention_heads=0), "num_attention_heads")
    bad(folder(num_key_value_heads=3), "num_key_value_heads")
    bad(folder(hidden_size="wide"), "hidden_size")
    bad(folder(rms_norm_eps="small"), "rms_norm_eps")
    bad(folder(num_hidden_layers=3), "layers")
    bad(folder(intermediate_size=34), "")
    bad(folder(hidden_act="gelu"), "gelu")
    d = folder()
    (d / "config.json").write_text('{"model_type": ')
    bad(d, "JSON")
    d = folder()
    (d / "config.json").unlink()
    bad(d, "config.json")
    d = folder()
    data = (d / "model.safetensors").read_bytes()
    for cut in (0, 5, 8, 300, len(data) // 2, len(data) - 4):
        (d / "model.safetensors").write_bytes(data[:cut])
        bad(d, "model.safetensors")
    (d / "model.safetensors").unlink()
    bad(d, "safetensors")
    bad(tmp_path / "nowhere", "nowhere")
    gguf = tmp_path / "x.gguf"
    data = (source / "model.gguf").read_bytes()
    for cut in (0, 3, 20, 200, len(data) // 2, len(data) - 4):
        gguf.write_bytes(data[:cut])
        bad(gguf, "x.gguf")
    gguf.write_bytes(b"GGUF" + b"\xff" * 60)
    bad(gguf, "x.gguf")


def test_killed_rank_ends_the_job(demo, tmp_path):
    """Within 10 s, and the rows finished before are whole."""
    rows = [{"id": str(i), "prompt": "Once upon a time", "max_tokens": 3 if i < 6 else 400} for i in range(12)]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    out = tmp_path / "out.jsonl"
    p = subprocess.Popen(command("run", demo, "--batch", tmp_path / "in.jsonl", "--out", out, "--ignore-eos",
                                 "--context", 450, "--slots", 4, "--quiet",
                                 "--threads", 1, "--kernels", "reference", "--trace", tmp_path / "t.h5", ranks=4),
                         env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.time() + 60
    while time.time() < end and not (out.exists() and len(out.read_text().splitlines()) >= 3):
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(p.pid)], capture_output=True, text=True).stdout.split()
    victims = [c for c in children if open(f"/proc/{c}/comm").read().strip() == "chipline"]
    assert len(victims) == 4
    killed = time.time()
    os.kill(int(victims[2]), signal.SIGKILL)
    try:
        p.wait(timeout=15)
    finally:
        p.kill()
    assert time.time() - killed < 10
    assert p.returncode != 0
    lines = out.read_text().split("\n")
    assert lines[-1] == "" and len(lines) > 3
    assert all(json.loads(line)["finish_reason"] == "length" for line in lines[:-1])
    assert not (tmp_path / "t.h5").exists()
    # what the ranks recorded before is still there, and can be made a trace
    assert len(list(tmp_path.glob("t.h5.rank*.part"))) == 4
    assert "4 of 4 ranks" in ok("collect", tmp_path / "t.h5").stdout
    with h5py.File(tmp_path / "t.h5") as f:
        assert all(len(f[f"events/rank_{r:04d}"]) > 10 for r in range(4))
    (tmp_path / "t.h5.rank0001.part").unlink()
    assert "3 of 4 ranks" in ok("collect", tmp_path / "t.h5").stdout
    refuses(3, "collect", tmp_path / "other.h5", says="other.h5")
