"""python3 -m analysis COMMAND TRACE...: options, errors and exit codes; the commands have a file each."""
import argparse
import os
import sys

PACKAGES = "python3-h5py python3-numpy python3-pandas python3-matplotlib"

ABOUT = """\
Tables and pictures from the trace of a chipline run (chipline run ... --trace TRACE.h5).

  python3 -m analysis summary TRACE.h5                          the run in tables
  python3 -m analysis timeline TRACE.h5 --png line.png          the assembly line: ranks down, time across
  python3 -m analysis timeline TRACE.h5 --perfetto line.json    the same for https://ui.perfetto.dev
  python3 -m analysis membw TRACE.h5 --png membw.png            time against bytes read, and the memory's speed

Run it from the root of the repository, or with that folder in PYTHONPATH."""

END = """\
Exit codes: 0 done, 1 something could not be written or a Python module is missing, 2 wrong options, 3 a trace is bad.
What a trace holds is written down in analysis/README.md."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f"analysis: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def _steps(text):
    first, _, last = text.partition(":")
    try:
        a, b = int(first), int(last)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: not FIRST:LAST") from None
    if a < 0 or b < a:
        raise argparse.ArgumentTypeError(f"{text}: FIRST must be from 0 to LAST")
    return a, b


def parser():
    p = Parser(prog="python3 -m analysis", description=ABOUT, epilog=END, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name, text, about):
        c = commands.add_parser(name, help=text, description=about, epilog=END, formatter_class=argparse.RawDescriptionHelpFormatter)
        c.add_argument("traces", nargs="+", metavar="TRACE", help="TRACE.h5 of a run; several are shown one after the other")
        c.add_argument("--png", metavar="FILE", help="the picture")
        c.add_argument("--csv", metavar="FILE", help="the main table; further tables go to FILE with -NAME before the extension")
        c.add_argument("--json", metavar="FILE", help="all tables: an object with a list of rows per table")
        return c

    command("summary", "the run in tables", """\
Speed, time to first token, and per rank: where its time went (busy: computing; wait: for a message), how much of its work it was
on a core, bytes read and how fast against the probed bandwidth, messages, memory. For models with experts: how many distinct
experts a step reads. It warns where wall time is not parallel time, where events were lost and where clocks disagree.""")
    c = command("timeline", "the assembly line as a picture", """\
Ranks down, time across. A micro-batch has the same colour in every row, waiting is hatched grey, micro-batches that hold prompt
tokens are taller. Without --from, --to, --steps or --all: some tens of micro-batches from the middle of the run.""")
    c.add_argument("--from", dest="from_ms", type=float, metavar="MS", help="start of the window, ms after the start of the run")
    c.add_argument("--to", dest="to_ms", type=float, metavar="MS", help="end of the window")
    c.add_argument("--steps", type=_steps, metavar="FIRST:LAST", help="the window that holds these micro-batches")
    c.add_argument("--all", action="store_true", help="the whole run")
    c.add_argument("--ranks", type=_steps, metavar="FIRST:LAST", help="these ranks only")
    c.add_argument("--perfetto", metavar="FILE", help="trace-event JSON for ui.perfetto.dev or chrome://tracing; the whole run unless "
                   "a window is given")
    c = command("membw", "time against bytes read", """\
Weights and KV cache have to be read for every step: how long a step or a layer took against the bytes that it read, with a line
for what each rank's probe says its memory can do; the distribution of the achieved GB/s; medians per event kind and layer group.""")
    c.add_argument("--time", choices=("auto", "wall", "cpu"), default="auto",
                   help="wall clock, or CPU time of the recording thread; auto: cpu where cores were shared")
    return p


def check(args, error):
    if args.command != "timeline":
        return
    window = [args.from_ms is not None or args.to_ms is not None, args.steps is not None, args.all]
    if sum(window) > 1:
        error("give one of --from/--to, --steps and --all")
    if args.from_ms is not None and args.to_ms is not None and not args.from_ms < args.to_ms:
        error("--from must be before --to")
    if args.perfetto and len(args.traces) > 1:
        error("--perfetto takes one trace")


def main(argv=None):
    p = parser()
    args = p.parse_args(argv)
    check(args, p.error)
    try:
        from analysis import membw, output, summary, timeline, trace
    except ImportError as e:
        print(f"analysis: this Python ({sys.executable}) lacks a module: {e} (Debian: apt install {PACKAGES}, then use "
              "/usr/bin/python3 -m analysis)", file=sys.stderr)
        return 1
    command = {"summary": summary, "timeline": timeline, "membw": membw}[args.command]
    try:
        command.run([trace.load(path) for path in args.traces], args)
        sys.stdout.flush()
    except trace.TraceError as e:
        print(f"analysis: {e}", file=sys.stderr)
        return 3
    except output.UsageError as e:
        p.error(str(e))
    except output.OutputError as e:
        print(f"analysis: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader (head, say) has seen enough; the files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
