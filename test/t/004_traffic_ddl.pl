# Whatever the administrator does to the tables while calls go on, no call fails,
# nothing is lost, and the indexes stay in agreement with the tables.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Utils;
use QuotaTest;
use Test::More;

my $node = new_server('ddl', settings => <<'END');
quota.default_plan = 'ddl'
log_line_prefix = '%m [%p] %a '
END
$node->safe_psql('postgres', <<'END');
INSERT INTO quota.metrics (metric) VALUES ('calls'), ('scarce');
INSERT INTO quota.plans (plan) VALUES ('ddl');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('ddl', 'calls', 'day', NULL, 'first_use'),
	('ddl', 'calls', 'lifetime', 200, 'first_use'),
	('ddl', 'scarce', 'lifetime', 100, 'first_use');
SELECT quota.grant_bonus(('00000000-0000-4000-8000-' || lpad(to_hex(u), 12, '0'))::uuid, 'calls', amount)
FROM generate_series(0, 19) AS u, (VALUES (50), (100), (1000000)) AS bonus (amount);
-- what the clients were told
CREATE TABLE answers (event_id uuid, metric text, amount numeric, allowed boolean, replay boolean);
-- what triggers have seen
CREATE SCHEMA seen;
CREATE TABLE seen.rows (relation name, op text, moved numeric);
CREATE FUNCTION seen.row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	v_moved	numeric := 1;
BEGIN
	IF TG_TABLE_NAME = 'usage_tracking' THEN
		v_moved := NEW.used + NEW.bonus_used;
		IF TG_OP = 'UPDATE' THEN
			v_moved := v_moved - OLD.used - OLD.bonus_used;
		END IF;
	END IF;
	INSERT INTO seen.rows VALUES (TG_TABLE_NAME, TG_OP, v_moved);
	RETURN NEW;
END $$;
CREATE FUNCTION seen.mark() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.actor := 'marked';
	RETURN NEW;
END $$;
CREATE SEQUENCE seen.checks;
END

my $options = session_options('rc', 'strict');
my $latest = session_options('ser', 'latest');

# The keys repeat, so that some calls are replays; a key always has the same subject.
my $call = <<'END';
\set u random(0, 19)
INSERT INTO answers SELECT (o).event_id, 'calls', 1, (o).allowed, (o).already_processed
FROM quota.check_and_consume_quota(('00000000-0000-4000-8000-' || lpad(to_hex(:u::integer), 12, '0'))::uuid, 'calls') AS o;
END
my $keyed = <<'END';
\set k random(0, 19999)
INSERT INTO answers SELECT (o).event_id, 'calls', 2, (o).allowed, (o).already_processed
FROM quota.check_and_consume_quota(('00000000-0000-4000-8000-' || lpad(to_hex(:k::integer % 20), 12, '0'))::uuid,
	'calls', 2, 'key ' || :k::text, '{"from": "pgbench"}') AS o;
END
my $scarce_user = subject(1000);
my $scarce = <<"END";
\\sleep 2 ms
INSERT INTO answers SELECT (o).event_id, 'scarce', 1, (o).allowed, (o).already_processed
FROM quota.check_and_consume_quota('$scarce_user', 'scarce') AS o;
END

my @traffic = (
	pgbench_start($node, script => [ $call, $keyed ], clients => 4, transactions => 10_000_000, rate => 500, options => $options),
	pgbench_start($node, script => [ $call, $keyed ], clients => 4, transactions => 10_000_000, rate => 500, options => $latest),
	pgbench_start($node, script => $scarce, clients => 2, transactions => 10_000_000, options => $options));

sub query { return $node->safe_psql('postgres', $_[0]) }

# Calls of all three kinds go on
sub wait_for_traffic
{
	my $marks = query(q{SELECT clock_timestamp()});

	wait_until($node, "SELECT count(*) > 20
			AND count(DISTINCT e.user_id) > 5 AND count(*) FILTER (WHERE e.key_hash IS NOT NULL) > 5
			AND count(*) FILTER (WHERE e.key_hash IS NULL) > 5
		FROM quota.usage_events e WHERE e.id > quota.id_bound('$marks')", 'calls go on');
	return;
}

# A session that has everything cached from before
my $old = $node->background_psql('postgres');
my $old_user = subject(1001);
my $old_call = "SELECT allowed, used, remaining FROM quota.check_and_consume_quota('$old_user', 'scarce', 1)";
is($old->query_safe($old_call), 't|1|99', 'a session that stays on');
wait_for_traffic();

my @tables = split /\n/, query(q{SELECT relname FROM pg_class
	WHERE relnamespace = 'quota'::regnamespace AND relkind = 'r' ORDER BY relname});

# Indexes ---------------------------------------------------------------------

foreach my $table (@tables)
{
	my ($status, undef, $stderr) = $node->psql('postgres', "REINDEX TABLE CONCURRENTLY quota.$table");
	is($status, 0, "REINDEX TABLE CONCURRENTLY $table") or diag($stderr);
	wait_for_traffic() if $table =~ /^usage|audit|bonus/;
}
query('CREATE INDEX extra_used ON quota.usage_tracking (used)');
query('CREATE INDEX extra_amount ON quota.usage_events (metric, amount) INCLUDE (created_at) WHERE amount > 1');
query('CREATE INDEX CONCURRENTLY extra_audit ON quota.quota_audit_log (created_at DESC)');
query('CREATE INDEX extra_bonus ON quota.user_bonuses USING hash (used_amount)');
wait_for_traffic();
is_uncorrupted($node, 'with extra indexes');
query('DROP INDEX quota.extra_used');
query('DROP INDEX CONCURRENTLY quota.extra_amount');
wait_for_traffic();
is($old->query_safe($old_call), 't|2|98', 'the old session goes on after index changes');

# Rewrites ----------------------------------------------------------------------

foreach my $table (@tables)
{
	query("VACUUM FULL quota.$table");
	wait_for_traffic();
}
query('CLUSTER quota.usage_tracking USING idx_usage_tracking_quota_lookup');
query('VACUUM (ANALYZE) quota.usage_tracking');
query('ANALYZE quota.usage_events');
query('ALTER TABLE quota.usage_tracking SET (fillfactor = 80)');
wait_for_traffic();
is($old->query_safe($old_call), 't|3|97', 'the old session goes on after rewrites');

# Triggers ------------------------------------------------------------------------

# CREATE TRIGGER waits for all writers and keeps them out until it commits, so the
# count in its transaction is exact; so does DROP TRIGGER.
my %sum = (
	usage_tracking => 'SELECT sum(used + bonus_used) FROM quota.usage_tracking',
	usage_events => 'SELECT count(*) FROM quota.usage_events',
	quota_audit_log => 'SELECT count(*) FROM quota.quota_audit_log',
	bonus_allocations => 'SELECT count(*) FROM quota.bonus_allocations');
foreach my $table (sort keys %sum)
{
	foreach my $when (qw(AFTER BEFORE))
	{
		my $before = query(<<"END");
TRUNCATE seen.rows;
BEGIN;
CREATE TRIGGER seen $when INSERT OR UPDATE ON quota.$table FOR EACH ROW EXECUTE FUNCTION seen.row();
$sum{$table};
COMMIT;
END
		wait_for_traffic();
		my ($after, $seen) = split /\n/, query(<<"END");
BEGIN;
DROP TRIGGER seen ON quota.$table;
$sum{$table};
SELECT coalesce(sum(moved), 0) FROM seen.rows WHERE relation = '$table';
COMMIT;
END
		ok($seen > 0, "$when ROW trigger on $table fired");
		is($seen, $after - $before, "$when ROW trigger on $table saw each row once");
	}
}
is($old->query_safe($old_call), 't|4|96', 'the old session goes on after triggers');

# what a BEFORE trigger makes of the row is what is stored
my $unmarked = query(<<'END');
BEGIN;
CREATE TRIGGER mark BEFORE INSERT ON quota.quota_audit_log FOR EACH ROW EXECUTE FUNCTION seen.mark();
SELECT count(*) FROM quota.quota_audit_log WHERE action = 'consume';
COMMIT;
END
wait_for_traffic();
my $rows = query(<<'END');
BEGIN;
DROP TRIGGER mark ON quota.quota_audit_log;
SELECT count(*) - count(actor), count(*) > count(*) FILTER (WHERE actor IS NULL) FROM quota.quota_audit_log WHERE action = 'consume';
COMMIT;
END
is($rows, "$unmarked|t", 'a BEFORE trigger changes the rows that are written');

# Constraints and columns -----------------------------------------------------------

query(q{ALTER TABLE quota.usage_tracking ADD CONSTRAINT extra CHECK (used >= 0 AND nextval('seen.checks') > 0) NOT VALID});
query(q{ALTER TABLE quota.usage_events ADD CONSTRAINT extra CHECK (amount > 0 AND nextval('seen.checks') > 0) NOT VALID});
wait_for_traffic();
query('ALTER TABLE quota.usage_events DROP CONSTRAINT extra');
query('ALTER TABLE quota.usage_tracking DROP CONSTRAINT extra');
ok(query('SELECT last_value FROM seen.checks') > 40, 'CHECK constraints were evaluated');

query('ALTER TABLE quota.usage_tracking ADD COLUMN note text');
query('ALTER TABLE quota.usage_events ADD COLUMN region text');
query('ALTER TABLE quota.quota_audit_log ADD COLUMN region text');
query("UPDATE quota.usage_tracking SET note = 'kept' WHERE user_id = '$old_user'");
wait_for_traffic();
is($old->query_safe($old_call), 't|5|95', 'the old session goes on after added columns');
is(query("SELECT note FROM quota.usage_tracking WHERE user_id = '$old_user'"), 'kept', 'an added column keeps its value');
query('ALTER TABLE quota.usage_tracking DROP COLUMN note');
query('ALTER TABLE quota.usage_events DROP COLUMN region');
wait_for_traffic();
is($old->query_safe($old_call), 't|6|94', 'the old session goes on after dropped columns');

# Several tables in one transaction: whoever locks subscriptions first, as calls do,
# may take the others in any order.  Each round makes the sessions read their caches
# again, which locks tables, too.
my @others = qw(metrics metric_aliases plans plan_limits limit_overrides usage_tracking usage_history
  user_bonuses usage_events bonus_allocations quota_audit_log);
foreach my $round (0 .. $#others)
{
	my @order = (@others[$round .. $#others], @others[0 .. $round - 1]);

	@order = reverse @order if $round % 2;
	query("SELECT quota.set_limit_override('${\subject(2000)}', 'scarce', $round); UPDATE quota.plans SET price = $round");
	query(join ' ', 'BEGIN;', (map { "LOCK TABLE quota.$_ IN ACCESS EXCLUSIVE MODE;" } 'subscriptions', @order), 'COMMIT');
}
wait_for_traffic();
is($old->query_safe($old_call), 't|7|93', 'the old session goes on after locks on all tables');

# Limits ------------------------------------------------------------------------------

# Sessions that have the limit cached use it up and are refused; then another one
# raises it, lowers it, and lifts it.
sub wait_for_denials
{
	my $denied = query('SELECT count(*) FROM quota.quota_audit_log WHERE NOT success');

	wait_until($node, "SELECT count(*) >= $denied + 10 FROM quota.quota_audit_log WHERE NOT success", 'calls are refused');
	return query("SELECT used FROM quota.usage_tracking WHERE user_id = '$scarce_user' AND metric = 'scarce'");
}

# ANALYZE sends a message of its own about a table that the engine knows: together
# with the message about the limits it must not drown that one.
is(wait_for_denials(), 100, 'the limit was used up exactly');
query('ANALYZE quota.usage_tracking');
query("UPDATE quota.plan_limits SET limit_amount = 150 WHERE metric = 'scarce'");
wait_until($node, "SELECT used > 100 FROM quota.usage_tracking WHERE user_id = '$scarce_user'", 'the new limit counts');
is(wait_for_denials(), 150, 'a raised limit was used up exactly');
is($old->query_safe($old_call), 't|8|142', 'the old session has the new limit');
query("UPDATE quota.plan_limits SET limit_amount = 5 WHERE metric = 'scarce'");
is(wait_for_denials(), 150, 'nothing is granted above a lowered limit');
is($old->query_safe($old_call), 'f|8|0', 'the old session has the lower limit');
query("SELECT quota.set_limit_override('$scarce_user', 'scarce', 170)");
wait_until($node, "SELECT used > 150 FROM quota.usage_tracking WHERE user_id = '$scarce_user'", 'the override counts');
is(wait_for_denials(), 170, 'an override was used up exactly');

# The end -----------------------------------------------------------------------------

wait_for_traffic();
foreach my $clients (@traffic)
{
	my $result = pgbench_stop($clients, 'TERM');
	is($result->{errors}, '', 'no transaction failed');
}
wait_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'}, 'the clients are gone');
my $errors = join "\n", grep {
	/(?:ERROR|FATAL|PANIC|WARNING):/
	  && !/canceling autovacuum task|canceling statement due to user request|connection to client lost/ }
  split /\n/, slurp_file($node->logfile);
is($errors, '', 'the server has logged no error');

is(query('SELECT count(*) FROM (SELECT FROM answers WHERE replay LIMIT 1) AS replay'), 1, 'some calls were replays');
is(query(<<'END'), 'calls|t|0', 'the clients were told exactly what was recorded');
SELECT 'calls', count(a.event_id) > 1000, count(*) FILTER (WHERE a.event_id IS NULL OR e.id IS NULL OR a.amount <> e.amount)
FROM (SELECT * FROM answers WHERE allowed AND NOT replay) AS a
FULL JOIN (SELECT * FROM quota.usage_events WHERE user_id <> '00000000-0000-4000-8000-0000000003e9') AS e ON e.id = a.event_id
END
is_sound($node, 'at the end');
is_uncorrupted($node, 'at the end');

# A constraint that the row violates: an error, and nothing half written
query("ALTER TABLE quota.usage_events ADD CONSTRAINT small CHECK (amount < 10) NOT VALID");
is(sqlstate($node, "SELECT quota.check_and_consume_quota('$old_user', 'calls', 10)"),
	'23514', 'a violated CHECK constraint is an error');
is(query("SELECT count(*) FROM quota.usage_tracking WHERE user_id = '$old_user' AND metric = 'calls'"),
	0, 'and nothing is left of the call');
is($old->query_safe("SELECT allowed FROM quota.check_and_consume_quota('$old_user', 'calls', 9)"), 't', 'others go through');
query('ALTER TABLE quota.usage_events DROP CONSTRAINT small');

# A rewrite by ALTER TABLE leaves rows that only snapshots younger than it can see.
# A call that has waited for it must not take the table for empty.
my $new_user = subject(1002);
consume($node, "'$new_user', 'scarce', 5, 'the key'", 'allowed');
query("SELECT quota.grant_bonus('$new_user', 'scarce', 10)");
foreach my $case (
	[ usage_events => 'amount', "'$new_user', 'scarce', 5, 'the key'", 'allowed, already_processed', 't|t' ],
	[ user_bonuses => 'amount', "'$new_user', 'scarce', 1", 'allowed, bonus_used', 't|1' ],
	[ usage_tracking => 'used', "'$new_user', 'scarce', 1", 'allowed, used', 't|5' ])
{
	my ($table, $column, $args, $columns, $answer) = @$case;

	query("ALTER TABLE quota.$table ADD COLUMN doubled numeric GENERATED ALWAYS AS ($column * 2) STORED");
	is(consume($node, $args, $columns), $answer, "a generated column in $table");
	is(query("SELECT count(*) FROM quota.$table WHERE doubled IS DISTINCT FROM $column * 2"),
		0, "a generated column in $table is computed");
	$old->query_safe("BEGIN; ALTER TABLE quota.$table DROP COLUMN doubled;
		ALTER TABLE quota.$table ADD COLUMN doubled numeric GENERATED ALWAYS AS ($column * 2) STORED");
	my $clients = pgbench_start($node, clients => 1, script => <<"END");
INSERT INTO answers SELECT (o).event_id, '$table', 1, (o).allowed, (o).already_processed
FROM quota.check_and_consume_quota($args) AS o;
END
	wait_until_blocked($node, 1);
	$old->query_safe('COMMIT');
	pgbench_stop($clients);
	is(query("SELECT allowed FROM answers WHERE metric = '$table'"), 't', "a call that waits for a rewrite of $table is granted");
}
$old->quit;
is_sound($node, 'after rewrites');
is_uncorrupted($node, 'after rewrites');

# An index that misses rows is found: what was asked above can say no
query('CREATE INDEX misses ON quota.usage_events (amount)');
query(q{BEGIN; UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 'quota.misses'::regclass; COMMIT});
consume($node, "'$new_user', 'calls', 0.125", 'allowed');
like(corruption($node), qr/not valid: quota\.misses/, 'an index that is not valid is reported');
query(q{UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 'quota.misses'::regclass});
like(corruption($node), qr/lacks matching index tuple/, 'an index that misses a row is found');
query('DROP INDEX quota.misses');
done_testing();
