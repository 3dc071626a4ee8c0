#!/bin/bash
# How the models in models/ were made, from CODH's kkanji.tar and two folders of fonts: about 4.5 hours on 2 cores.
#   bash launch/recipes/kuzushiji-kanji.sh kkanji.tar FONTS MORE_FONTS OUTPUT
# Run again with the same arguments after an interruption, and it goes on. First a run with 80 % of the images, which
# the other 20 % evaluate; from its weights a second one on the same split, its rare characters rendered anew from more fonts,
# and an epoch without augmentation after it; a third one, shorter, its augmentation falling; and from its weights one
# with all images, for the model to use. Ours had PRECISION=bfloat16.
set -euo pipefail
archive=$1 fonts=$2 more_fonts=$3 out=$4
source "$(dirname "$0")/steps.sh"

originals
rendered first --fonts "$fonts" --at-most 30 --per-class 10
rendered second --fonts "$more_fonts" --at-most 30 --per-class 12 --seed 1
shards part first --val 0.2
shards rerendered second --val 0.2
shards whole second --val 0
train part part --epochs 16 --lr 3e-3 --warmup-epochs 0.2 --weight-decay 0.02 --ema-images 40000 --start-size 48 \
    --full-size-at 0.3 --augment 1.2 --augment-start 0.5 --unaugmented-epochs 1 --evaluate-every 2
evaluate part part --temperature
export_model part --output "$out/kuzushiji-kanji-first"
train longer rerendered --init "$out/kuzushiji-kanji-first" --epochs 14 --lr 2e-3 --warmup-epochs 0.3 --weight-decay 0.03 \
    --ema-images 60000 --augment 1.3 --augment-start 0.8 --unaugmented-epochs 1 --evaluate-every 2
train unaugmented rerendered --init "$out/runs/longer/checkpoints/best" --epochs 1 --lr 2e-4 --warmup-epochs 0.1 \
    --weight-decay 0.03 --ema-images 40000 --augment 0
evaluate unaugmented rerendered --temperature
train third rerendered --init "$out/runs/unaugmented/checkpoints/best" --seed 1 --epochs 6 --lr 1.5e-3 --warmup-epochs 0.2 \
    --weight-decay 0.03 --ema-images 50000 --augment 0.7 --augment-start 1.2 --unaugmented-epochs 2 --evaluate-every 2
evaluate third rerendered --temperature
export_model third --output "$out/kuzushiji-kanji-evaluated"
train whole whole --init "$out/kuzushiji-kanji-evaluated" --seed 1 --epochs 12 --lr 2e-3 --warmup-epochs 0.3 \
    --weight-decay 0.03 --ema-images 60000 --augment 0.7 --augment-start 1.2 --unaugmented-epochs 2
export_model whole --figures-of "$out/runs/third" --output "$out/kuzushiji-kanji"
