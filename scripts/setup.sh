#!/usr/bin/env bash
# Installs the packages for building and running, on Debian and Ubuntu; elsewhere it says what is
# missing. If nothing is missing, it does nothing.
source "$(dirname "$0")/common.sh"

missing=() packages=() services=() by_hand=
need() { # its name, its Debian packages, a command that succeeds if it is installed
    local what=$1 debian=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        missing+=("$what")
        [ -n "$debian" ] || by_hand=yes
        read -ra more <<<"$debian"
        packages+=("${more[@]}")
    fi
}

has_rust() { cargo --version && [ "$(printf '1.95\n%s\n' "$(cargo --version | cut -d' ' -f2)" | sort -V | head -n 1)" = 1.95 ]; }
has_libclang() { ldconfig -p | grep -q libclang || ls /usr/lib/llvm-*/lib/libclang.so* || [ -n "${LIBCLANG_PATH:-}" ]; }
has_node() { npm --version && [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ]; }
has_source_tools() { bison --version && flex --version && perl --version && bzip2 --help && patchelf --version && ls /usr/share/keyrings/debian-archive-keyring.gpg; }
has_patroni() { PATH=$PATH:/usr/sbin; command -v etcd && command -v haproxy && command -v patroni; }
has_debhelper() { command -v dh && command -v dpkg-buildpackage; }
has_monitoring() { command -v prometheus && command -v promtool && command -v prometheus-sql-exporter; }
has_browser() { command -v chromium && command -v chromedriver; }
has_pgbouncer() { PATH=$PATH:/usr/sbin command -v pgbouncer; }
# Only if the distribution's version is new enough.
node_packages() {
    local version
    version=$(apt-cache show nodejs 2>/dev/null | sed -nE 's/^Version: ([0-9]+).*/\1/p' | head -n 1)
    [ "${version:-0}" -lt 20 ] || echo "nodejs npm"
}
has_node_of_examples() { npm --version && node -e 'process.exit("headersDistinct" in http.IncomingMessage.prototype ? 0 : 1)'; }
# The newest supported PostgreSQL that the distribution has, if any.
server_packages() {
    local version
    for version in $(supported | sort -rn); do
        if apt-cache show "postgresql-$version" >/dev/null 2>&1; then
            echo "postgresql-$version postgresql-server-dev-$version"
            return
        fi
    done
}

[ ! -x "$(command -v apt-get)" ] || find_pg_config >/dev/null || [ -n "$(ls /var/lib/apt/lists/*_Packages 2>/dev/null)" ] ||
    as_root apt-get update -qq

need "Rust 1.95 or newer, with cargo (https://rustup.rs)" "" has_rust
need "a C compiler" "gcc libc6-dev" cc --version
need "libclang, for bindgen" "libclang-dev" has_libclang
need "a PostgreSQL server of version $(supported | paste -sd' ') with its headers" "$(server_packages)" find_pg_config
need "git, to test a hook for it" "git" git --version
need "Python 3 with venv, for the tests" "python3 python3-venv" python3 -c 'import venv, ensurepip'
for extra in "$@"; do
    case $extra in
        curl) need "curl, to send the requests of published products" "curl" curl --version ;;
        pgbouncer) need "pgbouncer, to test with a pooler" "pgbouncer" has_pgbouncer ;;
        patroni)
            need "Patroni with etcd and HAProxy, to test failovers" "patroni etcd-server haproxy" has_patroni
            for service in etcd haproxy patroni; do
                PATH=$PATH:/usr/sbin command -v $service >/dev/null || services+=("$service")
            done
            ;;
        monitoring)
            need "Prometheus with an exporter of SQL, to test monitoring" "prometheus prometheus-sql-exporter" has_monitoring
            # The exporter's service does not start without its configuration.
            command -v prometheus >/dev/null || services+=(prometheus)
            ;;
        examples)
            need "Node.js 18.3 or newer with npm, for the examples" "nodejs npm" has_node_of_examples
            need "Ruby with Sequel and Rack, for the examples" \
                "ruby ruby-sequel ruby-pg ruby-rack ruby-webrick" \
                ruby -e 'require "sequel"; require "pg"; require "rack"; require "webrick"'
            ;;
        browser) need "Chromium with ChromeDriver, to test the portal" "chromium chromium-driver" has_browser ;;
        deb)
            need "debhelper, to build Debian packages" "debhelper dpkg-dev" has_debhelper
            need "lintian, to check them" "lintian" command -v lintian
            ;;
        stranger) need "mmdebstrap, to install packages on a new Debian" "mmdebstrap" command -v mmdebstrap ;;
        postgres-source) need "bison, flex, perl and patchelf, to build PostgreSQL" "bison flex perl bzip2 patchelf debian-archive-keyring" has_source_tools ;;
        valgrind) need "valgrind, to count instructions and to watch memory" "valgrind libc6-dbg" valgrind --version ;;
        node) need "Node.js 20 or newer with npm (https://nodejs.org), for a benchmark" "$(node_packages)" has_node ;;
    esac
done

[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null || [ -n "$by_hand" ]; then
    echo "These are missing:" >&2
    printf '  %s\n' "${missing[@]}" >&2
    die "install them, and set PG_CONFIG if PostgreSQL is in an unusual place"
fi
say "Installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
as_root apt-get update -qq
# Tests start their own etcd and the like: Debian's services don't start, now or at the next boot.
policy=/usr/sbin/policy-rc.d
if [ ${#services[@]} -gt 0 ] && [ ! -e $policy ]; then
    trap 'as_root rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
fi
as_root apt-get install -y --no-install-recommends "${packages[@]}"
for service in "${services[@]}"; do
    as_root update-rc.d "$service" disable
done
