/*-------------------------------------------------------------------------
 *
 * due.c
 *	  Bonuses that become due by themselves: rollovers and recurring ones.
 *
 * Nobody has to run for them to be there.  Whoever reads a charge finds those
 * that are due among its bonuses, and whoever writes it writes them, under the
 * lock of the allowance's account: a rollover together with the end of the
 * period, a recurring bonus under an id that its period gives it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "due.h"
#include "id.h"
#include "limit_cache.h"

/*
 * Periods in which nothing happened, and that something is due for, are looked
 * for as far back as this.
 */
#define MAX_IDLE_PERIODS	24

/* The priority of bonuses that nobody has given another one */
#define DEFAULT_PRIORITY	50

/* ---------------------------------------------------------------------------
 * Rollovers
 * ------------------------------------------------------------------------- */

/* What rolls over at the end of a period, of which so much was not used */
static void
roll_over(Charge *charge, const Rollover *rollover, TimestampTz end, Amount unused)
{
	Amount		amount = amount_min(rollover->max, amount_max(rollover->min, unused));
	TimestampTz expires_at = rollover->expires ?
		period_add_interval(end, &rollover->ttl, limit_zone(&charge->limits)) : DT_NOEND;
	BonusState	state = {.left = amount, .expires_at = expires_at,
	.priority = DEFAULT_PRIORITY, .granted_at = end};

	if (amount == 0 || expires_at <= charge->now)
		return;
	id_generate_earlier(end, (pg_uuid_t *) state.id);
	bonus_add_due(&charge->bonuses, &state, "rollover", "unused units of the period before");
}

/*
 * What rolls over at the end of a period, of which so much was used, by the
 * limit that was in force until then: a plan that is due, or the end of an
 * override, may have changed it at that instant
 */
static void
roll_period(RelationSet *set, Charge *charge, TimestampTz end, Amount used)
{
	const char *window = charge_allowance(charge)->limit->period_name;
	LimitSet	then;
	const QuotaLimit *limit;

	limit_resolve(set, &charge->user_id, charge->metric, end - 1, NULL, &then);
	limit = limit_find(&then, window);
	if (limit && limit->rollover.enabled && !limit->unlimited)
		roll_over(charge, &limit->rollover, end, amount_max(limit->amount - used, 0));
}

/* What was set aside as the period ended: not what had lapsed by then */
static Amount
held_at_end(const Charge *charge, const Account *account)
{
	Amount		held = account->closed.held;
	ListCell   *lc;

	foreach(lc, charge->lapsed)
	{
		const Event *hold = lfirst(lc);

		if (hold->expires_at <= account->closed.end &&
			hold->effective_at >= account->closed.start &&
			strcmp(hold->period, account->limit->period_name) == 0)
			held -= hold->moved.held.allowance;
	}
	return held;
}

/* Of the period that has just ended, and of those since in which nothing happened */
static void
due_rollovers(RelationSet *set, Charge *charge)
{
	Account    *account = charge_allowance(charge);
	AccountPeriod p = account->current;

	if (!account->closing || limit_never_resets(&charge->limits, account->limit) ||
		!limit_cache_any_rollover())
		return;
	roll_period(set, charge, account->closed.end,
				account->closed.used + held_at_end(charge, account));
	for (int i = 0; i < MAX_IDLE_PERIODS && account_period_before(account, &p) &&
		 p.start >= account->closed.end; i++)
		roll_period(set, charge, p.end, 0);
}

/* ---------------------------------------------------------------------------
 * Recurring bonuses
 * ------------------------------------------------------------------------- */

/* One row of recurring_bonuses */
typedef struct Recurring
{
	pg_uuid_t	id;
	Amount		amount;
	Period		period;
	TimestampTz anchor;
	bool		accumulates;
	int32		priority;
	TimestampTz ends_at;
	char	   *reason;
} Recurring;

static void
read_recurring(TupleTableSlot *slot, Recurring *r)
{
	bool		isnull;
	Datum		datum;
	char	   *period;

	r->id = *DatumGetUUIDP(slot_getattr(slot, Anum_recurring_bonuses_id, &isnull));
	r->amount = amount_from_datum(slot_getattr(slot, Anum_recurring_bonuses_amount, &isnull));
	period = TextDatumGetCString(slot_getattr(slot, Anum_recurring_bonuses_period, &isnull));
	if (!period_parse(period, &r->period) || r->period.unit == PERIOD_LIFETIME)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a recurring bonus has the unknown period \"%s\"", period),
				 errhint("Correct the row of quota.recurring_bonuses.")));
	r->anchor = DatumGetTimestampTz(slot_getattr(slot, Anum_recurring_bonuses_anchor, &isnull));
	r->accumulates = DatumGetBool(slot_getattr(slot, Anum_recurring_bonuses_accumulates, &isnull));
	r->priority = DatumGetInt32(slot_getattr(slot, Anum_recurring_bonuses_priority, &isnull));
	datum = slot_getattr(slot, Anum_recurring_bonuses_ends_at, &isnull);
	r->ends_at = isnull ? DT_NOEND : DatumGetTimestampTz(datum);
	datum = slot_getattr(slot, Anum_recurring_bonuses_reason, &isnull);
	r->reason = isnull ? "recurring" : TextDatumGetCString(datum);
}

/* The bonus of a period has an id of its own, so that it is given once */
static void
id_of_period(const Recurring *r, TimestampTz start, pg_uuid_t *id)
{
	*id = r->id;
	for (int b = 0; b < 8; b++)
		id->data[15 - b] ^= (unsigned char) (start >> (8 * b));
}

/*
 * Add the bonus of the present period, and, if they accumulate, those of the
 * periods before it that were not given yet
 */
static void
add_recurring(RelationSet *set, Charge *charge, RelationView view, const Recurring *r)
{
	TimestampTz at = charge->now;
	pg_tz	   *zone = limit_zone(&charge->limits);

	if (at < r->anchor && r->anchor < r->ends_at)
		charge->next_due = Min(charge->next_due, r->anchor);
	for (int i = 0; i < MAX_IDLE_PERIODS && at >= r->anchor; i++)
	{
		TimestampTz start;
		TimestampTz end;
		pg_uuid_t	id;
		BonusState	state = {.left = r->amount, .priority = r->priority};

		period_bounds(&r->period, &r->anchor, zone, at, &start, &end);
		if (i == 0 && end < r->ends_at)
			charge->next_due = Min(charge->next_due, end);
		if (start >= r->ends_at)
		{
			if (!r->accumulates)
				return;
			/* none of the periods since the end gives any */
			at = r->ends_at - 1;
			i--;
			continue;
		}
		id_of_period(r, start, &id);
		if (bonus_add(set, &id, charge->now, view, &charge->bonuses) >= 0)
			return;
		state.expires_at = r->accumulates ? DT_NOEND : end;
		state.granted_at = start;
		memcpy(state.id, id.data, UUID_LEN);
		bonus_add_due(&charge->bonuses, &state, "refill", r->reason);
		if (!r->accumulates)
			return;
		at = start - 1;
	}
}

static void
due_recurring(RelationSet *set, Charge *charge, RelationView view)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_RECURRING_BONUSES);
	Datum		keys[2] = {UUIDPGetDatum(&charge->user_id), CStringGetTextDatum(charge->metric)};
	RelationScan *scan;
	List	   *found = NIL;
	ListCell   *lc;

	scan = relation_scan_begin(set, INDEX_RECURRING_BONUSES_LOOKUP, 2, keys, VIEW_LATEST);
	while (relation_scan_next(scan, slot))
	{
		Recurring  *r = palloc(sizeof(Recurring));

		read_recurring(slot, r);
		found = lappend(found, r);
	}
	relation_scan_end(scan);
	ExecClearTuple(slot);
	foreach(lc, found)
		add_recurring(set, charge, view, lfirst(lc));
}

/*
 * Add to the bonuses of a charge those that are due at its time.  Its accounts
 * have been rolled, its bonuses read, and lapsed holds found, but not taken off.
 */
void
due_bonuses(RelationSet *set, Charge *charge, RelationView view)
{
	int			n = charge->bonuses.n;

	charge->next_due = DT_NOEND;
	if (charge->limits.nlimits == 0)
		return;
	due_rollovers(set, charge);
	if (!limit_cache_no_recurring())
		due_recurring(set, charge, view);
	if (charge->bonuses.n > n)
		bonus_sort(&charge->bonuses);
}
