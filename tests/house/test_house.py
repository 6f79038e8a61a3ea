"""The house stays as designed: who includes whom, where MPI, HDF5 and OpenMP may be named."""
import pathlib
import re

import pytest

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
ROOMS = {header: room for room, words in HOUSE.items() for header in words.get("HEADERS", ())}
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
    assert {p.stem for p in (ROOT / "include" / "chipline").glob("*.h")} == set(ROOMS)


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
    allowed = {"mpi.h": {"line"}, "hdf5.h": {"store"}, "omp.h": {"chip"}, "utf8proc.h": {"text"}}
    for room in MAY_KNOW:
        for path in files(room):
            for name in includes(path):
                assert room in allowed.get(name, {room}), f"{path.relative_to(ROOT)} includes {name}"
            if room != "chip":
                assert "#pragma omp" not in path.read_text(), path


def test_hdf5_is_linked_to_one_room():
    assert [room for room, words in HOUSE.items() if "PkgConfig::HDF5" in words.get("USES", ())] == ["store"]


def test_private_headers_stay_in_their_rooms():
    """What another room needs of a room stands in include/chipline."""
    for room in MAY_KNOW:
        for path in files(room):
            text = path.read_text()
            for name in re.findall(r'#\s*include\s*"([^"]+)"', text):
                if name.startswith("chipline/") or name == "chipline_version.h":
                    continue
                found = [f for f in ((path.parent / name), SRC / room / name) if f.resolve().exists()]
                assert found and found[0].resolve().is_relative_to(SRC / room), f"{path.relative_to(ROOT)}: {name}"


def blank(text):
    """C without comments, preprocessor lines and what stands in quotes; line breaks stay."""
    def empty(m):
        return re.sub(r"[^\n]", " ", m.group()) if m.group()[0] == "/" else m.group()[0] * 2
    text = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', empty, text, flags=re.S)
    return re.sub(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", "", text, flags=re.M)


def file_level(text):
    """The declarations and definitions of a file, each as one line, their braces and brackets emptied."""
    text, depth, out = blank(text), 0, ""
    for c in text:
        depth -= c == "}"
        if depth == 0:
            out += c
        depth += c == "{"
    # a function's body ends its item as a semicolon ends others
    out = re.sub(r"\)\s*\{\}", ");", out)
    return [" ".join(item.split()) for item in out.split(";") if item.strip()]


def is_mutable(item):
    """A variable, or several, that is not const: not a function, a type, or something declared elsewhere."""
    item = re.sub(r"_Alignas\s*\([^)]*\)|__attribute__\s*\(\(.*?\)\)|_Thread_local", "", item).strip()
    if re.match(r"(typedef|extern|_Static_assert)\b", item):
        return False
    if re.fullmatch(r"(enum|struct|union)(\s+\w+)?\s*(\{\})?", item):
        return False
    left = item.split("=")[0]
    if "(" in left and not re.match(r"[^(]*\(\s*\*", left):
        return False  # a function, or a macro that makes some
    pointers = left.rsplit("*", 1)[-1] if "*" in left else left
    return not re.search(r"\bconst\b", pointers)


# Signal handlers get a number and nothing else: what they need lies where they find it (src/cli/stopped.c).
ALLOWED = {("cli/stopped.c", "static struct {} stopped")}


def test_no_mutable_globals():
    """File-level variables, of whatever type and over however many lines, are const: one process may hold several
    chips."""
    found = {(str(path.relative_to(SRC)), item) for room in MAY_KNOW for path in files(room)
             for item in file_level(path.read_text()) if is_mutable(item)}
    assert found == ALLOWED, found ^ ALLOWED


def test_no_static_variables_in_functions():
    for room in MAY_KNOW:
        for path in files(room):
            for line in re.findall(r"^[ \t]+(static\b[^;={(]*[;={])", blank(path.read_text()), re.M):
                assert re.search(r"\bconst\b", line), f"{path.relative_to(ROOT)}: {line}"


@pytest.mark.parametrize("text,mutable", [
    ("static int n;", True), ("int n = 3;", True), ("static struct {\n    int a;\n    char *b;\n} both;", True),
    ("static struct place at = {\n    1,\n    2};", True), ("static double sums[2][3];", True),
    ("static const char *name = \"x\";", True), ("static char *const name = \"x; y\";", False),
    ("static const int n[] = {1,\n    2};", False), ("static int (*hook)(int a);", True),
    ("typedef struct place {\n    int a;\n} place;", False), ("enum { A = 3 };", False), ("struct place;", False),
    ("static int f(int a)\n{\n    int b = a;\n    return b;\n}", False), ("int f(void);", False),
    ("static const cl_name names[] = {\n    {1, NULL},\n};", False), ("extern const int x;", False),
    ("static _Atomic int count;", True), ("static const struct argp_option *const rows[] = {&a, &b};", False)])
def test_what_is_a_mutable_global(text, mutable):
    assert [is_mutable(item) for item in file_level(text)] == [mutable]


def sources():
    """What people write and read here; fixtures, vocabularies and records hold data. analysis/ has lines of its own
    length."""
    kinds = (".c", ".h", ".py", ".sh", ".sbatch", ".cmake", ".txt")
    for folder in ("src", "include", "jobs", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            data = path.name == "check_vocabularies.py" or any(
                path.is_relative_to(ROOT / "tests" / f) for f in ("fixtures", "analysis", "e2e/outputs"))
            if path.is_file() and not data and (path.suffix in kinds):
                yield path
    yield ROOT / "CMakeLists.txt"


def test_lines_have_120_columns():
    long = [f"{path.relative_to(ROOT)}:{n}" for path in sources()
            for n, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 120]
    assert not long, long


def test_documents_that_are_cited_are_here():
    """By name or by number of a decision."""
    for path in sources():
        if path == pathlib.Path(__file__):
            continue
        text = path.read_text()
        for name in re.findall(r"[\w./-]*\b\w+\.md\b", text):
            at = [ROOT / name, path.parent / name, *ROOT.glob(f"*/{name}")]
            assert any(f.exists() for f in at), f"{path.relative_to(ROOT)} cites {name}"
        assert not re.search(r"\b[Dd]esign decision \d|\bissue #?\d", text), path.relative_to(ROOT)


def test_nothing_is_left_unfinished():
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|not implemented")
    for folder in ("src", "include", "analysis", "jobs"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in (".c", ".h", ".py", ".sh", ".sbatch"):
                assert not words.search(path.read_text()), path
