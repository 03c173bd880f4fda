# Changes of plan in the model (QuotaModel.pm).
package QuotaModel;

use strict;
use warnings FATAL => 'all';

use List::Util qw(max);
use Math::BigInt;

our %RANK;

# What counts at once: "keep"; "reset", which ends the periods of both plans; "prorate"
# and "additive".  The start of a period is asked for by metric and period.  Returns
# the limits that the last two set for the rest of a period.
sub assign_plan
{
	my ($self, $user, $plan, $strategy, $start) = @_;
	my $subject = $self->{subject}{$user};
	my @counters = grep { $self->{kind}{$_} eq 'counter' } sort keys %{ $self->{kind} };
	my @reset = $strategy eq 'reset' ? @counters : ();
	my $old = $self->plan_of($user);
	my %before = map { my $metric = $_; $metric => { map { $_->{period} => $_->{limit} } $self->windows($user, $metric) } } @counters;

	$self->reset($user, $_) foreach @reset;
	$subject->{plan} = $plan;
	delete @$subject{qw(pending pending_at)};
	foreach my $metric (@reset)
	{
		my @old = grep { $_->{start} <= $self->{now} && ($_->{used} || $_->{bonus_used} || $_->{overage}) }
		  map { $self->record($user, $metric, $_->{period}) } $self->windows($user, $metric);
		$self->reset($user, $metric) if @old;
	}

	# what an earlier change has set goes
	if (!defined $old || $old ne $plan || $strategy =~ /^(?:reset|prorate|additive)$/)
	{
		foreach my $overrides (values %{ $self->{override}{$user} // {} })
		{
			delete @$overrides{ grep { $overrides->{$_}{by_plan} } keys %$overrides };
		}
	}
	return if $strategy !~ /^(?:prorate|additive)$/;
	return map { $self->limits_until_reset($user, $_, $strategy, defined $old ? $self->{plan}{$old}{$_} // {} : {}, $before{$_}, $start) } @counters;
}

# The limits that a change of plan sets for one metric: period, "named" for an override
# that names it, expires, and the limit as a fraction of two large numbers, or none
# where there is no limit.  A limit that somebody has set goes before them.
sub limits_until_reset
{
	my ($self, $user, $metric, $strategy, $old, $before, $start) = @_;
	my $new = $self->{plan}{ $self->plan_of($user) }{$metric} // {};
	my ($longest) = sort { $RANK{$b} <=> $RANK{$a} } keys %$new;
	my $overrides = $self->{override}{$user}{$metric} // {};
	my @limits;

	foreach my $period (grep { defined $new->{$_}{limit} } sort keys %$new)
	{
		my $r = $self->record($user, $metric, $period);
		my @set = grep { $_ eq $period || ($_ eq '' && $period eq $longest) } keys %$overrides;
		next if !defined $r->{end} || grep { !defined $_->{expires} || $_->{expires} > $self->{now} } @$overrides{@set};
		my $limit = { metric => $metric, period => $period, named => $period eq $longest ? '' : $period, expires => $r->{end} };
		my $had = exists $before->{$period} ? $before->{$period} : 0;
		my $listed = $old->{$period} ? $old->{$period}{limit} : 0;
		my $amount = $new->{$period}{limit};
		if ($strategy eq 'additive')
		{
			$limit->{fraction} = [ Math::BigInt->new($amount + max($had, $r->{used})), Math::BigInt->new(1) ] if defined $had;
		}
		else
		{
			my $began = $start->($metric, $period);
			my $length = Math::BigInt->new($r->{end} - $began);
			my $remaining = Math::BigInt->new($r->{end} - max($self->{now}, $began));
			my ($base, $change) = defined $had && defined $listed ? ($had, $amount - $listed) : ($r->{used}, $amount);
			my $numerator = $length->copy->bmul($base)->badd($remaining->copy->bmul($change));
			$limit->{fraction} = [ $numerator->is_neg ? Math::BigInt->bzero : $numerator, $length ];
		}
		push @limits, $limit unless $limit->{fraction} && nearest($amount, $limit->{fraction});
	}
	return @limits;
}

# Has a subject limits that a change of plan has set?
sub adapted
{
	my ($self, $user) = @_;
	return grep { $_->{by_plan} && $_->{expires} > $self->{now} } map { values %$_ } values %{ $self->{override}{$user} // {} };
}

# Is an amount a fraction, rounded?  Of two that are equally near it is either.
sub nearest
{
	my ($amount, $fraction) = @_;
	my ($numerator, $denominator) = @$fraction;

	return $denominator->copy->bmul($amount)->bsub($numerator)->babs->bmul(2)->bcmp($denominator) <= 0;
}

# When the longest period of a plan may end: counters of the same period need not end
# together
sub ends_of_longest_period
{
	my ($self, $user, $plan) = @_;
	my @limits;

	foreach my $metric (grep { $self->{kind}{$_} eq 'counter' } keys %{ $self->{plan}{$plan} })
	{
		push @limits, map { [ $metric, $_ ] } grep { $_ ne 'lifetime' } keys %{ $self->{plan}{$plan}{$metric} };
	}
	my $longest = max map { $RANK{ $_->[1] } } @limits;
	return map { $self->record($user, @$_)->{end} } grep { $RANK{ $_->[1] } == $longest } @limits;
}

1;
