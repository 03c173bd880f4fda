# A dump takes everything along: in the restored database consuming goes on from
# the same counts, with the same limits, bonuses, keys, history and rights.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Utils;
use QuotaTest;
use Test::More;

# The clock stands still, so that no period ends between dump and question.
my $node = new_server('dump', settings => <<'END');
quota.test_clock = '2025-03-10 12:00+00'
quota.default_plan = 'basic'
END
my ($ann, $bob, $carol, $dave, $erin, $fay, $gus, $frank, $team, $org) = map { subject($_) } 1 .. 10;

$node->safe_psql('postgres', <<"END");
CREATE ROLE quota_app LOGIN;
CREATE ROLE quota_monitor LOGIN;
CREATE DATABASE custom;
CREATE DATABASE plain;
CREATE DATABASE parallel;
SELECT quota.load_preset('sheenapps'), quota.load_preset('bn_aura');
INSERT INTO quota.metrics (metric, kind) VALUES ('calls', 'counter'), ('seats', 'gauge');
INSERT INTO quota.metric_aliases (alias, metric) VALUES ('requests', 'calls');
INSERT INTO quota.plans (plan) VALUES ('basic'), ('big');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('basic', 'calls', 'month', 10, 'subscription'),
	('basic', 'calls', 'day', 6, 'first_use'),
	('basic', 'seats', 'lifetime', 3, 'calendar'),
	('big', 'calls', 'month', NULL, 'calendar');
SELECT quota.grant_access('quota_app', 'app'), quota.grant_access('quota_monitor', 'monitor');
SELECT quota.assign_plan('$ann', 'basic', p_anchor => '2025-01-31 10:00+00', p_time_zone => 'America/New_York'),
	quota.assign_plan('$bob', 'big');
SELECT quota.set_limit_override('$ann', 'calls', 7, '2025-04-01'), quota.set_limit_override('$bob', 'seats', 2);
SELECT quota.grant_bonus('$ann', 'calls', 2, '2025-03-11'), quota.grant_bonus('$ann', 'calls', 2.5, p_source => 'paid');
-- a period that is over, and the present one
SET quota.test_clock = '2025-02-20 12:00+00';
SELECT quota.check_and_consume_quota('$ann', 'calls', 4);
SET quota.test_clock = '2025-03-09 11:00+00';
SELECT quota.check_and_consume_quota('$ann', 'calls', 5, 'march', '{"page": 1}');
RESET quota.test_clock;
SELECT quota.check_and_consume_quota('$ann', 'requests', 3, 'split');
SELECT quota.check_and_consume_quota('$ann', 'calls', 100);
SELECT quota.check_and_consume_quota('$bob', 'calls', 1000000);
SELECT quota.check_and_consume_quota('$carol', 'seats', 1);
SELECT quota.assign_plan(u, 'professional') FROM unnest('{$dave,$erin}'::uuid[]) AS u;
SELECT quota.purchase_topup('$dave', 'ai_scans', 100, 'payment');
SELECT quota.grant_bonus('$dave', 'ai_scans', 10, p_giftable => true);
SELECT quota.gift_quota('$dave', '$erin', 'ai_scans', 4, 'gift');
SELECT quota.assign_plan('$gus', 'growth'), quota.set_parent('$fay', '$gus'), quota.assign_plan('$gus', 'starter', 'at_period_end');
SELECT quota.assign_plan('$gus', 'free', 'prorate'), quota.assign_plan('$gus', 'growth', 'at_period_end');
SELECT quota.set_recurring_bonus('$erin', 'ai_scans', 5);
-- a member without a plan of its own, its team, and an organisation that pays for more
INSERT INTO quota.plans (plan) VALUES ('team'), ('organisation');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES
	('team', 'calls', 'month', 20, 'hard', NULL),
	('team', 'seats', 'lifetime', 5, 'hard', NULL),
	('organisation', 'calls', 'month', 5, 'soft', 2);
INSERT INTO quota.subscriptions (user_id, plan, parent) VALUES
	('$org', 'organisation', NULL), ('$team', 'team', '$org'), ('$frank', NULL, '$team');
SELECT quota.set_gauge('$frank', 'seats', 4);
SELECT quota.release_quota('$frank', 'seats', 1);
END
# a charge that was refunded in part, a reservation that is open, one that has lapsed and
# was not tidied, and one that was settled
sub at
{
	my ($time, $query) = @_;

	return $node->safe_psql('postgres', "SET quota.test_clock = '2025-03-10 $time+00'; SELECT $query");
}
my $charge = at('11:30', "event_id FROM quota.check_and_consume_quota('$frank', 'calls', 4)");
at('11:35', "quota.refund_quota('$charge', 1, 'one failed')");
my $settled = at('11:35', "reservation_id FROM quota.reserve_quota('$ann', 'calls', 0.5, '1 hour')");
at('11:36', "quota.settle_reservation('$settled', 0.25)");
my $open = at('11:40', "reservation_id FROM quota.reserve_quota('$frank', 'calls', 3, '1 hour', 'reserved')");
my $lapsed = at('11:45', "reservation_id FROM quota.reserve_quota('$frank', 'calls', 2, '10 minutes')");

my @tables = split /\n/, $node->safe_psql('postgres', q{SELECT relname FROM pg_class
	WHERE relnamespace = 'quota'::regnamespace AND relkind IN ('r', 'p', 'S') ORDER BY relname});
ok(@tables >= 12, 'there are tables to dump');
is($node->safe_psql('postgres', q{SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
	WHERE oid IN (SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'quota')}),
	"@tables", 'all of them are marked to be dumped');

sub content
{
	my ($database) = @_;

	return $node->safe_psql($database, join ' UNION ALL ', map {
		"SELECT '$_', count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM quota.$_ AS t" } @tables);
}

my $content = content('postgres');
unlike($content, qr/\|0\|/, 'none of them is empty');
my $status = "SELECT * FROM quota.get_user_quota_status('$ann')";
my $before = $node->safe_psql('postgres', $status);
my $acl = "SELECT what, string_agg(a::text, ' ' ORDER BY a::text) FROM ("
  . q{SELECT oid::regprocedure::text AS what, proacl AS acl FROM pg_proc WHERE pronamespace = 'quota'::regnamespace
	UNION ALL SELECT oid::regclass::text, relacl FROM pg_class WHERE relnamespace = 'quota'::regnamespace
	UNION ALL SELECT nspname, nspacl FROM pg_namespace WHERE nspname = 'quota'}
  . ") AS object CROSS JOIN unnest(acl) AS a GROUP BY what ORDER BY what";
my $rights = $node->safe_psql('postgres', $acl);
like($rights, qr/quota_app/, 'there are rights to dump');

my $dir = PostgreSQL::Test::Utils::tempdir();
$node->command_ok([ 'pg_dump', '--format=custom', "--file=$dir/dump", 'postgres' ], 'pg_dump --format=custom');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--dbname=custom', "$dir/dump" ], 'pg_restore');
$node->command_ok([ 'pg_dump', "--file=$dir/dump.sql", 'postgres' ], 'pg_dump');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-o', "$dir/out", '-f', "$dir/dump.sql", 'plain' ], 'psql');
# Several at once load the tables in any order; see docs/guarantees.md
{
	local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
	$node->command_ok([ 'pg_restore', '--jobs=4', '--dbname=parallel', "$dir/dump" ], 'pg_restore --jobs');
}

foreach my $database (qw(custom plain parallel))
{
	is(content($database), $content, "$database: every row is back, once");
	is($node->safe_psql($database, $status), $before, "$database: the status is the same");
	is($node->safe_psql($database, $acl), $rights, "$database: the rights are the same");
	is_sound($node, $database, $database);

	my $call = sub { consume($node, "'$ann', $_[0]", $_[1], $database) };

	is($call->(q{'calls', 5, 'march'}, 'allowed, already_processed, used, remaining, event_id = (SELECT id FROM quota.usage_events WHERE amount = 5)'),
		't|t|5|1|t', "$database: a key from before is answered as before");
	is($call->(q{'requests', 3, 'split'}, 'allowed, already_processed, bonus_used, metric'),
		't|t|1|calls', "$database: with an alias too");
	is($call->(q{'calls', 4, 'march'}, 'reason'), 'idempotency_conflict', "$database: another amount is refused");
	is($call->(q{'calls', 100}, 'allowed, limit_amount'), 'f|7', "$database: the override counts");
	# The day is over for neither window, the rest is what was left before
	my ($left) = $node->safe_psql('postgres', "SELECT remaining FROM quota.check_quota('$ann', 'calls')");
	is($call->("'calls', $left", 'allowed, remaining'), 't|0', "$database: exactly the rest can be used");
	is($call->(q{'calls', 0.000001}, 'allowed'), 'f', "$database: and not more");
	is(consume($node, "'$bob', 'calls', 1", 'allowed, used', $database), 't|1000001', "$database: unlimited counts on");
	is(consume($node, "'$carol', 'seats', 2", 'allowed, remaining', $database), 't|0', "$database: so does the default plan");
	is(consume($node, "'$bob', 'seats', 3", 'allowed, reason', $database), 'f|quota_exceeded', "$database: an override of what the plan does not list");
	is($node->safe_psql($database, "SELECT price, total_available, already_processed FROM quota.purchase_topup('$dave', 'ai_scans', 100, 'payment')"),
		'4800|300|t', "$database: a purchase from before is answered as before");
	is($node->safe_psql($database, "SELECT allowed, amount, already_processed FROM quota.gift_quota('$dave', '$erin', 'ai_scans', 4, 'gift')"),
		't|4|t', "$database: so is a gift");
	is($node->safe_psql($database, "SELECT allowed, reason FROM quota.gift_quota('$dave', '$erin', 'ai_scans', 6.5)"),
		'f|insufficient_giftable', "$database: what was given is not given again");
	is($node->safe_psql($database, "SELECT remaining, binding_user_id FROM quota.check_quota('$fay', 'ai_generations')"),
		$node->safe_psql('postgres', "SELECT remaining, binding_user_id FROM quota.check_quota('$fay', 'ai_generations')"),
		"$database: parents count, with what is left of a change of plan");
	is($node->safe_psql($database, "SELECT quota.current_plan('$gus'), quota.current_plan('$gus', true)"), 'free|growth', "$database: an announced plan is still to come");
	is(sqlstate($node, "SELECT quota.set_parent('$gus', '$fay')", database => $database), '23514', "$database: a circle is refused");
	is($node->safe_psql($database, "SELECT used FROM quota.usage_history WHERE user_id = '$ann' AND period = 'month'"),
		'4', "$database: history is there");

	is(sqlstate($node, "SELECT quota.check_and_consume_quota('$bob', 'calls')", database => $database, params => [ '-U', 'quota_app' ]),
		'', "$database: the application's role may consume");
	is(sqlstate($node, 'SELECT FROM quota.usage_tracking', database => $database, params => [ '-U', 'quota_app' ]),
		'42501', "$database: and may not read tables");
	is(sqlstate($node, 'SELECT FROM quota.usage_tracking', database => $database, params => [ '-U', 'quota_monitor' ]),
		'', "$database: the monitor's role may read tables");
	is(sqlstate($node, "SELECT quota.check_and_consume_quota('$bob', 'calls')", database => $database, params => [ '-U', 'quota_monitor' ]),
		'42501', "$database: and may not consume");

	my $ask = sub { $node->safe_psql($database, "SELECT $_[0]") };
	is($ask->("granted, already_processed FROM quota.settle_reservation('$settled', 0.25)"), '0.25|t', "$database: a settlement from before is answered as before");
	is($ask->("reservation_id = '$open', already_processed FROM quota.reserve_quota('$frank', 'calls', 3, '1 hour', 'reserved')"), 't|t', "$database: so is a reservation");
	is($ask->("allowed, reason FROM quota.settle_reservation('$lapsed')"), 'f|reservation_expired', "$database: one that has lapsed does not count");
	is($ask->("allowed, granted, overage, cost, shortfall FROM quota.settle_reservation('$open', 5)"), 't|5|3|6|0', "$database: an open one is settled, at every level");
	is(sqlstate($node, "SELECT quota.cancel_reservation('$open')", database => $database), 'QU004', "$database: once");
	is(sqlstate($node, "SELECT quota.refund_quota('$charge', 4)", database => $database), 'QU005', "$database: a charge is refunded up to what is left of it");
	is($ask->("granted FROM quota.refund_quota('$charge')"), '-3', "$database: and that at every level");
	is($ask->("string_agg(concat_ws(' ', used, held, overage, cost), ', ' ORDER BY user_id) FROM quota.usage_tracking WHERE metric = 'calls' AND user_id IN ('$team', '$org')"),
		'5 0 0 0, 2 0 3 6', "$database: the accounts of both parents are right");
	is(consume($node, "'$frank', 'calls', 4", 'allowed, reason, overage, cost', $database), 't|overage|1|2', "$database: parents are charged on");
	is(consume($node, "'$frank', 'seats', 3", 'allowed, used, binding_user_id', $database), "f|3|$team", "$database: so is a gauge");
	is($ask->("granted, remaining FROM quota.release_quota('$frank', 'seats', 5)"), '-3|5', "$database: and gives back what it has");

	# the triggers on the catalogue are there, too
	is($node->safe_psql($database, <<"END"), "5 days\nt\nf", "$database: limits can be changed, and count at once");
UPDATE quota.plan_limits SET period = '5 day', limit_amount = 3 WHERE plan = 'basic' AND metric = 'seats' RETURNING period;
SELECT allowed FROM quota.check_and_consume_quota('${\subject(19)}', 'requests', 6);
SELECT allowed FROM quota.check_and_consume_quota('${\subject(19)}', 'requests', 1);
END
	isnt(sqlstate($node, "UPDATE quota.subscriptions SET parent = '$frank' WHERE user_id = '$org'", database => $database),
		'', "$database: a circle of parents is refused");
	is_sound($node, "$database, at the end", $database);
	is_uncorrupted($node, $database, $database);
}
is(content('postgres'), $content, 'the original is untouched');
done_testing();
