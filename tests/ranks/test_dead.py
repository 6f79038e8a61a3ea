"""A rank that stands still or dies, in every phase, with both carriers: the job ends in time, with one message that
names the right rank; one that is only slow is left alone."""
import concurrent.futures
import os
import re
import signal
import socket
import subprocess
import tempfile
import time

import pytest

PROGRAM = os.environ["STANDS_STILL"]
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1",
           OMPI_MCA_pml="ob1", OMPI_MCA_btl="self,vader")
TIMEOUT = 1.5  # s, of the stall; the grace is as long
PHASES = ("starting", "agreeing", "loading", "reading a prompt", "decoding", "collecting", "ending")
# every phase with a rank of the first, a middle and the last stage; heads and others, both carriers
STOPPED = [(phase, (rank + i) % 5, signal.SIGSTOP, ("shared", "messages")[(rank + i) % 2])
           for i, phase in enumerate(PHASES) for rank in (0, 2, 4)]
STOPPED += [("decoding", rank, signal.SIGSTOP, carrier) for rank in range(5) for carrier in ("shared", "messages")]
KILLED = [(phase, (2 * i + 1) % 5, signal.SIGKILL, "shared") for i, phase in enumerate(PHASES) if i % 2 == 0]
SLOW = [(phase, (3 * i) % 5, 0, ("shared", "messages")[i % 2]) for i, phase in enumerate(PHASES)
        if phase in ("loading", "decoding", "collecting")]


def run(case):
    phase, rank, sig, carrier = case
    with tempfile.TemporaryDirectory(prefix="cl") as own:  # starts at the same moment would remove each other's folder
        p = subprocess.run(["timeout", "-k", "5", "60", "mpirun", "--oversubscribe", "--bind-to", "none", "-n", "5",
                            PROGRAM, phase, str(rank), str(int(sig)), carrier, str(TIMEOUT)],
                           env=dict(ENV, OMPI_MCA_orte_tmpdir_base=own), stdin=subprocess.DEVNULL, capture_output=True,
                           text=True)
    at = re.search(r"^at ([\d.]+)$", p.stderr, re.M)
    return p.returncode, p.stderr, time.time() - float(at[1]) if at else None


@pytest.fixture(scope="module")
def results():
    """All at once, a few at a time: they mostly wait."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        cases = list(dict.fromkeys(STOPPED + KILLED + SLOW))
        return dict(zip(cases, pool.map(run, cases)))


def messages(err):
    return [line for line in err.splitlines() if line.startswith("chipline:")]


@pytest.mark.parametrize("case", list(dict.fromkeys(STOPPED)), ids=str)
def test_who_stands_still_is_named(results, case):
    code, err, s = results[case]
    phase, rank = case[:2]
    assert code == 1, err
    assert len(messages(err)) == 1, err
    host = "an unknown host" if phase == "starting" else socket.gethostname()
    assert messages(err)[0].startswith(f"chipline: rank {rank} on {host} stands still or its link is gone: rank "), err
    # who speaks may be a step behind
    named = "reading a prompt|decoding" if phase in ("reading a prompt", "decoding") else phase
    assert re.search(f"while ({named}) \\(.*--stall-timeout", messages(err)[0]), err
    assert TIMEOUT <= s <= 2 * TIMEOUT + 2, s


@pytest.mark.parametrize("case", KILLED, ids=str)
def test_who_dies_ends_the_job(results, case):
    code, err, s = results[case]
    assert code not in (0, 124) and len(messages(err)) <= 1, err
    assert s <= 2 * TIMEOUT + 2, s


@pytest.mark.parametrize("case", SLOW, ids=str)
def test_who_is_slow_is_left_alone(results, case):
    code, err, s = results[case]
    assert code == 0 and not messages(err), err
    assert s >= 3 * TIMEOUT


def test_a_job_that_is_suspended_goes_on():
    """All ranks stand still for longer than the time-out, as when a scheduler suspends a job."""
    p = subprocess.Popen(["timeout", "-k", "5", "60", "mpirun", "--oversubscribe", "--bind-to", "none", "-n", "5",
                          PROGRAM, "decoding", "2", "0",
                          "shared", str(TIMEOUT)], env=ENV, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert p.stderr.readline().startswith("at ")
    mpirun = subprocess.run(["pgrep", "-P", str(p.pid)], capture_output=True, text=True).stdout.split()
    ranks = [int(c) for c in subprocess.run(["pgrep", "-P", *mpirun], capture_output=True, text=True).stdout.split()]
    assert len(ranks) == 5
    for sig, wait in ((signal.SIGSTOP, 2 * TIMEOUT), (signal.SIGCONT, 0)):
        for pid in ranks:
            os.kill(pid, sig)
        time.sleep(wait)
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 0 and not messages(err), err
