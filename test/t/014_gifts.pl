# Gifts, purchases and voids in all directions at once, beside consuming: no unit
# comes from nowhere, none is lost, no cap is passed, no key or transaction counts
# twice, and nobody waits in a circle.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Utils;
use QuotaTest;
use Test::More;

my $node = new_server('gifts', settings => "deadlock_timeout = 20ms\nlog_lock_waits = on");

# Subjects 1 to 4 have a plan, 5 and 6 have none and so no account to meet at.
my $subject = "('00000000-0000-4000-8000-' || lpad(to_hex(%s::integer), 12, '0'))::uuid";
sub any { return sprintf $subject, $_[0] }

sub start
{
	$node->safe_psql('postgres', <<"END");
TRUNCATE quota.metrics, quota.metric_aliases, quota.plans, quota.plan_limits, quota.topup_prices, quota.recurring_bonuses, quota.subscriptions, quota.limit_overrides,
	quota.usage_tracking, quota.usage_history, quota.user_bonuses, quota.usage_events, quota.bonus_allocations, quota.quota_audit_log,
	quota.gifts, quota.gift_lines, quota.gift_parties, quota.topups;
INSERT INTO quota.metrics (metric, gift_period, gift_sent_limit, gift_received_limit) VALUES ('calls', 'lifetime', 60, 40);
INSERT INTO quota.plans (plan) VALUES ('small');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, mode, overage_price) VALUES ('small', 'calls', 'lifetime', 20, 'soft', 3);
INSERT INTO quota.topup_prices (plan, metric, discount) VALUES ('small', 'calls', 0.5);
INSERT INTO quota.subscriptions (user_id, plan) SELECT @{[ any('n') ]}, 'small' FROM generate_series(1, 4) AS n;
INSERT INTO quota.user_bonuses (user_id, metric, amount, priority, giftable)
	SELECT @{[ any('n') ]}, 'calls', 10, p, true FROM generate_series(1, 6) AS n, generate_series(1, 15) AS p;
END
	return;
}

# Ten keys, so most calls with one are repeats, some with another amount.  A
# transaction makes one call.
my $numbers = <<'END';
\set a random(1, 6)
\set b (:a + random(0, 4)) % 6 + 1
\set p random(1, 4)
\set k random(1, 10)
\set n random(1, 40)
END
my @scripts = (
	$numbers . "SELECT * FROM quota.gift_quota(@{[ any(':a') ]}, @{[ any(':b') ]}, 'calls', :n / 10.0);\n",
	$numbers . "SELECT * FROM quota.gift_quota(@{[ any(':a') ]}, @{[ any(':b') ]}, 'calls', (1 + :n / 30) / 2.0, 'k' || :k);\n",
	$numbers . "SELECT * FROM quota.check_and_consume_quota(@{[ any(':p') ]}, 'calls', :n / 10.0);\n",
	$numbers . "SELECT * FROM quota.purchase_topup(@{[ any(':p') ]}, 'calls', 1, 't' || :k);\n",
	$numbers . "SELECT quota.void_bonus((SELECT id FROM quota.user_bonuses WHERE user_id = @{[ any(':p') ]} AND voided_at IS NULL ORDER BY id LIMIT 1)) WHERE :k = 1;\n");

foreach my $case ([ 'rc', 'strict' ], [ 'rr', 'latest' ], [ 'rr', 'strict' ], [ 'ser', 'strict' ])
{
	my ($level, $mode) = @$case;
	my $trial = "$level $mode";
	my $retries = $level ne 'rc';

	start();
	my $result = pgbench(
		$node,
		script => \@scripts,
		clients => 16, transactions => 50,
		options => session_options($level, $mode),
		tries => $retries ? 1_000_000 : 1);
	is_deeply([ @$result{qw(processed failed)} ], [ $result->{asked}, 0 ], "$trial: no transaction failed");
	is($result->{errors}, '', "$trial: no error") unless $retries;

	is($node->safe_psql('postgres', <<'END'), 't|t|t|t', "$trial: there was something of everything");
SELECT (SELECT count(*) > 50 FROM quota.gifts WHERE key_hash IS NULL), (SELECT count(*) > 20 FROM quota.gifts WHERE key_hash IS NOT NULL),
	(SELECT count(*) > 20 FROM quota.topups), (SELECT bool_or(voided_at IS NOT NULL) FROM quota.user_bonuses)
END
	is($node->safe_psql('postgres', <<'END'), '', "$trial: bonuses gave what gifts say, and receivers have it");
SELECT 'bonus', b.id, b.given_amount FROM quota.user_bonuses b
	WHERE b.given_amount <> (SELECT coalesce(sum(l.amount), 0) FROM quota.gift_lines l WHERE l.from_bonus_id = b.id)
		OR (b.given_amount > 0 AND NOT b.giftable)
UNION ALL
SELECT 'gift', g.id, g.amount FROM quota.gifts g
	WHERE g.amount <> (SELECT sum(l.amount) FROM quota.gift_lines l JOIN quota.user_bonuses b ON b.id = l.to_bonus_id
		JOIN quota.user_bonuses s ON s.id = l.from_bonus_id
		WHERE l.gift_id = g.id AND b.amount = l.amount AND b.source = 'gift' AND b.user_id = g.to_user_id AND s.user_id = g.from_user_id)
UNION ALL
SELECT 'received', b.id, b.amount FROM quota.user_bonuses b
	WHERE b.source = 'gift' AND 1 <> (SELECT count(*) FROM quota.gift_lines l WHERE l.to_bonus_id = b.id)
END
	is($node->safe_psql('postgres', <<'END'), '', "$trial: no cap was passed");
SELECT 'sent', from_user_id, sum(amount) FROM quota.gifts GROUP BY 2 HAVING sum(amount) > 60
UNION ALL
SELECT 'received', to_user_id, sum(amount) FROM quota.gifts GROUP BY 2 HAVING sum(amount) > 40
END
	is($node->safe_psql('postgres', <<'END'), '', "$trial: each transaction id bought once");
SELECT user_id, transaction_id, count(*) FROM quota.user_bonuses b LEFT JOIN quota.topups t ON t.bonus_id = b.id
	WHERE source = 'paid' GROUP BY 1, 2 HAVING count(*) <> 1 OR count(t.bonus_id) <> 1
END
	is($node->safe_psql('postgres', <<'END'), 't|t|t', "$trial: each gift has two rows in the log, denials one");
SELECT (SELECT count(*) FROM quota.gifts) = count(*) FILTER (WHERE action = 'gift_sent' AND reason = 'ok'),
	(SELECT count(*) FROM quota.gifts) = count(*) FILTER (WHERE action = 'gift_received' AND reason = 'ok'),
	count(*) FILTER (WHERE action = 'gift_received' AND NOT success) = 0
FROM quota.quota_audit_log
END
	is($node->safe_psql('postgres', 'SELECT * FROM quota.verify_ledger()'), '', "$trial: verify_ledger() is empty");
}

is($node->safe_psql('postgres', q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'}),
	0, 'the server has counted no deadlock');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'and reported none');
done_testing();
