# Calls on overlapping chains of subjects (user, team, organisation) and on several
# metrics do not wait for each other in a circle, whatever the order in which they
# name them.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Utils;
use QuotaTest;
use Test::More;

my $node = new_server('chains', settings => "deadlock_timeout = 20ms\nlog_lock_waits = on");

# Subjects 1 to 12 are users, 21 to 24 teams, 31 and 32 organisations.  Their uuids
# come in another order, so that the levels of a chain are locked upwards, downwards
# and mixed.  "zz" is "calls" by a name that JSON puts after the others.
$node->safe_psql('postgres', <<'END');
CREATE FUNCTION subject(n int) RETURNS uuid LANGUAGE sql IMMUTABLE
	RETURN overlay(md5('subject ' || n) PLACING '4' FROM 13 FOR 1)::uuid;
INSERT INTO quota.metrics (metric, kind) VALUES ('calls', 'counter'), ('tokens', 'counter'), ('seats', 'gauge');
INSERT INTO quota.metric_aliases (alias, metric) VALUES ('zz', 'calls');
INSERT INTO quota.plans (plan) VALUES ('user'), ('team'), ('organisation');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor, mode) VALUES
	('user', 'calls', 'lifetime', 1000000, 'calendar', 'hard'),
	('user', 'calls', 'day', 1000000, 'first_use', 'hard'),
	('user', 'tokens', 'lifetime', 20, 'calendar', 'soft'),
	('team', 'calls', 'lifetime', 1000000, 'calendar', 'hard'),
	('team', 'seats', 'lifetime', 1000000, 'calendar', 'hard'),
	('organisation', 'calls', 'lifetime', 1000000, 'calendar', 'hard'),
	('organisation', 'calls', 'day', 1000000, 'first_use', 'shadow'),
	('organisation', 'tokens', 'lifetime', 200, 'calendar', 'hard'),
	('organisation', 'seats', 'lifetime', 1000000, 'calendar', 'hard');
INSERT INTO quota.subscriptions (user_id, plan, parent)
SELECT subject(n), 'organisation', NULL FROM unnest('{31, 32}'::int[]) AS n
UNION ALL
SELECT subject(n), 'team', subject(31 + n % 2) FROM generate_series(21, 24) AS n
UNION ALL
SELECT subject(n), 'user', subject(21 + n % 4) FROM generate_series(1, 12) AS n;

-- a seat belongs to a user, and is counted by its team and organisation
CREATE TABLE seats (seat int PRIMARY KEY, owner uuid, weight int NOT NULL DEFAULT 1);
CREATE TRIGGER seats AFTER INSERT OR UPDATE OR DELETE ON seats
	FOR EACH ROW EXECUTE FUNCTION quota.enforce_quota('seats', 'owner', 'weight');
INSERT INTO seats SELECT n, subject(1 + n % 12) FROM generate_series(1, 30) AS n;
END
is($node->safe_psql('postgres', <<'END'), 't|t|t', 'the levels of chains are in no common order');
SELECT bool_or(u.user_id < t.user_id AND t.user_id < o.user_id),
	bool_or(u.user_id > t.user_id), bool_or(t.user_id > o.user_id)
FROM quota.subscriptions u
JOIN quota.subscriptions t ON t.user_id = u.parent
JOIN quota.subscriptions o ON o.user_id = t.parent
END

my $user = '\set user random(1, 12)' . "\n";

# Each statement is a transaction of its own
my @calls = (
	$user . <<'END',
SELECT quota.check_and_consume_quota(subject(:user), 'calls', 2);
SELECT quota.check_and_consume_quota(subject(:user), 'tokens', 2);
END
	$user . <<'END',
SELECT quota.consume_quotas(subject(:user), jsonb_build_object('calls', 1, 'tokens', 3));
SELECT quota.consume_quotas(subject(:user), jsonb_build_object('tokens', 1, 'zz', 3, 'seats', 0.5));
END
	<<'END',
SELECT count(*) FROM quota.consume_quota_batch(
	ARRAY(SELECT subject(n) FROM generate_series(1, 12) AS n ORDER BY random()),
	ARRAY(SELECT (ARRAY['calls', 'tokens', 'zz'])[1 + floor(random() * 3)] FROM generate_series(1, 12)));
END
	<<'END',
SELECT count(*) FROM quota.consume_quota_batch(
	ARRAY(SELECT subject(n) FROM unnest('{1, 2, 3, 21, 22, 23, 24, 31, 32, 1}'::int[]) AS n ORDER BY random()),
	ARRAY(SELECT (ARRAY['tokens', 'calls'])[1 + floor(random() * 2)] FROM generate_series(1, 10)));
END
	$user . <<'END',
SELECT reservation_id AS reservation FROM quota.reserve_quota(subject(:user), 'calls', 4) \gset
SELECT quota.settle_reservation(:reservation, 5);
SELECT reservation_id AS reservation FROM quota.reserve_quota(subject(:user), 'calls', 1) \gset
SELECT quota.cancel_reservation(:reservation);
END
	$user . <<'END');
SELECT event_id AS event FROM quota.check_and_consume_quota(subject(:user), 'calls', 3) \gset
SELECT quota.refund_quota(:event, 2);
END

# Rows that count: a move charges the chains of both owners
my @rows = (
	$user . <<'END',
\set seat random(1, 30)
UPDATE seats SET owner = subject(:user) WHERE seat = :seat;
UPDATE seats SET weight = 1 + :user % 3 WHERE seat = :seat;
END
	$user . <<'END');
\set seat random(31, 1000000000)
INSERT INTO seats VALUES (:seat, subject(:user)) ON CONFLICT DO NOTHING;
DELETE FROM seats WHERE seat = :seat;
END

# Several calls in one transaction: on one chain, which is locked already, and on two
# that are locked in the order beforehand
my @transactions = (
	$user . <<'END',
BEGIN;
SELECT quota.check_and_consume_quota(subject(:user), 'calls', 1);
SELECT reservation_id AS reservation FROM quota.reserve_quota(subject(:user), 'calls', 2) \gset
SELECT quota.settle_reservation(:reservation);
COMMIT;
END
	<<'END');
BEGIN;
SELECT quota.lock_accounts(ARRAY(SELECT subject(n) FROM unnest('{7, 24, 32, 31, 2, 23}'::int[]) AS n), 'calls');
SELECT quota.check_and_consume_quota(subject(7), 'calls', 1);
SELECT quota.check_and_consume_quota(subject(2), 'calls', 1);
COMMIT;
END

# Users change their team, teams their organisation
my @disturbances = (
	$user . '\set team random(21, 24)' . "\nUPDATE quota.subscriptions SET parent = subject(:team) WHERE user_id = subject(:user);\n",
	'\set team random(21, 24)' . "\n" . '\set org random(31, 32)' . "\nUPDATE quota.subscriptions SET parent = subject(:org) WHERE user_id = subject(:team);\n");

# Under SERIALIZABLE a table of one's own has conflicts of its own.  A chain that changes
# between two calls of a transaction has no order any more.
foreach my $case (
	[ 'rc', 'strict', [ @calls, @rows, @transactions ] ],
	[ 'ser', 'latest', [ @calls, @transactions ] ],
	[ 'ser', 'strict', [ @calls, @rows, @transactions ] ],
	[ 'rc', 'strict', [ @calls, @rows ], 'disturbed' ])
{
	my ($level, $mode, $scripts, $disturbed) = @$case;
	my $retries = $disturbed || ($mode eq 'strict' && $level ne 'rc');
	my $trial = "$level $mode" . ($disturbed ? ' while parents change' : '');
	my $disturber;

	$disturber = pgbench_start($node, script => \@disturbances, clients => 1, transactions => 1_000_000)
	  if $disturbed;
	my $result = pgbench(
		$node,
		script => $scripts,
		clients => 16, transactions => $retries ? 15 : 60,
		options => session_options($level, $mode),
		tries => $retries ? 1_000_000 : 1);
	is_deeply([ @$result{qw(processed failed)} ], [ $result->{asked}, 0 ], "$trial: no transaction failed");
	is($result->{errors}, '', "$trial: no error") unless $retries;
	is(pgbench_stop($disturber, 'TERM')->{errors}, '', "$trial: no change of a parent failed") if $disturbed;
	is($node->safe_psql('postgres', q{SELECT bool_and(used + held <= limit_amount)
			FROM quota.usage_tracking JOIN quota.subscriptions USING (user_id) JOIN quota.plan_limits USING (plan, metric, period)
			WHERE mode = 'hard'}), 't', "$trial: no limit is passed");
	is($node->safe_psql('postgres', <<'END'), '', "$trial: a seat is counted by every level of its owner's chain") unless $disturbed;
SELECT team, t.used, s.weight, o.used
FROM (SELECT u.parent AS team, sum(weight) + (SELECT coalesce(sum(amount), 0) FROM quota.usage_events e
			WHERE e.user_id = u.parent AND metric = 'seats' AND amount = 0.5) AS weight
	FROM seats JOIN quota.subscriptions u ON u.user_id = owner GROUP BY u.parent) AS s
JOIN quota.usage_tracking t ON t.user_id = team AND t.metric = 'seats'
JOIN quota.subscriptions p ON p.user_id = team
JOIN quota.usage_tracking o ON o.user_id = p.parent AND o.metric = 'seats'
WHERE t.used <> s.weight OR o.used < t.used
END
	is_sound($node, $trial);
}

is($node->safe_psql('postgres', q{SELECT bool_and(n > 20) FROM (SELECT count(*) AS n FROM quota.usage_events
		WHERE kind IN ('consume', 'release', 'reserve', 'settle', 'cancel', 'refund') GROUP BY kind) AS e}),
	't', 'there was something of every kind');
is($node->safe_psql('postgres', q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'}),
	0, 'the server has counted no deadlock');
unlike(slurp_file($node->logfile), qr/deadlock detected|40P01/, 'and reported none');
done_testing();
