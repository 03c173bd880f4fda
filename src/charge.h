/*-------------------------------------------------------------------------
 *
 * charge.h
 *	  A charge: the accounts of one subject and metric that a request moves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_CHARGE_H
#define QUOTA_CHARGE_H

#include "account.h"
#include "bonus.h"
#include "limit.h"
#include "outcome.h"

typedef struct Charge
{
	/* what is asked */
	pg_uuid_t	user_id;
	const char *metric;			/* aliases resolved */
	Amount		amount;			/* negative: give back */
	int			item;			/* of the request that it belongs to */
	int			level;			/* 0 = the subject, 1 = its parent, ... */
	bool		adopted;		/* has accounts, though no limits */
	bool		idle;			/* units come and go, and nothing moves */
	Event	   *event;			/* that is undone or completed, or NULL */

	/* what was read */
	TimestampTz now;			/* time of the decision */
	LimitSet	limits;
	Account   **accounts;		/* one for each limit, in the same order; then
								 * those that only holds or "event" name */
	int			naccounts;
	BonusSet	bonuses;
	List	   *lapsed;			/* Event: holds that have ended at "now" */
	TimestampTz next_due;		/* when the next bonus becomes due */

	/* what was decided */
	DecisionInput input;
	WindowState *states;
	Account   **state_accounts; /* the account of each state */
	Decision	decision;
	EventKind	kind;
	Movement	moved;
	Parts		whole;			/* of a refund: what was left of the event */
	EventLine  *lines;			/* of "moved", or NULL: as the bonuses tell */
	int			nlines;
} Charge;

extern void charge_open(RelationSet *set, Charge *charge, RelationView view,
						TimestampTz at, const Subscription *known);
/* The accounts that a present request moves units in */
static inline int
charge_windows(const Charge *charge)
{
	return charge->adopted ? charge->naccounts : charge->limits.nlimits;
}

/* Would the overage of the period cost more than is reckoned with? */
static inline bool
charge_costs_too_much(const Charge *charge)
{
	Money		cost = charge->decision.parts.cost;

	return cost > 0 && charge->states[charge->input.allowance].cost + cost >= MONEY_OVERFLOW;
}

extern void charge_adopt(RelationSet *set, Charge *charge, RelationView view);
extern TimestampTz charge_time(const Charge *charge, TimestampTz at);
extern bool charge_begin(RelationSet *set, Charge *charge, RelationView view,
						 TimestampTz now);
extern void charge_read_as_of(RelationSet *set, Charge *charges, int n,
							  RelationView view, TimestampTz at);
extern void charge_decide(Charge *charge, Amount amount);
extern void charge_decide_as_event(RelationSet *set, Charge *charge,
								   RelationView view, Amount amount);
extern void charge_report(Charge *charge);
extern void charge_register(RelationSet *set, const Charge *charge, bool writes);
extern Account *charge_account(RelationSet *set, Charge *charge,
							   RelationView view, const char *period);
extern void charge_move(RelationSet *set, Charge *charge, RelationView view,
						const Event *event, const Movement *moved,
						bool may_be_gone);
extern void charge_move_present(Charge *charge, bool allowance_only);
extern void charge_negate_held(const Event *hold, Movement *moved);
extern Account *charge_allowance(const Charge *charge);

#endif							/* QUOTA_CHARGE_H */
