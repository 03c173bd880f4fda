# What admins do, in the model and on the server: operations of test/t/013_model.pl,
# which says what an operation is.
package QuotaModel::Acts;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use List::Util qw(shuffle);
use QuotaModel::World;

our @EXPORT = qw(do_grant_bonus do_void_bonus do_gift do_adjust do_reset do_assign_plan do_pending_plan
  do_set_parent do_recurring do_override do_tidy);

sub do_grant_bonus
{
	my ($user, $metric, $units) = (any_user(), any_metric(), some_units());
	my $expires = chance(0.5) ? $model->{now} + one_of(1, 60, 3600, 86400 * 3) * SECOND : undef;
	my $priority = one_of(10, 50, 50, 90);
	my $source = one_of(qw(promotional paid));
	my $giftable = chance(0.5);

	described('grant_bonus', $user, $metric, amount($units), instant($expires), $priority, $source, $giftable ? 'giftable' : ());
	my $rows = must('SELECT quota.grant_bonus($1, $2, $3::numeric, $4, $5, $6, $7, $8) AS id',
		$user, $metric, amount($units), instant($expires), 'model', $priority, $source, $giftable ? 't' : 'f');
	$model->add_bonus($rows->[0]{id}, user => $user, metric => $metric, amount => $units, expires => $expires,
		priority => $priority, source => $source, giftable => $giftable);
	$model->repay($user, $metric);
	return $user;
}

sub do_void_bonus
{
	my @bonuses = sort { $a->{n} <=> $b->{n} } grep { !$_->{due} } values %{ $model->{bonus} } or return do_grant_bonus();
	my $bonus = one_of(@bonuses);

	described('void_bonus', $bonus->{id}, $bonus->{user}, $bonus->{metric});
	my $rows = must('SELECT quota.void_bonus($1, $2) AS units', $bonus->{id}, 'model');
	my $want = $model->usable($bonus);
	problem("void_bonus took back $rows->[0]{units}, expected " . amount($want)) if units($rows->[0]{units}) != $want;
	$bonus->{voided} = 1;
	return $bonus->{user};
}

sub do_gift
{
	my ($from, $to) = shuffle @{ $world{users} };
	my ($metric, $units) = (any_metric(), some_units() / 2);

	described('gift', $from, $to, $metric, amount($units));
	my ($gift) = @{ must('SELECT * FROM quota.gift_quota($1, $2, $3, $4::numeric)', $from, $to, $metric, amount($units)) };
	my @lines = map { [ $_->{from_bonus_id}, $_->{to_bonus_id}, units($_->{amount}) ] }
	  @{ must('SELECT * FROM quota.gift_lines WHERE gift_id = $1 ORDER BY ordinal', $gift->{gift_id}) };
	my $got = $gift->{allowed} ? join ',', map { $_->[2] } @lines : $gift->{reason};
	my $want = $model->gift($from, $to, $metric, $units, @lines);
	problem("gift: $got, expected $want") if $got ne $want;
	return ($from, $to);
}

sub do_adjust
{
	my ($user, $metric) = (any_user(), any_metric());
	my $units = one_of(-1, 1, 1) * some_units();

	return do_tidy() unless $model->windows($user, $metric);
	described('adjust', $user, $metric, amount($units));
	my ($rows, $state) = call('SELECT * FROM quota.adjust_usage($1, $2, $3::numeric, $4)', $user, $metric, amount($units), 'model');
	compare_error($model->adjust($user, $metric, $units) ? undef : '22023', $state);
	return $user;
}

sub do_reset
{
	my ($user, $metric) = (any_user(), any_counter());

	return do_tidy() unless $model->windows($user, $metric);
	described('reset', $user, $metric);
	my ($rows, $state) = call('SELECT * FROM quota.reset_user_quota($1, $2, $3)', $user, $metric, 'model');
	$model->reset($user, $metric);
	compare_error(undef, $state);
	$world{hurry} = 1;		# the new period begins a moment from now
	return $user;
}

my $STATUS = 'SELECT * FROM quota.get_user_quota_status($1) WHERE limit_user_id = $1 AND resets_at IS NOT NULL';

# When the server says that a period began: with its bounds, or where a reset has ended
# the one before, as far as the model knows that (compare_state)
sub start_of_period
{
	my ($user, $metric, $period, $start) = @_;
	my $r = $model->record($user, $metric, $period);
	my ($first) = $model->period_bounds($user, $metric, $period);

	problem("$metric $period began at " . instant($start) . ', expected ' . instant($r->{start}))
	  unless $start == $first || abs($start - $r->{start}) <= 1;
	return $start;
}

# The limits that changes of plan have set, these ones now; the model goes on with what
# the server has rounded
sub compare_limits_set
{
	my ($user, @limits) = @_;
	my $overrides = $model->{override}{$user} //= {};
	my %got = map { ("$_->{metric} " . ($_->{period} // '') => $_) }
	  @{ must(q{SELECT * FROM quota.limit_overrides WHERE user_id = $1 AND reason IN ('prorated', 'additive')}, $user) };

	foreach my $want (@limits)
	{
		my ($metric, $named, $exact) = @$want{qw(metric named fraction)};
		my $limit = units($got{"$metric $named"}{limit_amount});
		problem("limit of $metric $named: " . shown($limit) . ', expected ' . ($exact ? "$exact->[0] / $exact->[1]" : 'none'))
		  unless $exact ? defined $limit && QuotaModel::nearest($limit, $exact) : !defined $limit;
		$overrides->{$metric}{$named} = { limit => $limit, expires => $want->{expires}, by_plan => 1 };
	}
	my %want = map {
		my $metric = $_;
		map { ("$metric $_" => $overrides->{$metric}{$_}) } grep { $overrides->{$metric}{$_}{by_plan} } keys %{ $overrides->{$metric} };
	} keys %$overrides;
	foreach my $key (sort keys %{ { %got, %want } })
	{
		my $until = $got{$key} ? instant(seconds($got{$key}{expires_at})) : undef;
		my $expected = $want{$key} ? instant($want{$key}{expires}) : undef;
		problem("limit of $key until " . shown($until) . ', expected ' . shown($expected)) unless same($until, $expected);
	}
	return;
}

sub do_assign_plan
{
	# often one whose plan has changed within a period already
	my @adapted = grep { $model->adapted($_) } @{ $world{users} };
	my ($user, $plan) = (@adapted && chance(0.4) ? one_of(@adapted) : any_user(), one_of(@{ $world{plans} }));
	my $strategy = one_of(qw(keep reset prorate prorate additive at_period_end));
	my $old = $model->plan_of($user);
	my $subject = $model->{subject}{$user};

	described('assign_plan', $user, $plan, $strategy);
	my ($rows, $state) = call('SELECT * FROM quota.assign_plan($1, $2, $3)', $user, $plan, $strategy);
	if ($strategy eq 'at_period_end' && defined $old && $old ne $plan)
	{
		my @ends = $model->ends_of_longest_period($user, $old);
		compare_error(@ends ? undef : '22023', $state);
		return $user if $state;
		my ($row) = @{ must('SELECT * FROM quota.subscriptions WHERE user_id = $1', $user) };
		problem("pending at $row->{pending_at}, expected one of " . join ', ', map { instant($_) } @ends)
		  unless grep { instant($_) eq instant(seconds($row->{pending_at})) } @ends;
		@$subject{qw(plan pending pending_at)} = ($old, $plan, seconds($row->{pending_at}));
		return $user;
	}
	compare_error(undef, $state);
	my %start = map { ("$_->{metric} $_->{period}" => seconds($_->{period_start})) } @{ must($STATUS, $user) };
	my @limits = $model->assign_plan($user, $plan, $strategy, sub {
		my ($metric, $period) = @_;
		return start_of_period($user, $metric, $period, $start{"$metric $period"});
	});
	compare_limits_set($user, @limits);
	$world{hurry} = 1 if $strategy eq 'reset';
	return $user;
}

sub do_pending_plan
{
	my ($user, $plan) = (any_user(), one_of(@{ $world{plans} }));
	my $at = $model->{now} + one_of(1, 600, 86400) * SECOND;

	described('pending plan', $user, $plan, instant($at));
	must('UPDATE quota.subscriptions SET pending_plan = $1, pending_at = $2, plan = $3 WHERE user_id = $4',
		$plan, instant($at), $model->plan_of($user), $user);
	my $subject = $model->{subject}{$user};
	$subject->{plan} = $model->plan_of($user);
	@$subject{qw(pending pending_at)} = ($plan, $at);
	return $user;
}

# A recurring bonus, or the end of one
sub do_recurring
{
	my ($user, $metric) = (any_user(), any_metric());
	my $all = $model->{recurring}{$user}{$metric} //= [];
	my $old = one_of(@$all);

	if ($old && chance(0.6))
	{
		described('stop_recurring_bonus', $old->{id}, $user, $metric);
		my ($row) = @{ must('SELECT quota.stop_recurring_bonus($1, $2) AS stopped', $old->{id}, 'model') };
		my $want = !defined $old->{ends} || $old->{ends} > $model->{now};
		problem('stopped: ' . shown($row->{stopped})) if !$row->{stopped} != !$want;
		$model->stop_refills($old) if $want;
		return $user;
	}
	my $first = one_of(-86400, -3600, 0, 10, 600);
	# some end right after a period has begun
	my $last = chance(0.4) ? ($first > 0 ? $first : 86400) + one_of(1, 1, 60) : undef;
	my %r = (amount => some_units(), period => one_of(qw(day day week)), anchor => $model->{now} + $first * SECOND,
		priority => one_of(20, 50), ends => defined $last ? $model->{now} + $last * SECOND : undef);
	described('set_recurring_bonus', $user, $metric, amount($r{amount}), $r{period}, instant($r{anchor}), $r{priority}, instant($r{ends}));
	my ($row) = @{ must('SELECT quota.set_recurring_bonus($1, $2, $3::numeric, $4, $5, $6, false, $7, $8) AS id',
		$user, $metric, amount($r{amount}), $r{period}, 'model', instant($r{anchor}), $r{priority}, instant($r{ends})) };
	push @$all, { %r, id => $row->{id} };
	return $user;
}

sub do_set_parent
{
	my ($member, $team, $other) = @{ $world{users} }[ int rand 3, 3, 5 ];
	my $parent = one_of(undef, $team, $team, @{ $world{users} }[4], $other);

	described('parent', $member, $parent);
	must('SELECT quota.set_parent($1, $2)', $member, $parent);
	$model->{subject}{$member}{parent} = $parent;
	return $member;
}

sub do_override
{
	my ($user, $metric) = (any_user(), any_metric());
	# windows that an override adds are counted by the calendar
	my $period = chance(0.5) || $model->{anchored}{$metric} ? undef : one_of(@{ $world{periods}{$metric} });
	my $limit = chance(0.15) ? undef : one_of(1, 5, 12.5, 40) * UNIT;
	my $expires = chance(0.7) ? $model->{now} + one_of(1, 600, 86400) * SECOND : undef;
	my $overrides = $model->{override}{$user}{$metric} //= {};

	if ($overrides->{ $period // '' } && chance(0.6))
	{
		described('clear_limit_override', $user, $metric, $period);
		must('SELECT quota.clear_limit_override($1, $2, $3, $4)', $user, $metric, 'model', $period);
		delete $overrides->{ $period // '' };
		return $user;
	}
	described('set_limit_override', $user, $metric, amount($limit), instant($expires), $period);
	must('SELECT quota.set_limit_override($1, $2, $3::numeric, $4, $5, $6)',
		$user, $metric, amount($limit), instant($expires), 'model', $period);
	$overrides->{ $period // '' } = { limit => $limit, expires => $expires };
	return $user;
}

# Nothing that is seen
sub do_tidy
{
	my ($user, $metric) = (any_user(), any_metric());

	described('tidy', $user, $metric);
	must('SELECT quota.tidy_account($1, $2)', $user, $metric);
	return $user;
}

1;
