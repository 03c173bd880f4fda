/*-------------------------------------------------------------------------
 *
 * write.c
 *	  Locks, writes and records what a request moves.
 *
 * See post.c for why all this is exact.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "hold.h"
#include "id.h"
#include "posting.h"

/* An account that is locked; lives as long as the call */
typedef struct AccountName
{
	pg_uuid_t	user_id;
	char	   *metric;
	char	   *period;
} AccountName;

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
bool
posting_lock_charge(Posting *posting, const Charge *charge, bool *unchanged)
{
	Account   **accounts = accounts_to_lock(charge);

	for (int i = 0; i < charge->naccounts; i++)
	{
		Account    *account = accounts[i];
		AccountLock lock;

		/* what an event or hold names, and is gone, is not made again */
		if (!account->exists &&
			(charge->event || limit_find(&charge->limits, account->limit->period_name) == NULL))
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
		if (!posting_lock_charge(posting, &posting->charges[i], &unchanged))
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
bool
posting_write(Posting *posting)
{
	if (!lock_rows(posting))
		return false;
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		if (!is_written(charge))
			continue;
		apply(posting, charge);
		bonus_write(posting->set, &charge->bonuses, &charge->user_id, charge->metric);
		for (int a = 0; a < charge->naccounts; a++)
			account_write(posting->set, charge->accounts[a], charge->now);
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
	event.requested = request->up_to && main == NULL ? request->items[0].amount : charge->amount;
	event.key = key;
	event.outcome = outcome;
	event.metadata = request->metadata;
	event.created_at = event.effective_at = charge->now;
	event.expires_at = request->kind == REQUEST_RESERVE ? charge->now + request->ttl : DT_NOEND;
	event.has_refers_to = (main != NULL);
	if (main)
		event.refers_to = *main;
	if (charge->lines)
	{
		event.lines = charge->lines;
		event.nlines = charge->nlines;
	}
	else
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
	Charge	   *main = charges_main(posting, item);
	bool		decided = request->kind == REQUEST_CONSUME;
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

void
posting_record(Posting *posting)
{
	int			n = request_is_of_event(posting->request) ? 1 : posting->request->nitems;

	for (int i = 0; i < posting->ncharges; i++)
		if (posting->charges[i].lapsed)
			record_lapsed(posting, &posting->charges[i]);
	for (int i = 0; i < n; i++)
		record_item(posting, i, &posting->outcomes[i]);
}
