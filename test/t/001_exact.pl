# Many clients, one account: never one unit above the limit, never a false
# denial, in every isolation level.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use QuotaTest;
use Test::More;

# Periods are counted from the first use, so that none ends while the test runs.
my $node = new_server('exact', settings => "quota.default_plan = 'exact'");
$node->safe_psql('postgres', <<'END');
INSERT INTO quota.metrics (metric) VALUES ('calls'), ('scans'), ('firsts'), ('bursts'), ('paid'), ('fits');
INSERT INTO quota.plans (plan) VALUES ('exact');
INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, anchor) VALUES
	('exact', 'calls', 'month', 3000, 'first_use'),
	('exact', 'scans', 'month', 200, 'first_use'),
	('exact', 'firsts', 'lifetime', NULL, 'calendar'),
	('exact', 'fits', 'lifetime', 100, 'calendar'),
	-- the shortest window refuses before the bonuses are reached …
	('exact', 'bursts', 'day', 300, 'first_use'),
	('exact', 'bursts', 'week', 500, 'first_use'),
	('exact', 'bursts', 'month', 250, 'first_use'),
	-- … or the allowance with its bonuses does before the windows
	('exact', 'paid', 'day', 500, 'first_use'),
	('exact', 'paid', 'week', 400, 'first_use'),
	('exact', 'paid', 'month', 150, 'first_use');
CREATE TABLE answers (trial text, o quota.outcome);
END

# Answers are kept by the transaction that got them: what was granted is what
# the clients were told, not what the tables of the extension say.
my $trial;

sub hammer
{
	my ($level, $mode, $call, %args) = @_;

	# a retry is what "strict" promises; anything else has to work at once
	my $retries = $mode eq 'strict' && $level ne 'rc';
	my $result = pgbench(
		$node,
		script => "INSERT INTO answers SELECT '$trial', o FROM $call AS o;\n",
		options => session_options($level, $mode),
		tries => $retries ? 1_000_000 : 1,
		%args);
	is($result->{failed}, 0, "$trial: no transaction failed");
	is($result->{errors}, '', "$trial: no error") unless $retries;
	is($result->{processed}, $result->{asked}, "$trial: all were answered");
	return $result;
}

sub answers
{
	my ($select) = @_;
	return $node->safe_psql('postgres', "SELECT $select FROM answers WHERE trial = '$trial'");
}

my $n = 0;
foreach my $level (qw(rc rr ser))
{
	foreach my $mode (qw(strict latest))
	{
		my $user = subject(++$n);

		# More is asked than there is.  Each call takes 5, so that the bonuses of
		# 3 and 7, and the edges between all sources, have to be split.
		$trial = "$level $mode";
		$node->safe_psql('postgres', <<"END");
SELECT quota.grant_bonus('$user', 'calls', amount, p_priority => priority)
FROM (VALUES (3, 1), (7, 2), (491, 3), (1499, 4)) AS bonus (amount, priority);
END
		my $result = hammer($level, $mode, "quota.check_and_consume_quota('$user', 'calls', 5)",
			transactions => 75);
		ok($result->{retries} > 0, "$trial: the clients were in each other's way")
		  if $mode eq 'strict' && $level ne 'rc';
		is(answers(q{5 * count(*) FILTER (WHERE (o).allowed), sum((o).bonus_used)}),
			'5000|2000', "$trial: exactly 5,000 granted, 2,000 of them from bonuses");
		is(answers(q{count(*) FILTER (WHERE NOT (o).allowed),
			count(*) FILTER (WHERE NOT (o).allowed AND (o).remaining = 0 AND (o).reason = 'quota_exceeded')}),
			'200|200', "$trial: who was denied was told that nothing is left");
		is(answers(q{count(DISTINCT (o).remaining), min((o).remaining), max((o).remaining)}),
			'1000|0|4995', "$trial: each grant left another rest");
		is($node->safe_psql('postgres',
				"SELECT used, bonus_used FROM quota.usage_tracking WHERE user_id = '$user' AND metric = 'calls'"),
			'3000|2000', "$trial: the account says the same");

		is($node->safe_psql('postgres', <<"END"), 0, "$trial: nobody was denied before the last one was granted");
SELECT count(*) FROM quota.quota_audit_log
WHERE user_id = '$user' AND metric = 'calls' AND NOT success
	AND created_at < (SELECT max(created_at) FROM quota.usage_events WHERE user_id = '$user' AND metric = 'calls')
END

		# As much is asked as there is, mostly from bonuses: a bonus that is
		# overlooked while another call writes it would be a denial.
		$trial = "$level $mode exact fit";
		$node->safe_psql('postgres', "SELECT quota.grant_bonus('$user', 'fits', 40), quota.grant_bonus('$user', 'fits', 500)");
		hammer($level, $mode, "quota.check_and_consume_quota('$user', 'fits')", transactions => 40);
		is(answers(q{count(*) FILTER (WHERE (o).allowed), count(*) FILTER (WHERE NOT (o).allowed), sum((o).bonus_used)}),
			'640|0|540', "$trial: all that fit were granted");
		is(consume($node, "'$user', 'fits', 0.000001", 'allowed, remaining'), 'f|0', "$trial: not a millionth more");

		# Windows: each is charged the full amount, the smallest room decides.
		# Bonuses extend the month, which is the allowance, and no other.
		$trial = "$level $mode rate windows";
		$node->safe_psql('postgres', "SELECT quota.grant_bonus('$user', 'bursts', 200)");
		hammer($level, $mode, "quota.check_and_consume_quota('$user', 'bursts', 2)",
			clients => 8, transactions => 25);
		is(answers(q{2 * count(*) FILTER (WHERE (o).allowed), sum((o).bonus_used),
			count(*) FILTER (WHERE NOT (o).allowed AND (o).period = 'day')}),
			'300|50|50', "$trial: exactly what the shortest window allows");
		is($node->safe_psql('postgres', <<"END"), "day|300|0\nmonth|250|50\nweek|300|0", "$trial: all windows were charged");
SELECT period, used, bonus_used FROM quota.usage_tracking
WHERE user_id = '$user' AND metric = 'bursts' ORDER BY period
END

		$trial = "$level $mode allowance below windows";
		$node->safe_psql('postgres', "SELECT quota.grant_bonus('$user', 'paid', 33), quota.grant_bonus('$user', 'paid', 67)");
		hammer($level, $mode, "quota.check_and_consume_quota('$user', 'paid', 2)",
			clients => 8, transactions => 20);
		is(answers(q{2 * count(*) FILTER (WHERE (o).allowed), sum((o).bonus_used),
			count(*) FILTER (WHERE NOT (o).allowed AND (o).period = 'month')}),
			'250|100|35', "$trial: exactly the allowance and the bonuses");
		is($node->safe_psql('postgres', <<"END"), "day|250|0\nmonth|150|100\nweek|250|0", "$trial: all windows were charged");
SELECT period, used, bonus_used FROM quota.usage_tracking
WHERE user_id = '$user' AND metric = 'paid' ORDER BY period
END
	}
}

# As much is asked as there is, in fractions that binary numbers cannot hold.
foreach my $case ([ 'rc', 'strict' ], [ 'ser', 'latest' ])
{
	my ($level, $mode) = @$case;
	my $user = subject(++$n);

	$trial = "$level $mode 0.2 units";
	hammer($level, $mode, "quota.check_and_consume_quota('$user', 'scans', 0.2)",
		clients => 20, transactions => 50);
	is(answers(q{count(*) FILTER (WHERE (o).allowed)}),
		'1000', "$trial: all of the 1,000 that fit were granted");
	is($node->safe_psql('postgres', "SELECT used FROM quota.usage_tracking WHERE user_id = '$user' AND metric = 'scans'"),
		'200', "$trial: 1,000 times 0.2 is 200");
	is(consume($node, "'$user', 'scans', 0.000001", 'allowed, remaining'),
		'f|0', "$trial: not a millionth more");
}

# First use.  Client after client walks through fresh subjects, so that all of
# them want to create the same account.
foreach my $case ([ 'rc', 'strict' ], [ 'rc', 'latest' ], [ 'rr', 'strict' ], [ 'ser', 'strict' ], [ 'rr', 'latest' ], [ 'ser', 'latest' ])
{
	my ($level, $mode) = @$case;
	my $first = 1000 * ++$n;
	my $rounds = 40;

	$trial = "$level $mode first use";
	my $result = pgbench(
		$node,
		script => <<"END",
SELECT quota.check_and_consume_quota(('00000000-0000-4000-8000-' || lpad(to_hex(:round::integer), 12, '0'))::uuid, 'firsts');
\\set round :round + 1
END
		clients => 16, transactions => $rounds,
		params => [ "--define=round=$first" ],
		options => session_options($level, $mode),
		tries => $mode eq 'strict' && $level ne 'rc' ? 1_000_000 : 1);
	is($result->{failed}, 0, "$trial: no transaction failed");
	is($node->safe_psql('postgres', <<"END"), "$rounds|16|16", "$trial: all 16 count on each of $rounds subjects");
SELECT count(*), min(used), max(used) FROM quota.usage_tracking
WHERE metric = 'firsts' AND user_id >= '${\subject($first)}' AND user_id < '${\subject($first + $rounds)}'
END

	# Once more with no doubt that all 16 met: they wait for the first one's end.
	foreach my $end (qw(COMMIT ROLLBACK))
	{
		my $user = subject(1000 * ++$n);
		my $winner = $node->background_psql('postgres');

		$winner->query_safe("BEGIN; SELECT quota.check_and_consume_quota('$user', 'firsts')");
		my $clients = pgbench_start(
			$node,
			script => "SELECT quota.check_and_consume_quota('$user', 'firsts');\n",
			clients => 16, transactions => 1,
			options => session_options($level, $mode),
			tries => $mode eq 'strict' && $level ne 'rc' ? 1_000_000 : 1);
		wait_until_blocked($node, 16);
		$winner->query_safe($end);
		$winner->quit;
		is(pgbench_stop($clients)->{failed}, 0, "$trial, $end of the first: no transaction failed");
		is($node->safe_psql('postgres', "SELECT used FROM quota.usage_tracking WHERE user_id = '$user'"),
			$end eq 'COMMIT' ? 17 : 16, "$trial, $end of the first: all count");
	}
}

is_sound($node, 'at the end');
done_testing();
