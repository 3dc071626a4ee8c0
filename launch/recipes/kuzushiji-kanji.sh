#!/bin/bash
# How the models in models/ were made, from CODH's kkanji.tar and a folder of fonts: about 2 hours on 2 cores.
#   bash launch/recipes/kuzushiji-kanji.sh kkanji.tar FONTS OUTPUT
# Run again with the same arguments after an interruption, and it goes on. First a training with 80 % of the images, which
# the other 20 % evaluate; then a short one from its weights with all images, for the model to use.
set -euo pipefail
archive=$1 fonts=$2 out=$3
threads=${OMP_NUM_THREADS:-$(nproc)}
precision=${PRECISION:-float32} # ours had bfloat16: half as fast again on a processor that has it, much slower on others

shards() { # NAME SHARE_FOR_VALIDATION: the originals, and for rare characters images drawn from the fonts
    [ -e "$out/$1-shards" ] && return
    python -m tools combine "$archive" --output "$out/$1-originals" --name Kuzushiji-Kanji --overwrite
    python -m tools split "$out/$1-originals" --val "$2"
    python -m tools render "$out/$1-originals" --fonts "$fonts" --at-most 30 --per-class 10 --output "$out/$1" --overwrite
    python -m tools split "$out/$1" --val "$2"
    python -m tools pack "$out/$1" --output "$out/$1-shards" --overwrite
}

train() { # NAME OPTIONS...
    accelerate launch --config_file launch/configs/cpu.yaml --num_cpu_threads_per_process "$threads" launch/train.py \
        --output "$out/runs/$1" --data "$out/$1-shards" --model kkanji_efficientnet_fused_m --precision "$precision" \
        --optimizer muon --batch-size 384 --schedule cosine --warmup-epochs 0.2 --order balanced --draws-per-class 32 \
        --draw-exponent 0.6 --label-smoothing 0.05 --mixup 0.2 --mixup-stages 2 --drop-path 0.1 --plain-epochs 1 \
        --log-every 40 --save-every 200 --resume "${@:2}"
}

export_model() { # NAME OPTIONS...
    python launch/export.py --checkpoint "$out/runs/$1/checkpoints/best" --overwrite "${@:2}"
}

shards part 0.2
shards whole 0
train part --epochs 16 --lr 3e-3 --weight-decay 0.02 --ema-images 40000 --start-size 48 --full-size-at 0.3 --augment 1.2 \
    --augment-start 0.5 --evaluate-every 2
python launch/evaluate.py --checkpoint "$out/runs/part/checkpoints/best" --data "$out/part-shards" --temperature
export_model part --output "$out/kuzushiji-kanji-evaluated"
train whole --init "$out/runs/part/checkpoints/best" --epochs 4 --lr 1.2e-3 --weight-decay 0.05 --ema-images 60000 \
    --augment 1.4
export_model whole --figures-of "$out/runs/part" --output "$out/kuzushiji-kanji"
