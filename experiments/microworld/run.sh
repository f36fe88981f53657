#!/usr/bin/env bash
# Usage: experiments/microworld/run.sh [FOLDER]     JOBS=2: two at a time     SEEDS=1,2: other seeds
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/microworld} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shared=(experiment=microworld seed="${SEEDS:-1,2,3,4,5}")
arm() {
  $python -m mmsafe.train -m name="$1" "${@:2}" "${shared[@]}" hydra.sweep.dir="$folder/$1" launcher.jobs="${JOBS:-1}"
}
$python -m mmsafe.evaluate -m name=base "${shared[@]}" hydra.sweep.dir="$folder/base"
arm dpo objective=dpo
arm dpo-2x objective=dpo trainer.max_epochs=2
arm sighted objective=bpo generation.image_view=real
arm bpo objective=bpo
arm bpo-concat objective=bpo_concat
$python -m mmsafe.report runs="$folder" against=dpo
$python "$page/../page.py" "$page" "$folder/report/results.csv" \
  --arms base dpo dpo-2x sighted bpo bpo-concat --differences \
  'bpo - dpo' \
  'sighted - dpo' \
  'bpo - sighted' \
  'bpo - dpo-2x' \
  'bpo-concat - dpo-2x' \
  'bpo-concat - bpo'
