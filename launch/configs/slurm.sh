#!/bin/bash
# Batch 50,000 on one or several nodes of eight H100; the reasons for each option are in docs/large-batch.md.
#
#   sbatch --nodes 1 launch/configs/slurm.sh DATA RUN [more options of launch/train.py, which override the ones here]
#
# DATA and RUN are on storage that all nodes see, or DATA is a URL. Submit it several times with --dependency=singleton
# where the time limit is short: each job goes on from the last checkpoint of the one before.
#SBATCH --job-name=kkanji
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=112
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@180
#SBATCH --output=%x-%j.log
set -euo pipefail

data=${1:?expected a shard set}
run=${2:?expected a folder for the run}
shift 2

read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # no pipe: its writer may end by SIGPIPE
port=$((20000 + SLURM_JOB_ID % 20000))
# A cache that each node has to itself, and all its ranks share.
export KKANJI_CACHE=${KKANJI_CACHE:-${SLURM_TMPDIR:-/tmp}/kkanji}

launcher=(
    --config_file launch/configs/8xh100.yaml
    --num_machines "$SLURM_JOB_NUM_NODES"
    --num_processes $((8 * SLURM_JOB_NUM_NODES))
    --main_process_ip "$head"
    --main_process_port "$port"
    --num_cpu_threads_per_process 14
)
options=(
    --config launch/recipes/batch-50000.yaml --data "$data" --output "$run" --resume
)

# SLURM_NODEID differs from node to node, so it is looked up there.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' kkanji \
    "${launcher[@]}" launch/train.py "${options[@]}" "$@"
