/*-------------------------------------------------------------------------
 *
 * movement.c
 *	  What each request moves in its charges.
 *
 * Decides on what charge.c has read: nothing is read or locked here that a
 * request of items needs.  What becomes of events is in settlement.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "amount_numeric.h"
#include "errors.h"
#include "posting.h"

/*
 * Give units back to bonuses, to the one that was used last first.  What is
 * left over belongs to bonuses that do not exist any more.
 */
static void
give_back_to_bonuses(Posting *posting, Charge *charge, Amount amount)
{
	BonusSet	used;

	if (amount == 0)
		return;
	bonus_read_used(posting->set, &charge->user_id, charge->metric, charge->now,
					posting->view, &used);
	for (int i = used.n - 1; i >= 0 && amount > 0; i--)
	{
		int			b = bonus_add(posting->set, (pg_uuid_t *) used.bonuses[i].id,
								  charge->now, posting->view, &charge->bonuses);
		Amount		back = b < 0 ? 0 :
			amount_min(amount, used.rows[i].used + charge->bonuses.bonuses[b].take);

		if (back > 0)
			charge->bonuses.bonuses[b].take -= back;
		amount -= back;
	}
}

/*
 * Leave out the windows that have counted less than goes back: they were not
 * limited when these units came
 */
static void
leave_out(Charge *charge)
{
	for (int i = 0; i < charge_windows(charge); i++)
		charge->accounts[i]->left_out = i != charge->limits.allowance &&
			charge->accounts[i]->current.used + parts_total(&charge->moved.used) < 0;
}

/* Give back units of what a period has, last source first, at most all */
void
movement_give_back(Posting *posting, Charge *charge, const AccountPeriod *p, Amount amount)
{
	Parts		whole;
	Parts		kept;

	account_parts(p, &whole);
	amount = amount_min(amount, parts_total(&whole));
	parts_keep(&whole, NULL, 0, parts_total(&whole) - amount, &kept, NULL);
	give_back_to_bonuses(posting, charge, whole.bonus - kept.bonus);
	memset(&charge->moved, 0, sizeof(Movement));
	charge->moved.used = kept;
	parts_subtract(&charge->moved.used, &whole);
	leave_out(charge);
}

bool
movement_is_gauge(const Charge *charge)
{
	return charge->limits.kind == METRIC_GAUGE;
}

/* Take what was decided, or set it aside */
static void
take(const Posting *posting, Charge *charge)
{
	bool		reserve = posting->request->kind == REQUEST_RESERVE;

	memset(&charge->moved, 0, sizeof(Movement));
	if (reserve)
	{
		charge->moved.held = charge->decision.parts;
		for (int b = 0; b < charge->bonuses.n; b++)
		{
			charge->bonuses.bonuses[b].hold = charge->bonuses.bonuses[b].take;
			charge->bonuses.bonuses[b].take = 0;
		}
		/* what is set aside is not used */
		charge->decision.after.used = charge->states[charge->decision.after.binding].used;
	}
	else
		charge->moved.used = charge->decision.parts;
	charge->kind = reserve ? EVENT_RESERVE : EVENT_CONSUME;
	if (charge_costs_too_much(charge))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("overage of metric \"%s\" costs too much to be computed", charge->metric),
				 errdetail("The overage of a period may cost less than 5 x 10^19."),
				 errhint("Lower plan_limits.overage_price, or the amount.")));
}

/*
 * With up_to, ask for no more than there is; if that is nothing, the least there
 * can be is denied
 */
static void
lower_amounts(Posting *posting)
{
	Amount		most = posting->request->items[0].amount;

	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];
		Amount		room;

		charge_decide(charge, charge->amount);
		if (decision_grantable(&charge->input, &room))
			most = amount_min(most, room);
	}
	for (int i = 0; i < posting->ncharges; i++)
		posting->charges[i].amount = amount_max(most, 1);
}

/* Give back what an item has; its parents give back as much, if they have it */
static void
release_item(Posting *posting, int item)
{
	Charge	   *main = charges_main(posting, item);

	if (main == NULL || main->amount >= 0)
		return;
	movement_give_back(posting, main, &charge_allowance(main)->current, -main->amount);
	main->kind = EVENT_RELEASE;
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		if (charge->item != item || charge == main || charge->limits.nlimits == 0)
			continue;
		charge->amount = amount_max(charge->amount, parts_total(&main->moved.used));
		movement_give_back(posting, charge, &charge_allowance(charge)->current, -charge->amount);
		charge->kind = EVENT_RELEASE;
	}
}

/* Decide items that take, or give back what gauges have */
static Verdict
decide_items(Posting *posting)
{
	bool		denied = false;

	if (posting->request->up_to)
		lower_amounts(posting);
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		if (charge->idle)
		{
			charge_decide(charge, 0);
			charge->decision.allowed = true;
			charge->decision.reason = REASON_OK;
			continue;
		}
		if (charge->amount < 0)
		{
			charge_decide(charge, 0);
			charge->decision.allowed = true;
			charge->decision.reason = REASON_OK;
			continue;
		}
		charge_decide(charge, charge->amount);
		if (charge->limits.nlimits == 0 && charges_main(posting, charge->item) != NULL)
			continue;			/* its parents decide */
		denied |= !charge->decision.allowed;
	}
	if (denied)
		return VERDICT_DENIED;
	for (int i = 0; i < posting->ncharges; i++)
		if (posting->charges[i].amount > 0 && posting->charges[i].limits.nlimits > 0)
			take(posting, &posting->charges[i]);
	for (int i = 0; i < posting->request->nitems; i++)
		release_item(posting, i);
	return VERDICT_GRANTED;
}

/* Move a gauge, and those of the parents, to where the subject's is to be */
static Verdict
decide_set_gauge(Posting *posting)
{
	Charge	   *main = charges_main(posting, 0);
	Parts		present;
	Amount		difference;

	for (int i = 0; i < posting->ncharges; i++)
		charge_decide(&posting->charges[i], 0);
	if (main == NULL)
	{
		posting->charges[0].decision.allowed = false;
		return VERDICT_DENIED;
	}
	account_parts(&charge_allowance(main)->current, &present);
	difference = posting->request->items[0].amount - parts_total(&present);
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		charge->kind = EVENT_SET_GAUGE;
		charge->amount = difference;
		charge->decision.allowed = true;
		charge->decision.reason = REASON_OK;
		if (charge->limits.nlimits > 0 && difference < 0)
			movement_give_back(posting, charge, &charge_allowance(charge)->current, -difference);
		else
			charge->moved.used.allowance = difference;
	}
	return VERDICT_GRANTED;
}

static Verdict
decide_adjust(Posting *posting)
{
	Charge	   *charge = &posting->charges[0];
	AccountPeriod *p;

	charge_decide(charge, 0);
	charge->decision.allowed = charge->limits.nlimits > 0;
	if (charge->limits.nlimits == 0)
		return VERDICT_DENIED;
	p = &charge_allowance(charge)->current;
	if (p->used + charge->amount < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("adjustment exceeds what is used"),
				 errdetail("Metric \"%s\" has used %s of its allowance, the adjustment is %s.",
						   charge->metric, amount_to_string(p->used),
						   amount_to_string(charge->amount)),
				 errhint("Lower it to what is used; reset_user_quota sets the usage to 0.")));
	charge->decision.reason = REASON_OK;
	charge->kind = EVENT_ADJUST;
	charge->moved.used.allowance = charge->amount;
	return VERDICT_GRANTED;
}

/* End the current periods; what they had is told as given back */
static Verdict
decide_reset(Posting *posting)
{
	Charge	   *charge = &posting->charges[0];

	charge_decide(charge, 0);
	charge->decision.allowed = true;
	charge->decision.reason = REASON_OK;
	if (charge->limits.nlimits > 0)
	{
		Parts		parts;

		account_parts(&charge_allowance(charge)->current, &parts);
		charge->amount = -parts_total(&parts);
	}
	for (int i = 0; i < charge->limits.nlimits; i++)
		account_end_period(charge->accounts[i], charge->now);
	return VERDICT_GRANTED;
}

/* Write what is due by itself */
static Verdict
decide_tidy(Posting *posting)
{
	Charge	   *charge = &posting->charges[0];
	bool		due = charge->lapsed != NIL || bonus_any_due(&charge->bonuses);

	charge_decide(charge, 0);
	charge->decision.allowed = true;
	for (int i = 0; i < charge->limits.nlimits; i++)
	{
		due |= charge->accounts[i]->closing ||
			charge->accounts[i]->holds_expire_at <= charge->now;
		charge->accounts[i]->changed |= charge->accounts[i]->closing;
	}
	return due ? VERDICT_GRANTED : VERDICT_DENIED;
}

/*
 * Decide what moves in each charge.  The charges have begun.  Raises QU004,
 * QU005 and 22023 for requests that cannot be meant.
 */
Verdict
movement_decide(Posting *posting)
{
	switch (posting->request->kind)
	{
		case REQUEST_CONSUME:
		case REQUEST_RESERVE:
			return decide_items(posting);
		case REQUEST_SET_GAUGE:
			return decide_set_gauge(posting);
		case REQUEST_ADJUST:
			return decide_adjust(posting);
		case REQUEST_RESET:
			return decide_reset(posting);
		case REQUEST_TIDY:
			return decide_tidy(posting);
		case REQUEST_REPAY:
			return settlement_repay(posting);
		case REQUEST_SETTLE:
		case REQUEST_CANCEL:
			return settlement_resolve(posting);
		case REQUEST_REFUND:
			return settlement_refund(posting);
	}
	return VERDICT_DENIED;		/* keep compiler quiet */
}
