#!/bin/bash
# The indexes of neighbours of the models in this folder, made anew after their weights have changed: about 10 minutes on
# 2 quiet cores. WORK gets copies of the models with their indexes; move them here to keep them.
#   bash models/neighbours.sh ORIGINALS WORK      ORIGINALS: of CODH's kkanji.tar, by `kkanji combine`
set -euo pipefail
originals=$1 work=$2 models=$(dirname "$0")
mkdir -p "$work"
for val in 0.2 0; do # settings are chosen on the split of the evaluated model; the model for use was trained on everything
    [ -e "$work/shards-$val" ] && continue
    rm -rf "$work/split-$val" && cp -r "$originals" "$work/split-$val"
    kkanji split "$work/split-$val" --val "$val" --overwrite
    kkanji pack "$work/split-$val" --output "$work/shards-$val"
done
kkanji neighbours --checkpoint "$models/kuzushiji-kanji-evaluated" --data "$work/shards-0.2" \
    --output "$work/kuzushiji-kanji-evaluated" --overwrite
kkanji neighbours --checkpoint "$models/kuzushiji-kanji" --data "$work/shards-0" \
    --settings-of "$work/kuzushiji-kanji-evaluated" --output "$work/kuzushiji-kanji" --overwrite
