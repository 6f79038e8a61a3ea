#!/usr/bin/env bash
# run.sh [--all] [--help]: installs what is missing (Debian), checks the C code's style, builds with warnings as errors
# and runs the tests (tests/README.md says which there are, what they cost and what they find).
#
#   --all    whole matrices where else a choice of them is run (CHIPLINE_TESTS=all), and the unit tests once more under
#            the address and undefined-behaviour sanitizers. What CI runs
#   --help   this
#
# After the build about 4 minutes on two cores, with --all about 15.
set -euo pipefail
cd "$(dirname "$0")/.."
help() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' tests/run.sh; }
all=
for word in "$@"; do
    case $word in
    --all) all=yes ;;
    --help | -h)
        help
        exit 0
        ;;
    *)
        echo "run.sh: $word: unknown option (tests/run.sh --help lists them)" >&2
        exit 2
        ;;
    esac
done
[ -z "$all" ] || export CHIPLINE_TESTS=all
source jobs/env.sh
chipline_packages $CHIPLINE_DEBIAN_PACKAGES $CHIPLINE_DEBIAN_ANALYSIS clang-format

echo "== style"
if clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    find src include tests -name '*.[ch]' -print0 | xargs -0 clang-format --dry-run -Werror
else
    echo "skipped: .clang-format is for clang-format 14, which is not here"
fi
echo "== build, warnings are errors"
CHIPLINE_BUILD=$CHIPLINE_ROOT/build chipline_build ci
echo "== tests${all:+, whole matrices}"
start=$SECONDS
(cd build && ctest --output-on-failure --no-tests=error -j 2)
echo "tests: $((SECONDS - start)) s"
if [ -n "$all" ]; then
    echo "== unit tests under ASan and UBSan"
    CHIPLINE_BUILD=$CHIPLINE_ROOT/build-asan chipline_build asan
    (cd build-asan && ctest --output-on-failure --no-tests=error -L unit -j 2)
fi
