#!/bin/bash
# The shortest way past 95 %: one run from scratch on 80 % of the images, which the other 20 % evaluate.
#   bash launch/recipes/one-training.sh kkanji.tar FONTS OUTPUT
# 80 minutes of training on 2 cores (AMD Zen 5) with PRECISION=bfloat16. Run again with the same arguments after an
# interruption, and it goes on. Its set is that of kuzushiji-kanji.sh's second run: they can share an OUTPUT.
set -euo pipefail
archive=$1 fonts=$2 out=$3
source "$(dirname "$0")/steps.sh"

originals
rendered second --fonts "$fonts" --at-most 30 --per-class 12 --seed 1
shards rerendered second --val 0.2
train scratch rerendered one-training
evaluate scratch rerendered --temperature
export_model scratch --output "$out/kuzushiji-kanji-one-training"
