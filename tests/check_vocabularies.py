#!/usr/bin/env python3
"""Compares `chipline tokenize` with the libraries that real vocabularies were made for. Not part of the tests: vocabularies are
too large to commit.

    check_vocabularies.py CHIPLINE FOLDER...     FOLDER holds tokenizer.json or tokenizer.model
                          [--text FILE]...       more texts, UTF-8
                          [--all]                every code point of Unicode as well (a minute per vocabulary)

Needs tokenizers and sentencepiece. Every vocabulary is put beside a made-up model of one small layer and goes the whole way:
converted, stored in a model file, read back. One line per vocabulary; the exit status is 1 if any ids differ."""

import argparse
import itertools
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HIDDEN = 4
POOLS = [
    "abcdefghijklmnopqrstuvwxyz",
    "ABCXYZ",
    "0123456789",
    "  \t\n\r",
    "      ",
    "\n\n\n",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "''''stmrvld",
    "\u00e9\u00e8\u00e0\u00fc\u00df",
    "\u03b1\u03b2\u03b3",
    "\u0430\u0431\u0432\u0433",
    "\u65e5\u672c\u8a9e\u6f22\u5b57",
    "\u3072\u3089\u304c\u306a\u30ab\u30bf",
    "\ud55c\uad6d\uc5b4",
    "\u0627\u0644\u0639\u0631\u0628",
    "\u0e44\u0e17\u0e22",
    "\u0939\u093f\u0928\u094d\u0926",
    "\u0300\u0301\u0302\u0308\u0327\u0323",
    "\u00bd\u00b2\u00b3\u2167\u2460\u0663",
    "\U0001f469\U0001f468\U0001f3fd\U0001f1e9\U0001f999",
    "\u200d\ufe0f\u200b",
    "\u00a0\u2003\u3000\u2028\u0085\u000b\u000c",
]


def random_texts(count, size):
    """Documents of short runs in many scripts."""
    r = random.Random(1)
    for _ in range(count):
        text = ""
        while len(text) < size:
            pools = [r.choice(POOLS) for _ in range(r.randint(1, 3))]
            text += "".join(r.choice(r.choice(pools)) for _ in range(r.randint(1, 12)))
        yield text


def code_points(per_text=4000):
    points = itertools.chain(range(1, 0xD800), range(0xE000, 0x110000))
    while chunk := list(itertools.islice(points, per_text)):
        yield "x".join(f"a{c}b {c}{c}1{c}. {c} '{c}\n{c}\n" for c in map(chr, chunk))


def write_model(folder, vocab):
    """A Llama of one layer whose numbers are all zero."""
    config = dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=HIDDEN,
        vocab_size=vocab,
        rms_norm_eps=1e-5,
        max_position_embeddings=64,
        rope_theta=10000.0,
        hidden_act="silu",
        tie_word_embeddings=True,
        torch_dtype="float32",
    )
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [vocab, HIDDEN], "model.norm.weight": [HIDDEN]}
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"model.layers.0.{name}.weight"] = [HIDDEN]
    for name in (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ):
        shapes[f"model.layers.0.{name}.weight"] = [HIDDEN, HIDDEN]
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[at, at + size])
        at += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def reference(folder):
    """A function from text to ids without BOS and EOS, and the number of ids."""
    if (folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = tok.get_vocab(with_added_tokens=True).values()
        return lambda text: tok.encode(text, add_special_tokens=False).ids, max(ids) + 1
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return sp.encode, sp.vocab_size()


def check(chipline, folder, texts):
    encode, vocab = reference(folder)
    wrong = total = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for file in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
            if (folder / file).exists():
                shutil.copy(folder / file, work / file)
        write_model(work, vocab + 512)
        subprocess.run([chipline, "convert", str(work), "-o", str(work / "m.h5")], check=True, stderr=subprocess.DEVNULL)
        for text in texts:
            out = subprocess.run(
                [chipline, "tokenize", str(work / "m.h5"), "--json"], input=text.encode(), check=True, stdout=subprocess.PIPE
            ).stdout
            got, want = json.loads(out)["tokens"], encode(text)
            if len(got) == len(want) + 1:  # the BOS
                got = got[1:]
            total += len(want)
            if got != want:
                wrong += 1
                at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
                print(f"  token {at}: {got[at:at + 5]} instead of {want[at:at + 5]}")
    print(f"{folder}: {wrong} of {len(texts)} texts differ ({total} ids)")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chipline")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--text", action="append", default=[], type=Path)
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    texts = list(random_texts(10, 20000)) + [path.read_text(encoding="utf-8") for path in args.text]
    if args.all:
        texts += code_points()
    return 1 if sum(check(args.chipline, folder, texts) for folder in args.folders) else 0


if __name__ == "__main__":
    sys.exit(main())
