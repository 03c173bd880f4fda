/*-------------------------------------------------------------------------
 *
 * rate.h
 *	  Windows that do not start again at once: gcra and sliding.
 *
 * gcra: a bucket that a request fills and that drains evenly, "limit" units in
 * "length".  A request fits if the bucket does not overflow "burst".  So any
 * span of time t sees at most burst + limit * t / length units.
 *
 * sliding: no window (t - length, t] ever holds more than "limit" units.  Units
 * are counted by slots of a sixtieth of the length (a second of a minute, a
 * minute of an hour); a slot counts until every unit that may be in it has left
 * the window.  So what was used is free again after the length at the earliest
 * and one slot later at the latest: room is told too small at times, never too
 * large.
 *
 * Units of measure: amounts are millionths (amount.h), limit and burst from 0
 * to below AMOUNT_BOUND.  Times and lengths are microseconds; a length is above
 * 0 and at most 2^60.  A limit of 0 never has room.  All answers are exact;
 * where they cannot be told in whole millionths or microseconds, less room is
 * told, and a later time.  Nothing here fails.
 *
 * Time never runs backwards: what is asked about a time before that of the state
 * is answered as of the state's.
 *
 * Room only grows until somebody adds units.  So a request that several windows
 * must admit fits at the latest of the times at which each admits it, and
 * units that are held elsewhere can be asked for together with those that are
 * requested.
 *
 * The limit, the burst, the length and the kind may change from one call to the
 * next:
 *	- The time since the state's counts as if the new limit had been in force
 *	  since then.  Before, it was the old one, and stays that.
 *	- What was used stays used; where the new limit is below that, there is
 *	  no room until enough of it is gone.
 *	- Units of a sliding window count for the new length from the latest time that
 *	  they can have.  Those that had left the old window are forgotten, also by
 *	  a longer one.
 *	- Where the kind changes, all that the old one counts as used at the time of
 *	  the state counts as used just then.
 *
 * Caller's duties: the state is part of the account, to be changed under its
 * lock only, and written where it has changed.  It starts as all zeros, and has
 * to be emptied while the window is of no kind that is kept here.
 *
 * Pure: knows nothing of PostgreSQL; test/unit compares it with brute force.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_RATE_H
#define QUOTA_RATE_H

#include "amount.h"

/* a time that never comes; equal to DECISION_NEVER */
#define RATE_NEVER			INT64_MAX

/* the first time that is too late for a timestamp of PostgreSQL; is never, too */
#define RATE_TIME_BOUND		INT64_C(9223371331200000000)

/*
 * Sixty slots divide minutes, hours and days into whole seconds, and are one in
 * a minute's window of sixty requests.  One more, because a window that begins
 * within a slot also ends within one.
 */
#define RATE_DIVISIONS		60
#define RATE_SLOTS			(RATE_DIVISIONS + 1)

/* No more than 10^26 units are counted: 10^8 times the largest limit */
#define RATE_MOST			(AMOUNT_BOUND * 100000000)

typedef enum RateKind
{
	RATE_NONE,					/* of a state: nothing was ever used */
	RATE_GCRA,
	RATE_SLIDING
} RateKind;

/* What was used, as of an instant; all zeros = nothing yet */
typedef struct RateState
{
	RateKind	kind;
	int64_t		at;				/* the instant */
	int64_t		since;			/* units from before this cannot be told apart
								 * from others any more */
	int64_t		length;			/* of the window when it was written */

	/* RATE_GCRA: the bucket holds level + part / length millionths */
	Amount		limit;			/* per length, when it was written */
	Amount		level;
	int64_t		part;			/* 0 <= part < length */

	/* RATE_SLIDING: units by slot, the first one is that of "at" */
	Amount		slots[RATE_SLOTS];
} RateState;

/* One limit and what was used of it */
typedef struct RateWindow
{
	RateKind	kind;			/* not RATE_NONE */
	Amount		limit;			/* units in "length" */
	Amount		burst;			/* RATE_GCRA: units that may come at once */
	int64_t		length;
	RateState  *state;			/* changed by rate_add() and rate_take_back() only */
} RateWindow;

extern Amount rate_capacity(const RateWindow *w);
extern Amount rate_used_at(const RateWindow *w, int64_t now);
extern Amount rate_room_at(const RateWindow *w, int64_t now);
extern int64_t rate_free_at(const RateWindow *w, Amount amount, int64_t now);
extern int64_t rate_empty_at(const RateWindow *w, int64_t now);

extern void rate_add(const RateWindow *w, Amount amount, int64_t when, int64_t now);
extern void rate_take_back(const RateWindow *w, Amount amount, Amount whole,
						   int64_t when, int64_t now);

/*
 * A state as numbers for a table, next to its "at": the kind, since, length, and
 * then limit, level, part or the slots, newest first.  All are Amounts, so a
 * table shows units, and seconds where a number is a time.  Zeros at the end
 * are left out.
 */
#define RATE_NUMBERS		(3 + RATE_SLOTS)

extern int	rate_store(const RateState *state, Amount *numbers);
extern bool rate_load(const Amount *numbers, int n, int64_t at, RateState *state);

#endif							/* QUOTA_RATE_H */
