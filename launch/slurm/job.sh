#!/bin/bash
#SBATCH --job-name={{ job.name }}
#SBATCH --nodes={{ job.nodes }}
#SBATCH --ntasks-per-node={{ job.gpus_per_node }}
#SBATCH --gpus-per-node={{ job.gpus_per_node }}
#SBATCH --exclusive
#SBATCH --time={{ time }}
{% if partition %}
#SBATCH --partition={{ partition }}
{% endif %}
{% if account %}
#SBATCH --account={{ account }}
{% endif %}
#SBATCH --signal=B:USR1@{{ warn }}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={{ job.name }}-%j.log

# To be submitted in the folder of the checkout: sbatch THIS_FILE
set -uo pipefail
run={{ job.run|sh }}

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export NCCL_DEBUG=${NCCL_DEBUG:-WARN} TORCH_NCCL_ASYNC_ERROR_HANDLING=1
{% if interface %}
export NCCL_SOCKET_IFNAME={{ interface|sh }} GLOO_SOCKET_IFNAME={{ interface|sh }}
{% endif %}
# What ranks compile lies on their own disk, where no other node waits for its locks.
cache=${SLURM_TMPDIR:-/tmp}/bigpeft-$SLURM_JOB_ID
export TRITON_CACHE_DIR=$cache/triton TORCH_EXTENSIONS_DIR=$cache/extensions

# Ranks finish their step, save, and exit with 75.
trap 'mkdir -p "$run" && touch "$run/stop"' USR1 TERM

srun --kill-on-bad-exit=0 --wait=120 python launch/train.py{% for word in job.arguments %} {{ word|sh }}{% endfor %} &
ranks=$!
wait "$ranks"
code=$?
while kill -0 "$ranks" 2>/dev/null; do # a signal interrupted the waiting
    wait "$ranks"
    code=$?
done

if [ "$code" = 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
