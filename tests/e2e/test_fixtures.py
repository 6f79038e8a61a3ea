"""Every tiny checkpoint gives transformers' logits and greedy tokens, from every source and on 1 to 4 ranks."""
import json
import shutil
import struct

import h5py
import numpy as np
import pytest

from conftest import ALL, FIXTURES, generate, golden, ids, ok, some

MODELS = sorted(p.parent.name for p in FIXTURES.glob("*/golden.json") if (p.parent / "config.json").exists())
GGUF = sorted(str(p.relative_to(FIXTURES)) for p in FIXTURES.glob("*/*.gguf") if p.parent.name != "quant"
              and "-00002-of" not in p.name)
# quantised checkpoints: as what
STORED = {name: json.loads((FIXTURES / name / "golden.json").read_text()).get("stored") for name in MODELS}
PLAIN = [name for name in MODELS if not STORED[name]]
PAIRS = [path for path in GGUF if (FIXTURES / path.split("/")[0] / "model.safetensors").exists()]
QUANT = sorted(p.stem[len("model_"):] for p in (FIXTURES / "quant").glob("model_*.gguf"))


def layers(model_file):
    return len(json.loads(ok("inspect", model_file, "--json").stdout)["layers"])


def check(model, gold, want, work, ranks, *options):
    """Logits of prompt and continuation within 1e-4 of their standard deviation, the same greedy ids."""
    path = work / "logits.npy"
    row = generate(model, "--tokens", ids(gold["prompt"]), "-n", len(gold["greedy"]), "--ignore-eos", "--activations",
                   "f32", "--logits", path,
                   "--digest", "--threads", 1, *options, ranks=ranks)
    assert row["tokens"] == gold["greedy"]
    got = np.load(path)
    path.unlink()
    assert got.shape == want.shape and got.dtype == np.float32
    assert np.abs(got - want).max() < 1e-4 * gold["logits_std"]
    return row["logits_xxh3"]


def contents(model):
    """Root checksum (spec and tensors), and every tensor's shape, format and checksum."""
    with h5py.File(model) as f:
        return f.attrs["checksum"], {name: (*t.attrs["shape"], t.attrs["format"], t.attrs["xxh3"]) for name,
                                     t in f["tensors"].items()}


def test_all_are_there():
    assert len(MODELS) >= 27 and len(GGUF) >= 14 and len(QUANT) >= 6 and set(STORED.values()) == {None, "mxfp4", "fp8",
                                                                                                  "int4"}


@pytest.mark.parametrize("at,name", enumerate(MODELS))
def test_checkpoint_on_all_ranks(at, name, convert, work):
    gold, want = golden(name)
    model = convert(FIXTURES / name)
    most = min(4, layers(model))
    counts = range(1, most + 1) if ALL else [2 + at % (most - 1)]
    digests = {check(model, gold, want, work, ranks) for ranks in counts}
    digests.add(check(model, gold, want, work, None, "--chunk", 3, "--kernels", "reference"))
    digests.update(check(model, gold, want, work, None, "--chunk", 1) for _ in some([0], 3, at))
    assert len(digests) == 1


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_the_main_models(name, convert):
    """Neither layers that predict further tokens nor other modalities' towers become layers."""
    config = json.loads((FIXTURES / name / "config.json").read_text())
    assert layers(convert(FIXTURES / name)) == config.get("text_config", config)["num_hidden_layers"]


@pytest.mark.parametrize("name", PLAIN)
def test_hub_dialect_is_the_same_model(name, convert, tmp_path):
    for f in (FIXTURES / name).iterdir():
        if f.name.startswith("model") and f.suffix in (".safetensors", ".json"):
            shutil.copy(f, tmp_path)
    shutil.copy(FIXTURES / name / "config_hub.json", tmp_path / "config.json")
    a, b = convert(FIXTURES / name), convert(tmp_path)
    assert json.loads(ok("inspect", a, "--json").stdout)["layers"] == json.loads(ok("inspect", b,
                                                                                    "--json").stdout)["layers"]
    assert contents(a) == contents(b)


@pytest.mark.parametrize("path", GGUF)
def test_gguf(path, convert, work):
    gold, want = golden(path.split("/")[0])
    check(convert(FIXTURES / path), gold, want, work, None)


@pytest.mark.parametrize("path", PAIRS)
def test_gguf_holds_the_same_tensors(path, convert):
    """Renamed, permuted, split and fused as both containers do, every canonical tensor has the same bits. (Routers of
    quantised checkpoints are bf16 there and float32 in GGUF.)"""
    name = path.split("/")[0]
    a, b = contents(convert(FIXTURES / name))[1], contents(convert(FIXTURES / path))[1]
    if STORED[name]:
        routers = [t for t in a if t.endswith("router.weight")]
        assert routers and [a.pop(t)[:-2] for t in routers] == [b.pop(t)[:-2] for t in routers]
    assert a == b


@pytest.mark.parametrize("name", [n for n in MODELS if STORED[n]])
def test_quantised_checkpoint(name, convert, work):
    """Matrices keep the checkpoint's format (its float32 arithmetic is held to 1e-4 above). With 8-bit activations: the
    error of the positions' logits. FP8 weights take float32 ones, so that only the cache's bf16 shows. (A position
    where another expert is chosen is far off; the median is not.)"""
    gold, want = golden(name)
    model, kind = convert(FIXTURES / name), STORED[name]
    experts = [f for n, (*_, f, _) in contents(model)[1].items() if ".experts." in n and n.endswith("weight")]
    assert experts and set(experts) == {kind.encode() if isinstance(experts[0], bytes) else kind}
    path = work / "logits.npy"
    generate(model, "--tokens", ids(gold["prompt"] + gold["greedy"][:-1]), "-n", 1, "--ignore-eos", "--activations",
             "q8",
             "--logits", path)
    rows = np.sqrt(((np.load(path) - want) ** 2).mean(1)) / want.std()
    error, middle = np.sqrt((rows ** 2).mean()), np.median(rows)
    print(f"{name}: 8-bit activations with {kind} weights move the logits by {error:.4f} of their deviation (median "
          f"position {middle:.4f})")
    assert 1e-6 < error < 0.2 and middle < (0.01 if kind == "fp8" else 0.03)


@pytest.mark.parametrize("kind", QUANT)
def test_quantised_gguf(kind, convert, work):
    """Native formats are computed as they are; K-quants are re-encoded to Q8_0, so they agree only within its error."""
    folder = FIXTURES / "quant"
    gold = json.loads((folder / f"golden_{kind}.json").read_text())
    want = np.load(folder / f"logits_{kind}.npy")
    model = convert(folder / f"model_{kind}.gguf")
    path = work / "logits.npy"
    generate(model, "--tokens", ids(gold["prompt"]), "-n", 1, "--ignore-eos", "--activations", "f32", "--logits", path)
    got = np.load(path)
    std = want.std()
    exact = kind in ("Q8_0", "Q4_0", "Q4_1", "MXFP4")
    assert np.abs(got - want).max() < (1e-4 if exact else 0.15) * std
    generate(model, "--tokens", ids(gold["prompt"]), "-n", 1, "--ignore-eos", "--logits", path)
    error = np.sqrt(((np.load(path) - want) ** 2).mean()) / std
    assert 1e-6 < error < 0.1, f"8-bit activations: {error:.4f} of the logits' standard deviation"


# --- a GGUF written here: gguf-py's names of GLM-4.5, which no file of the fixtures has ---

def safetensors(path):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    header.pop("__metadata__", None)
    assert {t["dtype"] for t in header.values()} == {"F32"}
    return {name: np.frombuffer(raw[8 + n:], "<f4", int(np.prod(t["shape"])), t["data_offsets"][0]).reshape(t["shape"])
            for name, t in header.items()}


def write_gguf(path, metadata, tensors):
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    kinds = {str: (8, text), bool: (7, lambda v: struct.pack("<B", v)), int: (4, lambda v: struct.pack("<I", v)),
             float: (6, lambda v: struct.pack("<f", v))}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, v in metadata.items():
        kind, pack = kinds[type(v)]
        head += text(key) + struct.pack("<I", kind) + pack(v)
    data = b""
    for name, x in tensors.items():
        head += text(name) + struct.pack("<I", x.ndim) + struct.pack(f"<{x.ndim}Q", *reversed(x.shape))
        head += struct.pack("<IQ", 0, len(data))
        data += x.tobytes() + b"\0" * (-x.nbytes % 32)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


GLM4_NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
              "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
              "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
              "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
              "mlp.gate": "ffn_gate_inp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
              "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp"}
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight",
           "model.norm.weight": "output_norm.weight"}


def glm4_tensors(tensors):
    out, experts = {}, {}
    for name, x in tensors.items():
        if name in OUTSIDE:
            out[OUTSIDE[name]] = x
            continue
        layer, rest = name.removeprefix("model.layers.").split(".", 1)
        if rest.startswith("mlp.experts."):
            number, part = rest.removeprefix("mlp.experts.").split(".")[:2]
            experts.setdefault(f"blk.{layer}.ffn_{part.removesuffix('_proj')}_exps.weight", {})[int(number)] = x
        elif rest == "mlp.gate.e_score_correction_bias":
            out[f"blk.{layer}.exp_probs_b.bias"] = x
        else:
            part, kind = rest.rsplit(".", 1)
            out[f"blk.{layer}.{GLM4_NAMES[part]}.{kind}"] = x
    return out | {name: np.stack([parts[i] for i in sorted(parts)]) for name, parts in experts.items()}


@pytest.mark.parametrize("name", ["glm4_moe", "glm4_moe_b"])
def test_gguf_of_glm4(name, convert, work, tmp_path):
    c = json.loads((FIXTURES / name / "config.json").read_text())
    gold, want = golden(name)
    a = "glm4moe"
    metadata = {
        "general.architecture": a, f"{a}.block_count": c["num_hidden_layers"],
        f"{a}.embedding_length": c["hidden_size"],
        f"{a}.context_length": c["max_position_embeddings"], f"{a}.feed_forward_length": c["intermediate_size"],
        f"{a}.attention.head_count": c["num_attention_heads"], f"{a}.attention.head_count_kv": c["num_key_value_heads"],
        f"{a}.attention.key_length": c["head_dim"], f"{a}.attention.value_length": c["head_dim"],
        f"{a}.attention.layer_norm_rms_epsilon": c["rms_norm_eps"],
        f"{a}.rope.dimension_count": int(c["head_dim"] * c["rope_parameters"]["partial_rotary_factor"]),
        f"{a}.rope.freq_base": c["rope_parameters"]["rope_theta"], f"{a}.expert_count": c["n_routed_experts"],
        f"{a}.expert_used_count": c["num_experts_per_tok"], f"{a}.expert_shared_count": c["n_shared_experts"],
        f"{a}.expert_feed_forward_length": c["moe_intermediate_size"], f"{a}.expert_gating_func": 2,
        f"{a}.expert_weights_scale": float(c["routed_scaling_factor"]), f"{a}.expert_weights_norm": c["norm_topk_prob"],
        f"{a}.expert_group_count": c["n_group"], f"{a}.expert_group_used_count": c["topk_group"],
        f"{a}.leading_dense_block_count": c["first_k_dense_replace"], "tokenizer.ggml.eos_token_id": c["eos_token_id"]}
    write_gguf(tmp_path / "m.gguf", metadata, glm4_tensors(safetensors(FIXTURES / name / "model.safetensors")))
    model = convert(tmp_path / "m.gguf")
    assert contents(model)[1] == contents(convert(FIXTURES / name))[1]
    check(model, gold, want, work, None)
