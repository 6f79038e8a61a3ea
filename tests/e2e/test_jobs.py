"""What the batch script asks of Slurm, and what env.sh asks of a machine, with other programs in their place."""
import os
import shutil
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
        env.update(dict(PATH=f"{tmp_path}:{os.environ['PATH']}", CHIPLINE_ROOT=str(ROOT), CHIPLINE_BUILD="/b") | more)
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


def test_what_slurm_is_asked_for():
    text = (ROOT / "jobs" / "run.sbatch").read_text().splitlines()
    assert [line.removeprefix("#SBATCH ") for line in text if line.startswith("#SBATCH")] == [
        "--job-name=chipline", "--nodes=4", "--ntasks-per-node=1", "--time=01:00:00", "--output=chipline-%j.log"]


def test_the_folder_it_was_submitted_from(submit):
    r = submit("m.h5", "in", "out", CHIPLINE_ROOT="", CHIPLINE_BUILD="", SLURM_SUBMIT_DIR=str(ROOT))
    assert f"{ROOT}/build/chipline" in r.stdout.splitlines(), r.stderr


def test_what_is_missing(submit):
    r = submit("m.h5", "in.jsonl")
    assert r.returncode == 2 and "usage: sbatch" in r.stderr and r.stdout == ""


@pytest.fixture
def machine(tmp_path):
    """call(LINE, NAME=SCRIPT, ...): env.sh and the line, where there are no programs but these and a few of every
    machine's."""
    for name in "bash", "cat", "dirname", "env", "grep", "rm":
        (tmp_path / name).symlink_to(shutil.which(name))

    def call(line, **programs):
        for name, script in programs.items():
            path = tmp_path / name.replace("_", "-")
            path.write_text(f"#!{tmp_path}/bash\n{script}\n")
            path.chmod(0o755)
        return subprocess.run([tmp_path / "bash", "-c", f"source {ROOT}/jobs/env.sh\n{line}"], capture_output=True,
                              text=True, env={"PATH": str(tmp_path), "TMPDIR": str(tmp_path), "CHIPLINE_BUILD": "/b"})
    return call


NO_TWO = '[ "$4" = two ] || echo install ok installed'  # dpkg-query -W -f FORMAT NAME
APT = 'echo "$DEBIAN_FRONTEND apt-get $*" >&2'


def test_packages_that_are_missing(machine):
    """Root installs them, others by sudo; without that they are told what to do."""
    wanted = "chipline_packages one two three"
    got = machine(wanted, dpkg_query=NO_TWO, apt_get=APT, id="echo 0")
    install = "noninteractive apt-get install -y -qq --no-install-recommends two\n"
    assert (got.returncode, got.stderr) == (0, "installing: two\n apt-get update -qq\n" + install)
    got = machine(wanted, id="echo 1000")
    assert (got.returncode, got.stderr) == (
        1, "chipline: missing packages (install them as root: apt-get install two)\n")
    got = machine(wanted, sudo='echo "sudo $1" >&2; exec "$@"')
    assert (got.returncode, got.stderr) == (
        0, "installing: two\nsudo apt-get\n apt-get update -qq\nsudo env\n" + install)
    assert machine(wanted, apt_get="exit 100").returncode == 100


def test_packages_that_are_there(machine):
    got = machine("chipline_packages one three", dpkg_query=NO_TWO, apt_get=APT, id="echo 0")
    assert (got.returncode, got.stderr) == (0, "")


def test_packages_elsewhere_than_on_debian(machine):
    got = machine("chipline_packages one two", apt_get=APT, id="echo 0")
    assert (got.returncode, got.stderr) == (0, "chipline: not a Debian system: install by hand: one two\n")


def test_build(machine, tmp_path):
    """What CMake says of a configuration is shown where it failed."""
    got = machine("chipline_build", cmake='echo "cmake $*"', nproc="echo 3")
    assert (got.returncode, got.stdout) == (0, "cmake --build /b -j 3\n")
    got = machine("chipline_build debug", cmake='echo "cmake $*"; exit 7')
    assert (got.returncode, got.stdout, got.stderr) == (1, "", f"cmake -S {ROOT} --preset debug -B /b\n")
    assert f"-S {ROOT} --preset release -B /b" in machine("chipline_build").stderr
    assert not list(tmp_path.glob("chipline-cmake*"))


def test_launch(machine):
    """Words stay words."""
    got = machine("chipline_launch 3 program 'two words'",
                  mpirun='printf "%s\\n" "$@" $OMPI_ALLOW_RUN_AS_ROOT $OMPI_ALLOW_RUN_AS_ROOT_CONFIRM')
    assert got.stdout.splitlines() == [
        "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "--mca", "pml", "ob1", "--mca",
        "btl", "self,vader", "--mca", "btl_vader_single_copy_mechanism", "none", "--mca", "btl_vader_eager_limit",
        "65536", "-n", "3", "program", "two words", "1", "1"]
