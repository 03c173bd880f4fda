/*-------------------------------------------------------------------------
 *
 * history.c
 *	  Closed periods of accounts.
 *
 * A period is closed when its account moves on, and is corrected when units go
 * back into it.  Whoever writes it holds the lock of the account.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "history.h"
#include "id.h"

static void
set_amount(Datum *values, int attnum, Amount amount)
{
	values[attnum - 1] = amount_get_datum(amount);
}

static bool
period_contains(const AccountPeriod *p, TimestampTz at)
{
	return at >= p->start && at < p->end;
}

/* Read a closed period from its row, which the slot holds */
static void
read_history(TupleTableSlot *slot, AccountPeriod *p)
{
	bool		isnull;

	slot_getallattrs(slot);
	memset(p, 0, sizeof(*p));
	p->start = DatumGetTimestampTz(slot_getattr(slot, Anum_usage_history_period_start, &isnull));
	p->end = DatumGetTimestampTz(slot_getattr(slot, Anum_usage_history_period_end, &isnull));
	p->used = amount_from_slot(slot, Anum_usage_history_used);
	p->bonus_used = amount_from_slot(slot, Anum_usage_history_bonus_used);
	p->overage = amount_from_slot(slot, Anum_usage_history_overage);
	p->cost = money_from_slot(slot, Anum_usage_history_cost);
	p->held = amount_from_slot(slot, Anum_usage_history_held);
	p->held_cost = money_from_slot(slot, Anum_usage_history_held_cost);
}

/*
 * The period of an account that contains an instant: the current one, the one
 * that is about to be closed, or one of the history.  NULL if it is not kept.
 */
AccountPeriod *
account_period_at(RelationSet *set, Account *account, RelationView view,
				  TimestampTz at)
{
	Datum		keys[3];
	RelationScan *scan;
	PastPeriod *past;
	ListCell   *lc;
	bool		found;

	if (!account->exists)
		return NULL;
	if (at >= account->current.start)
		return &account->current;
	if (account->closing && period_contains(&account->closed, at))
		return &account->closed;
	foreach(lc, account->past)
	{
		past = lfirst(lc);
		if (period_contains(&past->period, at))
			return &past->period;
	}

	past = palloc0(sizeof(PastPeriod));
	past->slot = relation_slot(set, TABLE_USAGE_HISTORY);
	keys[0] = UUIDPGetDatum(&account->limits->user_id);
	keys[1] = CStringGetTextDatum(account->limits->metric);
	keys[2] = CStringGetTextDatum(account->limit->period_name);
	scan = relation_scan_begin_range(set, INDEX_USAGE_HISTORY_ACCOUNT, 3, keys,
									 TimestampTzGetDatum(DT_NOBEGIN), TimestampTzGetDatum(at),
									 true, view);
	found = relation_scan_next(scan, past->slot);
	relation_scan_end(scan);
	if (!found)
		return NULL;
	read_history(past->slot, &past->period);
	if (!period_contains(&past->period, at))
		return NULL;
	account->past = lappend(account->past, past);
	return &past->period;
}

/* Lock the closed periods that are to be written, under the account's lock */
AccountLock
history_lock(RelationSet *set, Account *account)
{
	AccountLock result = ACCOUNT_UNCHANGED;
	ListCell   *lc;

	foreach(lc, account->past)
	{
		PastPeriod *past = lfirst(lc);

		if (relation_lock(set, TABLE_USAGE_HISTORY, past->slot, true) != ROW_UNCHANGED)
			result = ACCOUNT_CHANGED;
	}
	return result;
}

/* Keep a closed period */
void
history_insert(RelationSet *set, const Account *account, TimestampTz closed_at)
{
	Datum		values[Natts_usage_history];
	bool		nulls[Natts_usage_history] = {false};
	const AccountPeriod *p = &account->closed;
	pg_uuid_t	id;

	id_generate(closed_at, &id);
	values[Anum_usage_history_id - 1] = UUIDPGetDatum(&id);
	values[Anum_usage_history_user_id - 1] = UUIDPGetDatum(&account->limits->user_id);
	values[Anum_usage_history_metric - 1] = CStringGetTextDatum(account->limits->metric);
	values[Anum_usage_history_period - 1] = CStringGetTextDatum(account->limit->period_name);
	values[Anum_usage_history_period_start - 1] = TimestampTzGetDatum(p->start);
	values[Anum_usage_history_period_end - 1] = TimestampTzGetDatum(p->end);
	set_amount(values, Anum_usage_history_used, p->used);
	set_amount(values, Anum_usage_history_bonus_used, p->bonus_used);
	set_amount(values, Anum_usage_history_overage, p->overage);
	nulls[Anum_usage_history_limit_amount - 1] = account->limit->unlimited;
	set_amount(values, Anum_usage_history_limit_amount, account->limit->amount);
	values[Anum_usage_history_closed_at - 1] = TimestampTzGetDatum(closed_at);
	values[Anum_usage_history_cost - 1] = money_get_datum(p->cost);
	set_amount(values, Anum_usage_history_held, p->held);
	values[Anum_usage_history_held_cost - 1] = money_get_datum(p->held_cost);
	relation_insert(set, TABLE_USAGE_HISTORY, values, nulls, true);
}

/* Write a closed period whose counters were corrected */
static void
rewrite_history(RelationSet *set, const PastPeriod *past)
{
	Datum		values[Natts_usage_history];
	bool		nulls[Natts_usage_history];
	const AccountPeriod *p = &past->period;

	slot_getallattrs(past->slot);
	memcpy(values, past->slot->tts_values, sizeof(values));
	memcpy(nulls, past->slot->tts_isnull, sizeof(nulls));
	set_amount(values, Anum_usage_history_used, p->used);
	set_amount(values, Anum_usage_history_bonus_used, p->bonus_used);
	set_amount(values, Anum_usage_history_overage, p->overage);
	values[Anum_usage_history_cost - 1] = money_get_datum(p->cost);
	set_amount(values, Anum_usage_history_held, p->held);
	values[Anum_usage_history_held_cost - 1] = money_get_datum(p->held_cost);
	relation_update(set, TABLE_USAGE_HISTORY, past->slot, values, nulls);
}

/* Write the closed periods of an account that have changed */
void
history_write(RelationSet *set, const Account *account)
{
	ListCell   *lc;

	foreach(lc, account->past)
	{
		PastPeriod *past = lfirst(lc);

		if (past->changed)
			rewrite_history(set, past);
	}
}
