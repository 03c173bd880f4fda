# shellcheck shell=bash disable=SC2154
# What the scripts of bench/ share, on top of scripts/lib.sh: the database, the
# calls to compare, and how to measure them.  Sourced, never run.

CALLS=20				# calls after each draw of subjects, see setup.sql
declare -A CALLS_OF		# the same of a peer that makes another number of them

# The peers.  All calls are single statements, each its own transaction.
#
#	granted, denied, keyed		the C function
#	reference, reference_denied	test/reference/reference.sql
#	cte							the rows of a granted call, and no logic
#	cte_blind					so, but the audit row makes up its event and its counts
#	insert						the row of a denied call, and no logic
#	draw						no call at all
call_of()
{
	case $1 in
		granted) echo "SELECT * FROM quota.check_and_consume_quota($2, 'calls');" ;;
		denied) echo "SELECT * FROM quota.check_and_consume_quota($2, 'exhausted');" ;;
		keyed) echo "SELECT * FROM quota.check_and_consume_quota($2, 'calls', 1, :key);" ;;
		reference) echo "SELECT * FROM quota_reference.check_and_consume_quota($2, 'calls');" ;;
		reference_denied) echo "SELECT * FROM quota_reference.check_and_consume_quota($2, 'exhausted');" ;;
		cte | cte_blind) cte_of "$2" "$1" ;;
		insert) insert_of "$2" ;;
		draw) ;;
	esac
}

# The rows that a granted call writes, with constants for what the function works
# out, and no answer.  That the audit row tells its event and the count costs SQL
# two CTE scans; the blind form spares itself those, and is the least that SQL pays
# for writing three rows.
cte_of()
{
	local used='' id='' audit
	if [ "$2" = cte ]; then
		used='RETURNING used' id='RETURNING id'
		audit="SELECT quota.new_id(now()), $1, 'calls', 1, true, 'ok', 1000000000, charge.used,
	1000000000 - charge.used, 'month', 'consume', entry.id, now() FROM charge, entry"
	else
		audit="VALUES (quota.new_id(now()), $1, 'calls', 1::numeric, true, 'ok', 1000000000::numeric, 1::numeric,
	999999999::numeric, 'month', 'consume', quota.new_id(now()), now())"
	fi
	cat <<END
WITH charge AS (
	UPDATE quota.usage_tracking SET used = used + 1
	WHERE user_id = $1 AND metric = 'calls' AND period = 'month' $used
), entry AS (
	INSERT INTO quota.usage_events (id, user_id, metric, kind, amount, bonus_used, period, created_at)
	VALUES (quota.new_id(now()), $1, 'calls', 'consume', 1, 0, 'month', now()) $id
)
INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
	plan_limit, current_usage, remaining, period, action, event_id, created_at)
$audit;
END
}

insert_of()
{
	cat <<END
INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
	plan_limit, current_usage, remaining, period, action, created_at)
VALUES (quota.new_id(now()), $1, 'exhausted', 1, false, 'quota_exceeded', 1, 1, 0, 'month', 'consume', now());
END
}

# write_scripts PEER …: $WORK/PEER.sql for pgbench
write_scripts()
{
	local peer i
	for peer; do
		{
			echo '\set n random(1, 10000)'
			echo 'SELECT * FROM bench.draws WHERE n = :n \gset'
			for ((i = 1; i <= CALLS; i++)); do
				[ "$peer" != keyed ] || echo '\set key random(1, 9000000000000000000)'
				call_of "$peer" ":u$i"
			done
		} >"$WORK/$peer.sql"
	done
}

# create_database NAME SUBJECTS DENIED
create_database()
{
	run createdb "$1"
	run psql -X -q -d "$1" -v subjects="$2" -v denied="$3" \
		-f "$WORK/tree/bench/setup.sql" >"$WORK/setup.log" 2>&1 ||
		{ cat "$WORK/setup.log" >&2; die "could not prepare database $1"; }
}

describe_machine()
{
	local cpu memory
	cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)
	memory=$(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1024 / 1024 }' /proc/meminfo)
	echo "$(nproc) x ${cpu:-$(uname -m)}, $memory, Linux $(uname -r), $("$BIN/postgres" --version)"
}

# Throughput -------------------------------------------------------------------
#
# For bench/run and bench/ledger, which set $seconds, $clients, $threads and, while
# they measure, $round.

sql() { run psql -X -q -At -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }

# The same state before each measurement: empty ledger and log, no dead rows,
# nothing left for a checkpoint to write.
reset_state()
{
	run psql -X -q -d "$1" -v ON_ERROR_STOP=1 -c 'TRUNCATE quota.usage_events, quota.quota_audit_log' \
		-c 'VACUUM quota.usage_tracking' -c 'CHECKPOINT'
}

# measure DATABASE PEER CLIENTS on|off|growth: calls per second to $rate, and to
# the file that the ratios are computed from
measure()
{
	local sync=$4
	[ "$sync" != growth ] || sync=off
	reset_state "$1"
	PGOPTIONS="-c synchronous_commit=$sync" run pgbench -n -M prepared -c "$3" -j "$threads" \
		-T "$seconds" -f "$WORK/$2.sql" "$1" >"$WORK/pgbench.log" 2>&1 ||
		{ cat "$WORK/pgbench.log" >&2; die "pgbench failed"; }
	if grep -E 'ERROR|aborted' "$WORK/pgbench.log" >&2; then
		die "calls of $2 failed"
	fi
	rate=$(awk -v n="${CALLS_OF[$2]:-$CALLS}" '/^tps/ { printf "%.0f", $3 * n }' "$WORK/pgbench.log")
	printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$round" "$3" "$4" "$2" "$rate" >>"$WORK/rates"
}

# Median and range of the ratios of two peers, each of one round; or the median rate
median()
{
	sort -n | awk '{ v[NR] = $1 } END { printf "%.2f %.2f %.2f", (v[int((NR + 1) / 2)] + v[int((NR + 2) / 2)]) / 2, v[1], v[NR] }'
}

# ratio CLIENTS on|off|growth DATABASE PEER DATABASE PEER
ratio()
{
	awk -F'\t' -v c="$1" -v s="$2" -v a="$3 $4" -v b="$5 $6" '
		$3 == c && $4 == s { r[$2, $1 " " $5] = $6; rounds[$2] }
		END { for (n in rounds) print r[n, a] / r[n, b] }' "$WORK/rates" | median
}
rate_of()
{
	awk -F'\t' -v c="$1" -v s="$2" -v p="$3" \
		'$1 == "small" && $3 == c && $4 == s && $5 == p { print $6 }' "$WORK/rates" | median | cut -d. -f1
}

# row WHAT TARGET A B: one line of the table, a cell for each setting
row()
{
	local sync c m low high line="| $1 | $2 |"
	for sync in off on; do
		for c in "${clients[@]}"; do
			read -r m low high <<<"$(ratio "$c" "$sync" small "$3" small "$4")"
			line+=" **$m** ($low to $high) |"
		done
	done
	echo "$line"
}

header()
{
	local sync c line="| $1 |" rule="|---|"
	[ -z "$2" ] || { line+=" $2 |"; rule+="---|"; }
	for sync in off on; do
		for c in "${clients[@]}"; do
			line+=" $sync, $c clients |"
			rule+="---|"
		done
	done
	printf '%s\n%s\n' "$line" "$rule"
}
