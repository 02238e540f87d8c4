#!/bin/bash
# The line on the nodes of a Slurm job: `sbatch deploy/slurm.sh`, or `sbatch deploy/slurm.sh train` for one stage, from the
# project's folder on storage that all nodes mount, with `make install` done there. Submit it again, and it goes on.
#SBATCH --job-name=maskline
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --no-kill
# --requeue: a job that is preempted comes back, and training resumes. --no-kill: one that loses a node goes on with the
# others, and train.min_workers says how few will do.
set -euo pipefail

cd "$SLURM_SUBMIT_DIR"
export PATH="$PWD/.venv/bin:$PATH"
# Whoever has the token may run code on the nodes; this one is of the job alone.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="$(getent ahostsv4 "$head" | awk 'NR == 1 {print $1}'):$((20000 + SLURM_JOB_ID % 20000))"

# On the first node Ray's head and the command, on the others Ray, which ends with it.
srun --no-kill --kill-on-bad-exit=0 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
  -- env RAY_ADDRESS="$address" dvc repro "$@"
