#!/bin/bash
# How the models in models/ were made, from CODH's kkanji.tar and two folders of fonts: about 6 hours on 2 cores.
#   bash launch/recipes/kuzushiji-kanji.sh kkanji.tar FONTS MORE_FONTS OUTPUT
# Run again with the same arguments after an interruption, and it goes on. First a run with 80 % of the images, which
# the other 20 % evaluate; from its weights a second one on the same split, its rare characters rendered anew from more fonts,
# and an epoch without augmentation after it; a third one, shorter, its augmentation falling; a fourth one with images that
# look like scans, averaged with what it began with. From the third one's weights, the model for use is trained with all
# images, in the same two steps. Ours had PRECISION=bfloat16.
set -euo pipefail
archive=$1 fonts=$2 more_fonts=$3 out=$4
source "$(dirname "$0")/steps.sh"

originals
rendered first --fonts "$fonts" --at-most 30 --per-class 10
rendered second --fonts "$more_fonts" --at-most 30 --per-class 12 --seed 1
shards part first --val 0.2
shards rerendered second --val 0.2
shards whole second --val 0
train part part kanji-1
evaluate part part --temperature
export_model part --output "$out/kuzushiji-kanji-first"
train longer rerendered kanji-2 --init "$out/kuzushiji-kanji-first"
train unaugmented rerendered unaugmented --init "$out/runs/longer/checkpoints/best"
evaluate unaugmented rerendered --temperature
train third rerendered kanji-4 --init "$out/runs/unaugmented/checkpoints/best"
evaluate third rerendered --temperature
export_model third --output "$out/kuzushiji-kanji-third"
train scans rerendered kanji-5 --init "$out/kuzushiji-kanji-third"
average scans "$out/kuzushiji-kanji-third"
weights=averaged evaluate scans rerendered --temperature
weights=averaged export_model scans --output "$out/kuzushiji-kanji-evaluated"
train whole whole kanji-whole --init "$out/kuzushiji-kanji-third"
export_model whole --output "$out/kuzushiji-kanji-whole"
train whole-scans whole kanji-5 --epochs 9 --init "$out/kuzushiji-kanji-whole"
average whole-scans "$out/kuzushiji-kanji-whole"
weights=averaged export_model whole-scans --figures-of "$out/runs/scans" --output "$out/kuzushiji-kanji"
