# Limits that change all the time, by updates that move the rows about: whatever a
# call reads of them is what was in force at some moment.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use QuotaTest;
use Test::More;

my $node = new_server('limits', settings => "quota.default_plan = 'rich'");
$node->safe_psql('postgres', <<'END');
INSERT INTO quota.metrics (metric) VALUES ('calls');
INSERT INTO quota.plans (plan) VALUES ('rich'), ('poor');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount) VALUES
	('rich', 'calls', 'month', 1000000), ('poor', 'calls', 'month', 0);
-- never heap-only, so that a scan of the index can meet both versions or none
CREATE INDEX ON quota.limit_overrides (created_at);
SELECT quota.set_limit_override('00000000-0000-4000-8000-000000000001', 'calls', 0);
INSERT INTO quota.subscriptions (user_id, plan) VALUES ('00000000-0000-4000-8000-000000000002', 'poor');
CREATE INDEX ON quota.subscriptions (updated_at);
END

my $mover = <<'END';
UPDATE quota.limit_overrides SET created_at = clock_timestamp();
UPDATE quota.subscriptions SET updated_at = clock_timestamp();
END
my $caller = <<'END';
SELECT quota.check_and_consume_quota('00000000-0000-4000-8000-000000000001', 'calls');
SELECT quota.check_and_consume_quota('00000000-0000-4000-8000-000000000002', 'calls');
END
foreach my $trial ([qw(rc strict)], [qw(rr latest)], [qw(ser strict)], [qw(ser latest)])
{
	my ($level, $mode) = @$trial;
	my $movers = pgbench_start($node, script => $mover, clients => 1, transactions => 10_000_000);
	my $result = pgbench($node, script => $caller, clients => 4, transactions => 1500,
		options => session_options($level, $mode));

	pgbench_stop($movers, 'TERM');
	is($result->{processed}, 6000, "$level $mode: all calls had an answer");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM quota.usage_events}), 0, "$level $mode: nothing was granted where the limit is always 0");
	is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT reason, ' ') FROM quota.quota_audit_log WHERE action = 'consume'}),
		'not_in_plan', "$level $mode: all were denied for it");
}
is_sound($node, 'at the end');
done_testing();
