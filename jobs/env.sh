# env.sh: sourced by every job script; the only place with settings of a site. Change it here and nowhere else.
#
# CHIPLINE_ROOT    this repository
# CHIPLINE_BUILD   where it is built
# chipline_packages   installs what is missing (Debian; as root or by sudo)
# chipline_build      builds
# chipline_launch N PROGRAM ...   runs PROGRAM on N ranks of this machine
# chipline_python     prints a Python that has the analysis' modules

CHIPLINE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CHIPLINE_BUILD=${CHIPLINE_BUILD:-$CHIPLINE_ROOT/build}
export CHIPLINE_ROOT CHIPLINE_BUILD

# Modules of a cluster go here, for example:
#   module load gcc openmpi hdf5

# Slurm: `srun --mpi=...` must fit the MPI library (Debian's Open MPI: pmix).
CHIPLINE_SRUN_MPI=${CHIPLINE_SRUN_MPI:-pmix}

CHIPLINE_DEBIAN_PACKAGES="build-essential cmake git pkg-config libopenmpi-dev openmpi-bin libhdf5-dev libjansson-dev
libpcre2-dev libxxhash-dev libutf8proc-dev libcunit1-dev"
CHIPLINE_DEBIAN_ANALYSIS="python3 python3-h5py python3-numpy python3-pandas python3-matplotlib python3-pytest"

# Installs those of the named packages that are missing.
chipline_packages() {
    local missing=() p sudo=
    command -v dpkg-query >/dev/null || { echo "chipline: not a Debian system: install by hand: $*" >&2; return 0; }
    for p in "$@"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "chipline: missing packages (install them as root: apt-get install ${missing[*]})" >&2
            return 1
        fi
        sudo=sudo
    fi
    echo "installing: ${missing[*]}" >&2
    $sudo apt-get update -qq &&
        $sudo env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# chipline_build [PRESET]: configures and builds into CHIPLINE_BUILD.
chipline_build() {
    cmake -S "$CHIPLINE_ROOT" --preset "${1:-release}" -B "$CHIPLINE_BUILD" >"${TMPDIR:-/tmp}/chipline-cmake.$$" 2>&1 ||
        { cat "${TMPDIR:-/tmp}/chipline-cmake.$$" >&2; rm -f "${TMPDIR:-/tmp}/chipline-cmake.$$"; return 1; }
    rm -f "${TMPDIR:-/tmp}/chipline-cmake.$$"
    cmake --build "$CHIPLINE_BUILD" -j "$(nproc)"
}

# Ranks of one machine. More ranks than cores must yield while they wait; messages go through shared memory (naming that
# saves Open MPI a search of 0.2 s) and are fastest without a kernel copy; root (in a container) has to say so.
chipline_launch() {
    local n=$1
    shift
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
        mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 --mca pml ob1 --mca btl self,vader \
        --mca btl_vader_single_copy_mechanism none --mca btl_vader_eager_limit 65536 -n "$n" "$@"
}

chipline_python() {
    local p
    for p in ${CHIPLINE_PYTHON:-} /usr/bin/python3 python3; do
        if command -v "$p" >/dev/null && "$p" -c 'import h5py, numpy, pandas, matplotlib' 2>/dev/null; then
            echo "$p"
            return 0
        fi
    done
    echo "chipline: no Python with h5py, numpy, pandas and matplotlib" \
        "(Debian: apt-get install $CHIPLINE_DEBIAN_ANALYSIS)" >&2
    return 1
}
