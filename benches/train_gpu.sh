#!/usr/bin/env bash
# Training on a GPU: the tests of the engines there, epochs beside those of the processor,
# and a cycle.
#
#     benches/train_gpu.sh DIRECTORY
#
# DIRECTORY holds `engines`, which is tests/engines.rs built with `--features cuda`, and
# `sms-merge`, built so too. CUDA's libraries are those of the Python packages nvidia-cublas,
# nvidia-curand, nvidia-cuda-runtime and nvidia-cuda-nvrtc of $PYTHON (python3), if it has them;
# otherwise they are found as on any machine. Needs no network and no Rust.
set -euo pipefail
directory="$(cd "${1:?usage: benches/train_gpu.sh DIRECTORY}" && pwd)"
python="${PYTHON:-python3}"

libraries="$("$python" - <<'PY'
import glob, site, sysconfig
roots = {sysconfig.get_path("purelib"), *site.getsitepackages()}
found = [path for root in sorted(roots) for path in sorted(glob.glob(f"{root}/nvidia/*/lib"))]
print(":".join(found))
PY
)"
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

echo "== libraries"
ldd "$directory/sms-merge" | grep -E 'cu(da|blas|rand|dart)|nvrtc' || true
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true

failed=0
echo "== tests of the engines"
# Twice: the driver translates kernels the first time, and keeps them.
for _ in first second; do
    SMS_MERGE_REQUIRE_CUDA=1 timeout 150 "$directory/engines" the_candle_engine_on_a_gpu || failed=1
done

# train NAME DEVICE EPOCHS ARGUMENTS...: one line about a training.
train() {
    local name="$1" device="$2" epochs="$3"
    shift 3
    if ! timeout 60 "$directory/sms-merge" train -o "$scratch/$name-$device.st" --force --no-sync \
        --device "$device" --epochs "$epochs" --json \
        --metrics "$scratch/metrics" "$@" >"$scratch/out" 2>"$scratch/err"; then
        echo "$name on $device failed"
        cat "$scratch/out" "$scratch/err"
        return 1
    fi
    "$python" - "$scratch" "$name" "$device" <<'PY'
import json, sys
scratch, name, device = sys.argv[1:]
run = json.load(open(f"{scratch}/out"))
lines = [json.loads(line) for line in open(f"{scratch}/metrics")]
# The first epoch loads kernels.
rates = [line["images_per_sec"] for line in lines if line["kind"] == "epoch"][1:]
test, images = run["test"], run["steps_per_epoch"] * run["recipe"]["batch_size"]
print(f"{name:10} {device:5} {run['engine']:12} {test['accuracy']:9.4f} {test['loss']:9.4f} "
      f"{1000 * images / max(rates):13.1f} {run['elapsed_secs']:9.2f}")
PY
}

echo "== trainings on the digits"
echo "network    where engine        accuracy      loss  ms per epoch  all secs"
for device in cpu cuda; do
    train mlp "$device" 20 --model mlp || failed=1
    train wide-mlp "$device" 3 --model mlp --model-option hidden=2048,2048 || failed=1
    train convnet "$device" 5 --model convnet || failed=1
    train resnet8 "$device" 5 --model resnet8 || failed=1
done

echo "== the same training twice on the GPU"
cp "$scratch/resnet8-cuda.st" "$scratch/first.st"
train resnet8 cuda 5 --model resnet8 || failed=1
cmp "$scratch/first.st" "$scratch/resnet8-cuda.st" && echo "the same bytes" || failed=1

echo "== evaluation of one checkpoint in both places"
for device in cpu cuda; do
    "$directory/sms-merge" eval "$scratch/resnet8-cuda.st" --device "$device" --json |
        "$python" -c 'import json, sys; e = json.load(sys.stdin)["models"][0]["evaluation"]; print(e["accuracy"], e["loss"])' ||
        failed=1
done
echo "== a cycle on the GPU, twice: its report, and the bytes of its soup"
for run in one two; do
    timeout 120 "$directory/sms-merge" cycle --run-dir "$scratch/$run" --device cuda --jobs 2 \
        --set 'seeds=[0]' --set pruning.phases=2 --set ingredients.count=3 >"$scratch/out" 2>&1 ||
        failed=1
    [ "$run" = one ] && cat "$scratch/out"
done
cmp "$scratch/one/soup.safetensors" "$scratch/two/soup.safetensors" && echo "the same bytes" ||
    failed=1
exit "$failed"
