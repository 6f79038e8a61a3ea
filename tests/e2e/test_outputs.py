"""Every number and word of what is deterministic, against what was recorded (tests/recorded.py)."""
import ctypes
import ctypes.util
import json
import pathlib
import shlex
import zlib

import h5py
import numpy as np
import pytest

from conftest import DEMO, FIXTURES, ROOT, chipline, golden, ids, ok
from recorded import kinds, page, short

HERE = pathlib.Path(__file__).parent
CONFIGS = sorted((ROOT / "configs" / "models").glob("*.json"))
COMMANDS = ("convert", "synth", "inspect", "verify", "tokenize", "plan", "run", "bench", "collect")


def said(*args, **kw):
    """A call and all that came of it."""
    r = chipline(*args, **kw)
    text = f"$ chipline {' '.join(str(a) for a in args)}\n{short(r.stdout)}"
    if r.stderr:
        text += f"stderr: {r.stderr}"
    return text + (f"exit code {r.returncode}\n" if r.returncode else "")


def test_help():
    page(HERE, "help", "".join(said(*c, "--help") for c in [[]] + [[c] for c in COMMANDS]))


def test_inspect():
    page(HERE, "inspect", "".join(said("inspect", c) + said("inspect", c, "--json") for c in CONFIGS))


PLANS = """
smollm2-135m --ranks 4
smollm2-135m --layout 2x2 --slots 8 --context 1024
smollm2-135m --chip 64MB
smollm2-135m --chip 10kB
smollm2-135m --context 32 --chip 24MB --layout 5x3
smollm2-135m --context 64 --layout 1+2x2
olmoe-1b-7b --ranks 3 --kv q8
olmoe-1b-7b --layout 2x4 --experts whole --slots 16
qwen3-30b-a3b --layout auto --ranks 12
qwen3-30b-a3b --layout auto --ranks 12 --slots 24 --explain
mixtral-8x7b --ranks 8 --goal throughput --layout auto
gpt-oss-20b --layout 3x2
gpt-oss-120b --cluster h100-node
gpt-oss-120b --cluster groq-576
gpt-oss-20b --cluster gb200-nvl72 --layout auto
smollm2-135m --cluster h100-node --layout auto --explain
gpt-oss-120b --cluster h200-128 --layout 2x16
gpt-oss-20b --cluster h100-node --ranks 9
gpt-oss-20b --cluster h100-node --layout 3x3
gpt-oss-20b --cluster h100-node --chip 20GB
olmoe-1b-7b --cluster h100-node --layout auto --explain --replicas 2 --slots 8
olmoe-1b-7b --cluster h100-node --ranks 7
gpt-oss-20b --replicas 2 --ranks 5
gpt-oss-20b --replicas 2 --ranks 6 --explain
gpt-oss-20b --layout auto --chip 3GB
gpt-oss-20b --ranks 24 --layout auto --explain
deepseek-v2-lite --layout 1x3 --explain
deepseek-v3 --layout 61x4 --kv bf16
llama-4-scout --layout 6x8 --replicas 2
glm-4.5 --layout 4x2 --chip h200-sxm
minimax-m2 --layout 2x3 --chip xeon-6980p-socket
kimi-k2 --layout 61x8
deepseek-v3 --ranks 62 --layout 2x2
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_plans(form):
    text = ""
    for name, *options in map(str.split, PLANS.strip().splitlines()):
        for kind in ("chip", "cluster"):
            for at in [i + 1 for i, o in enumerate(options) if o == f"--{kind}"]:
                file = ROOT / "configs" / f"{kind}s" / f"{options[at]}.json"
                options[at] = file if file.exists() else options[at]
        text += said("plan", ROOT / "configs" / "models" / f"{name}.json", *options,
                     *(["--json"] if form == "json" else []))
    page(HERE, f"plan_{form}", text)


CLUSTERS = ['[]', '{"nodes": 2}', '{"nodes": 0, "chips_per_node": 8, "chip": "c"}', '{"nodes": 2, "chips_per_node": 8}',
            '{"nodes": 2, "chips_per_node": 8, "chip": "none.json"}',
            '{"nodes": 2, "chips_per_node": 8, "chip": 7}', "{",
            *('{"nodes": 2, "chips_per_node": 8, "chip": "c", ' + links for links in (
                '"links_between_nodes": 5}', '"links_between_nodes": {"hop_s": 1}}',
                '"links_between_nodes": {"hop_s": -1, "bytes_per_s": 1}}', '"nodes_per_rack": 3}',
                '"nodes_per_rack": 0}',
                '"links_between_racks": {"hop_s": 1, "bytes_per_s": 1}}',
                '"nodes_per_rack": 1, "links_between_racks": {"bytes_per_s": 1}}'))]
LINES = """
run M -p a --seed -1
run M -p a --seed x
run M -p a -nx
run M --chat --batch IN --out o
run M -p a --reasoning show
run M -p a --chunk 100 --context 50
run M -p a --system s
run M -p a --chip 0
run M -p a -f IN
run M -p a --out o
run M --chat --tokens 1,2
run M -p a --routing t.h5
run M -p a --top-k
run M -p a --logits x.npy --batch IN --out o
run M -p a -q extra
run M -p a -n 1 --quiet --trace-level layer
run M -p a --slots 0
run M -qp a
run M -p a --threads 5000
run M -p a --replicas 2
run M -f nowhere
run M -p a --kernels sse9
run M -p a -n 1 --quiet --stop LONG
run M --tokens ''
run M -p a --experts some
run M -p a --layout 1x2
run M -p ''
bench M --tokens 600
bench M --kernels --tokens 20000
bench M --kind train
bench M --csv /nowhere/x.csv --kind decode
bench M --sequences 1,2,
bench M N
tokenize M -p a --chat
tokenize M -p '[{}]' --chat --chat-format chatml
tokenize M -p '[{"role": "user", "content": "hi"}]' --chat --chat-format chatml
tokenize M -p hi --chat --chat-format llama3 --json
tokenize M --decode 1,,2
tokenize M -p '[]' --chat --chat-format chatml
tokenize LLAMA -p a
inspect IN
inspect nowhere
inspect .
verify M
verify M --quiet
verify IN
convert M -o x.h5
convert IN -o x.h5
convert nowhere -o x.h5
convert LLAMA_A -o x.h5 --jobs 0
convert LLAMA_A -o /nowhere/x.h5
convert LLAMA_A -o x.h5 --format int4
convert LLAMA_A -o x.h5 --jobs 2
convert LLAMA_A -o .
synth
synth IN -o x.h5
synth LLAMA_A -o x.h5 --format q9
synth LLAMA_A -o x.h5 --seed x
collect
collect nowhere.h5
collect IN
plan M --routing t.h5
plan M --routing t.h5 --experts whole
plan M --goal best
plan M --ranks 0
plan M --layout auto --chip 100kB
plan M --explain
plan M --ranks 100
plan M --cluster nowhere.json
plan M --context 600
plan M --kv q4
plan M --routing IN --experts whole
plan M --slots many
run none -p a -n 268435456
run none -p a -n 268435457
run none -p a --temperature 100
run none -p a --temperature 100.5
run none -p a --temperature -1
run none -p a --top-k 2147483647
run none -p a --top-k -1
run none -p a --top-p 1
run none -p a --top-p 1.01
run none -p a --min-p 1
run none -p a --min-p 1.01
run none -p a --repeat-penalty 0.01
run none -p a --repeat-penalty 100
run none -p a --repeat-penalty 0
run none -p a --repeat-penalty 101
run none -p a --seed 9223372036854775807
run none -p a --seed 9223372036854775808
run none -p a --trace-level all
run none -p a --chunk 50 --context 50
run none -p a --chat --tokens 1
run none -p a --reasoning see
run M --tokens 5,
run M --tokens 2147483648
run M --tokens 0000000000000000000000000000005 -n 1 --quiet --threads 1
run M --tokens 00000000000000000000000000000005
bench none --seconds 1000001
bench none --sequences 4096
bench none --sequences 4097
bench none --tokens 1048577
bench --kernels --megabytes 1048577
bench --kernels --tokens 16385
bench --kernels --kind decode
bench M --format q8_0
tokenize M --decode 5,17 -p a
help
''
--versoin
run --hepl
"""


def test_command_lines(demo, convert, tmp_path):
    """Right and wrong ones, with what is answered."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    names = {"M": demo, "IN": tmp_path / "in.jsonl", "LLAMA": convert(FIXTURES / "llama_a"),
             "LLAMA_A": FIXTURES / "llama_a",
             "LONG": "x" * 300}
    text = ""
    for line in LINES.strip().splitlines():
        text += said(*(names.get(a, a) for a in shlex.split(line)), cwd=tmp_path)
    for at, cluster in enumerate(CLUSTERS):
        (tmp_path / f"c{at}.json").write_text(cluster)
        text += f"{cluster}: " + said("plan", demo, "--cluster", tmp_path / f"c{at}.json")
    assert {p.name for p in tmp_path.iterdir()} == {"in.jsonl", "x.h5", *(f"c{i}.json" for i in range(len(CLUSTERS)))}
    page(HERE, "lines", text)


CONFIGURATIONS = [
    ("deepseek_v3", {"rope_scaling": {"type": "yarn", "factor": 0, "original_max_position_embeddings": 64}}),
    ("deepseek_v3", {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 0}}),
    ("deepseek_v3", {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64,
                                      "attention_factor": -1}}),
    ("deepseek_v3", {"rope_scaling": {"type": "dynamic", "factor": 4}}), ("deepseek_v3", {"topk_group": 9}),
    ("deepseek_v3", {"n_group": 3}), ("deepseek_v3", {"num_experts_per_tok": 99}),
    ("deepseek_v3", {"scoring_func": "tanh"}),
    ("llama_a", {"num_attention_heads": 65536, "num_key_value_heads": 65536, "head_dim": 65536}),
    ("llama_a", {"hidden_act": "gelu"}), ("llama_a", {"num_key_value_heads": 3}), ("llama_a", {"rms_norm_eps": -1}),
    ("llama_a", {"num_hidden_layers": 0}), ("llama_a", {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}),
    ("llama_a", {"head_dim": 7}), ("llama_a", {"rope_theta": 0}), ("llama_a", {"torch_dtype": "float128"}),
    ("llama_a", {"rope_scaling": {"rope_type": "llama3", "factor": 8}}), ("llama_a", {"tie_word_embeddings": 3}),
    ("llama_a", {"quantization_config": {"quant_method": "gptq"}}), ("gpt_oss", {"layer_types": ["x"]}),
    ("gpt_oss", {"sliding_window": -1}), ("llama4", {"attention_chunk_size": 0}),
    ("qwen3_moe", {"decoder_sparse_step": 0}),
    ("qwen3_moe", {"mlp_only_layers": [99]}), ("mixtral", {"num_local_experts": 1, "num_experts_per_tok": 2}),
    ("glm4_moe", {"partial_rotary_factor": 2}), ("minimax_m2", {"rotary_dim": 5}), ("olmoe", {"clip_qkv": -1}),
    ("mistral", {"sliding_window": None}), ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
]


def test_configurations(tmp_path):
    """Numbers of a config.json that are strange or wrong."""
    text = ""
    for name, changes in CONFIGURATIONS:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads((FIXTURES / name / "config.json").read_text()) | changes))
        text += f"{name} with {changes}: " + said("inspect", path)
    page(HERE, "configurations", text)


XXHASH = ctypes.CDLL(ctypes.util.find_library("xxhash"))
XXHASH.XXH3_64bits.restype = ctypes.c_uint64


def seal(x):
    """Damage that the checksum does not show."""
    data = x[()].tobytes()
    if "xxh3" in x.attrs:
        x.attrs["xxh3"] = np.bytes_(f"{XXHASH.XXH3_64bits(data, ctypes.c_size_t(len(data))):016x}")


def attribute(group, name, to):
    def change(f):
        f[group].attrs[name] = np.bytes_(to) if isinstance(to, str) else to
    return f"{group}.{name} = {to}", change


def numbers(name, at, to):
    def change(f):
        f[name][at] = to
        seal(f[name])
    return f"{name}[{at}] = {to}", change


def removed(name):
    def change(f):
        del f[name]
    return f"no {name}", change


def texts(name, old, new):
    def change(f):
        text, attributes = bytes(f[name][:]).replace(old, new, 1), dict(f[name].attrs)
        del f[name]
        f.create_dataset(name, data=np.frombuffer(text, np.uint8))
        f[name].attrs.update(attributes)
        seal(f[name])
    return f"{name}: {old.decode()} is {new.decode()}", change


# Sizes and numbers have to fit by themselves.
DAMAGE = [
    attribute("/", "chipline_model", 9), attribute("/", "checksum", "x"), attribute("tokenizer", "kind", "bpe_words"),
    attribute("tokenizer", "bos_id", 5000), attribute("tokenizer", "unk_id", -7), attribute("tokenizer", "nfc", 2),
    attribute("tokenizer", "eos_id", 1 << 40), attribute("tensors/embed.weight", "format", "q9"),
    attribute("tensors/embed.weight", "role", "x"), attribute("tensors/embed.weight", "layer", 3),
    attribute("tensors/embed.weight", "shape", [5, 5]), attribute("tensors/embed.weight", "xxh3", "0123456789abcdef"),
    numbers("tokenizer/token_offset", 2048, 9000), numbers("tokenizer/token_offset", 0, 1),
    numbers("tokenizer/token_offset", 5, 9000), numbers("tokenizer/token_type", 7, 99),
    numbers("tokenizer/split_offset", 1, 70), numbers("tokenizer/split_regex", 0, 0),
    numbers("tokenizer/merges", 3, 9999),
    numbers("tokenizer/token_flags", 3, 255), removed("tokenizer/merges"), removed("tokenizer/token_flags"),
    removed("tokenizer/token_bytes"), removed("spec"), removed("tensors/head.weight"), removed("source_config"),
    removed("tensors/layers.0.attn.q.weight"), removed("tensors"), removed("tokenizer"),
    texts("spec", b"hidden", b"hiddem"), texts("spec", b"{", b"["), texts("spec", b"2048", b"2049"),
    texts("spec", b"0.", b"x."), texts("tokenizer/split_regex", b"(", b"["),
    numbers("tensors/embed.weight", (3, 3), 77),
]


def test_damaged_models(demo, tmp_path):
    text, bad = "", tmp_path / "bad.h5"
    for what, change in DAMAGE:
        bad.write_bytes(demo.read_bytes())
        with h5py.File(bad, "r+") as f:
            try:
                change(f)
            except KeyError:
                what += " (is not there)"
        text += f"{what}: "
        for call in (("tokenize", bad, "-p", "a"), ("run", bad, "--tokens", "1", "-n", 1, "--quiet", "--threads", 1),
                     ("verify", bad, "--quiet")):
            r = chipline(*call)
            text += f"{call[0]}: {r.returncode} {r.stderr if r.returncode else ''}"
        text += "\n"
    page(HERE, "damaged", text)


def safetensors(tensors, extra=None):
    """A file of float32 tensors by name."""
    head, data = dict(extra or {}), b""
    for name, x in tensors.items():
        head[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.tobytes()
    head = json.dumps(head).encode()
    return len(head).to_bytes(8, "little") + head + data


INDEX = ["{}", "[]", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 3}}',
         '{"weight_map": {"a": "../x"}}',
         '{"weight_map": {"a": "none.safetensors"}}', '{"weight_map": {"a": "s.safetensors"}}', "{"]
HEADS = [{}, {"a": {}}, {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
         {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
         {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
         {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
         {"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 4]}},
         {"a": {"dtype": "F32", "shape": 3, "data_offsets": [0, 4]}},
         {"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}, {"a": []}, {"__metadata__": 3}]


def test_damaged_checkpoints(tmp_path):
    folder, text = tmp_path / "c", ""
    folder.mkdir()
    (folder / "config.json").write_text((FIXTURES / "llama_a" / "config.json").read_text())
    (folder / "s.safetensors").write_bytes(safetensors({"b": np.zeros(3, np.float32)}))
    for index in INDEX:
        (folder / "model.safetensors.index.json").write_text(index)
        text += f"index {index}: " + said("convert", folder, "-o", tmp_path / "m.h5", "--quiet")
    (folder / "model.safetensors.index.json").unlink()
    for head in HEADS:
        (folder / "model.safetensors").write_bytes(safetensors({}, head) + b"0123")
        text += f"{json.dumps(head)}: " + said("convert", folder, "-o", tmp_path / "m.h5", "--quiet")
    whole = (FIXTURES / "llama_a" / "model.gguf").read_bytes()
    for at, byte in ((0, b"X"), (4, b"\x09"), (8, b"\xff\xff"), (16, b"\xff"), (40, b"\xff\xff"), (60, b"\x7f")):
        (tmp_path / "x.gguf").write_bytes(whole[:at] + byte + whole[at + len(byte):])
        text += f"GGUF, {byte} at {at}: " + said("convert", tmp_path / "x.gguf", "-o", tmp_path / "m.h5", "--quiet")
    assert not (tmp_path / "m.h5").exists()
    page(HERE, "checkpoints", text)


def value(v):
    if isinstance(v, bytes):
        v = v.decode(errors="replace")
    if isinstance(v, (np.ndarray, list)) and np.size(v) > 8:
        return f"{np.shape(v)} crc {zlib.crc32(np.asarray(v).tobytes()):08x}"
    return short(str(v), 400).strip()


def dump(path, skip=()):
    """A file's groups and datasets with their attributes; of numbers the checksum of their bytes."""
    lines = []

    def add(name, x):
        attributes = ", ".join(f"{k}={value(v)}" for k, v in sorted(x.attrs.items()) if k not in skip)
        if isinstance(x, h5py.Dataset):
            crc = zlib.crc32(x[()].tobytes() if x.dtype.kind != "O" else str(x[()]).encode())
            lines.append(f"{name} {x.dtype} {x.shape} crc {crc:08x}: {attributes}")
        else:
            lines.append(f"{name}: {attributes}")
    with h5py.File(path) as f:
        add("/", f)
        f.visititems(add)
    return "\n".join(lines) + "\n"


def brief(path, whole):
    """Of most models one line: a difference there is one of the others', as a rule."""
    text = dump(path, CHANGES)
    return text if whole else f"{text.count(chr(10))} lines, crc {zlib.crc32(text.encode()):08x}\n"


CHANGES = {"creator", "source"}  # the revision; folders


def test_converted_models(tmp_path):
    text = ""
    for at, folder in enumerate(sorted(p.parent for p in FIXTURES.glob("*/config.json"))):
        if not (folder / "model.safetensors").exists():
            continue
        out = tmp_path / "m.h5"
        ok("convert", folder, "-o", out, "--quiet", "--format", ("keep", "q8_0", "keep", "q4_0", "bf16")[at % 5])
        text += f"== {folder.name}\n" + brief(out, folder.name in ("deepseek_v3", "gpt_oss"))
    for gguf in sorted(FIXTURES.glob("*/model.gguf")):
        ok("convert", gguf, "-o", tmp_path / "m.h5", "--quiet")
        text += f"== {gguf.parent.name} (GGUF)\n" + brief(tmp_path / "m.h5", gguf.parent.name == "qwen3_moe_b")
    page(HERE, "models", text)


def test_made_up_models(tmp_path):
    text = ""
    formats = ("f32", "bf16", "q8_0", "q4_0", "mxfp4", "fp8", "int4", "q4_1", "f16")
    for at, config in enumerate(sorted(FIXTURES.glob("*/config.json"))):
        r = chipline("synth", config, "-o", tmp_path / "m.h5", "--quiet", "--format", formats[at % len(formats)])
        text += f"== {config.parent.name}, {formats[at % len(formats)]}\n" + r.stderr
        text += "" if r.returncode else brief(tmp_path / "m.h5", config.parent.name == "llama4")
    page(HERE, "synth", text)


def test_tokens(demo):
    page(HERE, "tokenize", "".join(said("tokenize", demo, *options) for options in (
        ("-p", "Once upon a time, there were 3 bears."), ("-p", "Ünïcode \u2603 and\ttabs\n", "--json"),
        ("-p", "", "--json"), ("--decode", "401,510,475"), ("--decode", "401,510,475", "--json"))))


def test_rows(demo, tmp_path):
    """A batch with good and bad rows; then what is in its summary and trace."""
    rows = [{"id": "a", "prompt": "Once upon a time", "max_tokens": 12}, {"id": "b", "prompt": "Tom", "max_tokens": 5,
                                                                        "temperature": 0.8, "seed": 3, "top_k": 5},
            {"id": "c", "tokens": [401, 510], "max_tokens": 3, "stop": ["zzz"]}, {"id": "d"}, {"id": "e", "prompt": 3},
            {"id": "f", "prompt": "x", "tmperature": 1}, {"id": "g", "tokens": [99999]},
            {"id": "h", "prompt": "a", "max_tokens": 0}, {"id": "i", "prompt": "a", "top_p": 2},
            {"id": "j", "messages": [{"role": "user", "content": "hi"}]}, {"id": "k", "prompt": "a", "n": 2}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + "{\n[]\n\n\"x\"\n")
    r = chipline("run", demo, "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--context", 64,
                 "--digest", "--threads", 1, "--summary", tmp_path / "s.json", "--quiet")
    text = f"exit code {r.returncode}\n{r.stderr}"
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row in sorted(out, key=lambda row: (str(row["id"]), str(row.get("error")))):
        row["timing"] = kinds(row.get("timing"))
        text += json.dumps(row) + "\n"
    summary = json.loads((tmp_path / "s.json").read_text())
    known = {k: summary[k] for k in ("requests", "failed_requests", "prompt_tokens", "generated_tokens", "layout",
                                     "replicas", "slots", "context", "activations", "kv")}
    page(HERE, "batch", text + json.dumps(known) + "\n" + json.dumps(kinds(summary), indent=1) + "\n")


def test_no_trace_is_none(demo, tmp_path):
    """--trace-level off makes no file and needs no place for one."""
    ok("run", demo, "-p", "a", "-n", 1, "--quiet", "--threads", 1, "--trace", tmp_path / "none" / "t.h5",
       "--trace-level", "off")
    ok("run", demo, "-p", "a", "-n", 1, "--quiet", "--threads", 1, "--trace", tmp_path / "t.h5", "--trace-level", "off",
       ranks=2)
    assert not list(tmp_path.iterdir())


STABLE = ("microbatch", "layer", "tokens", "parts", "experts", "gathers", "weight_bytes", "kv_bytes", "msg_bytes")


@pytest.mark.parametrize("name,ranks,layout", [("qwen3_moe", 1, "1x1"), ("deepseek_v3", 3, "1x3"),
                                               ("gpt_oss", 4, "2x2")])
def test_traces(name, ranks, layout, convert, tmp_path):
    """What is in a trace but times: every table's columns with their words, and what each step did."""
    trace = tmp_path / "t.h5"
    ok("run", convert(FIXTURES / name, "--format", "q8_0"), "--tokens", ids(golden(name)[0]["prompt"][:9]), "-n", 3,
       "--ignore-eos", "--context", 32, "--layout", layout, "--threads", 1, "--trace", trace, "--trace-level", "kernel",
       "--quiet", "--gather", "messages", ranks=ranks)
    text = ""
    with h5py.File(trace) as f:
        kind = {k["id"]: k["name"].decode() for k in f["kinds"][:]}
        for table in ("kinds", "ranks", "requests", "parts", "events/rank_0000"):
            text += f"== {table}\n"
            text += "".join(f"{k}: {value(v)}\n" for k, v in sorted(f[table].attrs.items()))
            text += f"{f[table].dtype.names}\n"
        text += "".join(f"{row}\n" for row in f["kinds"][:]) + "".join(f"{row}\n" for row in f["parts"][:])
        for rank in sorted(f["events"]):
            text += f"== {rank}\n"
            for e in f["events"][rank][:]:
                if kind[e["kind"]] in ("step", "embed", "layer", "head", "sample", "qkv", "attend", "attn_out", "route",
                                       "ffn", "gather", "send"):
                    numbers = " ".join(str(e[c]) for c in STABLE)
                    text += f"{kind[e['kind']]} {numbers} {e['peer']}\n"
    page(HERE, f"trace_{layout}", text)


def test_bench(demo):
    r = ok("bench", demo, "--threads", 1, "--kind", "decode", "--sequences", "1,2", "--tokens", 8, "--json")
    said = json.loads(r.stdout)
    for case in said["cases"]:
        del case["runs"][1:]  # as many as there was time for
    page(HERE, "bench", json.dumps(kinds(said), indent=1) + "\n")
