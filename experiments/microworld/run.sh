#!/usr/bin/env bash
# Usage: experiments/microworld/run.sh [FOLDER]     JOBS=2: two at a time     SEEDS="1 2": other seeds
# Finished runs are skipped and interrupted ones continue, so the same command can be given again.
set -euo pipefail
folder=${1:-outputs/experiments/microworld}
python=${PYTHON:-python}
declare -A arms=(
    [dpo]="objective=dpo"
    [dpo-2x]="objective=dpo trainer.max_epochs=2"
    [bpo]="objective=bpo"
    [bpo-concat]="objective=bpo objective.mode=concat"
    [sighted]="objective=bpo generation.image_view=real"
)
jobs() {
    for seed in ${SEEDS:-1 2 3 4 5}; do
        echo "evaluate name=base experiment=microworld seed=$seed hydra.run.dir=$folder/base-$seed"
        for arm in dpo dpo-2x bpo bpo-concat sighted; do
            echo "train name=$arm experiment=microworld seed=$seed ${arms[$arm]} hydra.run.dir=$folder/$arm-$seed"
        done
    done
}
jobs | xargs -P "${JOBS:-1}" -I{} bash -c "$python -m mmsafe.{} > /dev/null"
$python -m mmsafe.report "$folder" --out "$folder/report" --against dpo
