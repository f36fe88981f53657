#!/usr/bin/env bash
# Usage: experiments/rounds/run.sh [FOLDER]     JOBS=2: two at a time
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/rounds} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shared=(experiment=microworld seed="${SEEDS:-21,22,23,24,25,26,27,28,29,30}" plan="$page/plan.yaml" launcher.jobs="${JOBS:-1}")
arm() {
  $python -m mmsafe.train -m name="$1" objective=bpo "${@:2}" "${shared[@]}" hydra.sweep.dir="$folder/$1"
}
arm bpo-3-epochs trainer.max_epochs=3
arm rounds-3 rounds=3
arm rounds-3-moved rounds=3 reference.moves=true
$python -m mmsafe.report runs="$folder" against=bpo-3-epochs
$python "$page/../page.py" "$page" "$folder/report/results.csv" --arms bpo-3-epochs rounds-3 rounds-3-moved \
  --differences 'rounds-3-moved - rounds-3' 'rounds-3 - rounds-3 round 1'
