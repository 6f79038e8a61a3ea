"""32 ranks: a tiny random model with 33 layers, written here as a checkpoint folder."""
import json
import struct

import numpy as np

from conftest import generate, some

LAYERS, HIDDEN, HEADS, VOCAB, WIDTH = 33, 24, 3, 50, 20


def checkpoint(folder):
    rng = np.random.default_rng(7)
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "lm_head.weight": (VOCAB, HIDDEN),
              "model.norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        shapes.update({p + "input_layernorm.weight": (HIDDEN,), p + "post_attention_layernorm.weight": (HIDDEN,)})
        shapes.update({p + f"self_attn.{n}_proj.weight": (HIDDEN, HIDDEN) for n in "qkvo"})
        shapes.update({p + "mlp.gate_proj.weight": (WIDTH, HIDDEN), p + "mlp.up_proj.weight": (WIDTH, HIDDEN),
                       p + "mlp.down_proj.weight": (HIDDEN, WIDTH)})
    header, data = {}, b""
    for name, shape in shapes.items():
        x = np.ones(shape) if len(shape) == 1 else rng.normal(size=shape) * 1.3 / shape[1] ** 0.5
        raw = x.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 128, "hidden_act": "silu", "tie_word_embeddings": False}))


def test_32_ranks(convert, tmp_path):
    checkpoint(tmp_path)
    model = convert(tmp_path)
    options = ("--tokens", "3,1,4,1,5,9,2,6", "-n", 12, "--ignore-eos", "--digest", "--threads", 1)
    rows = [generate(model, *options, ranks=ranks, timeout=300) for ranks in some((1, 16, 32), 2)]
    assert len({(r["logits_xxh3"], tuple(r["tokens"])) for r in rows}) == 1
