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
	'existing accounts' => "$own, 'calls');\n",
	'with keys' => "\\set k random(1, 1000000000)\n$own, 'calls', 1, 'key ' || :k::text);\n",
	'first use' => $own =~ s/random\(1, 100\)/random(101, 99000)/r . ", 'calls');\n",
	'two calls in a transaction' => "BEGIN;\n$own, 'calls');\n\\set n random(1, 100)\n"
	  . "SELECT quota.check_and_consume_quota(subject(:client_id::integer, :n::integer), 'calls');\nCOMMIT;\n",
	'denials' => "$own, 'denied', 2);\n",
	'three windows' => "$own, 'rated');\n",
	'bonuses' => "$own, 'bonuses');\n");

sub no_failures
{
	my ($when, $transactions) = @_;

	foreach my $trial (sort keys %trials)
	{
		my $result = pgbench($node, script => $trials{$trial}, clients => 16,
			transactions => $transactions, options => $options);

		is_deeply([ @$result{qw(processed failed)} ], [ $result->{asked}, 0 ], "$trial$when: no call failed");
	}
	return;
}

no_failures('', 1000);

# While a transaction stays open, the server keeps what it knows of all that ended
# since, until it has no room and sums it up.  Old versions of a row then look as if
# somebody was writing them now.
my $open = $node->background_psql('postgres', on_error_stop => 1);
$open->query_safe("BEGIN ISOLATION LEVEL SERIALIZABLE;
	SELECT quota.check_and_consume_quota(subject(16, 1000), 'calls')");
no_failures(' beside an open transaction', 400);
$open->query_safe('COMMIT');
$open->quit;

# Who asks and consumes reads the accounts of all metrics.  Where they share pages
# with other subjects', the server's setting decides.
$node->safe_psql('postgres', <<'END');
ALTER SYSTEM SET max_pred_locks_per_page = 64;
SELECT pg_reload_conf();
DO $$ BEGIN
	FOR c IN 0..15 LOOP
		PERFORM quota.check_and_consume_quota(subject(c, 200000), m) FROM unnest(ARRAY['calls', 'rated', 'bonuses']) AS m;
	END LOOP;
END $$;
END
%trials = ('asking' => "BEGIN;\nSELECT count(*) FROM quota.get_user_quota_status(subject(:client_id::integer, 200000));\n"
	  . "SELECT quota.check_and_consume_quota(subject(:client_id::integer, 200000), 'calls');\n\\sleep 2 ms\nCOMMIT;\n");
no_failures(' and consuming', 200);

is_sound($node, 'at the end');
done_testing();
