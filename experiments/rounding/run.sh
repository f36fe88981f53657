#!/usr/bin/env bash
# Usage: experiments/rounding/run.sh [FOLDER]     JOBS=2: two at a time     SEEDS=1,2: other seeds
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/rounding} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
base=$(realpath -m "$folder/base")
[ -e "$base" ] || $python -c "
import sys; from mmsafe.microworld.tiny import TinyModel
TinyModel().load().save(sys.argv[1])" "$base"
arm() {
  $python -m mmsafe.train -m name="$1" "${@:2}" model=hf model.path="$base" optimizer.lr=1e-4 data.size=600 data.batch_size=4 \
    evaluate=false seed="${SEEDS:-1,2,3,4,5}" data.seed='${seed}' hydra.sweep.dir="$folder/$1" launcher.jobs="${JOBS:-1}"
}
arm fp32
arm bf16-nearest model.dtype=bfloat16
arm bf16-stochastic model.dtype=bfloat16 optimizer.rounding=stochastic
arm bf16-stochastic-8bit model.dtype=bfloat16 optimizer.rounding=stochastic optimizer=adamw_8bit
$python -m mmsafe.report runs="$folder" against=fp32
$python "$page/curves.py" "$folder"
