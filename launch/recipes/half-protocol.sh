#!/bin/bash
# The published protocol: half of the originals of each character to train on, half to test, characters with one image left out.
#   bash launch/recipes/half-protocol.sh kkanji.tar FONTS OUTPUT
# One training from scratch, a second one from its weights, its rare characters drawn anew, and an epoch without augmentation:
# about two hours and a half on 2 cores with PRECISION=bfloat16. The test half is read once, at the end: nothing is chosen by it.
# Run again with the same arguments after an interruption, and it goes on.
set -euo pipefail
archive=$1 fonts=$2 out=$3
source "$(dirname "$0")/steps.sh"

originals
rendered first --fonts "$fonts" --at-most 60 --per-class 12
rendered second --fonts "$fonts" --at-most 60 --per-class 12 --seed 1
shards half first --protocol half
shards redrawn second --protocol half
train half half --epochs 12 --lr 3e-3 --warmup-epochs 0.2 --weight-decay 0.02 --ema-images 40000 --start-size 48 \
    --full-size-at 0.3 --augment 1.2 --augment-start 0.5 --unaugmented-epochs 2
train longer redrawn --init "$out/runs/half/checkpoints/best" --seed 1 --epochs 18 --lr 2e-3 --warmup-epochs 0.3 \
    --weight-decay 0.03 --ema-images 60000 --augment 1.3 --augment-start 0.8 --unaugmented-epochs 2
train plain redrawn --init "$out/runs/longer/checkpoints/best" --seed 2 --epochs 1 --lr 2e-4 --warmup-epochs 0.1 \
    --weight-decay 0.03 --ema-images 40000 --augment 0
evaluate plain redrawn --split test
export_model plain --output "$out/kuzushiji-kanji-half"
