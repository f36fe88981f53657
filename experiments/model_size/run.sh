#!/usr/bin/env bash
# Usage: experiments/model_size/run.sh [FOLDER]     JOBS=2: two at a time     SEEDS=1,2: other seeds
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/model_size} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
for size in tiny small; do
  $python -m mmsafe.evaluate -m name=base-$size model=$size experiment=microworld seed="${SEEDS:-1,2,3}" \
    hydra.sweep.dir="$folder/base-$size"
done
$python -m mmsafe.train sweep=model_size objective=dpo,bpo experiment=microworld seed="${SEEDS:-1,2,3}" \
  hydra.sweep.dir="$folder" launcher.jobs="${JOBS:-1}"
$python -m mmsafe.report runs="$folder"
$python "$page/../page.py" "$page" "$folder/report/results.csv" --differences \
  'tiny dpo - base-tiny' \
  'tiny bpo - tiny dpo' \
  'small dpo - base-small' \
  'small bpo - small dpo' \
  'base-small - base-tiny' \
  'small dpo - tiny dpo' \
  'small bpo - tiny bpo'
