#!/usr/bin/env bash
# Usage: experiments/learning_rate/run.sh [FOLDER]     JOBS=2: two at a time
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/learning_rate} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
shared=(experiment=microworld seed="${SEEDS:-100,101}" plan="$page/plan.yaml" launcher.jobs="${JOBS:-1}")
$python -m mmsafe.evaluate -m name=base "${shared[@]}" hydra.sweep.dir="$folder/base"
for rate in 1e-4 2e-4 4e-4; do
  for arm in "dpo objective=dpo" "blind objective=bpo"; do
    read -r name words <<< "$arm"
    $python -m mmsafe.train -m name="$name-$rate" $words optimizer.lr=$rate "${shared[@]}" hydra.sweep.dir="$folder/$name-$rate"
  done
done
$python -m mmsafe.report runs="$folder" against=dpo-1e-4
$python "$page/../page.py" "$page" "$folder/report/results.csv" \
  --arms base dpo-1e-4 dpo-2e-4 dpo-4e-4 blind-1e-4 blind-2e-4 blind-4e-4
