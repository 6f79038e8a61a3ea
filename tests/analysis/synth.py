"""Traces for the tests, in the schema that src/trace/columns.c writes: by hand, or from a little model of the line.

python3 tests/analysis/synth.py OUT.h5 writes the model's trace, to look at pictures with.
"""
import heapq
import json
import random
import sys

import h5py
import numpy as np

KINDS = [("step", "stage"), ("recv", "stage"), ("send", "stage"), ("sample", "stage"), ("schedule", "stage"), ("idle", "stage"),
         ("probe", "stage"), ("embed", "layer"), ("layer", "layer"), ("head", "layer"), ("qkv", "kernel"), ("attend", "kernel"),
         ("attn_out", "kernel"), ("route", "kernel"), ("ffn", "kernel")]
KIND = {name: i for i, (name, _) in enumerate(KINDS)}

EVENT = np.dtype([(n, "<u8") for n in ("start_ns", "end_ns", "cpu_ns", "weight_bytes", "kv_bytes", "msg_bytes", "gather_ns")] + [("microbatch", "<i8")]
                 + [(n, "<i4") for n in ("kind", "layer", "tokens", "parts", "peer", "experts", "gathers")])
PART = np.dtype([("microbatch", "<i8")] + [(n, "<i4") for n in ("rank", "request", "slot", "position", "tokens", "outputs", "guesses", "forked_from",
                                                                "flags")])
RANK = np.dtype([(n, "<i4") for n in ("rank", "stage", "member", "threads", "host_cores")] + [("host", "S64"), ("cpu", "S64")]
                + [(n, "<i8") for n in ("clock_offset_ns", "clock_uncertainty_ns")]
                + [(n, "<u8") for n in ("slice_bytes", "kv_bytes", "baseline_bytes", "peak_rss_bytes")]
                + [("first_layer", "<i4"), ("n_layers", "<i4")]
                + [(n, "<f8") for n in ("probe_bytes_per_s", "peak_int8_ops_per_s", "peak_f32_ops_per_s")] + [("events", "<u8"), ("dropped", "<u8")])
REQUEST = np.dtype([("request", "<i4"), ("id", "S64"), ("prompt_tokens", "<i4"), ("completion_tokens", "<i4")]
                   + [(n, "<u8") for n in ("arrived_ns", "started_ns", "first_token_ns", "finished_ns")] + [("finish_reason", "S16")])
KIND_ROW = np.dtype([("id", "<i4"), ("name", "S16"), ("level", "S8"), ("description", "S128")])


class Builder:
    """Collects rows; times of events are on rank 0's clock and stored on the rank's own."""

    def __init__(self, **run):
        self.run, self.ranks, self.requests, self.parts, self.events = run, [], [], [], {}

    def rank(self, rank, offset=0, **fields):
        row = dict(rank=rank, stage=rank, member=0, threads=1, host_cores=64, host=b"node0", cpu=b"a chip", clock_offset_ns=offset,
                   clock_uncertainty_ns=1000, slice_bytes=0, kv_bytes=0, baseline_bytes=0, peak_rss_bytes=0, first_layer=0, n_layers=1,
                   probe_bytes_per_s=0.0, peak_int8_ops_per_s=0.0, peak_f32_ops_per_s=0.0, events=0, dropped=0)
        row.update(fields)
        self.ranks.append(row)
        self.events[rank] = []

    def event(self, rank, kind, start, end, **fields):
        offset = next(r["clock_offset_ns"] for r in self.ranks if r["rank"] == rank)
        row = dict(start_ns=start - offset, end_ns=end - offset, cpu_ns=end - start, weight_bytes=0, kv_bytes=0, msg_bytes=0, gather_ns=0, microbatch=-1,
                   kind=KIND[kind], layer=-1, tokens=0, parts=0, peer=-1, experts=0, gathers=0)
        row.update(fields)
        self.events[rank].append(tuple(row[n] for n in EVENT.names))

    def request(self, **fields):
        row = dict(request=len(self.requests), id=b"r", prompt_tokens=0, completion_tokens=0, arrived_ns=0, started_ns=0, first_token_ns=0, finished_ns=0,
                   finish_reason=b"stop")
        row.update(fields)
        self.requests.append(row)

    def part(self, microbatch, **fields):
        row = dict(microbatch=microbatch, rank=0, request=0, slot=0, position=0, tokens=1, outputs=1, guesses=0, forked_from=-1, flags=0)
        row.update(fields)
        self.parts.append(row)

    def write(self, path):
        with h5py.File(path, "w", libver=("v110", "v110")) as f:
            f.attrs["schema"], f.attrs["schema_version"], f.attrs["creator"] = np.bytes_("chipline trace"), np.int64(2), np.bytes_("chipline")
            f["run"] = np.bytes_(json.dumps(self.run).encode())
            f["kinds"] = np.array([(i, n.encode(), level.encode(), b"") for i, (n, level) in enumerate(KINDS)], KIND_ROW)
            for name, rows, dtype in (("ranks", self.ranks, RANK), ("requests", self.requests, REQUEST), ("parts", self.parts, PART)):
                f.create_dataset(name, data=_rows(rows, dtype), maxshape=(None,), chunks=(max(1, len(rows)),), shuffle=True, compression=1)
            f.create_group("events")
            for rank, events in self.events.items():
                f.create_dataset(f"events/rank_{rank:04d}", data=np.array(sorted(events), EVENT), maxshape=(None,), chunks=(4096,),
                                 shuffle=True, compression=1)
        return path


def _rows(rows, dtype):
    return np.array([tuple(r[n] for n in dtype.names) for r in rows], dtype)


def line(path, ranks=4, layers=16, sequences=32, group=4, prompt=96, generate=24, chunk=32, cores=64, experts=8, top=2, level="layer", seed=1):
    """A line of `ranks` stages: groups of sequences go round, one micro-batch per group; prompts in chunks beside decoding ones."""
    rng = random.Random(seed)
    speed = [11.5e9 * (1 + 0.06 * rng.uniform(-1, 1)) for _ in range(ranks)]
    dense, expert, head = 6_000_000, 1_500_000, 24_000_000
    b = Builder(command=f"chipline run demo.h5 --batch in.jsonl --out out.jsonl --slots {sequences}", version="0.1.0", revision="abc1234",
                model="demo.h5", model_layers=layers, experts=experts, experts_per_token=top, activations="q8", kv="bf16", kernels="avx2")
    first = [layers * r // ranks for r in range(ranks + 1)]
    for r in range(ranks):
        slice_bytes = (first[r + 1] - first[r]) * (dense + experts * expert) + (head if r == ranks - 1 else 0)
        b.rank(r, offset=rng.randrange(-10**9, 10**9) if r else 0, host=f"node{r // 2}".encode(), first_layer=first[r],
               n_layers=first[r + 1] - first[r], probe_bytes_per_s=speed[r], slice_bytes=slice_bytes, kv_bytes=40_000_000,
               baseline_bytes=21_000_000, peak_rss_bytes=slice_bytes + 61_000_000 + rng.randrange(4_000_000, 14_000_000), host_cores=cores)
    start = 5_000_000_000
    for r in range(ranks):
        b.event(r, "probe", start - 400_000_000, start - 150_000_000 + r * 1_000_000)
    groups = [dict(left=prompt, made=0, first=0) for _ in range(sequences // group)]
    free = [start] * ranks
    arrivals = [(start + 1000 * g, 0, g, -1) for g in range(len(groups))]  # time, stage, group, micro-batch
    heapq.heapify(arrivals)
    sent, number, ended = {}, 0, start
    while arrivals:
        at, r, g, mb = heapq.heappop(arrivals)
        s = groups[g]
        begin = max(at, free[r])
        if r == 0:
            if mb >= 0:
                b.event(0, "recv", min(free[0], at), max(at, free[0]) + 2000, peer=ranks - 1, microbatch=mb, msg_bytes=16 + 16 * group)
                if s["left"] == 0:
                    s["made"] += 1
                    s["first"] = s["first"] or begin
                begin = max(at, free[0]) + 2000
                if s["made"] >= generate:
                    free[0], ended = begin, max(ended, begin)
                    continue
            s["tokens"] = chunk if s["left"] else group
            s["parts"] = 1 if s["left"] else group
            s["left"] = max(0, s["left"] - chunk)
            b.event(0, "schedule", begin, begin + 6000, microbatch=number, tokens=s["tokens"], parts=s["parts"])
            begin, mb = begin + 6000, number
            number += 1
        else:
            b.event(r, "recv", min(free[r], at), begin + 2000, peer=r - 1, microbatch=mb, tokens=s["tokens"], parts=s["parts"],
                    msg_bytes=64 + 4 * 1024 * s["tokens"])
            begin += 2000
        now, weights, kv = begin, 0, 0
        common = dict(microbatch=mb, tokens=s["tokens"], parts=s["parts"])
        for layer in range(first[r], first[r + 1]):
            used = len({rng.randrange(experts) for _ in range(top * s["tokens"])}) if experts else 0
            w, k = dense + used * expert, 400 * s["tokens"] * (prompt - s["left"] + s["made"])
            took = int((w + k) / (speed[r] * rng.uniform(0.86, 0.97)) * 1e9 + 9000 * (s["tokens"] - 1) * rng.uniform(0.9, 1.1))
            if level != "stage":
                b.event(r, "layer", now, now + took, layer=layer, weight_bytes=w, kv_bytes=k, experts=used, **common)
            now, weights, kv = now + took, weights + w, kv + k
        if r == ranks - 1:
            took = int(head / (speed[r] * rng.uniform(0.9, 0.98)) * 1e9)
            if level != "stage":
                b.event(r, "head", now, now + took, weight_bytes=head, **common)
            now, weights = now + took, weights + head
        now += 3000
        b.event(r, "step", begin, now, weight_bytes=weights, kv_bytes=kv, **common)
        to = (r + 1) % ranks
        b.event(r, "send", now, now + 5000, peer=to, msg_bytes=16 + 16 * group if to == 0 else 64 + 4 * 1024 * s["tokens"], **common)
        free[r] = now + 5000
        heapq.heappush(arrivals, (now + rng.randrange(20_000, 45_000), to, g, mb))
    for g, s in enumerate(groups):
        for i in range(group):
            b.request(id=f"q{g}-{i}".encode(), prompt_tokens=prompt, completion_tokens=generate, arrived_ns=start, started_ns=start + 1000 * g,
                      first_token_ns=s["first"], finished_ns=ended - rng.randrange(0, 50_000_000), finish_reason=b"length")
    b.run.update(serve_start_s=start / 1e9, elapsed_s=(ended - start) / 1e9)
    return b.write(path)


if __name__ == "__main__":
    line(sys.argv[1])
