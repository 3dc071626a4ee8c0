#!/bin/bash
# The published protocol: half of the originals of each character to train on, half to test, characters with one image left out.
#   bash launch/recipes/half-protocol.sh kkanji.tar FONTS OUTPUT
# One training from scratch, about two hours on 2 cores; the test half is read once, at the end: nothing is chosen by it.
# Run again with the same arguments after an interruption, and it goes on.
set -euo pipefail
archive=$1 fonts=$2 out=$3
source "$(dirname "$0")/steps.sh"

originals
drawn half --fonts "$fonts" --at-most 60 --per-class 12
shards half half --protocol half
train half half --epochs 12 --lr 3e-3 --warmup-epochs 0.2 --weight-decay 0.02 --ema-images 40000 --start-size 48 \
    --full-size-at 0.3 --augment 1.2 --augment-start 0.5 --plain-epochs 2
evaluate half half --split test
export_model half --output "$out/kuzushiji-kanji-half"
