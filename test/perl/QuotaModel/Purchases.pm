# Units that are bought, in the model (QuotaModel.pm) and on the server.
package QuotaModel::Purchases;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use QuotaModel::World;

our @EXPORT = qw(do_topup);

my $TOPUP = 'SELECT * FROM quota.purchase_topup($1, $2, $3::numeric, $4, $5, $6)';

# At the price of the largest purchase that is reached; or with a transaction that was
# made before: the first answer, or an error if the amount is another one
sub do_topup
{
	my $before = chance(0.3) ? one_of(@{ $world{topups} }) : undef;
	my $new = { user => any_user(), metric => any_metric(), units => some_units(),
		transaction => 'transaction ' . $world{step}, expires => chance(0.3) ? $model->{now} + one_of(60, 86400) * SECOND : undef };
	my $r = $before ? { %$before } : $new;
	my ($user, $metric) = @$r{qw(user metric)};

	$r->{units} += 1 if $before && chance(0.3);
	described('purchase_topup', $user, $metric, amount($r->{units}), $r->{transaction}, instant($r->{expires}));
	my ($rows, $state) = call($TOPUP, $user, $metric, amount($r->{units}), $r->{transaction}, instant($r->{expires}), 'model');
	if ($before)
	{
		compare_error($r->{units} == $before->{units} ? undef : '22023', $state);
		compare_again($before->{row}, $rows->[0]) if $rows;
		return $user;
	}
	my $unit_price = $model->topup_price($user, $metric, $r->{units});
	compare_error(defined $unit_price ? undef : '22023', $state);
	return $user if $state;

	my $row = $r->{row} = $rows->[0];
	$model->add_bonus($row->{bonus_id}, user => $user, metric => $metric, amount => $r->{units}, expires => $r->{expires},
		priority => 50, source => 'paid', giftable => 0);
	$model->repay($user, $metric);
	push @{ $world{topups} }, $r;
	compare_answer({ unit_price => $unit_price, price => $unit_price * $r->{units}, amount => $r->{units},
		transaction_id => $r->{transaction}, reports => $model->available($user, $metric) }, { %$row, allowed => 1 });
	return $user;
}

1;
