# What the tests in test/t share: a server with the extension, clients that
# hammer it, and the questions that every test ends with.
package QuotaTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use IPC::Run;

# What has not happened after a minute will not happen.
BEGIN { $ENV{PG_TEST_TIMEOUT_DEFAULT} //= 60 }
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_server subject session_options consume sqlstate
  pgbench pgbench_start pgbench_stop wait_until wait_until_blocked
  is_sound is_uncorrupted corruption);

# Isolation levels by the short name that test descriptions use
our %LEVEL = (
	rc => 'read committed',
	rr => 'repeatable read',
	ser => 'serializable');

# A running server with the extension in database "postgres".  "settings" go to
# postgresql.conf, the other arguments to PostgreSQL::Test::Cluster->init.
sub new_server
{
	my ($name, %args) = @_;
	my $settings = delete $args{settings} // '';
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--locale=C', '--encoding=UTF8' ], %args);
	$node->append_conf('postgresql.conf', <<END);
max_connections = 150
autovacuum_naptime = 1
log_statement = none
lc_messages = 'C'
$settings
END
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION quota CASCADE');
	return $node;
}

# The n-th subject
sub subject
{
	return sprintf '00000000-0000-4000-8000-%012x', $_[0];
}

# PGOPTIONS for a session in an isolation level of %LEVEL and a quota.isolation
sub session_options
{
	my ($level, $mode) = @_;
	my $isolation = $LEVEL{$level} or die "no such level: $level";

	$isolation =~ s/ /\\ /g;
	return "-c default_transaction_isolation=$isolation -c quota.isolation=$mode";
}

# One call in a session of its own; the answer's columns, joined by "|".
# $args are the arguments as SQL, $columns those of the outcome.
sub consume
{
	my ($node, $args, $columns, $database) = @_;

	return $node->safe_psql($database // 'postgres',
		"SELECT $columns FROM quota.check_and_consume_quota($args)");
}

# The SQLSTATE that the statement fails with; empty if it does not fail
sub sqlstate
{
	my ($node, $sql, %args) = @_;
	my ($status, $stdout, $stderr) = $node->psql(
		$args{database} // 'postgres', $sql,
		on_error_stop => 1,
		extra_params => [ '-v', 'VERBOSITY=sqlstate', @{ $args{params} // [] } ]);

	return '' if $status == 0;
	return $stderr =~ /(?:ERROR|FATAL):\s+(\w{5})/ ? $1 : "no SQLSTATE in: $stderr";
}

# Clients ---------------------------------------------------------------------

my $scripts = 0;

sub pgbench_command
{
	my ($node, %args) = @_;
	my @scripts = ref $args{script} ? @{ $args{script} } : ($args{script});
	my @command = (
		'pgbench', '--no-vacuum',
		'--host' => $args{host} // $node->host,
		'--port' => $args{port} // $node->port,
		'--protocol' => $args{protocol} // 'prepared',
		'--client' => $args{clients} // 16,
		'--jobs' => 2,
		'--max-tries' => $args{tries} // 1,
		'--verbose-errors');

	push @command,
	  exists $args{seconds}
	  ? ('--time' => $args{seconds})
	  : ('--transactions' => $args{transactions} // 1);
	push @command, '--rate' => $args{rate} if $args{rate};
	foreach my $script (@scripts)
	{
		my $file = PostgreSQL::Test::Utils::tempdir() . '/script' . ++$scripts . '.sql';
		PostgreSQL::Test::Utils::append_to_file($file, $script);
		push @command, '--file' => $file;
	}
	return @command, @{ $args{params} // [] }, $args{database} // 'postgres';
}

# Start clients: script (one, or a list to choose from at random), clients,
# transactions of each client or seconds, rate (transactions per second of all, where
# they go on for as long as a test takes), tries of a transaction, protocol, options
# (as of session_options), host and port of a pooler.
sub pgbench_start
{
	my ($node, %args) = @_;
	my @command = pgbench_command($node, %args);
	my $base = PostgreSQL::Test::Utils::tempdir() . '/pgbench' . $scripts;

	note("pgbench: @command");
	local $ENV{PGOPTIONS} = $args{options} // '';
	local $ENV{PGAPPNAME} = 'pgbench';
	my $handle = IPC::Run::start(\@command, '<', '/dev/null',
		'>', "$base.out", '2>', "$base.err");
	return { handle => $handle, out => "$base.out", err => "$base.err" };
}

# Wait for the clients' end; with a signal, bring it about.  Returns what they
# said: processed, asked, failed, retries, status, stderr.  "errors" are the
# lines of stderr that say that something went wrong.
sub pgbench_stop
{
	my ($clients, $signal) = @_;

	$clients->{handle}->signal($signal) if $signal;
	$clients->{handle}->finish;
	my $out = slurp_file($clients->{out});
	my $err = slurp_file($clients->{err});
	my %result = (stderr => $err, failed => 0, retries => 0);

	$result{status} = $clients->{handle}->full_result(0);
	($result{processed}, $result{asked}) = ($1, $2)
	  if $out =~ m{transactions actually processed: (\d+)(?:/(\d+))?};
	$result{failed} = $1 if $out =~ /number of failed transactions: (\d+)/;
	$result{retries} = $1 if $out =~ /total number of retries: (\d+)/;
	$result{errors} = join "\n", grep { /error|abort|fail/i } split /\n/, $err;
	return \%result;
}

# All of it: clients that run to their end
sub pgbench
{
	my $result = pgbench_stop(pgbench_start(@_));

	diag($result->{errors}) if $result->{status} != 0;
	return $result;
}

# Poll until the query says true.  Gives up with a failed test, not with a hang.
sub wait_until
{
	my ($node, $query, $what) = @_;

	$node->poll_query_until('postgres', $query) or die "timed out waiting until $what";
	return;
}

# Wait until so many clients of pgbench_start wait for a lock
sub wait_until_blocked
{
	my ($node, $n) = @_;

	wait_until($node, "SELECT count(*) = $n FROM pg_stat_activity
		WHERE application_name = 'pgbench' AND wait_event_type = 'Lock'", "$n clients wait");
	return;
}

# Questions ---------------------------------------------------------------------

# Are all counters the sum of what the entries say?  Asked of verify_ledger, and
# of the tables in another way, so that neither has to be trusted.
sub is_sound
{
	my ($node, $name, $database) = @_;
	$database //= 'postgres';

	is($node->safe_psql($database, 'SELECT * FROM quota.verify_ledger()'),
		'', "$name: verify_ledger() is empty");
	is($node->safe_psql($database, <<'END'), '', "$name: nothing is lost or invented");
WITH counted AS (
	SELECT user_id, metric, period, sum(used + bonus_used + overage) AS units, sum(bonus_used) AS bonus_units,
		sum(overage) AS overage, sum(cost) AS cost, sum(held) AS held, sum(held_cost) AS held_cost
	FROM (SELECT user_id, metric, period, used, bonus_used, overage, cost, held, held_cost FROM quota.usage_tracking
		UNION ALL
		SELECT user_id, metric, period, used, bonus_used, overage, cost, held, held_cost FROM quota.usage_history) AS account
	GROUP BY 1, 2, 3
), moved AS (
	SELECT e.user_id, e.metric, w.period, sum(e.amount) AS units,
		coalesce(sum(e.bonus_used) FILTER (WHERE w.allowance), 0) AS bonus_units,
		coalesce(sum(e.overage) FILTER (WHERE w.allowance), 0) AS overage,
		coalesce(sum(e.cost) FILTER (WHERE w.allowance), 0) AS cost,
		coalesce(sum(e.held - CASE WHEN w.allowance THEN coalesce(e.held_bonus, 0) + coalesce(e.held_overage, 0) ELSE 0 END), 0) AS held,
		coalesce(sum(e.held_cost) FILTER (WHERE w.allowance), 0) AS held_cost
	FROM quota.usage_events e
	CROSS JOIN LATERAL (SELECT e.period, true UNION ALL SELECT unnest(e.rate_periods), false) AS w (period, allowance)
	GROUP BY 1, 2, 3
), resolved AS (
	SELECT e.id, e.refers_to, count(r.id) AS n, count(r.id) FILTER (WHERE r.kind <> 'expire') AS ended, e.held, e.held_bonus, e.held_overage, e.held_cost,
		sum(r.held) AS returned, sum(r.held_bonus) AS returned_bonus, sum(r.held_overage) AS returned_overage,
		sum(r.held_cost) AS returned_cost, e.user_id, e.metric
	FROM quota.usage_events e
	LEFT JOIN quota.usage_events r ON r.refers_to = e.id AND r.kind IN ('settle', 'cancel', 'expire')
	WHERE e.kind = 'reserve'
	GROUP BY e.id
)
SELECT 'account', user_id, metric, period, c.units, e.units, c.bonus_units, e.bonus_units
FROM counted c FULL JOIN moved e USING (user_id, metric, period)
WHERE coalesce(c.units, 0) <> coalesce(e.units, 0)
	OR coalesce(c.bonus_units, 0) <> coalesce(e.bonus_units, 0)
UNION ALL
SELECT 'account''s overage', user_id, metric, period, c.overage, e.overage, c.cost, e.cost
FROM counted c FULL JOIN moved e USING (user_id, metric, period)
WHERE coalesce(c.overage, 0) <> coalesce(e.overage, 0) OR coalesce(c.cost, 0) <> coalesce(e.cost, 0)
UNION ALL
SELECT 'account''s holds', user_id, metric, period, c.held, e.held, c.held_cost, e.held_cost
FROM counted c FULL JOIN moved e USING (user_id, metric, period)
WHERE coalesce(c.held, 0) <> coalesce(e.held, 0) OR coalesce(c.held_cost, 0) <> coalesce(e.held_cost, 0)
UNION ALL
SELECT 'negative', user_id, metric, period, used, bonus_used, overage, held
FROM (SELECT user_id, metric, period, used, bonus_used, overage, cost, held, held_cost FROM quota.usage_tracking
	UNION ALL
	SELECT user_id, metric, period, used, bonus_used, overage, cost, held, held_cost FROM quota.usage_history) AS account
WHERE least(used, bonus_used, overage, cost, held, held_cost) < 0
UNION ALL
SELECT 'bonus', b.user_id, b.metric, b.id::text, b.used_amount, sum(a.amount), b.held_amount, sum(a.held)
FROM quota.user_bonuses b LEFT JOIN quota.bonus_allocations a ON a.bonus_id = b.id
GROUP BY b.id
HAVING b.used_amount <> coalesce(sum(a.amount), 0) OR b.held_amount <> coalesce(sum(a.held), 0)
	OR least(b.used_amount, b.held_amount, b.given_amount) < 0
	OR b.used_amount + b.held_amount + b.given_amount > b.amount
UNION ALL
SELECT 'bonus given away', b.user_id, b.metric, b.id::text, b.given_amount, sum(g.amount), NULL, NULL
FROM quota.user_bonuses b LEFT JOIN quota.gift_lines g ON g.from_bonus_id = b.id
GROUP BY b.id
HAVING b.given_amount <> coalesce(sum(g.amount), 0)
UNION ALL
SELECT 'gift', g.from_user_id, g.metric, g.id::text, g.amount, sum(l.amount), sum(b.amount), NULL
FROM quota.gifts g
LEFT JOIN quota.gift_lines l ON l.gift_id = g.id
LEFT JOIN quota.user_bonuses b ON b.id = l.to_bonus_id AND b.user_id = g.to_user_id AND b.amount = l.amount
GROUP BY g.id
HAVING g.amount IS DISTINCT FROM sum(l.amount) OR g.amount IS DISTINCT FROM sum(b.amount)
UNION ALL
SELECT 'event''s bonuses', e.user_id, e.metric, e.id::text, e.bonus_used, sum(a.amount), e.held_bonus, sum(a.held)
FROM quota.usage_events e LEFT JOIN quota.bonus_allocations a ON a.event_id = e.id
GROUP BY e.id
HAVING e.bonus_used <> coalesce(sum(a.amount), 0) OR coalesce(e.held_bonus, 0) <> coalesce(sum(a.held), 0)
UNION ALL
SELECT 'reservation resolved more than once', user_id, metric, id::text, n, held, returned, NULL
FROM resolved WHERE n > 1
UNION ALL
SELECT 'reservation not given back', user_id, metric, id::text, held, returned, held_bonus, returned_bonus
FROM resolved
WHERE n > 0 AND (held <> -returned OR coalesce(held_bonus, 0) <> -coalesce(returned_bonus, 0)
	OR coalesce(held_overage, 0) <> -coalesce(returned_overage, 0) OR coalesce(held_cost, 0) <> -coalesce(returned_cost, 0))
UNION ALL
-- those that expired are written down by whoever comes by, subject by subject
SELECT 'reservation ended for some of its subjects', a.user_id, a.metric, a.id::text, a.ended, b.ended, NULL, NULL
FROM resolved a JOIN resolved b ON b.refers_to = a.id
WHERE a.ended <> b.ended
UNION ALL
SELECT 'refunded more than it was', e.user_id, e.metric, e.id::text, e.amount, sum(r.amount), NULL, NULL
FROM quota.usage_events e JOIN quota.usage_events r ON r.refers_to = e.id AND r.kind = 'refund' AND e.kind <> 'refund'
GROUP BY e.id
HAVING e.amount + sum(r.amount) < 0
UNION ALL
SELECT 'refers to nothing', e.user_id, e.metric, e.id::text, NULL, NULL, NULL, NULL
FROM quota.usage_events e
WHERE NOT EXISTS (SELECT FROM quota.usage_events o WHERE o.id = e.refers_to)
	AND (e.refers_to IS NOT NULL OR e.kind IN ('settle', 'cancel', 'expire', 'refund'))
UNION ALL
-- one for each call, or each metric of a call, whatever the subject's parents were charged
SELECT 'event without its audit row', e.user_id, e.metric, e.id::text, e.amount, count(a.id), NULL, NULL
FROM quota.usage_events e
LEFT JOIN quota.usage_events o ON o.id = e.refers_to AND e.kind IN ('settle', 'cancel')
LEFT JOIN quota.quota_audit_log a ON a.event_id = e.id AND a.reason <> 'replay' AND a.success
	AND a.metric = e.metric
	AND (a.action = e.kind OR a.user_id <> e.user_id AND a.action IN ('consume', 'release') AND e.kind IN ('consume', 'release'))
	-- a move between two subjects charges their common parent the difference
	AND (e.kind NOT IN ('consume', 'reserve') OR a.user_id <> e.user_id
		OR a.attempted_amount = coalesce(e.requested, e.held, e.amount))
WHERE e.kind IN ('consume', 'release', 'set_gauge', 'reserve', 'settle', 'cancel')
	AND (e.refers_to IS NULL OR o.refers_to IS NULL AND o.id IS NOT NULL)
GROUP BY e.id
HAVING count(a.id) <> 1
UNION ALL
SELECT 'audit row without its event', a.user_id, a.metric, a.id::text, a.attempted_amount, NULL, NULL, NULL
FROM quota.quota_audit_log a
WHERE a.action IN ('consume', 'release', 'set_gauge', 'reserve', 'settle', 'cancel', 'refund') AND a.success
	AND NOT EXISTS (SELECT FROM quota.usage_events e WHERE e.id = a.event_id)
	-- a gauge may have had nothing to give back, or what one subject gave another one got
	AND (a.event_id IS NOT NULL OR NOT EXISTS (SELECT FROM quota.metrics m WHERE m.metric = a.metric AND m.kind = 'gauge'))
UNION ALL
SELECT 'key used twice', user_id, metric, encode(key_hash, 'hex'), count(*), NULL, NULL, NULL
FROM quota.usage_events WHERE key_hash IS NOT NULL
GROUP BY user_id, metric, key_hash HAVING count(*) > 1
LIMIT 10
END
	return;
}

# What is wrong with the tables and indexes; empty if nothing is.  Each index is
# checked in a transaction of its own, which keeps its lock from piling up against
# calls that go on; one that is not valid is not checked, and reported.
sub corruption
{
	my ($node, $database) = @_;

	my ($status, $stdout, $stderr) = $node->psql($database // 'postgres', <<'END', on_error_stop => 1);
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS amcheck;
SELECT 'not valid: ' || i.indexrelid::regclass
FROM pg_index i
JOIN pg_class t ON t.oid = i.indrelid
WHERE t.relnamespace = 'quota'::regnamespace AND NOT (i.indisvalid AND i.indisready);
DO $$
DECLARE
	v_indexes	oid[] := ARRAY(SELECT c.oid FROM pg_class c JOIN pg_am m ON m.oid = c.relam
		WHERE c.relnamespace = 'quota'::regnamespace AND c.relkind = 'i' AND m.amname = 'btree');
	v_index		oid;
BEGIN
	ASSERT cardinality(v_indexes) >= 15;
	FOREACH v_index IN ARRAY v_indexes LOOP
		PERFORM bt_index_parent_check(v_index, true, true);
		COMMIT;
	END LOOP;
END $$;
SELECT t.oid::regclass, v.*
FROM pg_class t, verify_heapam(t.oid) v
WHERE t.relnamespace = 'quota'::regnamespace AND t.relkind = 'r';
END
	return "$stdout$stderr";
}

# Do all indexes agree with their tables?
sub is_uncorrupted
{
	my ($node, $name, $database) = @_;

	is(corruption($node, $database), '', "$name: amcheck finds nothing");
	return;
}

1;
