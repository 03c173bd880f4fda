/*-------------------------------------------------------------------------
 *
 * charge.c
 *	  A charge: the accounts of one subject and metric that a request moves.
 *
 * Reads what a decision on them needs, as it would be at one instant: periods
 * that have ended are rolled, holds that have lapsed are taken off, all of it
 * in memory.  Knows nothing of locks: post.c has the rows locked and written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "charge.h"
#include "due.h"
#include "errors.h"
#include "guc.h"
#include "hold.h"

/* ---------------------------------------------------------------------------
 * Reading
 * ------------------------------------------------------------------------- */

static Account *
add_account(RelationSet *set, Charge *charge, RelationView view, const QuotaLimit *limit)
{
	Account    *account = palloc(sizeof(Account));

	account_read(set, &charge->limits, limit, view, account);
	charge->accounts[charge->naccounts++] = account;
	return account;
}

/*
 * Read the limits of a charge, as they are at "at" or now, and its accounts.
 * The caller has set user_id and metric.  "known" is the subject's subscription,
 * if the call has read it already, or NULL.  charge_begin() comes next.
 */
void
charge_open(RelationSet *set, Charge *charge, RelationView view, TimestampTz at,
			const Subscription *known)
{
	LimitSet   *limits = &charge->limits;

	limit_resolve(set, &charge->user_id, charge->metric, Max(clock_now(), at), known, limits);
	charge->naccounts = 0;
	charge->accounts = palloc((limits->nlimits + 1) * sizeof(Account *));
	for (int i = 0; i < limits->nlimits; i++)
		add_account(set, charge, view, &limits->limits[i]);
}

/* "at", or the start of a period that one of the accounts has reached already */
TimestampTz
charge_time(const Charge *charge, TimestampTz at)
{
	for (int i = 0; i < charge->naccounts; i++)
		if (charge->accounts[i]->exists)
			at = Max(at, charge->accounts[i]->current.start);
	return at;
}

/*
 * The account of a window, which need not be one that is limited now: then it
 * is read, and not rolled, because nobody knows its periods any more.
 */
Account *
charge_account(RelationSet *set, Charge *charge, RelationView view, const char *period)
{
	QuotaLimit *limit;

	for (int i = 0; i < charge->naccounts; i++)
		if (strcmp(charge->accounts[i]->limit->period_name, period) == 0)
			return charge->accounts[i];

	limit = palloc0(sizeof(QuotaLimit));
	if (!period_parse(period, &limit->period))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("an event of \"%s\" has an unknown period \"%s\"", charge->metric, period),
				 errhint("Correct the row of quota.usage_events.")));
	strlcpy(limit->period_name, period, PERIOD_NAMELEN);
	limit->unlimited = true;
	charge->accounts = repalloc(charge->accounts, (charge->naccounts + 1) * sizeof(Account *));
	return add_account(set, charge, view, limit);
}

/*
 * Have the accounts of a gauge that is not limited any more, if units of it are
 * in use: what was acquired can be given back all the same
 */
void
charge_adopt(RelationSet *set, Charge *charge, RelationView view)
{
	List	   *windows = account_windows(set, &charge->limits, view);
	Parts		parts = {0};
	ListCell   *lc;

	foreach(lc, windows)
		(void) charge_account(set, charge, view, lfirst(lc));
	for (int i = 1; i < charge->naccounts; i++)
		if (period_length(&charge->accounts[i]->limit->period) >
			period_length(&charge->accounts[charge->limits.allowance]->limit->period))
			charge->limits.allowance = i;
	if (charge->naccounts > 0)
		account_parts(&charge_allowance(charge)->current, &parts);
	charge->adopted = parts_total(&parts) > 0;
	if (!charge->adopted)
		charge->naccounts = 0;
}

static void
move_window(RelationSet *set, Charge *charge, RelationView view, const char *window,
			bool allowance, TimestampTz at, const Movement *moved, bool may_be_gone)
{
	Account    *account = charge_account(set, charge, view, window);
	AccountPeriod *p = account_period_at(set, account, view, at);

	/* a window that has counted less than goes back has not counted these units */
	if (p != NULL && !allowance && p->used + parts_total(&moved->used) < 0)
		account->left_out = true;
	if (account->left_out || (p == NULL && may_be_gone))
		return;
	if (p == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_QUOTA_UNKNOWN_EVENT),
				 errmsg("the period that the event belongs to is not kept any more"),
				 errdetail("Metric \"%s\", period \"%s\" of %s.", charge->metric, window,
						   timestamptz_to_str(at)),
				 errhint("Use adjust_usage to correct the current period.")));
	account_move(account, p, allowance, moved);
	account_move_rate(account, allowance ? moved->used.allowance : parts_total(&moved->used),
					  allowance ? charge->whole.allowance : parts_total(&charge->whole),
					  at, charge->now);
}

/*
 * Move units in the windows and the periods that an event belongs to.  A
 * period that is not kept any more raises QU005, unless it "may be gone".
 */
void
charge_move(RelationSet *set, Charge *charge, RelationView view,
			const Event *event, const Movement *moved, bool may_be_gone)
{
	ListCell   *lc;

	move_window(set, charge, view, event->period, true, event->effective_at, moved,
				may_be_gone);
	foreach(lc, event->rate_periods)
		move_window(set, charge, view, lfirst(lc), false, event->effective_at, moved,
					may_be_gone);
}

/* Move units in the windows that are limited now, or in the allowance alone */
void
charge_move_present(Charge *charge, bool allowance_only)
{
	for (int i = 0; i < charge_windows(charge); i++)
	{
		Account    *account = charge->accounts[i];
		bool		allowance = i == charge->limits.allowance;
		Amount		amount = allowance ? charge->moved.used.allowance :
			parts_total(&charge->moved.used);

		if ((!allowance && allowance_only) || account->left_out)
			continue;
		account_move(account, &account->current, allowance, &charge->moved);
		account_move_rate(account, amount, -amount, charge->now, charge->now);
	}
}

/*
 * Find the holds that have lapsed.  The accounts know when the next one does.
 * After a change of plan these may be accounts of other windows, which matter
 * as long as a bonus tells that there are holds.
 */
static void
find_lapsed(RelationSet *set, Charge *charge, RelationView view)
{
	TimestampTz from = DT_NOEND;

	for (int i = 0; i < charge->naccounts; i++)
		from = Min(from, charge->accounts[i]->holds_expire_at);
	if (bonus_any_held(&charge->bonuses))
		from = Min(from, account_holds_expire_at(set, &charge->limits, view));
	if (from <= charge->now)
		charge->lapsed = hold_find_lapsed(set, &charge->user_id, charge->metric,
										  from, charge->now, view);
}

/* What a hold that ends gives back */
void
charge_negate_held(const Event *hold, Movement *moved)
{
	memset(moved, 0, sizeof(*moved));
	moved->held.allowance = -hold->moved.held.allowance;
	moved->held.bonus = -hold->moved.held.bonus;
	moved->held.overage = -hold->moved.held.overage;
	moved->held.cost = -hold->moved.held.cost;
}

/* Take lapsed holds off the accounts and bonuses */
static void
release_lapsed(RelationSet *set, Charge *charge, RelationView view)
{
	ListCell   *lc;

	foreach(lc, charge->lapsed)
	{
		const Event *hold = lfirst(lc);
		Movement	moved;

		charge_negate_held(hold, &moved);
		charge_move(set, charge, view, hold, &moved, true);
		for (int i = 0; i < hold->nlines; i++)
		{
			int			b = bonus_add(set, &hold->lines[i].bonus_id, charge->now,
									  view, &charge->bonuses);

			if (b < 0)
				continue;
			charge->bonuses.rows[b].lapsed += hold->lines[i].held;
			if (!charge->bonuses.rows[b].useless)
				charge->bonuses.bonuses[b].left += hold->lines[i].held;
		}
	}
}

static void
find_event_period(RelationSet *set, Charge *charge, RelationView view, const char *window)
{
	Account    *account = charge_account(set, charge, view, window);

	(void) account_period_at(set, account, view, charge->event->effective_at);
}

/*
 * Go to the time of the decision.  Returns false if the limits do not count
 * any more by then: the caller opens the charge again as of "now".
 */
bool
charge_begin(RelationSet *set, Charge *charge, RelationView view, TimestampTz now)
{
	LimitSet   *limits = &charge->limits;

	charge->now = now;
	charge->lapsed = NIL;
	if (now >= limits->valid_until)
		return false;
	for (int i = 0; i < limits->nlimits; i++)
		account_roll(charge->accounts[i], now);

	memset(&charge->bonuses, 0, sizeof(BonusSet));
	if (charge->event)
	{
		ListCell   *lc;

		/* what is found now is locked together with the accounts */
		find_event_period(set, charge, view, charge->event->period);
		foreach(lc, charge->event->rate_periods)
			find_event_period(set, charge, view, lfirst(lc));
	}
	if (limits->nlimits > 0 || charge->event || charge->adopted)
		bonus_read(set, &charge->user_id, charge->metric, now, view, &charge->bonuses);
	if (charge->naccounts > 0)
		find_lapsed(set, charge, view);
	due_bonuses(set, charge, view);
	if (charge->lapsed)
		release_lapsed(set, charge, view);
	return true;
}

/*
 * Read some charges as they are at one instant: "at", or the first one after it
 * at which none of their limits changes while they are read
 */
void
charge_read_as_of(RelationSet *set, Charge *charges, int n, RelationView view,
				  TimestampTz at)
{
	bool		begun = false;

	while (!begun)
	{
		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
			charge_open(set, &charges[i], view, at, NULL);
		at = Max(clock_now(), at);
		for (int i = 0; i < n; i++)
			at = charge_time(&charges[i], at);
		begun = true;
		for (int i = 0; i < n && begun; i++)
			begun = charge_begin(set, &charges[i], view, at);
	}
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
	for (int i = 0; all && i < charge->naccounts; i++)
		account_register(set, charge->accounts[i]);
	bonus_register(set, &charge->bonuses, all);
}

/* ---------------------------------------------------------------------------
 * Deciding
 * ------------------------------------------------------------------------- */

/* The account that bonuses extend; there are limits, or an event */
Account *
charge_allowance(const Charge *charge)
{
	return charge->accounts[charge->limits.allowance];
}

static void
set_input(Charge *charge, Amount amount, int nstates, int allowance)
{
	DecisionInput *in = &charge->input;

	in->amount = amount;
	in->now = charge->now;
	in->limits = charge->states;
	in->nlimits = nstates;
	in->allowance = allowance;
	in->bonuses = charge->bonuses.bonuses;
	in->nbonuses = charge->bonuses.n;
}

/* The limits of now, and the present periods */
static void
set_present(Charge *charge, Amount amount)
{
	int			n = charge->limits.nlimits;

	charge->states = palloc0((n + 1) * sizeof(WindowState));
	for (int i = 0; i < n; i++)
		account_state(charge->accounts[i], &charge->accounts[i]->current,
					  charge->now, &charge->states[i]);
	charge->state_accounts = charge->accounts;
	set_input(charge, amount, n, charge->limits.allowance);
}

/* Decide on a request of so many units; its result is in charge->decision */
void
charge_decide(Charge *charge, Amount amount)
{
	set_present(charge, amount);
	decide(&charge->input, &charge->decision);
}

/*
 * Decide on units beyond those that charge->event holds, in the windows and
 * periods that it was made in.  Where its allowance is not limited as such any
 * more, nothing more is granted.
 */
void
charge_decide_as_event(RelationSet *set, Charge *charge, RelationView view,
					   Amount amount)
{
	const Event *event = charge->event;
	int			n = 0;
	int			allowance = -1;

	charge->states = palloc0((charge->naccounts + 1) * sizeof(WindowState));
	charge->state_accounts = palloc0((charge->naccounts + 1) * sizeof(Account *));
	for (int i = 0; i < charge->limits.nlimits; i++)
	{
		Account    *account = charge->accounts[i];
		const char *window = account->limit->period_name;
		AccountPeriod *p;
		ListCell   *lc;
		bool		named = strcmp(window, event->period) == 0;

		if (named)
			allowance = n;
		foreach(lc, event->rate_periods)
			named |= strcmp(window, lfirst(lc)) == 0;
		if (!named)
			continue;
		p = account_period_at(set, account, view, event->effective_at);
		if (p == NULL)
			continue;
		account_state(account, p, charge->now, &charge->states[n]);
		/* a period that is over does not start again */
		if (p != &account->current)
			charge->states[n].resets_at = DECISION_NEVER;
		charge->state_accounts[n++] = account;
	}
	set_input(charge, amount, allowance < 0 ? 0 : n, Max(allowance, 0));
	decide(&charge->input, &charge->decision);
}

/* Report the state after what was moved, as it is at present */
void
charge_report(Charge *charge)
{
	set_present(charge, 0);
	for (int b = 0; b < charge->bonuses.n; b++)
	{
		BonusState *bonus = &charge->bonuses.bonuses[b];

		if (!charge->bonuses.rows[b].useless)
			bonus->left -= bonus->take + bonus->hold;
	}
	decision_report(&charge->input, &charge->decision.after);
	for (int b = 0; b < charge->bonuses.n; b++)
	{
		BonusState *bonus = &charge->bonuses.bonuses[b];

		if (!charge->bonuses.rows[b].useless)
			bonus->left += bonus->take + bonus->hold;
	}
}
