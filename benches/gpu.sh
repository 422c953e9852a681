#!/usr/bin/env bash
# Everything that takes a GPU, in one go: parity, memory errors, copies and soups on the
# device, merges beside the processor's, and trainings. Ends with a short table.
#
#     benches/gpu.sh              builds what is needed and runs it
#     benches/gpu.sh DIRECTORY    runs what `benches/gpu.sh --build DIRECTORY` has put there,
#                                 on a machine without Rust
#
# Needs a driver, and a Python ($PYTHON, or python3) that has numpy. Where CUDA's toolkit is
# (nvcc, or .ci/cuda-toolkit), training is built too; otherwise it is left out. Files of some
# GB are written to $SCRATCH (/dev/shm if there is one). $SIZES are elements of each
# ingredient, $MOST_BYTES all bytes of the largest merge. Results are kept in benches/results.
set -uo pipefail
source="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." 2>/dev/null && pwd)"
python="${PYTHON:-python3}"

# executable NAME CARGO-ARGUMENTS...: builds, and prints the path of the program NAME.
executable() {
    local name="$1"
    shift
    (cd "$source" && cargo "$@" --locked --message-format json-render-diagnostics) |
        "$python" -c '
import json, sys
lines = [json.loads(line) for line in sys.stdin]
print([line["executable"] for line in lines
       if line.get("executable") and line["target"]["name"] == sys.argv[1]][-1])' "$name"
}

# build DIRECTORY: the programs that the rest of this script runs.
build() {
    mkdir -p "$1" && cp "${BASH_SOURCE[0]}" "$source/benches/train_gpu.sh" "$1" || return 1
    cp "$(executable sms-merge build --release --bin sms-merge)" "$1/sms-merge" &&
        cp "$(executable kernels test --release --no-run --test kernels)" "$1/kernels" &&
        cp "$(executable device bench --no-run --bench device)" "$1/device" || return 1
    if ! command -v "${NVCC:-nvcc}" >/dev/null && ! [ -x "${CUDA_HOME:-/nowhere}/bin/nvcc" ]; then
        echo "no CUDA toolkit: training is left out" >&2
        return 0
    fi
    mkdir -p "$1/training"
    local cuda="${CARGO_TARGET_DIR:-$source/target}/gpu"
    local options=(--release --features cuda --target-dir "$cuda")
    cp "$(executable sms-merge build "${options[@]}" --bin sms-merge)" "$1/training/sms-merge" &&
        cp "$(executable engines test "${options[@]}" --no-run --test engines)" \
            "$1/training/engines"
}

if [ "${1:-}" = --build ]; then
    build "${2:?usage: benches/gpu.sh --build DIRECTORY}"
    exit
fi
scratch="$(mktemp -d -p "${SCRATCH:-$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)}")"
trap 'rm -rf "$scratch"' EXIT
if [ $# -eq 0 ]; then
    directory="$scratch/programs"
    build "$directory" || exit 1
else
    directory="$(cd "$1" && pwd)" || exit 1
fi
sizes="${SIZES:-33554432 134217728 536870912}"
table=()
failed=0

# record WHAT RESULT: a line of the table at the end.
record() {
    table+=("$(printf '%-40s %s' "$1" "$2")")
}

# verdict WHAT STATUS: the same, of what passes or fails.
verdict() {
    if [ "$2" -eq 0 ]; then
        record "$1" passed
    else
        record "$1" FAILED
        failed=1
    fi
}

echo "== machine"
date -u +%F
nvidia-smi --query-gpu=name,driver_version,pcie.link.gen.current,pcie.link.width.current \
    --format=csv,noheader || echo "nvidia-smi is not here"
nproc

echo "== kernels against the definition"
SMS_MERGE_REQUIRE_CUDA=1 "$directory/kernels" --test-threads 4
verdict "kernels against the definition" $?
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
        echo "== compute-sanitizer $tool"
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$directory/kernels" --test-threads 1 \
            mixed_types masks_that_differ what_only_a_fraction plain_numbers 2>&1 | tail -3
        verdict "compute-sanitizer $tool" "${PIPESTATUS[0]}"
    done
else
    record compute-sanitizer "not here"
fi

echo "== copies, batches, and soups of models on the device"
SMS_MERGE_BENCH_ELEMENTS="${ELEMENTS:-134217728}" "$directory/device" | tee "$scratch/device"
verdict "soups on the device, bytes and distances" "${PIPESTATUS[0]}"
[ -s "$scratch/device" ] || { echo "there is no device to go on with" >&2; exit 1; }
bus="$(sed -n 's/^plain copies, GB\/s: \([0-9.]*\) to the device.*/\1/p' "$scratch/device")"
record "copy to the device, GB/s" "$bus"
record "batches of a merge, share of the bus" \
    "$(sed -n 's/^batches of a merge.*; \([0-9]* %\) of the bus/\1/p' "$scratch/device")"
# soup TYPE MODELS DISTANCES: share of memory bandwidth, and times the processor's speed.
soup() {
    record "$2 $1 on the device, distances $3" "$(awk -v t="$1" -v m="$2" -v d="$3" \
        '$1 == t && $2 == m && $4 == d { print $8 " of its memory, " $11 " x the processor" }' \
        "$scratch/device")"
}
soup F32 4 off
soup F32 16 off
soup BF16 16 off
soup F32 128 on
soup F32 512 on

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

# quotient FORMAT A B: A / B.
quotient() {
    "$python" -c "print('$1' % (${2:-0} / (${3:-0} or float('nan'))))"
}

echo "== merges: seconds on the processor and on cuda:0, files in memory; bus is the share of it"
merges=0
format='%-5s %5s %12s %9s %8s %8s %6s %6s %6s\n'
# shellcheck disable=SC2059
printf "$format" type count bytes distances cpu cuda ratio bus equal
for dtype in F32 BF16 F64; do
    for count in 4 16; do
        for n in $sizes; do
            width=4
            [ "$dtype" = BF16 ] && width=2
            [ "$dtype" = F64 ] && width=8
            [ $((n * width * count)) -gt "${MOST_BYTES:-20000000000}" ] && continue
            make in "$dtype" "$count" "$n" || { merges=1; continue; }
            for distances in off on; do
                cpu=$(secs "$scratch"/in-*.st --distances "$distances") || merges=1
                digest=$(cksum <"$scratch/out.st")
                cuda=$(secs "$scratch"/in-*.st --distances "$distances" --device cuda) || merges=1
                equal=no
                [ "$digest" = "$(cksum <"$scratch/out.st")" ] && equal=yes || merges=1
                bytes=$((n * width * count))
                ratio=$(quotient %.2f "$cuda" "$cpu")
                # shellcheck disable=SC2059
                printf "$format" "$dtype" "$count" "$bytes" "$distances" "$cpu" "$cuda" "$ratio" \
                    "$(quotient %.3f "$bytes / 1e9 / $cuda" "$bus")" "$equal"
                if [ "$dtype" != F64 ] && [ "$distances" = on ]; then
                    record "merge of $count $dtype, $bytes bytes" \
                        "$cpu s here, $cuda s there, equal: $equal"
                fi
            done
            rm -f "$scratch"/in-*.st
        done
    done
done
verdict "merges, byte for byte" $merges

if [ -x "$directory/training/engines" ]; then
    bash "$directory/train_gpu.sh" "$directory/training"
    verdict "trainings" $?
else
    record trainings "left out: built without CUDA's toolkit"
fi

echo "== in short"
printf '%s\n' "${table[@]}"
exit $failed
