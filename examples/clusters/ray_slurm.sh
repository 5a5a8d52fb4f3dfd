#!/bin/bash
# Ray inside one job of Slurm: the same command starts on every node, the driver on the first.
#   sbatch ray_slurm.sh reads.fastq.gz out
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)
exec srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    virnucpro predict "$1" -o "$2" --resume --executor ray --ray-address auto --device cuda
