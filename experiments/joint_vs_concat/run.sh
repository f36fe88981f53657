#!/usr/bin/env bash
# Usage: experiments/joint_vs_concat/run.sh [FOLDER]     JOBS=2: two at a time
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/joint_vs_concat} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shared=(experiment=microworld seed="${SEEDS:-11,12,13}" plan="$page/plan.yaml" launcher.jobs="${JOBS:-1}")
arm() {
  $python -m mmsafe.train -m name="$1" "${@:2}" "${shared[@]}" hydra.sweep.dir="$folder/$1"
}
for steps in 47 63 94; do
  arm joint-$steps objective=bpo trainer.max_steps=$steps
  arm concat-$steps objective=bpo_concat trainer.max_steps=$steps
done
$python -m mmsafe.report runs="$folder" against=joint-47
$python "$page/../page.py" "$page" "$folder/report/results.csv" \
  --arms joint-47 joint-63 joint-94 concat-47 concat-63 concat-94
