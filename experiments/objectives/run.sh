#!/usr/bin/env bash
# Usage: experiments/objectives/run.sh [FOLDER]     JOBS=2: two at a time
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/objectives} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shared=(experiment=microworld seed="${SEEDS:-11,12,13}" plan="$page/plan.yaml" launcher.jobs="${JOBS:-1}")
arm() {
  $python -m mmsafe.train -m name="$1" "${@:2}" "${shared[@]}" hydra.sweep.dir="$folder/$1"
}
for objective in dpo bpo mdpo bootstrapped_po dpo_sft cdpo robust_dpo hinge ipo simpo orpo sft; do
  arm $objective objective=$objective
done
$python -m mmsafe.report runs="$folder" against=dpo
$python "$page/../page.py" "$page" "$folder/report/results.csv" \
  --arms dpo bpo mdpo bootstrapped_po dpo_sft cdpo robust_dpo hinge ipo simpo orpo sft
