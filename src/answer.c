/*-------------------------------------------------------------------------
 *
 * answer.c
 *	  What a caller is told, and the audit log.
 *
 * The answer to an item tells the limit that binds: of the subject or of one of
 * its parents, of one window or another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "audit.h"
#include "posting.h"

/* What a charge tells of its state: the binding limit, before or after */
static void
tell_state(const Charge *charge, const LimitReport *report, Outcome *o)
{
	o->remaining = report->remaining;
	o->unlimited = report->unlimited;
	o->used = report->used;
	o->bonus_remaining = report->bonus_remaining;
	o->decided_at = charge->now;
	o->resets_at = DT_NOEND;
	o->no_limit = (report->binding < 0);
	if (!o->no_limit)
	{
		const Account *account = charge->state_accounts[report->binding];

		o->limit_amount = account->limit->amount;
		o->period = account->limit->period_name;
		o->period_start = account->current.start;
		o->resets_at = account_resets_at(account, charge->now);
		o->binding_user_id = charge->user_id;
	}
}

/* Which of two charges, the first one nearer to the subject, binds? */
static bool
binds_more(const Charge *far, const LimitReport *a, const Charge *near,
		   const LimitReport *b, bool denied)
{
	if (denied)
	{
		int64		x = far->decision.retry_after;
		int64		y = near->decision.retry_after;

		return x > y || (x == y && far->level < near->level);
	}
	if (a->unlimited != b->unlimited)
		return b->unlimited;
	return a->remaining < b->remaining ||
		(a->remaining == b->remaining && far->level < near->level);
}

/*
 * Has a charge nothing to tell, because it has no limits, and a parent's that
 * has some is there?
 */
static bool
is_silent(const Posting *posting, const Charge *charge)
{
	if (charge->limits.nlimits > 0)
		return false;
	for (int i = 0; i < posting->ncharges; i++)
		if (posting->charges[i].item == charge->item && posting->charges[i].limits.nlimits > 0)
			return true;
	return false;
}

/* The charge of an item whose state the answer tells */
static Charge *
binding_charge(Posting *posting, int item, bool denied, bool after)
{
	Charge	   *binding = NULL;
	const LimitReport *best = NULL;

	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *c = &posting->charges[i];
		const LimitReport *r = after ? &c->decision.after : &c->decision.before;

		if (c->item != item || (denied && c->decision.allowed) || is_silent(posting, c))
			continue;
		if (binding == NULL || binds_more(c, r, binding, best, denied))
		{
			binding = c;
			best = r;
		}
	}
	return binding;
}

static Charge *
first_charge(Posting *posting, int item)
{
	Charge	   *first = NULL;

	for (int i = 0; i < posting->ncharges; i++)
		if (posting->charges[i].item == item &&
			(first == NULL || posting->charges[i].level < first->level))
			first = &posting->charges[i];
	return first;
}

/* The answer to an item that was denied, or that goes with one that was */
static void
answer_denial(Posting *posting, int item, Outcome *o)
{
	int64		retry_after = lookahead_retry_after(posting, item);
	Charge	   *c = binding_charge(posting, item, true, false);

	memset(o, 0, sizeof(*o));
	o->retry_after = c ? retry_after : DECISION_NEVER;
	o->reason = c ? decision_reason_name(c->decision.reason) :
		decision_reason_name(REASON_OTHER_DENIED);
	if (c == NULL)
		c = binding_charge(posting, item, false, false);
	tell_state(c, &c->decision.before, o);
	o->metric = c->metric;
}

/* A denial for a reason that lies in the request, with the present state */
static void
answer_refusal(Posting *posting, int item, DecisionReason reason, Outcome *o)
{
	Charge	   *c = binding_charge(posting, item, false, false);

	memset(o, 0, sizeof(*o));
	o->reason = decision_reason_name(reason);
	o->retry_after = DECISION_NEVER;
	tell_state(c, &c->decision.before, o);
	o->metric = c->metric;
}

/* The answer to an item that is granted */
void
answer_grant(Posting *posting, int item, bool after, Outcome *o)
{
	DecisionReason reason = REASON_OK;
	Charge	   *main = charges_main(posting, item);
	Charge	   *binding;

	memset(o, 0, sizeof(*o));
	if (main == NULL)
		main = first_charge(posting, item);
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *c = &posting->charges[i];
		const Parts *p = posting->request->kind == REQUEST_RESERVE ? &c->moved.held : &c->moved.used;

		if (c->item != item)
			continue;
		if (c->decision.reason > reason && c->decision.allowed)
			reason = c->decision.reason;
		o->bonus_used += p->bonus;
		o->overage += p->overage;
		o->cost += p->cost;
		if (c == main)
			o->granted = parts_total(p);
	}
	binding = binding_charge(posting, item, false, after);
	tell_state(binding, after ? &binding->decision.after : &binding->decision.before, o);
	o->allowed = true;
	o->reason = decision_reason_name(reason);
	o->metric = main->metric;
	o->retry_after = DECISION_NEVER;
	o->has_shortfall = posting->has_shortfall;
	o->shortfall = posting->shortfall;
	if (posting->request->kind == REQUEST_RESET)
		o->granted = main->amount;
}

/*
 * The answers for keys that were used before: the first answers again, or, if
 * what is asked is something else, a conflict that tells the present state.
 * Returns false if no key was used.
 */
bool
answer_again(Posting *posting)
{
	const Request *request = posting->request;
	Event	   *events = NULL;
	bool	   *found = NULL;
	bool		conflict = false;
	int			nfound = 0;

	for (int i = 0; i < request->nitems; i++)
	{
		const RequestItem *item = &request->items[i];
		EventKind	kind = request->kind == REQUEST_RESERVE ? EVENT_RESERVE :
			item->amount < 0 ? EVENT_RELEASE : EVENT_CONSUME;

		if (item->key == NULL)
			continue;
		if (events == NULL)
		{
			events = palloc0(request->nitems * sizeof(Event));
			found = palloc0(request->nitems * sizeof(bool));
		}
		found[i] = ledger_find_key(posting->set, &posting->keys[i], &events[i]);
		if (!found[i])
			continue;
		nfound++;
		conflict |= events[i].kind != kind || events[i].requested != item->amount ||
			(!request->up_to && item->amount > 0 && events[i].outcome->granted != item->amount);
	}
	if (nfound == 0)
		return false;
	conflict |= nfound < request->nitems;

	for (int i = 0; i < posting->ncharges && conflict; i++)
	{
		charge_decide(&posting->charges[i], amount_max(posting->charges[i].amount, 0));
		charge_register(posting->set, &posting->charges[i], false);
	}
	for (int i = 0; i < request->nitems; i++)
	{
		Outcome    *o = &posting->outcomes[i];

		if (conflict)
			answer_refusal(posting, i, found[i] ? REASON_IDEMPOTENCY_CONFLICT :
						   REASON_OTHER_DENIED, o);
		else
		{
			*o = *events[i].outcome;
			o->already_processed = true;
		}
	}
	return true;
}

/* Answer what was not written */
void
answer(Posting *posting, Verdict verdict)
{
	int			n = request_is_of_event(posting->request) ? 1 : posting->request->nitems;

	for (int i = 0; i < n; i++)
	{
		if (verdict == VERDICT_REPLAY)
			continue;
		if (verdict == VERDICT_GRANTED)
			answer_grant(posting, i, false, &posting->outcomes[i]);
		else if (posting->reason != REASON_OK)
			answer_refusal(posting, i, posting->reason, &posting->outcomes[i]);
		else if (request_is_admin_act(posting->request))
			answer_refusal(posting, i, REASON_NOT_IN_PLAN, &posting->outcomes[i]);
		else
			answer_denial(posting, i, &posting->outcomes[i]);
	}
}

static const char *
action_name(const Posting *posting, int item)
{
	switch (posting->request->kind)
	{
		case REQUEST_CONSUME:
			return posting->request->items[item].amount < 0 ? "release" : "consume";
		case REQUEST_RESERVE:
			return "reserve";
		case REQUEST_SET_GAUGE:
			return "set_gauge";
		case REQUEST_SETTLE:
			return "settle";
		case REQUEST_CANCEL:
			return "cancel";
		case REQUEST_REFUND:
			return "refund";
		default:
			return "tidy";
	}
}

/* One audit row for each item; admin acts are logged by the SQL functions */
void
answer_audit(Posting *posting)
{
	const Request *request = posting->request;

	if (request->dry_run || request_is_admin_act(request))
		return;
	if (request_is_of_event(request))
	{
		const Event *event = posting->event;
		Amount		amount = request->has_amount ? request->amount :
			request->kind == REQUEST_CANCEL ? 0 :
			request->kind == REQUEST_REFUND ? -posting->outcomes[0].granted :
			parts_total(&event->moved.held);

		audit_insert(posting->set, &event->user_id, action_name(posting, 0), amount,
					 &posting->outcomes[0], posting->waited, posting->now);
		return;
	}
	for (int i = 0; i < request->nitems; i++)
	{
		Amount		amount = request->items[i].amount;

		audit_insert(posting->set, &request->items[i].user_id, action_name(posting, i),
					 amount < 0 ? -amount : amount,
					 &posting->outcomes[i], posting->waited, posting->now);
	}
}
