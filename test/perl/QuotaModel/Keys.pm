# Idempotency keys of the model (QuotaModel.pm).
package QuotaModel;

use strict;
use warnings FATAL => 'all';

# An answer that is given whenever the same is asked for with its key.  A key belongs
# to a subject and a metric, whatever function it came with.
sub remember
{
	my ($self, $kind, $user, $key, $units, $granted, $row) = @_;

	return unless defined $key;
	$self->{answered}{$user}{ $row->{metric} }{$key} = {
		kind => $kind, units => $units->{ $row->{metric} }, granted => $granted, row => $row };
	return;
}

# The answers to a request with a key that was used before, for one of its metrics at
# least: "again" is the first one.  None if the key is new.
sub answers_again
{
	my ($self, $kind, $up_to, $user, $key, %units) = @_;
	my @metrics = sort keys %units;
	my %first = map { $_ => $self->{answered}{$user}{$_}{$key} } defined $key ? @metrics : ();
	my @found = grep { $_ } values %first or return;

	# who takes what there is was content with less, who does not is not
	my @same = grep {
		my $f = $first{$_};
		$f && $f->{kind} eq $kind && $f->{units} == $units{$_} && ($up_to || $f->{granted} == $units{$_})
	} @metrics;
	return map { +{ again => $first{$_}{row} } } @metrics if @same == @metrics;
	return map { +{
			allowed => 0, granted => 0, bonus_used => 0, overage => 0, cost => 0, event_id => undef, reservation_id => undef,
			retry_after => undef, metric => $_,
			reason => $first{$_} ? 'idempotency_conflict' : 'other_denied',
			reports => $self->present_reports($units{$_}, $self->levels($user, $_)) } } @metrics;
}

# Of two levels, the first one nearer: does the other one bind, by what they report?
sub binds_more
{
	my ($near, $far) = @_;

	return 0 if !defined $far->{remaining};
	return !defined $near->{remaining} || $far->{remaining} < $near->{remaining};
}

# The windows that a refusal may tell of, which depends on what the request would have
# been answered: at each level one of those that deny, of those that lack room in
# shadow, or the one that binds; and of these the one of the level that has least
sub present_reports
{
	my ($self, $amount, @levels) = @_;
	my @reports;

	return [ { binding_user_id => undef, period => undef, limit_amount => undef, used => 0, remaining => 0, bonus_remaining => 0 } ]
	  unless @levels;
	foreach my $level (@levels)
	{
		my $allowed = $self->decide($level, $amount);
		my @windows = $allowed ? @{ $level->{lacking} } : map { $_->[0] } @{ $level->{denying} };
		push @reports, [ @windows ? map({ $self->report($level, $_) } @windows) : $self->binding($level) ];
	}
	my @possible;
	foreach my $i (0 .. $#reports)
	{
		foreach my $report (@{ $reports[$i] })
		{
			# each other level can have told of a window that does not bind more
			my @beaten = grep {
				my $j = $_;
				grep { $j < $i ? binds_more($_, $report) : !binds_more($report, $_) } @{ $reports[$j] }
			} grep { $_ != $i } 0 .. $#reports;
			push @possible, $report if @beaten == $#reports;
		}
	}
	return \@possible;
}

1;
