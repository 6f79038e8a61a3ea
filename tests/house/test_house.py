"""The house stays as designed: who includes whom, where MPI, HDF5 and OpenMP may be named."""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
SRC = ROOT / "src"


def rooms():
    """What CMakeLists.txt says: each room's own headers, and the rooms that it knows."""
    text = (ROOT / "CMakeLists.txt").read_text()
    found = {}
    for name, words in re.findall(r"^room\((\w+) ([^)]*)\)", text, re.M):
        parts = re.split(r"\b(HEADERS|KNOWS|USES)\b", words)
        found[name] = {key: value.split() for key, value in zip(parts[1::2], parts[2::2])}
    return found


HOUSE = rooms()
ROOMS = {header: room for room, words in HOUSE.items() for header in words["HEADERS"]}
MAY_KNOW = {room: set(words.get("KNOWS", ())) for room, words in HOUSE.items()}


def test_floors_go_up():
    """Every room names only rooms below it."""
    seen = set()
    for room in HOUSE:
        assert MAY_KNOW[room] <= seen, room
        seen.add(room)
    assert {p.name for p in SRC.iterdir()} == seen


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
    allowed = {"mpi.h": {"line", "run"}, "hdf5.h": {"store"}, "omp.h": {"chip"}, "utf8proc.h": {"text"}}
    for room in MAY_KNOW:
        for path in files(room):
            for name in includes(path):
                assert room in allowed.get(name, {room}), f"{path.relative_to(ROOT)} includes {name}"
            if room != "chip":
                assert "#pragma omp" not in path.read_text(), path


def test_hdf5_is_linked_to_one_room():
    assert [room for room, words in HOUSE.items() if "PkgConfig::HDF5" in words.get("USES", ())] == ["store"]


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
