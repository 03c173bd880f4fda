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

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "hold.h"
#include "id.h"
#include "posting.h"

/* ---------------------------------------------------------------------------
 * The accounts that a call has locked
 * ------------------------------------------------------------------------- */

/* The name of an account, packed so that names compare as accounts are ordered */
typedef struct AccountName
{
	int			len;
	char		bytes[FLEXIBLE_ARRAY_MEMBER];
} AccountName;

static AccountName *
account_name(const Account *account)
{
	const LimitSet *limits = account->limits;
	int			metric = strlen(limits->metric) + 1;
	int			period = strlen(account->limit->period_name) + 1;
	AccountName *name = palloc(offsetof(AccountName, bytes) + UUID_LEN + metric + period);

	name->len = UUID_LEN + metric + period;
	memcpy(name->bytes, limits->user_id.data, UUID_LEN);
	memcpy(name->bytes + UUID_LEN, limits->metric, metric);
	memcpy(name->bytes + UUID_LEN + metric, account->limit->period_name, period);
	return name;
}

/* The zero after each part is less than whatever a longer part goes on with */
static int
compare_names(const AccountName *a, const AccountName *b)
{
	int			c = memcmp(a->bytes, b->bytes, Min(a->len, b->len));

	return c != 0 ? c : a->len - b->len;
}

static uint64
hash_name(const AccountName *name)
{
	return hash_bytes_extended((const unsigned char *) name->bytes, name->len, 0);
}

/* Does an account come before one that is locked, and is not locked itself? */
static bool
out_of_order(const HeldAccounts *held, const Account *account)
{
	AccountName *name;
	uint64		hash;

	if (held->greatest == NULL)
		return false;
	name = account_name(account);
	if (compare_names(name, held->greatest) >= 0)
		return false;
	hash = hash_name(name);
	return hash_search(held->hashes, &hash, HASH_FIND, NULL) == NULL;
}

static void
remember_held(Posting *posting, const Account *account)
{
	HeldAccounts *held = posting->held;
	MemoryContext old = MemoryContextSwitchTo(relations_context(posting->set));
	AccountName *name = account_name(account);
	uint64		hash = hash_name(name);

	if (held->hashes == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(uint64), .entrysize = sizeof(uint64),
		.hcxt = CurrentMemoryContext};

		held->hashes = hash_create("quota held accounts", 16, &ctl,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(held->hashes, &hash, HASH_ENTER, NULL);
	if (held->greatest == NULL || compare_names(name, held->greatest) > 0)
		held->greatest = name;
	MemoryContextSwitchTo(old);
}

/* ---------------------------------------------------------------------------
 * Locking and writing
 * ------------------------------------------------------------------------- */

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

/* An account that was created to be locked */
typedef struct CreatedAccount
{
	pg_uuid_t	user_id;
	char	   *metric;
	char	   *period;
} CreatedAccount;

static void
remember_created(Posting *posting, const Account *account)
{
	MemoryContext old = MemoryContextSwitchTo(relations_context(posting->set));
	CreatedAccount *created = palloc(sizeof(CreatedAccount));

	created->user_id = account->limits->user_id;
	created->metric = pstrdup(account->limits->metric);
	created->period = pstrdup(account->limit->period_name);
	*posting->created = lappend(*posting->created, created);
	MemoryContextSwitchTo(old);
}

/*
 * Delete what was created to be locked, and was then not used: a denial leaves
 * no account, nor the beginning of its first period
 */
void
posting_delete_unused(RelationSet *set, List *created)
{
	ListCell   *lc;

	if (created != NIL)
		relations_refresh(set);
	foreach(lc, created)
	{
		const CreatedAccount *c = lfirst(lc);

		account_delete_unused(set, &c->user_id, c->metric, c->period);
	}
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
		lock = account_lock(posting->set, account, !out_of_order(posting->held, account));
		if (lock == ACCOUNT_BUSY)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("the limits of metric \"%s\" changed while the call waited for another one",
							charge->metric),
					 errhint("Retry the transaction.")));
		posting->waited |= account->waited;
		if (lock == ACCOUNT_LOST)
			return false;
		account->locked = true;
		if (lock == ACCOUNT_CREATED && posting->created)
			remember_created(posting, account);
		if (lock != ACCOUNT_UNCHANGED)
			*unchanged = false;
	}
	return true;
}

/*
 * Remember what is locked, for the next try and the next request of the call.
 * Most calls need neither.
 */
void
posting_remember_held(Posting *posting)
{
	for (int i = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		for (int a = 0; a < charge->naccounts; a++)
			if (charge->accounts[a]->locked)
				remember_held(posting, charge->accounts[a]);
	}
}

static bool
lock_accounts(Posting *posting)
{
	bool		unchanged = true;

	for (int i = 0; i < posting->ncharges; i++)
		if (!posting->charges[i].idle &&
			!posting_lock_charge(posting, &posting->charges[i], &unchanged))
			return false;
	return unchanged;
}

/* Lock what is to be written; true if all of it is as it was read */
static bool
lock_rows(Posting *posting)
{
	bool		unchanged = lock_accounts(posting);

	for (int i = 0; unchanged && i < posting->ncharges; i++)
	{
		if (bonus_lock(posting->set, &posting->charges[i].bonuses))
			continue;
		posting->waited = true;
		unchanged = false;
	}
	if (!unchanged || posting->held->of_batch)
		posting_remember_held(posting);
	return unchanged;
}

static bool
is_written(const Charge *charge)
{
	return !charge->idle && (charge->event || charge_windows(charge) > 0);
}

/* Let the accounts know what moves, and until when nothing lapses */
static void
apply(Posting *posting, Charge *charge)
{
	const Request *request = posting->request;

	if (charge->event)
		charge_move(posting->set, charge, posting->view, charge->event, &charge->moved, false);
	/* an admin's act concerns the allowance alone */
	else if (request->kind != REQUEST_RESET && request->kind != REQUEST_TIDY)
		charge_move_present(charge, request_is_admin_act(request));

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
		/* a bonus that is due is given once, which the account sees to */
		if (posting->created && bonus_any_due(&charge->bonuses))
			*posting->created = NIL;
		bonus_write(posting->set, &charge->bonuses, &charge->user_id, charge->metric);
		/* what rolls over is written together with the end of the period */
		for (int a = 0; a < charge_windows(charge) && bonus_any_due(&charge->bonuses); a++)
			charge->accounts[a]->changed |= charge->accounts[a]->closing;
		for (int a = 0; a < charge->naccounts; a++)
			account_write(posting->set, charge->accounts[a], charge->now);
	}
	return true;
}

/* ---------------------------------------------------------------------------
 * Recording
 * ------------------------------------------------------------------------- */

/* Those of an event's windows that what undoes it has moved units in */
static List *
counted_windows(const Charge *charge, List *windows)
{
	List	   *counted = NIL;
	ListCell   *lc;

	foreach(lc, windows)
	{
		bool		left_out = false;

		for (int i = 0; i < charge->naccounts; i++)
			if (strcmp(charge->accounts[i]->limit->period_name, lfirst(lc)) == 0)
				left_out = charge->accounts[i]->left_out;
		if (!left_out)
			counted = lappend(counted, lfirst(lc));
	}
	return counted;
}

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
	/* what the caller asked for, which may be more than there was, or than moves */
	event.requested = request->kind == REQUEST_CONSUME && main == NULL ?
		request->items[charge->item].amount : charge->amount;
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
		event.rate_periods = counted_windows(charge, charge->event->rate_periods);
		event.effective_at = charge->event->effective_at;
		event.has_refers_to = true;
		event.refers_to = charge->event->id;
	}
	else
	{
		event.period = charge_allowance(charge)->limit->period_name;
		for (int i = 0; i < charge_windows(charge) && !request_is_admin_act(request); i++)
			if (i != charge->limits.allowance && !charge->accounts[i]->left_out)
				event.rate_periods = lappend(event.rate_periods,
											 pstrdup(charge->accounts[i]->limit->period_name));
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
	bool		decided = request->kind == REQUEST_CONSUME || request->kind == REQUEST_RESERVE;
	bool		repeatable = request->kind == REQUEST_SETTLE || request->kind == REQUEST_CANCEL;
	const KeyHash *key = !request_is_of_event(request) && request->items[item].key ?
		&posting->keys[item] : NULL;

	for (int i = 0; i < posting->ncharges; i++)
		if (posting->charges[i].item == item &&
			(!decided || posting->charges[i].amount < 0))
			charge_report(&posting->charges[i]);
	answer_grant(posting, item, true, outcome);
	if (main == NULL || main->idle || !leaves_event(request))
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
