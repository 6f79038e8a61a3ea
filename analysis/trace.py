"""The one reader of TRACE.h5. Everything else works on the Trace that load() returns.

The schema is written down in README.md. Times come out in nanoseconds of rank 0's clock: each rank's own times plus its
clock_offset_ns. Whatever is wrong with a file becomes a TraceError with a message that names the file, the cause and the remedy.
"""
import dataclasses
import json
import os

import h5py
import numpy as np
import pandas as pd

VERSIONS = (1, 2)

# Columns that must be there; later versions of the writer may add some.
EVENT_COLUMNS = ("start_ns", "end_ns", "cpu_ns", "weight_bytes", "kv_bytes", "msg_bytes", "microbatch", "kind", "layer", "tokens",
                 "parts", "peer", "experts")
PART_COLUMNS = ("microbatch", "rank", "request", "slot", "position", "tokens", "outputs", "guesses", "forked_from", "flags")
RANK_COLUMNS = ("rank", "stage", "member", "threads", "host", "cpu", "clock_offset_ns", "clock_uncertainty_ns", "slice_bytes",
                "kv_bytes", "baseline_bytes", "peak_rss_bytes", "first_layer", "n_layers", "probe_bytes_per_s", "events", "dropped",
                "host_cores")
REQUEST_COLUMNS = ("id", "prompt_tokens", "completion_tokens", "arrived_ns", "started_ns", "first_token_ns", "finished_ns",
                   "finish_reason")
KIND_COLUMNS = ("id", "name", "level", "description")

# Columns that some writers did not have yet, and what stands for them then.
EVENT_DEFAULTS = {"gather_ns": 0, "gathers": 0, "gather_messages": 0}
RANK_DEFAULTS = {"replica": 0, "budget_bytes": 0, "peak_int8_ops_per_s": 0.0, "peak_f32_ops_per_s": 0.0}


class TraceError(Exception):
    """str() is `FILE: CAUSE (REMEDY)`."""


@dataclasses.dataclass
class Trace:
    path: str
    schema: int             # version of the file's schema; what an older one lacks has its default, /parts no rows
    run: dict               # the run's description, as chipline wrote it
    kinds: pd.DataFrame     # index: id; name, level, description
    ranks: pd.DataFrame     # one row per rank that has events, in rank order: --trace-ranks may leave some out
    all_ranks: pd.DataFrame # one row per rank
    requests: pd.DataFrame  # times on rank 0's clock
    parts: pd.DataFrame     # what was in the micro-batches of each line, by rank (the line's first) and micro-batch
    events: pd.DataFrame    # all ranks, by rank and start; rank and kind (its name) beside the columns of the file
    start_ns: int           # the run on rank 0's clock: from the first request to the last token
    end_ns: int

    @property
    def seconds(self):
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def name(self):
        return os.path.basename(self.path)

    def of_kind(self, *names):
        return self.events[self.events["kind"].isin(names)]

    def has(self, name):
        return bool((self.events["kind"] == name).any())

    def short_hosts(self):
        """Hosts whose ranks have more threads than the host has cores: {host: (threads, cores)}."""
        short = {}
        for host, of_host in self.all_ranks.groupby("host", sort=False):
            cores = int(of_host["host_cores"].max())
            if cores <= 0 and 0 in of_host["rank"].values:
                cores = int(self.run.get("cores_of_rank0_host") or 0)
            threads = int(of_host["threads"].sum())
            if 0 < cores < threads:
                short[host] = (threads, cores)
        return short


def load(path):
    """The whole trace in memory."""
    if not os.path.isfile(path):
        raise TraceError(f"{path}: no such file (give a TRACE.h5 that chipline run --trace wrote)")
    try:
        with h5py.File(path, "r") as f:
            return _read(path, f)
    except TraceError as e:
        raise TraceError(f"{path}: {e}") from None
    except MemoryError:
        raise TraceError(f"{path}: does not fit into memory (record with a lower --trace-level, or use a larger machine)") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as e:
        cause = " ".join(str(e).split())
        raise TraceError(f"{path}: not readable as a trace: {cause} (it may be damaged or no HDF5 file: copy it again)") from None


def _read(path, f):
    if _text(f.attrs.get("schema")) != "chipline trace":
        raise TraceError("an HDF5 file, but not a chipline trace (give the file that --trace wrote)")
    version = int(f.attrs.get("schema_version", -1))
    if version not in VERSIONS:
        raise TraceError(f"schema version {version}, this analysis reads {' and '.join(map(str, VERSIONS))} (use the analysis that "
                         "belongs to the chipline that wrote it)")
    run = json.loads(_text(_member(f, "run")[()]))
    if not isinstance(run, dict):
        raise TraceError("/run is no JSON object (the file is damaged)")
    kinds = _table(f, "kinds", KIND_COLUMNS).set_index("id")
    ranks = _table(f, "ranks", RANK_COLUMNS, RANK_DEFAULTS)
    requests = _table(f, "requests", REQUEST_COLUMNS)
    if "request" not in requests:
        requests.insert(0, "request", np.arange(len(requests), dtype=np.int32))
    if not len(ranks):
        raise TraceError("/ranks has no rows (the file is damaged)")
    if ranks["rank"].duplicated().any():
        raise TraceError("/ranks names a rank twice (the file is damaged)")
    ranks = ranks.sort_values("rank", ignore_index=True)
    parts = _parts(f, ranks) if version > 1 else pd.DataFrame({c: pd.Series(dtype=np.int64) for c in PART_COLUMNS})
    for table in sorted(_member(f, "events")):
        if table not in {f"rank_{r:04d}" for r in ranks["rank"]}:
            raise TraceError(f"/events/{table} belongs to no row of /ranks (the file is damaged)")
    events = [_events(f, row.rank, row.clock_offset_ns, kinds) for row in ranks[["rank", "clock_offset_ns"]].itertuples()]
    events = pd.concat(events, ignore_index=True)
    for column in ("arrived_ns", "started_ns", "first_token_ns", "finished_ns"):
        requests[column] = _int64(requests[column].to_numpy(), f"/requests {column}")
    start, end = _extent(run, events, requests)
    traced = ranks[ranks["rank"].isin(events["rank"])].reset_index(drop=True) if len(events) else ranks
    return Trace(path, version, run, kinds, traced, ranks, requests, parts, events, start, max(end, start + 1))


def _text(value):
    """A string of HDF5, whatever way h5py hands it over."""
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _member(f, name):
    if name not in f:
        raise TraceError(f"/{name} is missing (the file is damaged, or something else wrote it)")
    return f[name]


def _table(f, name, columns, defaults={}):
    """A compound table as a DataFrame, texts decoded; what only defaults name may be missing."""
    data = _member(f, name)
    if not isinstance(data, h5py.Dataset) or data.dtype.names is None or len(data.shape) != 1:
        raise TraceError(f"/{name} is no table (the file is damaged)")
    missing = [c for c in columns if c not in data.dtype.names]
    if missing:
        raise TraceError(f"/{name} has no column {', '.join(missing)} (the file is damaged)")
    rows = data[:]
    table = {}
    for c in data.dtype.names:
        if rows.dtype[c].kind in "SO":
            table[c] = np.array([_text(bytes(v) if isinstance(v, np.bytes_) else v) for v in rows[c]], dtype=object)
        elif rows.dtype[c].kind in "iuf":
            table[c] = rows[c]
    if any(c not in table for c in columns):
        raise TraceError(f"/{name} has columns of an unknown type (the file is damaged)")
    return pd.DataFrame(table).assign(**{c: v for c, v in defaults.items() if c not in table})


def _int64(values, what):
    """Unsigned 64-bit numbers that fit; so that differences may be negative."""
    if values.dtype == np.uint64 and len(values) and values.max() >> np.uint64(63):
        raise TraceError(f"{what} holds impossible numbers (the file is damaged)")
    return values.astype(np.int64)


def _whole(table, columns, name):
    """Those columns hold whole numbers, and none is unsigned."""
    for c in columns:
        if table[c].dtype.kind not in "iu":
            raise TraceError(f"/{name}: column {c} holds no whole numbers (the file is damaged)")
        if table[c].dtype == np.uint64:
            table[c] = _int64(table[c].to_numpy(), f"/{name} {c}")


def _parts(f, ranks):
    table = _table(f, "parts", PART_COLUMNS)
    _whole(table, PART_COLUMNS, "parts")
    if not table["rank"].isin(ranks["rank"]).all():
        raise TraceError("/parts names a rank that /ranks does not have (the file is damaged)")
    return table.sort_values(["rank", "microbatch"], kind="stable", ignore_index=True)


def _events(f, rank, offset, kinds):
    name = f"events/rank_{rank:04d}"
    table = _table(f, name, EVENT_COLUMNS, EVENT_DEFAULTS).drop(columns="waits_for", errors="ignore")  # schema 1: the peer again
    _whole(table, EVENT_COLUMNS + tuple(EVENT_DEFAULTS), name)
    if (table["end_ns"] < table["start_ns"]).any():
        raise TraceError(f"/{name}: an event ends before it starts (the file is damaged)")
    table[["start_ns", "end_ns"]] += offset
    names = dict(zip(kinds.index, kinds["name"]))
    unknown = set(table["kind"].unique()) - set(names)
    if unknown:
        raise TraceError(f"/{name}: kind {min(unknown)} is not in /kinds (the file is damaged)")
    table["kind"] = pd.Categorical(table["kind"].map(names), categories=list(kinds["name"]))
    table.insert(0, "rank", np.int32(rank))
    return table.sort_values(["start_ns", "end_ns"], ascending=[True, False], ignore_index=True)


def _extent(run, events, requests):
    """The run: as chipline timed it; for a trace without that, the events other than the probe, or the requests."""
    try:
        start = int(round(float(run["serve_start_s"]) * 1e9))
        end = start + int(round(float(run["elapsed_s"]) * 1e9))
        if start < end:
            return start, end
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    served = events[events["kind"] != "probe"]
    if len(served):
        return int(served["start_ns"].min()), int(served["end_ns"].max())
    if len(requests):
        return int(requests["arrived_ns"].min()), int(requests["finished_ns"].max())
    return 0, 0
