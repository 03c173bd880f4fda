/*-------------------------------------------------------------------------
 *
 * account_rate.c
 *	  What accounts of sliding and gcra limits remember beside their counters.
 *
 * Such a window does not start again: its row counts all units since it was
 * made, and what of them still counts is in rate_state, which rate.c knows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "account.h"
#include "amount_numeric.h"

/* Let a sliding or gcra window begin with nothing used */
void
account_begin_rate(Account *account)
{
	const QuotaLimit *limit = account->limit;

	account->rate_state = palloc0(sizeof(RateState));
	account->rate.kind = limit->algorithm == ALGORITHM_GCRA ? RATE_GCRA : RATE_SLIDING;
	account->rate.limit = limit->amount;
	account->rate.burst = limit->burst;
	account->rate.length = period_length(&limit->period);
	account->rate.state = account->rate_state;
}

/* Read what it remembers from its row, if it was one before */
void
account_read_rate(Account *account)
{
	TupleTableSlot *slot = account->slot;
	bool		isnull;
	Datum		at = slot_getattr(slot, Anum_usage_tracking_rate_at, &isnull);
	Datum		array;
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	Amount		numbers[RATE_NUMBERS];
	bool		valid;

	if (isnull)
		return;
	array = slot_getattr(slot, Anum_usage_tracking_rate_state, &isnull);
	valid = !isnull;
	if (valid)
	{
		deconstruct_array(DatumGetArrayTypeP(array), NUMERICOID, -1, false, TYPALIGN_INT,
						  &elements, &nulls, &n);
		valid = n <= RATE_NUMBERS;
		for (int i = 0; valid && i < n; i++)
		{
			valid = !nulls[i];
			if (valid)
				numbers[i] = amount_from_signed_datum(elements[i]);
		}
		valid = valid && rate_load(numbers, n, DatumGetTimestampTz(at), account->rate_state);
	}
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("account of \"%s\" has a rate_state that was not written by the library",
						account->limits->metric),
				 errhint("Set rate_at and rate_state of the row in quota.usage_tracking to NULL.")));
}

/* What a sliding or gcra window remembers; nothing is kept for another one */
void
account_form_rate(const Account *account, Datum *values, bool *nulls)
{
	Amount		numbers[RATE_NUMBERS];
	Datum		elements[RATE_NUMBERS];
	int			n;

	nulls[Anum_usage_tracking_rate_at - 1] = (account->rate_state == NULL);
	nulls[Anum_usage_tracking_rate_state - 1] = (account->rate_state == NULL);
	if (account->rate_state == NULL)
		return;
	n = rate_store(account->rate_state, numbers);
	for (int i = 0; i < n; i++)
		elements[i] = amount_get_datum(numbers[i]);
	values[Anum_usage_tracking_rate_at - 1] = TimestampTzGetDatum(account->rate_state->at);
	values[Anum_usage_tracking_rate_state - 1] =
		PointerGetDatum(construct_array(elements, n, NUMERICOID, -1, false, TYPALIGN_INT));
}

/* When nothing is used any more, if nothing else happens; DT_NOEND = never */
TimestampTz
account_resets_at(const Account *account, TimestampTz now)
{
	if (account->rate_state)
		return rate_empty_at(&account->rate, now);
	return account->current.end;
}

/*
 * Let a sliding or gcra window know of units that were taken as of "when", or,
 * if negative, given back of so many as were taken then
 */
void
account_move_rate(Account *account, Amount amount, Amount whole, TimestampTz when,
				  TimestampTz now)
{
	if (account->rate_state == NULL)
		return;
	if (amount > 0)
		rate_add(&account->rate, amount, when, now);
	else if (amount < 0)
		rate_take_back(&account->rate, -amount, whole, when, now);
}
