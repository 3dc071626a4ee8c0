#!/bin/bash
# How the models in models/ were made, from CODH's kkanji.tar and two folders of fonts: about 4 hours on 2 cores.
#   bash launch/recipes/kuzushiji-kanji.sh kkanji.tar FONTS MORE_FONTS OUTPUT
# Run again with the same arguments after an interruption, and it goes on. First a training with 80 % of the images, which
# the other 20 % evaluate; from its weights a second one on the same split, its rare characters drawn anew from more fonts,
# and an epoch without augmentation after it; then a short one with all images, for the model to use.
set -euo pipefail
archive=$1 fonts=$2 more_fonts=$3 out=$4
threads=${OMP_NUM_THREADS:-$(nproc)}
precision=${PRECISION:-float32} # ours had bfloat16: half as fast again on a processor that has it, much slower on others

originals() {
    [ -e "$out/originals" ] || python -m tools combine "$archive" --output "$out/originals" --name Kuzushiji-Kanji
}

drawn() { # NAME OPTIONS...: the originals, and for rare characters images drawn from fonts
    [ -e "$out/$1" ] || python -m tools render "$out/originals" --at-most 30 --output "$out/$1" "${@:2}"
}

shards() { # NAME DRAWN SHARE_FOR_VALIDATION
    [ -e "$out/$1-shards" ] && return
    python -m tools split "$out/$2" --val "$3" --overwrite
    python -m tools pack "$out/$2" --output "$out/$1-shards"
}

train() { # NAME SET OPTIONS...
    accelerate launch --config_file launch/configs/cpu.yaml --num_cpu_threads_per_process "$threads" launch/train.py \
        --output "$out/runs/$1" --data "$out/$2-shards" --model kkanji_efficientnet_fused_m --precision "$precision" \
        --optimizer muon --batch-size 384 --schedule cosine --order balanced --draws-per-class 32 --draw-exponent 0.6 \
        --label-smoothing 0.05 --mixup 0.2 --mixup-stages 2 --drop-path 0.1 \
        --log-every 40 --save-every 200 --resume "${@:3}"
}

evaluate() { # NAME SET
    python launch/evaluate.py --checkpoint "$out/runs/$1/checkpoints/best" --data "$out/$2-shards" --temperature
}

export_model() { # NAME OPTIONS...
    python launch/export.py --checkpoint "$out/runs/$1/checkpoints/best" --overwrite "${@:2}"
}

originals
drawn first --fonts "$fonts" --per-class 10
drawn second --fonts "$more_fonts" --per-class 12 --seed 1
shards part first 0.2
shards redrawn second 0.2
shards whole second 0
train part part --epochs 16 --lr 3e-3 --warmup-epochs 0.2 --weight-decay 0.02 --ema-images 40000 --start-size 48 \
    --full-size-at 0.3 --augment 1.2 --augment-start 0.5 --plain-epochs 1 --evaluate-every 2
evaluate part part
export_model part --output "$out/kuzushiji-kanji-first"
train longer redrawn --init "$out/kuzushiji-kanji-first" --epochs 14 --lr 2e-3 --warmup-epochs 0.3 --weight-decay 0.03 \
    --ema-images 60000 --augment 1.3 --augment-start 0.8 --plain-epochs 1 --evaluate-every 2
train plain redrawn --init "$out/runs/longer/checkpoints/best" --epochs 1 --lr 2e-4 --warmup-epochs 0.1 --weight-decay 0.03 \
    --ema-images 40000 --augment 0
evaluate plain redrawn
export_model plain --output "$out/kuzushiji-kanji-evaluated"
train whole whole --init "$out/runs/longer/checkpoints/best" --epochs 4 --lr 1.2e-3 --warmup-epochs 0.2 \
    --weight-decay 0.05 --ema-images 40000 --augment 1.3 --plain-epochs 2
export_model whole --figures-of "$out/runs/plain" --output "$out/kuzushiji-kanji"
