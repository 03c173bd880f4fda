/*-------------------------------------------------------------------------
 *
 * lookahead.c
 *	  When a denied item would be granted by waiting alone.
 *
 * A decision knows the limits, holds and bonuses of one instant.  Where one of
 * them ends, or a bonus becomes due, before the decision would be another one,
 * the item is read and decided again as of then.  All its levels are: one that
 * denies now may have no limits by then, and one without limits may have some.
 *
 * There may be thousands of holds, and each of them ends at a time of its own.
 * Until something else changes, or a bonus expires, room only grows, so that the
 * time from which on there is enough is found by bisection.
 *
 * Reads only, and knows nothing of locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "hold.h"
#include "posting.h"

/*
 * What happens after a thousand years is not looked for; periods of that time
 * may not end before time does.
 */
#define LOOK_AHEAD_MAX	(INT64CONST(365250) * USECS_PER_DAY)

/* So often a denial is decided again as of a later time */
#define LOOK_AHEAD_STEPS	1000

/* So many ends of periods at which something may roll over or be refilled */
#define LOOK_AHEAD_PERIODS	24

/* The levels of an item, decided as of one instant */
typedef struct Levels
{
	Charge	   *charges;
	int			n;
	MemoryContext context;		/* what was read, unless it is the posting's */
} Levels;

/*
 * When a charge may change by itself next, other than by the end of periods and
 * holds
 */
static TimestampTz
next_change(const Charge *charge, int step)
{
	TimestampTz at = charge->limits.valid_until;

	/* more may roll over or be refilled than a period gives, but not for ever */
	if (step < LOOK_AHEAD_PERIODS)
		at = Min(at, charge->next_due);
	if (step < LOOK_AHEAD_PERIODS && charge->limits.nlimits > 0 &&
		charge_allowance(charge)->limit->rollover.enabled)
		at = Min(at, charge_allowance(charge)->current.end);
	return at;
}

static bool
has_holds(const Charge *charge)
{
	for (int i = 0; i < charge->naccounts; i++)
		if (charge->accounts[i]->current.held > 0 ||
			charge->accounts[i]->current.held_cost > 0)
			return true;
	for (int b = 0; b < charge->bonuses.n; b++)
		if (charge->bonuses.rows[b].held > charge->bonuses.rows[b].lapsed)
			return true;
	return false;
}

/* What lies ahead of the levels of an item */
typedef struct Ahead
{
	TimestampTz change;			/* something changes, see next_change() */
	TimestampTz shrink;			/* a bonus expires */
	TimestampTz first_hold;		/* the next hold ends */
	TimestampTz last_hold;		/* none of the present ones holds any more */
} Ahead;

static void
look_ahead(Posting *posting, const Levels *levels, int step, Ahead *ahead)
{
	ahead->change = ahead->shrink = ahead->first_hold = DT_NOEND;
	ahead->last_hold = DT_NOBEGIN;
	for (int i = 0; i < levels->n; i++)
	{
		const Charge *c = &levels->charges[i];
		TimestampTz first;

		ahead->change = Min(ahead->change, next_change(c, step));
		for (int b = 0; b < c->bonuses.n; b++)
			if (c->bonuses.bonuses[b].expires_at > c->now)
				ahead->shrink = Min(ahead->shrink, c->bonuses.bonuses[b].expires_at);
		if (!has_holds(c))
			continue;
		first = hold_next_expiry(posting->set, &c->user_id, c->metric, c->now, posting->view);
		if (first == DT_NOEND)
			continue;
		ahead->first_hold = Min(ahead->first_hold, first);
		ahead->last_hold = Max(ahead->last_hold,
							   hold_last_expiry(posting->set, &c->user_id, c->metric,
												c->now, posting->view));
	}
	if (ahead->change != DT_NOEND && ahead->change - posting->now > LOOK_AHEAD_MAX)
		ahead->change = DT_NOEND;
}

/* Does a level have a say in whether units are granted? */
static bool
has_a_say(const Charge *charge)
{
	return charge->limits.nlimits > 0 && charge->amount >= 0 && !charge->idle;
}

/* When a level admits the request by itself, as far as it knows */
static TimestampTz
level_admitted_at(const Charge *charge)
{
	if (!has_a_say(charge) || charge->decision.allowed)
		return charge->now;
	return charge->decision.retry_after == DECISION_NEVER ? DECISION_NEVER :
		charge->now + charge->decision.retry_after;
}

/* When all levels together admit it, as far as they know */
static TimestampTz
admitted_at(const Levels *levels)
{
	TimestampTz at = DT_NOBEGIN;
	int			having_a_say = 0;
	bool		moved;

	for (int i = 0; i < levels->n; i++)
	{
		at = Max(at, level_admitted_at(&levels->charges[i]));
		having_a_say += has_a_say(&levels->charges[i]);
	}
	if (having_a_say == 0)
		return DECISION_NEVER;

	/* what admits it now may not do so any more by then */
	moved = having_a_say > 1;
	while (moved)
	{
		moved = false;
		for (int i = 0; i < levels->n && at != DECISION_NEVER; i++)
		{
			TimestampTz next = has_a_say(&levels->charges[i]) ?
			decision_admitted_at(&levels->charges[i].input, at) : at;

			moved |= next > at;
			at = next;
		}
		moved &= at != DECISION_NEVER;
	}
	return at;
}

/* The levels of an item as the posting has read and decided them */
static void
present_levels(const Posting *posting, int item, Levels *levels)
{
	levels->charges = palloc(posting->ncharges * sizeof(Charge));
	levels->n = 0;
	levels->context = NULL;
	for (int i = 0; i < posting->ncharges; i++)
		if (posting->charges[i].item == item)
			levels->charges[levels->n++] = posting->charges[i];
}

/* The same levels, read and decided as of another time */
static void
levels_as_of(Posting *posting, const Levels *from, TimestampTz at, Levels *levels)
{
	MemoryContext old = CurrentMemoryContext;

	/* what was read before is needed to read the next, and no longer */
	if (levels->context)
		MemoryContextReset(levels->context);
	else
		levels->context = AllocSetContextCreate(old, "quota look-ahead",
												ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(levels->context);
	levels->n = from->n;
	levels->charges = palloc0(from->n * sizeof(Charge));
	for (int i = 0; i < from->n; i++)
	{
		levels->charges[i].user_id = from->charges[i].user_id;
		levels->charges[i].metric = from->charges[i].metric;
		levels->charges[i].amount = from->charges[i].amount;
		levels->charges[i].idle = from->charges[i].idle;
	}
	charge_read_as_of(posting->set, levels->charges, levels->n, posting->view, at);
	for (int i = 0; i < levels->n; i++)
	{
		Charge	   *charge = &levels->charges[i];

		charge_decide(charge, from->charges[i].input.amount);
		for (int a = 0; a < charge->naccounts; a++)
			ExecClearTuple(charge->accounts[a]->slot);
	}
	MemoryContextSwitchTo(old);
}

/* Does a level admit the item at the time that it was read as of? */
static bool
level_admits(const Charge *charge)
{
	return level_admitted_at(charge) == charge->now;
}

/*
 * The first time from which on a level admits the item: after "lo", at which it
 * does not, and no later than "hi", at which it does.  Room only grows between
 * the two.
 */
static TimestampTz
level_first_admits(Posting *posting, Charge *charge, TimestampTz lo, TimestampTz hi,
				   Levels *probe)
{
	Levels		level = {.charges = charge, .n = 1};

	while (hi - lo > 1)
	{
		TimestampTz mid = lo + (hi - lo) / 2;

		levels_as_of(posting, &level, mid, probe);
		if (level_admits(probe->charges))
			hi = mid;
		else
		{
			lo = mid;
			hi = Min(hi, level_admitted_at(probe->charges));
		}
	}
	return hi;
}

/*
 * When a denied item would be granted by waiting alone: microseconds, or
 * DECISION_NEVER.  The decisions of its charges tell afterwards when each of
 * them would admit it, so that the one that takes longest can be named.
 */
int64
lookahead_retry_after(Posting *posting, int item)
{
	Levels		present;
	Levels		later[2] = {{0}};
	Levels		probe = {0};
	const Levels *levels = &present;
	TimestampTz *own;
	TimestampTz at;
	bool		one_by_one = false;

	present_levels(posting, item, &present);
	own = palloc(present.n * sizeof(TimestampTz));
	for (int i = 0; i < present.n; i++)
		own[i] = DECISION_NEVER;
	for (int step = 0;; step++)
	{
		Levels	   *next = &later[step % 2];
		TimestampTz now = levels->charges[0].now;
		Ahead		ahead;
		TimestampTz until;

		at = admitted_at(levels);
		look_ahead(posting, levels, step, &ahead);
		until = Min(ahead.change, ahead.first_hold);
		/* the first one that comes before the next change is it */
		for (int i = 0; i < levels->n; i++)
			if (own[i] == DECISION_NEVER && level_admitted_at(&levels->charges[i]) < until)
				own[i] = level_admitted_at(&levels->charges[i]);
		if (until == DT_NOEND || at < until || step == LOOK_AHEAD_STEPS)
			break;

		/* often it is the end of one hold that is waited for */
		one_by_one = !one_by_one;
		if (until == ahead.change || one_by_one ||
			Min(ahead.change, ahead.shrink) - 1 <= until)
		{
			levels_as_of(posting, levels, until, next);
			levels = next;
			continue;
		}
		/* holds end, and nothing else happens before "until" */
		until = Min(Min(ahead.change, ahead.shrink) - 1, ahead.last_hold);
		levels_as_of(posting, levels, until, next);
		at = now;
		for (int i = 0; i < levels->n; i++)
		{
			TimestampTz first = level_admits(&levels->charges[i]) ? now :
				!level_admits(&next->charges[i]) ? DECISION_NEVER :
				level_first_admits(posting, &next->charges[i], now, until, &probe);

			own[i] = Min(own[i], first);
			at = Max(at, first);
		}
		/* once a level admits it, it does so until then: the last one decides */
		if (at != DECISION_NEVER && admitted_at(next) != DECISION_NEVER)
			break;
		levels = next;
	}
	for (int i = 0, level = 0; i < posting->ncharges; i++)
	{
		Charge	   *charge = &posting->charges[i];

		if (charge->item != item)
			continue;
		charge->decision.retry_after = own[level] == DECISION_NEVER ? DECISION_NEVER :
			own[level] - posting->now;
		level++;
	}
	return at == DECISION_NEVER ? DECISION_NEVER : at - posting->now;
}
