#!/usr/bin/env bash
# Usage: experiments/blindness/run.sh [FOLDER]     JOBS=2: two at a time
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/blindness} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shared=(experiment=microworld seed="${SEEDS:-11,12,13,14,15,16,17,18,19,20}" plan="$page/plan.yaml" launcher.jobs="${JOBS:-1}")
arm() {
  $python -m mmsafe.train -m name="$1" "${@:2}" "${shared[@]}" hydra.sweep.dir="$folder/$1"
}
matched=(objective=bpo generation.tries=64)
$python -m mmsafe.evaluate -m name=base "${shared[@]}" hydra.sweep.dir="$folder/base"
arm blind objective=bpo
arm sighted objective=bpo generation.image_view=real
arm dpo objective=dpo
arm blind-as-sighted "${matched[@]}" generation.match=as_real
arm sighted-same-rows "${matched[@]}" generation.match=as_real 'generation.match_also=[none]' generation.image_view=real
arm sighted-as-blind "${matched[@]}" generation.match=as_none generation.image_view=real
arm blind-same-rows "${matched[@]}" generation.match=as_none 'generation.match_also=[real]'
arm other-image objective=bpo generation.image_view=other
arm dpo-1.5x objective=dpo trainer.max_epochs=2 trainer.max_steps=71
arm other-prompt objective=bpo generation.prompt=other
$python -m mmsafe.report runs="$folder" against=blind
$python "$page/../page.py" "$page" "$folder/report/results.csv" \
  --arms base dpo dpo-1.5x sighted other-image other-prompt blind \
  blind-as-sighted sighted-same-rows sighted-as-blind blind-same-rows
