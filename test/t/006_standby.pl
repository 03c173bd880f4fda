# A standby answers questions, refuses to consume, and goes on from what was
# replicated when it is promoted.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use QuotaTest;
use Test::More;

my $primary = new_server('primary', allows_streaming => 1, settings => "quota.default_plan = 'basic'");
my ($user, $member, $team) = map { subject($_) } 1, 11, 12;
$primary->safe_psql('postgres', <<"END");
INSERT INTO quota.metrics (metric) VALUES ('calls');
INSERT INTO quota.metric_aliases (alias, metric) VALUES ('requests', 'calls');
INSERT INTO quota.plans (plan) VALUES ('basic');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('basic', 'calls', 'day', 100, 'first_use'), ('basic', 'calls', 'lifetime', 10, 'calendar');
INSERT INTO quota.metrics (metric, kind) VALUES ('seats', 'gauge');
INSERT INTO quota.plans (plan) VALUES ('team');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount) VALUES ('team', 'calls', 'lifetime', 6), ('team', 'seats', 'lifetime', 3);
INSERT INTO quota.subscriptions (user_id, plan, parent) VALUES ('$team', 'team', NULL), ('$member', 'basic', '$team');
END
$primary->backup('backup');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

my $key = 'after the backup';
is(consume($primary, "'$user', 'calls', 8, '$key'", 'allowed, remaining'), 't|2', 'consumed on the primary');
$primary->safe_psql('postgres', "SELECT quota.grant_bonus('$user', 'calls', 5)");
my $event = consume($primary, "'$user', 'calls', 3, 'with a bonus'", 'event_id');
# two of the team's calls are used, three are set aside, one is left
my $charge = consume($primary, "'$member', 'calls', 2", 'event_id');
my $reservation = $primary->safe_psql('postgres', "SELECT reservation_id FROM quota.reserve_quota('$member', 'calls', 3, '1 day')");
$primary->safe_psql('postgres', "SELECT quota.set_gauge('$member', 'seats', 2)");
$primary->wait_for_catchup($standby);

# Questions
my @questions = (
	"SELECT * FROM quota.check_quota('$user', 'requests', 4)",
	"SELECT * FROM quota.check_quota('$user', 'requests', 5)",
	"SELECT * FROM quota.check_quota('${\subject(2)}', 'calls', 1)",
	"SELECT * FROM quota.check_quota('$member', 'calls', 1)",
	"SELECT * FROM quota.check_quota('$member', 'calls', 2)",
	"SELECT * FROM quota.check_quota('$member', 'seats', 2)",
	"SELECT * FROM quota.get_user_quota_status('$member')",
	"SELECT * FROM quota.get_user_quota_status('$user')",
	'SELECT * FROM quota.get_users_near_quota_limit(50)',
	'SELECT * FROM quota.verify_ledger()',
	"SELECT quota.resolve_metric('requests')",
	'SELECT * FROM quota.usage_tracking ORDER BY 1, 2, 3');
# times of a subject that has no account are those of the question, and so is how long to wait
my $timeless = sub { $_[0] =~ s/(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d[.\d]*(\+00)?//gr };
foreach my $question (@questions)
{
	foreach my $options ('', session_options('rr', 'latest'))
	{
		local $ENV{PGOPTIONS} = $options;
		is($timeless->($standby->safe_psql('postgres', $question)),
			$timeless->($primary->safe_psql('postgres', $question)), "standby: $question");
	}
}
is($standby->safe_psql('postgres', "SELECT allowed, remaining, bonus_remaining FROM quota.check_quota('$user', 'calls', 4)"),
	't|4|4', 'standby: the answer is the right one');
is($standby->safe_psql('postgres', "SELECT allowed, remaining, binding_user_id FROM quota.check_quota('$member', 'calls', 2)"),
	"f|1|$team", 'standby: also where a parent decides, and units are set aside');

# Writing, on the standby and in a transaction that is READ ONLY
foreach my $case ([ $standby, 'standby', '' ], [ $primary, 'READ ONLY', 'SET default_transaction_read_only = on;' ])
{
	my ($node, $where, $set) = @$case;

	foreach my $function (qw(check_and_consume_quota require_quota))
	{
		is(sqlstate($node, "$set SELECT quota.$function('$user', 'calls', 1)"), '25006', "$where: $function");
		is(sqlstate($node, "$set SELECT quota.$function('$user', 'calls', 8, '$key')"), '25006', "$where: $function, a replay");
		is(sqlstate($node, "$set SELECT quota.$function('$user', 'calls', 1000)"), '25006', "$where: $function, a denial");
	}
	is(sqlstate($node, "$set SELECT quota.grant_bonus('$user', 'calls', 1)"), '25006', "$where: grant_bonus");
	foreach my $call (
		"consume_quotas('$user', '{\"calls\": 1}')",
		"consume_quota_batch(ARRAY['$user']::uuid[], ARRAY['calls'])",
		"consume_quota_batch('{}', '{}')",
		"consume_up_to('$user', 'calls', 1)",
		"reserve_quota('$user', 'calls', 1)",
		"reserve_quota('$member', 'calls', 2)",
		"settle_reservation('$reservation', 1)",
		"cancel_reservation('$reservation')",
		"cancel_reservation('$event')",
		"refund_quota('$charge', 1)",
		"refund_quota('$charge', 3)",
		"release_quota('$member', 'seats', 1)",
		"set_gauge('$member', 'seats', 1)",
		"adjust_account('$user', 'calls', 1)",
		"reset_account('$user', 'calls')",
		"tidy_account('$user', 'calls')",
		"repay_overage('$user', 'calls')",
		"lock_accounts(ARRAY['$user']::uuid[], 'calls')")
	{
		is(sqlstate($node, "$set SELECT quota.$call"), '25006', "$where: " . $call =~ s/\(.*//r);
	}
	is(sqlstate($node, "$set SELECT quota.check_quota('$user', 'calls', 1)"), '', "$where: check_quota");
}
# the same connection is good for questions afterwards
my (undef, $answer) = $standby->psql('postgres', <<"END", on_error_stop => 0);
SELECT quota.check_and_consume_quota('$user', 'calls', 1);
SELECT allowed FROM quota.check_quota('$user', 'calls', 4);
END
is($answer, 't', 'standby: a session goes on after the refusal');

# A limit that was changed on the primary reaches a session of the standby that
# has the old one cached.
my $session = $standby->background_psql('postgres');
is($session->query_safe("SELECT remaining FROM quota.check_quota('$user', 'calls')"), '4', 'standby: old limit');
$primary->safe_psql('postgres', "UPDATE quota.plan_limits SET limit_amount = 20 WHERE plan = 'basic' AND period = 'lifetime'");
$primary->safe_psql('postgres', "SELECT quota.set_limit_override('${\subject(3)}', 'calls', 1)");
$primary->wait_for_catchup($standby);
is($session->query_safe("SELECT remaining FROM quota.check_quota('$user', 'calls')"), '14', 'standby: new limit');
is($session->query_safe("SELECT remaining FROM quota.check_quota('${\subject(3)}', 'calls')"), '1', 'standby: new override');

# Promotion: the session that only could ask can consume now
$primary->stop;
$standby->promote;
is($session->query_safe("SELECT allowed, already_processed, remaining FROM quota.check_and_consume_quota('$user', 'calls', 8, '$key')"),
	't|t|2', 'promoted: a key from before is answered as before');
is($session->query_safe("SELECT already_processed, event_id = '$event' FROM quota.check_and_consume_quota('$user', 'calls', 3, 'with a bonus')"),
	't|t', 'promoted: another one');
is($session->query_safe("SELECT allowed, used, remaining FROM quota.check_and_consume_quota('$user', 'calls', 14)"),
	't|20|0', 'promoted: consuming goes on from the same counts');
is($session->query_safe("SELECT allowed, reason FROM quota.check_and_consume_quota('$user', 'calls', 1)"),
	'f|quota_exceeded', 'promoted: up to the limit');
is($session->query_safe("SELECT allowed, granted, used, remaining, binding_user_id FROM quota.settle_reservation('$reservation', 4)"),
	"t|4|6|0|$team", 'promoted: a reservation from before is settled');
is($session->query_safe("SELECT allowed, granted, used, remaining FROM quota.refund_quota('$charge')"),
	't|-2|4|2', 'promoted: a charge from before is refunded');
$session->quit;
is_sound($standby, 'promoted');
is_uncorrupted($standby, 'promoted');
done_testing();
