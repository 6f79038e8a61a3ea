"""What a trace says of its run is what plan and inspect say, and what was asked for: every field of /run."""
import json

import h5py
import pytest

from conftest import ok

MEASURED = {"elapsed_s", "prompt_s", "decode_s", "serve_start_s", "load_s"}
OF_THE_BUILD = {"command", "version", "revision", "build_flags", "finished_utc", "kernels", "shared_memory",
                "model_checksum", "active_parameters", "cores_of_rank0_host"}
STAGE = {"first_layer": "first_layer", "layers": "layers", "embed": "embed", "head": "head", "first_rank": "rank",
         "weight_bytes": "weight_bytes", "kv_bytes": "kv_bytes", "token_bytes": "token_bytes",
         "token_kv_bytes": "token_kv_bytes"}


@pytest.mark.parametrize("level", ["stage", "layer"])
def test_described(level, demo, tmp_path):
    options = ("--layout", "2x1", "--context", 64, "--slots", 3)
    plan = json.loads(ok("plan", demo, *options, "--json").stdout)
    model = json.loads(ok("inspect", demo, "--json").stdout)
    ok("run", demo, *options, "--tokens", "1,2,3", "-n", 4, "--ignore-eos", "--threads", 1, "--quiet", "--trace",
       tmp_path / "t.h5", "--trace-level", level, ranks=2)
    with h5py.File(tmp_path / "t.h5") as f:
        said = json.loads(f["run"][()])
        for key, value in f.attrs.items():  # the same again, for those who look at attributes only
            value = value.decode() if isinstance(value, bytes) else value
            assert key not in said or said[key] == value, key
        assert set(said) - {"stages"} <= set(f.attrs)
    layer, top_k = model["layers"][0]["ffn"], model["layers"][0]["ffn"]["top_k"]
    idle = sum((k["ffn"]["experts"] - top_k) * 3 * k["ffn"]["width"] * model["hidden"] for k in model["layers"])
    stages = [{**{key: chip[of] for key, of in STAGE.items()}, "ranks": 1, "split_routers": False}
              for chip in plan["chips"]]
    wanted = {"model": "demo", "family": model["family"], "model_layers": len(model["layers"]), "layout": "2x1",
              "replicas": 1, "ranks": 2, "expert_mode": "sliced", "slots": 3, "context": 64, "chunk": 64,
              "prompt_tokens": 3, "generated_tokens": 4, "requests": 1, "experts": layer["experts"],
              "experts_per_token": top_k, "parameters": said["active_parameters"] + idle,
              "model_read_bytes_per_token": sum(s["token_bytes"] for s in stages), "activations": "mixed",
              "kv": "bf16", "trace_level": {"stage": 1, "layer": 2}[level], "trace_ranks": "all", "ended": True,
              "stages": stages}
    assert {k: v for k, v in said.items() if k not in MEASURED | OF_THE_BUILD} == wanted
    assert set(said) == set(wanted) | MEASURED | OF_THE_BUILD
    assert all(said[key] > 0 for key in MEASURED) and said["elapsed_s"] >= said["decode_s"]
    assert said["command"].startswith("chipline run ") and said["command"].endswith(f"--trace-level {level}")


def test_ranks_as_in_the_summary(demo, tmp_path):
    ok("run", demo, "--tokens", "1,2,3", "-n", 40, "--ignore-eos", "--context", 512, "--threads", 1, "--quiet",
       "--trace", tmp_path / "t.h5", "--summary", tmp_path / "s.json", ranks=2)
    summary = json.loads((tmp_path / "s.json").read_text())["ranks"]
    with h5py.File(tmp_path / "t.h5") as f:
        rows = f["ranks"][:]
    assert len(rows) == len(summary) == 2
    same = {"rank": "rank", "replica": "replica", "stage": "stage", "slice_bytes": "slice_bytes",
            "kv_bytes": "kv_bytes", "baseline_bytes": "baseline_bytes", "peak_rss_bytes": "rss_bytes"}
    for row, said in zip(rows, summary):
        assert {column: row[column] for column in same} == {column: said[key] for column, key in same.items()}
        assert row["host"].decode() == said["host"] and row["dropped"] == 0
