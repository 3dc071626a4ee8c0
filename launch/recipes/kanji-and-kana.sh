#!/bin/bash
# Kanji and kana together: the 3,832 characters of Kuzushiji-Kanji and the 49 hiragana of Kuzushiji-49, 3,881 in all.
#   bash launch/recipes/kanji-and-kana.sh kkanji.tar K49 MORE_FONTS OUTPUT
# K49 is the folder that `kkanji fetch k49` makes. Its official test images stay a test set: they are evaluated at the end.
# Nobody has run this to the end: of Kuzushiji-49's images only 100 were at hand. If the folder lacks them it says so at once.
# Run again with the same arguments after an interruption, and it goes on.
set -euo pipefail
archive=$1 kana=$2 more_fonts=$3 out=$4
source "$(dirname "$0")/steps.sh"

originals "$kana"
rendered first --fonts "$more_fonts" --at-most 30 --per-class 10
shards part first --val 0.2
train part part kanji-and-kana
evaluate part part --temperature
evaluate part part --split test --output "$out/runs/part/test"
export_model part --output "$out/kanji-and-kana"
