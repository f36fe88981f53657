#!/usr/bin/env bash
# Usage: experiments/beta/run.sh [FOLDER]     JOBS=2: two at a time     SEEDS=1,2: other seeds
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/beta} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
$python -m mmsafe.train sweep=beta experiment=microworld seed="${SEEDS:-1,2,3}" \
  hydra.sweep.dir="$folder" launcher.jobs="${JOBS:-1}"
$python -m mmsafe.report runs="$folder"
$python "$page/../page.py" "$page" "$folder/report/results.csv" --over objective.beta --differences \
  'bpo beta=0.01 - dpo beta=0.01' \
  'bpo beta=0.05 - dpo beta=0.05' \
  'bpo beta=0.1 - dpo beta=0.1' \
  'bpo beta=0.2 - dpo beta=0.2' \
  'bpo beta=0.5 - dpo beta=0.5' \
  'dpo beta=0.01 - dpo beta=0.1' \
  'dpo beta=0.5 - dpo beta=0.1' \
  'bpo beta=0.01 - bpo beta=0.1' \
  'bpo beta=0.5 - bpo beta=0.1'
