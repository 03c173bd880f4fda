# What can be asked of the model (QuotaModel.pm), and what it answers.
package QuotaModel;

use strict;
use warnings FATAL => 'all';

use List::Util qw(first max min sum0);

our %RANK;

# Requests ----------------------------------------------------------------------------
#
# Each returns what the answer must say; "reports" are the windows that it may tell
# of, "event" what the caller files under the id that it was told.

# Several metrics, all or nothing; "what" is used, held, or "" for a dry run
sub request
{
	my ($self, $what, $user, %amount) = @_;
	my @items = map { +{ metric => $_, amount => $amount{$_}, levels => [ $self->levels($user, $_) ] } } sort keys %amount;

	foreach my $item (@items)
	{
		my @levels = @{ $item->{levels} };
		my @allowed = grep { $self->decide($_, $item->{amount}) } @levels;
		$item->{allowed} = @levels && @allowed == @levels;
	}
	if (grep { !$_->{allowed} } @items)
	{
		return map { $_->{allowed} ? { allowed => 0, granted => 0, bonus_used => 0, overage => 0, cost => 0, reason => 'other_denied' } :
			  $self->denial(@{ $_->{levels} }) } @items;
	}
	if ($what)
	{
		foreach my $item (@items)
		{
			$self->move($_, $what, $_->{parts}, 1) foreach @{ $item->{levels} };
		}
	}
	return map {
		my @levels = @{ $_->{levels} };
		+{
			%{ $self->grant($_->{amount}, @levels) },
			reports => $self->granted_reports(@levels),
			event => { user => $user, metric => $_->{metric}, amount => $_->{amount}, left => $_->{amount}, levels => \@levels }
		}
	} @items;
}

sub file
{
	my ($self, $id, $kind, $event, %more) = @_;

	%$event = (%$event, %more, id => $id, kind => $kind, n => ++$self->{events});
	if ($kind eq 'reserve')
	{
		$self->{hold}{$id} = $event;
	}
	else
	{
		push @{ $self->{charged} }, @{ $event->{levels} };
	}
	return $event;
}

# The most that can be granted; undef = no bound
sub grantable
{
	my ($self, $user, $metric) = @_;
	my $most;

	foreach my $level ($self->levels($user, $metric))
	{
		foreach my $w (grep { defined $_->{limit} && $_->{mode} ne 'shadow' } @{ $level->{windows} })
		{
			my $room = $self->room($level, $w);
			if ($w->{mode} eq 'soft')
			{
				next if !$w->{allowance} || !defined $w->{cap} || $w->{price} == 0;
				$room += int(max(0, $w->{cap} - $w->{record}{cost} - $w->{record}{held_cost}) / $w->{price});
			}
			$most = min($most // $room, $room);
		}
	}
	return $most;
}

sub consume_up_to
{
	my ($self, $user, $metric, $amount) = @_;
	my $most = min($amount, $self->grantable($user, $metric) // $amount);

	# what is denied is the least that there is
	return $self->request('used', $user, $metric => max($most, 1));
}

# Take a hold off
sub unhold
{
	my ($self, $event) = @_;

	$self->move($_, 'held', $_->{parts}, -1) foreach @{ $event->{levels} };
	delete $self->{hold}{ $event->{id} };
	return;
}

# Where a settlement above what was held is decided: the windows that are still
# limited among those that the reservation was made in, in its own periods
sub levels_as_reserved
{
	my ($self, $event) = @_;

	return map {
		my $reserved = $_;
		my @windows = $self->windows($reserved->{user}, $reserved->{metric});
		my @records = ($reserved->{record}, @{ $reserved->{rates} });
		foreach my $w (@windows)
		{
			$w->{record} = first { $_->{period} eq $w->{period} } @records;
			$w->{allowance} = defined $w->{record} && $w->{record} == $reserved->{record};
		}
		+{ user => $reserved->{user}, metric => $reserved->{metric}, windows => [ grep { $_->{record} } @windows ] }
	} @{ $event->{levels} };
}

sub settle
{
	my ($self, $event, $actual) = @_;
	my $held = $event->{amount};
	my $used = min($actual, $held);
	my $extra = $actual - $used;
	my @levels = map { +{ %$_, parts => keep($_->{parts}, $used) } } @{ $event->{levels} };

	$self->unhold($event);
	# what is held stays so while more is asked for
	$self->move($_, 'used', $_->{parts}, 1) foreach @levels;
	if ($extra > 0)
	{
		my @more = $self->levels_as_reserved($event);
		if (grep({ my $level = $_; grep { $_->{allowance} } @{ $level->{windows} } } @more) == @more
			&& grep({ $self->decide($_, $extra) } @more) == @more)
		{
			foreach my $i (0 .. $#more)
			{
				# windows that are not limited any more are charged all the same
				my $level = { %{ $levels[$i] }, parts => $more[$i]{parts} };
				$self->move($level, 'used', $level->{parts}, 1);
				$levels[$i]{parts} = combine($levels[$i]{parts}, $level->{parts}, 1);
			}
			$used += $extra;
		}
	}
	$event->{resolved} = "settle $actual";
	return {
		allowed => 1, granted => $used, shortfall => $actual - $used,
		bonus_used => sum0(map { $_->{parts}{bonus} } @levels),
		overage => sum0(map { $_->{parts}{overage} } @levels),
		cost => sum0(map { $_->{parts}{cost} } @levels),
		event => { %$event, amount => $used, left => $used, levels => \@levels } };
}

# Units that are left of an event go back, last source first
sub refund
{
	my ($self, $event, $amount) = @_;
	my @levels = @{ $event->{levels} };
	my @kept = map { keep($_->{parts}, $event->{left} - $amount) } @levels;
	my @back = map { combine($levels[$_]{parts}, $kept[$_], -1) } 0 .. $#levels;

	# an adjustment may have taken it already
	return undef if grep { $levels[$_]{record}{used} < $back[$_]{allowance} } 0 .. $#levels;
	foreach my $i (0 .. $#levels)
	{
		$self->move($levels[$i], 'used', $back[$i], -1);
		$levels[$i]{parts} = $kept[$i];
	}
	$event->{left} -= $amount;
	return {
		allowed => 1, granted => -$amount,
		bonus_used => -sum0(map { $_->{bonus} } @back),
		overage => -sum0(map { $_->{overage} } @back),
		cost => -sum0(map { $_->{cost} } @back) };
}

# Gauges ------------------------------------------------------------------------------

# Give back what a level has, last source first
sub give_back
{
	my ($self, $level, $units) = @_;
	my $allowance = first { $_->{allowance} } @{ $level->{windows} };
	my $r = $allowance->{record};
	my @used = grep { $_->{used} > 0 } $self->bonuses($level->{user}, $level->{metric});
	my $parts = {
		allowance => $r->{used}, bonus => $r->{bonus_used}, overage => $r->{overage}, cost => $r->{cost},
		lines => [ map { [ $_, $_->{used} ] } @used ] };
	# the lines may be of more than this period has: the last ones count
	my $kept = keep($parts, total($parts) - $units);
	my $rest = $parts->{bonus} - $kept->{bonus};
	my $back = { map { $_ => $parts->{$_} - $kept->{$_} } qw(allowance bonus overage cost) };
	foreach my $line (reverse @{ $parts->{lines} })
	{
		my $take = min($rest, $line->[1]);
		push @{ $back->{lines} }, [ $line->[0], $take ];
		$rest -= $take;
	}
	# a window that has counted less was not limited when these units came
	my @rates = grep { $_->{used} >= $units } map { $_->{record} } grep { !$_->{allowance} } @{ $level->{windows} };
	$self->move({ record => $r, rates => \@rates }, 'used', $back, -1);
	return $back;
}

sub given_back
{
	my ($units, @back) = @_;

	return {
		allowed => 1, granted => -$units, reason => 'ok',
		map { my $part = $_; my $name = $part eq 'bonus' ? 'bonus_used' : $part;
			$name => -sum0(map { $_->{$part} } @back) } qw(bonus overage cost) };
}

# The parents give back no more than the subject, whose is what they count.  What it
# has is given back also where its plan does not list the gauge any more.
sub release
{
	my ($self, $user, $metric, $amount) = @_;
	my @levels = $self->levels($user, $metric);
	my @accounts = sort { $RANK{ $b->{period} } <=> $RANK{ $a->{period} } } grep { $_->{moved} } values %{ $self->{current}{$user}{$metric} // {} };
	my %had = (user => $user, metric => $metric,
		windows => [ map { +{ record => $_, allowance => $_ == $accounts[0] } } @accounts ]);

	# the longest one that was ever limited was the allowance
	unshift @levels, \%had if @accounts && in_use(\%had) > 0 && !$self->windows($user, $metric);
	return given_back(0) unless @levels;
	my $units = min($amount, in_use($levels[0]));

	return given_back($units, map { $self->give_back($_, min($units, in_use($_))) } @levels);
}

sub set_gauge
{
	my ($self, $user, $metric, $value) = @_;
	my @levels = $self->levels($user, $metric) or return $self->denial;
	my $difference = $value - in_use($levels[0]);

	return given_back(-$difference, map { $self->give_back($_, min(-$difference, in_use($_))) } @levels) if $difference < 0;
	foreach my $level (@levels)
	{
		foreach my $w (@{ $level->{windows} })
		{
			$w->{record}{used} += $difference;
			$w->{record}{moved} = 1;
		}
	}
	return given_back(-$difference);
}

# A gauge does not remember which event its units came from
sub refund_gauge
{
	my ($self, $event, $amount) = @_;
	my @levels = map { +{ %$_, windows => [ { record => $_->{record}, allowance => 1 }, map { +{ record => $_ } } @{ $_->{rates} } ] } }
	  @{ $event->{levels} };

	return undef if grep { in_use($_) < $amount } @levels;
	$event->{left} -= $amount;
	return given_back($amount, map { $self->give_back($_, $amount) } @levels);
}

sub in_use
{
	my ($level) = @_;
	my $r = (first { $_->{allowance} } @{ $level->{windows} })->{record};
	return $r->{used} + $r->{bonus_used} + $r->{overage};
}

# Admin acts ----------------------------------------------------------------------------

# False if it would go below zero
sub adjust
{
	my ($self, $user, $metric, $delta) = @_;
	my ($allowance) = grep { $_->{allowance} } $self->windows($user, $metric);
	my $r = $self->record($user, $metric, $allowance->{period});

	return 0 if $r->{used} + $delta < 0;
	$r->{used} += $delta;
	$r->{moved} = 1;
	return 1;
}

# Ends the present periods.  They include this very instant.
sub reset
{
	my ($self, $user, $metric) = @_;
	my @records = map { $self->record($user, $metric, $_->{period}) } $self->windows($user, $metric);
	my $end = 1 + max($self->{now}, map { $_->{start} } @records);

	foreach my $r (@records)
	{
		next if defined $r->{end} && $r->{end} <= $end;
		$self->{current}{$user}{$metric}{ $r->{period} } = $self->new_record($user, $metric, $r->{period}, $end, $r->{end});
		$r->{end} = $end;
		push @{ $self->{closed} }, $r;
	}
	return;
}

sub add_bonus
{
	my ($self, $id, %bonus) = @_;

	$self->{bonus}{$id} = { used => 0, held => 0, given => 0, voided => 0, granted => $self->{now}, %bonus, id => $id, n => ++$self->{events} };
	return;
}

# The price of a unit, in hundredths; none where so few are not for sale
sub topup_price
{
	my ($self, $user, $metric, $units) = @_;
	my $plan = $self->plan_of($user);
	my @prices = grep { $_->{from} <= $units } @{ defined $plan ? $self->{topup}{$plan}{$metric} // [] : [] };
	my ($price) = sort { $b->{from} <=> $a->{from} } @prices;

	return $price ? $price->{price} : undef;
}

# What a purchase may say that there is: what a request for one unit would be told
sub available
{
	my ($self, $user, $metric) = @_;
	my ($want) = $self->request('', $user, $metric => 1_000_000);

	return [ map { +{ total_available => $_->{remaining} } } @{ $want->{reports} // [ { remaining => 0 } ] } ];
}

# Bonuses that may be given away become bonuses of the receiver, who cannot give them
# away.  The lines are what the tables say: from, to, units.  Returns the units of
# each, or the reason why not.
sub gift
{
	my ($self, $from, $to, $metric, $units, @lines) = @_;
	my @bonuses = grep { $_->{giftable} } $self->usable_bonuses($from, $metric);
	my @units;

	return 'insufficient_giftable' if $units > sum0 map { $self->usable($_) } @bonuses;
	foreach my $b (@bonuses)
	{
		my $take = min($units, $self->usable($b)) or last;
		my $line = shift @lines // [ '', '' ];
		return "a line from $b->{id}, not $line->[0]" if $line->[0] ne $b->{id};
		push @units, $take;
		$b->{given} += $take;
		$units -= $take;
		$self->add_bonus($line->[1], user => $to, metric => $metric, amount => $take, expires => $b->{expires},
			priority => $b->{priority}, source => 'gift', giftable => 0);
	}
	$self->repay($to, $metric);
	return join ',', @units;
}

# Overage of the present period that bonuses can pay for by now.  A gauge does not
# remember which event its overage came from.
sub repay
{
	my ($self, $user, $metric) = @_;
	my ($allowance) = grep { $_->{allowance} } $self->windows($user, $metric);

	return if !$allowance || !$allowance->{repay};
	my $r = $self->record($user, $metric, $allowance->{period});
	return $self->pay($r, { allowance => 0, bonus => 0, overage => $r->{overage}, cost => $r->{cost}, lines => [] })
	  if $self->{kind}{$metric} eq 'gauge';
	# the oldest event first, whose own units they are from now on
	foreach my $level (@{ $self->{charged} })
	{
		next if $level->{user} ne $user || $level->{record} != $r;
		$self->pay($r, $level->{parts});
	}
	return;
}

# Bonuses pay for overage that is in these parts
sub pay
{
	my ($self, $r, $parts) = @_;
	my $units = min($parts->{overage}, $self->bonus_left($r->{user}, $r->{metric}));

	return if $units <= 0;
	my $paid = {
		allowance => 0, bonus => $units, overage => -$units, cost => -part_of($parts->{cost}, $units, $parts->{overage}),
		lines => $self->bonus_lines($r->{user}, $r->{metric}, $units) };
	$self->move({ record => $r, rates => [] }, 'used', $paid, 1);
	%$parts = %{ combine($parts, $paid, 1) };
	return;
}

1;
