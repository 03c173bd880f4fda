/*-------------------------------------------------------------------------
 *
 * settlement.c
 *	  What becomes of events: settled, canceled, refunded, repaid.
 *
 * The units of an event go back to where they came from, last source first, and
 * into the periods that they were counted in.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "errors.h"
#include "hold.h"
#include "posting.h"

/* Add lines to those of an event, each bonus once */
static void
add_lines(Event *event, const EventLine *lines, int n)
{
	for (int l = 0; l < n; l++)
	{
		int			i = 0;

		while (i < event->nlines &&
			   memcmp(&event->lines[i].bonus_id, &lines[l].bonus_id, UUID_LEN) != 0)
			i++;
		if (i == event->nlines)
		{
			event->lines = event->lines == NULL ? palloc(sizeof(EventLine)) :
				repalloc(event->lines, (i + 1) * sizeof(EventLine));
			event->lines[i] = lines[l];
			event->lines[i].ordinal = i + 1;
			event->nlines++;
		}
		else
			event->lines[i].amount += lines[l].amount;
	}
}

static void
raise_resolved(const Event *reserve, const Event *resolution)
{
	ereport(ERROR,
			(errcode(ERRCODE_QUOTA_RESERVATION),
			 errmsg("reservation was resolved already"),
			 errdetail("Its event \"%s\" moved %s of %s units at %s.",
					   event_kind_name(resolution->kind),
					   amount_to_string(resolution->requested),
					   amount_to_string(parts_total(&reserve->moved.held)),
					   timestamptz_to_str(resolution->created_at)),
			 errhint("A reservation is settled or canceled once; the same call again gets the same answer.")));
}

/*
 * Has the hold ended, by itself or by anybody?  Fills in what is known then.
 * The request is to use "actual" units of it.
 */
static bool
reservation_has_ended(Posting *posting, Amount actual, Verdict *verdict)
{
	Event	   *reserve = posting->event;
	Event	   *resolution = hold_find_resolution(posting->referring);
	EventKind	kind = posting->request->kind == REQUEST_SETTLE ? EVENT_SETTLE : EVENT_CANCEL;

	if (resolution && resolution->kind != EVENT_EXPIRE)
	{
		if (resolution->kind != kind || resolution->requested != actual ||
			resolution->outcome == NULL)
			raise_resolved(reserve, resolution);
		posting->outcomes[0] = *resolution->outcome;
		posting->outcomes[0].already_processed = true;
		*verdict = VERDICT_REPLAY;
		return true;
	}
	if (!resolution && posting->now < reserve->expires_at)
	{
		/* a parent's clock may have been ahead */
		for (int i = 0; i < posting->ncharges && !resolution; i++)
			if (posting->charges[i].event != reserve)
				resolution = hold_resolution(posting->set, &posting->charges[i].event->id,
											 posting->view);
		if (!resolution)
			return false;
	}
	for (int i = 0; i < posting->ncharges; i++)
		charge_decide(&posting->charges[i], 0);
	posting->reason = REASON_RESERVATION_EXPIRED;
	*verdict = VERDICT_DENIED;
	return true;
}

/* Let go of what an event holds, and keep the first units of it as used */
static void
resolve_hold(Posting *posting, Charge *charge, Amount keep)
{
	Event	   *event = charge->event;
	const Parts *held = &event->moved.held;
	Amount	   *lines = palloc((event->nlines + 1) * sizeof(Amount));
	Parts		kept;
	Event		resolved = {0};
	Event		beyond = {0};

	for (int i = 0; i < event->nlines; i++)
		lines[i] = event->lines[i].held;
	parts_keep(held, lines, event->nlines, amount_min(keep, parts_total(held)), &kept, lines);
	parts_add(&charge->moved.used, &kept);
	parts_subtract(&charge->moved.held, held);

	/* first what was held, then what was taken beyond it, each in its order */
	bonus_lines(&charge->bonuses, &beyond);
	resolved.lines = palloc((event->nlines + 1) * sizeof(EventLine));
	for (int i = 0; i < event->nlines; i++)
	{
		EventLine  *line = &resolved.lines[resolved.nlines++];
		int			b = bonus_add(posting->set, &event->lines[i].bonus_id, charge->now,
								  posting->view, &charge->bonuses);

		*line = event->lines[i];
		line->amount = lines[i];
		line->held = -event->lines[i].held;
		line->expired = lines[i] < event->lines[i].held &&
			(b < 0 || charge->bonuses.rows[b].useless);
		if (b < 0)
			continue;
		charge->bonuses.bonuses[b].take += line->amount;
		charge->bonuses.bonuses[b].hold += line->held;
	}
	add_lines(&resolved, beyond.lines, beyond.nlines);
	charge->lines = resolved.lines;
	charge->nlines = resolved.nlines;
}

Verdict
settlement_resolve(Posting *posting)
{
	const Request *request = posting->request;
	bool		settle = request->kind == REQUEST_SETTLE;
	Amount		held = parts_total(&posting->event->moved.held);
	Amount		actual = !settle ? 0 : request->has_amount ? request->amount : held;
	bool		extra = actual > held;
	Verdict		verdict;

	if (reservation_has_ended(posting, actual, &verdict))
		return verdict;

	for (int i = 0; extra && i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		charge_decide_as_event(posting->set, charge, posting->view, actual - held);
		/* what cannot be reckoned with is not charged */
		if (!charge->decision.allowed || charge_costs_too_much(charge))
			posting->shortfall = actual - held;
	}
	posting->has_shortfall = settle;
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		memset(&charge->moved, 0, sizeof(Movement));
		if (extra && posting->shortfall == 0)
			charge->moved.used = charge->decision.parts;
		else
			charge_decide(charge, 0);	/* clears what was taken */
		resolve_hold(posting, charge, actual);
		charge->decision.reason = charge->moved.used.overage > 0 ? REASON_OVERAGE :
			charge->moved.used.bonus > 0 ? REASON_BONUS : REASON_OK;
		charge->decision.allowed = true;
		charge->kind = settle ? EVENT_SETTLE : EVENT_CANCEL;
		charge->amount = actual;
	}
	return VERDICT_GRANTED;
}

/*
 * What is left of an event once its refunds are taken off, and what bonuses
 * have repaid of its overage counts as theirs: in "left", and in its lines
 */
static void
read_rest(Posting *posting, Event *event, Parts *left)
{
	ListCell   *lc;

	*left = event->moved.used;
	event->nlines = 0;
	if (left->bonus != 0)
		ledger_read_lines(posting->set, posting->view, event);
	foreach(lc, ledger_find_referring(posting->set, &event->id, posting->view))
	{
		Event	   *later = lfirst(lc);

		if (later->kind != EVENT_REFUND && later->kind != EVENT_REPAY)
			continue;
		parts_add(left, &later->moved.used);
		if (later->moved.used.bonus != 0)
			ledger_read_lines(posting->set, posting->view, later);
		add_lines(event, later->lines, later->nlines);
	}
}

/* Have bonuses pay for so much of the overage that is left, as far as they go */
static void
repay(Charge *charge, const Parts *left, Amount overage)
{
	Parts	   *used = &charge->moved.used;
	Parts		kept;
	Amount		amount = 0;

	for (int b = 0; b < charge->bonuses.n; b++)
	{
		BonusState *bonus = &charge->bonuses.bonuses[b];

		bonus->take = amount_min(bonus->left, overage - amount);
		amount += bonus->take;
	}
	parts_keep(left, NULL, 0, parts_total(left) - amount, &kept, NULL);
	used->bonus = amount;
	used->overage = -amount;
	used->cost = kept.cost - left->cost;
	charge->kind = EVENT_REPAY;
	charge->amount = amount;
}

/*
 * Have bonuses pay for overage of the current period: of the oldest event that
 * has any.  It refers to that event, so that a refund knows whose units they
 * are.
 */
Verdict
settlement_repay(Posting *posting)
{
	Charge	   *charge = &posting->charges[0];
	AccountPeriod *p;
	ListCell   *lc;
	Parts		left;

	charge_decide(charge, 0);
	charge->decision.allowed = true;
	if (charge->limits.nlimits == 0 || !charge_allowance(charge)->limit->repay)
		return VERDICT_DENIED;
	p = &charge_allowance(charge)->current;
	if (p->overage == 0 || charge->decision.before.bonus_remaining == 0)
		return VERDICT_DENIED;
	/* what a gauge gives back is not that of an event, nor is what is left */
	if (movement_is_gauge(charge))
	{
		account_parts(p, &left);
		repay(charge, &left, p->overage);
		return VERDICT_GRANTED;
	}
	foreach(lc, ledger_find_overage(posting->set, &charge->user_id, charge->metric,
									p->start, posting->view))
	{
		Event	   *event = lfirst(lc);

		if (event->effective_at < p->start ||
			strcmp(event->period, charge_allowance(charge)->limit->period_name) != 0)
			continue;
		read_rest(posting, event, &left);
		if (left.overage <= 0)
			continue;
		repay(charge, &left, amount_min(left.overage, p->overage));
		charge->event = event;
		/* the rate windows have nothing to do with it */
		event->rate_periods = NIL;
		return VERDICT_GRANTED;
	}
	return VERDICT_DENIED;
}

/*
 * Give back units of an event: overage, bonuses from the last, allowance.
 * Returns false if its period does not have them, because it was adjusted.
 */
static bool
refund_event(Posting *posting, Charge *charge, const Parts *left, Amount amount)
{
	Event	   *event = charge->event;
	Account    *account = charge_account(posting->set, charge, posting->view, event->period);
	AccountPeriod *p = account_period_at(posting->set, account, posting->view, event->effective_at);
	Parts	   *moved = &charge->moved.used;
	Amount	   *lines = palloc((event->nlines + 1) * sizeof(Amount));
	Parts		kept;

	for (int i = 0; i < event->nlines; i++)
		lines[i] = event->lines[i].amount;
	parts_keep(left, lines, event->nlines, parts_total(left) - amount, &kept, lines);
	*moved = kept;
	parts_subtract(moved, left);
	charge->whole = *left;
	charge->lines = palloc((event->nlines + 1) * sizeof(EventLine));
	for (int i = 0; i < event->nlines; i++)
	{
		Amount		back = event->lines[i].amount - lines[i];
		EventLine  *line;
		int			b;

		if (back == 0)
			continue;
		b = bonus_add(posting->set, &event->lines[i].bonus_id, charge->now,
					  posting->view, &charge->bonuses);
		line = &charge->lines[charge->nlines++];
		*line = event->lines[i];
		line->amount = -back;
		line->held = 0;
		line->expired = b < 0 || charge->bonuses.rows[b].useless;
		if (b >= 0)
			charge->bonuses.bonuses[b].take -= back;
	}
	return p == NULL || (p->used + moved->allowance >= 0 && p->bonus_used + moved->bonus >= 0 &&
						 p->overage + moved->overage >= 0);
}

static void
raise_too_much(const Posting *posting, Amount asked, Amount left)
{
	charges_raise_not_refundable(&posting->event->id,
								 psprintf("Asked for were %s units, %s of %s are left.",
										  amount_to_string(asked), amount_to_string(left),
										  amount_to_string(parts_total(&posting->event->moved.used))),
								 "An event gives back at most what it has moved; its refunds are events that refer to it.");
}

Verdict
settlement_refund(Posting *posting)
{
	const Request *request = posting->request;
	Parts		rest;
	Amount		amount;

	read_rest(posting, posting->event, &rest);
	amount = request->has_amount ? request->amount : parts_total(&rest);
	if (amount <= 0 || amount > parts_total(&rest))
		raise_too_much(posting, amount, parts_total(&rest));

	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];
		Parts		left = rest;
		Amount		back;

		charge_decide(charge, 0);
		memset(&charge->moved, 0, sizeof(Movement));
		if (charge->event != posting->event)
			read_rest(posting, charge->event, &left);
		/* a parent may have been charged less, where units came from a sibling */
		back = amount_min(amount, parts_total(&left));
		if (movement_is_gauge(charge))
		{
			Account    *account = charge_account(posting->set, charge, posting->view,
												 charge->event->period);

			movement_give_back(posting, charge, &account->current, back);
			if (-parts_total(&charge->moved.used) < back)
				raise_too_much(posting, back, -parts_total(&charge->moved.used));
		}
		else if (!refund_event(posting, charge, &left, back))
			charges_raise_not_refundable(&posting->event->id,
										 "Less is used in its period than it would give back.",
										 "An adjustment has given back some of it already.");
		charge->decision.allowed = true;
		charge->decision.reason = REASON_OK;
		charge->kind = EVENT_REFUND;
		charge->amount = -amount;
	}
	return VERDICT_GRANTED;
}
