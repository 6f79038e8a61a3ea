"""The geometries that come with chipline have the sizes that their models are known by.

Parameters: sums of the published tensors' shapes. Read: one token's weight bytes in the checkpoint's own formats (the
published tables count norms and biases at the checkpoint's 2 bytes; model files keep them in float32, which is within
the tolerance). KV: bytes that one token appends, at 2 bytes per number.
"""
import json
import math

import pytest

from conftest import ROOT, ok

FOLDER = ROOT / "configs" / "models"
CLOSE = 0.005

#                    total parameters   read parameters   read bytes  KV bytes  bytes of one expert
MODELS = {
    "smollm2-135m":      (134_515_008,       134_515_008,    0.269e9,   23_040, None),
    "mixtral-8x7b":      (46_702_792_704,    12.75e9,        25.50e9,  131_072, 352.32e6),
    "olmoe-1b-7b":       (6_919_161_856,     1.179e9,        2.358e9,  131_072, 12.58e6),
    "qwen3-30b-a3b":     (30_532_122_624,    3.042e9,        6.084e9,   98_304, 9.44e6),
    "gpt-oss-20b":       (20_914_757_184,    3_608_307_264,  3.708e9,   49_152, 13.236e6),
    "gpt-oss-120b":      (116_829_156_672,   5_132_849_472,  5.003e9,   73_728, 13.236e6),
    "deepseek-v2-lite":  (15_706_484_224,    2.451e9,        4.903e9,   31_104, 17.30e6),
    "deepseek-v3":       (671_026_419_200,   36.63e9,        37.67e9,   70_272, 44.05e6),
    "kimi-k2":           (1_026_408_232_448, 31.69e9,        33.04e9,   70_272, 44.05e6),
    "kimi-k2-thinking":  (1_026_408_232_448, 31.69e9,        32.99e9,   70_272, 24.77e6),
    "llama-4-scout":     (107_769_861_120,   16.14e9,        32.28e9,  196_608, 251.66e6),
    "llama-4-maverick":  (400_711_848_960,   16.15e9,        32.30e9,  196_608, 251.66e6),
    "glm-4.5":           (352_797_829_024,   32.86e9,        65.71e9,  376_832, 47.19e6),
    "minimax-m2":        (228_689_764_864,   10.416e9,       11.08e9,  253_952, 14.16e6),
}

# Bytes of all weights where they are published; which formats they are in.
STORED = {"gpt-oss-20b": 13_761_264_768, "gpt-oss-120b": 65_248_815_744, "deepseek-v3": 673.15e9, "kimi-k2": 1_029.17e9,
          "kimi-k2-thinking": 594.2e9, "deepseek-v2-lite": 31.41e9, "mixtral-8x7b": 93.41e9, "olmoe-1b-7b": 13.84e9,
          "qwen3-30b-a3b": 61.06e9}
FORMATS = {"gpt-oss-20b": {"bf16", "mxfp4"}, "gpt-oss-120b": {"bf16", "mxfp4"}, "deepseek-v3": {"bf16", "fp8"},
           "kimi-k2": {"bf16", "fp8"}, "minimax-m2": {"bf16", "fp8"}, "kimi-k2-thinking": {"bf16", "int4"}}


def inspect(name):
    return json.loads(ok("inspect", FOLDER / f"{name}.json", "--json").stdout)


def near(a, b, tolerance=CLOSE):
    return math.isclose(a, b, rel_tol=tolerance)


def test_every_geometry_is_checked():
    assert {p.stem for p in FOLDER.glob("*.json")} == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_numbers(name):
    total, read, read_bytes, kv, _ = MODELS[name]
    j = inspect(name)
    assert j["parameters"]["total"] == total
    table = 0 if j["tied_head"] else j["vocab"] * j["hidden"]  # a pass reads one row of an embedding table
    assert near(j["parameters"]["active"] - table, read)
    assert j["parameters"]["active_without_tables"] == j["parameters"]["active"] - table
    assert near(j["read_bytes_per_token"], read_bytes)
    assert j["kv_bytes_per_token"] == kv == sum(layer["kv_bytes_per_token"] for layer in j["layers"])
    assert sum(layer["parameters"] for layer in j["layers"]) < total
    assert set(j["bytes"]) == FORMATS.get(name, {"bf16"}) | {"f32"}
    if name in STORED:
        assert near(sum(j["bytes"].values()), STORED[name])


# Model cards: all parameters, those of one token's pass. GLM's count its layer that predicts further tokens, but
# neither embedding nor head; MiniMax's are round.
CARDS = {"glm-4.5": (355e9, 32e9), "minimax-m2": (230e9, 10e9)}

# Cards in billions: total, active, and which of the two numbers that is. gpt-oss's (arXiv 2508.10925, table 1:
# "unembedding parameters towards active, but not embeddings"); DeepSeek's and Kimi's are between the two and round.
ACTIVE = {"gpt-oss-20b": (20.9, 3.61, "active_without_tables"), "gpt-oss-120b": (116.8, 5.13, "active_without_tables"),
          "qwen3-30b-a3b": (30.5, 3.3, "active"), "deepseek-v3": (671, 37, "active"),
          "kimi-k2": (1000, 32, "active_without_tables")}


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_of_cards(name):
    total, active, key = ACTIVE[name]
    n = inspect(name)["parameters"]
    assert near(n["total"], total * 1e9, 0.03) and near(n[key], active * 1e9, 0.02)
    text = ok("inspect", FOLDER / f"{name}.json").stdout
    without = f"({n['active_without_tables'] / 1e9:.3g} B without the embedding table)"
    assert f"active in one token's pass {n['active'] / 1e9:.3g} B {without}" in text


def test_active_parameters_of_gpt_oss():
    assert f'{inspect("gpt-oss-20b")["parameters"]["active"] / 1e9:.1f}' == "4.2"
    tied = ok("inspect", FOLDER / "smollm2-135m.json").stdout
    assert "active in one token's pass 135 M\n" in tied
    assert inspect("smollm2-135m")["parameters"]["active_without_tables"] == 134_515_008


@pytest.mark.parametrize("name", CARDS)
def test_model_cards(name):
    j = inspect(name)
    table = j["vocab"] * j["hidden"]
    assert near(j["parameters"]["total"], CARDS[name][0], 0.01)
    assert near(j["parameters"]["active"] - 2 * table, CARDS[name][1], 0.03)


@pytest.mark.parametrize("name", [n for n in MODELS if MODELS[n][4]])
def test_one_expert(name, tmp_path):
    """More experts make every mixture larger by so many times an expert, and a token reads no more of them."""
    config = json.loads((FOLDER / f"{name}.json").read_text())
    text = config.get("text_config", config)
    key = next(k for k in ("num_local_experts", "num_experts", "n_routed_experts") if k in text)
    more = text.get("n_group", 1)
    text[key] += more
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    a, b = inspect(name), json.loads(ok("inspect", path, "--json").stdout)
    mixtures = [i for i, layer in enumerate(a["layers"]) if layer["ffn"]["kind"] == "moe"]
    assert mixtures and len(mixtures) * a["layers"][mixtures[0]]["ffn"]["top_k"] == {
        "mixtral-8x7b": 64, "olmoe-1b-7b": 128, "qwen3-30b-a3b": 384, "gpt-oss-20b": 96, "gpt-oss-120b": 144,
        "deepseek-v2-lite": 156, "deepseek-v3": 464, "kimi-k2": 480, "kimi-k2-thinking": 480, "llama-4-scout": 48,
        "llama-4-maverick": 24, "glm-4.5": 712, "minimax-m2": 496}[name]
    grown = (sum(b["bytes"].values()) - sum(a["bytes"].values())) / len(mixtures) / more
    assert near(grown, MODELS[name][4])
    assert near(a["read_bytes_per_token"], b["read_bytes_per_token"], 1e-3)  # a router's row is read


def test_what_tells_them_apart():
    """The parts of a layer that no size shows."""
    def attention(name):
        return [layer["attention"] for layer in inspect(name)["layers"]]
    oss, scout, maverick = attention("gpt-oss-20b"), attention("llama-4-scout"), attention("llama-4-maverick")
    assert [a.get("window_positions", 0) for a in oss] == [128, 0] * 12 and all(a["sinks"] for a in oss)
    for layers, norm in (scout, "unit"), (maverick, None):
        assert [a.get("window_positions", 0) for a in layers] == [8192, 8192, 8192, 0] * 12
        assert [a["rope"] for a in layers] == [0, 0, 0, -1] * 12
        assert [a.get("qk_norm") for a in layers] == [norm, norm, norm, None] * 12
        assert all(a.get("chunked", False) == (a["rope"] == 0) for a in layers)
    for name, norm, bias in ("glm-4.5", "head", True), ("minimax-m2", "full", False):
        assert all(a["qk_norm"] == norm and a.get("qkv_bias", False) == bias and "window_positions" not in a
                   for a in attention(name))
    # softmax scales: 192^-0.5 times YaRN's squared mscale
    for name, scale in ("deepseek-v3", 0.13523378), ("kimi-k2", 0.13086080), ("deepseek-v2-lite", 0.11472139):
        assert all(near(a["scale"], scale, 1e-7) for a in attention(name))


# Frequencies and scales of the rotary tables: index -> radians per position.
ROPES = {
    "gpt-oss-20b": (1.3465736, {0: 1, 1: 0.689044306, 8: 0.0508132748, 9: 0.0317056962, 12: 0.00679495949,
                                16: 0.000456483919,
                                18: 3.83088124e-05, 31: 3.02351143e-07}),
    "deepseek-v3": (1, {9: 0.0749894209, 10: 0.0562341325, 12: 0.0268793601, 16: 0.0055, 22: 0.000177827941,
                        31: 3.33380358e-06}),
    "kimi-k2": (1, {18: 0.00227420376, 19: 0.00162175991, 20: 3.61404677e-05, 31: 8.76441291e-07}),
    "llama-4-scout": (1, {34: 500000 ** (-34 / 64), 35: 500000 ** (-35 / 64) / 16, 63: 500000 ** (-63 / 64) / 16}),
    "llama-4-maverick": (1, {34: 500000 ** (-34 / 64), 35: 500000 ** (-35 / 64)}),
    "glm-4.5": (1, {1: 1e6 ** (-1 / 32), 31: 1e6 ** (-31 / 32)}),
    "minimax-m2": (1, {1: 5e6 ** (-1 / 32), 31: 5e6 ** (-31 / 32)}),
}


@pytest.mark.parametrize("name", ROPES)
def test_rotary_tables(name):
    scale, freq = ROPES[name]
    (rope,) = inspect(name)["ropes"]
    assert near(rope["scale"], scale, 1e-7)
    assert rope["pairing"] == ("half" if name in ("gpt-oss-20b", "glm-4.5", "minimax-m2") else "interleaved")
    for i, f in freq.items():
        assert near(rope["inv_freq_rad_per_position"][i], f, 1e-7)
