# The whole ledger in memory, as plainly as it can be said: what test/t/013_model.pl
# compares the extension with.  It shares nothing with the engine.
#
# Amounts are whole millionths, prices whole hundredths of a unit of money, money
# whole hundred-millionths, times microseconds since 1970; all of them small enough
# for Perl's integers.
#
# A period of an account is a "record", and what moved units keeps a reference to
# the records it moved them in, so that a closed period needs no special case.  A
# period begins when somebody looks at it, and holds end when the clock is moved.
package QuotaModel;

use strict;
use warnings FATAL => 'all';

use List::Util qw(first max min sum0);
use Time::Local qw(timegm);

use constant SECOND => 1_000_000;

# Windows by name: rank among the windows of a metric, and length where it is fixed
our %RANK = (minute => 1, hour => 2, day => 3, week => 4, month => 5, lifetime => 6);
our %LENGTH = (
	minute => 60 * SECOND, hour => 3600 * SECOND,
	day => 86400 * SECOND, week => 7 * 86400 * SECOND);

our @COUNTERS = qw(used bonus_used overage cost held held_cost);

# kind: metric => kind; plan: plan => metric => period => { limit, mode, price, cap,
# repay }; subject: user => { plan, parent, anchor }; anchored: metrics whose periods
# are counted from the subject's anchor
sub new
{
	my ($class, %self) = @_;
	return bless {
		%self, override => {}, current => {}, closed => [],
		bonus => {}, hold => {}, charged => [], answered => {}, recurring => {}, events => 0 }, $class;
}

# Time ------------------------------------------------------------------------------

sub set_clock
{
	my ($self, $now) = @_;

	$self->{now} = $now;
	foreach my $event (grep { $_->{expires} <= $now } values %{ $self->{hold} })
	{
		$self->unhold($event);
		$event->{resolved} = 'expire';
	}
	return;
}

# When something ends by itself
sub ends
{
	my ($self) = @_;
	my @records = map { values %$_ } map { values %$_ } values %{ $self->{current} };
	my @overrides = map { values %$_ } map { values %$_ } values %{ $self->{override} };

	return grep { defined } (
		map({ $_->{end} } @records),
		map({ $_->{expires} } values %{ $self->{hold} }, values %{ $self->{bonus} }, @overrides),
		map({ $_->{pending_at} } values %{ $self->{subject} }),
		map { my $user = $_; map { $self->next_refills($user, $_) } keys %{ $self->{recurring}{$user} } } sort keys %{ $self->{recurring} });
}

sub period_bounds
{
	my ($self, $user, $metric, $period) = @_;
	my $now = $self->{now};

	return (0, undef) if $period eq 'lifetime' || $self->{kind}{$metric} eq 'gauge';
	if ($period eq 'month')
	{
		my (undef, undef, undef, undef, $month, $year) = gmtime int($now / SECOND);
		return map { SECOND * timegm(0, 0, 0, 1, $_ % 12, $year + 1900 + int($_ / 12)) } $month, $month + 1;
	}
	# the first of January 1970 was a Thursday
	my $from = $self->{anchored}{$metric} ? $self->{subject}{$user}{anchor} :
	  $period eq 'week' ? 4 * 86400 * SECOND : 0;
	my $length = $LENGTH{$period};
	my $start = $now - ($now - $from) % $length;
	return ($start, $start + $length);
}

sub new_record
{
	my ($self, $user, $metric, $period, $start, $end) = @_;

	return {
		user => $user, metric => $metric, period => $period, start => $start, end => $end,
		map { $_ => 0 } @COUNTERS };
}

# The present period of an account
sub record
{
	my ($self, $user, $metric, $period) = @_;
	my $slot = \$self->{current}{$user}{$metric}{$period};

	if ($$slot && defined $$slot->{end} && $$slot->{end} <= $self->{now})
	{
		push @{ $self->{closed} }, $$slot;
		$$slot = undef;
	}
	$$slot //= $self->new_record($user, $metric, $period, $self->period_bounds($user, $metric, $period));
	return $$slot;
}

# Limits ----------------------------------------------------------------------------

sub plan_of
{
	my ($self, $user) = @_;
	my $s = $self->{subject}{$user};

	return defined $s->{pending} && $s->{pending_at} <= $self->{now} ? $s->{pending} : $s->{plan};
}

# The windows that a subject is limited by now; the last one is the allowance
sub windows
{
	my ($self, $user, $metric) = @_;
	my $plan = $self->plan_of($user);
	my $limits = defined $plan ? $self->{plan}{$plan}{$metric} : undef;
	my %window = map { $_ => { %{ $limits->{$_} }, period => $_ } } keys %{ $limits // {} };
	my $overrides = $self->{override}{$user}{$metric} // {};
	my $set = sub {
		my ($period, $override) = @_;
		return if defined $override->{expires} && $override->{expires} <= $self->{now};
		$window{$period} //= { mode => 'hard', price => 0, repay => 0, period => $period };
		$window{$period}{limit} = $override->{limit};
	};
	my $longest = (sort { $RANK{$b} <=> $RANK{$a} } keys %window)[0] // 'lifetime';

	$set->($longest, $overrides->{''}) if $overrides->{''};
	$set->($_, $overrides->{$_}) foreach grep { $_ ne '' } sort keys %$overrides;

	my @windows = sort { $RANK{ $a->{period} } <=> $RANK{ $b->{period} } } values %window;
	$windows[-1]{allowance} = 1 if @windows;
	return @windows;
}

# The subject and its parents, nearest first
sub chain
{
	my ($self, $user) = @_;
	my @chain;

	for (; defined $user; $user = $self->{subject}{$user}{parent})
	{
		push @chain, $user;
	}
	return @chain;
}

# What a request charges: each subject of the chain that has limits
sub levels
{
	my ($self, $user, $metric) = @_;
	my @levels;

	foreach my $subject ($self->chain($user))
	{
		my @windows = $self->windows($subject, $metric) or next;
		$_->{record} = $self->record($subject, $metric, $_->{period}) foreach @windows;
		push @levels, { user => $subject, metric => $metric, windows => \@windows };
	}
	return @levels;
}

# Bonuses ---------------------------------------------------------------------------

sub usable
{
	my ($self, $b) = @_;

	return 0 if $b->{voided} || (defined $b->{expires} && $b->{expires} <= $self->{now});
	return $b->{amount} - $b->{used} - $b->{held} - $b->{given};
}

# All of a subject, in the order of use
sub bonuses
{
	my ($self, $user, $metric) = @_;
	my $never = ~0 >> 1;

	$self->refill($user, $metric);
	return sort {
		$a->{priority} <=> $b->{priority}
		  or ($a->{expires} // $never) <=> ($b->{expires} // $never)
		  or ($a->{source} eq 'paid') <=> ($b->{source} eq 'paid')
		  or $a->{granted} <=> $b->{granted}
		  or $a->{id} cmp $b->{id}
	} grep { $_->{user} eq $user && $_->{metric} eq $metric } values %{ $self->{bonus} };
}

sub usable_bonuses
{
	my ($self, $user, $metric) = @_;
	return grep { $self->usable($_) > 0 } $self->bonuses($user, $metric);
}

sub bonus_left
{
	my ($self, $user, $metric) = @_;
	return sum0 map { $self->usable($_) } $self->usable_bonuses($user, $metric);
}

# Units of bonuses, as lines [ bonus, units ] in the order of use
sub bonus_lines
{
	my ($self, $user, $metric, $units) = @_;
	my @lines;

	foreach my $b ($self->usable_bonuses($user, $metric))
	{
		my $take = min($units, $self->usable($b));
		push @lines, [ $b, $take ] if $take > 0;
		$units -= $take;
	}
	die "bonuses lack $units" if $units != 0;
	return \@lines;
}

# Parts: where units came from ------------------------------------------------------

sub total { return $_[0]{allowance} + $_[0]{bonus} + $_[0]{overage} }

sub no_parts { return { allowance => 0, bonus => 0, overage => 0, cost => 0, lines => [] } }

sub part_of
{
	my ($cost, $part, $whole) = @_;

	return 0 if $whole == 0;
	die "$cost for $whole has no price" if $cost % $whole;
	return $cost / $whole * $part;
}

# The first units in the order of use
sub keep
{
	my ($parts, $units) = @_;
	my %kept = (lines => []);

	$kept{allowance} = min($units, $parts->{allowance});
	$kept{bonus} = min($units - $kept{allowance}, $parts->{bonus});
	$kept{overage} = min($units - $kept{allowance} - $kept{bonus}, $parts->{overage});
	$kept{cost} = part_of($parts->{cost}, $kept{overage}, $parts->{overage});
	my $rest = $kept{bonus};
	foreach my $line (@{ $parts->{lines} })
	{
		my $take = min($rest, $line->[1]);
		push @{ $kept{lines} }, [ $line->[0], $take ] if $take > 0;
		$rest -= $take;
	}
	return \%kept;
}

# One with another, or without it; lines by bonus, in their order
sub combine
{
	my ($one, $other, $sign) = @_;
	my %sum = map { $_ => $one->{$_} + $sign * $other->{$_} } qw(allowance bonus overage cost);
	my @lines = map { [ @$_ ] } @{ $one->{lines} };

	foreach my $line (@{ $other->{lines} })
	{
		my $same = first { $_->[0] == $line->[0] } @lines;
		push @lines, $same = [ $line->[0], 0 ] unless $same;
		$same->[1] += $sign * $line->[1];
	}
	$sum{lines} = [ grep { $_->[1] != 0 } @lines ];
	return \%sum;
}

# Put parts on (sign 1) or take them off (-1), as used or as held
sub move
{
	my ($self, $level, $what, $parts, $sign) = @_;
	my $r = $level->{record};

	$_->{moved} = 1 foreach $r, @{ $level->{rates} };
	if ($what eq 'used')
	{
		$r->{used} += $sign * $parts->{allowance};
		$r->{bonus_used} += $sign * $parts->{bonus};
		$r->{$_} += $sign * $parts->{$_} foreach qw(overage cost);
	}
	else
	{
		$r->{held} += $sign * $parts->{allowance};
		$r->{held_cost} += $sign * $parts->{cost};
	}
	$_->{$what} += $sign * total($parts) foreach @{ $level->{rates} };
	$_->[0]{$what} += $sign * $_->[1] foreach @{ $parts->{lines} };
	return;
}

# Deciding --------------------------------------------------------------------------

sub left { return $_[0]{limit} - $_[0]{record}{used} - $_[0]{record}{held} }

sub room
{
	my ($self, $level, $w) = @_;
	return max(0, left($w)) + ($w->{allowance} ? $self->bonus_left($level->{user}, $level->{metric}) : 0);
}

# Does it lack room?  If so, the reason that it would deny for.
sub lacks
{
	my ($self, $level, $w, $amount) = @_;

	return '' if !defined $w->{limit};
	my $room = $self->room($level, $w);
	# what was let pass beyond the limit counts against the bonuses
	$room += min(0, left($w)) if $w->{mode} eq 'shadow' && $w->{allowance};
	return '' if $room >= $amount;
	return $w->{limit} == 0 && $room == 0 ? 'not_in_plan' : 'quota_exceeded';
}

sub denies
{
	my ($self, $level, $w, $amount) = @_;
	my $lacks = $self->lacks($level, $w, $amount);

	return '' if !$lacks || $w->{mode} eq 'shadow';
	return $lacks if $w->{mode} eq 'hard';
	return '' if !$w->{allowance} || !defined $w->{cap};
	my $cost = ($amount - $self->room($level, $w)) * $w->{price};
	return $w->{record}{cost} + $w->{record}{held_cost} + $cost > $w->{cap} ? 'spend_cap' : '';
}

# Sets for a level: denying (windows with the reason), lacking (in shadow), and
# parts if nothing denies
sub decide
{
	my ($self, $level, $amount) = @_;
	my $allowance = first { $_->{allowance} } @{ $level->{windows} };

	$level->{denying} = [ grep { $_->[1] } map { [ $_, $self->denies($level, $_, $amount) ] } @{ $level->{windows} } ];
	$level->{lacking} = [ grep { $_->{mode} eq 'shadow' && $self->lacks($level, $_, $amount) } @{ $level->{windows} } ];
	return 0 if @{ $level->{denying} };

	my $parts = $level->{parts} = no_parts();
	$parts->{allowance} = !defined $allowance->{limit} || $allowance->{mode} eq 'shadow' ? $amount :
	  min($amount, max(0, left($allowance)));
	my $rest = $amount - $parts->{allowance};
	$parts->{bonus} = min($rest, $self->bonus_left($level->{user}, $level->{metric}));
	$parts->{overage} = $rest - $parts->{bonus};
	$parts->{cost} = $parts->{overage} * $allowance->{price};
	$parts->{lines} = $self->bonus_lines($level->{user}, $level->{metric}, $parts->{bonus});

	$level->{record} = $allowance->{record};
	$level->{rates} = [ map { $_->{record} } grep { !$_->{allowance} } @{ $level->{windows} } ];
	$level->{reason} = @{ $level->{lacking} } ? 'shadow' : $parts->{overage} > 0 ? 'overage' :
	  $parts->{bonus} > 0 ? 'bonus' : 'ok';
	return 1;
}

# What may be told of a window
sub report
{
	my ($self, $level, $w) = @_;

	return {
		binding_user_id => $level->{user}, period => $w->{period}, limit_amount => $w->{limit},
		used => $w->{record}{used}, remaining => defined $w->{limit} ? $self->room($level, $w) : undef,
		bonus_remaining => $self->bonus_left($level->{user}, $level->{metric}) };
}

# The window of a level that binds where nothing is denied
sub binding
{
	my ($self, $level) = @_;
	my $class = sub {
		my ($w) = @_;
		return !defined $w->{limit} ? 1 : $w->{mode} eq 'hard' || ($w->{mode} eq 'soft' && $w->{allowance}) ? 0 : 2;
	};
	my ($binding) = sort {
		$class->($a) <=> $class->($b)
		  or (defined $a->{limit} ? $self->room($level, $a) : 0) <=> (defined $b->{limit} ? $self->room($level, $b) : 0)
		  or $RANK{ $b->{period} } <=> $RANK{ $a->{period} }
	} @{ $level->{windows} };
	return $self->report($level, $binding);
}

# The answers that may be told after a grant of these levels
sub granted_reports
{
	my ($self, @levels) = @_;

	return [ map { my $level = $_;
			@{ $level->{lacking} } ? map({ $self->report($level, $_) } @{ $level->{lacking} }) : $self->binding($level) } @levels ]
	  if grep { @{ $_->{lacking} } } @levels;
	my @reports = map { $self->binding($_) } @levels;
	my $best = shift @reports;
	foreach my $report (@reports)
	{
		$best = $report if defined $report->{remaining}
		  && (!defined $best->{remaining} || $report->{remaining} < $best->{remaining});
	}
	return [$best];
}

sub denial
{
	my ($self, @levels) = @_;
	my @reports;

	foreach my $level (@levels)
	{
		push @reports, { %{ $self->report($level, $_->[0]) }, reason => $_->[1] } foreach @{ $level->{denying} };
	}
	return { allowed => 0, granted => 0, bonus_used => 0, overage => 0, cost => 0,
		@levels ? (reports => \@reports) : (reason => 'not_in_plan') };
}

my @STRENGTH = qw(shadow overage bonus ok);

sub grant
{
	my ($self, $amount, @levels) = @_;

	return {
		allowed => 1, granted => $amount,
		reason => first { my $r = $_; grep { $_->{reason} eq $r } @levels } @STRENGTH,
		bonus_used => sum0(map { $_->{parts}{bonus} } @levels),
		overage => sum0(map { $_->{parts}{overage} } @levels),
		cost => sum0(map { $_->{parts}{cost} } @levels) };
}

# What is to be found in the tables ------------------------------------------------------

# Accounts by user, metric, period and end of the period; bonuses by id; open holds by
# user and metric.  Those that are zero are left out.
sub state
{
	my ($self, %user) = @_;
	my (%state, %holds);

	foreach my $r (@{ $self->{closed} }, map { values %$_ } map { values %{ $self->{current}{$_} } } keys %user)
	{
		next if !$user{ $r->{user} } || !grep { $_ } @$r{@COUNTERS};
		my $key = join ' ', 'account', @$r{qw(user metric period)}, $r->{end} // 'never';
		die "$key twice" if $state{$key};
		$state{$key} = join ' ', @$r{@COUNTERS};
	}
	foreach my $b (grep { $user{ $_->{user} } } values %{ $self->{bonus} })
	{
		$state{"bonus $b->{id}"} = join ' ', @$b{qw(user metric amount used held given voided)};
	}
	foreach my $event (values %{ $self->{hold} })
	{
		foreach my $level (grep { $user{ $_->{user} } } @{ $event->{levels} })
		{
			my $parts = $level->{parts};
			my $sum = $holds{"holds $level->{user} $level->{metric}"} //= [ 0, 0, 0, 0, 0 ];
			my @add = (1, total($parts), $parts->{bonus}, $parts->{overage}, $parts->{cost});
			$sum->[$_] += $add[$_] foreach 0 .. 4;
		}
	}
	$state{$_} = join ' ', @{ $holds{$_} } foreach keys %holds;
	return \%state;
}

require QuotaModel::Requests;
require QuotaModel::Keys;
require QuotaModel::Plans;
require QuotaModel::Refills;
1;
