#!/bin/bash
# How models/kuzushiji-kanji was made, from CODH's kkanji.tar and a folder of brush fonts: about 3.5 hours on 2 shared cores.
#   bash launch/recipes/kuzushiji-kanji.sh kkanji.tar FONTS OUTPUT
# Run again with the same arguments after an interruption, and it goes on. First 80 % of the images in three stages, whose
# last is evaluated; then the last stage again, on all images, for the model to keep.
set -euo pipefail
archive=$1 fonts=$2 out=$3
threads=${OMP_NUM_THREADS:-$(nproc)}

sets() { # NAME SHARE_FOR_VALIDATION: originals and shards, with and without images drawn of rare characters
    [ -e "$out/$1/drawn-shards" ] && return
    python -m tools combine "$archive" --output "$out/$1/originals" --name Kuzushiji-Kanji --overwrite
    python -m tools render "$out/$1/originals" --fonts "$fonts" --at-most 10 --per-class 5 --output "$out/$1/drawn" --overwrite
    for kind in originals drawn; do
        python -m tools split "$out/$1/$kind" --val "$2"
        python -m tools pack "$out/$1/$kind" --output "$out/$1/$kind-shards" --overwrite
    done
}

train() { # NAME SHARDS OPTIONS...
    accelerate launch --config_file launch/configs/cpu.yaml --num_cpu_threads_per_process "$threads" launch/train.py \
        --output "$out/runs/$1" --data "$out/$2" --model kkanji_efficientnet_fused_s --optimizer muon --batch-size 512 \
        --precision bfloat16 --schedule cosine --order balanced --draws-per-class 24 --label-smoothing 0.05 \
        --ema-images 60000 --plain-epochs 1 --log-every 20 --save-every 60 --resume "${@:3}"
}

sets part 0.2
sets whole 0
firm=(--augment 1.4 --mixup 0.2 --mixup-stages 2 --drop-path 0.1 --weight-decay 0.05)
last=("${firm[@]}" --epochs 4 --lr 1.2e-3 --warmup-epochs 0.2 --draw-exponent 0.6 --evaluate-every 2)

train grown part/originals-shards --epochs 18 --lr 3e-3 --weight-decay 0.02 --warmup-epochs 0.5 --draw-exponent 0.5 \
    --start-size 32 --full-size-at 0.5 --augment 0.8 --augment-start 0.4 --evaluate-every 3
train firm part/originals-shards --init "$out/runs/grown/checkpoints/best" "${firm[@]}" --epochs 10 --lr 2e-3 \
    --warmup-epochs 0.3 --draw-exponent 0.5 --evaluate-every 2
train part part/drawn-shards --init "$out/runs/firm/checkpoints/best" "${last[@]}"
python launch/evaluate.py --checkpoint "$out/runs/part/checkpoints/best" --data "$out/part/drawn-shards" --temperature

train whole whole/drawn-shards --init "$out/runs/part/checkpoints/best" "${last[@]}"
python launch/export.py --checkpoint "$out/runs/whole/checkpoints/best" --figures-of "$out/runs/part" \
    --output "$out/kuzushiji-kanji" --overwrite
