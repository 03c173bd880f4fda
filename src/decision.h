/*-------------------------------------------------------------------------
 *
 * decision.h
 *	  The decision: a pure function of limits, usage, bonuses, request, time.
 *
 * Nothing here does I/O, allocates, reads a clock or knows of PostgreSQL, so
 * test/unit compiles it alone and compares it with brute force.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_DECISION_H
#define QUOTA_DECISION_H

#include "amount.h"
#include "rate.h"

/* a time that never comes, in microseconds; equal to PostgreSQL's infinity */
#define DECISION_NEVER		INT64_MAX

typedef enum DecisionReason
{
	REASON_OK,					/* granted from the allowance */
	REASON_BONUS,				/* granted, bonuses paid for some of it */
	REASON_OVERAGE,				/* granted, some of it has its price */
	REASON_SHADOW,				/* granted, a hard limit would have denied it */
	REASON_QUOTA_EXCEEDED,		/* denied, a window lacks room */
	REASON_SPEND_CAP,			/* denied, the overage would cost too much */
	REASON_NOT_IN_PLAN,			/* denied, the plan gives nothing of this */

	/* denied by the engine, never by decide() */
	REASON_IDEMPOTENCY_CONFLICT,	/* key reused with other arguments */
	REASON_RESERVATION_EXPIRED, /* resolved too late */
	REASON_OTHER_DENIED			/* had room, but goes with one that has not */
} DecisionReason;

/* What a limit does where it lacks room */
typedef enum LimitMode
{
	MODE_HARD,					/* deny */
	MODE_SOFT,					/* grant; the allowance at a price */
	MODE_SHADOW					/* grant, and tell */
} LimitMode;

/* Where units came from.  Also as differences: negative means given back. */
typedef struct Parts
{
	Amount		allowance;
	Amount		bonus;
	Amount		overage;
	Money		cost;			/* of the overage */
} Parts;

/* What one request moves in the account of the allowance */
typedef struct Movement
{
	Parts		used;
	Parts		held;
} Movement;

/* One limit and the state of its account in the current period */
typedef struct WindowState
{
	LimitMode	mode;
	bool		unlimited;
	Amount		limit;			/* ignored if unlimited; >= 0 */
	Amount		used;			/* >= 0 */
	Amount		held;			/* set aside for others; >= 0 */
	int64_t		length;			/* rank of the window; the longest wins ties */
	int64_t		resets_at;		/* end of the period, or DECISION_NEVER */
	Price		price;			/* MODE_SOFT: of a unit of overage */
	bool		capped;
	Money		spend_cap;		/* if capped: for the overage of a period */
	Money		cost;			/* of the overage so far, used and held */
	const RateWindow *rate;		/* if it does not start again at once; then
								 * used is as of now, resets_at when none is */
} WindowState;

/* One usable bonus */
typedef struct BonusState
{
	Amount		left;			/* > 0 */
	int64_t		expires_at;		/* or DECISION_NEVER */
	int32_t		priority;
	bool		paid;
	int64_t		granted_at;
	unsigned char id[16];
	Amount		take;			/* result: taken by this request; negative:
								 * given back */
	Amount		hold;			/* result: set aside by it; negative: no longer */
} BonusState;

/*
 * Everything that the decision depends on.  One of the limits is the
 * allowance, which bonuses extend; the others are rate windows, which they
 * do not.
 */
typedef struct DecisionInput
{
	Amount		amount;			/* > 0 */
	int64_t		now;
	const WindowState *limits;
	int			nlimits;		/* 0 = the plan does not list the metric */
	int			allowance;		/* index into limits */
	BonusState *bonuses;		/* in the order of bonus_compare() */
	int			nbonuses;
} DecisionInput;

/*
 * What of the state a caller is told: one window, before or after the request
 */
typedef struct LimitReport
{
	int			binding;		/* index into limits, -1 = no limit */
	bool		unlimited;		/* remaining is without bound */
	Amount		remaining;		/* room of the binding window, bonuses included */
	Amount		used;			/* of the binding window */
	Amount		bonus_remaining;
} LimitReport;

typedef struct Decision
{
	bool		allowed;
	DecisionReason reason;
	Parts		parts;			/* if allowed: what pays for it */
	LimitReport before;			/* the present state */
	LimitReport after;			/* the state once granted; = before if denied */
	int64_t		retry_after;	/* if denied: microseconds until the same
								 * request can succeed by waiting alone, as
								 * long as these limits count, or
								 * DECISION_NEVER */
} Decision;

static inline Amount
parts_total(const Parts *p)
{
	return p->allowance + p->bonus + p->overage;
}

static inline void
parts_subtract(Parts *a, const Parts *b)
{
	a->allowance -= b->allowance;
	a->bonus -= b->bonus;
	a->overage -= b->overage;
	a->cost -= b->cost;
}

static inline void
parts_add(Parts *a, const Parts *b)
{
	a->allowance += b->allowance;
	a->bonus += b->bonus;
	a->overage += b->overage;
	a->cost += b->cost;
}

extern int	bonus_compare(const BonusState *a, const BonusState *b);
extern void decide(const DecisionInput *in, Decision *out);
extern void decision_report(const DecisionInput *in, LimitReport *out);
extern int64_t decision_admitted_at(const DecisionInput *in, int64_t from);
extern bool decision_grantable(const DecisionInput *in, Amount *most);
extern void parts_keep(const Parts *whole, const Amount *lines, int nlines,
					   Amount keep, Parts *kept, Amount *kept_lines);
extern const char *decision_reason_name(DecisionReason reason);

#endif							/* QUOTA_DECISION_H */
