# Steps that the recipes share, sourced by them. Each folder is made once: run again, a recipe goes on where it was.
# They expect: archive (CODH's kkanji.tar) and out (the folder for everything).
threads=${OMP_NUM_THREADS:-$(nproc)}
precision=${PRECISION:-float32} # bfloat16: half as fast again on a processor that has it, much slower on others

originals() { # SOURCES...: what is combined with the archive
    [ -e "$out/originals" ] || kkanji combine "$archive" "$@" --output "$out/originals"
}

rendered() { # NAME OPTIONS...: the originals, and for rare characters images rendered from fonts
    [ -e "$out/$1" ] || kkanji render "$out/originals" --output "$out/$1" "${@:2}"
}

shards() { # NAME RENDERED OPTIONS...: options that say how the originals are divided
    [ -e "$out/$1-shards" ] && return
    kkanji split "$out/$2" --overwrite "${@:3}"
    kkanji pack "$out/$2" --output "$out/$1-shards"
}

train() { # NAME SET RECIPE OPTIONS...: RECIPE.yaml of this folder
    accelerate launch --config_file launch/configs/cpu.yaml --num_cpu_threads_per_process "$threads" launch/train.py \
        --config launch/recipes/fused-m.yaml "launch/recipes/$3.yaml" --output "$out/runs/$1" --data "$out/$2-shards" \
        --precision "$precision" --resume "${@:4}"
}

average() { # NAME MODEL: the mean of a run's weights and of those that it began with
    [ -e "$out/runs/$1/checkpoints/averaged" ] ||
        kkanji average --checkpoints "$out/runs/$1/checkpoints/best" "$2" --output "$out/runs/$1/checkpoints/averaged"
}

evaluate() { # NAME SET OPTIONS...; weights=averaged: the mean
    kkanji evaluate --checkpoint "$out/runs/$1/checkpoints/${weights:-best}" --data "$out/$2-shards" "${@:3}"
}

export_model() { # NAME OPTIONS...; weights=averaged: the mean
    kkanji export --checkpoint "$out/runs/$1/checkpoints/${weights:-best}" --overwrite "${@:2}"
}
