/*-------------------------------------------------------------------------
 *
 * post.c
 *	  The engine: takes requests from their limits to their outcomes.
 *
 * Every request goes the same way: find its charges (the accounts of a subject
 * and of its parents, for each metric), read them, settle the time, roll
 * periods and take off lapsed holds in memory, look for the idempotency key,
 * decide what moves (movement.c), lock, write, record.
 *
 * Concurrency
 *
 * A request is decided on what was read without a lock.  To write a grant, all
 * accounts of the request are locked, in the order of subject, metric and
 * period name, then the bonuses that pay.  If all are as they were read, they
 * are written.  If anything has changed, had to be waited for or had to be
 * created, everything is read and decided again, now with the locks held, so
 * that the second try succeeds.
 *
 * This is exact because every grant writes an account of its subject and
 * metric, or the closed period that it belongs to: as long as these are
 * unchanged, no other call has moved quota, taken from a bonus, used a key,
 * resolved a reservation or refunded an event in between.
 *
 * If limits or parents change while a call waits, the second try can need an
 * account that comes before one that the first try has locked.  Waiting for it
 * could be a deadlock, so if another call holds it, this one gives up with
 * 40001.
 *
 * A denial is written without any lock.  What was read was committed, and said
 * that there is no room; whatever is in progress elsewhere comes after this
 * call.  So a flood of refused calls neither waits nor makes others wait.
 *
 * The clock is read after the accounts: whoever is later in an account's chain
 * of versions has a later time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "audit.h"
#include "guc.h"
#include "hold.h"
#include "id.h"
#include "post.h"
#include "posting.h"

/*
 * Each try but the first holds the locks of the one before, so more than a few
 * are possible only if limits change all the time.
 */
#define MAX_TRIES	100

/*
 * Tries that are given up because the server was told to forget everything it
 * had cached, which may hide a change of limits, although they say the same as
 * before.  More would let a server that does so all the time refuse all calls.
 */
#define MAX_RESETS	3

/* An account that is locked; lives as long as the call */
typedef struct AccountName
{
	pg_uuid_t	user_id;
	char	   *metric;
	char	   *period;
} AccountName;

/* ---------------------------------------------------------------------------
 * Reading
 * ------------------------------------------------------------------------- */

/*
 * Have limits changed since before the snapshot was taken?  Those that are
 * younger than it do not go with what it shows.  That they say the same as
 * before proves nothing: it may show a moment in between.
 */
static bool
limits_moved(const Posting *posting)
{
	LimitVersion version = limit_version();

	return version.changes != posting->limits_version.changes ||
		(version.resets != posting->limits_version.resets &&
		 posting->tries < MAX_RESETS);
}

/*
 * Read all charges as they are at one instant; false if limits have changed
 * meanwhile, and everything has to be read again
 */
static bool
read_charges(Posting *posting)
{
	TimestampTz now;

	movement_find_charges(posting);
	now = Max(clock_now(), posting->now);
	for (int i = 0; i < posting->ncharges; i++)
		now = charge_time(&posting->charges[i], now);
	posting->now = now;
	for (int i = 0; i < posting->ncharges; i++)
		if (!charge_begin(posting->set, &posting->charges[i], posting->view, now))
			return false;
	return posting->request->dry_run || !limits_moved(posting);
}

/* ---------------------------------------------------------------------------
 * Locking and writing
 * ------------------------------------------------------------------------- */

static int
compare_names(const pg_uuid_t *user_id, const char *metric, const char *period,
			  const AccountName *name)
{
	int			c = memcmp(user_id->data, name->user_id.data, UUID_LEN);

	if (c == 0)
		c = strcmp(metric, name->metric);
	return c != 0 ? c : strcmp(period, name->period);
}

/* Does an account come before one that an earlier try has locked? */
static bool
out_of_order(const Posting *posting, const Account *account)
{
	ListCell   *lc;
	bool		earlier = false;

	foreach(lc, posting->held)
	{
		int			c = compare_names(&account->limits->user_id, account->limits->metric,
									  account->limit->period_name, lfirst(lc));

		if (c == 0)
			return false;
		earlier |= (c < 0);
	}
	return earlier;
}

static void
remember_held(Posting *posting, const Account *account)
{
	MemoryContext old = MemoryContextSwitchTo(relations_context(posting->set));
	AccountName *name = palloc(sizeof(AccountName));

	name->user_id = account->limits->user_id;
	name->metric = pstrdup(account->limits->metric);
	name->period = pstrdup(account->limit->period_name);
	posting->held = lappend(posting->held, name);
	MemoryContextSwitchTo(old);
}

static int
compare_accounts(const void *a, const void *b)
{
	return strcmp((*(Account *const *) a)->limit->period_name,
				  (*(Account *const *) b)->limit->period_name);
}

/* The accounts of a charge in the order of locking */
static Account **
accounts_to_lock(const Charge *charge)
{
	Account   **accounts;

	if (charge->naccounts == charge->limits.nlimits)
		return charge->accounts;
	accounts = palloc(charge->naccounts * sizeof(Account *));
	memcpy(accounts, charge->accounts, charge->naccounts * sizeof(Account *));
	qsort(accounts, charge->naccounts, sizeof(Account *), compare_accounts);
	return accounts;
}

/*
 * Lock the accounts of a charge.  Returns false if one was lost, and no later
 * one may be locked; *unchanged becomes false if any is not as it was read.
 */
static bool
lock_charge(Posting *posting, const Charge *charge, bool *unchanged)
{
	Account   **accounts = accounts_to_lock(charge);

	for (int i = 0; i < charge->naccounts; i++)
	{
		Account    *account = accounts[i];
		AccountLock lock;

		/* what is named by holds only, and gone, is not made again */
		if (!account->exists && account->limit->period_name[0] != '\0' &&
			limit_find(&charge->limits, account->limit->period_name) == NULL)
			continue;
		lock = account_lock(posting->set, account, !out_of_order(posting, account));
		if (lock == ACCOUNT_BUSY)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("the limits of metric \"%s\" changed while the call waited for another one",
							charge->metric),
					 errhint("Retry the transaction.")));
		posting->waited |= account->waited;
		if (lock == ACCOUNT_LOST)
			return false;
		remember_held(posting, account);
		if (lock != ACCOUNT_UNCHANGED)
			*unchanged = false;
	}
	return true;
}

/* Lock what is to be written; true if all of it is as it was read */
static bool
lock_rows(Posting *posting)
{
	bool		unchanged = true;

	for (int i = 0; i < posting->ncharges; i++)
		if (!lock_charge(posting, &posting->charges[i], &unchanged))
			return false;
	if (!unchanged)
		return false;
	for (int i = 0; i < posting->ncharges; i++)
	{
		if (bonus_lock(posting->set, &posting->charges[i].bonuses))
			continue;
		posting->waited = true;
		unchanged = false;
	}
	return unchanged;
}

static bool
is_written(const Charge *charge)
{
	return charge->event || charge->limits.nlimits > 0;
}

/* Let the accounts know what moves, and until when nothing lapses */
static void
apply(Posting *posting, Charge *charge)
{
	const Request *request = posting->request;

	if (charge->event)
		charge_move(posting->set, charge, posting->view, charge->event, &charge->moved, false);
	else if (request->kind != REQUEST_RESET && request->kind != REQUEST_TIDY)
	{
		/* an admin's act and a repayment concern the allowance alone */
		for (int i = 0; i < charge->limits.nlimits; i++)
			if (i == charge->limits.allowance || !request_is_admin_act(request))
				account_move(charge->accounts[i], &charge->accounts[i]->current,
							 i == charge->limits.allowance, &charge->moved);
	}

	for (int i = 0; i < charge->naccounts; i++)
	{
		Account    *account = charge->accounts[i];

		if (account->holds_expire_at <= charge->now)
		{
			account->holds_expire_at =
				hold_next_expiry(posting->set, &charge->user_id, charge->metric,
								 charge->now, posting->view);
			account->changed = true;
		}
		if (request->kind == REQUEST_RESERVE)
			account->holds_expire_at = Min(account->holds_expire_at,
										   charge->now + request->ttl);
	}
}

/*
 * Lock and write what a grant moves.  Returns false, with nothing written, if
 * anything is not as it was read; the next try finds it locked, or locks it.
 */
static bool
write_rows(Posting *posting)
{
	if (!lock_rows(posting))
		return false;
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		if (!is_written(charge))
			continue;
		apply(posting, charge);
		bonus_write(posting->set, &charge->bonuses);
		for (int a = 0; a < charge->naccounts; a++)
			account_write(posting->set, charge->accounts[a], charge->now);
	}
	return true;
}

/* ---------------------------------------------------------------------------
 * Answers
 * ------------------------------------------------------------------------- */

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
		o->resets_at = account->current.end;
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

		if (c->item != item || (denied && c->decision.allowed) ||
			(c->limits.nlimits == 0 && movement_main(posting, item) != NULL))
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

/* How long until none of the denying charges of an item denies */
static int64
item_retry_after(Posting *posting, int item)
{
	int64		longest = 0;

	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *c = &posting->charges[i];

		if (c->item != item || c->decision.allowed ||
			(c->limits.nlimits == 0 && movement_main(posting, item) != NULL))
			continue;
		c->decision.retry_after = charge_retry_after(posting->set, c, posting->view);
		longest = Max(longest, c->decision.retry_after);
	}
	return longest;
}

/* The answer to an item that was denied, or that goes with one that was */
static void
answer_denial(Posting *posting, int item, Outcome *o)
{
	int64		retry_after = item_retry_after(posting, item);
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
static void
answer_grant(Posting *posting, int item, bool after, Outcome *o)
{
	DecisionReason reason = REASON_OK;
	Charge	   *main = movement_main(posting, item);
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
static bool
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

/* ---------------------------------------------------------------------------
 * Recording
 * ------------------------------------------------------------------------- */

/* Record what a charge moved; "main" is the event of the item, once there is one */
static void
record_charge(Posting *posting, Charge *charge, const pg_uuid_t *id,
			  const pg_uuid_t *main, const KeyHash *key, Outcome *outcome)
{
	const Request *request = posting->request;
	Event		event = {0};

	event.id = *id;
	event.user_id = charge->user_id;
	event.metric = charge->metric;
	event.kind = charge->kind;
	event.moved = charge->moved;
	event.requested = charge->amount;
	event.key = key;
	event.outcome = outcome;
	event.metadata = request->metadata;
	event.created_at = event.effective_at = charge->now;
	event.expires_at = request->kind == REQUEST_RESERVE ? charge->now + request->ttl : DT_NOEND;
	event.has_refers_to = (main != NULL);
	if (main)
		event.refers_to = *main;
	bonus_lines(&charge->bonuses, &event);
	if (charge->event)
	{
		event.period = charge->event->period;
		event.rate_periods = charge->event->rate_periods;
		event.effective_at = charge->event->effective_at;
		event.has_refers_to = true;
		event.refers_to = charge->event->id;
	}
	else
	{
		event.period = charge_allowance(charge)->limit->period_name;
		for (int i = 0; i < charge->limits.nlimits && !request_is_admin_act(request); i++)
			if (i != charge->limits.allowance)
				event.rate_periods = lappend(event.rate_periods,
											 charge->limits.limits[i].period_name);
	}
	if (event.kind == EVENT_REPAY)
		event.requested = 0;
	ledger_insert(posting->set, &event);
}

/* Record the ends of the holds that were found to have lapsed */
static void
record_lapsed(Posting *posting, Charge *charge)
{
	ListCell   *lc;

	foreach(lc, charge->lapsed)
	{
		const Event *hold = lfirst(lc);
		Event		event = *hold;

		id_generate(charge->now, &event.id);
		event.kind = EVENT_EXPIRE;
		charge_negate_held(hold, &event.moved);
		event.requested = 0;
		event.outcome = NULL;
		event.metadata = (Datum) 0;
		event.created_at = charge->now;
		event.expires_at = DT_NOEND;
		event.has_refers_to = true;
		event.refers_to = hold->id;
		event.lines = palloc((hold->nlines + 1) * sizeof(EventLine));
		for (int i = 0; i < hold->nlines; i++)
		{
			event.lines[i] = hold->lines[i];
			event.lines[i].held = -hold->lines[i].held;
			for (int b = 0; b < charge->bonuses.n; b++)
				if (memcmp(charge->bonuses.bonuses[b].id, &hold->lines[i].bonus_id, UUID_LEN) == 0)
					event.lines[i].expired = charge->bonuses.rows[b].useless;
		}
		ledger_insert(posting->set, &event);
	}
}

/* Does a request leave an event, beside those of lapsed holds? */
static bool
leaves_event(const Request *request)
{
	return request->kind != REQUEST_RESET && request->kind != REQUEST_TIDY;
}

/* Record an item that was granted and written, and answer it */
static void
record_item(Posting *posting, int item, Outcome *outcome)
{
	const Request *request = posting->request;
	Charge	   *main = movement_main(posting, item);
	bool		decided = request->kind == REQUEST_CONSUME || request->kind == REQUEST_RESERVE;
	bool		repeatable = request->kind == REQUEST_SETTLE || request->kind == REQUEST_CANCEL;
	const KeyHash *key = !request_is_of_event(request) && request->items[item].key ?
		&posting->keys[item] : NULL;

	for (int i = 0; i < posting->ncharges; i++)
		if (posting->charges[i].item == item &&
			(!decided || posting->charges[i].amount < 0))
			charge_report(&posting->charges[i]);
	answer_grant(posting, item, true, outcome);
	if (main == NULL || !leaves_event(request))
		return;

	outcome->has_event = true;
	id_generate(main->now, &outcome->event_id);
	outcome->has_reservation = request->kind == REQUEST_RESERVE || repeatable;
	if (outcome->has_reservation)
		outcome->reservation_id = repeatable ? request->event_id : outcome->event_id;
	record_charge(posting, main, &outcome->event_id, NULL, key,
				  key || repeatable ? outcome : NULL);
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *c = &posting->charges[i];
		pg_uuid_t	id;

		if (c->item != item || c == main || !is_written(c))
			continue;
		id_generate(c->now, &id);
		record_charge(posting, c, &id, &outcome->event_id, NULL, NULL);
	}
}

static void
record(Posting *posting)
{
	int			n = request_is_of_event(posting->request) ? 1 : posting->request->nitems;

	for (int i = 0; i < posting->ncharges; i++)
		if (posting->charges[i].lapsed)
			record_lapsed(posting, &posting->charges[i]);
	for (int i = 0; i < n; i++)
		record_item(posting, i, &posting->outcomes[i]);
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
static void
audit(Posting *posting)
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

/* ---------------------------------------------------------------------------
 * The way of a request
 * ------------------------------------------------------------------------- */

static void
deny(Posting *posting)
{
	int			n = request_is_of_event(posting->request) ? 1 : posting->request->nitems;

	for (int i = 0; i < n; i++)
	{
		if (posting->reason != REASON_OK)
			answer_refusal(posting, i, posting->reason, &posting->outcomes[i]);
		else if (request_is_admin_act(posting->request))
			answer_refusal(posting, i, REASON_NOT_IN_PLAN, &posting->outcomes[i]);
		else
			answer_denial(posting, i, &posting->outcomes[i]);
	}
}

/* Try once; returns false if everything has to be read and decided again */
static bool
try_post(Posting *posting)
{
	const Request *request = posting->request;
	Verdict		verdict;
	bool		writes;

	relation_slots_release(posting->set);
	posting->reason = REASON_OK;
	posting->has_shortfall = false;
	posting->shortfall = 0;
	if (!read_charges(posting))
		return false;
	if (!request->dry_run && !request_is_of_event(request) && answer_again(posting))
	{
		audit(posting);
		return true;
	}

	verdict = movement_decide(posting);
	writes = verdict == VERDICT_GRANTED && !request->dry_run;
	for (int i = 0; i < posting->ncharges; i++)
		charge_register(posting->set, &posting->charges[i], writes);
	if (writes)
	{
		if (!write_rows(posting))
			return false;
		record(posting);
	}
	else if (verdict == VERDICT_GRANTED)
	{
		for (int i = 0; i < request->nitems; i++)
			answer_grant(posting, i, false, &posting->outcomes[i]);
	}
	else if (verdict == VERDICT_DENIED)
		deny(posting);
	audit(posting);
	return true;
}

/* Names, aliases resolved, and hashes of keys */
static void
prepare_items(Posting *posting)
{
	const Request *request = posting->request;

	posting->metrics = palloc(request->nitems * sizeof(char *));
	posting->keys = palloc0(request->nitems * sizeof(KeyHash));
	for (int i = 0; i < request->nitems; i++)
	{
		const RequestItem *item = &request->items[i];

		posting->metrics[i] = limit_metric_name(item->metric);
		if (item->key)
			ledger_hash_key(&item->user_id, posting->metrics[i], item->key, &posting->keys[i]);
		for (int j = 0; j < i; j++)
			if (strcmp(posting->metrics[i], posting->metrics[j]) == 0 &&
				memcmp(&request->items[j].user_id, &item->user_id, UUID_LEN) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("metric \"%s\" is named more than once", posting->metrics[i]),
						 errhint("Aliases name the same metric: add the amounts up.")));
	}
}

/* Take one request through its tries, within an open set of relations */
static void
post_one(RelationSet *set, const Request *request, LimitVersion version, Outcome *outcomes)
{
	Posting		posting = {.request = request, .set = set, .outcomes = outcomes};

	posting.limits_version = version;
	posting.view = guc_caller_snapshot_rules() ? VIEW_CALLER : VIEW_LATEST;
	posting.now = DT_NOBEGIN;
	if (!request_is_of_event(request))
		prepare_items(&posting);

	while (!try_post(&posting))
	{
		CHECK_FOR_INTERRUPTS();
		if (++posting.tries >= MAX_TRIES)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not settle the accounts of the request in %d tries",
							MAX_TRIES),
					 errhint("Retry the transaction.")));
		posting.limits_version = limit_version();
		if (!request->dry_run)
			relations_refresh(set);
	}
}

static RelationSet *
begin_call(bool dry_run)
{
	return relations_begin(!dry_run,
						   TABLE_BIT(TABLE_SUBSCRIPTIONS) |
						   TABLE_BIT(TABLE_USAGE_TRACKING) |
						   TABLE_BIT(TABLE_USER_BONUSES) |
						   TABLE_BIT(TABLE_USAGE_EVENTS) |
						   (limit_any_overrides() ? TABLE_BIT(TABLE_LIMIT_OVERRIDES) : 0));
}

/*
 * Decide a request and, unless it is a dry run, record it in the caller's
 * transaction.  outcomes[] has room for one answer to each item, or one for a
 * request of an event.  The caller has validated the request, and made sure
 * that writing is possible.  What an outcome points to is palloc'd in the
 * current context.
 *
 * Raises QU002 and QU003 for unknown names, QU004 and QU005 for reservations
 * and events that do not fit, and 40001 where the caller's snapshot rules and
 * another transaction was faster.
 */
void
post(const Request *request, Outcome *outcomes)
{
	LimitVersion version = limit_version();
	RelationSet *set = begin_call(request->dry_run);
	MemoryContext old = MemoryContextSwitchTo(relations_context(set));

	post_one(set, request, version, outcomes);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < Max(request->nitems, 1); i++)
		outcome_copy(&outcomes[i]);
	relations_end(set);
}

/* ---------------------------------------------------------------------------
 * Several requests in one call
 * ------------------------------------------------------------------------- */

/*
 * Lock all accounts of some requests in the one order, which a request alone
 * keeps to by itself.  They are read again by each request.
 */
static void
lock_all(RelationSet *set, Posting *posting)
{
	bool		unchanged = true;

	for (int tries = 0; tries < MAX_TRIES; tries++)
	{
		bool		lost = false;

		CHECK_FOR_INTERRUPTS();
		relation_slots_release(set);
		lost = !read_charges(posting);
		for (int i = 0; i < posting->ncharges && !lost; i++)
			lost = !lock_charge(posting, &posting->charges[i], &unchanged);
		relations_refresh(set);
		posting->limits_version = limit_version();
		if (!lost)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not lock the accounts of the requests in %d tries", MAX_TRIES),
			 errhint("Retry the transaction.")));
}

/*
 * Lock the accounts of some subjects on a metric, creating them if need be, so
 * that nobody else moves anything there until the transaction ends.  Raises
 * 40001 where the caller's snapshot rules and one was changed since.
 */
void
post_lock(const pg_uuid_t *user_ids, int n, const char *metric)
{
	RelationSet *set = begin_call(false);
	MemoryContext old = MemoryContextSwitchTo(relations_context(set));
	RequestItem *items = palloc0((n + 1) * sizeof(RequestItem));
	Request		request = {.kind = REQUEST_TIDY, .items = items, .nitems = 0};
	Posting		posting = {.request = &request, .set = set, .now = DT_NOBEGIN};

	for (int i = 0; i < n; i++)
	{
		bool		known = false;

		for (int j = 0; j < request.nitems && !known; j++)
			known = memcmp(&items[j].user_id, &user_ids[i], UUID_LEN) == 0;
		if (known)
			continue;
		items[request.nitems].user_id = user_ids[i];
		items[request.nitems++].metric = pstrdup(metric);
	}
	posting.view = guc_caller_snapshot_rules() ? VIEW_CALLER : VIEW_LATEST;
	posting.limits_version = limit_version();
	prepare_items(&posting);
	if (request.nitems > 0)
		lock_all(set, &posting);
	MemoryContextSwitchTo(old);
	relations_end(set);
}

static int
compare_items(const RequestItem *x, const RequestItem *y)
{
	int			c = memcmp(&x->user_id, &y->user_id, UUID_LEN);

	return c != 0 ? c : strcmp(x->metric, y->metric);
}

/* Requests of one subject and metric stay in their order */
static int
compare_requests(const void *a, const void *b)
{
	const Request *x = *(const Request *const *) a;
	const Request *y = *(const Request *const *) b;
	int			c = compare_items(x->items, y->items);

	return c != 0 ? c : (x > y) - (x < y);
}

/* Lock what the requests of subjects with parents charge, in the one order */
static void
lock_batch(RelationSet *set, const Request *requests, int n)
{
	RequestItem *items = palloc(n * sizeof(RequestItem));
	Request		request = {.kind = REQUEST_CONSUME, .items = items};
	Posting		posting = {.request = &request, .set = set, .now = DT_NOBEGIN};
	const Request **sorted = palloc(n * sizeof(Request *));

	for (int i = 0; i < n; i++)
		sorted[i] = &requests[i];
	qsort(sorted, n, sizeof(Request *), compare_requests);
	for (int i = 0; i < n; i++)
		if (request.nitems == 0 || compare_items(&items[request.nitems - 1], sorted[i]->items) != 0)
			items[request.nitems++] = sorted[i]->items[0];
	posting.view = guc_caller_snapshot_rules() ? VIEW_CALLER : VIEW_LATEST;
	posting.limits_version = limit_version();
	posting.metrics = palloc(request.nitems * sizeof(char *));
	for (int i = 0; i < request.nitems; i++)
		posting.metrics[i] = items[i].metric;
	lock_all(set, &posting);
}

static bool
any_parent(RelationSet *set, const Request *requests, int n)
{
	pg_uuid_t	parent;

	for (int i = 0; i < n; i++)
		if (limit_parent(set, &requests[i].items[0].user_id, &parent))
			return true;
	return false;
}

/*
 * Independent requests of one item each: outcomes[i] answers requests[i].  As
 * post(), with the tables opened once.
 *
 * Accounts are locked in the one order.  Where no subject has a parent,
 * requests of different subjects have nothing in common, so they are made in
 * that order; else all accounts are locked first, and the requests made in
 * theirs.
 */
void
post_batch(const Request *requests, int n, Outcome *outcomes)
{
	RelationSet *set = begin_call(false);
	MemoryContext old = MemoryContextSwitchTo(relations_context(set));
	MemoryContext each = AllocSetContextCreate(CurrentMemoryContext, "quota request",
											   ALLOCSET_DEFAULT_SIZES);
	const Request **order = palloc((n + 1) * sizeof(Request *));

	for (int i = 0; i < n; i++)
	{
		requests[i].items[0].metric = limit_metric_name(requests[i].items[0].metric);
		order[i] = &requests[i];
	}
	if (n > 0 && any_parent(set, requests, n))
		lock_batch(set, requests, n);
	else
		qsort(order, n, sizeof(Request *), compare_requests);

	for (int i = 0; i < n; i++)
	{
		LimitVersion version = limit_version();
		Outcome    *outcome = &outcomes[order[i] - requests];

		CHECK_FOR_INTERRUPTS();
		relations_refresh(set);
		MemoryContextSwitchTo(each);
		post_one(set, order[i], version, outcome);
		MemoryContextSwitchTo(old);
		(void) outcome_get_datum(outcome);
		outcome_copy(outcome);
		MemoryContextReset(each);
	}
	relations_end(set);
}
