#!/bin/bash
# Slurm on one Debian machine (a container or a virtual machine, as root), and a tiny reproduction as an array in it:
#
#   scripts/cluster/slurm_on_one_machine.sh target/release/scenerank
#
# Installs Debian's packages, writes /etc/slurm/slurm.conf and starts munged, slurmctld and slurmd. It then compares the report of
# the array with that of a plain `reproduce`. With a program that has the feature `mpi` it also trains one model on two ranks, by
# `srun --mpi=pmix` and by `mpirun`, and compares the checkpoints.
set -eu
program=$(realpath "$1")
scripts=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
echo "files in $work"

apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge jq > "$work/apt.log"
host=$(hostname -s)
cat > /etc/slurm/slurm.conf << CONF
ClusterName=one
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=/var/log/slurm_jobs.log
JobRequeue=1
ReturnToService=2
KillWait=30
SlurmctldTimeout=60
SlurmdTimeout=60
NodeName=$host CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
mkdir -p /run/munge /var/spool/slurmctld /var/spool/slurmd
chown munge: /run/munge
pgrep -x munged > /dev/null || runuser -u munge -- munged
pgrep -x slurmctld > /dev/null || slurmctld
pgrep -x slurmd > /dev/null || slurmd
until sinfo --noheader --format %T | grep -q idle; do sleep 1; done
sinfo

cd "$work"
mkdir bin
ln -s "$program" bin/scenerank
export PATH=$work/bin:$PATH
scenerank -q synth raw --images 200 > /dev/null
scenerank -q prepare --scene-graphs raw/scene_graphs.json --image-data raw/image_data.json --captions raw/captions.json \
    --glove raw/glove.txt --min-occurrences 15 --out small.data > /dev/null
options=(--epochs 2 --layers 2 --state-width 12 --hidden-width 16 --batch-size 8 --device cpu)
runs=$(scenerank reproduce small.data --out array "${options[@]}" --plan --json | jq length)
echo "+ sbatch --array=0-$((runs - 1)) reproduce.sbatch small.data array ${options[*]}"
job=$(sbatch --parsable --array=0-$((runs - 1)) "$scripts/reproduce.sbatch" small.data array "${options[@]}")
echo "+ sbatch --dependency=afterany:$job --wrap 'scenerank reproduce small.data --out array ... --collect'"
sbatch --wait --dependency=afterany:"$job" --output=collect.log \
    --wrap "scenerank -q reproduce small.data --out array ${options[*]} --collect"
squeue
scenerank reproduce small.data --out array "${options[@]}" --plan
grep -o "JobId=.*JobState=[A-Z]*" /var/log/slurm_jobs.log | tail -n $((runs + 1)) | sed 's/ UserId.* Name/ Name/'
scenerank -q reproduce small.data --out plain "${options[@]}" > /dev/null
same() { jq --sort-keys 'del(.about.date, .about.seconds, .about.command, .about.threads)' "$1/report.json"; }
cmp <(same array) <(same plain)
echo "the reports are the same"

scenerank --version | grep -q "^MPI: *compiled in" || exit 0
echo "+ srun --mpi=list"
srun --mpi=list
# Ranks that wait leave their core to others.
export RAYON_NUM_THREADS=1 OMPI_MCA_mpi_yield_when_idle=1
train=(scenerank train small.data --epochs 2 --layers 2 --state-width 12 --hidden-width 16 --batch-size 8 --device cpu)
echo "+ srun -n 2 --mpi=pmix --kill-on-bad-exit ${train[*]} --out by_srun"
srun -n 2 --mpi=pmix --kill-on-bad-exit "${train[@]}" --out by_srun
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
echo "+ mpirun --oversubscribe -n 2 ${train[*]} --out by_mpirun"
mpirun --oversubscribe -n 2 "${train[@]}" --out by_mpirun
scenerank -q "${train[@]:1}" --out alone > /dev/null
for checkpoint in last best; do
    cmp {by_srun,by_mpirun}/$checkpoint.safetensors
done
echo "the checkpoints by srun and mpirun are the same"
# One rank sums in another order: were srun to start two trainings of one rank, they would have these bits.
if cmp -s by_srun/last.safetensors alone/last.safetensors; then
    echo "srun's ranks did not find each other"
    exit 1
fi
echo "a checkpoint of one rank is another"
