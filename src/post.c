/*-------------------------------------------------------------------------
 *
 * post.c
 *	  The engine: decides a request and records it.
 *
 *	resolve limits -> read accounts -> time -> roll periods -> replay probe
 *	-> bonuses -> DECIDE -> lock -> write -> outcome
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
 * This is exact because every grant changes an account of its subject and
 * metric: as long as the accounts are unchanged, no other call has moved
 * quota, taken from a bonus or used a key in between.
 *
 * If limits change while a call waits, the second try can need an account that
 * comes before one that the first try has locked.  Waiting for it could be a
 * deadlock, so if another call holds it, this one gives up with 40001.
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

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "audit.h"
#include "guc.h"
#include "id.h"
#include "ledger.h"
#include "post.h"

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

/*
 * What happens after a thousand years is not looked for; periods of that time
 * may not end before time does.
 */
#define LOOK_AHEAD_MAX	(INT64CONST(365250) * USECS_PER_DAY)

/* One call of post(), over all its tries */
typedef struct Posting
{
	const Request *request;
	const KeyHash *key;			/* NULL: none was given */
	char	   *metric;			/* aliases resolved */
	RelationSet *set;
	RelationView view;			/* of accounts and bonuses */
	Charge		charge;
	List	   *held;			/* period names of the accounts that are locked */
	bool		waited;			/* met another call on the same account */
	LimitVersion limits_version;	/* before the snapshot was taken */
	int			tries;			/* that were in vain */
} Posting;

/*
 * Read the limits and accounts of a charge and settle the time of the
 * decision.  Returns false if an override expired meanwhile: the caller tries
 * again with not_before = charge->now.  The charge is zeroed, or has been read
 * before, and then lends its slots.
 */
static bool
charge_read(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
			RelationView view, TimestampTz not_before, Charge *charge)
{
	LimitSet   *limits = &charge->limits;
	Account    *before = charge->accounts;
	int			nbefore = charge->limits.nlimits;

	memset(charge, 0, sizeof(*charge));
	limit_resolve(set, user_id, metric, Max(clock_now(), not_before), limits);

	charge->accounts = palloc0((limits->nlimits + 1) * sizeof(Account));
	for (int i = 0; i < limits->nlimits; i++)
	{
		charge->accounts[i].slot = i < nbefore ? before[i].slot : NULL;
		account_read(set, limits, &limits->limits[i], view, &charge->accounts[i]);
	}

	charge->now = Max(clock_now(), not_before);
	for (int i = 0; i < limits->nlimits; i++)
		if (charge->accounts[i].exists)
			charge->now = Max(charge->now, charge->accounts[i].current.start);
	if (charge->now >= limits->valid_until)
		return false;

	for (int i = 0; i < limits->nlimits; i++)
		account_roll(&charge->accounts[i], charge->now);
	return true;
}

/*
 * Read a charge as of a time, or of the first one after it at which no
 * override expires while it is read.  Takes a charge as charge_read() does.
 */
void
charge_read_as_of(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
				  RelationView view, TimestampTz at, Charge *charge)
{
	while (!charge_read(set, user_id, metric, view, at, charge))
	{
		CHECK_FOR_INTERRUPTS();
		at = charge->now;
	}
}

/* Read the bonuses of a charge that was read, and decide it */
void
charge_decide(RelationSet *set, Charge *charge, Amount amount, RelationView view)
{
	LimitSet   *limits = &charge->limits;
	DecisionInput in;

	charge->states = palloc((limits->nlimits + 1) * sizeof(WindowState));
	for (int i = 0; i < limits->nlimits; i++)
		account_state(&charge->accounts[i], &charge->states[i]);

	memset(&charge->bonuses, 0, sizeof(BonusSet));
	if (limits->nlimits > 0)
		bonus_read(set, &limits->user_id, limits->metric, charge->now, view,
				   &charge->bonuses);

	in.amount = amount;
	in.now = charge->now;
	in.limits = charge->states;
	in.nlimits = limits->nlimits;
	in.allowance = limits->allowance;
	in.bonuses = charge->bonuses.bonuses;
	in.nbonuses = charge->bonuses.n;
	decide(&in, &charge->decision);
}

/*
 * Let SERIALIZABLE know what the answer rests on, where it is what the
 * caller's snapshot sees.  A grant writes its accounts and the bonuses that
 * pay, and whoever changes them at the same time meets that; unless a
 * savepoint can undo it, because then the caller has still seen the answer.
 */
void
charge_register(RelationSet *set, const Charge *charge, bool writes)
{
	bool		all = !writes || GetCurrentTransactionNestLevel() > 1;

	if (!guc_registers_reads())
		return;
	for (int i = 0; all && i < charge->limits.nlimits; i++)
		account_register(set, &charge->accounts[i]);
	bonus_register(set, &charge->bonuses, all);
}

/*
 * When a denied request would be granted by waiting alone: microseconds, or
 * DECISION_NEVER.  The decision knows the limits of now; where an override
 * ends before that, the request is decided again as of then.
 */
static int64
charge_retry_after(RelationSet *set, const Charge *charge, Amount amount,
				   RelationView view)
{
	MemoryContext contexts[2] = {NULL, NULL};
	MemoryContext old = CurrentMemoryContext;
	Charge		later = {0};
	const Charge *c = charge;
	int64		wait = charge->decision.retry_after;

	for (int i = 0;; i = 1 - i)
	{
		TimestampTz at = c->limits.valid_until;

		if (at == DT_NOEND || at - charge->now > LOOK_AHEAD_MAX ||
			(wait != DECISION_NEVER && c->now + wait < at))
			break;

		/* what was read before is needed to read the next, and no longer */
		if (contexts[i])
			MemoryContextReset(contexts[i]);
		else
			contexts[i] = AllocSetContextCreate(old, "quota look-ahead",
												ALLOCSET_SMALL_SIZES);
		MemoryContextSwitchTo(contexts[i]);
		charge_read_as_of(set, &charge->limits.user_id, charge->limits.metric,
						  view, at, &later);
		charge_decide(set, &later, amount, view);
		CHECK_FOR_INTERRUPTS();
		c = &later;
		wait = c->decision.allowed ? 0 : c->decision.retry_after;
	}
	MemoryContextSwitchTo(old);
	return wait == DECISION_NEVER ? DECISION_NEVER : c->now - charge->now + wait;
}

/* The answer that a decision gives, telling the state that "report" tells */
static void
charge_outcome(const Charge *charge, const LimitReport *report, Outcome *o)
{
	const Decision *d = &charge->decision;

	memset(o, 0, sizeof(*o));
	o->allowed = d->allowed;
	o->reason = decision_reason_name(d->reason);
	o->metric = charge->limits.metric;
	o->bonus_used = d->from_bonus;
	o->granted = d->from_allowance + d->from_bonus;
	o->binding_user_id = charge->limits.user_id;
	o->remaining = report->remaining;
	o->unlimited = report->unlimited;
	o->used = report->used;
	o->bonus_remaining = report->bonus_remaining;
	o->decided_at = charge->now;
	o->retry_after = d->retry_after;
	o->resets_at = DT_NOEND;
	o->no_limit = (report->binding < 0);
	if (!o->no_limit)
	{
		const Account *account = &charge->accounts[report->binding];

		o->limit_amount = account->limit->amount;
		o->period = account->limit->period_name;
		o->period_start = account->current.start;
		o->resets_at = account->current.end;
	}
}

/* Add to the accounts what the decision charges them */
static void
charge_apply(Charge *charge, Amount amount)
{
	for (int i = 0; i < charge->limits.nlimits; i++)
	{
		AccountPeriod *p = &charge->accounts[i].current;

		if (i == charge->limits.allowance)
		{
			p->used += charge->decision.from_allowance;
			p->bonus_used += charge->decision.from_bonus;
		}
		else
			p->used += amount;
	}
}

/* Does an account come before one that an earlier try has locked? */
static bool
out_of_order(const Posting *posting, const char *period)
{
	ListCell   *lc;
	bool		earlier = false;

	foreach(lc, posting->held)
	{
		int			c = strcmp(period, lfirst(lc));

		if (c == 0)
			return false;
		earlier |= (c < 0);
	}
	return earlier;
}

/*
 * Lock the accounts of a charge; true if all are locked and as they were read.
 * Otherwise the next try locks what is missing.
 */
static bool
charge_lock(Posting *posting)
{
	Charge	   *charge = &posting->charge;
	bool		unchanged = true;

	for (int i = 0; i < charge->limits.nlimits; i++)
	{
		Account    *account = &charge->accounts[i];
		const char *period = account->limit->period_name;
		AccountLock lock = account_lock(posting->set, account,
										!out_of_order(posting, period));

		if (lock == ACCOUNT_BUSY)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("the limits of metric \"%s\" changed while the call waited for another one",
							posting->metric),
					 errhint("Retry the transaction.")));
		posting->waited |= account->waited;
		if (lock == ACCOUNT_LOST)
			return false;
		posting->held = lappend(posting->held, pstrdup(period));
		if (lock != ACCOUNT_UNCHANGED)
			unchanged = false;
	}
	return unchanged;
}

/*
 * Write the accounts and bonuses of a granted charge.  Returns false, with
 * nothing written, if they are not as they were read; the next try finds them
 * locked, or locks them.
 */
static bool
charge_write(Posting *posting)
{
	Charge	   *charge = &posting->charge;

	if (!charge_lock(posting))
		return false;
	if (charge->decision.from_bonus > 0 &&
		!bonus_lock_and_take(posting->set, &charge->bonuses))
	{
		posting->waited = true;
		return false;
	}
	charge_apply(charge, posting->request->amount);
	for (int i = 0; i < charge->limits.nlimits; i++)
		account_write(posting->set, &charge->accounts[i], charge->now);
	return true;
}

/*
 * The answer for a key that was used before: the first answer again, or, if
 * the amount is another one, a conflict that tells the present state.
 */
static void
answer_again(Posting *posting, Amount first_amount, Outcome *outcome)
{
	Charge	   *charge = &posting->charge;

	if (first_amount == posting->request->amount)
	{
		outcome->already_processed = true;
		return;
	}
	charge_decide(posting->set, charge, posting->request->amount, posting->view);
	charge->decision.allowed = false;
	charge->decision.reason = REASON_IDEMPOTENCY_CONFLICT;
	charge->decision.from_bonus = 0;
	charge->decision.retry_after = DECISION_NEVER;
	charge_register(posting->set, charge, false);
	charge_outcome(charge, &charge->decision.before, outcome);
}

/* Record a request that was granted and written */
static void
record_grant(Posting *posting, Outcome *outcome)
{
	Charge	   *charge = &posting->charge;

	charge_outcome(charge, &charge->decision.after, outcome);
	outcome->has_event = true;
	id_generate(charge->now, &outcome->event_id);
	ledger_insert(posting->set, posting->request, &charge->limits, posting->key,
				  outcome, charge->now);
	bonus_record(posting->set, &charge->bonuses, &outcome->event_id);
}

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

/* Try once; returns false if everything has to be read and decided again */
static bool
try_post(Posting *posting, Outcome *outcome)
{
	RelationSet *set = posting->set;
	const Request *request = posting->request;
	Charge	   *charge = &posting->charge;
	Amount		first_amount;

	if (!charge_read(set, &request->user_id, posting->metric, posting->view,
					 charge->now, charge))
		return false;
	if (!request->dry_run && limits_moved(posting))
		return false;

	if (posting->key && ledger_find_key(set, posting->key, &first_amount, outcome))
		answer_again(posting, first_amount, outcome);
	else
	{
		bool		writes;

		charge_decide(set, charge, request->amount, posting->view);
		writes = charge->decision.allowed && !request->dry_run;
		charge_register(set, charge, writes);
		if (writes)
		{
			if (!charge_write(posting))
				return false;
			record_grant(posting, outcome);
		}
		else
		{
			if (!charge->decision.allowed)
				charge->decision.retry_after =
					charge_retry_after(set, charge, request->amount, posting->view);
			charge_outcome(charge, &charge->decision.before, outcome);
		}
	}

	if (!request->dry_run)
		audit_insert(set, request, outcome, posting->waited, charge->now);
	return true;
}

/*
 * Decide a request and, unless it is a dry run, record it in the caller's
 * transaction.  The caller has validated the request, and made sure that
 * writing is possible.  What the outcome points to is palloc'd in the current
 * context.
 *
 * Raises QU002 and QU003 for unknown names, and 40001 where the caller's
 * snapshot rules and another transaction was faster.
 */
void
post(const Request *request, Outcome *outcome)
{
	Posting		posting = {.request = request};
	MemoryContext old;
	KeyHash		key;

	posting.limits_version = limit_version();
	posting.set = relations_begin(!request->dry_run,
								  TABLE_BIT(TABLE_SUBSCRIPTIONS) |
								  TABLE_BIT(TABLE_USAGE_TRACKING) |
								  TABLE_BIT(TABLE_USER_BONUSES) |
								  TABLE_BIT(TABLE_USAGE_EVENTS) |
								  (limit_any_overrides() ? TABLE_BIT(TABLE_LIMIT_OVERRIDES) : 0));
	old = MemoryContextSwitchTo(relations_context(posting.set));
	posting.view = guc_caller_snapshot_rules() ? VIEW_CALLER : VIEW_LATEST;
	posting.metric = limit_metric_name(request->metric);
	posting.charge.now = DT_NOBEGIN;
	if (request->key)
	{
		ledger_hash_key(&request->user_id, posting.metric, request->key, &key);
		posting.key = &key;
	}

	while (!try_post(&posting, outcome))
	{
		CHECK_FOR_INTERRUPTS();
		if (++posting.tries >= MAX_TRIES)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not settle the accounts of metric \"%s\" in %d tries",
							posting.metric, MAX_TRIES),
					 errhint("Retry the transaction.")));
		posting.limits_version = limit_version();
		if (!request->dry_run)
			relations_refresh(posting.set);
	}

	MemoryContextSwitchTo(old);
	outcome_copy(outcome);
	relations_end(posting.set);
}
