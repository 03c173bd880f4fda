# shellcheck shell=bash disable=SC2034
# What bench/ledger and bench/instructions --ledger share, on top of bench/lib.sh:
# the calls that are made of several, and what they are compared with.  Sourced, never
# run.

# The peers
#
#	single				one call for one unit, a transaction of its own
#	single_block		the same between BEGIN and COMMIT
#	held				reserve and settle between BEGIN and COMMIT
#	held_apart			the same in two transactions, as where work is done in between
#	batch				consume_quota_batch for 100 subjects
#	batch_count			so, but the client only asks how many were granted
#	batch_cte			one statement that writes the same rows, and no logic
#	batch_cte_blind		so, but the audit rows make up their events and counts
#	batch_sql			one statement that looks up each subject's limit, locks in order,
#						writes the same rows where there is room, and answers for each; it
#						knows no bonuses, overrides, parents, keys or other periods
#	metrics				consume_quotas for 3 metrics
#	metrics_apart		3 calls for them, each its own transaction
#	metrics_together	3 calls for them in one transaction
#	level				one call on a metric that only the subject has a limit on
#	levels				the same where its team and its organisation have limits, too
#	draw, draw_batch	no call at all
LEDGER_PEERS=(single single_block held held_apart batch batch_count batch_cte batch_cte_blind batch_sql metrics metrics_apart metrics_together level levels)
BATCHES=5				# batches after each draw of subjects
for peer in batch batch_count batch_cte batch_cte_blind batch_sql draw_batch; do
	CALLS_OF["$peer"]=$((100 * BATCHES))
done
unset peer

ledger_call_of()
{
	case $1 in
		single) echo "SELECT * FROM quota.check_and_consume_quota($2, 'calls');" ;;
		single_block)
			echo 'BEGIN;'
			ledger_call_of single "$2"
			echo 'COMMIT;'
			;;
		held)
			echo 'BEGIN;'
			ledger_call_of held_apart "$2"
			echo 'COMMIT;'
			;;
		held_apart)
			echo "SELECT * FROM quota.reserve_quota($2, 'calls') \gset"
			echo 'SELECT * FROM quota.settle_reservation(:reservation_id);'
			;;
		batch) echo "SELECT * FROM quota.consume_quota_batch($2, array_fill('calls'::text, ARRAY[100]));" ;;
		batch_count) echo "SELECT count(*) FROM quota.consume_quota_batch($2, array_fill('calls'::text, ARRAY[100])) WHERE allowed;" ;;
		batch_cte | batch_cte_blind) batch_cte_of "$2" "$1" ;;
		batch_sql) batch_sql_of "$2" ;;
		metrics) echo "SELECT * FROM quota.consume_quotas($2, '{\"calls\": 1, \"exports\": 1, \"tokens\": 1}');" ;;
		metrics_apart)
			echo "SELECT * FROM quota.check_and_consume_quota($2, 'calls');"
			echo "SELECT * FROM quota.check_and_consume_quota($2, 'exports');"
			echo "SELECT * FROM quota.check_and_consume_quota($2, 'tokens');"
			;;
		metrics_together)
			echo 'BEGIN;'
			ledger_call_of metrics_apart "$2"
			echo 'COMMIT;'
			;;
		level | levels) echo "SELECT * FROM quota.check_and_consume_quota($2, 'chained');" ;;
		draw*) ;;
	esac
}

# As cte_of() of bench/lib.sh, for an array of subjects
batch_cte_of()
{
	local returning='' id='' audit
	if [ "$2" = batch_cte ]; then
		returning='RETURNING t.user_id, t.used' id='RETURNING id, user_id'
		audit="SELECT quota.new_id(now()), user_id, 'calls', 1, true, 'ok', 1000000000, charge.used,
	1000000000 - charge.used, 'month', 'consume', entry.id, now() FROM charge JOIN entry USING (user_id)"
	else
		audit="SELECT quota.new_id(now()), u, 'calls', 1, true, 'ok', 1000000000, 1,
	999999999, 'month', 'consume', quota.new_id(now()), now() FROM input"
	fi
	cat <<END
WITH input AS (
	SELECT u FROM unnest($1) AS u
), charge AS (
	UPDATE quota.usage_tracking t SET used = t.used + 1
	FROM input
	WHERE t.user_id = u AND t.metric = 'calls' AND t.period = 'month' $returning
), entry AS (
	INSERT INTO quota.usage_events (id, user_id, metric, kind, amount, bonus_used, period, created_at)
	SELECT quota.new_id(now()), u, 'calls', 'consume', 1, 0, 'month', now() FROM input $id
)
INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
	plan_limit, current_usage, remaining, period, action, event_id, created_at)
$audit;
END
}

# What a team would write that needs a limit and an answer, and nothing else
batch_sql_of()
{
	cat <<END
WITH input AS (
	SELECT u, n FROM unnest($1) WITH ORDINALITY AS i (u, n)
), account AS (
	SELECT t.user_id, t.used, l.limit_amount
	FROM input
	JOIN quota.subscriptions s ON s.user_id = u
	JOIN quota.plan_limits l ON l.plan = s.plan AND l.metric = 'calls' AND l.period = 'month'
	JOIN quota.usage_tracking t ON t.user_id = u AND t.metric = 'calls' AND t.period = 'month'
	ORDER BY t.user_id FOR UPDATE OF t
), charge AS (
	UPDATE quota.usage_tracking t SET used = t.used + 1
	FROM account a
	WHERE t.user_id = a.user_id AND t.metric = 'calls' AND t.period = 'month'
		AND (a.limit_amount IS NULL OR a.used + 1 <= a.limit_amount)
	RETURNING t.user_id, t.used
), entry AS (
	INSERT INTO quota.usage_events (id, user_id, metric, kind, amount, bonus_used, period, created_at)
	SELECT quota.new_id(now()), user_id, 'calls', 'consume', 1, 0, 'month', now() FROM charge
	RETURNING id, user_id
), answer AS (
	SELECT n, u, c.user_id IS NOT NULL AS allowed, limit_amount, coalesce(c.used, a.used) AS used,
		limit_amount - coalesce(c.used, a.used) AS remaining, e.id
	FROM input JOIN account a ON a.user_id = u LEFT JOIN charge c ON c.user_id = u LEFT JOIN entry e ON e.user_id = u
), audit AS (
	INSERT INTO quota.quota_audit_log (id, user_id, metric, attempted_amount, success, reason,
		plan_limit, current_usage, remaining, period, action, event_id, created_at)
	SELECT quota.new_id(now()), u, 'calls', 1, allowed, CASE WHEN allowed THEN 'ok' ELSE 'quota_exceeded' END,
		limit_amount, used, remaining, 'month', 'consume', id, now() FROM answer
)
SELECT allowed, remaining, limit_amount, used, id FROM answer ORDER BY n;
END
}

# write_ledger_scripts PEER …: $WORK/PEER.sql for pgbench
write_ledger_scripts()
{
	local peer i
	for peer; do
		{
			case $peer in
				batch* | draw_batch)
					for ((i = 1; i <= BATCHES; i++)); do
						echo '\set n random(1, 100)'
						echo "SELECT users AS b$i FROM bench.batches WHERE client = :client_id AND n = :n \gset"
					done
					for ((i = 1; i <= BATCHES; i++)); do
						ledger_call_of "$peer" ":b$i::uuid[]"
					done
					;;
				*)
					echo '\set n random(1, 10000)'
					case $peer in
						levels) echo 'SELECT * FROM bench.members WHERE n = :n \gset' ;;
						*) echo 'SELECT * FROM bench.draws WHERE n = :n \gset' ;;
					esac
					for ((i = 1; i <= CALLS; i++)); do
						ledger_call_of "$peer" ":u$i"
					done
					;;
			esac
		} >"$WORK/$peer.sql"
	done
}

# create_ledger NAME: what the peers need, besides what create_database has made
create_ledger()
{
	run psql -X -q -d "$1" -f "$WORK/tree/bench/ledger.sql" >"$WORK/setup.log" 2>&1 ||
		{ cat "$WORK/setup.log" >&2; die "could not prepare database $1"; }
}
