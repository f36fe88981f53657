#!/usr/bin/env bash
# Usage: experiments/blindness_elsewhere/run.sh [FOLDER]     JOBS=2: two at a time
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/blindness_elsewhere} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shared=(experiment=microworld seed="${SEEDS:-11,12,13,14,15}" plan="$page/plan.yaml" launcher.jobs="${JOBS:-1}")
arm() {
  $python -m mmsafe.train -m name="$1" "${@:2}" "${shared[@]}" hydra.sweep.dir="$folder/$1"
}
for world in "uniform model.pretraining.prior=uniform" "template data.holdout_by=template"; do
  read -r name words <<< "$world"
  arm "$name-blind" objective=bpo $words
  arm "$name-sighted" objective=bpo generation.image_view=real $words
  arm "$name-dpo" objective=dpo $words
  arm "$name-other-image" objective=bpo generation.image_view=other $words
done
$python -m mmsafe.report runs="$folder" against=uniform-blind
$python "$page/../page.py" "$page" "$folder/report/results.csv"
