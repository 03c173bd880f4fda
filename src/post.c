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

#include "guc.h"
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

	charges_find(posting);
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
 * The way of a request
 * ------------------------------------------------------------------------- */

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
		answer_audit(posting);
		return true;
	}

	verdict = movement_decide(posting);
	writes = verdict == VERDICT_GRANTED && !request->dry_run;
	for (int i = 0; i < posting->ncharges; i++)
		charge_register(posting->set, &posting->charges[i], writes);
	if (writes)
	{
		if (!posting_write(posting))
			return false;
		posting_record(posting);
	}
	else
		answer(posting, verdict);
	answer_audit(posting);
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
post_one(RelationSet *set, const Request *request, LimitVersion version,
		 HeldAccounts *held, List **created, Outcome *outcomes)
{
	Posting		posting = {.request = request, .set = set, .held = held,
	.created = created, .outcomes = outcomes};

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
	HeldAccounts held = {0};
	List	   *created = NIL;

	/*
	 * No act of an admin is a first use, from which periods may be counted;
	 * but one that ends a period has begun another one.
	 */
	post_one(set, request, version, &held,
			 request_is_admin_act(request) && request->kind != REQUEST_RESET ? &created : NULL,
			 outcomes);
	posting_delete_unused(set, created);
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
		charges_find(posting);
		for (int i = 0; i < posting->ncharges && !lost; i++)
		{
			Charge	   *charge = &posting->charges[i];

			/* requests have nothing to do with each other, nor have their times */
			lost = !charge_begin(set, charge, posting->view,
								 charge_time(charge, Max(clock_now(), posting->now))) ||
				!posting_lock_charge(posting, charge, &unchanged);
			if (lost)
				posting->now = Max(posting->now, clock_now());
		}
		posting_remember_held(posting);
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
 * that nobody else moves anything there until the transaction ends, and later
 * calls of the transaction find them locked whatever their order.  Raises
 * 40001 where the caller's snapshot rules and one was changed since.
 */
void
post_lock(const pg_uuid_t *user_ids, int n, const char *metric)
{
	RelationSet *set = begin_call(false);
	MemoryContext old = MemoryContextSwitchTo(relations_context(set));
	RequestItem *items = palloc0((n + 1) * sizeof(RequestItem));
	Request		request = {.kind = REQUEST_TIDY, .items = items, .nitems = 0};
	HeldAccounts held = {0};
	List	   *created = NIL;
	Posting		posting = {.request = &request, .set = set, .held = &held,
	.created = &created, .now = DT_NOBEGIN};

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
	/* whoever would create them waits for the transaction all the same */
	posting_delete_unused(set, created);
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
lock_batch(RelationSet *set, const Request *requests, int n, HeldAccounts *held,
		   List **created)
{
	RequestItem *items = palloc(n * sizeof(RequestItem));
	Request		request = {.kind = REQUEST_CONSUME, .items = items};
	Posting		posting = {.request = &request, .set = set, .held = held,
	.created = created, .now = DT_NOBEGIN};
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

/* Has a subject a parent?  The requests keep what was read to find out. */
static bool
any_parent(RelationSet *set, const Request *requests, int n)
{
	/* in most databases nobody has one */
	if (relation_index_is_empty(set, INDEX_SUBSCRIPTIONS_PARENT))
		return false;

	for (int i = 0; i < n; i++)
	{
		RequestItem *item = &requests[i].items[0];
		const Subscription *subscription = limit_subscription(set, &item->user_id);

		item->subscription = subscription;
		if (subscription->has_parent)
			return true;
	}
	return false;
}

/*
 * Independent requests of one item each: outcomes[i] answers requests[i].  As
 * post(), with the tables opened once.
 *
 * Accounts are locked in the one order.  Where no subject has a parent,
 * requests of different subjects have nothing in common, so they are made in
 * that order; else all accounts are locked first, and the requests made in
 * theirs.  First uses create them then, and those that stay unused go again.
 */
void
post_batch(const Request *requests, int n, Outcome *outcomes)
{
	LimitVersion version = limit_version();
	RelationSet *set = begin_call(false);
	MemoryContext old = MemoryContextSwitchTo(relations_context(set));
	MemoryContext each = AllocSetContextCreate(CurrentMemoryContext, "quota request",
											   ALLOCSET_DEFAULT_SIZES);
	const Request **order = palloc((n + 1) * sizeof(Request *));
	HeldAccounts held = {.of_batch = true};
	bool		parents;
	List	   *created = NIL;

	for (int i = 0; i < n; i++)
	{
		requests[i].items[0].metric = limit_metric_name(requests[i].items[0].metric);
		order[i] = &requests[i];
	}
	parents = n > 0 && any_parent(set, requests, n);
	if (parents)
		lock_batch(set, requests, n, &held, &created);
	else
		qsort(order, n, sizeof(Request *), compare_requests);
	relation_begin_batch(set);
	MemoryContextSwitchTo(old);

	for (int i = 0; i < n; i++)
	{
		Outcome    *outcome = &outcomes[order[i] - requests];

		CHECK_FOR_INTERRUPTS();
		/* see what the request before has written, where this one may meet it */
		if (parents || (i > 0 && compare_items(order[i - 1]->items, order[i]->items) == 0))
		{
			version = limit_version();
			relations_refresh(set);
		}
		MemoryContextSwitchTo(each);
		post_one(set, order[i], version, &held, NULL, outcome);
		MemoryContextSwitchTo(old);
		(void) outcome_get_datum(outcome);
		outcome_copy(outcome);
		MemoryContextReset(each);
	}
	posting_delete_unused(set, created);
	relations_end(set);
}
