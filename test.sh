#!/usr/bin/env bash
# Test a checkpoint. Edit the values below, or override them for one run:
#
#     MODEL=sscnet ./test.sh
#     CHECKPOINT=results/trains/RUN/best.pth.tar DEVICE=cpu ./test.sh
#
# To download published weights: python -m models.zoo sscnet. Further arguments are passed to test.py.
set -euo pipefail
cd "$(dirname "$0")"

DEVICE=${DEVICE:-0}                                                 # cpu or 0
BATCH_SIZE=${BATCH_SIZE:-64}
NUM_WORKERS=${NUM_WORKERS:-0}
DATASET=${DATASET:-./datasets/hyspecnet-11k/}
MODE=${MODE:-easy}                                                  # easy or hard
SPLIT=${SPLIT:-test}
MODEL=${MODEL:-cae1d}                                               # see test.py --help
CHECKPOINT=${CHECKPOINT:-}                                          # empty: the model's published weights
HALF=${HALF:-}                                                      # 1: run the model in fp16, weights too
PRECISION=${PRECISION:-fp32}                                        # fp32, bf16, or fp16 for GPUs; autocast
SAVE_DIR=${SAVE_DIR:-./results/tests/}
SEED=${SEED:-10587}
NUM_CHANNELS=${NUM_CHANNELS:-202}
ALLOW_OVERLAP=${ALLOW_OVERLAP:-}                                    # 1: patches may be in train, too

if [[ -z "$CHECKPOINT" ]]; then
    # Some models differ in name from their file, the third column of the table.
    file=$(awk -F, -v model="$MODEL" '$1 == model && $3 { print $3 }' models/published.csv)
    CHECKPOINT=./results/weights/${file:-$MODEL.pth.tar}
fi

PYTHON=${PYTHON:-.venv/bin/python} # the one that `make` creates, if it exists
[[ -n "$(command -v "$PYTHON")" ]] || PYTHON=python3
exec "$PYTHON" test.py \
    --device "$DEVICE" \
    --batch-size "$BATCH_SIZE" \
    --num-workers "$NUM_WORKERS" \
    --dataset "$DATASET" \
    --mode "$MODE" \
    --split "$SPLIT" \
    --model "$MODEL" \
    --checkpoint "$CHECKPOINT" \
    ${HALF:+--half} \
    --precision "$PRECISION" \
    --save-dir "$SAVE_DIR" \
    --seed "$SEED" \
    --num-channels "$NUM_CHANNELS" \
    ${ALLOW_OVERLAP:+--allow-overlap} \
    "$@"
