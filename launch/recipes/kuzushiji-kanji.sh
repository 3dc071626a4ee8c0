#!/bin/bash
# How models/kuzushiji-kanji was made, from CODH's kkanji.tar and two folders of fonts: about 5 hours on 2 shared cores.
#   bash launch/recipes/kuzushiji-kanji.sh kkanji.tar BRUSH_FONTS ALL_FONTS OUTPUT
# Run again with the same arguments after an interruption, and it goes on. First 80 % of the images in four stages, whose
# last is evaluated; then a short one more, on all images, for the model to keep.
set -euo pipefail
archive=$1 brush_fonts=$2 all_fonts=$3 out=$4
threads=${OMP_NUM_THREADS:-$(nproc)}
precision=${PRECISION:-float32} # ours had bfloat16: half as fast again on a processor that has it, much slower on others

originals() { # NAME SHARE_FOR_VALIDATION
    [ -e "$out/$1/originals-shards" ] && return
    python -m tools combine "$archive" --output "$out/$1/originals" --name Kuzushiji-Kanji --overwrite
    shards "$1/originals" "$2"
}

drawn() { # NAME SHARE_FOR_VALIDATION KIND FONTS AT_MOST PER_CLASS: with images drawn of rare characters
    [ -e "$out/$1/$3-shards" ] && return
    python -m tools render "$out/$1/originals" --fonts "$4" --at-most "$5" --per-class "$6" --output "$out/$1/$3" --overwrite
    shards "$1/$3" "$2"
}

shards() { # FOLDER SHARE_FOR_VALIDATION
    python -m tools split "$out/$1" --val "$2"
    python -m tools pack "$out/$1" --output "$out/$1-shards" --overwrite
}

train() { # NAME SHARDS OPTIONS...
    accelerate launch --config_file launch/configs/cpu.yaml --num_cpu_threads_per_process "$threads" launch/train.py \
        --output "$out/runs/$1" --data "$out/$2" --model kkanji_efficientnet_fused_s --optimizer muon --batch-size 512 \
        --precision "$precision" --schedule cosine --order balanced --draws-per-class 24 --label-smoothing 0.05 \
        --ema-images 60000 --plain-epochs 1 --log-every 20 --save-every 60 --resume "${@:3}"
}

originals part 0.2
drawn part 0.2 brush "$brush_fonts" 10 5
drawn part 0.2 fonts "$all_fonts" 30 10
originals whole 0
drawn whole 0 fonts "$all_fonts" 30 10
firm=(--augment 1.4 --mixup 0.2 --mixup-stages 2 --drop-path 0.1 --weight-decay 0.05)
short=("${firm[@]}" --epochs 4 --lr 1.2e-3 --warmup-epochs 0.2 --draw-exponent 0.6 --evaluate-every 2)

train grown part/originals-shards --epochs 18 --lr 3e-3 --weight-decay 0.02 --warmup-epochs 0.5 --draw-exponent 0.5 \
    --start-size 32 --full-size-at 0.5 --augment 0.8 --augment-start 0.4 --evaluate-every 3
train firm part/originals-shards --init "$out/runs/grown/checkpoints/best" "${firm[@]}" --epochs 10 --lr 2e-3 \
    --warmup-epochs 0.3 --draw-exponent 0.5 --evaluate-every 2
train brush part/brush-shards --init "$out/runs/firm/checkpoints/best" "${short[@]}"
train part part/fonts-shards --init "$out/runs/brush/checkpoints/best" "${firm[@]}" --epochs 14 --lr 2e-3 \
    --warmup-epochs 0.3 --draw-exponent 0.6 --evaluate-every 7
python launch/evaluate.py --checkpoint "$out/runs/part/checkpoints/best" --data "$out/part/fonts-shards" --temperature

train whole whole/fonts-shards --init "$out/runs/part/checkpoints/best" "${short[@]}"
python launch/export.py --checkpoint "$out/runs/whole/checkpoints/best" --figures-of "$out/runs/part" \
    --output "$out/kuzushiji-kanji" --overwrite
