#!/bin/bash
# One GPU a task, any number of tasks; they may be preempted, and start when they like:
#   virnucpro plan reads.fastq.gz -o run --device cuda
#   array=$(sbatch --parsable slurm_array.sh run)
#   sbatch --dependency=afterany:$array --wrap "virnucpro finish run"
#SBATCH --array=0-99
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
exec virnucpro worker "$1" --threads "${SLURM_CPUS_PER_TASK:-1}"
