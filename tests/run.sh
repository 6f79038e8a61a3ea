#!/usr/bin/env bash
# run.sh: installs what is missing (Debian), checks the C code's style, builds with warnings as errors and runs every test: CUnit programs, multi-rank runs and
# pytest under ctest; then the unit tests once more under the address and undefined-behaviour sanitizers. No arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/env.sh
chipline_packages $CHIPLINE_DEBIAN_PACKAGES $CHIPLINE_DEBIAN_ANALYSIS clang-format
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

echo "== style"
if clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    find src include tests -name '*.[ch]' -print0 | xargs -0 clang-format --dry-run -Werror
else
    echo "skipped: .clang-format is for clang-format 14, which is not here"
fi
echo "== build, warnings are errors"
CHIPLINE_BUILD=$CHIPLINE_ROOT/build chipline_build ci
echo "== tests"
(cd build && ctest --output-on-failure --no-tests=error)
echo "== unit tests under ASan and UBSan"
CHIPLINE_BUILD=$CHIPLINE_ROOT/build-asan chipline_build asan
(cd build-asan && ctest --output-on-failure --no-tests=error -L unit)
