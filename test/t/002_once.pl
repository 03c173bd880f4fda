# The same idempotency key charges once and is answered the same, however many
# callers use it at the same moment.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use QuotaTest;
use Test::More;

my $node = new_server('once', settings => "quota.default_plan = 'once'");
$node->safe_psql('postgres', <<'END');
INSERT INTO quota.metrics (metric) VALUES ('calls'), ('exports');
INSERT INTO quota.plans (plan) VALUES ('once');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount) VALUES
	('once', 'calls', 'lifetime', 1000), ('once', 'exports', 'lifetime', 1000);
CREATE TABLE answers (trial text, client integer, o quota.outcome);
END

my $trial;
my $n = 0;

# What 100 clients were told, and what the call left behind
sub is_once
{
	my ($user, $amount) = @_;

	is($node->safe_psql('postgres', <<"END"), '100|100|1|99', "$trial: 100 identical answers, already_processed on 99");
SELECT count(*), count(*) FILTER (WHERE (o).allowed),
	count(DISTINCT ((o).allowed, (o).remaining, (o).limit_amount, (o).bonus_used, (o).reason, (o).metric,
		(o).period, (o).used, (o).bonus_remaining, (o).overage, (o).cost, (o).period_start, (o).resets_at,
		(o).retry_after, (o).event_id)),
	count(*) FILTER (WHERE (o).already_processed)
FROM answers WHERE trial = '$trial'
END
	is($node->safe_psql('postgres', <<"END"), "$amount|1|1|99", "$trial: one charge, one event, 99 replays logged");
SELECT (SELECT used FROM quota.usage_tracking WHERE user_id = '$user' AND metric = 'calls'),
	(SELECT count(*) FROM quota.usage_events e WHERE user_id = '$user' AND key_hash IS NOT NULL
		AND NOT EXISTS (SELECT FROM answers WHERE trial = '$trial' AND (o).event_id <> e.id)),
	(SELECT count(*) FROM quota.quota_audit_log WHERE user_id = '$user' AND reason = 'ok' AND event_id =
		(SELECT DISTINCT (o).event_id FROM answers WHERE trial = '$trial')),
	(SELECT count(*) FROM quota.quota_audit_log WHERE user_id = '$user' AND reason = 'replay' AND success
		AND event_id = (SELECT DISTINCT (o).event_id FROM answers WHERE trial = '$trial'))
END
	return;
}

sub same_key
{
	my ($user, $amount) = @_;

	return (
		script => <<"END",
INSERT INTO answers SELECT '$trial', :client_id, o
FROM quota.check_and_consume_quota('$user', 'calls', $amount, 'the key') AS o;
END
		clients => 100, transactions => 1);
}

foreach my $case ([ 'rc', 'strict' ], [ 'rc', 'latest' ], [ 'rr', 'latest' ], [ 'ser', 'latest' ])
{
	my ($level, $mode) = @$case;
	my $options = session_options($level, $mode);
	my $user = subject(++$n);

	# As it comes: the first call creates the account
	$trial = "$level $mode";
	my $result = pgbench($node, same_key($user, 3), options => $options);
	is_deeply([ @$result{qw(processed failed errors)} ], [ 100, 0, '' ], "$trial: no error");
	is_once($user, 3);

	# With no doubt that all 100 are under way at once: another call holds the
	# account until all wait for it.
	$user = subject(++$n);
	$trial = "$level $mode, all waiting";
	consume($node, "'$user', 'calls', 1", 'allowed');
	my $other = $node->background_psql('postgres');
	$other->query_safe("BEGIN; SELECT quota.check_and_consume_quota('$user', 'calls', 1)");
	my $clients = pgbench_start($node, same_key($user, 3), options => $options);
	wait_until_blocked($node, 100);
	$other->query_safe('COMMIT');
	$result = pgbench_stop($clients);
	is_deeply([ @$result{qw(processed failed errors)} ], [ 100, 0, '' ], "$trial: no error");
	is_once($user, 5);

	# The first call with the key is under way and ends in one way or the other
	foreach my $end (qw(COMMIT ROLLBACK))
	{
		$user = subject(++$n);
		$trial = "$level $mode, $end of the first";
		consume($node, "'$user', 'calls', 1", 'allowed');
		$other->query_safe(<<"END");
BEGIN;
INSERT INTO answers SELECT '$trial', -1, o
FROM quota.check_and_consume_quota('$user', 'calls', 3, 'the key') AS o;
END
		$clients = pgbench_start($node, same_key($user, 3),
			clients => $end eq 'COMMIT' ? 99 : 100, options => $options);
		wait_until_blocked($node, $end eq 'COMMIT' ? 99 : 100);
		$other->query_safe($end);
		$result = pgbench_stop($clients);
		is_deeply([ @$result{qw(failed errors)} ], [ 0, '' ], "$trial: no error");
		is_once($user, 4);
		is($node->safe_psql('postgres', "SELECT client FROM answers WHERE trial = '$trial' AND NOT (o).already_processed") eq '-1',
			$end eq 'COMMIT', "$trial: the right call was charged");
	}
	$other->quit;
}

# Where the caller's snapshot rules, a lost race is an error that says "retry"
foreach my $level (qw(rr ser))
{
	my $user = subject(++$n);

	$trial = "$level strict";
	my $result = pgbench($node, same_key($user, 3), options => session_options($level, 'strict'), tries => 1000);
	is_deeply([ @$result{qw(processed failed)} ], [ 100, 0 ], "$trial: all were answered in the end");
	is_once($user, 3);
}

# Other keys, another metric, another subject: calls of their own
my ($one, $two) = (subject(++$n), subject(++$n));
my $result = pgbench(
	$node,
	script => [
		"SELECT quota.check_and_consume_quota('$one', 'calls', 1, 'key ' || :client_id::text);\n",
		"SELECT quota.check_and_consume_quota('$one', 'exports', 2, 'key ' || :client_id::text);\n",
		"SELECT quota.check_and_consume_quota('$two', 'calls', 3, 'key ' || :client_id::text);\n" ],
	clients => 20, transactions => 100,
	options => session_options('ser', 'latest'));
is_deeply([ @$result{qw(processed failed errors)} ], [ 2000, 0, '' ], 'independent keys: no error');
is($node->safe_psql('postgres', <<"END"), "calls|20|20\nexports|40|20\ncalls|60|20", 'independent keys: each was charged once');
SELECT a.metric, a.used, count(e)
FROM quota.usage_tracking a JOIN quota.usage_events e USING (user_id, metric)
WHERE user_id IN ('$one', '$two') GROUP BY a.user_id, a.metric, a.used ORDER BY a.user_id, a.metric
END

# Another amount under the same key moves nothing, whoever comes first
my $user = subject(++$n);
$trial = 'two amounts';
$result = pgbench(
	$node,
	script => <<"END",
\\set amount 1 + :client_id % 2
INSERT INTO answers SELECT '$trial', :client_id, o
FROM quota.check_and_consume_quota('$user', 'calls', :amount, 'the key') AS o;
END
	clients => 50, transactions => 1);
is_deeply([ @$result{qw(processed failed errors)} ], [ 50, 0, '' ], "$trial: no error");
is($node->safe_psql('postgres', <<"END"), 'f|0|25|25|24', "$trial: one amount is charged, the other is a conflict");
SELECT bool_or(NOT (o).allowed AND (o).reason <> 'idempotency_conflict'),
	(SELECT count(*) FROM quota.usage_tracking a WHERE user_id = '$user' AND used <>
		(SELECT DISTINCT 1 + client % 2 FROM answers WHERE trial = '$trial' AND (o).allowed)),
	count(*) FILTER (WHERE (o).allowed), count(*) FILTER (WHERE NOT (o).allowed),
	count(*) FILTER (WHERE (o).already_processed)
FROM answers WHERE trial = '$trial'
END

# A denial is not an answer for ever: the key is decided again after a grant
$user = subject(++$n);
is(consume($node, "'$user', 'calls', 1001, 'big'", 'allowed, reason, already_processed'),
	'f|quota_exceeded|f', 'a denied key is not remembered');
$node->safe_psql('postgres', "SELECT quota.grant_bonus('$user', 'calls', 1)");
is(consume($node, "'$user', 'calls', 1001, 'big'", 'allowed, bonus_used, already_processed'),
	't|1|f', 'a denied key is decided again after a grant');
is(consume($node, "'$user', 'calls', 1001, 'big'", 'allowed, bonus_used, already_processed'),
	't|1|t', 'and then answered the same');

is_sound($node, 'at the end');
done_testing();
