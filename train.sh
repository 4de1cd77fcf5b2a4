#!/usr/bin/env bash
# Train a model. Edit the values below for the next experiment, or override them for one run:
#
#     MODEL=sscnet DEVICES=0,1 TRAIN_BATCH_SIZE=4 ./train.sh
#
# Further arguments are passed to train.py: ./train.sh --transform random_16x16
# To resume a run with its stored settings, except those set in the environment:
#
#     CHECKPOINT=results/trains/RUN/last.pth.tar ./train.sh
set -euo pipefail
cd "$(dirname "$0")"

case "${CHECKPOINT:-} $*" in
*last.pth.tar* | *best.pth.tar*) ;; # the run keeps its stored settings
*)
    DEVICES=${DEVICES:-0}                           # cpu, or GPUs: 0 or 0,2,5,7
    TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-2}         # total over all devices
    VAL_BATCH_SIZE=${VAL_BATCH_SIZE:-4}             # total over all devices
    NUM_WORKERS=${NUM_WORKERS:-4}                   # threads that load data, per device
    DATASET=${DATASET:-./datasets/hyspecnet-11k/}
    MODE=${MODE:-easy}                              # easy or hard
    MODEL=${MODEL:-cae1d}                           # see train.py --help
    EPOCHS=${EPOCHS:-500}
    LEARNING_RATE=${LEARNING_RATE:-1e-4}
    SAVE_DIR=${SAVE_DIR:-./results/trains/}
    SEED=${SEED:-10587}
    CLIP_MAX_NORM=${CLIP_MAX_NORM:-1.0}             # 0: no clipping
    LOSS=${LOSS:-mse}                               # mse, mae, sa or ssim
    LMBDA=${LMBDA:-}                                # weight of the distortion; empty: not trained for rate
    AUX_LEARNING_RATE=${AUX_LEARNING_RATE:-1e-3}    # of entropy models
    FREEZE=${FREEZE:-}                              # encoder: it keeps its weights
    TRANSFORM=${TRANSFORM:-none}                    # random_16x16, randomcrop_64x64, ...
    NUM_CHANNELS=${NUM_CHANNELS:-202}
    REPEATS=${REPEATS:-1}                           # draws of each patch per epoch
    EARLY_STOPPING=${EARLY_STOPPING:-}              # patience in epochs; empty: off
    SCHEDULER=${SCHEDULER:-none}                    # none, plateau or cosine
    PRECISION=${PRECISION:-fp32}                    # fp32, bf16 (fastest on GPUs), or fp16
    COMPILE=${COMPILE:-0}                           # 1: compile the network (fastest on GPUs)
    DETERMINISTIC=${DETERMINISTIC:-0}               # 1: bit-identical runs
    PREFETCH=${PREFETCH:-2}                         # batches that each thread loads ahead
    PIN_MEMORY=${PIN_MEMORY:-1}                     # 0: off
    ALLOW_OVERLAP=${ALLOW_OVERLAP:-0}               # 1: a patch may be in two of train, val and test
    ;;
esac

# A flag for each variable that is set and not empty.
flags=()
for name in DEVICES TRAIN_BATCH_SIZE VAL_BATCH_SIZE NUM_WORKERS DATASET MODE MODEL EPOCHS LEARNING_RATE SAVE_DIR \
    SEED CLIP_MAX_NORM LOSS LMBDA AUX_LEARNING_RATE FREEZE TRANSFORM NUM_CHANNELS REPEATS EARLY_STOPPING SCHEDULER PRECISION \
    PREFETCH CHECKPOINT; do
    if [[ -n "${!name:-}" ]]; then
        flag=${name,,}
        flags+=("--${flag//_/-}" "${!name}")
    fi
done
for name in COMPILE DETERMINISTIC PIN_MEMORY ALLOW_OVERLAP; do
    flag=${name,,}
    case "${!name:-}" in
    "") ;;
    0) flags+=("--no-${flag//_/-}") ;;
    *) flags+=("--${flag//_/-}") ;;
    esac
done

PYTHON=${PYTHON:-.venv/bin/python} # the one that `make` creates, if it exists
[[ -n "$(command -v "$PYTHON")" ]] || PYTHON=python3
exec "$PYTHON" train.py "${flags[@]}" "$@"
