"""What the batch script asks of Slurm, with another srun in its place."""
import os
import subprocess

import pytest

from conftest import ROOT


@pytest.fixture
def submit(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    script = tmp_path / "slurm_script"  # Slurm copies it
    script.write_text((ROOT / "jobs" / "run.sbatch").read_text())

    def call(*args, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "CHIPLINE"))}
        env.update(PATH=f"{tmp_path}:{os.environ['PATH']}", CHIPLINE_ROOT=str(ROOT), CHIPLINE_BUILD="/b", **more)
        return subprocess.run(["bash", str(script), *args], env=env, cwd=tmp_path, capture_output=True, text=True)
    return call


def test_what_srun_is_told(submit):
    r = submit("m.h5", "in.jsonl", "out.jsonl", "--layout", "4x1", SLURM_CPUS_PER_TASK="6", CHIPLINE_SRUN_MPI="pmi2")
    assert r.returncode == 0, r.stderr
    said = r.stdout.splitlines()
    at = said.index("/b/chipline")
    # a dead rank ends the job, and each rank has the CPUs of its task
    assert set(said[:at]) == {"--mpi=pmi2", "--kill-on-bad-exit=1", "--cpus-per-task=6"}
    assert said[at + 1:] == ["run", "m.h5", "--batch", "in.jsonl", "--out", "out.jsonl", "--threads", "6",
                             "--summary", "out.jsonl.summary.json", "--layout", "4x1"]


def test_where_slurm_says_nothing(submit):
    assert "--cpus-per-task=1" in submit("m.h5", "in", "out").stdout.splitlines()
    assert "--cpus-per-task=8" in submit("m.h5", "in", "out", SLURM_CPUS_ON_NODE="8").stdout.splitlines()
    assert "--mpi=pmix" in submit("m.h5", "in", "out").stdout.splitlines()


def test_what_is_missing(submit):
    r = submit("m.h5", "in.jsonl")
    assert r.returncode == 2 and "usage: sbatch" in r.stderr and r.stdout == ""
