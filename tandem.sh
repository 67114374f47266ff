#!/usr/bin/env bash
# Tandem's one entry: makes the Python environment when there is none, then runs what was asked.
#
#   ./tandem.sh demo          the main job: the arm picks up the mug among obstacles; a report at the end
#   ./tandem.sh test [ARGS]   ruff, mypy, then pytest (with ARGS: pytest alone, on those)
#   ./tandem.sh setup         only make the environment
#   ./tandem.sh setup-fci     only make the environment of the FCI simulator (test and `bench faults|bridge` do so themselves)
#   ./tandem.sh VERB ...      anything else goes to the `tandem` command: plan, bench, doctor, ... (--help lists them)
#
# The environment lies in ${XDG_CACHE_HOME:-~/.cache}/tandem, under a name made of the lock files' hash: clones share it.
# Variables (all optional):
#   TANDEM_PYTHON        Python 3.11 or 3.12 to build the environment with
#   TANDEM_ROS_ROOT      where ROS 2 Jazzy is installed (default /opt/ros/jazzy); without one, ROS comes as wheels
#   TANDEM_TORCH_INDEX   package index that holds CPU builds of PyTorch (else pip takes the platform's default build)
#   TANDEM_NO_APT=1      never install system packages
set -euo pipefail

ENV_FORMAT=1
ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
CACHE=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/tandem
ROS_ROOT=${TANDEM_ROS_ROOT:-/opt/ros/jazzy}
GL_PACKAGES=(libegl1 libegl-mesa0 libgl1-mesa-dri libgl1)

say() { printf 'tandem: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

have_ros() { [[ -f $ROS_ROOT/setup.bash ]]; }

# --- which Python ----------------------------------------------------------------------------------------------------------
pick_python() {
    local candidate
    local candidates=(python3.11 python3.12 python3)
    have_ros && candidates=(/usr/bin/python3)      # rclpy there is built for the system's Python
    [[ -n ${TANDEM_PYTHON:-} ]] && candidates=("$TANDEM_PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            PYTHON=$("$candidate" -c 'import sys; print(sys.executable)')
            return
        fi
    done
    die "no Python 3.11 or 3.12 among: ${candidates[*]}. Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or set TANDEM_PYTHON."
}

lock_files() {
    printf '%s\n' "$ROOT/requirements.lock" "$ROOT/requirements-dev.lock"
    have_ros || printf '%s\n' "$ROOT/requirements-ros.lock"
}

locate_env() {
    local key
    local locks
    mapfile -t locks < <(lock_files)
    for key in "${locks[@]}"; do [[ -f $key ]] || die "$key is missing: the checkout is incomplete"; done
    KEY=$({ cat "${locks[@]}"; "$PYTHON" -VV; uname -m; have_ros && echo "$ROS_ROOT"; echo "format $ENV_FORMAT"; } | sha256sum | cut -c1-16)
    ENV=$CACHE/env-$KEY
}

# --- system packages -------------------------------------------------------------------------------------------------------
installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

system_packages() {
    command -v dpkg-query >/dev/null || return 0
    local package missing=() sudo=()
    for package in "${GL_PACKAGES[@]}"; do installed "$package" || missing+=("$package"); done
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    ((${#missing[@]})) || return 0
    installed libosmesa6 || missing+=(libosmesa6)
    [[ -n ${TANDEM_NO_APT:-} ]] && die "system packages are missing (TANDEM_NO_APT is set): apt-get install ${missing[*]}"
    if ((EUID != 0)); then
        sudo -n true 2>/dev/null || die "system packages are missing and this user may not install them. Run: sudo apt-get install ${missing[*]}"
        sudo=(sudo -n)
    fi
    say "installing system packages: ${missing[*]}"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}")
    mkdir -p "$CACHE"
    { "${sudo[@]}" "${install[@]}" || { "${sudo[@]}" apt-get update -qq && "${sudo[@]}" "${install[@]}"; }; } \
        </dev/null >"$CACHE/apt.log" 2>&1 \
        || { tail -n 5 "$CACHE/apt.log" >&2; die "apt-get could not install: ${missing[*]} (no network? whole log: $CACHE/apt.log)"; }
}

# --- Python environment ----------------------------------------------------------------------------------------------------
env_ready() {
    [[ -f $ENV/ready && $(head -n 1 "$ENV/ready") == "$KEY" ]] || return 1
    "$ENV/bin/python" -I -S -c pass 2>/dev/null || return 1
    local entry
    while read -r entry; do [[ -e $ENV/$entry ]] || { say "the environment lost $entry"; return 1; }; done < <(tail -n +2 "$ENV/ready")
}

pip_install() {
    "$ENV/bin/python" -m pip install --no-input --disable-pip-version-check --quiet "$@" </dev/null >>"$ENV.log" 2>&1 && return
    grep -v '^ *$' "$ENV.log" | tail -n 8 >&2
    die "the Python packages could not be installed (whole log: $ENV.log). If this machine reaches no package index, give pip one through its own settings (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf); what is needed is in $ROOT/requirements*.lock."
}

build_env() {
    local venv_options=() torch locks requirements=() lock started=$SECONDS
    have_ros && venv_options=(--system-site-packages)
    [[ -e $ENV ]] && say "an unfinished or broken environment is removed"
    rm -rf "$ENV" "$ENV.log"
    say "making the Python environment (once; some minutes): $ENV"
    "$PYTHON" -m venv "${venv_options[@]}" "$ENV" >"$ENV.log" 2>&1 \
        || { tail -n 5 "$ENV.log" >&2; die "python -m venv failed with $PYTHON (Debian, Ubuntu: apt-get install python3-venv)"; }
    mapfile -t locks < <(lock_files)
    for lock in "${locks[@]}"; do requirements+=(-r "$lock"); done
    torch=$(grep -E '^torch==' "$ROOT/requirements.lock" || true)
    if [[ -n $torch && -n ${TANDEM_TORCH_INDEX:-} ]]; then
        pip_install --no-deps --index-url "$TANDEM_TORCH_INDEX" "$torch"
    elif [[ -n $torch ]]; then
        pip_install -c "$ROOT/requirements.lock" "$torch"     # with its dependencies: builds for GPUs bring libraries of their own
    fi
    pip_install --no-deps "${requirements[@]}"
    { echo "$KEY"; (cd "$ENV" && printf '%s\n' lib/python3*/site-packages/*); } >"$ENV/ready.new"
    mv "$ENV/ready.new" "$ENV/ready"
    say "environment ready after $((SECONDS - started)) s"
}

ensure_env() {
    env_ready && return
    mkdir -p "$CACHE" 2>/dev/null || die "cannot create $CACHE; set XDG_CACHE_HOME to a folder that can be written"
    exec 9>"$ENV.lock"
    flock -n 9 || { say "another tandem.sh is making the environment; waiting for it"; flock 9; }
    env_ready || { system_packages; build_env; }
    exec 9>&-
}

# --- the FCI simulator: an environment of its own, since it needs other versions of NumPy and MuJoCo --------------------------
fci_ready() { [[ -f $FCI_ENV/ready ]] && "$FCI_ENV/bin/python" -I -c 'import franka_sim' 2>/dev/null; }

build_fci_env() {
    say "making the environment of the FCI simulator (once): $FCI_ENV"
    rm -rf "$FCI_ENV" "$FCI_ENV.log"
    { "$PYTHON" -m venv "$FCI_ENV" && "$FCI_ENV/bin/python" -m pip install --no-input --disable-pip-version-check --quiet \
        --no-deps -r "$FCI_LOCK" && "$FCI_ENV/bin/python" -I -c 'import franka_sim.run_server'; } </dev/null >"$FCI_ENV.log" 2>&1 \
        || { rm -rf "$FCI_ENV"; return 1; }
    touch "$FCI_ENV/ready"
}

# Sets TANDEM_FCI_PYTHON, or TANDEM_FCI_MISSING with the reason.
ensure_fci_env() {
    FCI_LOCK=$ROOT/tools/fci_server/requirements.lock
    [[ -f $FCI_LOCK ]] || { export TANDEM_FCI_MISSING="$FCI_LOCK is missing"; return 1; }
    FCI_ENV=$CACHE/fci-$({ cat "$FCI_LOCK"; "$PYTHON" -VV; uname -m; echo "format $ENV_FORMAT"; } | sha256sum | cut -c1-16)
    if ! fci_ready; then
        mkdir -p "$CACHE" && exec 8>"$FCI_ENV.lock" && flock 8
        fci_ready || build_fci_env || true
        exec 8>&-
    fi
    if ! fci_ready; then
        TANDEM_FCI_MISSING="its packages could not be installed: $(grep -E 'ERROR|rror:' "$FCI_ENV.log" | tail -n 1 | cut -c1-200); log: $FCI_ENV.log"
        export TANDEM_FCI_MISSING
        return 1
    fi
    export TANDEM_FCI_PYTHON=$FCI_ENV/bin/python
}

# --- with ROS installed: the checkout as a package that `ros2 launch tandem ...` and Node(package="tandem") find ----------------
ament_overlay() {
    local prefix node
    prefix=$ENV/ament-$(printf '%s' "$ROOT" | sha256sum | cut -c1-12)
    if [[ ! -f $prefix/ready ]]; then
        mkdir -p "$prefix/share/ament_index/resource_index/packages" "$prefix/lib/tandem"
        : >"$prefix/share/ament_index/resource_index/packages/tandem"
        ln -sfn "$ROOT" "$prefix/share/tandem"
        for node in perception planner safety_filter franka_bridge camera scene_publisher recorder; do
            printf '#!/bin/sh\nexec "%s" -m tandem.nodes.%s "$@"\n' "$ENV/bin/python" "$node" >"$prefix/lib/tandem/$node"
            chmod +x "$prefix/lib/tandem/$node"
        done
        touch "$prefix/ready"
    fi
    export AMENT_PREFIX_PATH=$prefix${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}
}

# --- what a process of Tandem sees -----------------------------------------------------------------------------------------
enter_env() {
    if have_ros; then
        if [[ ${ROS_DISTRO:-} != jazzy ]]; then
            unset PYTHONPATH
            set +u
            # shellcheck disable=SC1091
            source "$ROS_ROOT/setup.bash"
            set -u
        fi
        ament_overlay
    else
        [[ -n ${_ROS_WHEELS_BOOTSTRAP_COMPLETE:-} ]] && unset LD_LIBRARY_PATH     # of another environment's wheels
        unset PYTHONPATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
    fi
    unset PYTHONHOME
    export PYTHONPATH=$ROOT/src${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONNOUSERSITE=1 PATH=$ENV/bin:$PATH VIRTUAL_ENV=$ENV TANDEM_ROOT=$ROOT
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1} MKL_NUM_THREADS=${MKL_NUM_THREADS:-1}
    export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
    if [[ -z ${MUJOCO_GL:-} ]]; then
        MUJOCO_GL=egl
        ldconfig -p 2>/dev/null | grep -q 'libEGL\.so' || { ldconfig -p 2>/dev/null | grep -q libOSMesa && MUJOCO_GL=osmesa; }
        [[ -s $ENV/gl ]] && MUJOCO_GL=$(<"$ENV/gl")
        export MUJOCO_GL
    fi
    # Compiled code is shared by clones: the folder is named for the sources that it comes from.
    local sources
    sources=$(cd "$ROOT/src" && find tandem -regex 'tandem/\(\(core\|robots\|safety\|execution\)/.*\|diffusion/nearest\)\.py' -print0 \
        | sort -z | xargs -0 -r sha256sum | sha256sum | cut -c1-12)
    export NUMBA_CACHE_DIR=$ENV/numba/$sources
    export NUMBA_CACHE_LOCATOR_CLASSES=tandem.cli.numba_cache.SharedCacheLocator
}

warm_up() {
    [[ -f $NUMBA_CACHE_DIR/ready ]] && return
    mkdir -p "$NUMBA_CACHE_DIR"
    say "compiling and checking (once for each version of the sources)"
    "$ENV/bin/python" -m tandem.cli.warmup --gl-file "$ENV/gl" </dev/null || die "the environment does not work; see above. To start over: rm -r $ENV"
    touch "$NUMBA_CACHE_DIR/ready"
    [[ -s $ENV/gl ]] && MUJOCO_GL=$(<"$ENV/gl")
    # a developer's edits leave folders behind: keep the newest
    find "$ENV/numba" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -rn | tail -n +9 | cut -d' ' -f2- | xargs -r rm -rf
}

wants_help() {
    local word
    for word; do [[ $word != --help && $word != -h ]] || return 0; done
    return 1
}

prepare() {
    [[ $1 != demo ]] || system_packages
    case " $* " in
        " bench faults "* | " bench bridge "* | " demo "*[\ =]fci\ *) ensure_fci_env || die "no FCI simulator: $TANDEM_FCI_MISSING" ;;
    esac
    warm_up
}

run_tests() {
    cd "$ROOT"
    local failed=0
    export ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-$((1 + ($$ % 100)))}
    export MYPY_CACHE_DIR=$ENV/mypy-cache RUFF_CACHE_DIR=$ENV/ruff-cache
    if (($# == 0)); then
        ruff check . </dev/null || failed=1
        mypy src/tandem </dev/null || failed=1
        ((failed)) && say "ruff or mypy found faults (above); the tests follow, the result is a failure"
        set -- test
    fi
    "$ENV/bin/python" -m pytest -p no:cacheprovider "$@" </dev/null || failed=1
    return $failed
}

main() {
    pick_python
    locate_env
    ensure_env
    enter_env
    case ${1:---help} in
        setup) system_packages; warm_up; say "ready: $ENV" ;;
        setup-fci) ensure_fci_env || die "no FCI simulator: $TANDEM_FCI_MISSING"; say "ready: $FCI_ENV" ;;
        test) shift; system_packages; warm_up; ensure_fci_env || say "tests against the FCI are left out: $TANDEM_FCI_MISSING"; run_tests "$@" ;;
        demo | bench | launch | train | audit | certify) wants_help "$@" || prepare "$@"; exec "$ENV/bin/python" -m tandem.cli.main "$@" ;;
        *) exec "$ENV/bin/python" -m tandem.cli.main "${@:---help}" ;;
    esac
}

main "$@"
