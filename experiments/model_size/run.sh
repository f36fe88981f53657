#!/usr/bin/env bash
# Usage: experiments/model_size/run.sh [FOLDER]     JOBS=2: two at a time
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/model_size} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shared=(experiment=microworld seed="${SEEDS:-11,12,13}" plan="$page/plan.yaml" launcher.jobs="${JOBS:-1}")
arm() {
  $python -m mmsafe.train -m name="$1" "${@:2}" "${shared[@]}" hydra.sweep.dir="$folder/$1"
}
for size in tiny small; do
  $python -m mmsafe.evaluate -m name=base-$size model=$size "${shared[@]}" hydra.sweep.dir="$folder/base-$size"
  arm $size-dpo model=$size objective=dpo
  arm $size-bpo model=$size objective=bpo
done
$python -m mmsafe.report runs="$folder" against=base-tiny
$python "$page/../page.py" "$page" "$folder/report/results.csv" \
  --arms base-tiny tiny-dpo tiny-bpo base-small small-dpo small-bpo
