#!/bin/bash
# The published protocol: half of the originals of each character to train on, half to test, characters with one image left out.
#   bash launch/recipes/half-protocol.sh kkanji.tar FONTS OUTPUT
# One run from scratch, a second one from its weights with its rare characters rendered anew, and an epoch without
# augmentation. About two hours and a half of training on 2 cores: ours took 88.6 minutes for the first run with float32, and
# 62.2 for the rest with PRECISION=bfloat16. This script evaluates the test half once, at the end: nothing is chosen by it.
# Run again with the same arguments after an interruption, and it goes on.
set -euo pipefail
archive=$1 fonts=$2 out=$3
source "$(dirname "$0")/steps.sh"

originals
rendered first --fonts "$fonts" --at-most 60 --per-class 12
rendered second --fonts "$fonts" --at-most 60 --per-class 12 --seed 1
shards half first --protocol half-2026
shards rerendered second --protocol half-2026
train half half half-1
train longer rerendered half-2 --init "$out/runs/half/checkpoints/best"
train unaugmented rerendered unaugmented --init "$out/runs/longer/checkpoints/best" --seed 2
evaluate unaugmented rerendered --split test
export_model unaugmented --output "$out/kuzushiji-kanji-half"
