# Under SERIALIZABLE, clients that work on different subjects do not make each
# other's transactions fail, although their rows share tables and index pages.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use QuotaTest;
use Test::More;

my $node = new_server('neighbours', settings => "quota.default_plan = 'basic'");
$node->safe_psql('postgres', <<'END');
INSERT INTO quota.metrics (metric) VALUES ('calls'), ('rated'), ('bonuses'), ('denied');
INSERT INTO quota.plans (plan) VALUES ('basic');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('basic', 'calls', 'lifetime', 1000000, 'calendar'),
	('basic', 'rated', 'day', 1000000, 'first_use'),
	('basic', 'rated', 'week', 1000000, 'first_use'),
	('basic', 'rated', 'month', 1000000, 'first_use'),
	('basic', 'bonuses', 'lifetime', 1, 'calendar'),
	('basic', 'denied', 'lifetime', 1, 'calendar');
-- neighbours in the index are subjects of different clients
CREATE FUNCTION subject(client integer, n integer) RETURNS uuid IMMUTABLE
	RETURN ('00000000-0000-4000-8000-' || lpad(to_hex(n * 16 + client), 12, '0'))::uuid;
INSERT INTO quota.subscriptions (user_id, plan)
	SELECT subject(c, n), 'basic' FROM generate_series(0, 15) AS c, generate_series(1, 100) AS n;
INSERT INTO quota.user_bonuses (user_id, metric, amount)
	SELECT subject(c, n), 'bonuses', amount
	FROM generate_series(0, 15) AS c, generate_series(1, 100) AS n, (VALUES (3), (4), (1000000)) AS bonus (amount);
-- so that there are accounts to begin with
SELECT count(*) FROM generate_series(0, 15) AS c, generate_series(1, 100) AS n, (VALUES ('calls'), ('rated')) AS m (metric),
	quota.check_and_consume_quota(subject(c, n), m.metric);
VACUUM ANALYZE;
END

my $options = session_options('ser', 'strict');
my $own = "\\set n random(1, 100)\nSELECT quota.check_and_consume_quota(subject(:client_id::integer, :n::integer)";
my %trials = (
	'existing accounts' => [ 0, "$own, 'calls');\n" ],
	'with keys' => [ 0, "\\set k random(1, 1000000000)\n$own, 'calls', 1, 'key ' || :k::text);\n" ],
	'first use' => [ 0, $own =~ s/random\(1, 100\)/random(101, 99000)/r . ", 'calls');\n" ],
	'two calls in a transaction' => [ 0, "BEGIN;\n$own, 'calls');\n\\set n random(1, 100)\n"
		  . "SELECT quota.check_and_consume_quota(subject(:client_id::integer, :n::integer), 'calls');\nCOMMIT;\n" ],
	'denials' => [ 0, "$own, 'denied', 2);\n" ],
	# Bonuses are searched for in an index, whose pages subjects share, and the
	# server remembers more than two rows read of one page as the whole page: here
	# a neighbour's write can count as a conflict.  Rare, but not never.
	'three windows' => [ 0.1, "$own, 'rated');\n" ],
	'bonuses' => [ 0.5, "$own, 'bonuses');\n" ]);
foreach my $trial (sort keys %trials)
{
	my ($percent, $script) = @{ $trials{$trial} };
	my $result = pgbench($node, script => $script, clients => 16, transactions => 1000, options => $options);

	is($result->{processed} + $result->{failed}, $result->{asked}, "$trial: all had an end");
	note("$trial: $result->{failed} of $result->{asked} failed");
	cmp_ok($result->{failed}, '<=', $percent / 100 * $result->{asked},
		"$trial: at most $percent % of the calls met somebody else's");
}

is_sound($node, 'at the end');
done_testing();
