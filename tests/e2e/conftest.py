"""Runs the chipline binary as people do, alone and under mpirun. CHIPLINE names the binary (ctest sets it);
CHIPLINE_TESTS=all runs whole matrices where else a choice of them stands (see some())."""
import atexit
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

import recorded  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures"
DEMO = ROOT / "configs" / "demo"
CHIPLINE = os.environ.get("CHIPLINE", str(ROOT / "build" / "chipline"))

ALL = os.environ.get("CHIPLINE_TESTS") == "all"
SAID = recorded.Said(pathlib.Path(__file__).parent)


def some(cases, one_in, at=0):
    """Every one_in-th of the cases, from at on; all of them where whole matrices are wanted."""
    return list(cases) if ALL else list(cases)[at % one_in::one_in]


# Starts of other programs at the same moment create and remove the same folder of Open MPI's, unless each has its own.
SESSIONS = tempfile.mkdtemp(prefix="cl")
atexit.register(shutil.rmtree, SESSIONS, ignore_errors=True)

# Naming what carries messages saves Open MPI a search of 0.2 s a start, isolated singletons another 0.1 s; without its
# second of patience before killing, 1 s where a start is refused.
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1",
           OMPI_MCA_btl_vader_single_copy_mechanism="none", OMPI_MCA_pml="ob1", OMPI_MCA_btl="self,vader",
           OMPI_MCA_orte_tmpdir_base=SESSIONS, OMPI_MCA_ess_singleton_isolated="1",
           OMPI_MCA_odls_base_sigkill_timeout="0", OMP_NUM_THREADS="1")


def command(*args, ranks=None):
    args = [str(a) for a in args]
    if ranks is None:
        return [CHIPLINE, *args]
    return ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), CHIPLINE, *args]


def chipline(*args, ranks=None, timeout=120, stdin=None, cwd=None):
    """One call of chipline (ranks None: no mpirun). Returns the CompletedProcess, texts as str."""
    return subprocess.run(["timeout", "-k", "5", str(timeout), *command(*args, ranks=ranks)], env=ENV, cwd=cwd,
                          input=stdin,
                          stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True, text=True,
                          timeout=timeout + 20)


def hear_signals():
    """For preexec_fn: shells start what runs in their background deaf to interrupts, nohup to hang-ups, and that is
    inherited."""
    for sig in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(sig, signal.SIG_DFL)


def ok(*args, **kw):
    r = chipline(*args, **kw)
    assert r.returncode == 0, f"{args}: exit {r.returncode}\n{r.stdout[-2000:]}\n{r.stderr[-2000:]}"
    return r


def messages(result):
    """The lines that chipline itself wrote as errors."""
    return [line for line in result.stderr.splitlines() if line.startswith("chipline:")
            and not line.startswith("chipline: note:")]


def refuses(code, *args, says=None, **kw):
    """The call must end with this exit code and exactly one message, the one that was recorded."""
    r = chipline(*args, **kw)
    lines = messages(r)
    assert r.returncode == code, f"{args}: exit {r.returncode}, not {code}\n{r.stdout[-500:]}\n{r.stderr[-2000:]}"
    assert len(lines) == 1, f"{args}: {lines}"
    if says:
        assert says in lines[0], lines[0]
    SAID.check(lines[0])
    return lines[0]


def generate(model, *args, ranks=None, **kw):
    """One request with --json: the result row."""
    return json.loads(ok("run", model, "--json", "--quiet", *args, ranks=ranks, **kw).stdout)


def ids(tokens):
    return ",".join(str(t) for t in tokens)


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chipline")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def convert(work):
    """convert(source, *options): a model file, made once."""
    made = {}

    def get(source, *options):
        key = (str(source), options)
        if key not in made:
            out = work / f"model{len(made)}.h5"
            ok("convert", source, "-o", out, "--quiet", *options)
            made[key] = out
        return made[key]
    return get


@pytest.fixture(scope="session")
def demo(convert):
    return convert(DEMO, "--format", "q8_0")


def golden(name):
    folder = FIXTURES / name
    return json.loads((folder / "golden.json").read_text()), np.load(folder / "logits.npy")


def pytest_terminal_summary(terminalreporter):
    """What was not collected is said, not skipped."""
    if any("test_trained" in str(a) or not str(a).endswith(".py") for a in terminalreporter.config.args):
        import test_trained
        if not test_trained.FILES:
            terminalreporter.write_line("SmolLM2 was not looked at: its checkpoint is not here (jobs/smollm2.sh)")
