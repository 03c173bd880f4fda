/*-------------------------------------------------------------------------
 *
 * account.c
 *	  Accounts: what a subject has used of a metric in the current period.
 *
 * The row of an account is the lock under which everything about this subject,
 * metric and window happens: counters, bonuses, idempotency keys.  An account
 * moves on to a new period when it is used, not when a job runs: it is read as
 * it would be now, and written so by whoever consumes.  A period never moves
 * backwards.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "account.h"
#include "amount_numeric.h"
#include "history.h"

/*
 * Read the account of a limit, in the version that the view shows.  One that
 * does not exist reads as one that nothing was used of.  account_roll() makes
 * the current period of it.
 */
void
account_read(RelationSet *set, const LimitSet *limits, const QuotaLimit *limit,
			 RelationView view, Account *account)
{
	TupleTableSlot *slot = relation_slot(set, TABLE_USAGE_TRACKING);
	Datum		keys[3];
	Datum		datum;
	bool		isnull;

	memset(account, 0, sizeof(*account));
	account->limits = limits;
	account->limit = limit;
	account->holds_expire_at = DT_NOEND;
	account->slot = slot;
	/* a level does not drain */
	if (limit->algorithm != ALGORITHM_FIXED && !limit->unlimited &&
		limits->kind == METRIC_COUNTER)
		account_begin_rate(account);

	keys[0] = UUIDPGetDatum(&limits->user_id);
	keys[1] = CStringGetTextDatum(limits->metric);
	keys[2] = CStringGetTextDatum(limit->period_name);
	account->exists = relation_find(set, INDEX_USAGE_TRACKING_QUOTA_LOOKUP, 3,
									keys, view, slot);
	if (!account->exists)
		return;

	slot_getallattrs(slot);
	account->current.start =
		DatumGetTimestampTz(slot_getattr(slot, Anum_usage_tracking_period_start, &isnull));
	datum = slot_getattr(slot, Anum_usage_tracking_period_end, &isnull);
	account->current.end = isnull ? DT_NOEND : DatumGetTimestampTz(datum);
	account->current.used = amount_from_slot(slot, Anum_usage_tracking_used);
	account->current.bonus_used = amount_from_slot(slot, Anum_usage_tracking_bonus_used);
	account->current.overage = amount_from_slot(slot, Anum_usage_tracking_overage);
	account->current.held = amount_from_slot(slot, Anum_usage_tracking_held);
	account->current.cost = money_from_slot(slot, Anum_usage_tracking_cost);
	account->current.held_cost = money_from_slot(slot, Anum_usage_tracking_held_cost);
	datum = slot_getattr(slot, Anum_usage_tracking_holds_expire_at, &isnull);
	account->holds_expire_at = isnull ? DT_NOEND : DatumGetTimestampTz(datum);
	datum = slot_getattr(slot, Anum_usage_tracking_anchor, &isnull);
	account->has_anchor = !isnull;
	account->anchor = isnull ? 0 : DatumGetTimestampTz(datum);
	if (account->rate_state)
		account_read_rate(account);
}

/* Names of the windows in which a subject has an account of a metric */
List *
account_windows(RelationSet *set, const LimitSet *limits, RelationView view)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USAGE_TRACKING);
	Datum		keys[2] = {UUIDPGetDatum(&limits->user_id), CStringGetTextDatum(limits->metric)};
	RelationScan *scan = relation_scan_begin(set, INDEX_USAGE_TRACKING_QUOTA_LOOKUP, 2,
											 keys, view);
	List	   *names = NIL;

	while (relation_scan_next(scan, slot))
	{
		bool		isnull;

		names = lappend(names, TextDatumGetCString(slot_getattr(slot, Anum_usage_tracking_period,
																&isnull)));
	}
	relation_scan_end(scan);
	ExecClearTuple(slot);
	return names;
}

/*
 * A time before which no hold ends in any account of a subject and metric,
 * limited or not; DT_NOEND if there is none
 */
TimestampTz
account_holds_expire_at(RelationSet *set, const LimitSet *limits, RelationView view)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USAGE_TRACKING);
	Datum		keys[2] = {UUIDPGetDatum(&limits->user_id), CStringGetTextDatum(limits->metric)};
	RelationScan *scan = relation_scan_begin(set, INDEX_USAGE_TRACKING_QUOTA_LOOKUP, 2,
											 keys, view);
	TimestampTz result = DT_NOEND;

	while (relation_scan_next(scan, slot))
	{
		bool		isnull;
		Datum		datum = slot_getattr(slot, Anum_usage_tracking_holds_expire_at, &isnull);

		if (!isnull)
			result = Min(result, DatumGetTimestampTz(datum));
	}
	relation_scan_end(scan);
	ExecClearTuple(slot);
	return result;
}

/*
 * Let SERIALIZABLE know that the answer rests on the account.  One that does
 * not exist has all its room, whoever creates it.
 */
void
account_register(RelationSet *set, const Account *account)
{
	if (account->exists)
		relation_register(set, TABLE_USAGE_TRACKING, account->slot);
}

/* Where the periods of an account are counted from; NULL = the calendar */
static const TimestampTz *
account_anchor(Account *account, TimestampTz now)
{
	const LimitSet *limits = account->limits;
	LimitAnchor anchor = account->limit->anchor;

	if (anchor == ANCHOR_CALENDAR)
		return NULL;
	if (anchor == ANCHOR_SUBSCRIPTION && limits->subscribed)
		return &limits->anchor;

	if (!account->has_anchor)
	{
		/* the first use was counted from elsewhere, and is not known any more */
		if (account->exists)
			return NULL;
		account->has_anchor = true;
		account->anchor = now;
	}
	return &account->anchor;
}

/*
 * Make account->current the period that contains "now", which must not be
 * before the period that was read.  The period that was read goes to
 * account->closed if it is over.
 */
void
account_roll(Account *account, TimestampTz now)
{
	const QuotaLimit *limit = account->limit;
	bool		endless = limit_never_resets(account->limits, limit);
	AccountPeriod next;

	/*
	 * The metric has changed its kind since the row was written: a level is
	 * not consumption of a period, nor the other way round.  What was counted
	 * ends now, so that each event stays in the period that it was counted in.
	 */
	if (account->exists && endless != (account->current.end == DT_NOEND))
	{
		/* to a window that does not start again, all of it was used just now */
		if (account->rate_state && now < account->current.end)
			account_move_rate(account, account->current.used, 0, now, now);
		account->current.end = Min(account->current.end, now);
	}

	if (account->exists && now < account->current.end)
		return;

	memset(&next, 0, sizeof(next));
	if (endless)
	{
		next.start = now;
		next.end = DT_NOEND;
	}
	else
		period_bounds(&limit->period, account_anchor(account, now),
					  limit_zone(account->limits), now, &next.start, &next.end);

	if (account->exists)
	{
		account->closing = true;
		account->closed = account->current;
		/* an anchor that was changed since must not make periods overlap */
		next.start = Max(next.start, account->closed.end);
	}
	account->current = next;
}

/*
 * Make a period the one before it, as it would have been; nothing was counted
 * in it.  Returns false if there is none.
 */
bool
account_period_before(const Account *account, AccountPeriod *p)
{
	const QuotaLimit *limit = account->limit;
	TimestampTz at = p->start - 1;
	const TimestampTz *anchor = account_anchor((Account *) account, p->start);

	if (p->start <= account->closed.end)
		return false;
	memset(p, 0, sizeof(*p));
	period_bounds(&limit->period, anchor, limit_zone(account->limits), at, &p->start, &p->end);
	p->start = Max(p->start, account->closed.end);
	return true;
}

/*
 * End the current period now, before its time, and begin the rest of it.  It
 * includes "now", because events of this very instant count in it.
 */
void
account_end_period(Account *account, TimestampTz now)
{
	AccountPeriod next;

	/* one that was just rolled has nothing in it that could be ended */
	if (!account->exists || account->closing)
		return;
	account->changed = true;
	if (account->rate_state)
		memset(account->rate_state, 0, sizeof(RateState));
	now = Min(now + 1, account->current.end);
	memset(&next, 0, sizeof(next));
	next.start = now;
	next.end = account->current.end;
	account->closing = true;
	account->closed = account->current;
	account->closed.end = now;
	account->current = next;
}

/* Units that a period has used, and what paid for them */
void
account_parts(const AccountPeriod *p, Parts *parts)
{
	parts->allowance = p->used;
	parts->bonus = p->bonus_used;
	parts->overage = p->overage;
	parts->cost = p->cost;
}

/* What the decision needs to know of a period of an account */
void
account_state(const Account *account, const AccountPeriod *p, TimestampTz now,
			  WindowState *state)
{
	const QuotaLimit *limit = account->limit;

	state->mode = limit->mode;
	state->unlimited = limit->unlimited;
	state->limit = limit->amount;
	state->used = p->used;
	state->held = p->held;
	state->length = period_length(&limit->period);
	state->resets_at = p->end;
	state->price = limit->price;
	state->capped = limit->capped;
	state->spend_cap = limit->spend_cap;
	state->cost = p->cost + p->held_cost;
	if (account->rate_state)
	{
		state->rate = &account->rate;
		state->used = rate_used_at(&account->rate, now);
		state->resets_at = account_resets_at(account, now);
	}
}

/*
 * Add to a period, which account_period_at() returned, what was moved: to the
 * allowance its parts, to a rate window all units
 */
void
account_move(Account *account, AccountPeriod *p, bool allowance,
			 const Movement *moved)
{
	ListCell   *lc;

	if (allowance)
	{
		p->used += moved->used.allowance;
		p->bonus_used += moved->used.bonus;
		p->overage += moved->used.overage;
		p->cost += moved->used.cost;
		p->held += moved->held.allowance;
		p->held_cost += moved->held.cost;
	}
	else
	{
		p->used += parts_total(&moved->used);
		p->held += parts_total(&moved->held);
	}

	if (p == &account->current || p == &account->closed)
		account->changed = true;
	foreach(lc, account->past)
	{
		PastPeriod *past = lfirst(lc);

		if (p == &past->period)
			past->changed = true;
	}
}

static void
set_amount(Datum *values, int attnum, Amount amount)
{
	values[attnum - 1] = amount_get_datum(amount);
}

/* The row of an account as it is to be written */
static void
account_form(const Account *account, const AccountPeriod *p,
			 Datum *values, bool *nulls)
{
	memset(nulls, false, Natts_usage_tracking * sizeof(bool));
	values[Anum_usage_tracking_user_id - 1] = UUIDPGetDatum(&account->limits->user_id);
	values[Anum_usage_tracking_metric - 1] = CStringGetTextDatum(account->limits->metric);
	values[Anum_usage_tracking_period - 1] = CStringGetTextDatum(account->limit->period_name);
	values[Anum_usage_tracking_period_start - 1] = TimestampTzGetDatum(p->start);
	values[Anum_usage_tracking_period_end - 1] = TimestampTzGetDatum(p->end);
	nulls[Anum_usage_tracking_period_end - 1] = (p->end == DT_NOEND);
	set_amount(values, Anum_usage_tracking_used, p->used);
	set_amount(values, Anum_usage_tracking_bonus_used, p->bonus_used);
	set_amount(values, Anum_usage_tracking_overage, p->overage);
	set_amount(values, Anum_usage_tracking_held, p->held);
	values[Anum_usage_tracking_anchor - 1] = TimestampTzGetDatum(account->anchor);
	nulls[Anum_usage_tracking_anchor - 1] = !account->has_anchor;
	values[Anum_usage_tracking_cost - 1] = money_get_datum(p->cost);
	values[Anum_usage_tracking_held_cost - 1] = money_get_datum(p->held_cost);
	values[Anum_usage_tracking_holds_expire_at - 1] = TimestampTzGetDatum(account->holds_expire_at);
	nulls[Anum_usage_tracking_holds_expire_at - 1] = (account->holds_expire_at == DT_NOEND);
	account_form_rate(account, values, nulls);
}

/*
 * Lock an account, creating it if need be.  Only an account that is as it was
 * read can be written; otherwise everything about it has to be read again
 * after relations_refresh().  With "wait" false, returns ACCOUNT_BUSY instead
 * of waiting for another transaction.
 *
 * Callers lock the accounts of a request in the order of (subject, metric,
 * period name): whoever waits for an account holds only earlier ones, so no
 * two calls wait for each other.  For the same reason they stop at an account
 * that was lost, and lock no later one before they have read and locked it.
 */
AccountLock
account_lock(RelationSet *set, Account *account, bool wait)
{
	Datum		values[Natts_usage_tracking];
	bool		nulls[Natts_usage_tracking];
	AccountPeriod empty;

	if (account->exists)
	{
		switch (relation_lock(set, TABLE_USAGE_TRACKING, account->slot, wait))
		{
			case ROW_UNCHANGED:
				return account->past == NIL ? ACCOUNT_UNCHANGED : history_lock(set, account);
			case ROW_CHANGED:
				account->waited = true;
				return ACCOUNT_CHANGED;
			case ROW_GONE:
				account->waited = true;
				return ACCOUNT_LOST;
			case ROW_BUSY:
				return ACCOUNT_BUSY;
		}
	}

	/* the current period, with nothing used of it */
	memset(&empty, 0, sizeof(empty));
	empty.start = account->current.start;
	empty.end = account->current.end;
	account_form(account, &empty, values, nulls);
	/* the server does not tell whether it has waited, so ask before */
	account->waited = relation_being_inserted(set, INDEX_USAGE_TRACKING_QUOTA_LOOKUP,
											  3, values);
	if (account->waited && !wait)
		return ACCOUNT_BUSY;
	if (relation_insert_if_absent(set, INDEX_USAGE_TRACKING_QUOTA_LOOKUP, values, nulls))
		return ACCOUNT_CREATED;
	account->waited = true;
	return ACCOUNT_LOST;
}

/*
 * Write the periods of an account that have changed.  account_lock() said
 * ACCOUNT_UNCHANGED.
 */
void
account_write(RelationSet *set, Account *account, TimestampTz now)
{
	Datum		values[Natts_usage_tracking];
	bool		nulls[Natts_usage_tracking];

	if (account->changed)
	{
		account_form(account, &account->current, values, nulls);
		relation_update(set, TABLE_USAGE_TRACKING, account->slot, values, nulls);
		if (account->closing)
			history_insert(set, account, now);
	}
	history_write(set, account);
}

/* Delete an account of this transaction's own making that has counted nothing */
void
account_delete_unused(RelationSet *set, const pg_uuid_t *user_id,
					  const char *metric, const char *period)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USAGE_TRACKING);
	Datum		keys[3] = {UUIDPGetDatum(user_id), CStringGetTextDatum(metric),
	CStringGetTextDatum(period)};

	if (relation_find(set, INDEX_USAGE_TRACKING_QUOTA_LOOKUP, 3, keys, VIEW_LATEST, slot) &&
		amount_from_slot(slot, Anum_usage_tracking_used) == 0 &&
		amount_from_slot(slot, Anum_usage_tracking_bonus_used) == 0 &&
		amount_from_slot(slot, Anum_usage_tracking_overage) == 0 &&
		amount_from_slot(slot, Anum_usage_tracking_held) == 0 &&
		money_from_slot(slot, Anum_usage_tracking_held_cost) == 0)
		relation_delete(set, TABLE_USAGE_TRACKING, slot);
	ExecClearTuple(slot);
}
