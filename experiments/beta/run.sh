#!/usr/bin/env bash
# Usage: experiments/beta/run.sh [FOLDER]     JOBS=2: two at a time
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/beta} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shared=(experiment=microworld seed="${SEEDS:-11,12,13}" plan="$page/plan.yaml" launcher.jobs="${JOBS:-1}")
arm() {
  $python -m mmsafe.train -m name="$1" "${@:2}" "${shared[@]}" hydra.sweep.dir="$folder/$1"
}
for beta in 0.01 0.05 0.1 0.2 0.5; do
  arm dpo-$beta objective=dpo objective.beta=$beta
  arm bpo-$beta objective=bpo objective.beta=$beta
done
$python -m mmsafe.report runs="$folder" against=dpo-0.1
$python "$page/../page.py" "$page" "$folder/report/results.csv" \
  --arms dpo-0.01 dpo-0.05 dpo-0.1 dpo-0.2 dpo-0.5 bpo-0.01 bpo-0.05 bpo-0.1 bpo-0.2 bpo-0.5 --differences \
  'dpo-0.01 - dpo-0.2' \
  'bpo-0.01 - bpo-0.2'
