# Random sequences of all operations against a model in memory (QuotaModel.pm): after
# each of them counters, bonuses, holds and what remains are the same, and
# verify_ledger() is empty.
#
#	QUOTA_MODEL_STEPS	how many operations, 10,000 unless told otherwise
#	QUOTA_MODEL_SEED	where to begin, the same each time unless told otherwise; "random"
#						for another walk; a run that fails tells the seed to repeat it with
#	QUOTA_MODEL_WITHOUT	operations to leave out, to narrow a fault down: batch,reset,…
#
# The steps are dealt out to worlds of a few subjects each, with plans of their own.
# A world depends on its seed alone, so the last one can be repeated without the others.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use List::Util qw(max min shuffle);
use QuotaModel::World;
use QuotaTest;
use Test::More;

use constant STEPS_OF_A_WORLD => 250;

my $steps = $ENV{QUOTA_MODEL_STEPS} // 10_000;
my $seed = $ENV{QUOTA_MODEL_SEED} // 279_797;
$seed = 1 + int rand 1_000_000 if $seed eq 'random';
diag("QUOTA_MODEL_SEED=$seed QUOTA_MODEL_STEPS=$steps");

my $node = new_server('model', settings => "fsync = off\nautovacuum = on");
my $dbh = connect_to($node);

# Operations ----------------------------------------------------------------------------
#
# Each makes one call, has the model do the same, compares the answers, and returns the
# subjects whose accounts may have moved.

sub described
{
	push @log, join ' ', map { defined $_ ? $_ : 'NULL' } @_;
	return;
}

# File the events that were granted
sub file
{
	my ($kind, $want, $row, %more) = @_;

	return unless $want->{event};
	my $id = $kind eq 'reserve' ? $row->{reservation_id} : $row->{event_id};
	return problem("no id of the $kind") unless defined $id;
	my $event = $model->file($id, $kind, $want->{event}, %more);
	push @{ $kind eq 'reserve' ? $world{reservations} : $world{events} }, $event;
	return;
}

my $CONSUME = 'SELECT * FROM quota.check_and_consume_quota($1, $2, $3::numeric, $4)';
my $UP_TO = 'SELECT * FROM quota.consume_up_to($1, $2, $3::numeric, $4)';
my $RESERVE = 'SELECT * FROM quota.reserve_quota($1, $2, $3::numeric, $4::interval, $5)';

sub random_key { return chance(0.3) ? 'key ' . $world{step} : undef }

# Remember a call with a key, to repeat it
sub remember
{
	my ($key, $sql, $row, @values) = @_;
	push @{ $world{keys} }, { sql => $sql, row => $row, values => \@values } if defined $key && $row->{allowed};
	return;
}

# For a call of one metric; sometimes exactly what there is, or a millionth more
sub some_request
{
	my ($user, $metric, $units) = (any_user(), any_metric(), some_units());
	my $most = chance(0.15) ? $model->grantable($user, $metric) : undef;

	$units = $most + int rand 2 if $most;
	return ($user, $metric, $units);
}

sub do_consume
{
	my ($user, $metric, $units) = some_request();
	my $key = random_key();

	described('consume', $user, $metric, amount($units), $key);
	my @values = ($user, $metric, amount($units), $key);
	my ($rows, $state) = call($CONSUME, @values);
	my ($want) = $model->request('used', $user, $metric => $units);
	return compare_error(undef, $state) if $state;
	compare_answer($want, $rows->[0]);
	compare_retry($rows->[0], $user, $metric, $units);
	file('consume', $want, $rows->[0]);
	remember($key, $CONSUME, $rows->[0], @values);
	return $model->chain($user);
}

sub do_consume_up_to
{
	my ($user, $metric, $units, $key) = (any_user(), any_metric(), some_units() * 2, random_key());

	described('consume_up_to', $user, $metric, amount($units), $key);
	my @values = ($user, $metric, amount($units), $key);
	my ($rows, $state) = call($UP_TO, @values);
	my ($want) = $model->consume_up_to($user, $metric, $units);
	return compare_error(undef, $state) if $state;
	compare_answer($want, $rows->[0]);
	file('consume', $want, $rows->[0]);
	remember($key, $UP_TO, $rows->[0], @values);
	return $model->chain($user);
}

sub do_check
{
	my ($user, $metric, $units) = some_request();

	described('check', $user, $metric, amount($units));
	my $rows = must('SELECT * FROM quota.check_quota($1, $2, $3::numeric)', $user, $metric, amount($units));
	compare_answer(($model->request('', $user, $metric => $units))[0], $rows->[0]);
	compare_retry($rows->[0], $user, $metric, $units);
	return $model->chain($user);
}

sub do_consume_quotas
{
	my $user = any_user();
	my %units = map { $_ => some_units() } grep { chance(0.7) } qw(calls tokens seats);
	%units = (calls => UNIT) unless %units;

	my $requests = '{' . join(', ', map { "\"$_\": " . amount($units{$_}) } shuffle sort keys %units) . '}';
	described('consume_quotas', $user, $requests);
	my ($rows, $state) = call('SELECT * FROM quota.consume_quotas($1, $2::jsonb)', $user, $requests);
	my @want = $model->request('used', $user, %units);
	return compare_error(undef, $state) if $state;
	problem(@$rows . ' answers, expected ' . @want) if @$rows != @want;
	foreach my $i (0 .. $#want)
	{
		compare_answer($want[$i], $rows->[$i]);
		file('consume', $want[$i], $rows->[$i]);
	}
	return $model->chain($user);
}

sub do_batch
{
	my @items = map { +{ user => any_user(), metric => any_metric(), units => some_units() } } 1 .. 1 + int rand 5;

	described('batch', map { "$_->{user} $_->{metric} " . amount($_->{units}) } @items);
	my ($rows, $state) = call('SELECT * FROM quota.consume_quota_batch($1::uuid[], $2::text[], $3::numeric[])',
		map { my $what = $_; subject_list(map { $what eq 'units' ? amount($_->{units}) : $_->{$what} } @items) } qw(user metric units));
	my @want = map { $model->request('used', $_->{user}, $_->{metric} => $_->{units}) } @items;
	return compare_error(undef, $state) if $state;
	problem(@$rows . ' answers, expected ' . @want) if @$rows != @want;
	foreach my $i (0 .. $#want)
	{
		compare_answer($want[$i], $rows->[$i]);
		file('consume', $want[$i], $rows->[$i]);
	}
	return map { $model->chain($_->{user}) } @items;
}

sub do_reserve
{
	my ($user, $metric, $units) = some_request();
	my $key = random_key();
	my $ttl = one_of(1, 5, 60, 300, 900, 3600, 86400);

	described('reserve', $user, $metric, amount($units), "$ttl s", $key);
	my @values = ($user, $metric, amount($units), "$ttl s", $key);
	my ($rows, $state) = call($RESERVE, @values);
	my ($want) = $model->request('held', $user, $metric => $units);
	return compare_error(undef, $state) if $state;
	compare_answer($want, $rows->[0]);
	compare_retry($rows->[0], $user, $metric, $units);
	file('reserve', $want, $rows->[0], expires => $model->{now} + $ttl * SECOND);
	remember($key, $RESERVE, $rows->[0], @values);
	return $model->chain($user);
}

# One of the last reservations, mostly an open one
sub any_reservation
{
	my @open = values %{ $model->{hold} };
	return chance(0.8) && @open ? one_of(sort { $a->{n} <=> $b->{n} } @open) : one_of(@{ $world{reservations} });
}

sub do_settle
{
	my $event = any_reservation() or return do_reserve();
	my $held = $event->{amount};
	my $actual = int(one_of(0, 0.3, 0.5, 1, 1, 1.5, 2, 3) * $held);
	my ($was, @chain) = ($event->{resolved}, map { $_->{user} } @{ $event->{levels} });

	# the same again
	$actual = $1 if chance(0.5) && ($was // '') =~ /^settle (\d+)/;
	described('settle', $event->{id}, amount($actual), 'of', amount($held), $was // 'open');
	my ($rows, $state) = call('SELECT * FROM quota.settle_reservation($1, $2::numeric)', $event->{id},
		$actual == $held && chance(0.5) ? undef : amount($actual));
	if (!defined $was)
	{
		my $want = $model->settle($event, $actual);
		return compare_error(undef, $state) if $state;
		compare_answer($want, $rows->[0]);
		file('settle', $want, $rows->[0]);
	}
	else
	{
		compare_resolved($event, "settle $actual", $rows, $state);
	}
	return @chain;
}

sub compare_resolved
{
	my ($event, $again, $rows, $state) = @_;
	my $was = $event->{resolved};

	if ($was eq $again)
	{
		compare_error(undef, $state);
		problem('the first answer is not given again') unless $rows && $rows->[0]{already_processed} && $rows->[0]{allowed};
	}
	elsif ($was eq 'expire')
	{
		compare_error(undef, $state);
		compare_answer({ allowed => 0, reason => 'reservation_expired', granted => 0 }, $rows->[0]) if $rows;
	}
	else
	{
		compare_error('QU004', $state);
	}
	return;
}

sub do_cancel
{
	my $event = any_reservation() or return do_reserve();
	my ($was, @chain) = ($event->{resolved}, map { $_->{user} } @{ $event->{levels} });

	described('cancel', $event->{id}, $was // 'open');
	my ($rows, $state) = call('SELECT * FROM quota.cancel_reservation($1)', $event->{id});
	return do { compare_resolved($event, 'cancel', $rows, $state); @chain } if defined $was;

	$model->unhold($event);
	$event->{resolved} = 'cancel';
	return compare_error(undef, $state) if $state;
	compare_answer({ allowed => 1 }, $rows->[0]);
	return @chain;
}

sub do_refund
{
	my @left = grep { $_->{left} > 0 } @{ $world{events} };
	my $event = chance(0.9) && @left ? one_of(@left) : one_of(@{ $world{events} }) or return do_consume();
	my $part = one_of(undef, undef, 0.3, 0.5, 1, 1.2);
	my $units = defined $part ? max(1, int($part * $event->{left})) : undef;

	described('refund', $event->{id}, amount($units), 'of', amount($event->{left}), $event->{user}, $event->{metric});
	my ($rows, $state) = call(q{SELECT * FROM quota.refund_quota($1, $2::numeric, 'model')}, $event->{id}, amount($units));
	$units //= $event->{left};
	my $want = $units == 0 || $units > $event->{left} ? undef :
	  $event->{metric} eq 'seats' ? $model->refund_gauge($event, $units) : $model->refund($event, $units);
	compare_error($want ? undef : 'QU005', $state);
	compare_answer($want, $rows->[0]) if $want && $rows;
	return map { $_->{user} } @{ $event->{levels} };
}

sub do_release
{
	my ($user, $units) = (any_user(), some_units());

	described('release', $user, amount($units));
	my ($rows, $state) = call(q{SELECT * FROM quota.release_quota($1, 'seats', $2::numeric)}, $user, amount($units));
	my $want = $model->release($user, 'seats', $units);
	return compare_error(undef, $state) if $state;
	compare_answer($want, $rows->[0]);
	return $model->chain($user);
}

sub do_set_gauge
{
	my ($user, $units) = (any_user(), chance(0.1) ? 0 : some_units() * 2);

	described('set_gauge', $user, amount($units));
	my ($rows, $state) = call(q{SELECT * FROM quota.set_gauge($1, 'seats', $2::numeric, 'model')}, $user, amount($units));
	my $want = $model->set_gauge($user, 'seats', $units);
	return compare_error(undef, $state) if $state;
	compare_answer($want, $rows->[0]);
	return $model->chain($user);
}

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
	my @bonuses = sort { $a->{n} <=> $b->{n} } values %{ $model->{bonus} } or return do_grant_bonus();
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

	return do_consume() unless $model->windows($user, $metric);
	described('adjust', $user, $metric, amount($units));
	my ($rows, $state) = call('SELECT * FROM quota.adjust_usage($1, $2, $3::numeric, $4)', $user, $metric, amount($units), 'model');
	compare_error($model->adjust($user, $metric, $units) ? undef : '22023', $state);
	return $user;
}

sub do_reset
{
	my ($user, $metric) = (any_user(), any_counter());

	return do_consume() unless $model->windows($user, $metric);
	described('reset', $user, $metric);
	my ($rows, $state) = call('SELECT * FROM quota.reset_user_quota($1, $2, $3)', $user, $metric, 'model');
	$model->reset($user, $metric);
	compare_error(undef, $state);
	$world{hurry} = 1;		# the new period begins a moment from now
	return $user;
}

sub do_assign_plan
{
	my ($user, $plan) = (any_user(), one_of(@{ $world{plans} }));
	my $strategy = one_of(qw(keep keep reset at_period_end));
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
	$model->assign_plan($user, $plan, $strategy);
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

# A key that was used before: the same answer, or a conflict
sub do_repeat
{
	my $before = one_of(@{ $world{keys} }) or return do_consume();
	my @values = @{ $before->{values} };
	my $other = chance(0.3);

	$values[2] += 1 if $other;
	described($other ? 'conflict' : 'repeat', map { shown($_) } @values);
	my ($rows, $state) = call($before->{sql}, @values);
	compare_error(undef, $state);
	return unless $rows;
	if ($other)
	{
		compare_answer({ allowed => 0, reason => 'idempotency_conflict', granted => 0, bonus_used => 0, overage => 0, cost => 0 }, $rows->[0]);
	}
	else
	{
		my %want = (%{ $before->{row} }, already_processed => 1);
		problem("repeat: $_ is " . shown($rows->[0]{$_}) . ', was ' . shown($want{$_}))
		  foreach grep { !same($want{$_}, $rows->[0]{$_}) } sort keys %want;
	}
	return $model->chain($values[0]);
}

# Nothing that is seen
sub do_tidy
{
	my ($user, $metric) = (any_user(), any_metric());

	described('tidy', $user, $metric);
	must('SELECT quota.tidy_account($1, $2)', $user, $metric);
	return $user;
}

# How often each is chosen
my %weight = (
	consume => 24, consume_up_to => 6, consume_quotas => 6, batch => 4, check => 5,
	reserve => 14, settle => 9, cancel => 4, refund => 10,
	release => 4, set_gauge => 3, grant_bonus => 6, void_bonus => 1, gift => 3, adjust => 3, reset => 2,
	assign_plan => 3, pending_plan => 1, set_parent => 2, override => 3, repeat => 4, tidy => 2);
delete @weight{ split /,/, $ENV{QUOTA_MODEL_WITHOUT} // '' };
my @choice = map { (main->can("do_$_")) x $weight{$_} } sort keys %weight;

# Mostly a little, now and then into another period; or exactly to where something
# ends, or just short of it, and then everybody is asked what remains
sub move_clock
{
	my $now = $model->{now};
	my $dice = rand;

	return if $dice < 0.3 && !delete $world{hurry};
	if ($dice < 0.96)
	{
		$now += $dice < 0.8 ? (1 + int rand 20) * SECOND : $dice < 0.9 ? int rand 900 * SECOND :
		  $dice < 0.95 ? int rand 6 * 3600 * SECOND : int rand 4 * 86400 * SECOND;
		return set_clock($now);
	}
	my @ends = sort { $a <=> $b } grep { $_ > $now + 1 } $model->ends;
	set_clock($ends[ rand min(3, scalar @ends) ] - int rand 2) if @ends;
	compare_remaining();
	return;
}

sub run_world
{
	my ($world_seed, $world_steps) = @_;

	srand $world_seed;
	new_world($world_seed);
	foreach my $step (1 .. $world_steps)
	{
		$world{step} = $step;
		eval {
			move_clock();
			my @touched = grep { defined } one_of(@choice)->();
			my %touched = map { $_ => 1 } @touched;
			compare_state([ sort keys %touched ], [ one_of(@touched) // () ]);
			compare_all() if $step % 100 == 0 || $step == $world_steps;
			1;
		} or problem($@);
		if (@problems)
		{
			diag(join "\n", "Step $step at " . instant($model->{now}) . ' went wrong.  The last operations:',
				map({ "  $_" } @log[ max(0, @log - 30) .. $#log ]), map({ limits_shown($_) } @{ $world{users} }), @problems[ 0 .. min($#problems, 30) ],
				"Repeat it with QUOTA_MODEL_SEED=$world_seed QUOTA_MODEL_STEPS=$step");
			return 0;
		}
	}
	return 1;
}

must(q{INSERT INTO quota.metrics (metric, kind) VALUES ('calls', 'counter'), ('tokens', 'counter'), ('seats', 'gauge')});
my $done = 0;
my $ok = 1;
for (my $n = 0; $ok && $done < $steps; $n++)
{
	my $world_steps = min(STEPS_OF_A_WORLD, $steps - $done);
	$ok = run_world($seed + $n, $world_steps);
	$done += $world_steps;
}
ok($ok, "$done random operations: the extension and the model agree");
is_sound($node, 'at the end') if $ok;
$dbh->disconnect;
done_testing();
