#!/usr/bin/env python3
"""Compares `chipline tokenize` with the libraries that real vocabularies were made for. Not part of the tests: vocabularies are
too large to commit.

    check_vocabularies.py CHIPLINE FOLDER...     FOLDER holds tokenizer.json, tokenizer.model (SentencePiece or tiktoken) or
                                                 tiktoken.model
                          [--text FILE]...       more texts, UTF-8
                          [--all]                every code point of Unicode as well (a minute per vocabulary)

Needs tokenizers, sentencepiece and tiktoken. Every vocabulary is put beside a made-up model of one small layer and goes the whole
way: converted, stored in a model file, read back. A folder with ranks.tiktoken and pattern.txt is a tiktoken vocabulary of no
family that is imported so: it is written as a tokenizer.json, the way the hub's are made, and compared with tiktoken. One line per
vocabulary; the exit status is 1 if any ids differ."""

import argparse
import base64
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


TEXTS = [
    "The quick brown fox doesn't jump; it's 'resting' (we'll see, I'M SURE, they'Re late). McDonald's iPhone HTTPServer XMLHttpRequest.",
    "Die Gr\u00f6\u00dfe z\u00e4hlt: 1.234,56 \u20ac \u2014 \u201eja\u201c. L\u2019\u00e9t\u00e9 d\u00e9j\u00e0 vu; \u00bfqu\u00e9? \u00a1ni\u00f1o! Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144. \u0130stanbul'da \u0131\u015f\u0131k.",
    "\u0421\u044a\u0435\u0448\u044c \u0436\u0435 \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 \u043c\u044f\u0433\u043a\u0438\u0445 \u0444\u0440\u0430\u043d\u0446\u0443\u0437\u0441\u043a\u0438\u0445 \u0431\u0443\u043b\u043e\u043a, \u0434\u0430 \u0432\u044b\u043f\u0435\u0439 \u0447\u0430\u044e. \u0404\u0432\u0440\u043e\u043f\u0430, \u0457\u0436\u0430\u043a.",
    "\u0397 \u03b3\u03c1\u03ae\u03b3\u03bf\u03c1\u03b7 \u03ba\u03b1\u03c6\u03ad \u03b1\u03bb\u03b5\u03c0\u03bf\u03cd. \u1f08\u03c1\u03c7\u03b9\u03bc\u03ae\u03b4\u03b7\u03c2 \u1f41 \u03a3\u03c5\u03c1\u03b1\u03ba\u03cc\u03c3\u03b9\u03bf\u03c2.",
    "\u0646\u0635 \u062d\u0643\u064a\u0645 \u0644\u0647 \u0633\u0631 \u0642\u0627\u0637\u0639\u060c \u0648\u0630\u0648 \u0634\u0623\u0646\u064d \u0639\u0638\u064a\u0645\u064d \u0661\u0662\u0663\u066b\u0664. \u0641\u0627\u0631\u0633\u06cc: \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u06f4\u06f5",
    "\u05d3\u05d2 \u05e1\u05e7\u05e8\u05df \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd, \u05e9\u05d8 \u05d1\u05d9\u05dd \u05de\u05d0\u05d5\u05db\u05d6\u05d1 (\u05f4\u05db\u05df\u05f4).",
    "\u090b\u0937\u093f\u092f\u094b\u0902 \u0915\u094b \u0938\u0924\u093e\u0928\u0947 \u0935\u093e\u0932\u0947 \u0966\u0967\u0968\u0964 \u09ac\u09be\u0982\u09b2\u09be \u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u0c24\u0c46\u0c32\u0c41\u0c17\u0c41 \u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8 \u0540\u0561\u0575\u0565\u0580\u0565\u0576 \u12a0\u121b\u122d\u129b",
    "\u0e40\u0e1b\u0e47\u0e19\u0e21\u0e19\u0e38\u0e29\u0e22\u0e4c\u0e2a\u0e38\u0e14\u0e1b\u0e23\u0e30\u0e40\u0e2a\u0e23\u0e34\u0e10 \u0e51\u0e52\u0e53 \u0ea5\u0eb2\u0ea7 \u1019\u103c\u1014\u103a\u1019\u102c \u1781\u17d2\u1798\u17c2\u179a Vi\u1ec7t Nam \u0111\u1eb9p qu\u00e1!",
    "\u5929\u5730\u7384\u9ec4\uff0c\u5b87\u5b99\u6d2a\u8352\u3002\u4eca\u5929\u662f2024\u5e747\u670826\u65e5\uff0cABC\u516c\u53f8\u7684GPU\u5f88\u5feb\u3002\u3400\U00020000\u3007\u3006",
    "\u3044\u308d\u306f\u306b\u307b\u3078\u3068\u3001\u30c1\u30ea\u30cc\u30eb\u30f2\u3002\u6771\u4eac\u30bf\u30ef\u30fc\u306f333m\u3067\u3059\u3002\uff8a\uff9d\uff76\uff78 \uff21\uff22\uff23\uff11\uff12\u3005",
    "\ub2e4\ub78c\uc950 \ud5cc \uccc7\ubc14\ud034\uc5d0 \ud0c0\uace0\ud30c. \u1112\u1161\u11ab\u1100\u1173\u11af \u3131\u314f \ud55c\uad6d\uc5b4 2024\ub144\u6f22\u5b57",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \u2764\ufe0f\u200d\U0001f525 1\ufe0f\u20e3 \u2728\U0001f999.cpp",
    "def f(x):\n    return {'a': x[0], \"b\": x ** 2}  # t\u00e4st\n\n\nif __name__ == '__main__':\n\tprint(f([1, 22, 333, 4444]))\n",
    "#include <stdio.h>\r\nint main(void) { for (int i = 0; i < 10; ++i) printf(\"%d\\n\", i); /* http://a.b/c?d=e&f#g */ }\r\n\r\n",
    " a  b   c    d\t\te\n\nf \n g\n  \n\n   h   \u00a0\u2003\u3000 i \u2028j\u2029 \u0085k\u000b\u000c   ",
    "0 12 345 6789 1234567890 3.14 -2.5e-10 0xDEADBEEF 1,000,000 50% $99.99 \u00bd \u00b2 \u00b3 \u2153 \u2167 \u2460 \u0663\u0664 \u0be7 x\u00b2+y\u00b2 4\u00bd",
    "e\u0301 n\u0303 a\u0300\u0301\u0302 \u1e9b\u0323 A\u030a \u00c5 \u212b q\u0307\u0323 \u0915\u093c Z\u0351\u036b\u0343 \u0301x \u0301\u0302 1\u0301 !\u0301 \u01c5 \u02b0 \u16a0",
    "$$\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$$ \u2200x\u2208\u211d: \u2308x\u2309 \u2265 x \u2014 \u2192 \u2190 \u03b1\u2264\u03b2 \u00b1 \u221e",
    "<html><body class=\"x\">&amp; <!-- c --></body></html> {\"json\": [1, null, true], \"k\": \"v\\u00e9\"} /path/to//file.txt C:\\Users\\x",
    "....!!!???---___***###@@@ ~~~ ``` ''' \"\"\" ((())) [[[]]] {{{}}} <<<>>> //// \\\\\\ ||| &&& $$$ %%% ^^^ +++ ===",
    "\u0000\u0001\u001f\u007f\u0080 \u200b\u200c\u200d\ufeff\ufffd \ue000 \ufdd0 \U0010ffff \U000e0001",
    "'s 'T 'rE 've' 'M 'll 'LL 'd d's I'll've o'clock rock'n'roll \u2019s \u2019T 's\u0301 X'S\u017f '\u017f",
    "camelCaseWord PascalCase SCREAMING_SNAKE kebab-case \u01c4\u01c5\u01c6\u00c4B\u00e4b \u0410\u0431\u0412 \u4e2dA\u6587b\u6f22C \u3042A\u4e2d \u4e2d\u0301\u6587",
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


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES


def cased(but, signs):
    """Words cut by case, as o200k and Kimi do."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}" + but + "]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}" + but + "]"
    lead, tail = r"[^\r\n\p{L}\p{N}]?", CONTRACTIONS + "?"
    words = f"{lead}{upper}*{lower}+{tail}|{lead}{upper}+{lower}*{tail}|"
    return words + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+" + signs + "|" + SPACES


O200K = cased("", r"[\r\n/]*")
KIMI = r"[\p{Han}]+|" + cased(r"&&[^\p{Han}]", r"[\r\n]*")


def read_ranks(path):
    """tiktoken's lines, or None."""
    try:
        pairs = [line.split() for line in path.read_bytes().splitlines() if line]
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except ValueError:
        return None


def tiktoken_reference(ranks, pattern):
    import tiktoken

    encoding = tiktoken.Encoding("checked", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda text: encoding.encode(text, disallowed_special=()), len(ranks)


def write_tokenizer_json(ranks, pattern, path):
    """Merges are all ways to cut a token in two, in the order of the ranks, as transformers' converter writes them."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {b: chr(b) for b in printing}
    alphabet |= {b: chr(0x100 + i) for i, b in enumerate(b for b in range(256) if b not in printing)}

    def spell(token):
        return "".join(alphabet[b] for b in token)

    merges = []
    for token, rank in ranks.items():
        cuts = [(token[:k], token[k:]) for k in range(1, len(token))]
        merges += [(rank, ranks[a], ranks[b], a, b) for a, b in cuts if a in ranks and b in ranks]
    merges.sort()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    whole = dict(
        version="1.0",
        added_tokens=[],
        normalizer=None,
        pre_tokenizer=dict(type="Sequence", pretokenizers=[split, byte_level]),
        post_processor=None,
        decoder=byte_level,
        model=dict(
            type="BPE",
            vocab={spell(t): r for t, r in ranks.items()},
            merges=[[spell(a), spell(b)] for *_, a, b in merges],
            ignore_merges=True,
        ),
    )
    path.write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")


def pattern_of(folder):
    return (folder / "pattern.txt").read_text(encoding="utf-8").strip("\n")


def reference(folder):
    """A function from text to ids without BOS and EOS, and the number of ids."""
    if (folder / "ranks.tiktoken").exists():
        return tiktoken_reference(read_ranks(folder / "ranks.tiktoken"), pattern_of(folder))
    if (folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = tok.get_vocab(with_added_tokens=True).values()
        return lambda text: tok.encode(text, add_special_tokens=False).ids, max(ids) + 1
    if (folder / "tiktoken.model").exists():
        return tiktoken_reference(read_ranks(folder / "tiktoken.model"), KIMI)
    if ranks := read_ranks(folder / "tokenizer.model"):
        return tiktoken_reference(ranks, O200K if len(ranks) == 200000 else LLAMA3)
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return sp.encode, sp.vocab_size()


def check(chipline, folder, texts):
    encode, vocab = reference(folder)
    wrong = total = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for file in ("tokenizer.json", "tokenizer.model", "tiktoken.model", "tokenizer_config.json", "special_tokens_map.json"):
            if (folder / file).exists():
                shutil.copy(folder / file, work / file)
        if (folder / "ranks.tiktoken").exists():
            write_tokenizer_json(read_ranks(folder / "ranks.tiktoken"), pattern_of(folder), work / "tokenizer.json")
        write_model(work, vocab + 2560)
        subprocess.run([chipline, "convert", str(work), "-o", str(work / "m.h5")], check=True, stderr=subprocess.DEVNULL)
        for text in texts:
            out = subprocess.run(
                [chipline, "tokenize", str(work / "m.h5"), "--json"], input=text.encode(), check=True, stdout=subprocess.PIPE
            ).stdout
            got, want = json.loads(out)["tokens"], encode(text)
            if got[:1] != want[:1]:  # the BOS
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
    texts = TEXTS + ["\n".join(TEXTS)] + list(random_texts(10, 20000)) + [path.read_text(encoding="utf-8") for path in args.text]
    if args.all:
        texts += code_points()
    return 1 if sum(check(args.chipline, folder, texts) for folder in args.folders) else 0


if __name__ == "__main__":
    sys.exit(main())
