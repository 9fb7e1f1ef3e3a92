#!/bin/bash
# RUN=runs/photos sbatch configs/slurm_4x8_fsdp.sh photos/ --size 256 --batch-size 2048 --steps 500000
# Submitted again, the same line goes on from the newest checkpoint.
#SBATCH --job-name=alphabar
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time is over: the processes finish their step and write a checkpoint.
#SBATCH --signal=TERM@120

set -euo pipefail
run=${RUN:?the folder of the run, which all machines see}
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
resume=()
if compgen -G "$run/checkpoints/step-*" > /dev/null; then resume=(--resume); fi

srun --kill-on-bad-exit=1 accelerate launch --config_file configs/slurm_4x8_fsdp.yaml \
    --main_process_ip "${hosts%%$'\n'*}" --main_process_port 29500 --max_restarts 3 \
    -m alphabar train "$@" --out "$run" "${resume[@]}"
