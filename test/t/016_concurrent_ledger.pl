# All operations at once, from 16 clients, on a few subjects that have parents: nobody
# waits in a circle, no limit is passed, and the books are in order.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Utils;
use QuotaTest;
use Test::More;

my $node = new_server('ledger', settings => "deadlock_timeout = 50ms\nlog_lock_waits = on");

# Where reservations and events are to be met by several clients, they have keys: who
# comes second gets the first one's, and acts on it at the same time.  Periods of a
# minute end while the clients are at it, and reservations of a second expire.
$node->safe_psql('postgres', <<'END');
INSERT INTO quota.metrics (metric, kind) VALUES
	('calls', 'counter'), ('tokens', 'counter'), ('seats', 'gauge'), ('files', 'gauge');
INSERT INTO quota.plans (plan) VALUES ('member'), ('team'), ('organisation'), ('arrears');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, mode, overage_price, spend_cap) VALUES
	('member', 'calls', 'minute', 60, 'hard', NULL, NULL),
	('member', 'calls', 'lifetime', 150, 'hard', NULL, NULL),
	('member', 'tokens', 'minute', 40, 'soft', 0.5, 30),
	('member', 'seats', 'lifetime', 9, 'hard', NULL, NULL),
	('member', 'files', 'lifetime', 20, 'hard', NULL, NULL),
	('team', 'calls', 'minute', 150, 'hard', NULL, NULL),
	('team', 'calls', 'day', 1000000, 'shadow', NULL, NULL),
	('team', 'tokens', '2 minutes', 60, 'soft', 0.25, NULL),
	('team', 'seats', 'lifetime', 25, 'hard', NULL, NULL),
	('organisation', 'calls', 'lifetime', 400, 'shadow', NULL, NULL),
	('organisation', 'tokens', 'lifetime', 500, 'hard', NULL, NULL),
	('organisation', 'files', 'lifetime', 60, 'soft', 1, NULL),
	('arrears', 'tokens', 'lifetime', 0, 'soft', 1, NULL);

-- four members, a team of two of them, and the organisation that all belong to; and one
-- whose units are paid for afterwards
CREATE FUNCTION subject(trial integer, n integer) RETURNS uuid LANGUAGE sql IMMUTABLE
	RETURN ('00000000-0000-4000-8000-' || lpad(to_hex(16 * trial + n), 12, '0'))::uuid;
CREATE FUNCTION begin_trial(trial integer) RETURNS void LANGUAGE sql AS $$
	INSERT INTO quota.subscriptions (user_id, plan) VALUES (subject(trial, 6), 'organisation'), (subject(trial, 7), 'arrears');
	INSERT INTO quota.subscriptions (user_id, plan, parent) VALUES (subject(trial, 5), 'team', subject(trial, 6));
	INSERT INTO quota.subscriptions (user_id, plan, parent) VALUES
		(subject(trial, 1), 'member', subject(trial, 5)), (subject(trial, 2), 'member', subject(trial, 5)),
		(subject(trial, 3), 'member', subject(trial, 6)), (subject(trial, 4), NULL, subject(trial, 5));
$$;

-- What comes too late, or asks for too much, is part of the game.
CREATE FUNCTION settle(id uuid, actual numeric) RETURNS quota.outcome LANGUAGE plpgsql AS $$
BEGIN
	RETURN quota.settle_reservation(id, actual);
EXCEPTION WHEN SQLSTATE 'QU004' THEN
	RETURN NULL;
END $$;
CREATE FUNCTION cancel(id uuid) RETURNS quota.outcome LANGUAGE plpgsql AS $$
BEGIN
	RETURN quota.cancel_reservation(id);
EXCEPTION WHEN SQLSTATE 'QU004' THEN
	RETURN NULL;
END $$;
CREATE FUNCTION refund(id uuid, amount numeric) RETURNS quota.outcome LANGUAGE plpgsql AS $$
BEGIN
	RETURN quota.refund_quota(id, amount, 'trial');
EXCEPTION WHEN SQLSTATE 'QU005' THEN
	RETURN NULL;
END $$;
CREATE FUNCTION adjust(id uuid, metric text, delta numeric) RETURNS quota.outcome LANGUAGE plpgsql AS $$
BEGIN
	RETURN quota.adjust_account(id, metric, delta);
EXCEPTION WHEN SQLSTATE '22023' THEN
	RETURN NULL;
END $$;
END

# pgbench's scripts; :trial is given, and these are drawn by lot
my $lots = <<'END';
\set u random(1, 6)
\set m random(1, 4)
\set n random(1, 3)
\set key random(1, 1000000)
END
my $user = 'subject(:trial, :u)';
my $metric = q{('{calls,tokens,seats,files}'::text[])[:m]};
my $none = '00000000-0000-0000-0000-000000000000';

# What several clients of a trial meet at
my $shared_key = q{:trial::text || ' ' || extract(epoch FROM clock_timestamp())::integer / 2 || ' ' || :n};

my @calls = map { $lots . $_ } (
	"SELECT allowed FROM quota.check_and_consume_quota($user, $metric, :n);\n",
	"SELECT allowed FROM quota.check_and_consume_quota($user, $metric, :n * 0.3);\n",
	"SELECT allowed FROM quota.consume_up_to($user, $metric, :n * 4);\n",
	"SELECT allowed FROM quota.check_quota($user, $metric, :n);\n",

	# its event again and again, by whoever has the same key
	<<"END", <<"END",
SELECT coalesce(event_id, '$none') AS event FROM quota.check_and_consume_quota($user, $metric, 3, 'event ' || $shared_key) \\gset
SELECT refund(:event::uuid, :n);
SELECT refund(:event::uuid, 1);
END
SELECT coalesce(event_id, '$none') AS event FROM quota.check_and_consume_quota($user, $metric, 3, 'all of ' || $shared_key) \\gset
SELECT refund(:event::uuid, NULL);
END

	# one reservation, several ends
	<<"END", <<"END", <<"END", <<"END", <<"END",
SELECT coalesce(reservation_id, '$none') AS id FROM quota.reserve_quota($user, $metric, 2, '1 second', 'hold ' || $shared_key) \\gset
SELECT settle(:id::uuid, :n - 1);
END
SELECT coalesce(reservation_id, '$none') AS id FROM quota.reserve_quota($user, $metric, 2, '1 second', 'hold ' || $shared_key) \\gset
SELECT settle(:id::uuid, NULL);
SELECT settle(:id::uuid, 2);
END
SELECT coalesce(reservation_id, '$none') AS id FROM quota.reserve_quota($user, $metric, 2, '1 second', 'hold ' || $shared_key) \\gset
SELECT cancel(:id::uuid);
END
SELECT coalesce(reservation_id, '$none') AS id FROM quota.reserve_quota($user, $metric, :n, '1 minute') \\gset
SELECT coalesce((settle(:id::uuid, :n * 2)).event_id, '$none') AS event \\gset
SELECT refund(:event::uuid, :n * 0.5);
END
SELECT allowed FROM quota.reserve_quota($user, $metric, :n, '1 second');
END

	# several at once, in any order
	<<"END", <<"END",
SELECT allowed FROM quota.consume_quotas($user, jsonb_build_object('tokens', :n::numeric, 'calls', 1, 'seats', 0.5));
END
SELECT allowed FROM quota.consume_quota_batch(
	ARRAY[subject(:trial, :n), subject(:trial, 7 - :u), $user, subject(:trial, 4)],
	ARRAY[$metric, 'calls', 'tokens', $metric], ARRAY[1, :n, 0.5, 1]);
END

	# more is used than is paid for
	<<"END",
SELECT allowed FROM quota.check_and_consume_quota(subject(:trial, 7), 'tokens', 2);
SELECT quota.grant_bonus(subject(:trial, 7), 'tokens', 1);
END

	# gauges
	"SELECT granted FROM quota.release_quota($user, 'seats', :n);\n",
	"SELECT granted FROM quota.release_quota($user, 'files', :n);\n",
	"SELECT granted FROM quota.set_gauge($user, 'files', 5 * :n, 'trial');\n",

	# admin acts and jobs
	"SELECT adjust($user, $metric, -0.5);\n",
	"SELECT quota.reset_account($user, 'tokens');\n",
	"SELECT quota.tidy_account($user, $metric);\n",
	"SELECT quota.grant_bonus($user, $metric, :n, p_priority => 10 * :n, p_giftable => true);\n");

# These are made of SQL, and so take part in the bookkeeping of SERIALIZABLE whatever
# quota.isolation says: they, and others because of them, fail with 40001.
my @acts = map { $lots . $_ } (
	<<"END", <<"END");
SELECT quota.grant_bonus($user, $metric, 2, now() + '1 second') AS bonus \\gset
SELECT quota.void_bonus(:bonus::uuid, 'trial');
END
SELECT allowed FROM quota.gift_quota($user, subject(:trial, 7 - :u), $metric, :n * 0.5);
END

# Records beyond a hard limit, of the present or of the past
my $beyond = <<'END';
SELECT r.user_id, r.metric, r.period, r.used, r.held, l.limit_amount
FROM (SELECT user_id, metric, period, used, held FROM quota.usage_tracking
	UNION ALL
	SELECT user_id, metric, period, used, held FROM quota.usage_history) AS r
JOIN quota.subscriptions s USING (user_id)
JOIN quota.plan_limits l USING (plan, metric, period)
-- set_gauge tells what is, whatever the limit
WHERE l.mode = 'hard' AND r.metric <> 'files' AND r.used + r.held > l.limit_amount
END

my $n = 0;
foreach my $case ([ 'rc', 'strict' ], [ 'ser', 'latest' ], [ 'ser', 'strict' ])
{
	my ($level, $mode) = @$case;
	my $trial = "$level $mode";
	my $retries = $level ne 'rc' && $mode eq 'strict';

	$node->safe_psql('postgres', 'SELECT begin_trial(' . ++$n . ')');
	my $result = pgbench(
		$node,
		script => [ @calls, $mode eq 'latest' ? () : @acts ],
		clients => 16, transactions => $retries ? 60 : 250,
		options => session_options($level, $mode),
		params => [ "--define=trial=$n" ],
		tries => $retries ? 1_000_000 : 1);
	is_deeply([ @$result{qw(processed failed)} ], [ $result->{asked}, 0 ], "$trial: no transaction failed");
	is($result->{errors}, '', "$trial: no error") unless $retries;
	is($node->safe_psql('postgres', $beyond), '', "$trial: no hard limit is passed");
	is_sound($node, $trial);

	# Reservations that were left alone expire, the last one after a minute.
	$node->safe_psql('postgres', <<"END");
SET quota.test_clock = '@{[ $node->safe_psql('postgres', "SELECT now() + '61 seconds'") ]}';
SELECT quota.tidy_account(user_id, metric) FROM quota.subscriptions, quota.metrics;
END
	is($node->safe_psql('postgres', <<'END'), '0|0|0', "$trial: nothing is held for ever");
SELECT (SELECT count(*) FROM quota.usage_tracking WHERE held <> 0 OR held_cost <> 0),
	(SELECT count(*) FROM quota.usage_history WHERE held <> 0 OR held_cost <> 0),
	(SELECT count(*) FROM quota.user_bonuses WHERE held_amount <> 0)
END
	is_sound($node, "$trial, when all reservations are over");
}

# What never happened was not tried.
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT kind, ',' ORDER BY kind) FROM quota.usage_events"),
	'adjust,cancel,consume,expire,refund,release,repay,reserve,set_gauge,settle', 'there were events of all kinds');
is($node->safe_psql('postgres', 'SELECT count(*) > 10 FROM quota.gifts'), 't', 'there were gifts');
is($node->safe_psql('postgres', q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'}),
	0, 'the server has counted no deadlock');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'and reported none');
is_uncorrupted($node, 'at the end');
done_testing();
