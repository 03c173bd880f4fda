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

/* a time that never comes, in microseconds; equal to PostgreSQL's infinity */
#define DECISION_NEVER		INT64_MAX

typedef enum DecisionReason
{
	REASON_OK,					/* granted from the allowance */
	REASON_BONUS,				/* granted, bonuses paid for some of it */
	REASON_QUOTA_EXCEEDED,		/* denied, a window lacks room */
	REASON_NOT_IN_PLAN,			/* denied, the plan gives nothing of this */
	REASON_IDEMPOTENCY_CONFLICT /* denied, key reused with another amount; set
								 * by the engine, never by decide() */
} DecisionReason;

/* One limit and the state of its account in the current period */
typedef struct WindowState
{
	bool		unlimited;
	Amount		limit;			/* ignored if unlimited; >= 0 */
	Amount		used;			/* >= 0 */
	Amount		held;			/* set aside for others; >= 0 */
	int64_t		length;			/* rank of the window; the longest wins ties */
	int64_t		resets_at;		/* end of the period, or DECISION_NEVER */
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
	Amount		take;			/* result of decide(): taken by this request */
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
	Amount		from_allowance; /* if allowed: the part the allowance pays */
	Amount		from_bonus;		/* if allowed: the part that bonuses pay */
	LimitReport before;			/* the present state */
	LimitReport after;			/* the state once granted; = before if denied */
	int64_t		retry_after;	/* if denied: microseconds until the same
								 * request can succeed by waiting alone, as
								 * long as these limits count, or
								 * DECISION_NEVER */
} Decision;

extern int	bonus_compare(const BonusState *a, const BonusState *b);
extern void decide(const DecisionInput *in, Decision *out);
extern const char *decision_reason_name(DecisionReason reason);

#endif							/* QUOTA_DECISION_H */
