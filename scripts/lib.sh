# shellcheck shell=bash
# What scripts/demo, scripts/test and bench/run share: Debian's packages, a
# private copy of the tree, a private build, a private cluster on a Unix
# socket, and nothing left behind.  Sourced, never run.
#
#	use_packages gcc make …		install what is missing, or say how
#	open_work					$WORK, removed at exit together with all it runs
#	build [VARIABLE=value …]	$WORK/tree, installed under $WORK/stage
#	start_cluster ['name = value' …]	reached by PGHOST, PGPORT and PGUSER
#	run COMMAND …				as the cluster's owner, ended by our signals

PG=${PG:-15}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROGRAM=${0##*/}
WORK=				# all that we make is in here
KEEP=				# "files": leave $WORK at exit; "server": leave it running too
CHILD=				# process group of the command that run started
PACKAGE_LOG=
NO_MAIN_CLUSTER=	# file that keeps Debian's packages from making a cluster
NO_SERVICES=		# file that keeps them from starting services
exec 8>&2			# the caller's stderr, for a trap within a command whose own goes to a file

# The server refuses to run as root, so root hands every step to postgres.
AS_OWNER=()
if [ "$(id -u)" = 0 ]; then
	AS_OWNER=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi

# Nothing of the caller's own databases or locale reaches ours.
for name in ${!PG@}; do
	[ "$name" = PG ] || unset "$name"
done
unset name MAKEFLAGS MAKELEVEL MFLAGS TEMP_CONFIG
export LANG=C.UTF-8 LC_ALL=C

say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
die()
{
	printf '%s: %s\n' "$PROGRAM" "$*" >&2
	exit 1
}

# use_major 17: the PostgreSQL that everything below builds for
use_major()
{
	case $1 in
		1[4-9] | [2-9][0-9]) PG=$1 ;;
		*) die "no such PostgreSQL major version: $1" ;;
	esac
	BIN=/usr/lib/postgresql/$PG/bin
}
use_major "$PG"

# Packages -------------------------------------------------------------------

missing_packages()
{
	local package
	for package; do
		case $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) in
			installed) ;;
			*) printf '%s ' "$package" ;;
		esac
	done
}

use_packages()
{
	local missing

	command -v dpkg-query >/dev/null || die "works on Debian and its relatives only"
	missing=$(missing_packages "$@")
	[ -n "$missing" ] || return 0
	if [ "$(id -u)" != 0 ]; then
		printf '%s: packages are missing; install them with\n\n    sudo apt-get install --no-install-recommends %s\n\nand call again.\n' \
			"$PROGRAM" "${missing% }" >&2
		exit 1
	fi

	# Two callers at once install one after the other.
	exec 9</etc/apt
	flock 9
	missing=$(missing_packages "$@")
	if [ -n "$missing" ]; then
		install_packages "$missing"
	fi
	exec 9<&-
}

install_packages()
{
	local words
	read -ra words <<<"$1"
	PACKAGE_LOG=$(mktemp)

	say "Installing from Debian's packages: ${1% }"
	note "Some 230 MB on disk; a minute or two.  Once unpacking has begun, Ctrl-C waits for its end."
	# A package that brings a server makes a cluster and starts it on port
	# 5432, one with another service starts that, unless told not to.  The
	# word counts for this installation only.
	NO_MAIN_CLUSTER=/etc/postgresql-common/createcluster.d/quota-$$.conf
	mkdir -p "${NO_MAIN_CLUSTER%/*}"
	echo 'create_main_cluster = false' >"$NO_MAIN_CLUSTER"
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		NO_SERVICES=/usr/sbin/policy-rc.d
		printf '#!/bin/sh\nexit 101\n' >"$NO_SERVICES"
		chmod 755 "$NO_SERVICES"
	fi

	export DEBIAN_FRONTEND=noninteractive
	local install=(apt-get -y -q -o DPkg::Lock::Timeout=300 install --no-install-recommends "${words[@]}")
	# Old lists may still do.
	in_session apt-get -q update >>"$PACKAGE_LOG" 2>&1 || note "apt-get update failed; trying with the lists at hand"
	# Downloading can be interrupted, unpacking should not be: a session of
	# its own keeps Ctrl-C from it.
	if ! in_session "${install[@]}" --download-only >>"$PACKAGE_LOG" 2>&1 ||
		! setsid --wait "${install[@]}" >>"$PACKAGE_LOG" 2>&1 </dev/null 8>&- 9<&-; then
		tail -n 30 "$PACKAGE_LOG" >&2
		die "apt-get could not install: ${1% }"
	fi
	end_installation
}

# Whoever makes such a file after us keeps it.
end_installation()
{
	rm -f "$PACKAGE_LOG" "$NO_MAIN_CLUSTER" "$NO_SERVICES"
	PACKAGE_LOG='' NO_MAIN_CLUSTER='' NO_SERVICES=''
}

# Processes ------------------------------------------------------------------

# In a session of its own, so that one signal ends the command with all its
# children; in the background, so that our traps need not wait for it.  A shell
# has what it puts there ignore SIGINT, and its children with it: undo that.
in_session()
{
	local status=0
	setsid env --default-signal=INT,QUIT "$@" </dev/null 8>&- 9<&- &
	CHILD=$!
	wait "$CHILD" || status=$?
	CHILD=
	return "$status"
}

run() { in_session "${AS_OWNER[@]}" "$@"; }

# run_logged FILE COMMAND …: its output goes to the file and to the screen
run_logged()
{
	# shellcheck disable=SC2016	# the inner shell expands these
	run bash -c 'set -o pipefail; log=$1; shift; "$@" 2>&1 | tee "$log"' run_logged "$@"
}

end_child()
{
	local tries=20
	[ -n "$CHILD" ] || return 0
	kill -TERM -- "-$CHILD" 2>/dev/null || return 0
	while [ $tries -gt 0 ]; do
		kill -0 -- "-$CHILD" 2>/dev/null || return 0
		sleep 0.25
		tries=$((tries - 1))
	done
	kill -KILL -- "-$CHILD" 2>/dev/null || true
}

# Every server under $WORK, those of interrupted TAP tests included
stop_servers()
{
	local pidfile
	while IFS= read -r pidfile; do
		"${AS_OWNER[@]}" "$BIN/pg_ctl" -D "${pidfile%/*}" -m immediate -s -w stop || true
	done < <(find "$WORK" -name postmaster.pid 2>/dev/null)
}

cleanup()
{
	local status=$?
	trap - EXIT
	trap '' INT TERM HUP PIPE	# the terminal, or a tee, may be gone already
	# Not said by the signal's own trap: bash, interrupted as it starts a pipeline,
	# has been seen to end without that one, but not without this one.
	case $status in
		129 | 130 | 143)
			printf '\n%s: interrupted, cleaning up\n' "$PROGRAM" >&8 2>/dev/null || true
			KEEP=
			;;
	esac
	end_child
	end_installation
	if [ -n "$WORK" ] && [ "$KEEP" != server ]; then
		cd /
		stop_servers
		if [ "$KEEP" = files ]; then
			printf '\nKept: %s\n' "$WORK"
		else
			rm -rf "$WORK"
		fi
	fi
	exit "$status"
}

interrupted()
{
	trap '' INT TERM HUP
	exit "$1"
}

trap cleanup EXIT
trap 'interrupted 129' HUP
trap 'interrupted 130' INT
trap 'interrupted 143' TERM

# Work -----------------------------------------------------------------------

open_work()
{
	local base=${TMPDIR:-/tmp}
	# The path of a socket is short, and its owner must be able to get there.
	if [ ${#base} -gt 40 ] || ! "${AS_OWNER[@]}" test -w "$base" -a -x "$base"; then
		base=/tmp
	fi
	WORK=$("${AS_OWNER[@]}" mktemp -d "$base/quota-$PROGRAM.XXXXXX")
	"${AS_OWNER[@]}" mkdir "$WORK/tree" "$WORK/stage" "$WORK/tmp"
	export HOME=$WORK/tmp TMPDIR=$WORK/tmp PATH=$BIN:$PATH
	cd "$WORK" || die "cannot enter $WORK"
}

# Where the staged files are, for postgresql.conf
extension_settings()
{
	local share lib
	share=$("$BIN/pg_config" --sharedir)
	lib=$("$BIN/pg_config" --pkglibdir)
	# Debian's servers have had a setting for this before PostgreSQL 18 had.
	if "$BIN/postgres" --describe-config | grep '^extension_destdir' >/dev/null; then
		echo "extension_destdir = '$WORK/stage'"
	else
		echo "extension_control_path = '$WORK/stage$share:\$system'"
	fi
	echo "dynamic_library_path = '$WORK/stage$lib:\$libdir'"
}

make_tree() { make -s -C "$WORK/tree" PG_CONFIG="$BIN/pg_config" with_llvm=no "$@"; }
export -f make_tree
export WORK BIN

build()
{
	tar -C "$ROOT" --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude='*.bc' \
		--exclude='./quota--*.sql' --exclude=./output --exclude=./tmp_check -cf - . |
		"${AS_OWNER[@]}" tar -C "$WORK/tree" --no-same-owner -xf - || return
	run bash -c 'make_tree -j2 "$@" && make_tree "$@" DESTDIR="$WORK/stage" install >/dev/null' build "$@"
}

start_cluster()
{
	run "$BIN/initdb" -D "$WORK/data" -U postgres -A trust -N -E UTF8 --locale=C >"$WORK/initdb.log" ||
		{ cat "$WORK/initdb.log" >&2; die "initdb failed"; }
	# The port is only a part of the socket's name: nothing listens on TCP.
	export PGHOST=$WORK PGPORT=54320 PGUSER=postgres
	{
		echo "listen_addresses = ''"
		echo "unix_socket_directories = '$PGHOST'"
		echo "port = $PGPORT"
		extension_settings
		printf '%s\n' "$@"
	} >>"$WORK/data/postgresql.conf"
	run "$BIN/pg_ctl" -D "$WORK/data" -l "$WORK/server.log" -s -w start ||
		{ tail -n 20 "$WORK/server.log" >&2; die "the server did not start"; }
}
