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
	foreach my $script (@scripts)
	{
		my $file = PostgreSQL::Test::Utils::tempdir() . '/script' . ++$scripts . '.sql';
		PostgreSQL::Test::Utils::append_to_file($file, $script);
		push @command, '--file' => $file;
	}
	return @command, @{ $args{params} // [] }, $args{database} // 'postgres';
}

# Start clients: script (one, or a list to choose from at random), clients,
# transactions of each client or seconds, tries of a transaction, protocol, options
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
	SELECT user_id, metric, period, sum(used + bonus_used) AS units, sum(bonus_used) AS bonus_units
	FROM (SELECT user_id, metric, period, used, bonus_used FROM quota.usage_tracking
		UNION ALL
		SELECT user_id, metric, period, used, bonus_used FROM quota.usage_history) AS account
	GROUP BY 1, 2, 3
), charged AS (
	SELECT e.user_id, e.metric, w.period, sum(e.amount) AS units,
		coalesce(sum(e.bonus_used) FILTER (WHERE w.period = e.period), 0) AS bonus_units
	FROM quota.usage_events e
	CROSS JOIN unnest(e.rate_periods || e.period) AS w (period)
	GROUP BY 1, 2, 3
)
SELECT 'account', user_id, metric, period, c.units, e.units, c.bonus_units, e.bonus_units
FROM counted c FULL JOIN charged e USING (user_id, metric, period)
WHERE coalesce(c.units, 0) <> coalesce(e.units, 0)
	OR coalesce(c.bonus_units, 0) <> coalesce(e.bonus_units, 0)
UNION ALL
SELECT 'bonus', b.user_id, b.metric, b.id::text, b.amount, b.used_amount, sum(a.amount), NULL
FROM quota.user_bonuses b LEFT JOIN quota.bonus_allocations a ON a.bonus_id = b.id
GROUP BY b.id
HAVING b.used_amount <> coalesce(sum(a.amount), 0) OR b.used_amount NOT BETWEEN 0 AND b.amount
UNION ALL
SELECT 'event without its audit row', e.user_id, e.metric, e.id::text, e.amount, count(a.id), NULL, NULL
FROM quota.usage_events e
LEFT JOIN quota.quota_audit_log a ON a.event_id = e.id AND a.reason <> 'replay'
	AND a.success AND a.attempted_amount = e.amount AND a.user_id = e.user_id
GROUP BY e.id
HAVING count(a.id) <> 1
UNION ALL
SELECT 'audit row without its event', a.user_id, a.metric, a.id::text, a.attempted_amount, NULL, NULL, NULL
FROM quota.quota_audit_log a
WHERE a.action = 'consume' AND a.success
	AND NOT EXISTS (SELECT FROM quota.usage_events e WHERE e.id = a.event_id)
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
