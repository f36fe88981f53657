#!/usr/bin/env bash
# Usage: experiments/objectives/run.sh [FOLDER]     JOBS=2: two at a time     SEEDS=1,2: other seeds
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/objectives} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
$python -m mmsafe.train sweep=objectives objective=dpo,bpo,mdpo,bootstrapped_po,dpo_sft,cdpo,robust_dpo,hinge,ipo,simpo,orpo,sft \
  experiment=microworld seed="${SEEDS:-1,2,3}" hydra.sweep.dir="$folder" launcher.jobs="${JOBS:-1}"
$python -m mmsafe.report runs="$folder" against=objective=dpo
$python "$page/../page.py" "$page" "$folder/report/results.csv" --arms dpo bpo mdpo --differences \
  'bpo - dpo' \
  'mdpo - dpo' \
  'bootstrapped_po - dpo' \
  'dpo_sft - dpo' \
  'cdpo - dpo' \
  'robust_dpo - dpo' \
  'hinge - dpo' \
  'ipo - dpo' \
  'simpo - dpo' \
  'orpo - dpo' \
  'sft - dpo'
