"""The same prompt gives the same bits in every layout, alone or in a batch, whatever the chunks and threads."""
import itertools
import json

import numpy as np
import pytest

from conftest import ALL, FIXTURES, generate, ok, some

PROMPT = "Once upon a time there was a little dog who lived near the river, and every day"
COMMON = ("-p", PROMPT, "-n", 24, "--ignore-eos", "--digest", "--context", 256)


ACTIVATIONS = ["f32", "q8", "mixed", "q16"]


@pytest.fixture(scope="module", params=ACTIVATIONS)
def reference(request, demo):
    row = generate(demo, *COMMON, "--activations", request.param, "--kernels", "reference", "--threads", 1)
    return request.param, row["logits_xxh3"], row["tokens"]


@pytest.mark.parametrize("options", [("--threads", 1), ("--threads", 2), ("--threads", 3), ("--chunk", 1),
                                     ("--chunk", 5), ("--slots", 3),
                                     ("--kernels", "generic")], ids=lambda o: " ".join(map(str, o)))
def test_one_rank(options, reference, demo):
    act, digest, tokens = reference
    row = generate(demo, *COMMON, "--activations", act, *options)
    assert (row["logits_xxh3"], row["tokens"]) == (digest, tokens)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4] if ALL else [2, 3, 4])
def test_ranks(ranks, reference, demo):
    act, digest, tokens = reference
    for options in some([(), ("--chunk", 4, "--slots", 5)], 2, ranks + ACTIVATIONS.index(act)):
        row = generate(demo, *COMMON, "--activations", act, "--threads", 1, *options, ranks=ranks)
        assert (row["logits_xxh3"], row["tokens"]) == (digest, tokens)


@pytest.mark.parametrize("ranks,slots", [(None, 8), (2, 2), (4, 6)])
def test_in_a_batch(ranks, slots, reference, demo, tmp_path):
    """Among other requests, of other lengths, sampled ones too, in slots that are used again."""
    act, digest, tokens = reference
    texts = ["In the morning", PROMPT, "The king said unto the people that they should go", PROMPT, "A", PROMPT,
             "Two friends", PROMPT]
    rows = [{"id": str(i), "prompt": t, "max_tokens": 24 if t == PROMPT else 5 + 3 * i,
             "temperature": 0 if t == PROMPT else 0.9, "seed": i}
            for i, t in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    ok("run", demo, "--batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--digest", "--ignore-eos",
       "--context", 256, "--slots", slots,
       "--activations", act, "--threads", 1, ranks=ranks)
    out = {r["id"]: r for r in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    assert len(out) == len(rows)
    for r in rows:
        assert len(out[r["id"]]["tokens"]) == r["max_tokens"]
        if r["prompt"] == PROMPT:
            assert (out[r["id"]]["logits_xxh3"], out[r["id"]]["tokens"]) == (digest, tokens)


def test_sampled_text_is_the_same_everywhere(demo):
    options = ("-p", PROMPT, "-n", 30, "--ignore-eos", "--temperature", 0.9, "--top-k", 50, "--top-p", 0.95, "--min-p",
               0.01, "--repeat-penalty", 1.1,
               "--seed", 11, "--context", 256, "--threads", 1)
    texts = {generate(demo, *options, ranks=ranks)["text"] for ranks in (None, 2, 3)}
    assert len(texts) == 1
    other = generate(demo, *options[:-6], "--seed", 12, "--context", 256)["text"]
    assert other not in texts


@pytest.mark.parametrize("kv", ["f32", "bf16", "q8"])
def test_cache_formats(kv, demo):
    """Each format of the cache has its own bits, the same on any number of ranks."""
    digests = {generate(demo, *COMMON, "--kv", kv, "--threads", t, ranks=r)["logits_xxh3"] for t,
               r in ((1, None), (2, None), (1, 3))}
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["demo", "deepseek_v3_b", "gpt_oss_b"])
@pytest.mark.parametrize("kv", ["f32", "bf16", "q8"])
def test_several_runs_of_positions(name, kv, demo, convert):
    """Attention joins runs of 256 positions: of heads, latent vectors, and windows over the end of a run."""
    model = demo if name == "demo" else convert(FIXTURES / name)
    ids = ",".join(str(3 + 7 * i % 50) for i in range(250 if name == "gpt_oss_b" else 300))
    options = ("--tokens", ids, "-n", 12, "--ignore-eos", "--digest", "--kv", kv)
    alone = generate(model, *options, "--kernels", "reference", "--threads", 2)
    for other, ranks in ((("--chunk", 7, "--threads", 2), None), (("--kernels", "generic", "--threads", 1), None),
                         (("--layout", "1x3", "--threads", 1), 3), (("--threads", 1), 2)):
        row = generate(model, *options, *other, ranks=ranks)
        assert (row["logits_xxh3"], row["tokens"]) == (alone["logits_xxh3"], alone["tokens"]), (other, ranks)


def test_formats_differ(demo):
    digests = [generate(demo, *COMMON, "--kv", kv, "--activations", act)["logits_xxh3"] for kv,
               act in itertools.product(("f32", "q8"), ("f32", "q8"))]
    assert len(set(digests)) == 4


def test_sixteen_bits_are_nearly_float32(demo, tmp_path):
    """The same cache in all three: only what the weights meet differs."""
    logits = {}
    for act in ("f32", "q8", "q16"):
        generate(demo, "-p", PROMPT, "-n", 1, "--activations", act, "--kv", "f32", "--logits", tmp_path / f"{act}.npy")
        logits[act] = np.load(tmp_path / f"{act}.npy").astype(np.float64)
    error = {act: np.sqrt(((logits[act] - logits["f32"]) ** 2).mean()) / logits["f32"].std() for act in ("q8", "q16")}
    assert error["q16"] < 1e-3 and error["q16"] < error["q8"] / 50 and error["q8"] > 1e-3, error
