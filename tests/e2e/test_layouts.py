"""The same bits from every shape of the line: stages of one chip, stages as sets of chips, uneven ones, rows of all
experts or whole experts, lines side by side, by shared memory or by messages; with 1 and 2 threads, alone and in a
batch, in one chunk and in many."""
import json
import re

import h5py
import numpy as np
import pytest

from conftest import ALL, FIXTURES, ROOT, chipline, generate, golden, ids, messages, ok, refuses, some

MODELS = sorted(p.parent.name for p in FIXTURES.glob("*/golden.json") if (p.parent / "config.json").exists())
# What is run in full where whole matrices are wanted; the others of a family take a third of the layouts each.
WHOLE_MATRIX = ("deepseek_v3", "gpt_oss", "llama4", "llama_a", "mixtral", "minimax_m2", "olmoe", "qwen3_moe",
                "kimi_k2_int4")
N = 10  # generated tokens

# ranks, least layers, options ("a+b": a layout file of stages with so many chips)
LAYOUTS = [(2, 1, "1x2"), (3, 1, "1x3"), (4, 1, "1x4"), (2, 2, "2x1"), (4, 2, "2x2"), (6, 3, "3x2"), (4, 4, "4x1"),
           (5, 2, "3+2"), (4, 2, "1+3")]
OTHERS = [(3, 1, "1x3", "--gather", "messages"), (4, 1, "1x2", "--replicas", 2), (4, 2, "2x1", "--replicas", 2)]
EXPERTS = [(2, 1, "1x2", "--experts", "whole"), (4, 2, "2x2", "--experts", "whole", "--gather", "messages"),
           (4, 2, "3+1", "--experts", "whole", "--routers", "split"), (3, 1, "1x3", "--routers", "split"),
           (4, 2, "2x2", "--routers", "split", "--gather", "messages")]


def layout_file(name, folder):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"stages": [{"chips": int(n)} for n in name.split("+")]}))
    return path


def rows(path):
    return {r["id"]: (r["tokens"], r["logits_xxh3"]) for r in map(json.loads, path.read_text().splitlines())}


def check(model, prompt, want, batch, spec, turn, folder, *more):
    """Alone (chunks of 1, or all at once), or eight at a time."""
    ranks, _, layout, *options = spec
    layout = layout_file(layout, folder) if "+" in layout else layout
    options = ["--layout", layout, *options, "--threads", 1 + turn % 2, "--ignore-eos", "--digest", "--context", 96,
               *more]
    if turn % 3:
        row = generate(model, "--tokens", ids(prompt), "-n", N, *options, "--chunk", 1 if turn % 3 == 1 else 64,
                       ranks=ranks)
        assert (row["tokens"], row["logits_xxh3"]) == want["0"], spec
        return
    out = folder / "out.jsonl"
    ok("run", model, "--batch", batch, "--out", out, "--quiet", "--slots", 8, "--chunk", 7, *options, ranks=ranks)
    assert rows(out) == want, spec


def reference(model, prompt, folder, *more):
    """Eight requests, each alone on one chip: what every layout must give."""
    requests = [{"id": str(i), "tokens": prompt if i % 3 == 0 else prompt[: 2 + i], "max_tokens": N,
                 "temperature": 0.9 * (i % 2), "top_k": 5 * (i % 4), "seed": i}
                for i in range(8)]
    batch, out = folder / "in.jsonl", folder / "alone.jsonl"
    batch.write_text("\n".join(map(json.dumps, requests)))
    ok("run", model, "--batch", batch, "--out", out, "--quiet", "--slots", 1, "--ignore-eos", "--digest", "--context",
       96, "--threads", 1, *more)
    return rows(out), batch


def geometry(name):
    """Layers, and whether there are experts."""
    config = json.loads((FIXTURES / name / "config.json").read_text())
    config = config.get("text_config", config)
    return config["num_hidden_layers"], any(config.get(k) for k in ("num_local_experts", "num_experts",
                                                                    "n_routed_experts"))


def specs(name):
    """The layouts of a model, each with its turn. A choice of them meets every layout with every turn and both kinds
    of models (test_every_layout_is_met)."""
    layers, experts = geometry(name)
    fitting = [[spec for spec in some_of if spec[1] <= layers] for some_of in (LAYOUTS + OTHERS, EXPERTS)]
    first = sorted(MODELS, key=lambda n: (geometry(n)[1], n)).index(name)  # those without experts one after the other
    plain, by_experts = (list(enumerate(specs, first)) for specs in (fitting[0], fitting[1] if experts else []))
    if ALL:
        whole = plain + by_experts
        return whole if name in WHOLE_MATRIX else whole[first % 3::3]
    return plain[first % 4::4] + by_experts[first % 5::5]


def test_every_layout_is_met():
    """By three models at least, one with experts and one without where both can be; alone and in a batch."""
    met = {}
    for name in MODELS:
        assert specs(name), name
        for turn, spec in specs(name):
            met.setdefault(spec, []).append((geometry(name)[1], turn % 3 == 0))
    for spec, by in met.items():
        kinds = {experts for experts, _ in by}
        assert len(by) >= 3 and kinds == ({True, False} if spec in LAYOUTS and spec[1] <= 2 else kinds | {True}), spec
    assert set(met) == set(LAYOUTS + OTHERS + EXPERTS)
    assert {batched for many in met.values() for _, batched in many} == {True, False}


@pytest.mark.parametrize("name", MODELS)
def test_matrix(name, convert, tmp_path):
    model = convert(FIXTURES / name)
    spec = json.loads(ok("inspect", model, "--json").stdout)["layers"]
    assert (len(spec), any(layer["ffn"].get("experts") for layer in spec)) == geometry(name)
    prompt = golden(name)[0]["prompt"]
    want, batch = reference(model, prompt, tmp_path)
    for turn, spec in specs(name):
        check(model, prompt, want, batch, spec, turn, tmp_path)


# --- what the plan says is what the trace shows ---

def traced(path):
    """Per rank a list of decode steps: gathers, bytes and messages got in them (embedding apart: who holds the row
    varies), hand-overs sent, their bytes. And the routing."""
    with h5py.File(path) as f:
        kinds = {k["name"].decode(): k["id"] for k in f["kinds"][:]}
        steps = []
        for table in (f["events"][name][:] for name in sorted(f["events"])):
            steps.append([])
            for mb in np.unique(table["microbatch"][table["microbatch"] >= 0]):
                of = {k: table[(table["microbatch"] == mb) & (table["kind"] == kinds[k])]
                      for k in ("step", "embed", "layer", "head", "sample", "send")}
                if of["step"]["tokens"][0] != 1:
                    continue
                inner = np.concatenate([of[k] for k in ("layer", "head", "sample")])
                steps[-1].append((int(inner["gathers"].sum() + of["embed"]["gathers"].sum()),
                                  int(inner["msg_bytes"].sum()), int(inner["gather_messages"].sum()), len(of["send"]),
                                  int(of["send"]["msg_bytes"].sum())))
        return steps, f["routing"][:] if "routing" in f else None


def own_rows(n, members, member):
    unit = 1 if n <= 128 and n < 16 * members else 16
    each, longer = divmod(-(-n // unit), members)
    ends = [min(unit * (each * m + min(m, longer)), n) for m in (member, member + 1)]
    return ends[1] - ends[0]


@pytest.mark.parametrize("name,ranks,layout,gather,routers", some([
    (name, *layout, routers)
    for layout in [(1, "1x1", "auto"), (3, "1x3", "auto"), (4, "2x2", "auto"), (3, "2+1", "auto"),
                   (2, "2x1", "auto"), (4, "1x4", "messages"), (3, "2+1", "messages"),
                   (4, "1+3", "messages"), (6, "2x3", "messages"), (6, "1x6", "messages")]
    for name, routers in [("llama_a", "auto"), ("olmoe", "auto"), ("deepseek_v3", "split"), ("gpt_oss", "split"),
                          ("llama4", "copied")]], 3))
def test_messages_and_bytes_are_those_of_the_plan(name, ranks, layout, gather, routers, convert, tmp_path):
    model = convert(FIXTURES / name)
    spec = json.loads(ok("inspect", model, "--json").stdout)
    layout = layout_file(layout, tmp_path) if "+" in layout else layout
    layout = ("--layout", layout, "--gather", gather, "--routers", routers, "--context", 64)
    plan = json.loads(ok("plan", model, *layout, "--explain", "--json").stdout)
    trace, prompt = tmp_path / "t.h5", golden(name)[0]["prompt"]
    ok("run", model, "--tokens", ids(prompt), "-n", N, "--ignore-eos", *layout, "--threads", 1, "--trace", trace,
       "--trace-level", "layer", "--quiet", ranks=ranks)
    steps, routing = traced(trace)
    for chip in plan["chips"]:
        members = sum(c["stage"] == chip["stage"] for c in plan["chips"])
        others = spec["vocab"] - own_rows(spec["vocab"], members, chip["member"]) if chip["embed"] else 0
        got = set(steps[chip["rank"]])
        assert len(steps[chip["rank"]]) == N - 1 and len(got) == 1
        gathers, in_bytes, messages, sends, out_bytes = got.pop()
        embed = chip["phases"].get("embed", {"messages_got": 0})["messages_got"]
        assert abs(chip["gather_messages"] - embed - messages) < 1e-9
        assert (gathers, sends, out_bytes) == (chip["gathers"], chip["sends"], chip["send_bytes"])
        assert abs(chip["gather_bytes"] - in_bytes - 4 * spec["hidden"] * others / spec["vocab"]) <= 2
    if routing is not None:
        tokens = len(prompt) + N - 1
        assert [int(r.sum()) for r in routing] == [tokens * layer["ffn"].get("top_k", 0) for layer in spec["layers"]]


# Phases of the plan and the trace's events that they are.
EVENTS = {"qkv": ("project", "query"), "attend": ("attend",), "attn_out": ("value", "attn_out"), "route": ("route",),
          "ffn": ("gate_up", "down", "combine"), "head": ("head",)}
# Sizes of which every chip has whole runs of 16 rows, in bytes that are multiples of 64: nothing is padded.
SMALL = {"hidden_size": 128, "num_hidden_layers": 3, "vocab_size": 512, "num_experts": 32, "n_routed_experts": 32,
         "n_group": 2, "topk_group": 1,
         "num_experts_per_tok": 2, "moe_intermediate_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
         "num_key_value_heads": 2,
         "head_dim": 32, "kv_lora_rank": 64, "q_lora_rank": 64, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
         "v_head_dim": 32,
         "first_k_dense_replace": 1, "max_position_embeddings": 256}


@pytest.mark.parametrize("family,fmt", [("smollm2-135m", "q8_0"), ("qwen3-30b-a3b", "q4_0"), ("olmoe-1b-7b", "bf16"),
                                        ("deepseek-v3", "q8_0")])
@pytest.mark.parametrize("ranks,layout,routers", [(1, "1x1", "split"), (2, "1x2", "auto"), (3, "2+1", "split")])
def test_bytes_of_every_kind_of_event_are_those_of_the_plan(family, fmt, ranks, layout, routers, tmp_path):
    """A decoded token that sees a quarter of the context, as the plan's does. Norms, biases and sinks are not in the
    trace's bytes."""
    config = json.loads((ROOT / "configs" / "models" / f"{family}.json").read_text())
    config |= {k: v for k, v in SMALL.items() if k in config}
    if family in ("olmoe-1b-7b", "deepseek-v3"):
        config |= {"num_key_value_heads": 4}
    config.pop("quantization_config", None)
    config["rope_scaling"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, trace = tmp_path / "m.h5", tmp_path / "t.h5"
    ok("synth", tmp_path / "config.json", "-o", model, "--format", fmt, "--quiet")
    layout = layout_file(layout, tmp_path) if "+" in layout else layout
    context, prompt = 64, [1, 2, 3]
    options = ("--layout", layout, "--context", context, "--kv", "bf16", "--routers", routers)
    plan = json.loads(ok("plan", model, *options, "--explain", "--json").stdout)
    ok("run", model, "--tokens", ids(prompt), "-n", context // 4, "--ignore-eos", *options, "--threads", 1, "--trace",
       trace,
       "--trace-level", "kernel", "--quiet", ranks=ranks)
    with h5py.File(trace) as f:
        kinds = {k["name"].decode(): k["id"] for k in f["kinds"][:]}
        tables = [f["events"][name][:] for name in sorted(f["events"])]
    for chip, table in zip(plan["chips"], tables):
        steps = table[(table["kind"] == kinds["step"]) & (table["tokens"] == 1)]
        # the token at that position
        step = table[table["microbatch"] == steps["microbatch"][context // 4 - 1 - len(prompt)]]
        for name, phases in EVENTS.items():
            events, of = step[step["kind"] == kinds[name]], [chip["phases"][p] for p in phases if p in chip["phases"]]
            assert events["weight_bytes"].sum() == sum(p["weight_bytes"] - p["vector_bytes"] for p in of), name
            assert events["kv_bytes"].sum() == sum(p["kv_bytes"] for p in of), name
        assert chip["token_bytes"] == sum(p["weight_bytes"] for p in chip["phases"].values())
        assert chip["gathers"] == sum(p["gathers"] for p in chip["phases"].values())
        assert (step["kind"] == kinds["gather"]).sum() == chip["gathers"]


@pytest.mark.parametrize("ranks,layout", [(2, "1x2"), (3, "2+1")])
def test_shared_out_routers_are_read_and_held_once(ranks, layout, convert, tmp_path):
    """In a stage of several chips; each of its layers costs a gather of every token's scores."""
    model = convert(FIXTURES / "olmoe")
    layers = json.loads(ok("inspect", model, "--json").stdout)["layers"]
    layout = layout_file(layout, tmp_path) if "+" in layout else layout
    copied, split = (json.loads(ok("plan", model, "--layout", layout, "--routers", mode, "--explain", "--json").stdout)
                     for mode in ("copied", "split"))
    spared = 0
    for a, b in zip(copied["chips"], split["chips"]):
        members = sum(c["stage"] == a["stage"] for c in copied["chips"])
        spared += a["weight_bytes"] - b["weight_bytes"]
        assert a["weight_bytes"] - b["weight_bytes"] == a["token_bytes"] - b["token_bytes"]
        experts = layers[a["first_layer"]]["ffn"]["experts"]
        assert b["gathers"] - a["gathers"] == (a["layers"] if members > 1 else 0)
        assert b["gather_bytes"] - a["gather_bytes"] == a["layers"] * 4 * (experts - own_rows(experts, members,
                                                                                              a["member"]))
    with h5py.File(model) as f:
        sizes = [t.nbytes for name, t in sorted(f["tensors"].items()) if name.endswith("router.weight")]
    shared = sizes if ranks == 2 else sizes[:copied["chips"][0]["layers"]]
    assert shared and spared == sum(shared)


# --- whole experts by measured routing ---

def test_routing_places_and_copies_experts(convert, tmp_path):
    model = convert(FIXTURES / "qwen3_moe")
    prompt = golden("qwen3_moe")[0]["prompt"]
    common = ["--tokens", ids(prompt), "-n", N, "--ignore-eos", "--digest", "--context", 64, "--threads", 1]
    trace = tmp_path / "t.h5"
    want = generate(model, *common, "--trace", trace)["logits_xxh3"]

    def plan(*more):
        return json.loads(ok("plan", model, "--layout", "1x4", "--experts", "whole", "--context", 64, "--json",
                             *more).stdout)["chips"]

    plain, hot = plan(), plan("--routing", trace)
    assert sum(c["weight_bytes"] for c in plain) == sum(c["weight_bytes"] for c in hot)
    most = max(c["weight_bytes"] + c["kv_bytes"] for c in hot)
    large = 20 * most + max(c["buffer_bytes"] for c in hot)
    copied = plan("--routing", trace, "--chip", large)
    assert sum(c["weight_bytes"] for c in copied) > sum(c["weight_bytes"] for c in hot)
    for more in ([], ["--chip", large], ["--chip", large, "--gather", "messages"]):
        run = generate(model, *common, "--layout", "1x4", "--experts", "whole", "--routing", trace, *more, ranks=4)
        assert run["logits_xxh3"] == want
    refuses(3, "run", model, *common, "--experts", "whole", "--routing", model, says="trace")
    refuses(2, "run", model, *common, "--routing", trace, says="--experts whole")
    other = convert(FIXTURES / "olmoe")
    refuses(3, "plan", other, "--layout", "1x2", "--experts", "whole", "--routing", trace, says="routing")


# --- budgets, and layouts that cannot be ---

def test_the_table_says_how_full_a_chip_is(demo):
    """Slice, cache and buffers by the chip's memory."""
    options = ("--ranks", 2, "--context", 512, "--slots", 8, "--chip", "8MB")
    chips = json.loads(ok("plan", demo, *options, "--json").stdout)["chips"]
    table = re.findall(r"^ *\d+ .*?(\d+) % ", ok("plan", demo, *options).stdout, re.M)
    want = [100 * (c["weight_bytes"] + c["kv_bytes"] + c["buffer_bytes"]) / 8e6 for c in chips]
    assert min(c["buffer_bytes"] for c in chips) > 8e6 / 50
    assert [int(t) for t in table] == [pytest.approx(w, abs=0.51) for w in want]


def test_a_budget_is_kept_and_stands_in_the_trace(convert, tmp_path):
    model = convert(FIXTURES / "mixtral")
    common = ("--tokens", "1,2,3", "-n", 4, "--context", 64, "--threads", 1)

    def short(budget):
        r = chipline("run", model, *common, "--layout", "1x2", "--chip", budget, ranks=2)
        if r.returncode == 0:
            return 0
        assert r.returncode == 4 and len(messages(r)) == 1, r.stderr
        return int(re.search(r"(\d+) bytes more", messages(r)[0]).group(1))

    need, said = 1 << 18, []
    # by the plan, then by the chip itself, which keeps the slice in larger pieces; a larger chip gets larger buffers
    while (more := short(need)):
        need += more
        said.append(more)
    assert 2 <= len(said) < 20 and 0 < short(need - 1000) <= 1000
    chips = json.loads(ok("plan", model, "--layout", "1x2", "--context", 64, "--chip", need, "--json").stdout)["chips"]
    trace, summary = tmp_path / "t.h5", tmp_path / "s.json"

    def counted(budget, *more):
        ok("run", model, *common, "--layout", "1x2", "--chip", budget, "--summary", summary, *more, ranks=2)
        ranks = json.loads(summary.read_text())["ranks"]
        assert max(r["counted_bytes"] for r in ranks) <= budget
        return ranks

    for rank, chip in zip(counted(need), chips):
        buffers = rank["counted_bytes"] - rank["slice_bytes"] - rank["kv_bytes"]
        assert chip["buffer_bytes"] / 2 < buffers <= chip["buffer_bytes"]
    budget = 64 << 20  # the recorder counts, too
    counted(budget, "--trace", trace)
    with h5py.File(trace) as f:
        ranks = f["ranks"][:]
        assert list(ranks["budget_bytes"]) == [budget] * 2 and list(ranks["member"]) == [0, 1]
        assert (ranks["peak_rss_bytes"] > ranks["baseline_bytes"] + ranks["slice_bytes"]).all()


@pytest.mark.parametrize("code,ranks,options,says", [
    (4, 2, ("--layout", "2x2"), "needs 4 ranks"), (4, 3, ("--layout", "3x1"), "at most 2 stages"),
    (4, 4, ("--layout", "2x2", "--replicas", 2), "need 8 ranks"), (4, 4, ("--layout", "1x2"), "needs 2 ranks"),
    (4, 3, ("--replicas", 2), "--replicas"),
    (2, 2, ("--layout", "0x2"), "--layout"), (2, 2, ("--layout", "twobytwo"), "--layout"),
    (2, 1, ("--experts", "some"), "--experts"),
    (4, 1, ("--chip", 1000), "bytes more"), (4, 9, ("--layout", "9x1"), "layers"),
    (2, 1, ("--wait", "idle"), "--wait")])
def test_layouts_that_cannot_be(code, ranks, options, says, convert):
    model = convert(FIXTURES / "llama_b")  # 2 layers
    refuses(code, "run", model, "--tokens", "1,2", "-n", 2, "--context", 32, *options, ranks=ranks, says=says)


@pytest.mark.parametrize("text,says", [('{"stages": [{"chips": 1, "layer": 2}]}', "layer"),
                                       ('{"stages": []}', "stages"), ("[1, 2]", "object"), ("{", "JSON"),
                                       ('{"stages": [{"chips": 1, "layers": 1}, {"chips": 1}]}', "layers"),
                                       ('{"stages": [{"chips": 0}]}', "chips")])
def test_bad_layout_files(text, says, convert, tmp_path):
    (tmp_path / "l.json").write_text(text)
    refuses(3, "run", convert(FIXTURES / "llama_b"), "--tokens", "1,2", "--layout", tmp_path / "l.json", ranks=2,
            says=says)
