# The world that test/t/013_model.pl plays in: subjects with plans at random, in the
# model and on the server, and how the two are compared.
package QuotaModel::World;

use strict;
use warnings FATAL => 'all';

use DBI;
use Exporter 'import';
use List::Util qw(first max min);
use QuotaModel;
use QuotaTest;
use Storable qw(dclone);
use Time::Local qw(timegm);

our @EXPORT = qw($model %world @log @problems UNIT SECOND
  connect_to call must units amount instant seconds subject_list shown same
  chance one_of some_units any_user any_metric any_counter set_clock new_world
  described problem compare_answer compare_again compare_retry compare_error compare_state compare_all compare_remaining limits_shown);

use constant {
	UNIT => 1_000_000,			# in the model's amounts
	MONEY => 100_000_000,		# in its money
	SECOND => 1_000_000,
};

our ($model, %world, @log, @problems);
my $dbh;

sub connect_to
{
	my ($node) = @_;

	$dbh = DBI->connect('dbi:Pg:dbname=postgres;host=' . $node->host . ';port=' . $node->port, undef, undef,
		{ RaiseError => 0, PrintError => 0, AutoCommit => 1, pg_server_prepare => 1 }) or die $DBI::errstr;
	$dbh->do($_) foreach 'SET client_min_messages = error', "SET timezone = 'UTC'", "SET datestyle = 'ISO'";
	return $dbh;
}

# From and to the server ------------------------------------------------------------

# A decimal number as a whole one of 10^-$decimals; undef stays so
sub scaled
{
	my ($number, $decimals) = @_;
	return undef unless defined $number;
	my ($sign, $whole, $fraction) = $number =~ /^(-?)(\d+)(?:\.(\d+?)0*)?$/ or die "not a number: $number";
	$fraction //= '';
	die "$number has more than $decimals decimals" if length $fraction > $decimals;
	return ($sign ? -1 : 1) * ($whole . $fraction . '0' x ($decimals - length $fraction));
}

sub units { return scaled($_[0], 6) }
sub money { return scaled($_[0], 8) }

# A whole number of 10^-$decimals as the server reads it
sub decimal
{
	my ($number, $decimals) = @_;
	return undef unless defined $number;
	my $digits = sprintf '%0*d', $decimals + 1, abs $number;
	return ($number < 0 ? '-' : '') . substr($digits, 0, -$decimals) . '.' . substr $digits, -$decimals;
}

sub amount { return decimal($_[0], 6) }

# As text that the server reads as an instant
sub instant
{
	my ($at) = @_;
	return undef unless defined $at;
	my ($s, $min, $h, $day, $mon, $year) = gmtime int($at / SECOND);
	return sprintf '%04d-%02d-%02d %02d:%02d:%02d.%06d+00', $year + 1900, $mon + 1, $day, $h, $min, $s, $at % SECOND;
}

sub subject_list { return '{' . join(',', @_) . '}' }

sub execute
{
	my ($sql, @values) = @_;
	my $sth = $dbh->prepare_cached($sql) or die $dbh->errstr;

	return (undef, $sth->state) unless $sth->execute(@values);
	my $rows = $sth->{NUM_OF_FIELDS} ? $sth->fetchall_arrayref({}) : [];
	$sth->finish;
	return ($rows, undef);
}

# The rows, or the SQLSTATE.  Now and then the same call has been made before, and
# was rolled back, by itself or in the transaction that makes it now.
sub call
{
	my (@call) = @_;

	return execute(@call) unless $call[0] =~ /^SELECT \* FROM quota\./ && rand() < 0.03;
	my $savepoint = rand() < 0.5;
	$dbh->do($_) foreach 'BEGIN', 'SAVEPOINT before';
	execute(@call);
	$dbh->do($savepoint ? 'ROLLBACK TO before' : 'ROLLBACK');
	my @result = execute(@call);
	if ($savepoint)
	{
		my $message = $dbh->errstr;
		$dbh->do($result[1] ? 'ROLLBACK' : 'COMMIT') or die $dbh->errstr;
		$dbh->set_err(1, $message) if $result[1];
	}
	return @result;
}

sub must
{
	my ($rows, $state) = call(@_);
	die "$_[0]: $state: " . $dbh->errstr if $state;
	return $rows;
}

# A world -----------------------------------------------------------------------------

sub chance { return rand() < $_[0] }
sub one_of { return $_[ rand @_ ] }
sub some_units { return int(one_of(0.2, 0.5, 1, 1, 1, 2, 2, 3, 4.25, 5, 7, 10, 0.000002, 12.345678) * UNIT + 0.5) }
sub any_user { return one_of(@{ $world{users} }) }
sub any_metric { return one_of(qw(calls calls tokens tokens seats)) }
sub any_counter { return one_of(qw(calls tokens)) }

# Limits on a metric, of one plan
sub random_limits
{
	my ($metric) = @_;
	my %limits;

	foreach my $period (@{ $world{periods}{$metric} })
	{
		my $longest = $period eq $world{periods}{$metric}[-1];
		next if chance(0.15) && !($metric eq 'seats' && $longest);
		my %limit = (
			mode => one_of(qw(hard hard soft soft shadow)),
			limit => chance(0.12) ? undef : one_of(4, 7.5, 10, 15, 20, 30) * UNIT * ($longest ? 1 + int rand 2 : 1),
			price => 0, repay => 1);
		$limit{limit} = 0 if $limit{mode} eq 'hard' && chance(0.06);
		if ($limit{mode} eq 'soft')
		{
			$limit{price} = $world{price}{$metric};
			$limit{cap} = one_of(0, 3.3, 10, 40) * MONEY if chance(0.5);
			$limit{repay} = 0 if chance(0.2);
		}
		$limits{$period} = \%limit;
	}
	return \%limits;
}

sub set_clock
{
	$model->set_clock($_[0]);
	must(q{SELECT set_config('quota.test_clock', ?, false)}, instant($_[0]));
	return;
}

sub new_world
{
	my ($n) = @_;
	my @users = map { subject(0x100 * $n + $_) } 1 .. 6;
	my $now = (1893456000 + int rand 86400 * 365) * SECOND + int rand SECOND;

	@log = ();
	%world = (users => \@users, keys => [], topups => [], events => [], reservations => [], step => 0);
	$world{periods} = {
		calls => [ (grep { chance(0.5) } qw(minute hour)), one_of(qw(day week month lifetime)) ],
		tokens => [ (chance(0.3) ? 'hour' : ()), one_of(qw(day month)) ],
		seats => [ (chance(0.3) ? 'day' : ()), 'lifetime' ] };
	$world{price} = { map { $_ => one_of(0, 25, 100, 133) } qw(calls tokens seats) };
	my %anchored = map { $_ => chance(0.4) } qw(calls tokens);
	$anchored{$_} &&= !grep { $_ eq 'month' } @{ $world{periods}{$_} } foreach keys %anchored;

	my @plans = map { "w${n}_$_" } qw(a b c);
	$world{plans} = \@plans;
	$model = QuotaModel->new(
		now => $now, anchored => \%anchored,
		kind => { calls => 'counter', tokens => 'counter', seats => 'gauge' });
	set_clock($now);
	must("SET default_transaction_isolation = '" . one_of('read committed', 'repeatable read', 'serializable') . "'");
	must("SET quota.isolation = " . one_of('strict', 'latest'));
	foreach my $plan (@plans)
	{
		must('INSERT INTO quota.plans (plan) VALUES (?)', $plan);
		foreach my $metric (qw(calls tokens seats))
		{
			next if chance(0.08);
			my $limits = random_limits($metric);
			$model->{plan}{$plan}{$metric} = $limits;
			foreach my $period (keys %$limits)
			{
				my $limit = $limits->{$period};
				must('INSERT INTO quota.plan_limits (plan, metric, period, limit_amount, mode, overage_price, spend_cap, repay_overage, anchor)
					VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)', $plan, $metric, $period, amount($limit->{limit}), $limit->{mode},
					$limit->{price} ? decimal($limit->{price}, 2) : undef, decimal($limit->{cap}, 8), $limit->{repay},
					$anchored{$metric} ? 'subscription' : 'calendar');
			}
		}
	}
	# what is sold, some of it cheaper for larger purchases
	foreach my $plan (@plans)
	{
		foreach my $metric (grep { chance(0.6) } qw(calls tokens seats))
		{
			foreach my $from (0, chance(0.5) ? 2 * UNIT : ())
			{
				my $price = one_of(0, 17, 50, 125);
				must('INSERT INTO quota.topup_prices (plan, metric, min_amount, unit_price, currency) VALUES (?, ?, ?, ?, ?)',
					$plan, $metric, amount($from), decimal($price, 2), 'EUR');
				push @{ $model->{topup}{$plan}{$metric} }, { from => $from, price => $price };
			}
		}
	}

	# two members of a team of an organisation, one of the organisation, and two alone
	my @parents = ($users[3], $users[3], undef, $users[4], undef, undef);
	foreach my $i (reverse 0 .. 5)
	{
		my $plan = chance(0.15) && defined $parents[$i] ? undef : one_of(@plans);
		my $anchor = $now - int rand 86400 * SECOND;
		$model->{subject}{ $users[$i] } = { plan => $plan, parent => $parents[$i], anchor => $anchor };
		must('INSERT INTO quota.subscriptions (user_id, plan, parent, anchor) VALUES (?, ?, ?, ?)',
			$users[$i], $plan, $parents[$i], instant($anchor));
	}
	return;
}

# Comparing ---------------------------------------------------------------------------

sub described
{
	push @log, join ' ', map { defined $_ ? $_ : 'NULL' } @_;
	return;
}

sub problem
{
	push @problems, @_;
	return;
}

sub shown { return defined $_[0] ? $_[0] : 'NULL' }

sub same { return defined $_[0] ? defined $_[1] && $_[0] eq $_[1] : !defined $_[1] }

my %SCALE = (map({ $_ => \&units } qw(granted bonus_used overage remaining limit_amount used bonus_remaining shortfall
	amount total_available)),
	cost => \&money, price => \&money, unit_price => sub { scaled($_[0], 2) });

# The first answer of a key, given again
sub compare_again
{
	my ($first, $row) = @_;
	my %want = (%$first, already_processed => 1);

	problem("answer again: $_ is " . shown($row->{$_}) . ', was ' . shown($want{$_}))
	  foreach grep { !same($want{$_}, $row->{$_}) } sort keys %want;
	return;
}

# An answer against what the model expects of it
sub compare_answer
{
	my ($want, $row) = @_;
	my %got = map { $_ => $SCALE{$_} ? $SCALE{$_}->($row->{$_}) : $row->{$_} } keys %$row;
	return compare_again($want->{again}, $row) if $want->{again};
	my $close = sub { my ($w) = @_; return grep { !same($w->{$_}, $got{$_}) } sort keys %$w };
	my %fields = map { $_ => $want->{$_} } grep { !/^(?:reports|event)$/ } keys %$want;

	$got{allowed} = $got{allowed} ? 1 : 0;
	problem('the answer of another call is given') if $got{already_processed};
	problem("answer: $_ is " . shown($got{$_}) . ', expected ' . shown($fields{$_})) foreach $close->(\%fields);
	if ($want->{reports} && !grep { !$close->($_) } @{ $want->{reports} })
	{
		problem('answer: ' . join(', ', map { "$_ " . shown($got{$_}) } sort keys %{ $want->{reports}[0] }),
			map { my $w = $_; 'expected: ' . join(', ', map { "$_ " . shown($w->{$_}) } sort keys %$w) } @{ $want->{reports} });
	}
	return;
}

# Microseconds of an interval as the server writes it
sub length_of
{
	my ($text) = @_;
	my ($days, $h, $min, $s, $fraction) = $text =~ /^(?:(\d+) days? ?)?(?:(\d+):(\d\d):(\d\d)(?:\.(\d+))?)?$/ or die "not a length: $text";
	return SECOND * (86400 * ($days // 0) + 3600 * ($h // 0) + 60 * ($min // 0) + ($s // 0)) + substr(($fraction // '') . '000000', 0, 6);
}

# A denial tells when the same request would be granted by waiting alone: it would be
# then, and not at any time before at which something changes.
sub compare_retry
{
	my ($row, $user, $metric, $units) = @_;
	my @levels = $model->levels($user, $metric);
	my @chain = $model->chain($user);

	return if $row->{allowed} || $row->{reason} !~ /^(?:quota_exceeded|spend_cap|not_in_plan)$/;
	my $granted_at = sub {
		my ($at) = @_;
		my $later = dclone(bless { %$model, charged => [], closed => [] }, 'QuotaModel');
		$later->set_clock($at);
		return ($later->request('', $user, $metric => $units))[0]{allowed};
	};
	my $retry = defined $row->{retry_after} ? $model->{now} + length_of($row->{retry_after}) : undef;
	my @changes = grep { defined $_ && $_ > $model->{now} && (!defined $retry || $_ < $retry) } (
		map({ $_->{record}{end} } map { @{ $_->{windows} } } @levels),
		map({ $_->{expires} } values %{ $model->{hold} }, map { values %{ $model->{override}{$_}{$metric} // {} } } @chain),
		map({ $model->next_refills($_, $metric) } @chain), map { $model->{subject}{$_}{pending_at} } @chain);

	problem("retry_after $row->{retry_after}: would not be granted then") if defined $retry && !$granted_at->($retry);
	push @changes, $retry - 1 if defined $retry && $retry > $model->{now};
	foreach my $at (@changes)
	{
		problem('retry_after ' . shown($row->{retry_after}) . ': would be granted at ' . instant($at) . ' already') if $granted_at->($at);
	}
	return;
}

sub compare_error
{
	my ($want, $state) = @_;
	problem('error ' . shown($state) . ', expected ' . shown($want) . ($state ? ': ' . $dbh->errstr : '')) unless same($want, $state);
	return;
}

my $STATE = <<'END';
SELECT 'account' AS what, user_id, metric, period, NULL::uuid AS id, period_start AS from_time, period_end AS to_time,
	used, bonus_used, overage, cost, held, held_cost, NULL AS rates, NULL AS lines
FROM quota.usage_tracking WHERE user_id = ANY ($1::uuid[])
UNION ALL
SELECT 'account', user_id, metric, period, NULL, period_start, period_end, used, bonus_used, overage, cost, held, held_cost, NULL, NULL
FROM quota.usage_history WHERE user_id = ANY ($1::uuid[])
UNION ALL
SELECT 'bonus', user_id, metric, NULL, id, NULL, NULL,
	amount, used_amount, held_amount, given_amount, (voided_at IS NOT NULL)::integer, 0, NULL, NULL
FROM quota.user_bonuses WHERE user_id = ANY ($1::uuid[])
UNION ALL
SELECT 'hold', e.user_id, e.metric, e.period, e.id, e.created_at, e.expires_at,
	e.held, coalesce(e.held_bonus, 0), coalesce(e.held_overage, 0), coalesce(e.held_cost, 0), 0, 0,
	array_to_string(e.rate_periods, ','),
	(SELECT string_agg(a.bonus_id || '=' || a.held, ',') FROM quota.bonus_allocations a WHERE a.event_id = e.id)
FROM quota.usage_events e
WHERE e.user_id = ANY ($1::uuid[]) AND e.kind = 'reserve'
	AND NOT EXISTS (SELECT FROM quota.usage_events r WHERE r.refers_to = e.id AND r.kind IN ('settle', 'cancel', 'expire'))
UNION ALL
SELECT 'fault ' || counter, v.user_id, metric, period, NULL, period_start, NULL, recorded, expected, 0, 0, 0, 0, NULL, NULL
FROM unnest($2::uuid[]) AS u, quota.verify_ledger(u) AS v
END

# Holds that have lapsed and were not tidied yet still count in the tables, though
# not for the engine
sub untidied
{
	my ($hold, $accounts, $state) = @_;
	my $find = sub {
		my ($period) = @_;
		return first { $_->{user_id} eq $hold->{user_id} && $_->{metric} eq $hold->{metric} && $_->{period} eq $period
			  && $_->{from_time} le $hold->{from_time} && (!defined $_->{to_time} || $_->{to_time} gt $hold->{from_time}) } @$accounts;
	};
	my $account = $find->($hold->{period}) or return problem("no period of hold $hold->{id}");
	$account->{held} -= units($hold->{used}) - units($hold->{bonus_used}) - units($hold->{overage});
	$account->{held_cost} -= money($hold->{cost});
	foreach my $rate (split /,/, $hold->{rates} // '')
	{
		my $window = $find->($rate) or return problem("no $rate of hold $hold->{id}");
		$window->{held} -= units($hold->{used});
	}
	foreach my $line (split /,/, $hold->{lines} // '')
	{
		my ($id, $held) = split /=/, $line;
		my @bonus = split / /, $state->{"bonus $id"};
		$bonus[4] -= units($held);
		$state->{"bonus $id"} = join ' ', @bonus;
	}
	return;
}

# The tables against the model, for these subjects
sub compare_state
{
	my ($users, $verified) = @_;
	my (%state, @accounts, %holds, @lapsed);
	foreach my $user (@$users)
	{
		$model->refill($user, $_) foreach qw(calls tokens seats);
	}
	my $want = $model->state(map { $_ => 1 } @$users);

	foreach my $row (@{ must($STATE, subject_list(@$users), subject_list(@$verified)) })
	{
		if ($row->{what} eq 'account')
		{
			$row->{$_} = units($row->{$_}) foreach qw(used bonus_used overage held);
			$row->{$_} = money($row->{$_}) foreach qw(cost held_cost);
			push @accounts, $row;
		}
		elsif ($row->{what} eq 'bonus')
		{
			$state{"bonus $row->{id}"} = join ' ', @$row{qw(user_id metric)},
			  map({ units($row->{$_}) } qw(used bonus_used overage cost)), $row->{held} + 0;
		}
		elsif ($row->{what} eq 'hold')
		{
			if (seconds($row->{to_time}) <= $model->{now})
			{
				push @lapsed, $row;
				next;
			}
			my $sum = $holds{"holds $row->{user_id} $row->{metric}"} //= [ 0, 0, 0, 0, 0 ];
			my @add = (1, map({ units($row->{$_}) } qw(used bonus_used overage)), money($row->{cost}));
			$sum->[$_] += $add[$_] foreach 0 .. 4;
		}
		else
		{
			problem("verify_ledger: $row->{user_id} $row->{metric} " . shown($row->{period}) . " $row->{what}: recorded "
				  . shown($row->{used}) . ', expected ' . shown($row->{bonus_used}));
		}
	}
	untidied($_, \@accounts, \%state) foreach @lapsed;
	foreach my $row (@accounts)
	{
		my @counters = @$row{@QuotaModel::COUNTERS};
		problem("negative: $row->{user_id} $row->{metric} $row->{period}: @counters") if grep { $_ < 0 } @counters;
		my $account = join ' ', 'account', @$row{qw(user_id metric period)};
		my @ends = defined $row->{to_time} ? map { seconds($row->{to_time}) + $_ } 0, -1, 1 : 'never';
		# a change of plan ends some periods twice, if they have begun by then
		my $end = (first { $want->{"$account $_"} } @ends) // $ends[0];
		$state{"$account $end"} = "@counters" if grep { $_ } @counters;
	}
	$state{$_} = "@{ $holds{$_} }" foreach keys %holds;

	# a bonus that is due is written by whoever writes, and none before it is used
	foreach my $b (grep { $_->{due} } values %{ $model->{bonus} })
	{
		my $key = "bonus $b->{id}";
		delete $b->{due} if $state{$key};
		delete $want->{$key} if !$state{$key} && $model->usable({ %$b, expires => undef }) == $b->{amount};
	}

	my %all = (%state, %$want);
	foreach my $key (sort keys %all)
	{
		problem("$key: " . shown($state{$key}) . ', expected ' . shown($want->{$key})) unless same($state{$key}, $want->{$key});
	}
	return;
}

# Microseconds of an instant as the server writes it
sub seconds
{
	my ($text) = @_;
	my ($year, $mon, $day, $h, $min, $s, $fraction) = $text =~ /^(\d+)-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d+))?\+00$/
	  or die "not an instant: $text";
	return SECOND * timegm($s, $min, $h, $day, $mon - 1, $year) + substr(($fraction // '') . '000000', 0, 6);
}

# What a subject is limited to, for whoever looks for a fault
sub limits_shown
{
	my ($user) = @_;

	return map {
		my $metric = $_;
		join ' ', '  limits:', $user, $metric, shown($model->plan_of($user)), 'of', shown($model->{subject}{$user}{parent}),
		  map { my $w = $_; map({ shown($w->{$_}) } qw(period mode limit price cap)), ';' } $model->windows($user, $metric)
	} qw(calls tokens seats);
}

# For all subjects, with what remains to them
sub compare_all
{
	compare_state($world{users}, $world{users});
	return compare_remaining();
}

# What everybody is told that remains
sub compare_remaining
{
	foreach my $user (@{ $world{users} })
	{
		foreach my $metric (qw(calls tokens seats))
		{
			my $rows = must('SELECT * FROM quota.check_quota($1, $2, 1)', $user, $metric);
			compare_answer(($model->request('', $user, $metric => UNIT))[0], $rows->[0]);
		}
	}
	return;
}

1;
