# The server is killed under load: what was acknowledged is recorded, what was
# recorded was asked for, and the books are balanced.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use QuotaTest;
use Test::More;

my $node = new_server('crash', settings => <<'END');
quota.default_plan = 'crash'
restart_after_crash = on
synchronous_commit = on
END
$node->safe_psql('postgres', <<'END');
INSERT INTO quota.metrics (metric) VALUES ('calls');
INSERT INTO quota.plans (plan) VALUES ('crash');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('crash', 'calls', 'day', 100000000, 'first_use'), ('crash', 'calls', 'lifetime', 1000, 'calendar');
SELECT quota.grant_bonus(('00000000-0000-4000-8000-' || lpad(to_hex(u), 12, '0'))::uuid, 'calls', amount)
FROM generate_series(0, 9) AS u, (VALUES (10), (1000), (100000000)) AS bonus (amount);
CHECKPOINT;
END

# One call is one transaction, so each client has at most one under way.  Its key
# is the client's, and counts up.
my $clients = 8;
my $script = <<'END';
\set call :call + 1
SELECT quota.check_and_consume_quota(('00000000-0000-4000-8000-' || lpad(to_hex(:call::integer % 10), 12, '0'))::uuid,
	'calls', 1, :trial || ' ' || :client_id::text || ' ' || :call::text, jsonb_build_object('client', :client_id::integer)) AS o;
END
my @crashes = (
	[ 'a backend is killed', sub {
		my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity
			WHERE application_name = 'pgbench' LIMIT 1});
		kill 'KILL', $pid;
	}, sub { } ],
	[ 'the server is stopped at once', sub { $node->stop('immediate') }, sub { $node->start } ],
	[ 'the checkpointer is killed', sub {
		$node->safe_psql('postgres', 'CHECKPOINT');
		kill 'KILL', $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'});
	}, sub { } ]);
my $trial = 0;
foreach my $case (@crashes)
{
	my ($name, $crash, $restart) = @$case;
	my $count = 'SELECT count(*) FROM quota.usage_events';
	my $before = $node->safe_psql('postgres', $count);

	$trial++;
	my $load = pgbench_start(
		$node, script => $script, clients => $clients, transactions => 10_000_000,
		params => [ "--define=trial=$trial", '--define=call=0' ]);
	wait_until($node, "SELECT count(*) > $before + 2000 FROM quota.usage_events", 'there is load');
	$crash->();
	my $result = pgbench_stop($load);
	isnt($result->{status}, 0, "$name: the clients have noticed");
	$restart->();
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'the server did not come back';

	my $recorded = $node->safe_psql('postgres', $count) - $before;
	my $acknowledged = $result->{processed};
	note("acknowledged $acknowledged, recorded $recorded");
	ok($acknowledged > 1000, "$name: there was something to lose");
	ok($acknowledged <= $recorded, "$name: all that was acknowledged is recorded");
	ok($recorded <= $acknowledged + $clients, "$name: no more is recorded than was acknowledged or under way");
	is_sound($node, $name);

	# Clients that got no answer ask again with the same key.  Here all start over,
	# and go one call further than the furthest had come.
	my $calls = 1 + $node->safe_psql('postgres', <<"END");
SELECT max(n) FROM (SELECT count(*) AS n FROM (SELECT metadata FROM quota.usage_events ORDER BY id DESC LIMIT $recorded) AS e
	GROUP BY metadata) AS client
END
	my $again = pgbench(
		$node, script => $script, clients => $clients, transactions => $calls,
		params => [ "--define=trial=$trial", '--define=call=0' ]);
	is_deeply([ @$again{qw(processed failed errors)} ], [ $calls * $clients, 0, '' ], "$name: calls are repeated");
	is($node->safe_psql('postgres', $count), $before + $calls * $clients, "$name: every call is charged exactly once");
	is_sound($node, "$name, after repeating");
}
is_uncorrupted($node, 'at the end');
done_testing();
