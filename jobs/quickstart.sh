#!/usr/bin/env bash
# quickstart.sh: builds chipline and runs the main job on the embedded demo model with 4 ranks on this machine: text as
# it is generated, then several stories at once down the line, with a trace and its pictures in out/quickstart/. Debian
# 12, as root or with sudo. No arguments; safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/env.sh
out=$CHIPLINE_ROOT/out/quickstart
ranks=4

chipline_packages $CHIPLINE_DEBIAN_PACKAGES $CHIPLINE_DEBIAN_ANALYSIS
chipline_build release
chipline=$CHIPLINE_BUILD/chipline
mkdir -p "$out"

echo "== convert: the demo checkpoint to a model file, 8-bit weights"
"$chipline" convert configs/demo -o "$out/demo.h5" --format q8_0
"$chipline" inspect "$out/demo.h5"

echo
echo "== plan: what each of $ranks ranks will hold"
"$chipline" plan "$out/demo.h5" --ranks $ranks --context 512

echo
echo "== run: one story, token by token through $ranks ranks"
chipline_launch $ranks "$chipline" run "$out/demo.h5" -p "Once upon a time" -n 160 --context 512 \
    --temperature 0.7 --top-k 40 --seed 1 --threads 1

echo
echo "== run: eight stories at once, so that every stage has work, traced"
for start in "Once upon a time" "Once upon a time, there was a little girl" "Tom was a kind boy who lived" \
    "There was once" "Once upon a time, there was a big bear" "Lily was a happy girl who lived" \
    "Once upon a time, a kind boy named Ben" "Mia had a friend"; do
    printf '{"id": "%s", "prompt": "%s", "max_tokens": 96, "temperature": 0.7, "top_k": 40}\n' "$start" "$start"
done >"$out/in.jsonl"
chipline_launch $ranks "$chipline" run "$out/demo.h5" --batch "$out/in.jsonl" --out "$out/out.jsonl" --context 512 \
    --slots 8 --seed 2 --threads 1 --trace "$out/trace.h5" --summary "$out/summary.json"

echo
echo "== analysis: the trace in tables and pictures"
python=$(chipline_python)
"$python" -m analysis summary "$out/trace.h5"
"$python" -m analysis timeline "$out/trace.h5" --png "$out/timeline.png" --perfetto "$out/timeline.json" >/dev/null
"$python" -m analysis membw "$out/trace.h5" --png "$out/membw.png" >/dev/null

echo
echo "In $out:"
ls -1 "$out" | sed 's/^/  /'
