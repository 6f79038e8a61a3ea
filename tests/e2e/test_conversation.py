"""A conversation on a terminal (a pseudo-terminal here), alone and under mpirun."""
import contextlib
import fcntl
import json
import os
import pty
import select
import subprocess
import termios
import time

import pytest

from conftest import ENV, command, ok, refuses


def own_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(fd, wanted, seconds=60):
    text, end = b"", time.time() + seconds
    while wanted not in text and time.time() < end:
        if select.select([fd], [], [], 0.2)[0]:
            try:
                text += os.read(fd, 4096)
            except OSError:
                break
    assert wanted in text, text[-500:]
    return text


@contextlib.contextmanager
def conversation(model, context, *options, ranks=None):
    """One on a terminal, up to its first question: what is typed goes to the first, what is shown comes from the
    second. It ends as its user ends it."""
    master, slave = pty.openpty()
    p = subprocess.Popen(command("run", model, "--chat", "--chat-format", "chatml", "-n", 8, "--context", context,
                                 "--quiet", "--threads", 1, *options, ranks=ranks),
                         env=ENV, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         preexec_fn=own_terminal)
    os.close(slave)
    try:
        read_until(p.stdout.fileno(), b"> ")
        yield master, p.stdout.fileno()
        os.write(master, b"\x04")
        assert p.wait(timeout=30) == 0
    finally:
        p.kill()
        os.close(master)


@pytest.mark.parametrize("ranks", [None, 2])
def test_turns(ranks, demo):
    with conversation(demo, 512, ranks=ranks) as (typed, out):
        for text in (b"Tell me of the dog.\n", b"And the cat?\n", b"/reset\n", b"Who are you?\n"):
            os.write(typed, text)
            read_until(out, b"> ")


def test_a_turn_that_is_too_long(demo):
    """It is refused, and the conversation goes on without it."""
    with conversation(demo, 128) as (typed, out):
        for text, refused in (b"The dog. " * 100 + b"\n", True), (b"Tell me of the dog.\n", False):
            os.write(typed, text)
            said = read_until(out, b"> ")
            assert (b"chipline: " in said) is refused, said


@pytest.mark.parametrize("options", [("--reasoning", "show"), ("--json", "--reasoning", "show")])
def test_reasoning_of_every_turn(options, demo):
    """What a reply begins with does not hang on how the one before it ended."""
    with conversation(demo, 512, "--chat-format", "deepseek-r1", "--ignore-eos", *options) as (typed, out):
        for text in (b"Tell me of the dog.\n", b"And the cat?\n"):
            os.write(typed, text)
            said = read_until(out, b"> ")
            if "--json" in options:
                row = json.loads(said.splitlines()[0])
                assert row["text"] == "" and row["reasoning"] and row["finish_reason"] == "length"
            else:
                assert said.startswith(b"[reasoning]\n") and said.count(b"[") == 1, said


def test_no_logits_of_a_conversation(demo, tmp_path):
    master, slave = pty.openpty()
    r = subprocess.run(command("run", demo, "--chat", "--chat-format", "chatml", "--logits", tmp_path / "l.npy",
                               "--quiet"), env=ENV, stdin=slave, capture_output=True, text=True, timeout=60)
    os.close(slave)
    os.close(master)
    assert (r.returncode, r.stdout) == (2, "")
    assert r.stderr == "chipline: --logits: is for one request, not for a conversation (give -p TEXT)\n"
    assert not list(tmp_path.iterdir())


def test_reasoning(demo):
    """deepseek-r1's prompt opens the thinking, which the demo model never closes: all it says is reasoning."""
    ask = ("run", demo, "--chat", "--chat-format", "deepseek-r1", "-p", "hello", "-n", 6, "--ignore-eos",
           "--temperature", 0)
    hidden, shown = ok(*ask), ok(*ask, "--reasoning", "show")
    assert hidden.stdout.strip() == "" and "went into reasoning" in hidden.stderr
    assert shown.stdout.startswith("[reasoning]") and len(shown.stdout.strip()) > len("[reasoning]")
    refuses(2, "tokenize", demo, "--chat", "--chat-format", "harmony", "--date", "yesterday", "-p", "x",
            says="YYYY-MM-DD")
