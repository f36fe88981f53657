#!/usr/bin/env bash
# Usage: experiments/datasets/run.sh [FOLDER]     JOBS=2: two at a time
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/datasets} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shared=(experiment=microworld seed="${SEEDS:-11,12,13}" plan="$page/plan.yaml" launcher.jobs="${JOBS:-1}")
arm() {
  $python -m mmsafe.train -m name="$1" "${@:2}" "${shared[@]}" hydra.sweep.dir="$folder/$1"
}
for cue in 0.5 0.7 1.0; do
  arm dpo-$cue objective=dpo data.cue_correlation=$cue
  arm bpo-$cue objective=bpo data.cue_correlation=$cue
done
$python -m mmsafe.report runs="$folder" against=dpo-0.7
$python "$page/../page.py" "$page" "$folder/report/results.csv" \
  --arms dpo-0.5 dpo-0.7 dpo-1.0 bpo-0.5 bpo-0.7 bpo-1.0
