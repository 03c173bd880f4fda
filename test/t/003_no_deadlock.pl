# Calls on the same subjects in opposite order, with several windows each, do
# not wait for each other in a circle.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Utils;
use QuotaTest;
use Test::More;

my $node = new_server('deadlock', settings => "deadlock_timeout = 20ms\nlog_lock_waits = on");

# The plans have the same windows, defined in opposite order: whoever locks them
# in the order in which they are found meets whoever finds them the other way round.
$node->safe_psql('postgres', <<'END');
INSERT INTO quota.metrics (metric) VALUES ('calls');
INSERT INTO quota.plans (plan) VALUES ('up'), ('down'), ('few');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('up', 'calls', 'day', 1000000, 'first_use'),
	('up', 'calls', 'week', 1000000, 'first_use'),
	('up', 'calls', 'month', 1000000, 'first_use'),
	('up', 'calls', 'lifetime', 50, 'first_use');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor)
	SELECT 'down', metric, period, limit_amount, anchor FROM quota.plan_limits
	ORDER BY array_position('{lifetime,month,week,day}', period::text);
-- other windows, and another allowance
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('few', 'calls', 'month', 1000000, 'first_use'),
	('few', 'calls', 'day', 1000000, 'first_use');
CREATE TABLE answers (o quota.outcome);
END

my @users = map { subject($_) } 1 .. 2;

sub start
{
	$node->safe_psql('postgres', <<"END");
TRUNCATE answers, quota.usage_tracking, quota.usage_events, quota.quota_audit_log, quota.user_bonuses, quota.bonus_allocations;
SELECT quota.assign_plan('$users[0]', 'up'), quota.assign_plan('$users[1]', 'down');
-- after 50 calls of a subject all take from its bonuses, several at a time
SELECT quota.grant_bonus(u::uuid, 'calls', 1.5), quota.grant_bonus(u::uuid, 'calls', 1000000, p_priority => i)
FROM unnest('{$users[0],$users[1]}'::text[]) AS u, generate_series(1, 200) AS i;
END
	return;
}

# Each call is a transaction of its own
my ($there, $back) = map { join '', map { "INSERT INTO answers SELECT o FROM quota.check_and_consume_quota('$_', 'calls', 2) AS o;\n" } @$_ }
	([@users], [ reverse @users ]);

# Plan changes take the lock of the subscription, grants none that matters
my @disturbances = map { my $user = $_;
	map { "SELECT quota.assign_plan('$user', '$_');\n" } qw(up down few) } @users;
push @disturbances, map { "SELECT quota.grant_bonus('$_', 'calls', 1);\n" } @users;

foreach my $case ([ 'rc', 'strict' ], [ 'ser', 'latest' ], [ 'ser', 'strict' ])
{
	my ($level, $mode) = @$case;
	my $retries = $mode eq 'strict' && $level ne 'rc';

	foreach my $disturbed (0, 1)
	{
		my $trial = "$level $mode" . ($disturbed ? ' while plans change' : '');
		my $disturber;

		start();
		$disturber = pgbench_start($node, script => \@disturbances, clients => 2, transactions => 1_000_000)
		  if $disturbed;
		my $result = pgbench(
			$node,
			script => [ $there, $back ],
			clients => 16, transactions => $retries ? 10 : 100,
			options => session_options($level, $mode),
			tries => $retries ? 1_000_000 : 1);
		is_deeply([ @$result{qw(processed failed)} ], [ $result->{asked}, 0 ], "$trial: no transaction failed");
		is($result->{errors}, '', "$trial: no error") unless $retries;
		if ($disturbed)
		{
			my $disturbance = pgbench_stop($disturber, 'TERM');
			is($disturbance->{errors}, '', "$trial: no plan change failed");
			ok($node->safe_psql('postgres', "SELECT count(*) FROM quota.quota_audit_log WHERE action = 'assign_plan'") > 20,
				"$trial: plans did change");
		}
		# a script that is tried again makes its first call again
		is($node->safe_psql('postgres', "SELECT bool_and((o).allowed), count(*) >= 2 * $result->{asked},
				2 * count(*) = (SELECT sum(amount) FROM quota.usage_events) FROM answers"),
			't|t|t', "$trial: all was granted");
		is_sound($node, $trial);
	}
}

# First uses: every 16 calls go to a new subject, at once, while it is put on one
# plan after the other.  A call whose first account was made by another one under
# a plan with fewer windows makes the others only when it has locked the first.
$node->safe_psql('postgres', <<'END');
TRUNCATE answers, quota.usage_tracking, quota.usage_events, quota.quota_audit_log, quota.user_bonuses, quota.bonus_allocations;
ALTER DATABASE postgres SET quota.default_plan = 'few';
CREATE SEQUENCE turn;
CREATE FUNCTION new_subject(turn bigint) RETURNS uuid LANGUAGE sql
	RETURN ('00000000-0000-4000-8000-1' || lpad(to_hex(turn / 16), 11, '0'))::uuid;
END
my $plan_changes = pgbench_start($node, clients => 2, transactions => 1_000_000,
	script => [ map { "SELECT quota.assign_plan(new_subject(last_value + 8), '$_') FROM turn;\n" } qw(up down few) ]);
my $first_uses = pgbench($node, clients => 16, transactions => 500,
	script => "INSERT INTO answers SELECT o FROM quota.check_and_consume_quota(new_subject(nextval('turn')), 'calls', 1) AS o;\n");
is_deeply([ @$first_uses{qw(processed failed errors)} ], [ $first_uses->{asked}, 0, '' ], 'first uses while plans change: no call failed');
is(pgbench_stop($plan_changes, 'TERM')->{errors}, '', 'first uses while plans change: no plan change failed');
is($node->safe_psql('postgres', "SELECT count(*) FROM answers WHERE (o).allowed"), 8000, 'first uses while plans change: all was granted');
is_sound($node, 'first uses while plans change');

is($node->safe_psql('postgres', q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'}),
	0, 'the server has counted no deadlock');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'and reported none');
done_testing();
