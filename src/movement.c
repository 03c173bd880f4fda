/*-------------------------------------------------------------------------
 *
 * movement.c
 *	  What each kind of request charges, and what it moves there.
 *
 * Finds the charges of a request (a subject and its parents, or those of an
 * event) and decides what moves in each of them.  Reads and locks nothing
 * itself: charge.c and ledger.c read, post.c writes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "amount_numeric.h"
#include "errors.h"
#include "hold.h"
#include "posting.h"

/* ---------------------------------------------------------------------------
 * Charges
 * ------------------------------------------------------------------------- */

static int
compare_charges(const void *a, const void *b)
{
	const Charge *x = a;
	const Charge *y = b;
	int			c = memcmp(x->user_id.data, y->user_id.data, UUID_LEN);

	return c != 0 ? c : strcmp(x->metric, y->metric);
}

static Charge *
add_charge(Posting *posting, int *room, const pg_uuid_t *user_id, const char *metric)
{
	Charge	   *charge;

	if (posting->ncharges == *room)
	{
		*room = *room ? *room * 2 : 1;
		posting->charges = posting->ncharges ?
			repalloc(posting->charges, *room * sizeof(Charge)) :
			palloc(*room * sizeof(Charge));
	}
	charge = &posting->charges[posting->ncharges++];
	memset(charge, 0, sizeof(*charge));
	charge->user_id = *user_id;
	charge->metric = metric;
	return charge;
}

/*
 * Open the charges of an item: the subject's, whatever its limits, and those
 * of its parents that have limits on the metric.
 */
static void
add_levels(Posting *posting, int *room, int item, int levels)
{
	const RequestItem *it = &posting->request->items[item];
	pg_uuid_t	user_id = it->user_id;

	for (int level = 0; level < levels; level++)
	{
		Charge	   *charge = add_charge(posting, room, &user_id, posting->metrics[item]);
		bool		has_parent;

		charge->item = item;
		charge->level = level;
		charge->amount = it->amount;
		charge_open(posting->set, charge, posting->view, posting->now);
		has_parent = charge->limits.has_parent;
		user_id = charge->limits.parent;
		if (level > 0 && charge->limits.nlimits == 0)
			posting->ncharges--;
		if (!has_parent)
			return;
	}
	if (levels == LIMIT_MAX_LEVELS)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("subject has more than %d levels of parents", LIMIT_MAX_LEVELS - 1),
				 errhint("Correct quota.subscriptions.parent.")));
}

/*
 * Charges of one subject and metric that two items have in common, because
 * they share a parent, become one.  What goes from one to the other does not
 * concern the parent.
 */
static void
merge_charges(Posting *posting)
{
	int			n = 0;

	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *c = &posting->charges[i];
		Charge	   *last = n > 0 ? &posting->charges[n - 1] : NULL;

		if (last && compare_charges(last, c) == 0)
		{
			if (c->amount > 0 && last->amount < 0)
			{
				last->item = c->item;
				last->level = c->level;
			}
			last->amount += c->amount;
			continue;
		}
		if (last && last->amount == 0 && last->level > 0)
			n--;
		posting->charges[n++] = *c;
	}
	if (n > 0 && posting->charges[n - 1].amount == 0 && posting->charges[n - 1].level > 0)
		n--;
	posting->ncharges = n;
}

/* accounts point to the limits of their charge, which may have been moved */
static void
relink_accounts(Posting *posting)
{
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *c = &posting->charges[i];

		for (int a = 0; a < c->naccounts; a++)
			c->accounts[a]->limits = &c->limits;
	}
}

static Charge *
add_event_charge(Posting *posting, int *room, Event *event, int level)
{
	Charge	   *charge = add_charge(posting, room, &event->user_id, event->metric);

	charge->event = event;
	charge->level = level;
	return charge;
}

/* The events of other subjects that the call of "main" made, too */
static List *
level_events(Posting *posting, const Event *main, EventKind kind)
{
	List	   *levels = NIL;
	ListCell   *lc;

	foreach(lc, ledger_find_referring(posting->set, &main->id, posting->view))
	{
		Event	   *event = lfirst(lc);

		if (event->kind == kind)
			levels = lappend(levels, event);
	}
	return levels;
}

static void
raise_unknown_reservation(const pg_uuid_t *id)
{
	ereport(ERROR,
			(errcode(ERRCODE_QUOTA_RESERVATION),
			 errmsg("unknown reservation"),
			 errdetail("No reservation has the id %s.",
					   DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)))),
			 errhint("Pass the reservation_id that reserve_quota returned.")));
}

static void
find_reservation(Posting *posting, int *room)
{
	const pg_uuid_t *id = &posting->request->event_id;
	Event	   *event = palloc0(sizeof(Event));
	ListCell   *lc;

	if (!ledger_find(posting->set, id, posting->view, event) ||
		event->kind != EVENT_RESERVE || event->has_refers_to)
		raise_unknown_reservation(id);
	posting->event = event;
	add_event_charge(posting, room, event, 0);
	foreach(lc, level_events(posting, event, EVENT_RESERVE))
		add_event_charge(posting, room, lfirst(lc), 1);
	for (int i = 0; i < posting->ncharges; i++)
		ledger_read_lines(posting->set, posting->view, posting->charges[i].event);
}

static void
raise_not_refundable(const pg_uuid_t *id, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_QUOTA_UNKNOWN_EVENT),
			 errmsg("event %s cannot be refunded",
					DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)))),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

static void
find_refunded(Posting *posting, int *room)
{
	const pg_uuid_t *id = &posting->request->event_id;
	Event	   *event = palloc0(sizeof(Event));
	Event		reserve;
	ListCell   *lc;

	if (!ledger_find(posting->set, id, posting->view, event))
		raise_not_refundable(id, "There is no such event.",
							 "Pass the event_id of the answer that granted the units.");
	if (event->kind != EVENT_CONSUME && event->kind != EVENT_SETTLE)
		raise_not_refundable(id, psprintf("It is of the kind \"%s\".", event_kind_name(event->kind)),
							 "Only what was consumed or settled can be refunded.");
	if ((event->kind == EVENT_CONSUME && event->has_refers_to) ||
		(event->kind == EVENT_SETTLE &&
		 ledger_find(posting->set, &event->refers_to, posting->view, &reserve) &&
		 reserve.has_refers_to))
		raise_not_refundable(id, "It charged a parent of the subject that the call named.",
							 "Refund the event of that subject, and its parents get theirs back, too.");
	posting->event = event;
	add_event_charge(posting, room, event, 0);
	if (event->kind == EVENT_CONSUME)
	{
		foreach(lc, level_events(posting, event, EVENT_CONSUME))
			add_event_charge(posting, room, lfirst(lc), 1);
		return;
	}
	foreach(lc, level_events(posting, &reserve, EVENT_RESERVE))
	{
		Event	   *level = lfirst(lc);
		Event	   *settle = hold_resolution(posting->set, &level->id, posting->view);

		if (settle && settle->kind == EVENT_SETTLE)
			add_event_charge(posting, room, settle, 1);
	}
}

/* Find and open the charges of a request, in the order of locking */
void
movement_find_charges(Posting *posting)
{
	const Request *request = posting->request;
	int			room = 0;

	posting->charges = NULL;
	posting->ncharges = 0;
	if (!request_is_of_event(request))
	{
		for (int i = 0; i < request->nitems; i++)
			add_levels(posting, &room, i, request_is_admin_act(request) ? 1 : LIMIT_MAX_LEVELS);
	}
	else
	{
		if (request->kind == REQUEST_REFUND)
			find_refunded(posting, &room);
		else
			find_reservation(posting, &room);
		for (int i = 0; i < posting->ncharges; i++)
			charge_open(posting->set, &posting->charges[i], posting->view, posting->now);
	}
	if (posting->ncharges > 1)
	{
		qsort(posting->charges, posting->ncharges, sizeof(Charge), compare_charges);
		if (request->nitems > 1)
			merge_charges(posting);
	}
	relink_accounts(posting);
}

/*
 * The charge whose event stands for the item: the subject's own, or, if it has
 * no limits, that of its nearest parent; NULL if nobody is charged.
 */
Charge *
movement_main(const Posting *posting, int item)
{
	Charge	   *main = NULL;

	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *c = &posting->charges[i];

		if (c->item == item && (c->event || c->limits.nlimits > 0) &&
			(main == NULL || c->level < main->level))
			main = c;
	}
	return main;
}

/* ---------------------------------------------------------------------------
 * Movements
 * ------------------------------------------------------------------------- */

/* Units that an account has used, whatever paid for them */
static void
account_parts(const AccountPeriod *p, Parts *parts)
{
	parts->allowance = p->used;
	parts->bonus = p->bonus_used;
	parts->overage = p->overage;
	parts->cost = p->cost;
}

static void
parts_subtract(Parts *a, const Parts *b)
{
	a->allowance -= b->allowance;
	a->bonus -= b->bonus;
	a->overage -= b->overage;
	a->cost -= b->cost;
}

static void
parts_add(Parts *a, const Parts *b)
{
	a->allowance += b->allowance;
	a->bonus += b->bonus;
	a->overage += b->overage;
	a->cost += b->cost;
}

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

/* Give back units of what a period has, last source first, at most all */
static void
give_back(Posting *posting, Charge *charge, const AccountPeriod *p, Amount amount)
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
}

static bool
charge_is_gauge(const Charge *charge)
{
	return charge->limits.kind == METRIC_GAUGE;
}

static void
require_gauge(const Charge *charge, const char *what, const char *hint)
{
	if (!charge_is_gauge(charge))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metric \"%s\" is not a gauge", charge->metric),
				 errdetail("%s", what),
				 errhint("%s", hint)));
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
	}
	else
		charge->moved.used = charge->decision.parts;
	charge->kind = reserve ? EVENT_RESERVE : EVENT_CONSUME;
	if (charge->decision.parts.cost >= MONEY_OVERFLOW)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("overage of metric \"%s\" costs too much to be computed", charge->metric),
				 errhint("Lower plan_limits.overage_price, or the amount.")));
}

/* With up_to, ask for no more than there is, unless there is nothing */
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
	for (int i = 0; most > 0 && i < posting->ncharges; i++)
		posting->charges[i].amount = most;
}

/* Give back what an item has; its parents give back as much, if they have it */
static void
release_item(Posting *posting, int item)
{
	Charge	   *main = movement_main(posting, item);

	if (main == NULL || main->amount >= 0)
		return;
	give_back(posting, main, &charge_allowance(main)->current, -main->amount);
	main->kind = EVENT_RELEASE;
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		if (charge->item != item || charge == main || charge->limits.nlimits == 0)
			continue;
		charge->amount = amount_max(charge->amount, parts_total(&main->moved.used));
		give_back(posting, charge, &charge_allowance(charge)->current, -charge->amount);
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

		if (charge->amount < 0)
		{
			require_gauge(charge, "What a counter has counted is not given back by name.",
						  "Use refund_quota for an event, or adjust_usage.");
			charge_decide(charge, 0);
			charge->decision.allowed = true;
			charge->decision.reason = REASON_OK;
			continue;
		}
		charge_decide(charge, charge->amount);
		if (charge->limits.nlimits == 0 && movement_main(posting, charge->item) != NULL)
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
	Charge	   *main = movement_main(posting, 0);
	Parts		present;
	Amount		difference;

	require_gauge(&posting->charges[0], "Only a level can be set.",
				  "Use adjust_usage for a counter.");
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
			give_back(posting, charge, &charge_allowance(charge)->current, -difference);
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
	bool		due = charge->lapsed != NIL;

	charge_decide(charge, 0);
	charge->decision.allowed = true;
	for (int i = 0; i < charge->limits.nlimits; i++)
	{
		due |= charge->accounts[i]->closing;
		charge->accounts[i]->changed |= charge->accounts[i]->closing;
	}
	return due ? VERDICT_GRANTED : VERDICT_DENIED;
}

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
			event->lines = i == 0 ? palloc(sizeof(EventLine)) :
				repalloc(event->lines, (i + 1) * sizeof(EventLine));
			event->lines[i] = lines[l];
			event->nlines++;
		}
		else
			event->lines[i].amount += lines[l].amount;
	}
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

/*
 * Have bonuses pay for overage of the current period: of the oldest event that
 * has any.  It refers to that event, so that a refund knows whose units they
 * are.
 */
static Verdict
decide_repay(Posting *posting)
{
	Charge	   *charge = &posting->charges[0];
	AccountPeriod *p;
	ListCell   *lc;

	charge_decide(charge, 0);
	charge->decision.allowed = true;
	if (charge->limits.nlimits == 0 || !charge_allowance(charge)->limit->repay)
		return VERDICT_DENIED;
	p = &charge_allowance(charge)->current;
	if (p->overage == 0 || charge->decision.before.bonus_remaining == 0)
		return VERDICT_DENIED;
	foreach(lc, ledger_find_overage(posting->set, &charge->user_id, charge->metric,
									p->start, posting->view))
	{
		Event	   *event = lfirst(lc);
		Parts	   *used = &charge->moved.used;
		Parts		left;
		Parts		kept;
		Amount		amount = 0;

		if (event->effective_at < p->start ||
			strcmp(event->period, charge_allowance(charge)->limit->period_name) != 0)
			continue;
		read_rest(posting, event, &left);
		if (left.overage <= 0)
			continue;
		for (int b = 0; b < charge->bonuses.n; b++)
		{
			BonusState *bonus = &charge->bonuses.bonuses[b];

			bonus->take = amount_min(bonus->left, left.overage - amount);
			amount += bonus->take;
		}
		parts_keep(&left, NULL, 0, parts_total(&left) - amount, &kept, NULL);
		used->bonus = amount;
		used->overage = -amount;
		used->cost = kept.cost - left.cost;
		charge->kind = EVENT_REPAY;
		charge->amount = amount;
		charge->event = event;
		/* the rate windows have nothing to do with it */
		event->rate_periods = NIL;
		return VERDICT_GRANTED;
	}
	return VERDICT_DENIED;
}

/* ---------------------------------------------------------------------------
 * Movements of an event
 * ------------------------------------------------------------------------- */

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

/* Has the hold ended, by itself or by anybody?  Fills in what is known then. */
static bool
reservation_has_ended(Posting *posting, Verdict *verdict)
{
	const Request *request = posting->request;
	Event	   *reserve = posting->event;
	Event	   *resolution = hold_resolution(posting->set, &reserve->id, posting->view);
	bool		settle = request->kind == REQUEST_SETTLE;
	Amount		amount = !settle ? 0 :
		request->has_amount ? request->amount : parts_total(&reserve->moved.held);

	if (resolution && resolution->kind != EVENT_EXPIRE)
	{
		if (resolution->kind != (settle ? EVENT_SETTLE : EVENT_CANCEL) ||
			resolution->requested != amount || resolution->outcome == NULL)
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

	for (int i = 0; i < event->nlines; i++)
		lines[i] = event->lines[i].held;
	parts_keep(held, lines, event->nlines, amount_min(keep, parts_total(held)), &kept, lines);
	parts_add(&charge->moved.used, &kept);
	parts_subtract(&charge->moved.held, held);
	for (int i = 0; i < event->nlines; i++)
	{
		int			b = bonus_add(posting->set, &event->lines[i].bonus_id, charge->now,
								  posting->view, &charge->bonuses);

		if (b < 0)
			continue;
		charge->bonuses.bonuses[b].take += lines[i];
		charge->bonuses.bonuses[b].hold -= event->lines[i].held;
	}
}

static Verdict
decide_resolution(Posting *posting)
{
	const Request *request = posting->request;
	bool		settle = request->kind == REQUEST_SETTLE;
	Amount		held = parts_total(&posting->event->moved.held);
	Amount		actual = !settle ? 0 : request->has_amount ? request->amount : held;
	bool		extra = actual > held;
	Verdict		verdict;

	if (reservation_has_ended(posting, &verdict))
		return verdict;

	for (int i = 0; extra && i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		charge_decide_as_event(posting->set, charge, posting->view, actual - held);
		if (!charge->decision.allowed)
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


/* Give back units of an event: overage, bonuses from the last, allowance */
static void
refund_event(Posting *posting, Charge *charge, const Parts *left, Amount amount)
{
	Event	   *event = charge->event;
	Parts	   *moved = &charge->moved.used;
	Amount	   *lines = palloc((event->nlines + 1) * sizeof(Amount));
	Parts		kept;

	for (int i = 0; i < event->nlines; i++)
		lines[i] = event->lines[i].amount;
	parts_keep(left, lines, event->nlines, parts_total(left) - amount, &kept, lines);
	*moved = kept;
	parts_subtract(moved, left);
	for (int i = 0; i < event->nlines; i++)
	{
		int			b = bonus_add(posting->set, &event->lines[i].bonus_id, charge->now,
								  posting->view, &charge->bonuses);

		if (b >= 0)
			charge->bonuses.bonuses[b].take += lines[i] - event->lines[i].amount;
	}
}

static void
raise_too_much(const Posting *posting, Amount asked, Amount left)
{
	raise_not_refundable(&posting->event->id,
						 psprintf("Asked for were %s units, %s of %s are left.",
								  amount_to_string(asked), amount_to_string(left),
								  amount_to_string(parts_total(&posting->event->moved.used))),
						 "An event gives back at most what it has moved; its refunds are events that refer to it.");
}

static Verdict
decide_refund(Posting *posting)
{
	const Request *request = posting->request;
	Parts		left;
	Amount		amount;

	read_rest(posting, posting->event, &left);
	amount = request->has_amount ? request->amount : parts_total(&left);
	if (amount <= 0 || amount > parts_total(&left))
		raise_too_much(posting, amount, parts_total(&left));

	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		charge_decide(charge, 0);
		memset(&charge->moved, 0, sizeof(Movement));
		if (charge->event != posting->event)
			read_rest(posting, charge->event, &left);
		else if (posting->ncharges > 1)
			read_rest(posting, posting->event, &left);
		if (charge_is_gauge(charge))
		{
			Account    *account = charge_account(posting->set, charge, posting->view,
												 charge->event->period);

			give_back(posting, charge, &account->current, amount);
			if (-parts_total(&charge->moved.used) < amount)
				raise_too_much(posting, amount, -parts_total(&charge->moved.used));
		}
		else
			refund_event(posting, charge, &left, amount_min(amount, parts_total(&left)));
		charge->decision.allowed = true;
		charge->decision.reason = REASON_OK;
		charge->kind = EVENT_REFUND;
		charge->amount = -amount;
	}
	return VERDICT_GRANTED;
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
			return decide_repay(posting);
		case REQUEST_SETTLE:
		case REQUEST_CANCEL:
			return decide_resolution(posting);
		case REQUEST_REFUND:
			return decide_refund(posting);
	}
	return VERDICT_DENIED;		/* keep compiler quiet */
}
