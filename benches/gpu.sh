#!/usr/bin/env bash
# Merges on a GPU: parity, memory errors and time beside the processor, in one table.
#
#     benches/gpu.sh DIRECTORY
#
# DIRECTORY holds `sms-merge` and `kernels`, which is the binary of tests/kernels.rs. Needs
# a driver, and a Python ($PYTHON, or python3) that has numpy. Files of some GB are
# written to $SCRATCH (/dev/shm if there is one). SIZES are elements of each ingredient.
set -uo pipefail
directory="$(cd "${1:?usage: benches/gpu.sh DIRECTORY}" && pwd)"
python="${PYTHON:-python3}"
root="${SCRATCH:-/dev/shm}"
sizes="${SIZES:-134217728 536870912}"
scratch="$(mktemp -d -p "$root")"
trap 'rm -rf "$scratch"' EXIT
failed=0

echo "== machine"
date -u +%F
nvidia-smi --query-gpu=name,driver_version,pcie.link.gen.current,pcie.link.width.current \
    --format=csv,noheader
nproc

echo "== kernels against the definition"
SMS_MERGE_REQUIRE_CUDA=1 "$directory/kernels" --test-threads 4 || failed=1
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
        echo "== compute-sanitizer $tool"
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$directory/kernels" \
            --exact mixed_types 2>&1 | tail -3 || failed=1
    done
else
    echo "compute-sanitizer is not here"
fi

# make NAME TYPE COUNT ELEMENTS: ingredients, 90 % zeros in the same places.
make() {
    "$python" - "$scratch/$1" "$2" "$3" "$4" <<'PY'
import json, sys
import numpy as np
prefix, dtype, count, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rows = n // 4096
random = np.random.default_rng(0)
block = 1 << 24
width = {"F32": 4, "BF16": 2, "F64": 8}[dtype]
mask = random.random(block, dtype=np.float32) < 0.1
header = json.dumps({"weight": {"dtype": dtype, "shape": [rows, 4096],
                                "data_offsets": [0, n * width]}}).encode()
header += b" " * (-len(header) % 8)
for i in range(count):
    values = (random.random(block, dtype=np.float32) + 0.5) * mask
    if dtype == "BF16":
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype == "F64":
        values = values.astype(np.float64) * 1.1
    data = values.tobytes()
    with open(f"{prefix}-{i}.st", "wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        for begin in range(0, n, block):
            out.write(data[: min(block, n - begin) * width])
PY
}

# secs ARGUMENTS...: the best of three merges, in seconds.
secs() {
    local best=
    for _ in 1 2 3; do
        rm -f "$scratch/out.st"
        local begin end
        begin=$(date +%s.%N)
        "$directory/sms-merge" "$@" --no-sync --quiet -o "$scratch/out.st" || return 1
        end=$(date +%s.%N)
        best=$("$python" -c "print(min($end - $begin, ${best:-1e9}))")
    done
    printf '%.3f' "$best"
}

echo "== merges: seconds on the processor and on cuda:0, files in memory"
printf '%-5s %5s %12s %9s %8s %8s %8s\n' type count bytes distances cpu cuda equal
for dtype in F32 BF16 F64; do
    for count in 4 16; do
        for n in $sizes; do
            width=4
            [ "$dtype" = BF16 ] && width=2
            [ "$dtype" = F64 ] && width=8
            # A third of the machine's memory at most.
            [ $((n * width * count)) -gt "${MOST_BYTES:-20000000000}" ] && continue
            make in "$dtype" "$count" "$n" || { failed=1; continue; }
            for distances in off on; do
                cpu=$(secs "$scratch"/in-*.st --distances "$distances") || failed=1
                digest=$(cksum <"$scratch/out.st")
                cuda=$(secs "$scratch"/in-*.st --distances "$distances" --device cuda) || failed=1
                equal=no
                [ "$digest" = "$(cksum <"$scratch/out.st")" ] && equal=yes || failed=1
                printf '%-5s %5s %12s %9s %8s %8s %8s\n' "$dtype" "$count" \
                    $((n * width * count)) "$distances" "$cpu" "$cuda" "$equal"
            done
            rm -f "$scratch"/in-*.st
        done
    done
done
exit $failed
