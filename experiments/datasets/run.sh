#!/usr/bin/env bash
# Usage: experiments/datasets/run.sh [FOLDER]     JOBS=2: two at a time     SEEDS=1,2: other seeds
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/datasets} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
$python -m mmsafe.train sweep=datasets data.cue_correlation=0.5,0.7,1.0 experiment=microworld seed="${SEEDS:-1,2,3}" \
  hydra.sweep.dir="$folder" launcher.jobs="${JOBS:-1}"
$python -m mmsafe.report runs="$folder"
$python "$page/../page.py" "$page" "$folder/report/results.csv" --over data.cue_correlation --differences \
  'cue_correlation=0.5 bpo - cue_correlation=0.5 dpo' \
  'cue_correlation=0.7 bpo - cue_correlation=0.7 dpo' \
  'cue_correlation=1.0 bpo - cue_correlation=1.0 dpo' \
  'cue_correlation=1.0 dpo - cue_correlation=0.5 dpo' \
  'cue_correlation=1.0 bpo - cue_correlation=0.5 bpo'
