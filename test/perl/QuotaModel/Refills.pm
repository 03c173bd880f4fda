# Recurring bonuses in the model (QuotaModel.pm).
package QuotaModel;

use strict;
use warnings FATAL => 'all';

# Microseconds from 1970 to 2000, from which the server counts
use constant FROM_1970_TO_2000 => 946_684_800_000_000;

our %LENGTH;

# Give a subject what is due by now.  The tables need not have it before it is used:
# "due" is one that was not seen there yet.
sub refill
{
	my ($self, $user, $metric) = @_;

	return unless $self->{recurring}{$user}{$metric};
	foreach my $r (@{ $self->{recurring}{$user}{$metric} })
	{
		my ($start, $end) = $self->refill_period($r);
		next if $self->{now} < $r->{anchor} || (defined $r->{ends} && $start >= $r->{ends});
		my $id = id_of_refill($r->{id}, $start);
		next if $self->{bonus}{$id};
		$self->add_bonus($id, user => $user, metric => $metric, amount => $r->{amount}, expires => $end,
			priority => $r->{priority}, source => 'refill', giftable => 0, granted => $start, due => 1);
	}
	return;
}

# What the present period gives is due all the same, unless it begins just now and
# nobody has written it yet
sub stop_refills
{
	my ($self, $r) = @_;
	my ($start) = $self->refill_period($r);
	my $id = id_of_refill($r->{id}, $start);

	$r->{ends} = $self->{now};
	delete $self->{bonus}{$id} if $start >= $self->{now} && $self->{bonus}{$id} && $self->{bonus}{$id}{due};
	return;
}

# The present one, counted from the anchor
sub refill_period
{
	my ($self, $r) = @_;
	my $length = $LENGTH{ $r->{period} };
	my $start = $self->{now} - ($self->{now} - $r->{anchor}) % $length;

	return ($start, $start + $length);
}

# The last 64 bits of the id, and the start of the period
sub id_of_refill
{
	my ($id, $start) = @_;
	my ($high, $low) = (my $hex = $id =~ tr/-//dr) =~ /^(.{16})(.{16})$/;
	my $digits = $high . sprintf '%08x%08x',
	  hex(substr $low, 0, 8) ^ (($start - FROM_1970_TO_2000) >> 32), hex(substr $low, 8) ^ (($start - FROM_1970_TO_2000) & 0xffffffff);

	return join '-', unpack 'A8 A4 A4 A4 A12', $digits;
}

# When the next ones become due
sub next_refills
{
	my ($self, $user, $metric) = @_;

	return map {
		my (undef, $end) = $self->refill_period($_);
		$self->{now} < $_->{anchor} ? $_->{anchor} : ($end, $end + $LENGTH{ $_->{period} })
	} @{ $self->{recurring}{$user}{$metric} // [] };
}

1;
