"""The house stays as designed: who includes whom, where MPI, HDF5 and OpenMP may be named."""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
ROOMS = {"base": "base", "status": "base", "util": "base", "json": "base", "format": "model", "model": "model", "model_file": "model",
         "tokenizer": "model", "chat": "model", "trace": "trace", "import": "import", "plan": "plan", "microbatch": "plan", "group": "plan", "kernels": "chip",
         "chip": "chip", "sample": "chip", "line": "line", "request": "run", "schedule": "run", "run": "run"}
MAY_KNOW = {"base": set(), "model": {"base"}, "trace": {"base"}, "import": {"base", "model"}, "plan": {"base", "model"},
            "chip": {"base", "model", "plan", "trace"}, "line": {"base", "plan", "trace"},
            "run": {"base", "model", "trace", "plan", "chip", "line"},
            "cli": {"base", "model", "trace", "import", "plan", "chip", "line", "run"}}


def files(room):
    return sorted((SRC / room).rglob("*.[ch]"))


def includes(path):
    return re.findall(r'#\s*include\s*[<"]([^>"]+)[>"]', path.read_text())


def test_every_header_has_a_room():
    assert {p.stem for p in (ROOT / "include" / "chipline").glob("*.h")} <= set(ROOMS)


def test_floors():
    for room, known in MAY_KNOW.items():
        for path in files(room):
            for name in includes(path):
                if name.startswith("chipline/"):
                    owner = ROOMS[pathlib.Path(name).stem]
                    assert owner == room or owner in known, f"{path.relative_to(ROOT)} includes {name} of {owner}/"


def test_public_headers_keep_to_their_floor():
    for path in (ROOT / "include" / "chipline").glob("*.h"):
        room = ROOMS[path.stem]
        for name in includes(path):
            assert name not in ("mpi.h", "hdf5.h", "omp.h"), path
            if name.startswith("chipline/"):
                owner = ROOMS[pathlib.Path(name).stem]
                assert owner == room or owner in MAY_KNOW[room], f"{path.name} includes {name}"


def test_libraries_stay_in_their_rooms():
    allowed = {"mpi.h": {"line", "run"}, "hdf5.h": {"model", "trace"}, "omp.h": {"chip"}, "libutf8proc": {"model"}}
    for room in MAY_KNOW:
        for path in files(room):
            for name in includes(path):
                assert room in allowed.get(name, {room}), f"{path.relative_to(ROOT)} includes {name}"
            if room != "chip":
                assert "#pragma omp" not in path.read_text(), path


def test_no_mutable_globals():
    """File-level variables must be const: one process may hold several chips."""
    for room in MAY_KNOW:
        for path in files(room):
            for line in path.read_text().splitlines():
                if re.match(r"^(?!\s)(static\s+)?(?!const\b|typedef\b|struct\b|enum\b|return\b|extern\b)[\w\s\*]+\b\w+(\[[^\]]*\])*\s*(=.*)?;\s*$", line) and "(" not in line:
                    assert "const" in line, f"{path.relative_to(ROOT)}: {line}"


def test_nothing_is_left_unfinished():
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|not implemented")
    for folder in ("src", "include", "analysis", "jobs"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in (".c", ".h", ".py", ".sh", ".sbatch"):
                assert not words.search(path.read_text()), path
