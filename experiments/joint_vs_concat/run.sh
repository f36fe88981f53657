#!/usr/bin/env bash
# Usage: experiments/joint_vs_concat/run.sh [FOLDER]     JOBS=2: two at a time     SEEDS=1,2: other seeds
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/joint_vs_concat} python=${PYTHON:-python} page=$(dirname "$0")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
$python -m mmsafe.train sweep=joint_vs_concat experiment=microworld seed="${SEEDS:-1,2,3}" \
  hydra.sweep.dir="$folder" launcher.jobs="${JOBS:-1}"
$python -m mmsafe.report runs="$folder"
$python "$page/../page.py" "$page" "$folder/report/results.csv" --over trainer.max_steps --differences \
  'bpo_concat max_steps=47 - bpo max_steps=47' \
  'bpo_concat max_steps=63 - bpo max_steps=63' \
  'bpo_concat max_steps=94 - bpo max_steps=94' \
  'bpo_concat max_steps=94 - bpo max_steps=47' \
  'bpo_concat max_steps=94 - bpo max_steps=63' \
  'bpo max_steps=94 - bpo max_steps=47'
