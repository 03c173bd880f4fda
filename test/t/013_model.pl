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
use QuotaModel::Acts;
use QuotaModel::Purchases;
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

# File the event that was granted
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

# What is asked for, in one of several ways: as arguments, and what the model says
my %REQUEST = (
	consume => {
		sql => 'SELECT * FROM quota.check_and_consume_quota($1, $2, $3::numeric, $4)',
		arguments => sub { my ($r) = @_; return ($r->{user}, map({ ($_, amount($r->{units}{$_})) } keys %{ $r->{units} }), $r->{key}) },
		decide => sub { my ($r) = @_; return $model->request('used', $r->{user}, %{ $r->{units} }) } },
	consume_up_to => {
		sql => 'SELECT * FROM quota.consume_up_to($1, $2, $3::numeric, $4)',
		decide => sub { my ($r) = @_; return $model->consume_up_to($r->{user}, %{ $r->{units} }) } },
	consume_quotas => {
		sql => 'SELECT * FROM quota.consume_quotas($1, $2::jsonb, $3)',
		arguments => sub {
			my ($r) = @_;
			return ($r->{user}, '{' . join(', ', map { "\"$_\": " . amount($r->{units}{$_}) } shuffle sort keys %{ $r->{units} }) . '}', $r->{key});
		} },
	reserve => {
		sql => 'SELECT * FROM quota.reserve_quota($1, $2, $3::numeric, $4::interval, $5)',
		arguments => sub { my ($r) = @_; return ($r->{user}, map({ ($_, amount($r->{units}{$_})) } keys %{ $r->{units} }), "$r->{ttl} s", $r->{key}) },
		decide => sub { my ($r) = @_; return $model->request('held', $r->{user}, %{ $r->{units} }) } });
$REQUEST{consume_up_to}{arguments} = $REQUEST{consume}{arguments};
$REQUEST{consume_quotas}{decide} = $REQUEST{consume}{decide};

# The rows against what the model says, which does the same now
sub compare_request
{
	my ($r, @rows) = @_;
	my $kind = $r->{name} eq 'reserve' ? 'reserve' : 'consume';
	my @want = $model->answers_again($kind, $r->{name} eq 'consume_up_to', $r->{user}, $r->{key}, %{ $r->{units} });

	@want = $REQUEST{ $r->{name} }{decide}->($r) unless @want;
	problem(@rows . ' answers, expected ' . @want) if @rows != @want;
	foreach my $i (0 .. $#want)
	{
		my ($want, $row) = ($want[$i], $rows[$i]);
		compare_answer($want, $row);
		file($kind, $want, $row, $kind eq 'reserve' ? (expires => $model->{now} + $r->{ttl} * SECOND) : ());
		$model->remember($kind, $r->{user}, $r->{key}, $r->{units}, $want->{granted}, $row) if $want->{event};
	}
	push @{ $world{keys} }, $r if defined $r->{key} && grep { $_->{event} } @want;
	return;
}

sub make_request
{
	my ($r) = @_;
	my @arguments = $REQUEST{ $r->{name} }{arguments}->($r);

	described($r->{name}, @arguments);
	my ($rows, $state) = call($REQUEST{ $r->{name} }{sql}, @arguments);
	return compare_error(undef, $state) if $state;
	compare_request($r, @$rows);
	compare_retry($rows->[0], $r->{user}, %{ $r->{units} }) if $r->{name} =~ /^(?:consume|reserve)$/;
	return $model->chain($r->{user});
}

# Mostly none, else a new one; or one that was used before, by whatever call
sub random_key
{
	return undef unless chance(0.3);
	my $before = chance(0.2) ? one_of(@{ $world{keys} }) : undef;
	return $before ? $before->{key} : 'key ' . $world{step} . '.' . ++$world{key};
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
	return make_request({ name => 'consume', user => $user, units => { $metric => $units }, key => random_key() });
}

sub do_consume_up_to
{
	return make_request({ name => 'consume_up_to', user => any_user(), units => { any_metric() => some_units() * 2 }, key => random_key() });
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
	my %units = map { $_ => some_units() } grep { chance(0.7) } qw(calls tokens seats);
	%units = (calls => UNIT) unless %units;
	return make_request({ name => 'consume_quotas', user => any_user(), units => \%units, key => random_key() });
}

# Some of the requests may be those of other calls again, or of this one
sub do_batch
{
	my @items;

	foreach (1 .. 1 + int rand 5)
	{
		my $before = chance(0.2) ? one_of(@items, @{ $world{keys} }) : undef;
		push @items, $before ? again($before) :
		  { name => 'consume', user => any_user(), units => { any_metric() => some_units() }, key => random_key() };
	}
	# one of its metrics, if it was of several
	foreach my $r (@items)
	{
		my $metric = one_of(sort keys %{ $r->{units} });
		$r = { name => 'consume', user => $r->{user}, units => { $metric => $r->{units}{$metric} }, key => $r->{key}, metric => $metric };
	}

	my @keys = map { defined $_->{key} ? "\"$_->{key}\"" : 'NULL' } @items;
	described('batch', map { ($_->{user}, $_->{metric}, amount($_->{units}{ $_->{metric} }), $_->{key}, ';') } @items);
	my ($rows, $state) = call('SELECT * FROM quota.consume_quota_batch($1::uuid[], $2::text[], $3::numeric[], $4::text[])',
		subject_list(map { $_->{user} } @items), subject_list(map { $_->{metric} } @items),
		subject_list(map { amount($_->{units}{ $_->{metric} }) } @items), subject_list(@keys));
	return compare_error(undef, $state) if $state;
	problem(@$rows . ' answers, expected ' . @items) if @$rows != @items;
	compare_request($items[$_], $rows->[$_]) foreach 0 .. $#items;
	return map { $model->chain($_->{user}) } @items;
}

sub do_reserve
{
	my ($user, $metric, $units) = some_request();
	return make_request({ name => 'reserve', user => $user, units => { $metric => $units }, key => random_key(),
		ttl => one_of(1, 5, 60, 300, 900, 3600, 86400) });
}

# The same request again; now and then not quite
sub again
{
	my ($before) = @_;
	my %r = (%$before, units => { %{ $before->{units} } });
	my @metrics = sort keys %{ $r{units} };

	return \%r if chance(0.6);
	if ($r{name} eq 'consume_up_to' && chance(0.5))
	{
		# which was content with less
		$r{name} = 'consume';
	}
	elsif (@metrics > 1 && chance(0.3))
	{
		delete $r{units}{ one_of(@metrics) };
	}
	elsif ($r{name} eq 'consume_quotas' && chance(0.5))
	{
		$r{units}{ any_metric() } = some_units();
	}
	elsif (@metrics == 1 && chance(0.3))
	{
		$r{name} = one_of(qw(consume consume_up_to consume_quotas reserve));
		$r{ttl} //= 60;
	}
	else
	{
		$r{units}{ one_of(@metrics) } += 1;
	}
	return \%r;
}

# With a key that was used before: the same answers, or a conflict
sub do_repeat
{
	my $before = one_of(@{ $world{keys} }) or return do_consume();
	return make_request(again($before));
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

# How often each is chosen
my %weight = (
	consume => 24, consume_up_to => 6, consume_quotas => 6, batch => 4, check => 5,
	reserve => 14, settle => 9, cancel => 4, refund => 10,
	release => 4, set_gauge => 3, grant_bonus => 6, void_bonus => 1, topup => 3, recurring => 3, gift => 3, adjust => 3, reset => 2,
	assign_plan => 6, pending_plan => 1, set_parent => 2, override => 3, repeat => 4, tidy => 2);
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
