/*-------------------------------------------------------------------------
 *
 * charges.c
 *	  Which charges a request has.
 *
 * A request of items charges each subject and its parents; a request of an event
 * charges those that the event's call has charged.  Two requests never differ
 * in the order in which they have their charges, which is that of locking.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/uuid.h"

#include "errors.h"
#include "hold.h"
#include "posting.h"

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
 * Open the charges of an item: the subject's and those of its parents, whatever
 * their limits.  Who has none is not charged, though may be by the time that a
 * denied request would be granted.
 */
static void
add_levels(Posting *posting, int *room, int item, int levels)
{
	const RequestItem *it = &posting->request->items[item];
	pg_uuid_t	user_id = it->user_id;

	for (int level = 0; level < levels; level++)
	{
		Charge	   *charge = add_charge(posting, room, &user_id, posting->metrics[item]);

		charge->item = item;
		charge->level = level;
		charge->amount = it->amount;
		charge_open(posting->set, charge, posting->view, posting->now,
					level == 0 ? it->subscription : NULL);
		if (it->amount < 0 && level == 0 && charge->limits.nlimits == 0)
			charge_adopt(posting->set, charge, posting->view);
		if (!charge->limits.has_parent)
			return;
		user_id = charge->limits.parent;
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
			last->idle = (last->amount == 0);
			continue;
		}
		posting->charges[n++] = *c;
	}
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

/* Of the events that refer to one, those of other subjects that its call made, too */
static List *
level_events(List *referring, EventKind kind)
{
	List	   *levels = NIL;
	ListCell   *lc;

	foreach(lc, referring)
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
	posting->referring = ledger_find_referring(posting->set, id, posting->view);
	add_event_charge(posting, room, event, 0);
	foreach(lc, level_events(posting->referring, EVENT_RESERVE))
		add_event_charge(posting, room, lfirst(lc), 1);
	for (int i = 0; i < posting->ncharges; i++)
		if (posting->charges[i].event->moved.held.bonus != 0)
			ledger_read_lines(posting->set, posting->view, posting->charges[i].event);
}

void
charges_raise_not_refundable(const pg_uuid_t *id, const char *detail, const char *hint)
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
		charges_raise_not_refundable(id, "There is no such event.",
							 "Pass the event_id of the answer that granted the units.");
	if (event->kind != EVENT_CONSUME && event->kind != EVENT_SETTLE)
		charges_raise_not_refundable(id, psprintf("It is of the kind \"%s\".", event_kind_name(event->kind)),
							 "Only what was consumed or settled can be refunded.");
	if ((event->kind == EVENT_CONSUME && event->has_refers_to) ||
		(event->kind == EVENT_SETTLE &&
		 ledger_find(posting->set, &event->refers_to, posting->view, &reserve) &&
		 reserve.has_refers_to))
		charges_raise_not_refundable(id, "It charged a parent of the subject that the call named.",
							 "Refund the event of that subject, and its parents get theirs back, too.");
	posting->event = event;
	add_event_charge(posting, room, event, 0);
	if (event->kind == EVENT_CONSUME)
	{
		foreach(lc, level_events(ledger_find_referring(posting->set, id, posting->view),
								 EVENT_CONSUME))
			add_event_charge(posting, room, lfirst(lc), 1);
		return;
	}
	foreach(lc, level_events(ledger_find_referring(posting->set, &reserve.id, posting->view),
							 EVENT_RESERVE))
	{
		Event	   *level = lfirst(lc);
		Event	   *settle = hold_resolution(posting->set, &level->id, posting->view);

		if (settle && settle->kind == EVENT_SETTLE)
			add_event_charge(posting, room, settle, 1);
	}
}

static void
require_gauge(const Charge *charge, const char *what, const char *hint)
{
	if (charge->limits.kind != METRIC_GAUGE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metric \"%s\" is not a gauge", charge->metric),
				 errdetail("%s", what),
				 errhint("%s", hint)));
}

/* Refuse what can only be meant of a level, before anything else is looked at */
static void
check_kinds(const Posting *posting)
{
	const Request *request = posting->request;

	for (int i = 0; i < posting->ncharges; i++)
	{
		if (request->kind == REQUEST_SET_GAUGE)
			require_gauge(&posting->charges[i], "Only a level can be set.",
						  "Use adjust_usage for a counter.");
		if (request->kind == REQUEST_CONSUME && posting->charges[i].amount < 0)
			require_gauge(&posting->charges[i],
						  "What a counter has counted is not given back by name.",
						  "Use refund_quota for an event, or adjust_usage.");
	}
}

/* Find and open the charges of a request, in the order of locking */
void
charges_find(Posting *posting)
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
			charge_open(posting->set, &posting->charges[i], posting->view, posting->now, NULL);
	}
	check_kinds(posting);
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
charges_main(const Posting *posting, int item)
{
	Charge	   *main = NULL;

	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *c = &posting->charges[i];

		if (c->item == item && (c->event || charge_windows(c) > 0) &&
			(main == NULL || c->level < main->level))
			main = c;
	}
	return main;
}
