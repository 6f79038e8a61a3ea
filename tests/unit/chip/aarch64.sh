#!/usr/bin/env bash
# aarch64.sh: the tests of the kernel sets for AArch64, cross-compiled and run under emulation. Exits with 77 (skipped)
# where the tools are missing. Debian: dpkg --add-architecture arm64; apt-get update;
# apt-get install gcc-aarch64-linux-gnu qemu-user libcunit1-dev:arm64
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cc=(aarch64-linux-gnu-gcc -std=c11 -D_GNU_SOURCE -I"$root/include" -I"$root/src/chip" -I"$root/tests/unit"
    -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wno-unused-parameter
    -ffp-contract=off -fno-math-errno -fno-trapping-math)

skip() { echo "skipped: $1"; exit 77; }
command -v "${cc[0]}" >/dev/null || skip "no ${cc[0]} (Debian: gcc-aarch64-linux-gnu)"
command -v qemu-aarch64 >/dev/null || skip "no qemu-aarch64 (Debian: qemu-user)"
# Linked statically: some emulators hang in a child of a program with shared libraries.
printf '#include <CUnit/CUnit.h>\nint main(void) { return (int)CU_get_error(); }\n' >"$work/probe.c"
"${cc[@]}" "$work/probe.c" -static -lcunit -o "$work/probe" 2>/dev/null ||
    skip "no CUnit for AArch64 (Debian: libcunit1-dev:arm64)"
qemu-aarch64 "$work/probe" || skip "qemu-aarch64 does not run what ${cc[0]} makes"

# Nothing here needs another library than CUnit.
for source in base/status base/text base/numbers model/{format,kv} \
    chip/kernels/{cache,choose,generic,neon,panel,reference}; do
    march=()
    [ "$source" = chip/kernels/neon ] && march=(-march=armv8.2-a+dotprod)
    "${cc[@]}" -O3 "${march[@]}" -c "$root/src/$source.c" -o "$work/${source##*/}.o"
done
# The rest of this folder has lines of its own for each architecture.
for source in "$root"/src/chip/*.c; do "${cc[@]}" -fopenmp -fsyntax-only "$source"; done

for test in kernels kernels_latent kernels_vectors; do
    "${cc[@]}" -O1 "$root/tests/unit/chip/test_$test.c" "$work"/*.o -static -lcunit -lm -o "$work/test_$test"
done
cat >"$work/best.c" <<'END'
#include <stdio.h>
#include "chipline/kernels.h"
int main(void) { return puts(cl_kernels_available()[0]) < 0; }
END
"${cc[@]}" "$work/best.c" "$work"/*.o -static -lm -o "$work/best"

# With the instructions all sets are compared, without them the set is not offered.
run() { qemu-aarch64 -cpu "$1" "$work/$2"; }
for cpu in max cortex-a57; do
    want=$([ $cpu = max ] && echo neon || echo generic)
    best=$(run $cpu best)
    [ "$best" = "$want" ] || { echo "best set on $cpu: $best, not $want"; exit 1; }
done
for test in kernels kernels_latent kernels_vectors; do run max "test_$test"; done
